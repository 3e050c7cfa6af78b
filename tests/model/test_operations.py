"""Injected layers and weights: a host's own layers are used everywhere, and nothing reads their weights behind them."""

import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.reference import (
    CONFIGS,
    SDXL,
    MotionAdapter,
    UNetMotionModel,
    assert_close,
    make_inputs,
    run_ours,
    run_theirs,
    their_model,
)

KINDS = {"Linear": nn.Linear, "Conv2d": nn.Conv2d, "GroupNorm": nn.GroupNorm, "LayerNorm": nn.LayerNorm}
FACTOR = 1.25


def patched(module):
    """A host's patched weight, as with a LoRA: what is stored is not what must be used."""
    return module.weight * FACTOR, module.bias


class PatchedLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, *patched(self))


class PatchedConv2d(nn.Conv2d):
    def forward(self, x):
        weight, bias = patched(self)
        return self._conv_forward(x, weight, bias)


class PatchedGroupNorm(nn.GroupNorm):
    def forward(self, x):
        weight, bias = patched(self)
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)


class PatchedLayerNorm(nn.LayerNorm):
    def forward(self, x):
        weight, bias = patched(self)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


PATCHED = types.SimpleNamespace(
    Linear=PatchedLinear, Conv2d=PatchedConv2d, GroupNorm=PatchedGroupNorm, LayerNorm=PatchedLayerNorm
)


def patched_pair(config, **extra):
    """Our net with patched layers, and diffusers' with the patch worked into its weights."""
    theirs = their_model(config)
    ours = UNetMotionModel(**config, operations=PATCHED, weights=lambda module, x: patched(module), **extra).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, tuple(KINDS.values())):
                module.weight.mul_(FACTOR)
    return ours, theirs


@pytest.mark.parametrize("make", ["model", "adapter"])
def test_every_parameter_belongs_to_an_injected_layer(make):
    classes = {name: type(name, (kind,), {}) for name, kind in KINDS.items()}
    operations = types.SimpleNamespace(**classes)
    if make == "model":
        module = UNetMotionModel(**SDXL, time_cond_proj_dim=7, operations=operations)
    else:
        module = MotionAdapter((8, 16), motion_num_attention_heads=2, motion_norm_num_groups=4, conv_in_channels=9,
                               operations=operations)  # fmt: skip
    for path, layer in module.named_modules():
        if list(layer.parameters(recurse=False)):
            assert type(layer) in classes.values(), path
            assert not list(layer.children()), path


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("change", ["plain", "fused", "math", "chunked", "freeu", "scopes"])
@torch.no_grad()
def test_patches_reach_every_layer(name, change):
    config = CONFIGS[name]
    ours, theirs = patched_pair(config)
    inputs = make_inputs(config, batch=2, frames=3)
    if change == "fused":
        ours.fuse_qkv_projections()
    elif change == "math":
        ours.set_attn_processor("math")
    elif change == "chunked":
        ours.enable_forward_chunking(2)
    elif change == "freeu":
        for model in (ours, theirs):
            model.enable_freeu(0.9, 0.2, 1.5, 1.6)
    elif change == "scopes":
        inputs["sample"] = inputs["sample"][:, :, :1]  # with one frame both scopes mean the same
        ours.set_norm_scope(resnet="clip", motion="frame")
    assert_close(run_ours(ours, inputs), run_theirs(theirs, inputs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dtype_and_device_reach_every_layer(dtype):
    ours = UNetMotionModel(**SDXL, dtype=dtype, device="meta")
    tensors = ours.state_dict()
    assert all(value.dtype == dtype and value.is_meta for value in tensors.values())
    assert ours.dtype == dtype and ours.device.type == "meta"
