"""How much a header may ask: names, ranks and counts are bounded, and errors are one line whatever a file holds."""

import json
import struct
import time

import pytest
import torch

from tests.formats.files import adapter, to_original, unet2d, write
from unet_motion import UNetMotionModel, apply_motion_lora, load_motion_module
from unet_motion.files import limits, safetensors_header
from unet_motion.files.errors import name_some, one_line, shorten
from unet_motion.files.reading import open_tensors
from unet_motion.formats import FileFormatError
from unet_motion.formats.names.keys import prefix_before
from unet_motion.lora.names import strip


def header(path, content, data=b""):
    text = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"down_blocks.0.motion_modules" + ".1" * 40_000: EMPTY}, r"name is 80028 characters and 40003 parts long"),
        ({"a" * 501: EMPTY}, r"expected at most 500 characters and 40 parts"),
        ({"a": {**EMPTY, "shape": [2**62] * 100_000}}, "expected dtype, shape and data_offsets"),
        ({"a": {**EMPTY, "shape": [1] * 9}}, r"a has 9 dimensions, expected at most 8"),
        ({"a": {**EMPTY, "shape": [2**62, 2**62, 0]}}, r"expected fewer than 2\*\*63 values"),
        ({f"a.{i}": EMPTY for i in range(25_001)}, "names more than 25000 tensors"),
        ({f"{i}{'a' * 490}": EMPTY for i in range(6000)}, "by more than 2500000 letters together"),
        ({"a\x1b[31m": EMPTY}, "expected characters that can be printed"),
        ({"__metadata__": {"a": [1]}}, "the entry a of its __metadata__ is .*expected a text"),
        ({"a" * 40 + ".a" * 40: EMPTY}, "name is 120 characters and 41 parts long"),
        ({"__metadata__": {str(i): "" for i in range(10_001)}}, "has a header that is not JSON"),
        ('{"a":' + json.dumps(EMPTY) + ',"a":' + json.dumps(EMPTY) + "}", "names the tensor a twice"),
        ('{"a":' + json.dumps(EMPTY) + "}}", "has a header that is not JSON"),
        ('{"a":' + json.dumps(EMPTY) + ",}", "has a header that is not JSON"),
        ('{"a":[' * 100_000, "the header entry of a is"),
    ],
)
def test_what_no_model_has_is_refused(tmp_path, content, sentence):
    start = time.process_time()
    with pytest.raises(FileFormatError, match=sentence) as caught:
        open_tensors(header(tmp_path / "a.safetensors", content))
    assert time.process_time() - start < 1
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [
        {"a" * 500: EMPTY},
        {"a" * 40 + ".a" * 39: EMPTY},
        {"a": {**EMPTY, "shape": [1] * 7 + [0]}},
        {str(i): EMPTY for i in range(25_000)},
        {"__metadata__": {str(i): "" for i in range(10_000)}, "a": EMPTY},
    ],
    ids=["letters", "parts", "rank", "tensors", "metadata"],
)
def test_a_header_at_the_bound_is_read(tmp_path, content):
    source = open_tensors(header(tmp_path / "a.safetensors", content))
    metadata = content.pop("__metadata__", {})
    assert source.metadata == metadata and set(source.keys()) == set(content)


def test_a_header_is_read_as_json_reads_it(tmp_path):
    """With spaces, escapes, metadata at either end, and its padding: the same as the format's own reader."""
    from safetensors import safe_open

    state = {"a.weight": torch.randn(2, 3), 'ü " \\ {}': torch.arange(4), "b": torch.zeros(()), "c": torch.zeros(0, 5)}
    write(tmp_path / "a.safetensors", state, note='{"} "', other="\\ ü")
    raw = (tmp_path / "a.safetensors").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    content = json.loads(raw[8 : 8 + length])
    content["__metadata__"] = content.pop("__metadata__")
    for text in (json.dumps(content, indent=3), json.dumps(content) + "   ", raw[8 : 8 + length].decode()):
        path = header(tmp_path / "b.safetensors", text, raw[8 + length :])
        source = open_tensors(path)
        assert source.metadata == {"note": '{"} "', "other": "\\ ü"}
        with safe_open(path, "pt") as theirs:
            assert set(source.keys()) == set(theirs.keys()) == set(state)
            assert all(torch.equal(source.read(name), theirs.get_tensor(name)) for name in state)


def test_an_error_is_one_line_with_the_files_name(tmp_path):
    text = str(FileFormatError(f"/models/a.ckpt: holds {'x' * 5000}\n\x1b[31m\ud800, expected y."))
    assert text.startswith("/models/a.ckpt: holds x") and text.endswith("expected y.")
    assert len(text) < 600 and text.isprintable() and "\\x1b[31m\\ud800" in text
    long = str(FileFormatError(f"/{'long/' * 200}name.ckpt: holds {'x' * 5000}, expected y."))
    assert "/name.ckpt: holds" in long and len(long) < 600
    assert str(FileFormatError("a.ckpt: is empty.")) == "a.ckpt: is empty."
    assert shorten("a" * 300 + "b", 9) == "aaaa...ab" and shorten("short") == "short"
    assert len(name_some(["n" * 10_000] * 9)) < 450


def test_prefixes_are_stripped_in_one_pass():
    names = ["model.module._orig_mod." * 40_000 + "to_q.weight"]
    start = time.process_time()
    assert strip("module._orig_mod.unet." * 40_000 + "to_q") == "to_q"
    assert prefix_before(names, "to_q.weight") == names[0].removesuffix("to_q.weight")
    assert prefix_before(["other." + names[0]], "to_q.weight") is None
    assert time.process_time() - start < 0.5


@pytest.fixture(scope="module")
def model():
    return UNetMotionModel.from_unet2d(unet2d(), adapter())


LAYER = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q"


def lora(path, down=(2, 32), up=(32, 2), dtype=torch.float32, metadata=None, **more):
    state = {f"unet.{LAYER}.lora_A.weight": torch.ones(down).to(dtype), f"unet.{LAYER}.lora_B.weight": torch.ones(up)}
    state |= {f"unet.{LAYER}.{name}": value for name, value in more.items()}
    return write(path, state, **({"lora_adapter_metadata": json.dumps(metadata)} if metadata else {}))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"down": (0, 32), "up": (32, 0)}, r"has shape \[0, 32\] .*none of them 0"),
        ({"down": (32,), "up": (32, 2)}, r"has shape \[32\]"),
        ({"dtype": torch.int64}, "dtype int64, expected floating-point numbers"),
        ({"alpha": torch.tensor(3e38)}, r"the value 3.*expected one number of at most 1e\+06"),
        ({"alpha": torch.ones(2)}, r"has shape \[2\] .*expected one number"),
        ({"alpha": torch.tensor(float("nan"))}, "NaN or infinite"),
        ({"alpha": torch.tensor(1j)}, "expected one number"),
        ({"metadata": {"lora_alpha": [4]}}, r"has \[4\] as lora_alpha, expected a number"),
        ({"metadata": {"lora_alpha": 1e39}}, r"has 1e\+39 as lora_alpha"),
        ({"metadata": {"lora_alpha": float("nan")}}, "NaN is no number"),
        ({"metadata": {"lora_alpha": 4, "alpha_pattern": ["to_q"]}}, "has a list as alpha_pattern, expected an object"),
        ({"metadata": {"lora_alpha": 4, "alpha_pattern": {"to_q": "8"}}}, "has '8' as to_q"),
    ],
)
def test_loras_that_cannot_be_meant(tmp_path, model, given, sentence):
    with pytest.raises(FileFormatError, match=rf"a\.safetensors: .*{sentence}"):
        apply_motion_lora(model, lora(tmp_path / "a.safetensors", **given))


def test_peft_scales_are_those_of_the_first_fitting_pattern(tmp_path, model):
    from unet_motion.lora.names import read_lora

    for patterns, alpha in (({}, 4), ({"to_q": 8}, 8), ({"attn1.to_q": 6, "to_q": 8}, 6), ({"q": 8, "to_k": 9}, 4)):
        path = lora(tmp_path / "a.safetensors", metadata={"lora_alpha": 4, "alpha_pattern": patterns})
        tensors, _ = read_lora(open_tensors(path))
        assert tensors[f"{LAYER}.alpha"] == alpha, patterns


def test_names_at_the_bounds_are_read(tmp_path):
    state = {f"module.{name}": value for name, value in to_original(adapter().state_dict()).items()}
    state["x." * 38 + "y" * 400] = torch.zeros((1,) * 8)
    with pytest.warns(UserWarning, match="1 tensors that belong to nothing known"):
        assert load_motion_module(write(tmp_path / "a.safetensors", state)).config.block_out_channels == (32, 64)


def test_a_header_is_as_long_as_it_may_be_or_refused_unread(tmp_path, monkeypatch):
    path = header(tmp_path / "a.safetensors", {"a": EMPTY})
    length = path.stat().st_size - 8
    monkeypatch.setattr(safetensors_header, "_MAX_HEADER", length)
    assert list(safetensors_header.read_header(path)[0]) == ["a"]
    monkeypatch.setattr(safetensors_header, "_MAX_HEADER", length - 1)
    with pytest.raises(FileFormatError, match=f"announces a header of {length} bytes, .*of at most {length - 1}"):
        safetensors_header.read_header(path)


def test_an_errors_path_is_cut_at_its_beginning_and_its_words_in_the_middle():
    assert one_line(f"{'p' * 280}: is bad") == f"{'p' * 280}: is bad"
    assert one_line(f"q{'p' * 280}: is bad") == f"...{'p' * 277}: is bad"
    assert one_line("a: " + "b" * 587) == "a: " + "b" * 587
    long = "a: " + "b" * 288 + "c" * 300
    assert one_line(long) == f"{long[:295]}...{long[-292:]}" and len(one_line(long)) == 590
    assert one_line("a: \x1b\u2028\n") == "a: \\x1b\\u2028\\n"


@pytest.mark.parametrize("size", [0, 7, 8, 9, 100])
def test_of_a_file_that_is_too_long_one_byte_too_many_is_read(tmp_path, size):
    file = tmp_path / "config.json"
    file.write_bytes(b"x" * size)
    assert len(limits.read_bounded(file, 8)) == min(size, 9)


def test_an_object_may_be_as_long_as_the_bound_and_no_longer():
    text = b'{"model_type": "x"' + b" " * 30
    assert limits.parse_object(text[:39] + b"}", "config.json", 40) == {"model_type": "x"}
    with pytest.raises(FileFormatError, match="config.json is 41 characters long, expected at most 40"):
        limits.parse_object(text[:40] + b"}", "config.json", 40)
