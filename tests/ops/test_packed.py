"""All time projections as one product: the same values, and every edit of a layer is seen."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tests.reference import TINY
from unet_motion import StepGraphs, UNetMotionModel
from unet_motion.ops.linear.packed import TimeProjections


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return UNetMotionModel(**TINY, dtype=torch.float64).eval()


def layers_of(unet):
    return [m.time_emb_proj for m in unet.modules() if hasattr(m, "time_emb_proj")]


def step(unet, timestep=3):
    generator = torch.Generator().manual_seed(1)
    sample, text = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((1, 4, 3, 8, 6), (1, 5, 12)))
    with torch.no_grad():
        return unet(sample, torch.tensor([timestep]), text).sample


class Products(TorchDispatchMode):
    """Counts the products of one row of the time embedding's width."""

    def __init__(self, width):
        super().__init__()
        self.width, self.outs = width, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        shapes = [arg.shape for arg in args if isinstance(arg, torch.Tensor)]
        if func.overloadpacket in flop_registry and (1, self.width) in shapes:
            self.outs.append(out.shape[1])
        return out


def test_packing_changes_no_value_and_leaves_one_product(unet):
    plain, widths = step(unet), [layer.out_features for layer in layers_of(unet)]
    with Products(32) as apart:
        step(unet)
    parameters = dict(unet.named_parameters())
    unet.time_projections.pack()
    assert unet.time_projections.packed
    assert all(parameters[name] is parameter for name, parameter in unet.named_parameters())
    torch.testing.assert_close(step(unet), plain, rtol=1e-12, atol=1e-12)
    with Products(32) as together:
        step(unet)
    assert sorted(apart.outs) == sorted([32, *widths])  # the embedding's own second layer, and the resnets'
    assert sorted(together.outs) == sorted([32, sum(widths)])


class Doubled(torch.nn.Module):
    def forward(self, weight):
        return 2 * weight


EDITS = {
    "in place": lambda layer: layer.weight.mul_(2),
    "through data": lambda layer: layer.weight.data.mul_(2),
    "other values": lambda layer: setattr(layer.weight, "data", 2 * layer.weight.data),
    "another parameter": lambda layer: setattr(layer, "weight", torch.nn.Parameter(2 * layer.weight)),
    "bias": lambda layer: layer.bias.mul_(3),
    "hook": lambda layer: layer.register_forward_hook(lambda module, args, out: 2 * out),
    "parametrization": lambda layer: torch.nn.utils.parametrize.register_parametrization(layer, "weight", Doubled()),
    "forward": lambda layer: setattr(layer, "forward", lambda x: 2 * torch.nn.Linear.forward(layer, x)),
}


@pytest.mark.parametrize("edit", EDITS)
def test_every_edit_of_a_layer_is_seen(edit, unet):
    other = copy.deepcopy(unet)
    unet.time_projections.pack()
    before = step(unet)
    with torch.no_grad():
        EDITS[edit](layers_of(unet)[2])
        EDITS[edit](layers_of(other)[2])
    assert not other.time_projections.packed
    out = step(unet)
    torch.testing.assert_close(out, step(other), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(out, before)


def test_another_layer_in_its_place_is_seen(unet):
    unet.time_projections.pack()
    resnet = next(m for m in unet.modules() if hasattr(m, "time_emb_proj"))
    resnet.time_emb_proj = torch.nn.Linear(32, 8, dtype=torch.float64)
    out = step(unet)
    torch.testing.assert_close(out, step(copy.deepcopy(unet)), rtol=1e-12, atol=1e-12)


def test_copies_casts_and_files_have_the_same_values(unet, tmp_path):
    plain = step(unet)
    unet.time_projections.pack()
    torch.testing.assert_close(step(copy.deepcopy(unet)), plain, rtol=1e-12, atol=1e-12)
    unet.save_pretrained(tmp_path)
    loaded = UNetMotionModel.from_pretrained(tmp_path, torch_dtype=torch.float64)
    torch.testing.assert_close(step(loaded), plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(step(unet.float().double()), plain, rtol=1e-4, atol=1e-4)
    assert not unet.time_projections.packed
    unet.time_projections.pack()
    assert unet.time_projections.packed


def test_gradients_reach_packed_layers(unet):
    unet.time_projections.pack()
    unet(
        torch.ones(1, 4, 2, 8, 8, dtype=torch.float64), 3, torch.ones(1, 5, 12, dtype=torch.float64)
    ).sample.sum().backward()
    assert all(layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0 for layer in layers_of(unet))


def test_a_hosts_weights_are_not_packed(monkeypatch):
    monkeypatch.setattr(UNetMotionModel, "device", torch.device("cuda"))
    own = UNetMotionModel(**TINY, weights=lambda layer, x: (layer.weight, layer.bias))
    own.arrange_weights()
    assert not own.time_projections.packed
    unet = UNetMotionModel(**TINY)
    unet.half()
    assert not unet.time_projections.packed  # whoever trains and saves by himself gets each weight alone
    unet.arrange_weights()
    assert unet.time_projections.packed


def test_layers_of_several_kinds_are_left_alone(unet):
    layers_of(unet)[1].float()
    unet.time_projections.pack()
    assert not unet.time_projections.packed
    assert TimeProjections([])(torch.ones(1, 2)) is None


def test_graphs_are_recorded_anew_when_a_packed_layer_is_replaced(unet):
    def recorder(work, device):
        out = work()
        return (lambda: out.copy_(work())), out

    unet.time_projections.pack()
    graphs = StepGraphs(unet, recorder=recorder)
    sample, text = torch.ones(2, 4, 8, 8, dtype=torch.float64), torch.ones(1, 5, 12, dtype=torch.float64)
    with torch.no_grad():
        first = graphs(sample, 3, text, num_frames=2)
        layers_of(unet)[0].bias.mul_(3)
        second = graphs(sample, 3, text, num_frames=2)
        assert len(graphs) == 1 and not torch.allclose(first, second)
        layers_of(unet)[0].bias = torch.nn.Parameter(layers_of(unet)[0].bias * 3)
        third = graphs(sample, 3, text, num_frames=2)
        assert len(graphs) == 2 and not torch.allclose(second, third)
        torch.testing.assert_close(third, unet.forward_frames(sample, 3, text, num_frames=2))
