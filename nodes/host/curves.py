"""Curves between nodes: this pack's, core's CURVE where it has that type, and lists of numbers of other packs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import comfy_api.input
import torch
from comfy_api.latest import io

from ...unet_motion.schedule import Curve, Key, Place

CurveType = io.Custom("UNET_MOTION_CURVE")
CoreCurveType = io.Custom("CURVE")
FloatsType = io.Custom("FLOATS")
ACCEPTED = [CurveType, CoreCurveType, FloatsType, io.Float]
"""Types that :func:`read_curves` takes."""

SAMPLES = 256
"""Straight pieces of a curve of core whose form is not known."""


class Curves(tuple):
    """Curves that are multiplied, as they go from node to node."""


def read_curves(name: str, given: Any, over: str = "frames") -> Curves:
    """The curves of an input; none for None.

    Args:
        name: of the input, for errors.
        given: this pack's :class:`Curves`, a CURVE of core, a number, or one number per frame.
        over: what the others are over; theirs go from the first frame (or step) at 0 to the last at 1.

    Raises:
        ValueError: anything else.
    """
    if given is None:
        return Curves()
    if isinstance(given, Curves):
        return Curves(replace(curve, name=name) for curve in given)
    try:
        if hasattr(given, "interp") and hasattr(given, "points"):
            return Curves((replace(_of_core(given, over), name=name),))
        if hasattr(given, "tolist"):
            given = given.tolist()
        if isinstance(given, (int, float)):
            return Curves((Curve.constant(given, over),))
        if isinstance(given, (list, tuple)):
            return Curves((replace(_of_list(given, over), name=name),))
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}.") from None
    raise ValueError(f"`{name}` is a {type(given).__name__}, expected a curve, a number or a list of numbers.")


def read_amount(name: str, value: Any) -> tuple[float, Curves]:
    """A number and curves of an input that is a number, or to which a list of numbers or a curve was linked."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value), Curves()
    return 1.0, read_curves(name, value)


def _of_list(values: Sequence[float], over: str) -> Curve:
    if over == "frames" or len(values) < 2:
        return Curve.per_frame(values)
    last = len(values) - 1
    return Curve(tuple(Key(Place(i / last, share=True), value) for i, value in enumerate(values)), over)


def _of_core(curve: Any, over: str) -> Curve:
    """Core's straight and monotone curves exactly, others in straight pieces."""
    way, points = _way_of(curve), [(float(x), float(y)) for x, y in curve.points]
    if way is None:
        places = [i / SAMPLES for i in range(SAMPLES + 1)]
        way, points = "linear", [(x, float(curve.interp(x))) for x in places]
    return Curve(tuple(Key(Place.read(f"{x!r}", "steps"), y, way) for x, y in points), over)


def _way_of(curve: Any) -> str | None:
    for kind, way in (("LinearCurve", "linear"), ("MonotoneCubicCurve", "monotone")):
        known = getattr(comfy_api.input, kind, None)
        if known is not None and type(curve) is known:
            return way
    return None


def to_floats(curves: Curves, frames: int) -> list[float]:
    """The product at each frame; curves over the steps are spread over the frames."""
    return _product(curves, torch.arange(frames, dtype=torch.float64) / max(1, frames - 1), frames).tolist()


def _product(curves: Curves, shares: torch.Tensor, frames: int) -> torch.Tensor:
    """At shares of the way from the first frame to the last."""
    values = torch.ones_like(shares)
    for curve in curves:
        pieces = curve.pieces(frames) if curve.over == "frames" else curve.pieces()
        values = values * pieces.at(shares * (frames - 1) if curve.over == "frames" else shares)
    return values


def to_core(curves: Curves, frames: int) -> Any:
    """As core's nodes take a CURVE: an object that interpolates as the curves do, or its points where core has none."""
    shares = sorted({min(1.0, s) for curve in curves for s in _shares(curve, frames)} | {0.0, 1.0})
    values = _product(curves, torch.tensor(shares, dtype=torch.float64), frames).tolist()
    points = list(zip(shares, values, strict=True))
    base = getattr(comfy_api.input, "CurveInput", None)
    if base is None:
        return points

    class MotionCurve(base):
        """The product of a node's curves."""

        @property
        def points(self) -> list[tuple[float, float]]:
            return list(points)

        def interp(self, x: float) -> float:
            return float(_product(curves, torch.tensor([x], dtype=torch.float64).clamp(0, 1), frames))

    return MotionCurve()


def _shares(curve: Curve, frames: int) -> list[float]:
    if curve.over == "steps":
        return curve.pieces().places.tolist()
    return (curve.pieces(frames).places / max(1, frames - 1)).tolist()
