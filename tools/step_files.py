"""What one step of the UNet runs through: `python3 tools/step_files.py [REPOSITORY]`.

A step of a small UNet on a CPU is traced, with text and FreeU. Each file is counted by the lines that ran and by its
whole length, in four groups: the network with the call that its layers share, the checks of what comes in, the doors of
the operations with their plain code, and the fast paths beside these with what chooses among them.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

FAST = ("cpu", "cuda", "triton", "winograd", "packed", "projections", "onto", "weights", "shared_input",
        "narrow_groups", "convolution", "short_attention", "padded_keys", "time_projections")  # fmt: skip
"""Beginnings of the names of files with a faster way to what stands elsewhere, in this layout and in earlier ones."""
CHOICE = ("float8", "mode", "proof")
"""Files with the choice of a faster way."""

GROUPS = ("the network and its call", "checks of what comes in", "doors of operations", "fast paths and their choice")


def group_of(path: Path) -> str:
    network, checks, doors, fast = GROUPS
    if path.stem.startswith(FAST) or path.stem in CHOICE:
        return fast
    if path.stem == "entry":
        return checks
    return doors if "ops" in path.parts else network


def lines_of_a_step(repository: Path) -> dict[Path, set[int]]:
    """The library's files of which a function runs in one step -> the lines that ran."""
    sys.path.insert(0, str(repository))
    import torch

    from unet_motion import ForwardOptions, FreeU, UNetMotionModel

    blocks = ("CrossAttnDownBlockMotion", "DownBlockMotion"), ("UpBlockMotion", "CrossAttnUpBlockMotion")
    unet = UNetMotionModel(
        block_out_channels=(32, 64), norm_num_groups=8, cross_attention_dim=16, num_attention_heads=4,
        down_block_types=blocks[0], up_block_types=blocks[1],
    ).eval()  # fmt: skip
    inputs = torch.randn(1, 4, 4, 8, 8), 1, torch.randn(1, 5, 16)
    options = ForwardOptions(freeu=FreeU(0.9, 0.2, 1.1, 1.2))
    library, ran = str((repository / "unet_motion").resolve()), defaultdict(set)

    def trace(frame, event, _):
        name = frame.f_code.co_filename
        if not name.startswith(library):
            return None
        ran[Path(name)].add(frame.f_lineno)
        return trace

    with torch.no_grad():
        unet(*inputs, options=options)
        sys.settrace(trace)
        try:
            unet(*inputs, options=options)
        finally:
            sys.settrace(None)
    return ran


def length(path: Path) -> int:
    return len(path.read_text().splitlines())


def main(repository: Path) -> None:
    ran = lines_of_a_step(repository)
    for group in GROUPS:
        paths = sorted(path for path in ran if group_of(path) == group)
        for path in paths:
            print(f"{len(ran[path]):6} of {length(path):4}  {path.relative_to(repository)}")
        of = sum(map(length, paths))
        print(f"{sum(len(ran[path]) for path in paths):6} of {of:4}  lines of {len(paths)} files: {group}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve())
