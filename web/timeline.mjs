// The Timeline node's drawing: prompts as bars with their blends and curves of amounts below, along the frames. The
// node's JSON is the whole state, so that undo, copies, saved workflows and the API all have the same.
import { app } from "../../scripts/app.js";
import { valueAt } from "./curve_editor.mjs";
import { draw, followPointer, pointOf, rounded } from "./svg.mjs";
import { Form } from "./timeline_form.mjs";
import { readTimeline, tracksOf, withKeys } from "./timeline_state.mjs";
import { windowsOf } from "./timeline_windows.mjs";

const WIDGET = "unet_motion_timeline";
const FIRST_VALUES = { scale: 1, effect: 1, cfg: 7, strength: 1 };
const [WIDTH, LEFT, RIGHT] = [640, 58, 14];
const ROW = { axis: 20, window: 4, prompts: 40, curve: 56 };
const MOST_ROWS = 8; // of windows
const FORM = 104; // pixels below the drawing
const HELP = "Drag; arrow keys; w: the way to the next key; Insert: another key; Delete; + - 0: zoom";

/** Give a Timeline node its drawing. */
export function showTimeline(node) {
  if (node.comfyClass === "UNetMotion_Timeline") new TimelineEditor(node);
}

class TimelineEditor {
  constructor(node) {
    this.node = node;
    this.selected = { track: "prompts", i: 0 };
    this.view = null; // frames from and to, null: all
    this.shown = false; // the JSON as text
    this.range = null; // of values, while a key is dragged
    this.box = document.createElement("div");
    this.box.className = "unet-motion-timeline";
    this.box.dataset.captureWheel = "true"; // Nodes 2.0 asks for it where something has the keyboard
    this.box.style.cssText = "display: flex; flex-direction: column; gap: 4px; font: 11px sans-serif; width: 100%";
    this.svg = draw("svg", { style: "width: 100%; touch-action: none; user-select: none" }, this.box);
    this.form = new Form(this);
    const height = () => (this.height ?? 120) * (Math.max(node.size[0] - 30, 200) / WIDTH) + FORM;
    const options = { serialize: false, hideOnZoom: false, getMinHeight: height, getMaxHeight: height };
    node.addDOMWidget(WIDGET, "motion_timeline", this.box, options).serialize = false;
    node.setSize([Math.max(node.size[0], WIDTH + 30), node.size[1]]);
    this.svg.addEventListener("pointerdown", (event) => event.stopPropagation());
    // Not dblclick: the first click draws the bars anew, and the second one meets another element.
    this.svg.addEventListener("click", (event) => event.detail === 2 && this.addHere(event));
    this.svg.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.svg.addEventListener("pointerenter", () => this.refresh());
    for (const name of ["timeline", "frames"]) this.listen(this.widget(name));
    this.showText(false);
    node.unetMotionTimeline = () => this.refresh();
    setTimeout(() => this.refresh());
  }

  widget(name) {
    return this.node.widgets.find((entry) => entry.name === name);
  }

  listen(widget) {
    const changed = widget.callback;
    widget.callback = (...values) => {
      const result = changed?.apply(widget, values);
      if (!this.range) queueMicrotask(() => this.refresh());
      return result;
    };
  }

  get frames() {
    return this.widget("frames").value;
  }

  get last() {
    return Math.max(1, this.frames - 1);
  }

  get state() {
    return readTimeline(this.widget("timeline").value);
  }

  write(state) {
    this.widget("timeline").value = JSON.stringify(state);
  }

  /** Keep a state as one step that can be undone, and give a key the keyboard. */
  store(state, selected = this.selected, focus = true) {
    this.selected = selected;
    this.write(state);
    this.widget("timeline").callback?.(this.widget("timeline").value);
    this.refresh(focus);
    app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.checkState?.();
  }

  // Keys.

  /** A key moved no further than its neighbours. */
  moved(track, i, place, value) {
    const share = track.over === "steps";
    const step = share ? this.last / 100 : 1;
    const [before, key, after] = [track.keys[i - 1], track.keys[i], track.keys[i + 1]];
    const [low, high] = [before ? before.place + step : 0, after ? after.place - step : this.last];
    const to = low > high ? key.place : Math.min(high, Math.max(low, Math.round(place / step) * step));
    const made = { ...key };
    if (Math.abs(to - key.place) > 1e-6) made.at = share ? rounded(to / this.last) : Math.round(to);
    if (value !== undefined) made.value = rounded(value);
    return track.keys.with(i, made);
  }

  add(track, place, value) {
    const share = track.over === "steps";
    const to = Math.min(this.last, Math.max(0, share ? place : Math.round(place)));
    if (track.keys.some((key) => Math.abs(key.place - to) < (share ? this.last / 200 : 0.5))) return;
    const before = track.keys.findIndex((key) => key.place > to);
    const i = before < 0 ? track.keys.length : before;
    const like = track.keys[Math.max(0, i - 1)];
    const key = { at: share ? rounded(to / this.last) : to, way: "linear" };
    if (track.name === "prompts") key.text = like.text;
    else key.value = rounded(value ?? valueAt(track.keys, to));
    this.store(withKeys(this.state, track.name, track.keys.toSpliced(i, 0, key)), { track: track.name, i });
  }

  remove(track, i) {
    if (track.name === "prompts" && track.keys.length === 1) return;
    const next = track.keys.length > 1 ? { track: track.name, i: Math.max(0, i - 1) } : { track: "prompts", i: 0 };
    this.store(withKeys(this.state, track.name, track.keys.toSpliced(i, 1)), next);
  }

  addTrack(name) {
    const key = { at: 0, value: FIRST_VALUES[name], way: "linear" };
    this.store(withKeys(this.state, name, [key]), { track: name, i: 0 });
  }

  // The pointer and the keyboard.

  drag(event, track, i) {
    this.selected = { track: track.name, i };
    this.range = { [track.name]: this.rangeOf(track) };
    const before = this.widget("timeline").value;
    const follow = (now) => {
      const current = tracksOf(this.state, this.frames).find(({ name }) => name === track.name);
      const { x, y } = pointOf(this.svg, now);
      const value = track.name === "prompts" ? undefined : this.valueAt(track, y);
      this.write(withKeys(this.state, track.name, this.moved(current, i, this.frameAt(x), value)));
      this.refresh(true);
    };
    followPointer(this.svg, event, follow, () => {
      this.range = null;
      if (this.widget("timeline").value === before) this.refresh(true);
      else this.store(this.state);
    });
    this.refresh(true);
  }

  press(event, track, i) {
    const step = track.over === "steps" ? this.last / 100 : 1;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, 0.05], ArrowDown: [0, -0.05] };
    const { place, value, way } = track.keys[i];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) {
      const [right, up] = moves[event.key];
      const keys = this.moved(track, i, place + right, track.name === "prompts" ? undefined : value + up);
      this.store(withKeys(this.state, track.name, keys), { track: track.name, i });
    } else if (event.key === "Delete" || event.key === "Backspace") this.remove(track, i);
    else if (event.key === "Insert") this.add(track, (place + (track.keys[i + 1]?.place ?? this.last)) / 2);
    else if (event.key === "w") {
      const next = track.ways[(track.ways.indexOf(way) + 1) % track.ways.length];
      const keys = track.keys.with(i, { ...track.keys[i], way: next });
      this.store(withKeys(this.state, track.name, keys), { track: track.name, i });
    } else if (event.key === "Enter" && track.name === "prompts") this.form.text.focus();
    else if ("+-0".includes(event.key)) this.zoom({ "+": 0.5, "-": 2, 0: Infinity }[event.key], place);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  addHere(event) {
    const { x, y } = pointOf(this.svg, event);
    const track = this.rows?.find(({ top, height }) => y >= top && y <= top + height);
    if (!track || event.target.dataset?.key || x < LEFT - 6) return;
    event.stopPropagation();
    this.add(track, this.frameAt(x), track.name === "prompts" ? undefined : this.valueAt(track, y));
  }

  wheel(event) {
    // The page's own, which moves the canvas, unless a key has the keyboard.
    if (!this.svg.contains(document.activeElement)) return;
    event.preventDefault();
    event.stopPropagation();
    this.zoom(event.deltaY < 0 ? 0.8 : 1.25, this.frameAt(pointOf(this.svg, event).x));
  }

  // The part of the clip that is shown.

  zoom(factor, frame) {
    const [from, to] = this.shownFrames();
    const width = Math.min(this.last + 1, Math.max(4, (to - from) * factor));
    this.show(frame - ((frame - from) / (to - from)) * width, width);
  }

  show(from, width) {
    const start = Math.min(this.last + 0.5 - width, Math.max(-0.5, from));
    this.view = width >= this.last + 1 ? null : [start, start + width];
    this.refresh(true);
  }

  shownFrames() {
    return this.view && this.view[1] <= this.last + 0.5 ? this.view : [-0.5, this.last + 0.5];
  }

  x(frame) {
    const [from, to] = this.shownFrames();
    return LEFT + ((frame - from) / (to - from)) * (WIDTH - LEFT - RIGHT);
  }

  frameAt(x) {
    const [from, to] = this.shownFrames();
    return from + ((x - LEFT) / (WIDTH - LEFT - RIGHT)) * (to - from);
  }

  pan(event) {
    const [from, to] = this.shownFrames();
    const start = pointOf(this.svg, event).x;
    const frame = (to - from) / (WIDTH - LEFT - RIGHT);
    const follow = (now) => this.show(from - (pointOf(this.svg, now).x - start) * frame, to - from);
    followPointer(this.svg, event, follow, () => this.refresh());
  }

  rangeOf({ name, keys }) {
    const values = keys.map(({ value }) => value);
    return this.range?.[name] ?? [Math.min(0, ...values), Math.max(1, ...values)];
  }

  y(track, value) {
    const [low, high] = this.rangeOf(track);
    return track.top + track.height - 7 - ((value - low) / (high - low)) * (track.height - 14);
  }

  valueAt(track, y) {
    const [low, high] = this.rangeOf(track);
    const row = this.rows.find(({ name }) => name === track.name);
    const value = low + ((row.top + row.height - 7 - y) / (row.height - 14)) * (high - low);
    return Math.min(high + 1, Math.max(low - 1, value));
  }

  // The drawing.

  refresh(focus = false) {
    const state = this.state;
    const tracks = state && tracksOf(state, this.frames);
    const isDrawn = tracks?.every(({ keys }) => keys.every(({ place }, i) => place >= (keys[i - 1]?.place ?? 0)));
    this.showText(this.shown || !isDrawn);
    this.svg.replaceChildren();
    this.form.show(isDrawn ? state : null);
    if (!isDrawn) {
      this.rows = null;
      this.setHeight(40);
      this.words("This JSON is edited as it stands.", 8, 24, this.svg);
      return;
    }
    this.layOut(tracks);
    this.drawAxis();
    this.drawWindows();
    this.clip = `unet-motion-clip-${TimelineEditor.count++}`;
    const path = draw("clipPath", { id: this.clip }, draw("defs", {}, this.svg));
    draw("rect", { x: LEFT - 7, y: 0, width: WIDTH - LEFT - RIGHT + 14, height: this.height }, path);
    for (const track of this.rows) {
      const label = track.over === "steps" ? `${track.name} (steps)` : track.name;
      this.words(label, 4, track.top + track.height / 2 + 4, this.svg);
      if (track.name === "prompts") this.drawPrompts(track, state);
      else this.drawCurve(track);
    }
    if (focus) this.svg.querySelector("[data-key=selected]")?.focus({ preventScroll: true });
  }

  layOut(tracks) {
    this.windows = windowsOf(this.node, this.frames, () => this.refresh(this.svg.contains(document.activeElement)));
    let top = ROW.axis + Math.min(this.windows.length, MOST_ROWS) * ROW.window;
    this.rows = tracks.map((track) => {
      const height = track.name === "prompts" ? ROW.prompts : ROW.curve;
      top += height + 4;
      return { ...track, top: top - height - 2, height };
    });
    this.setHeight(top + 2);
  }

  setHeight(height) {
    this.svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
    this.svg.style.aspectRatio = `${WIDTH} / ${height}`;
    if (this.height === height) return;
    this.height = height;
    const [width, wanted] = this.node.computeSize();
    this.node.setSize([Math.max(this.node.size[0], width), wanted]);
    this.node.graph?.setDirtyCanvas(true, true);
  }

  showText(isShown) {
    const widget = this.widget("timeline");
    if (Boolean(widget.hidden) === !isShown) return;
    widget.hidden = !isShown;
    widget.options.hidden = !isShown;
    // Nodes 2.0 looks at widgets again where their list changes.
    const place = this.node.widgets.indexOf(widget);
    this.node.widgets.splice(place, 0, ...this.node.widgets.splice(place, 1));
    const [width, height] = this.node.computeSize();
    this.node.setSize([Math.max(this.node.size[0], width), height]);
  }

  words(text, x, y, parent, more = {}) {
    const looks = { fill: "currentColor", "font-size": 10, "pointer-events": "none" };
    const element = draw("text", { x, y, ...looks, ...more }, parent);
    element.textContent = text;
    return element;
  }

  drawAxis() {
    const ground = { x: LEFT - 7, y: 0, width: WIDTH - LEFT - RIGHT + 14, height: ROW.axis, fill: "transparent" };
    const axis = draw("rect", { ...ground, class: "axis", style: "cursor: ew-resize" }, this.svg);
    axis.addEventListener("pointerdown", (event) => this.pan(event));
    const [from, to] = this.shownFrames();
    const width = this.x(1) - this.x(0);
    const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000].find((n) => n * width >= 24) ?? 20000;
    const end = Math.min(to, this.frames - 1);
    for (let frame = Math.max(0, Math.ceil(from / step) * step); frame <= end; frame += step) {
      const x = this.x(frame);
      draw("line", { x1: x, x2: x, y1: 14, y2: this.height, stroke: "currentColor", opacity: 0.18 }, this.svg);
      this.words(String(frame), x, 11, this.svg, { "text-anchor": "middle" });
    }
    this.words("frame", 4, 11, this.svg);
  }

  drawWindows() {
    this.windows.forEach((runs, n) => {
      const y = ROW.axis + (n % MOST_ROWS) * ROW.window;
      for (const [first, last] of runs) {
        const left = Math.max(this.x(first - 0.45), LEFT - 7);
        const width = Math.min(this.x(last + 0.45), WIDTH - RIGHT + 7) - left;
        if (width <= 0) continue;
        const place = { x: left, y, width, height: ROW.window - 1 };
        const bar = draw("rect", { ...place, fill: `hsl(${n * 67} 45% 55%)`, class: "window" }, this.svg);
        draw("title", {}, bar).textContent = `Window ${n + 1} of the first step: frames ${first} to ${last}`;
      }
    });
  }

  drawPrompts(track, state) {
    const group = draw("g", { "clip-path": `url(#${this.clip})` }, this.svg);
    const texts = [...new Set(state.prompts.keys.map(({ text }) => text))];
    const colour = (key) => `hsl(${(texts.indexOf(key.text) * 83 + 210) % 360} 42% 34%)`;
    track.keys.forEach((key, i) => {
      const next = track.keys[i + 1];
      const [left, right] = [this.x(i === 0 ? -0.5 : key.place), this.x(next ? next.place : this.last + 0.5)];
      const isMixed = next && key.way !== "hold";
      const fill = isMixed ? this.blend(`${this.clip}-${i}`, key, colour(key), colour(next)) : colour(key);
      const bar = { x: left, y: track.top, width: Math.max(0, right - left), height: track.height, fill, class: "bar" };
      draw("rect", bar, group).addEventListener("click", () => {
        this.selected = { track: "prompts", i };
        this.refresh(true);
      });
      const room = Math.floor((right - Math.max(left, LEFT) - 12) / 5.4);
      if (room < 2) return;
      const text = key.text.length > room ? `${key.text.slice(0, room - 1)}…` : key.text;
      const [x, y] = [Math.max(this.x(key.place), LEFT) + 8, track.top + track.height / 2 + 4];
      this.words(text, x, y, group, { fill: "#fff" });
    });
    track.keys.forEach((key, i) => {
      const shape = { x: this.x(key.place) - 4, y: track.top - 1, width: 8, height: track.height + 2, rx: 3 };
      this.handle(draw("rect", shape, group), track, i, `${key.at}: ${key.text || "(empty)"}`);
    });
  }

  /** A gradient from one prompt's colour to the next one's, with the share that each frame gets. */
  blend(id, { way }, from, to) {
    const gradient = draw("linearGradient", { id }, this.svg.querySelector("defs"));
    const shape = (t) => (way === "smooth" ? t * t * (3 - 2 * t) : t);
    for (let t = 0; t <= 1; t += way === "smooth" ? 0.125 : 1) {
      const share = shape(t) * 100;
      draw("stop", { offset: t, "stop-color": `color-mix(in srgb, ${to} ${share}%, ${from})` }, gradient);
    }
    return `url(#${id})`;
  }

  drawCurve(track) {
    const group = draw("g", { "clip-path": `url(#${this.clip})` }, this.svg);
    const ground = { x: LEFT - 7, y: track.top, width: WIDTH - LEFT - RIGHT + 14, height: track.height, rx: 3 };
    draw("rect", { ...ground, fill: "currentColor", opacity: 0.06 }, group);
    const [from, to] = this.shownFrames();
    const within = (place) => Math.min(this.last, Math.max(0, place));
    const places = Array.from({ length: 161 }, (_, i) => within(from + (i / 160) * (to - from)));
    const all = places.concat(track.keys.map(({ place }) => place)).sort((a, b) => a - b);
    const points = all.map((place) => `${this.x(place)},${this.y(track, valueAt(track.keys, place))}`);
    for (const value of this.rangeOf(track)) {
      const y = this.y(track, value);
      draw("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y, stroke: "currentColor", opacity: 0.3 }, group);
      this.words(String(rounded(value)), LEFT - 10, y + 3, this.svg, { "text-anchor": "end", "font-size": 8 });
    }
    draw("polyline", { points: points.join(" "), fill: "none", stroke: "#5af", "stroke-width": 2 }, group);
    track.keys.forEach((key, i) => {
      const dot = draw("circle", { cx: this.x(key.place), cy: this.y(track, key.value), r: 5 }, group);
      this.handle(dot, track, i, `${key.at}: ${key.value}`);
    });
  }

  handle(element, track, i, label) {
    const isSelected = this.selected.track === track.name && this.selected.i === i;
    const looks = { fill: isSelected ? "#fd5" : "#fff", tabindex: 0, role: "button", cursor: "grab", stroke: "#222" };
    for (const [name, value] of Object.entries(looks)) element.setAttribute(name, value);
    element.dataset.key = isSelected ? "selected" : "other";
    element.dataset.track = track.name;
    element.setAttribute("aria-label", `${track.name} ${label}, ${track.keys[i].way}`);
    draw("title", {}, element).textContent = `${label}, ${track.keys[i].way}. ${HELP}`;
    element.addEventListener("pointerdown", (event) => event.button === 0 && this.drag(event, track, i));
    element.addEventListener("focus", () => {
      if (this.selected.track === track.name && this.selected.i === i) return;
      this.selected = { track: track.name, i };
      this.refresh(true);
    });
    element.addEventListener("keydown", (event) => this.press(event, track, i));
  }
}

TimelineEditor.count = 0;
