"""Train Motion LoRA on models of SD1.5's and SDXL's structure: their latents, texts and vectors are ComfyUI's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from check_sdxl import module, sdxl
from check_training import folders  # noqa: F401 (a fixture)
from comfy_extras.nodes_train import LoraModelLoader
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.training import view as training_view
from pack.nodes.host.training.data import ModelEncoder
from pack.nodes.training import TrainMotionLoRA
from sampled import execute
from small import motion_module, sd15

FRAMES = 2


def encoders(width, pooled):
    """A CLIP whose longer texts have more tokens, as CLIP's own have, and a VAE of 8 pixels to a latent."""

    def encode(caption):
        generator = torch.Generator().manual_seed(len(caption))
        hidden = torch.randn(1, 77 * (1 + len(caption) // 20), width, generator=generator)
        return [[hidden, {"pooled_output": torch.randn(1, pooled, generator=generator)}]]

    def latents(images):
        small = images.movedim(-1, 1)[..., ::8, ::8]
        return torch.cat([small, small[:, :1]], dim=1)

    def pictures(found):
        return found.movedim(1, -1)[..., :3].repeat_interleave(8, 1).repeat_interleave(8, 2)

    clip = SimpleNamespace(tokenize=lambda caption: caption, encode_from_tokens_scheduled=encode)
    return clip, SimpleNamespace(encode=latents, decode=pictures)


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def loaded(request):
    with torch.inference_mode():
        if request.param == "sd15":
            return apply_motion_module(sd15(), motion_module()), *encoders(768, 768)
        return apply_motion_module(sdxl(), module("sdxl")), *encoders(2048, 1280)


def test_a_lora_for_the_motion_layers_comes_out_and_fits(loaded, folders, monkeypatch):  # noqa: F811
    monkeypatch.setattr(
        training_view.TrainingView, "stepped", lambda view, trainer, row: view.losses.append(row["loss"])
    )
    model, clip, vae = loaded
    images = torch.rand(3 * FRAMES, 64, 48, 3)
    captions = "a cat\na dog that runs over a wide meadow\na bird"
    with torch.inference_mode():
        lora, loss = TrainMotionLoRA.execute(model, clip, vae, captions, FRAMES, 3, 2, 0.01, 0, "x", images).result
    assert len(loss["loss"]) == 3 and len(list(folders.output.iterdir())) == 1
    ups = [value for name, value in lora.items() if name.endswith("lora_up.weight")]
    assert ups and all(value.abs().max() > 0 for value in ups)
    patched = execute(LoraModelLoader, model, lora, 1.0)
    assert len(patched.patches) == len(ups) and all(".motion." in key for key in patched.patches)


def test_latents_and_vectors_are_as_the_model_takes_them(loaded):
    model, clip, vae = loaded
    encoder = ModelEncoder(model, clip, vae)
    images = torch.rand(20, 16, 24, 3)
    latents = encoder.pictures(images)
    factor = model.model.latent_format.scale_factor
    assert torch.allclose(latents, factor * vae.encode(images)) and factor != 1
    assert torch.allclose(encoder.decoded(latents), vae.decode(vae.encode(images)), atol=1e-6)
    text = encoder.text("a cat", 24, 16)
    ((hidden, more),) = clip.encode_from_tokens_scheduled("a cat")
    assert torch.equal(text["text"], hidden[0])
    if "vector" not in text:
        assert hidden.shape[-1] == 768
        return
    assert text["vector"].shape == (2816,) and torch.equal(text["vector"][:1280], more["pooled_output"][0])
    # Six numbers of 256 each: height, width, crop, crop, target height, target width.
    sizes = text["vector"][1280:].unflatten(0, (6, 256))
    assert torch.equal(sizes[0], sizes[4]) and torch.equal(sizes[1], sizes[5]) and not torch.equal(sizes[0], sizes[1])


def test_a_clip_or_a_vae_of_another_model_is_named(loaded):
    model, clip, vae = loaded
    with pytest.raises(ValueError, match="use the CLIP of the same loader"):
        ModelEncoder(model, encoders(96, 96)[0], vae).text("a cat", 8, 8)
    wide = SimpleNamespace(encode=lambda images: torch.zeros(len(images), 16, 1, 1))
    with pytest.raises(ValueError, match=r"`vae` gives latents of shape \(2, 16, 1, 1\), expected \(frames, 4, height"):
        ModelEncoder(model, clip, wide).pictures(torch.rand(2, 8, 8, 3))
