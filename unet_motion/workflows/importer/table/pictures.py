"""AnimateDiff-Evolved's pictures that are laid into a clip while it is sampled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ....values import quoted
from .rows import Fold, Give, Only, Row, is_linked, of, row

FIRST = 0.001  # behind the first step, where AnimateDiff-Evolved never lays a picture in
NEVER_RAN = "AnimateDiff-Evolved itself does not run it: its function has other names for the inputs"
LATER = (
    "the clip so far is what the model makes of it in the step where the picture is laid in, in AnimateDiff-Evolved "
    "what it made in the step before, so that the result differs a little"
)


def injected(values: Mapping[str, Any], reads: Mapping[str, Any]) -> Iterator[Fold]:
    """A picture in the clip, what enlarges it to the clip's size and inverts its mask."""
    mask, image, at = values["mask_opt"], values["image"], values["start_percent"]
    for name, instead in (("invert_mask", False), ("resize_image", True)):
        if is_linked(values[name]):
            yield "", {}, f"{name} is linked, so that it cannot be read; {str(instead).lower()} counts"
    if values["invert_mask"] is True and mask is None:
        yield "", {}, "its mask is inverted and not there: the picture shows nowhere and is left out"
        return
    given = {"vae": values["vae"], "at": max(at, FIRST) if isinstance(at, (int, float)) else at}
    given |= reads.get("img_inject_opts", {})
    strength = reads.get("strength_multival", {})
    value = strength.get("value", 1.0)
    fits = not isinstance(value, (int, float)) or 0 <= value <= 1
    if not fits:
        yield "", {}, f"its strength {quoted(value)} has no counterpart: from 0 to 1 there is one"
    given["strength"] = value if fits else min(max(value, 0.0), 1.0)
    if "floats" in strength:
        given["strength_curve"] = strength["floats"]
    if {"mask", "white"} & set(strength):
        yield "", {}, "its strength over pixels has no counterpart: the number holds for the whole picture"
    if values["resize_image"] is False:
        given["image"] = image
    else:
        yield "fitted", {} if image is None else {"image": image}, None
    if values["invert_mask"] is True:
        yield "inverted", {"mask": mask}, None
    elif mask is not None:
        given["mask"] = mask
    yield "injection", {name: value for name, value in given.items() if value is not None}, None


ROWS: tuple[Row, ...] = (
    row(
        "ADE_NoisedImageInjection",
        "image IMAGE; vae VAE; mask_opt MASK; invert_mask BOOLEAN false; resize_image BOOLEAN true;"
        "start_percent FLOAT 0.0; guarantee_steps INT 1; img_inject_opts IMAGE_INJECT_OPTIONS;"
        "strength_multival MULTIVAL; prev_image_inject IMAGE_INJECT",
        "IMAGE_INJECT",
        fold=injected,
        folds=("injection", "fitted", "inverted"),
        only={"guarantee_steps": Only((0, 1), "the picture is laid in once")},
        chain="prev_image_inject",
        groups=True,
        note=LATER,
    ),
    row(
        "ADE_NoisedImageInjectOptions",
        "composite_x INT 0; composite_y INT 0",
        "IMAGE_INJECT_OPTIONS",
        Give("value", {"x": of("composite_x"), "y": of("composite_y")}),
        folds=("injection",),
        defect=NEVER_RAN,
    ),
)
