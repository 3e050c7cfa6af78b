"""Very large graphs: long chains of settings are read one behind the other, and work has a bound."""

import gc
import time

import pytest

from tests.workflows.conversions import legacy, plain, up, widgets_of
from tests.workflows.old_graphs import prompt_of
from unet_motion.workflows.importer import WorkflowError, convert_workflow, settings
from unet_motion.workflows.importer.table import OTHER_PACKS, is_old

CHAINS = {  # a settings node, the input that the one before it goes into, the loader's input for the last
    "ADE_AnimateDiffLoRALoader": ("prev_motion_lora", "motion_lora", "UNetMotion_LoadMotionLoRA"),
    "ADE_StandardUniformContextOptions": ("prev_context", "context_options", "UNetMotion_ContextWindows"),
    "ADE_AnimateDiffKeyframe": ("prev_ad_keyframes", "ad_keyframes", None),
    "Reroute": ("", "motion_lora", None),
}


@pytest.mark.parametrize(("kind", "form"), [*((kind, "api") for kind in CHAINS), ("ADE_AnimateDiffLoRALoader", "page")])
def test_a_chain_of_five_thousand_takes_under_two_seconds(kind, form):
    """Whatever stands in a row: the last gives what all of them do, in their order."""
    before, into, becomes = CHAINS[kind]
    graph, loader, sampler = legacy()
    last = graph.add("ADE_AnimateDiffLoRALoader", name="0.ckpt", strength=0.5) if kind == "Reroute" else None
    words = {"ADE_AnimateDiffLoRALoader": "name", "ADE_StandardUniformContextOptions": "context_length"}
    for number in range(5000):
        widgets = {words[kind]: number if words[kind] != "name" else f"{number}.ckpt"} if kind in words else {}
        last = graph.add(kind, {} if last is None else {before: (last, 0)}, **widgets)
    graph.nodes[loader].links[into] = (last, 0)
    data = getattr(graph, form)()
    start = time.process_time()
    converted = convert_workflow(data)
    assert time.process_time() - start < 2 and converted.report.is_whole
    prompt = plain(converted.graph) if form == "api" else prompt_of(converted.graph, widgets_of())
    assert not any(is_old(node["class_type"]) for node in prompt.values())
    assert len(converted.report.replaced) == 3 + (1 if kind == "Reroute" else 5000)
    if becomes is not None:
        name = {"name": "lora_name", "context_length": "length"}[words[kind]]
        found, key = [], str(sampler)
        while "model" in prompt[key]["inputs"]:
            key = up(prompt, key, "model")
            found.append(prompt[key]["inputs"].get(name) if prompt[key]["class_type"] == becomes else None)
        said = [value for value in found if value is not None]
        assert said == [f"{n}.ckpt" if name == "lora_name" else n for n in reversed(range(5000))]


def crossed(count):
    """Each of many keyframes of steps reads all of a long chain of those of frames."""
    last = count - 1
    prompt = {"apply": {"class_type": "ACN_AdvancedControlNetApply", "inputs": {"timestep_kf": [f"s{last}", 0]}}}
    for n in range(count):
        frames = {} if not n else {"prev_latent_kf": [f"f{n - 1}", 0]}
        steps = {"latent_keyframe": [f"f{last}", 0], **({} if not n else {"prev_timestep_kf": [f"s{n - 1}", 0]})}
        prompt[f"f{n}"] = {"class_type": "LatentKeyframe", "inputs": frames}
        prompt[f"s{n}"] = {"class_type": "TimestepKeyframe", "inputs": steps}
    return prompt | {"old": {"class_type": "ADE_AnimateDiffUnload", "inputs": {}}}


def test_each_reading_of_settings_counts_once(monkeypatch):
    """They are read for the node itself, and once more for how strong its ControlNet is over time."""
    each = 5 + 5 * 5
    monkeypatch.setattr(settings, "READINGS", 0)
    monkeypatch.setattr(settings, "LEAST_READINGS", 2 * each)
    convert_workflow(crossed(5), OTHER_PACKS)
    monkeypatch.setattr(settings, "LEAST_READINGS", 2 * each - 1)
    with pytest.raises(WorkflowError, match="in more ways than the 59 expected of 12 nodes"):
        convert_workflow(crossed(5), OTHER_PACKS)


def test_settings_that_lead_to_each_other_in_very_many_ways_are_refused():
    prompt = crossed(2000)
    start = time.process_time()
    with pytest.raises(WorkflowError, match="before node apply lead to each other in more ways than the 40020"):
        convert_workflow(prompt, OTHER_PACKS)
    assert time.process_time() - start < 2


def test_settings_in_a_circle_are_named():
    graph, loader, _ = legacy()
    first = graph.add("ADE_AnimateDiffLoRALoader", name="a.ckpt", strength=0.5)
    second = graph.add("ADE_AnimateDiffLoRALoader", {"prev_motion_lora": (first, 0)}, name="b.ckpt", strength=0.5)
    graph.nodes[first].links["prev_motion_lora"] = (second, 0)
    graph.nodes[loader].links["motion_lora"] = (second, 0)
    left = convert_workflow(graph.api()).report.left
    assert [(said.node, said.text) for said in left] == [(str(second), "its settings lead back to itself")]


@pytest.mark.parametrize("is_on", [True, False])
def test_garbage_collection_is_afterwards_as_it_was(is_on):
    was_on, graph = gc.isenabled(), legacy()[0].api()
    try:
        (gc.enable if is_on else gc.disable)()
        convert_workflow(graph)
        assert gc.isenabled() is is_on
        with pytest.raises(WorkflowError):
            convert_workflow([])
        assert gc.isenabled() is is_on
    finally:
        (gc.enable if was_on else gc.disable)()
