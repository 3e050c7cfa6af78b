"""What a file says of itself is compared with its tensors, by type and range, before a model is built."""

import json
import time
from collections import Counter

import pytest
import torch

from tests.formats.files import adapter, to_original, unet2d, write
from unet_motion import UNetMotionConfig, UNetMotionModel, inspect_file, load_motion_module, load_unet
from unet_motion.files.claims import _layers
from unet_motion.files.description import ADAPTER_KEY, DESCRIPTION_KEY, description_tensor
from unet_motion.formats import FileFormatError

ADAPTER = {"block_out_channels": [32, 64], "motion_max_seq_length": 32}


def described(path, state, **config):
    return write(path, state, **{DESCRIPTION_KEY: json.dumps({ADAPTER_KEY: {**ADAPTER, **config}})})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"motion_layers_per_block": 800}, "`motion_layers_per_block` must hold whole numbers of at most 64"),
        ({"motion_layers_per_block": 60}, r"describes a model of \d+ layers, but it holds \d+ tensors"),
        ({"motion_transformer_layers_per_block": 250}, r"describes a model of \d+ layers"),
        ({"motion_layers_per_block": 2**31}, "at most 64, found 2147483648"),
        ({"block_out_channels": [10**9, 10**9]}, "at most 65536, found 1000000000"),
        ({"block_out_channels": [32] * 40}, "at most 16 entries, one per block"),
        ({"block_out_channels": "wide"}, "`block_out_channels` is 'wide', expected a list of whole numbers"),
        ({"use_motion_mid_block": "no"}, "`use_motion_mid_block` is 'no', expected True or False"),
        ({"motion_max_seq_length": 10**6}, r"expected \[1, 1000000, 32\]"),
        ({"motion_norm_scope": "video"}, "`motion_norm_scope` is 'video', expected 'frame' or 'clip'"),
        ({"_use_default_values": 5}, "`_use_default_values` is 5, expected a list of names"),
    ],
)
def test_a_description_that_its_tensors_cannot_be(tmp_path, change, sentence):
    path = described(tmp_path / "a.safetensors", to_original(adapter().state_dict()), **change)
    start = time.process_time()
    with pytest.raises(FileFormatError, match=rf"a\.safetensors: .*{sentence}"):
        load_motion_module(path)
    info = inspect_file(path)
    assert not info.loadable and (info.problem or info.mismatched)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"time_cond_proj_dim": [0]}, r"`time_cond_proj_dim` must hold whole numbers of at least 1, found \[0\]"),
        ({"transformer_layers_per_block": float("nan")}, "NaN is no number"),
        ({"in_channels": -4}, "`in_channels` must hold whole numbers of at least 1, found -4"),
        ({"down_block_types": 7}, "`down_block_types` is 7, expected a list of names"),
        ({"down_block_types": [["CrossAttnDownBlock2D"], {}]}, "`down_block_types` holds "),
        ({"norm_eps": "small"}, "`norm_eps` is 'small', expected a number from 0 to 1"),
        ({"layers_per_block": 64}, r"describes a model of \d+ layers"),
        ({"sample_size": {}}, "`sample_size` must hold whole numbers"),
    ],
)
def test_a_config_that_describes_no_such_unet(tmp_path, change, sentence):
    unet = unet2d()
    unet.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(FileFormatError, match=sentence) as caught:
        load_unet(tmp_path)
    assert str(tmp_path) in str(caught.value) and len(str(caught.value)) < 600
    with pytest.raises(FileFormatError):
        UNetMotionModel.from_pretrained(tmp_path)


def test_the_layers_of_a_description_are_those_of_its_model():
    model = UNetMotionModel(
        block_out_channels=(8, 16), layers_per_block=(1, 2), norm_num_groups=4, cross_attention_dim=12,
        num_attention_heads=2, motion_num_attention_heads=2, transformer_layers_per_block=(2, 3),
        temporal_transformer_layers_per_block=(1, 2),
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
    )  # fmt: skip
    count = Counter(type(module).__name__ for module in model.modules())
    motion = count["MotionModule"] + count["MotionTransformerBlock"]
    # The middle has one resnet more than it has transformers.
    assert _layers(model.config) == motion + count["ResnetBlock"] - 1 + count["BasicTransformerBlock"] == 41
    assert _layers(model.motion_adapter_config()) == motion == 23


def test_tables_that_a_file_does_not_hold_are_computed_within_bounds(tmp_path):
    bare = {k: v for k, v in to_original(adapter().state_dict()).items() if not k.endswith(".pe")}
    module = load_motion_module(described(tmp_path / "a.safetensors", bare, motion_max_seq_length=500))
    assert module.config.motion_max_seq_length == 500
    with pytest.raises(FileFormatError, match="asks for position tables of 1000000 rows, which it does not hold"):
        load_motion_module(described(tmp_path / "b.safetensors", bare, motion_max_seq_length=10**6))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"motion_adapter": 5}', "its description has a int as motion_adapter"),
        ('{"motion_adapter": {"motion_max_seq_length": ' + "9" * 5000 + "}}", "is not JSON"),
        ("[]", "holds a list, expected a JSON object"),
        ("{" + " " * 2**21 + "}", "characters long, expected at most 1048576"),
    ],
)
def test_damaged_descriptions(tmp_path, text, sentence):
    path = write(tmp_path / "a.safetensors", to_original(adapter().state_dict()), **{DESCRIPTION_KEY: text})
    for read in (load_motion_module, inspect_file):
        with pytest.raises(FileFormatError, match=rf"a\.safetensors: .*{sentence}"):
            read(path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers(tmp_path, dtype):
    state = {k: v.to(dtype) for k, v in to_original(adapter().state_dict()).items()}
    path, name = write(tmp_path / "a.safetensors", state), str(dtype).removeprefix("torch.")
    with pytest.raises(FileFormatError, match=rf"tensor .* is stored as {name}, expected floating-point weights"):
        load_motion_module(path)
    info = inspect_file(path)
    assert not info.loadable and f"is stored as {name}" in info.problem


def test_tables_of_two_dtypes_are_compared(tmp_path):
    state = to_original(adapter().state_dict())
    first = next(name for name in state if name.endswith("attention_blocks.0.pos_encoder.pe"))
    for dtype in (torch.float8_e4m3fn, torch.float16):
        path = write(tmp_path / "a.safetensors", {**state, first: state[first].to(dtype)})
        with pytest.raises(FileFormatError, match=r"pos_encoder\.pe and .* differ, expected one position table"):
            load_motion_module(path)


def test_weights_of_too_few_dimensions_and_without_the_first_layer(tmp_path):
    state = dict(unet2d().state_dict())
    flat = {**state, "down_blocks.0.resnets.0.conv1.weight": state["down_blocks.0.resnets.0.conv1.weight"].flatten()}
    with pytest.raises(FileFormatError, match=r"conv1\.weight has shape \[9216\], expected 4 dimensions"):
        load_unet(write(tmp_path / "a.safetensors", flat))
    del state["conv_in.weight"]
    with pytest.raises(FileFormatError, match=r"tensor conv_in\.weight is missing"):
        load_unet(write(tmp_path / "b.safetensors", state))


def test_every_field_refuses_every_other_type():
    """Each field with each odd value: its name and the value, or a configuration whose field has it."""
    numbers = (True, -1, 2**40, 1.5, float("nan"), float("inf"))
    odd = (None, *numbers, "a", [], [-1], [[[1]]], ["a"], {}, [1] * 20, object())
    for name in UNetMotionConfig.field_names():
        for value in odd:
            try:
                config = UNetMotionConfig(**{name: value})
            except ValueError as error:
                assert name.removeprefix("reverse_").removesuffix("s") in str(error) and len(str(error)) < 500
            else:
                assert config[name] == (tuple(value) if isinstance(value, list) else value), name


def test_a_description_as_a_tensor_of_another_kind(tmp_path):
    model = UNetMotionModel(block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16,
                            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
                            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"))  # fmt: skip
    good = description_tensor({"unet": model.config.to_dict()})
    path = write(tmp_path / "a.safetensors", {**model.state_dict(), DESCRIPTION_KEY: good})
    assert load_unet(path).config == model.config
    for bad in (good.float(), good[None], torch.zeros(2**21, dtype=torch.uint8), good[:-3]):
        with pytest.raises(FileFormatError, match="its tensor unet_motion is damaged"):
            load_unet(write(tmp_path / "b.safetensors", {**model.state_dict(), DESCRIPTION_KEY: bad}))
