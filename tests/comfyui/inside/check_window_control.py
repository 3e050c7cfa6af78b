"""ControlNets, T2I-Adapters and ControlLoras with a hint for each frame, on clips that are drawn in windows."""

from __future__ import annotations

import comfy.controlnet
import pytest
import torch
from check_context_windows import mean_of_windows, plan, windowed
from check_control import CPU, KINDS, control_unet, controlled, controlnet, hints
from pack.nodes.host.step.window_hints import Window, WindowHints
from sampled import models, noise, sample
from small import relative

FRAMES = 7
SIZES = {"length": 4, "overlap": 1}
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def moving():
    return models(active=True)[1]


@pytest.fixture(scope="module")
def start():
    return noise(FRAMES)


@pytest.mark.parametrize("kind", ["ControlNet", "all in a chain"])
def test_a_hint_per_frame_stays_with_its_frame(moving, start, kind):
    images = hints(FRAMES)
    out = sample(windowed(moving, **SIZES), start=start, **controlled(*KINDS[kind](), images=images))
    found = mean_of_windows(
        lambda window: sample(moving, start=start[window], **controlled(*KINDS[kind](), images=images[window])),
        FRAMES, **SIZES,
    )  # fmt: skip
    assert relative(out, found) < TOLERANCE
    assert relative(out, sample(windowed(moving, **SIZES), start=start)) > 1e-2
    two = windowed(moving, **SIZES, windows_at_once=2)
    assert relative(sample(two, start=start, **controlled(*KINDS[kind](), images=images)), out) < TOLERANCE
    one = controlled(*KINDS[kind](), images=images[:1])
    alone = mean_of_windows(lambda window: sample(moving, start=start[window], **one), FRAMES, **SIZES)
    assert relative(sample(windowed(moving, **SIZES), start=start, **one), alone) < TOLERANCE


class Looking(comfy.controlnet.ControlNet):
    """Keeps what it gives."""

    seen: list = []

    def get_control(self, *arguments):
        out = super().get_control(*arguments)
        Looking.seen.append({name: [x.clone() for x in tensors] for name, tensors in out.items()})
        return out


def looking():
    control = Looking(control_unet(20), load_device=CPU)
    control.copy = lambda: control
    return control


def residuals(run):
    Looking.seen = []
    run()
    return Looking.seen


def test_each_windows_residuals_are_those_of_its_own_hints_bit_for_bit(moving):
    frames, changes = 48, {"length": 16, "overlap": 4}
    start, images = noise(frames), hints(frames)
    found = residuals(lambda: sample(windowed(moving, **changes), start=start, **controlled(looking(), images=images)))
    windows = [window for window, _ in plan(frames, **changes)]
    assert len(found) == len(windows) == 4
    for seen, window in zip(found, windows, strict=True):
        (alone,) = residuals(lambda w=window: sample(moving, start=start[w], **controlled(looking(), images=images[w])))
        for name, tensors in alone.items():
            assert all(torch.equal(a, b) for a, b in zip(seen[name], tensors, strict=True)), name
        assert not torch.equal(seen["middle"][0][:1], seen["middle"][0][1:2])


def test_controls_are_as_before_after_a_run_and_hints_are_kept_in_bounds(moving, start):
    control, images = controlnet(), hints(9)
    sample(windowed(moving, **SIZES), start=start, **controlled(control, images=images[:FRAMES]))
    assert control.cond_hint is None and control.cond_hint_original is None and control.previous_controlnet is None
    control.set_cond_hint(images.movedim(-1, 1))
    size = control.cond_hint_original[:3].nbytes
    kept = WindowHints(room=2 * size)
    made = []
    for first in (0, 3, 6, 0, 6):
        with kept.of_window([[{"control": control}] * 2, None], Window(range(first, first + 3), 9)) as conds:
            one, other = (cond["control"] for cond in conds[0])
            assert one is other and conds[1] is None
            assert torch.equal(one.cond_hint_original, control.cond_hint_original[first : first + 3])
            made.append(one)
        assert sum(item.cond_hint_original.nbytes for _, item in kept._kept.values()) <= 2 * size
    assert made[4] is made[2] and made[3] is not made[0]
    kept.clear()
    assert not kept._kept


class Foreign(comfy.controlnet.ControlNet):
    """Takes the hints of a window's frames itself, as those of Advanced-ControlNet."""

    sub_idxs = None

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        own, frames = self.cond_hint_original, transformer_options["ad_params"]["sub_idxs"]
        assert frames is None or len(frames) == len(set(frames))
        self.cond_hint, self.cond_hint_original = None, own if frames is None else own[frames]
        try:
            return super().get_control(x_noisy, t, cond, batched_number, transformer_options)
        finally:
            self.cond_hint_original = own


def test_a_control_that_knows_windows_takes_its_hints_itself_and_those_before_it_get_theirs(moving, start):
    images = hints(FRAMES)

    def run(model, rows):
        foreign = Foreign(control_unet(24), load_device=CPU)
        foreign.copy = lambda: foreign
        out = sample(model, start=start[rows], **controlled(controlnet(), foreign, images=images[rows]))
        assert type(foreign.previous_controlnet) is comfy.controlnet.ControlNet
        assert len(foreign.previous_controlnet.cond_hint_original) == len(rows)
        return out

    found = run(windowed(moving, **SIZES, windows_at_once=2), list(range(FRAMES)))
    assert relative(found, mean_of_windows(lambda rows: run(moving, rows), FRAMES, **SIZES)) < TOLERANCE
