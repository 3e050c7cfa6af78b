"""One step of a clip that is drawn in windows: each window's prediction, and their weighted mean for each frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..forward.lora import MotionLora
from ..forward.motion_amount import MotionAmount
from ..forward.options import ForwardOptions
from ..forward.views import Views
from .context_windows import ContextWindows
from .ranks import Ranks
from .window_parts import WindowPart, part_at

Predict = Callable[[Tensor, Tensor, Sequence[Sequence[int]]], Tensor]
"""(W windows of L frames (W*L, C, h, w), timestep, the windows' frame numbers) -> their prediction."""


def windowed(
    predict: Predict, windows: ContextWindows, frames: int, timesteps: Tensor, at_once: int = 1,
    ranks: Ranks | None = None, held: Callable[[int], int] = int,
) -> Callable[[Tensor, Tensor], Tensor]:  # fmt: skip
    """The model function over a whole clip, for a sampler, from one over windows.

    Args:
        predict: must not write to what it takes.
        frames: of the clip.
        timesteps: (N,) of the run; which of them a call is for says where the uniform schedules' windows start.
        at_once: windows of one length in one call of ``predict``: more memory, fewer calls, the same values within
            rounding.
        ranks: the processes that share the windows of a step, or None for this one alone.
        held: step -> the step whose windows it has; by default its own.

    Returns:
        (x (F, C, h, w), timestep) -> prediction (F, C, h, w), float32 or wider.
    """

    def model(x: Tensor, timestep: Tensor) -> Tensor:
        total = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        plan = windows.plan(frames, held(step_of(timesteps, timestep)))
        for group, weights in window_groups(plan if ranks is None else ranks.share(plan), at_once):
            places = torch.tensor([frame for window in group for frame in window], device=x.device)
            found = predict(x[places], timestep, group).to(total)
            shares = torch.tensor(weights, dtype=total.dtype, device=x.device)
            total.index_add_(0, places, found * shares.view(-1, 1, 1, 1))
        if ranks is not None:
            ranks.add_up(total)
        return total

    return model


def viewed(
    predict: Callable[..., Tensor], views: ContextWindows, frames: int, timesteps: Tensor, ranks: Ranks | None = None,
    held: Callable[[int], int] = int,
) -> Callable[[Tensor, Tensor], Tensor]:  # fmt: skip
    """The model function over a whole clip where the windows are inside the motion modules.

    Args:
        predict: as for :func:`windowed`, and takes `views`.
        frames, timesteps, ranks, held: as for :func:`windowed`; one of the ranks computes, since it is one call.
    """
    whole = ContextWindows(frames, 0)

    def model(x: Tensor, timestep: Tensor) -> Tensor:
        seen = Views.of(views.plan(frames, held(step_of(timesteps, timestep))))
        return windowed(partial(predict, views=seen), whole, frames, timesteps, ranks=ranks)(x, timestep)

    return model


def in_parts(
    predict: Callable[..., Tensor], parts: Sequence[WindowPart], frames: int, timesteps: Tensor, last: float,
    at_once: int = 1, ranks: Ranks | None = None, held: Callable[[int], int] = int,
) -> Callable[[Tensor, Tensor], Tensor]:  # fmt: skip
    """The model function over a whole clip, each step as the part of the run says that has it.

    Args:
        predict, frames, timesteps, at_once, ranks, held: as for :func:`windowed` and :func:`viewed`.
        last: timestep of the most noise, where the sampling begins.
    """
    whole = windowed(predict, ContextWindows(frames, 0), frames, timesteps, ranks=ranks)
    models = {
        part: viewed(predict, part.windows, frames, timesteps, ranks, held)
        if part.views
        else windowed(predict, part.windows, frames, timesteps, at_once, ranks, held)
        for part in parts
    }

    def model(x: Tensor, timestep: Tensor) -> Tensor:
        part = part_at(parts, 1 - float(timestep.reshape(-1)[0]) / last)
        return (whole if part is None else models[part])(x, timestep)

    return model


def step_of(timesteps: Tensor, timestep: Tensor) -> int:
    """The number of the step whose timestep is nearest: samplers may ask between two of them."""
    return int((timesteps.double().cpu() - timestep.double().cpu().reshape(-1)[0]).abs().argmin())


def options_of(options: ForwardOptions, windows: Sequence[Sequence[int]], frames: int, prompts: int) -> ForwardOptions:
    """Options of a whole clip for some of its windows: what `motion_loras`, `motion_amounts` and those of `more_motion`
    have over the frames follows their frames.

    All else is the same for each window; `frame_positions` are those of a window.

    Args:
        prompts: clips that a call holds for each window, such as 2 with guidance; their rows come one after the other.
    """
    if not options.motion_loras and not options.motion_amounts and not options.more_motion:
        return options
    loras = [_of_windows(lora, windows, frames, prompts) for lora in options.motion_loras]

    def of_windows(amounts: Sequence[MotionAmount]) -> list[MotionAmount]:
        return [_amount_of_windows(amount, windows, frames, prompts) for amount in amounts]

    more = [replace(more, amounts=of_windows(more.amounts)) for more in options.more_motion]
    return replace(options, motion_loras=loras, motion_amounts=of_windows(options.motion_amounts), more_motion=more)


def of_prompt(options: ForwardOptions, number: int, prompts: int) -> ForwardOptions:
    """Options of a clip's prompts for one of them: of values that differ between prompts, those of that one.

    Args:
        options: before :func:`options_of`.
    """
    if not options.motion_loras and not options.motion_amounts and not options.more_motion:
        return options

    def row(value: float | Tensor, dims: tuple[int, ...]) -> float | Tensor:
        mine = isinstance(value, Tensor) and value.dim() in dims and len(value) == prompts
        return value[number : number + 1] if mine else value  # type: ignore[index]

    def amounts_of(amounts: Sequence[MotionAmount]) -> list[MotionAmount]:
        return [replace(a, scale=row(a.scale, (2, 4)), effect=row(a.effect, (2, 4))) for a in amounts]

    loras = [lora.at(row(lora.strength, (2,))) for lora in options.motion_loras]
    more = [replace(more, amounts=amounts_of(more.amounts)) for more in options.more_motion]
    return replace(options, motion_loras=loras, motion_amounts=amounts_of(options.motion_amounts), more_motion=more)


def _of_windows(lora: MotionLora, windows: Sequence[Sequence[int]], frames: int, prompts: int) -> MotionLora:
    strength = lora.strength
    if not isinstance(strength, Tensor) or strength.numel() == 1:
        return lora
    if tuple(strength.shape) not in ((frames,), (prompts, frames)):
        raise ValueError(
            f"{lora.name}: `strength` has shape {tuple(strength.shape)}, expected one number, ({frames},) for the "
            f"frames or ({prompts}, {frames}) for the frames of each prompt."
        )
    rows = strength.expand(prompts, frames)
    return lora.at(torch.stack([row[list(window)] for row in rows for window in windows]))


def _amount_of_windows(
    amount: MotionAmount, windows: Sequence[Sequence[int]], frames: int, prompts: int
) -> MotionAmount:
    def cut(name: str) -> float | Tensor:
        value = getattr(amount, name)
        if not isinstance(value, Tensor) or value.numel() == 1:
            return value
        per_prompt = value.dim() in (2, 4)
        if value.shape[: 1 + per_prompt] != ((prompts, frames) if per_prompt else (frames,)):
            raise ValueError(
                f"`{name}` of `motion_amounts` has shape {tuple(value.shape)}, expected {frames} frames, behind the "
                f"{prompts} prompts where they differ."
            )
        rows = value if per_prompt else value.expand(prompts, *value.shape)
        return torch.stack([row[list(window)] for row in rows for window in windows])

    return replace(amount, scale=cut("scale"), effect=cut("effect"))


def window_groups(
    plan: Sequence[tuple[list[int], list[float]]], at_once: int
) -> Iterator[tuple[list[list[int]], list[float]]]:
    """Neighbouring windows of one length, at most so many at a time, and all their weights in order."""
    start = 0
    while start < len(plan):
        stop = start + 1
        while stop < min(start + at_once, len(plan)) and len(plan[stop][0]) == len(plan[start][0]):
            stop += 1
        yield [window for window, _ in plan[start:stop]], [w for _, weights in plan[start:stop] for w in weights]
        start = stop
