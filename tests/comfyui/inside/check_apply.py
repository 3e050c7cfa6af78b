"""Apply Motion Module: what the MODEL carries stays, the base is left alone, weights are shared."""

from __future__ import annotations

import comfy.model_management
import comfy.model_sampling
import comfy.sd
import pytest
import torch
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.step.settings import with_settings
from small import UNET, inputs, motion_module, options, relative, sd15

LAYER = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
NAMES = {
    "kohya diffusers": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "kohya original": "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q",
    "diffusers processor": "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q",
    "lycoris": "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "generic": f"diffusion_model.{LAYER}",
}


def lora(style: str = "kohya original", rank: int = 4, width: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    down, up = torch.randn(rank, width, generator=generator), torch.randn(width, rank, generator=generator)
    ends = ("_lora.down", "_lora.up") if style == "diffusers processor" else (".lora_down", ".lora_up")
    return {f"{NAMES[style]}{end}.weight": tensor for end, tensor in zip(ends, (down, up), strict=True)}


def with_lora(model, strength=0.5, **style):
    return comfy.sd.load_lora_for_models(model, None, lora(**style), strength, 0)[0]


def run(model, frames=2, **extra):
    """The UNet's output with the MODEL's patches in place, as the sampler loads and unloads them."""
    comfy.model_management.load_models_gpu([model])
    out = model.model.diffusion_model(**inputs_of(frames), transformer_options=options(**extra))
    comfy.model_management.unload_all_models()
    return out


def inputs_of(frames):
    torch.manual_seed(11)
    return inputs(frames, 8, 8)


@pytest.fixture(scope="module")
def moving():
    """A MODEL with motion modules, which no check changes, and its output."""
    model = apply_motion_module(sd15(), motion_module())
    return model, run(model)


@pytest.mark.parametrize("style", NAMES)
def test_loras_of_each_key_style_act_after_applying(moving, style):
    model, plain = moving
    patched = with_lora(model, style=style)
    assert list(patched.patches) == [f"diffusion_model.{LAYER}.weight"]
    assert relative(run(patched), plain) > 1e-3


def test_taking_a_lora_away_restores_the_output_bit_for_bit(moving):
    model, plain = moving
    run(with_lora(model, strength=-1.0))
    assert torch.equal(run(model), plain)
    assert torch.equal(run(with_lora(model, strength=0.0)), plain)


def test_a_lora_of_the_model_stays_when_a_motion_module_is_applied():
    base, motion = sd15(), motion_module()
    after = run(with_lora(apply_motion_module(base, motion)))
    before = apply_motion_module(with_lora(base), motion)
    assert torch.equal(run(before), after)


def test_a_lora_that_is_in_the_weights_at_that_moment_is_not_baked_in(moving):
    base, motion = sd15(), motion_module()
    after = run(with_lora(apply_motion_module(base, motion)))
    patched = with_lora(base)
    comfy.model_management.load_models_gpu([patched])
    applied = apply_motion_module(patched, motion)
    comfy.model_management.unload_all_models()
    assert torch.equal(run(applied), after)
    assert torch.equal(run(apply_motion_module(base, motion)), moving[1])


def test_the_base_is_left_alone_and_its_weights_are_shared():
    base = sd15()
    before = {key: tensor.clone() for key, tensor in base.model.state_dict().items()}
    applied = apply_motion_module(base, motion_module())
    run(with_lora(applied))
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    ours = applied.model.state_dict()
    unet = [key for key in after if key.startswith("diffusion_model.")]
    assert all(ours[key].data_ptr() == after[key].data_ptr() for key in unet)


def test_options_patches_and_wrappers_of_the_model_stay():
    base = sd15()

    def patch(h, to):
        return h

    base.set_model_input_block_patch(patch)
    base.model_options["transformer_options"]["someone_elses"] = {"a": 1}
    base.set_model_sampler_post_cfg_function(cfg := (lambda args: args["denoised"]))
    base.add_wrapper_with_key("diffusion_model", "mine", wrapper := (lambda executor, *a, **k: executor(*a, **k)))
    applied = apply_motion_module(base, motion_module())
    to = applied.model_options["transformer_options"]
    assert to["patches"]["input_block_patch"] == [patch] and to["someone_elses"] == {"a": 1}
    assert applied.model_options["sampler_post_cfg_function"] == [cfg]
    assert applied.wrappers["diffusion_model"]["mine"] == [wrapper]
    assert "wrappers" not in vars(base) or base.wrappers["diffusion_model"]["mine"] == [wrapper]


def test_motion_modules_can_be_exchanged(moving):
    first, second = motion_module(), motion_module(use_motion_mid_block=False)
    once = apply_motion_module(sd15(), second)
    twice = apply_motion_module(apply_motion_module(sd15(), first), second)
    out = run(once)
    assert torch.equal(run(twice), out)
    assert relative(out, moving[1]) > 1e-3


@pytest.mark.parametrize(
    ("choice", "diffusers_name"), [("auto", "linear"), ("sqrt_linear", "linear"), ("linear", "scaled_linear")]
)
def test_schedules_are_those_that_diffusers_calls_so(choice, diffusers_name):
    start, end = 0.00085, 0.012
    if diffusers_name == "linear":
        betas = torch.linspace(start, end, 1000, dtype=torch.float64)
    else:
        betas = torch.linspace(start**0.5, end**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, dim=0)
    expected = ((1 - alphas) / alphas).sqrt()
    sampling = apply_motion_module(sd15(), motion_module(), beta_schedule=choice).get_model_object("model_sampling")
    assert torch.allclose(sampling.sigmas.double(), expected, rtol=1e-5)


def test_a_schedule_set_by_another_node_stays_unless_one_is_chosen():
    base = sd15()
    theirs = comfy.model_sampling.ModelSamplingDiscrete(base.model.model_config)
    patched = base.clone()
    patched.add_object_patch("model_sampling", theirs)
    assert apply_motion_module(patched, motion_module()).get_model_object("model_sampling") is theirs
    chosen = apply_motion_module(patched, motion_module(), beta_schedule="linear")
    assert chosen.get_model_object("model_sampling") is chosen.model.model_sampling
    assert patched.get_model_object("model_sampling") is theirs


def test_norm_scope_auto_is_the_motion_modules_and_presets_force():
    motion = motion_module()
    config = apply_motion_module(sd15(), motion).model.diffusion_model.core.config
    assert (config.resnet_norm_scope, config.motion_norm_scope) == motion.norm_scopes
    config = apply_motion_module(sd15(), motion, norm_scope="v1").model.diffusion_model.core.config
    assert (config.resnet_norm_scope, config.motion_norm_scope) == ("clip", "frame")


def test_inpainting_models_keep_their_extra_channels():
    base = sd15(in_channels=9)
    base.model.set_inpaint()
    model = apply_motion_module(base, motion_module()).model
    assert model.concat_keys == base.model.concat_keys
    assert model.diffusion_model.core.config.in_channels == 9


def test_an_sdxl_motion_module_on_sd15_is_named():
    motion = motion_module(widths=(32, 64, 128))
    sentence = r"small_motion.safetensors is a motion module for SDXL \(3 levels.*is SD1.5 \(4"
    with pytest.raises(ValueError, match=sentence):
        apply_motion_module(sd15(), motion)


@pytest.mark.parametrize("change", [{"context_dim": 1024}, {"use_linear_in_transformer": True}])
def test_models_that_are_not_sd15_are_named(change):
    with pytest.raises(ValueError, match="`model` is not an SD1.5 model"):
        apply_motion_module(sd15(**change), motion_module())


def test_half_precision_weights_compute_in_the_models_own_precision():
    base = sd15(dtype=torch.float16)
    base.model.diffusion_model.half()
    base.model.manual_cast_dtype = torch.float32
    applied = apply_motion_module(base, motion_module())
    assert {p.dtype for p in applied.model.parameters()} == {torch.float16}
    x = inputs(3)
    out = applied.model.diffusion_model(**x, transformer_options=options())
    full = apply_motion_module(sd15(), motion_module()).model.diffusion_model(**x, transformer_options=options())
    assert out.dtype == torch.float32
    assert relative(out, full) < 5e-3


def test_settings_live_in_the_clone_and_survive_later_clones():
    base = apply_motion_module(sd15(), motion_module())
    factors = {"b1": 1.5, "b2": 1.6, "s1": 0.9, "s2": 0.2, "version": "v1", "start_percent": 0.0, "end_percent": 1.0}
    changed = with_settings(base, freeu=factors)
    later = with_settings(with_lora(changed).clone(), chunking={"size": 1, "dim": 0}).clone()
    settings = later.model_options["transformer_options"]["unet_motion"]
    assert settings == {"freeu": factors, "chunking": {"size": 1, "dim": 0}}
    assert "unet_motion" not in base.model_options["transformer_options"]
    assert changed.model_options["transformer_options"]["unet_motion"] == {"freeu": factors}
    plain = run(base)
    assert relative(run(changed, unet_motion={"freeu": factors}), plain) > 1e-3
    assert torch.equal(run(base), plain)


def test_memory_of_the_shared_model_counts_once_and_partial_loading_covers_every_parameter():
    applied = apply_motion_module(sd15(), motion_module())
    total = sum(p.numel() * p.element_size() for p in applied.model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in applied.model.diffusion_model.buffers())
    assert total <= applied.model_size() <= total + buffers + 10**5
    listed = {name for entry in applied._load_list() for name in entry if isinstance(name, str)}
    modules = applied.model.named_modules()
    leaves = {name for name, module in modules if next(module.parameters(recurse=False), None) is not None}
    assert leaves <= listed


def test_the_same_model_can_be_made_again_from_its_files(tmp_path):
    from safetensors.torch import save_file

    base, motion = sd15(), motion_module()
    path = tmp_path / "motion.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in motion.state_dict.items()}, path)
    from pack.unet_motion.formats import load_motion_module

    calls = []

    def factory(*arguments, disable_dynamic=False):
        calls.append((arguments, disable_dynamic))
        return "clip", sd15()

    base.cached_patcher_init = (factory, ("a", 1), 1)
    applied = apply_motion_module(base, load_motion_module(path))
    load, arguments = applied.cached_patcher_init
    again = load(*arguments, disable_dynamic=True)
    assert calls == [(("a", 1), True)]
    assert torch.equal(run(again), run(applied))


def test_unet_config_round_trip_gives_lora_code_the_structure():
    applied = apply_motion_module(sd15(), motion_module())
    from pack.nodes.host.model.unet_config import to_comfy

    ours = to_comfy(applied.model.diffusion_model.core.config)
    for key in ("model_channels", "num_res_blocks", "channel_mult", "transformer_depth", "transformer_depth_output",
                "transformer_depth_middle", "context_dim", "num_heads", "use_linear_in_transformer"):  # fmt: skip
        assert ours[key] == UNET[key], key
    for key in ours.keys() & UNET.keys():
        assert ours[key] == UNET[key], key
    assert UNET.keys() - ours.keys() <= {"dtype"}, "what else ComfyUI's own configuration says"
    assert (ours["in_channels"], ours["out_channels"], ours["num_head_channels"]) == (4, 4, -1)
