"""Every kind of file with every kind of damage: the right kind, or the right sentence, and never silence."""

import copy
import json
import random
import struct
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.formats.files import SDXL, adapter, same_state, to_ldm, to_original, unet2d, write
from tests.formats.published import encoder_state
from tests.formats.test_kinds import in_its_names
from unet_motion import inspect_file, load_motion_module, load_unet
from unet_motion.config.adapter import MotionAdapterConfig
from unet_motion.files.checking import shapes_of
from unet_motion.files.reading import open_tensors
from unet_motion.formats import BadWeightsError, FileFormatError, KeyMismatchError
from unet_motion.formats.shapes import adapter_shapes

FOUR, THREE = {"block_out_channels": (32, 32, 64, 64)}, {"block_out_channels": (32, 64, 64)}
MOTION = {
    "v1": {**FOUR, "motion_max_seq_length": 24, "use_motion_mid_block": False},
    "v2": FOUR,
    "v3": {**FOUR, "use_motion_mid_block": False},
    "sdxl": {**THREE, "use_motion_mid_block": False},
    "hotshot": {**THREE, "use_motion_mid_block": False, "motion_max_seq_length": 24},
    "lcm": FOUR,
    "lcm_i2v": FOUR,
    "pia": {**FOUR, "use_motion_mid_block": False, "conv_in_channels": 9},
}


def motion_file(kind):
    state = dict(adapter(**MOTION[kind]).state_dict())
    if kind == "lcm_i2v":
        state |= encoder_state(FOUR["block_out_channels"])
    return in_its_names(kind, state)


def unet_motion():
    import diffusers

    return dict(diffusers.UNetMotionModel.from_unet2d(unet2d(), adapter()).state_dict())


FILES = {
    **{kind: (lambda kind=kind: motion_file(kind), load_motion_module) for kind in MOTION},
    "motion_adapter": (lambda: dict(adapter().state_dict()), load_motion_module),
    "ldm_unet": (lambda: to_ldm(unet2d().state_dict(), 2), load_unet),
    "sdxl unet": (lambda: to_ldm(unet2d(**SDXL).state_dict(), 2), load_unet),
    "inpaint unet": (lambda: to_ldm(unet2d(in_channels=9).state_dict(), 2), load_unet),
    "unet2d": (lambda: dict(unet2d().state_dict()), load_unet),
    "unet_motion": (unet_motion, load_unet),
    "training checkpoint": (lambda: {**unet2d().state_dict(), **to_original(adapter().state_dict())}, load_unet),
}
STATES = {}


@pytest.fixture(params=FILES)
def kind(request):
    return request.param


@pytest.fixture
def state(kind):
    if kind not in STATES:
        STATES[kind] = FILES[kind][0]()
    return dict(STATES[kind])


@pytest.fixture
def load(kind):
    return FILES[kind][1]


def victim(state):
    """A matrix far from the start, whose name is in every kind."""
    return [key for key, value in state.items() if value.dim() == 2 and key.endswith("weight")][-1]


def weights(loaded):
    state = loaded.state_dict
    return state() if callable(state) else state


pytestmark = pytest.mark.filterwarnings("ignore:.*holds no position tables", "ignore:.*not used for the motion module")


def test_a_prefix_changes_nothing(tmp_path, state, load, kind):
    plain = load(write(tmp_path / "a.safetensors", state))
    moved = load(write(tmp_path / "b.safetensors", {"module." + key: value for key, value in state.items()}))
    if load is load_unet:
        kept = {k: v for k, v in weights(plain).items() if kind in ("unet_motion", "training checkpoint") or
                ".motion_modules." not in k}  # fmt: skip
        assert all(torch.equal(weights(moved)[k], v) for k, v in kept.items()) and len(kept) > 100
    else:
        assert (moved.kind, moved.version, moved.norm_scopes) == (plain.kind, plain.version, plain.norm_scopes)
        assert same_state(weights(moved), weights(plain))
        if kind in MOTION:
            assert moved.kind == kind


def test_a_missing_key_is_named(tmp_path, state, load):
    key = victim(state)
    del state[key]
    with pytest.raises(FileFormatError, match="missing") as caught:
        load(write(tmp_path / "a.safetensors", state))
    assert str(caught.value).startswith(f"{tmp_path / 'a.safetensors'}: ") and "\n" not in str(caught.value)


def test_an_extra_key_is_named(tmp_path, state, load):
    place = victim(state).rpartition(".")[0]
    with pytest.raises(KeyMismatchError, match=r"1 not expected: .*mystery"):
        load(write(tmp_path / "a.safetensors", {**state, f"{place}.mystery": torch.zeros(2)}))


def test_a_wrong_width_is_named_with_both_shapes(tmp_path, state, load):
    key = victim(state)
    state[key] = state[key][:, :-8].clone()
    with pytest.raises(FileFormatError, match=r"a\.safetensors: .*\[\d+, \d+\].*expected") as caught:
        load(write(tmp_path / "a.safetensors", state))
    assert str(list(state[key].shape)) in str(caught.value)


def test_a_truncated_file_and_swapped_halves_are_no_model(tmp_path, state, load):
    whole = write(tmp_path / "a.safetensors", state).read_bytes()
    middle = len(whole) // 2
    (tmp_path / "cut.safetensors").write_bytes(whole[:middle])
    with pytest.raises(FileFormatError, match=r"cut\.safetensors: is truncated"):
        load(tmp_path / "cut.safetensors")
    (tmp_path / "swapped.safetensors").write_bytes(whole[middle:] + whole[:middle])
    with pytest.raises(FileFormatError, match=r"swapped\.safetensors: .*expected"):
        load(tmp_path / "swapped.safetensors")


def test_a_nan_is_named(tmp_path, state, load):
    key = victim(state)
    state[key] = state[key].clone()
    state[key][1, 2] = float("nan")
    with pytest.raises(BadWeightsError, match="holds 1 NaN or infinite") as caught:
        load(write(tmp_path / "a.safetensors", state))
    assert f"tensor {key} holds" in str(caught.value)


ODD = [
    None,
    -1,
    0,
    1,
    2**31,
    2**62,
    2**63,
    10**30,
    1.5,
    "F32",
    "F16",
    "BF16",
    "F31",
    [],
    [2],
    [0, 8],
    [8, 0],
    {},
    True,
    "\ud800",
]


def fuzzed(dice):
    """A small sound file with one to four defects in its header, its length or its end."""
    first = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    second = {"dtype": "F16", "shape": [2, 2], "data_offsets": [8, 16]}
    header = {"a": first, "b": second, "__metadata__": {"format": "pt"}}
    for _ in range(dice.randint(0, 2)):
        entry = header.get(dice.choice(list(header)))
        place = dice.choice(("dtype", "shape", "data_offsets", "other"))
        if isinstance(entry, dict):
            entry[place] = copy.deepcopy(dice.choice(ODD))
        if dice.random() < 0.2:
            header[dice.choice(("a", "c", "", "__metadata__"))] = copy.deepcopy(dice.choice(ODD))
    text = json.dumps(header).encode()
    if dice.random() < 0.02:
        text = b"{" + b'"a":[' * 20_000
    content = bytearray(struct.pack("<Q", len(text)) + text + bytes(dice.choice((0, 8, 15, 16, 16, 16, 17))))
    for _ in range(dice.randint(0, 2)):
        content[dice.randrange(len(content))] = dice.randrange(256)
    if dice.random() < 0.1:
        content[:8] = struct.pack("<Q", dice.choice((0, 1, len(content), 2**33, 2**63, 2**64 - 1)))
    return bytes(content[: dice.randint(0, len(content))] if dice.random() < 0.1 else content)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.integers(0, 2**32))
def test_ten_thousand_fuzzed_headers_are_read_within_the_file_or_refused(tmp_path_factory, seed):
    dice, path = random.Random(seed), tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    for _ in range(50):
        content = fuzzed(dice)
        path.write_bytes(content)
        try:
            source = open_tensors(path)
        except FileFormatError as error:
            assert str(error).startswith(f"{path}: ")
            continue
        stored = sum(info.numel * info.dtype.itemsize for info in source.infos.values())
        assert stored <= len(content) - 8
        for key in source.keys():
            try:
                assert source.read(key).shape == source.infos[key].shape
            except FileFormatError:  # NaN in the values, or a header that the format's own reader refuses
                pass


def test_inspect_reads_a_file_of_five_gigabytes_in_under_a_second(tmp_path):
    from unet_motion.formats.names.animatediff import original_names

    shapes = {n: s for key, s in adapter_shapes(MotionAdapterConfig()).items() for n in original_names(key)}
    header, end = {}, 0
    for name, shape in {**shapes, "first_stage_model.rest": (1 << 20, 1000)}.items():
        begin, end = end, end + 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    shapes_of.cache_clear()
    text = json.dumps(header).encode()
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    assert path.stat().st_size > 5e9
    start = time.process_time()
    info = inspect_file(path)
    assert time.process_time() - start < 1.0
    assert (info.version, info.loadable) == ("v2", True)
