"""Step caches on a UNet of four levels with random weights that was trained on two clips alone.

    python benchmarks/overfit_full_size.py --minutes 60 --weights overfit.safetensors
    python benchmarks/overfit_full_size.py --minutes 0 --weights overfit.safetensors    # the table once more
    python benchmarks/overfit_full_size.py --widths 64 128 256 256 --dtype float32 --minutes 5

Stable Diffusion 1.5's structure with AnimateDiff's modules, at its widths or smaller ones, 8 frames of 8x8 latents,
one thread, AdamW on copies of the weights in float32. At the full widths the outer two of the four levels are trained
alone: the inner two, nine tenths of 1.3 thousand million weights, stay as they were drawn and give the outer ones
features to work with, since their gradients and AdamW's state would take 20 GB. One clip goes with a prompt, both with
the empty one, so that guidance has something to do. How well the clip is known is said beside chance, the best that can
be said of the noise without knowing the clip. Then come the plain runs and the presets, as benchmarks/step_cache.py has
them for the bundled model. The table is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from unet_motion import MotionPipeline, UNetMotionModel  # noqa: E402
from unet_motion.sampling.step_cache import StepReport  # noqa: E402
from unet_motion.training.optimizers import make_optimizer  # noqa: E402

PROMPT, TEXT, WORDS, FRAMES, SIDE = "the clip", 768, 8, 8, 8
FULL = (320, 640, 1280, 1280)
OUTER = ("conv_in", "time_embedding", "down_blocks.0", "down_blocks.1", "up_blocks.2", "up_blocks.3", "conv_norm_out",
         "conv_out")  # fmt: skip
INNER_END = 1
"""The last of the up blocks that stay as they were drawn."""
STEPS, PLAIN, PRESETS = 20, (18, 16, 14, 12, 10), ("careful", "balanced", "fast")
LAST_LAYER = 0.09
"""The last layer's share of a step with guidance, counted at 64x64 latents (docs/step-cache.md)."""
LEVELS = (100, 300, 500, 700, 900)


class Prompts:
    """A tokenizer and a text encoder: fixed random rows for each of the two prompts."""

    rows = torch.randn(2, WORDS, TEXT, generator=torch.Generator().manual_seed(5))

    def encode_all(self, prompts: list[str]) -> Tensor:
        return torch.tensor([int(prompt == PROMPT) for prompt in prompts])

    def __call__(self, ids: Tensor) -> tuple[Tensor, None]:
        return self.rows[ids], None


def clips() -> Tensor:
    """Two clips (2, FRAMES, 4, SIDE, SIDE) of mean 0 and variance 1: soft spots that move, another one a channel."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    found = torch.empty(2, FRAMES, 4, SIDE, SIDE)
    for clip in range(2):
        for frame in range(FRAMES):
            for channel in range(4):
                angle = 2 * math.pi * (channel / 4 + (frame / FRAMES) * (1 if clip else -1)) + clip
                cx, cy = (SIDE - 1) / 2 * (1 + 0.7 * math.cos(angle)), (SIDE - 1) / 2 * (1 + 0.7 * math.sin(angle))
                found[clip, frame, channel] = (-((x - cx) ** 2 + (y - cy) ** 2) / (6 + 4 * channel)).exp()
    flat = found.flatten(1)
    return ((flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)).view_as(found)


def build(widths: Sequence[int], dtype: torch.dtype) -> UNetMotionModel:
    """The UNet with random weights; what begins at zero is drawn too, so that motion modules take part."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    unet = UNetMotionModel(cross_attention_dim=TEXT, motion_max_seq_length=32, block_out_channels=tuple(widths))
    torch.set_default_dtype(torch.float32)
    outer = max(widths) >= max(FULL)
    for name, weight in unet.named_parameters():
        if weight.dim() > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=0.5 * weight[0].numel() ** -0.5)
        weight.requires_grad_(not outer or name.startswith(OUTER))
    if outer:  # what the inner levels give is input to the outer ones: no gradient goes into it
        unet.up_blocks[INNER_END].register_forward_hook(lambda module, inputs, out: out.detach())
    return unet


def noisy(pipe: MotionPipeline, clean: Tensor, timesteps: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Rows of clips with noise, that noise, and alpha^2 (rows, 1, 1, 1, 1)."""
    level = pipe.schedule.alphas_cumprod[timesteps].float().view(-1, 1, 1, 1, 1)
    noise = torch.randn(clean.shape, generator=generator)
    return level.sqrt() * clean + (1 - level).sqrt() * noise, noise, level


def predicted(pipe: MotionPipeline, x: Tensor, timesteps: Tensor, prompts: Tensor) -> Tensor:
    """The noise that the UNet finds in rows (B, F, C, h, w), float32."""
    text = Prompts.rows[prompts].to(pipe.dtype)
    rows = x.flatten(0, 1).to(pipe.dtype)
    return pipe.unet.forward_frames(rows, timesteps.float(), text, num_frames=FRAMES).view_as(x).float()


def relative_error(found: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """Mean squared error of each row by what an estimate without knowledge of the clip has: alpha^2, at variance 1."""
    return ((found - noise).square() / level).flatten(1).mean(1)


def train(pipe: MotionPipeline, seconds: float, rows: int, rate: float) -> None:
    """AdamW for so many seconds of this thread's own time."""
    weights = [weight for weight in pipe.unet.parameters() if weight.requires_grad]
    masters = [torch.nn.Parameter(weight.detach().float()) for weight in weights]
    optimizer, both = make_optimizer("AdamW", masters, rate, 0.0), clips()
    generator, begin, losses = torch.Generator().manual_seed(1), time.thread_time(), []
    while (spent := time.thread_time() - begin) < seconds:
        prompts = torch.randint(3, (rows,), generator=generator).clamp(max=1)
        which = torch.where(prompts == 1, 0, torch.randint(2, (rows,), generator=generator))
        timesteps = torch.randint(1000, (rows,), generator=generator)
        x, noise, level = noisy(pipe, both[which], timesteps, generator)
        found = relative_error(predicted(pipe, x, timesteps, prompts), noise, level + 0.02)
        found.mean().backward()
        losses.append(float(found.detach().mean()))
        optimizer.param_groups[0]["lr"] = rate * min(1, len(losses) / 10, 0.05 + 2 * (1 - spent / seconds))
        for weight, master in zip(weights, masters, strict=True):
            master.grad, weight.grad = None if weight.grad is None else weight.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        with torch.no_grad():
            for weight, master in zip(weights, masters, strict=True):
                weight.copy_(master)
        if len(losses) % 10 == 0:
            print(f"{len(losses)} steps, {spent:.0f} s: {sum(losses[-10:]) / 10:.3f}", file=sys.stderr, flush=True)
    print(f"\n{len(losses)} training steps of {rows} clips in {seconds / 60:g} minutes\n")


@torch.inference_mode()
def show_knowledge(pipe: MotionPipeline) -> None:
    """The error of the noise that is found in the first clip with its prompt, beside chance."""
    timesteps = torch.tensor(LEVELS)
    rows = clips()[:1].repeat(len(LEVELS), 1, 1, 1, 1)
    x, noise, level = noisy(pipe, rows, timesteps, torch.Generator().manual_seed(9))
    found = predicted(pipe, x, timesteps, torch.ones(len(LEVELS), dtype=torch.long))
    for t, share in zip(LEVELS, relative_error(found, noise, level).tolist(), strict=True):
        print(f"timestep {t}: {share:.3f} of chance")


def latents(pipe: MotionPipeline, seed: int, steps: int, cache: str | None) -> Tensor:
    found: list[Tensor] = []
    pipe.decode = found.append  # type: ignore[method-assign, assignment]
    size = {"frames": FRAMES, "width": 8 * SIDE, "height": 8 * SIDE}
    pipe(PROMPT, steps=steps, seed=seed, progress=False, step_cache=cache, **size)
    return found[0]


def full_steps(report: StepReport | None, steps: int) -> float:
    """The time of a run in full steps: half of the last layer's where the unconditional half was left out."""
    return steps if report is None else report.full + LAST_LAYER * (report.shallow - report.halves_kept / 2)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def show_table(pipe: MotionPipeline, seeds: int, settings: Sequence[str]) -> None:
    """Errors against 20 plain steps; the time is counted in full steps."""
    ways: dict[str, tuple[int, str | None]] = {f"{n} steps": (n, None) for n in (STEPS, *PLAIN)}
    ways |= {setting: (STEPS, setting) for setting in (*PRESETS, *settings)}
    rows: dict[str, list[str]] = {}
    times: dict[str, float] = {}
    for seed in range(seeds):
        plain: Tensor | None = None
        for way, (steps, cache) in ways.items():
            found = latents(pipe, seed, steps, cache)
            plain = found if plain is None else plain
            times[way] = full_steps(pipe.skipped, steps)
            rows.setdefault(way, []).append(f"{error(found, plain):.4f}")
            print(f"seed {seed}: {way}: {rows[way][-1]}, to the clip {error(found, clips()[0]):.3f}, to the other "
                  f"{error(found, clips()[1]):.3f}", file=sys.stderr, flush=True)  # fmt: skip
    print("\n| setting | full calls | faster by calls | error against 20 steps, by seed |\n|---|---|---|---|")
    for way, errors in rows.items():
        print(f"| {way} | {math.floor(times[way])} | {STEPS / times[way]:.2f} | {', '.join(errors)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=25, help="of training, one thread's own time")
    parser.add_argument("--widths", type=int, nargs=4, default=FULL, help="channels of the levels, multiples of 32")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--runs", choices=("bfloat16", "float32"), help="dtype of the runs that are judged, if another")
    parser.add_argument("--rows", type=int, default=2, help="clips in a training step")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate")
    parser.add_argument("--seeds", type=int, default=1, help="runs of the table")
    parser.add_argument("--also", nargs="*", default=(), help="settings of a step cache beside the presets")
    parser.add_argument("--weights", type=Path, help="file of the trained weights, read where it is, then written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    unet, prompts = build(args.widths, getattr(torch, args.dtype)), Prompts()
    if args.weights is not None and args.weights.exists():
        unet.load_state_dict(load_file(args.weights), strict=False)
    pipe = MotionPipeline(unet, prompts, prompts, None)  # type: ignore[arg-type]
    if args.minutes:
        train(pipe, 60 * args.minutes, args.rows, args.rate)
        if args.weights is not None:
            trained = {name: weight.detach() for name, weight in unet.named_parameters() if weight.requires_grad}
            save_file({name: weight.contiguous() for name, weight in trained.items()}, args.weights)
    if args.runs is not None:
        unet.to(getattr(torch, args.runs))
    show_knowledge(pipe)
    show_table(pipe, args.seeds, args.also)


if __name__ == "__main__":
    main()
