"""Windows of frames: their rules for every legal setting, closed forms, and what is refused."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_motion import ContextWindows
from unet_motion.sampling import FUSES, SCHEDULES
from unet_motion.sampling.context_windows import halving


@st.composite
def cases(draw):
    """(windows, frames, step): any legal setting, clips of up to 200 frames."""
    length = draw(st.integers(1, 40))
    schedule = draw(st.sampled_from(SCHEDULES))
    closed = schedule == "looped_uniform" and draw(st.booleans())
    found = ContextWindows(
        length=length,
        overlap=draw(st.integers(0, length - 1)),
        stride=draw(st.integers(1, 4)),
        schedule=schedule,
        closed_loop=closed,
        loop_frames=draw(st.none() | st.integers(1, length - 1)) if closed and length > 1 else None,
        fuse=draw(st.sampled_from(FUSES)),
        use_on_equal_length=draw(st.booleans()),
    )
    return found, draw(st.integers(1, 200)), draw(st.integers(0, 60))


@settings(max_examples=1500, deadline=None)
@given(cases())
def test_every_frame_is_covered_once_a_window_and_weights_add_up_to_one(case):
    windows, frames, step = case
    total = [0.0] * frames
    plan = windows.plan(frames, step)
    for window, weights in plan:
        assert len(set(window)) == len(window) == len(weights) <= max(windows.length, 1)
        assert all(0 <= frame < frames for frame in window)
        assert all(math.isfinite(weight) and weight >= 0 for weight in weights)
        for frame, weight in zip(window, weights, strict=True):
            total[frame] += weight
    assert all(abs(value - 1) <= 1e-6 for value in total)
    assert [window for window, _ in plan] == windows.windows(frames, step)
    if windows.schedule != "batched" and frames >= windows.length:
        assert all(len(window) == windows.length for window, _ in plan)


def test_static_windows_have_the_closed_form():
    windows = ContextWindows(16, 4, schedule="standard_static")
    starts = [window[0] for window in windows.windows(40)]
    assert starts == [0, 12, 24] and windows.windows(40, 7) == windows.windows(40)
    assert [window[0] for window in windows.windows(41)] == [0, 12, 24, 25]
    assert all(window == list(range(window[0], window[0] + 16)) for window in windows.windows(41))
    assert windows.windows(16) == [list(range(16))] and windows.windows(5) == [list(range(5))]


def test_batched_windows_stand_behind_each_other():
    assert ContextWindows(8, 3, schedule="batched").windows(19) == [
        list(range(8)), list(range(8, 16)), [16, 17, 18]
    ]  # fmt: skip


def test_uniform_windows_start_elsewhere_in_each_step():
    assert [halving(step) for step in range(6)] == [0, 0.5, 0.25, 0.75, 0.125, 0.625]
    windows = ContextWindows(8, 2, schedule="looped_uniform")
    for step, share in enumerate((0, 0.5, 0.25, 0.75)):
        offset = round(32 * share)
        starts = range(offset, 32 + offset - 2, 6)
        assert windows.windows(32, step) == [[(start + i) % 32 for i in range(8)] for start in starts]


def test_a_closed_loop_has_a_window_over_the_clips_end_in_each_step():
    windows = ContextWindows(16, 4, schedule="looped_uniform", closed_loop=True)
    for step in range(20):
        assert any({39, 0} <= set(window) for window in windows.windows(40, step))
    open_windows = ContextWindows(16, 4, schedule="looped_uniform")
    assert not any({39, 0} <= set(window) for window in open_windows.windows(40, 0))


def test_only_the_chosen_frames_lead_back_to_the_first():
    loop = ContextWindows(8, 2, schedule="looped_uniform", closed_loop=True, loop_frames=3, fuse="flat")
    *straight, closing = loop.plan(20, 1)
    assert closing[0] == [17, 18, 19, 0, 1, 2, 3, 4] and closing[1][3:] == [0.0] * 5 and min(closing[1][:3]) > 0
    plain = ContextWindows(8, 2, schedule="standard_uniform", fuse="flat").windows(20, 1)
    assert [window for window, _ in straight] == plain


def test_strides_add_windows_of_frames_further_apart():
    windows = ContextWindows(8, 2, 2, "looped_uniform").windows(32)
    assert [0, 2, 4, 6, 8, 10, 12, 14] in windows and list(range(8)) in windows
    assert not any(window[1] - window[0] == 2 for window in ContextWindows(8, 2, 1, "looped_uniform").windows(32))


@pytest.mark.parametrize(
    ("fuse", "expected"),
    [
        ("flat", [1, 1, 1, 1, 1]),
        ("pyramid", [1, 2, 3, 2, 1]),
        ("relative", [1 - 2 / 2.005, 1 - 1 / 2.005, 1, 1 - 1 / 2.005, 1 - 2 / 2.005]),
        ("overlap-linear", [1e-37, 1, 1, 1, 1e-37]),
        ("gaussian", [math.exp(-(i**2) / (2 * 0.01 * 25)) for i in (-2, -1, 0, 1, 2)]),
    ],
)
def test_weights_have_their_closed_form(fuse, expected):
    windows = ContextWindows(5, 2, fuse=fuse)
    expected = [max(value, 0.01) for value in expected] if fuse == "relative" else expected
    assert windows.weights([10, 11, 12, 13, 14], 30) == pytest.approx(expected, abs=1e-12)


def test_a_ramp_stands_over_the_overlap_and_not_at_the_clips_ends():
    windows = ContextWindows(6, 3, schedule="standard_static", fuse="overlap-linear")
    assert windows.weights(list(range(6)), 12) == pytest.approx([1, 1, 1, 1, 0.5, 0])
    assert windows.weights(list(range(6, 12)), 12) == pytest.approx([0, 0.5, 1, 1, 1, 1])
    plan = {tuple(window): weights for window, weights in windows.plan(9)}
    assert plan[tuple(range(6))][3:] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"length": 0}, "`length` is 0, expected a whole number of at least 1"),
        ({"length": True}, "`length` is True, expected a whole number"),
        ({"overlap": 16}, "`overlap` is 16, expected less than `length`, which is 16"),
        ({"overlap": -1}, "`overlap` is -1, expected a whole number of at least 0"),
        ({"stride": 0}, "`stride` is 0, expected a whole number of at least 1"),
        ({"stride": 1.5}, "`stride` is 1.5, expected a whole number"),
        ({"schedule": "uniform"}, "`schedule` is 'uniform', expected one of standard_static, "),
        ({"fuse": "mean"}, "`fuse` is 'mean', expected one of flat, "),
        ({"closed_loop": True}, "`closed_loop` needs the schedule 'looped_uniform', found 'standard_uniform'"),
        ({"loop_frames": 3}, "`loop_frames` is 3, expected None without `closed_loop`"),
        (
            {"schedule": "looped_uniform", "closed_loop": True, "loop_frames": 16},
            "`loop_frames` is 16, expected 1 to 15, `length` - 1",
        ),
    ],
)
def test_what_breaks_a_rule_is_refused_with_the_rule(setting, sentence):
    with pytest.raises(ValueError, match=sentence):
        ContextWindows(**setting)


@pytest.mark.parametrize(("frames", "step"), [(0, 0), (-3, 0), (4, -1)])
def test_no_frames_and_negative_steps_are_refused(frames, step):
    with pytest.raises(ValueError, match=f"found {frames} frames and step {step}, expected at least 1"):
        ContextWindows().windows(frames, step)
