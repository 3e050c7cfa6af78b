"""Graphs of AnimateDiff-Evolved, converted: values against what the two packs' nodes mean."""

import copy
import json
import time

import pytest
import torch

from tests.workflows import old_graphs
from tests.workflows.old_graphs import Description, Spec, prompt_of
from unet_motion.schedule import Curve, PromptSchedule
from unet_motion.workflows.importer import WorkflowError, convert_workflow
from unet_motion.workflows.importer.table import OTHER_PACKS, ROWS, TARGETS, is_old

CORE_WIDGETS = {
    "CheckpointLoaderSimple": ["ckpt_name"],
    "CLIPTextEncode": ["text"],
    "EmptyLatentImage": ["width", "height", "batch_size"],
    "VAEDecode": [],
    "SaveImage": ["filename_prefix"],
    "LoraLoaderModelOnly": ["lora_name", "strength_model"],
    "KSampler": ["seed", "(control)", "steps", "cfg", "sampler_name", "scheduler", "denoise"],
    "INTConstant": ["value"],
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


def test_the_legacy_loader_becomes_load_and_apply():
    graph, _, sampler = legacy(motion_scale=1.0, apply_v2_models_properly=True)
    prompt, report = both(graph)
    apply, inputs = find(prompt, "UNetMotion_ApplyMotionModule")
    assert prompt[str(sampler)]["inputs"]["model"] == [apply, 0]
    assert inputs["model"] == ["1", 0] and inputs["beta_schedule"] == "sqrt_linear" and inputs["norm_scope"] == "auto"
    module, loaded = find(prompt, "UNetMotion_LoadMotionModule")
    assert inputs["motion_module"] == [module, 0] and loaded["motion_module"] == "mm_sd_v15_v2.ckpt"
    assert {name: value for name, value in loaded.items() if value and name.startswith("position")} == {}
    latents = find(prompt, "EmptyLatentImage")[1]
    assert latents == {"width": 512, "height": 384, "batch_size": 16}
    clip = find(prompt, "UNetMotion_SaveClip")[1]
    assert clip == {"images": ["7", 0], "filename_prefix": "cat", "format": "webp", "fps": 12.0, "quality": 100}
    assert report.is_whole and not report.changed and not report.notes
    assert not any(is_old(kind) for kind in kinds(prompt))


@pytest.mark.parametrize(
    ("module", "properly", "scope"),
    [
        ("mm_sd_v15_v2.ckpt", True, "auto"),
        ("mm_sd_v15_v2.ckpt", False, "v1"),
        ("mm_sd_v15_v2.ckpt", None, "v1"),
        ("v3_sd15_mm.ckpt", False, "auto"),
        ("mm_sdxl_v10_beta.ckpt", False, "auto"),
    ],
)
def test_the_switch_for_v2_models_is_the_norm_scope_of_v1(module, properly, scope):
    """Off: norms over all frames for v2; v3 and SDXL never read it. Files from before the switch mean off."""
    widgets = {} if properly is None else {"motion_scale": 1.0, "apply_v2_models_properly": properly}
    graph, _, _ = legacy(module, **widgets)
    prompt, report = both(graph)
    assert find(prompt, "UNetMotion_ApplyMotionModule")[1]["norm_scope"] == scope
    assert len(report.notes) == (scope == "v1")


def test_generation_two_keeps_its_loader_for_all_that_read_it():
    graph, load, apply, use, sampler = gen2()
    again = graph.add("ADE_ApplyAnimateDiffModelSimple", {"motion_model": (load, 0)})
    other = graph.add("ADE_UseEvolvedSampling", {"model": (1, 0), "m_models": (again, 0)}, beta_schedule="use existing")
    spec = graph.nodes[sampler]
    second = graph.add("KSampler", {**spec.links, "model": (other, 0)}, **{**spec.widgets, "seed": 2})
    prompt, report = both(graph)
    assert report.is_whole
    module, loaded = find(prompt, "UNetMotion_LoadMotionModule")
    assert loaded["motion_module"] == "v3_sd15_mm.ckpt"
    for number, schedule in ((sampler, "auto"), (second, None)):
        applied = up(prompt, str(number), "model")
        inputs = prompt[applied]["inputs"]
        assert prompt[applied]["class_type"] == "UNetMotion_ApplyMotionModule"
        assert inputs["motion_module"] == [module, 0] and inputs["model"] == ["1", 0]
        assert schedule is None or inputs["beta_schedule"] == schedule
    assert up(prompt, str(sampler), "model") != up(prompt, str(second), "model")


def test_loras_follow_each_other_in_their_order():
    graph, loader, sampler = legacy()
    first = graph.add("ADE_AnimateDiffLoRALoader", name="v2_lora_ZoomIn.ckpt", strength=0.8)
    second = graph.add("ADE_AnimateDiffLoRALoader", {"prev_motion_lora": (first, 0)}, name="pan.ckpt", strength=0.4)
    graph.nodes[loader].links["motion_lora"] = (second, 0)
    prompt, report = both(graph)
    last, near = up(prompt, str(sampler), "model"), up(prompt, str(sampler), "model", "model")
    assert prompt[last]["inputs"]["lora_name"] == "pan.ckpt" and prompt[last]["inputs"]["strength"] == 0.4
    assert prompt[near]["inputs"]["lora_name"] == "v2_lora_ZoomIn.ckpt" and prompt[near]["inputs"]["strength"] == 0.8
    assert prompt[up(prompt, near, "model")]["class_type"] == "UNetMotion_ApplyMotionModule"
    assert {entry.kind: entry.by for entry in report.replaced}["ADE_AnimateDiffLoRALoader"] == (
        "UNetMotion_LoadMotionLoRA",
    )


def test_position_settings_go_to_the_loader():
    graph, loader, _ = legacy()
    adjust = graph.add("ADE_AdjustPESweetspotStretch", sweetspot=16, new_sweetspot=18, print_adjustment=False)
    stretch = graph.add("ADE_AdjustPEFullStretch", {"prev_pe_adjust": (adjust, 0)}, pe_stretch=0, print_adjustment=True)
    settings = graph.add("ADE_AnimateDiffSettings", {"pe_adjust": (stretch, 0)})
    graph.nodes[loader].links["ad_settings"] = (settings, 0)
    prompt, report = both(graph)
    loaded = find(prompt, "UNetMotion_LoadMotionModule")[1]
    assert (loaded["position_cap"], loaded["position_interpolate"], loaded["position_stretch"]) == (16, 18, 0)
    assert report.is_whole and not report.changed


def test_constant_guidance_goes_to_the_sampler_and_a_sigma_schedule_to_the_module():
    graph, *_, use, sampler = gen2(beta="linear (HotshotXL/default)")
    guidance = graph.add("ADE_CustomCFGSimple", cfg=1.5)
    schedule = graph.add("ADE_SigmaSchedule", beta_schedule="sqrt_linear (AnimateDiff)")
    settings = graph.add(
        "ADE_AnimateDiffSamplingSettings",
        {"custom_cfg": (guidance, 0), "sigma_schedule": (schedule, 0)},
        batch_offset=0, noise_type="default", seed_gen="comfy", seed_offset=0, adapt_denoise_steps=False,
    )  # fmt: skip
    graph.nodes[use].links["sample_settings"] = (settings, 0)
    lora = graph.add("LoraLoaderModelOnly", {"model": (use, 0)}, lora_name="x.safetensors", strength_model=1.0)
    graph.nodes[sampler].links["model"] = (lora, 0)
    prompt, report = both(graph)
    assert prompt[str(sampler)]["inputs"]["cfg"] == 1.5
    assert find(prompt, "UNetMotion_ApplyMotionModule")[1]["beta_schedule"] == "sqrt_linear"
    assert report.is_whole and not report.changed


def windows_of(prompt, sampler):
    """The windows before a sampler, the last first."""
    found, key = [], str(sampler)
    while "model" in prompt[key]["inputs"]:
        key = up(prompt, key, "model")
        if prompt[key]["class_type"] == "UNetMotion_ContextWindows":
            found.append(prompt[key]["inputs"])
    return found


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
                     "start_percent": 0.0, "end_percent": 1.0, "windows_at_once": 1, "loop_frames": 0}  # fmt: skip
    assert {name: value for name, value in inputs.items() if name != "model"} == {**plain_windows, **expected}
    assert report.is_whole and not report.changed


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
    assert report.is_whole and not report.changed


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


def changed(report):
    """What is said to be lost: the first words."""
    return [said.text.split(" has ")[0] for said in report.changed]


@pytest.mark.parametrize(
    ("beta", "module", "expected"),
    [
        ("autoselect", "v3_sd15_mm.ckpt", "auto"),
        ("autoselect", "AnimateLCM_sd15_t2v.ckpt", "lcm"),
        ("use existing", "AnimateLCM_sd15_t2v.ckpt", "keep"),
        ("lcm[100_ots]", "AnimateLCM_sd15_t2v.ckpt", "lcm 100"),
        ("lcm >> sqrt_linear", "v3_sd15_mm.ckpt", "lcm sqrt_linear"),
        ("lcm avg(sqrt_linear,linear)", "v3_sd15_mm.ckpt", "lcm average"),
        ("avg(sqrt_linear,linear)", "v3_sd15_mm.ckpt", "average"),
        ("linear (AnimateDiff-SDXL)", "mm_sdxl_v10_beta.ckpt", "linear to 0.02"),
        ("squaredcos_cap_v2", "v3_sd15_mm.ckpt", "squaredcos_cap_v2"),
    ],
)
def test_noise_schedules_by_either_generation(beta, module, expected):
    """By itself, AnimateDiff-Evolved takes `lcm` for AnimateLCM."""
    for graph in (legacy(module, beta)[0], gen2(module, beta)[0]):
        prompt, report = both(graph)
        assert find(prompt, "UNetMotion_ApplyMotionModule")[1]["beta_schedule"] == expected
        assert report.is_whole and not report.changed


def test_a_checkpoints_schedule_is_lost_only_where_nothing_sets_another():
    graph, loader, _ = legacy()
    graph.nodes[1] = Spec("CheckpointLoaderSimpleWithNoiseSelect", {"ckpt_name": "a.ckpt", "beta_schedule": "lcm"})
    prompt, report = both(graph)
    assert prompt["1"]["class_type"] == "CheckpointLoaderSimple" and not report.changed
    graph.nodes[loader].widgets["beta_schedule"] = "use existing"
    _, report = both(graph)
    assert changed(report) == ["beta_schedule 'lcm'"]


def test_positions_of_animate_lcm_stay_as_they_stayed():
    graph, loader, _ = legacy("AnimateLCM_sd15_t2v.ckpt")
    adjust = graph.add("ADE_AdjustPESweetspotStretch", sweetspot=16, new_sweetspot=18, print_adjustment=False)
    settings = graph.add("ADE_AnimateDiffSettings", {"pe_adjust": (adjust, 0)})
    graph.nodes[loader].links["ad_settings"] = (settings, 0)
    prompt, report = both(graph)
    assert find(prompt, "UNetMotion_LoadMotionModule")[1]["position_cap"] == 0
    assert sum("AnimateLCM" in said.text for said in report.notes) == 2 and report.is_whole


def test_weights_of_all_layers_are_multiplied_and_of_some_not():
    graph, loader, _ = legacy()
    old_graphs.OUTPUTS.update(ADE_AdjustWeightAllMult="WEIGHT_ADJUST", ADE_AdjustWeightIndivAdd="WEIGHT_ADJUST")
    first = graph.add("ADE_AdjustWeightAllMult", all_MULT=1.01, print_adjustment=False)
    second = graph.add("ADE_AdjustWeightIndivAdd", {"prev_weight_adjust": (first, 0)}, pe_ADD=0.0, attn_ADD=0.1,
                       other_ADD=0.0, print_adjustment=False)  # fmt: skip
    settings = graph.add("ADE_AnimateDiffSettings", {"weight_adjust": (second, 0)})
    graph.nodes[loader].links["ad_settings"] = (settings, 0)
    prompt, report = both(graph)
    assert find(prompt, "UNetMotion_LoadMotionModule")[1]["weights_times"] == 1.01
    assert changed(report) == ["attn_ADD 0.1"]


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


def test_pia_and_animate_lcm_i2v_get_their_picture():
    graph, *_, sampler = gen2("pia.ckpt")
    old_graphs.OUTPUTS.update(LoadImage="IMAGE MASK", ADE_InputPIA_PaperPresets="PIA_INPUT",
                              ADE_ApplyAnimateDiffModelWithPIA="M_MODELS", ADE_ApplyAnimateLCMI2VModel="M_MODELS",
                              VAEEncode="LATENT")  # fmt: skip
    picture = graph.add("LoadImage", image="first.png")
    preset = graph.add("ADE_InputPIA_PaperPresets", preset="Loop (Large Motion)", batch_index=2, print_values=False)
    links = {"motion_model": (2, 0), "image": (picture, 0), "vae": (1, 2), "pia_input": (preset, 0)}
    graph.nodes[3] = Spec("ADE_ApplyAnimateDiffModelWithPIA", {"start_percent": 0.0, "end_percent": 1.0}, links)
    prompt = plain(convert_workflow(graph.api()).graph)
    pia, inputs = find(prompt, "UNetMotion_PIA")
    assert (inputs["preset"], inputs["frame"]) == ("large loop", 2) and up(prompt, str(sampler), "model") == pia
    assert prompt[inputs["first_frame"][0]]["inputs"] == {"pixels": [str(picture), 0], "vae": ["1", 2]}
    graph, *_, sampler = gen2("AnimateLCM-I2V.safetensors")
    picture = graph.add("LoadImage", image="first.png")
    latent = graph.add("VAEEncode", {"pixels": (picture, 0), "vae": (1, 2)})
    links = {"motion_model": (2, 0), "ref_latent": (latent, 0)}
    widgets = {"ref_drift": 0.4, "apply_ref_when_disabled": False, "start_percent": 0.0, "end_percent": 1.0}
    graph.nodes[3] = Spec("ADE_ApplyAnimateLCMI2VModel", widgets, links)
    prompt = plain(convert_workflow(graph.api()).graph)
    inputs = find(prompt, "UNetMotion_AnimateLCMI2V")[1]
    assert inputs["picture"] == [str(latent), 0] and inputs["motion_scale"] == 0.4


def test_hooks_are_cores():
    graph, _, sampler = legacy()
    old_graphs.OUTPUTS.update(ADE_RegisterLoraHook="MODEL CLIP HOOKS", ADE_AttachLoraHookToConditioning="CONDITIONING")
    hook = graph.add("ADE_RegisterLoraHook", {"model": graph.nodes[sampler].links["model"], "clip": (1, 1)},
                     lora_name="a.safetensors", strength_model=0.7, strength_clip=0.3)  # fmt: skip
    positive = graph.nodes[sampler].links["positive"]
    attach = graph.add("ADE_AttachLoraHookToConditioning", {"conditioning": positive, "lora_hook": (hook, 2)})
    graph.nodes[sampler].links.update(model=(hook, 0), positive=(attach, 0))
    prompt, report = both(graph)
    made, inputs = find(prompt, "CreateHookLora")
    assert inputs == {"lora_name": "a.safetensors", "strength_model": 0.7, "strength_clip": 0.3}
    given, inputs = find(prompt, "ConditioningSetProperties")
    assert inputs["hooks"] == [made, 0] and inputs["cond_NEW"] == [str(positive[0]), 0]
    assert prompt[str(sampler)]["inputs"]["positive"] == [given, 0]
    assert prompt[up(prompt, str(sampler), "model")]["class_type"] == "UNetMotion_ApplyMotionModule"
    assert report.is_whole and not report.changed


OTHER_PACKS_OUTPUTS = {
    "VHS_LoadVideo": "IMAGE INT AUDIO VHS_VIDEOINFO",
    "VHS_VideoCombine": "VHS_FILENAMES",
    "BatchPromptSchedule": "CONDITIONING CONDITIONING",
    "ControlNetLoaderAdvanced": "CONTROL_NET",
    "ACN_AdvancedControlNetApply": "CONDITIONING CONDITIONING MODEL",
    "RIFE VFI": "IMAGE",
}


def test_nodes_of_other_packs_stay_unless_they_are_missing(monkeypatch):
    for kind, outputs in OTHER_PACKS_OUTPUTS.items():
        monkeypatch.setitem(old_graphs.OUTPUTS, kind, outputs)
    graph = Description()
    video = graph.add("VHS_LoadVideo", video="in.mp4", force_rate=0, force_size="Disabled", custom_width=512,
                      custom_height=512, frame_load_cap=20, skip_first_frames=5, select_every_nth=1)  # fmt: skip
    latents = graph.add("EmptyLatentImage", {"batch_size": (video, 1)}, width=64, height=64, batch_size=1)
    more = graph.add("RIFE VFI", {"frames": (video, 0)}, ckpt_name="rife47.pth", clear_cache_after_n_frames=10,
                     multiplier=3, fast_mode=True, ensemble=True, scale_factor=1)  # fmt: skip
    graph.add("VHS_VideoCombine", {"images": (more, 0)}, frame_rate=24, loop_count=0, filename_prefix="out",
              format="video/h264-mp4", pingpong=False, save_output=True)  # fmt: skip
    kept = convert_workflow(graph.api())
    assert kept.graph == graph.api() and {said.kind for said in kept.report.kept} == {
        "VHS_LoadVideo", "RIFE VFI", "VHS_VideoCombine",
    }  # fmt: skip
    converted = convert_workflow(graph.api(), OTHER_PACKS)
    prompt = plain(converted.graph)
    part, cut = find(prompt, "ImageFromBatch")
    assert (cut["batch_index"], cut["length"]) == (5, 20)
    frames = up(prompt, part, "image")
    assert prompt[frames]["class_type"] == "GetVideoComponents"
    assert prompt[up(prompt, frames, "video")]["inputs"] == {"file": "in.mp4"}
    count = up(prompt, str(latents), "batch_size")
    assert prompt[count]["class_type"] == "GetImageSize" and prompt[str(latents)]["inputs"]["batch_size"][1] == 2
    assert up(prompt, count, "image") == part
    clip = find(prompt, "UNetMotion_SaveClip")[1]
    assert (clip["fps"], clip["format"], clip["filename_prefix"]) == (24.0, "mp4", "out")
    made = clip["images"][0]
    assert prompt[made]["inputs"]["multiplier"] == 3 and up(prompt, made, "images") == part
    assert prompt[up(prompt, made, "interp_model")]["inputs"]["model_name"] == "rife47.pth"


def test_control_of_another_pack_becomes_cores(monkeypatch):
    for kind, outputs in OTHER_PACKS_OUTPUTS.items():
        monkeypatch.setitem(old_graphs.OUTPUTS, kind, outputs)
    graph, _, sampler = legacy()
    net = graph.add("ControlNetLoaderAdvanced", control_net_name="depth.pth")
    picture = graph.add("VHS_LoadVideo", video="in.mp4", force_rate=0, force_size="Disabled", custom_width=0,
                        custom_height=0, frame_load_cap=0, skip_first_frames=0, select_every_nth=2)  # fmt: skip
    links = {**{name: graph.nodes[sampler].links[name] for name in ("positive", "negative")},
             "control_net": (net, 0), "image": (picture, 0), "model_optional": graph.nodes[sampler].links["model"]}
    apply = graph.add("ACN_AdvancedControlNetApply", links, strength=0.6, start_percent=0.1, end_percent=0.8)
    graph.nodes[sampler].links.update(positive=(apply, 0), negative=(apply, 1), model=(apply, 2))
    converted = convert_workflow(graph.api(), OTHER_PACKS)
    prompt = plain(converted.graph)
    control, inputs = find(prompt, "ControlNetApplyAdvanced")
    assert [inputs[name] for name in ("strength", "start_percent", "end_percent")] == [0.6, 0.1, 0.8]
    assert prompt[str(sampler)]["inputs"]["positive"] == [control, 0]
    assert prompt[str(sampler)]["inputs"]["negative"] == [control, 1]
    assert prompt[up(prompt, str(sampler), "model")]["class_type"] == "UNetMotion_ApplyMotionModule"
    assert prompt[up(prompt, control, "control_net")]["inputs"] == {"control_net_name": "depth.pth"}
    assert prompt[up(prompt, control, "image")]["class_type"] == "GetVideoComponents"
    assert [said.text.split(" has")[0] for said in converted.report.changed] == ["select_every_nth 2"]


def test_what_unloads_gives_its_model_on():
    graph, loader, sampler = legacy()
    unload = graph.add("ADE_AnimateDiffUnload", {"model": (loader, 0)})
    graph.nodes[sampler].links["model"] = (unload, 0)
    prompt, report = both(graph)
    assert report.is_whole
    assert prompt[up(prompt, str(sampler), "model")]["class_type"] == "UNetMotion_ApplyMotionModule"


def test_linked_values_stay_linked():
    graph, _, _ = legacy()
    length = graph.add("INTConstant", value=48)
    latents = next(number for number, spec in graph.nodes.items() if spec.kind == "ADE_EmptyLatentImageLarge")
    graph.nodes[latents].links["batch_size"] = (length, 0)
    prompt, report = both(graph)
    assert find(prompt, "EmptyLatentImage")[1]["batch_size"] == [str(length), 0]
    assert report.is_whole


def test_a_muted_node_gives_no_value_and_links_are_told_by_their_input():
    """What stands on the node counts then; a link whose number stands at another input than it says is that input's."""
    graph, *_ = legacy()
    length = graph.add("INTConstant", value=48)
    latents = next(number for number, spec in graph.nodes.items() if spec.kind == "ADE_EmptyLatentImageLarge")
    graph.nodes[latents].links.update(batch_size=(length, 0))
    graph.nodes[length].mode = 2
    page = graph.page()
    assert find(prompt_of(convert_workflow(page).graph, widgets_of()), "EmptyLatentImage")[1]["batch_size"] == 16
    page = graph.page()
    page["nodes"][length - 1]["mode"] = 0
    link = next(link for link in page["links"] if link[3] == latents)
    page["nodes"][latents - 1]["inputs"].insert(0, {"name": "width", "type": "INT", "link": None})
    assert link[4] == 0
    prompt = prompt_of(convert_workflow(page).graph, widgets_of())
    assert find(prompt, "EmptyLatentImage")[1]["batch_size"] == [str(length), 0]


def test_links_through_reroutes_primitives_set_and_get_nodes():
    graph, loader, sampler = legacy()
    lora = graph.add("ADE_AnimateDiffLoRALoader", name="zoom.ckpt", strength=0.8)
    first = graph.add("Reroute", {"": (lora, 0)})
    keep = graph.add("SetNode", {"MOTION_LORA": (first, 0)}, word="loras")
    give = graph.add("GetNode", word="loras")
    second = graph.add("Reroute", {"": (give, 0)})
    graph.nodes[loader].links["motion_lora"] = (second, 0)
    models = graph.add("Reroute", {"": (loader, 0)})
    graph.nodes[sampler].links["model"] = (models, 0)
    rate = graph.add("PrimitiveNode", value=24, control="fixed")
    combine = next(number for number, spec in graph.nodes.items() if spec.kind == "ADE_AnimateDiffCombine")
    graph.nodes[combine].links["frame_rate"] = (rate, 0)
    page = convert_workflow(graph.page()).graph
    prompt = prompt_of(page, widgets_of())
    applied = up(prompt, str(sampler), "model")
    assert prompt[applied]["inputs"]["lora_name"] == "zoom.ckpt"
    left = [node["id"] for node in page["nodes"] if node["type"] in ("Reroute", "SetNode", "GetNode")]
    assert left == [models] and keep not in left
    assert find(prompt, "UNetMotion_SaveClip")[1]["fps"] == 24.0


def test_bypassed_and_muted_nodes_mean_what_they_meant():
    """A bypassed LoRA is bypassed in the chain; one before a muted one does not count, on the page as before."""
    graph, loader, sampler = legacy()
    far = graph.add("ADE_AnimateDiffLoRALoader", name="far.ckpt", strength=1.0)
    muted = graph.add("ADE_AnimateDiffLoRALoader", {"prev_motion_lora": (far, 0)}, name="muted.ckpt", strength=1.0)
    bypassed = graph.add("ADE_AnimateDiffLoRALoader", {"prev_motion_lora": (muted, 0)}, name="by.ckpt", strength=1.0)
    near = graph.add("ADE_AnimateDiffLoRALoader", {"prev_motion_lora": (bypassed, 0)}, name="near.ckpt", strength=0.5)
    graph.nodes[loader].links["motion_lora"] = (near, 0)
    graph.nodes[muted].mode, graph.nodes[bypassed].mode = 2, 4
    page = convert_workflow(graph.page()).graph
    prompt = prompt_of(page, widgets_of())
    assert [inputs["lora_name"] for inputs in (n["inputs"] for n in prompt.values()) if "lora_name" in inputs] == [
        "near.ckpt"
    ]
    assert {node["id"]: node["mode"] for node in page["nodes"] if "LoRA" in node["type"]} == {
        far: 4, muted: 4, bypassed: 4, near: 0,
    }  # fmt: skip
    assert prompt[up(prompt, str(sampler), "model", "model")]["class_type"] == "UNetMotion_ApplyMotionModule"


def test_a_bypassed_loader_stays_bypassed():
    graph, loader, sampler = legacy()
    graph.nodes[loader].mode = 4
    page = convert_workflow(graph.page()).graph
    prompt = prompt_of(page, widgets_of())
    assert prompt[str(sampler)]["inputs"]["model"] == ["1", 0]


def test_the_page_keeps_places_titles_groups_and_what_it_does_not_touch():
    graph, loader, _ = legacy()
    graph.nodes[loader].title = "My loader"
    page = graph.page()
    page["nodes"][loader - 1].update(color="#322", bgcolor="#533", flags={"collapsed": True})
    before = copy.deepcopy(page)
    after = convert_workflow(page).graph
    assert page == before
    nodes = {node["id"]: node for node in after["nodes"]}
    untouched = [node for node in before["nodes"] if node["type"] in CORE_WIDGETS and node["type"] != "KSampler"]
    assert [nodes[node["id"]] for node in untouched] == untouched
    assert nodes[loader]["title"] == "My loader" and nodes[loader]["pos"] == before["nodes"][loader - 1]["pos"]
    assert nodes[loader]["color"] == "#322" and nodes[loader]["flags"] == {"collapsed": True}
    assert after["groups"] == before["groups"] and after["extra"] == before["extra"]
    assert after["last_node_id"] == max(nodes) and after["last_link_id"] == max(link[0] for link in after["links"])
    check_page(after)


def check_page(page):
    """Links and the slots at both their ends agree, and no node of ours lies over another."""
    nodes = {node["id"]: node for node in page["nodes"]}
    assert len(nodes) == len(page["nodes"]) and len({link[0] for link in page["links"]}) == len(page["links"])
    for number, source, out, target, place, type_ in page["links"]:
        start = nodes[source]["outputs"][out]
        assert number in start["links"] and start["type"] in (type_, "*")
        slot = nodes[target]["inputs"][place]
        assert slot["link"] == number and (slot["type"] == type_ or "*" in (slot["type"], type_))
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


def test_converting_twice_changes_nothing():
    for description in (legacy()[0], gen2()[0]):
        for graph in (description.api(), description.page()):
            once = convert_workflow(graph).graph
            again = convert_workflow(once)
            assert again.graph is once and not again.report.replaced


def test_a_graph_without_old_nodes_is_given_back_itself():
    graph = Description()
    graph.add("CheckpointLoaderSimple", ckpt_name="x")
    for form in (graph.api(), graph.page()):
        assert convert_workflow(form).graph is form


def test_a_node_without_counterpart_is_named_and_the_rest_converts():
    graph, loader, sampler = legacy()
    views = graph.add("ADE_StandardStaticViewOptions", view_length=16, view_overlap=4, fuse_method="pyramid")
    only = graph.add("ADE_ViewsOnlyContextOptions", {"view_opts_req": (views, 0)}, start_percent=0.0, guarantee_steps=1)
    graph.nodes[loader].links["context_options"] = (only, 0)
    unknown = graph.add("ADE_AnimateDiffSettings")
    graph.nodes[unknown].kind = "ADE_OfAnotherYear"
    old_graphs.OUTPUTS["ADE_OfAnotherYear"] = "AD_SETTINGS"
    prompt, report = both(graph)
    assert not report.is_whole
    assert {said.kind for said in report.left} >= {"ADE_ViewsOnlyContextOptions", "ADE_OfAnotherYear"}
    assert prompt[up(prompt, str(sampler), "model")]["class_type"] == "UNetMotion_ApplyMotionModule"
    page = convert_workflow(graph.page()).graph
    assert {node["id"]: node["mode"] for node in page["nodes"]}[only] == 2
    again = convert_workflow(page)
    assert again.graph is page and {said.text for said in again.report.left} == {said.text for said in report.left}


def test_a_value_that_no_version_has_is_said_and_the_default_counts():
    graph, loader, _ = legacy(beta="no such schedule")
    prompt, report = both(graph)
    assert find(prompt, "UNetMotion_ApplyMotionModule")[1]["beta_schedule"] == "auto"
    assert [(said.node, "no such schedule" in said.text) for said in report.changed] == [(str(loader), True)]


@pytest.mark.parametrize(
    "data",
    [
        None, 3, "text", [], [1], {}, {"nodes": 3}, {"a": {}}, {"1": {"class_type": 3}}, {"nodes": [3]},
        {"nodes": [{"id": 1}]}, {"nodes": [{"id": None, "type": "A"}]}, {"1": {"class_type": "A", "inputs": []}},
        {"nodes": [{"id": 1, "type": "A"}, {"id": 1, "type": "B"}]}, {"nodes": [], "links": {}},
        {"nodes": [], "definitions": {"subgraphs": [{"name": "x"}]}},
    ],
)  # fmt: skip
def test_what_is_no_graph_is_refused_in_a_sentence(data):
    if data == {"nodes": [], "links": {}}:
        data = {"nodes": [], "links": {"a": 1}}
    before = copy.deepcopy(data)
    with pytest.raises(WorkflowError) as error:
        convert_workflow(data)
    assert 10 < len(str(error.value)) < 600 and "\n" not in str(error.value) and data == before


def test_settings_that_lead_back_to_themselves_are_left():
    graph, loader, sampler = legacy()
    first = graph.add("ADE_AnimateDiffLoRALoader", name="a.ckpt", strength=1.0)
    second = graph.add("ADE_AnimateDiffLoRALoader", {"prev_motion_lora": (first, 0)}, name="b.ckpt", strength=1.0)
    graph.nodes[first].links["prev_motion_lora"] = (second, 0)
    graph.nodes[loader].links["motion_lora"] = (second, 0)
    for form in (graph.api(), graph.page()):
        report = convert_workflow(form).report
        assert [said.text for said in report.left] == ["its settings lead back to itself"]


def test_a_circle_of_other_nodes_is_no_obstacle():
    graph, *_ = legacy()
    one = graph.add("LoraLoaderModelOnly", lora_name="x", strength_model=1.0)
    two = graph.add("LoraLoaderModelOnly", {"model": (one, 0)}, lora_name="x", strength_model=1.0)
    graph.nodes[one].links["model"] = (two, 0)
    for form in (graph.api(), graph.page()):
        assert convert_workflow(form).report.is_whole


def test_links_to_nothing_are_said_and_stay():
    graph, loader, _ = legacy(motion_scale=1.0, apply_v2_models_properly=True)
    api = graph.api()
    api[str(loader)]["inputs"]["context_options"] = ["404", 0]
    converted = convert_workflow(api)
    assert ["404" in said.text for said in converted.report.notes] == [True]
    page = graph.page()
    page["links"].append([999, 404, 0, loader, 0, "MODEL"])
    converted = convert_workflow(page)
    assert [999, 404, 0, loader, 0, "MODEL"] in converted.graph["links"] and len(converted.report.notes) == 1


@pytest.mark.parametrize("values", [["m.ckpt", 5], ["m.ckpt", "autoselect", 1.0, True, 17, 18], [{}, []]])
def test_widget_values_of_no_known_order_leave_the_node(values):
    graph, loader, _ = legacy()
    page = graph.page()
    page["nodes"][loader - 1]["widgets_values"] = values
    converted = convert_workflow(page)
    assert [said.node for said in converted.report.left] == [str(loader)]
    assert next(n for n in converted.graph["nodes"] if n["id"] == loader)["type"] == "ADE_AnimateDiffLoaderWithContext"


def test_old_orders_of_widgets_are_read_by_their_types():
    """Sample settings without `seed_override`, with it, and with the empty widgets of some pages."""
    for values in ([0, "default", "comfy", 0, False], [0, "default", "comfy", 0, 0, False],
                   [0, "default", "comfy", 0, 55, False, ""]):  # fmt: skip
        graph, *_, use, sampler = gen2()
        settings = graph.add("ADE_AnimateDiffSamplingSettings")
        graph.nodes[use].links["sample_settings"] = (settings, 0)
        page = graph.page()
        page["nodes"][settings - 1]["widgets_values"] = values
        report = convert_workflow(page).report
        assert report.is_whole and not report.changed


def test_nodes_in_a_subgraph_convert_where_they_are():
    graph, loader, _ = legacy()
    inner = graph.page()
    links = [dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
             for link in inner["links"]]  # fmt: skip
    links[0].update(origin_id=-10, origin_slot=0)
    assert links[0]["target_id"] == loader and links[0]["type"] == "MODEL"
    inner["nodes"][0]["outputs"][0]["links"] = []
    border = {"id": "u", "name": "model", "type": "MODEL", "linkIds": [1]}
    subgraph = {"id": "s", "name": "AD", "nodes": inner["nodes"], "links": links, "inputs": [border], "outputs": [],
                "inputNode": {"id": -10}, "outputNode": {"id": -20}}  # fmt: skip
    instance = {"id": 500, "type": "s", "inputs": [], "outputs": [], "mode": 0}
    outer = {"nodes": [instance], "links": [], "last_node_id": 500,
             "last_link_id": 0, "definitions": {"subgraphs": [subgraph]}, "version": 0.4}  # fmt: skip
    converted = convert_workflow(outer)
    after = converted.graph["definitions"]["subgraphs"][0]
    assert converted.report.is_whole and not any(is_old(node["type"]) for node in after["nodes"])
    apply = next(node for node in after["nodes"] if node["type"] == "UNetMotion_ApplyMotionModule")
    number = next(slot["link"] for slot in apply["inputs"] if slot["name"] == "model")
    assert after["inputs"][0]["linkIds"] == [number]
    assert next(link for link in after["links"] if link["id"] == number)["origin_id"] == -10
    ids = [node["id"] for node in after["nodes"]]
    assert len(set(ids)) == len(ids) and max(ids) > 500
    assert converted.graph["nodes"] == outer["nodes"]


def test_nodes_in_a_group_node_are_named():
    page = legacy()[0].page()
    page["extra"]["groupNodes"] = {"AD": {"nodes": [{"type": "ADE_LoadAnimateDiffModel"}, {"type": "VAEDecode"}]}}
    report = convert_workflow(page).report
    assert [(said.node, said.kind) for said in report.left] == [("AD:0", "ADE_LoadAnimateDiffModel")]
    page["extra"]["groupNodes"] = [3]
    assert convert_workflow(page).report.is_whole


@pytest.mark.parametrize("form", ["api", "page"])
def test_five_thousand_nodes_take_under_two_seconds(form):
    graph = Description()
    for _ in range(700):
        part, *_ = legacy()
        offset = len(graph.nodes)
        for spec in part.nodes.values():
            links = {name: (node + offset, out) for name, (node, out) in spec.links.items()}
            graph.nodes[len(graph.nodes) + 1] = Spec(spec.kind, spec.widgets, links)
    data = getattr(graph, form)()
    assert len(graph.nodes) > 5000
    start = time.process_time()
    converted = convert_workflow(data)
    assert time.process_time() - start < 2 and len(converted.report.replaced) == 3 * 700
