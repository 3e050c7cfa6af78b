"""A diffusers ``config.json`` of an image UNet, read for the motion UNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import convert as unet2d
from .errors import FileFormatError


def unet2d_arguments(config: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """:func:`unet_motion.config.convert.unet2d_arguments` with the file in its errors, which are FileFormatError."""
    try:
        return unet2d.unet2d_arguments(config)
    except ValueError as error:
        raise FileFormatError(f"{path}: {error}") from None
