"""Kinds of noise against what they are defined to be."""

import math

import pytest
import torch

from unet_motion import ContextWindows, NoiseMix, free_noise
from unet_motion.sampling import (
    NOISES,
    SCHEDULES,
    clip_noise,
    frame_noise,
    free_noise_of,
    mix_noise,
    seed_apart,
    seeded_generator,
)

WINDOWS = ContextWindows(4, 1, schedule="standard_static")


def made(kind, frames=11, windows=WINDOWS, seed=3):
    return clip_noise(kind, seeded_generator(seed), (frames, 4, 3, 2), seed, windows)


def numbers(frames):
    """Noise that says for each frame whose it was."""
    return torch.arange(frames).float().view(-1, 1)


@pytest.mark.parametrize(
    ("frames", "length", "overlap"), [(40, 16, 4), (17, 16, 0), (16, 16, 3), (9, 4, 3), (50, 7, 2)]
)
def test_free_noise_repeats_the_noise_before_it_in_another_order(frames, length, overlap):
    noise = torch.randn(frames, 2, 3, 3)
    kept, found = noise.clone(), free_noise(noise, length, overlap, 5)
    assert torch.equal(noise, kept) and torch.equal(found[:length], noise[:length])
    hop = length - overlap
    for place in range(length, frames, hop):
        part, source = found[place : place + hop], found[place - length : place - length + hop]
        used = [next(i for i, row in enumerate(source) if torch.equal(row, frame)) for frame in part]
        assert len(set(used)) == len(used)
    assert torch.equal(found, free_noise(noise, length, overlap, 5))
    if frames > length + 3 and hop > 1:
        assert not torch.equal(found, free_noise(noise, length, overlap, 6))


def test_free_noise_refuses_an_overlap_of_the_whole_window():
    with pytest.raises(ValueError, match="`overlap` is 8, expected 0 to 7"):
        free_noise(torch.randn(20, 1), 8, 8, 0)


@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform", "batched"])
def test_free_noise_of_windows_with_one_overlap_is_free_noise(schedule):
    compared = 0
    for length, overlap in ((16, 4), (16, 0), (8, 7), (5, 2)):
        windows = ContextWindows(length, overlap, schedule=schedule)
        hop = length if schedule == "batched" else length - overlap
        for frames in range(1, 75):
            found = free_noise_of(numbers(frames), windows.windows(frames), 11)
            assert torch.equal(found, free_noise(numbers(frames), length, length - hop, 11)), (windows, frames)
            compared += 1
    assert compared > 200


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("step", [0, 1, 5])
def test_windows_of_any_schedule_start_from_the_noise_of_the_first(schedule, step):
    for length, overlap, stride in ((16, 4, 1), (16, 4, 3), (7, 3, 2), (6, 0, 1)):
        windows = ContextWindows(length, overlap, stride, schedule, closed_loop=schedule == "looped_uniform")
        for frames in (length, length + 1, 3 * length - 1, 60):
            lists = windows.windows(frames, step)
            found = [int(number) for number in free_noise_of(numbers(frames), lists, 2)]
            seen = set(lists[0])
            assert [found[frame] for frame in lists[0]] == lists[0]
            assert set(found) <= seen, "noise of a frame outside of the first window is left"
            for window in lists[1:]:
                new = [frame for frame in window if frame not in seen]
                # No noise comes in twice where the window has it already.
                held = {found[frame] for frame in window if frame in seen}
                assert len({found[frame] for frame in new} - held) == len(new)
                seen |= set(window)


def test_free_noise_of_odd_lists():
    assert torch.equal(free_noise_of(numbers(5), [], 0), numbers(5))
    alone = free_noise_of(numbers(6), [[2, 3]], 0)
    assert torch.equal(alone, numbers(6))
    longer = [int(n) for n in free_noise_of(numbers(6), [[0, 1], [2, 3, 4, 5]], 0)]
    assert longer[:2] == [0, 1] and sorted(longer[2:]) == [0, 1, 4, 5]


def test_kinds_of_noise_are_what_they_say():
    plain = frame_noise(seeded_generator(3), 11, 4, 3, 2)
    assert torch.equal(made("default"), plain)
    assert torch.equal(made("repeated"), torch.cat([plain[:4], plain[:4], plain[:3]]))
    assert torch.equal(made("constant"), plain[:1].expand(11, -1, -1, -1))
    assert torch.equal(made("free_noise"), free_noise(plain, 4, 1, 3))
    assert torch.equal(made("seed_per_frame")[2], frame_noise(seeded_generator(5), 1, 4, 3, 2)[0])
    assert torch.equal(made("seed_per_frame", 30)[:11], made("seed_per_frame"))
    assert not made("empty").any() and made("empty").shape == plain.shape
    assert {made(kind).dtype for kind in NOISES} == {torch.float32}
    last = clip_noise("seed_per_frame", seeded_generator(0), (2, 1, 2, 2), 2**64 - 1, WINDOWS)
    assert torch.equal(last[1], frame_noise(seeded_generator(0), 1, 1, 2, 2)[0])


@pytest.mark.parametrize("kind", [*NOISES, NoiseMix((("constant", 1), ("default", 2)))])
def test_what_a_sampler_draws_next_is_the_same_for_all_kinds(kind):
    generator, other = seeded_generator(3), seeded_generator(3)
    clip_noise(kind, generator, (11, 4, 3, 2), 3, WINDOWS)
    frame_noise(other, 11, 4, 3, 2)
    assert torch.equal(torch.randn(24, generator=generator), torch.randn(24, generator=other))


def test_a_mix_is_the_weighted_sum_of_independent_noise_with_variance_one():
    a, b = torch.randn(2, 5, 4, 3, 3, dtype=torch.float64)
    expected = (0.3 * a + 0.9 * b) / math.sqrt(0.3**2 + 0.9**2)
    torch.testing.assert_close(mix_noise([(a, 0.3), (b, 0.9)]), expected)
    mix = NoiseMix((("constant", 2.0), ("default", 1.0), ("free_noise", 0.0)))
    shape = (8, 4, 64, 64)
    found = clip_noise(mix, seeded_generator(7), shape, 7, WINDOWS)
    own = frame_noise(seeded_generator(seed_apart(7, 1)), *shape)
    shared = frame_noise(seeded_generator(7), *shape)[:1]
    torch.testing.assert_close(found, (2 * shared + own) / math.sqrt(5))
    # Two frames share 4/5 of their variance, and over all noise the variance is 1.
    assert abs(float((found[:-1] * found[1:]).mean()) - 0.8) < 0.05 and abs(float(found.var()) - 1) < 0.05


def test_seeds_apart_differ_and_stay_seeds():
    seeds = [seed_apart(2**64 - 1, number) for number in range(1000)]
    # Steps of 2**64 / the golden ratio, made odd, as in SplitMix64.
    assert [seed_apart(0, i) for i in range(3)] == [0, 11400714819323198485, 4354685564936845354]
    assert len(set(seeds)) == 1000 and seeds[0] == 2**64 - 1 and all(0 <= seed < 2**64 for seed in seeds)
    # Noise of the frames of `seed_per_frame` is none of those.
    assert not {(2**64 - 1 + i) % 2**64 for i in range(1, 4096)} & set(seeds)


def test_mixes_from_text():
    assert NoiseMix.parse("free_noise") == "free_noise"
    assert NoiseMix.parse("constant:0.5, default") == NoiseMix((("constant", 0.5), ("default", 1.0)))
    for text, said in (
        ("pink", "noise is 'pink', expected one of default, "),
        ("default:1,pink", "noise is 'pink'"),
        ("default:much", "expected KIND:WEIGHT,KIND:WEIGHT with numbers"),
        ("default:-1", "weight of noise 'default' is -1.0, expected a number of at least 0"),
        ("default:nan", "weight of noise 'default' is nan"),
        ("default:0,constant:0", "expected a kind of noise with a weight above 0"),
        (",", "noise is ''"),
    ):
        with pytest.raises(ValueError, match=said):
            NoiseMix.parse(text)
    with pytest.raises(ValueError, match="expected a kind of noise with a weight above 0"):
        NoiseMix(())
    with pytest.raises(ValueError, match="noise mix is 'default', expected pairs"):
        NoiseMix("default")
