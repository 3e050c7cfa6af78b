"""Loaders, LoRAs and settings of AnimateDiff-Evolved, converted: values against what the two packs' nodes mean."""

import pytest

from tests.workflows import old_graphs
from tests.workflows.conversions import both, changed, find, gen2, kinds, legacy, plain, up
from tests.workflows.old_graphs import Spec
from unet_motion.workflows.importer import convert_workflow
from unet_motion.workflows.importer.table import is_old


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
