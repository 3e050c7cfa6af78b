// What the file is that is chosen on a loader: the server reads its header, the node shows it, wrong choices in red.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const WIDGET = "unet_motion_file_info";
const FILE_INPUTS = {
  UNetMotion_LoadMotionModule: ["motion_module"],
  UNetMotion_LoadUNet: ["unet_name", "motion_module"],
  UNetMotion_LoadLoRA: ["lora_name"],
  UNetMotion_LoadMotionLoRA: ["lora_name"],
  UNetMotion_LoRAHook: ["lora_name"],
};
const LINE = 15; // pixels
const CHARACTER = 6; // pixels, a little more than one takes
const MARGIN = 10; // pixels around an element on the classic canvas

/** Give a loader the line that tells what its files are; `wanted` says whether to show it. */
export function showFileInfo(node, wanted) {
  const inputs = FILE_INPUTS[node.comfyClass];
  if (!inputs) return;
  const element = document.createElement("div");
  element.className = "unet-motion-file-info";
  element.setAttribute("role", "status");
  element.style.cssText =
    `font: 11px/${LINE}px sans-serif; color: var(--descrip-text, #999); overflow: hidden; user-select: text;`;
  const height = () => element.childElementCount && linesOf(element, node.size[0] - 3 * MARGIN) * LINE + 2 * MARGIN;
  const widget = node.addDOMWidget(WIDGET, "info", element, {
    serialize: false,
    hideOnZoom: true,
    getMinHeight: height,
    getMaxHeight: height,
  });
  widget.serialize = false;

  let asked = 0;
  const refresh = async (show = wanted()) => {
    const number = ++asked;
    const found = show ? await describe(node, inputs) : {};
    if (number === asked) fill(node, element, found);
  };
  node.unetMotionFileInfo = refresh;
  for (const input of inputs) {
    const chooser = node.widgets.find(({ name }) => name === input);
    const changed = chooser.callback;
    chooser.callback = function (...values) {
      const result = changed?.apply(this, values);
      // The page sets the value before or after it calls this.
      queueMicrotask(refresh);
      return result;
    };
  }
  // A node from a workflow gets its values after it is made.
  setTimeout(refresh);
}

/** Show or hide the line on every loader of the page. */
export function refreshFileInfo(show) {
  for (const graph of [app.graph, ...(app.graph.subgraphs?.values() ?? [])]) {
    for (const node of graph.nodes ?? graph._nodes) node.unetMotionFileInfo?.(show);
  }
}

/** How many lines the texts take in a width. The page lays out the node before it lays out the element. */
function linesOf(element, width) {
  return [...element.children].reduce(
    (lines, { textContent }) => lines + Math.ceil((textContent.length * CHARACTER) / Math.max(width, 100)),
    0,
  );
}

async function describe(node, inputs) {
  const query = new URLSearchParams({ node: node.comfyClass });
  for (const input of inputs) {
    const isLinked = node.inputs?.some(({ name, link }) => name === input && link != null);
    const { value } = node.widgets.find(({ name }) => name === input);
    if (!isLinked && value) query.set(input, value);
  }
  if ([...query].length === 1) return {};
  const answer = await api.fetchApi(`/unet_motion/file_info?${query}`);
  return answer.ok ? answer.json() : {};
}

function fill(node, element, found) {
  const lines = Object.values(found).map(({ text, problem }) => {
    const line = document.createElement("div");
    line.textContent = problem ? `✗ ${text}: ${problem}` : text;
    if (problem) {
      line.className = "unet-motion-wrong";
      line.style.color = "var(--error-text, #ff4444)";
    }
    line.title = line.textContent;
    return line;
  });
  element.replaceChildren(...lines);
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  node.graph?.setDirtyCanvas(true, true);
}
