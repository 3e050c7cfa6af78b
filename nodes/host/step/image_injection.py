"""A picture that is laid into a clip while any core sampler runs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.model_management as mm
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ....unet_motion import ImageInjection
from ..checks import check_latent_clip
from .noise import LAST_SEED
from .settings import settings, with_settings
from .varying import LAST_TIMESTEP, Varying

KEY = "unet_motion_image_injection"


def inject_image(model: Any, injection: ImageInjection, vae: Any, strength: Varying) -> Any:
    """A clone of a MODEL whose runs have a picture laid in; several of them follow one another.

    Args:
        vae: core's VAE, that belongs to the MODEL.
        strength: over the frames of the clip that is sampled.
    """
    clone = with_settings(model)
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _wrapper(injection, vae, strength))
    return clone


def _wrapper(injection: ImageInjection, vae: Any, strength: Varying) -> Callable:
    """The wrapper around a sampler's own function, where latents are as the model sees them."""

    def wrapper(executor, guider, sigmas, extra_args, *more: Any, **named: Any):
        sampler = executor.class_obj
        if not hasattr(sampler, "sampler_function"):
            raise ValueError(f"Image Injection needs a sampler with steps, but found a {type(sampler).__name__}.")
        noise = more[1]
        check_latent_clip("latent_image", noise)
        base = guider.inner_model
        chosen = settings(extra_args["model_options"].get("transformer_options", {}))
        frames = chosen.get("frames_per_clip") or len(noise)
        own = replace(injection, strength=strength.over_frames(range(frames), frames))
        run = _Run(own, vae, guider, frames)
        run.check(noise)
        shares = (1 - base.model_sampling.timestep(sigmas[sigmas > 0]).double() / LAST_TIMESTEP).clamp(0, 1).tolist()
        step = own.step(shares)
        if step is None or own.is_idle:
            return executor(guider, sigmas, extra_args, *more, **named)
        changed = copy.copy(sampler)
        changed.sampler_function = run.in_two_parts(sampler.sampler_function, sigmas[step])
        rest = WrapperExecutor.new_class_executor(changed.sample, changed, executor.wrappers, executor.idx + 1)
        return rest.execute(guider, sigmas, extra_args, *more, **named)

    return wrapper


class _Run:
    """One run of a sampler on clips of so many frames."""

    def __init__(self, injection: ImageInjection, vae: Any, guider: Any, frames: int):
        self.injection, self.vae, self.guider, self.frames = injection, vae, guider, frames

    def check(self, noise: Tensor) -> None:
        """Raise ValueError where the clip has another number of frames, or lies elsewhere than the picture."""
        unit = int(self.vae.spacial_compression_decode())
        self.injection.check(self.frames, *(unit * size for size in noise.shape[-2:]))

    def in_two_parts(self, sampler: Callable, sigma: Tensor) -> Callable:
        """A sampler's function that lays the picture in before the step of a noise level.

        Samplers of second order begin anew there. Where other pictures part the run, too, the function gets a part of
        its steps: the one that begins with the noise level or runs through it is parted again, no other.
        """

        def function(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
            given = {} if extra_args is None else extra_args
            k = next(iter((sigmas[:-1] == sigma.to(sigmas)).nonzero().flatten().tolist()), None)
            if k is None:
                return sampler(model, x, sigmas, extra_args=given, callback=callback, disable=disable, **options)
            if k:
                x = sampler(model, x, sigmas[: k + 1], extra_args=given, callback=callback, disable=disable, **options)
            clip = model(x, sigmas[k] * x.new_ones([len(x)]), **given)
            x = x + (self._injected(clip) - clip)
            # Fresh noise must not be that of the first part again.
            if given.get("seed") is not None:
                given = {**given, "seed": (given["seed"] + 1) % (LAST_SEED + 1)}
            later = callback and (lambda state: callback({**state, "i": state["i"] + k}))
            return sampler(model, x, sigmas[k:], extra_args=given, callback=later, disable=disable, **options)

        return function

    def _injected(self, clip: Tensor) -> Tensor:
        parts = clip.split(self.frames)
        made = torch.cat([self.injection.injected(part, self._decode, self._encode) for part in parts])
        # The VAE may have taken the place of the UNet and of what is loaded with it.
        mm.load_models_gpu([self.guider.model_patcher, *getattr(self.guider, "loaded_models", ())])
        return made

    def _decode(self, latents: Tensor) -> Tensor:
        pictures = self.vae.decode(self.guider.inner_model.process_latent_out(latents.float()))
        return pictures[..., :3].movedim(-1, 1)

    def _encode(self, pictures: Tensor) -> Tensor:
        latents = self.vae.encode(pictures.movedim(1, -1))
        return self.guider.inner_model.process_latent_in(latents)
