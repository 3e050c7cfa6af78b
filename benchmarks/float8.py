"""What products in float8 err by on the bundled model: python benchmarks/float8.py [--clips 4] [--dtype float32]

All products that may be are in float8, which is more than the option takes by itself in so small a model. The error is
that of the latents after 20 steps against the plain run in float32, the norm of the difference by the norm; beside it
a plain run in 16 bits, and runs with fewer steps; and in how many clips the judge sees what it sees in the plain ones.
First the error of single products, each of the input that it has in a step in float32. The table is in docs/float8.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from functools import partial

import torch
from step_cache import STEPS, error, latents
from torch import Tensor, nn

from unet_motion import MotionPipeline
from unet_motion.ops.linear import float8
from unet_motion.training.bundled_model.export import load_judge

FEWER = (16, 12, 10)


def of_products(pipe: MotionPipeline, copy: MotionPipeline) -> dict[str, list[float]]:
    """The relative error of each product of a step in ``copy``, of the inputs that ``pipe`` has, by kind of layer."""
    found: dict[str, list[float]] = defaultdict(list)

    def compare(path: str, layer: nn.Module, _: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        kind = "feed-forward" if ".ff." in path else "attention" if ".attn" in path else "proj_in, proj_out"
        found[kind].append(error(layer(*args), out))

    handles = []
    for path, layer in copy.unet.named_modules():
        if float8.is_float8(layer):
            hook = partial(compare, path, layer)
            handles.append(pipe.unet.get_submodule(path).register_forward_hook(hook))
    with torch.inference_mode():
        latents(pipe, 0, 1, "ddim", None)
    for handle in handles:
        handle.remove()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    plain = MotionPipeline.bundled(dtype=torch.float32)
    half, rounded = MotionPipeline.bundled(dtype=torch.bfloat16), MotionPipeline.bundled(dtype=torch.float32)
    count = len(rounded.unet.enable_float8_products(least_outputs=0))
    for kind, errors in of_products(plain, rounded).items():
        print(f"| {kind}: a product of {len(errors)} | {statistics.median(errors):.4f} | {max(errors):.4f} |")
    rounded.to(getattr(torch, args.dtype))
    ways = {f"float8, {count} layers": (rounded, STEPS), "bfloat16": (half, STEPS)}
    ways |= {f"{steps} steps": (plain, steps) for steps in FEWER}
    expected = [latents(plain, clip, STEPS, "ddim", None)[0] for clip in range(args.clips)]
    runs = {way: [latents(pipe, c, n, "ddim", None)[0] for c in range(args.clips)] for way, (pipe, n) in ways.items()}
    judge, seen = load_judge(), {}
    for way, found in {"plain": expected, **runs}.items():
        verdict = judge.verdict(torch.stack([plain.pictures(clip) for clip in found]))
        seen[way] = torch.stack([verdict.shape, verdict.colour, verdict.motion])
    for way, found in runs.items():
        errors = [error(a, b) for a, b in zip(found, expected, strict=True)]
        same = int((seen[way] == seen["plain"]).all(0).sum())
        print(f"| {way} | {statistics.median(errors):.4f} | {max(errors):.4f} | {same} of {args.clips} |")


if __name__ == "__main__":
    main()
