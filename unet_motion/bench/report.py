"""The result of a run as JSON and as a Markdown table."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import torch

from .. import __version__
from ..files.atomic import atomic_file
from .cases import Bench, Row
from .measure import Ceilings


def machine(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    isa = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} threads, {isa}"


def describe(bench: Bench) -> dict[str, str]:
    """Device, versions, date and ceilings of a run."""
    import diffusers

    return {
        "device": machine(bench.device),
        "dtype": str(bench.dtype).removeprefix("torch."),
        "unet-motion": __version__,
        "diffusers": diffusers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "matrix product": f"{bench.ceilings.flops / 1e12:.3g} TFLOP/s",
        "copy": f"{bench.ceilings.bytes / 1e9:.3g} GB/s",
        "rounds": str(bench.rounds),
    }


def markdown(about: dict[str, str], rows: list[Row], ceilings: Ceilings) -> str:
    """A table for readers."""
    lines = ["# Benchmark", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    lines += [
        "| case | peer | ours | peer's | times as fast (range) | target | memory | launches | of the floor | error |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(cells(row, ceilings))} |" for row in rows]
    notes = [f"- {row.case}: {row.note}" for row in rows if row.note]
    shares = [
        f"- {row.case}: " + ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in row.profile.items())
        for row in rows
        if row.profile
    ]
    lines += ["", *notes, "", "Time by operation class:", "", *shares] if shares else ["", *notes]
    lines += [
        "",
        "Times are medians of the rounds, in which all candidates run in turn, on one thread of a CPU the process's "
        "own; the ratio is the median of the rounds' ratios. Memory is the peak above what was held before the step, "
        "ours / peer's. The floor is the step's arithmetic at the rate of the large matrix product; a kernel's is the "
        "bytes it must move, at the rate of the large copy.",
    ]
    if about["device"] and not torch.cuda.is_available():
        lines += ["", "GPU rows: not measured."]
    return "\n".join(lines) + "\n"


def cells(row: Row, ceilings: Ceilings) -> list[str]:
    """A row of the table."""
    ratio = "{:.2f} ({:.2f} to {:.2f})".format(*row.ratio) if row.ratio else ""
    floor = row.moved / ceilings.bytes if row.moved else (row.flops or 0) / ceilings.flops
    memory = ""
    if row.memory:
        mine, other = row.memory
        memory = f"{mine / 2**20:.0f} MiB" + (
            f" / {other / 2**20:.0f} MiB = {mine / other:.2f}" if other is not None else ""
        )
    return [
        row.case,
        row.peer,
        "not measured" if row.ours is None else seconds(row.ours),
        seconds(row.theirs),
        ratio,
        row.target,
        memory,
        "{} / {}".format(*row.launches) if row.launches else "",
        f"{row.ours / floor:.2f}" if floor and row.ours else "",
        f"{row.error:.1e}" if row.error is not None else "",
    ]


def seconds(value: float | None) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def write(folder: Path, about: dict[str, str], rows: list[Row], ceilings: Ceilings) -> Path:
    """Write `<date>-<device>.json` and `.md` into a folder; gives the table's path."""
    folder.mkdir(parents=True, exist_ok=True)
    words = "".join(c if c.isalnum() else " " for c in about["device"].split(",")[0]).split()
    path = folder / f"{about['date']}-{'-'.join(words).lower()}-{about['dtype']}.md"
    with atomic_file(path.with_suffix(".json")) as part:
        part.write_text(json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    with atomic_file(path) as part:
        part.write_text(markdown(about, rows, ceilings))
    return path
