"""The published kinds of motion modules: how each is told apart, and how it was trained.

One table. ``inspect``, the loaders, the nodes' ``auto`` and the support table of docs/formats.md read it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from ..config.adapter import MotionAdapterConfig
from ..config.unet import NORM_SCOPES

PUBLISHED_WIDTHS = ((320, 640, 1280, 1280), (320, 640, 1280))
"""Widths of the UNets that motion modules were published for: SD1.5 and SDXL."""

COMFY_SCHEDULES = {"linear": "sqrt_linear", "scaled_linear": "linear"}
"""diffusers' name of a beta schedule -> ComfyUI's, which swaps the two."""

HOTSHOT_RENAMES = (
    (r"\.temporal_attentions\.(\d+)\.", r".motion_modules.\1.temporal_transformer."),
    (r"\.pos_encoder\.positional_encoding$", ".pos_encoder.pe"),
)
LIGHTNING = r"animatediff.?lightning|lightning.*\d.?step|\d.?step.*lightning"
LCM_RENAMES = ((r"\.pos_encoder\.pos_encoding$", ".pos_encoder.pe"),)


@dataclass(frozen=True)
class MotionKind:
    """A published kind of motion module.

    Attributes:
        name: what ``FileInfo.version`` and ``MotionModule.version`` say.
        title: what to call it in a sentence.
        base: the image model that it was trained on.
        levels: resolutions of the UNet.
        mid_block: whether its mid block moves; None where both exist.
        rows: of its position tables; None where it does not tell the kind apart.
        recognised_by: in words.
        norm_preset: key of ``NORM_SCOPES``.
        conv_in: whether it brings an input layer of nine channels.
        image_encoder: whether it brings an encoder of the picture to animate.
        tables: False where the file has no position tables and they are computed; None where both exist.
        named: a pattern in the names of its files, where their contents do not tell it from a kind with the same norms
            and noise schedule.
        renames: (pattern, replacement) from the file's names to AnimateDiff's.
        beta_schedule, beta_start, beta_end: of its training, by diffusers' name.
        frames, sampler, steps, guidance: what its authors used.
    """

    name: str
    title: str
    base: str
    levels: int
    mid_block: bool | None
    rows: int | None
    recognised_by: str
    norm_preset: str
    conv_in: bool = False
    image_encoder: bool = False
    tables: bool | None = True
    named: str = ""
    renames: tuple[tuple[str, str], ...] = ()
    beta_schedule: str = "linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    frames: int = 16
    sampler: str = "ddim"
    steps: int = 25
    guidance: float = 7.5

    @property
    def norm_scopes(self) -> tuple[str, str]:
        """(``resnet_norm_scope``, ``motion_norm_scope``) of its training."""
        return NORM_SCOPES[self.norm_preset]

    @property
    def comfy_schedule(self) -> str:
        """ComfyUI's name of the beta schedule."""
        return COMFY_SCHEDULES[self.beta_schedule]

    def facts(self) -> dict[str, Any]:
        """What a user sets by it, ready for JSON."""
        return {
            "base": self.base,
            "beta_schedule": {
                "diffusers": self.beta_schedule,
                "comfyui": self.comfy_schedule,
                "start": self.beta_start,
                "end": self.beta_end,
            },
            "recommended": {
                "frames": self.frames,
                "sampler": self.sampler,
                "steps": self.steps,
                "guidance": self.guidance,
            },
        }

    def of_file(self, file_name: str) -> MotionKind:
        """This kind as it was made for a file: distilled ones say their number of steps in their names."""
        said = re.search(r"(\d+).?step", file_name.lower()) if self.named else None
        return self if said is None else replace(self, steps=int(said[1]))

    @property
    def distilled(self) -> bool:
        """Whether it was made for few steps without guidance."""
        return self.guidance < 2

    def fits(self, config: MotionAdapterConfig, has_tables: bool, renamed: bool, file_name: str) -> bool:
        """Whether a structure is this kind's; kinds are asked in the order of the table."""
        if not re.search(self.named, file_name.lower()):
            return False
        brings = config.conv_in_channels is not None, config.use_image_encoder
        if len(config.block_out_channels) != self.levels or brings != (self.conv_in, self.image_encoder):
            return False
        if self.mid_block is not None and config.use_motion_mid_block != self.mid_block:
            return False
        if renamed and self.renames is HOTSHOT_RENAMES:
            return True
        rows_fit = self.rows is None or config.motion_max_seq_length == self.rows
        if self.tables is False:
            return not has_tables or (rows_fit and config.use_motion_mid_block)
        return rows_fit and (has_tables or self.tables is None)


_SDXL: dict[str, Any] = {"base": "SDXL", "levels": 3, "mid_block": False, "beta_schedule": "scaled_linear"}

MOTION_MODULES: dict[str, MotionKind] = {
    kind.name: kind
    for kind in (
        MotionKind(
            "pia", "a PIA", "SD1.5", 4, None, None, "`conv_in` of nine channels beside the modules", "v1", conv_in=True,
        ),
        MotionKind(
            "lcm_i2v", "an AnimateLCM-I2V", "SD1.5", 4, None, None, "`img_encoder` beside the modules", "v2",
            image_encoder=True, tables=None, beta_end=0.014, sampler="lcm", steps=4, guidance=1.0,
        ),
        MotionKind(
            "lcm", "an AnimateLCM", "SD1.5", 4, None, 64, "no position tables in original names, or 64 rows", "v2",
            tables=False, renames=LCM_RENAMES, sampler="lcm", steps=6, guidance=1.5,
        ),
        MotionKind(
            "hotshot", "a HotshotXL", rows=24, recognised_by="`temporal_attentions`, or three levels with 24 rows",
            norm_preset="v1", renames=HOTSHOT_RENAMES, frames=8, sampler="euler_ancestral", steps=30, **_SDXL,
        ),
        MotionKind(
            "sdxl", "an SDXL", rows=None, recognised_by="three levels, no mid block", norm_preset="sdxl",
            beta_end=0.02, steps=100, guidance=8.5, **_SDXL,
        ),
        MotionKind(
            "lightning", "an AnimateDiff-Lightning", "SD1.5", 4, True, None,
            "as AnimateDiff v2, and the file's name: `lightning` with a number of steps, or behind `animatediff`", "v2",
            named=LIGHTNING, sampler="euler", steps=4, guidance=1.0,
        ),
        MotionKind("v2", "an AnimateDiff v2", "SD1.5", 4, True, None, "four levels, mid block", "v2"),
        MotionKind("v1", "an AnimateDiff v1", "SD1.5", 4, False, 24, "four levels, no mid block, 24 rows", "v1"),
        MotionKind("v3", "an AnimateDiff v3", "SD1.5", 4, False, None, "four levels, no mid block, 32 rows", "v3"),
    )
}  # fmt: skip
"""Name -> kind, in the order in which they are asked."""


def recognise(
    config: MotionAdapterConfig, has_tables: bool = True, renamed: bool = False, file_name: str = ""
) -> MotionKind | None:
    """The published kind with this structure, at any widths, or None.

    Args:
        has_tables: whether the file itself holds position tables.
        renamed: whether its names were HotshotXL's.
        file_name: what the file is called, which tells kinds apart that are the same otherwise.
    """
    depths = (config.motion_transformer_layers_per_block, config.motion_transformer_layers_per_mid_block)
    if config.motion_layers_per_block != 2 or depths != (1, 1):
        return None
    if config.use_motion_mid_block and config.motion_mid_block_layers_per_block != 1:
        return None
    kinds = MOTION_MODULES.values()
    return next((kind for kind in kinds if kind.fits(config, has_tables, renamed, file_name)), None)


def support_table() -> str:
    """The table of kinds in Markdown, for docs/formats.md."""
    lines = [
        "| motion module | base | recognised by | group norms over (resnets, motion) | noise schedule in ComfyUI "
        "(diffusers) | made for |",
        "|---|---|---|---|---|---|",
    ]
    for kind in MOTION_MODULES.values():
        title = kind.title.split(" ", 1)[1]
        end = "" if kind.beta_end == 0.012 else f" to {kind.beta_end:g}"
        lines.append(
            f"| {title} | {kind.base} | {kind.recognised_by} | {', '.join(kind.norm_scopes)} | "
            f"`{kind.comfy_schedule}` (`{kind.beta_schedule}`){end} | {kind.frames} frames, `{kind.sampler}`, "
            f"{kind.steps} steps, guidance {kind.guidance:g} |"
        )
    return "\n".join(lines) + "\n"
