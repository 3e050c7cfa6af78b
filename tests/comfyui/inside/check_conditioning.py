"""What ComfyUI's conditioning nodes make acts on our MODEL as on ComfyUI's own, and per frame."""

from __future__ import annotations

import pytest
import torch
from sampled import difference, models, noise, sample, text
from small import relative

import nodes as core_nodes

TOLERANCE = 1e-4
# Larger than an area may be at least, 64 pixels.
START = noise(2, size=(8, 16))


@pytest.fixture(scope="module")
def pair():
    return models()


@pytest.fixture(scope="module")
def moving():
    return models(active=True)[1]


@pytest.fixture(scope="module")
def plain(pair, moving):
    return [sample(model, start=START) for model in (*pair, moving)]


def node(name: str, *arguments):
    cls = getattr(core_nodes, name)
    return getattr(cls(), cls.FUNCTION)(*arguments)[0]


def mask(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(6))


def bounded() -> torch.Tensor:
    area = torch.zeros(1, 8, 16)
    area[:, :, 4:12] = 1
    return area


AREA, OTHER = (64, 64, 64, 0, 1.3), text(3, 5)
CASES = {
    "combined": lambda: node("ConditioningCombine", text(1), OTHER),
    "concatenated": lambda: node("ConditioningConcat", text(1), OTHER),
    "averaged": lambda: node("ConditioningAverage", text(1), OTHER, 0.3),
    "zeroed": lambda: node("ConditioningZeroOut", text(1)),
    "weaker beside another": lambda: node("ConditioningSetAreaStrength", text(1), 0.2) + OTHER,
    "area": lambda: node("ConditioningSetArea", OTHER, *AREA) + text(1),
    "area in percent": lambda: node("ConditioningSetAreaPercentage", OTHER, 0.5, 1.0, 0.25, 0.0, 0.8) + text(1),
    "mask": lambda: node("ConditioningSetMask", OTHER, mask(8, 16), "default", 1.0) + text(1),
    "mask with bounds": lambda: node("ConditioningSetMask", OTHER, bounded(), "mask bounds", 0.7) + text(1),
    "a mask per frame": lambda: node("ConditioningSetMask", OTHER, mask(2, 8, 16), "default", 1.0) + text(1),
    "two masks and an area": lambda: (
        node("ConditioningSetMask", OTHER, mask(8, 16), "default", 1.0)
        + node("ConditioningSetMask", text(4), 1 - mask(8, 16), "default", 1.0)
        + node("ConditioningSetArea", text(1), *AREA)
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_conditioning_acts_as_on_comfyuis_model(pair, moving, plain, case):
    run = {"start": START, "positive": CASES[case]()}
    core, ours, acting = (sample(model, **run) for model in (*pair, moving))
    assert relative(core, plain[0]) > 1e-3
    assert relative(ours, core) < TOLERANCE
    assert relative(acting, plain[2]) > 1e-3


def test_after_these_the_plain_conditioning_gives_what_it_gave(pair, plain):
    assert torch.equal(sample(pair[1], start=START), plain[1])


def test_a_mask_on_one_frame_leaves_the_others_text(pair, moving, plain):
    only_first = torch.zeros(2, 8, 16)
    only_first[0] = 1
    masked = node("ConditioningSetMask", OTHER, only_first, "default", 1.0) + text(1)
    changes = difference(sample(pair[1], start=START, positive=masked), plain[1])
    assert changes[0] > 1e-2 and changes[1] < TOLERANCE


def test_timed_conditioning_acts_in_its_range_only(pair, moving):
    def run(model, positive):
        seen = []
        out = sample(
            model, positive=positive, steps=3, frames=2, callback=lambda step, x0, x, total: seen.append(x0.clone())
        )
        return out, seen

    def timed():
        early = node("ConditioningSetTimestepRange", text(1), 0.0, 0.5)
        return early + node("ConditioningSetTimestepRange", OTHER, 0.5, 1.0)

    (core, _), (ours, _) = (run(model, timed()) for model in pair)
    assert relative(ours, core) < TOLERANCE
    (_, first), (_, both), (_, other) = (run(moving, positive) for positive in (text(1), timed(), OTHER))
    assert torch.equal(both[0], first[0])
    assert relative(both[0], other[0]) > 1e-3
    assert relative(both[2], first[2]) > 1e-4


def test_a_text_per_frame_gives_each_frame_what_its_text_gives_alone(pair, plain):
    texts = [text(seed) for seed in (1, 11)]
    together = sample(pair[1], start=START, positive=[[torch.cat([t[0][0] for t in texts]), {}]])
    assert difference(together, plain[1])[1] > 1e-2
    for row, own in enumerate(texts):
        alone = sample(pair[0], start=START[row : row + 1], positive=own)
        assert relative(together[row : row + 1], alone) < TOLERANCE


def test_the_text_of_one_frame_reaches_the_others_through_the_motion_modules(moving, plain):
    both = torch.cat([text(1)[0][0], text(11)[0][0]])
    changes = difference(sample(moving, start=START, positive=[[both, {}]]), plain[2])
    assert changes[1] > 1e-2 and changes[0] > 1e-4
