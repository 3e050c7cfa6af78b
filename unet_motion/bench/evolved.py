"""AnimateDiff-Evolved on ComfyUI's UNet as a peer: finds both, and has a process of their own time them.

ComfyUI has modules named ``nodes`` and ``utils``, sets options of torch when it is imported, and the pack replaces
``torch.nn.GroupNorm.forward`` in its steps: in a process of their own they change no other row of the table.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from pathlib import Path

import torch

from .cases import Bench, NotMeasured, Row
from .nets import WIDTHS
from .processes import answer_of

PACK = "ComfyUI-AnimateDiff-Evolved"
SCOPES = ("frame", "clip")
"""Where all of a step's group norms take their statistics: the pack's way for v2 and v3, and that for v1 and PIA."""


def find_comfyui(given: Path | None) -> Path:
    """The folder of ComfyUI: what was given, else the first one of COMFYUI_PATH.

    Raises:
        NotMeasured: there is none.
    """
    named = [part for part in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if part]
    path = Path(given or (named[0] if named else "")).expanduser()
    if not (given or named):
        raise NotMeasured("ComfyUI is not named: --comfyui FOLDER or COMFYUI_PATH does")
    if not (path / "comfy" / "sd.py").is_file():
        raise NotMeasured(f"{path} holds no ComfyUI")
    return path.resolve()


def find_evolved(given: Path | None, comfyui: Path) -> Path:
    """The pack's folder: what was given, else the one in UNET_MOTION_PACKS, else that of ComfyUI's ``custom_nodes``.

    Raises:
        NotMeasured: there is none.
    """
    packs = os.environ.get("UNET_MOTION_PACKS")
    places = [Path(packs) / PACK] if packs else []
    places = [given] if given else [*places, comfyui / "custom_nodes" / PACK]
    for place in places:
        if (place.expanduser() / "animatediff" / "motion_module_ad.py").is_file():
            return place.expanduser().resolve()
    raise NotMeasured(
        f"AnimateDiff-Evolved is not in {' or '.join(map(str, places))}; --evolved FOLDER or UNET_MOTION_PACKS names it"
    )


def version_of(folder: Path) -> str:
    """The version in a checkout's ``pyproject.toml``."""
    file = folder / "pyproject.toml"
    found = re.search(r'^version\s*=\s*"([^"]+)"', file.read_text(), re.MULTILINE) if file.is_file() else None
    return found.group(1) if found else "of unknown version"


def evolved_step(
    bench: Bench, size: str, batch: int, frames: int, side: int, target: str = "", scopes: tuple[str, ...] = SCOPES
) -> list[Row]:
    """A step of the UNet against the pack's, by the scope of the group norms.

    Raises:
        NotMeasured: ComfyUI or the pack is missing or does not run here.
    """
    comfyui = find_comfyui(bench.comfyui)
    evolved = find_evolved(bench.evolved, comfyui)
    request = {
        "comfyui": str(comfyui), "evolved": str(evolved), "device": str(bench.device),
        "dtype": str(bench.dtype).removeprefix("torch."), "ceilings": asdict(bench.ceilings), "rounds": bench.rounds,
        "threads": torch.get_num_threads(), "size": size, "widths": WIDTHS[size], "batch": batch, "frames": frames,
        "side": side, "target": target, "scopes": scopes,
    }  # fmt: skip
    rows = _in_a_process(request)
    for row in rows:
        versions = f"ComfyUI {version_of(comfyui)}, AnimateDiff-Evolved {version_of(evolved)}"
        row.note = f"{row.note}; {versions}" if row.note else versions
    return rows


def _in_a_process(request: dict) -> list[Row]:
    try:
        rows = answer_of(f"{__package__}.evolved_process", request)
    except NotMeasured as error:
        what = f"AnimateDiff-Evolved on the ComfyUI in {request['comfyui']}"
        raise NotMeasured(f"{what} does not run here: {error}") from None
    return [Row(**row) for row in rows]
