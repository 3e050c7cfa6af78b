"""A whole network on the kernels."""

import importlib

import pytest
import torch

pytest.importorskip("triton")

from poison import DEVICE

from unet_motion import ForwardOptions, FreeU, UNetMotionModel, kernels
from unet_motion.bench.nets import make_inputs, randomise


def noted(name, function, seen):
    """The function, which adds its name to what was seen."""

    def run(*arguments):
        seen.add(name)
        return function(*arguments)

    return run


@pytest.mark.parametrize("card", [False, True], ids=["elsewhere", "on a card"])
@torch.no_grad()
def test_a_whole_network_runs_on_the_kernels_and_sees_each_change_of_its_weights(card, monkeypatch):
    """On a card, or on a CPU that is taken for one, its layers are computed together too."""
    if card:
        monkeypatch.setattr("unet_motion.ops.layer.CARDS", (DEVICE.type,))
    unet = UNetMotionModel(
        down_block_types=("CrossAttnDownBlockMotion",),
        up_block_types=("UpBlockMotion",),
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=12,
        num_attention_heads=2,
        motion_num_attention_heads=2,
        resnet_norm_scope="clip",
    ).eval()
    randomise(unet)
    unet.to(DEVICE)
    inputs = make_inputs(1, 2, 4, unet.config.cross_attention_dim, DEVICE, torch.float32)
    freeu = FreeU(0.9, 0.2, 1.5, 1.6, "v2")
    launched = set()
    for name, *operators in (
        ("ops.feed_forward", "geglu_kernel"),
        ("ops.group_norm", "group_norm_kernel"),
        ("ops.layer_norm", "layer_norm_kernel", "add_layer_norm_kernel"),
        ("ops.residual", "residual_sum_kernel"),
        ("ops.freeu", "freeu_concat_kernel"),
    ):
        module = importlib.import_module(f"unet_motion.{name}")
        for operator in operators:
            monkeypatch.setattr(module, operator, noted(operator, getattr(module, operator), launched))

    def run(mode, processor):
        options = ForwardOptions(freeu=freeu, attn_processors=processor)
        with kernels.use(mode):
            return unet(inputs.sample, inputs.timestep, inputs.text, options=options).sample

    def agree():
        expected, result = run("eager", "math"), run("triton", "triton")
        assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()
        return result

    first = agree()
    assert len(launched) == 5 + (card or DEVICE.type == "cuda")
    motion = unet.mid_block.motion_modules[0]
    unet.down_blocks[0].resnets[0].norm1.bias.add_(0.3)
    motion.transformer_blocks[0].norm2.weight.mul_(1.5)
    second = agree()
    assert (second - first).abs().max() > 1e-3 * first.abs().max()

    # A layer with a hook is called, so that the hook sees what it is owed.
    seen = []
    norm = motion.transformer_blocks[0].norm1
    norm.register_forward_hook(lambda module, args, out: seen.append(out) or out * 1.1)
    agree()
    assert len(seen) == 2
