"""Full-size random checkpoints with the real names, written without holding them in memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from unet_motion import MotionAdapterConfig, UNetMotionConfig
from unet_motion.formats.names.ldm import ldm_key_map
from unet_motion.formats.shapes import adapter_shapes, unet_shapes
from unet_motion.lora.names import original_motion

Shapes = dict[str, tuple[int, ...]]
TILE = 1 << 20


def _header(shapes: Shapes) -> tuple[bytes, int]:
    """What a safetensors file of float16 tensors begins with, and how many bytes of values follow."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, offset


def write_fp16(path: Path, shapes: Shapes, scale: Callable[[str, tuple[int, ...]], float | str]) -> Path:
    """A safetensors file of float16 tensors made of repeated random numbers.

    Args:
        scale: (name, shape) -> half the range of the numbers, or "ones" or "zeros".
    """
    random = np.random.default_rng(0).uniform(-1, 1, TILE).astype(np.float16)
    tiles = {"ones": np.ones_like(random), "zeros": np.zeros_like(random)}
    with path.open("wb") as file:
        file.write(_header(shapes)[0])
        for index, (name, shape) in enumerate(shapes.items()):
            kind = scale(name, shape)
            if kind not in tiles:
                tiles[kind] = random * np.float16(kind)
            left = int(np.prod(shape))
            # Another start in the tile for every tensor, so that no two are alike.
            start = index * 97 % 4096
            while left:
                part = tiles[kind][start : start + left]
                file.write(memoryview(part))
                left, start = left - len(part), 0
    return path


def sensible_scale(name: str, shape: tuple[int, ...]) -> float | str:
    """Scales that keep activations finite in any network: ones for norms, zeros for biases, else by the fan-in."""
    if len(shape) == 1:
        return "ones" if name.endswith("weight") else "zeros"
    fan_in = int(np.prod(shape[1:]))
    return 2.0 ** round(np.log2((1 / fan_in) ** 0.5))


def text_model_shapes() -> Shapes:
    """CLIP ViT-L's text model under the names of an SD1.5 checkpoint."""
    prefix, width = "cond_stage_model.transformer.text_model.", 768
    shapes = {
        f"{prefix}embeddings.token_embedding.weight": (49408, width),
        f"{prefix}embeddings.position_embedding.weight": (77, width),
    }
    norms = [f"{prefix}final_layer_norm"]
    for layer in (f"{prefix}encoder.layers.{i}." for i in range(12)):
        linear = {f"self_attn.{part}_proj": (width, width) for part in "qkv"} | {"self_attn.out_proj": (width, width)}
        linear |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        for name, shape in linear.items():
            shapes |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": shape[:1]}
        norms += [f"{layer}layer_norm1", f"{layer}layer_norm2"]
    for norm in norms:
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return shapes


class _Vae:
    """Collects the names of the autoencoder of Stable Diffusion."""

    def __init__(self):
        self.shapes: Shapes = {}

    def conv(self, name: str, inputs: int, outputs: int, kernel: int = 3) -> None:
        self.shapes[f"first_stage_model.{name}.weight"] = (outputs, inputs, kernel, kernel)
        self.shapes[f"first_stage_model.{name}.bias"] = (outputs,)

    def norm(self, name: str, width: int) -> None:
        for leaf in ("weight", "bias"):
            self.shapes[f"first_stage_model.{name}.{leaf}"] = (width,)

    def resnet(self, name: str, inputs: int, outputs: int) -> None:
        self.norm(f"{name}.norm1", inputs)
        self.conv(f"{name}.conv1", inputs, outputs)
        self.norm(f"{name}.norm2", outputs)
        self.conv(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            self.conv(f"{name}.nin_shortcut", inputs, outputs, 1)

    def middle(self, name: str, width: int) -> None:
        self.resnet(f"{name}.block_1", width, width)
        self.norm(f"{name}.attn_1.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            self.conv(f"{name}.attn_1.{part}", width, width, 1)
        self.resnet(f"{name}.block_2", width, width)


def vae_shapes() -> Shapes:
    """Stable Diffusion's autoencoder under the names of a checkpoint."""
    vae, widths = _Vae(), (128, 256, 512, 512)
    vae.conv("encoder.conv_in", 3, widths[0])
    before = widths[0]
    for level, width in enumerate(widths):
        for block in range(2):
            vae.resnet(f"encoder.down.{level}.block.{block}", before, width)
            before = width
        if level < 3:
            vae.conv(f"encoder.down.{level}.downsample.conv", width, width)
    vae.conv("decoder.conv_in", 4, 512)
    for level in (3, 2, 1, 0):
        for block in range(3):
            vae.resnet(f"decoder.up.{level}.block.{block}", before, widths[level])
            before = widths[level]
        if level:
            vae.conv(f"decoder.up.{level}.upsample.conv", before, before)
    for side, width, outputs in (("encoder", 512, 8), ("decoder", 128, 3)):
        vae.middle(f"{side}.mid", 512)
        vae.norm(f"{side}.norm_out", width)
        vae.conv(f"{side}.conv_out", width, outputs)
    vae.conv("quant_conv", 8, 8, 1)
    vae.conv("post_quant_conv", 4, 4, 1)
    return vae.shapes


def checkpoint_shapes() -> Shapes:
    """An SD1.5 checkpoint: UNet, text model and autoencoder."""
    config = UNetMotionConfig(cross_attention_dim=768)
    shapes, names = unet_shapes(config), ldm_key_map(config)
    unet = {f"model.diffusion_model.{ldm}": shapes[name] for name, ldm in names.items()}
    return {**unet, **text_model_shapes(), **vae_shapes()}


def write_sd15_checkpoint(path: Path) -> Path:
    """An SD1.5 checkpoint of 2.1 GB."""
    return write_fp16(path, checkpoint_shapes(), sensible_scale)


def write_motion_module(path: Path, config: MotionAdapterConfig, active: bool = True) -> Path:
    """Motion modules under diffusers' names; inactive ones are all zeros, and take no space on the disk."""
    shapes = adapter_shapes(config)
    return write_fp16(path, shapes, sensible_scale if active else lambda *_: "zeros")


def lora_shapes(width: int = 320, rank: int = 4) -> Shapes:
    """A LoRA for one attention layer under kohya's names."""
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    return {f"{name}.lora_down.weight": (rank, width), f"{name}.lora_up.weight": (width, rank)}


def write_lora(path: Path, width: int = 320, rank: int = 4) -> Path:
    """See :func:`lora_shapes`."""
    return write_fp16(path, lora_shapes(width, rank), lambda *_: 0.25)


def write_sparse(path: Path, shapes: Shapes) -> Path:
    """A safetensors file of float16 zeros that takes no space on the disk."""
    header, offset = _header(shapes)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + offset)
    return path


def write_attention_lora(path: Path, rank: int = 4) -> Path:
    """A LoRA for every attention layer of SD1.5, under the names of diffusers' processors as in v3_sd15_adapter."""
    config, shapes = UNetMotionConfig(cross_attention_dim=768), Shapes()
    every = unet_shapes(config)
    for name in ldm_key_map(config):
        layer, _, part = name.removesuffix(".weight").removesuffix(".0").rpartition(".to_")
        if layer and name.endswith(".weight"):
            outputs, inputs = every[name]
            shapes[f"{layer}.processor.to_{part}_lora.down.weight"] = (rank, inputs)
            shapes[f"{layer}.processor.to_{part}_lora.up.weight"] = (outputs, rank)
    return write_fp16(path, shapes, lambda *_: 0.125)


def write_motion_lora(path: Path, config: MotionAdapterConfig, rank: int = 32) -> Path:
    """A LoRA for every attention layer of motion modules under AnimateDiff's names."""
    shapes = Shapes()
    for name, shape in adapter_shapes(config).items():
        layer, _, part = name.removesuffix(".weight").removesuffix(".0").rpartition(".to_")
        if layer and name.endswith(".weight"):
            for half, size in (("down", (rank, shape[1])), ("up", (shape[0], rank))):
                shapes[f"{original_motion(f'{layer}.')}processor.to_{part}_lora.{half}.weight"] = size
    return write_fp16(path, shapes, lambda *_: 0.125)


def write_controlnet(path: Path) -> Path:
    """An SD1.5 ControlNet of 0.7 GB under diffusers' names; its last layers, zeros before a training, act."""
    from diffusers import ControlNetModel

    with torch.device("meta"):
        network = ControlNetModel(cross_attention_dim=768)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}

    def scale(name: str, shape: tuple[int, ...]) -> float | str:
        usual = sensible_scale(name, shape)
        # Eight layers without a norm would leave nothing of the hint.
        return 4 * usual if name.startswith("controlnet_cond_embedding") and len(shape) > 1 else usual

    return write_fp16(path, shapes, scale)
