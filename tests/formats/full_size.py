"""Files of real size with random values that keep every layer alive, and networks that read them where they lie.

Weights stay in the mapped files, in half precision; a layer widens its own when it is called. So a network of real size
takes hardly any memory, in float64 too.
"""

import functools
import json
import math
import struct
import zlib

import diffusers
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from tests.formats.published import encoder_shapes
from tests.formats.test_kinds import KINDS, in_its_names

_COUNT = 2**22
ROWS = {"v1": 24, "hotshot": 24, "lcm": 64, "lcm_i2v": 64}
"""Of position tables, where they are not 32."""


@functools.cache
def _pool(power, offset):
    noise = torch.randn(_COUNT, generator=torch.Generator().manual_seed(0))
    return (noise * 2.0**power + offset).half().numpy().tobytes()


def _pool_for(key, shape):
    """Numbers for a tensor: norms around one, small biases, weights by their fan-in, tables like sines."""
    if key.endswith(".pe"):
        return _pool(-1, 0)
    if len(shape) == 1:
        return _pool(-2, 1 if key.endswith("weight") else 0)
    return _pool(round(math.log2(0.8 / math.prod(shape[1:]) ** 0.5)), 0)


def write_half(path, shapes, names):
    """A safetensors file of float16 tensors; ``names`` maps the keys of ``shapes`` to those in the file."""
    header, end = {}, 0
    for key, shape in shapes.items():
        for name in names[key]:
            begin, end = end, end + 2 * math.prod(shape)
            header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key, shape in shapes.items():
            for _ in names[key]:
                pool, at, left = _pool_for(key, shape), 2 * (zlib.crc32(key.encode()) % _COUNT), 2 * math.prod(shape)
                while left:
                    part = pool[at : at + left]
                    file.write(part)
                    at, left = 0, left - len(part)
    return path


def read_half(path, names):
    """The tensors of a file, mapped, by the keys of ``names``."""
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(found[0]) for key, found in names.items() if found}


def names_after(rename, shapes):
    """key -> its names after ``rename``, which works on state dicts."""
    marks = {key: torch.tensor(number) for number, key in enumerate(shapes)}
    names = {key: [] for key in shapes}
    for name, mark in rename(marks).items():
        names[list(shapes)[int(mark)]].append(name)
    return names


def kind_shapes(kind, widths=None):
    """What a file of a kind holds, by diffusers' names; ``widths`` in the place of the published ones make it small."""
    config = {**KINDS[kind], "motion_max_seq_length": ROWS.get(kind, 32)}
    if widths:
        config["block_out_channels"] = widths
    with torch.device("meta"):
        adapter = diffusers.MotionAdapter(**config)
    shapes = {k: v.shape for k, v in adapter.state_dict().items()}
    if kind == "pia":
        first = adapter.config.block_out_channels[0]
        shapes |= {"conv_in.weight": torch.Size((first, 9, 3, 3)), "conv_in.bias": torch.Size((first,))}
    if kind == "lcm_i2v":
        shapes |= encoder_shapes(adapter.config.block_out_channels)
    return shapes


def write_kind(path, kind, widths=None):
    """A file of a kind under its own names; gives diffusers' names -> those in the file."""
    shapes = kind_shapes(kind, widths)
    names = names_after(lambda state: in_its_names(kind, state), shapes)
    write_half(path, shapes, names)
    return names


class TheirUNet(diffusers.UNetMotionModel):
    """diffusers' network that computes in float64, whatever its weights are stored in."""

    dtype = torch.float64


def in_double(model):
    """Make every layer widen its parameters to float64 while it runs, in memory that all layers share."""
    layers = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    numbers = torch.empty(max(sum(p.numel() for p in m.parameters(recurse=False)) for m in layers), dtype=torch.float64)

    def widen(module, *_):
        module.stored, at = {name: parameter.data for name, parameter in module.named_parameters(recurse=False)}, 0
        for name, value in module.stored.items():
            getattr(module, name).data = numbers[at : at + value.numel()].view(value.shape).copy_(value)
            at += value.numel()

    def put_back(module, *_):
        for name, value in module.__dict__.pop("stored").items():
            getattr(module, name).data = value

    for module in layers:
        assert next(module.children(), None) is None, "a layer in a layer would share its memory"
        module.register_forward_pre_hook(widen)
        module.register_forward_hook(put_back)
    return model.requires_grad_(False).eval()


def widened(module, x):
    """A layer's weight and bias in the dtype of its input."""
    return module.weight.to(x.dtype), None if module.bias is None else module.bias.to(x.dtype)


class Widening:
    """``torch.nn``'s layers that keep their weights as they are stored and compute in the dtype of their input."""

    class Linear(nn.Linear):
        def forward(self, x):
            return F.linear(x, *widened(self, x))

    class Conv2d(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, *widened(self, x))

    class GroupNorm(nn.GroupNorm):
        def forward(self, x):
            return F.group_norm(x, self.num_groups, *widened(self, x), self.eps)

    class LayerNorm(nn.LayerNorm):
        def forward(self, x):
            return F.layer_norm(x, self.normalized_shape, *widened(self, x), self.eps)
