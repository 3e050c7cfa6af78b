// The last clip of a training run stays on its node. The server sends the file's name beside the results that ComfyUI
// knows, where programs would take it for what the graph saved; here it becomes the node's picture.
import { api } from "../../scripts/api.js";

const RESULT = "unet_motion_training";

/** Show the clips of training runs as their nodes' pictures. */
export function showTrainingResults() {
  // Before the page's own listener, which hands the node what is then in `output`.
  const options = { capture: true };
  api.addEventListener("executed", ({ detail }) => addPicture(detail?.output), options);
}

function addPicture(output) {
  const [filename] = output?.[RESULT] ?? [];
  if (filename && !output.images) {
    output.images = [{ filename, subfolder: "", type: "temp" }];
    output.animated = [true];
  }
}
