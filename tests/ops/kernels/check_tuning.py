"""Tiles and warps that are read as data: they reach the launches, change no value, and bad files are refused."""

import importlib
import json

import pytest
import torch

pytest.importorskip("triton")

from poison import DEVICE

from unet_motion.bench.card import tuning as card
from unet_motion.bench.card.kernel_checks import reference
from unet_motion.bench.card.sizes import Level
from unet_motion.ops import tuning
from unet_motion.ops.feed_forward import geglu_kernel


class Launches:
    """Stands for a kernel and notes with which options it is launched."""

    def __init__(self, kernel):
        self.kernel, self.options = kernel, []

    def __getitem__(self, grid):
        def launch(*arguments, **options):
            self.options.append(options)
            return self.kernel[grid](*arguments, **options)

        return launch


KERNELS = {
    "float8": "_rounded",
    "freeu": "_concat",
    "geglu": "_geglu",
    "geglu_product": "_geglu_product",
    "group_norm": "_apply",
    "layer_norm": "_layer_norm",
    "residual_sum": "_residual_sum",
    "temporal_attention": "_attention",
}


FOLDERS = {
    "geglu": "feed_forward",
    "geglu_product": "feed_forward.product",
    "residual_sum": "residual",
    "temporal_attention": "attention",
}


@pytest.mark.parametrize("words,kernel", card.TRIED.items())
def test_every_choice_of_the_grid_reaches_the_launch_and_changes_no_value(words, kernel, monkeypatch):
    assert set(card.TRIED.values()) == set(tuning.PARAMETERS) == set(KERNELS)
    module = importlib.import_module(f"unet_motion.ops.{FOLDERS.get(kernel, kernel)}.triton")
    launches = Launches(getattr(module, KERNELS[kernel]))
    monkeypatch.setattr(module, KERNELS[kernel], launches)
    level = Level(32, 4, 1, 2)
    compared = reference(words, level, torch.float32, DEVICE, 3)
    tried = list(card.grid(kernel))
    assert len({tuple(use.items()) for use in tried}) == len(tried) >= 6
    # Interpreted, a group norm takes a second: the first choice and the last, which differ in everything.
    for use in (tried[0], tried[-1]):
        del launches.options[:]
        with tuning.choosing(kernel, **use) as asked:
            assert compared.as_exact(compared.error()), use
        assert asked and all(isinstance(size, int) for size in asked[-1].values())
        (options,) = launches.options
        assert options["num_warps"] == use["num_warps"]
        for name in set(use) & {"ROWS", "PIECE", "TILE", "DEPTH", "num_stages"}:
            assert options[name] == use[name]
        assert options.get("BLOCK", 0) <= use.get("BLOCK", options.get("BLOCK", 0))
    monkeypatch.setattr(module, KERNELS[kernel], launches.kernel)
    assert compared.as_exact(compared.error()), "with the launcher's own"


def test_a_file_of_the_devices_capability_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    monkeypatch.setattr(tuning, "capability", lambda device: "9.0")
    for cached in (tuning._found, tuning._table):
        cached.cache_clear()
    entry = {"kernel": "geglu", "dtype": "float16", "sizes": {"width": 1280}, "use": {"ROWS": 4, "num_warps": 8}}
    card.write(tmp_path / "9.0.json", [{**entry, "times as fast": 1.2}])
    cuda = torch.device("cuda", 0)
    assert tuning.tuned("geglu", cuda, torch.float16, width=1280) == {"ROWS": 4, "num_warps": 8}
    assert tuning.warps(tuning.tuned("geglu", cuda, torch.float16, width=1280)) == {"num_warps": 8}
    for other in (
        tuning.tuned("geglu", cuda, torch.float16, width=640),
        tuning.tuned("geglu", cuda, torch.bfloat16, width=1280),
        tuning.tuned("layer_norm", cuda, torch.float16, width=1280),
        tuning.tuned("geglu", torch.device("cpu"), torch.float16, width=1280),
    ):
        assert other == {} and tuning.warps(other) == {}
    for cached in (tuning._found, tuning._table):
        cached.cache_clear()


@pytest.mark.parametrize(
    "entries,message",
    [
        ([{"kernel": "magic", "dtype": "float16", "sizes": {}, "use": {}}], "kernel 'magic' is unknown"),
        ([{"kernel": "geglu", "dtype": "float16", "sizes": {}, "use": {"TILE": 4}}], "geglu has no 'TILE'"),
        ([{"kernel": "geglu", "dtype": "float16", "sizes": {}, "use": {"ROWS": 3}}], "ROWS of geglu is 3, expected a"),
        (
            [{"kernel": "geglu_product", "dtype": "float16", "sizes": {}, "use": {"num_stages": 9}}],
            "num_stages of geglu_product is 9, expected a whole number from 1 to 8",
        ),
        (
            [{"kernel": "geglu_product", "dtype": "float16", "sizes": {}, "use": {"num_stages": True}}],
            "num_stages of geglu_product is True, expected a whole",
        ),
        (
            [{"kernel": "geglu_product", "dtype": "float16", "sizes": {}, "use": {"num_warps": 3}}],
            "num_warps of geglu_product is 3, expected a power of two",
        ),
        ([{"kernel": "geglu", "dtype": "float16", "sizes": {}, "use": {"num_warps": 64}}], "a power of two up to 32"),
        ([{"kernel": "geglu", "dtype": "float16", "sizes": {}, "use": {"ROWS": 2**70}}], "a power of two up to 4096"),
        ([{"kernel": "geglu", "dtype": "float16", "sizes": {}, "use": {"ROWS": True}}], "ROWS of geglu is True"),
        ([{"kernel": "geglu", "dtype": "float16", "sizes": {}, "use": {"ROWS": 2.0}}], "ROWS of geglu is 2.0"),
        ([{"kernel": "geglu", "dtype": "half", "sizes": {"width": 8}, "use": {}}], "dtype is 'half', expected one of"),
        ([{"kernel": "geglu", "dtype": "float16", "sizes": {"height": 8}, "use": {}}], "whole numbers named width"),
        ([{"kernel": "geglu", "dtype": "float16", "sizes": {"width": 0}, "use": {}}], "whole numbers named width"),
        ([{"kernel": "geglu", "dtype": "float16", "sizes": {"width": True}, "use": {}}], "whole numbers named width"),
        ([{"kernel": ["geglu"], "dtype": "float16", "sizes": {}, "use": {}}], "is unknown; expected one of"),
        ([{"kernel": "geglu"}], "entry 1: expected a list of entries"),
        ([7], "entry 1: expected a list of entries"),
        ({"kernel": "geglu"}, "expected a list of entries"),
        ({}, "expected a list of entries"),
        ("", "expected a list of entries"),
    ],
)
def test_bad_files_are_refused(entries, message, tmp_path):
    path = tmp_path / "9.0.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=message) as error:
        tuning.read(path)
    assert "9.0.json" in str(error.value)


BROKEN = (b"{", b"\xff[]", b"[" * 10**5, b"[" + b"9" * 5000 + b"]", b"")


@pytest.mark.parametrize("text", BROKEN, ids=["cut", "no text", "deep", "a long number", "empty"])
def test_a_damaged_file_is_refused_and_stops_no_step(text, tmp_path, monkeypatch, caplog):
    path = tmp_path / "9.0.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"9\.0\.json: expected a list of entries"):
        tuning.read(path)
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    monkeypatch.setattr(tuning, "capability", lambda device: "9.0")
    for cached in (tuning._found, tuning._table):
        cached.cache_clear()
    for width in (8, 16):
        assert tuning.tuned("geglu", torch.device("cuda", 0), torch.float16, width=width) == {}
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "9.0.json" in record.getMessage()
    for cached in (tuning._found, tuning._table):
        cached.cache_clear()


@pytest.mark.parametrize("words,kernel", card.TRIED.items())
def test_each_number_alone_may_be_chosen_up_to_large_ones(words, kernel):
    """An entry need not name all of them."""
    compared = reference(words, Level(32, 4, 1, 2), torch.float32, DEVICE)
    for name in tuning.PARAMETERS[kernel]:
        value = 4 if name.startswith("num") else tuning.MOST.get(name, 64 if kernel == "geglu_product" else 4096)
        with tuning.choosing(kernel, **{name: value}):
            assert compared.as_exact(compared.error()), name


def test_the_files_that_come_along_can_be_read():
    for path in tuning.FOLDER.glob("*.json"):
        assert tuning.read(path)
    assert geglu_kernel(torch.randn(3, 8, device=DEVICE)).shape == (3, 4)
