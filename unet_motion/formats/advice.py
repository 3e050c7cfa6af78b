"""Where the settings of a run and its motion module disagree so far that noise is likely, though nothing fails."""

from __future__ import annotations

from dataclasses import dataclass

from .kinds import MotionKind

FEWEST_FRAMES = 8
MOST_GUIDANCE_DISTILLED = 3.0
MOST_STEPS_DISTILLED = 12
SMALLEST_SDXL_BETA = 512 * 512
"""Pixels of a frame, of modules that were trained at 1024 x 1024."""


@dataclass(frozen=True)
class RunSettings:
    """What a run does.

    Attributes:
        frames: of a clip.
        sampler: its name.
        steps: of the sampler.
        guidance: scale, or None where it is not known.
        pixels: of a frame.
        schedule: ComfyUI's name of the noise schedule and its last beta, or None where it is not known.
    """

    frames: int
    sampler: str
    steps: int
    guidance: float | None = None
    pixels: int | None = None
    schedule: tuple[str, float] | None = None


def advise(kind: MotionKind, run: RunSettings) -> str | None:
    """One sentence about what does not go with a kind of motion module, or None."""
    found = [note for note in (_distilled(kind, run), _frames(run), _schedule(kind, run), _size(kind, run)) if note]
    if not found:
        return None
    made = f"{kind.frames} frames, {kind.sampler}, {kind.steps} steps, guidance {kind.guidance:g}"
    title = kind.title[0].upper() + kind.title[1:]
    return f"{title} motion module was made for {made}: {'; '.join(found)}."


def _distilled(kind: MotionKind, run: RunSettings) -> str | None:
    if not kind.distilled:
        return None
    if run.guidance is not None and run.guidance > MOST_GUIDANCE_DISTILLED:
        return f"guidance {run.guidance:g} burns its pictures"
    # A consistency model takes any number of steps of its own sampler.
    if run.sampler != "lcm" and run.steps > MOST_STEPS_DISTILLED:
        return f"{run.steps} steps of {run.sampler} are more than it needs"
    return None


def _frames(run: RunSettings) -> str | None:
    if 1 < run.frames < FEWEST_FRAMES:
        return f"below {FEWEST_FRAMES} frames, here {run.frames}, clips come out as noise"
    return None


def _schedule(kind: MotionKind, run: RunSettings) -> str | None:
    # Consistency models take the schedules of what they were distilled from, and are told apart by no table.
    if run.schedule is None or kind.sampler == "lcm":
        return None
    name, end = run.schedule
    if name == kind.comfy_schedule and abs(end - kind.beta_end) < 1e-6:
        return None
    wanted = kind.comfy_schedule if kind.beta_end == 0.012 else f"{kind.comfy_schedule} to {kind.beta_end:g}"
    return f"its noise schedule is {wanted}, here it is {name if end == 0.012 else f'{name} to {end:g}'}"


def _size(kind: MotionKind, run: RunSettings) -> str | None:
    if kind.name == "sdxl" and run.pixels is not None and run.pixels < SMALLEST_SDXL_BETA:
        return f"frames of {run.pixels} pixels are too small for it, try 1024x1024"
    return None
