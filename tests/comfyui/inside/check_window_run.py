"""Runs with context windows, the pack's and ComfyUI's own: what is refused, what memory is asked for, what stays."""

from __future__ import annotations

import gc

import comfy.context_windows as core
import comfy.model_management
import comfy.sampler_helpers
import comfy_extras.nodes_context_windows as core_nodes
import pytest
import torch
from check_animatelcm import i2v
from check_context_windows import DEFAULTS, mean_of_windows, windowed
from check_control import controlled, controlnet, hints
from check_motion_lora import tensors, written
from check_window_inputs import unet
from pack.nodes.context_windows import ContextWindowsNode
from pack.nodes.host.lora import load_motion_lora
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.step.animatelcm import set_picture
from pack.nodes.host.step.pia import set_first_frame
from pack.nodes.host.step.settings import with_settings
from pack.nodes.sampling import MotionSampler
from sampled import models, noise, sample, text
from small import motion_module, relative, sd15

from nodes import KSampler

FRAMES = 7
SIZES = {"length": 4, "overlap": 1}
ROWS = 32
TOLERANCE = 2e-6

CORE = {
    "context_length": 4, "context_overlap": 1, "context_schedule": "standard_static", "context_stride": 1,
    "closed_loop": False, "fuse_method": "pyramid", "dim": 0, "freenoise": False, "causal_window_fix": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def start():
    return noise(FRAMES)


def core_windows(model, **changes):
    """ComfyUI's node, without what an older one does not know."""
    schema = core_nodes.ContextWindowsManualNode.define_schema()
    known = {item.id for item in schema.inputs}
    given = {name: value for name, value in {**CORE, **changes}.items() if name in known}
    return core_nodes.ContextWindowsManualNode.execute(model, **given)[0]


def runs_here():
    """Whether ComfyUI's own windows run where frames are the batch."""
    handler = core.IndexListContextHandler(
        core.get_matching_context_schedule("standard_static"), core.get_matching_fuse_method("flat"), 4, 1
    )
    try:
        handler.set_step(torch.ones(3), {"transformer_options": {"sample_sigmas": torch.tensor([1.0, 0.0])}})
    except Exception:
        return False
    return True


modern = pytest.mark.skipif(not runs_here(), reason="this ComfyUI's windows do not run where frames are the batch")


@pytest.mark.parametrize(
    ("changes", "frames", "sentence"),
    [
        ({"length": 33, "overlap": 4}, FRAMES, "`length` is 33, but the motion module knows 32 positions"),
        ({"length": 4, "overlap": 4}, FRAMES, "`overlap` is 4, expected less than `length`, which is 4"),
        ({"closed_loop": True}, FRAMES, "`closed_loop` needs the schedule 'looped_uniform', found 'standard_static'"),
        ({"schedule": "spiral"}, FRAMES, "`schedule` is 'spiral', expected one of standard_static"),
        ({"fuse": "sum"}, FRAMES, "`fuse` is 'sum', expected one of flat"),
        ({"start_percent": 0.5, "end_percent": 0.5}, FRAMES, "`start_percent` is 0.5, expected less than"),
        ({"end_percent": 0.5}, 40, "no context windows are set for step 3 of 4, but the clip has 40 frames and the"),
    ],
)
def test_what_cannot_be_is_said_before_the_work(moving, changes, frames, sentence):
    with pytest.raises(ValueError, match=sentence):
        sample(windowed(moving, **changes), frames=frames, steps=4)


def test_windows_longer_than_another_modules_table_are_said_when_the_run_begins(moving):
    short = motion_module(motion_layers_per_block=1, motion_max_seq_length=16)
    model = apply_motion_module(windowed(moving, length=20), short)
    with pytest.raises(ValueError, match="`length` is 20, but the motion module knows 16 positions"):
        sample(model, frames=24)
    assert sample(model, frames=3).isfinite().all()


@pytest.mark.parametrize("wrap", [windowed, pytest.param(core_windows, marks=modern)])
def test_hints_of_another_number_than_the_frames_are_named_with_both_numbers(moving, start, wrap):
    sizes = SIZES if wrap is windowed else {}
    with pytest.raises(ValueError, match="ControlNet has 5 hints, but the clip has 7 frames"):
        sample(wrap(moving, **sizes), start=start, **controlled(controlnet(), images=hints(5)))


def test_both_samplers_take_clips_longer_than_the_table(moving):
    latent = {"samples": torch.zeros(ROWS + 3, 4, 8, 8)}
    arguments = (5, 1, 2.0, "euler", "normal", text(1), text(2), latent, 1.0)
    with pytest.raises(ValueError, match=r"35 frames .* 32 positions; use at most 32 frames, Context Windows"):
        MotionSampler.execute(moving, *arguments, 0)
    model = windowed(moving, length=16, overlap=2)
    found = MotionSampler.execute(model, *arguments, 0)[0]["samples"]
    assert torch.equal(found, KSampler().sample(model, *arguments)[0]["samples"])
    assert found.shape == (ROWS + 3, 4, 8, 8) and found.isfinite().all()


def test_memory_is_set_aside_for_the_windows_of_one_pass(moving, start, monkeypatch):
    asked, calls, required = [], [], moving.model.memory_required

    def ask(shape, **shapes):
        asked.append(shape[0])
        return required(shape, **shapes)

    monkeypatch.setattr(moving.model, "memory_required", ask)
    half, rest = {**SIZES, "end_percent": 0.5}, {**SIZES, "start_percent": 0.5}
    two = {**SIZES, "windows_at_once": 2}
    for changes, most in (([SIZES], 4), ([two], 7), ([half], 7), ([half, rest], 4)):
        asked.clear()
        model = moving
        for change in changes:
            model = windowed(model, **change)
        sample(model, start=start)
        assert max(asked[:2]) == 2 * most
    # What does not fit goes through in more passes, with the same result.
    monkeypatch.setattr(moving.model, "memory_required", lambda shape, **_: 0 if shape[0] <= 8 else 1e18)
    model = windowed(moving, **SIZES, windows_at_once=2)
    model.set_model_unet_function_wrapper(
        lambda apply, given: calls.append(len(given["input"])) or apply(given["input"], given["timestep"], **given["c"])
    )
    found = sample(model, start=start)
    assert calls == [8, 8]
    assert relative(found, sample(windowed(moving, **SIZES), start=start)) < TOLERANCE


@pytest.mark.parametrize("wrap", [windowed, pytest.param(core_windows, marks=modern)])
def test_an_interrupted_run_leaves_the_next_one_as_it_was_and_no_memory(start, wrap):
    deep, images = wrap(models(active=True)[1], **(SIZES if wrap is windowed else {})), hints(FRAMES)
    calls = []

    def run(model):
        return sample(model, start=start, **controlled(controlnet(), images=images))

    def counted():
        gc.collect()
        return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())

    def stop(apply_model, given):
        calls.append(1)
        out = apply_model(given["input"], given["timestep"], **given["c"])
        comfy.model_management.interrupt_current_processing()
        return out

    before, count = run(deep), counted()
    stopped = deep.clone()
    stopped.set_model_unet_function_wrapper(stop)
    for _ in range(2):
        calls.clear()
        try:
            with pytest.raises(comfy.model_management.InterruptProcessingException):
                run(stopped)
        finally:
            comfy.model_management.interrupt_current_processing(False)
        assert len(calls) == 1  # between two windows, not between two steps
    assert counted() <= count + 20
    assert torch.equal(run(deep), before)
    assert "unet_motion_hints" not in deep.model_options["transformer_options"]


@modern
def test_comfyuis_own_windows_give_each_window_its_own_hints(start):
    deep = models(active=True)[1]
    images = hints(FRAMES)
    found = sample(core_windows(deep), start=start, **controlled(controlnet(), images=images))
    expected = mean_of_windows(
        lambda w: sample(deep, start=start[w], **controlled(controlnet(), images=images[w])), FRAMES, **SIZES
    )
    assert relative(found, expected) < 1e-5


@modern
def test_comfyuis_frame_before_a_window_brings_its_own_strength_and_hint(moving, start, tmp_path):
    """`causal_window_fix`: the second window begins a frame earlier, and that frame's result is left out."""
    deep = models(active=True)[1]
    lora = load_motion_lora(deep, written(tmp_path, tensors()), 1.0, "", "0:0, 6:12")
    images = hints(FRAMES)
    found = sample(core_windows(lora, causal_window_fix=True), start=start, **controlled(controlnet(), images=images))

    def window(rows):
        first = max(0, rows[0] - 1)
        rows_read = list(range(first, rows[-1] + 1))
        own = load_motion_lora(
            deep, written(tmp_path, tensors()), 1.0, "", f"0:{2 * first}, {len(rows_read) - 1}:{2 * rows[-1]}"
        )
        out = sample(own, start=start[rows_read], **controlled(controlnet(), images=images[rows_read]))
        return out[rows[0] - first :]

    assert relative(found, mean_of_windows(window, FRAMES, **SIZES)) < 1e-5
    without = sample(core_windows(lora), start=start, **controlled(controlnet(), images=images))
    assert relative(found, without) > 1e-3


def pia(start):
    """A MODEL that follows a picture, with the influence that it has on the frames from one on."""
    model = unet(use_motion_mid_block=False, conv_in_channels=9)
    influence, picture = [1.0, 0.9, 0.7, 0.6, 0.4, 0.3, 0.1], {"samples": start[:1]}
    return lambda rows: set_first_frame(model, picture, influence[rows[0] :], False, 0, 1.0)


def animatelcm(start):
    """A MODEL that animates a picture for each frame, with those of some frames."""
    model, pictures = apply_motion_module(sd15(), i2v()), 50 * start.roll(1, 0)
    return lambda rows: set_picture(model, {"samples": pictures[rows]}, 0.8, 10.0)


@modern
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("make", [pia, animatelcm])
def test_comfyuis_windows_bring_the_pictures_of_their_frames(start, make, causal):
    of_frames = make(start)
    found = sample(core_windows(of_frames(list(range(FRAMES))), causal_window_fix=causal), start=start)

    def window(rows, moved=0):
        first = max(0, rows[0] - causal)
        read = list(range(first, rows[-1] + 1))
        out = sample(of_frames([max(0, row - moved) for row in read]), start=start[read])
        return out[rows[0] - first :]

    assert relative(found, mean_of_windows(window, FRAMES, **SIZES)) < 1e-5
    assert relative(found, mean_of_windows(lambda rows: window(rows, 1), FRAMES, **SIZES)) > 1e-4


@pytest.mark.parametrize(
    ("changes", "frames", "sentence"),
    [
        ({"dim": 2}, FRAMES, "`dim` is 2, but the frames of this model are the batch: set `dim` to 0"),
        ({"context_overlap": 4}, FRAMES, "`context_overlap` is 4, expected less than `context_length`, which is 4"),
        ({"context_length": 40}, 48, "`context_length` is 40, but the motion module knows 32 positions"),
        ({"fuse_method": "overlap-linear", "context_overlap": 0}, FRAMES, "needs a `context_overlap` of at least 1"),
    ],
)
def test_comfyuis_windows_that_would_go_wrong_are_said(moving, changes, frames, sentence):
    with pytest.raises(ValueError, match=sentence):
        sample(core_windows(moving, **changes), frames=frames)


@modern
def test_comfyuis_windows_that_would_go_wrong_here_are_said(moving):
    stride = {"context_length": 8, "context_overlap": 2, "context_stride": 3, "context_schedule": "standard_uniform"}
    with pytest.raises(ValueError, match=r"a window leaves the clip with `context_stride` 3 .* use Context Windows"):
        sample(core_windows(moving, **stride), frames=17, steps=8)
    odd = core_windows(moving)
    odd.model_options["context_handler"].context_schedule = core.ContextSchedule("odd", lambda *_: [[0, 1, 2, 4]])
    with pytest.raises(ValueError, match="in step 1 frame 3 is in no window"):
        sample(odd, frames=5)
    full = {"context_length": ROWS, "causal_window_fix": True}
    with pytest.raises(ValueError, match="33|one frame more into windows of 32.*switch `causal_window_fix` off"):
        sample(core_windows(moving, **full), frames=40)
    with pytest.raises(ValueError, match=r"takes 2 clips in one batch for one: use Context Windows \(motion\)"):
        sample(with_settings(core_windows(moving), frames_per_clip=7), frames=14)


def test_comfyuis_windows_where_they_do_not_run_are_said(moving, start):
    if runs_here():
        pytest.skip("they run")
    with pytest.raises(ValueError, match=r"do not run where frames are the batch: use Context Windows \(motion\)"):
        sample(core_windows(moving), start=start)


def test_of_two_nodes_the_last_one_counts(moving, start):
    ours = sample(windowed(moving, **SIZES, free_noise=True), start=start)
    last = windowed(core_windows(moving, freenoise=True), **SIZES, free_noise=True)
    assert torch.equal(sample(last, start=start), ours)
    if runs_here():
        theirs = sample(core_windows(moving, freenoise=True), start=start)
        both = core_windows(windowed(moving, **SIZES), freenoise=True)
        assert torch.equal(sample(both, start=start), theirs)
        assert relative(ours, theirs) < 1e-5


def test_windows_travel_with_copies_and_leave_the_first_model_as_it_was(moving, start):
    plain = sample(moving, start=start)
    model = windowed(moving, **SIZES)
    found = sample(model, start=start)
    assert torch.equal(sample(with_settings(model.clone(), unused=1), start=start), found)
    assert torch.equal(sample(moving, start=start), plain) and relative(found, plain) > 1e-3
    assert (
        ContextWindowsNode.execute(model, **{**DEFAULTS, "length": 5})[0].model_options["context_handler"]
        is not (model.model_options["context_handler"])
    )
