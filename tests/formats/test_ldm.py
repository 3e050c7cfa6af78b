"""Stable Diffusion checkpoints in their original names, against diffusers' models and its converter."""

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from tests.formats.files import SD2, SDXL, relative_error, run_unet2d, same_state, to_ldm, unet2d, write
from unet_motion import UNetMotionConfig, load_unet
from unet_motion.formats.names.ldm import diffusers_to_ldm, ldm_key_map, ldm_layers, ldm_names, ldm_to_diffusers

FULL_SD1 = {"cross_attention_dim": 768, "num_attention_heads": 8, "use_motion_mid_block": False}
FULL_SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlockMotion", "CrossAttnDownBlockMotion", "CrossAttnDownBlockMotion"),
    "up_block_types": ("CrossAttnUpBlockMotion", "CrossAttnUpBlockMotion", "UpBlockMotion"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "num_attention_heads": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def spatial(model):
    return {k: v for k, v in model.state_dict().items() if ".motion_modules." not in k}


@pytest.mark.parametrize("arguments", [FULL_SD1, FULL_SDXL], ids=["sd1", "sdxl"])
def test_full_size_names_are_those_of_diffusers_converter(arguments):
    names = ldm_key_map(UNetMotionConfig(**arguments))
    checkpoint = {f"model.diffusion_model.{ldm}": ours for ours, ldm in names.items()}
    config = {"layers_per_block": 2, "addition_embed_type": arguments.get("addition_embed_type")}
    converted = convert_ldm_unet_checkpoint(checkpoint, config)
    assert converted == {ours: ours for ours in names}
    with torch.device("meta"):
        model = diffusers.UNetMotionModel(**arguments)
    assert set(names) == set(spatial(model))
    assert len(set(names.values())) == len(names)


def test_names_from_names_alone_agree_with_the_map_of_the_configuration():
    names = ldm_key_map(UNetMotionConfig(**FULL_SDXL))
    back, unknown = ldm_names(names.values(), "file")
    assert back == {ldm: ours for ours, ldm in names.items()}
    assert not unknown


def test_known_names():
    names = ldm_key_map(UNetMotionConfig(**FULL_SD1))
    assert names["up_blocks.0.upsamplers.0.conv.weight"] == "output_blocks.2.1.conv.weight"
    assert names["up_blocks.1.upsamplers.0.conv.weight"] == "output_blocks.5.2.conv.weight"
    assert names["up_blocks.3.resnets.2.conv_shortcut.weight"] == "output_blocks.11.0.skip_connection.weight"
    assert names["down_blocks.2.downsamplers.0.conv.bias"] == "input_blocks.9.0.op.bias"
    to_k = "transformer_blocks.0.attn2.to_k.weight"
    assert names[f"down_blocks.0.attentions.1.{to_k}"] == f"input_blocks.2.1.{to_k}"


def test_round_trip_with_unequal_layers():
    config = UNetMotionConfig(block_out_channels=(32, 64, 64, 96), layers_per_block=(1, 3, 2, 1))
    ours = list(ldm_key_map(config))
    values = {key: number for number, key in enumerate(ours)}
    ldm = diffusers_to_ldm(values, config, "model.diffusion_model.")
    assert ldm_to_diffusers({**ldm, "first_stage_model.x": 0}, config, "model.diffusion_model.") == values
    assert ldm_layers([k.removeprefix("model.diffusion_model.") for k in ldm], "file")[0] == [1, 3, 2, 1]


def test_the_mid_block_must_have_one_transformer():
    with pytest.raises(ValueError, match="mid_block_layers` is 2"):
        ldm_key_map(UNetMotionConfig(mid_block_layers=2))


@pytest.mark.parametrize(
    "config",
    [{}, SD2, SDXL, {"in_channels": 9}, {"layers_per_block": 1}, {"cross_attention_dim": 40}],
    ids=["sd1", "sd2", "sdxl", "inpaint", "one-layer", "text-40"],
)
def test_a_checkpoint_computes_what_diffusers_computes(tmp_path, config):
    unet = unet2d(**config)
    state = to_ldm(unet.state_dict(), unet.config.layers_per_block, "model.diffusion_model.")
    state["first_stage_model.decoder.conv_in.weight"] = torch.zeros(2)
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(3)
    model = load_unet(write(tmp_path / "anything.bin", state))
    inputs, extra, expected = run_unet2d(unet)
    with torch.no_grad():
        out = model.forward_frames(*inputs, **extra)
    assert relative_error(out, expected) < 1e-5
    assert same_state(spatial(model), dict(unet.state_dict()))


def test_a_distilled_checkpoint_keeps_what_it_reads_guidance_with(tmp_path):
    unet = unet2d(time_cond_proj_dim=7)
    model = load_unet(write(tmp_path / "a.safetensors", to_ldm(unet.state_dict(), 2)))
    assert model.config.time_cond_proj_dim == 7
    guidance = torch.randn(1, 7)
    (sample, timestep, text, *more), extra, plain = run_unet2d(unet)
    with torch.no_grad():
        expected = unet(sample, timestep, text, timestep_cond=guidance.expand(len(sample), -1)).sample
        out = model.forward_frames(sample, timestep, text, *more, **extra, timestep_cond=guidance)
    assert relative_error(out, expected) < 1e-5 < relative_error(plain, expected)


@pytest.mark.parametrize(
    "prefix", ["", "model.diffusion_model.", "diffusion_model.", "model.", "module.unet.", "_orig_mod."]
)
def test_bare_unets_and_prefixes(tmp_path, prefix):
    unet = unet2d()
    state = to_ldm(unet.state_dict(), 2, prefix)
    assert same_state(spatial(load_unet(write(tmp_path / "a.safetensors", state))), dict(unet.state_dict()))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before-1.6"])
def test_ckpt_with_a_nested_state_dict_and_training_records(tmp_path, legacy):
    unet = unet2d()
    state = to_ldm(unet.state_dict(), 2, "model.diffusion_model.")
    content = {"state_dict": state, "epoch": 3, "global_step": 470000, "lr_schedulers": [{"last": 1.0}]}
    path = tmp_path / "sd.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert same_state(spatial(load_unet(path)), dict(unet.state_dict()))


def test_tensors_of_no_known_part_are_named_in_a_warning(tmp_path, recwarn):
    state = to_ldm(unet2d().state_dict(), 2, "model.diffusion_model.")
    known = {"model_ema.decay": torch.zeros(1), "alphas_cumprod": torch.zeros(3), "conditioner.x": torch.zeros(1)}
    load_unet(write(tmp_path / "a.safetensors", {**state, **known}))
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"a\.safetensors: 1 tensors .* not used: odd\.part\."):
        load_unet(write(tmp_path / "a.safetensors", {**state, "odd.part": torch.zeros(1)}))


def test_half_precision_stays_and_converts(tmp_path):
    unet = unet2d().half()
    path = write(tmp_path / "a.safetensors", to_ldm(unet.state_dict(), 2))
    assert load_unet(path).dtype == torch.float16
    wide = load_unet(path, dtype=torch.float32)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    assert torch.equal(wide.conv_in.weight, unet.conv_in.weight.float())
