"""`forward` beyond diffusers: the frames-in-batch entry, rows per frame, masks, frame positions, errors, result."""

import inspect

import pytest
import torch

from tests.reference import (
    CONFIGS,
    SD15,
    SDXL,
    TINY,
    TheirModel,
    assert_close,
    assert_differs,
    clip_of_rows,
    make_inputs,
    pair,
    rows_of_frames,
    run_ours,
    run_theirs,
    shared_pair,
    skip_shapes,
    with_time_embedding,
)
from unet_motion import ForwardOptions, UNet3DConditionOutput, UNetMotionModel, UNetMotionOutput


def as_rows(inputs: dict) -> dict:
    """The same inputs for `forward_frames`."""
    inputs = dict(inputs)
    sample = inputs.pop("sample")
    return dict(sample=rows_of_frames(sample), num_frames=sample.shape[2], **inputs)


# the two entries


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("text_rows", ["clip", "frame"])
@torch.no_grad()
def test_frames_entry_equals_clip_entry(name, text_rows):
    ours, theirs = shared_pair(CONFIGS[name])
    inputs = make_inputs(CONFIGS[name], batch=2, frames=3, height=9, width=7, text_rows=text_rows)
    rows = ours.forward_frames(**as_rows(inputs))
    assert rows.shape == (6, 4, 9, 7)
    assert_close(clip_of_rows(rows, 3), run_ours(ours, inputs), limit=1e-6)
    assert_close(clip_of_rows(rows, 3), run_theirs(theirs, inputs))


@torch.no_grad()
def test_frames_entry_takes_everything_forward_takes():
    config = {**SDXL, "time_cond_proj_dim": 7}
    ours, theirs = pair(config)
    inputs = make_inputs(config, batch=2, frames=3)
    down_shapes, mid_shape = skip_shapes(theirs, inputs)
    inputs["down_block_additional_residuals"] = tuple(torch.randn(shape) for shape in down_shapes)
    inputs["mid_block_additional_residual"] = torch.randn(mid_shape)
    rows = ours.forward_frames(**as_rows(inputs))
    assert_close(clip_of_rows(rows, 3), run_theirs(theirs, inputs))


@torch.no_grad()
def test_number_of_frames_decides_what_belongs_together():
    ours, theirs = shared_pair(TINY)
    inputs = make_inputs(TINY, batch=1, frames=6)
    rows = dict(as_rows(inputs), timestep=7)
    for frames in (1, 2, 3, 6):
        sample = clip_of_rows(rows["sample"], frames)
        text = inputs["encoder_hidden_states"].expand(6 // frames, -1, -1)
        expected = run_theirs(theirs, dict(sample=sample, timestep=7, encoder_hidden_states=text))
        result = ours.forward_frames(**{**rows, "num_frames": frames, "encoder_hidden_states": text})
        assert_close(clip_of_rows(result, frames), expected, what=f"num_frames={frames}")


@torch.no_grad()
def test_timestep_per_frame():
    ours, theirs = shared_pair(TINY)
    inputs = make_inputs(TINY, batch=2, frames=3)
    timesteps = torch.tensor([10, 500, 900, 1, 2, 300])
    undo = with_time_embedding(theirs, theirs.time_embedding(theirs.time_proj(timesteps)))
    expected = run_theirs(theirs, inputs)
    undo()
    result = ours.forward_frames(**{**as_rows(inputs), "timestep": timesteps})
    assert_close(clip_of_rows(result, 3), expected)
    first_of_each = ours.forward_frames(**{**as_rows(inputs), "timestep": timesteps[::3]})
    assert_differs(result, first_of_each)


@pytest.mark.parametrize("rows", ["clip", "frame"])
@torch.no_grad()
def test_concatenated_vector_equals_pooled_text_and_time_ids(rows):
    """ComfyUI hands over [pooled text, embedded sizes] already concatenated."""
    ours, theirs = shared_pair(SDXL)
    inputs = make_inputs(SDXL, batch=2, frames=3)
    added = inputs["added_cond_kwargs"]
    sizes = theirs.add_time_proj(added["time_ids"].flatten()).reshape(2, -1)
    vector = torch.cat([added["text_embeds"], sizes], dim=1)
    if rows == "frame":
        vector = vector.repeat_interleave(3, dim=0)
    result = ours.forward_frames(**{**as_rows(inputs), "added_cond_kwargs": {"vector": vector}})
    assert_close(clip_of_rows(result, 3), run_theirs(theirs, inputs))
    other = ours.forward_frames(**{**as_rows(inputs), "added_cond_kwargs": {"vector": vector + 1}})
    assert_differs(result, other, at_least=1e-4)


@torch.no_grad()
def test_pooled_text_per_frame():
    ours, theirs = shared_pair(SDXL)
    inputs = make_inputs(SDXL, batch=2, frames=3)
    pooled, ids = torch.randn(6, 10), torch.randint(0, 64, (6, 6)).float()
    sizes = theirs.add_time_proj(ids.flatten()).reshape(6, -1)
    embedding = theirs.time_embedding(theirs.time_proj(inputs["timestep"])).repeat_interleave(3, dim=0)
    undo = with_time_embedding(theirs, embedding + theirs.add_embedding(torch.cat([pooled, sizes], dim=1)))
    expected = run_theirs(theirs, inputs)
    undo()
    rows = {**as_rows(inputs), "added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
    assert_close(clip_of_rows(ours.forward_frames(**rows), 3), expected)


# text masks


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_attention_mask_shortens_the_text(name):
    """diffusers misuses this argument, so the reference is diffusers with a text that is really shorter."""
    config = CONFIGS[name]
    ours, theirs = shared_pair(config)
    inputs = make_inputs(config, batch=2, frames=3, tokens=6)
    keep = torch.tensor([1, 1, 0, 1, 0, 0])
    masked = run_ours(ours, inputs, attention_mask=keep.expand(2, -1))
    short = inputs["encoder_hidden_states"][:, keep.bool()]
    assert_close(masked, run_theirs(theirs, inputs, encoder_hidden_states=short))
    assert_differs(masked, run_ours(ours, inputs))


def repeat_kept_tokens(text: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Each row's kept tokens, repeated up to the old length: attention to them is unchanged."""
    rows = []
    for row, mask in zip(text, keep, strict=True):
        kept = row[mask]
        assert len(row) % len(kept) == 0
        rows.append(kept.repeat(len(row) // len(kept), 1))
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
@torch.no_grad()
def test_attention_mask_differs_between_clips(dtype):
    ours, theirs = shared_pair(SD15)
    inputs = make_inputs(SD15, batch=2, frames=3, tokens=6)
    keep = torch.tensor([[1, 0, 0, 1, 0, 1], [0, 1, 0, 0, 0, 1]])
    shorter = repeat_kept_tokens(inputs["encoder_hidden_states"], keep.bool())
    result = run_ours(ours, inputs, attention_mask=keep.to(dtype))
    assert_close(result, run_theirs(theirs, inputs, encoder_hidden_states=shorter))


@pytest.mark.parametrize("text_rows", ["clip", "frame"])
@torch.no_grad()
def test_attention_mask_per_frame(text_rows):
    ours, theirs = shared_pair(SD15)
    inputs = make_inputs(SD15, batch=2, frames=2, tokens=6, text_rows=text_rows)
    keep = torch.tensor([[1, 0, 0, 1, 0, 1], [0, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 0, 1]])
    text = inputs["encoder_hidden_states"]
    per_frame = text if text_rows == "frame" else text.repeat_interleave(2, dim=0)
    expected = run_theirs(theirs, inputs, encoder_hidden_states=repeat_kept_tokens(per_frame, keep.bool()))
    assert_close(run_ours(ours, inputs, attention_mask=keep), expected)


@torch.no_grad()
def test_attention_mask_of_ones_changes_nothing():
    ours, _ = shared_pair(SD15)
    inputs = make_inputs(SD15, tokens=6)
    assert_close(run_ours(ours, inputs, attention_mask=torch.ones(1, 6)), run_ours(ours, inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@torch.no_grad()
def test_text_masked_altogether_gives_finite_numbers(dtype):
    ours, _ = pair(TINY)
    inputs = make_inputs(TINY, batch=2, tokens=6)
    inputs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    keep = torch.tensor([[0] * 6, [1] * 6])
    assert torch.isfinite(run_ours(ours.to(dtype), inputs, attention_mask=keep)).all()


@torch.no_grad()
def test_a_clip_whose_text_is_masked_altogether_attends_as_if_it_were_not():
    """-10000 everywhere is a constant, as in diffusers: what a query finds likest still counts most."""
    ours, _ = shared_pair(SD15)
    inputs = make_inputs(SD15, batch=2, tokens=6)
    text = 3 * inputs["encoder_hidden_states"]
    keep = torch.tensor([[0] * 6, [1, 0, 0, 1, 0, 1]])
    masked = run_ours(ours, inputs, encoder_hidden_states=text, attention_mask=keep)
    plain = run_ours(ours, inputs, encoder_hidden_states=text)
    even = run_ours(ours, inputs, encoder_hidden_states=text.mean(1, keepdim=True).expand(-1, 6, -1))
    assert (masked[0] - plain[0]).abs().max() < 1e-2 * plain[0].abs().max()
    assert (even[0] - plain[0]).abs().max() > 3e-2 * plain[0].abs().max()
    assert_differs(masked[1], plain[1])


@torch.no_grad()
def test_memory_layout_of_the_inputs_does_not_matter():
    ours, _ = shared_pair(TINY)
    inputs = make_inputs(TINY, batch=2, height=9, width=7)
    expected = run_ours(ours, inputs)
    strided = {
        **inputs,
        "sample": inputs["sample"].permute(4, 2, 0, 3, 1).contiguous().permute(2, 4, 1, 3, 0),
        "encoder_hidden_states": inputs["encoder_hidden_states"].mT.contiguous().mT,
    }
    assert not strided["sample"].is_contiguous()
    assert_close(run_ours(ours, strided), expected, limit=1e-6)


# frame positions


@pytest.mark.parametrize("positions", [[0, 2, 4], [7, 3, 31], [5, 5, 5]])
@torch.no_grad()
def test_frame_positions_choose_rows_of_the_table(positions):
    """The reference is diffusers with the rows of its table moved to where it looks for them."""
    ours, theirs = pair(SD15)
    inputs = make_inputs(SD15)
    moved = {}
    for key, table in theirs.state_dict().items():
        if key.endswith(".pe"):
            moved[key] = table.clone()
            moved[key][:, : len(positions)] = table[:, positions]
    theirs.load_state_dict(moved, strict=False)
    options = ForwardOptions(frame_positions=torch.tensor(positions))
    result = run_ours(ours, inputs, options=options)
    assert_close(result, run_theirs(theirs, inputs))
    assert_differs(result, run_ours(ours, inputs), at_least=1e-4)


@torch.no_grad()
def test_first_positions_are_the_default():
    ours, _ = shared_pair(SD15)
    inputs = make_inputs(SD15)
    options = ForwardOptions(frame_positions=torch.arange(3))
    assert_close(run_ours(ours, inputs, options=options), run_ours(ours, inputs), limit=1e-6)


@torch.no_grad()
def test_more_frames_than_rows_through_positions():
    """Forty frames on a table of 32 rows work when the caller says which rows to use."""
    ours, theirs = shared_pair(TINY)
    inputs = make_inputs(TINY, frames=40, height=4, width=4)
    positions = torch.arange(40) * 31 // 39
    longer = TheirModel(**{**TINY, "motion_max_seq_length": 40}).eval()
    state = {key: value[:, positions] if key.endswith(".pe") else value for key, value in theirs.state_dict().items()}
    longer.load_state_dict(state, strict=True)
    result = run_ours(ours, inputs, options=ForwardOptions(frame_positions=positions))
    assert_close(result, run_theirs(longer, inputs))


@pytest.mark.parametrize("positions", [[0, 1], [0, 1, 32], [-1, 0, 1]])
def test_wrong_frame_positions(positions):
    ours, _ = shared_pair(TINY)
    with pytest.raises(ValueError, match="frame_positions"):
        run_ours(ours, make_inputs(TINY, frames=3), options=ForwardOptions(frame_positions=torch.tensor(positions)))


# result and signature


@torch.no_grad()
def test_output_object_and_tuple():
    ours, _ = shared_pair(TINY)
    inputs = make_inputs(TINY)
    output = ours(**inputs)
    assert isinstance(output, UNetMotionOutput)
    assert UNet3DConditionOutput is UNetMotionOutput
    as_tuple = ours(**inputs, return_dict=False)
    assert type(as_tuple) is tuple and len(as_tuple) == 1
    assert torch.equal(output.sample, as_tuple[0])
    assert torch.equal(output[0], output.sample) and torch.equal(output["sample"], output.sample)
    assert output.sample.shape == inputs["sample"].shape and output.sample.dtype == torch.float32


def test_forward_has_diffusers_arguments_in_order():
    theirs = inspect.signature(inspect.unwrap(TheirModel.forward)).parameters
    ours = inspect.signature(UNetMotionModel.forward).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    assert {k: v.default for k, v in theirs.items()} == {k: ours[k].default for k in theirs}


@torch.no_grad()
def test_arguments_by_position():
    ours, theirs = shared_pair(TINY)
    inputs = make_inputs(TINY)
    result = ours(*inputs.values(), None, None, None, None, None, None, False)[0]
    assert_close(result, run_theirs(theirs, inputs))


@torch.no_grad()
def test_unknown_cross_attention_kwargs_do_not_stop_a_run():
    ours, theirs = shared_pair(TINY)
    inputs = make_inputs(TINY)
    expected = run_theirs(theirs, inputs, cross_attention_kwargs={"scale": 0.5})
    assert_close(run_ours(ours, inputs, cross_attention_kwargs={"scale": 0.5}), expected)


# errors


@pytest.mark.parametrize("table, frames", [(32, 33), (4, 5)])
def test_too_many_frames_names_both_numbers(table, frames):
    ours, _ = pair({**TINY, "motion_max_seq_length": table})
    with pytest.raises(ValueError, match=rf"(?s)(?=.*\b{frames}\b)(?=.*\b{table}\b)"):
        run_ours(ours, make_inputs(TINY, frames=frames))


@torch.no_grad()
def test_one_row_table_is_not_broadcast_unasked():
    """diffusers uses row 0 for every frame without a word; here the caller says so."""
    config = {**TINY, "motion_max_seq_length": 1}
    ours, theirs = pair(config)
    inputs = make_inputs(config, frames=3)
    with pytest.raises(ValueError, match=r"(?=.*\b3\b)(?=.*\b1\b)"):
        run_ours(ours, inputs)
    options = ForwardOptions(frame_positions=torch.zeros(3, dtype=torch.int64))
    assert_close(run_ours(ours, inputs, options=options), run_theirs(theirs, inputs))


@pytest.mark.parametrize("missing", ["text_embeds", "time_ids"])
def test_missing_added_condition(missing):
    ours, theirs = shared_pair(SDXL)
    inputs = make_inputs(SDXL)
    del inputs["added_cond_kwargs"][missing]
    with pytest.raises(ValueError, match=missing):
        run_theirs(theirs, inputs)
    with pytest.raises(ValueError, match=missing):
        run_ours(ours, inputs)


def test_added_conditions_left_out_altogether():
    ours, _ = shared_pair(SDXL)
    inputs = make_inputs(SDXL)
    with pytest.raises(ValueError, match="added_cond_kwargs"):
        run_ours(ours, inputs, added_cond_kwargs=None)


WRONG = {
    "encoder_hidden_states rows": dict(encoder_hidden_states=torch.randn(5, 5, 12)),
    "encoder_hidden_states width": dict(encoder_hidden_states=torch.randn(2, 5, 13)),
    "encoder_hidden_states None": dict(encoder_hidden_states=None),
    "timestep_cond": dict(timestep_cond=torch.randn(2, 7)),
    "timestep": dict(timestep=torch.tensor([1, 2, 3, 4, 5])),
    "attention_mask": dict(attention_mask=torch.ones(2, 4)),
    "sample": dict(sample=torch.randn(2, 3, 3, 8, 8)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_named(name):
    ours, _ = shared_pair(TINY)
    with pytest.raises(ValueError, match=name.split()[0]):
        run_ours(ours, make_inputs(TINY, batch=2, frames=3), **WRONG[name])


@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_number_of_control_residuals(change):
    """diffusers drops the surplus silently; a wrong count is always a mistake of the caller."""
    ours, theirs = shared_pair(TINY)
    inputs = make_inputs(TINY)
    shapes, _ = skip_shapes(theirs, inputs)
    residuals = [torch.randn(shape) for shape in [*shapes, shapes[-1]][: len(shapes) + change]]
    with pytest.raises(ValueError, match="down_block_additional_residuals"):
        run_ours(ours, inputs, down_block_additional_residuals=residuals)


def test_rows_that_are_not_whole_clips():
    ours, _ = shared_pair(TINY)
    with pytest.raises(ValueError, match="3 frames"):
        ours.forward_frames(torch.randn(7, 4, 8, 8), 1, torch.randn(1, 5, 12), num_frames=3)


def test_sample_without_frame_axis():
    ours, _ = shared_pair(TINY)
    with pytest.raises(ValueError, match="sample"):
        ours(torch.randn(2, 4, 8, 8), 1, torch.randn(2, 5, 12))
