"""SDXL motion modules on an SDXL MODEL: the structure is ComfyUI's own, and the schedule that of training."""

from __future__ import annotations

import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import pytest
import torch
from check_saving import folder, load, save  # noqa: F401 (folder is a fixture)
from pack.nodes.host.files.loading import load_unet_model
from pack.nodes.host.model.apply import apply_motion_module
from pack.unet_motion import MotionAdapter
from pack.unet_motion.formats import MotionModule
from safetensors.torch import load_file, save_file
from sampled import sample
from small import CPU, fill, motion_module, options, relative, sd15

WIDTHS = (64, 128, 256)
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 64, "channel_mult": [1, 2, 4],
    "num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_middle": 2,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2], "context_dim": 2048, "num_heads": -1,
    "num_head_channels": 64, "use_linear_in_transformer": True, "use_spatial_transformer": True,
    "use_temporal_attention": False, "use_temporal_resblock": False, "adm_in_channels": 2816,
    "num_classes": "sequential", "legacy": False, "dtype": torch.float32,
}  # fmt: skip


def sdxl(model_type=comfy.model_base.ModelType.EPS):
    config = comfy.supported_models.SDXL(UNET)
    config.unet_config = dict(UNET)
    model = comfy.model_base.SDXL(config, model_type, CPU)
    fill(model.diffusion_model)
    model.diffusion_model.requires_grad_(False).eval()
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def module(version, active=True):
    adapter = MotionAdapter(
        block_out_channels=WIDTHS, use_motion_mid_block=False, motion_max_seq_length=24 if version == "hotshot" else 32
    )
    fill(adapter, 1)
    if not active:
        for name, parameter in adapter.named_parameters():
            if ".proj_out." in name:
                parameter.data.zero_()
    found = MotionModule.from_adapter(adapter, f"{version}.safetensors")
    scopes = ("clip", "frame") if version == "hotshot" else ("frame", "clip")
    return MotionModule(version, version, found.state_dict, found.config, *scopes, found.path)


def run(model):
    torch.manual_seed(5)
    x, text, y = torch.randn(4, 4, 8, 8), torch.randn(2, 7, 2048), torch.randn(2, 2816)
    arguments = {"context": text.repeat_interleave(2, 0), "y": y.repeat_interleave(2, 0)}
    return model.model.diffusion_model(x, torch.full((4,), 600.0), **arguments, transformer_options=options(conds=2))


def test_idle_modules_leave_an_sdxl_model_as_it_was_and_active_ones_do_not():
    base = sdxl()
    plain = run(base)
    assert relative(run(apply_motion_module(base, module("sdxl", active=False))), plain) < 1e-5
    assert relative(run(apply_motion_module(base, module("sdxl"))), plain) > 1e-3


def test_auto_is_the_schedule_and_the_norm_scope_of_each_kind():
    base = sdxl()
    for version, sigma, scope in (("sdxl", 65.93, "frame"), ("hotshot", 14.61, "clip")):
        model = apply_motion_module(base, module(version)).model
        assert abs(float(model.model_sampling.sigma_max) - sigma) < 0.01
        assert model.diffusion_model.core.config.resnet_norm_scope == scope
    forced = apply_motion_module(base, module("sdxl"), beta_schedule="sqrt_linear").model
    assert abs(float(forced.model_sampling.sigma_max) - 25.15) < 0.01


def test_modules_of_the_other_family_are_refused_by_name():
    with pytest.raises(ValueError, match="is a motion module for SDXL .* but `model` is SD1.5"):
        apply_motion_module(sd15(), module("hotshot"))
    with pytest.raises(ValueError, match="is a motion module for SD1.5 .* but `model` is SDXL"):
        apply_motion_module(sdxl(), motion_module())


def test_load_motion_unet_refuses_sdxl_and_says_what_to_do(tmp_path):
    path = str(tmp_path / "xl.safetensors")
    save_file({key: tensor.contiguous() for key, tensor in sdxl().model.diffusion_model.state_dict().items()}, path)
    with pytest.raises(ValueError, match="xl.safetensors is an SDXL UNet, .* use Load Checkpoint with Apply Motion"):
        load_unet_model(path, None)


def prompt(seed, **size):
    """SDXL's conditioning: text, pooled text, and the sizes that core's CLIPTextEncodeSDXL adds."""
    generator = torch.Generator().manual_seed(seed)
    cond, pooled = torch.randn(1, 7, 2048, generator=generator), torch.randn(1, 1280, generator=generator)
    return [[cond, {"pooled_output": pooled, **size}]]


SIZES = {"width": 512, "height": 768, "crop_w": 64, "crop_h": 0, "target_width": 640, "target_height": 320}
NOISE = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(6))


def drawn(model, **size):
    return sample(model, prompt(1, **size), prompt(2, **size), start=NOISE, steps=2)


@pytest.mark.parametrize("version", ["sdxl", "hotshot"])
def test_a_saved_sdxl_model_is_the_same_model_when_it_is_loaded(folder, version):  # noqa: F811
    model = apply_motion_module(sdxl(comfy.model_base.ModelType.V_PREDICTION), module(version))
    expected = {name: drawn(model, **size) for name, size in (("plain", {}), ("sized", SIZES))}
    assert relative(expected["sized"], expected["plain"]) > 1e-4
    path = save(model, folder)
    again = load(path)
    assert torch.equal(drawn(again), expected["plain"]) and torch.equal(drawn(again, **SIZES), expected["sized"])
    conditioning = {**prompt(1)[0][1], **SIZES, "device": CPU}
    assert torch.equal(again.model.encode_adm(**conditioning), model.model.encode_adm(**conditioning))
    assert type(again.model.latent_format) is comfy.latent_formats.SDXL
    assert torch.equal(again.model.model_sampling.sigmas, model.model.model_sampling.sigmas)
    assert again.model.model_type == comfy.model_base.ModelType.V_PREDICTION
    core, reloaded = model.model.diffusion_model.core, again.model.diffusion_model.core
    assert reloaded.config == core.config
    assert abs(again.model.memory_usage_factor - model.model.memory_usage_factor) < 1e-9
    # What is saved of the second says no less than what was saved of the first.
    first, second = (load_file(path) for path in (path, save(again, folder)))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_loaded_sdxl_model_takes_loras_and_other_motion_modules_as_the_saved_one(folder):  # noqa: F811
    model = apply_motion_module(sdxl(), module("sdxl"))
    again = load(save(model, folder))
    for key in ("num_res_blocks", "channel_mult", "transformer_depth", "transformer_depth_output", "num_heads",
                "transformer_depth_middle", "num_head_channels", "context_dim", "adm_in_channels"):  # fmt: skip
        assert again.model.model_config.unet_config[key] == UNET[key], key
    exchanged, expected = (drawn(apply_motion_module(m, module("hotshot"))) for m in (again, model))
    assert torch.equal(exchanged, expected) and relative(expected, drawn(model)) > 1e-3
    layer = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    down, up = torch.randn(4, 128), torch.randn(128, 4)
    file = {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
    loras = [comfy.sd.load_lora_for_models(m, None, file, 0.5, 0)[0] for m in (again, model)]
    assert [len(m.patches) for m in loras] == [1, 1]
    assert torch.equal(*map(drawn, loras)) and relative(drawn(loras[0]), drawn(model)) > 1e-4


def test_an_sdxl_file_that_says_no_base_is_refused_as_before(folder):  # noqa: F811
    state = load_file(save(apply_motion_module(sdxl(), module("sdxl")), folder))
    del state["unet_motion"]
    save_file(state, folder / "bare.safetensors")
    with pytest.raises(ValueError, match="bare.safetensors is an SDXL UNet, .* use Load Checkpoint with Apply Motion"):
        load_unet_model(str(folder / "bare.safetensors"), None)
