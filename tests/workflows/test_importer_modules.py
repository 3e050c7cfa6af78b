"""Several motion models of AnimateDiff-Evolved on one MODEL, converted."""

import pytest

from tests.workflows.conversions import amounts, both, changed, curve_of, find, gen2, kinds, up
from tests.workflows.old_graphs import Spec
from unet_motion.workflows.importer import convert_workflow

WHOLE = {"start_percent": 0.0, "end_percent": 1.0}


def chain(first, last, range_of_first=WHOLE, **links_of_first):
    """A graph in which the node `last` applies one motion model behind another."""
    graph, load, apply, use, sampler = gen2(last)
    other = graph.add("ADE_LoadAnimateDiffModel", model_name=first)
    before = graph.add("ADE_ApplyAnimateDiffModel", {"motion_model": (other, 0)}, **range_of_first)
    links = {"motion_model": (load, 0), "prev_m_models": (before, 0)}
    graph.nodes[apply] = Spec("ADE_ApplyAnimateDiffModel", WHOLE, links)
    return graph, before, apply, sampler, (other, load)


def beside(prompt):
    key, inputs = find(prompt, "UNetMotion_AddMotionModule")
    return key, inputs, prompt[inputs["motion_module"][0]]["inputs"]["motion_module"]


def test_a_further_motion_model_acts_beside_the_last():
    graph, before, apply, sampler, _ = chain("first.ckpt", "last.ckpt", {"start_percent": 0.25, "end_percent": 0.75})
    effect, scale = (graph.add("ADE_MultivalDynamic", float_val=value) for value in (0.4, 1.3))
    late = graph.add("ADE_AnimateDiffKeyframe", {"effect_multival": (effect, 0)}, start_percent=0.5)
    own = graph.add("ADE_MultivalDynamic", float_val=0.9)
    graph.nodes[before].links.update(scale_multival=(scale, 0), effect_multival=(effect, 0), ad_keyframes=(late, 0))
    graph.nodes[apply].links["effect_multival"] = (own, 0)
    prompt, report = both(graph)
    key, inputs, file = beside(prompt)
    assert file == "first.ckpt" and key == str(before) and up(prompt, str(sampler), "model") == key
    assert [inputs[name] for name in ("scale", "effect", "start_percent", "end_percent")] == [1.3, 0.4, 0.25, 0.75]
    curve = curve_of(prompt, inputs, "effect_curve")
    assert "scale_curve" not in inputs and curve.over == "steps"
    assert [prompt[inputs["effect_curve"][0]]["inputs"][name] for name in ("text", "over")] == [
        "0:1 hold, 0.5:0.4 hold", "steps",
    ]  # fmt: skip
    (amount,) = amounts(prompt, sampler)
    assert (amount["effect"], amount["scale"]) == (0.9, 1.0)
    applied, main = find(prompt, "UNetMotion_ApplyMotionModule")
    assert prompt[main["motion_module"][0]]["inputs"]["motion_module"] == "last.ckpt" and applied == str(apply)
    assert main["beta_schedule"] == "auto" and report.is_whole
    (said,) = report.changed
    assert said.node == str(before) and f"beside that of node {apply} " in said.text


@pytest.mark.parametrize(
    ("first", "last", "own"),
    [
        ("mm_sd_v15_v2.ckpt", "v3_sd15_mm.ckpt", "mm_sd_v15_v2.ckpt"),
        ("v3_sd15_mm.ckpt", "mm_sd_v15_v2.ckpt", "mm_sd_v15_v2.ckpt"),
        ("mm_sd_v15_v2.ckpt", "improved_v2.ckpt", "improved_v2.ckpt"),
        ("v3_sd15_mm.ckpt", "AnimateLCM_t2v.ckpt", "AnimateLCM_t2v.ckpt"),
        ("mm_sd_v15_v2.ckpt", "AnimateLCM_t2v.ckpt", "mm_sd_v15_v2.ckpt"),
    ],
)
def test_the_model_has_the_modules_that_reach_into_the_mid_block(first, last, own):
    """The noise schedule is that of the last one in any case, as AnimateDiff-Evolved chooses it."""
    graph, *_ = chain(first, last)
    prompt, _ = both(graph)
    _, main = find(prompt, "UNetMotion_ApplyMotionModule")
    assert prompt[main["motion_module"][0]]["inputs"]["motion_module"] == own
    assert beside(prompt)[2] == {first: last, last: first}[own]
    assert main["beta_schedule"] == ("lcm" if "LCM" in last else "auto")


def test_what_acts_on_the_own_modules_alone_is_lost_and_said():
    graph, before, apply, sampler, _ = chain("first.ckpt", "last.ckpt")
    loras = [graph.add("ADE_AnimateDiffLoRALoader", name=f"{name}.safetensors", strength=1.0) for name in "ab"]
    for node, lora in zip((before, apply), loras, strict=True):
        graph.nodes[node].links["motion_lora"] = (lora, 0)
    prompt, report = both(graph)
    assert find(prompt, "UNetMotion_LoadMotionLoRA")[1]["lora_name"] == "b.safetensors"
    assert {said.node: said.text.split(":")[0] for said in report.changed} == {
        str(loras[0]): "is lost",
        str(before): f"its motion module acts beside that of node {apply} here, not behind it",
    }
    assert report.is_whole


def test_a_module_that_takes_a_picture_is_the_models_own():
    graph, before, apply, sampler, (other, load) = chain("pia.ckpt", "last.ckpt")
    image = graph.add("LoadImage", image="a.png")
    links = {"motion_model": (other, 0), "image": (image, 0), "vae": (1, 2)}
    graph.nodes[before] = Spec("ADE_ApplyAnimateDiffModelWithPIA", WHOLE, links)
    prompt, report = both(graph)
    _, main = find(prompt, "UNetMotion_ApplyMotionModule")
    assert prompt[main["motion_module"][0]]["inputs"]["motion_module"] == "pia.ckpt"
    assert beside(prompt)[2] == "last.ckpt" and "UNetMotion_PIA" in kinds(prompt)
    again = {"motion_model": (load, 0), "image": (image, 0), "vae": (1, 2), "prev_m_models": (before, 0)}
    graph.nodes[apply] = Spec("ADE_ApplyAnimateDiffModelWithPIA", WHOLE, again)
    prompt, report = both(graph)
    assert kinds(prompt).count("UNetMotion_PIA") == 1 and "UNetMotion_AddMotionModule" not in kinds(prompt)
    assert changed(report) == [
        f"its motion module is left out: it takes a picture, and node {apply} does already"
    ] and [said.node for said in report.changed] == [str(before)]


def test_a_muted_one_counts_for_nothing():
    graph, before, apply, *_ = chain("mm_v2.ckpt", "last.ckpt")
    graph.nodes[before].mode = 2
    converted = convert_workflow(graph.page())
    assert not converted.report.changed
    acting = [node["type"] for node in converted.graph["nodes"] if node["mode"] == 0]
    assert acting.count("UNetMotion_ApplyMotionModule") == 1 and "UNetMotion_AddMotionModule" not in acting
