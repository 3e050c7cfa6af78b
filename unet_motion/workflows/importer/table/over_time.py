"""AnimateDiff-Evolved's values over frames and steps: ranges, keyframes, masks, prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .rows import BatchOf, Fold, Give, Only, Row, is_linked, made, of, row

ONE_STEP = Only((0, 1), "a key lasts as long as its range holds a step")
_STEPS = {"over": "steps"}
_FRAME_WORD = re.compile(r'^(\s*)(-?[\d.]+(?::-?[\d.]*)?)\s*=\s*(?=")', re.MULTILINE)
_VALUE_LINE = re.compile(r'^\s*"?(-?[\d.]+)"?\s*[:=]\s*"?(-?[\d.eE+]+)"?\s*$')


def number(value: Any) -> str:
    """A number as people write it in a curve."""
    return f"{float(value):.6g}"


def range_of(values: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[Fold]:
    """A motion module that acts in a part of the steps: its effect is 0 elsewhere."""
    start, end = values["start_percent"], values["end_percent"]
    if not all(isinstance(value, (int, float)) for value in (start, end)):
        yield "", {}, "start_percent or end_percent is linked: the motion module acts in all steps"
    elif start > 0 or end < 1:
        before = f"0:0 hold, {number(start)}:1 hold" if start > 0 else "0:1 hold"
        after = f", {number(end)}:0 hold, 1:0" if end < 1 else ""
        yield "effect_curve", {"text": before + after, **_STEPS}, None


def keyframe(values: Mapping[str, Any], reads: Mapping[str, Any]) -> Iterator[Fold]:
    """Scale and effect from a share of the steps on."""
    for name in ("scale", "effect"):
        value = reads.get(f"{name}_multival", {}).get("value")
        if isinstance(value, (int, float)) and isinstance(values["start_percent"], (int, float)):
            text = f"{number(values['start_percent'])}:{number(value)} hold"
            yield f"{name}_curve", {"text": text, **_STEPS}, None
        elif reads.get(f"{name}_multival"):
            yield "", {}, f"its {name} over frames or pixels, or one that is linked, has no counterpart in a keyframe"


def guidance_key(values: Mapping[str, Any], reads: Mapping[str, Any]) -> Iterator[Fold]:
    """Guidance from a share of the steps on."""
    cfg = reads["cfg_multival"].get("value") if "cfg_multival" in reads else values.get("cfg")
    if isinstance(cfg, (int, float)) and isinstance(values["start_percent"], (int, float)):
        text = f"{number(values['start_percent'])}:{number(cfg)} hold"
        yield "guidance_curve", {"text": text, **_STEPS}, None
    else:
        yield "", {}, "a linked value, or one over frames or pixels, has no counterpart in a keyframe of guidance"


def guidance_between(values: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[Fold]:
    """Guidance that goes from one number to another."""
    parts = [values[name] for name in ("start_percent", "end_percent", "cfg_start", "cfg_end")]
    if not all(isinstance(part, (int, float)) for part in parts):
        yield "", {}, "linked values have no counterpart in guidance between two numbers"
        return
    start, end, first, last = map(number, parts)
    if is_linked(values["interpolation"]):
        yield "", {}, "interpolation is linked, so that it cannot be read; 'linear' counts"
    ease = "" if values["interpolation"] == "linear" or is_linked(values["interpolation"]) else " smooth"
    yield "guidance_curve", {"text": f"{start}:{first}{ease}, {end}:{last}", **_STEPS}, None


def masked(values: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[Fold]:
    """A number, or from 0 at black to that number at white of a mask."""
    yield "value", {name: value for name, value in (("value", values["float_val"]), ("mask", values["mask_optional"]))
                    if value is not None}, None  # fmt: skip


def scaled(values: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[Fold]:
    """From one number at black to another at white of a mask."""
    least, most = values["min_float_val"], values["max_float_val"]
    fits = all(isinstance(value, (int, float)) for value in (least, most))
    if values["scaling"] != "absolute" or not fits or not (least or most):
        yield "", {}, "a mask that is stretched to its own range, or linked numbers, have no counterpart"
        yield "value", {"value": most}, None
    elif least:
        yield "value", {"value": least, "white": most / least, "white_mask": values["mask"]}, None
    else:
        yield "value", {"value": most, "mask": values["mask"]}, None


def scaled_by_mask(values: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[Fold]:
    """The motion scale of old settings: from one number at a mask's darkest place to another at its brightest."""
    mask = values["mask_motion_scale"]
    if mask is not None:
        yield "", {}, "its mask counts as it is: AnimateDiff-Evolved stretches it from black to white"
        ends = {"min_float_val": values["min_motion_scale"], "max_float_val": values["max_motion_scale"]}
        yield from scaled({**ends, "mask": mask, "scaling": "absolute"}, {})


_PARTS = {"down": "down_blocks", "mid": "mid_block", "up": "up_blocks"}


def block(values: Mapping[str, Any], reads: Mapping[str, Any]) -> Iterator[Fold]:
    """Scale and effect of a block; the two attention layers of a module have the same scale here."""
    found: dict[str, Any] = {}
    for name, read in reads.items():
        to = "effect" if name == "effect" else "scale"
        if "value" in read and len(read) == 1:
            given = {to: read["value"]}
        elif "floats" in read:
            given = {f"{to}_curve": read["floats"]}
        else:
            yield "", {}, f"its {name} over pixels has no counterpart in single blocks"
            continue
        if any(found.get(key, value) != value for key, value in given.items()):
            yield "", {}, f"its {name} is lost: both attention layers of a motion module have the same scale here"
            continue
        found |= given
    if found:
        yield "value", found, None


def blocks(values: Mapping[str, Any], reads: Mapping[str, Any]) -> Iterator[Fold]:
    """A change of the amount for each block: `down_0__1` is the second module of the first block down."""
    for name, read in reads.items():
        part, *place = name.split("__")[0].split("_")
        path = ".".join([_PARTS[part], *place])
        path += f".motion_modules.{name.split('__')[1]}" if "__" in name else ""
        if read:
            yield "block", {"blocks": path, **read}, None


def prompts(text: Any) -> Any:
    """`0 = "..."` lines as `"0": "..."`, which other schedules write."""
    return _FRAME_WORD.sub(r'\1"\2": ', text) if isinstance(text, str) else text


def last_frame(text: Any, length: Any) -> int:
    """The number of frames: as given, or up to the last key."""
    if isinstance(length, int) and length > 0:
        return length
    frames = [int(found) for found in re.findall(r'^\s*"?(\d+)"?\s*[:=]', str(text), re.MULTILINE)]
    return max(frames, default=15) + 1


def curve(text: Any) -> str | None:
    """`0 = 1.0` lines or JSON as a curve of linear pieces."""
    try:
        read = json.loads(text)
        pairs = list(read.items()) if isinstance(read, dict) else None
    except (ValueError, TypeError, RecursionError):
        lines = [_VALUE_LINE.match(line) for line in re.split(r"[,\n]", str(text)) if line.strip()]
        pairs = [(line[1], line[2]) for line in lines if line] if lines and all(lines) else None
    return None if not pairs else ", ".join(f"{frame}:{value}" for frame, value in pairs)


MULTIVAL = {
    "scale_multival": {
        "value": "amount:scale", "floats": "amount:scale_curve", "mask": "black_scale:mask",
        "white": "white:scale", "white_mask": "white:mask",
    },
    "effect_multival": {
        "value": "amount:effect", "floats": "amount:effect_curve", "mask": "black_effect:mask",
        "white": "white:effect", "white_mask": "white:mask",
    },
}  # fmt: skip
"""What a scale and an effect become, and how their masks do."""

_KEY = "start_percent FLOAT 0.0; prev_ad_keyframes AD_KEYFRAMES; scale_multival MULTIVAL; effect_multival MULTIVAL"
_KEPT = {
    "inherit_missing": Only((True,), "what a keyframe does not set stays"),
    "guarantee_steps": ONE_STEP,
    "per_block_replace": Only((), "blocks keep what they have from the first step on"),
}
_NO_MASK = {"mask_optional": Only((), "the numbers hold for the whole picture")}
_CFG = "prev_custom_cfg CUSTOM_CFG; cfg_extras CFG_EXTRAS"

VALUES = (
    row("ADE_MultivalDynamic", "float_val FLOAT 1.0; mask_optional MASK", "MULTIVAL", fold=masked, folds=("amount",)),
    row(
        "ADE_MultivalDynamicFloatInput",
        "float_val FLOAT 1.0!; mask_optional MASK",
        "MULTIVAL",
        Give("value", {"floats": of("float_val")}),
        only=_NO_MASK,
    ),
    row(
        "ADE_MultivalDynamicFloats",
        "floats FLOATS 1.0; mask_optional MASK",
        "MULTIVAL",
        Give("value", {"floats": of("floats")}),
        only=_NO_MASK,
    ),
    row(
        "ADE_MultivalScaledMask",
        'min_float_val FLOAT 0.0; max_float_val FLOAT 1.0; mask MASK; scaling COMBO "absolute"',
        "MULTIVAL",
        fold=scaled,
        folds=("amount",),
    ),
    row(
        "ADE_AnimateDiffKeyframe",
        f"{_KEY}; per_block_replace PER_BLOCK; inherit_missing BOOLEAN true; guarantee_steps INT 1",
        "AD_KEYFRAMES",
        fold=keyframe,
        folds=("scale_curve", "effect_curve"),
        only=_KEPT,
        chain="prev_ad_keyframes",
    ),
    row(
        "ADE_CustomCFGKeyframeSimple",
        f"cfg FLOAT 8.0; start_percent FLOAT 0.0; guarantee_steps INT 1; {_CFG}",
        "CUSTOM_CFG",
        fold=guidance_key,
        folds=("guidance_curve",),
        only={"guarantee_steps": ONE_STEP},
        chain="prev_custom_cfg",
    ),
    row(
        "ADE_CustomCFGKeyframe",
        f"cfg_multival MULTIVAL; start_percent FLOAT 0.0; guarantee_steps INT 1; {_CFG}",
        "CUSTOM_CFG",
        fold=guidance_key,
        folds=("guidance_curve",),
        only={"guarantee_steps": ONE_STEP},
        chain="prev_custom_cfg",
    ),
    row(
        "ADE_CustomCFGKeyframeInterpolation",
        "start_percent FLOAT 0.0; end_percent FLOAT 1.0; cfg_start FLOAT 8.0; cfg_end FLOAT 8.0;"
        f'interpolation COMBO "linear"; intervals INT 50; print_keyframes BOOLEAN false; {_CFG}',
        "CUSTOM_CFG",
        fold=guidance_between,
        folds=("guidance_curve",),
        ignored=("intervals", "print_keyframes"),
        chain="prev_custom_cfg",
    ),
    row(
        "ADE_FloatToFloats",
        "FLOAT FLOAT 39!",
        "FLOATS",
        emits={0: "FLOAT"},
    ),
    row(
        "ADE_ValueScheduling",
        'values STRING ""; print_schedule BOOLEAN false; max_length INT 0',
        "FLOAT FLOATS INT INTS",
        Give("curve", {"text": made(curve, "values"), "frames": made(last_frame, "values", "max_length")}),
        ignored=("print_schedule",),
        emits={0: ("curve", 2), 1: ("curve", 2)},
        home="curve",
    ),
    row(
        "ADE_ValueSchedulingLatents",
        'values STRING ""; latent LATENT; print_schedule BOOLEAN false',
        "FLOAT FLOATS INT INTS",
        Give("curve", {"text": made(curve, "values"), "frames": BatchOf("latent", 16)}),
        ignored=("print_schedule",),
        emits={0: ("curve", 2), 1: ("curve", 2)},
        home="curve",
    ),
)


def _ids(*counts: int, modules: tuple[int, int] = (0, 0)) -> Iterator[str]:
    """Names of inputs for blocks: so many down and up, and of each so many modules, or the whole block."""
    for part, count, of_each in zip(("down", "up"), counts, modules, strict=True):
        for place in range(count):
            name = f"{part}_{place}"
            yield from [f"{name}__{module}" for module in range(of_each)] or [name]
        if part == "down":
            yield "mid"


def _per_block(kind: str, names: Iterable[str]) -> Row:
    inputs = "; ".join(f"{name} AD_BLOCK" for name in names)
    return row(kind, inputs, "PER_BLOCK", fold=blocks, folds=("block",))


PER_BLOCK = (
    row("ADE_ADBlockCombo", "effect MULTIVAL; scale MULTIVAL", "AD_BLOCK", fold=block, folds=("block",)),
    row("ADE_ADBlockIndiv", "effect MULTIVAL; scale_0 MULTIVAL; scale_1 MULTIVAL", "AD_BLOCK", fold=block,
        folds=("block",)),
    _per_block("ADE_PerBlockHighLevel", ("down", "mid", "up")),
    _per_block("ADE_PerBlock_SD15_MidLevel", _ids(4, 4)),
    _per_block("ADE_PerBlock_SD15_LowLevel", _ids(4, 4, modules=(2, 3))),
    _per_block("ADE_PerBlock_SDXL_MidLevel", _ids(3, 3)),
    _per_block("ADE_PerBlock_SDXL_LowLevel", _ids(3, 3, modules=(2, 3))),
)  # fmt: skip

_WORDS = 'prepend_text STRING ""; append_text STRING ""; values_replace VALUES_REPLACE; print_schedule BOOLEAN false'
_TEXT = {
    "clip": of("clip"),
    "text": made(prompts, "prompts"),
    "before": of("prepend_text"),
    "after": of("append_text"),
    "interpolation": of("tensor_interp", {"lerp": "linear", "slerp": "slerp"}),
}
MIXED_AGAIN = (
    "AnimateDiff-Evolved mixes each frame between two keys from its mix for the frame before; here from the keys "
    "themselves, so that frames between keys differ"
)
PROMPTS = (
    row(
        "ADE_PromptScheduling",
        f'prompts STRING ""; clip CLIP; {_WORDS}; max_length INT 0; tensor_interp COMBO "lerp"',
        "CONDITIONING",
        Give("prompts", {**_TEXT, "frames": made(last_frame, "prompts", "max_length")}),
        ignored=("print_schedule",),
        emits={0: ("prompts", 0)},
        home="prompts",
        defect=MIXED_AGAIN,
    ),
    row(
        "ADE_PromptSchedulingLatents",
        f'prompts STRING ""; clip CLIP; latent LATENT; {_WORDS}; tensor_interp COMBO "lerp"',
        "CONDITIONING LATENT",
        Give("prompts", {**_TEXT, "frames": BatchOf("latent", 16)}),
        ignored=("print_schedule",),
        emits={0: ("prompts", 0), 1: "latent"},
        home="prompts",
        defect=MIXED_AGAIN,
    ),
)
ROWS: tuple[Row, ...] = (*VALUES, *PER_BLOCK, *PROMPTS)
