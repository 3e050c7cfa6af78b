"""Small sound files of every kind, as names, dtypes, shapes and bytes, for the generators to spoil."""

from __future__ import annotations

import json
import random
import struct
from functools import lru_cache
from pathlib import Path

import torch

from unet_motion import UNetMotionModel
from unet_motion.formats.names.animatediff import diffusers_to_animatediff
from unet_motion.formats.names.ldm import diffusers_to_ldm
from unet_motion.model.motion_adapter import MotionAdapter

UNET = {
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "motion_max_seq_length": 8,
}
ADAPTER = {"block_out_channels": (32, 64), "motion_layers_per_block": 1, "motion_max_seq_length": 8}
NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.int64: "I64",
}
SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "C64": 8,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F31": 4,
    "F4": 1,
    "U16": 2,
    "U32": 4,
    "U64": 8,
}


@lru_cache(1)
def unet() -> UNetMotionModel:
    torch.manual_seed(0)
    return UNetMotionModel(**UNET)


@lru_cache(1)
def motion_unet_state() -> dict[str, torch.Tensor]:
    return dict(unet().state_dict())


@lru_cache(1)
def image_state() -> dict[str, torch.Tensor]:
    return {name: value for name, value in motion_unet_state().items() if ".motion_modules." not in name}


@lru_cache(1)
def adapter_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return dict(MotionAdapter(**ADAPTER).state_dict())


@lru_cache(1)
def ldm_state() -> dict[str, torch.Tensor]:
    return diffusers_to_ldm(image_state(), unet().config, "model.diffusion_model.")


@lru_cache(1)
def lora_layers() -> list[str]:
    return [
        name.removesuffix(".weight") for name in motion_unet_state() if name.endswith(("to_q.weight", "to_v.weight"))
    ]


def lora_state(dice: random.Random) -> dict[str, torch.Tensor]:
    down, up = dice.choice(
        ((".lora_A.weight", ".lora_B.weight"), (".lora_down.weight", ".lora_up.weight"), (".lora.down.weight",) * 2)
    )
    state = {}
    for layer in dice.sample(lora_layers(), 4):
        out, width = motion_unet_state()[f"{layer}.weight"].shape
        state[f"unet.{layer}{down}"] = torch.ones(2, width)
        state[f"unet.{layer}{up}"] = torch.ones(out, 2)
        if dice.random() < 0.5:
            state[f"unet.{layer}.alpha"] = torch.tensor(2.0)
    return state


STATES = {
    "unet_motion": motion_unet_state,
    "unet2d": image_state,
    "ldm_unet": ldm_state,
    "motion_adapter": adapter_state,
    "motion_module": lambda: diffusers_to_animatediff(adapter_state()),
    "training checkpoint": lambda: {**image_state(), **diffusers_to_animatediff(adapter_state())},
}


def base(dice: random.Random) -> dict[str, torch.Tensor]:
    """The tensors of a small file of some kind."""
    return lora_state(dice) if dice.random() < 0.25 else dict(STATES[dice.choice(list(STATES))]())


def config_of(kind: str) -> dict:
    """The `config.json` of a kind."""
    if kind == "unet2d":
        return {
            "_class_name": "UNet2DConditionModel",
            "block_out_channels": [32, 64],
            "layers_per_block": 1,
            "cross_attention_dim": 16,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "attention_head_dim": 8,
        }
    config = MotionAdapter(**ADAPTER).config if kind in ("motion_adapter", "motion_module") else unet().config
    return {"_class_name": config.class_name, **config.to_dict()}


class Raw:
    """A safetensors file in parts, each of which may be spoiled."""

    def __init__(self, state: dict[str, torch.Tensor], metadata: dict | None = None) -> None:
        self.entries = {name: [NAMES[value.dtype], list(value.shape)] for name, value in state.items()}
        self.bodies = {
            name: value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            if value.dim()
            else value[None].view(torch.uint8).numpy().tobytes()
            for name, value in state.items()
        }
        self.metadata = metadata

    def refill(self, name: str) -> None:
        """Bytes that fit the entry of a name, where they would be few."""
        dtype, shape = self.entries[name]
        count = SIZES.get(dtype, 1)
        for size in shape[:16]:
            count *= size
        if len(shape) <= 16 and count <= 2**22:
            self.bodies[name] = bytes(count)

    def content(self, text: str | None = None) -> bytes:
        header, end = {} if self.metadata is None else {"__metadata__": self.metadata}, 0
        for name, (dtype, shape) in self.entries.items():
            body = self.bodies.get(name, b"")
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(body)]}
            end += len(body)
        encoded = (json.dumps(header) if text is None else text).encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(encoded)) + encoded + b"".join(self.bodies.get(name, b"") for name in self.entries)


def save(state: dict[str, torch.Tensor], path: Path, metadata: dict | None = None) -> Path:
    path.write_bytes(Raw(state, metadata).content())
    return path
