// Which window covers which frame, on Context Windows while its settings are chosen. The server draws: it has the rules.
import { api } from "../../scripts/api.js";

const NODE = "UNetMotion_ContextWindows";
const WIDGET = "unet_motion_windows";
const SETTINGS = [
  "length", "overlap", "stride", "schedule", "closed_loop", "loop_frames", "fuse", "use_on_equal_length",
];
const COUNTS = ["batch_size", "frames"];
const HEIGHT = 130; // pixels
const LENGTHS = 3; // windows long is the clip that is shown where its number of frames is not known

const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);
const isLinked = (node, name) => node.inputs?.some((input) => input.name === name && input.link != null);
const linkOf = (graph, id) => graph.getLink?.(id) ?? graph.links?.[id];

/** Frames of the clip that a sampler behind the node draws, or null where the graph does not say. */
export function framesOf(node) {
  const { graph } = node;
  const next = (at) => (at.outputs ?? []).flatMap(({ links }) => links ?? []).map((id) => linkOf(graph, id)?.target_id);
  const before = (at) =>
    (at.inputs ?? [])
      .filter(({ type, link }) => type === "LATENT" && link != null)
      .map(({ link }) => linkOf(graph, link)?.origin_id);
  for (const sampler of walk([node], next, graph)) {
    if (sampler === node) continue;
    for (const source of walk([sampler], before, graph)) {
      if (source === sampler) continue;
      for (const name of COUNTS) {
        const count = widgetOf(source, name)?.value;
        if (count > 0 && !isLinked(source, name)) return count;
      }
    }
  }
  return null;
}

/** Nodes from some on, each once, nearest first. */
function* walk(queue, neighbours, graph) {
  const seen = new Set(queue);
  for (const at of queue) {
    yield at;
    for (const other of neighbours(at).map((id) => graph.getNodeById(id))) {
      if (!other || seen.has(other)) continue;
      seen.add(other);
      queue.push(other);
    }
  }
}

/** Give a Context Windows node its picture. */
export function showWindows(node) {
  if (node.comfyClass !== NODE) return;
  const box = document.createElement("div");
  box.className = "unet-motion-windows";
  box.style.cssText = "display: flex; flex-direction: column; font: 11px sans-serif; color: var(--descrip-text, #999);";
  const picture = document.createElement("img");
  picture.style.cssText =
    "flex: 0 1 auto; width: 100%; min-height: 0; object-fit: contain; object-position: left top; " +
    "image-rendering: pixelated;";
  const words = document.createElement("div");
  words.setAttribute("role", "status");
  box.append(picture, words);
  const added = node.addDOMWidget(WIDGET, "windows", box, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => HEIGHT,
    getMaxHeight: () => HEIGHT,
  });
  added.serialize = false;

  let asked = 0;
  async function refresh() {
    const number = ++asked;
    const known = node.graph && framesOf(node);
    const frames = known ?? LENGTHS * widgetOf(node, "length").value;
    const values = SETTINGS.filter((name) => !isLinked(node, name)).map((name) => [name, widgetOf(node, name).value]);
    const answer = await api.fetchApi(`/unet_motion/windows?${new URLSearchParams([["frames", frames], ...values])}`);
    const drawn = answer.headers.get("Content-Type") === "image/png";
    const found = drawn ? await answer.blob() : await answer.json().catch(() => ({}));
    if (number !== asked) return;
    URL.revokeObjectURL(picture.src);
    picture.hidden = !drawn;
    if (drawn) picture.src = URL.createObjectURL(found);
    else picture.removeAttribute("src");
    const clip = `${frames} frames${known === null ? ", as an example" : ""}`;
    words.textContent = drawn ? `${clip}, steps downwards` : (found.error ?? "");
    picture.alt = `Windows of ${clip} in the first steps`;
    words.title = words.textContent;
  }

  node.unetMotionWindows = refresh;
  for (const name of SETTINGS) {
    const widget = widgetOf(node, name);
    const changed = widget.callback;
    widget.callback = function (...values) {
      const result = changed?.apply(this, values);
      queueMicrotask(refresh);
      return result;
    };
  }
  const connected = node.onConnectionsChange;
  node.onConnectionsChange = function (...values) {
    setTimeout(refresh);
    return connected?.apply(this, values);
  };
  // Other nodes tell the number of frames, and nothing tells when they change.
  box.addEventListener("pointerenter", refresh);
  setTimeout(refresh);
}
