"""Weights of motion modules multiplied and added to."""

import pytest
import torch

from tests.formats.files import adapter
from unet_motion import MotionAdapter
from unet_motion.formats import MotionModule
from unet_motion.formats.merging import adjust_weights


@pytest.fixture(scope="module")
def module():
    return MotionModule.from_adapter(MotionAdapter.from_config(adapter().config), "mm.safetensors")


@pytest.mark.parametrize(
    ("names", "parts"),
    [((), ("",)), (("attention",), ("attn1.", "attn2.")), (("positions", "to_q"), ("pos_embed.pe", "to_q"))],
)
def test_weights_of_these_names_are_multiplied_and_added_to_and_no_others(module, names, parts):
    adjusted = adjust_weights(module, 1.01, 0.5, names)
    changed = 0
    for key, tensor in module.state_dict.items():
        wanted = tensor.double() * 1.01 + 0.5 if any(part in key for part in parts) else tensor.double()
        torch.testing.assert_close(adjusted.state_dict[key].double(), wanted, rtol=1e-6, atol=1e-6)
        assert adjusted.state_dict[key].dtype == tensor.dtype
        changed += adjusted.state_dict[key] is not tensor
    assert 0 < changed < len(module.state_dict) or not names and changed == len(module.state_dict)
    assert not adjusted.is_as_in_file and module.is_as_in_file


def test_nothing_asked_is_nothing_done_and_what_cannot_be_is_said(module):
    assert adjust_weights(module) is module and adjust_weights(module, names=("to_k",)) is module
    with pytest.raises(ValueError, match="'to_z' is part of no weight's name in mm.safetensors, expected attention"):
        adjust_weights(module, 2.0, names=("to_z",))
    with pytest.raises(ValueError, match="`times` is nan, expected a number of at most 1e"):
        adjust_weights(module, float("nan"))
    with pytest.raises(ValueError, match="`plus` is inf, expected"):
        adjust_weights(module, 1.0, float("inf"))
