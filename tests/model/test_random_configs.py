"""Random legal configurations and inputs, drawn by Hypothesis, against diffusers."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reference import as_double, assert_close, make_inputs, pair, relative_error, run_ours, run_theirs

SETTINGS = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@st.composite
def per_block(draw, values, blocks):
    """One value for all blocks, or one for each."""
    if draw(st.booleans()):
        return draw(values)
    return tuple(draw(values) for _ in range(blocks))


@st.composite
def depths(draw, layers):
    """Transformer depths and their reverse: a number, one per block, or one per layer of each block."""
    blocks = len(layers)
    depth = st.integers(1, 2)
    kind = draw(st.sampled_from(["one", "block", "layer"]))
    if kind == "one":
        return draw(depth), draw(st.none() | depth)
    if kind == "block":
        down = tuple(draw(depth) for _ in range(blocks))
        return down, draw(st.none() | st.tuples(*[depth] * blocks))
    down = [[draw(depth) for _ in range(n)] for n in layers]
    up = [[draw(depth) for _ in range(n + 1)] for n in reversed(layers)]
    return down, up


@st.composite
def configs(draw):
    blocks = draw(st.integers(1, 4))
    groups = draw(st.sampled_from([1, 2, 4]))
    layers = tuple(draw(st.integers(1, 2)) for _ in range(blocks))
    spatial, reverse_spatial = draw(depths(layers))
    temporal, reverse_temporal = draw(depths(layers))
    mid_layers = draw(st.integers(0, 2))

    def mid_depth():
        return draw(st.integers(1, 2) | st.tuples(*[st.integers(1, 2)] * mid_layers))

    config = dict(
        in_channels=draw(st.integers(1, 5)),
        out_channels=draw(st.integers(1, 5)),
        down_block_types=tuple(
            draw(st.sampled_from(["CrossAttnDownBlockMotion", "DownBlockMotion"])) for _ in range(blocks)
        ),
        up_block_types=tuple(draw(st.sampled_from(["CrossAttnUpBlockMotion", "UpBlockMotion"])) for _ in range(blocks)),
        block_out_channels=tuple(draw(st.sampled_from([8, 12, 16, 20])) for _ in range(blocks)),
        layers_per_block=layers if len(set(layers)) > 1 else layers[0],
        downsample_padding=draw(st.integers(0, 1)),
        mid_block_scale_factor=draw(st.sampled_from([1, 1.5])),
        act_fn=draw(st.sampled_from(["silu", "swish", "mish", "gelu", "relu"])),
        norm_num_groups=groups,
        norm_eps=draw(st.sampled_from([1e-6, 1e-5, 1e-3])),
        cross_attention_dim=draw(st.sampled_from([1, 7, 12])),
        transformer_layers_per_block=spatial,
        reverse_transformer_layers_per_block=reverse_spatial,
        temporal_transformer_layers_per_block=temporal,
        reverse_temporal_transformer_layers_per_block=reverse_temporal,
        transformer_layers_per_mid_block=draw(st.none()) if draw(st.booleans()) else mid_depth(),
        temporal_transformer_layers_per_mid_block=mid_depth(),
        use_linear_projection=draw(st.booleans()),
        num_attention_heads=draw(per_block(st.sampled_from([1, 2, 3, 4]), blocks)),
        motion_max_seq_length=draw(st.integers(5, 33)),
        motion_num_attention_heads=draw(per_block(st.sampled_from([1, 2, 4]), blocks)),
        use_motion_mid_block=draw(st.booleans()),
        mid_block_layers=mid_layers,
        time_cond_proj_dim=draw(st.none() | st.integers(1, 4)),
    )
    if draw(st.booleans()):
        embed = draw(st.sampled_from([2, 5, 8]))
        config.update(
            addition_embed_type="text_time",
            addition_time_embed_dim=embed,
            projection_class_embeddings_input_dim=6 * embed + draw(st.integers(1, 9)),
        )
    return config


@st.composite
def cases(draw):
    config = draw(configs())
    # Without padding a picture must be large enough to be halved by every block.
    smallest = 1 if config["downsample_padding"] else 2 ** (len(config["block_out_channels"]) - 1)
    shape = dict(
        batch=draw(st.integers(1, 3)),
        frames=draw(st.integers(1, 5)),
        height=draw(st.integers(smallest, smallest + 9)),
        width=draw(st.integers(smallest, smallest + 9)),
        tokens=draw(st.integers(1, 7)),
        text_rows=draw(st.sampled_from(["clip", "frame"])),
        seed=draw(st.integers(0, 99)),
    )
    freeu = draw(st.none() | st.tuples(*[st.sampled_from([0.2, 0.9, 1.0, 1.5])] * 4))
    return config, shape, freeu


@SETTINGS
@given(cases())
@torch.no_grad()
def test_random_nets_equal_diffusers(case):
    config, shape, freeu = case
    ours, theirs = pair(config, seed=shape["seed"])
    inputs = make_inputs(config, **shape)
    if freeu is not None:
        ours.enable_freeu(*freeu)
        theirs.enable_freeu(*freeu)
    single, single_expected = run_ours(ours, inputs), run_theirs(theirs, inputs)
    inputs = as_double(inputs)
    expected = run_theirs(theirs.double(), inputs)
    # diffusers' FreeU computes in float32 whatever the dtype.
    limit = 1e-9 if freeu is None else 1e-6
    assert_close(run_ours(ours.double(), inputs), expected, limit=limit, what="random net in float64")
    # A group of few, nearly equal values loses digits in float32 on either side; float64 has told about such nets.
    if relative_error(single_expected, expected) <= 3e-6:
        assert_close(single, single_expected, what="random net")
