"""The whole making of the bundled model: eight stages, each behind its gate, then the files.

autoencoder, decoder, judge, images, placed, motion, steady and joint; see train_denoiser.py for the last five.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file

from ...bundled.autoencoder import Autoencoder
from ...bundled.parts import BundledParts, build_parts
from ...files.lock import folder_lock
from ...files.writing import write_safetensors
from ..runs import RunLog
from .evaluate import TARGETS, SampleSettings, evaluate, evaluation_triples, missed_targets, sample_clips, write_sheet
from .export import export_bundled, export_judge, load_judge
from .judge import Judge
from .precision import has_fast_bfloat16
from .prompts import plain_prompt, vocabulary
from .train_autoencoder import AutoencoderRecipe, DecoderRecipe, train_autoencoder, train_decoder
from .train_denoiser import StageRecipe, StageTrainer
from .train_judge import JudgeRecipe, train_judge

INFO = {
    "title": "UNetMotion bundled model",
    "frames": 16,
    "width": 64,
    "height": 64,
    "scale": 8,
    "latent_channels": 4,
    "latent_scale": 1.0,
    "prediction": "epsilon",
    "beta_schedule": "linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "train_timesteps": 1000,
    "guidance": 3.0,
    "steps": 20,
    "sampler": "ddim",
    "license": "Apache-2.0",
}


STEADY = StageRecipe(
    "steady",
    steps=5000,
    frames=64,
    seed=51,
    learning_rate=8e-4,
    further_rate=0.5,
    pool=512,
    refresh=0.25,
    noise_power=0.25,
    flicker=0.5,
    favoured={"still": 3.0, "spinning": 2.0},
    save_every=250,
)


@dataclass(frozen=True)
class BundledRecipe:
    """Every number of the run. `quick` scales it down to a trial of the code in a minute."""

    seed: int = 1
    autoencoder: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    least_psnr: float = 28.0
    decoder: DecoderRecipe = field(default_factory=DecoderRecipe)
    least_outlines: float = 0.95
    judge: JudgeRecipe = field(default_factory=JudgeRecipe)
    images: StageRecipe = StageRecipe("images", steps=1700, frames=64, seed=31, pool=384)
    least_shape: float = 0.9
    placed: StageRecipe = field(
        default_factory=lambda: StageRecipe(
            "placed",
            steps=1600,
            frames=64,
            seed=36,
            learning_rate=1.2e-3,
            pool=384,
            high_noise=0.2,
            noise_power=0.5,
            alone=0.65,
            place_words=0.5,
            place_steps=(600, 1250),
            late=(600, 850),
            plan=((1.0, {4: 0.5, 8: 0.5}),),
            average=0.995,
        )
    )
    motion: StageRecipe = field(
        default_factory=lambda: StageRecipe(
            "motion",
            steps=1450,
            frames=64,
            seed=41,
            pool=384,
            refresh=0.25,
            high_noise=0.2,
            noise_power=0.5,
            plan=((0.5, {4: 0.2, 8: 0.5, 16: 0.3}), (1.0, {8: 0.2, 16: 0.8})),
        )
    )
    steady: StageRecipe = field(default_factory=lambda: STEADY)
    joint: StageRecipe = field(
        default_factory=lambda: replace(
            STEADY,
            name="joint",
            steps=3600,
            seed=61,
            learning_rate=4e-4,
            further_rate=0.75,
            favoured={"still": 2.0, "spinning": 6.0, "growing": 2.0, "shrinking": 2.0},
            average=0.998,
            save_every=100,
        )
    )
    least_direction: float = 0.5
    check_images: int = 96
    check_clips: int = 32
    clips: int = 200
    sampling_steps: int = 20
    targets: Mapping[str, float] = field(default_factory=lambda: TARGETS)

    @classmethod
    def quick(cls) -> "BundledRecipe":
        """A trial of the code in a minute or two: every stage runs and no gate can fail."""
        return cls(
            autoencoder=AutoencoderRecipe(steps=2, batch=4, check=4),
            least_psnr=0.0,
            decoder=DecoderRecipe(steps=2, batch=4, check=4),
            least_outlines=0.0,
            judge=JudgeRecipe(steps=2, frames=4, clips=2, reconstructed=4, accuracy=0.0, check=6),
            images=StageRecipe("images", steps=2, frames=4, seed=31, pool=2),
            least_shape=0.0,
            least_direction=0.0,
            check_images=2,
            check_clips=1,
            placed=StageRecipe("placed", steps=2, frames=16, seed=36, pool=2, alone=0.5),
            motion=StageRecipe("motion", steps=2, frames=16, seed=41, pool=2),
            steady=StageRecipe("steady", steps=2, frames=16, seed=51, pool=2, flicker=0.5, favoured={"still": 3.0}),
            joint=StageRecipe("joint", steps=2, frames=16, seed=61, pool=2, flicker=0.5, favoured={"still": 2.0}),
            targets={},
            clips=2,
            sampling_steps=2,
        )


class GateError(RuntimeError):
    """A stage ended below what the next one needs."""


def image_figures(parts: BundledParts, judge: Judge, count: int, seed: int = 500) -> dict:
    """Shares of single generated frames whose shape and colour are named right."""
    asked = evaluation_triples(count, seed)
    settings = SampleSettings(steps=12, frames=1, bfloat16=has_fast_bfloat16())
    prompts = [plain_prompt(*row) for row in asked.tolist()]
    frames = sample_clips(parts, prompts, list(range(seed, seed + count)), settings)
    shape, colour = judge.frames(frames[:, 0])
    right = {"shape": shape.argmax(-1).numpy() == asked[:, 0], "colour": colour.argmax(-1).numpy() == asked[:, 1]}
    return {name: float(np.mean(hits)) for name, hits in right.items()} | {"frames": frames}


class BundledRun:
    """A run in a folder: every stage resumes from its last checkpoint there, and a finished stage is not run again."""

    def __init__(self, folder: Path, recipe: BundledRecipe, log: RunLog):
        self.folder, self.recipe, self.log = folder, recipe, log
        self.settings = SampleSettings(steps=recipe.sampling_steps, bfloat16=has_fast_bfloat16())

    def autoencoder(self) -> Autoencoder:
        path = self.folder / "autoencoder.safetensors"
        if path.exists():
            model = Autoencoder()
            model.load_state_dict(load_file(path))
        else:
            model, reached = train_autoencoder(self.folder, self.recipe.autoencoder, self.log)
            if reached < self.recipe.least_psnr:
                raise GateError(
                    f"the autoencoder reaches {reached:.1f} dB; expected at least {self.recipe.least_psnr} dB"
                )
            right = train_decoder(model, self.folder, self.recipe.decoder, self.log)
            if right < self.recipe.least_outlines:
                raise GateError(
                    f"behind the autoencoder {right:.1%} of the smallest outlines are right; "
                    f"expected at least {self.recipe.least_outlines:.0%}"
                )
            write_safetensors({k: v.contiguous() for k, v in model.state_dict().items()}, path)
        return cast(Any, model).to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def judge(self, autoencoder: Autoencoder) -> Judge:
        path = self.folder / "judge.safetensors"
        if not path.exists():
            judge, reached = train_judge(autoencoder, self.recipe.judge, self.log)
            if min(reached.values()) < self.recipe.judge.accuracy:
                raise GateError(f"the judge reaches {reached}; expected at least {self.recipe.judge.accuracy} each")
            export_judge(judge, path, {"accuracy": reached})
        return load_judge(path)

    def stage(self, parts: BundledParts, recipe: StageRecipe) -> None:
        """Train one denoising stage to its end and leave the averaged weights in `parts`."""
        trainer = StageTrainer(parts, recipe, self.folder, self.log)
        trainer.run()
        trainer.finish()

    def images(self, parts: BundledParts, judge: Judge) -> None:
        """Single frames; the gate is that the judge sees the shape and the colour asked for."""
        self.stage(parts, self.recipe.images)
        figures = image_figures(parts, judge, self.recipe.check_images)
        write_sheet(figures.pop("frames"), self.folder / "images.png", 1, 12)
        self.log.write("images", step=self.recipe.images.steps, **figures)
        if min(figures.values()) < self.recipe.least_shape:
            raise GateError(f"single frames are right in {figures}; expected at least {self.recipe.least_shape} each")

    def clips(self, parts: BundledParts, judge: Judge, recipe: StageRecipe) -> None:
        """Frames in their place, or clips; the gate is that clips go where they are asked to, however roughly."""
        self.stage(parts, recipe)
        sheet = self.folder / f"{recipe.name}.png"
        figures = evaluate(parts, judge, self.recipe.check_clips, 700, self.settings, 16, sheet)
        self.log.write(recipe.name, step=recipe.steps, **figures)
        if figures["direction"] < self.recipe.least_direction:
            raise GateError(
                f"{figures['direction']:.0%} of the clips go where they should after stage {recipe.name}; "
                f"expected at least {self.recipe.least_direction:.0%}"
            )

    def finish(self, parts: BundledParts, judge: Judge) -> dict:
        """All weights on whole clips; gives the figures of the finished model."""
        self.stage(parts, self.recipe.joint)
        for module in (parts.unet, parts.text_encoder):
            module.eval().requires_grad_(False)
        return evaluate(parts, judge, self.recipe.clips, settings=self.settings, sheet=self.folder / "joint.png")

    def parts(self, autoencoder: Autoencoder) -> BundledParts:
        torch.manual_seed(self.recipe.seed)
        parts = build_parts(vocabulary())
        parts.autoencoder = autoencoder
        return parts

    def run(self) -> Path:
        """All stages; gives the written model file.

        Raises:
            GateError: a stage misses its gate.
            BlockingIOError: another run works in the folder.
        """
        with folder_lock(self.folder):
            return self._run()

    def _run(self) -> Path:
        autoencoder = self.autoencoder()
        judge = self.judge(autoencoder)
        parts = self.parts(autoencoder)
        self.images(parts, judge)
        self.clips(parts, judge, self.recipe.placed)
        self.clips(parts, judge, self.recipe.motion)
        self.clips(parts, judge, self.recipe.steady)
        figures = self.finish(parts, judge)
        self.log.write("evaluate", **figures)
        path = self.folder / "model.safetensors"
        size = export_bundled(parts, path, INFO | {"figures": figures})
        self.log.write("export", bytes=size)
        (self.folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        if missed := missed_targets(figures, self.recipe.targets):
            raise GateError(f"{path} is written, but {'; '.join(missed)}")
        return path
