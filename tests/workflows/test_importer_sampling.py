"""Windows, noise, amounts, guidance and prompts of AnimateDiff-Evolved's graphs, converted."""

import pytest
import torch

from tests.workflows import old_graphs
from tests.workflows.conversions import (
    amounts,
    both,
    check_page,
    curve_of,
    find,
    gen2,
    kinds,
    legacy,
    plain,
    up,
    widgets_of,
    windows_of,
)
from tests.workflows.old_graphs import Spec, prompt_of
from unet_motion.schedule import PromptSchedule
from unet_motion.workflows.importer import convert_workflow
from unet_motion.workflows.importer.table import OTHER_PACKS


@pytest.mark.parametrize(
    ("kind", "widgets", "expected"),
    [
        ("ADE_AnimateDiffUniformContextOptions", {"context_length": 12, "context_stride": 3, "context_overlap": 3,
         "context_schedule": "uniform", "closed_loop": True},
         {"length": 12, "stride": 3, "overlap": 3, "schedule": "looped_uniform", "closed_loop": True, "fuse": "flat"}),
        ("ADE_LoopedUniformContextOptions", {"context_length": 16, "context_stride": 1, "context_overlap": 6,
         "closed_loop": True, "fuse_method": "pyramid", "use_on_equal_length": True, "start_percent": 0.0,
         "guarantee_steps": 1}, {"length": 16, "overlap": 6, "schedule": "looped_uniform", "closed_loop": True,
         "fuse": "pyramid", "use_on_equal_length": True}),
        ("ADE_StandardUniformContextOptions", {"context_length": 8, "context_stride": 2, "context_overlap": 2},
         {"length": 8, "stride": 2, "overlap": 2, "schedule": "standard_uniform", "fuse": "pyramid"}),
        ("ADE_StandardStaticContextOptions", {"context_length": 24, "context_overlap": 5, "fuse_method": "relative"},
         {"length": 24, "overlap": 5, "schedule": "standard_static", "fuse": "relative", "stride": 1}),
    ],
)  # fmt: skip
def test_context_options_become_windows_of_the_model(kind, widgets, expected):
    graph, loader, sampler = legacy(frames=48)
    options = graph.add(kind, **widgets)
    graph.nodes[loader].links["context_options"] = (options, 0)
    prompt, report = both(graph)
    (inputs,) = windows_of(prompt, sampler)
    plain_windows = {"free_noise": False, "use_on_equal_length": False, "closed_loop": False, "stride": 1,
                     "start_percent": 0.0, "end_percent": 1.0, "windows_at_once": 1, "loop_frames": 0, "views": False,
                     "frames_at_once": 0}  # fmt: skip
    assert {name: value for name, value in inputs.items() if name != "model"} == {**plain_windows, **expected}
    assert report.is_whole and not report.changed


VIEWS = {
    "ADE_StandardStaticViewOptions": ({"view_length": 12, "view_overlap": 3, "fuse_method": "flat"},
        {"length": 12, "overlap": 3, "stride": 1, "schedule": "standard_static", "fuse": "flat", "closed_loop": False}),
    "ADE_StandardUniformViewOptions": (
        {"view_length": 8, "view_stride": 2, "view_overlap": 2, "fuse_method": "pyramid"},
        {"length": 8, "overlap": 2, "stride": 2, "schedule": "standard_uniform", "fuse": "pyramid"}),
    "ADE_LoopedUniformViewOptions": (
        {"view_length": 10, "view_stride": 1, "view_overlap": 5, "closed_loop": True, "fuse_method": "overlap-linear",
         "use_on_equal_length": True},
        {"length": 10, "overlap": 5, "schedule": "looped_uniform", "closed_loop": True, "fuse": "overlap-linear",
         "use_on_equal_length": True}),
}  # fmt: skip


@pytest.mark.parametrize("kind", VIEWS)
def test_views_alone_are_windows_inside_the_motion_modules(kind):
    widgets, expected = VIEWS[kind]
    graph, loader, sampler = legacy(frames=48)
    views = graph.add(kind, **widgets)
    late = graph.add("ADE_StandardUniformContextOptions", context_length=16, context_stride=1, context_overlap=4,
                     fuse_method="pyramid", use_on_equal_length=False, start_percent=0.6)  # fmt: skip
    links = {"view_opts_req": (views, 0), "prev_context": (late, 0)}
    only = graph.add("ADE_ViewsOnlyContextOptions", links, start_percent=0.2, guarantee_steps=1)
    graph.nodes[loader].links["context_options"] = (only, 0)
    prompt, report = both(graph)
    assert report.is_whole and not report.changed and not report.notes[1:]
    last, first = windows_of(prompt, sampler)
    assert (last["views"], last["start_percent"]) == (False, 0.6)
    assert {name: first[name] for name in expected} == expected
    assert (first["views"], first["frames_at_once"], first["start_percent"]) == (True, 0, 0.2)
    assert prompt[str(only)]["inputs"] == first  # in its place


def test_views_for_parts_of_the_run_follow_each_other():
    graph, loader, sampler = legacy(frames=48)
    links = {}
    for length, start in ((8, 0.5), (12, 0.0)):
        views = graph.add("ADE_StandardStaticViewOptions", view_length=length, view_overlap=2, fuse_method="flat")
        links = {"view_opts_req": (views, 0), **links}
        only = graph.add("ADE_ViewsOnlyContextOptions", links, start_percent=start, guarantee_steps=1)
        links = {"prev_context": (only, 0)}
    graph.nodes[loader].links["context_options"] = (only, 0)
    prompt, report = both(graph)
    found = [(inputs["length"], inputs["start_percent"], inputs["views"]) for inputs in windows_of(prompt, sampler)]
    assert found == [(8, 0.5, True), (12, 0.0, True)] and not report.changed


def test_noise_of_views_is_repeated_by_their_length():
    graph, *_, use, sampler = gen2()
    views = graph.add("ADE_StandardUniformViewOptions", view_length=4, view_stride=1, view_overlap=1,
                      fuse_method="pyramid")  # fmt: skip
    only = graph.add("ADE_ViewsOnlyContextOptions", {"view_opts_req": (views, 0)}, start_percent=0.0, guarantee_steps=1)
    for kind in ("repeated_context", "FreeNoise"):
        settings = graph.add("ADE_AnimateDiffSamplingSettings", batch_offset=0, noise_type=kind, seed_gen="comfy",
                             seed_offset=0, adapt_denoise_steps=False)  # fmt: skip
        graph.nodes[use].links.update(sample_settings=(settings, 0), context_options=(only, 0))
        prompt, report = both(graph)
        (windows,) = windows_of(prompt, sampler)
        assert windows["views"] is True and windows["free_noise"] is (kind == "FreeNoise") and not report.changed
        if kind == "repeated_context":
            _, noise = find(prompt, "UNetMotion_Noise")
            assert (noise["kind"], noise["window_length"], noise["overlap"]) == ("repeated", 4, 1)


def test_views_inside_windows_are_lost_and_said():
    graph, loader, sampler = legacy(frames=48)
    views = graph.add("ADE_StandardStaticViewOptions", view_length=8, view_overlap=2, fuse_method="flat")
    options = graph.add("ADE_StandardStaticContextOptions", {"view_opts": (views, 0)}, context_length=16,
                        context_overlap=4, fuse_method="flat")  # fmt: skip
    graph.nodes[loader].links["context_options"] = (options, 0)
    prompt, report = both(graph)
    (windows,) = windows_of(prompt, sampler)
    assert (windows["length"], windows["views"]) == (16, False)
    assert [(said.node, said.text.split(" has ")[0]) for said in report.changed] == [(str(options), "view_opts a link")]


def test_windows_for_parts_of_the_run_follow_each_other():
    graph, loader, sampler = legacy(frames=48)
    uniform = {"context_length": 16, "context_stride": 1, "context_overlap": 4, "fuse_method": "pyramid"}
    late = graph.add("ADE_StandardUniformContextOptions", **uniform, use_on_equal_length=False, start_percent=0.5)
    early = graph.add("ADE_StandardStaticContextOptions", {"prev_context": (late, 0)}, context_length=12,
                      context_overlap=2, fuse_method="flat", use_on_equal_length=False, start_percent=0.0,
                      guarantee_steps=3)  # fmt: skip
    graph.nodes[loader].links["context_options"] = (early, 0)
    prompt, report = both(graph)
    last, first = windows_of(prompt, sampler)
    assert (last["start_percent"], last["length"]) == (0.5, 16)
    assert (first["start_percent"], first["length"]) == (0.0, 12)
    assert [said.text.split(" has")[0] for said in report.changed] == ["guarantee_steps 3"]


def test_free_noise_is_the_windows_and_other_noise_the_models():
    for kind, expected in (("FreeNoise", None), ("empty", "empty"), ("repeated_context", "repeated"),
                           ("constant", "constant"), ("default", None)):  # fmt: skip
        graph, *_, use, sampler = gen2()
        settings = graph.add("ADE_AnimateDiffSamplingSettings", batch_offset=0, noise_type=kind, seed_gen="comfy",
                             seed_offset=0, adapt_denoise_steps=False)  # fmt: skip
        options = graph.add("ADE_StandardUniformContextOptions", context_length=4, context_stride=1, context_overlap=1)
        graph.nodes[use].links.update(sample_settings=(settings, 0), context_options=(options, 0))
        prompt, report = both(graph)
        assert report.is_whole and not report.changed
        (windows,) = windows_of(prompt, sampler)
        assert windows["free_noise"] is (kind == "FreeNoise")
        if expected is None:
            assert "UNetMotion_Noise" not in kinds(prompt)
            continue
        _, noise = find(prompt, "UNetMotion_Noise")
        assert (noise["kind"], noise["window_length"], noise["overlap"]) == (expected, 4, 1)
        used, inputs = find(prompt, "UNetMotion_UseNoise")
        assert inputs["follow_seed"] is True and up(prompt, str(sampler), "model") == used


def test_free_init_keeps_its_filter():
    graph, *_, use, sampler = gen2()
    filtered = graph.add("ADE_IterationOptsFreeInit", iterations=4, filter="ideal", d_s=0.3, d_t=0.2, n_butterworth=6,
                         sigma_step=999, apply_to_1st_iter=False, init_type="FreeInit [sampler sigma]",
                         iter_batch_offset=0, iter_seed_offset=1)  # fmt: skip
    settings = graph.add("ADE_AnimateDiffSamplingSettings", {"iteration_opts": (filtered, 0)}, batch_offset=0,
                         noise_type="default", seed_gen="comfy", seed_offset=0, adapt_denoise_steps=True)  # fmt: skip
    graph.nodes[use].links["sample_settings"] = (settings, 0)
    prompt, report = both(graph)
    inputs = find(prompt, "UNetMotion_FreeInit")[1]
    assert [inputs[name] for name in ("iterations", "filter", "spatial_stop", "temporal_stop", "order")] == [
        4, "ideal", 0.3, 0.2, 6,
    ]  # fmt: skip
    assert report.is_whole and ["other seeds" in said.text for said in report.changed] == [True]


def test_one_set_of_options_for_two_models_gives_each_its_windows():
    graph, loader, sampler = legacy(frames=32)
    options = graph.add("ADE_StandardUniformContextOptions", context_length=8, context_stride=1, context_overlap=2)
    graph.nodes[loader].links["context_options"] = (options, 0)
    spec = graph.nodes[loader]
    second = graph.add(spec.kind, dict(spec.links), **{**spec.widgets, "model_name": "other.ckpt"})
    last = graph.nodes[sampler]
    other = graph.add("KSampler", {**last.links, "model": (second, 0)}, **{**last.widgets, "seed": 8})
    prompt, report = both(graph)
    assert [len(windows_of(prompt, one)) for one in (sampler, other)] == [1, 1] and report.is_whole
    page = convert_workflow(graph.page()).graph
    check_page(page)
    assert {node["id"]: node["type"] for node in page["nodes"]}[options] == "UNetMotion_ContextWindows"


def test_scales_and_effects_of_the_motion():
    graph, loader, sampler = legacy(motion_scale=1.2, apply_v2_models_properly=True)
    (inputs,) = amounts(both(graph)[0], sampler)
    assert (inputs["scale"], inputs["effect"]) == (1.2, 1.0)
    graph, _, apply, _, sampler = gen2()
    scale, effect = graph.add("ADE_MultivalDynamic", float_val=1.14), graph.add("ADE_MultivalDynamic", float_val=1.1)
    graph.nodes[apply].links.update(scale_multival=(scale, 0), effect_multival=(effect, 0))
    prompt, report = both(graph)
    (inputs,) = amounts(prompt, sampler)
    assert (inputs["scale"], inputs["effect"]) == (1.14, 1.1) and report.is_whole and not report.changed
    number = graph.add("INTConstant", value=2)
    graph.nodes[scale].links["float_val"] = (number, 0)
    (inputs,) = amounts(both(graph)[0], sampler)
    assert inputs["scale"] == 2.0


def test_a_mask_leaves_the_motion_where_it_is_white():
    graph, _, apply, _, sampler = gen2()
    old_graphs.OUTPUTS.update(LoadImageMask="MASK", ADE_MultivalScaledMask="MULTIVAL")
    mask = graph.add("LoadImageMask", image="m.png", channel="red")
    scale = graph.add("ADE_MultivalDynamic", {"mask_optional": (mask, 0)}, float_val=1.3)
    effect = graph.add("ADE_MultivalScaledMask", {"mask": (mask, 0)}, min_float_val=0.5, max_float_val=2.0,
                       scaling="absolute")  # fmt: skip
    graph.nodes[apply].links.update(scale_multival=(scale, 0), effect_multival=(effect, 0))
    converted = convert_workflow(graph.api())
    prompt = plain(converted.graph)
    assert converted.report.is_whole and not converted.report.changed
    for white in (0.0, 0.25, 1.0):
        factor = {"scale": 1.0, "effect": 1.0}
        for inputs in amounts(prompt, sampler):
            share = 1.0
            if "mask" in inputs:
                inverted = prompt[inputs["mask"][0]]["class_type"] == "InvertMask"
                share = 1 - white if inverted else white
            for name in factor:
                factor[name] *= 1 + share * (inputs[name] - 1)
        assert factor["scale"] == pytest.approx(1.3 * white) and factor["effect"] == pytest.approx(0.5 + 1.5 * white)


def test_a_mask_of_old_settings_is_the_scale_of_the_motion(monkeypatch):
    """From one number at black to another at white, times the loader's own."""
    monkeypatch.setitem(old_graphs.OUTPUTS, "LoadImageMask", "MASK")
    monkeypatch.setitem(old_graphs.OUTPUTS, "ADE_AnimateDiffModelSettings_Release", "AD_SETTINGS")
    graph, loader, sampler = legacy(motion_scale=1.5, apply_v2_models_properly=True)
    mask = graph.add("LoadImageMask", image="m.png", channel="red")
    settings = graph.add("ADE_AnimateDiffModelSettings_Release", {"mask_motion_scale": (mask, 0)},
                         min_motion_scale=0.5, max_motion_scale=2.0)  # fmt: skip
    graph.nodes[loader].links["ad_settings"] = (settings, 0)
    result = convert_workflow(graph.api())
    prompt, report = plain(result.graph), result.report
    for white in (0.0, 0.25, 1.0):
        scale = 1.0
        for inputs in amounts(prompt, sampler):
            scale *= 1 + (white if "mask" in inputs else 1.0) * (inputs["scale"] - 1)
        assert scale == pytest.approx(1.5 * (0.5 + 1.5 * white))
    assert report.is_whole and [said.text.split(":")[0] for said in report.changed] == ["its mask counts as it is"]


def test_ranges_and_keyframes_over_the_steps():
    graph = gen2()[0]
    graph.nodes[3] = Spec("ADE_ApplyAnimateDiffModel", {"start_percent": 0.25, "end_percent": 0.95},
                          graph.nodes[3].links)  # fmt: skip
    prompt, report = both(graph)
    (inputs,) = amounts(prompt, 8)
    at = curve_of(prompt, inputs, "effect_curve").pieces().at
    assert [float(at(torch.tensor(x))) for x in (0.0, 0.24, 0.26, 0.94, 0.96)] == [0, 0, 1, 1, 0]
    assert report.is_whole and not report.changed
    graph, _, apply, _, sampler = gen2()
    early, late = graph.add("ADE_MultivalDynamic", float_val=1.5), graph.add("ADE_MultivalDynamic", float_val=0.5)
    first = graph.add("ADE_AnimateDiffKeyframe", {"scale_multival": (early, 0)}, start_percent=0.2,
                      inherit_missing=True, guarantee_steps=1)  # fmt: skip
    second = graph.add("ADE_AnimateDiffKeyframe", {"prev_ad_keyframes": (first, 0), "scale_multival": (late, 0)},
                       start_percent=0.7, inherit_missing=True, guarantee_steps=1)  # fmt: skip
    graph.nodes[apply].links["ad_keyframes"] = (second, 0)
    prompt, report = both(graph)
    (inputs,) = amounts(prompt, sampler)
    at = curve_of(prompt, inputs, "scale_curve").pieces().at
    assert [float(at(torch.tensor(x))) for x in (0.0, 0.19, 0.21, 0.69, 0.71, 1.0)] == [1, 1, 1.5, 1.5, 0.5, 0.5]
    assert report.is_whole and not report.changed


@pytest.mark.parametrize(
    ("start", "end", "effect"),
    [(0.25, 1.0, [0, 0, 1, 1, 1]), (0.0, 0.75, [1, 1, 1, 1, 0]), (0.25, 0.75, [0, 0, 1, 1, 0]), (0.0, 1.0, None)],
)
def test_a_module_acts_from_its_start_to_its_end_where_only_one_is_set_too(start, end, effect):
    graph = gen2()[0]
    widgets = {"start_percent": start, "end_percent": end}
    graph.nodes[3] = Spec("ADE_ApplyAnimateDiffModel", widgets, graph.nodes[3].links)
    prompt, report = both(graph)
    assert report.is_whole and not report.changed
    if effect is None:
        assert amounts(prompt, 8) == [] and "UNetMotion_Curve" not in kinds(prompt)
        return
    (inputs,) = amounts(prompt, 8)
    at = curve_of(prompt, inputs, "effect_curve").pieces().at
    assert [float(at(torch.tensor(x))) for x in (0.0, 0.24, 0.26, 0.74, 0.76)] == effect


def test_guidance_over_the_steps():
    graph, *_, use, sampler = gen2()
    old_graphs.OUTPUTS["ADE_CustomCFGKeyframeInterpolation"] = "CUSTOM_CFG"
    guidance = graph.add("ADE_CustomCFGKeyframeInterpolation", start_percent=0.0, end_percent=1.0, cfg_start=8.0,
                         cfg_end=2.0, interpolation="linear", intervals=50, print_keyframes=False)  # fmt: skip
    settings = graph.add("ADE_AnimateDiffSamplingSettings", {"custom_cfg": (guidance, 0)}, batch_offset=0,
                         noise_type="default", seed_gen="comfy", seed_offset=0, adapt_denoise_steps=False)  # fmt: skip
    graph.nodes[use].links["sample_settings"] = (settings, 0)
    prompt, report = both(graph)
    guided, inputs = find(prompt, "UNetMotion_Guidance")
    assert up(prompt, str(sampler), "model") == guided and inputs["cfg"] == 1.0
    at = curve_of(prompt, inputs, "cfg_curve").pieces().at
    assert [float(at(torch.tensor(x))) for x in (0.0, 0.5, 1.0)] == [8, 5, 2] and not report.changed


def test_constant_guidance_of_samplers_that_are_not_known_goes_with_the_model():
    graph, *_, use, sampler = gen2()
    graph.nodes[sampler].kind = "KSampler (Efficient)"
    old_graphs.OUTPUTS["KSampler (Efficient)"] = "LATENT"
    guidance = graph.add("ADE_CustomCFGSimple", cfg=1.5)
    settings = graph.add("ADE_AnimateDiffSamplingSettings", {"custom_cfg": (guidance, 0)}, batch_offset=0,
                         noise_type="default", seed_gen="comfy", seed_offset=0, adapt_denoise_steps=False)  # fmt: skip
    graph.nodes[use].links["sample_settings"] = (settings, 0)
    prompt = plain(convert_workflow(graph.api()).graph)
    assert find(prompt, "UNetMotion_Guidance")[1]["cfg"] == 1.5 and prompt[str(sampler)]["inputs"]["cfg"] == 2.0


def test_prompts_over_frames_are_read_by_the_node_that_gets_them():
    graph, _, sampler = legacy(frames=24)
    old_graphs.OUTPUTS["ADE_PromptScheduling"] = "CONDITIONING"
    text = '0 = "a red star",\n12 = "a blue star"'
    prompts = graph.add("ADE_PromptScheduling", {"clip": (1, 1)}, prompts=text, prepend_text="best, ",
                        append_text="", print_schedule=False, max_length=24, tensor_interp="slerp")  # fmt: skip
    graph.nodes[sampler].links["positive"] = (prompts, 0)
    prompt, report = both(graph)
    scheduled, inputs = find(prompt, "UNetMotion_PromptSchedule")
    assert prompt[str(sampler)]["inputs"]["positive"] == [scheduled, 0] and not report.changed
    assert (inputs["frames"], inputs["before"], inputs["interpolation"]) == (24, "best, ", "slerp")
    parsed = PromptSchedule.parse("text", inputs["text"])
    assert [(float(str(key.at)), key.text) for key in parsed.keys] == [(0, "a red star"), (12, "a blue star")]


def test_fizz_prompts_take_the_number_of_the_latents(monkeypatch):
    monkeypatch.setitem(old_graphs.OUTPUTS, "BatchPromptScheduleLatentInput", "CONDITIONING CONDITIONING LATENT")
    graph, _, sampler = legacy(frames=40)
    latents = graph.nodes[sampler].links["latent_image"]
    prompts = graph.add("BatchPromptScheduleLatentInput", {"clip": (1, 1), "num_latents": latents},
                        text='"0" :"a",\n"20" :"b",', print_output=False, pre_text="x, ", app_text="", start_frame=0,
                        end_frame=0, pw_a=0, pw_b=0, pw_c=0, pw_d=0)  # fmt: skip
    graph.nodes[sampler].links.update(positive=(prompts, 0), latent_image=(prompts, 2))
    converted = convert_workflow(graph.api(), OTHER_PACKS)
    prompt = plain(converted.graph)
    inputs = find(prompt, "UNetMotion_PromptSchedule")[1]
    assert inputs["frames"] == 40 and inputs["text"] == '"0" :"a",\n"20" :"b",' and not converted.report.changed
    assert prompt[up(prompt, str(sampler), "latent_image")]["class_type"] == "EmptyLatentImage"


def settings_of(graph, use, **inputs):
    """Sample settings with these values."""
    given = {"batch_offset": 0, "noise_type": "default", "seed_gen": "comfy", "seed_offset": 0, **inputs}
    graph.nodes[use].links["sample_settings"] = (graph.add("ADE_AnimateDiffSamplingSettings", **given), 0)


@pytest.mark.parametrize(
    ("given", "noise", "follows", "lost"),
    [
        ({"seed_gen": "auto1111"}, {"kind": "seed_per_frame"}, True, 0),
        ({"seed_override": 77}, None, None, 0),  # plain noise stays the sampler's there, too
        ({"seed_override": 77, "noise_type": "constant", "seed_offset": 2}, {"kind": "constant", "noise_seed": 79},
         False, 0),
        ({"seed_override": 77, "noise_type": "empty"}, {"kind": "empty", "noise_seed": 0}, True, 1),
        ({"seed_offset": 1}, None, None, 1),
        ({"noise_type": "FreeNoise", "seed_gen": "auto1111"}, None, None, 1),
        ({"noise_type": "of another year"}, None, None, 1),
        ({"seed_gen": "comfy [gpu]", "noise_type": "constant"}, {"kind": "constant", "noise_seed": 0}, True, 1),
    ],
)  # fmt: skip
def test_seeds_of_sample_settings(given, noise, follows, lost):
    graph, *_, use, _ = gen2()
    settings_of(graph, use, **given)
    converted = convert_workflow(graph.api())
    prompt = plain(converted.graph)
    assert converted.report.is_whole and len(converted.report.changed) == lost
    if noise is None:
        assert "UNetMotion_Noise" not in kinds(prompt)
        return
    inputs = find(prompt, "UNetMotion_Noise")[1]
    assert {name: inputs[name] for name in noise} == noise
    assert find(prompt, "UNetMotion_UseNoise")[1]["follow_seed"] is follows


def test_blocks_have_amounts_of_their_own(monkeypatch):
    old = {"ADBlockCombo": "AD_BLOCK", "ADBlockIndiv": "AD_BLOCK", "PerBlock_SD15_LowLevel": "PER_BLOCK"}
    for kind, output in ((f"ADE_{name}", output) for name, output in old.items()):
        monkeypatch.setitem(old_graphs.OUTPUTS, kind, output)
    graph, _, apply, _, sampler = gen2()
    low, high = graph.add("ADE_MultivalDynamic", float_val=0.4), graph.add("ADE_MultivalDynamic", float_val=1.5)
    combo = graph.add("ADE_ADBlockCombo", {"effect": (low, 0), "scale": (high, 0)})
    uneven = graph.add("ADE_ADBlockIndiv", {"scale_0": (high, 0), "scale_1": (low, 0)})
    links = {"down_1__1": (combo, 0), "mid": (combo, 0), "up_3__2": (uneven, 0)}
    blocks = graph.add("ADE_PerBlock_SD15_LowLevel", links)
    graph.nodes[apply].links.update(per_block=(blocks, 0), effect_multival=(low, 0))
    prompt, report = both(graph)
    found = {inputs["blocks"]: (inputs["scale"], inputs["effect"]) for inputs in amounts(prompt, sampler)}
    assert found == {
        "": (1.0, 0.4), "down_blocks.1.motion_modules.1": (1.5, 0.4), "mid_block": (1.5, 0.4),
        "up_blocks.3.motion_modules.2": (1.5, 1.0),
    }  # fmt: skip
    assert report.is_whole and ["scale_1" in said.text for said in report.changed] == [True]


def test_numbers_of_frames_of_a_block_are_its_curve(monkeypatch):
    old = {"ADBlockCombo": "AD_BLOCK", "PerBlock_SD15_LowLevel": "PER_BLOCK", "MultivalDynamicFloats": "MULTIVAL"}
    for kind, output in ((f"ADE_{name}", output) for name, output in old.items()):
        monkeypatch.setitem(old_graphs.OUTPUTS, kind, output)
    monkeypatch.setitem(old_graphs.OUTPUTS, "SomeFloats", "FLOATS")
    graph, _, apply, _, sampler = gen2()
    numbers = [(graph.add("SomeFloats"), 0) for _ in range(2)]
    scale, effect = (graph.add("ADE_MultivalDynamicFloats", {"floats": link}) for link in numbers)
    combo = graph.add("ADE_ADBlockCombo", {"scale": (scale, 0), "effect": (effect, 0)})
    blocks = graph.add("ADE_PerBlock_SD15_LowLevel", {"down_1__1": (combo, 0)})
    graph.nodes[apply].links["per_block"] = (blocks, 0)
    converted = convert_workflow(graph.api(), OTHER_PACKS)
    found = {inputs["blocks"]: inputs for inputs in amounts(plain(converted.graph), sampler)}
    inputs = found["down_blocks.1.motion_modules.1"]
    assert [inputs["scale"], inputs["effect"]] == [1.0, 1.0] and converted.report.is_whole
    for name, (number, _) in zip(("scale_curve", "effect_curve"), numbers, strict=True):
        assert inputs[name] == [str(number), 0]


def test_what_a_file_without_a_value_means():
    """The API takes the function's default there, the page the widget's."""
    for form, fuse in (("api", "flat"), ("page", "pyramid")):
        graph, loader, _ = legacy(frames=32)
        options = graph.add("ADE_LoopedUniformContextOptions", context_length=16, context_stride=1, context_overlap=4,
                            closed_loop=False)  # fmt: skip
        graph.nodes[loader].links["context_options"] = (options, 0)
        data = convert_workflow(getattr(graph, form)()).graph
        prompt = plain(data) if form == "api" else prompt_of(data, widgets_of())
        assert find(prompt, "UNetMotion_ContextWindows")[1]["fuse"] == fuse


def test_batched_windows_have_no_overlap(monkeypatch):
    monkeypatch.setitem(old_graphs.OUTPUTS, "ADE_BatchedContextOptions", "CONTEXT_OPTIONS")
    graph, loader, sampler = legacy(frames=32)
    options = graph.add("ADE_BatchedContextOptions", context_length=4, start_percent=0.0, guarantee_steps=1)
    graph.nodes[loader].links["context_options"] = (options, 0)
    (inputs,) = windows_of(both(graph)[0], sampler)
    assert (inputs["schedule"], inputs["length"], inputs["overlap"]) == ("batched", 4, 0)


def test_known_defects_are_notes():
    """Norms of v1 by the name of the file, a loop of PIA, prompts that AnimateDiff-Evolved mixes twice."""
    for module, count in (("mm_sd_v15.ckpt", 1), ("mm_sd_v14.ckpt", 1), ("mm_sd_v15_v2.ckpt", 0),
                          ("temporaldiff-v1-animatediff.ckpt", 1), ("v3_sd15_mm.ckpt", 0)):  # fmt: skip
        report = both(gen2(module)[0])[1]
        assert len(report.notes) == count and report.is_whole and not report.changed, module


def test_a_value_that_moves_twice_is_found(monkeypatch):
    """The node that gives it on is replaced before the one that makes it."""
    for kind, output in (("FloatToFloats", "FLOATS"), ("ValueScheduling", "FLOAT FLOATS INT INTS"),
                         ("MultivalDynamicFloats", "MULTIVAL")):  # fmt: skip
        monkeypatch.setitem(old_graphs.OUTPUTS, f"ADE_{kind}", output)
    graph, _, apply, _, sampler = gen2()
    through = graph.add("ADE_FloatToFloats")
    values = graph.add("ADE_ValueScheduling", values="0 = 0.5,\n7 = 1.5", print_schedule=False, max_length=8)
    graph.nodes[through].links["FLOAT"] = (values, 0)
    scale = graph.add("ADE_MultivalDynamicFloats", {"floats": (through, 0)})
    graph.nodes[apply].links["scale_multival"] = (scale, 0)
    api = graph.api()
    converted = convert_workflow({key: api[key] for key in (str(through), str(values), *api)})
    prompt, report = plain(converted.graph), converted.report
    for found in (prompt, both(graph)[0]):
        (inputs,) = amounts(found, sampler)
        assert found[inputs["scale_curve"][0]]["class_type"] == "UNetMotion_Curve" and inputs["scale_curve"][1] == 2
    assert report.is_whole and not report.changed
