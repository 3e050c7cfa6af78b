"""Structures told from the names and shapes of tensors are those of the configuration that made them."""

import pytest
import torch

from unet_motion import MotionAdapter, UNetMotionModel
from unet_motion.formats.infer.adapter import infer_adapter
from unet_motion.formats.infer.unet import infer_unet

SMALL = dict(
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlockMotion",) * 2,
    up_block_types=("CrossAttnUpBlockMotion",) * 2,
    layers_per_block=1,
    cross_attention_dim=16,
    num_attention_heads=8,
    motion_num_attention_heads=8,
)


def shapes_of(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


# The way up has reverse_* from its first block on, or the way down reversed: that is None.
@pytest.mark.parametrize(("down", "up"), [(2, None), ((1, 2), None), ((1, 2), (1, 2)), ((1, 2), (3, 1)), (1, (1, 2))])
def test_depths_of_the_way_up_are_named_where_they_are_not_those_of_the_way_down_reversed(down, up):
    with torch.device("meta"):
        spatial = UNetMotionModel(**SMALL, transformer_layers_per_block=down, reverse_transformer_layers_per_block=up)
        temporal = MotionAdapter(
            block_out_channels=(32, 64), motion_layers_per_block=1, motion_transformer_layers_per_block=down,
            reverse_motion_transformer_layers_per_block=up,
        )  # fmt: skip
    found = infer_unet(shapes_of(spatial), "unet")
    assert (found["transformer_layers_per_block"], found["reverse_transformer_layers_per_block"]) == (down, up)
    adapter = infer_adapter(shapes_of(temporal), "motion")
    assert adapter.motion_transformer_layers_per_block == down
    assert adapter.reverse_motion_transformer_layers_per_block == up


def test_blocks_have_motion_modules_of_their_own_number_and_depths():
    with torch.device("meta"):
        adapter = MotionAdapter(
            block_out_channels=(32, 64), motion_layers_per_block=(1, 2),
            motion_transformer_layers_per_block=(2, (1, 3)),
            reverse_motion_transformer_layers_per_block=((1, 2, 2), (1, 2)),
        )  # fmt: skip
    found = infer_adapter(shapes_of(adapter), "motion")
    assert found.block_out_channels == (32, 64) and found.motion_layers_per_block == (1, 2)
    assert found.motion_transformer_layers_per_block == (2, (1, 3))
    assert found.reverse_motion_transformer_layers_per_block == ((1, 2, 2), (1, 2))
