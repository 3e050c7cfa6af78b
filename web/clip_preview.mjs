// The clip so far, as a loop on the sampler's node. The server sends it as a preview picture like core's own; the Vue
// renderer shows that in an <img>, which plays it. The classic canvas draws the first frame, so there an <img> is laid
// over the node instead. Once the clip is saved, it takes the loop's place.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const WIDGET = "unet_motion_preview";
const CANVAS_PREVIEW = "$$canvas-image-preview"; // core's still picture
const shown = new Map(); // node -> { image, url, widget }
const running = new Map(); // execution id -> what the last loop came with

/** Tell the server what this page wants to see while its prompts run. */
export async function sendPreviewChoice(motion, fps) {
  if (!api.clientId) return;
  const body = JSON.stringify({ client: api.clientId, motion, fps });
  const headers = { "Content-Type": "application/json" };
  await api.fetchApi("/unet_motion/preview", { method: "POST", body, headers });
}

/** Listen for previews; `sendChoice` is called whenever a prompt begins, because servers restart and ids change. */
export function showPreviews(sendChoice) {
  api.addEventListener("execution_start", () => {
    forgetPreviews();
    sendChoice();
  });
  api.addEventListener("b_preview_with_metadata", ({ detail }) => onPreview(detail));
  api.addEventListener("executed", ({ detail }) => onExecuted(detail));
}

/** Take the loops off all nodes; another workflow has other nodes under the same ids. */
export function forgetPreviews() {
  running.clear();
  for (const node of [...shown.keys()]) remove(node);
}

async function onPreview(detail) {
  const { blob, displayNodeId, isFinished } = detail;
  const classic = !globalThis.LiteGraph?.vueNodesMode;
  const nodes = classic ? nodesOf(String(displayNodeId)) : [];
  // A still picture of core on a node that shows a loop.
  for (const node of nodes) if (shown.has(node)) claim(node);
  if (!(await isAnimatedWebp(blob))) return;
  if (!isFinished) running.set(String(displayNodeId), detail);
  for (const node of nodes) show(node, blob);
}

/** Put a clip that a node saved in place of the loops of the nodes that it was made by. */
async function onExecuted({ node, output }) {
  const [file] = output?.images ?? [];
  if (!output?.animated?.[0] || !file?.filename.endsWith(".webp")) return;
  const makers = [...running].filter(([id]) => leadsTo(id, String(node)));
  if (!makers.length) return;
  for (const [id] of makers) running.delete(id);
  const nodes = makers.map(([id]) => nodesOf(id)[0]);
  const answer = await api.fetchApi(`/view?${new URLSearchParams(file)}`);
  if (!answer.ok) return;
  const blob = await answer.blob();
  for (const [number, [id, detail]] of makers.entries()) {
    if (nodesOf(id)[0] !== nodes[number]) continue; // another workflow was opened meanwhile
    api.dispatchCustomEvent("b_preview_with_metadata", { ...detail, blob, isFinished: true });
  }
}

/** Whether what comes out of one node goes into another, also over others; of nodes in a subgraph, that one. */
function leadsTo(from, to) {
  const [start, end] = [from, to].map((id) => nodesOf(id)[0]);
  const seen = new Set(), left = end && end !== start ? [end] : [];
  while (left.length) {
    const node = left.pop();
    if (node === start) return true;
    if (seen.has(node)) continue;
    seen.add(node);
    for (let slot = 0; slot < (node.inputs?.length ?? 0); slot++) {
      const before = node.getInputNode(slot);
      if (before) left.push(before);
    }
  }
  return false;
}

/** The node of an execution id such as "5:3", and the subgraph nodes around it. */
function nodesOf(id) {
  const nodes = [];
  let graph = app.rootGraph ?? app.graph?.rootGraph ?? app.graph;
  for (const part of id.split(":")) {
    const node = graph?.getNodeById(Number(part)) ?? graph?.getNodeById(part);
    if (!node) break;
    nodes.push(node);
    graph = node.subgraph;
  }
  return nodes;
}

/** Whether bytes are a WebP with the animation flag (https://developers.google.com/speed/webp/docs/riff_container). */
async function isAnimatedWebp(blob) {
  const bytes = new Uint8Array(await blob.slice(0, 21).arrayBuffer());
  const text = (start) => String.fromCharCode(...bytes.slice(start, start + 4));
  return text(0) === "RIFF" && text(8) === "WEBP" && text(12) === "VP8X" && (bytes[20] & 2) !== 0;
}

function locator(node) {
  const graph = node.graph;
  return !graph || graph.isRootGraph !== false ? String(node.id) : `${graph.id}:${node.id}`;
}

/** Keep core from drawing the still picture beside the loop: it draws only what it takes for new. */
function claim(node) {
  const previews = app.nodePreviewImages?.[locator(node)];
  if (previews) node.preview = previews;
  node.imgs = undefined;
  const index = node.widgets?.findIndex((widget) => widget.name === CANVAS_PREVIEW) ?? -1;
  if (index >= 0) {
    const [still] = node.widgets.splice(index, 1);
    still.onRemove?.();
    const height = node.size[1] - (still.computedHeight ?? 0);
    node.setSize([node.size[0], Math.max(height, node.computeSize()[1])]);
  }
}

function show(node, blob) {
  claim(node);
  const entry = shown.get(node) ?? add(node);
  const old = entry.url;
  entry.url = URL.createObjectURL(blob);
  entry.image.src = entry.url;
  if (old) URL.revokeObjectURL(old);
}

function add(node) {
  const image = document.createElement("img");
  image.className = "unet-motion-preview";
  image.alt = "";
  image.style.cssText = "width: 100%; height: 100%; object-fit: contain; pointer-events: none;";
  const height = () => {
    const { naturalWidth, naturalHeight } = image;
    return naturalWidth ? Math.min(512, Math.round((node.size[0] * naturalHeight) / naturalWidth)) : 64;
  };
  const widget = node.addDOMWidget(WIDGET, "img", image, {
    serialize: false,
    hideOnZoom: false,
    canvasOnly: true,
    getMinHeight: height,
    getMaxHeight: height,
  });
  widget.serialize = false;
  const entry = { image, widget, url: null };
  image.onload = () => grow(node);
  const removed = widget.onRemove;
  widget.onRemove = function () {
    if (entry.url) URL.revokeObjectURL(entry.url);
    shown.delete(node);
    removed?.call(this);
  };
  shown.set(node, entry);
  return entry;
}

function grow(node) {
  const [width, height] = node.computeSize();
  if (node.size[1] < height || node.size[0] < width) {
    node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  }
  node.graph?.setDirtyCanvas(true, true);
}

function remove(node) {
  const { widget } = shown.get(node);
  const index = node.widgets?.indexOf(widget) ?? -1;
  widget.onRemove();
  if (index >= 0) {
    node.widgets.splice(index, 1);
    node.setSize([node.size[0], node.computeSize()[1]]);
  }
}
