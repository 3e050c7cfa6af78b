"""Pictures that AnimateDiff-Evolved lays into a clip while it is sampled, converted."""

import pytest

from tests.workflows.conversions import both, find, gen2, kinds, up
from tests.workflows.old_graphs import Spec
from unet_motion.workflows.importer import convert_workflow
from unet_motion.workflows.importer.table.pictures import LATER, NEVER_RAN

SETTINGS = {"batch_offset": 0, "noise_type": "default", "seed_gen": "comfy", "seed_offset": 0}
PLAIN = {"invert_mask": False, "resize_image": False, "start_percent": 0.3, "guarantee_steps": 1}


def graph_with(*pictures):
    """A graph with a chain of pictures: links and widgets of each; `options`, `strength`, `mask` make nodes."""
    graph, *_, use, sampler = gen2()
    before, keys = {}, []
    for widgets in pictures:
        widgets = {**PLAIN, **widgets}
        image = graph.add("LoadImage", image=f"{len(keys)}.png")
        links = {"image": (image, 0), "vae": (1, 2), **before}
        if widgets.pop("mask", False):
            links["mask_opt"] = (image, 1)
        if "options" in widgets:
            x, y = widgets.pop("options")
            links["img_inject_opts"] = (graph.add("ADE_NoisedImageInjectOptions", composite_x=x, composite_y=y), 0)
        if "strength" in widgets:
            links["strength_multival"] = (graph.add("ADE_MultivalDynamic", float_val=widgets.pop("strength")), 0)
        keys.append(graph.add("ADE_NoisedImageInjection", links, **widgets))
        before = {"prev_image_inject": (keys[-1], 0)}
    settings = graph.add("ADE_AnimateDiffSamplingSettings", {"image_inject": (keys[-1], 0)}, **SETTINGS)
    graph.nodes[use].links["sample_settings"] = (settings, 0)
    return graph, keys, sampler


def said(report):
    return [entry.text for entry in report.changed if entry.text != LATER]


def test_a_picture_is_laid_in_where_and_when_it_was():
    graph, (key,), sampler = graph_with({"options": (83, 16), "strength": 0.7, "mask": True, "start_percent": 0.45})
    prompt, report = both(graph)
    node, inputs = find(prompt, "UNetMotion_ImageInjection")
    image, vae, mask = inputs.pop("image"), inputs.pop("vae"), inputs.pop("mask")
    assert node == str(key) == up(prompt, str(sampler), "model") and inputs.pop("model")
    assert inputs == {"at": 0.45, "strength": 0.7, "x": 83, "y": 16}
    assert prompt[image[0]]["class_type"] == "LoadImage" and (image[1], mask) == (0, [image[0], 1])
    assert vae == ["1", 2] and report.is_whole and not said(report) and len(report.changed) == 1
    assert NEVER_RAN in [entry.text for entry in report.notes]


@pytest.mark.parametrize(("start", "at"), [(0.0, 0.001), (1.0, 1.0)])
def test_never_before_the_first_step(start, at):
    prompt, _ = both(graph_with({"start_percent": start})[0])
    assert find(prompt, "UNetMotion_ImageInjection")[1]["at"] == at


def test_a_picture_gets_the_size_of_the_clip_and_a_mask_is_inverted():
    graph, _, sampler = graph_with({"resize_image": True, "invert_mask": True, "mask": True})
    prompt, report = both(graph)
    _, inputs = find(prompt, "UNetMotion_ImageInjection")
    scaled, mask = prompt[inputs["image"][0]], prompt[inputs["mask"][0]]
    loaded = scaled["inputs"].pop("image")
    assert scaled["inputs"] == {"upscale_method": "bilinear", "width": 256, "height": 256, "crop": "disabled"}
    assert (scaled["class_type"], mask["class_type"], loaded[1]) == ("ImageScale", "InvertMask", 0)
    assert mask["inputs"] == {"mask": [loaded[0], 1]} and not said(report)


def test_a_picture_keeps_its_size_where_that_of_the_clip_is_not_known():
    graph, (key,), sampler = graph_with({"resize_image": True})
    image = graph.add("LoadImage", image="start.png")
    graph.nodes[sampler].links["latent_image"] = (image, 0)
    prompt, report = both(graph)
    _, inputs = find(prompt, "UNetMotion_ImageInjection")
    assert prompt[inputs["image"][0]]["inputs"] == {"image": "0.png"} and "ImageScale" not in kinds(prompt)
    assert [text.split(":")[0] for text in said(report)] == ["resize_image"]


def test_each_picture_of_a_chain_is_a_node_with_its_own_size_and_mask():
    pictures = [{"resize_image": True, "start_percent": 0.1}, {"mask": True, "invert_mask": True, "start_percent": 0.5},
                {"resize_image": True, "strength": 0.2, "mask": True, "start_percent": 0.8}]  # fmt: skip
    graph, keys, sampler = graph_with(*pictures)
    prompt, report = both(graph)
    nodes = [up(prompt, str(sampler), *["model"] * count) for count in (3, 2, 1)]
    assert nodes == list(map(str, keys)) and not said(report) and report.is_whole
    found = [prompt[node]["inputs"] for node in nodes]
    assert [(inputs["at"], inputs["strength"]) for inputs in found] == [(0.1, 1.0), (0.5, 1.0), (0.8, 0.2)]
    scaled = [prompt[inputs["image"][0]]["class_type"] == "ImageScale" for inputs in found]
    files = [prompt[up(prompt, node, *["image"] * (1 + is_scaled))]["inputs"]["image"]
             for node, is_scaled in zip(nodes, scaled, strict=True)]  # fmt: skip
    assert scaled == [True, False, True] and files == ["0.png", "1.png", "2.png"]
    masks = [prompt[inputs["mask"][0]]["class_type"] if "mask" in inputs else None for inputs in found]
    assert masks == [None, "InvertMask", "LoadImage"]


def test_two_pictures_at_one_share_of_the_steps_are_said():
    graph, keys, _ = graph_with({"start_percent": 0.3}, {"start_percent": 0.5}, {"start_percent": 0.3})
    _, report = both(graph)
    later = [entry.node for entry in report.changed if "a step later" in entry.text]
    assert later == [str(keys[2])] and f"in the step of node {keys[0]}'s" in said(report)[0]
    graph.nodes[keys[2]].mode = 4
    assert not said(convert_workflow(graph.page()).report)


def test_what_has_no_counterpart_is_said():
    graph, _, _ = graph_with({"strength": 1.5, "guarantee_steps": 3})
    prompt, report = both(graph)
    assert find(prompt, "UNetMotion_ImageInjection")[1]["strength"] == 1.0
    assert [text.split(" has ")[0] for text in said(report)] == ["its strength 1.5", "guarantee_steps 3"]
    graph, _, _ = graph_with({"invert_mask": True})
    prompt, report = both(graph)
    assert "UNetMotion_ImageInjection" not in kinds(prompt)
    assert ["shows nowhere" in text for text in said(report)] == [True]


def test_a_loader_of_the_first_generation_takes_them_too():
    """Its motion module is no picture's."""
    graph, keys, _ = graph_with({}, {"start_percent": 0.6})
    use = next(key for key, spec in graph.nodes.items() if spec.kind == "ADE_UseEvolvedSampling")
    links = {name: link for name, link in graph.nodes[use].links.items() if name != "m_models"}
    widgets = {"model_name": "mm.ckpt", "beta_schedule": "autoselect"}
    graph.nodes[use] = Spec("ADE_AnimateDiffLoaderGen1", widgets, links)
    prompt, _ = both(graph)
    assert kinds(prompt).count("UNetMotion_LoadMotionModule") == 2  # the one that nothing reads is the file's
    assert kinds(prompt).count("UNetMotion_ApplyMotionModule") == 1
    assert kinds(prompt).count("UNetMotion_ImageInjection") == len(keys)
