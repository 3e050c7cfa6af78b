"""Time and error of step caches beside plain runs with fewer steps: python benchmarks/step_cache.py [--clips 4]

The bundled model, 16 frames of 64x64, guidance 3, one thread. Settings are run in turn, clip by clip. The time is the
thread's own, without its waiting for other programs, and of the clips, whose work is the same, the least. The error is
that of the latents, the norm of the difference by the norm: against the plain run of 20 steps, and against one of so
many steps that more change little. Behind it stands what a plain run errs by that takes as long, in a straight line
between the two plain runs beside it: a setting is worth its name where its own error is below that.
The table is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from unet_motion import MotionPipeline  # noqa: E402
from unet_motion.runtime.step_parts import StepParts  # noqa: E402
from unet_motion.sampling.text import RunText  # noqa: E402

PROMPTS = (
    "a red star moving left", "a blue circle growing", "a yellow moon spinning", "a green square moving up",
    "a purple heart shrinking", "an orange triangle moving right",
)  # fmt: skip
STEPS, MANY = 20, 60
PLAIN = (18, 16, 14, 12, 10, 8)
CACHES = (
    "careful", "balanced", "fast", "interval=2,layers=1", "interval=3,layers=1", "interval=3,layers=1,order=0",
    "interval=3", "guidance_interval=2", "guidance_interval=3", "guidance_end=0.75",
)  # fmt: skip


def latents(pipe: MotionPipeline, clip: int, steps: int, sampler: str, cache: str | None) -> tuple[Tensor, float]:
    """A clip's latents, and the processor seconds they took."""
    found: list[Tensor] = []
    pipe.decode = found.append  # type: ignore[method-assign, assignment]
    start = time.thread_time()
    prompt = PROMPTS[clip % len(PROMPTS)]
    pipe(prompt, seed=100 + clip, steps=steps, sampler=sampler, progress=False, step_cache=cache)
    return found[0], time.thread_time() - start


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def on_curve(points: list[tuple[float, float]], seconds: float) -> float | None:
    """The error of plain runs that take so long, or None beyond them."""
    points = sorted(points)
    for (t0, e0), (t1, e1) in zip(points, points[1:], strict=False):
        if t0 <= seconds <= t1:
            return e0 + (e1 - e0) * (seconds - t0) / (t1 - t0) if t1 > t0 else e0
    return None


def call_times(pipe: MotionPipeline, rounds: int = 12) -> str:
    """The least processor time of each kind of call, in turn: with both halves or one, in full or the last layer."""
    parts, text = StepParts(pipe.unet, 1), RunText(["", PROMPTS[0]], pipe._encode, 16, pipe.added_cond)
    works = {}
    for name, half in (("both halves", text), ("one half", text.of_prompt(1))):
        hidden, extra = half.rows([range(16)])
        given = (torch.randn(16 * len(hidden), pipe.unet.config.in_channels, 8, 8), torch.tensor(500.0), hidden, 16)
        deep = parts.full(*given, **extra)[1]
        works[f"{name} in full"] = partial(parts.full, *given, **extra)
        works[f"{name}, the last layer"] = partial(parts.shallow, *given, deep=deep, **extra)
    took: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.thread_time()
            work()
            took[name].append(time.thread_time() - start)
    return ", ".join(f"{name} {1000 * min(found):.1f} ms" for name, found in took.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--caches", nargs="*", default=CACHES, help="names or settings")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = MotionPipeline.bundled(dtype=torch.float32)
    ways: dict[str, tuple[int, str | None]] = {f"{n} steps": (n, None) for n in (STEPS, *PLAIN)}
    ways |= {name: (STEPS, name) for name in args.caches}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    errors: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    skipped: dict[str, str] = {}
    latents(pipe, 0, 2, args.sampler, None)
    for clip in range(args.clips):
        best, _ = latents(pipe, clip, MANY, args.sampler, None)
        plain: Tensor | None = None
        for way, (steps, cache) in ways.items():
            found, took = latents(pipe, clip, steps, args.sampler, cache)
            plain = found if plain is None else plain
            seconds[way].append(took)
            errors[way].append((error(found, plain), error(found, best)))
            skipped[way] = "" if pipe.skipped is None else str(pipe.skipped)
            print(f"clip {clip}: {way}: {took:.2f} s, {errors[way][-1][0]:.4f}", file=sys.stderr, flush=True)
    show(seconds, errors, skipped)
    with torch.inference_mode():
        print(f"\ncalls: {call_times(pipe)}")


def show(seconds: dict, errors: dict, skipped: dict) -> None:
    """The table in Markdown."""
    first, plain = f"{STEPS} steps", [f"{n} steps" for n in (STEPS, *PLAIN)]
    medians = {way: [statistics.median(side) for side in zip(*errors[way], strict=True)] for way in errors}
    least = {way: min(found) for way, found in seconds.items()}
    curves = [[(least[way], medians[way][side]) for way in plain] for side in (0, 1)]
    print(f"| setting | times faster | error against {STEPS} steps | a plain run of that time | error against {MANY} "
          "steps | a plain run of that time |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for way in seconds:
        cells = []
        for side in (0, 1):
            there = None if way in plain else on_curve(curves[side], least[way])
            cells += [f"{medians[way][side]:.4f}", "" if there is None else f"{there:.4f}"]
        print(f"| {way} | {least[first] / least[way]:.2f} | {' | '.join(cells)} |")
    for way, words in skipped.items():
        if words:
            print(f"\n{way}: {words}", end="")
    print()


if __name__ == "__main__":
    main()
