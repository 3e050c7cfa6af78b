"""LoRAs on motion UNets: our loader for every naming, core's loader, and core's hooks while sampling."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import comfy.hooks
import comfy.sample
import comfy.samplers
import folder_paths
import pytest
import torch
from check_apply import LAYER, lora, run, with_lora
from check_apply import NAMES as core_styles
from pack.nodes.host.lora import _fits, load_lora
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.lora import LoadLoRA
from pack.unet_motion.files.errors import FileFormatError, KeyMismatchError
from safetensors.torch import save_file
from small import motion_module, relative, sd15

from nodes import LoraLoaderModelOnly

SPATIAL = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
OUT_LDM = LAYER.replace("to_q", "to_out.0")
MOTION = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q"
ORIGINAL = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor.to_q"
A, B = ".lora_A.weight", ".lora_B.weight"
NAMES = {
    "peft with unet": (f"unet.{SPATIAL}{A}", f"unet.{SPATIAL}{B}", LAYER),
    "peft without prefix": (f"{SPATIAL}{A}", f"{SPATIAL}{B}", LAYER),
    "peft's own file": (f"base_model.model.{SPATIAL}{A}", f"base_model.model.{SPATIAL}{B}", LAYER),
    "peft with an adapter's name": (f"unet.{OUT}.lora_A.pan.weight", f"unet.{OUT}.lora_B.pan.weight", OUT_LDM),
    "peft on latent diffusion names": (f"diffusion_model.{LAYER}{A}", f"diffusion_model.{LAYER}{B}", LAYER),
    "diffusers": (f"unet.{OUT}.lora.down.weight", f"unet.{OUT}.lora.up.weight", OUT_LDM),
    "diffusers' processors": (
        f"unet.{SPATIAL.replace('.to_q', '.processor.to_q')}_lora.down.weight",
        f"unet.{SPATIAL.replace('.to_q', '.processor.to_q')}_lora.up.weight", LAYER,
    ),
    "kohya": (
        f"lora_unet_{OUT.replace('.', '_')}.lora_down.weight", f"lora_unet_{OUT.replace('.', '_')}.lora_up.weight",
        OUT_LDM,
    ),
    "diffusers' motion LoRA": (f"unet.{MOTION}{A}", f"unet.{MOTION}{B}", f"motion.{MOTION}"),
    "AnimateDiff's motion LoRA": (f"{ORIGINAL}_lora.down.weight", f"{ORIGINAL}_lora.up.weight", f"motion.{MOTION}"),
}  # fmt: skip


def pair(rank=4, width=32):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(rank, width, generator=generator), torch.randn(width, rank, generator=generator)


def written(folder, style, metadata=None, **more):
    down, up = pair()
    path = folder / "made.safetensors"
    save_file({NAMES[style][0]: down, NAMES[style][1]: up, **more}, path, metadata=metadata)
    return str(path)


def by_hand(layer, strength):
    """The output of a model of its own whose weight was changed by plain arithmetic."""
    model = apply_motion_module(sd15(), motion_module())
    down, up = pair()
    weight = model.model.diffusion_model.get_submodule(layer).weight
    weight.data = weight + strength * (up @ down)  # not in place: motion modules share their tensors
    return run(model)


@pytest.fixture(scope="module")
def moving():
    model = apply_motion_module(sd15(), motion_module())
    return model, run(model)


@pytest.mark.parametrize("style", NAMES)
def test_our_loader_finds_the_layer_and_changes_it_as_arithmetic_does(moving, tmp_path, style):
    model, plain = moving
    patched = load_lora(model, written(tmp_path, style), 0.5)
    layer = NAMES[style][2]
    assert list(patched.patches) == [f"diffusion_model.{layer}.weight"] and not model.patches
    out = run(patched)
    assert relative(out, by_hand(layer, 0.5)) < 1e-5 < 1e-4 < relative(out, plain)


@pytest.mark.parametrize("style", core_styles)
def test_core_takes_each_key_style_before_and_after_the_motion_module(moving, style):
    model, plain = moving
    after = with_lora(model, 0.5, style=style)
    before = apply_motion_module(with_lora(sd15(), 0.5, style=style), motion_module())
    out = run(after)
    assert relative(out, by_hand(LAYER, 0.5)) < 1e-5 < 1e-4 < relative(out, plain)
    assert torch.equal(run(before), out) and torch.equal(run(model), plain)


def test_our_node_and_cores_put_files_from_the_loras_folder_on_a_model(moving, tmp_path, monkeypatch):
    known = ([str(tmp_path)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", known)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    written(tmp_path, "peft with unet")
    save_file(lora("kohya diffusers"), tmp_path / "kohya.safetensors")
    model, plain = moving
    for strength in (1.0, -0.5, 0.0):
        ours = LoadLoRA.execute(model, "made.safetensors", strength)[0]
        core = LoraLoaderModelOnly().load_lora_model_only(model, "kohya.safetensors", strength)[0]
        for patched in (ours, core):
            out = run(patched)
            assert relative(out, by_hand(LAYER, strength) if strength else plain) < 1e-5
            assert (relative(out, plain) > 1e-4) == (strength != 0)
        before = apply_motion_module(LoadLoRA.execute(sd15(), "made.safetensors", strength)[0], motion_module())
        assert torch.equal(run(before), run(ours))
    assert torch.equal(run(model), plain)


def test_strengths_scale_and_taking_away_restores_bit_for_bit(moving, tmp_path):
    model, plain = moving
    path = written(tmp_path, "peft with unet")
    for strength in (1.0, -1.0):
        assert relative(run(load_lora(model, path, strength)), by_hand(LAYER, strength)) < 1e-5
        assert torch.equal(run(model), plain)
    assert torch.equal(run(load_lora(model, path, 0.0)), plain)


def test_pefts_scale_in_the_header_is_read(moving, tmp_path):
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8, "unet.r": 4})}
    out = run(load_lora(moving[0], written(tmp_path, "peft with unet", metadata), 0.5))
    assert relative(out, by_hand(LAYER, 1.0)) < 1e-5


def test_an_image_lora_acts_alike_before_and_after_the_motion_module(moving, tmp_path):
    path = written(tmp_path, "peft with unet")
    before = apply_motion_module(load_lora(sd15(), path, 0.5), motion_module())
    assert torch.equal(run(before), run(load_lora(moving[0], path, 0.5)))


def test_layers_that_do_not_fit_are_named_and_none_is_an_error(moving, tmp_path, caplog):
    model, _ = moving
    other = {f"unet.mid_block.attentions.7.to_q{end}": torch.ones(4, 4) for end in (A, B)}
    wide = {f"unet.{SPATIAL.replace('to_q', 'to_k')}{A}": torch.ones(4, 64),
            f"unet.{SPATIAL.replace('to_q', 'to_k')}{B}": torch.ones(64, 4)}  # fmt: skip
    text = {f"text_encoder.text_model.encoder.layers.0.self_attn.q_proj{end}": torch.ones(4, 4) for end in (A, B)}
    path = written(tmp_path, "peft with unet", **other, **wide, **text)
    with pytest.raises(KeyMismatchError, match="made.safetensors: 2 of 3 layers do not fit `model`: .*`allow_partial`"):
        load_lora(model, path, 1.0)
    with caplog.at_level(logging.INFO):
        patched = load_lora(model, path, 1.0, allow_partial=True)
    assert list(patched.patches) == [f"diffusion_model.{LAYER}.weight"]
    assert "made.safetensors: 1 of 3 layers matched" in caplog.text
    assert "2 of 3 layers do not fit" in caplog.text and "mid_block.attentions.7.to_q" in caplog.text
    assert "attn1.to_k" in caplog.text and "1 layers of a text encoder" in caplog.text
    save_file({**other, **wide}, tmp_path / "alien.safetensors")
    with pytest.raises(KeyMismatchError, match="alien.safetensors: has layers such as .* none fits `model`"):
        load_lora(model, str(tmp_path / "alien.safetensors"), 1.0)
    save_file(text, tmp_path / "text.safetensors")
    with pytest.raises(KeyMismatchError, match="text.safetensors: has no layers of a UNet"):
        load_lora(model, str(tmp_path / "text.safetensors"), 1.0)


def lora_patch(up, down, mid=None, reshape=None, name="lora"):
    """As ComfyUI's adapters hold it: up, down, alpha, mid, dora_scale, reshape."""
    weights = (torch.zeros(up), torch.zeros(down), None, mid, None, reshape)
    return SimpleNamespace(name=name, weights=weights)


@pytest.mark.parametrize(
    ("patch", "shape", "fits"),
    [
        (lora_patch((8, 2), (2, 4)), (8, 4), True),
        (lora_patch((9, 2), (2, 4)), (8, 4), False),
        (lora_patch((8, 2), (2, 5)), (8, 4), False),
        (lora_patch((8, 2), (2, 4, 3, 3)), (8, 4, 3, 3), True),
        (lora_patch((8, 2), (2, 4, 1, 1)), (8, 4, 3, 3), False),
        (lora_patch((8, 2), (2, 2, 1, 1), mid=torch.zeros(2, 2, 3, 3)), (8, 4, 3, 3), True),
        (lora_patch((9, 2), (2, 5), reshape=(9, 5)), (8, 4), True),
        (lora_patch((9, 2), (2, 5), name="loha"), (8, 4), True),
        (("diff", (torch.zeros(8, 4),)), (8, 4), True),
        (("diff", (torch.zeros(8, 5),)), (8, 4), False),
        (("set", (torch.zeros(4, 8),)), (8, 4), False),
        (("model_as_lora", (torch.zeros(3),)), (8, 4), True),
    ],
)
def test_plain_patches_are_measured_and_others_are_left_to_comfyui(patch, shape, fits):
    assert _fits(patch, torch.Size(shape)) is fits


def test_two_names_for_one_weight_are_refused(moving, tmp_path):
    twice = f"unet.{SPATIAL.replace('.to_q', '.processor.to_q')}_lora"
    other = dict(zip((f"{twice}.down.weight", f"{twice}.up.weight"), pair(), strict=True))
    path = written(tmp_path, "peft with unet", **other)
    with pytest.raises(FileFormatError, match="made.safetensors: has .* for one layer of `model`"):
        load_lora(moving[0], path, 1.0)


def sampled(model, hooks=None, steps=2):
    """Latents after a few steps; the hooks are on both texts, as core's nodes set them."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(2, 4, 8, 8, generator=generator)
    texts = [[[torch.randn(1, 7, 768, generator=generator), {}]] for _ in range(2)]
    if hooks is not None:
        texts = [comfy.hooks.set_hooks_for_conditioning(text, hooks) for text in texts]
    return comfy.sample.sample(
        model, noise, steps, 2.0, "euler", "normal", *texts, torch.zeros_like(noise), disable_pbar=True, seed=3
    )


def hook(strength=0.5, keyframes=()):
    group = comfy.hooks.create_hook_lora(lora(), strength, 0.0)
    if keyframes:
        frames = comfy.hooks.HookKeyframeGroup()
        for start, factor in keyframes:
            frames.add(comfy.hooks.HookKeyframe(strength=factor, start_percent=start))
        group.set_keyframes_on_hooks(frames)
    return group


def test_a_hook_acts_as_the_lora_itself_and_leaves_nothing_behind(moving):
    model, _ = moving
    plain = sampled(model)
    hooked = sampled(model, hook())
    assert relative(hooked, plain) > 1e-4
    assert relative(hooked, sampled(with_lora(model))) < 1e-5
    assert torch.equal(sampled(model), plain)
    assert torch.equal(sampled(model, hook(0.0)), plain)
    assert relative(sampled(model, hook(-0.5)), sampled(with_lora(model, -0.5))) < 1e-5


def test_keyframes_switch_a_hook_in_the_middle_of_the_sampling(moving):
    model, _ = moving
    plain, whole = sampled(model), sampled(model, hook())
    first, second = (sampled(model, hook(0.5, ((0.0, a), (0.4, b)))) for a, b in ((1.0, 0.0), (0.0, 1.0)))
    always = sampled(model, hook(0.5, ((0.0, 1.0), (0.4, 1.0))))
    assert relative(always, whole) < 1e-6
    results = [plain, whole, first, second]
    assert all(relative(a, b) > 1e-5 for i, a in enumerate(results) for b in results[:i])
    assert torch.equal(sampled(model, hook(0.5, ((0.0, 0.0),))), plain)


def test_a_hook_set_before_the_motion_module_is_the_same_hook(moving):
    base = sd15()
    plain_image = sampled(base)
    hooked_image = sampled(base, hook())
    applied = apply_motion_module(base, motion_module())
    assert torch.equal(sampled(applied, hook()), sampled(moving[0], hook()))
    assert torch.equal(sampled(base), plain_image) and torch.equal(sampled(base, hook()), hooked_image)
    both = sampled(apply_motion_module(with_lora(base), motion_module()), hook())
    assert relative(both, sampled(with_lora(moving[0], 1.0))) < 1e-5
