"""PIA on a MODEL: the picture and its influence reach the input layer, and nothing runs without them."""

from __future__ import annotations

import pytest
import torch
from pack.nodes.host.files.loading import load_motion_file
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.step.pia import parse_influence, set_first_frame
from pack.unet_motion import MotionAdapter
from pack.unet_motion.control.pia import PRESETS
from pack.unet_motion.formats import MotionModule, PositionOptions
from safetensors.torch import save_file
from small import WIDTHS, fill, inputs, motion_module, options, relative, sd15


def pia():
    adapter = MotionAdapter(block_out_channels=WIDTHS, use_motion_mid_block=False, conv_in_channels=9)
    fill(adapter, seed=1)
    return MotionModule.from_adapter(adapter, "pia.safetensors")


@pytest.fixture(scope="module")
def moving():
    base = sd15()
    return base, apply_motion_module(base, pia())


def call(model, frames=4, **extra):
    torch.manual_seed(2)
    return model.model.diffusion_model(**inputs(frames), transformer_options={**options(), **settings(model), **extra})


def settings(model):
    return model.model_options["transformer_options"]


def by_hand(model, picture, influence, frames=4):
    """The core on nine channels: noisy latent, influence, scaled picture, for both texts."""
    torch.manual_seed(2)
    given = inputs(frames)
    mask = torch.tensor(influence).repeat(2)[:, None, None, None].expand(-1, 1, 8, 12)
    x = torch.cat([given["x"], mask, (picture * 0.18215).expand(2 * frames, -1, -1, -1)], dim=1)
    return model.model.diffusion_model.core.forward_frames(x, given["timesteps"], given["context"], num_frames=frames)


def test_the_picture_and_its_influence_are_what_the_unet_reads(moving):
    base, model = moving
    picture = torch.randn(3, 4, 8, 12)
    ready = set_first_frame(model, {"samples": picture}, list(PRESETS["medium motion"]), False, 0, 1.0)
    expected = by_hand(model, picture[:1], [1.0, 0.8, 0.8, 0.8])
    assert relative(call(ready), expected) < 1e-5
    other = set_first_frame(model, {"samples": picture}, [1.0, 0.5], False, 3, 0.5)
    assert relative(call(other), by_hand(model, picture[:1], [0.25, 0.25, 0.25, 0.5])) < 1e-5
    assert relative(call(other), expected) > 1e-4
    weight = model.model.diffusion_model.core.conv_in.weight
    assert torch.equal(weight[:, :4], base.model.diffusion_model.input_blocks[0][0].weight)
    assert torch.equal(weight[:, 4:], pia().state_dict["conv_in.weight"][:, 4:])


def test_a_window_gets_the_influence_of_its_own_frames(moving):
    picture = torch.randn(1, 4, 8, 12)
    ready = set_first_frame(moving[1], {"samples": picture}, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5], False, 0, 1.0)
    window = {"full_length": 8, "context_length": 4, "sub_idxs": [2, 3, 4, 5]}
    assert relative(call(ready, ad_params=window), by_hand(moving[1], picture, [0.8, 0.7, 0.6, 0.5])) < 1e-5


def test_nothing_runs_without_a_picture_and_other_models_refuse_one(moving):
    picture = {"samples": torch.randn(1, 4, 8, 12)}
    with pytest.raises(ValueError, match="need a picture to follow"):
        call(moving[1])
    with pytest.raises(ValueError, match="`first_frame` has 4x4 latents, but the clip 8x12"):
        call(set_first_frame(moving[1], {"samples": torch.zeros(1, 4, 4, 4)}, [1.0], False, 0, 1.0))
    with pytest.raises(ValueError, match="`frame` is 4, expected 0 to 3"):
        call(set_first_frame(moving[1], picture, [1.0], False, 4, 1.0))
    for model in (sd15(), apply_motion_module(sd15(), motion_module())):
        with pytest.raises(ValueError, match="`model` has no PIA motion modules"):
            set_first_frame(model, picture, [1.0], False, 0, 1.0)
    with pytest.raises(ValueError, match="`influence` is 'a, b', expected numbers between commas"):
        parse_influence("a, b")
    assert parse_influence("1, 0.5,") == [1.0, 0.5]


def test_loaders_of_one_file_share_its_weights_until_it_changes(tmp_path):
    path = tmp_path / "motion.safetensors"
    save_file(motion_module().state_dict, path)
    first, second = load_motion_file(str(path)), load_motion_file(str(path))
    assert second is first
    longer = load_motion_file(str(path), PositionOptions(stretch=8))
    assert longer.config.motion_max_seq_length == 40 and first.config.motion_max_seq_length == 32
    key = "down_blocks.0.motion_modules.0.proj_in.weight"
    assert longer.state_dict[key].data_ptr() == first.state_dict[key].data_ptr()
    save_file({k: v + 1 if k == key else v for k, v in motion_module().state_dict.items()}, tmp_path / "new")
    (tmp_path / "new").replace(path)
    assert torch.equal(load_motion_file(str(path)).state_dict[key], motion_module().state_dict[key] + 1)
