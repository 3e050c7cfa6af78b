"""Time and memory of one step over clips of 16 to 1024 frames in windows: python benchmarks/long_clips.py [--rounds 3]

The bundled UNet without guidance on latents of 8x8, windows of 16 with an overlap of 4. The clips are drawn in turn,
round by round, on one thread, and the time is that thread's own, without its waiting for other programs. Memory is
the peak that torch's allocator counts above what was held before, less what the latents take.
The tables are in benchmarks/README.md, the numbers in benchmarks/results.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from unet_motion import ContextWindows, MotionPipeline  # noqa: E402
from unet_motion.bench.measure import weigh  # noqa: E402
from unet_motion.sampling.windowed import viewed, windowed  # noqa: E402

CLIPS = (16, 32, 64, 128, 256, 512, 1024)
WINDOWS = ContextWindows(16, 4, schedule="standard_static")
TIMESTEPS = torch.tensor([999.0, 500.0])
WAYS = {
    "windows": CLIPS,
    "2 windows at once": (64, 512),
    "4 windows at once": (64, 512),
    "views": (64, 512),
    "views, 16 frames at once": (64, 512),
}


def step(pipe: MotionPipeline, way: str, frames: int) -> Callable[[], Tensor]:
    """One call of the model over a clip."""
    x = torch.randn(frames, pipe.unet.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(3))
    if way.startswith("views"):
        predict = pipe._guided(["a red star still"], frames, 1, None, 16 if "at once" in way else None)
        model = viewed(predict, WINDOWS, frames, TIMESTEPS)
    else:
        at_once = int(way.split()[0]) if "at once" in way else 1
        predict = pipe._guided(["a red star still"], frames, 1, None)
        model = windowed(predict, WINDOWS, frames, TIMESTEPS, at_once)
    return lambda: model(x, TIMESTEPS[0])


def in_turn(works: dict, rounds: int) -> dict[tuple, list[float]]:
    """CPU seconds of each work, one for each round; a call before warms the memory."""
    seconds: dict[tuple, list[float]] = {key: [] for key in works}
    next(iter(works.values()))()
    for _ in range(rounds):
        for key, work in works.items():
            start = time.process_time()
            work()
            seconds[key].append(time.process_time() - start)
    return seconds


def measure(pipe: MotionPipeline, rounds: int) -> list[dict]:
    works = {(way, frames): step(pipe, way, frames) for way, clips in WAYS.items() for frames in clips}
    seconds = in_turn(works, rounds)
    rows = []
    for (way, frames), work in works.items():
        weight = weigh(work, torch.device("cpu"))
        latents = weight.result.nbytes
        rows.append(
            {
                "way": way,
                "frames": frames,
                "windows": len(WINDOWS.windows(frames)),
                "ms_per_frame": [round(1000 * took / frames, 3) for took in seconds[way, frames]],
                "peak_mib": round((weight.memory - latents) / 2**20, 3),
                "latents_mib": round(latents / 2**20, 3),
            }
        )
    return rows


def table(rows: list[dict]) -> str:
    lines = ["| way | frames | windows | ms a frame (range) | against 64 frames | peak MiB | against 64 frames |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        base = next(other for other in rows if other["way"] == row["way"] and other["frames"] == 64)
        times, before = row["ms_per_frame"], base["ms_per_frame"]
        ratio = statistics.median(a / b for a, b in zip(times, before, strict=True))
        took = f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"
        held = f"{row['peak_mib']:.1f} | {row['peak_mib'] / base['peak_mib']:.2f}"
        lines.append(f"| {row['way']} | {row['frames']} | {row['windows']} | {took} | {ratio:.2f} | {held} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a folder for the numbers as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        rows = measure(MotionPipeline.bundled(dtype=torch.float32), args.rounds)
    print(table(rows))
    if args.out is not None:
        machine = {"threads": torch.get_num_threads(), "torch": torch.__version__.split("+")[0]}
        found = {"date": str(datetime.date.today()), **machine, "rows": rows}
        name = f"{found['date']}-long-clips.json"
        (args.out / name).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
