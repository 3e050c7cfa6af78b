"""AnimateDiff-Evolved in this process: its nodes, weights under the names of its files, and runs of whole graphs."""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pack.unet_motion import MotionAdapter
from safetensors.torch import save_file
from small import WIDTHS, fill

import nodes as core

FOLDER = os.environ.get("UNET_MOTION_PACKS")
EVOLVED = "ComfyUI-AnimateDiff-Evolved"
# Core's own files with nodes that these graphs hold.
CORE_FILES = ("nodes_custom_sampler", "nodes_mask", "nodes_model_advanced", "nodes_pag", "nodes_hooks")
NAMES = {
    "attn1": "attention_blocks.0", "attn2": "attention_blocks.1", "norm1": "norms.0", "norm2": "norms.1",
    "norm3": "ff_norm",
}  # fmt: skip


def load_other_pack(name: str) -> ModuleType:
    """A pack as ComfyUI imports it; skips where its folder is not there."""
    path = Path(FOLDER or "") / name
    if not FOLDER or not path.is_dir():
        pytest.skip(f"{path} is not there")
    key = name.replace("-", "_")
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, path / "__init__.py", submodule_search_locations=[str(path)])
        sys.modules[key] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the pack's networks, whose widths are written into its code, those of the small models: a tenth."""
    theirs = sys.modules["ComfyUI_AnimateDiff_Evolved.animatediff.motion_module_ad"]
    full, encoder = theirs.MotionModule, theirs.AdapterEmbed
    monkeypatch.setattr(theirs, "MotionModule", lambda channels, *rest, **named: full(channels // 10, *rest, **named))
    monkeypatch.setattr(theirs, "AdapterEmbed", lambda channels, **named: encoder(channels=list(WIDTHS), **named))


def original_names(weights: dict[str, torch.Tensor], positions: int = 32) -> dict[str, torch.Tensor]:
    """Motion modules under the names that AnimateDiff's authors gave them; position tables of so many rows, if any."""
    out = {}
    for key, tensor in weights.items():
        head, inner = key.split(".transformer_blocks.0.") if ".transformer_blocks.0." in key else (key, None)
        parts = head.split(".motion_modules.")
        if len(parts) == 1:
            out[key] = tensor.contiguous()
            continue
        number, *rest = parts[1].split(".")
        base = f"{parts[0]}.motion_modules.{number}.temporal_transformer"
        if inner is None:
            out[".".join([base, *rest])] = tensor.contiguous()
            continue
        first, *last = inner.split(".")
        if first != "pos_embed":
            out[".".join([f"{base}.transformer_blocks.0", NAMES.get(first, first), *last])] = tensor.contiguous()
    for key in [key for key in out if key.endswith(".to_q.weight")] if positions else ():
        width = out[key].shape[1]
        angles = torch.arange(positions)[:, None] * torch.exp(
            torch.arange(0, width, 2) * (-torch.log(torch.tensor(10000.0)) / width)
        )
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(1, positions, width)
        out[key.replace("to_q.weight", "pos_encoder.pe")] = table
    return out


def write_module(path: Path, positions: int = 32, **config: Any) -> None:
    """A file of random motion modules for the small SD1.5."""
    adapter = MotionAdapter(block_out_channels=WIDTHS, **config)
    fill(adapter, seed=sum(map(ord, path.name)))
    save_file(original_names(adapter.state_dict(), positions), path)


def write_lora(path: Path, module: dict[str, torch.Tensor]) -> None:
    """A motion LoRA of rank 2 on all attention weights of a file's modules."""
    generator = torch.Generator().manual_seed(sum(map(ord, path.name)))
    out = {}
    for key, tensor in module.items():
        name, _, part = key.rpartition(".to_")
        if not name or not part.endswith("weight"):
            continue
        head = f"{name}.processor.to_{part.split('.')[0]}_lora"
        rows, columns = tensor.shape
        out[f"{head}.down.weight"] = torch.randn(2, columns, generator=generator) * columns**-0.5
        out[f"{head}.up.weight"] = torch.randn(rows, 2, generator=generator) * 0.3
    save_file(out, path)


class Clip:
    """A CLIP whose every text is four random tokens; in the forms that both packs ask for."""

    use_clip_schedule = False

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens(self, text: str, return_pooled: bool = False):
        generator = torch.Generator().manual_seed(sum(ord(c) * (i + 1) for i, c in enumerate(text)))
        tokens, pooled = torch.randn(1, 4, 768, generator=generator), torch.randn(1, 8, generator=generator)
        return (tokens, pooled) if return_pooled else tokens

    def encode_from_tokens_scheduled(self, text: str) -> list:
        tokens, pooled = self.encode_from_tokens(text, True)
        return [[tokens, {"pooled_output": pooled}]]

    def add_hooks_to_dict(self, options: dict) -> dict:
        return options


class Vae:
    """A VAE of means: latents of 1/8 the size, whose channels are the colours and their mean."""

    downscale_ratio = 8
    spacial_compression_encode = staticmethod(lambda: 8)
    spacial_compression_decode = staticmethod(lambda: 8)
    temporal_compression_decode = staticmethod(lambda: None)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.avg_pool2d(pixels[..., :3].movedim(-1, 1), 8)
        return torch.cat([small, small.mean(dim=1, keepdim=True)], dim=1) * 4 - 2

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        pictures = ((latents[:, :3] + 2) / 4).clamp(0, 1)
        return pictures.repeat_interleave(8, -1).repeat_interleave(8, -2).movedim(1, -1)


@functools.lru_cache
def node_types() -> dict[str, type]:
    """The nodes of core, of both packs."""
    found = dict(core.NODE_CLASS_MAPPINGS)
    for name in CORE_FILES:
        module = importlib.import_module(f"comfy_extras.{name}")
        found |= getattr(module, "NODE_CLASS_MAPPINGS", None) or listed(module)
    found |= load_other_pack(EVOLVED).NODE_CLASS_MAPPINGS
    return found | listed(sys.modules["pack"])


def listed(module: ModuleType) -> dict[str, type]:
    """Nodes of an extension in core's newer style."""

    async def types():
        extension = module.comfy_entrypoint()
        extension = await extension if asyncio.iscoroutine(extension) else extension
        return await extension.get_node_list()

    return {node.define_schema().node_id: node for node in asyncio.run(types())}


def run(prompt: dict[str, Any], key: str, given: dict[str, tuple]) -> tuple:
    """The outputs of a node of an API graph, and so of all before it; `given`: those of types that are not run."""
    done: dict[str, tuple] = {}

    def outputs(key: str) -> tuple:
        if key not in done:
            node = prompt[key]
            inputs = {name: outputs(value[0])[value[1]] if isinstance(value, list) else value
                      for name, value in node["inputs"].items()}  # fmt: skip
            done[key] = given[node["class_type"]] if node["class_type"] in given else call(node["class_type"], inputs)
        return done[key]

    return outputs(key)


def call(kind: str, inputs: dict[str, Any]) -> tuple:
    """The outputs of a node."""
    node = node_types()[kind]
    if hasattr(node, "define_schema"):
        return tuple(node.execute(**inputs).args)
    found = getattr(node(), node.FUNCTION)(**inputs)
    return tuple(found["result"] if isinstance(found, dict) else found)
