"""MODELs from files."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from ....unet_motion.formats import MotionModule, PositionOptions, load_motion_module, load_unet
from ....unet_motion.formats.motion_weights import with_positions
from ....unet_motion.formats.positions import UNCHANGED
from ..model.apply import trained_sampling
from ..model.build import Source, build_model, sampling_settings
from ..model.noise_schedules import AUTO, set_schedule
from ..model.saving import saved_settings


def file_stamp(path: str) -> list:
    """What changes when a file, or a file in a folder, does: path, size in bytes and time of the last change."""
    if not os.path.isdir(path):
        stat = os.stat(path)
        return [path, stat.st_size, stat.st_mtime_ns]
    files = [os.path.join(root, name) for root, _, names in os.walk(path) for name in names]
    return [file_stamp(name) for name in sorted(files)]


_modules: weakref.WeakValueDictionary[str, MotionModule] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def load_motion_file(path: str, positions: PositionOptions = UNCHANGED) -> MotionModule:
    """Motion modules from a file; as long as somebody holds them, a second loader of the same file shares them.

    The same file has the same path, size and time of the last change.
    """
    stamp = repr(file_stamp(path))
    with _lock:
        module = _modules.get(stamp)
        if module is None:
            module = _modules[stamp] = load_motion_module(path)
    # What is returned keeps what was read alive, with changed tables too.
    changed = with_positions(module, positions)
    if changed is not module:
        object.__setattr__(changed, "read_as", module)
    return changed


def load_unet_model(
    path: str, motion: str | None, norm_scope: str = AUTO, beta_schedule: str = AUTO, disable_dynamic: bool = False
) -> Any:
    """A MODEL from the files of a UNet and, unless it holds them itself, of its motion modules.

    A file that core saved of such a MODEL gives the same MODEL again.

    Args:
        norm_scope: `auto` or a preset of the core.
        beta_schedule: one of `BETA_SCHEDULES`; `keep` is what the file says, or Stable Diffusion's.
        disable_dynamic: use ComfyUI's plain model patcher.

    Raises:
        ValueError: an SDXL UNet that core did not save from a MODEL with motion modules.
    """
    module = None if motion is None else load_motion_file(motion)
    core = load_unet(path, motion_module=module, norm_scope=norm_scope)
    settings = saved_settings(path)
    if core.config.addition_embed_type and not (settings.get("pooled_vector") or settings.get("base")):
        raise ValueError(
            f"{os.path.basename(path)} is an SDXL UNet, expected an SD1.5 UNet: use Load Checkpoint with Apply Motion "
            "Module behind it, which bring SDXL's own text and latents."
        )
    if beta_schedule != AUTO or module is not None or not settings:
        base = settings.get("sampling") or sampling_settings("linear")
        settings["sampling"] = {**base, **trained_sampling(module, beta_schedule)}
    model = build_model(Source(core.config, core.state_dict(), **settings), disable_dynamic)
    set_schedule(model, beta_schedule)
    model.model.diffusion_model.motion_kind = None if module is None else module.published
    model.cached_patcher_init = (load_unet_model, (path, motion, norm_scope, beta_schedule))
    return model
