"""Graphs of AnimateDiff-Evolved to convert, and what is looked for in the results."""

import json

from tests.workflows.old_graphs import Description, prompt_of
from unet_motion.schedule import Curve
from unet_motion.workflows.importer import convert_workflow
from unet_motion.workflows.importer.table import ROWS, TARGETS, is_old

CORE_WIDGETS = {
    "CheckpointLoaderSimple": ["ckpt_name"],
    "CLIPTextEncode": ["text"],
    "EmptyLatentImage": ["width", "height", "batch_size"],
    "VAEDecode": [],
    "SaveImage": ["filename_prefix"],
    "LoraLoaderModelOnly": ["lora_name", "strength_model"],
    "KSampler": ["seed", "(control)", "steps", "cfg", "sampler_name", "scheduler", "denoise"],
    "INTConstant": ["value"],
    "LoadImage": ["image"],
}


def widgets_of():
    """Names of the values of every type of node that a converted page graph has, in their order."""
    ours = {kind: [n if n in target.inputs else f"({n})" for n in target.page_widgets()]
            for kind, target in TARGETS.items()}  # fmt: skip
    old = {kind: [spec.name for spec in row.widgets()] for kind, row in ROWS.items()}
    return {**old, **ours, **CORE_WIDGETS}


def legacy(module="mm_sd_v15_v2.ckpt", beta="sqrt_linear (AnimateDiff)", frames=16, **widgets):
    """The graph that most shared workflows are: the legacy loader between checkpoint and sampler."""
    graph = Description()
    checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
    loader = graph.add(
        "ADE_AnimateDiffLoaderWithContext", {"model": (checkpoint, 0)}, model_name=module, beta_schedule=beta, **widgets
    )
    texts = [graph.add("CLIPTextEncode", {"clip": (checkpoint, 1)}, text=text) for text in ("a cat", "blurry")]
    latents = graph.add("ADE_EmptyLatentImageLarge", width=512, height=384, batch_size=frames)
    links = {"model": (loader, 0), "positive": (texts[0], 0), "negative": (texts[1], 0), "latent_image": (latents, 0)}
    sampler = graph.add(
        "KSampler", links, seed=7, steps=20, cfg=7.5, sampler_name="euler", scheduler="normal", denoise=1.0
    )
    pictures = graph.add("VAEDecode", {"samples": (sampler, 0), "vae": (checkpoint, 2)})
    graph.add("ADE_AnimateDiffCombine", {"images": (pictures, 0)}, frame_rate=12, loop_count=0,
              filename_prefix="cat", format="image/webp", pingpong=False, save_image=True)  # fmt: skip
    return graph, loader, sampler


def gen2(module="v3_sd15_mm.ckpt", beta="autoselect"):
    """Load, apply, and the node that gives it to the MODEL."""
    graph = Description()
    checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
    load = graph.add("ADE_LoadAnimateDiffModel", model_name=module)
    apply = graph.add("ADE_ApplyAnimateDiffModelSimple", {"motion_model": (load, 0)})
    use = graph.add("ADE_UseEvolvedSampling", {"model": (checkpoint, 0), "m_models": (apply, 0)}, beta_schedule=beta)
    texts = [graph.add("CLIPTextEncode", {"clip": (checkpoint, 1)}, text=text) for text in ("a dog", "")]
    latents = graph.add("EmptyLatentImage", width=256, height=256, batch_size=8)
    links = {"model": (use, 0), "positive": (texts[0], 0), "negative": (texts[1], 0), "latent_image": (latents, 0)}
    sampler = graph.add("KSampler", links, seed=1, steps=8, cfg=2.0, sampler_name="lcm", scheduler="sgm_uniform",
                        denoise=1.0)  # fmt: skip
    graph.add("VAEDecode", {"samples": (sampler, 0), "vae": (checkpoint, 2)})
    return graph, load, apply, use, sampler


def both(graph):
    """The converted prompt of a description: it is the same by way of the API's form and of the page's."""
    api = convert_workflow(graph.api())
    page = convert_workflow(graph.page())
    from_page = prompt_of(page.graph, widgets_of())
    assert shape(from_page) == shape(plain(api.graph))
    return plain(api.graph), api.report


def plain(prompt):
    """Without nodes that only the page has."""
    return {key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in prompt.items()}


def shape(prompt):
    """A prompt without the numbers of its nodes: each node by what it is made of."""

    def made_of(key):
        node = prompt[key]
        inputs = {name: made_of(value[0]) + [value[1]] if isinstance(value, list) else value
                  for name, value in sorted(node["inputs"].items())}  # fmt: skip
        return [node["class_type"], inputs]

    return sorted(json.dumps(made_of(key)) for key in prompt)


def find(prompt, kind):
    """The only node of a kind: its key and inputs."""
    found = [(key, node["inputs"]) for key, node in prompt.items() if node["class_type"] == kind]
    assert len(found) == 1, (kind, [node["class_type"] for node in prompt.values()])
    return found[0]


def up(prompt, key, *names):
    """The key of the node that is reached through inputs, one behind the other."""
    for name in names:
        key = prompt[key]["inputs"][name][0]
    return key


def kinds(prompt):
    return sorted(node["class_type"] for node in prompt.values())


def windows_of(prompt, sampler):
    """The windows before a sampler, the last first."""
    found, key = [], str(sampler)
    while "model" in prompt[key]["inputs"]:
        key = up(prompt, key, "model")
        if prompt[key]["class_type"] == "UNetMotion_ContextWindows":
            found.append(prompt[key]["inputs"])
    return found


def changed(report):
    """What is said to be lost: the first words."""
    return [said.text.split(" has ")[0] for said in report.changed]


def amounts(prompt, sampler):
    """Scale, effect and curves of the nodes before a sampler, in the order of the MODEL."""
    found, key = [], str(sampler)
    while "model" in prompt[key]["inputs"]:
        key = up(prompt, key, "model")
        node = prompt[key]
        if node["class_type"] == "UNetMotion_MotionAmount":
            found.append(node["inputs"])
    return found[::-1]


def curve_of(prompt, inputs, name):
    node = prompt[inputs[name][0]]
    assert node["class_type"] == "UNetMotion_Curve" and inputs[name][1] == 0
    return Curve.parse("text", node["inputs"]["text"], node["inputs"]["over"])


def check_page(page):
    """Links and the slots at both their ends agree, and no node of ours lies over another."""
    nodes = {node["id"]: node for node in page["nodes"]}
    assert len(nodes) == len(page["nodes"]) and len({link[0] for link in page["links"]}) == len(page["links"])
    for number, source, out, target, place, type_ in page["links"]:
        start, slot = nodes[source]["outputs"][out], nodes[target]["inputs"][place]
        assert number in start["links"] and slot["link"] == number
        if is_old(nodes[source]["type"]) or is_old(nodes[target]["type"]):
            continue  # what stays as it was does not run
        assert start["type"] in (type_, "*")
        assert type_ in (slot["type"], *slot["type"].split(",")) or "*" in (slot["type"], type_)
    known = {link[0] for link in page["links"]}
    for node in nodes.values():
        assert {slot["link"] for slot in node.get("inputs") or []} <= known | {None}
        assert {n for slot in node.get("outputs") or [] for n in slot.get("links") or []} <= known
    boxes = [(n["pos"][0], n["pos"][1] - 30, n["size"][0], n["size"][1] + 30, n["id"]) for n in nodes.values()]
    added = [box for box in boxes if box[4] > 100 or nodes[box[4]]["type"].startswith("UNetMotion_LoadMotionModule")]
    for box in added:
        for other in boxes:
            over = (box[0] < other[0] + other[2] and other[0] < box[0] + box[2]
                    and box[1] < other[1] + other[3] and other[1] < box[1] + box[3])  # fmt: skip
            assert box[4] == other[4] or not over
