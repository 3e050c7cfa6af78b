"""Constructor arguments: defaults, errors, and the way through a dictionary and JSON."""

import dataclasses
import inspect
import json

import pytest
import torch

from tests.reference import (
    CONFIGS,
    SDXL,
    TINY,
    MotionAdapter,
    TheirAdapter,
    TheirModel,
    UNetMotionModel,
    assert_close,
    make_inputs,
    pair,
    run_ours,
    run_theirs,
)
from unet_motion import MotionAdapterConfig, UNetMotionConfig


def defaults(cls, names=None):
    parameters = inspect.signature(cls.__init__).parameters
    return {name: p.default for name, p in parameters.items() if name != "self" and (names is None or name in names)}


def as_tuples(value):
    return tuple(as_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize(
    "ours, config, theirs",
    [
        (UNetMotionModel, UNetMotionConfig, TheirModel),
        (MotionAdapter, MotionAdapterConfig, TheirAdapter),
    ],
    ids=["model", "adapter"],
)
def test_arguments_and_defaults_are_diffusers(ours, config, theirs):
    expected = defaults(theirs)
    names = list(expected)
    fields = {field.name: field.default for field in dataclasses.fields(config)}
    assert list(fields)[: len(names)] == names
    assert {name: as_tuples(fields[name]) for name in names} == {n: as_tuples(v) for n, v in expected.items()}
    built = dict(config().to_dict())
    assert {name: as_tuples(built[name]) for name in names} == {n: as_tuples(v) for n, v in expected.items()}


@pytest.mark.parametrize(
    "ours, theirs", [(UNetMotionModel, TheirModel), (MotionAdapter, TheirAdapter)], ids=["model", "adapter"]
)
def test_arguments_may_be_given_by_position(ours, theirs):
    if theirs is TheirModel:
        values = list({**defaults(theirs), **TINY, "sample_size": 8}.values())
    else:
        values = [(8, 16), 1, 1, 1, 1, 2, 4, 24, False, 9]
    with torch.device("meta"):
        expected = theirs(*values).state_dict()
        result = ours(*values)
    assert {k: v.shape for k, v in result.state_dict().items()} == {k: v.shape for k, v in expected.items()}


def test_operations_are_no_part_of_the_config():
    ours = UNetMotionModel(**TINY, operations=torch.nn, dtype=torch.float64, device="cpu")
    assert ours.dtype == torch.float64 and ours.device.type == "cpu"
    assert not {"operations", "weights", "dtype", "device"} & set(ours.config.to_dict())
    with pytest.raises(TypeError):
        UNetMotionModel(*[None] * 40)


def test_unknown_argument():
    with pytest.raises(TypeError, match="no_such_argument"):
        UNetMotionModel(**TINY, no_such_argument=1)


THREE = dict(
    down_block_types=("CrossAttnDownBlockMotion", "CrossAttnDownBlockMotion", "DownBlockMotion"),
    up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion", "CrossAttnUpBlockMotion"),
    block_out_channels=(8, 8, 8),
    norm_num_groups=4,
    cross_attention_dim=12,
    num_attention_heads=2,
    motion_num_attention_heads=2,
)

# name of the argument -> what is wrong; diffusers raises ValueError for each of these
REFUSED_BY_BOTH = [
    ("down_block_types", dict(up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"))),
    ("block_out_channels", dict(block_out_channels=(8, 8))),
    ("num_attention_heads", dict(num_attention_heads=(2, 2))),
    ("cross_attention_dim", dict(cross_attention_dim=[12, 12])),
    ("layers_per_block", dict(layers_per_block=(1, 2))),
    ("reverse_transformer_layers_per_block", dict(transformer_layers_per_block=[[1, 1], [1, 1], [1, 1]])),
    (
        "reverse_temporal_transformer_layers_per_block",
        dict(temporal_transformer_layers_per_block=[[1, 1], [1, 1], [1, 1]]),
    ),
    ("down_block_type", dict(down_block_types=("CrossAttnDownBlock2D",) * 3)),
    ("up_block_type", dict(up_block_types=("UpBlock2D",) * 3)),
    ("act_fn", dict(act_fn="tanhshrink")),
    ("norm_num_groups", dict(norm_num_groups=3)),
    (
        "transformer_layers_per_block",
        dict(transformer_layers_per_block=[[1], [1, 1], 1], reverse_transformer_layers_per_block=1),
    ),
    (
        "reverse_transformer_layers_per_block",
        dict(transformer_layers_per_block=1, reverse_transformer_layers_per_block=[1, [1, 1], 1]),
    ),
    (
        "temporal_transformer_layers_per_block",
        dict(temporal_transformer_layers_per_block=[1, 1, [1, 1, 1]], reverse_temporal_transformer_layers_per_block=1),
    ),
    ("temporal_transformer_layers_per_mid_block", dict(temporal_transformer_layers_per_mid_block=(1, 1))),
    ("transformer_layers_per_mid_block", dict(transformer_layers_per_mid_block=(1, 1))),
]

# diffusers fails later, elsewhere, or with an error that names nothing
REFUSED_CLEARLY = [
    ("transformer_layers_per_mid_block", dict(transformer_layers_per_mid_block=(1, 1), use_motion_mid_block=False)),
    ("cross_attention_dim", dict(cross_attention_dim=(12, 12))),
    ("reverse_transformer_layers_per_block", dict(transformer_layers_per_block=((1, 1), (1, 1), (1, 1)))),
    (
        "reverse_temporal_transformer_layers_per_block",
        dict(temporal_transformer_layers_per_block=((1, 1), (1, 1), (1, 1))),
    ),
    ("num_attention_heads", dict(num_attention_heads=None)),
    ("motion_num_attention_heads", dict(motion_num_attention_heads=(2, 2))),
    ("motion_num_attention_heads", dict(motion_num_attention_heads=7, block_out_channels=(8, 8, 8))),
    ("norm_num_groups", dict(norm_num_groups=None)),
    ("layers_per_block", dict(layers_per_block=0)),
    ("addition_time_embed_dim", dict(addition_embed_type="text_time", projection_class_embeddings_input_dim=58)),
    ("projection_class_embeddings_input_dim", dict(addition_embed_type="text_time", addition_time_embed_dim=8)),
    ("encoder_hid_dim_type", dict(encoder_hid_dim_type="text_image_proj")),
    ("motion_max_seq_length", dict(motion_max_seq_length=0)),
    ("in_channels", dict(in_channels=0)),
    ("mid_block_layers", dict(mid_block_layers=-1)),
    ("downsample_padding", dict(downsample_padding=-1)),
    ("reverse_motion_num_attention_heads", dict(reverse_motion_num_attention_heads=(2, 2))),
    ("reverse_motion_num_attention_heads", dict(reverse_motion_num_attention_heads=((2, 2), 2, 2))),
    ("motion_num_attention_heads", dict(motion_num_attention_heads=0)),
    ("reverse_motion_num_attention_heads", dict(reverse_motion_num_attention_heads=0)),
    ("reverse_motion_num_attention_heads", dict(reverse_motion_num_attention_heads=7)),
    ("transformer_layers_per_block", dict(transformer_layers_per_block=-1)),
    ("temporal_transformer_layers_per_block", dict(temporal_transformer_layers_per_block=(1, -1, 1))),
    ("out_channels", dict(out_channels="4")),
    ("resnet_norm_scope", dict(resnet_norm_scope="video")),
    ("motion_norm_scope", dict(motion_norm_scope="clips")),
    ("transformer_layers_per_block", dict(transformer_layers_per_block=(1, 1))),
    ("temporal_transformer_layers_per_block", dict(temporal_transformer_layers_per_block=(1, 1))),
]


def ids(cases):
    return [f"{name} {list(change.values())[0]}".replace(" ", "") for name, change in cases]


@pytest.mark.parametrize("name, change", REFUSED_BY_BOTH, ids=ids(REFUSED_BY_BOTH))
def test_refused_where_diffusers_refuses(name, change):
    config = {**THREE, **change}
    with pytest.raises(ValueError):
        TheirModel(**config)
    with pytest.raises(ValueError, match=name):
        UNetMotionModel(**config)
    with pytest.raises(ValueError, match=name):
        UNetMotionConfig(**config)


@pytest.mark.parametrize("name, change", REFUSED_CLEARLY, ids=ids(REFUSED_CLEARLY))
def test_refused_by_name(name, change):
    with pytest.raises(ValueError, match=name):
        UNetMotionModel(**{**THREE, **change})


def test_the_unchanged_config_is_legal():
    with torch.device("meta"):
        UNetMotionModel(**THREE)
        TheirModel(**THREE)


ADAPTER = dict(block_out_channels=(8, 8), motion_num_attention_heads=2, motion_norm_num_groups=4)
ADAPTER_REFUSED = [
    ("motion_layers_per_block", dict(motion_layers_per_block=(1, 2, 3))),
    ("motion_transformer_layers_per_mid_block", dict(motion_transformer_layers_per_mid_block=(1, 2))),
    ("motion_num_attention_heads", dict(motion_num_attention_heads=(2, 2, 2))),
    ("motion_transformer_layers_per_block", dict(motion_transformer_layers_per_block=((1, 1, 1), 1))),
    ("motion_norm_num_groups", dict(motion_norm_num_groups=3)),
]


@pytest.mark.parametrize("name, change", ADAPTER_REFUSED, ids=ids(ADAPTER_REFUSED))
def test_adapter_refused_where_diffusers_refuses(name, change):
    with pytest.raises(ValueError):
        TheirAdapter(**{**ADAPTER, **change})
    with pytest.raises(ValueError, match=name):
        MotionAdapter(**{**ADAPTER, **change})


@pytest.mark.parametrize(
    "name, change",
    [
        ("motion_transformer_layers_per_block", dict(motion_transformer_layers_per_block=(1,))),
        ("motion_num_attention_heads", dict(motion_num_attention_heads=7)),
        ("motion_max_seq_length", dict(motion_max_seq_length=0)),
    ],
    ids=["depth", "heads", "length"],
)
def test_adapter_refused_by_name(name, change):
    with pytest.raises(ValueError, match=name):
        MotionAdapter(**{**ADAPTER, **change})


def test_what_diffusers_builds_by_accident_is_built_too():
    """Heads that do not divide the width change the inner width; files with such shapes exist and must load."""
    config = {**THREE, "num_attention_heads": 3, "motion_num_attention_heads": 4, "block_out_channels": (8, 16, 24)}
    pair(config)


@pytest.mark.parametrize("reverse", [(4, 1, 2), 1, ((4, 4, 4), (1, 2, 4), (2, 1, 1))], ids=str)
@torch.no_grad()
def test_reverse_motion_heads_act(reverse):
    """diffusers accepts and ignores this argument: the reference is diffusers with the head counts set by hand."""
    ours, theirs = pair({**THREE, "reverse_motion_num_attention_heads": reverse})
    inputs = make_inputs(THREE)
    ignored = run_theirs(theirs, inputs)
    for i, block in enumerate(theirs.up_blocks):
        for layer, module in enumerate(block.motion_modules):
            heads = reverse if isinstance(reverse, int) else reverse[i]
            for attention in module.modules():
                if type(attention).__name__ == "Attention":
                    attention.heads = heads if isinstance(heads, int) else heads[layer]
    result = run_ours(ours, inputs)
    assert_close(result, run_theirs(theirs, inputs))
    assert ((result - ignored).norm() / ignored.norm()) > 1e-3


@torch.no_grad()
def test_motion_heads_per_layer():
    """Written as diffusers' type hint allows; diffusers itself cannot build it."""
    config = {**THREE, "motion_num_attention_heads": ((1, 2), (4, 2), (2, 4)), "reverse_motion_num_attention_heads": 2}
    ours = UNetMotionModel(**config).eval()
    _, theirs = pair(THREE)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    inputs = make_inputs(THREE)
    plain = run_theirs(theirs, inputs)
    for block, heads in zip(theirs.down_blocks, config["motion_num_attention_heads"], strict=True):
        for layer, module in enumerate(block.motion_modules):
            for attention in module.modules():
                if type(attention).__name__ == "Attention":
                    attention.heads = heads[layer]
    middle = ours.mid_block.motion_modules[0].transformer_blocks[0].attn1.heads
    for attention in theirs.mid_block.motion_modules.modules():
        if type(attention).__name__ == "Attention":
            attention.heads = middle
    result = run_ours(ours, inputs)
    assert_close(result, run_theirs(theirs, inputs))
    assert ((result - plain).norm() / plain.norm()) > 1e-3


# dictionaries and JSON

ROUND_TRIPS = {
    **CONFIGS,
    "nested": dict(
        THREE,
        layers_per_block=(1, 2, 1),
        transformer_layers_per_block=[[1], [1, 2], [1]],
        reverse_transformer_layers_per_block=[[1, 1], [2, 1, 1], [1, 2]],
        reverse_motion_num_attention_heads=(1, 2, 4),
        resnet_norm_scope="clip",
        motion_norm_scope="frame",
        sample_size=64,
    ),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_config_round_trip(name):
    config = UNetMotionConfig(**ROUND_TRIPS[name])
    text = json.dumps(config.to_dict())
    again = UNetMotionConfig.from_dict(json.loads(text))
    assert again == config
    assert UNetMotionModel(**json.loads(text)).config == UNetMotionModel(**ROUND_TRIPS[name]).config == config
    for key, value in ROUND_TRIPS[name].items():
        assert as_tuples(again[key]) == as_tuples(value) == as_tuples(again.get(key))
    assert config.get("no_such_key", 5) == 5
    with pytest.raises(KeyError):
        config["no_such_key"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.in_channels = 5


@pytest.mark.parametrize("name", CONFIGS)
def test_config_of_diffusers_is_read(name):
    """`config.json` of diffusers carries `_class_name` and the like; those are no surprise, so no warning."""
    theirs = TheirModel(**CONFIGS[name])
    written = json.loads(theirs.to_json_string())
    assert "_class_name" in written
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = UNetMotionConfig.from_dict(written)
    assert config == UNetMotionConfig(**CONFIGS[name])
    back = TheirModel.from_config(config.to_dict())
    assert {k: v.shape for k, v in back.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_unknown_keys_are_warned_about_by_name():
    with pytest.warns(UserWarning, match="motion_colour"):
        config = UNetMotionConfig.from_dict({**SDXL, "motion_colour": "red"})
    assert config == UNetMotionConfig(**SDXL)
    with pytest.warns(UserWarning, match="motion_activation_fn"):
        MotionAdapterConfig.from_dict({**ADAPTER, "motion_activation_fn": "geglu"})


def test_keys_that_were_left_at_their_defaults():
    """`_use_default_values` names keys whose written value is to be replaced by today's default."""
    written = {**UNetMotionConfig(**TINY, norm_eps=1e-3).to_dict(), "_use_default_values": ["norm_eps"]}
    assert UNetMotionConfig.from_dict(written).norm_eps == 1e-5


def test_adapter_config_round_trip():
    config = MotionAdapterConfig(**ADAPTER, motion_layers_per_block=(1, 2), conv_in_channels=9)
    again = MotionAdapterConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert set(config.to_dict()) == set(defaults(TheirAdapter)), "diffusers must know every key that is written"
