"""The start options that choose a dtype for a UNet's weights: what our ways make of them, and that LoRAs still act."""

from __future__ import annotations

import comfy.model_management as mm
import comfy.ops
import pytest
import torch
from check_memory import NOVRAM, ByHand, changes, room, run, unshared, with_changes  # noqa: F401 (room is a fixture)
from check_motion_lora import tensors
from comfy.cli_args import args
from pack.nodes.host.lora import load_motion_lora
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.model.bundled import load_bundled_models
from safetensors.torch import save_file
from sampled import SHALLOW, text
from small import motion_module, relative, sd15

TEXTS = text(1), text(2)
FP8 = torch.float8_e4m3fn
# name of the start option -> dtype of the weights
OPTIONS = {
    "fp8_e4m3fn_unet": FP8,
    "fp8_e5m2_unet": torch.float8_e5m2,
    "fp16_unet": torch.float16,
    "bf16_unet": torch.bfloat16,
    "force_fp16": torch.float16,
    "fp32_unet": torch.float32,
}
# How far a rounded weight may be from its value.
STEP = {FP8: 2**-4, torch.float8_e5m2: 2**-3, torch.float16: 2**-11, torch.bfloat16: 2**-8, torch.float32: 0}
SUPPORTED = [torch.float16, torch.bfloat16, torch.float32]
MOTION = {"motion_layers_per_block": 1}


def started_with(patch, option):
    """What a start option of ComfyUI sets."""
    for name in (option, "fp16_unet") if option == "force_fp16" else (option,):
        patch.setattr(args, name, True)


def applied():
    """A motion module on a MODEL that core would have loaded with the options of the moment."""
    sd15(**SHALLOW)  # draws the weights in float32
    dtype = mm.unet_dtype(model_params=10**7, supported_dtypes=SUPPORTED, weight_dtype=torch.float32)
    base = sd15(mm.unet_manual_cast(dtype, torch.device("cpu"), SUPPORTED), dtype=dtype, **SHALLOW)
    return apply_motion_module(base, motion_module(**MOTION)), *TEXTS


def bundled():
    model, clip, _ = load_bundled_models()
    words = [clip.encode_from_tokens_scheduled(clip.tokenize(words)) for words in ("a red star moving left", "")]
    return unshared(model), *words


WAYS = {"applied": applied, "bundled": bundled}


@pytest.fixture(scope="module")
def full():
    """Each MODEL in float32."""
    return {way: make() for way, make in WAYS.items()}


@pytest.fixture
def started(monkeypatch, request):
    started_with(monkeypatch, request.param)
    return OPTIONS[request.param]


def names(model):
    return dict(model.model.diffusion_model.named_parameters())


@pytest.mark.parametrize(
    ("started", "way"),
    [*((option, "bundled") for option in OPTIONS), ("fp8_e4m3fn_unet", "applied"), ("bf16_unet", "applied")],
    indirect=["started"],
)
def test_weights_have_the_chosen_dtype_and_the_output_is_that_of_rounded_weights(full, started, way):
    model, *texts = WAYS[way]()
    reference = full[way][0]
    exact, found = names(reference), names(model)
    assert exact.keys() == found.keys()
    for name, weight in found.items():
        keeps = way == "applied" and started.itemsize == 1 and name.startswith("motion.")
        assert weight.dtype == (torch.float32 if keeps else started), name
        error = (weight.float() - exact[name]).abs()
        assert (error <= STEP[started] * exact[name].abs() + 2**-9).all(), name
    out = run(model, *texts)
    mm.unload_all_models()
    plain = run(reference, *texts)
    mm.unload_all_models()
    with ByHand(reference, lambda name, weight: found[name].float()):
        rounded = run(reference, *texts)
    mm.unload_all_models()
    computes_exactly = model.model.manual_cast_dtype == torch.float32 or started == torch.float32
    assert relative(out, rounded) < (2e-5 if computes_exactly else 0.02)
    # The bundled model's file is in float16.
    same = started == torch.float32 or (way == "bundled" and started == torch.float16)
    assert same or relative(out, plain) > STEP[started] / 100


@pytest.mark.parametrize(
    ("started", "way"),
    [
        ("fp8_e4m3fn_unet", "applied"),
        ("fp8_e4m3fn_unet", "bundled"),
        ("bf16_unet", "applied"),
        ("force_fp16", "bundled"),
    ],
    indirect=["started"],
)
def test_a_lora_acts_in_each_dtype_loaded_whole_or_not_at_all(full, room, started, way):  # noqa: F811
    model, *texts = WAYS[way]()
    found = {name: weight.clone() for name, weight in names(model).items()}
    reference = full[way][0]
    added = changes(reference)[1]
    plain = run(model, *texts)
    mm.unload_all_models()
    with ByHand(reference, lambda name, weight: found[name].float() + added[name]):
        expected = run(reference, *texts)
    change = relative(expected, plain)
    for size in (0, NOVRAM):
        room(size)
        # The same file as the reference's: changes are drawn for the weights in float32.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("check_memory.changes", lambda _: changes(reference))
            out = run(with_changes(model, 1.0), *texts)
            none = run(with_changes(model, 0.0), *texts)
        assert relative(out, expected) < (0.7 * change if started.itemsize == 1 and not size else 0.1 * change)
        assert relative(out, plain) > 0.5 * change
        # ComfyUI 0.3.64 rounds a few patched weights up that eight bits hold exactly.
        assert torch.equal(none, plain) or (started.itemsize == 1 and not size and relative(none, plain) < 0.2 * change)
        mm.unload_all_models()
        # Bytes, because eight-bit numbers cannot be compared on every version.
        assert all(torch.equal(w.view(torch.uint8), names(model)[n].view(torch.uint8)) for n, w in found.items())


@pytest.mark.parametrize("started", ["fp8_e4m3fn_unet", "fp16_unet", "bf16_unet"], indirect=True)
def test_a_motion_lora_that_varies_is_not_rounded_to_the_dtype_of_the_weights(full, room, started, tmp_path):  # noqa: F811
    save_file(tensors(), tmp_path / "pan.safetensors")

    def varying(model):
        return load_motion_lora(model, str(tmp_path / "pan.safetensors"), 2.0, "0:1, 1:0.5", "0:0.5, 1:1")

    model, *texts = applied()
    found = {name: weight.clone() for name, weight in names(model).items()}
    plain = run(model, *texts)
    mm.unload_all_models()
    with ByHand(full["applied"][0], lambda name, weight: found[name].float()):
        expected = run(varying(full["applied"][0]), *texts)
    change = relative(expected, plain)
    assert change > 1e-2
    for size in (0, NOVRAM):
        room(size)
        assert relative(run(varying(model), *texts), expected) < 0.1 * change
        assert torch.equal(run(model, *texts), plain)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("started", ["fp8_e4m3fn_unet", "fp16_unet", "bf16_unet"], indirect=True)
def test_position_tables_are_not_rounded(full, started, way):
    tables, exact = (
        {name: table for name, table in model.model.diffusion_model.named_buffers() if name.endswith("pos_embed.pe")}
        for model in (WAYS[way]()[0], full[way][0])
    )
    assert tables.keys() == exact.keys() and tables
    assert all(torch.equal(tables[name], exact[name]) for name in exact)


def test_cores_products_in_float8_take_our_image_layers(monkeypatch):
    """What *Load Diffusion Model* says with fp8_e4m3fn_fast, on a device that is taken for one that multiplies it."""
    monkeypatch.setattr(mm, "supports_fp8_compute", lambda *_: True)
    original, taken, calls = comfy.ops.fp8_linear, [], []

    def noted(layer, x):
        given = x.clone()
        out = original(layer, x)
        calls.append(layer)
        if out is not None:
            taken.append((layer, given, out.clone()))
        return out

    def made(fast):
        base = sd15(torch.float32, dtype=FP8, **SHALLOW)
        base.model.model_config.optimizations = {"fp8": fast}
        return apply_motion_module(base, motion_module(**MOTION))

    plain = run(made(False), *TEXTS)
    monkeypatch.setattr(comfy.ops, "fp8_linear", noted)
    model = made(True)
    out = run(model, *TEXTS)
    paths = {module: path for path, module in model.model.diffusion_model.core.named_modules()}
    found = {paths[layer] for layer, *_ in taken}
    assert found <= {paths[layer] for layer in calls}
    for end in ("attentions.0.transformer_blocks.0.attn1.to_q", "attentions.0.transformer_blocks.0.ff.net.0.proj"):
        assert any(path.endswith(end) for path in found), found
    # A motion module keeps the dtype of its file.
    assert not any(".motion_modules." in path for path in found)
    assert any(".motion_modules." in paths[layer] for layer in calls)
    layer, x, y = taken[0]
    weight, bias = layer.weight.float(), 0 if layer.bias is None else layer.bias.float()
    rounded = x.clamp(-448, 448).to(FP8).float()
    assert relative(y, rounded @ weight.t() + bias) < 1e-3
    assert 1e-3 < relative(out, plain) < 0.3
