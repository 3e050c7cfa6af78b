"""ComfyUI's memory modes: a part of the weights on the card, the rest cast where they are used; LoRAs act in each."""

from __future__ import annotations

import comfy.hooks
import comfy.ldm.modules.attention as comfy_attention
import comfy.model_management as mm
import comfy.model_patcher
import comfy.sd
import pytest
import torch
from pack.nodes.host.files.loading import load_unet_model
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.model.bundled import load_bundled_models
from pack.unet_motion.ops.conv import cpu as convolution
from safetensors.torch import save_file
from sampled import models as pair
from sampled import sample, text
from small import CPU, inputs, motion_module, options, relative
from torch.utils._python_dispatch import TorchDispatchMode

NOVRAM = 0.1
"""Bytes that --novram gives a model."""

# Shares of the model's bytes that --lowvram, or a small card in the normal mode, may have room for.
SHARES = (0.9, 0.5)
PREFIX = "diffusion_model."


@pytest.fixture
def room(monkeypatch):
    """Sets the bytes that core gives to every model it loads; 0 for all that it needs."""
    load = mm.LoadedModel.model_load

    def give(size):
        mm.unload_all_models()
        monkeypatch.setattr(mm.LoadedModel, "model_load", lambda self, _=0, **named: load(self, size, **named))

    yield give
    mm.unload_all_models()


def unshared(model):
    """A MODEL whose weights lie in memory of their own: the last bit of a product may depend on where they lie."""
    for parameter in model.model.parameters():
        parameter.data = parameter.data.clone()
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A MODEL from each of our ways, with the texts that it samples from."""
    applied = pair(active=True, shallow=True)[1]
    path = tmp_path_factory.mktemp("memory") / "unet.safetensors"
    state = applied.model.state_dict()
    save_file({f"model.{key}": value.contiguous() for key, value in state.items() if key.startswith(PREFIX)}, path)
    bundled, clip, _ = load_bundled_models()
    words = [clip.encode_from_tokens_scheduled(clip.tokenize(words)) for words in ("a red star moving left", "")]
    plain = text(1), text(2)
    return {
        "applied": (applied, *plain),
        "loaded": (unshared(load_unet_model(str(path), None)), *plain),
        "bundled": (bundled, *words),
    }


KINDS = ("applied", "loaded", "bundled")
CASES = [(kind, share) for kind in ("applied", "bundled") for share in (*SHARES, 0)] + [("loaded", 0.5)]


def run(model, positive, negative, **more):
    return sample(model, positive, negative, frames=2, **more)


def changes(model, seed: int = 12) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A LoRA file that changes every weight and every bias of a MODEL, and what it adds at strength 1."""
    generator = torch.Generator().manual_seed(seed)
    file, added = {}, {}
    for key, weight in model.model.diffusion_model.named_parameters():
        layer, name = key.rsplit(".", 1)
        layer = PREFIX + layer
        scale = 0.05 * float(weight.float().std() + 0.1)
        if weight.dim() == 1:
            added[key] = scale * torch.randn(weight.shape, generator=generator)
            file[f"{layer}.{'diff' if name == 'weight' else 'diff_b'}"] = added[key]
            continue
        up = torch.randn(weight.shape[0], 2, generator=generator)
        down = scale * torch.randn(2, *weight.shape[1:], generator=generator)
        added[key] = torch.einsum("or,r...->o...", up, down)
        file[f"{layer}.lora_up.weight"] = up.reshape(*up.shape, *[1] * (weight.dim() - 2))
        file[f"{layer}.lora_down.weight"] = down
    return file, added


def with_changes(model, strength):
    file, _ = changes(model)
    patched = comfy.sd.load_lora_for_models(model, None, file, strength, 0)[0]
    assert len(patched.patches) == len(list(model.model.diffusion_model.parameters()))
    return patched


class ByHand:
    """A MODEL's weights replaced by plain arithmetic as long as the block lasts."""

    def __init__(self, model, change):
        self.unet, self.change = model.model.diffusion_model, change

    def __enter__(self):
        self.kept = {name: p.data for name, p in self.unet.named_parameters()}
        for name, parameter in self.unet.named_parameters():
            parameter.data = self.change(name, parameter.data)

    def __exit__(self, *_):
        for name, parameter in self.unet.named_parameters():
            parameter.data = self.kept[name]


@pytest.fixture(scope="module")
def expected(models):
    """Latents of each MODEL: as it is, and with the LoRA's changes added to its weights by hand."""
    found = {}
    for kind, (model, *texts) in models.items():
        mm.unload_all_models()
        added = changes(model)[1]
        plain = run(model, *texts)
        with ByHand(model, lambda name, weight, added=added: weight + added[name]):
            changed = run(model, *texts)
        assert relative(changed, plain) > 0.01
        found[kind] = plain, changed
    return found


def size_of(model, share):
    return share * model.model_size() if share else NOVRAM


def cast_layers(model):
    """Names of the layers whose weights are cast at their use."""
    modules = model.model.diffusion_model.named_modules()
    return {name for name, module in modules if hasattr(module, "prev_comfy_cast_weights")}


def loaded_layers(model):
    weights = model.model.diffusion_model.named_parameters()
    return {name.rsplit(".", 1)[0] for name, _ in weights} - cast_layers(model)


def moves(names):
    return {name.startswith("motion.") for name in names}


@pytest.mark.parametrize(("kind", "share"), CASES)
def test_a_partly_loaded_model_gives_the_values_of_a_whole_one(models, expected, room, kind, share):
    model, *texts = models[kind]
    room(size_of(model, share))
    assert torch.equal(run(model, *texts), expected[kind][0])
    assert moves(cast_layers(model)) == {True, False}
    assert moves(loaded_layers(model)) == ({True, False} if share else set())


@pytest.mark.parametrize(("kind", "share"), [*CASES, ("applied", None), ("bundled", None)])
def test_a_lora_on_every_layer_acts_however_much_is_loaded(models, expected, room, kind, share):
    model, *texts = models[kind]
    plain, changed = expected[kind]
    before = {key: tensor.clone() for key, tensor in model.model.state_dict().items()}
    room(0 if share is None else size_of(model, share))
    assert relative(run(with_changes(model, 1.0), *texts), changed) < 1e-5
    assert torch.equal(run(with_changes(model, 0.0), *texts), plain)
    if kind == "bundled":
        added = changes(model)[1]
        out = run(with_changes(model, -0.5), *texts)
        mm.unload_all_models()
        with ByHand(model, lambda name, weight: weight - 0.5 * added[name]):
            assert relative(out, run(model, *texts)) < 1e-5
    mm.unload_all_models()
    after = model.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    for module in model.model.modules():
        assert not getattr(module, "weight_function", None) and not getattr(module, "bias_function", None)
    assert not cast_layers(model)


@pytest.mark.parametrize("kind", ["applied", "bundled"])
def test_weights_that_core_frees_and_loads_again_keep_their_lora(models, expected, room, kind):
    model, *texts = models[kind]
    plain, changed = expected[kind]
    room(0)
    patched = with_changes(model, 1.0)
    assert relative(run(patched, *texts), changed) < 1e-5 and not cast_layers(model)
    half = 0.5 * model.model_size()
    assert patched.partially_unload(patched.offload_device, half) >= half
    assert moves(cast_layers(model)) == moves(loaded_layers(model)) == {True, False}
    with pytest.MonkeyPatch.context() as patch:
        # Nothing more is loaded, as if the card were full.
        patch.setattr(mm.LoadedModel, "model_load", lambda self, *_, **__: self.model.model)
        assert relative(run(patched, *texts), changed) < 1e-5
    assert moves(cast_layers(model)) == {True, False}
    assert relative(run(patched, *texts), changed) < 1e-5 and not cast_layers(model)
    assert torch.equal(run(model, *texts), plain)


WAYS = {
    "queries, keys and values in one product": lambda patch, core: core.fuse_qkv_projections(),
    "upsampling in four parts": lambda patch, core: patch.setattr(convolution, "MANY_PIXELS", 1),
    "convolutions as products": lambda patch, core: (
        patch.setattr(convolution, "FEW_PIXELS", 1 << 20),
        patch.setattr(convolution, "PRODUCT_FROM", 0),
    ),
    "norms and activations in one": lambda patch, core: patch.setenv("UNET_MOTION_KERNELS", "triton"),
}


@pytest.mark.parametrize("share", [None, 0])
@pytest.mark.parametrize("way", WAYS)
def test_weights_that_are_read_without_their_layer_have_the_lora_too(models, expected, room, monkeypatch, way, share):
    model, *texts = models["applied"]
    core = model.model.diffusion_model.core
    room(0 if share is None else size_of(model, share))
    seen = []

    def reader(read):
        return lambda layer, x: seen.append(len(layer.weight_function)) or read(layer, x)

    for module in core.modules():
        if hasattr(module, "read_weights"):
            monkeypatch.setattr(module, "read_weights", reader(module.read_weights))
    monkeypatch.setattr(core, "_defaults", core.defaults)
    WAYS[way](monkeypatch, core)
    out = run(with_changes(model, 1.0), *texts)
    assert set(seen) == {0 if share is None else 1}
    assert relative(out, expected["applied"][1]) < 1e-5


def hooked(model, strength, positive, negative):
    hook = comfy.hooks.create_hook_lora(changes(model)[0], strength, 0.0)
    return [comfy.hooks.set_hooks_for_conditioning(text, hook) for text in (positive, negative)]


@pytest.mark.parametrize(("kind", "share"), [("applied", 0), ("bundled", 0.5)])
def test_a_lora_hook_acts_on_a_partly_loaded_model(models, expected, room, kind, share):
    model, *texts = models[kind]
    plain, changed = expected[kind]
    room(size_of(model, share))
    for strength, result in ((1.0, changed), (0.0, plain)):
        assert relative(run(model, *hooked(model, strength, *texts)), result) < 1e-5
    assert torch.equal(run(model, *texts), plain)


def test_a_module_put_on_a_partly_loaded_model_takes_its_weights_without_the_lora(room):
    base = pair(shallow=True)[0]
    motion = motion_module(motion_layers_per_block=1)
    patched = comfy.sd.load_lora_for_models(base, None, changes(base)[0], 1.0, 0)[0]
    before = [run(apply_motion_module(model, motion), text(1), text(2)) for model in (base, patched)]
    assert relative(*before) > 1e-2
    room(size_of(base, 0.5))
    mm.load_models_gpu([patched])
    assert cast_layers(base) and loaded_layers(base)
    applied = [apply_motion_module(model, motion) for model in (base, patched)]
    room(0)
    for model, out in zip(applied, before, strict=True):
        assert torch.equal(run(model, text(1), text(2)), out)


class OneDevice(TorchDispatchMode):
    """Refuses to compute with tensors of two devices, as a card would."""

    COPIES = ("_to_copy", "copy_")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.__name__.split(".")[0] not in self.COPIES:
            given = [item for item in (*args, *(kwargs or {}).values()) if isinstance(item, torch.Tensor)]
            devices = {item.device.type for item in given if item.dim()}
            assert len(devices) < 2, f"{function} computes with {devices}"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("share", "fused"), [(None, True), (0.9, False), (0.5, True), (0, False), (0, True)])
def test_weights_and_tables_are_on_the_card_where_they_are_used(monkeypatch, share, fused):
    # ComfyUI's attention for the CPU asks the device for free memory.
    for name in ("optimized_attention", "optimized_attention_masked"):
        monkeypatch.setattr(comfy_attention, name, comfy_attention.attention_pytorch)
    card = torch.device("meta")
    base = pair(shallow=True)[0].model
    motion = motion_module(motion_layers_per_block=1)
    model = apply_motion_module(comfy.model_patcher.ModelPatcher(base, card, CPU), motion)
    if fused:
        model.model.diffusion_model.core.fuse_qkv_projections()
    patched = with_changes(model, 1.0)
    patched.partially_load(card, 1e32 if share is None else size_of(model, share))
    places = {p.device.type for p in model.model.parameters()}
    assert places == ({"meta"} if share is None else {"meta", "cpu"} if share else {"cpu"})
    given = {name: tensor.to(card) for name, tensor in inputs(3).items()}
    with OneDevice():
        out = model.model.diffusion_model(**given, transformer_options=options())
    assert out.device == card and out.shape == given["x"].shape
