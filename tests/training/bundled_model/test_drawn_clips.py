import math

import numpy as np
import pytest
import torch

from unet_motion.bundled.text import Tokenizer
from unet_motion.training.bundled_model import drawn_clips as data
from unet_motion.training.bundled_model.prompts import place_prompt, plain_prompt, vocabulary, write_prompts
from unet_motion.training.bundled_model.shapes import SHAPES, shape_distance


def one(shape="circle", colour="red", motion="still", **changes):
    triple = np.array([[SHAPES.index(shape), data.COLOUR_NAMES.index(colour), data.MOTIONS.index(motion)]])
    clip = data.sample_clips(np.random.default_rng(5), 1, triple)
    for name, value in changes.items():
        setattr(clip, name, torch.tensor([value], dtype=torch.float32))
    return clip


def centroid(coverage):
    """Centre of mass (F, 2) of coverage (1, F, 1, H, W), in pixels from the left and the top edge."""
    mass = coverage[0, :, 0]
    axis = torch.arange(mass.shape[-1]) + 0.5
    total = mass.sum((1, 2))
    return torch.stack([(mass.sum(1) * axis).sum(1) / total, (mass.sum(2) * axis).sum(1) / total], dim=1)


def test_equal_seeds_draw_equal_clips_and_others_do_not():
    first, again, other = (data.draw(data.sample_clips(np.random.default_rng(s), 6))[0] for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (6, 16, 3, 64, 64)
    assert 0 <= first.min() and first.max() <= 1


def test_one_triple_in_ten_is_held_out_and_every_word_keeps_partners():
    held, seen = data.triples(True), data.triples(False)
    assert len(held) + len(seen) == 512
    assert 48 <= len(held) <= 56
    assert not {tuple(t) for t in held} & {tuple(t) for t in seen}
    for column in range(3):
        assert np.bincount(seen[:, column], minlength=8).min() >= 50
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert len({(t[first], t[second]) for t in seen.tolist()}) == 64


def test_training_never_draws_a_held_out_triple():
    clips = data.sample_clips(np.random.default_rng(0), 5000)
    drawn = set(zip(clips.shape.tolist(), clips.colour.tolist(), clips.motion.tolist(), strict=True))
    assert len(drawn) > 450
    assert not [triple for triple in drawn if data.is_held_out(*triple)]


@pytest.mark.parametrize("motion, sign", [("left", (-1, 0)), ("right", (1, 0)), ("up", (0, -1)), ("down", (0, 1))])
def test_travel_follows_its_straight_path(motion, sign):
    clip = one("circle", motion=motion, radius=12.0, centre=(32.0, 32.0))
    _, coverage = data.draw(clip)
    length = clip.travel[0].abs().max().item()
    assert 24 <= length <= 31
    along = torch.linspace(-length / 2, length / 2, 16)
    expected = torch.stack([32 + along * sign[0], 32 + along * sign[1]], dim=1)
    assert (centroid(coverage) - expected).abs().max() < 0.05


@pytest.mark.parametrize("motion, sign", [("growing", 1), ("shrinking", -1), ("still", 0)])
def test_area_grows_exponentially(motion, sign):
    clip = one("square", motion=motion, radius=16.0, centre=(32.0, 32.0), angle=0.0)
    area = data.draw(clip)[1].sum((0, 2, 3, 4))
    slope = 2 * clip.growth.item() / 15
    assert math.copysign(1, slope) == sign or slope == sign == 0
    expected = area[0] * torch.exp(slope * torch.arange(16))
    assert ((area / expected) - 1).abs().max() < 0.01


def test_spinning_turns_a_fixed_picture_clockwise():
    clip = one("cross", motion="spinning", centre=(32.0, 32.0), angle=0.0, turn=math.pi)
    pictures, _ = data.draw(clip, torch.tensor([0.0, 0.5, 1.0]))
    assert (pictures[0, 1] - pictures[0, 0].rot90(-1, (1, 2))).abs().max() < 1e-3
    assert (pictures[0, 2] - pictures[0, 0].rot90(2, (1, 2))).abs().max() < 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_shows_its_orientation(shape):
    clip = one(shape, motion="spinning", centre=(32.0, 32.0), angle=0.0, turn=math.pi / 2)
    pictures, coverage = data.draw(clip, torch.tensor([0.0, 1.0]))
    both = coverage.amin(1)[0] > 0.99
    change = (pictures[0, 0] - pictures[0, 1]).abs().amax(0, keepdim=True)[both]
    assert change.mean() > 0.06


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_equals_counting_fine_samples(shape):
    clip = one(shape, radius=17.0, centre=(30.3, 33.7), angle=0.4)
    coverage = data.draw(clip, torch.zeros(1))[1][0, 0, 0].numpy()
    fine = (np.arange(64 * 5) + 0.5) / 5
    y, x = np.meshgrid(fine - 33.7, fine - 30.3, indexing="ij")
    cos, sin = math.cos(0.4), math.sin(0.4)
    local = np.stack([(cos * x + sin * y).ravel(), (cos * y - sin * x).ravel()], axis=1) / 17.0
    counted = (shape_distance(shape, local) < 0).reshape(64, 5, 64, 5).mean((1, 3))
    assert abs(coverage.sum() / counted.sum() - 1) < 0.02
    assert np.abs(coverage - counted).mean() < 0.004


def test_prompts_name_what_is_drawn_in_known_words():
    clips = data.sample_clips(np.random.default_rng(1), 400)
    tokenizer = Tokenizer(vocabulary())
    prompts = write_prompts(np.random.default_rng(2), clips)
    assert not [word for prompt in prompts for word in tokenizer.unknown_words(prompt)]
    assert len(set(prompts)) > 300
    plain = write_prompts(np.random.default_rng(2), clips, varied=0.0)
    triples = zip(clips.shape.tolist(), clips.colour.tolist(), clips.motion.tolist(), strict=True)
    assert plain == [plain_prompt(*triple) for triple in triples]
    assert plain_prompt(SHAPES.index("star"), 0, 0) == "a red star moving left"


@pytest.mark.parametrize("motion, start, end", [("left", "right", "left"), ("down", "up", "down")])
def test_place_prompts_say_where_a_frame_shows_the_shape(motion, start, end):
    clip = one("star", "blue", motion)
    assert place_prompt(clip, 0, 0.0) == f"a blue star {start}"
    assert place_prompt(clip, 0, 0.5) == "a blue star"
    assert place_prompt(clip, 0, 1.0) == f"a blue star {end}"
    assert not Tokenizer(vocabulary()).unknown_words(place_prompt(clip, 0, 0.0))
