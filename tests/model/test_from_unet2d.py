"""`from_unet2d`: an image UNet, with or without a motion adapter, becomes a motion UNet."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel

from tests.reference import (
    MotionAdapter,
    TheirModel,
    UNetMotionModel,
    adapter_pair,
    assert_close,
    assert_differs,
    assert_same_state,
    clip_of_rows,
    make_inputs,
    randomise,
    relative_error,
    rows_of_frames,
    run_ours,
    run_theirs,
)

SD15_2D = dict(
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(8, 16, 16),
    layers_per_block=2,
    norm_num_groups=4,
    cross_attention_dim=12,
    attention_head_dim=2,
)

SDXL_2D = dict(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(8, 16, 32),
    layers_per_block=2,
    transformer_layers_per_block=(1, 2, 3),
    attention_head_dim=(1, 2, 4),
    norm_num_groups=4,
    cross_attention_dim=20,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=6 * 8 + 10,
)

NETS = {"sd15": SD15_2D, "sdxl": SDXL_2D}


def image_unet(config, seed=0):
    return randomise(UNet2DConditionModel(**config), seed)


def adapter_config(config, **changes):
    return {
        "block_out_channels": config["block_out_channels"],
        "motion_layers_per_block": config["layers_per_block"],
        "motion_num_attention_heads": 2,
        "motion_norm_num_groups": config["norm_num_groups"],
        **changes,
    }


def image_result(unet, inputs):
    """The image UNet on every frame by itself, as a clip."""
    frames = inputs["sample"].shape[2]
    added = inputs.get("added_cond_kwargs")
    rows = unet(
        rows_of_frames(inputs["sample"]),
        inputs["timestep"].repeat_interleave(frames),
        inputs["encoder_hidden_states"].repeat_interleave(frames, dim=0),
        added_cond_kwargs=added and {key: value.repeat_interleave(frames, dim=0) for key, value in added.items()},
    ).sample
    return clip_of_rows(rows, frames)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_without_adapter_it_is_the_image_model(name):
    unet = image_unet(NETS[name])
    ours = UNetMotionModel.from_unet2d(unet).eval()
    inputs = make_inputs(NETS[name], batch=2, frames=3, height=9, width=7)
    assert_close(run_ours(ours, inputs), image_result(unet, inputs))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(use_motion_mid_block=False),
        dict(motion_max_seq_length=24, motion_num_attention_heads=(1, 2, 4)),
        dict(motion_transformer_layers_per_block=2, motion_transformer_layers_per_mid_block=2),
    ],
    ids=["plain", "no mid", "heads and length", "depth"],
)
@torch.no_grad()
def test_with_adapter_equals_diffusers(name, changes):
    config = NETS[name]
    unet = image_unet(config)
    our_adapter, their_adapter = adapter_pair(**adapter_config(config, **changes))
    ours = UNetMotionModel.from_unet2d(unet, our_adapter).eval()
    theirs = TheirModel.from_unet2d(unet, their_adapter).eval()
    if name == "sdxl":
        theirs.add_embedding.load_state_dict(unet.add_embedding.state_dict())  # diffusers forgets to copy it
    inputs = make_inputs(config, batch=2, frames=3)
    result = run_ours(ours, inputs)
    assert_close(result, run_theirs(theirs, inputs))
    assert_differs(result, image_result(unet, inputs))
    assert_same_state(ours.state_dict(), theirs.state_dict())


def test_sdxl_pooled_text_layers_are_copied():
    unet = image_unet(SDXL_2D)
    ours = UNetMotionModel.from_unet2d(unet)
    state = ours.state_dict()
    assert_same_state({key: state[key] for key in unet.state_dict()}, unet.state_dict())


@torch.no_grad()
def test_adapter_of_diffusers_is_taken_too():
    unet = image_unet(SD15_2D)
    our_adapter, their_adapter = adapter_pair(**adapter_config(SD15_2D))
    first = UNetMotionModel.from_unet2d(unet, our_adapter)
    second = UNetMotionModel.from_unet2d(unet, their_adapter)
    assert_same_state(second.state_dict(), first.state_dict())


def test_config_of_both_goes_into_the_model():
    unet = image_unet({**SDXL_2D, "sample_size": 32, "norm_eps": 1e-4, "act_fn": "swish"})
    adapter, _ = adapter_pair(**adapter_config(SDXL_2D, motion_max_seq_length=24, use_motion_mid_block=False))
    config = UNetMotionModel.from_unet2d(unet, adapter).config
    assert (config.sample_size, config.norm_eps, config.act_fn) == (32, 1e-4, "swish")
    assert config.motion_max_seq_length == 24 and config.use_motion_mid_block is False
    assert config.num_attention_heads == (1, 2, 4)
    assert config.down_block_types == ("DownBlockMotion", "CrossAttnDownBlockMotion", "CrossAttnDownBlockMotion")
    assert config.up_block_types == ("CrossAttnUpBlockMotion", "CrossAttnUpBlockMotion", "UpBlockMotion")


@pytest.mark.parametrize(
    "changes",
    [
        dict(act_fn="swish"),
        dict(mid_block_scale_factor=1.5),
        dict(downsample_padding=0),
        dict(norm_eps=1e-2),
        dict(in_channels=9),
        dict(time_cond_proj_dim=7),
        dict(layers_per_block=(1, 2, 3)),
        dict(transformer_layers_per_block=(2, 1, 1)),
        dict(attention_head_dim=(1, 4, 2)),
        dict(reverse_transformer_layers_per_block=(1, 3, 2), transformer_layers_per_block=(1, 2, 1)),
        dict(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=58),
    ],
    ids=str,
)
@torch.no_grad()
def test_settings_of_the_image_unet_are_kept(changes):
    config = {**SD15_2D, **changes}
    unet = image_unet(config)
    ours = UNetMotionModel.from_unet2d(unet).eval()
    inputs = make_inputs(config, batch=2, frames=2)
    cond = inputs.pop("timestep_cond", None)
    assert_close(run_ours(ours, inputs), image_result(unet, inputs))
    assert cond is None or ours.time_embedding.cond_proj.weight.shape == (8, 7)


@pytest.mark.parametrize(
    "changes",
    [
        dict(act_fn="gelu"),
        dict(act_fn="mish"),
        dict(flip_sin_to_cos=False),
        dict(freq_shift=1),
        dict(center_input_sample=True),
        dict(time_embedding_act_fn="silu"),
        dict(timestep_post_act="silu"),
        dict(only_cross_attention=True),
        dict(dual_cross_attention=True),
        dict(upcast_attention=True),
        dict(resnet_time_scale_shift="scale_shift"),
        dict(conv_in_kernel=5),
        dict(conv_out_kernel=5),
        dict(class_embed_type="timestep"),
        dict(num_class_embeds=3),
        dict(time_embedding_dim=48),
        dict(time_embedding_type="fourier"),
        dict(mid_block_type=None),
        dict(mid_block_type="UNetMidBlock2D"),
        dict(mid_block_only_cross_attention=True),
        dict(encoder_hid_dim=5),
        dict(attention_type="gated"),
        dict(resnet_skip_time_act=True),
        dict(cross_attention_norm="layer_norm"),
    ],
    ids=str,
)
@torch.no_grad()
def test_unsupported_settings_never_give_a_wrong_picture(changes):
    """diffusers drops these silently. Either the result equals the image model's, or the setting is named."""
    unet = image_unet({**SD15_2D, **changes})
    try:
        ours = UNetMotionModel.from_unet2d(unet).eval()
    except ValueError as error:
        assert any(key in str(error) for key in [*changes, "encoder_hid_proj"])
        return
    inputs = make_inputs(SD15_2D, batch=2, frames=2)
    assert relative_error(run_ours(ours, inputs), image_result(unet, inputs)) <= 1e-5


def test_without_weights():
    unet = image_unet(SD15_2D)
    ours = UNetMotionModel.from_unet2d(unet, load_weights=False)
    assert not torch.equal(ours.conv_in.weight, unet.conv_in.weight)
    assert ours.config.block_out_channels == (8, 16, 16)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtype_follows_the_image_unet(dtype):
    unet = image_unet(SD15_2D).to(dtype)
    adapter, _ = adapter_pair(**adapter_config(SD15_2D))
    ours = UNetMotionModel.from_unet2d(unet, adapter)
    assert ours.dtype == dtype
    assert {value.dtype for value in ours.state_dict().values()} == {dtype}
    assert torch.equal(ours.conv_in.weight, unet.conv_in.weight)


def test_source_models_are_left_alone():
    unet = image_unet(SD15_2D).double()
    adapter, _ = adapter_pair(**adapter_config(SD15_2D))
    kept = copy.deepcopy(unet.state_dict()), copy.deepcopy(adapter.state_dict()), dict(unet.config)
    ours = UNetMotionModel.from_unet2d(unet, adapter)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(1)
    for before, after in zip(kept[:2], (unet.state_dict(), adapter.state_dict()), strict=True):
        for key, value in before.items():
            assert value.dtype == after[key].dtype and torch.equal(value, after[key]), key
    assert dict(unet.config) == kept[2]


@torch.no_grad()
def test_pia_input_layer():
    """The first four input channels come from the image UNet, the other five from the adapter, which stays whole."""
    unet = image_unet(SD15_2D)
    our_adapter, their_adapter = adapter_pair(**adapter_config(SD15_2D, conv_in_channels=9))
    before = our_adapter.conv_in.weight.clone()
    ours = UNetMotionModel.from_unet2d(unet, our_adapter).eval()
    theirs = TheirModel.from_unet2d(unet, copy.deepcopy(their_adapter)).eval()
    assert ours.config.in_channels == 9
    assert torch.equal(ours.conv_in.weight, torch.cat([unet.conv_in.weight, before[:, 4:]], dim=1))
    assert torch.equal(our_adapter.conv_in.weight, before)
    assert ours.conv_in.weight.data_ptr() != our_adapter.conv_in.weight.data_ptr()
    inputs = make_inputs({**SD15_2D, "in_channels": 9})
    assert_close(run_ours(ours, inputs), run_theirs(theirs, inputs))


@torch.no_grad()
def test_pia_modules_go_through_a_folder(tmp_path):
    """diffusers leaves the input layer out of what it saves."""
    adapter, _ = adapter_pair(**adapter_config(SD15_2D, conv_in_channels=9))
    first = UNetMotionModel.from_unet2d(image_unet(SD15_2D), adapter).eval()
    first.save_motion_modules(tmp_path)
    other_unet = image_unet(SD15_2D, seed=7)
    read = UNetMotionModel.from_unet2d(other_unet, MotionAdapter.from_pretrained(tmp_path))
    expected = UNetMotionModel.from_unet2d(other_unet, adapter)
    assert read.config.in_channels == 9
    assert_same_state(read.state_dict(), expected.state_dict())
    other = UNetMotionModel.from_unet2d(other_unet, MotionAdapter(**adapter_config(SD15_2D, conv_in_channels=9)))
    other.load_motion_modules(adapter)
    assert_same_state(other.state_dict(), expected.state_dict())


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(block_out_channels=(8, 16)), "number of blocks"),
        (dict(motion_layers_per_block=3), "number of layers per block"),
    ],
    ids=["blocks", "layers"],
)
def test_incompatible_adapter_as_in_diffusers(changes, words):
    unet = image_unet(SD15_2D)
    our_adapter, their_adapter = adapter_pair(**adapter_config(SD15_2D, **changes))
    with pytest.raises(ValueError, match=words):
        TheirModel.from_unet2d(unet, their_adapter)
    with pytest.raises(ValueError, match="(?i)incompatible motion adapter"):
        UNetMotionModel.from_unet2d(unet, our_adapter)


@pytest.mark.parametrize(
    "changes",
    [
        dict(block_out_channels=(8, 16, 32)),
        dict(motion_mid_block_layers_per_block=2),
    ],
    ids=["width", "mid layers"],
)
def test_adapter_that_diffusers_only_fails_to_load(changes):
    """diffusers ends in a wall of state-dict keys; here one sentence."""
    unet = image_unet(SD15_2D)
    adapter = MotionAdapter(**adapter_config(SD15_2D, **changes))
    with pytest.raises(ValueError, match="(?i)adapter") as caught:
        UNetMotionModel.from_unet2d(unet, adapter)
    assert len(str(caught.value)) < 400


@torch.no_grad()
def test_other_norm_groups_in_the_adapter_are_not_ignored():
    """diffusers uses the image UNet's group count for the motion modules whatever the adapter says."""
    unet = image_unet(SD15_2D)
    adapter, _ = adapter_pair(**adapter_config(SD15_2D, motion_norm_num_groups=2))
    with pytest.raises(ValueError, match="norm groups: 2, the UNet has 4"):
        UNetMotionModel.from_unet2d(unet, adapter)


def test_something_else_is_refused_by_its_class():
    unet = image_unet(SD15_2D)
    with pytest.raises(TypeError, match="`unet` is a int, expected diffusers' UNet2DConditionModel"):
        UNetMotionModel.from_unet2d(3, None)
    with pytest.raises(TypeError, match="`unet` is a Linear, expected"):
        UNetMotionModel.from_unet2d(torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="`motion_adapter` is a dict, expected a MotionAdapter"):
        UNetMotionModel.from_unet2d(unet, {})
    with pytest.raises(TypeError, match="`motion_adapter` is a str, expected a MotionAdapter"):
        UNetMotionModel.from_unet2d(unet).load_motion_modules("mm_sd_v15")
