"""ComfyUI's MultiGPU CFG Split and Select Model Device on our MODELs; the CPU under two names plays the devices."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from check_more_motion import add, other_module
from check_motion_lora import tensors, written
from check_window_devices import seen_by_each, two_devices  # noqa: F401
from pack.nodes.host.files.loading import load_unet_model
from pack.nodes.host.lora import load_motion_lora
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.model.bundled import load_bundled_models
from pack.nodes.options import AttentionProcessor, FreeU
from pack.unet_motion.formats import load_motion_module
from safetensors.torch import save_file
from sampled import SHALLOW, execute, noise, sample
from small import CPU, motion_module, relative, sd15

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("comfy.multigpu") is None, reason="this ComfyUI computes on one device"
)

FRAMES = 3


def split(model, cards=2):
    from comfy_extras.nodes_multigpu import MultiGPUCFGSplitNode

    return execute(MultiGPUCFGSplitNode, model, cards)


def select(model, device):
    from comfy_extras.nodes_multigpu import SelectModelDeviceNode

    return execute(SelectModelDeviceNode, model, device)


def reloadable():
    """A MODEL as core's loaders give it: it can be asked for once more."""
    model = sd15(**SHALLOW)
    model.cached_patcher_init = (lambda disable_dynamic=False: (None, sd15(**SHALLOW)), (), 1)
    return model


@pytest.fixture(scope="module")
def loaders(tmp_path_factory):
    """Functions that give a MODEL, by how it comes to be; and a text's conditioning where it needs its own."""
    folder = tmp_path_factory.mktemp("devices")
    motion = motion_module(motion_layers_per_block=1)
    save_file({key: tensor.contiguous() for key, tensor in motion.state_dict.items()}, folder / "motion.safetensors")
    applied = lambda: apply_motion_module(reloadable(), load_motion_module(folder / "motion.safetensors"))  # noqa: E731
    weights = applied().model.state_dict()
    unet = {f"model.{key}": value.contiguous() for key, value in weights.items() if key.startswith("diffusion_model.")}
    save_file(unet, folder / "unet.safetensors")
    bundled, clip, _ = load_bundled_models()
    words = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red star moving left", "")]
    return {
        "Apply Motion Module": (applied, ()),
        "Load Motion UNet": (lambda: load_unet_model(str(folder / "unet.safetensors"), None), ()),
        "Load Bundled Motion Model": (lambda: bundled.clone(), words),
    }


WAYS = ("Apply Motion Module", "Load Motion UNet", "Load Bundled Motion Model")


def with_settings(model):
    model = FreeU.execute(model, True, "sd1.5", "v1", 1.3, 1.4, 0.9, 0.2, 0.0, 1.0)[0]
    return AttentionProcessor.execute(model, "math", "sliced")[0]


@pytest.mark.parametrize("way", WAYS)
def test_the_conds_of_a_step_are_spread_over_copies_of_every_model(loaders, way, two_devices, monkeypatch):  # noqa: F811
    make, texts = loaders[way]
    model = with_settings(make())
    plain, alone = sample(make(), *texts), sample(model, *texts, steps=2)
    clone = split(model)
    (other,) = clone.get_additional_models_with_key("multigpu")
    assert other.load_device == two_devices[1] and other.model is not clone.model
    seen = seen_by_each(clone, other, monkeypatch)
    assert relative(sample(clone, *texts, steps=2), alone) < 1e-5 < 1e-3 < relative(plain, alone)
    assert sorted(seen) == 2 * [(0, FRAMES)] + 2 * [(1, FRAMES)]
    assert split(model, 1).get_additional_models_with_key("multigpu") == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("device", ["cpu", "gpu:1"])
def test_every_model_goes_to_the_device_that_is_chosen(loaders, way, two_devices, device):  # noqa: F811
    make, texts = loaders[way]
    model = make()
    alone, chosen = sample(model, *texts), select(model, device)
    assert chosen.load_device == (CPU if device == "cpu" else two_devices[1])
    assert relative(sample(chosen, *texts), alone) < 1e-5
    assert model.load_device == CPU and select(chosen, "default").load_device == CPU


def test_a_copy_for_another_device_has_weights_settings_and_loras_of_its_own(loaders, two_devices, tmp_path):  # noqa: F811
    lora = tensors()
    model = load_motion_lora(with_settings(loaders["Apply Motion Module"][0]()), written(tmp_path, lora), 1.0, "", "1")
    alone = sample(model)
    copy = model.deepclone_multigpu(new_load_device=two_devices[1])
    own, theirs = (m.model.diffusion_model.state_dict() for m in (model, copy))
    assert own.keys() == theirs.keys() and all(own[key] is not theirs[key] for key in own)
    assert copy.load_device == two_devices[1] and relative(sample(copy), alone) < 1e-5


# further motion modules


@pytest.fixture
def more(loaders):
    shallow = {"motion_layers_per_block": 1}
    return add(add(loaders["Apply Motion Module"][0](), other_module(**shallow)), other_module(5, **shallow), 0.5)


def adapters(model):
    return [patcher.model["adapter"] for patcher in model.get_additional_models_with_key("unet_motion_more")]


def test_further_modules_of_each_device_act_there(more, two_devices, monkeypatch):  # noqa: F811
    alone = sample(more, steps=2)
    clone = split(more)
    (other,) = clone.get_additional_models_with_key("multigpu")
    own, theirs = adapters(clone), adapters(other)
    assert len(theirs) == 2 and not {id(adapter) for adapter in own} & {id(adapter) for adapter in theirs}
    chosen = []
    from pack.nodes.host.step import more_motion

    original = more_motion.VaryingMotion.for_batch

    def note(one, x, frames, options):
        found = original(one, x, frames, options)
        chosen.append((options.get("multigpu_thread_device"), found["adapter"]))
        return found

    monkeypatch.setattr(more_motion.VaryingMotion, "for_batch", note)
    assert relative(sample(clone, steps=2), alone) < 1e-5
    by_device = {device: [a for d, a in chosen if d == device] for device in two_devices}
    assert by_device[two_devices[0]] == 2 * own and by_device[two_devices[1]] == 2 * theirs
    again = split(more)  # copies of its own: the settings follow those of the run
    assert relative(sample(again, steps=2), alone) < 1e-5 and relative(sample(clone, steps=2), alone) < 1e-5


def test_further_modules_follow_a_copy_that_is_used_by_itself(more, two_devices):  # noqa: F811
    alone = sample(more)
    copy = more.deepclone_multigpu(new_load_device=two_devices[1])
    found = copy.model_options["transformer_options"]["unet_motion"]["more_motion"]
    assert [one.adapter for one in found] == adapters(copy) and adapters(copy) != adapters(more)
    for adapter in adapters(more):
        for parameter in adapter.parameters():
            parameter.data = torch.full_like(parameter, float("nan"))
    assert relative(sample(copy), alone) < 1e-5


def test_windows_on_two_devices_have_their_further_modules(more, two_devices):  # noqa: F811
    from check_context_windows import windowed

    model = windowed(more, length=4, overlap=1)
    alone = sample(model, start=noise(7))
    assert relative(sample(split(model), start=noise(7)), alone) < 1e-5
