"""What the node that trains shows of its run: progress, the loss, and what the model draws by now."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from typing import Any

import comfy.model_management as mm
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy.cli_args import LatentPreviewMethod, args
from PIL import Image
from torch import Tensor

from ....unet_motion.training.watchers.loss_plot import loss_plot
from ....unet_motion.training.watchers.watcher import Watcher
from ....unet_motion.video import write_video
from ..step.preview import Loop, Pace, current_choice, encode_loop

HEIGHT, WIDTH = 240, 480
FPS = 8.0
RESULT = "unet_motion_training"
"""What the name of the last picture is sent under; web/training_result.mjs looks for it."""


class TrainingView(Watcher):
    """Shows the run on its node, and stops it where the page asks for that.

    Args:
        steps: of the run.
        every: steps between samples; 0 makes one at the end only.
        sample: trainer -> what it draws, (F, H, W, 3) in [0, 1].

    Attributes:
        losses: of the steps so far.
        clip: the last sample, uint8 (F, H, W, 3), or None.
    """

    def __init__(self, steps: int, every: int, sample: Callable[[Any], Tensor]) -> None:
        self.steps, self.every, self.sample = steps, every, sample
        self.losses: list[float] = []
        self.clip: np.ndarray | None = None
        self.bar, self.pace = comfy.utils.ProgressBar(steps), Pace()

    def stepped(self, trainer: Any, row: dict[str, float]) -> None:
        mm.throw_exception_if_processing_interrupted()
        self.losses.append(row["loss"])
        last = trainer.step == self.steps
        if last or (self.every and trainer.step % self.every == 0):
            # What ComfyUI loads for it is not to be differentiated.
            with torch.inference_mode():
                self.clip = (self.sample(trainer).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        preview, moving = None, current_choice().motion
        if (moving or _previews_are_on()) and (last or self.pace.due()):
            with self.pace.counted():
                preview = self._preview(moving)
        self.bar.update_absolute(trainer.step, self.steps, preview)

    def frames(self) -> np.ndarray:
        """The plot, and the sample beside it: uint8 (F, 240, W, 3), one frame without a sample."""
        plot = np.asarray(loss_plot(self.losses, self.steps, (WIDTH, HEIGHT)))[None]
        if self.clip is None:
            return plot
        width = max(2, round(self.clip.shape[2] * HEIGHT / self.clip.shape[1] / 2) * 2)
        sizes = (Image.fromarray(frame).resize((width, HEIGHT), Image.Resampling.BICUBIC) for frame in self.clip)
        clip = np.stack([np.asarray(frame) for frame in sizes])
        return np.concatenate([plot.repeat(len(clip), 0), clip], axis=2)

    def _preview(self, moving: bool) -> tuple[str, Any, None]:
        """What is sent now: a loop to a page that asked for loops, to others its first frame."""
        frames = self.frames()
        if len(frames) == 1 or not moving:
            return "PNG", Image.fromarray(frames[0]), None
        return "WEBP", Loop(encode_loop(torch.from_numpy(frames), FPS)), None

    def result(self) -> dict[str, list[str]]:
        """The name of a temporary file, which the pack's page keeps on the node once the run is over.

        Not among the node's images: a program takes the first of these for what the graph saved.
        """
        name = f"UNetMotion_training_{uuid.uuid4().hex}.webp"
        write_video(os.path.join(folder_paths.get_temp_directory(), name), self.frames(), FPS)
        return {RESULT: [name]}


def _previews_are_on() -> bool:
    """Whether this prompt has ComfyUI's own previews. Newer versions set that for every prompt."""
    return args.preview_method != LatentPreviewMethod.NoPreviews
