"""A model travels whole: through pickle and torch.save, to another process, with the values that it computes."""

import io
import multiprocessing
import pickle

import pytest
import torch

from unet_motion import MotionAdapter, UNetMotionModel

INPUTS = torch.linspace(-1, 1, 512).reshape(1, 4, 2, 8, 8), 7, torch.linspace(-1, 1, 80).reshape(1, 5, 16)


class Wider(torch.nn.Linear):
    """A layer of a host."""


class Host:
    """A namespace of layers that is a class."""

    Linear, Conv2d, GroupNorm, LayerNorm = Wider, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm


def small_unet(**kwargs):
    torch.manual_seed(3)
    return UNetMotionModel(
        block_out_channels=(32, 64), norm_num_groups=8, cross_attention_dim=16, num_attention_heads=4,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), **kwargs,
    ).eval()  # fmt: skip


def computed(unet):
    with torch.no_grad():
        return unet(*INPUTS).sample


@pytest.mark.parametrize("operations", [None, torch.nn, Host])
def test_a_pickled_unet_computes_the_same_and_takes_image_layers_of_the_same_kind(operations):
    unet = small_unet(operations=operations)
    again = pickle.loads(pickle.dumps(unet))
    assert torch.equal(computed(again), computed(unet))
    assert again.factory.operations is (operations or torch.nn)


def test_torch_saves_and_loads_whole_models_and_adapters():
    file = io.BytesIO()
    unet = small_unet()
    unet.enable_freeu(0.9, 0.2, 1.1, 1.2)
    torch.save({"unet": unet, "adapter": MotionAdapter(block_out_channels=(32, 64), motion_norm_num_groups=8)}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(computed(loaded["unet"]), computed(unet))
    assert loaded["adapter"].config.block_out_channels == (32, 64)


def test_another_process_gets_the_model():
    unet = small_unet()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert torch.allclose(pool.apply(computed, (unet,)), computed(unet), rtol=0, atol=1e-6)
