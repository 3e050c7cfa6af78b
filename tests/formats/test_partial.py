"""Files with the motion of some blocks only: the other blocks add exactly nothing, and a torn block is an error."""

import copy
import json
import warnings

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from tests.formats.files import adapter, relative_error, same_state, to_ldm, to_original, unet2d, write, write_sparse
from tests.formats.published import encoder_shapes
from tests.formats.test_kinds import KINDS, file_name, in_its_names, restated
from unet_motion import inspect_file, load_motion_module, load_unet
from unet_motion.cli import main
from unet_motion.formats import FileFormatError, KeyMismatchError, PositionOptions
from unet_motion.formats.convert import convert
from unet_motion.formats.infer.absent_blocks import name_blocks
from unet_motion.formats.kinds import MOTION_MODULES
from unet_motion.formats.merging import merge_motion_modules, scale_blocks

PARTS = {
    "down": ("down_blocks.",),
    "up": ("up_blocks.",),
    "down and mid": ("down_blocks.", "mid_block."),
    "all but one": ("down_blocks.1", "mid_block.", "up_blocks."),
    "deepest": ("down_blocks.1", "up_blocks.0", "up_blocks.1"),
}
MARK = "holds a part of a motion module"
quiet = pytest.mark.filterwarnings(f"ignore:.*{MARK}", "ignore:.*holds no position tables")


def only(state, *starts):
    return {key: value for key, value in state.items() if key.removeprefix("module.").startswith(starts)}


def silenced(state, *starts):
    """A whole motion module whose other blocks have a zero output."""
    return {k: v if k.startswith(starts) or ".proj_out." not in k else torch.zeros_like(v) for k, v in state.items()}


def run(model, frames=3):
    generator = torch.Generator().manual_seed(4)
    sample = torch.randn(1, 4, frames, 8, 8, generator=generator)
    sample = sample * torch.linspace(0.5, 2, frames).view(1, 1, -1, 1, 1)
    text = torch.randn(1, 5, 24, generator=generator)
    with torch.no_grad():
        # A copy: sums may be rounded otherwise where a tensor lies elsewhere in its file.
        return copy.deepcopy(model)(sample, 77, text).sample, (sample, text)


@quiet
@pytest.mark.parametrize("part", PARTS)
def test_a_partial_module_is_the_whole_one_with_the_other_outputs_at_zero(tmp_path, part):
    base = write(tmp_path / "sd.safetensors", to_ldm(unet2d().state_dict(), 2))
    whole = adapter(use_motion_mid_block="mid" in part or part == "all but one").state_dict()
    starts = PARTS[part]
    path = write(tmp_path / "part.safetensors", to_original(only(whole, *starts)))
    ours, (sample, text) = run(load_unet(base, path))
    other = write(tmp_path / "whole.safetensors", to_original(silenced(whole, *starts)))
    assert torch.equal(ours, run(load_unet(base, other))[0])
    held = load_unet(base, load_motion_module(path).to_adapter(), norm_scope="v2")
    assert torch.equal(ours, run(held)[0])
    config = {"use_motion_mid_block": any(k.startswith("mid_block") for k in whole)}
    theirs = adapter(**config)
    theirs.load_state_dict(silenced(whole, *starts))
    theirs = restated(diffusers.UNetMotionModel.from_unet2d(unet2d(), theirs), "frame", "frame", 3)
    with torch.no_grad():
        expected = theirs(sample.double(), 77, text.double().repeat_interleave(3, 0)).sample
    assert relative_error(ours.double(), expected) < 1e-5
    full = write(tmp_path / "full.safetensors", to_original(whole))
    assert relative_error(ours, run(load_unet(base, full))[0]) > 1e-3
    assert relative_error(ours, run(load_unet(base))[0]) > 1e-3


@quiet
@pytest.mark.parametrize("kind", MOTION_MODULES)
def test_the_way_down_of_each_kind_is_recognised_at_full_size(tmp_path, kind):
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in diffusers.MotionAdapter(**KINDS[kind]).state_dict().items()}
    starts = ("down_blocks.", *(("mid_block.",) if kind in ("v2", "lightning", "lcm", "lcm_i2v") else ()))
    if kind == "pia":
        shapes = {"conv_in.weight": torch.Size((320, 9, 3, 3)), "conv_in.bias": torch.Size((320,)), **shapes}
        starts = ("conv_in.", *starts)
    if kind == "lcm_i2v":
        shapes |= encoder_shapes((320, 640, 1280, 1280))
        starts = ("img_encoder.", *starts)
    values = {k: torch.empty(s, device="meta") for k, s in only(shapes, *starts).items()}
    info = inspect_file(write_sparse(tmp_path / file_name(kind), in_its_names(kind, values, "module.")))
    assert (info.kind, info.version, info.loadable, info.missing) == ("motion_module", kind, True, [])
    levels = 3 if kind in ("sdxl", "hotshot") else 4
    mid = ("mid_block",) if "mid_block." in starts else ()
    assert info.motion_blocks == (*(f"down_blocks.{i}" for i in range(levels)), *mid)
    assert info.config["block_out_channels"] == [320, 640, 1280, 1280][:levels]


@pytest.mark.parametrize("form", ["original", "diffusers"])
def test_one_sentence_says_which_blocks_have_motion(tmp_path, capsys, form):
    state = only(adapter().state_dict(), "down_blocks.1", "mid_block.", "up_blocks.")
    path = write(tmp_path / "a.safetensors", to_original(state) if form == "original" else state)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = load_motion_module(path)
    words = "for down_blocks.1, mid_block and up_blocks.0-1; the other blocks add no motion."
    assert [str(w.message) for w in caught] == [f"{path}: {MARK}, {words}"]
    assert module.blocks == ("down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1")
    assert module.state_dict.keys() == state.keys()
    assert main(["inspect", str(path)]) == 0
    assert "motion in down_blocks.1, mid_block and up_blocks.0-1 only" in capsys.readouterr().out
    assert main(["inspect", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["motion_blocks"] == list(module.blocks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = load_motion_module(write(tmp_path / "b.safetensors", to_original(adapter().state_dict())))
    assert whole.blocks is None and inspect_file(tmp_path / "b.safetensors").motion_blocks is None
    assert name_blocks(["up_blocks.0"]) == "up_blocks.0"


@quiet
def test_widths_that_are_not_there_are_those_of_the_published_unet(tmp_path):
    with torch.device("meta"):
        whole = diffusers.MotionAdapter(use_motion_mid_block=False).state_dict()

    def widths(*starts):
        info = inspect_file(write_sparse(tmp_path / "a.safetensors", in_its_names("v3", only(whole, *starts))))
        return info.config.get("block_out_channels"), info.problem or ""

    assert widths("up_blocks.2", "up_blocks.3")[0] == [320, 640, 1280, 1280]
    assert widths("down_blocks.0", "down_blocks.3")[0] == [320, 640, 1280, 1280]
    assert "fit UNets with block widths of [320, 640, 1280, 1280] and of [320, 640, 1280]" in widths("down_blocks.1")[1]
    small = only(adapter(block_out_channels=(32, 64, 64)).state_dict(), "down_blocks.2")
    with pytest.raises(
        KeyMismatchError, match=r"down_blocks\.2 only, from which the widths of 3 levels cannot be told"
    ):
        load_motion_module(write(tmp_path / "b.safetensors", to_original(small)))


@quiet
@pytest.mark.parametrize("part", ["down_blocks.", "up_blocks."])
def test_blocks_that_are_not_there_are_as_deep_as_those_opposite(tmp_path, part):
    whole = adapter(
        block_out_channels=(32, 64, 96), motion_transformer_layers_per_block=(1, 2, 3), use_motion_mid_block=False,
    ).state_dict()  # fmt: skip
    module = load_motion_module(write(tmp_path / "a.safetensors", to_original(only(whole, part))))
    assert module.config.motion_transformer_layers_per_block == (1, 2, 3)
    shapes = {key: value.shape for key, value in module.to_adapter().state_dict().items()}
    assert shapes == {key: value.shape for key, value in whole.items()}


@quiet
@pytest.mark.parametrize("part", ["down and mid", "up"])
def test_each_missing_tensor_and_module_of_a_block_is_an_error(tmp_path, part):
    state = to_original(only(adapter().state_dict(), *PARTS[part]))
    path = tmp_path / "a.safetensors"
    blocks = {key.split(".motion_modules.")[0] for key in state}
    for block in sorted(blocks):
        mine = [key for key in state if key.startswith(f"{block}.")]
        for key in (key for key in mine if "pos_encoder" not in key):
            assert not inspect_file(write(path, {k: v for k, v in state.items() if k != key})).loadable, key
        if block == "mid_block":
            continue
        torn = {k: v for k, v in state.items() if not k.startswith(f"{block}.motion_modules.1.")}
        with pytest.raises(FileFormatError, match=r"a\.safetensors: "):
            load_motion_module(write(path, torn))
    victim = next(key for key in state if key.endswith("to_k.weight"))
    with pytest.raises(KeyMismatchError, match="1 missing: .*to_k"):
        load_motion_module(write(path, {k: v for k, v in state.items() if k != victim}))


@quiet
@pytest.mark.parametrize("part", PARTS)
def test_a_part_converts_there_and_back_bit_for_bit(tmp_path, part):
    state = to_original(only(adapter().half().state_dict(), *PARTS[part]))
    path = write(tmp_path / "a.safetensors", state)
    convert(path, tmp_path / "b.safetensors", "diffusers")
    assert same_state(load_motion_module(tmp_path / "b.safetensors").state_dict, load_motion_module(path).state_dict)
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", "original")
    assert same_state(load_file(tmp_path / "c.safetensors"), state)
    with pytest.raises(FileFormatError, match="only, expected them in all blocks for the form folder"):
        convert(path, tmp_path / "folder", "folder")
    assert not (tmp_path / "folder").exists()


@quiet
def test_the_whole_model_of_a_part_saves_and_diffusers_reads_the_adapter(tmp_path):
    whole = adapter().state_dict()
    path = write(tmp_path / "a.safetensors", to_original(only(whole, "down_blocks.")))
    module = load_motion_module(path)
    module.to_adapter().save_pretrained(tmp_path / "adapter")
    theirs = diffusers.MotionAdapter.from_pretrained(tmp_path / "adapter").state_dict()
    assert all(torch.equal(theirs[k], v) for k, v in module.state_dict.items())
    zero = [k for k in theirs if ".proj_out." in k and k not in module.state_dict]
    assert zero and all(not theirs[k].any() for k in zero)
    assert same_state(module.whole_state(), load_motion_module(path).whole_state())


@quiet
def test_a_training_checkpoint_may_leave_blocks_out_and_says_so(tmp_path):
    whole, unet = adapter(use_motion_mid_block=False).state_dict(), unet2d().state_dict()
    path = write(tmp_path / "a.safetensors", {**unet, **to_original(only(whole, "up_blocks."))})
    with pytest.warns(UserWarning, match=rf"{MARK}, for up_blocks\.0-1;"):
        ours = load_unet(path)
    other = write(tmp_path / "b.safetensors", {**unet, **to_original(silenced(whole, "up_blocks."))})
    assert torch.equal(run(ours)[0], run(load_unet(other))[0])
    info = inspect_file(path)
    assert (info.kind, info.loadable, info.motion_blocks) == (
        "animatediff_unet", True, ("up_blocks.0", "up_blocks.1"),
    )  # fmt: skip
    convert(path, tmp_path / "c.safetensors", "original")
    assert same_state(load_file(tmp_path / "c.safetensors"), load_file(path))
    with pytest.raises(FileFormatError, match="expected them in all blocks for the form diffusers"):
        convert(path, tmp_path / "d.safetensors", "diffusers")
    state = dict(diffusers.UNetMotionModel.from_unet2d(unet2d(), adapter()).state_dict())
    torn = {k: v for k, v in state.items() if not k.startswith("up_blocks.1.motion_modules.")}
    with pytest.raises(KeyMismatchError, match="missing"):  # its configuration names all blocks
        load_unet(write(tmp_path / "e.safetensors", torn))


@quiet
def test_parts_are_merged_and_scaled_by_the_blocks_they_have(tmp_path):
    state = only(adapter().state_dict(), "down_blocks.")
    part = load_motion_module(write(tmp_path / "a.safetensors", to_original(state)))
    twin = load_motion_module(
        write(tmp_path / "b.safetensors", to_original(only(adapter(7).state_dict(), "down_blocks.")))
    )
    name = "down_blocks.1.motion_modules.0.proj_in.weight"
    merged = merge_motion_modules([part, twin], [0.25, 0.75])
    assert torch.equal(merged.state_dict[name], 0.25 * part.state_dict[name] + 0.75 * twin.state_dict[name])
    whole = load_motion_module(
        write(tmp_path / "c.safetensors", to_original(adapter(use_motion_mid_block=False).state_dict()))
    )
    for pair, words in (([part, whole], "which .*a.safetensors has not"), ([whole, part], "b|a.safetensors: is a")):
        with pytest.raises(FileFormatError, match=words):
            merge_motion_modules(pair, [0.5, 0.5])
    with pytest.raises(ValueError, match="'up_blocks' is no block of"):
        scale_blocks(part, {"up_blocks": 0.5})
    longer = load_motion_module(tmp_path / "a.safetensors", positions=PositionOptions(stretch=16))
    tables = [v for k, v in longer.whole_state().items() if k.endswith(".pe")]
    assert {v.shape[1] for v in tables} == {48} and longer.to_adapter().config.motion_max_seq_length == 48
