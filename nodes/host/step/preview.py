"""While a clip is sampled, its node shows all frames so far as a loop.

Core's preview shows the first latent of the batch. The loop is made of the same latents with the same factors, a
picture of the latents' size for every frame; the last one is decoded, where there is a small decoder. It
travels the same way: ComfyUI sends what it gets by calling `save` on its event loop, so that the loop is encoded before
and only handed over there.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.patcher_extension
import torch
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from PIL import Image
from torch import Tensor

from ....unet_motion.files.errors import shorten
from ....unet_motion.video.animations import encode_webp
from .hooks import KEY
from .settings import settings
from .small_decoder import Decode, small_decoder

SHARE = 0.03
"""How much of the sampling time previews may take, but for the last one, which is always made."""

CLIENTS_REMEMBERED, LONGEST_CLIENT = 64, 128
MIN_FPS, MAX_FPS = 1, 60
LOSSLESS_PIXELS = 32 * 32


@dataclass(frozen=True)
class PreviewChoice:
    """What a page wants to see.

    Attributes:
        motion: whether to send loops. Nobody gets them who has not asked: ComfyUI calls every preview a JPEG or a PNG.
        fps: frames a second of the loops.
    """

    motion: bool = False
    fps: float = 8.0


_choices: OrderedDict[str, PreviewChoice] = OrderedDict()


def choose_preview(client: Any, motion: Any, fps: Any) -> PreviewChoice:
    """Remember what a page wants, under the id with which it queues prompts.

    Raises:
        ValueError: `client` is no id, `motion` not a bool, or `fps` not a number from 1 to 60.
    """
    if not isinstance(client, str) or not 0 < len(client) <= LONGEST_CLIENT:
        found = f"{len(client)} characters" if isinstance(client, str) else f"a {type(client).__name__}"
        raise ValueError(f"client is {found}, expected a text of 1 to {LONGEST_CLIENT} characters.")
    if not isinstance(motion, bool):
        raise ValueError(f"motion is {shorten(repr(motion))}, expected true or false.")
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not MIN_FPS <= fps <= MAX_FPS:
        raise ValueError(f"fps is {shorten(repr(fps))}, expected a number from {MIN_FPS} to {MAX_FPS}.")
    choice = _choices[client] = PreviewChoice(motion, float(fps))
    _choices.move_to_end(client)
    while len(_choices) > CLIENTS_REMEMBERED:
        _choices.popitem(last=False)
    return choice


def is_watching(client: Any) -> bool:
    """Whether a client is a page with the pack's script, which said what it wants to see."""
    return client in _choices


def current_choice() -> PreviewChoice:
    """The choice of the page whose prompt runs; programs, and pages without the pack's script, have made none."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    return _choices.get(getattr(server, "client_id", None), PreviewChoice())


class Loop:
    """An encoded animation that is saved as core saves a preview picture."""

    def __init__(self, data: bytes):
        self.data = data

    def save(self, file: Any, **_: Any) -> None:
        file.write(self.data)


class Pace:
    """Leaves out previews, so that those that are made take a small share of the time.

    Args:
        share: of the whole time, between 0 and 1.
        clock: seconds.
    """

    def __init__(self, share: float = SHARE, clock: Callable[[], float] = time.perf_counter):
        self.share, self.clock = share, clock
        self.next = clock()

    def due(self) -> bool:
        return self.clock() >= self.next

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Time spent in here postpones what is due next."""
        start = self.clock()
        yield
        end = self.clock()
        self.next = end + (end - start) * (1 - self.share) / self.share


def motion_frames(
    x0: Tensor, latent_format: Any, frames: int | None = None, decode: Decode | None = None
) -> Tensor | None:
    """Latents of a batch as pictures, of the latents' size where nothing decodes them.

    Args:
        x0: (clips * frames, C, h, w), scaled as the model sees them.
        latent_format: ComfyUI's, whose RGB factors are used.
        frames: of a clip; by default the batch is one clip. Several clips stand side by side.
        decode: see :func:`small_decoder`.

    Returns:
        uint8 (frames, h, clips * w, 3) on the CPU; None where the latents are no clip, or have no factors.
    """
    factors = getattr(latent_format, "latent_rgb_factors", None)
    if getattr(x0, "is_nested", False) or x0.ndim != 4 or factors is None or x0.shape[1] != len(factors):
        return None
    frames = frames or len(x0)
    if frames < 2 or len(x0) % frames:
        return None
    pictures = _by_factors(x0, latent_format, factors) if decode is None else decode(x0).movedim(1, -1)
    pictures = pictures.unflatten(0, (-1, frames)).permute(1, 2, 0, 3, 4).flatten(2, 3)
    return ((pictures + 1) * 127.5).nan_to_num(0).clamp(0, 255).to(torch.uint8).cpu()


def _by_factors(x0: Tensor, latent_format: Any, factors: Any) -> Tensor:
    """One pixel for each place of latents (N, C, h, w), about [-1, 1], (N, h, w, 3)."""
    bias = getattr(latent_format, "latent_rgb_factors_bias", None)
    weight = torch.tensor(factors, device=x0.device, dtype=torch.float32).T
    bias = None if bias is None else torch.tensor(bias, device=x0.device, dtype=torch.float32)
    return torch.nn.functional.linear(x0.float().movedim(1, -1), weight, bias)


def encode_loop(pictures: Tensor, fps: float) -> bytes:
    """Pictures, uint8 (F, h, w, 3), as an animated WebP that repeats for ever."""
    images = [Image.fromarray(picture) for picture in pictures.numpy()]
    # Lossy WebP halves the colours' resolution, which leaves nothing of the smallest pictures.
    lossless = images[0].width * images[0].height <= LOSSLESS_PIXELS
    durations = [round(1000 / fps)] * len(images)
    return encode_webp(images, durations, lossless=lossless, quality=75, method=0)


def _with_loop(callback: Callable, guider: Any) -> Callable:
    pace = Pace()
    latent_format = guider.model_patcher.model.latent_format
    clip = settings(guider.model_options.get("transformer_options", {})).get("frames_per_clip")

    def report(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        callback(step, x0, x, total)
        # Read anew at every step: people change their mind while they watch.
        choice, node = current_choice(), get_executing_context()
        if node is None or not choice.motion or not (pace.due() or step + 1 == total):
            return
        with pace.counted():
            # What stays on the node is to look like the clip that is made of these latents.
            decode = small_decoder(latent_format, x0.device) if step + 1 == total else None
            pictures = motion_frames(x0, latent_format, clip, decode)
            if pictures is None:
                return
            loop = Loop(encode_loop(pictures, choice.fps))
            get_progress_state().update_progress(node.node_id, step + 1, total, ("WEBP", loop, None))

    return report


def show_while_sampling(model: Any) -> None:
    """Make a MODEL's sampling show the clip so far, where the sampler reports its steps and the page wants it."""

    def wrapper(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, *rest, **named):
        if callback is not None:
            callback = _with_loop(callback, executor.class_obj)
        return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, *rest, **named)

    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    model.remove_wrappers_with_key(kind, KEY)
    model.add_wrapper_with_key(kind, KEY, wrapper)
