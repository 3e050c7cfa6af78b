// Clips of VideoHelperSuite, whose workflow stands in a comment that ComfyUI's page does not read: dropped or opened,
// their workflow is there, also where that pack is not installed.
import { app } from "../../scripts/app.js";

const THEIRS = "VHS_VideoCombine"; // where it is installed its own page reads them
const KINDS = ["video/mp4", "video/webm", "video/quicktime", "video/x-matroska", "image/gif", "image/webp"];
const LARGEST = 2 ** 29; // bytes
const STARTS = ['{"prompt":', '{"workflow":'];
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN = 0x7b;
const CLOSE = 0x7d;

/** Let the page open the workflows of such clips. */
export function openOldClips() {
  const handleFile = app.handleFile;
  app.handleFile = async function (file, ...rest) {
    const workflow = await workflowOf(file).catch(() => null);
    if (!workflow) return handleFile.call(this, file, ...rest);
    const name = file.name.replace(/\.\w+$/, ".json");
    return handleFile.call(this, new File([JSON.stringify(workflow)], name, { type: "application/json" }), ...rest);
  };
}

/** The workflow in the comment of a clip, or null. */
async function workflowOf(file) {
  if (!KINDS.includes(file?.type) || file.size > LARGEST || THEIRS in window.LiteGraph.registered_node_types) return null;
  const bytes = new Uint8Array(await file.arrayBuffer());
  for (const start of STARTS) {
    for (let at = find(bytes, start, 0); at >= 0; at = find(bytes, start, at + 1)) {
      const comment = parse(bytes, at);
      if (Array.isArray(comment?.workflow?.nodes)) return comment.workflow;
      if (comment?.prompt) return typeof comment.prompt === "string" ? JSON.parse(comment.prompt) : comment.prompt;
    }
  }
  return null;
}

/** Where an ASCII text begins in bytes, from a place on; -1 for nowhere. */
function find(bytes, text, from) {
  const wanted = [...text].map((letter) => letter.charCodeAt(0));
  for (let at = bytes.indexOf(wanted[0], from); at >= 0; at = bytes.indexOf(wanted[0], at + 1)) {
    if (wanted.every((byte, place) => bytes[at + place] === byte)) return at;
  }
  return -1;
}

/** The JSON object that begins at a place, or null. */
function parse(bytes, from) {
  let depth = 0;
  let inText = false;
  for (let at = from; at < bytes.length; at++) {
    const byte = bytes[at];
    if (inText) {
      if (byte === BACKSLASH) at++;
      else if (byte === QUOTE) inText = false;
    } else if (byte === QUOTE) inText = true;
    else if (byte === OPEN) depth++;
    else if (byte === CLOSE && --depth === 0) {
      try {
        return JSON.parse(new TextDecoder().decode(bytes.subarray(from, at + 1)).replaceAll(/\bNaN\b/g, "null"));
      } catch {
        return null;
      }
    }
  }
  return null;
}
