"""ControlNets whose strength changes: Advanced-ControlNet's keyframes over frames and over steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ....values import quoted
from .over_time import ONE_STEP
from .rows import Fold, Only, Row, is_linked, row

CONTROL = "ComfyUI-Advanced-ControlNet"
LATENT_KEYFRAME, TIMESTEP_KEYFRAME = "LATENT_KEYFRAME", "TIMESTEP_KEYFRAME"
APPLIERS = {"ControlNetApplyAdvanced": (0, 1), "ControlNetApplySD3": (0, 1), "ControlNetApply": (0, 0)}
"""Core's nodes that apply a ControlNet, and their outputs for the positive and the negative prompt."""

MOST_FRAMES = 10_000
LAYERS = Only((), "its strength is the same in all layers")
WHOLE = Only((), "it acts on the whole picture")
_EASES = {
    "linear": lambda t: t,
    "ease-in": lambda t: t * t,
    "ease-out": lambda t: 1 - (1 - t) ** 2,
    "ease-in-out": lambda t: (1 - math.cos(math.pi * t)) / 2,
}


@dataclass(frozen=True, eq=False)
class FrameKeys:
    """Strengths of frames that a node names, negative numbers from the end; or the link of a list of strengths.

    Attributes:
        yields: what the nodes before it in the chain say of a frame counts.
    """

    strengths: Mapping[int, float]
    yields: bool = False
    linked: Any = None


@dataclass(frozen=True, eq=False)
class StepKey:
    """Strengths from a share of the steps on: of all frames, and of those that `frames` names; the others' is `null`.

    Attributes:
        frames: None: those of the key before it where it `inherits`, else all frames.
    """

    start: float
    strength: float = 1.0
    frames: tuple[FrameKeys, ...] | None = None
    null: float = 0.0
    inherits: bool = True


def _value(value: Any) -> Fold:
    """A value for the node that reads this one, which gets each node's by itself, in their order."""
    return "value", {object(): value}, None  # type: ignore[dict-item]


def _numbers(values: Mapping[str, Any], *names: str) -> list[float] | None:
    found = [values[name] for name in names]
    return found if all(isinstance(value, (int, float)) for value in found) else None


def one_frame(values: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[Fold]:
    """The strength of a frame."""
    read = _numbers(values, "batch_index", "strength")
    if read is None:
        yield "", {}, "batch_index or strength is linked: its frame counts as one that no keyframe names"
    else:
        yield _value(FrameKeys({int(read[0]): read[1]}))


def frames_between(values: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[Fold]:
    """Strengths that go from one number to another, which the last frame before the end has."""
    read = _numbers(values, "batch_index_from", "batch_index_to_excl", "strength_from", "strength_to")
    ease = _EASES.get(values["interpolation"]) if isinstance(values["interpolation"], str) else None
    if read is None or ease is None:
        yield "", {}, "linked values have no counterpart: its frames count as ones that no keyframe names"
        return
    first, end, start, stop = int(read[0]), int(read[1]), read[2], read[3]
    if end < first or (first < 0 <= end) or end - first > MOST_FRAMES:
        yield "", {}, f"frames {first} to {end} are no range that can be read: no keyframe names them"
        return
    last = max(1, end - first - 1)
    yield _value(FrameKeys({first + i: start + (stop - start) * ease(i / last) for i in range(end - first)}, True))


def listed_frames(values: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[Fold]:
    """Strengths as `FRAME=STRENGTH` and `FROM:TO=STRENGTH` between commas; 1 where there is none."""
    text = values["index_strengths"]
    try:
        keys = dict(_listed(str(text))) if not is_linked(text) else None
    except ValueError:
        keys = None
    if values["latent_optional"] is not None and (keys is None or any(word in text for word in ":-")):
        yield "", {}, "ranges and frames from the end by the latents of a link are not computed"
    elif keys is None:
        yield "", {}, f"index_strengths {quoted(text if isinstance(text, str) else 'of a link')} cannot be read"
    else:
        yield _value(FrameKeys(keys, True))


def _listed(text: str) -> Iterator[tuple[int, float]]:
    count = 0
    for part in text.split(",") if text else ():
        place, _, written = part.partition("=")
        strength = float(written) if "=" in part else 1.0
        first, colon, end = place.partition(":")
        frames = range(int(first), int(end) if colon else int(first) + 1)
        count += max(0, frames.stop - frames.start)
        if not 0 <= strength < math.inf or frames.start < 0 or count > MOST_FRAMES:
            raise ValueError(part)
        yield from ((frame, strength) for frame in frames)


def list_of_frames(values: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[Fold]:
    """A strength for each frame from another node."""
    if is_linked(values.get("float_strengths")):
        yield _value(FrameKeys({}, True, values["float_strengths"]))


def step_key(values: Mapping[str, Any], reads: Mapping[str, Any]) -> Iterator[Fold]:
    """Strengths from a share of the steps on."""
    read = _numbers(values, "start_percent", "strength", "null_latent_kf_strength")
    if read is None or not isinstance(values["inherit_missing"], bool):
        yield "", {}, "linked values have no counterpart in a keyframe"
    else:
        yield _value(StepKey(read[0], read[1], _frames(reads), read[2], values["inherit_missing"]))


def steps_between(values: Mapping[str, Any], reads: Mapping[str, Any]) -> Iterator[Fold]:
    """Strengths that go from one number to another in so many keys."""
    names = ("start_percent", "end_percent", "strength_start", "strength_end", "intervals", "null_latent_kf_strength")
    read = _numbers(values, *names)
    ease = _EASES.get(values["interpolation"]) if isinstance(values["interpolation"], str) else None
    if read is None or ease is None or not isinstance(values["inherit_missing"], bool) or not 2 <= read[4] <= 100:
        yield "", {}, "linked values have no counterpart in keyframes"
        return
    start, end, first, last, count, null = read
    for i in range(int(count)):
        t = i / (count - 1)
        strength = first + (last - first) * ease(t)
        yield _value(StepKey(start + (end - start) * t, strength, _frames(reads), null, values["inherit_missing"]))


def _frames(reads: Mapping[str, Any]) -> tuple[FrameKeys, ...] | None:
    found = tuple(reads.get("latent_keyframe", {}).values())
    return found or None


@dataclass(frozen=True)
class Strength:
    """A strength over frames times one over steps.

    Attributes:
        frames: frame -> strength, negative from the end; None: 1 for all. Others have `null`.
        linked: the link of a list of strengths, one for each frame, instead.
        steps: share of the steps -> strength from there on, the first at 0.
        lost: what else was said and has no counterpart.
    """

    frames: Mapping[int, float] | None
    null: float
    linked: Any
    steps: Mapping[float, float]
    lost: tuple[str, ...]


_Named = tuple[dict[int, float], Any]


def _merged(chain: tuple[FrameKeys, ...] | None) -> _Named | None:
    """What the nodes of a chain say together: strengths of frames, and the link of a list of them."""
    if chain is None:
        return None
    merged: dict[int, float] = {}
    linked = None
    for part in chain:
        for frame, strength in part.strengths.items():
            merged[frame] = merged.get(frame, strength) if part.yields else strength
        linked = linked if part.linked is None else part.linked
    return merged, linked


def strength_of(keys: Iterable[StepKey], override: Iterable[FrameKeys]) -> Strength:
    """The strength that keyframes of steps mean, with keyframes of frames that count instead of theirs."""
    lost, begun = [], set()
    found: dict[float, tuple[float, _Named | None, float]] = {}
    above, frames = _merged(tuple(override) or None), None
    for key in (StepKey(0.0), *sorted(keys, key=lambda key: key.start)):
        frames = _merged(key.frames) if key.frames is not None else frames if key.inherits else None
        if key.start in begun:
            lost.append(f"of keyframes that both begin at {key.start:g} only the last counts")
        if found:  # where a keyframe begins at 0, it takes the place of the one that is always there
            begun.add(key.start)
        named = frames if above is None else above
        found[key.start] = (key.strength, named, 0.0 if named is None else key.null)
    named, null = next(iter(found.values()))[1:]
    if any(other[1:] != (named, null) for other in found.values()):
        lost.append("strengths of frames that change between steps: all frames have the same strength")
        named, null = None, 0.0
    strengths, linked = (None, None) if named is None else named
    if linked is not None and strengths:
        lost.append("a list of strengths together with other keyframes: those of the list count")
    steps = {start: strength for start, (strength, _, _) in found.items()}
    if linked is not None and len(set(steps.values())) > 1:
        lost.append("a list of strengths together with strengths that change between steps: those of frames count")
        steps = {0.0: 1.0}
    return Strength(strengths, null, linked, steps, tuple(dict.fromkeys(lost)))


def _number(value: float) -> str:
    return f"{value:.9g}"  # as exact as the numbers that it is multiplied with


def text_over_steps(steps: Mapping[float, float]) -> str:
    """A curve that holds each strength up to the next one."""
    return ", ".join(f"{_number(start)}:{_number(strength)} hold" for start, strength in _changes(steps.items()))


def texts_over_frames(frames: Mapping[int, float], null: float, count: int | None) -> tuple[list[str], int]:
    """Curves of which the product holds each strength for its frame, and the least number of frames that they fit.

    Args:
        count: of the clip; frames that it does not have are left out. None: not known.
    """
    if count is not None:
        return [_held((i, frames.get(i, frames.get(i - count, null))) for i in range(count))], count
    rising = [*_with_ends({i: v for i, v in frames.items() if i >= 0}, null)]
    rising = rising if rising and rising[0][0] == 0 else [(0, null), *rising]
    falling = [*_with_ends({i: v for i, v in frames.items() if i < 0}, null)]
    last = max(frames, default=0)
    scale = 2 * frames.get(last, null) - null
    if not falling and last > 0 and scale not in (0, null):
        # A key may not stand behind the clip's last frame, unless something goes straight to it from before that
        # frame: so the strength falls from the frame before `last` to the one behind it, half of the way at `last`.
        return [_held([*rising[:-2], (last, scale)]), f"{last - 1}:1, {last + 1}:{_number(null / scale)}"], last + 1
    keys = [*rising, *((i, value) for i, value in falling if i < 0)]
    return [_held(keys)], max(i for i, _ in keys) + 1 + max([-i for i, _ in keys if i < 0], default=0)


def _held(keys: Iterable[tuple[int, float]]) -> str:
    return ", ".join(f"{i}:{_number(value)} hold" for i, value in _changes(keys))


def _with_ends(frames: Mapping[int, float], null: float) -> Iterator[tuple[int, float]]:
    """The strengths of frames, and `null` behind each that is the last of several in a row."""
    for i in sorted(frames):
        yield i, frames[i]
        if i + 1 not in frames:
            yield i + 1, null


def _changes(keys: Iterable[tuple[Any, float]]) -> Iterator[tuple[Any, float]]:
    before = None
    for place, value in keys:
        if value != before:
            yield place, value
        before = value


_PRINT = "print_keyframes BOOLEAN false"
_PREV_FRAMES = f"prev_latent_kf {LATENT_KEYFRAME}"
_KEY = (
    f"prev_timestep_kf {TIMESTEP_KEYFRAME}; cn_weights CONTROL_NET_WEIGHTS; t2i_adapter_weights T2I_ADAPTER_WEIGHTS;"
    f"latent_keyframe {LATENT_KEYFRAME}; null_latent_kf_strength FLOAT 0.0; inherit_missing BOOLEAN true;"
)
_BECOMES = ("control_curve", "control_strength")
_LOST = {"cn_weights": LAYERS, "t2i_adapter_weights": LAYERS, "mask_optional": WHOLE}


def _of_frames(kind: str, inputs: str, fold: Any, ignored: tuple[str, ...] = ()) -> Row:
    return row(
        kind, f"{inputs}; {_PREV_FRAMES}", LATENT_KEYFRAME, fold=fold, folds=_BECOMES, ignored=ignored,
        formerly={"prev_latent_keyframe": "prev_latent_kf", "latent_image_opt": "latent_optional"},
        chain="prev_latent_kf", pack=CONTROL,
    )  # fmt: skip


def _of_steps(kind: str, inputs: str, fold: Any, **rest: Any) -> Row:
    return row(
        kind, inputs, TIMESTEP_KEYFRAME, fold=fold, folds=_BECOMES, chain="prev_timestep_kf", pack=CONTROL,
        formerly={"prev_timestep_keyframe": "prev_timestep_kf", "control_net_weights": "cn_weights"}, **rest,
    )  # fmt: skip


ROWS: tuple[Row, ...] = (
    _of_frames("LatentKeyframe", "batch_index INT 0; strength FLOAT 1.0", one_frame),
    _of_frames(
        "LatentKeyframeGroup", f'index_strengths STRING ""; latent_optional LATENT; {_PRINT}', listed_frames,
        ("print_keyframes",),
    ),
    _of_frames(
        "LatentKeyframeTiming",
        "batch_index_from INT 0; batch_index_to_excl INT 0; strength_from FLOAT 1.0; strength_to FLOAT 1.0;"
        f'interpolation COMBO "linear"; {_PRINT}',
        frames_between,
        ("print_keyframes",),
    ),
    _of_frames(
        "LatentKeyframeBatchedGroup", f"float_strengths FLOAT -1!; {_PRINT}", list_of_frames, ("print_keyframes",)
    ),
    _of_steps(
        "TimestepKeyframe",
        f"start_percent FLOAT 0.0; strength FLOAT 1.0; {_KEY} guarantee_usage BOOLEAN true; guarantee_steps INT 1;"
        "mask_optional MASK",
        step_key,
        only={**_LOST, "guarantee_steps": ONE_STEP},
        ignored=("guarantee_usage",),
    ),
    _of_steps(
        "ACN_TimestepKeyframeInterpolation",
        "start_percent FLOAT 0.0; end_percent FLOAT 1.0; strength_start FLOAT 1.0; strength_end FLOAT 1.0;"
        f'interpolation COMBO "linear"; intervals INT 50; {_KEY} mask_optional MASK; {_PRINT}',
        steps_between,
        only=_LOST,
        ignored=("print_keyframes",),
    ),
)  # fmt: skip
