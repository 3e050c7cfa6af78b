"""Norm scopes against the definition, restated here in float64 on top of diffusers.

Group normalisation takes mean and variance over the channels of a group and all pixels: of one frame (scope
"frame") or of all frames of a clip (scope "clip"). diffusers has "frame" for the resnets and the last norm,
"clip" for the motion modules.
"""

import itertools

import pytest
import torch
from torch import nn

from tests.reference import SD15, TINY, as_double, assert_close, assert_differs, make_inputs, pair, run_ours, run_theirs
from unet_motion import ForwardOptions
from unet_motion.config.unet import NORM_SCOPES

SCOPES = ("frame", "clip")


class RestatedNorm(nn.Module):
    def __init__(self, norm: nn.GroupNorm, scope: str, frames: int):
        super().__init__()
        self.norm, self.scope, self.frames = norm, scope, frames

    def forward(self, x):
        video = x if x.ndim == 5 else x.unflatten(0, (-1, self.frames)).transpose(1, 2)
        batch, channels, frames, height, width = video.shape
        grouped = video.reshape(batch, self.norm.num_groups, channels // self.norm.num_groups, frames, height, width)
        axes = (2, 4, 5) if self.scope == "frame" else (2, 3, 4, 5)
        mean = grouped.mean(dim=axes, keepdim=True)
        variance = ((grouped - mean) ** 2).mean(dim=axes, keepdim=True)
        y = ((grouped - mean) / (variance + self.norm.eps).sqrt()).reshape(video.shape)
        y = y * self.norm.weight.view(1, -1, 1, 1, 1) + self.norm.bias.view(1, -1, 1, 1, 1)
        return y if x.ndim == 5 else y.transpose(1, 2).flatten(0, 1)


def restate(theirs, resnet: str, motion: str, frames: int):
    """Replace the norms of a diffusers model (made float64) by the definition."""
    theirs = theirs.double()
    for module in list(theirs.modules()):
        kind = type(module).__name__
        if kind == "ResnetBlock2D":
            module.norm1 = RestatedNorm(module.norm1, resnet, frames)
            module.norm2 = RestatedNorm(module.norm2, resnet, frames)
        elif kind == "AnimateDiffTransformer3D":
            module.norm = RestatedNorm(module.norm, motion, frames)
    theirs.conv_norm_out = RestatedNorm(theirs.conv_norm_out, resnet, frames)
    return theirs


def uneven_inputs(config, **kwargs):
    """Frames of very different contrast: the scopes then give very different results."""
    inputs = make_inputs(config, **kwargs)
    frames = inputs["sample"].shape[2]
    inputs["sample"] = inputs["sample"] * torch.linspace(0.2, 3, frames).view(1, 1, -1, 1, 1)
    return inputs


@pytest.mark.parametrize("use_mid", [True, False])
@pytest.mark.parametrize("resnet, motion", list(itertools.product(SCOPES, SCOPES)))
@torch.no_grad()
def test_scopes_equal_their_definition(resnet, motion, use_mid):
    config = {**SD15, "use_motion_mid_block": use_mid}
    ours, theirs = pair(config, resnet_norm_scope=resnet, motion_norm_scope=motion)
    inputs = uneven_inputs(config, batch=2, frames=4, height=9, width=7)
    result = run_ours(ours, inputs)
    expected = run_theirs(restate(theirs, resnet, motion, frames=4), as_double(inputs))
    assert_close(result, expected)


@torch.no_grad()
def test_restatement_itself_equals_diffusers():
    _, theirs = pair(SD15)
    inputs = uneven_inputs(SD15, batch=2, frames=4)
    expected = run_theirs(theirs, inputs)
    assert_close(run_theirs(restate(theirs, "frame", "clip", frames=4), as_double(inputs)), expected)


@torch.no_grad()
def test_each_scope_acts():
    results = {}
    inputs = uneven_inputs(SD15, frames=4)
    for scopes in itertools.product(SCOPES, SCOPES):
        ours, _ = pair(SD15, resnet_norm_scope=scopes[0], motion_norm_scope=scopes[1])
        results[scopes] = run_ours(ours, inputs)
    for one, other in itertools.combinations(results, 2):
        assert_differs(results[one], results[other], at_least=1e-2)


@torch.no_grad()
def test_scopes_agree_on_one_frame():
    inputs = make_inputs(TINY, frames=1)
    first, _ = pair(TINY, resnet_norm_scope="frame", motion_norm_scope="frame")
    second, _ = pair(TINY, resnet_norm_scope="clip", motion_norm_scope="clip")
    assert_close(run_ours(first, inputs), run_ours(second, inputs))


@torch.no_grad()
def test_scope_set_later_or_for_one_call():
    ours, _ = pair(TINY)
    inputs = uneven_inputs(TINY, frames=4)
    plain = run_ours(ours, inputs)
    built, _ = pair(TINY, resnet_norm_scope="clip", motion_norm_scope="frame")
    expected = run_ours(built, inputs)
    assert_differs(expected, plain)

    options = ForwardOptions(resnet_norm_scope="clip", motion_norm_scope="frame")
    assert torch.equal(run_ours(ours, inputs, options=options), expected)
    assert torch.equal(run_ours(ours, inputs), plain)

    ours.set_norm_scope(resnet="clip", motion="frame")
    assert torch.equal(run_ours(ours, inputs), expected)
    ours.set_norm_scope(motion="clip")
    half, _ = pair(TINY, resnet_norm_scope="clip", motion_norm_scope="clip")
    assert torch.equal(run_ours(ours, inputs), run_ours(half, inputs))
    back = ForwardOptions(resnet_norm_scope="frame", motion_norm_scope="clip")
    assert torch.equal(run_ours(ours, inputs, options=back), plain)


def test_scope_set_later_is_saved_in_the_config():
    ours, _ = pair(TINY)
    assert (ours.config.resnet_norm_scope, ours.config.motion_norm_scope) == ("frame", "clip")
    ours.set_norm_scope(resnet="clip", motion="frame")
    assert (ours.config.resnet_norm_scope, ours.config.motion_norm_scope) == ("clip", "frame")
    assert ours.config.to_dict()["motion_norm_scope"] == "frame"


def test_presets():
    assert NORM_SCOPES["diffusers"] == ("frame", "clip")
    assert NORM_SCOPES["v1"] == ("clip", "frame")
    assert NORM_SCOPES["v2"] == NORM_SCOPES["v3"] == ("frame", "frame")
    assert NORM_SCOPES["sdxl"] == ("frame", "clip")


@pytest.mark.parametrize("name", ["resnet_norm_scope", "motion_norm_scope"])
def test_unknown_scope(name):
    with pytest.raises(ValueError, match=name):
        pair(TINY, **{name: "video"})
    ours, _ = pair(TINY)
    with pytest.raises(ValueError, match="video"):
        run_ours(ours, make_inputs(TINY), options=ForwardOptions(**{name: "video"}))
    with pytest.raises(ValueError, match="video"):
        ours.set_norm_scope(**{name.removesuffix("_norm_scope"): "video"})
