"""Context windows on a MODEL whose conds ComfyUI spreads over several devices, played by the CPU under two names."""

from __future__ import annotations

import importlib.util

import comfy.model_management
import pytest
import torch
from check_context_windows import windowed
from check_control import controlled, controlnet, hints, t2i
from check_motion_lora import tensors, written
from pack.nodes.host.lora import load_motion_lora
from pack.nodes.host.model.apply import apply_motion_module
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
    return devices


@pytest.mark.parametrize("at_once", [1, 2])
def test_deep_clones_draw_what_one_model_draws(two_devices, tmp_path, at_once):
    import comfy.multigpu

    model = load_motion_lora(loaded(), written(tmp_path, tensors()), 1.0, "", "0:0, 6:12")
    model.cached_patcher_init = (lambda **_: loaded(), ())
    model = windowed(model, **SIZES, windows_at_once=at_once, free_noise=True)
    start, images = noise(FRAMES), hints(FRAMES)

    def run(model):
        return sample(model, start=start, **controlled(t2i(), controlnet(), images=images))

    alone = run(model)
    clone = comfy.multigpu.create_multigpu_deepclones(model, 2)
    (other,) = clone.get_additional_models_with_key("multigpu")
    assert other.load_device == two_devices[1] and other.model is not clone.model
    seen, original = [], type(other.model).apply_model
    for number, base in enumerate((clone.model, other.model)):

        def apply(*arguments, number=number, base=base, **named):
            seen.append((number, len(arguments[0])))
            return original(base, *arguments, **named)

        base.apply_model = apply
    assert relative(run(clone), alone) < 1e-5
    rows = 4 * at_once
    assert sorted(seen) == sorted([(0, rows), (1, rows)] * (2 // at_once))
