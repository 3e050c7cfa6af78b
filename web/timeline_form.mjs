// What stands below a timeline's drawing.
import { TRACKS } from "./timeline_state.mjs";

/** What stands below the drawing: the chosen key, the text around all prompts, and buttons. */
export class Form {
  constructor(editor) {
    this.editor = editor;
    this.box = document.createElement("div");
    this.box.style.cssText = "display: grid; grid-template-columns: 1fr 1fr auto; gap: 4px";
    editor.box.append(this.box);
    this.text = this.field("textarea", "Prompt of the chosen bar", "grid-column: 1 / 4; height: 34px; resize: none");
    this.before = this.field("input", "Text before each prompt");
    this.after = this.field("input", "Text behind each prompt");
    this.interpolation = this.field("select", "Between two prompts");
    for (const name of ["linear", "slerp"]) this.interpolation.add(new Option(name));
    this.buttons = document.createElement("div");
    this.buttons.style.cssText = "grid-column: 1 / 4; display: flex; gap: 4px";
    this.box.append(this.buttons);
    this.text.addEventListener("change", () => this.change(({ prompts }) => this.withText(prompts)));
    for (const name of ["before", "after", "interpolation"]) {
      const field = this[name];
      field.addEventListener("change", () => this.change(({ prompts }) => ({ ...prompts, [name]: field.value })));
    }
  }

  field(kind, label, style = "") {
    const field = document.createElement(kind);
    field.title = field.placeholder = label;
    field.setAttribute("aria-label", label);
    const colours = "background: var(--comfy-input-bg, #222); color: var(--input-text, #ddd); border: 1px solid #8884";
    const form = "font: 11px sans-serif; padding: 2px 4px; min-width: 0; border-radius: 4px";
    field.style.cssText = `${form}; ${colours}; ${style}`;
    // The page's own keys and its drags are for the canvas.
    for (const name of ["keydown", "pointerdown"]) field.addEventListener(name, (event) => event.stopPropagation());
    this.box.append(field);
    return field;
  }

  withText(prompts) {
    const { track, i } = this.editor.selected;
    if (track !== "prompts") return prompts;
    return { ...prompts, keys: prompts.keys.with(i, { ...prompts.keys[i], text: this.text.value }) };
  }

  change(changed) {
    const state = this.editor.state;
    if (state) this.editor.store({ ...state, prompts: changed(state) }, this.editor.selected, false);
  }

  button(label, title, click) {
    const button = document.createElement("button");
    button.textContent = label;
    button.title = title;
    button.setAttribute("aria-label", title);
    const form = "font: 11px sans-serif; padding: 1px 8px; border-radius: 4px";
    button.style.cssText = `${form}; border: 1px solid #8886; cursor: pointer`;
    button.addEventListener("pointerdown", (event) => event.stopPropagation());
    button.addEventListener("click", click);
    this.buttons.append(button);
  }

  /** Show a state, or that there is none to be shown. */
  show(state) {
    const { editor } = this;
    const chosen = editor.selected.track === "prompts" ? state?.prompts.keys[editor.selected.i] : undefined;
    if (document.activeElement !== this.text) this.text.value = chosen?.text ?? "";
    this.text.disabled = !chosen;
    for (const name of ["before", "after", "interpolation"]) {
      this[name].disabled = !state;
      if (state && document.activeElement !== this[name]) this[name].value = state.prompts[name];
    }
    this.buttons.replaceChildren();
    for (const name of TRACKS.filter((name) => state && !state.curves[name])) {
      this.button(`+ ${name}`, `Add the curve ${name}`, () => editor.addTrack(name));
    }
    if (state) {
      const middle = () => (editor.shownFrames()[0] + editor.shownFrames()[1]) / 2;
      this.button("zoom +", "Zoom in", () => editor.zoom(0.5, middle()));
      this.button("zoom −", "Zoom out", () => editor.zoom(2, middle()));
    }
    this.button("{ }", "Show the JSON", () => {
      editor.shown = !editor.shown;
      editor.refresh();
    });
  }
}
