// Which window of frames covers what: the server says it, for the Context Windows node that is in line with a node.
import { api } from "../../scripts/api.js";

const KIND = "UNetMotion_ContextWindows";
const INPUTS = ["length", "overlap", "stride", "schedule", "closed_loop", "loop_frames", "use_on_equal_length"];
const answers = new Map(); // query -> windows, or a promise of them

/** Windows of the first step, each a list of runs [first, last]; `later` is called when they come from the server. */
export function windowsOf(node, frames, later) {
  const context = inLine(node, "inputs") ?? inLine(node, "outputs");
  if (!context) return [];
  const values = INPUTS.map((name) => [name, context.widgets.find((widget) => widget.name === name)?.value]);
  const query = String(new URLSearchParams([...values, ["frames", frames]]));
  if (!answers.has(query)) {
    if (answers.size > 100) answers.clear();
    answers.set(query, []);
    ask(query).then((windows) => {
      answers.set(query, windows);
      if (windows.length) later();
    });
  }
  return answers.get(query);
}

async function ask(query) {
  const answer = await api.fetchApi(`/unet_motion/window_frames?${query}`);
  return answer.ok ? (await answer.json()).windows : [];
}

/** The active node of windows that a node's MODEL comes from, or goes to. */
function inLine(node, side) {
  const [seen, queue] = [new Set(), [node]];
  while (queue.length) {
    const here = queue.shift();
    if (!here || seen.has(here.id)) continue;
    seen.add(here.id);
    if (here.comfyClass === KIND && here.mode === 0) return here;
    for (const slot of here[side] ?? []) {
      if (slot.type !== "MODEL") continue;
      for (const id of side === "inputs" ? [slot.link] : (slot.links ?? [])) {
        const link = id == null ? null : (node.graph?.getLink?.(id) ?? node.graph?.links?.[id]);
        if (link) queue.push(node.graph.getNodeById(side === "inputs" ? link.origin_id : link.target_id));
      }
    }
  }
  return null;
}
