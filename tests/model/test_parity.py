"""Output of `UNetMotionModel` against diffusers' over the kinds of nets and inputs that occur."""

import pytest
import torch

from tests.reference import (
    CONFIGS,
    SD15,
    SDXL,
    TINY,
    MotionAdapter,
    TheirAdapter,
    TheirModel,
    UNetMotionModel,
    assert_close,
    assert_differs,
    assert_same_state,
    make_inputs,
    pair,
    run_ours,
    run_theirs,
    shared_pair,
    skip_shapes,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

THREE_BLOCKS = dict(
    down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion", "CrossAttnDownBlockMotion"),
    up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion", "CrossAttnUpBlockMotion"),
    block_out_channels=(8, 16, 24),
    norm_num_groups=4,
    cross_attention_dim=12,
    num_attention_heads=2,
    motion_num_attention_heads=2,
)

VARIANTS = {
    "layers per block": dict(layers_per_block=(1, 3, 2)),
    "heads per block": dict(num_attention_heads=(1, 2, 4), motion_num_attention_heads=(4, 2, 1)),
    "heads that do not divide the width": dict(
        block_out_channels=(8, 16, 16), num_attention_heads=3, motion_num_attention_heads=(2, 4, 2)
    ),
    "depth per block": dict(transformer_layers_per_block=(2, 1, 3), temporal_transformer_layers_per_block=(1, 3, 2)),
    "depth per layer": dict(
        layers_per_block=(2, 1, 2),
        transformer_layers_per_block=[[1, 2], [1], [2, 1]],
        reverse_transformer_layers_per_block=[[1, 2, 1], [2, 1], [1, 1, 2]],
        temporal_transformer_layers_per_block=[[2, 1], [2], [1, 1]],
        reverse_temporal_transformer_layers_per_block=[[1, 1, 2], [1, 2], [2, 1, 1]],
    ),
    "depth of zero": dict(transformer_layers_per_block=(0, 1, 1), temporal_transformer_layers_per_block=(1, 0, 2)),
    "up path deeper than down path": dict(
        reverse_transformer_layers_per_block=(2, 3, 1), reverse_temporal_transformer_layers_per_block=(3, 1, 2)
    ),
    "one depth for the whole up path": dict(
        reverse_transformer_layers_per_block=2, reverse_temporal_transformer_layers_per_block=2
    ),
    "no motion in the mid block": dict(use_motion_mid_block=False),
    "deep mid block": dict(
        mid_block_layers=2, transformer_layers_per_mid_block=(2, 1), temporal_transformer_layers_per_mid_block=(1, 3)
    ),
    "deep mid block without motion": dict(
        mid_block_layers=2, transformer_layers_per_mid_block=(2, 1), use_motion_mid_block=False
    ),
    "mid block of one resnet": dict(mid_block_layers=0),
    "mid depth follows the last block": dict(transformer_layers_per_block=(1, 1, 2)),
    "linear projection": dict(use_linear_projection=True),
    "text width per block": dict(cross_attention_dim=(12, 12, 12)),
    "other activation": dict(act_fn="gelu"),
    "mish": dict(act_fn="mish"),
    "relu": dict(act_fn="relu"),
    "swish": dict(act_fn="swish"),
    "padding 0 before down-sampling": dict(downsample_padding=0),
    "scaled mid block": dict(mid_block_scale_factor=1.7),
    "large epsilon": dict(norm_eps=1e-2),
    "one norm group": dict(norm_num_groups=1),
    "eight norm groups": dict(norm_num_groups=8),
    "nine input channels": dict(in_channels=9),
    "other output channels": dict(in_channels=3, out_channels=5),
    "short position table": dict(motion_max_seq_length=3),
    "long position table": dict(motion_max_seq_length=50),
    "one-row position table": dict(motion_max_seq_length=1),
    "timestep_cond": dict(time_cond_proj_dim=7),
    "no attention outside the mid block": dict(
        down_block_types=("DownBlockMotion",) * 3, up_block_types=("UpBlockMotion",) * 3, layers_per_block=1
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_every_constructor_argument(name):
    config = {**THREE_BLOCKS, **VARIANTS[name]}
    ours, theirs = pair(config)
    frames = min(3, config.get("motion_max_seq_length", 3))
    inputs = make_inputs(config, batch=2, frames=frames)
    assert_close(run_ours(ours, inputs), run_theirs(theirs, inputs))


@pytest.mark.parametrize(
    "name",
    [
        "heads per block",
        "other activation",
        "scaled mid block",
        "large epsilon",
        "padding 0 before down-sampling",
        "eight norm groups",
    ],
)
@torch.no_grad()
def test_arguments_without_parameters_of_their_own_act(name):
    """These change no parameter shape: the same weights in the plain net must give another result."""
    config = {**THREE_BLOCKS, **VARIANTS[name]}
    changed, theirs = pair(config)
    plain = UNetMotionModel(**THREE_BLOCKS).eval()
    plain.load_state_dict(theirs.state_dict(), strict=True)
    inputs = make_inputs(config)
    assert_differs(run_ours(changed, inputs), run_ours(plain, inputs))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "batch, frames, size",
    [
        (1, 1, (8, 8)),
        (1, 2, (8, 8)),
        (3, 16, (8, 8)),
        (1, 24, (8, 8)),
        (1, 32, (4, 4)),
        (3, 1, (8, 4)),
        (1, 2, (17, 19)),
        (2, 3, (9, 7)),
        (1, 2, (5, 16)),
        (1, 3, (1, 1)),
        (1, 2, (1, 6)),
    ],
)
@torch.no_grad()
def test_sizes(name, batch, frames, size):
    config = CONFIGS[name]
    ours, theirs = shared_pair(config)
    inputs = make_inputs(config, batch=batch, frames=frames, height=size[0], width=size[1])
    assert_close(run_ours(ours, inputs), run_theirs(theirs, inputs))


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_text_per_frame(name):
    config = CONFIGS[name]
    ours, theirs = shared_pair(config)
    inputs = make_inputs(config, batch=2, frames=4, text_rows="frame")
    result = run_ours(ours, inputs)
    assert_close(result, run_theirs(theirs, inputs))

    same_text = inputs["encoder_hidden_states"][::4]
    assert_differs(result, run_ours(ours, inputs, encoder_hidden_states=same_text))


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_text_per_clip_equals_repeated_text(name):
    config = CONFIGS[name]
    ours, _ = shared_pair(config)
    inputs = make_inputs(config, batch=3, frames=4)
    repeated = inputs["encoder_hidden_states"].repeat_interleave(4, dim=0)
    assert_close(run_ours(ours, inputs), run_ours(ours, inputs, encoder_hidden_states=repeated))


@pytest.mark.parametrize("length", [1, 77])
@torch.no_grad()
def test_text_lengths(length):
    ours, theirs = shared_pair(TINY)
    inputs = make_inputs(TINY, tokens=length)
    assert_close(run_ours(ours, inputs), run_theirs(theirs, inputs))


@pytest.mark.parametrize(
    "timestep",
    [
        7,
        7.25,
        torch.tensor(7),
        torch.tensor(7.25),
        torch.tensor([999]),
        torch.tensor([3, 700]),
        torch.tensor([3.5, 700.25], dtype=torch.float64),
    ],
    ids=str,
)
@torch.no_grad()
def test_every_kind_of_timestep(timestep):
    ours, theirs = shared_pair(TINY)
    inputs = make_inputs(TINY, batch=2)
    result = run_ours(ours, inputs, timestep=timestep)
    assert_close(result, run_theirs(theirs, inputs, timestep=timestep))
    assert_differs(result, run_ours(ours, inputs, timestep=500), at_least=1e-4)


@torch.no_grad()
def test_timestep_cond_acts():
    config = {**TINY, "time_cond_proj_dim": 7}
    ours, theirs = pair(config)
    inputs = make_inputs(config, batch=2)
    result = run_ours(ours, inputs)
    assert_close(result, run_theirs(theirs, inputs))
    without = run_ours(ours, inputs, timestep_cond=None)
    assert_close(without, run_theirs(theirs, inputs, timestep_cond=None))
    assert_differs(result, without)


@pytest.mark.parametrize("key", ["text_embeds", "time_ids"])
@torch.no_grad()
def test_pooled_text_and_time_ids_act(key):
    ours, theirs = shared_pair(SDXL)
    inputs = make_inputs(SDXL, batch=2)
    changed = {**inputs["added_cond_kwargs"], key: inputs["added_cond_kwargs"][key] + 1}
    result = run_ours(ours, inputs, added_cond_kwargs=changed)
    assert_close(result, run_theirs(theirs, inputs, added_cond_kwargs=changed))
    assert_differs(result, run_ours(ours, inputs), at_least=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
@torch.no_grad()
def test_control_residuals(name, size):
    config = CONFIGS[name]
    ours, theirs = shared_pair(config)
    inputs = make_inputs(config, batch=2, frames=3, height=size[0], width=size[1])
    down_shapes, mid_shape = skip_shapes(theirs, inputs)
    down = tuple(torch.randn(shape) for shape in down_shapes)
    middle = torch.randn(mid_shape)

    both = dict(down_block_additional_residuals=down, mid_block_additional_residual=middle)
    result = run_ours(ours, inputs, **both)
    assert_close(result, run_theirs(theirs, inputs, **both))
    for key, value in both.items():
        alone = run_ours(ours, inputs, **{key: value})
        assert_close(alone, run_theirs(theirs, inputs, **{key: value}), what=key)
        assert_differs(alone, run_ours(ours, inputs))
        assert_differs(alone, result)


@torch.no_grad()
def test_one_row_of_control_residuals_is_broadcast():
    ours, theirs = shared_pair(TINY)
    inputs = make_inputs(TINY, batch=2, frames=3)
    down_shapes, mid_shape = skip_shapes(theirs, inputs)
    residuals = dict(
        down_block_additional_residuals=[torch.randn(1, *shape[1:]) for shape in down_shapes],
        mid_block_additional_residual=torch.randn(1, *mid_shape[1:]),
    )
    assert_close(run_ours(ours, inputs, **residuals), run_theirs(theirs, inputs, **residuals))


@torch.no_grad()
def test_residuals_are_not_changed_in_place():
    ours, theirs = shared_pair(TINY)
    inputs = make_inputs(TINY)
    down_shapes, mid_shape = skip_shapes(theirs, inputs)
    given = [torch.randn(shape) for shape in down_shapes] + [torch.randn(mid_shape), *inputs.values()]
    before = [tensor.clone() for tensor in given]
    run_ours(
        ours,
        inputs,
        down_block_additional_residuals=given[: len(down_shapes)],
        mid_block_additional_residual=given[len(down_shapes)],
    )
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_state_dict_goes_both_ways(name):
    ours, theirs = shared_pair(CONFIGS[name])
    back = TheirModel(**CONFIGS[name])
    back.load_state_dict(ours.state_dict(), strict=True)
    assert_same_state(back.state_dict(), theirs.state_dict())


FULL_SIZE = {
    "defaults": {},
    "sdxl": dict(
        down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion", "CrossAttnDownBlockMotion"),
        up_block_types=("CrossAttnUpBlockMotion", "CrossAttnUpBlockMotion", "UpBlockMotion"),
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=(1, 2, 10),
        num_attention_heads=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_nets_have_the_same_parameters(name):
    with torch.device("meta"):
        theirs = TheirModel(**FULL_SIZE[name]).state_dict()
        ours = UNetMotionModel(**FULL_SIZE[name]).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize(
    "config",
    [
        {},
        dict(block_out_channels=(320, 640, 1280), use_motion_mid_block=False),
        dict(
            block_out_channels=(8, 16),
            motion_layers_per_block=(1, 3),
            motion_num_attention_heads=(2, 4),
            motion_transformer_layers_per_block=(2, 1),
            motion_norm_num_groups=4,
        ),
        dict(
            block_out_channels=(8,),
            motion_mid_block_layers_per_block=2,
            motion_num_attention_heads=2,
            motion_transformer_layers_per_mid_block=(1, 2),
            motion_norm_num_groups=4,
            motion_max_seq_length=24,
        ),
        dict(conv_in_channels=9),
    ],
    ids=["defaults", "sdxl", "per block", "deep mid", "pia"],
)
def test_adapters_have_the_same_parameters(config):
    with torch.device("meta"):
        theirs = TheirAdapter(**config).state_dict()
        ours = MotionAdapter(**config).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@torch.no_grad()
def test_position_table_of_the_checkpoint_is_used():
    ours, theirs = pair(SD15)
    inputs = make_inputs(SD15)
    plain = run_ours(ours, inputs)
    table = {key: torch.randn_like(value) for key, value in theirs.state_dict().items() if key.endswith(".pe")}
    assert len(table) == 21
    theirs.load_state_dict(table, strict=False)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    result = run_ours(ours, inputs)
    assert_close(result, run_theirs(theirs, inputs))
    assert_differs(result, plain)


@pytest.mark.parametrize("dtype, limit", [(torch.float64, 1e-12), (torch.bfloat16, 5e-2), (torch.float16, 5e-3)])
@torch.no_grad()
def test_other_dtypes(dtype, limit):
    """diffusers in float64 is the truth; its sinusoid of the timestep is float32 whatever the dtype."""
    ours, theirs = pair(SDXL)
    inputs = make_inputs(SDXL)

    def cast(value, dtype):
        if isinstance(value, dict):
            return {key: cast(item, dtype) for key, item in value.items()}
        return value.to(dtype) if value.is_floating_point() else value

    expected = run_theirs(theirs.double(), cast(inputs, torch.float64))
    result = run_ours(ours.to(dtype), cast(inputs, dtype))
    assert result.dtype == dtype
    assert_close(result, expected, limit=limit)


@torch.no_grad()
def test_train_mode_changes_nothing():
    ours, theirs = pair(TINY)
    inputs = make_inputs(TINY)
    assert_close(run_ours(ours.train(), inputs), run_theirs(theirs, inputs))
