"""Conversions there and back are equal bit for bit, diffusers reads what comes out, and merges are sums."""

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from tests.formats.files import (
    SDXL,
    adapter,
    relative_error,
    run_unet2d,
    same_state,
    to_ldm,
    to_original,
    unet2d,
    write,
)
from tests.formats.published import encoder_state
from tests.formats.test_kinds import to_hotshot
from unet_motion import MotionAdapter, UNetMotionModel, inspect_file, load_motion_module, load_unet
from unet_motion.cli import main
from unet_motion.cli.convert import _weighted
from unet_motion.formats import FileFormatError, KeyMismatchError, WrongKindError
from unet_motion.formats.convert import FORMS, convert
from unet_motion.formats.merging import parse_blocks

FOUR = {"block_out_channels": (32, 32, 64, 64)}
MOTION = {
    "v1": {**FOUR, "motion_max_seq_length": 24, "use_motion_mid_block": False},
    "v2": FOUR,
    "sdxl": {"block_out_channels": (32, 64, 64), "use_motion_mid_block": False},
}
THREE = {"block_out_channels": (32, 64, 64), "use_motion_mid_block": False, "motion_max_seq_length": 24}


def sources():
    v3 = adapter(**FOUR, use_motion_mid_block=False).half().state_dict()
    yield "v3", "original", to_original(v3)
    for kind, config in (("v1", MOTION["v1"]), ("v2", MOTION["v2"]), ("sdxl beta", MOTION["sdxl"])):
        yield kind, "original", to_original(adapter(**config).half().state_dict())
    yield "adapter", "diffusers", dict(v3)
    lcm = {k: v for k, v in to_original(adapter(**FOUR).state_dict()).items() if "pos_enc" not in k}
    yield "lcm", "original", lcm
    yield "lcm_i2v", "original", {**lcm, **encoder_state(FOUR["block_out_channels"])}
    pia = adapter(**FOUR, conv_in_channels=9).state_dict()
    yield "pia", "original", {k if k.startswith("conv_in") else k: v for k, v in _pia(pia).items()}
    yield "hotshot", "hotshot", to_hotshot(adapter(**THREE).bfloat16().state_dict())
    yield "sd", "original", to_ldm(unet2d().half().state_dict(), 2)
    yield "sdxl", "original", to_ldm(unet2d(**SDXL).state_dict(), 2)
    yield "unet2d", "diffusers", unet2d().state_dict()
    motion = diffusers.UNetMotionModel.from_unet2d(unet2d(), adapter()).state_dict()
    yield "motion unet", "diffusers", dict(motion)


def _pia(state):
    motion = {k: v for k, v in state.items() if not k.startswith("conv_in")}
    return {**to_original(motion), **{k: v for k, v in state.items() if k.startswith("conv_in")}}


SOURCES = {name: (form, state) for name, form, state in sources()}


@pytest.mark.parametrize("through", FORMS)
@pytest.mark.parametrize("name", SOURCES)
def test_there_and_back_is_equal_bit_for_bit(tmp_path, name, through):
    form, state = SOURCES[name]
    start = write(tmp_path / "start.safetensors", state)
    middle = tmp_path / ("folder" if through == "folder" else "middle.safetensors")
    if through == "hotshot" and name in ("sd", "sdxl", "unet2d"):
        with pytest.raises(FileFormatError, match="start.safetensors: is .*expected motion modules"):
            convert(start, middle, through)
        assert not middle.exists()
        return
    assert convert(start, middle, through) == []
    assert convert(middle, tmp_path / "back.safetensors", form) == []
    assert same_state(load_file(tmp_path / "back.safetensors"), state)


@pytest.mark.filterwarnings("ignore:.*holds no position tables")
@pytest.mark.parametrize("name", ["v1", "v2", "v3", "lcm", "lcm_i2v", "pia", "hotshot", "sdxl beta"])
@pytest.mark.parametrize("through", ["diffusers", "folder"])
def test_a_converted_module_runs_as_it_was_trained(tmp_path, name, through):
    start = write(tmp_path / "start.safetensors", SOURCES[name][1])
    middle = tmp_path / ("folder" if through == "folder" else "middle.safetensors")
    convert(start, middle, through)
    first, second = load_motion_module(start), load_motion_module(middle)
    assert (second.norm_scopes, second.config) == (first.norm_scopes, first.config)
    assert same_state(second.state_dict, first.state_dict)
    assert inspect_file(middle).frames == inspect_file(start).frames


def test_diffusers_reads_the_folders(tmp_path):
    form, state = SOURCES["v3"]
    convert(write(tmp_path / "a.safetensors", state), tmp_path / "motion", "folder")
    read = diffusers.MotionAdapter.from_pretrained(tmp_path / "motion", torch_dtype=torch.float16)
    assert same_state(dict(read.state_dict()), dict(SOURCES["adapter"][1]))
    for config in ({}, SDXL):
        unet = unet2d(**config)
        base = write(tmp_path / "b.safetensors", to_ldm(unet.state_dict(), 2))
        convert(base, tmp_path / "unet", "folder")
        read = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "unet").eval()
        (sample, *_), added, expected = run_unet2d(unet)
        assert same_state(dict(read.state_dict()), dict(unet.state_dict()))
        with torch.no_grad():
            (rest, extra, out) = run_unet2d(read)
        assert relative_error(out, expected) < 1e-5
    motion = write(tmp_path / "c.safetensors", SOURCES["motion unet"][1])
    convert(motion, tmp_path / "whole", "folder")
    assert isinstance(diffusers.UNetMotionModel.from_pretrained(tmp_path / "whole"), diffusers.UNetMotionModel)


def test_a_checkpoint_loses_its_other_parts_and_says_so(tmp_path, capsys):
    state = to_ldm(unet2d().state_dict(), 2, "model.diffusion_model.")
    state["first_stage_model.encoder.conv_in.weight"] = torch.zeros(3)
    path = write(tmp_path / "a.safetensors", state)
    command = ["convert", str(path), str(tmp_path / "b.safetensors"), "--to", "original"]
    assert main([*command, "--prefix", "model.diffusion_model."]) == 0
    said = capsys.readouterr()
    assert "1 tensors of other parts are left out: first_stage_model" in said.err
    assert said.out == f"{tmp_path / 'b.safetensors'}\n"
    del state["first_stage_model.encoder.conv_in.weight"]
    assert same_state(load_file(tmp_path / "b.safetensors"), state)


def test_what_cannot_be_converted_is_refused_and_nothing_is_written(tmp_path):
    state = dict(SOURCES["v3"][1])
    state.pop(next(k for k in state if k.endswith("proj_out.bias")))
    with pytest.raises(KeyMismatchError, match="1 missing"):
        convert(write(tmp_path / "a.safetensors", state), tmp_path / "out.safetensors", "diffusers")
    with pytest.raises(WrongKindError, match="looks like a VAE"):
        vae = write(tmp_path / "v.safetensors", {"decoder.conv_in.weight": torch.zeros(1)})
        convert(vae, tmp_path / "out.safetensors", "diffusers")
    with pytest.raises(ValueError, match="ends in .safetensors"):
        convert(tmp_path / "a.safetensors", tmp_path / "out.ckpt", "original")
    assert not list(tmp_path.glob("out*"))


def test_merging_is_the_weighted_sum_and_scaling_scales_the_effect(tmp_path, capsys):
    states = [to_original(adapter(seed).state_dict()) for seed in (1, 2)]
    a, b = (write(tmp_path / f"{i}.safetensors", state) for i, state in enumerate(states))
    out = tmp_path / "m.safetensors"
    assert main(["merge", f"{a}:0.7", f"{b}:0.3", "--out", str(out), "--block", "up_blocks.1=0,1"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    for key, value in load_file(out).items():
        if key.endswith(".pe"):
            assert torch.equal(value, states[0][key])
            continue
        weights = (0.0, 1.0) if key.startswith("up_blocks.1.") else (0.7, 0.3)
        expected = sum(w * s[key].double() for w, s in zip(weights, states, strict=True))
        assert (value.double() - expected).abs().max() < 1e-6
    base = write(tmp_path / "sd.safetensors", to_ldm(unet2d().state_dict(), 2))
    scaled = tmp_path / "s.safetensors"
    assert main(["merge", str(a), "--out", str(scaled), "--scale", "down_blocks=0.5", "--scale", "mid_block=0"]) == 0
    module, plain = load_unet(base, scaled), load_unet(base, a)
    x, seen = torch.randn(3, 32, 8, 8), []
    for model in (module, plain):
        part = model.down_blocks[0].motion_modules[0]
        part.register_forward_hook(lambda m, i, o: seen.append(o - i[0]))
    sample, text = torch.randn(1, 4, 3, 8, 8), torch.randn(1, 5, 24)
    with torch.no_grad():
        for model in (module, plain):
            model(sample, 5, text)
    assert relative_error(seen[0], 0.5 * seen[1]) < 1e-5 and x.shape[0] == 3
    assert not any(v.any() for k, v in load_file(scaled).items() if k.startswith("mid_block") and ".proj_out." in k)


@pytest.mark.filterwarnings("ignore:.*holds no position tables")
@pytest.mark.parametrize("name", ["v1", "v3", "lcm", "lcm_i2v", "pia", "hotshot", "sdxl beta"])
def test_every_kind_is_mixed_and_scaled_block_by_block_and_stays_what_it_is(tmp_path, name):
    path, out = write(tmp_path / "a.safetensors", SOURCES[name][1]), tmp_path / "out.safetensors"
    command = ["merge", f"{path}:0.25", f"{path}:0.75", "--out", str(out), "--block", "up_blocks.1=1,1"]
    assert main([*command, "--scale", "down_blocks.0=0.5"]) == 0
    before, after = load_motion_module(path), load_motion_module(out)
    assert (after.kind, after.norm_scopes, after.config) == (before.kind, before.norm_scopes, before.config)
    for key, value in before.state_dict.items():
        scaled = key.startswith("down_blocks.0.") and ".proj_out." in key
        factor = 2 if key.startswith("up_blocks.1.") else 0.5 if scaled else 1
        expected = value if key.endswith(".pe") else (factor * value.float()).to(value.dtype)
        assert torch.allclose(after.state_dict[key].float(), expected.float(), rtol=1e-2, atol=1e-6), key


def test_a_file_of_a_merge_counts_once_where_no_weight_stands_behind_it():
    assert _weighted("a.safetensors") == ("a.safetensors", 1.0)
    assert _weighted("a.safetensors:0.25") == ("a.safetensors", 0.25)
    assert _weighted("C:/a.safetensors") == ("C:/a.safetensors", 1.0)
    assert _weighted("C:/a.safetensors:-2") == ("C:/a.safetensors", -2.0)
    assert _weighted(":0.5") == (":0.5", 1.0)


def test_merges_that_make_no_sense_are_one_sentence(tmp_path, capsys):
    a = write(tmp_path / "a.safetensors", to_original(adapter().state_dict()))
    b = write(tmp_path / "b.safetensors", to_original(adapter(block_out_channels=(32, 32)).state_dict()))
    out = str(tmp_path / "m.safetensors")
    for arguments, words in (
        ([str(a), str(b)], "b.safetensors: is a motion module (block widths 32, 32), but"),
        ([str(a), "--scale", "side_blocks=1"], "'side_blocks' is no block"),
        ([str(a), "--scale", "mid_block"], "expected NAME=NUMBER"),
        ([str(a), "--block", "mid_block=1,2"], "expected 1 finite numbers"),
        ([str(a), "--scale", "mid_block.motion_modules.0.norm=0"], "adds no motion that could be scaled"),
    ):
        assert main(["merge", *arguments, "--out", out]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "m.safetensors").exists()


def test_blocks_are_read_from_their_texts_and_empty_ones_left_out():
    texts = ["", "mid_block=0.5", "  ", " up_blocks.1 =0.2, 0.8", ""]
    assert parse_blocks(texts) == {"mid_block": [0.5], "up_blocks.1": [0.2, 0.8]}
    assert parse_blocks(["", " "]) == {}


def test_pias_input_layer_stays_with_its_motion_modules_through_a_whole_unet(tmp_path):
    motion, unet = adapter(conv_in_channels=9), unet2d()
    unet.save_pretrained(tmp_path / "unet")
    motion.save_pretrained(tmp_path / "pia")
    model = load_unet(tmp_path / "unet", tmp_path / "pia")
    model.save_pretrained(tmp_path / "whole")
    for again in (UNetMotionModel.from_pretrained(tmp_path / "whole"), load_unet(tmp_path / "whole"), model):
        again.save_motion_modules(tmp_path / "again")
        read = MotionAdapter.from_pretrained(tmp_path / "again")
        assert read.config.conv_in_channels == 9
        assert torch.equal(read.conv_in.weight[:, 4:], motion.conv_in.weight[:, 4:])
    diffusers.UNetMotionModel.from_pretrained(tmp_path / "whole")
    plain = load_unet(tmp_path / "unet")
    assert plain.motion_adapter_config().conv_in_channels is None
    assert load_motion_module(tmp_path / "pia").config.conv_in_channels == 9
