"""What a run on a card concludes from what it measures."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from unet_motion.bench import kernel_cases
from unet_motion.bench.card import kernel_checks, tuning
from unet_motion.bench.card.bundled import beside
from unet_motion.bench.card.kernel_checks import reference
from unet_motion.bench.card.profile import summary
from unet_motion.bench.card.sizes import REAL, REHEARSAL, Level
from unet_motion.bench.card.stages import Card, Found
from unet_motion.bench.card.timing import milliseconds
from unet_motion.bench.measure import Ceilings
from unet_motion.ops.comparison import maker

CPU = torch.device("cpu")
LEVEL = Level(32, 4, 1, 2)


def with_kernel(monkeypatch, change):
    """GEGLU's pair with a kernel that gives the plain twin's result, changed."""
    name, pair_of = kernel_cases.PAIRS["GEGLU"]

    def pair(*given):
        made = pair_of(*given)
        return replace(made, kernel=lambda: change(made.plain()))

    monkeypatch.setitem(kernel_cases.PAIRS, "GEGLU", (name, pair))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_kernel_is_as_exact_as_its_twin_or_not(monkeypatch, dtype):
    def verdict(change):
        with_kernel(monkeypatch, change)
        compared = reference("GEGLU", LEVEL, dtype, CPU, padding=3)
        assert 0 < compared.twin < 4 * torch.finfo(dtype).eps
        return compared.as_exact(compared.error())

    assert verdict(lambda plain: plain)
    monkeypatch.undo()
    assert not verdict(lambda plain: plain * (1 + 16 * torch.finfo(dtype).eps))
    monkeypatch.undo()

    def with_one_nan(plain):
        plain = plain.clone()
        plain.view(-1)[-1] = float("nan")
        return plain

    assert not verdict(with_one_nan)


def test_input_is_the_same_in_float64_and_between_poison():
    plain, exact, poisoned = (
        maker(1, torch.bfloat16, CPU, **kind)(3, 5, 6) for kind in ({}, {"double": True}, {"padding": 2})
    )
    assert torch.equal(exact, plain.double()) and torch.equal(poisoned, plain) and poisoned.stride() == (50, 10, 1)
    whole = poisoned.as_strided((3, 5, 10), (50, 10, 1), 0)
    assert whole[..., :2].isnan().all() and whole[..., -2:].isnan().all()
    assert not torch.equal(maker(2, torch.bfloat16, CPU)(3, 5, 6), plain)


def test_a_kernels_row_has_the_share_of_the_copys_rate(monkeypatch, tmp_path):
    monkeypatch.setattr(kernel_checks, "declines", lambda *_: None)
    with_kernel(monkeypatch, lambda plain: plain)
    card = Card(CPU, replace(REHEARSAL, repeats=3), tmp_path)
    card.kept["ceilings"] = Ceilings(1.0, 1e9)
    row = {}
    kernel_checks.check(card, row, "GEGLU", LEVEL, torch.float32)
    moved = 4 * 3 * (2 * 16) * (4 * 32)  # frames x pixels, half of 8 x channels; one value, one gate, one result
    assert row["of the copy's rate"] == pytest.approx(moved / (row["ms"] * 1e-3) / 1e9)
    assert row["as exact"] and row["plain ms"] > 0
    with_kernel(monkeypatch, lambda plain: plain * 2)
    row = {}
    kernel_checks.check(card, row, "GEGLU", LEVEL, torch.float32)
    assert row["as exact"] is False and "ms" not in row


def test_tuning_takes_the_fastest_choice_that_is_worth_it_and_gives_the_same_values(monkeypatch, tmp_path):
    """A kernel that takes a millisecond for each of its rows, and gives other values with 16 of them."""
    from unet_motion.ops.tuning import read, tuned

    used = []

    def slow(plain):
        used.append(tuned("geglu", CPU, plain.dtype, width=plain.shape[-1]).get("ROWS", 8))
        return plain * (2 if used[-1] == 16 else 1)

    def clock(works, device, repeats):
        works[0]()
        return float(used[-1])

    with_kernel(monkeypatch, slow)
    monkeypatch.setattr(tuning, "milliseconds", clock)
    monkeypatch.setattr(tuning, "declines", lambda *_: None)
    monkeypatch.setattr(tuning, "TRIED", {"GEGLU": "geglu"})
    for choices, best in (((16, 4, 2), 2), ((16,), None), ((8, 32), None)):
        monkeypatch.setattr(tuning, "grid", lambda _, choices=choices: ({"ROWS": rows} for rows in choices))
        card, found = Card(CPU, replace(REHEARSAL, tries=None, levels=(LEVEL,), repeats=3), tmp_path), Found("", "")
        tuning.stage(card, found)
        entries = read(tmp_path / "tuned-rehearsal.json")
        key = ("geglu", "float32", (("width", 128),))
        assert entries == ({key: {"ROWS": best}} if best else {})
        assert found.rows[0]["tried"] == len([rows for rows in choices if rows != 16])
        assert ("failed" in found.rows[0]) == (16 in choices)


@pytest.mark.parametrize("apart,best", [(2.0, None), (2.03, None), (2.05, 2), (9.0, 2)])
def test_what_takes_the_place_of_other_launches_has_to_be_faster_than_those(monkeypatch, tmp_path, apart, best):
    """The fastest choice takes 2 ms, the launcher's own numbers 8; only beside the others it counts."""
    from unet_motion.ops.tuning import read, tuned

    words, sizes, used = "GEGLU inside the product", {"rows": 32, "depth": 32, "width": 128}, []
    name, pair_of = kernel_cases.PAIRS[words]

    def pair(*given):
        made = pair_of(*given)

        def kernel():
            used.append(tuned(name, CPU, torch.float32, **sizes).get("num_stages", 8))
            return made.plain()

        return replace(made, kernel=kernel, apart=lambda: used.append(apart) or made.plain())

    def clock(works, device, repeats):
        works[0]()
        return float(used[-1])

    monkeypatch.setitem(kernel_cases.PAIRS, words, (name, pair))
    monkeypatch.setattr(tuning, "milliseconds", clock)
    monkeypatch.setattr(tuning, "declines", lambda *_: None)
    monkeypatch.setattr(tuning, "TRIED", {words: name})
    monkeypatch.setattr(tuning, "grid", lambda _: ({"num_stages": stages} for stages in (4, 2, 3)))
    alone = replace(REHEARSAL, tries=None, levels=(LEVEL,), repeats=3, fewer=())
    card, found = Card(CPU, alone, tmp_path), Found("", "")
    tuning.stage(card, found)
    entries = read(tmp_path / "tuned-rehearsal.json")
    assert entries == ({(name, "float32", tuple(sorted(sizes.items()))): {"num_stages": best}} if best else {})
    assert found.rows[0]["own ms"] == 8 and found.rows[0]["apart ms"] == apart and found.rows[0]["best ms"] == 2


def test_what_runs_only_where_it_was_measured_is_tried_at_the_sizes_of_real_steps():
    """With guidance and without, pictures of 512 and of 256 pixels: each number of rows has an entry of its own."""
    tried = [tuning.tried_at("geglu_product", level, REAL) for level in REAL.levels]
    rows = [[size.clips * size.frames * size.side**2 for size in sizes] for sizes in tried]
    assert rows[0] == [16 * 64**2 * clips // part for clips, part in ((2, 1), (1, 1), (2, 4), (1, 4))]
    assert all(len(set(each)) == 4 for each in rows)
    assert all(
        size.channels == level.channels for sizes, level in zip(tried, REAL.levels, strict=True) for size in sizes
    )
    assert tuning.tried_at("geglu", REAL.levels[0], REAL) == [REAL.levels[0]]


def test_a_products_row_has_the_times_apart_and_its_share_of_the_products_rate(monkeypatch, tmp_path):
    words = "GEGLU inside the product"
    name, pair_of = kernel_cases.PAIRS[words]

    def pair(*given):
        made = pair_of(*given)
        return replace(made, kernel=made.plain, apart=made.plain)

    monkeypatch.setitem(kernel_cases.PAIRS, words, (name, pair))
    monkeypatch.setattr(kernel_checks, "declines", lambda *_: None)
    card, row = Card(CPU, replace(REHEARSAL, repeats=3), tmp_path), {}
    card.kept["ceilings"] = Ceilings(1e9, 1e9)
    kernel_checks.check(card, row, words, LEVEL, torch.float32)
    work = 2 * (2 * 16) * 32 * (8 * 32)  # frames x pixels, channels in and out
    assert row["of the product's rate"] == pytest.approx(work / (row["ms"] * 1e-3) / 1e9)
    moved = 4 * (32 * 32 + 32 * 256 + 256 + 32 * 128)
    assert row["of the copy's rate"] == pytest.approx(moved / (row["ms"] * 1e-3) / 1e9)
    assert row["as exact"] and row["apart ms"] > 0


def test_a_profile_adds_up():
    spans = [
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT", 1e6, 3e6),
        ("_geglu", 2e6, 4e6),  # beside the product, on another stream
        ("_layer_norm", 4.5e6, 5e6),
        ("Memcpy DtoD (Device -> Device)", 7e6, 8e6),
    ]
    assert summary(spans[::-1]) == {
        "ms": 7.0, "launches": 4, "gaps ms": 2.5, "GEMM": 2.0, "pointwise": 2.0, "copy": 1.0, "norm": 0.5,
    }  # fmt: skip
    assert summary([]) == {"result": "nothing was recorded"}


def test_clips_are_equal_within_a_level_of_grey():
    expected = np.full((2, 4, 4, 3), 255, np.uint8)
    near, far = expected.copy(), expected.copy()
    near[0, 0, 0, 0], far[1, 2, 3, 1] = 254, 0
    assert beside(expected, expected) == {
        "largest difference": 0, "pixels that differ": "0.000 %", "within rounding": True
    }  # fmt: skip
    assert beside(near, expected)["within rounding"] and beside(near, expected)["pixels that differ"] == "1.042 %"
    assert beside(far, expected)["largest difference"] == 255 and not beside(far, expected)["within rounding"]


def test_the_time_of_one_of_several_works():
    took = milliseconds([lambda: time.sleep(0.04)] * 5, CPU, repeats=3)
    assert 40 <= took < 150  # all five take 200


def test_real_sizes_are_those_of_sd15():
    assert [(level.channels, level.side) for level in REAL.levels] == [(320, 64), (640, 32), (1280, 16), (1280, 8)]
    assert {(level.clips, level.frames) for level in REAL.levels} == {(2, 16)}
    assert (REAL.batch, REAL.frames, REAL.sides) == (2, 16, (64, 32))
    assert REAL.step_dtypes == (torch.float16, torch.bfloat16) and len(REAL.dtypes) == 3
