"""Wrong types, dtypes and sizes at the model's entry: ValueError with what was found and what was expected."""

import pytest
import torch

from tests.reference import TINY, UNetMotionModel, make_inputs, run_ours
from unet_motion import ForwardOptions


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return UNetMotionModel(**TINY).eval()


@pytest.fixture
def inputs():
    return make_inputs(TINY, frames=3)


@pytest.mark.parametrize("place", range(5))
def test_empty_batches_frames_and_sizes(model, inputs, place):
    shape = list(inputs["sample"].shape)
    shape[place] = 0
    with pytest.raises(ValueError, match=r"`sample` has shape .*expected .*each of at least 1"):
        run_ours(model, {**inputs, "sample": torch.zeros(shape)})
    with pytest.raises(ValueError, match="`sample` has shape .*each of at least 1"):
        model.forward_frames(torch.zeros([0, *shape[1:2], 8, 8]), 1, inputs["encoder_hidden_states"], 3)


@pytest.mark.parametrize("name", ["sample", "encoder_hidden_states"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64, torch.bool, torch.complex64])
def test_other_dtypes(model, inputs, name, dtype):
    word = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"`{name}` has dtype {word}, expected float32"):
        run_ours(model, {**inputs, name: inputs[name].to(dtype)})


def test_things_that_are_no_tensors(model, inputs):
    with pytest.raises(ValueError, match="`sample` is a list, expected a tensor"):
        model([1.0], 1, inputs["encoder_hidden_states"])
    with pytest.raises(ValueError, match="`encoder_hidden_states` is a list, expected a tensor"):
        model(inputs["sample"], 1, [[1.0]])


@pytest.mark.parametrize(
    ("positions", "found"),
    [
        ([0, 1, 2], "found a list"),
        (range(3), "found a range"),
        (torch.tensor([0.0, 1.0, 2.0]), "dtype float32"),
        (torch.tensor([True, False, True]), "dtype bool"),
        (torch.tensor([[0, 1, 2]]), r"shape \(1, 3\)"),
        (torch.tensor([0, 1]), r"shape \(2,\)"),
        (torch.tensor([0, 1, 10**6]), r"found \[0, 1, 1000000\]"),
        (torch.tensor([-1, 1, 2]), r"found \[-1, 1, 2\]"),
    ],
)
def test_frame_positions_that_are_no_rows(model, inputs, positions, found):
    with pytest.raises(ValueError, match=rf"`frame_positions` must be 3 rows between 0 and .*{found}"):
        run_ours(model, inputs, options=ForwardOptions(frame_positions=positions))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("timestep", "1", "is a str, expected a number"),
        ("timestep", 1j, "is a complex, expected a number"),
        ("timestep", True, "is a bool, expected a number"),
        ("timestep", [1, "2"], r"is \[1, '2'\], expected a number or a tensor of numbers"),
        ("timestep", ([1], 2), r"is \(\[1\], 2\), expected a number"),
        ("timestep", [True], "has dtype bool, expected numbers"),
        ("timestep", [True, 2], r"is \[True, 2\], expected a number or a tensor of numbers"),
        ("timestep", 2**63, "is 9223372036854775808, expected a number of at most 64 bits"),
        ("timestep", [10**30], r"is \[10{30}\], expected a number or a tensor of numbers"),
        ("timestep", [1, 2], "holds 2 numbers, expected 1, 1 "),
        ("timestep", torch.tensor([1j]), "has dtype complex64, expected numbers"),
        ("timestep", torch.tensor([True]), "has dtype bool, expected numbers"),
        ("attention_mask", [1], "is a list, expected a tensor"),
        ("timestep_cond", 5, "is a int, expected a tensor"),
        ("added_cond_kwargs", 5, "is a int, expected a dictionary"),
        ("cross_attention_kwargs", [], "is a list, expected a dictionary"),
        ("down_block_additional_residuals", 5, "is a int, expected a tuple of tensors"),
        ("mid_block_additional_residual", 5, "is a int, expected a tensor"),
        ("options", {}, "is a dict, expected ForwardOptions"),
    ],
)
def test_other_inputs_of_another_type(model, inputs, name, value, words):
    with pytest.raises(ValueError, match=f"`{name}` {words}"):
        run_ours(model, {**inputs, name: value})


@pytest.mark.parametrize("chunking", [5, (1,), "ab1", (0, 0), (1.5, 0)])
def test_chunking_that_is_none(chunking):
    with pytest.raises(ValueError, match="chunk"):
        ForwardOptions(forward_chunking=chunking)


@pytest.mark.parametrize("frames", [True, 3.0, "3", None])
def test_a_number_of_frames_that_is_none(model, inputs, frames):
    sample = torch.zeros(3, TINY.get("in_channels", 4), 8, 8)
    with pytest.raises(ValueError, match="`num_frames` is .*expected a whole number"):
        model.forward_frames(sample, 1, inputs["encoder_hidden_states"], frames)


def test_autocast_brings_dtypes_together(model, inputs):
    halves = {name: value.bfloat16() if name in ("sample", "encoder_hidden_states") else value
              for name, value in inputs.items()}  # fmt: skip
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        out = run_ours(model, halves)
    whole = run_ours(model, inputs).detach()
    assert (out - whole).norm() < 0.05 * whole.norm()


@pytest.mark.parametrize(
    "timestep", [7, 7.5, [7.5], (7.5,), torch.tensor(7.5), torch.tensor([7.5], dtype=torch.float64)]
)
@torch.no_grad()
def test_timesteps_of_every_form_count_whole(model, inputs, timestep):
    number = 7 if timestep == 7 else 7.5
    expected = run_ours(model, {**inputs, "timestep": torch.full((1,), number)})
    assert torch.equal(run_ours(model, {**inputs, "timestep": timestep}), expected)
    assert not torch.equal(expected, run_ours(model, {**inputs, "timestep": 8}))


@torch.no_grad()
def test_a_list_of_timesteps_is_one_for_each_clip(model):
    inputs = make_inputs(TINY, batch=2, frames=3)
    pair = run_ours(model, {**inputs, "timestep": [7.5, 900]})
    assert torch.equal(pair, run_ours(model, {**inputs, "timestep": torch.tensor([7.5, 900.0])}))
