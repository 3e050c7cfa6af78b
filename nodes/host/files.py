"""MODELs from files."""

from __future__ import annotations

import os
from typing import Any

from ...unet_motion.formats import load_unet
from .apply import AUTO, MOTION_SCHEDULE
from .model import Source, build_model, sampling_settings


def file_stamp(path: str) -> list:
    """What changes when a file, or a file in a folder, does: path, size in bytes and time of the last change."""
    if not os.path.isdir(path):
        stat = os.stat(path)
        return [path, stat.st_size, stat.st_mtime_ns]
    files = [os.path.join(root, name) for root, _, names in os.walk(path) for name in names]
    return [file_stamp(name) for name in sorted(files)]


def load_unet_model(
    path: str, motion: str | None, norm_scope: str = AUTO, beta_schedule: str = AUTO, disable_dynamic: bool = False
) -> Any:
    """A MODEL from the files of a UNet and, unless it holds them itself, of its motion modules.

    Args:
        norm_scope: `auto` or a preset of the core.
        beta_schedule: `auto` or ComfyUI's name.
        disable_dynamic: use ComfyUI's plain model patcher.
    """
    core = load_unet(path, motion_module=motion, norm_scope=norm_scope)
    schedule = MOTION_SCHEDULE if beta_schedule == AUTO else beta_schedule
    model = build_model(Source(core.config, core.state_dict(), sampling_settings(schedule)), disable_dynamic)
    model.cached_patcher_init = (load_unet_model, (path, motion, norm_scope, beta_schedule))
    return model
