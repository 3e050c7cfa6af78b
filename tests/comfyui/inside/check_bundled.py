"""The bundled model as MODEL, CLIP and VAE, against the library's own way through the same parts."""

from __future__ import annotations

import logging

import pytest
import torch
from pack.nodes.host.model.bundled import load_bundled_models
from pack.nodes.host.step.settings import with_settings
from pack.unet_motion import ForwardOptions, FreeU
from pack.unet_motion.bundled import added_cond, load_bundled
from small import options, relative

PROMPT = "a red star moving left"


@pytest.fixture(scope="module")
def loaded():
    return load_bundled_models()


@pytest.fixture(scope="module")
def parts():
    return load_bundled()


def denoise(model, cond, pooled, x, sigma, frames, **to):
    """BaseModel's prediction of the clean latents, with ComfyUI's way of the text into the model."""
    extra = model.model.extra_conds(cross_attn=cond, pooled_output=pooled, device=x.device, noise=x)
    arguments = {name: value.process_cond(batch_size=frames, device=x.device).cond for name, value in extra.items()}
    return model.model.apply_model(x, sigma, **arguments, transformer_options=options(1, **to))


def reference(parts, x, sigma, timestep, frames, options_=None):
    hidden, pooled = parts.encode_prompts([PROMPT])
    scaled = x / (sigma.reshape(-1, 1, 1, 1) ** 2 + 1).sqrt()
    clip = scaled.reshape(1, frames, *x.shape[1:]).transpose(1, 2)
    noise = parts.unet(clip, timestep, hidden, added_cond_kwargs=added_cond(pooled), options=options_).sample
    return x - noise.transpose(1, 2).flatten(0, 1) * sigma.reshape(-1, 1, 1, 1)


def case(model, frames=6, timestep=700):
    sigma = model.model.model_sampling.sigmas[timestep].repeat(frames)
    return torch.randn(frames, 4, 8, 8) * sigma[0], sigma, timestep, frames


def test_text_is_encoded_as_the_library_does(loaded, parts):
    clip = loaded[1]
    for prompt in (PROMPT, ""):
        cond, pooled = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)
        hidden, expected = parts.encode_prompts([prompt])
        assert torch.equal(cond, hidden) and torch.equal(pooled, expected)


def test_prompt_weights_act_on_their_words(loaded):
    clip = loaded[1]

    def encode(text):
        return clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)[1]

    base, heavy = encode("a red star"), encode("a (red:1.5) star")
    red = encode("red") - encode("")
    assert torch.allclose(heavy - base, 0.5 * red, atol=1e-5)
    assert red.norm() > 0.01


def test_word_numbers_are_given_where_asked(loaded):
    row = next(iter(loaded[1].tokenize("red star", return_word_ids=True).values()))[0]
    assert [entry[2] for entry in row[:4]] == [0, 1, 2, 0]


def test_unknown_words_are_named_beside_the_known_ones(loaded, caplog):
    with caplog.at_level(logging.WARNING):
        loaded[1].tokenize("a red xylophone (zebra:1.2)")
    message = caplog.text
    assert "'xylophone', 'zebra'" in message and "star" in message and "1.2" not in message


def test_prediction_equals_the_library(loaded, parts):
    model, clip, _ = loaded
    cond, pooled = clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)
    x, sigma, timestep, frames = case(model)
    ours = denoise(model, cond, pooled, x, sigma, frames)
    expected = reference(parts, x, sigma, timestep, frames)
    assert relative(ours, expected) < 1e-5
    assert relative(expected, x) > 1e-3


def test_freeu_acts_in_its_range_of_the_sampling_only(loaded, parts):
    model, clip, _ = loaded
    cond, pooled = clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)
    chosen = {"b1": 1.5, "b2": 1.6, "s1": 0.9, "s2": 0.2, "version": "v2", "start_percent": 0.2, "end_percent": 0.5}
    freeu = ForwardOptions(freeu=FreeU(s1=0.9, s2=0.2, b1=1.5, b2=1.6, version="v2"))
    changed = with_settings(model, freeu=chosen).model_options["transformer_options"]
    for timestep, active in ((900, False), (700, True), (520, True), (400, False)):
        x, sigma, _, frames = case(model, timestep=timestep)
        ours = denoise(model, cond, pooled, x, sigma, frames, **changed)
        plain, with_it = (reference(parts, x, sigma, timestep, frames, o) for o in (None, freeu))
        assert relative(with_it, plain) > 1e-4
        assert relative(ours, with_it if active else plain) < 1e-5, timestep


@pytest.mark.parametrize("name", ["sdpa", "flash", "math", "sliced"])
def test_attention_choice_reaches_spatial_and_temporal_layers(loaded, monkeypatch, name):
    from pack.unet_motion.ops.attention.processors import PROCESSORS

    model, clip, _ = loaded
    cond, pooled = clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)
    x, sigma, _, frames = case(model)
    plain = denoise(model, cond, pooled, x, sigma, frames)
    calls = []
    kind, attend = type(PROCESSORS[name]), type(PROCESSORS[name]).attend

    def counted(self, query, *rest):
        if self is PROCESSORS[name]:
            calls.append(tuple(query.shape))
        return attend(self, query, *rest)

    monkeypatch.setattr(kind, "attend", counted)
    for place in ("spatial", "temporal"):
        calls.clear()
        chosen = {"spatial": "auto", "temporal": "auto", place: name}
        to = with_settings(model, attention=chosen).model_options["transformer_options"]
        out = denoise(model, cond, pooled, x, sigma, frames, **to)
        assert relative(out, plain) < 1e-4
        over_frames = {shape[2] == frames for shape in calls}
        assert over_frames == {place == "temporal"}, calls
        # An override of another node wins for the spatial layers.
        calls.clear()
        denoise(model, cond, pooled, x, sigma, frames, optimized_attention_override=lambda f, *a, **k: f(*a, **k), **to)
        assert bool(calls) == (place == "temporal")


@pytest.mark.parametrize("dim", [0, 1])
def test_forward_chunking_splits_the_feed_forward_and_keeps_the_values(loaded, monkeypatch, dim):
    from pack.unet_motion.model.transformer import FeedForward

    model, clip, _ = loaded
    cond, pooled = clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)
    x, sigma, _, frames = case(model)
    plain = denoise(model, cond, pooled, x, sigma, frames)
    sizes = []
    forward = FeedForward.forward

    def noted(self, tokens, *rest):
        sizes.append(tuple(tokens.shape))
        return forward(self, tokens, *rest)

    monkeypatch.setattr(FeedForward, "forward", noted)
    to = with_settings(model, chunking={"size": 2, "dim": dim}).model_options["transformer_options"]
    assert relative(denoise(model, cond, pooled, x, sigma, frames, **to), plain) < 1e-5
    spatial = [shape for shape in sizes if len(shape) == 3]
    assert spatial and all(shape[dim] <= 2 for shape in spatial)


def test_several_clips_in_a_batch_do_not_see_one_another():
    model, clip, _ = load_bundled_models()
    for name, parameter in model.model.diffusion_model.motion.named_parameters():
        if ".proj_out." in f".{name}":
            # Whatever was learned, frames must see one another strongly enough to tell.
            parameter += 0.1 * torch.randn_like(parameter)
    cond, pooled = clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)
    x, sigma, _, frames = case(model)
    alone = denoise(model, cond, pooled, x[:3], sigma[:3], 3)
    to = with_settings(model, frames_per_clip=3).model_options["transformer_options"]
    together = denoise(model, cond, pooled, x, sigma, frames, **to)
    assert relative(together[:3], alone) < 1e-5
    assert relative(denoise(model, cond, pooled, x, sigma, frames)[:3], alone) > 1e-4
    to = with_settings(model, frames_per_clip=4).model_options["transformer_options"]
    with pytest.raises(ValueError, match="frames_per_clip is 4, but the latent batch of 6 frames"):
        denoise(model, cond, pooled, x, sigma, frames, **to)


def test_text_without_a_pooled_vector_is_named(loaded):
    with pytest.raises(ValueError, match="no pooled text.*CLIP of the same loader"):
        loaded[0].model.extra_conds(cross_attn=torch.zeros(1, 16, 64), device="cpu", noise=torch.zeros(1, 4, 8, 8))


def test_pictures_go_through_comfyuis_vae_as_through_the_librarys(loaded, parts):
    pictures = torch.rand(2, 64, 64, 3)
    latents = loaded[2].encode(pictures)
    expected = parts.autoencoder.encode(pictures.permute(0, 3, 1, 2))
    assert latents.shape == (2, 4, 8, 8) and relative(latents, expected) < 1e-5
    decoded = loaded[2].decode(latents)
    assert torch.allclose(decoded, parts.autoencoder.decode(latents).clamp(0, 1).permute(0, 2, 3, 1), atol=1e-4)


def test_the_same_model_can_be_made_again(loaded):
    model = loaded[0]
    load, arguments = model.cached_patcher_init
    again = load(*arguments, disable_dynamic=True)
    assert type(again).__name__ == "ModelPatcher" and again.model is not model.model
    states = (m.model.diffusion_model.state_dict() for m in (model, again))
    first, second = states
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
