"""Clips that are sampled while a run goes on, always from the same noise, so that they show what training changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...bundled import BundledParts
from ...files.writing import write_safetensors
from ...sampling import get_sampler
from ...video import write_video
from .watcher import Watcher

SEED = 1234
STEPS, GUIDANCE, SCALE = 20, 3.0, 4


class Validation(Watcher):
    """Samples clips every few steps into a folder, with the averaged weights where there are some.

    For a model of the bundled form `step-000100-0.webp`; for any other UNet, whose decoder is not here, the latents
    (F, C, h, w) as `step-000100-0.safetensors`.

    Args:
        folder: of the clips.
        every: steps between them.
        texts: tensors of each clip's text, by name, as `ClipDataset` has them.
        empty: those of the empty prompt for guidance, or None for none.
        shape: (F, C, h, w) of the latents.
        parts: decodes; None leaves the latents.
        steps, guidance: of the sampling.
        board: shows the clips too.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        texts: Sequence[dict[str, Tensor]],
        empty: dict[str, Tensor] | None,
        shape: Sequence[int],
        parts: BundledParts | None = None,
        steps: int = STEPS,
        guidance: float = GUIDANCE,
        board: Any = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"`every` is {every}, expected at least 1.")
        self.folder, self.every, self.texts, self.empty = Path(folder), every, list(texts), empty
        self.shape, self.parts, self.steps, self.guidance, self.board = tuple(shape), parts, steps, guidance, board

    def stepped(self, trainer, row: dict[str, float]) -> None:
        if trainer.step % self.every and trainer.step != trainer.recipe.steps:
            return
        with trainer.averaged():
            for number, text in enumerate(self.texts):
                self._write(f"step-{trainer.step:06}-{number}", trainer.step, self.sample(trainer, text, number))

    @torch.no_grad()
    def sample(self, trainer, text: dict[str, Tensor], number: int) -> Tensor:
        """The latents (F, C, h, w) of one clip."""
        unet, schedule, sampler = trainer.unet, trainer.objective.schedule, get_sampler("ddim")
        noise = torch.randn(self.shape, generator=torch.Generator().manual_seed(SEED + number)).to(unet.device)
        both = [text] if self.empty is None else [self.empty, text]
        rows = {name: torch.stack([one[name] for one in both]).to(unet.device) for name in text}
        hidden = rows.pop("text")

        def model(x: Tensor, timestep: Tensor) -> Tensor:
            frames = torch.cat([x] * len(both))
            with torch.autocast(x.device.type, torch.bfloat16, enabled=trainer.recipe.bfloat16):
                out = unet.forward_frames(
                    frames, float(timestep), hidden, self.shape[0], added_cond_kwargs=rows or None
                ).float()
            if len(both) == 1:
                return out
            free, given = out.chunk(2)
            return free + self.guidance * (given - free)

        return sampler.run(model, noise, schedule, schedule.steps(self.steps, sampler.spacing))

    @torch.no_grad()
    def _write(self, name: str, step: int, latents: Tensor) -> None:
        if self.parts is None:
            write_safetensors({"latents": latents.cpu().contiguous()}, self.folder / f"{name}.safetensors")
            return
        scale = self.parts.info.get("latent_scale", 1.0)
        pictures = self.parts.autoencoder.decode(latents.cpu() / scale).clamp(0, 1)
        frames = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        write_video(self.folder / f"{name}.webp", frames.repeat(SCALE, 1).repeat(SCALE, 2))
        if self.board is not None:
            self.board.show(name.rpartition("-")[2], step, frames)
