"""The pipeline of a Stable Diffusion 1.5 checkpoint or folder, made small, against diffusers' AnimateDiffPipeline."""

import re

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, AutoencoderKL, DDIMScheduler
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.formats.files import adapter, randomise, to_ldm, unet2d
from tests.reference import assert_close, assert_differs
from tools.diffusers_tests import write_tokenizer
from unet_motion import MotionPipeline
from unet_motion.sampling import pipeline

CALL = dict(negative_prompt="grey", num_frames=3, num_inference_steps=2, guidance_scale=3.0, height=16, width=16)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    write_tokenizer(folder)
    vae = AutoencoderKL(
        block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=64,
            intermediate_size=96,
            num_attention_heads=1,
            num_hidden_layers=2,
            vocab_size=200,
            projection_dim=64,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=2,
        )  # fmt: skip
    )
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False,
                              timestep_spacing="trailing")  # fmt: skip
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    image, motion = unet2d(cross_attention_dim=64), adapter()
    pipe = AnimateDiffPipeline(randomise(vae, 3), randomise(text, 4), tokenizer, image, motion, scheduler)
    pipe.set_progress_bar_config(disable=True)
    pipe.image = image
    return pipe


def ldm_vae(state):
    """The names that Stable Diffusion's checkpoints have for an autoencoder of two resolutions."""
    out = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        rest = re.sub(r"^down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", rest)
        rest = re.sub(r"^up_blocks\.(\d)", lambda found: f"up.{1 - int(found[1])}", rest)
        rest = re.sub(r"^down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", rest)
        rest = rest.replace(".resnets.", ".block.").replace("upsamplers.0", "upsample")
        rest = rest.replace("mid_block.block.0", "mid.block_1").replace("mid_block.block.1", "mid.block_2")
        rest = rest.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "attentions" in rest:
            rest = rest.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            rest = rest.replace("to_out.0", "proj_out").replace("to_", "")
            value = value[:, :, None, None] if value.dim() == 2 else value
        out[f"first_stage_model.{part}.{rest}"] = value
    return out


@pytest.fixture(scope="module")
def checkpoint(theirs, tmp_path_factory):
    state = to_ldm(theirs.image.state_dict(), 2, "model.diffusion_model.") | ldm_vae(theirs.vae.state_dict())
    for name, value in theirs.text_encoder.state_dict().items():
        name = name.removeprefix("text_model.")
        state[f"cond_stage_model.transformer.text_model.{name}"] = value
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def module(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("module") / "motion.safetensors"
    save_file(theirs.motion_adapter.state_dict(), path)
    return path


def drawn(pipe, monkeypatch, prompt="a red star", seed=7, **changes):
    """The pictures before they are rounded, and as they are returned."""
    pipe.unet.set_norm_scope(resnet="frame", motion="clip")
    kept = []
    plain = type(pipe).pictures

    def pictures(self, latents):
        kept.append(plain(self, latents))
        return kept[-1]

    monkeypatch.setattr(type(pipe), "pictures", pictures)
    call = {**CALL, "spacing": "trailing", "generator": torch.Generator().manual_seed(seed), **changes}
    frames = pipe(prompt, progress=False, **call)
    return torch.stack(kept), frames


def expected_of(theirs, prompt="a red star", seed=7):
    generator = torch.Generator().manual_seed(seed)
    return theirs(prompt, generator=generator, output_type="pt", **CALL).frames


def test_a_checkpoint_alone_draws_diffusers_pictures(theirs, checkpoint, module, monkeypatch):
    pipe = MotionPipeline.from_single_file(checkpoint, module, theirs.tokenizer, device="cpu")
    assert (pipe.latent_scale, pipe.pixels_per_latent) == (0.18215, 2)
    expected = expected_of(theirs)
    pictures, frames = drawn(pipe, monkeypatch)
    assert_close(pictures, expected)
    assert frames.dtype == np.uint8 and frames.shape == (3, 16, 16, 3)
    assert_differs(expected_of(theirs, "a blue star"), expected)


def test_a_folder_of_a_pipeline_and_parts_by_hand_draw_the_same(theirs, module, monkeypatch, tmp_path):
    theirs.save_pretrained(tmp_path)
    pipe = MotionPipeline.from_pretrained(tmp_path, device="cpu")
    pictures, _ = drawn(pipe, monkeypatch)
    assert_close(pictures, expected_of(theirs))
    by_hand = MotionPipeline(pipe.unet, theirs.text_encoder, theirs.tokenizer, theirs.vae)
    again, _ = drawn(by_hand, monkeypatch)
    assert_close(again[-1:], pictures)


def test_lists_of_prompts_generators_and_latents(theirs, checkpoint, module, monkeypatch):
    pipe = MotionPipeline.from_single_file(checkpoint, module, theirs.tokenizer, device="cpu")
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    prompts = ["a red star", "a blue star"]
    pictures, frames = drawn(pipe, monkeypatch, prompts, generator=generators)
    assert frames.shape == (2, 3, 16, 16, 3)
    expected = [expected_of(theirs, prompt, seed) for prompt, seed in zip(prompts, (7, 8), strict=True)]
    assert_close(pictures, torch.cat(expected))
    noise = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    assert_close(drawn(pipe, monkeypatch, generator=None, latents=noise)[0], pictures[:1])
    for wrong, words in (
        ({"frames": 4}, "`num_frames` and `frames` are two names of one argument"),
        ({"generator": [None]}, "`generator` is a list, expected a torch.Generator"),
        ({"latents": noise[:, :, :2]}, r"`latents` have shape \(1, 4, 2, 8, 8\), expected \(1, 4, 3, 8, 8\)"),
        ({"prompt": []}, "`prompt` is an empty list"),
        ({"prompt": prompts, "generator": generators[:1]}, "`generator` holds 1, expected 2"),
        ({"noise": "free_noise"}, "`noise` draws noise of its own"),
    ):
        with pytest.raises(ValueError, match=words):
            drawn(pipe, monkeypatch, **wrong)


def test_a_half_precision_pipeline_casts_what_it_computes(theirs, checkpoint, module, monkeypatch):
    exact = expected_of(theirs)
    pipe = MotionPipeline.from_single_file(checkpoint, module, theirs.tokenizer, device="cpu").to(torch.bfloat16)
    assert {pipe.dtype, pipe.text_encoder.dtype, pipe.autoencoder.dtype} == {torch.bfloat16}
    pictures, _ = drawn(pipe, monkeypatch)
    assert 0 < (pictures - exact).abs().mean() < 0.05
    mixed = MotionPipeline(pipe.unet, theirs.text_encoder, theirs.tokenizer, theirs.vae)
    assert (drawn(mixed, monkeypatch)[0][-1] - exact[0]).abs().mean() < 0.05
    with pytest.raises(ValueError, match="`sample` has dtype float32, expected bfloat16"):
        pipe.unet(torch.zeros(1, 4, 1, 8, 8), 1, torch.zeros(1, 2, 64))


def test_long_prompts_and_files_that_are_no_checkpoint_are_said(theirs, checkpoint, module, monkeypatch, tmp_path):
    pipe = MotionPipeline.from_single_file(checkpoint, module, theirs.tokenizer, device="cpu")
    with pytest.warns(UserWarning, match="has 102 tokens, expected at most 77: the end is left out"):
        drawn(pipe, monkeypatch, "star " * 25)
    with pytest.raises(ValueError, match="motion.safetensors: holds no tensors cond_stage_model"):
        MotionPipeline.from_single_file(module, tokenizer=theirs.tokenizer)
    path = tmp_path / "xl.safetensors"
    save_file({"conditioner.embedders.0.transformer.x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="two text encoders"):
        MotionPipeline.from_single_file(path, tokenizer=theirs.tokenizer)
    with pytest.raises(FileNotFoundError, match="has no folder text_encoder"):
        MotionPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("load", ["from_single_file", "from_pretrained"])
@pytest.mark.parametrize(("given", "wanted"), [(None, "meta"), ("cpu", "cpu"), ("cuda:1", "cuda:1")])
def test_every_part_goes_to_the_device_that_is_named_or_to_the_default(load, given, wanted, monkeypatch):
    class Parts(MotionPipeline):
        def __init__(self, *parts, float8_products):
            self.parts, self.float8_products = parts, float8_products

    monkeypatch.setattr(pipeline, "default_device", lambda: torch.device("meta"))
    monkeypatch.setattr(pipeline, "parts_of_checkpoint", lambda path, dtype, device: ("text", device))
    monkeypatch.setattr(pipeline, "parts_of_folder", lambda path, dtype, device: ("text", device, "tokenizer"))
    monkeypatch.setattr(pipeline, "load_tokenizer", lambda name: "tokenizer")
    monkeypatch.setattr(pipeline, "load_unet", lambda *files, dtype, device: device)
    assert getattr(Parts, load)("path", device=given, float8_products=True).float8_products is True
    loaded = getattr(Parts, load)("path", device=given)
    unet, text, tokenizer, autoencoder = loaded.parts
    assert loaded.float8_products is False
    assert str(unet) == str(autoencoder) == wanted and (text, tokenizer) == ("text", "tokenizer")
