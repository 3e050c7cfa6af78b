// The pack's part of ComfyUI's page: settings, the moving preview on the classic canvas, what a chosen file is, and
// workflows of AnimateDiff-Evolved rewritten.
import { app } from "../../scripts/app.js";
import { convertWorkflow, offerConversion, showReport } from "./convert_workflow.mjs";
import { forgetPreviews, sendPreviewChoice, showPreviews } from "./clip_preview.mjs";
import { showCurveEditor } from "./curve_editor.mjs";
import { refreshFileInfo, showFileInfo } from "./file_info.mjs";
import { openOldClips } from "./old_clips.mjs";
import { showTimeline } from "./timeline.mjs";
import { showTrainingResults } from "./training_result.mjs";
import { showWindows } from "./window_picture.mjs";

const MOTION = "UNetMotion.Preview.Motion";
const FPS = "UNetMotion.Preview.FPS";
const FILE_INFO = "UNetMotion.Loader.FileInfo";
const OFFER = "UNetMotion.Workflows.Offer";
const CONVERT_POSTED = "UNetMotion.Workflows.ConvertPosted";
const CONVERT = "UNetMotion.ConvertWorkflow";
const REPORT = "UNetMotion.ConversionReport";

const setting = (id) => app.extensionManager.setting.get(id);
// The page calls onChange before it keeps the new value, and once before it is ready.
const sendChoice = ({ motion, fps } = {}) =>
  app.extensionManager && sendPreviewChoice(motion ?? setting(MOTION) ?? true, fps ?? setting(FPS) ?? 8);

app.registerExtension({
  name: "unetmotion.page",
  settings: [
    {
      id: MOTION,
      category: ["UNetMotion", "Preview", "Motion"],
      name: "Show the whole clip while it is sampled",
      tooltip: "Also where ComfyUI's own preview, of the first frame, is off. Costs at most 3 % of the sampling time.",
      type: "boolean",
      defaultValue: true,
      onChange: (motion) => sendChoice({ motion }),
    },
    {
      id: FPS,
      category: ["UNetMotion", "Preview", "FPS"],
      name: "Frames per second of the preview",
      type: "slider",
      attrs: { min: 1, max: 30, step: 1 },
      defaultValue: 8,
      onChange: (fps) => sendChoice({ fps }),
    },
    {
      id: FILE_INFO,
      category: ["UNetMotion", "Loader", "FileInfo"],
      name: "Show on loaders what the chosen file is",
      tooltip: "Reads the header of the file only.",
      type: "boolean",
      defaultValue: true,
      onChange: (value) => app.graph && refreshFileInfo(value),
    },
    {
      id: OFFER,
      category: ["UNetMotion", "Workflows", "Offer"],
      name: "Offer to rewrite workflows of AnimateDiff-Evolved",
      tooltip: "Asks once when a workflow is opened whose nodes are missing. The command does the same at any time.",
      type: "boolean",
      defaultValue: true,
    },
    {
      id: CONVERT_POSTED,
      category: ["UNetMotion", "Workflows", "ConvertPosted"],
      name: "Convert graphs of AnimateDiff-Evolved that programs post",
      tooltip: "Where its nodes are missing, a prompt that has some is rewritten before it runs; the log says so.",
      type: "boolean",
      defaultValue: true,
    },
  ],
  commands: [
    {
      id: CONVERT,
      label: "Rewrite workflow of AnimateDiff-Evolved",
      icon: "pi pi-sync",
      function: convertWorkflow,
    },
    {
      id: REPORT,
      label: "Report of the last rewriting",
      icon: "pi pi-list",
      function: showReport,
    },
  ],
  menuCommands: [{ path: ["UNetMotion"], commands: [CONVERT, REPORT] }],
  async setup() {
    showPreviews(sendChoice);
    openOldClips();
    showTrainingResults();
    await sendChoice();
  },
  nodeCreated(node) {
    showCurveEditor(node);
    showTimeline(node);
    showFileInfo(node, () => setting(FILE_INFO) ?? true);
    showWindows(node);
  },
  loadedGraphNode(node) {
    node.unetMotionFileInfo?.();
    node.unetMotionCurve?.();
    node.unetMotionTimeline?.();
    node.unetMotionWindows?.();
  },
  beforeConfigureGraph() {
    forgetPreviews();
  },
  afterConfigureGraph(missing) {
    // Not awaited: the page waits for its extensions, and the question waits for an answer.
    offerConversion(missing ?? [], () => setting(OFFER) ?? true);
  },
});
