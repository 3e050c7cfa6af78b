"""How values of AnimateDiff-Evolved read here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

BETA_SCHEDULES = {
    "autoselect": "auto",
    "use existing": "keep",
    "sqrt_linear (AnimateDiff)": "sqrt_linear",
    "linear (AnimateDiff-SDXL)": "linear to 0.02",
    "linear (HotshotXL/default)": "linear",
    "avg(sqrt_linear,linear)": "average",
    "lcm avg(sqrt_linear,linear)": "lcm average",
    "lcm": "lcm",
    "lcm[100_ots]": "lcm 100",
    "lcm >> sqrt_linear": "lcm sqrt_linear",
    "squaredcos_cap_v2": "squaredcos_cap_v2",
}
SCHEDULES = {"uniform": "looped_uniform"}
_SCHEDULERS = "simple sgm_uniform karras exponential ddim_uniform beta normal linear_quadratic kl_optimal"
SCHEDULERS = {name: name for name in _SCHEDULERS.split()}
RESIZES = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
FUSES = {"pyramid": "pyramid", "flat": "flat", "relative": "relative", "overlap-linear": "overlap-linear"}
NOISES = {"constant": "constant", "empty": "empty", "repeated_context": "repeated"}
LOOPS = (
    "a loop's influence is the authors' for 16 frames, spread over the clip; AnimateDiff-Evolved mirrors its first "
    "half, so that some frames differ a little"
)
PIA_PRESETS = {
    f"{theirs} ({size} Motion)": ours.format(size.lower())
    for theirs, ours in {
        "Animation": "{} motion",
        "Loop": "{} loop",
        "Style Transfer": "{} motion, new style",
    }.items()
    for size in ("Small", "Medium", "Large")
}
FORMATS = {"image/gif": "gif", "image/webp": "webp"}
# Motion modules that the switch for v2 does not concern, by the names of their files.
NOT_V2 = re.compile(r"v3|sdxl|xl_|hsxl|hotshot", re.IGNORECASE)
V2 = re.compile(r"v2", re.IGNORECASE)
LCM = re.compile(r"lcm", re.IGNORECASE)


def schedule_of(beta_schedule: Any, model_name: Any) -> Any:
    """The noise schedule; what was chosen by itself for AnimateLCM is LCM's here, too.

    Raises:
        LookupError: there is none of that name.
    """
    if beta_schedule == "autoselect" and LCM.search(str(model_name)):
        return BETA_SCHEDULES["lcm"]
    return BETA_SCHEDULES[beta_schedule if isinstance(beta_schedule, str) else ""]


def schedule_by_name(model_name: Any) -> Any:
    """The noise schedule of a motion model where none is chosen."""
    return schedule_of("autoselect", model_name)


def positions_of_lcm(values: Mapping[str, Any]) -> dict[str, str]:
    """Values that have no effect on AnimateLCM, whose files have no position table to change, and why."""
    if not isinstance(values.get("motion_module"), str) or not LCM.search(values["motion_module"]):
        return {}
    why = "had no effect on AnimateLCM, which has no position table in its file; it is left out"
    return {name: why for name in values if name.startswith("position_")}


def norm_scope(properly: Any, model_name: Any) -> str | None:
    """Norms over all frames where the switch for v2 is off, which files from before the switch mean too."""
    if properly or NOT_V2.search(str(model_name)):
        return None
    return "v1"


def has_mid_block(model_name: Any) -> bool:
    """Whether the name of a file says that it has a motion module in the mid block, too."""
    return bool(V2.search(str(model_name))) and not NOT_V2.search(str(model_name))


NORMS = (
    "AnimateDiff-Evolved takes the norms before spatial attention and in motion modules over all frames, too, "
    "which v1 was not trained with; here they are as in training, so that the clip differs"
)
# Motion modules of the first generation, by the names of their files.
V1 = re.compile(r"sd_v14|sd_v15(?!_?v2)|motionModel_v01|temporaldiff|stabilized|improved.?3d", re.IGNORECASE)


def norms_of_v1(values: Mapping[str, Any]) -> Iterator[str]:
    """How the other pack's norms over all frames differ from those that v1 was trained with."""
    if values.get("norm_scope") == "v1":
        yield NORMS


def norms_of_module(values: Mapping[str, Any]) -> Iterator[str]:
    """The same for motion modules that are v1 themselves, which the name of their file tells."""
    name = values.get("motion_module")
    if isinstance(name, str) and V1.search(name):
        yield NORMS


def loops_of_pia(values: Mapping[str, Any]) -> Iterator[str]:
    """How presets of loops differ."""
    if str(values.get("preset")).endswith("loop"):
        yield LOOPS
