"""Core's saving nodes on our MODELs, and our loader on what they wrote: the same values, bit for bit."""

from __future__ import annotations

import comfy.model_base
import comfy.sample
import folder_paths
import pytest
import torch
from check_apply import with_lora
from comfy_extras.nodes_model_merging import CheckpointSave, ModelSave
from pack.nodes.host.files import paths
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.model.bundled import load_bundled_models
from pack.nodes.loading import LoadUNet
from pack.unet_motion.files.errors import FileFormatError, KeyMismatchError
from pack.unet_motion.formats import inspect_file, load_motion_module, load_unet
from safetensors.torch import load_file, save_file
from small import motion_module, relative, sd15


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where core saves to and our loader looks."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    found, extensions = folder_paths.folder_names_and_paths["diffusion_models"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusion_models", ([*found, str(tmp_path)], extensions))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def save(model, folder, *parts):
    """The one file that core's Save Model, or Save Checkpoint where text encoder and VAE are given, writes."""
    before = set(folder.glob("*"))
    (CheckpointSave().save(model, *parts, "saved") if parts else ModelSave().save(model, "saved"))
    (path,) = set(folder.glob("*.safetensors")) - before
    return path


def load(path, motion="none", norm_scope="auto", beta_schedule="auto"):
    assert path.name in paths.list_unets()
    model = LoadUNet.execute(path.name, motion, norm_scope, beta_schedule)[0]
    for tensor in (*model.model.parameters(), *model.model.buffers()):
        # Out of the mapped file: the last bit of a product may depend on where a weight lies in memory.
        tensor.data = tensor.data.clone()
    return model


def sampled(model, cond=None, frames=3):
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(frames, 4, 8, 8, generator=generator)
    if cond is None:
        cond = [[torch.randn(1, 7, 768, generator=generator), {}]]
    return comfy.sample.sample(
        model, noise, 2, 2.0, "euler", "normal", cond, cond, torch.zeros_like(noise), disable_pbar=True, seed=5
    )


def moving(norm_scope="v1", beta_schedule="auto", **config):
    return apply_motion_module(sd15(), motion_module(**config), norm_scope, beta_schedule)


@pytest.mark.parametrize(("norm_scope", "beta_schedule", "mid"), [("v1", "auto", False), ("sdxl", "linear", True)])
def test_a_saved_model_gives_the_same_samples_again(folder, norm_scope, beta_schedule, mid):
    model = moving(norm_scope, beta_schedule, use_motion_mid_block=mid)
    path = save(model, folder)
    again = load(path)
    core, reloaded = model.model.diffusion_model.core, again.model.diffusion_model.core
    assert reloaded.config == core.config
    assert torch.equal(again.model.model_sampling.sigmas, model.model.model_sampling.sigmas)
    state = core.state_dict()
    assert state.keys() == reloaded.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in reloaded.state_dict().items())
    assert torch.equal(sampled(again), sampled(model))
    # What is saved of the second says no less than what was saved of the first.
    first, second = (load_file(path) for path in (path, save(again, folder)))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_choice_at_loading_wins_over_what_was_saved(folder):
    path = save(moving("v1", "linear"), folder)
    for scope, schedule in (("auto", "sqrt_linear"), ("v2", "auto")):
        loaded = load(path, norm_scope=scope, beta_schedule=schedule).model
        expected = moving("v1" if scope == "auto" else scope, "linear" if schedule == "auto" else schedule).model
        assert loaded.diffusion_model.core.config == expected.diffusion_model.core.config
        assert torch.equal(loaded.model_sampling.sigmas, expected.model_sampling.sigmas)


def test_a_lora_is_saved_with_the_weights_and_only_there(folder):
    model = moving()
    plain = sampled(model)
    patched = with_lora(model, 0.5)
    expected = sampled(patched)
    again = load(save(patched, folder))
    assert not again.patches and relative(expected, plain) > 1e-4
    assert torch.equal(sampled(again), expected)
    assert torch.equal(sampled(model), plain)


def test_the_bundled_model_is_saved_whole_with_its_text_vector_and_latents(folder):
    model, clip, vae = load_bundled_models()
    cond = clip.encode_from_tokens_scheduled(clip.tokenize("a red star moving left"))
    expected = sampled(model, cond)
    for parts in ((), (clip, vae)):
        again = load(save(model, folder, *parts))
        assert torch.equal(sampled(again, cond), expected)
        assert type(again.model.latent_format) is type(model.model.latent_format)
        assert not again.model.concat_keys


def test_what_the_model_predicts_and_inpainting_channels_travel(folder):
    base = sd15(in_channels=9)
    base.model.set_inpaint()
    base.model.model_type = comfy.model_base.ModelType.V_PREDICTION
    model = apply_motion_module(base, motion_module())
    again = load(save(model, folder))
    assert again.model.model_type == comfy.model_base.ModelType.V_PREDICTION
    assert again.model.concat_keys == model.model.concat_keys
    assert torch.equal(sampled(again), sampled(model))


def test_a_saved_file_is_recognised_and_its_parts_can_be_taken(folder):
    path = save(moving(), folder)
    info = inspect_file(path)
    assert (info.kind, info.loadable, info.problem, info.unexpected) == ("ldm_unet_motion", True, None, [])
    assert info.norm_scopes == ("clip", "frame")
    taken = load_motion_module(path).state_dict
    expected = motion_module().state_dict
    assert taken.keys() == expected.keys() and all(torch.equal(taken[key], expected[key]) for key in taken)
    # Everything made for SD1.5 finds the image UNet under its names.
    state, base = load_file(path), sd15().model.diffusion_model.state_dict()
    assert all(torch.equal(state[f"model.diffusion_model.{key}"], base[key]) for key in base)


def test_a_file_without_the_description_is_read_by_its_shapes(folder):
    model = moving("diffusers")
    state = load_file(save(model, folder))
    del state["unet_motion"]
    save_file(state, folder / "bare.safetensors")
    assert torch.equal(sampled(load(folder / "bare.safetensors")), sampled(model))


def test_what_cannot_be_read_is_said_in_one_sentence(folder):
    state = load_file(save(moving(), folder))
    save_file({**state, "unet_motion": torch.zeros(9, dtype=torch.uint8)}, folder / "damaged.safetensors")
    with pytest.raises(FileFormatError, match=r"damaged.safetensors: its tensor unet_motion is damaged, expected"):
        load_unet(folder / "damaged.safetensors")
    gone = next(key for key in state if "motion_modules.0.proj_in.weight" in key)
    save_file({key: value for key, value in state.items() if key != gone}, folder / "short.safetensors")
    with pytest.raises(KeyMismatchError, match=r"short.safetensors: does not hold exactly .* 1 missing: .*proj_in"):
        load_unet(folder / "short.safetensors")
    strange = {**state, "model.diffusion_model.motion.down_blocks.0.unheard.weight": torch.zeros(2)}
    save_file(strange, folder / "strange.safetensors")
    with pytest.raises(KeyMismatchError, match=r"1 not expected: .*down_blocks.0.unheard.weight"):
        load_unet(folder / "strange.safetensors")
