"""AnimateLCM-I2V on a MODEL: the picture reaches the image encoder, and nothing runs without one."""

from __future__ import annotations

import pytest
import torch
from check_saving import folder, load, sampled, save  # noqa: F401
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.step.animatelcm import set_picture
from pack.unet_motion import MotionAdapter
from pack.unet_motion.formats import MotionModule
from small import WIDTHS, fill, inputs, motion_module, options, relative, sd15


def i2v():
    adapter = MotionAdapter(block_out_channels=WIDTHS, use_image_encoder=True, motion_max_seq_length=64)
    fill(adapter, seed=1)
    return MotionModule.from_adapter(adapter, "i2v.safetensors")


@pytest.fixture(scope="module")
def moving():
    return apply_motion_module(sd15(), i2v())


def call(model, frames=4, **extra):
    torch.manual_seed(2)
    settings = model.model_options["transformer_options"]
    return model.model.diffusion_model(**inputs(frames), transformer_options={**options(), **settings, **extra})


def by_hand(model, frames=4, **added):
    """The core with the latents of the picture."""
    torch.manual_seed(2)
    given = inputs(frames)
    core = model.model.diffusion_model.core
    return core.forward_frames(
        given["x"], given["timesteps"], given["context"], num_frames=frames, added_cond_kwargs=added
    )


def test_the_picture_reaches_the_encoder_scaled_as_the_model_scales_latents(moving):
    picture = torch.randn(1, 4, 8, 12)
    ready = set_picture(moving, {"samples": picture}, 0.8, 1.0)
    expected = by_hand(moving, image_latents=picture * 0.18215)
    assert relative(call(ready), expected) < 1e-5
    other = set_picture(ready, {"samples": picture}, 1.5, 0.5)
    by_the_core = by_hand(moving, image_latents=picture * 0.18215, image_motion_scale=1.5, image_strength=0.5)
    assert relative(call(other), by_the_core) < 1e-5
    assert relative(call(other), expected) > 1e-3
    # The one that was given stays as it was.
    assert relative(call(ready), expected) < 1e-5


def test_a_picture_for_every_frame_and_a_window_of_them(moving):
    pictures = torch.randn(6, 4, 8, 12)
    ready = set_picture(moving, {"samples": pictures}, 0.8, 1.0)
    scaled = 0.18215 * pictures.transpose(0, 1)[None]
    window = {"full_length": 6, "context_length": 4, "sub_idxs": [1, 2, 3, 4]}
    assert relative(call(ready, ad_params=window), by_hand(moving, image_latents=scaled[:, :, 1:5])) < 1e-5
    assert relative(call(ready, frames=6), by_hand(moving, frames=6, image_latents=scaled)) < 1e-5


def test_nothing_runs_without_a_picture_and_other_models_refuse_one(moving):
    picture = {"samples": torch.randn(1, 4, 8, 12)}
    with pytest.raises(ValueError, match="need a picture to animate"):
        call(moving)
    with pytest.raises(ValueError, match="`picture` has 4x4 latents, but the clip 8x12"):
        call(set_picture(moving, {"samples": torch.zeros(1, 4, 4, 4)}, 0.8, 1.0))
    with pytest.raises(ValueError, match="`picture` holds 3 pictures, expected 1, or 4"):
        call(set_picture(moving, {"samples": torch.zeros(3, 4, 8, 12)}, 0.8, 1.0))
    for model in (sd15(), apply_motion_module(sd15(), motion_module())):
        with pytest.raises(ValueError, match="`model` has no AnimateLCM-I2V motion modules"):
            set_picture(model, picture, 0.8, 1.0)


def test_a_saved_model_gives_the_same_samples_again(moving, folder):  # noqa: F811
    picture = {"samples": torch.randn(1, 4, 8, 8)}
    again = load(save(moving, folder))
    first, second = (sampled(set_picture(model, picture, 0.8, 1.0)) for model in (moving, again))
    assert torch.equal(first, second) and first.std() > 0.1
