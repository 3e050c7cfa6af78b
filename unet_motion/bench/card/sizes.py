"""How large everything is: on a card as in real use, in the rehearsal so small that an interpreter can run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Level:
    """Input of one level of a UNet: clips of frames of side x side latents, with so many channels."""

    channels: int
    side: int
    clips: int
    frames: int

    def __str__(self) -> str:
        return f"{self.clips}x{self.frames}x{self.side}x{self.side}, {self.channels} channels"


@dataclass(frozen=True)
class Sizes:
    """What the stages read.

    Attributes:
        product, copied: side of the matrix product and bytes of the copy that give the two ceilings.
        levels, odd: where kernels are checked; those of ``levels`` are timed too.
        fewer: what clips and side of a level are divided by, where kernels that run only at measured sizes are tried
            too: one clip, as without guidance, and smaller pictures.
        dtypes: of the kernels' checks, in order of worth; ``step_dtypes``: of the steps.
        input_sets: different inputs that a kernel's timing goes through, so that no cache holds them.
        network: arguments of the UNet whose steps are measured.
        batch, frames, sides: of the steps; the first side is profiled.
        rounds: timed rounds of the steps; ``repeats``: of a kernel.
        fast: the kernels of steps that are captured and changed.
        tries: whether all tiles and warps are tried, or the first two of a kernel.
        comfy_widths, comfy_side, comfy_steps, comfy_modes: of KSampler's run; a mode is its settings of the node
            Performance (motion), and None is without the node.
        clip_frames, clip_steps: of the bundled model's clip.
        compiling: of torch.compile.
    """

    product: int = 8192
    copied: int = 2**30
    levels: tuple[Level, ...] = (
        Level(320, 64, 2, 16), Level(640, 32, 2, 16), Level(1280, 16, 2, 16), Level(1280, 8, 2, 16),
    )  # fmt: skip
    odd: tuple[Level, ...] = (Level(96, 13, 1, 7), Level(160, 9, 3, 5))
    fewer: tuple[tuple[int, int], ...] = ((2, 1), (1, 2), (2, 2))
    dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16, torch.float32)
    step_dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)
    input_sets: int = 4
    network: Mapping[str, Any] = field(default_factory=lambda: {"cross_attention_dim": 768})
    batch: int = 2
    frames: int = 16
    sides: tuple[int, ...] = (64, 32)
    rounds: int = 7
    repeats: int = 20
    fast: str = "triton"
    tries: int | None = None
    comfy_widths: tuple[int, ...] = (320, 640, 1280, 1280)
    comfy_side: int = 64
    comfy_steps: int = 6
    comfy_modes: Mapping[str, Mapping[str, Any] | None] = field(
        default_factory=lambda: {
            "eager": {"kernels": "eager", "cuda_graphs": False},
            "without the node: kernels that are proven": None,
            "kernels": {"kernels": "triton", "cuda_graphs": False},
            "kernels and graphs": {"kernels": "triton", "cuda_graphs": True},
        }
    )
    clip_frames: int = 16
    clip_steps: int = 20
    compiling: Mapping[str, Any] = field(default_factory=lambda: {"mode": "reduce-overhead"})


REAL = Sizes()
REHEARSAL = Sizes(
    product=256,
    copied=2**20,
    levels=(Level(32, 4, 1, 2),),
    odd=(Level(64, 5, 1, 3),),
    fewer=((1, 2),),
    dtypes=(torch.float32, torch.bfloat16),
    step_dtypes=(torch.float32,),
    input_sets=1,
    network={
        "down_block_types": ("CrossAttnDownBlockMotion",),
        "up_block_types": ("UpBlockMotion",),
        "use_motion_mid_block": False,
        "block_out_channels": (8,),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "cross_attention_dim": 12,
        "num_attention_heads": 2,
        "motion_num_attention_heads": 2,
    },
    batch=1,
    frames=2,
    sides=(4,),
    rounds=1,
    repeats=1,
    # Interpreted, one step of this network takes seconds: the changes of a captured one are looked at without.
    fast="eager",
    tries=2,
    comfy_widths=(32, 64, 128, 128),
    comfy_side=8,
    comfy_steps=1,
    comfy_modes={"eager": {"kernels": "eager", "cuda_graphs": False}, "without the node": None},
    clip_frames=2,
    clip_steps=1,
    compiling={"backend": "eager"},
)
