"""From a prompt to frames: text, noise, guided sampling, pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..formats import load_unet
from ..forward.options import ForwardOptions
from ..progress import track
from ..runtime.cuda_graphs import StepGraphs
from ..runtime.step_parts import StepParts
from ..schedule import Timeline
from ..schedule.curve import Curve
from ..values import quoted
from .call_checks import check_kinds, check_ranks, checked_guidance, checked_runs, whole
from .context_windows import ContextWindows
from .field_names import takes_field_names
from .free_init import FreeInit
from .guided import Guided, Options, followed
from .image_injection import ImageInjection
from .noise import NoiseMix, clip_noise, seeded_generator
from .noise_schedule import INFO_KEYS, NoiseSchedule, Steps
from .parts import (
    decode_latents,
    default_device,
    default_dtype,
    encode_pictures,
    encode_text,
    latent_scale_of,
    pixels_per_latent_of,
)  # fmt: skip
from .published import TOKENIZER, load_tokenizer, parts_of_checkpoint, parts_of_folder
from .ranks import Ranks
from .samplers import Sampler, get_sampler
from .step_cache import RunCache, StepCache, StepReport, chosen_cache
from .text import Prompt, RunText, checked_texts
from .timeline import timeline_arguments
from .window_parts import WindowPart, Windows, part_at, parts_of, uncovered
from .windowed import in_parts

MOST_SIDE, MOST_FRAMES = 16_384, 100_000


class Tokenizer(Protocol):
    def encode_all(self, prompts: list[str]) -> Tensor:
        """Ids, int64 (N, T), of several prompts."""
        ...


class TextEncoder(Protocol):
    def __call__(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states (N, T, D) for cross-attention, and pooled text (N, P) or None."""
        ...


class Autoencoder(Protocol):
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures in 0..1, (N, 3, H, W), of latents (N, C, h, w); `encode`, the way back, for `ImageInjection`."""
        ...


class MotionPipeline:
    """Generates clips with a `UNetMotionModel`, a text encoder and an autoencoder.

    text_encoder, tokenizer, autoencoder: of the forms above, or CLIPTextModel and CLIPTokenizer of transformers and
        AutoencoderKL of diffusers.
    added_cond: maps pooled text (N, P) and N to the UNet's `added_cond_kwargs`; None where it takes none.
    schedule: what the UNet was trained with; the default is AnimateDiff's.
    latent_scale: the UNet's latents divided by the autoencoder's; None is what the autoencoder's configuration says
        (0.18215 for Stable Diffusion), else 1.
    pixels_per_latent: the autoencoder's factor between pixels and latents in each direction; None is what its
        configuration says, else 8.
    cuda_graphs: replay steps as CUDA graphs, which takes the launches' time away and keeps the memory of a step for
        each of the last two shapes; None does so where the UNet is on a CUDA device.
    float8_products: round the UNet's wide products to float8, see `UNetMotionModel.enable_float8_products`.

    Attributes:
        skipped: what the last call left out by its `step_cache`, or None.
    """

    def __init__(
        self,
        unet,
        text_encoder: TextEncoder,
        tokenizer: Tokenizer,
        autoencoder: Autoencoder,
        schedule: NoiseSchedule | None = None,
        added_cond: Callable[[Any, int], dict[str, Tensor]] | None = None,
        latent_scale: float | None = None,
        pixels_per_latent: int | None = None,
        cuda_graphs: bool | None = None,
        float8_products: bool = False,
    ):
        self.unet = unet
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.autoencoder = autoencoder
        self.schedule = schedule or NoiseSchedule.named()
        self.added_cond = added_cond
        self.latent_scale = latent_scale_of(autoencoder) if latent_scale is None else latent_scale
        self.pixels_per_latent = pixels_per_latent_of(autoencoder) if pixels_per_latent is None else pixels_per_latent
        self.cuda_graphs = cuda_graphs
        self._graphs = StepGraphs(unet)
        self._part_graphs: dict[int, tuple[StepGraphs, StepGraphs]] = {}
        self.skipped: StepReport | None = None
        if float8_products:
            unet.enable_float8_products()
        unet.arrange_weights()

    @classmethod
    def bundled(
        cls, device: torch.device | str = "cpu", dtype: torch.dtype | None = None, path: str | Path | None = None
    ) -> MotionPipeline:
        """The pipeline of the small model that ships with the package: drawn shapes, 64x64 pixels, 16 frames.

        device: "meta" for a pipeline that holds no weights and can only `check`.
        dtype: of the UNet; text encoder and autoencoder are never below float32. None is bfloat16 on a CPU that
            multiplies it faster (AMX, AVX512-BF16), where clips differ by less than they show, else float32.
        path: another file of the same form, as `unet-motion train bundled` writes it.
        """
        from ..bundled import WEIGHTS, added_cond, load_bundled

        dtype = dtype or default_dtype(device)
        parts = load_bundled(device=device, dtype=torch.promote_types(dtype, torch.float32), path=path or WEIGHTS)
        parts.unet.to(dtype)
        # The file says how its model was trained; what it leaves out is AnimateDiff's.
        schedule = NoiseSchedule.named(
            **{ours: parts.info[key] for key, ours in INFO_KEYS.items() if key in parts.info}
        )
        return cls(
            parts.unet,
            parts.text_encoder,
            parts.tokenizer,
            parts.autoencoder,
            schedule,
            added_cond,
            parts.info.get("latent_scale", 1.0),
        )

    @classmethod
    def from_single_file(
        cls, path: str | Path, motion_module: Any = None, tokenizer: Any = TOKENIZER,
        dtype: torch.dtype | None = None, device: torch.device | str | None = None, float8_products: bool = False,
    ) -> MotionPipeline:  # fmt: skip
        """The pipeline of a Stable Diffusion 1.5 checkpoint and a motion module; needs the extra `diffusers`.

        motion_module: what `load_motion_module` reads; None where the checkpoint holds one.
        tokenizer: transformers' CLIPTokenizer, a folder with its files, or its name on the Hugging Face hub: no
            checkpoint holds it.
        dtype, device: of all parts; the defaults are the checkpoint's own, and a CUDA device where there is one.
        float8_products: as for the class.
        Raises OSError or FileFormatError where the files do not fit, ImportError without the extra.
        """
        device = device or default_device()
        text_encoder, autoencoder = parts_of_checkpoint(path, dtype, device)
        unet = load_unet(path, motion_module, dtype=dtype, device=device)
        return cls(unet, text_encoder, load_tokenizer(tokenizer), autoencoder, float8_products=float8_products)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, motion_module: Any = None, dtype: torch.dtype | None = None,
        device: torch.device | str | None = None, float8_products: bool = False,
    ) -> MotionPipeline:  # fmt: skip
        """The pipeline of a folder that diffusers saved a pipeline of Stable Diffusion 1.5 or AnimateDiff in.

        Arguments and errors are those of `from_single_file`.
        """
        device = device or default_device()
        text_encoder, autoencoder, tokenizer = parts_of_folder(folder, dtype, device)
        unet = load_unet(folder, motion_module, dtype=dtype, device=device)
        return cls(unet, text_encoder, tokenizer, autoencoder, float8_products=float8_products)

    def to(self, *args: Any, **kwargs: Any) -> MotionPipeline:
        """Move and cast all parts as `torch.nn.Module.to` does; the pipeline itself is returned."""
        for part in (self.unet, self.text_encoder, self.autoencoder):
            move = getattr(part, "to", None)
            if move is not None:
                move(*args, **kwargs)
        self.unet.arrange_weights()
        self._graphs = StepGraphs(self.unet)
        self._part_graphs = {}
        return self

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @takes_field_names
    @torch.inference_mode()
    def __call__(
        self, prompt: Prompt | Timeline, negative_prompt: Prompt = "", frames: int = 16, steps: int = 20,
        guidance: float | Curve | Sequence[Curve] = 3.0, seed: int = 0, sampler: str = "ddim", width: int = 64,
        height: int = 64, spacing: str | None = None, options: Options | None = None, progress: bool = True,
        windows: Windows | None = None, windows_at_once: int = 1, noise: str | NoiseMix = "default",
        free_init: FreeInit | None = None, views: ContextWindows | None = None, frames_at_once: int | None = None,
        injection: ImageInjection | None = None, step_cache: str | StepCache | None = None, ranks: Ranks | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Frames of one clip, uint8 (frames, height, width, 3); the same arguments give the same frames.

        prompt, negative_prompt: for all frames, or a `PromptSchedule` over them; lists of them give a clip for each,
            (prompts, frames, height, width, 3), with seeds that count up. A `Timeline` is the prompts and what its
            curves say of guidance and of the motion modules; see `timeline_arguments`.
        steps: model evaluations; the time is proportional to it.
        guidance: classifier-free guidance scale (Ho and Salimans 2022); 1 means none, in half the time. Curves over
            frames or steps are multiplied.
        seed: 0 to 2**64 - 1.
        sampler, spacing: names from `SAMPLERS` and `SPACINGS`; spacing None is the sampler's own.
        width, height: pixels, multiples of `pixels_per_latent`.
        options: `ForwardOptions` for every model call, or a function that gives them for a share of the sampling,
            from 0 at the most noise to 1. What they hold for each frame is for the frames of the clip.
        windows: how a clip longer than the model's position table is cut: `ContextWindows`, or several `WindowPart`s of
            the sampling, of which the last one counts where two hold.
        windows_at_once: windows in one model call; more take more memory.
        noise: a name from `NOISES`, or a mix of them; see `clip_noise`.
        free_init: samples the clip several times; see `FreeInit`.
        views: windows inside the motion modules, in the place of `windows`: all else runs once for each frame.
        frames_at_once: frames that layers between motion modules see at a time: less memory, the same values.
        injection: a picture that is laid into the clip while it is sampled; see `ImageInjection`.
        step_cache: fewer full steps: a preset of `STEP_CACHES`, or settings; `skipped` then says what was left out.
        ranks: processes that share the windows of each step; all of them get the clip. See `Ranks`.
        num_frames, num_inference_steps, guidance_scale: diffusers' names of `frames`, `steps` and `guidance`.
        generator: a `torch.Generator` that draws the first noise as diffusers draws it, in the place of `seed`; or one
            for each prompt.
        latents: (prompts, C, frames, h, w), that first noise itself.
        Raises ValueError where an argument is out of its range.
        """
        if isinstance(prompt, Timeline):
            check_kinds(noise, options)
            given = timeline_arguments(prompt, whole("frames", frames), negative_prompt, guidance, options)
            prompt, negative_prompt, guidance, options = given.values()
        prompt, negative_prompt = checked_texts(prompt, negative_prompt)
        frames, steps, width, height = (
            whole(name, number)
            for name, number in (("frames", frames), ("steps", steps), ("width", width), ("height", height))
        )
        windows_at_once = whole("windows_at_once", windows_at_once)
        check_kinds(noise, options)
        parts = parts_of(windows, views)
        self._check(frames, width, height, parts, windows_at_once)
        check_ranks(ranks, parts)
        guidance = checked_guidance(guidance, frames)
        if injection is not None:
            if not isinstance(injection, ImageInjection):
                raise ValueError(f"`injection` is {quoted(injection)}, expected an ImageInjection.")
            injection.check(frames, height, width)
        run = get_sampler(sampler)

        def steps_of(count: int) -> Steps:
            return self.schedule.steps(count, spacing or run.spacing)

        free_init = checked_runs(free_init, steps, seed, steps_of)
        prompts = [prompt] if guidance == 1 else [negative_prompt, prompt]
        cache = None if step_cache is None else RunCache(chosen_cache(step_cache))
        self.skipped = None if cache is None else cache.report
        predict = self._guided(prompts, frames, guidance, options, frames_at_once, cache)

        def sample(state: Tensor, steps: int, generator: torch.Generator, label: str) -> Tensor:
            plan = steps_of(steps)
            last = len(self.schedule.alphas_cumprod) - 1
            held = int if cache is None else cache.begin(len(plan))
            model = in_parts(predict, parts, frames, plan.timesteps, last, windows_at_once, ranks, held)
            model = model if cache is None else followed(cache, model, plan.timesteps)
            watch = partial(track, total=len(plan), description=label, enabled=progress)
            if injection is not None and not injection.is_idle:
                return self._with_picture(injection, run, model, state, plan, generator, watch, cache)
            return run.run(model, state, self.schedule, plan, generator, watch)

        # The state stays in float32 even for a half-precision model: rounding would add up over the steps.
        unit = self.pixels_per_latent
        shape = (frames, self.unet.config.in_channels, height // unit, width // unit)

        begun = part_at(parts, 0.0)
        cut = ContextWindows(frames, 0) if begun is None else begun.windows

        def draw(generator: torch.Generator, seed: int) -> Tensor:
            return clip_noise(noise, generator, shape, seed, cut).to(self.unet.device)

        return self._drawn(sample, draw, free_init, steps, seed)

    def check(self, *args: Any, **kwargs: Any) -> None:
        """Raise the ValueError that a call with these arguments would raise; nothing is sampled."""
        rehearsal = copy(self)
        rehearsal._drawn = lambda *_: np.empty((0, 0, 0, 3), np.uint8)  # type: ignore[method-assign]
        rehearsal(*args, **kwargs)

    def _drawn(self, sample: Callable, draw: Callable, free_init: FreeInit, steps: int, seed: int) -> np.ndarray:
        return self.decode(self._runs(sample, draw, free_init, steps, seed))

    def _with_picture(
        self, injection: ImageInjection, run: Sampler, model: Callable, state: Tensor, plan: Steps,
        generator: torch.Generator, watch: Callable, cache: RunCache | None = None,
    ) -> Tensor:  # fmt: skip
        """A run in two parts, between which the picture is laid in; samplers of second order begin anew."""
        last = len(self.schedule.alphas_cumprod) - 1
        k = injection.step([1 - float(t) / last for t in plan.timesteps])
        if k is None:
            return run.run(model, state, self.schedule, plan, generator, watch)
        x = run.run(model, state, self.schedule, plan.part(0, k), generator, watch)
        alpha, sigma = float(plan.alphas[k]), float(plan.sigmas[k])
        clip, noise = self.schedule.split(x, model(x, plan.timesteps[k]), alpha, sigma)
        x = alpha * injection.injected(clip, self.pictures, self._latents) + sigma * noise
        if cache is not None:
            cache.clear()  # what was kept is of the clip without the picture
        return run.run(model, x, self.schedule, plan.part(k, len(plan)), generator, watch)

    def _latents(self, pictures: Tensor) -> Tensor:
        return encode_pictures(self.autoencoder, pictures) * self.latent_scale

    def _runs(self, sample: Callable, draw: Callable, free_init: FreeInit, steps: int, seed: int) -> Tensor:
        """The latents of the last run: one, or as many as FreeInit makes."""
        generator, count = seeded_generator(seed), free_init.iterations
        state = first = draw(generator, seed)
        last = self.schedule.alphas_cumprod[-1]
        for i in range(count):
            label = "sampling" if count == 1 else f"sampling {i + 1}/{count}"
            result = sample(state, free_init.steps(i, steps), generator, label)
            if i + 1 < count:
                own = free_init.seed(i + 1, seed)
                fresh = draw(seeded_generator(own), own)
                state = free_init.renewed(result, first, fresh, float(last.sqrt()), float((1 - last).sqrt()))
        return result

    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (F, C, h, w) as the UNet leaves them to pictures, uint8 (F, H, W, 3)."""
        return (self.pictures(latents) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def pictures(self, latents: Tensor) -> Tensor:
        """Latents (F, C, h, w) as the UNet leaves them to pictures in 0..1, float32 (F, 3, H, W)."""
        return decode_latents(self.autoencoder, latents / self.latent_scale).clamp(0, 1)

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that the tokenizer does not know; empty where it cannot tell."""
        find = getattr(self.tokenizer, "unknown_words", None)
        return find(prompt) if find else []

    def _guided(
        self, prompts: Sequence[Prompt], frames: int, guidance: Any, options: Options | None,
        frames_at_once: int | None = None, cache: RunCache | None = None,
    ) -> Callable:  # fmt: skip
        """The prediction for windows: both conditions as one batch, mixed by the guidance scale."""
        if not callable(options):
            checked = replace(options or ForwardOptions(), frames_at_once=frames_at_once)
            if checked.plan is not None:
                checked.plan.check(path for path, _ in self.unet.attention_layers)
        text = RunText(prompts, self._encode, frames, self.added_cond)
        graphs = self.unet.device.type == "cuda" if self.cuda_graphs is None else self.cuda_graphs
        step = self._graphs if graphs else self.unet.forward_frames
        parts = None if cache is None else self._parts(cache.settings, graphs)
        last = len(self.schedule.alphas_cumprod) - 1
        return Guided(
            text, len(prompts), frames, guidance, options, frames_at_once, last, self.unet.dtype, step, parts, cache,
            keeps_keys=not graphs,
        )  # fmt: skip

    def _parts(self, settings: StepCache, graphs: bool) -> tuple[Callable, Callable] | None:
        """What runs a step whole and its last layers alone; None where all steps are whole."""
        if settings.interval == 1:
            return None
        parts = StepParts(self.unet, settings.layers or None)
        if not graphs:
            return parts.full, parts.shallow
        if parts.layers not in self._part_graphs:
            of_both = StepGraphs(self.unet, step=parts.full), StepGraphs(self.unet, step=parts.shallow)
            self._part_graphs = {parts.layers: of_both}  # those of other layers go: each holds the memory of a step
        return self._part_graphs[parts.layers]

    def _encode(self, texts: list[str]) -> tuple[Tensor, Tensor | None]:
        return encode_text(self.tokenizer, self.text_encoder, texts, self.unet.conv_in.weight)

    def _check(self, frames: int, width: int, height: int, parts: Sequence[WindowPart], at_once: int) -> None:
        most = self.unet.config.motion_max_seq_length
        for part in parts:
            if part.windows.length > most:
                raise ValueError(
                    f"windows of {part.windows.length} frames, expected at most {most}, the rows of the model's "
                    "position table"
                )
        if frames > MOST_FRAMES:
            raise ValueError(f"frames is {quoted(frames)}, expected at most {MOST_FRAMES}")
        if frames < 1 or (not parts and frames > most):
            raise ValueError(
                f"frames is {frames}, expected 1 to {most}, the rows of the model's position table; `windows` draw more"
            )
        bare = uncovered(parts)
        if bare is not None and frames > most:
            raise ValueError(
                f"no part of `windows` covers the sampling from {bare:g} on, but frames is {frames} and the model's "
                f"position table has {most} rows"
            )
        if at_once < 1:
            raise ValueError(f"windows_at_once is {at_once}, expected at least 1")
        unit = self.pixels_per_latent
        for name, size in (("width", width), ("height", height)):
            if size < unit or size % unit or size > MOST_SIDE:
                raise ValueError(
                    f"{name} is {quoted(size)}, expected a multiple of {unit} pixels, {unit} to {MOST_SIDE}"
                )
