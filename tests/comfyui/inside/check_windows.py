"""The library's context windows against ComfyUI's lists: equal where these keep the rules, and where they do not."""

import itertools
from types import SimpleNamespace

import comfy.context_windows as core
import pytest
import torch
from pack.unet_motion.sampling import SCHEDULES, ContextWindows, free_noise


def core_lists(windows, frames, step):
    handler = SimpleNamespace(
        context_length=windows.length, context_overlap=windows.overlap, context_stride=windows.stride,
        closed_loop=windows.closed_loop, _step=step,
    )  # fmt: skip
    lists = core.get_matching_context_schedule(windows.schedule).func(frames, handler, {})
    return [[int(frame) for frame in window] for window in lists]


def keeps_the_rules(lists, frames):
    inside = all(0 <= min(window) and max(window) < frames and len(set(window)) == len(window) for window in lists)
    return inside and set().union(*lists) == set(range(frames))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_lists_are_cores_where_these_keep_the_rules(schedule):
    compared = broken = 0
    loops = (False, True) if schedule == "looped_uniform" else (False,)
    for length, overlap, stride, closed in itertools.product((3, 8, 16, 17), (0, 1, 4, 7), (1, 2, 3, 4), loops):
        if overlap >= length:
            continue
        windows = ContextWindows(length, overlap, stride, schedule, closed)
        for frames, step in itertools.product((length + 1, 2 * length, 24, 40, 41, 64, 97), (0, 1, 3)):
            if frames <= length:
                continue
            theirs = core_lists(windows, frames, step)
            if keeps_the_rules(theirs, frames):
                assert windows.windows(frames, step) == theirs, (windows, frames, step)
                compared += 1
            else:
                broken += 1
                assert keeps_the_rules(windows.windows(frames, step), frames)
    assert compared > 400 and (broken > 0) == ("uniform" in schedule)


def test_cores_uniform_windows_of_a_stride_leave_the_clip():
    windows = ContextWindows(8, 2, 3, "standard_uniform")
    found = [core_lists(windows, 17, step) for step in range(8)]
    assert any(max(window) >= 17 for lists in found for window in lists)
    assert all(keeps_the_rules(windows.windows(17, step), 17) for step in range(8))


def test_cores_looped_windows_of_a_stride_hold_a_frame_twice():
    windows = ContextWindows(16, 4, 3, "looped_uniform")
    assert any(len(set(window)) < 16 for window in core_lists(windows, 40, 0))
    assert keeps_the_rules(windows.windows(40, 0), 40)


@pytest.mark.parametrize("fuse", ["flat", "pyramid", "overlap-linear"])
def test_weights_are_cores(fuse):
    windows = ContextWindows(9, 3, schedule="standard_static", fuse=fuse)
    method = core.get_matching_fuse_method(fuse).func
    for window in windows.windows(29):
        # Older versions ask the handler for the overlap.
        theirs = method(9, full_length=29, idxs=window, context_overlap=3, handler=SimpleNamespace(context_overlap=3))
        theirs = torch.as_tensor(theirs, dtype=torch.float64)
        torch.testing.assert_close(torch.tensor(windows.weights(window, 29), dtype=torch.float64), theirs)


def test_free_noise_is_cores():
    if not hasattr(core, "apply_freenoise"):
        pytest.skip("this ComfyUI has no FreeNoise")
    for frames, length, overlap in ((40, 16, 4), (33, 8, 5), (16, 16, 4)):
        noise = torch.randn(frames, 4, 3, 2)
        found = free_noise(noise, length, overlap, 11)
        assert torch.equal(found, core.apply_freenoise(noise.clone(), 0, length, overlap, 11))
