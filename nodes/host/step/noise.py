"""The noise that samplers start from: as core's NOISE, and put on a MODEL so that any sampler takes it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import comfy.patcher_extension
import comfy.sample
import torch
from torch import Tensor

from ....unet_motion.sampling import ContextWindows, arranged, mix_noise, seed_apart
from ..checks import check_latent_clip
from .settings import settings, with_settings

KEY = "unet_motion_noise"
SEEDS = 2**64
LAST_SEED = SEEDS - 2
"""Core's samplers draw their later noise from the next seed on a CPU, which has to be one, too."""


@dataclass(frozen=True)
class ClipNoise:
    """Noise of a kind for the frames of a clip, as core's samplers take a NOISE.

    Args:
        seed: of this noise; samplers read it for what they draw later.
        kind: one of `unet_motion.sampling.NOISES`.
        windows: of the clip, for the kinds that ask for them.
        other: a NOISE that is mixed in, or None.
        weight: of this noise, 0 to 1; `other` has the rest.
    """

    seed: int
    kind: str
    windows: ContextWindows
    other: Any = None
    weight: float = 1.0

    @property
    def depth(self) -> int:
        return 0 if self.other is None else getattr(self.other, "depth", 0) + 1

    def generate_noise(self, latent: dict) -> Tensor:
        """Noise like the latents (F, C, h, w), on the CPU."""
        samples = latent["samples"]
        check_latent_clip("latent_image", samples)
        # Parts of a mix are independent also where their seeds are equal.
        seed = seed_apart(self.seed, self.depth)
        start = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
        return self._mixed(arranged(start, self.kind, self.windows, seed), latent)

    def arrange(self, noise: Tensor, latent: dict) -> Tensor:
        """The same from noise that a sampler drew with this seed, where nothing is mixed in."""
        if self.depth:
            return self.generate_noise(latent)
        return arranged(noise, self.kind, self.windows, self.seed)

    def with_seed(self, seed: int) -> ClipNoise:
        """This noise as it would be with another seed, all that is mixed in moved by as much."""
        moved = None
        if self.other is not None:
            moved = with_seed(self.other, (self.other.seed + seed - self.seed) % SEEDS)
        return replace(self, seed=seed, other=moved)

    def _mixed(self, own: Tensor, latent: dict) -> Tensor:
        if self.other is None:
            return own
        other = self.other.generate_noise(latent).to(own)
        return mix_noise([(own, self.weight), (other, 1 - self.weight)])


def with_seed(noise: Any, seed: int) -> Any:
    """A NOISE of any pack as it would be with another seed."""
    if isinstance(noise, ClipNoise):
        return noise.with_seed(seed)
    moved = copy.copy(noise)
    moved.seed = seed
    return moved


def use_noise(model: Any, noise: Any, follow_seed: bool) -> Any:
    """A clone of a MODEL whose runs start from a NOISE; runs without added noise stay without.

    Args:
        follow_seed: draw the noise with the sampler's seed, not with its own.
    """
    clone = with_settings(model)
    clone.model_options["transformer_options"][KEY] = (noise, follow_seed)

    def wrapper(
        executor, start, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None,
        *rest, **named,
    ):  # fmt: skip
        options = executor.class_obj.model_options["transformer_options"]
        start = chosen_noise(options, start, latent_image, seed)
        return executor(
            start, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, *rest, **named
        )

    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    clone.remove_wrappers_with_key(kind, KEY)
    clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


def chosen_noise(transformer_options: dict, drawn: Tensor, latent: Tensor, seed: int | None) -> Tensor:
    """The noise that a MODEL asks for in the place of what a sampler drew with a seed, (clips * frames, C, h, w)."""
    if KEY not in transformer_options or not torch.count_nonzero(drawn):
        return drawn
    check_latent_clip("latent_image", drawn)
    noise, follow_seed = transformer_options[KEY]
    frames = settings(transformer_options).get("frames_per_clip") or len(drawn)
    seed = noise.seed if seed is None or not follow_seed else seed
    clips = []
    for start in range(0, len(drawn), frames):
        own = with_seed(noise, (seed + start) % SEEDS)
        part = {"samples": latent[start : start + frames].cpu()}
        if isinstance(own, ClipNoise) and follow_seed:
            clips.append(own.arrange(drawn[start : start + frames], part))
        else:
            clips.append(own.generate_noise(part).to(drawn))
    return torch.cat(clips)
