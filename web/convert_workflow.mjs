// Workflows made with AnimateDiff-Evolved: the server rewrites them, the page shows the result as one step to undo.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const SHORT = 6000; // milliseconds
const LONG = 30000;
const LOADING = 3000; // for the page to load a workflow
const PAUSE = 50;
const WORDS = {
  en: {
    title: "Workflow of AnimateDiff-Evolved",
    offer:
      "This workflow is made with nodes of AnimateDiff-Evolved that are not installed here. Rewrite it with this " +
      "pack's and ComfyUI's own nodes? One step back (Ctrl+Z) undoes it.",
    done: (count) => `${count} nodes replaced`,
    left: (count) => `${count} left`,
    more: (count) => `${count} remarks: menu UNetMotion, Report of the last rewriting`,
    report: "Report of the last rewriting",
    never: "No workflow was rewritten since the page was opened.",
    node: "Node",
    none: "This workflow has no nodes of AnimateDiff-Evolved.",
    failed: "The workflow was not rewritten",
  },
  zh: {
    title: "AnimateDiff-Evolved 的工作流",
    offer:
      "此工作流使用了这里没有安装的 AnimateDiff-Evolved 节点。要改写为本节点包和 ComfyUI 自带的节点吗？" +
      "按一次 Ctrl+Z 即可撤销。",
    done: (count) => `已替换 ${count} 个节点`,
    left: (count) => `${count} 个未替换`,
    more: (count) => `${count} 条说明：菜单 UNetMotion，上次改写的报告`,
    report: "上次改写的报告",
    never: "打开页面后还没有改写过工作流。",
    node: "节点",
    none: "此工作流没有 AnimateDiff-Evolved 的节点。",
    failed: "工作流未能改写",
  },
};
const words = () => WORDS[app.extensionManager.setting.get("Comfy.Locale")] ?? WORDS.en;
const say = (severity, summary, detail, life) =>
  app.extensionManager.toast.add({ severity, summary, detail, life });

/** Workflows that were offered to be rewritten: each is asked about once. */
const offered = new WeakSet();

/** Rewrite the workflow of the page and say what was done. */
export async function convertWorkflow() {
  const answer = await ask(app.graph.rootGraph ?? app.graph);
  if (!answer) return;
  const { workflow, report } = answer;
  if (!report.replaced.length) {
    say("info", words().title, words().none, SHORT);
    return;
  }
  await show(workflow);
  tell(report);
}

/** Offer it, once for each workflow, where types of AnimateDiff-Evolved are missing. */
export async function offerConversion(missing, wanted) {
  const types = new Set(missing.map((entry) => entry.type ?? entry));
  if (!types.size || !wanted()) return;
  const current = await shownWorkflow();
  const answer = await ask(app.graph.rootGraph ?? app.graph, { quiet: true });
  if (!answer?.old.some((type) => types.has(type)) || !current || offered.has(current)) return;
  offered.add(current);
  const { title, offer } = words();
  if (await app.extensionManager.dialog.confirm({ title, message: offer, itemList: answer.old })) {
    await convertWorkflow();
  }
}

/** The workflow of the graph: the page says which one it shows only some time after it has configured the graph. */
async function shownWorkflow() {
  const nodes = (state) => state?.nodes?.map(({ id, type }) => `${id} ${type}`).sort().join();
  const tracked = (workflow) => nodes(workflow?.changeTracker?.activeState ?? workflow?.activeState);
  const active = () => app.extensionManager.workflow?.activeWorkflow;
  for (let waited = 0; waited < LOADING; waited += PAUSE) {
    await new Promise((done) => setTimeout(done, PAUSE));
    if (tracked(active()) === nodes((app.graph.rootGraph ?? app.graph).serialize())) break;
  }
  return active();
}

async function ask(graph, { quiet = false } = {}) {
  const answer = await api.fetchApi("/unet_motion/convert_workflow", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ workflow: graph.serialize() }),
  });
  const body = await answer.json().catch(() => ({ error: answer.statusText }));
  if (answer.ok) return body;
  if (!quiet) say("error", words().failed, body.error, LONG);
  return null;
}

/** Put a workflow in the place of the one that is shown, as a step that the page can undo. */
async function show(workflow) {
  const tracker = app.extensionManager.workflow?.activeWorkflow?.changeTracker;
  if (!tracker?.redoQueue) {
    await app.loadGraphData(workflow, false, false);
    return;
  }
  (tracker.captureCanvasState ?? tracker.checkState).call(tracker);
  tracker.redoQueue.length = 0;
  tracker.redoQueue.push(workflow);
  await tracker.redo();
  // The page completes what it opens, which is no step of its own.
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  tracker.activeState = JSON.parse(JSON.stringify((app.graph.rootGraph ?? app.graph).serialize()));
}

/** What was said last, which a later report takes the place of. */
let said = null;

/** Sentences, each once, with all nodes that it is about. */
function sentencesOf(entries) {
  const nodes = new Map();
  for (const { node, type, text } of entries) {
    const about = `(${type}): ${text}`;
    nodes.set(about, [...(nodes.get(about) ?? []), node]);
  }
  return [...nodes].map(([about, numbers]) => `${words().node} ${numbers.join(", ")} ${about}`);
}

/** What the last report said: a line, and its sentences. */
let told = null;

/** Show the sentences of the last report in a dialog. */
export async function showReport() {
  const { report, never } = words();
  if (!told) say("info", report, never, SHORT);
  else await app.extensionManager.dialog.confirm({ title: report, message: told.summary, itemList: told.sentences });
}

function tell(report) {
  const { done, left, more } = words();
  const sentences = sentencesOf([...report.left, ...report.changed]);
  console.info("UNetMotion: workflow rewritten", report);
  const summary = [done(report.replaced.length), ...(report.left.length ? [left(report.left.length)] : [])].join(", ");
  told = { summary, sentences };
  const { toast } = app.extensionManager;
  if (said) toast.remove?.(said);
  said = {
    severity: sentences.length ? "warn" : "success",
    summary,
    detail: sentences.length ? more(sentences.length) : undefined,
    life: sentences.length ? LONG : SHORT,
  };
  toast.add(said);
}
