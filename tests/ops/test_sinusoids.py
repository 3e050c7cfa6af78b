"""The sinusoidal position table: its values, and that no dtype spoils them."""

import math

import pytest
import torch
from diffusers.models.embeddings import SinusoidalPositionalEmbedding

from tests.reference import TINY, MotionAdapter, UNetMotionModel, assert_close, pair
from unet_motion.ops.sinusoids import sinusoidal_table, timestep_sinusoid


def exact_table(length, channels):
    """sin(p * 10000^(-2i/C)) on even and cos of the same on odd channels, with Python's own floats."""
    table = torch.empty(1, length, channels, dtype=torch.float64)
    for p in range(length):
        for i in range(channels // 2):
            angle = p * 10000.0 ** (-2 * i / channels)
            table[0, p, 2 * i], table[0, p, 2 * i + 1] = math.sin(angle), math.cos(angle)
    return table


@pytest.mark.parametrize("length, channels", [(1, 2), (24, 8), (32, 320), (200, 64)])
def test_table_values(length, channels):
    table = sinusoidal_table(length, channels)
    assert table.dtype == torch.float32 and table.shape == (1, length, channels)
    assert (table.double() - exact_table(length, channels)).abs().max() <= 1e-7
    theirs = SinusoidalPositionalEmbedding(channels, max_seq_length=length).pe
    assert_close(table, theirs, limit=1e-5)


@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
def test_table_does_not_depend_on_the_default_dtype(default):
    expected = sinusoidal_table(32, 320)
    torch.set_default_dtype(default)
    table = sinusoidal_table(32, 320)
    assert table.dtype == torch.float32 and torch.equal(table, expected)


@pytest.mark.parametrize("how", ["argument", "default dtype", "meta"])
@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_half_precision_models_have_the_rounded_table(how, kind):
    config = {**TINY, "block_out_channels": (64, 64), "norm_num_groups": 4}

    def build(**kwargs):
        if kind == "model":
            return UNetMotionModel(**config, **kwargs)
        return MotionAdapter((64, 64), 1, motion_num_attention_heads=2, motion_norm_num_groups=4, **kwargs)

    if how == "argument":
        model = build(dtype=torch.float16)
    elif how == "default dtype":
        torch.set_default_dtype(torch.float16)
        model = build()
    else:
        model = build(device="meta", dtype=torch.float16)
        assert all(value.is_meta for key, value in model.state_dict().items() if key.endswith(".pe"))
        return
    tables = [value for key, value in model.state_dict().items() if key.endswith(".pe")]
    rounded = exact_table(32, 64).half()
    for table in tables:
        assert table.dtype == torch.float16
        assert torch.equal(table.to(rounded.dtype), rounded) or (table - rounded).abs().max() <= 5e-4
    assert tables


def test_naive_half_precision_would_be_seen():
    """The bound above means something: the table computed in float16 is off by far more."""
    torch.set_default_dtype(torch.float16)
    theirs = SinusoidalPositionalEmbedding(64, max_seq_length=32).pe
    assert (theirs.double() - exact_table(32, 64)).abs().max() > 1e-3


def test_new_model_has_the_table_of_diffusers():
    ours = UNetMotionModel(**TINY)
    _, theirs = pair(TINY)
    state = ours.state_dict()
    for key, value in theirs.state_dict().items():
        if key.endswith(".pe"):
            assert_close(state[key], value, limit=1e-6)
            assert ours.get_buffer(key) is not None


@pytest.mark.parametrize("width", [8, 9, 320])
def test_timestep_sinusoid(width):
    """Cosines first, longest period 10000; an odd width ends with a zero."""
    timesteps = torch.tensor([0, 1, 999])
    half = width // 2
    expected = torch.zeros(3, width, dtype=torch.float64)
    for row, t in enumerate(timesteps.tolist()):
        for i in range(half):
            angle = t * 10000.0 ** (-i / half)
            expected[row, i], expected[row, half + i] = math.cos(angle), math.sin(angle)
    assert (timestep_sinusoid(timesteps, width).double() - expected).abs().max() <= 1e-4
    _, theirs = pair(TINY)
    theirs.time_proj.num_channels = width
    assert_close(timestep_sinusoid(timesteps, width), theirs.time_proj(timesteps), limit=1e-6)
