"""Gradients against diffusers, with and without checkpointing; what freezing leaves trainable."""

import pytest
import torch

from tests.reference import (
    CONFIGS,
    GRADIENT_LIMIT,
    SD15,
    SDXL,
    TINY,
    assert_close,
    assert_differs,
    make_inputs,
    pair,
    run_ours,
    run_theirs,
)
from unet_motion import ForwardOptions, FreeU


def gradients(model, run, inputs, **extra):
    """Gradients of a weighted sum of the output, for the parameters, the sample and the text."""
    inputs = dict(inputs)
    for name in ("sample", "encoder_hidden_states"):
        inputs[name] = inputs[name].clone().requires_grad_()
    model.zero_grad(set_to_none=True)
    output = run(model, inputs, **extra)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(5))
    (output * direction).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    grads["sample"], grads["text"] = inputs["sample"].grad, inputs["encoder_hidden_states"].grad
    return grads


def assert_gradients_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        if expected is None:
            assert ours[name] is None, name
            continue
        assert expected.abs().max() > 0, f"{name}: the reference's gradient is zero, nothing is compared"
        assert_close(ours[name], expected, limit=GRADIENT_LIMIT, what=name)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_equal_diffusers(name, checkpointing):
    config = {**CONFIGS[name], "time_cond_proj_dim": 7}
    ours, theirs = pair(config)
    inputs = make_inputs(config, batch=2, frames=3, height=9, width=7)
    expected = gradients(theirs, run_theirs, inputs)
    if checkpointing:
        ours.enable_gradient_checkpointing()
    assert_gradients_close(gradients(ours, run_ours, inputs), expected)


def test_gradients_with_text_per_frame():
    ours, theirs = pair(TINY)
    inputs = make_inputs(TINY, batch=2, frames=3, text_rows="frame")
    assert_gradients_close(gradients(ours, run_ours, inputs), gradients(theirs, run_theirs, inputs))


def test_gradients_through_freeu():
    ours, theirs = pair(TINY)
    inputs = make_inputs(TINY, batch=2, frames=3, height=9, width=7)
    plain = gradients(ours, run_ours, inputs)
    ours.enable_freeu(0.9, 0.2, 1.5, 1.6)
    theirs.enable_freeu(0.9, 0.2, 1.5, 1.6)
    result = gradients(ours, run_ours, inputs)
    assert_gradients_close(result, gradients(theirs, run_theirs, inputs))
    assert_differs(result["sample"], plain["sample"])


@pytest.mark.parametrize("change", ["fused", "chunked", "math", "sliced", "flash"])
def test_gradients_through_every_path(change):
    ours, theirs = pair(TINY)
    inputs = make_inputs(TINY, batch=2, frames=3)
    expected = gradients(theirs, run_theirs, inputs)
    if change == "fused":
        ours.fuse_qkv_projections()
    elif change == "chunked":
        ours.enable_forward_chunking(2)
    else:
        ours.set_attn_processor(change)
    assert_gradients_close(gradients(ours, run_ours, inputs), expected)


@pytest.mark.parametrize("resnet, motion", [("clip", "frame"), ("frame", "frame"), ("clip", "clip")])
def test_checkpointing_keeps_gradients_in_every_norm_scope(resnet, motion):
    ours, _ = pair(TINY, resnet_norm_scope=resnet, motion_norm_scope=motion)
    inputs = make_inputs(TINY, batch=2, frames=3)
    expected = gradients(ours, run_ours, inputs)
    ours.enable_gradient_checkpointing()
    assert_gradients_close(gradients(ours, run_ours, inputs), expected)


def test_checkpointing_runs_a_function_of_the_callers_and_then_the_usual_one_again():
    ours, _ = pair(TINY)
    inputs = make_inputs(TINY, batch=2, frames=3)
    expected = gradients(ours, run_ours, inputs)
    called = []

    def own(function, *arguments):
        called.append(function)
        return torch.utils.checkpoint.checkpoint(function, *arguments, use_reentrant=False)

    ours.enable_gradient_checkpointing(own)
    assert_gradients_close(gradients(ours, run_ours, inputs), expected)
    # Each resnet, transformer and motion module, once in the forward pass.
    lists = ("resnets", "attentions", "motion_modules")
    assert len(called) == sum(name.rpartition(".")[0].endswith(lists) for name, _ in ours.named_modules())
    called.clear()
    ours.enable_gradient_checkpointing()
    assert_gradients_close(gradients(ours, run_ours, inputs), expected)
    assert not called


def test_checkpointing_follows_the_options_of_the_call():
    """What is computed again in the backward pass must use the options of its own call."""
    ours, _ = pair(TINY)
    inputs = make_inputs(TINY, frames=3)
    options = ForwardOptions(
        freeu=FreeU(0.5, 0.5, 2, 2),
        motion_norm_scope="frame",
        attn_processors="math",
        frame_positions=torch.tensor([5, 1, 9]),
    )
    expected = gradients(ours, run_ours, inputs, options=options)
    assert_differs(expected["sample"], gradients(ours, run_ours, inputs)["sample"])
    ours.enable_gradient_checkpointing()
    assert_gradients_close(gradients(ours, run_ours, inputs, options=options), expected)


def kept_bytes(model, run, inputs):
    """Bytes that autograd keeps between forward and backward, parameters not counted."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in parameters:
            kept[pointer] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run(model, inputs)
    size = sum(kept.values())
    del output
    return size


def test_checkpointing_covers_the_motion_modules():
    """A net of resnets and motion modules only: diffusers checkpoints the former, we both."""
    config = {
        **SD15,
        "down_block_types": ("DownBlockMotion",) * 4,
        "up_block_types": ("UpBlockMotion",) * 4,
        "temporal_transformer_layers_per_block": 2,
        "layers_per_block": 1,
    }
    ours, theirs = pair(config)
    inputs = make_inputs(config, frames=8)
    plain = kept_bytes(ours, run_ours, inputs)
    ours.enable_gradient_checkpointing()
    theirs.enable_gradient_checkpointing()
    with_checkpointing = kept_bytes(ours, run_ours, inputs)
    assert with_checkpointing < plain / 3
    assert with_checkpointing < kept_bytes(theirs, run_theirs, inputs) / 2
    ours.disable_gradient_checkpointing()
    assert kept_bytes(ours, run_ours, inputs) > with_checkpointing * 2


@pytest.mark.parametrize("name, use_mid", [("sd15", True), ("sd15", False), ("sdxl", True)])
def test_freeze_leaves_what_diffusers_leaves(name, use_mid):
    config = {**CONFIGS[name], "use_motion_mid_block": use_mid}
    ours, theirs = pair(config)
    ours.freeze_unet2d_params()
    theirs.freeze_unet2d_params()
    trainable = {n for n, p in ours.named_parameters() if p.requires_grad}
    assert trainable == {n for n, p in theirs.named_parameters() if p.requires_grad}
    assert trainable and all(".motion_modules." in n for n in trainable)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_after_freezing(checkpointing):
    ours, theirs = pair(SDXL)
    ours.freeze_unet2d_params()
    theirs.freeze_unet2d_params()
    inputs = make_inputs(SDXL)
    if checkpointing:
        ours.enable_gradient_checkpointing()
    assert_gradients_close(gradients(ours, run_ours, inputs), gradients(theirs, run_theirs, inputs))
