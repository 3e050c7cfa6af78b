"""Whole sampling runs on small models: ours beside ComfyUI's own MODEL of the same weights."""

from __future__ import annotations

import comfy.sample
import torch
from pack.nodes.host.model.apply import apply_motion_module
from small import motion_module, sd15

SIZE = (8, 8)


# One layer a level instead of two, where only the number of calls matters.
SHALLOW = {
    "num_res_blocks": [1] * 4,
    "transformer_depth": [1, 1, 1, 0],
    "transformer_depth_output": [1] * 6 + [0] * 2,
}


def models(active: bool = False, shallow: bool = False):
    """ComfyUI's own MODEL, and the same with motion modules: by default with such that add nothing."""
    base = sd15(**SHALLOW if shallow else {})
    motion = motion_module(active=active, **({"motion_layers_per_block": 1} if shallow else {}))
    return base, apply_motion_module(base, motion, beta_schedule="linear")


def text(seed: int, tokens: int = 7, **options) -> list:
    """A conditioning of random text."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, tokens, 768, generator=generator), dict(options)]]


def noise(frames: int = 3, seed: int = 5, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randn(frames, 4, *size, generator=torch.Generator().manual_seed(seed))


def sample(
    model, positive=None, negative=None, frames: int = 3, steps: int = 1, cfg: float = 3.0, sampler: str = "euler",
    scheduler: str = "normal", start: torch.Tensor | None = None, latent: torch.Tensor | None = None, seed: int = 3,
    **more,
) -> torch.Tensor:  # fmt: skip
    """The latents of a run; random numbers of samplers and patches start from the same seed each time."""
    torch.manual_seed(0)
    start = noise(frames) if start is None else start
    latent = torch.zeros_like(start) if latent is None else latent
    positive, negative = positive or text(1), negative or text(2)
    out = comfy.sample.sample(
        model, start, steps, cfg, sampler, scheduler, positive, negative, latent, disable_pbar=True, seed=seed, **more
    )
    assert out.isfinite().all()
    return out


def difference(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    """By frame, how far a is from b."""
    return [float((x - y).norm() / y.norm()) for x, y in zip(a, b, strict=True)]


def execute(node: type, *arguments, **named):
    """The first output of a core node; older versions have them in another style."""
    run = node.execute if hasattr(node, "execute") else getattr(node(), node.FUNCTION)
    return run(*arguments, **named)[0]
