"""What newer ComfyUI versions do on NVIDIA cards by default, as far as it can be seen on a CPU."""

from __future__ import annotations

import comfy.model_patcher
import pytest
import torch
from check_apply import inputs_of, lora
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.model.bundled import load_bundled_models
from small import motion_module, options, sd15

HAS_DYNAMIC = hasattr(comfy.model_patcher, "ModelPatcherDynamic")
pytestmark = pytest.mark.skipif(not HAS_DYNAMIC, reason="this ComfyUI has no dynamic memory")


@pytest.fixture
def lazy_layers(monkeypatch):
    """Linear layers have no weight before they are loaded."""
    import comfy.memory_management

    sd15()  # the weights that every small model gets are drawn with the usual layers
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)


@pytest.fixture
def dynamic(monkeypatch):
    """The dynamic patcher without its memory on the card."""
    import comfy_aimdo.host_buffer

    monkeypatch.setattr(comfy_aimdo.host_buffer, "HostBuffer", lambda *_: object())
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcherDynamic)
    return torch.device("cuda", 0)


def output(model):
    return model.model.diffusion_model(**inputs_of(2), transformer_options=options())


def test_layers_without_weights_before_loading_are_filled(lazy_layers):
    eager = sd15()
    applied = apply_motion_module(eager, motion_module())
    assert all(p.device.type == "cpu" for p in applied.model.parameters())
    view = applied.model.diffusion_model
    assert sorted(map(id, view.parameters())) == sorted(map(id, view.core.parameters()))
    assert torch.isfinite(output(applied)).all()


def test_lazy_layers_change_no_value(monkeypatch):
    import comfy.memory_management

    plain = output(apply_motion_module(sd15(), motion_module()))
    bundled = load_bundled_models()[0].model.diffusion_model.state_dict()
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    assert torch.equal(output(apply_motion_module(sd15(), motion_module())), plain)
    again = load_bundled_models()[0].model.diffusion_model.state_dict()
    assert bundled.keys() == again.keys() and all(torch.equal(bundled[key], again[key]) for key in bundled)


def test_a_dynamic_model_stays_dynamic_and_has_a_plain_twin(dynamic):
    made = []

    def factory(disable_dynamic=False):
        base = sd15()
        kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
        made.append(disable_dynamic)
        model = kind(base.model, dynamic, torch.device("cpu"))
        model.cached_patcher_init = (factory, ())
        return model

    base = factory()
    assert base.is_dynamic()
    from pack.nodes.host.model import apply as host

    sd15()
    motion = motion_module()
    applied = apply_motion_module(base, motion)
    assert applied.is_dynamic() and applied.clone().is_dynamic()
    assert applied.model is not base.model and applied.model.dynamic_vbars is not base.model.dynamic_vbars
    from comfy.sd import load_lora_for_models

    patched = load_lora_for_models(applied, None, lora(), 1.0, 0)[0]
    with pytest.MonkeyPatch.context() as patch:
        # The motion module of this check is in no file.
        patch.setattr(host, "load_motion_module", lambda path: motion)
        twin = patched.clone(disable_dynamic=True)
    assert made == [False, True]
    assert not twin.is_dynamic() and twin.patches.keys() == patched.patches.keys()
    assert twin.model is not applied.model
    assert torch.equal(output(twin), output(applied))


def test_the_bundled_model_has_a_plain_twin(dynamic, monkeypatch):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: dynamic)
    monkeypatch.setattr(comfy.model_management, "unet_dtype", lambda *_, **__: torch.float32)
    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *_, **__: None)
    from pack.nodes.host.model import bundled

    model = bundled._model(bundled.load_bundled())
    model.cached_patcher_init = (bundled._reload, ())
    assert model.is_dynamic()
    twin = model.clone(disable_dynamic=True)
    assert not twin.is_dynamic() and twin.model is not model.model
