"""Node schemas that ComfyUI 0.3.64 and newer releases both accept."""

from __future__ import annotations

import inspect
from typing import Any

from comfy_api.latest import io

CATEGORY = "UNetMotion"
MotionModuleType = io.Custom("MOTION_MODULE")


def make_schema(category: str, **fields: Any) -> io.Schema:
    """A schema in a part of the pack's category without the fields that this ComfyUI does not know and refuses."""
    known = io.Schema.__dataclass_fields__
    fields = {"category": f"{CATEGORY}/{category}", **fields}
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


def make_input(kind: Any, name: str, *, advanced: bool = False, **options: Any) -> Any:
    """An input of a type such as `io.Int`, without the options that this ComfyUI does not know."""
    known = inspect.signature(kind.Input.__init__).parameters
    made = kind.Input(name, **{option: value for option, value in options.items() if option in known})
    if advanced:
        made.extra_dict = {**made.extra_dict, "advanced": True}
    return made


def model_input(use: str) -> Any:
    return make_input(io.Model, "model", tooltip=use)


def model_output() -> Any:
    return io.Model.Output(display_name="model", tooltip="The changed copy; the model that was put in stays as it was.")
