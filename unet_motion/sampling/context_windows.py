"""Windows of frames: a clip longer than a motion module's position table, drawn in overlapping parts in every step.

Which frames each window holds is a pure function of the number of frames and of the step; what the windows predict for
a frame is averaged with weights. The uniform schedules are those of animatediff-cli (https://github.com/neggles/animatediff-cli,
2023), which AnimateDiff-Evolved and ComfyUI's own windows took over; averaging with a pyramid is FreeNoise's (Qiu et
al., 2023, https://arxiv.org/abs/2310.15169).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..values import quoted

SCHEDULES = ("standard_static", "standard_uniform", "looped_uniform", "batched")
FUSES = ("flat", "pyramid", "relative", "overlap-linear", "gaussian")

FAINT = 1e-37
"""Weight at the outer end of a linear ramp: next to another window nothing, and alone enough."""

LEAST_RELATIVE = 1e-2

GAUSSIAN_VARIANCE = 0.01
"""Of positions from 0 to 1, as in Mixture of Diffusers (Jimenez, 2023, https://arxiv.org/abs/2302.02412)."""


@dataclass(frozen=True)
class ContextWindows:
    """How a clip is cut into windows, and how their results are averaged.

    For every legal setting each frame lies in a window, and no window holds a frame twice.

    Args:
        length: frames of a window, at most the rows of the motion module's position table.
        overlap: frames that neighbouring windows share, fewer than ``length``. ``batched`` has none.
        stride: of the uniform schedules: beside neighbouring frames, windows of every second frame (2), every fourth
            (3), ... as far as the clip is long enough for them.
        schedule: ``standard_static``: the same windows in each step, the last one moved back to end with the clip.
            ``standard_uniform``: they start elsewhere in each step. ``looped_uniform``: they also go on from the last
            frame to the first. ``batched``: one behind the other, the last one may be shorter.
        closed_loop: of ``looped_uniform``: as many windows lead over the end of the clip as over any other frame, so
            that it can be played as a loop.
        loop_frames: with ``closed_loop``: only so many frames at the end lead back to the first ones, which stay as
            they are without a loop; None: the whole clip is a loop.
        fuse: weights of a window's frames. ``flat``: equal. ``pyramid``: falling from the middle in steps of one.
            ``relative``: falling from the middle to almost nothing. ``overlap-linear``: a ramp over the overlap.
            ``gaussian``: a bell.
        use_on_equal_length: windows also for a clip of just ``length`` frames, where a loop still changes something.

    Raises:
        ValueError: a setting is outside these rules.
    """

    length: int = 16
    overlap: int = 4
    stride: int = 1
    schedule: str = "standard_uniform"
    closed_loop: bool = False
    loop_frames: int | None = None
    fuse: str = "pyramid"
    use_on_equal_length: bool = False

    def __post_init__(self) -> None:
        for name, least in (("length", 1), ("overlap", 0), ("stride", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}` is {quoted(value)}, expected a whole number of at least {least}.")
        for name, choices in (("schedule", SCHEDULES), ("fuse", FUSES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` is {quoted(getattr(self, name))}, expected one of {', '.join(choices)}.")
        if self.overlap >= self.length:
            raise ValueError(f"`overlap` is {self.overlap}, expected less than `length`, which is {self.length}.")
        if self.closed_loop and self.schedule != "looped_uniform":
            raise ValueError(f"`closed_loop` needs the schedule 'looped_uniform', found {quoted(self.schedule)}.")
        if self.loop_frames is not None:
            if not self.closed_loop:
                raise ValueError(f"`loop_frames` is {self.loop_frames}, expected None without `closed_loop`.")
            if isinstance(self.loop_frames, bool) or not isinstance(self.loop_frames, int):
                raise ValueError(f"`loop_frames` is {quoted(self.loop_frames)}, expected a whole number or None.")
            if not 1 <= self.loop_frames < self.length:
                raise ValueError(f"`loop_frames` is {self.loop_frames}, expected 1 to {self.length - 1}, `length` - 1.")

    def apply_to(self, frames: int) -> bool:
        """Whether a clip of so many frames is cut at all."""
        return frames > self.length or (frames == self.length and self.use_on_equal_length)

    def windows(self, frames: int, step: int = 0) -> list[list[int]]:
        """The windows of a step, each a list of frame numbers.

        Args:
            frames: of the clip, at least 1.
            step: number of the sampler's step from 0; the uniform schedules move with it.

        Raises:
            ValueError: no frames, or a negative step.
        """
        if frames < 1 or step < 0:
            raise ValueError(f"found {frames} frames and step {step}, expected at least 1 and at least 0.")
        if not self.apply_to(frames):
            return [list(range(frames))]
        if self.schedule == "batched":
            return [list(range(start, min(start + self.length, frames))) for start in range(0, frames, self.length)]
        if self.schedule == "standard_static":
            return self._static(frames)
        if self.schedule == "standard_uniform" or self.loop_frames is not None:
            windows = self._standard_uniform(frames, step)
        else:
            windows = self._uniform(frames, step)
        windows = self._covering(windows, frames)
        if self.loop_frames is not None:
            windows.append([(frames - self.loop_frames + i) % frames for i in range(self.length)])
        return windows

    def weights(self, window: Sequence[int], frames: int) -> list[float]:
        """Weight of each frame of a window before the windows' weights are divided by their sum.

        Args:
            window: frame numbers, as `windows` gives them.
            frames: of the clip.
        """
        count, turn = len(window), _turn(window)
        places = [frame + (frames if turn and i >= turn else 0) for i, frame in enumerate(window)]
        if self.fuse == "flat":
            weights = [1.0] * count
        elif self.fuse == "pyramid":
            weights = [float(min(i + 1, count - i)) for i in range(count)]
        elif self.fuse == "relative":
            middle, half = (places[0] + places[-1]) / 2, (places[-1] - places[0] + 1e-2) / 2
            weights = [max(LEAST_RELATIVE, 1 - abs(place - middle) / half) for place in places]
        elif self.fuse == "gaussian":
            spread = 2 * GAUSSIAN_VARIANCE * count**2
            weights = [math.exp(-((i - (count - 1) / 2) ** 2) / spread) for i in range(count)]
        else:
            weights = self._ramps(count, rising=places[0] > 0, falling=places[-1] != frames - 1)
        if self.loop_frames is not None and turn:
            weights[turn:] = [0.0] * (count - turn)
        return weights

    def plan(self, frames: int, step: int = 0) -> list[tuple[list[int], list[float]]]:
        """Windows with their weights, which add up to 1 for each frame."""
        windows = self.windows(frames, step)
        weights = [self.weights(window, frames) for window in windows]
        total = [0.0] * frames
        for window, values in zip(windows, weights, strict=True):
            for frame, value in zip(window, values, strict=True):
                total[frame] += value
        return [
            (window, [value / total[frame] for frame, value in zip(window, values, strict=True)])
            for window, values in zip(windows, weights, strict=True)
        ]

    def strides(self, frames: int) -> int:
        """Which stride a clip of so many frames gets: as asked for, or the widest that its windows have room for."""
        if frames <= self.length or not self.schedule.endswith("uniform"):
            return 1
        return min(self.stride, math.ceil(math.log2(frames / self.length)) + 1)

    def _static(self, frames: int) -> list[list[int]]:
        last = max(0, frames - self.length)
        starts = [*range(0, last, self.length - self.overlap), last]
        return [list(range(start, start + self.length)) for start in starts]

    def _uniform(self, frames: int, step: int) -> list[list[int]]:
        """Windows in the circle of all frames; their first one starts elsewhere in each step."""
        share = halving(step)
        offset = round(frames * share)
        end = frames + offset - (0 if self.closed_loop and self.loop_frames is None else self.overlap)
        windows = []
        for level in range(self.strides(frames)):
            gap = 1 << level
            for start in range(int(share * gap) + offset, end, self.length * gap - self.overlap):
                windows.append([(start + i * gap) % frames for i in range(self.length)])
        return windows

    def _standard_uniform(self, frames: int, step: int) -> list[list[int]]:
        """The uniform windows, those that go on from the last frame to the first moved back to end with the clip.

        What such a window held of the clip's beginning gets a window where its neighbour does not hold it either.
        """
        windows, kept = self._uniform(frames, step), []
        for i in range(2 * len(windows)):
            if i >= len(windows):
                break
            if turn := _turn(windows[i]):
                first = windows[i][turn]
                windows[i] = _moved_to_the_end(windows[i], frames)
                if first not in windows[(i + 1) % len(windows)]:
                    start = min(first, frames - self.length)
                    windows.insert(i + 1, list(range(start, start + self.length)))
            if windows[i] not in kept:
                kept.append(windows[i])
        return kept

    def _covering(self, windows: list[list[int]], frames: int) -> list[list[int]]:
        """Without windows that hold a frame twice or none of the clip's, and with more where a frame is in none."""
        windows = [w for w in windows if len(set(w)) == len(w) and min(w) >= 0 and max(w) < frames]
        missing = sorted(set(range(frames)).difference(*windows))
        while missing:
            start = min(missing[0], frames - self.length)
            windows.append(list(range(start, start + self.length)))
            missing = [frame for frame in missing if frame >= start + self.length]
        return windows

    def _ramps(self, count: int, rising: bool, falling: bool) -> list[float]:
        weights = [1.0] * count
        for i in range(min(self.overlap, count)):
            ramp = max(FAINT, i / max(1, self.overlap - 1))
            if rising:
                weights[i] = min(weights[i], ramp)
            if falling:
                # The outermost frame of a ramp down has the least weight, also of a ramp of one frame on each side.
                weights[count - 1 - i] = min(weights[count - 1 - i], ramp if self.overlap > 1 else 1.0)
        return weights


def halving(step: int) -> float:
    """0, 1/2, 1/4, 3/4, 1/8, ...: the binary digits of the step behind the point, the last one first."""
    return int(f"{step:064b}"[::-1], 2) / (1 << 64)


def _turn(window: Sequence[int]) -> int:
    """Position of the frame behind the clip's end where a window goes on from its beginning, or 0."""
    return next((i for i in range(1, len(window)) if window[i] < window[i - 1]), 0)


def _moved_to_the_end(window: list[int], frames: int) -> list[int]:
    """A window that turns over the clip's end, moved so that its last frame is the clip's last."""
    places = [(frame - window[0]) % frames for frame in window]
    return [place + frames - 1 - places[-1] for place in places]
