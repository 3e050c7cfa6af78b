"""Configurations into one another: every field arrives, and what the motion UNet has not is refused by name."""

import pytest

from unet_motion import MotionAdapterConfig, UNetMotionConfig
from unet_motion.config.convert import adapter_fields, adapter_of, joined_arguments, motion_arguments, unet2d_arguments

IMAGE = dict(
    sample_size=48,
    in_channels=5,
    out_channels=6,
    block_out_channels=(8, 16),
    layers_per_block=(1, 3),
    downsample_padding=0,
    mid_block_scale_factor=1.5,
    act_fn="swish",
    norm_num_groups=2,
    norm_eps=1e-3,
    cross_attention_dim=(12, 20),
    transformer_layers_per_block=(2, 1),
    reverse_transformer_layers_per_block=(1, 3),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=58,
    time_cond_proj_dim=7,
)
ADAPTER = dict(
    block_out_channels=(8, 16),
    motion_layers_per_block=(1, 3),
    motion_transformer_layers_per_block=((2,), (1, 2, 1)),
    motion_mid_block_layers_per_block=1,
    motion_transformer_layers_per_mid_block=3,
    motion_num_attention_heads=(2, 4),
    motion_norm_num_groups=2,
    motion_max_seq_length=24,
    use_motion_mid_block=True,
    conv_in_channels=9,
    reverse_motion_transformer_layers_per_block=((1, 1, 2, 2), (3, 1)),
    reverse_motion_num_attention_heads=(4, 1),
    use_image_encoder=True,
)
IN_UNET = dict(
    motion_max_seq_length=24,
    motion_num_attention_heads=(2, 4),
    use_motion_mid_block=True,
    temporal_transformer_layers_per_block=((2,), (1, 2, 1)),
    temporal_transformer_layers_per_mid_block=3,
    reverse_temporal_transformer_layers_per_block=((1, 1, 2, 2), (3, 1)),
    reverse_motion_num_attention_heads=(4, 1),
    use_image_encoder=True,
)
BLOCKS = dict(
    down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
    up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
)


def test_every_field_of_an_adapter_reaches_the_unet_and_comes_back():
    adapter = MotionAdapterConfig(**ADAPTER)
    assert motion_arguments(adapter) == IN_UNET
    assert joined_arguments(adapter) == {**IN_UNET, "in_channels": 9}
    assert joined_arguments(adapter.replace(conv_in_channels=None)) == IN_UNET
    unet = UNetMotionConfig(**{**IMAGE, **BLOCKS, **joined_arguments(adapter)})
    assert adapter_of(unet, with_input=True) == adapter
    assert adapter_of(unet) == adapter.replace(conv_in_channels=None)
    plain = adapter_of(unet.replace(temporal_transformer_layers_per_mid_block=None, mid_block_layers=2))
    assert plain.motion_transformer_layers_per_mid_block == 1 and plain.motion_mid_block_layers_per_block == 2


def test_every_field_of_an_image_unet_reaches_the_unet():
    blocks = dict(
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"]
    )
    found = unet2d_arguments({**IMAGE, **blocks, "attention_head_dim": [2, 4], "upcast_attention": True, "dropout": 1})
    assert found == {**IMAGE, **BLOCKS, "num_attention_heads": (2, 4)}
    assert unet2d_arguments({"num_attention_heads": 3, "attention_head_dim": 5})["num_attention_heads"] == 3
    assert unet2d_arguments({"num_attention_heads": None, "attention_head_dim": 5})["num_attention_heads"] == 5
    assert unet2d_arguments({"sample_size": None}) == {"num_attention_heads": 8}
    left = {"act_fn": "gelu", "norm_eps": 0.5, "_use_default_values": ["act_fn", "norm_eps"]}
    assert unet2d_arguments(left) == {"num_attention_heads": 8}


ONLY = {
    "act_fn": ("silu", "swish"),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "center_input_sample": (False,),
    "only_cross_attention": (False,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "dual_cross_attention": (False,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "class_embeddings_concat": (False,),
    "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1, 1.0),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "attention_type": ("default",),
    "addition_embed_type": (None, "text_time"),
    "encoder_hid_dim_type": (None, "ip_image_proj"),
}


@pytest.mark.parametrize("name", ONLY)
def test_settings_of_which_the_motion_unet_has_one_form(name):
    for value in ONLY[name]:
        found = unet2d_arguments({name: value})
        kept = {name: value} if name in IMAGE and value is not None else {}
        assert found == {"num_attention_heads": 8, **kept}
    for wrong in ("gelu", 5, not ONLY[name][0]):
        with pytest.raises(ValueError) as found:
            unet2d_arguments({name: wrong})
        legal = " or ".join(map(repr, dict.fromkeys(ONLY[name])))
        assert str(found.value) == f"`{name}` is {wrong!r}, the motion UNet exists with {legal} only."


def test_block_types_of_other_kinds_and_forms():
    for name in ("down_block_types", "up_block_types"):
        with pytest.raises(ValueError, match=f"`{name}` is 'DownBlock2D', expected a list of names"):
            unet2d_arguments({name: "DownBlock2D"})
        for wrong in (1, "AttnDownBlock2D", None):
            with pytest.raises(ValueError, match=f"`{name}` holds {wrong!r}, expected one of CrossAttnDownBlock2D, "):
                unet2d_arguments({name: ["DownBlock2D", wrong]})
        # one more than there may be is passed on, to be refused by its number; no work goes into the others
        assert len(unet2d_arguments({name: ["DownBlock2D"] * 40})[name]) == 17


def fit(**changes):
    adapter = MotionAdapterConfig(**{**ADAPTER, **changes})
    return adapter_fields({**IMAGE, **BLOCKS, "block_out_channels": [8, 16]}, adapter)


def test_an_adapter_fits_the_unet_whose_layers_widths_and_groups_it_has():
    assert fit() == {**IN_UNET, "in_channels": 9}
    plain = dict(
        motion_transformer_layers_per_block=1,
        reverse_motion_transformer_layers_per_block=None,
        motion_num_attention_heads=2,
        reverse_motion_num_attention_heads=None,
    )
    even = MotionAdapterConfig(**{**ADAPTER, **plain, "motion_layers_per_block": 2})
    for layers in (2, (2, 2), [2, 2]):  # one number is for each of the blocks
        assert adapter_fields({**IMAGE, **BLOCKS, "layers_per_block": layers}, even)["in_channels"] == 9
    wide = MotionAdapterConfig(motion_layers_per_block=2, conv_in_channels=9)
    assert adapter_fields({}, wide)["in_channels"] == 9  # what an image UNet leaves out is at its default
    no_middle = fit(use_motion_mid_block=False, motion_mid_block_layers_per_block=2)
    assert no_middle["use_motion_mid_block"] is False
    for sentence, changes in (
        ("number of blocks: 3, the UNet has 2", dict(plain, block_out_channels=(8, 16, 16), motion_layers_per_block=1)),
        (r"layers per block: 2, the UNet has \(1, 3\)", dict(plain, motion_layers_per_block=2)),
        (r"widths: \(8, 8\), the UNet has \(8, 16\)", dict(block_out_channels=(8, 8))),
        ("norm groups: 4, the UNet has 2", dict(motion_norm_num_groups=4)),
        ("number of mid block layers: 2, an image UNet has 1", dict(motion_mid_block_layers_per_block=2)),
    ):
        with pytest.raises(ValueError, match=f"Incompatible Motion Adapter, got different {sentence}"):
            fit(**changes)
