"""The whole making of the bundled model: autoencoder, judge, images, motion, each behind its gate, then the files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..atomic import atomic_file
from ..bundled.autoencoder import Autoencoder
from ..bundled.parts import BundledParts, build_parts
from .autoencoder import AutoencoderRecipe, train_autoencoder
from .denoise import StageRecipe, StageTrainer
from .evaluate import TARGETS, SampleSettings, evaluate, evaluation_triples, missed_targets, sample_clips, write_sheet
from .export import export_bundled, export_judge, load_judge
from .judge import Judge
from .judge_training import JudgeRecipe, train_judge
from .prompts import plain_prompt, vocabulary
from .runs import RunLog

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


@dataclass(frozen=True)
class BundledRecipe:
    """Every number of the run. `quick` scales it down to a trial of the code in a minute."""

    seed: int = 1
    autoencoder: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    least_psnr: float = 28.0
    judge: JudgeRecipe = field(default_factory=JudgeRecipe)
    images: StageRecipe = StageRecipe("images", steps=1700, frames=64, seed=31, pool=384)
    least_shape: float = 0.9
    placed: StageRecipe = field(
        default_factory=lambda: StageRecipe(
            "placed",
            steps=1500,
            frames=64,
            seed=36,
            learning_rate=1e-3,
            pool=384,
            high_noise=0.2,
            noise_power=0.5,
            alone=0.65,
            place_words=0.5,
            place_words_from=600,
            plan=((1.0, {4: 0.5, 8: 0.5}),),
            average=0.995,
        )
    )
    motion: StageRecipe = field(
        default_factory=lambda: StageRecipe(
            "motion",
            steps=2000,
            frames=64,
            seed=41,
            pool=384,
            refresh=0.25,
            high_noise=0.2,
            noise_power=0.5,
            plan=((0.5, {4: 0.2, 8: 0.5, 16: 0.3}), (1.0, {8: 0.2, 16: 0.8})),
        )
    )
    clips: int = 200
    targets: Mapping[str, float] = field(default_factory=lambda: TARGETS)

    @classmethod
    def quick(cls) -> "BundledRecipe":
        """A trial of the code in a minute or two: every stage runs and no gate can fail."""
        return cls(
            autoencoder=AutoencoderRecipe(steps=4, batch=4),
            least_psnr=0.0,
            judge=JudgeRecipe(steps=2, frames=4, clips=2, reconstructed=4, accuracy=0.0),
            images=StageRecipe("images", steps=4, frames=4, seed=31, pool=4),
            least_shape=0.0,
            placed=StageRecipe("placed", steps=4, frames=16, seed=36, pool=4, alone=0.5),
            motion=StageRecipe("motion", steps=4, frames=16, seed=41, pool=4),
            targets={},
            clips=8,
        )


class GateError(RuntimeError):
    """A stage ended below what the next one needs."""


def image_figures(parts: BundledParts, judge: Judge, count: int = 96, seed: int = 500) -> dict:
    """Shares of single generated frames whose shape and colour are named right."""
    asked = evaluation_triples(count, seed)
    settings = SampleSettings(steps=12, frames=1, bfloat16=True)
    prompts = [plain_prompt(*row) for row in asked.tolist()]
    frames = sample_clips(parts, prompts, list(range(seed, seed + count)), settings)
    shape, colour = judge.frames(frames[:, 0])
    right = {"shape": shape.argmax(-1).numpy() == asked[:, 0], "colour": colour.argmax(-1).numpy() == asked[:, 1]}
    return {name: float(np.mean(hits)) for name, hits in right.items()} | {"frames": frames}


class BundledRun:
    """A run in a folder: every stage resumes from its last checkpoint there, and a finished stage is not run again."""

    def __init__(self, folder: Path, recipe: BundledRecipe, log: RunLog):
        self.folder, self.recipe, self.log = folder, recipe, log
        self.quick = SampleSettings(steps=12, bfloat16=True)

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
            with atomic_file(path) as part:
                save_file({k: v.contiguous() for k, v in model.state_dict().items()}, part)
        return model.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def judge(self, autoencoder: Autoencoder) -> Judge:
        path = self.folder / "judge.safetensors"
        if not path.exists():
            judge, reached = train_judge(autoencoder, self.recipe.judge, self.log)
            if min(reached.values()) < self.recipe.judge.accuracy:
                raise GateError(f"the judge reaches {reached}; expected at least {self.recipe.judge.accuracy} each")
            export_judge(judge, path, {"accuracy": reached})
        return load_judge(path)

    def images(self, parts: BundledParts, judge: Judge) -> None:
        trainer = StageTrainer(parts, self.recipe.images, self.folder, self.log)

        def check(step: int) -> dict:
            figures = image_figures(parts, judge)
            write_sheet(figures.pop("frames").repeat(1, 1, 1, 1, 1), self.folder / f"images-{step}.png", 1, 12)
            self.log.write("images", step=step, **figures)
            return figures

        trainer.run(check)
        trainer.finish()
        figures = check(trainer.step)
        if min(figures.values()) < self.recipe.least_shape:
            raise GateError(f"single frames are right in {figures}; expected at least {self.recipe.least_shape} each")

    def motion(self, parts: BundledParts, judge: Judge) -> dict:
        trainer = StageTrainer(parts, self.recipe.motion, self.folder, self.log)

        def check(step: int) -> None:
            figures = evaluate(parts, judge, 64, 700, self.quick, 16, self.folder / f"motion-{step}.png")
            self.log.write("motion", step=step, **figures)

        trainer.run(check)
        trainer.finish()
        for module in (parts.unet, parts.text_encoder):
            module.eval().requires_grad_(False)
        sheet = self.folder / "motion.png"
        return evaluate(
            parts, judge, self.recipe.clips, settings=replace(self.quick, steps=20, bfloat16=False), sheet=sheet
        )

    def parts(self, autoencoder: Autoencoder) -> BundledParts:
        torch.manual_seed(self.recipe.seed)
        parts = build_parts(vocabulary())
        parts.autoencoder = autoencoder
        return parts

    def run(self) -> Path:
        """All stages; gives the written model file. Raises GateError where a stage misses its gate."""
        autoencoder = self.autoencoder()
        judge = self.judge(autoencoder)
        parts = self.parts(autoencoder)
        self.images(parts, judge)
        figures = self.motion(parts, judge)
        self.log.write("evaluate", **figures)
        path = self.folder / "model.safetensors"
        size = export_bundled(parts, path, INFO | {"figures": figures})
        self.log.write("export", bytes=size)
        (self.folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        if missed := missed_targets(figures, self.recipe.targets):
            raise GateError(f"{path} is written, but {'; '.join(missed)}")
        return path
