// The keys of Motion Curve, drawn and edited on the node. The node's text is the whole state, so that undo, copies and
// saved workflows are the page's own; what the text says that is no list of keys is left alone.
import { app } from "../../scripts/app.js";
import { draw, followPointer, pointOf, rounded } from "./svg.mjs";

const WIDGET = "unet_motion_curve";
export const WAYS = ["linear", "hold", "smooth", "monotone"];
const [WIDTH, HEIGHT, MARGIN] = [300, 110, 14];
const ENTRY = /^([^:]+):\s*([-+.\deE]+)(?:\s+(hold|linear|smooth|monotone))?$/;

/** Keys of a text, { at, value, way } with `at` as it is written, or null where it is of another form. */
export function readKeys(text) {
  const parts = text.split(/[,\n]/).map((part) => part.trim()).filter(Boolean);
  if (parts.length === 1 && !parts[0].includes(":")) parts[0] = `0:${parts[0]}`;
  const keys = parts.map((part) => {
    const [, at, value, way = "linear"] = ENTRY.exec(part) ?? [];
    return { at: at?.trim(), value: Number(value), way };
  });
  return keys.length && keys.every(({ at, value }) => at && Number.isFinite(value)) ? keys : null;
}

export const writeKeys = (keys) =>
  keys.map(({ at, value, way }) => `${at}:${value}${way === "linear" ? "" : ` ${way}`}`).join(", ");

/** Where a key stands on the way from 0 to `last`, or NaN. */
export function placeOf(at, last, over) {
  if (at.endsWith("%")) return (parseFloat(at) / 100) * last;
  const number = Number(at);
  if (over === "steps") return number * last;
  if (at.includes(".") && number >= 0 && number <= 1) return number * last;
  return number < 0 ? last + 1 + number : number;
}

/** The value at x of keys with their places, as the server computes it. */
export function valueAt(keys, x) {
  const right = keys.findIndex(({ place }) => place > x);
  if (right <= 0) return keys[right === 0 ? 0 : keys.length - 1].value;
  const [a, b] = [keys[right - 1], keys[right]];
  const [width, rise] = [b.place - a.place, b.value - a.value];
  const t = (x - a.place) / width;
  if (a.way === "hold") return a.value;
  if (a.way === "linear") return a.value + t * rise;
  const [from, to] = a.way === "smooth" ? [0, 0] : slopes(keys)[right - 1].map((slope) => slope * width);
  return a.value + t * (from + t * (3 * rise - 2 * from - to + t * (from + to - 2 * rise)));
}

/** The slopes at both ends of each piece (Fritsch and Carlson, 1980). */
function slopes(keys) {
  const secants = keys.slice(1).map(({ place, value }, i) => {
    const width = place - keys[i].place;
    return keys[i].way === "monotone" && width > 0 ? (value - keys[i].value) / width : null;
  });
  const found = keys.map((_, i) => {
    const [before, after] = [secants[i - 1] ?? null, secants[i] ?? null];
    if (before === null || after === null) return before ?? after ?? 0;
    return before * after <= 0 ? 0 : (before + after) / 2;
  });
  secants.forEach((secant, i) => {
    if (secant === null) return;
    const size = secant === 0 ? 0 : Math.hypot(found[i] / secant, found[i + 1] / secant);
    const factor = secant === 0 ? 0 : Math.min(1, 3 / size);
    if (factor < 1) [found[i], found[i + 1]] = [factor * found[i], factor * found[i + 1]];
  });
  return secants.map((_, i) => [found[i], found[i + 1]]);
}

/** Give a Motion Curve node its drawing. */
export function showCurveEditor(node) {
  if (node.comfyClass !== "UNetMotion_Curve") return;
  const widget = (name) => node.widgets.find((entry) => entry.name === name);
  const box = document.createElement("div");
  box.className = "unet-motion-curve";
  const style = `width: 100%; height: 100%; min-height: ${HEIGHT}px; touch-action: none`;
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, style }, box);
  // Not "curve", which the page draws by itself.
  const added = node.addDOMWidget(WIDGET, "motion_keys", box, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => HEIGHT,
    getMaxHeight: () => 2 * HEIGHT,
  });
  added.serialize = false;

  const over = () => widget("over").value;
  const last = () => (over() === "steps" ? 1 : Math.max(1, widget("frames").value - 1));
  const step = () => (over() === "steps" ? 0.01 : 1);
  let range = null; // of values, while a key is dragged

  function keysNow() {
    const keys = readKeys(widget("text").value);
    keys?.forEach((key) => (key.place = placeOf(key.at, last(), over())));
    return keys?.every(({ place }, i) => place >= 0 && (i === 0 || place >= keys[i - 1].place)) ? keys : null;
  }

  function store(keys, focus) {
    widget("text").value = writeKeys(keys);
    widget("text").callback?.(widget("text").value);
    refresh(focus);
    app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.checkState?.();
  }

  /** Move a key no further than its neighbours. */
  function moved(keys, i, place, value) {
    const [low, high] = [keys[i - 1]?.place ?? 0, keys[i + 1]?.place ?? last()];
    const to = Math.min(high, Math.max(low, Math.round(place / step()) * step()));
    const at = to === keys[i].place ? keys[i].at : String(rounded(to));
    return keys.map((key, n) => (n === i ? { ...key, at, value: rounded(value) } : key));
  }

  function scales(keys) {
    const values = keys.map(({ value }) => value);
    const [low, high] = range ?? [Math.min(0, ...values), Math.max(1, ...values)];
    const [across, up] = [(WIDTH - 2 * MARGIN) / last(), (HEIGHT - 2 * MARGIN) / (high - low)];
    return {
      range: [low, high],
      x: (place) => MARGIN + place * across,
      y: (value) => HEIGHT - MARGIN - (value - low) * up,
      back: (event) => {
        const point = pointOf(svg, event);
        return [(point.x - MARGIN) / across, low + (HEIGHT - MARGIN - point.y) / up];
      },
    };
  }

  function drag(event, i) {
    range = scales(keysNow()).range;
    const follow = (now) => {
      const keys = keysNow();
      const [place, value] = scales(keys).back(now);
      widget("text").value = writeKeys(moved(keys, i, place, Math.min(range[1] + 1, Math.max(range[0] - 1, value))));
      refresh(i);
    };
    followPointer(svg, event, follow, () => {
      range = null;
      store(keysNow(), i);
    });
  }

  function press(event, i) {
    const keys = keysNow();
    const moves = { ArrowLeft: [-step(), 0], ArrowRight: [step(), 0], ArrowUp: [0, 0.05], ArrowDown: [0, -0.05] };
    if (event.key in moves) {
      const [right, up] = moves[event.key];
      store(moved(keys, i, keys[i].place + right, keys[i].value + up), i);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      if (keys.length > 1) store(keys.toSpliced(i, 1), Math.max(0, i - 1));
    } else if (event.key === "w") {
      const way = WAYS[(WAYS.indexOf(keys[i].way) + 1) % WAYS.length];
      store(keys.map((key, n) => (n === i ? { ...key, way } : key)), i);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  svg.addEventListener("dblclick", (event) => {
    const keys = keysNow();
    if (!keys || event.target.tagName === "circle") return;
    const [place, value] = scales(keys).back(event);
    const at = Math.min(last(), Math.max(0, Math.round(place / step()) * step()));
    const i = keys.findIndex((key) => key.place > at);
    const next = i < 0 ? keys.length : i;
    store(keys.toSpliced(next, 0, { at: String(rounded(at)), value: rounded(value), way: "linear" }), next);
  });

  function refresh(focus) {
    svg.replaceChildren();
    const keys = keysNow();
    if (!keys) {
      const words = draw("text", { x: MARGIN, y: HEIGHT / 2, fill: "currentColor", "font-size": 11 }, svg);
      words.textContent = "This text is edited as it stands.";
      return;
    }
    const { x, y } = scales(keys);
    const places = Array.from({ length: 121 }, (_, i) => (i / 120) * last()).concat(keys.map(({ place }) => place));
    const points = places.sort((a, b) => a - b).map((place) => `${x(place)},${y(valueAt(keys, place))}`);
    for (const value of [0, 1]) draw("line", { x1: MARGIN, x2: WIDTH - MARGIN, y1: y(value), y2: y(value), stroke: "#666" }, svg);
    draw("polyline", { points: points.join(" "), fill: "none", stroke: "#5af", "stroke-width": 2 }, svg);
    keys.forEach(({ at, value, way, place }, i) => {
      const dot = draw("circle", { cx: x(place), cy: y(value), r: 5, fill: "#fff", tabindex: 0, role: "button" }, svg);
      dot.setAttribute("aria-label", `${at}: ${value}, ${way}`);
      draw("title", {}, dot).textContent = `${at}: ${value}, ${way}. Drag; arrows; w: the way; Delete`;
      dot.addEventListener("pointerdown", (event) => drag(event, i));
      dot.addEventListener("keydown", (event) => press(event, i));
      if (i === focus) dot.focus();
    });
  }

  node.unetMotionCurve = refresh;
  for (const name of ["text", "over", "frames"]) {
    const changed = widget(name).callback;
    widget(name).callback = function (...values) {
      const result = changed?.apply(this, values);
      if (!range) queueMicrotask(() => refresh());
      return result;
    };
  }
  setTimeout(refresh);
}
