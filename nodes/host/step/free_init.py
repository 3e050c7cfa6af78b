"""FreeInit around a run of any core sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.patcher_extension
import comfy.sample
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....unet_motion.sampling import FreeInit
from ..checks import check_latent_clip
from .context_windows import noise_for_windows
from .noise import chosen_noise
from .settings import settings, with_settings

KEY = "unet_motion_free_init"


def use_free_init(model: Any, free_init: FreeInit) -> Any:
    """A clone of a MODEL whose runs are sampled several times."""
    clone = with_settings(model)

    def outer(executor, *arguments, **named):
        # Behind all other wrappers, also such as later nodes add: what they do to the noise is done to the first one.
        # The guider's options are a copy that each run makes for itself.
        options = executor.class_obj.model_options
        comfy.patcher_extension.add_wrapper_with_key(
            WrappersMP.SAMPLER_SAMPLE, KEY, _runs(free_init), options, is_model_options=True
        )
        return executor(*arguments, **named)

    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer)
    return clone


def _runs(free_init: FreeInit) -> Callable:
    """The wrapper around a sampler's own function, where latents and noise are as the model sees them."""

    def wrapper(
        executor, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        latent = torch.zeros_like(noise) if latent_image is None else latent_image
        _check(noise, sigmas, free_init)
        count, options = free_init.iterations, extra_args["model_options"]
        runs = [_fewer(sigmas, free_init.steps(i, len(sigmas) - 1)) for i in range(count)]
        total, done, state = sum(len(run) - 1 for run in runs), 0, noise
        for i, run in enumerate(runs):
            transformer_options = {**options.get("transformer_options", {}), "sample_sigmas": run}
            given = {**extra_args, "model_options": {**options, "transformer_options": transformer_options}}
            report = callback and _later(callback, done, total)
            result = executor(guider, run, given, report, state, latent_image, denoise_mask, disable_pbar)
            done += len(run) - 1
            if i + 1 < count:
                seed = free_init.seed(i + 1, extra_args.get("seed") or 0)
                fresh = _fresh(transformer_options, noise, latent, seed)
                fresh = noise_for_windows(fresh, options, runs[i + 1], guider.inner_model.model_sampling, seed)
                most = executor.class_obj.max_denoise(guider, runs[i + 1])
                level = _Level(guider.inner_model.model_sampling, runs[i + 1][0], most, latent)
                low = level.noise_of(noise, result)
                frames = settings(transformer_options).get("frames_per_clip") or len(noise)
                state = torch.cat([
                    free_init.mixed(a, b) for a, b in zip(low.split(frames), fresh.split(frames), strict=True)
                ]).to(noise)  # fmt: skip
        return result

    return wrapper


class _Level:
    """How the first state of a run comes from noise, which is `scale * noise + offset`.

    Args:
        sampling: the MODEL's, which says how.
        sigma: where the run begins.
        most: whether that is the highest level, where core adds a little to the noise.
        latent: what the run begins with.
    """

    def __init__(self, sampling: Any, sigma: Tensor, most: bool, latent: Tensor):
        self.sampling, self.sigma = sampling, sigma
        one = torch.ones_like(latent[:1, :1, :1, :1])
        self.scale = sampling.noise_scaling(sigma, one, torch.zeros_like(one), most)
        self.offset = sampling.noise_scaling(sigma, torch.zeros_like(latent), latent, most)
        if not torch.isfinite(self.scale).all() or not self.scale.all():
            raise ValueError("FreeInit needs a model that starts from noise, which this MODEL's sampling does not.")

    def noise_of(self, first: Tensor, result: Tensor) -> Tensor:
        """The noise whose state is the result, noised to this level with the first noise."""
        noised = self.sampling.noise_scaling(self.sigma, first.clone(), result.to(first), False)
        return (noised - self.offset) / self.scale


def _fresh(transformer_options: dict, like: Tensor, latent: Tensor, seed: int) -> Tensor:
    """Noise as the run's own, of another seed."""
    drawn = comfy.sample.prepare_noise(torch.zeros(like.shape), seed).to(like)
    return chosen_noise(transformer_options, drawn, latent, seed)


def _fewer(sigmas: Tensor, steps: int) -> Tensor:
    """So many steps of a run, from the same first level to the same last one."""
    if steps >= len(sigmas) - 1:
        return sigmas
    return sigmas[torch.linspace(0, len(sigmas) - 1, steps + 1).round().long().to(sigmas.device)]


def _later(callback: Callable, done: int, total: int) -> Callable:
    return lambda step, x0, x, _: callback(done + step, x0, x, total)


def _check(noise: Tensor, sigmas: Tensor, free_init: FreeInit) -> None:
    if free_init.iterations == 1:
        return
    check_latent_clip("latent_image", noise)
    if not torch.count_nonzero(noise) or float(sigmas[-1]) > 0:
        what = "no added noise" if not torch.count_nonzero(noise) else f"a last noise level of {float(sigmas[-1]):g}"
        raise ValueError(
            f"FreeInit needs a sampler that goes from its own noise to a finished clip, found {what}; give this "
            "sampler the MODEL from before FreeInit."
        )
