"""Kernels read weights as a host gives them: written in place, patched when they are used, or stored in 8 bits."""

import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("triton")

from poison import DEVICE

from unet_motion import UNetMotionModel, kernels
from unet_motion.bench.nets import make_inputs, randomise

SMALL = {
    "down_block_types": ("CrossAttnDownBlockMotion",),
    "up_block_types": ("UpBlockMotion",),
    "block_out_channels": (8,),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "cross_attention_dim": 12,
    "num_attention_heads": 2,
    "motion_num_attention_heads": 2,
}


class Host:
    """Layers that ask their host for weights in every call, as ComfyUI's do.

    Attributes:
        strength: of a LoRA on every weight, added when it is used.
    """

    def __init__(self):
        self.strength = 0.0
        host = self

        class Linear(nn.Linear):
            def forward(self, x):
                return F.linear(x, *host.weights(self, x))

        class Conv2d(nn.Conv2d):
            def forward(self, x):
                return self._conv_forward(x, *host.weights(self, x))

        class GroupNorm(nn.GroupNorm):
            def forward(self, x):
                return F.group_norm(x, self.num_groups, *host.weights(self, x), self.eps)

        class LayerNorm(nn.LayerNorm):
            def forward(self, x):
                return F.layer_norm(x, self.normalized_shape, *host.weights(self, x), self.eps)

        self.operations = types.SimpleNamespace(Linear=Linear, Conv2d=Conv2d, GroupNorm=GroupNorm, LayerNorm=LayerNorm)

    def weights(self, module, x):
        weight, bias = module.weight.to(x), None if module.bias is None else module.bias.to(x)
        return weight + self.strength * self.change(weight), bias

    @staticmethod
    def change(weight):
        return 0.2 * torch.linspace(-1, 1, weight.numel(), device=weight.device).view(weight.shape)


@pytest.mark.parametrize("mode", ["in place", "when used", "8 bits"])
@torch.no_grad()
def test_a_lora_of_strength_0_and_of_1_differ_and_kernels_agree_with_plain_code_on_both(mode):
    host = Host()
    unet = UNetMotionModel(**SMALL, operations=host.operations, weights=host.weights).eval()
    randomise(unet)
    unet.to(DEVICE)
    if mode == "8 bits":
        for layer in unet.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)):
                layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    given = make_inputs(1, 2, 4, unet.config.cross_attention_dim, DEVICE, torch.float32)

    def run(kind, processor):
        unet.set_attn_processor(processor)
        with kernels.use(kind):
            return unet(given.sample, given.timestep, given.text).sample

    results = []
    for strength in (0.0, 1.0):
        if mode == "in place" and strength:
            for layer in unet.modules():
                if isinstance(layer, (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)):
                    layer.weight += strength * host.change(layer.weight)
        elif mode != "in place":
            host.strength = strength
        expected, result = run("eager", "math"), run("triton", "triton")
        assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()
        results.append(result)
    assert (results[1] - results[0]).abs().max() > 1e-2 * results[0].abs().max()
