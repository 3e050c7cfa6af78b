"""The range of every field, at both of its ends, and the sentences about what is outside."""

import dataclasses

import pytest

from unet_motion import MotionAdapterConfig, UNetMotionConfig
from unet_motion.config.checks import check_fields, check_whole, default_fields

RANGES = {
    **dict.fromkeys(("in_channels", "out_channels", "conv_in_channels"), (1, 4096)),
    **dict.fromkeys(("layers_per_block", "motion_layers_per_block"), (1, 64)),
    **dict.fromkeys(("mid_block_layers", "motion_mid_block_layers_per_block"), (0, 64)),
    "downsample_padding": (0, 16),
    "sample_size": (0, 65536),
    **dict.fromkeys(
        (
            "transformer_layers_per_block",
            "reverse_transformer_layers_per_block",
            "transformer_layers_per_mid_block",
            "temporal_transformer_layers_per_block",
            "reverse_temporal_transformer_layers_per_block",
            "temporal_transformer_layers_per_mid_block",
            "motion_transformer_layers_per_block",
            "reverse_motion_transformer_layers_per_block",
            "motion_transformer_layers_per_mid_block",
        ),
        (0, 256),
    ),
    **dict.fromkeys(
        (
            "cross_attention_dim",
            "encoder_hid_dim",
            "addition_time_embed_dim",
            "projection_class_embeddings_input_dim",
            "time_cond_proj_dim",
            "motion_max_seq_length",
        ),
        (1, 2**20),
    ),
    **dict.fromkeys(
        (
            "block_out_channels",
            "norm_num_groups",
            "motion_norm_num_groups",
            "num_attention_heads",
            "motion_num_attention_heads",
            "reverse_motion_num_attention_heads",
        ),
        (1, 65536),
    ),
}


def test_whole_numbers_are_taken_from_the_least_to_the_most_of_their_field():
    fields = [*dataclasses.fields(UNetMotionConfig), *dataclasses.fields(MotionAdapterConfig)]
    numbers = {f.name for f in fields if f.type.split(" | ")[0] in ("int", "PerBlock", "tuple[int, ...]")}
    assert numbers == RANGES.keys()
    for name, (least, most) in RANGES.items():
        check_whole(name, least)
        check_whole(name, most)
        for wrong, bound in ((least - 1, f"at least {least}"), (most + 1, f"at most {most}"), (True, "at least")):
            with pytest.raises(ValueError, match=f"`{name}` must hold whole numbers of {bound}.*, found {wrong}"):
                check_whole(name, wrong)


def changed(**changes):
    """A configuration with fields of which nothing but their types and ranges has been looked at."""
    config = object.__new__(UNetMotionConfig)
    for field in dataclasses.fields(UNetMotionConfig):
        object.__setattr__(config, field.name, changes.get(field.name, field.default))
    return config


@pytest.mark.parametrize(
    "changes",
    [
        dict(sample_size=(64, 96)),
        dict(sample_size=[64, 96]),
        dict(layers_per_block=[2] * 16),
        dict(transformer_layers_per_block=((1,) * 65, 0)),
        dict(down_block_types=["DownBlockMotion"] * 16),
        dict(norm_eps=0.0, mid_block_scale_factor=1e6),
        dict(norm_eps=1, mid_block_scale_factor=1e-6),
        dict(encoder_hid_dim_type=None, use_linear_projection=True, act_fn="relu"),
    ],
    ids=str,
)
def test_what_is_in_range(changes):
    check_fields(changed(**changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(layers_per_block=[2] * 17), f"`layers_per_block` is [{'2, ' * 16}...], expected at most 16 entries"),
        (
            dict(transformer_layers_per_block=((1,) * 66,)),
            "`transformer_layers_per_block` is (...,), expected at most 16",
        ),
        (dict(layers_per_block=(1, ((1,),))), "`layers_per_block` is (1, ...), expected at most 16 entries, one per"),
        (dict(layers_per_block=(1, (1, 0))), "must hold whole numbers of at least 1, found 0 in (1, (1, 0))."),
        (dict(layers_per_block=[1, 65]), "must hold whole numbers of at most 64, found 65 in [1, 65]."),
        (dict(layers_per_block="2"), "must hold whole numbers of at least 1, found '2'."),
        (dict(layers_per_block=2.0), "must hold whole numbers of at least 1, found 2.0."),
        (dict(layers_per_block=None), "must hold whole numbers of at least 1, found None."),
        (dict(in_channels=-(2**256)), "at least 1, found a number of more than 70 digits."),
        (dict(in_channels=2**255), f"at most 4096, found {2**255}."),
        (dict(in_channels={4: 4}), "at least 1, found a dict."),
        (dict(in_channels="4" * 99), f"found '{'4' * 60}'."),
        (dict(in_channels="\xe4"), "found '\\xe4'."),
        (dict(block_out_channels=320), "`block_out_channels` is 320, expected a list of whole numbers."),
        (dict(down_block_types="DownBlockMotion"), "is 'DownBlockMotion', expected a list of at most 16 names."),
        (dict(down_block_types=["x"] * 17), f"is [{', '.join(['...' if i == 16 else repr('x') for i in range(17)])}]"),
        (dict(down_block_types=("x", 1)), "`down_block_types` is ('x', 1), expected a list of at most 16 names."),
        (dict(norm_eps=1.01), "`norm_eps` is 1.01, expected a number from 0 to 1."),
        (dict(norm_eps=-1e-9), "`norm_eps` is -1e-09, expected a number from 0 to 1."),
        (dict(norm_eps=True), "`norm_eps` is True, expected a number from 0 to 1."),
        (dict(norm_eps="1e-5"), "`norm_eps` is '1e-5', expected a number from 0 to 1."),
        (dict(mid_block_scale_factor=float("nan")), "is nan, expected a number from 1e-06 to 1e+06."),
        (dict(mid_block_scale_factor=0), "is 0, expected a number from 1e-06 to 1e+06."),
        (dict(mid_block_scale_factor=2e6), "is 2000000.0, expected a number from 1e-06 to 1e+06."),
        (dict(act_fn=1), "`act_fn` is 1, expected a text."),
        (dict(act_fn=None), "`act_fn` is None, expected a text."),
        (dict(use_motion_mid_block=1), "`use_motion_mid_block` is 1, expected True or False."),
        (dict(encoder_hid_dim_type=False), "`encoder_hid_dim_type` is False, expected a text."),
    ],
)
def test_what_is_out_of_range_is_said_with_its_field_and_value(changes, sentence):
    with pytest.raises(ValueError) as found:
        check_fields(changed(**changes))
    assert f"`{next(iter(changes))}`" in str(found.value) and sentence in str(found.value)


def test_long_lists_of_a_list_are_cut_and_short_ones_are_shown():
    shown = {(1,) * 8: "(1, 1, 1, 1, 1, 1, 1, 1)", (1,) * 9: "...", (10**11,): "(100000000000,)", (10**12,): "..."}
    for inner, text in shown.items():
        with pytest.raises(ValueError) as found:
            check_fields(changed(in_channels=(inner, "x")))
        assert str(found.value).endswith(f"found ({text}, 'x').")


def test_names_of_fields_that_are_left_at_their_defaults():
    assert default_fields({}) == default_fields({"_use_default_values": None}) == set()
    assert default_fields({"_use_default_values": ("a", "b", "a")}) == {"a", "b"}
    for wrong in ("a", ["a", 1], {"a": 1}):
        with pytest.raises(ValueError, match="`_use_default_values` is .*, expected a list of names"):
            default_fields({"_use_default_values": wrong})
