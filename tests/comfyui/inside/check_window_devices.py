"""Context windows on a MODEL whose conds ComfyUI spreads over several devices, played by the CPU under two names."""

from __future__ import annotations

import gc
import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import comfy.model_management
import pytest
import torch
from check_context_windows import windowed
from check_control import controlled, controlnet, hints, t2i
from check_motion_lora import tensors, written
from comfy.controlnet import ControlNet
from pack.nodes.host.lora import load_motion_lora
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.step.window_devices import CLONES, POOL, DeviceCall
from sampled import noise, sample
from small import CPU, motion_module, relative, sd15

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("comfy.multigpu") is None, reason="this ComfyUI computes on one device"
)

FRAMES = 7
SIZES = {"length": 4, "overlap": 1}


def loaded():
    return apply_motion_module(sd15(), motion_module())


@pytest.fixture
def two_devices(monkeypatch):
    devices = [CPU, torch.device("cpu", 1)]
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda *_, **__: devices)
    monkeypatch.setattr(comfy.model_management, "set_torch_device", lambda device: None, raising=False)
    yield devices
    # ComfyUI's MODELs for several devices are circles, its core's too: when one is collected, its list of loaded MODELs
    # keeps an entry without one, and the next split stumbles over it.
    gc.collect()
    loaded = comfy.model_management.current_loaded_models
    loaded[:] = [entry for entry in loaded if entry.model is not None]


def seen_by_each(clone, other, monkeypatch):
    """(device, rows) of the calls from now on."""
    seen, original = [], type(other.model).apply_model
    for number, base in enumerate((clone.model, other.model)):

        def apply(*arguments, number=number, base=base, **named):
            seen.append((number, len(arguments[0])))
            return original(base, *arguments, **named)

        monkeypatch.setattr(base, "apply_model", apply)
    return seen


@pytest.fixture
def spread(two_devices, tmp_path):
    """A MODEL with windows of a clip of so many frames, the same on two devices, and the second device's copy."""
    import comfy.multigpu

    def make(frames, **changes):
        model = load_motion_lora(loaded(), written(tmp_path, tensors()), 1.0, "", f"0:0, {frames - 1}:12")
        model.cached_patcher_init = (lambda **_: loaded(), ())
        model = windowed(model, **{**SIZES, "free_noise": True, **changes})
        clone = comfy.multigpu.create_multigpu_deepclones(model, 2)
        (other,) = clone.get_additional_models_with_key("multigpu")
        assert other.load_device == two_devices[1] and other.model is not clone.model
        return model, clone, other

    return make


def run(model, frames=FRAMES, control=None, **more):
    images = hints(frames)
    given = controlled(*(control or (t2i(), controlnet())), images=images)
    return sample(model, start=noise(frames), **given, **more)


@pytest.mark.parametrize("at_once", [1, 2])
def test_each_device_draws_whole_windows_with_its_own_controls(spread, monkeypatch, at_once):
    model, clone, other = spread(FRAMES, windows_at_once=at_once)
    alone, controls = run(model), []
    seen, original = seen_by_each(clone, other, monkeypatch), ControlNet.get_control

    def ask(control, x, t, cond, batched, options):
        controls.append((options["multigpu_thread_device"], control.control_model_wrapped.load_device))
        return original(control, x, t, cond, batched, options)

    monkeypatch.setattr(ControlNet, "get_control", ask)
    assert relative(run(clone), alone) < 1e-5
    assert len(controls) == 2 and all(asked == loaded for asked, loaded in controls) and controls[0] != controls[1]
    assert sorted(seen) == [(0, 8), (1, 8)]  # a window of four frames and two conds each


def test_a_window_that_is_left_over_is_spread_by_its_conds(spread, monkeypatch):
    model, clone, other = spread(10)
    alone = run(model, 10, steps=2)
    seen = seen_by_each(clone, other, monkeypatch)
    assert relative(run(clone, 10, steps=2), alone) < 1e-5
    assert sorted(seen) == sorted(2 * [(0, 4), (0, 8), (1, 4), (1, 8)])


def test_without_guidance_both_devices_have_work(spread, monkeypatch):
    model, clone, other = spread(FRAMES)
    alone = run(model, cfg=1.0)
    seen = seen_by_each(clone, other, monkeypatch)
    assert relative(run(clone, cfg=1.0), alone) < 1e-5
    assert sorted(seen) == [(0, 4), (1, 4)]


def test_views_are_spread_by_their_conds(spread, monkeypatch):
    model, clone, other = spread(FRAMES, views=True, frames_at_once=2)
    alone = run(model)
    seen = seen_by_each(clone, other, monkeypatch)
    assert relative(run(clone), alone) < 1e-5
    assert sorted(seen) == [(0, FRAMES), (1, FRAMES)]


def test_what_two_devices_cannot_use_at_once_stays_where_comfyui_puts_it(two_devices):
    options = {CLONES: dict.fromkeys(two_devices), POOL: object()}
    call = DeviceCall(None, None, [[{}], None], torch.zeros(1), torch.ones(1), options)
    plain, reading = SimpleNamespace(previous_controlnet=None), SimpleNamespace(previous_controlnet=None, sub_idxs=None)
    chained = SimpleNamespace(previous_controlnet=reading)

    def devices(**cond):
        return replace(call, conds=[[{}, cond], None]).devices

    assert call.devices == devices(control=plain) == devices(hooks=None) == two_devices
    assert devices(hooks=object()) == devices(gligen=()) == devices(control=chained) == [CPU]
    assert replace(call, model_options={**options, POOL: None}).devices == [CPU]
    assert replace(call, model_options={}).devices == [CPU]


def test_an_error_on_one_device_comes_back_and_the_next_run_is_as_before(spread):
    _, clone, other = spread(FRAMES)
    before = run(clone)
    original = other.model.apply_model

    def fail(*arguments, **named):
        raise RuntimeError("out of luck")

    other.model.apply_model = fail
    with pytest.raises(RuntimeError, match="out of luck"):
        run(clone)
    other.model.apply_model = original
    assert torch.equal(run(clone), before)
