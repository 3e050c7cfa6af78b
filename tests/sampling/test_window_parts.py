"""Different windows in different parts of a run: which part has a step, and what the run then gives."""

import pytest
import torch

from tests.sampling.test_pipeline import clip, pipeline, unet  # noqa: F401
from unet_motion import ContextWindows, Views, WindowPart
from unet_motion.sampling.window_parts import part_at, uncovered
from unet_motion.sampling.windowed import in_parts

EARLY, LATE = ContextWindows(5, 2, schedule="standard_static"), ContextWindows(6, 1, 1, "looped_uniform")


def test_each_step_is_drawn_by_the_last_part_that_has_it():
    """At timesteps 999, 600, 400, 100 of 999 a run has gone 0, 0.4, 0.6 and 0.9 of its way."""
    parts = [WindowPart(EARLY, 0.0, 0.6), WindowPart(LATE, 0.3, 0.5), WindowPart(EARLY, 0.85, views=True)]
    timesteps, seen = torch.tensor([999.0, 599.4, 399.6, 99.9], dtype=torch.float64), []

    def predict(rows, timestep, group, views=None):
        seen.append((group, views))
        return rows * 2

    model, x = in_parts(predict, parts, 12, timesteps, 999), torch.randn(12, 1, 2, 2)
    for step, (timestep, expected) in enumerate(zip(timesteps, (EARLY, LATE, None, "views"), strict=True)):
        seen.clear()
        torch.testing.assert_close(model(x, timestep), x * 2)
        if expected == "views":
            assert seen == [([list(range(12))], Views.of(EARLY.plan(12, step)))]
        else:
            windows = [list(range(12))] if expected is None else expected.windows(12, step)
            assert seen == [([window], None) for window in windows]


def test_parts_begin_with_their_first_share_and_end_before_their_last():
    halves = [WindowPart(EARLY, 0.0, 0.5), WindowPart(LATE, 0.5, 1.0)]
    assert [part_at(halves, share).windows for share in (0, 0.499, 0.5, 1)] == [EARLY, EARLY, LATE, LATE]
    assert part_at(halves[:1], 0.5) is None and part_at([], 0.5) is None
    assert uncovered(halves) is None and uncovered(halves[:1]) == 0.5 and uncovered(halves[1:]) == 0
    assert uncovered([halves[0], WindowPart(LATE, 0.6)]) == 0.5
    for start, end in ((0.5, 0.5), (-0.1, 1), (0, 1.1), (0.7, 0.2)):
        with pytest.raises(ValueError, match="expected 0 <= start < end <= 1"):
            WindowPart(EARLY, start, end)


def test_a_run_in_parts_begins_as_the_first_and_goes_on_as_the_second(pipeline):  # noqa: F811
    def states(windows):
        seen, run = [], pipeline.unet.forward_frames
        pipeline.unet.forward_frames = lambda rows, *rest, **named: seen.append(rows[0]) or run(rows, *rest, **named)
        try:
            clip(pipeline, frames=12, steps=2, windows=windows, guidance=1, noise="free_noise")
        finally:
            del pipeline.unet.forward_frames
        return seen

    both = states([WindowPart(EARLY, 0.0, 0.5), WindowPart(LATE, 0.5)])
    early, late = states(EARLY), states(LATE)
    counts = [len(windows.windows(12, step)) for windows, step in ((EARLY, 0), (LATE, 1), (LATE, 0))]
    assert len(both) == counts[0] + counts[1] and len(late) == counts[2] + counts[1]
    # FreeNoise, too, is that of the windows that the run begins with.
    assert all(torch.equal(a, b) for a, b in zip(both[: counts[0]], early, strict=False))


def test_a_clip_beyond_the_table_needs_windows_in_every_part(pipeline):  # noqa: F811
    half = [WindowPart(EARLY, 0.0, 0.5)]
    with pytest.raises(ValueError, match="no part of `windows` covers the sampling from 0.5 on, but frames is 12 and"):
        clip(pipeline, frames=12, windows=half)
    assert clip(pipeline, frames=7, windows=half).shape[0] == 7
    with pytest.raises(ValueError, match="windows of 9 frames, expected at most 8"):
        clip(pipeline, frames=12, windows=[WindowPart(EARLY), WindowPart(ContextWindows(9), 0.5)])
