"""ControlNets with keyframes: each frame gets the strength that Advanced-ControlNet gives it."""

import math
from collections import Counter

import pytest

from tests.workflows import old_graphs
from tests.workflows.conversions import find, legacy, plain, up, widgets_of
from tests.workflows.old_graphs import Spec, prompt_of
from unet_motion.schedule import Curve
from unet_motion.workflows.importer import convert_workflow
from unet_motion.workflows.importer.table import OTHER_PACKS
from unet_motion.workflows.importer.table.control import texts_over_frames

FRAMES, STRENGTH = "UNetMotion_Curve", "UNetMotion_ControlStrength"
OUTPUTS = {
    "ControlNetLoaderAdvanced": "CONTROL_NET",
    "ControlNetLoader": "CONTROL_NET",
    "ControlNetApplyAdvanced": "CONDITIONING CONDITIONING",
    "ControlNetApply": "CONDITIONING",
    "ACN_AdvancedControlNetApply_v2": "CONDITIONING CONDITIONING",
    **dict.fromkeys(
        ("LatentKeyframe", "LatentKeyframeGroup", "LatentKeyframeTiming", "LatentKeyframeBatchedGroup"),
        "LATENT_KEYFRAME",
    ),
    "TimestepKeyframe": "TIMESTEP_KEYFRAME",
    "ACN_TimestepKeyframeInterpolation": "TIMESTEP_KEYFRAME",
    "ScaledSoftControlNetWeights": "CONTROL_NET_WEIGHTS TIMESTEP_KEYFRAME",
    "FloatList": "FLOAT",
    "SourceOfLatents": "LATENT",
    "SomeOtherApply": "CONDITIONING CONDITIONING",
    "ACN_AdvancedControlNetApplySingle": "CONDITIONING MODEL",
    "ACN_AdvancedControlNetApplySingle_v2": "CONDITIONING MODEL",
    "DiffControlNetLoaderAdvanced": "CONTROL_NET",
    "ACN_SparseCtrlLoaderAdvanced": "CONTROL_NET",
    "ACN_TimestepKeyframeFromStrengthList": "TIMESTEP_KEYFRAME",
}
WIDGETS = {
    "ControlNetLoader": ["control_net_name"],
    "ControlNetApply": ["strength"],
    "ControlNetApplyAdvanced": ["strength", "start_percent", "end_percent"],
    "ScaledSoftControlNetWeights": ["base_multiplier", "flip_weights"],
    "FloatList": [],
    "SourceOfLatents": [],
}


@pytest.fixture(autouse=True)
def known_outputs(monkeypatch):
    for kind, outputs in OUTPUTS.items():
        monkeypatch.setitem(old_graphs.OUTPUTS, kind, outputs)


def with_control(frames=16, length_known=True, apply_kind="ACN_AdvancedControlNetApply_v2"):
    """A clip with a ControlNet: the graph, and the numbers of the loader and of the node that applies it."""
    graph, _, sampler = legacy(frames=frames)
    loader = graph.add("ControlNetLoaderAdvanced", control_net_name="tile.pth")
    picture = graph.add("LoadImage", image="a.png")
    links = {**{name: graph.nodes[sampler].links[name] for name in ("positive", "negative")},
             "control_net": (loader, 0), "image": (picture, 0)}  # fmt: skip
    apply = graph.add(apply_kind, links, strength=0.8, start_percent=0.0, end_percent=1.0)
    graph.nodes[sampler].links.update(positive=(apply, 0), negative=(apply, 1))
    if not length_known:
        graph.nodes[sampler].links["latent_image"] = (graph.add("SourceOfLatents"), 0)
    return graph, loader, apply, sampler


def chain(graph, *nodes):
    """Keyframes of frames, one behind the other."""
    last = None
    for kind, values in nodes:
        last = graph.add(kind, {} if last is None else {"prev_latent_kf": (last, 0)}, **values)
    return last


def converted(graph):
    """The same prompt by way of both forms, and its report."""
    result = convert_workflow(graph.api(), OTHER_PACKS)
    prompt = plain(result.graph)
    page = convert_workflow(graph.page(), OTHER_PACKS)
    shown = prompt_of(page.graph, {**widgets_of(), **WIDGETS})
    for kind in (FRAMES, STRENGTH):
        there = [[sorted((k, v) for k, v in node["inputs"].items() if not isinstance(v, list))
                  for node in one.values() if node["class_type"] == kind] for one in (prompt, shown)]  # fmt: skip
        assert Counter(map(str, there[0])) == Counter(map(str, there[1]))
    assert convert_workflow(result.graph, OTHER_PACKS).graph == result.graph
    return prompt, result.report


def strengths(prompt, sampler, frames=16, at=0.0):
    """What the node behind the ControlNet multiplies each frame with, at a share of the steps."""
    key = up(prompt, str(sampler), "positive")
    node = prompt[key]
    assert node["class_type"] == STRENGTH and up(prompt, str(sampler), "negative") == key
    applied = prompt[up(prompt, key, "positive")]
    assert applied["class_type"].startswith("ControlNetApply")
    assert [node["inputs"]["positive"][1], node["inputs"]["negative"][1]] in ([0, 1], [0, 0])
    assert prompt[str(sampler)]["inputs"]["negative"] == [key, 1]
    values = [node["inputs"]["strength"]] * frames
    curve = node["inputs"].get("strength_curve")
    while curve is not None:
        inputs = prompt[curve[0]]["inputs"]
        read = Curve.parse("text", inputs["text"], inputs["over"])
        own = read.values(frames).tolist() if inputs["over"] == "frames" else [read.value_at(at)] * frames
        values = [value * factor for value, factor in zip(values, own, strict=True)]
        curve = inputs.get("times")
    return values


def named(keys, frames=16, null=0.0):
    """The strength of each frame: that of its key, else `null`."""
    return [keys.get(i, keys.get(i - frames, null)) for i in range(frames)]


GROUP = {"print_keyframes": False}


def frame(number, strength):
    """A keyframe of one frame."""
    return "LatentKeyframe", {"batch_index": number, "strength": strength}


def timing(first, end, start, stop, ease="linear"):
    """Keyframes of the frames from `first` to before `end`."""
    return "LatentKeyframeTiming", {"batch_index_from": first, "batch_index_to_excl": end, "strength_from": start,
                                    "strength_to": stop, "interpolation": ease, **GROUP}  # fmt: skip


CHAINS = [
    ([frame(3, 0.5)], {3: 0.5}),
    ([frame(0, 0.5), frame(15, 1.0),
      frame(1, 0.25)], {0: 0.5, 1: 0.25, 15: 1}),
    # the later of two single keyframes counts; those that make several keep what the ones before them say
    ([frame(2, 0.5), frame(2, 0.75)],
     {2: 0.75}),
    ([frame(2, 0.5),
      ("LatentKeyframeGroup", {"index_strengths": "1=0.1, 2=0.2, 6:9=0.3, 12", **GROUP})],
     {1: 0.1, 2: 0.5, 6: 0.3, 7: 0.3, 8: 0.3, 12: 1}),
    ([frame(1, 0.9),
      timing(0, 5, 1.0, 0.2)],
     {0: 1, 1: 0.9, 2: 0.6, 3: 0.4, 4: 0.2}),
    ([frame(-1, 0.7), frame(-3, 0.3),
      frame(0, 2.0)], {0: 2, -3: 0.3, -1: 0.7}),
    ([("LatentKeyframeGroup", {"index_strengths": "", **GROUP})], {}),
]  # fmt: skip


@pytest.mark.parametrize("length_known", [True, False])
@pytest.mark.parametrize(("nodes", "keys"), CHAINS)
def test_frames_that_are_named_have_their_strength_and_the_others_none(nodes, keys, length_known):
    graph, _, apply, sampler = with_control(length_known=length_known)
    graph.nodes[apply].links["latent_kf_override"] = (chain(graph, *nodes), 0)
    prompt, report = converted(graph)
    assert strengths(prompt, sampler) == pytest.approx(named(keys), abs=1e-7)
    assert find(prompt, "ControlNetApplyAdvanced")[1]["strength"] == 0.8 and report.is_whole
    said = [entry.text for entry in report.changed]
    assert said == [] if length_known else (len(said) == 1 and said[0].startswith("the length of its clip"))
    assert all("Keyframe" not in node["class_type"] for node in prompt.values())


@pytest.mark.parametrize("ease", ["linear", "ease-in", "ease-out", "ease-in-out"])
def test_strengths_between_two_numbers(ease):
    graph, _, apply, sampler = with_control()
    last = chain(graph, timing(4, 11, 0.2, 1.4, ease))
    graph.nodes[apply].links["latent_kf_override"] = (last, 0)
    prompt, _ = converted(graph)
    way = {"linear": lambda t: t, "ease-in": lambda t: t**2, "ease-out": lambda t: 1 - (1 - t) ** 2,
           "ease-in-out": lambda t: (1 - math.cos(t * math.pi)) / 2}[ease]  # fmt: skip
    expected = named({4 + i: 0.2 + 1.2 * way(i / 6) for i in range(7)})
    assert strengths(prompt, sampler) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("frames", "null"), [(16, 0.0), (24, 0.0), (16, 0.3), (40, 0.3)])
def test_a_clip_of_unknown_length_may_end_at_the_last_named_frame(frames, null):
    """A curve may have no key behind the clip, and frames that no keyframe names may come there."""
    graph, loader, _, sampler = with_control(length_known=False)
    keys = {i: 0.2 + i / 20 for i in range(5, 16)}
    last = chain(graph, *(frame(i, value) for i, value in keys.items()))
    key = graph.add("TimestepKeyframe", {"latent_keyframe": (last, 0)}, start_percent=0.0, strength=1.0,
                    null_latent_kf_strength=null, inherit_missing=True, guarantee_steps=1)  # fmt: skip
    graph.nodes[loader].links["tk_optional"] = (key, 0)
    prompt, report = converted(graph)
    assert strengths(prompt, sampler, frames) == pytest.approx(named(keys, frames, null), abs=1e-7)
    assert "need 16 frames or more" in report.changed[0].text


@pytest.mark.parametrize("strength", [0.3, 0.6])
def test_the_last_named_frame_may_have_half_the_strength_of_those_that_no_keyframe_names_or_theirs(strength):
    """No straight line ends at nothing and is a share of that: the strengths are steps, for a longer clip."""
    [text], least = texts_over_frames({2: 0.9, 5: strength}, 0.6, None)
    assert least >= 6
    for frames in (7, 24):
        found = Curve.parse("text", text, "frames").values(frames).tolist()
        assert found == pytest.approx(named({2: 0.9, 5: strength}, frames, 0.6), abs=1e-7)


def test_frames_that_the_clip_does_not_have_are_left_out():
    graph, _, apply, sampler = with_control(frames=8)
    last = chain(graph, *(frame(i, 0.5) for i in (2, 7, 12, -9, -8)))
    graph.nodes[apply].links["latent_kf_override"] = (last, 0)
    prompt, _ = converted(graph)
    assert strengths(prompt, sampler, 8) == [0.5, 0, 0.5, 0, 0, 0, 0, 0.5]


@pytest.mark.parametrize("apply_kind", ["ControlNetApplyAdvanced", "ACN_AdvancedControlNetApply_v2"])
@pytest.mark.parametrize("name", ["tk_optional", "timestep_keyframe"])
def test_keyframes_of_a_loader_stand_behind_what_applies_it(name, apply_kind):
    graph, loader, _, sampler = with_control(apply_kind=apply_kind)
    last = chain(graph, frame(5, 0.5))
    key = graph.add("TimestepKeyframe", {"latent_keyframe": (last, 0)}, start_percent=0.0, strength=0.5,
                    null_latent_kf_strength=0.25, inherit_missing=True, guarantee_usage=True)  # fmt: skip
    graph.nodes[loader].links[name] = (key, 0)
    prompt, report = converted(graph)
    assert strengths(prompt, sampler) == named({5: 0.25}, null=0.125)
    assert find(prompt, STRENGTH)[1]["strength"] == 0.5 and not report.changed and report.is_whole
    taken = {entry.kind: entry.by for entry in report.replaced if entry.kind == "TimestepKeyframe"}
    assert set(taken["TimestepKeyframe"]) == {FRAMES, STRENGTH}


def test_keyframes_of_what_applies_it_count_before_the_loaders():
    graph, loader, apply, sampler = with_control()
    for node, name, strength in ((loader, "tk_optional", 0.2), (apply, "timestep_kf", 0.6)):
        graph.nodes[node].links[name] = (graph.add("TimestepKeyframe", start_percent=0.0, strength=strength), 0)
    prompt, report = converted(graph)
    assert strengths(prompt, sampler) == [0.6] * 16 and not report.changed
    assert FRAMES not in {node["class_type"] for node in prompt.values()}


def test_a_node_for_one_prompt_alone_gets_the_strength_for_it():
    graph, loader, apply, sampler = with_control(apply_kind="ControlNetApply")
    spec = graph.nodes[apply]
    spec.links = {"conditioning": spec.links["positive"], "control_net": (loader, 0), "image": spec.links["image"]}
    spec.widgets = {"strength": 0.8}
    negative = graph.nodes[sampler].links["negative"] = (find_text(graph), 0)
    graph.nodes[loader].links["tk_optional"] = (graph.add("TimestepKeyframe", start_percent=0.0, strength=0.5), 0)
    prompt, _ = converted(graph)
    key, inputs = find(prompt, STRENGTH)
    assert inputs == {"positive": [str(apply), 0], "negative": [str(apply), 0], "strength": 0.5}
    assert prompt[str(sampler)]["inputs"]["positive"] == [key, 0]
    assert prompt[str(sampler)]["inputs"]["negative"] == [str(negative[0]), 0]


def find_text(graph):
    return max(number for number, spec in graph.nodes.items() if spec.kind == "CLIPTextEncode")


def test_strengths_over_steps_hold_from_their_start_on():
    """Before the first keyframe a ControlNet has its own strength; those of frames are multiplied with them, and those
    that a node itself is given count before its keyframes'."""
    graph, _, apply, sampler = with_control()
    other = chain(graph, frame(2, 0.75))
    first = graph.add("TimestepKeyframe", {"latent_keyframe": (other, 0)}, start_percent=0.6, strength=0.25)
    second = graph.add("TimestepKeyframe", {"prev_timestep_kf": (first, 0)}, start_percent=0.2, strength=0.5)
    last = chain(graph, frame(1, 0.5))
    graph.nodes[apply].links.update(timestep_kf=(second, 0), latent_kf_override=(last, 0))
    prompt, report = converted(graph)
    for at, strength in ((0, 1), (0.19, 1), (0.2, 0.5), (0.59, 0.5), (0.6, 0.25), (1, 0.25)):
        assert strengths(prompt, sampler, at=at) == named({1: 0.5 * strength}), at
    assert not report.changed


def test_many_keys_between_two_strengths():
    graph, _, apply, sampler = with_control()
    key = graph.add("ACN_TimestepKeyframeInterpolation", start_percent=0.2, end_percent=0.8, strength_start=1.0,
                    strength_end=0.25, interpolation="ease-in", intervals=4)  # fmt: skip
    graph.nodes[apply].links["timestep_kf"] = (key, 0)
    prompt, _ = converted(graph)
    for at, t in ((0.1, 0), (0.25, 0), (0.5, 1 / 3), (0.7, 2 / 3), (0.9, 1)):
        assert strengths(prompt, sampler, at=at)[0] == pytest.approx(1 - 0.75 * t**2, abs=1e-7)


def keyed(graph, start, frames=None, before=None, **values):
    links = {} if frames is None else {"latent_keyframe": (frames, 0)}
    links |= {} if before is None else {"prev_timestep_kf": (before, 0)}
    values = {"start_percent": start, "strength": 0.5, "null_latent_kf_strength": 0.0, **values}
    return graph.add("TimestepKeyframe", links, **values)


def test_what_is_not_the_same_is_said():
    """Frames whose strength changes between steps, two keyframes at one place, weights of layers."""
    graph, _, apply, sampler = with_control()
    frames = chain(graph, frame(1, 0.5))
    graph.nodes[apply].links["timestep_kf"] = (keyed(graph, 0.5, frames), 0)
    prompt, report = converted(graph)
    assert strengths(prompt, sampler, at=0.2) == [1] * 16 and strengths(prompt, sampler, at=0.7) == [0.5] * 16
    assert [said.text.split(":")[0] for said in report.changed] == ["strengths of frames that change between steps"]
    first = keyed(graph, 0.0, frames)
    graph.nodes[apply].links["timestep_kf"] = (keyed(graph, 0.5, before=first, inherit_missing=True), 0)
    prompt, report = converted(graph)
    assert strengths(prompt, sampler, at=0.7) == named({1: 0.25}) and not report.changed
    graph.nodes[apply].links["timestep_kf"] = (keyed(graph, 0.5, before=first, inherit_missing=False), 0)
    _, report = converted(graph)
    assert [said.text.split(":")[0] for said in report.changed] == ["strengths of frames that change between steps"]
    graph.nodes[apply].links["timestep_kf"] = (keyed(graph, 0.0, before=first), 0)
    _, report = converted(graph)
    assert [said.text for said in report.changed] == ["of keyframes that both begin at 0 only the last counts"]


def test_weights_masks_and_keys_for_more_steps_are_lost_and_said():
    graph, _, apply, sampler = with_control()
    weights = graph.add("ScaledSoftControlNetWeights", base_multiplier=0.8, flip_weights=False)
    mask = graph.add("LoadImage", image="m.png")
    links = {"cn_weights": (weights, 0), "mask_optional": (mask, 1)}
    key = graph.add("TimestepKeyframe", links, start_percent=0.0, strength=0.5, guarantee_steps=3)
    graph.nodes[apply].links["timestep_kf"] = (key, 0)
    prompt, report = converted(graph)
    assert strengths(prompt, sampler) == [0.5] * 16
    assert sorted(said.text.split(" has no")[0] for said in report.changed) == [
        "cn_weights a link", "guarantee_steps 3", "mask_optional a link",
    ]  # fmt: skip


def test_a_list_of_strengths_goes_into_the_node_as_it_is():
    graph, _, apply, sampler = with_control()
    floats = graph.add("FloatList")
    last = graph.add("LatentKeyframeBatchedGroup", {"float_strengths": (floats, 0)}, print_keyframes=False)
    graph.nodes[apply].links["latent_kf_override"] = (last, 0)
    prompt, report = converted(graph)
    assert find(prompt, STRENGTH)[1]["strength_curve"] == [str(floats), 0]
    assert [said.text.split(":")[0] for said in report.changed] == ["a list of strengths"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("LatentKeyframeGroup", {"index_strengths": "1=a"}),
        ("LatentKeyframeGroup", {"index_strengths": "-1=0.5"}),
        ("LatentKeyframeGroup", {"index_strengths": "0:999999999=0.5"}),
        timing(0, 10**12, 0.0, 1.0),
        timing(-2, 3, 0.0, 1.0),
    ],
)  # fmt: skip
def test_frames_that_cannot_be_read_are_said(kind, values):
    graph, _, apply, sampler = with_control()
    last = chain(graph, frame(1, 0.5), (kind, {**values, **GROUP}))
    graph.nodes[apply].links["latent_kf_override"] = (last, 0)
    prompt, report = converted(graph)
    assert strengths(prompt, sampler) == named({1: 0.5})
    assert [said.kind for said in report.changed] == [kind]


BETWEEN = {"start_percent": 0.2, "end_percent": 0.8, "strength_start": 1.0, "strength_end": 0.25, "intervals": 4,
           "interpolation": "linear"}  # fmt: skip
LINKED = [
    *((*frame(1, 0.5), name) for name in ("batch_index", "strength")),
    *((*timing(0, 5, 1.0, 0.2), name) for name in timing(0, 5, 1.0, 0.2)[1] if name != "print_keyframes"),
    ("LatentKeyframeGroup", {"index_strengths": "1=0.5", **GROUP}, "index_strengths"),
    *(("TimestepKeyframe", {"start_percent": 0.5, "strength": 0.5}, name)
      for name in ("start_percent", "strength", "inherit_missing")),
    *(("ACN_TimestepKeyframeInterpolation", BETWEEN, name) for name in BETWEEN),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values", "name"), LINKED)
def test_a_value_that_comes_over_a_link_is_said_and_its_keyframe_left_out(kind, values, name):
    graph, _, apply, sampler = with_control()
    other = graph.add("FloatList")
    last = graph.add(kind, {name: (other, 0)}, **{key: value for key, value in values.items() if key != name})
    over_frames = kind.startswith("Latent")
    graph.nodes[apply].links["latent_kf_override" if over_frames else "timestep_kf"] = (last, 0)
    result = convert_workflow(graph.api(), OTHER_PACKS)
    assert [said.node for said in result.report.changed if "link" in said.text] == [str(last)]
    curves = [node for node in result.graph.values() if node["class_type"] == FRAMES and node["inputs"].get("text")]
    assert curves == []
    assert not any(node["class_type"] == kind for node in result.graph.values())


def test_a_bypassed_keyframe_lets_those_before_it_through():
    graph, _, apply, sampler = with_control()
    last = chain(graph, *(frame(i, 0.5) for i in (1, 2, 3)))
    graph.nodes[last - 1].mode = 4
    graph.nodes[apply].links["latent_kf_override"] = (last, 0)
    page = convert_workflow(graph.page(), OTHER_PACKS).graph
    assert strengths(prompt_of(page, {**widgets_of(), **WIDGETS}), sampler) == named({1: 0.5, 3: 0.5})


def test_keyframes_where_nothing_here_can_take_them_are_said():
    graph, loader, apply, _ = with_control(apply_kind="ControlNetApplyAdvanced")
    graph.nodes[apply].kind = "SomeOtherApply"
    graph.nodes[loader].links["tk_optional"] = (graph.add("TimestepKeyframe", start_percent=0.0, strength=0.5), 0)
    result = convert_workflow(graph.api(), OTHER_PACKS)
    assert [said.text for said in result.report.changed] == [
        f"its keyframes are lost where node {apply} (SomeOtherApply) reads it"
    ]


def test_a_net_without_keyframes_stays_without_a_node_behind_it():
    graph, *_ = with_control()
    prompt, report = converted(graph)
    assert STRENGTH not in {node["class_type"] for node in prompt.values()} and not report.changed


@pytest.mark.parametrize("kind", ["ACN_AdvancedControlNetApplySingle", "ACN_AdvancedControlNetApplySingle_v2"])
def test_a_node_for_one_prompt_becomes_cores_with_its_keyframes(kind):
    """It acts on the other prompt, too, as core's does."""
    graph, loader, apply, sampler = with_control()
    links = graph.nodes[apply].links
    one = {"conditioning": links["positive"], "control_net": links["control_net"], "image": links["image"]}
    frame = graph.add("LatentKeyframe", batch_index=3, strength=0.5)
    model = graph.nodes[sampler].links["model"]
    more = {"model_optional": model} if not kind.endswith("v2") else {}
    single = graph.add(kind, {**one, "latent_kf_override": (frame, 0), **more}, strength=0.7, start_percent=0.0,
                       end_percent=0.9)  # fmt: skip
    graph.nodes[sampler].links.update(positive=(single, 0), negative=links["negative"])
    graph.nodes[sampler].links["model"] = (single, 1) if more else model
    del graph.nodes[apply]
    result = convert_workflow(graph.api(), OTHER_PACKS)
    prompt = plain(result.graph)
    strength = up(prompt, str(sampler), "positive")
    assert prompt[strength]["class_type"] == STRENGTH and prompt[str(sampler)]["inputs"]["negative"][0] != strength
    applied = prompt[up(prompt, strength, "positive")]
    assert applied["class_type"] == "ControlNetApply" and applied["inputs"]["strength"] == 0.7
    assert applied["inputs"]["conditioning"] == [str(links["positive"][0]), 0]
    curve = prompt[prompt[strength]["inputs"]["strength_curve"][0]]["inputs"]
    assert Curve.parse("text", curve["text"], curve["over"]).values(16).tolist() == named({3: 0.5})
    assert [said.text.split(":")[0] for said in result.report.changed] == ["end_percent 0.9 has no counterpart"]
    assert prompt[up(prompt, str(sampler), "model")]["class_type"] == "UNetMotion_ApplyMotionModule"


def test_a_loader_of_parts_that_differ_becomes_cores():
    graph, loader, _, sampler = with_control()
    model = graph.nodes[sampler].links["model"]
    graph.nodes[loader] = Spec("DiffControlNetLoaderAdvanced", {"control_net_name": "d.pth"}, {"model": model})
    prompt, report = converted(graph)
    assert prompt[str(loader)]["class_type"] == "DiffControlNetLoader" and report.is_whole
    assert prompt[str(loader)]["inputs"] == {"model": [str(model[0]), 0], "control_net_name": "d.pth"}


def test_what_core_has_no_control_net_for_is_named_and_the_rest_converts():
    graph, loader, apply, sampler = with_control()
    graph.nodes[loader] = Spec("ACN_SparseCtrlLoaderAdvanced", {"sparsectrl_name": "s.ckpt"}, {})
    floats = graph.add("FloatList")
    keys = graph.add("ACN_TimestepKeyframeFromStrengthList", {"float_strengths": (floats, 0)}, start_percent=0.0)
    graph.nodes[apply].links["timestep_kf"] = (keys, 0)
    result = convert_workflow(graph.api(), OTHER_PACKS)
    left = {said.node: said.text for said in result.report.left}
    assert left == {str(loader): "SparseCtrl's encoder is not there",
                    str(keys): "a list of strengths is not spread over the steps"}  # fmt: skip
    applied = result.graph[result.graph[str(sampler)]["inputs"]["positive"][0]]
    assert applied["class_type"] == "ControlNetApplyAdvanced" and applied["inputs"]["control_net"] == [str(loader), 0]
    kept = convert_workflow(graph.api())
    assert not kept.report.left and str(loader) in {said.node for said in kept.report.kept}
