"""The loop of both denoising stages: single frames first (images), then whole clips with the image weights frozen."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..bundled.parts import BundledParts, added_cond
from ..options import ForwardOptions
from ..sampling.schedules import NoiseSchedule
from .data import FRAMES
from .latents import LatentPool
from .prompts import write_prompts
from .runs import Average, RunLog, decayed, load_state, rng_state, save_whole, set_rng_state

# The fused CPU kernel's backward pass is several times slower than plain products on sequences this short.
PROCESSOR = "math"


@dataclass(frozen=True)
class StageRecipe:
    """How one stage is trained. A step sees `batch` samples of one frame (images) or of a clip's frames (motion)."""

    name: str  # "images" or "motion"
    steps: int
    batch: int
    seed: int
    learning_rate: float = 1.2e-3
    text_rate: float = 1.0  # factor on the learning rate of what was already trained (text path) in the motion stage
    every_second: float = 0.0  # share of the steps, from the first on, that see every second frame of a clip only
    high_noise: float = 0.0  # share of samples whose timestep is drawn from the noisier half
    noise_power: float = 0.0  # loss weight alpha_bar^-power: 1 weighs errors as a loss of v would
    noise_cap: float = 50.0  # largest such weight
    foreground: float = 3.0  # extra loss weight of cells that the shape covers
    drop_prompt: float = 0.1
    average: float = 0.999
    pool: int = 512  # encoded clips held
    refresh: float = 0.5  # newly drawn clips a step, on average
    weight_decay: float = 1e-3
    save_every: int = 200
    log_every: int = 50
    check_every: int = 0  # steps between calls of the gate's check; 0: only at the end


def text_path(parts: BundledParts) -> list[tuple[str, nn.Parameter]]:
    """What carries the prompt to the image layers, and is trained on with the motion modules: single frames of left and
    right look alike, so only here does the model have a reason to tell such words apart."""
    chosen = [
        (f"unet.{name}", p)
        for name, p in parts.unet.named_parameters()
        if any(key in f".{name}" for key in (".time_emb_proj.", ".add_embedding.", ".attn2."))
        and ".motion_modules." not in name
    ]
    return chosen + [(f"text_encoder.{name}", p) for name, p in parts.text_encoder.named_parameters()]


def trainable_parameters(parts: BundledParts, stage: str) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Set `requires_grad` for a stage and give its (newly trained, further trained) parameters.

    images: everything but the motion modules. motion: the motion modules; the text path is trained further.
    """
    parts.autoencoder.requires_grad_(False)
    parts.text_encoder.requires_grad_(True)
    if stage == "images":
        for name, parameter in parts.unet.named_parameters():
            parameter.requires_grad_("motion_modules." not in name)
        modules = (parts.unet, parts.text_encoder)
        return [p for module in modules for p in module.parameters() if p.requires_grad], []
    if stage != "motion":
        raise ValueError(f"stage is {stage!r}; expected 'images' or 'motion'")
    parts.unet.requires_grad_(True)
    parts.unet.freeze_unet2d_params()
    new = [p for p in parts.unet.parameters() if p.requires_grad]
    further = [p for _, p in text_path(parts)]
    for parameter in further:
        parameter.requires_grad_(True)
    return new, further


@contextlib.contextmanager
def without_motion(unet: nn.Module) -> Iterator[None]:
    """Skip the motion modules: on single frames, before they are trained, they change nothing and cost a third."""
    modules = [module for name, module in unet.named_modules() if name.rpartition(".")[0].endswith("motion_modules")]
    for module in modules:
        module.forward = lambda x, call: x
    try:
        yield
    finally:
        for module in modules:
            del module.forward


class StageTrainer:
    """One stage: samples batches, steps, saves. `parts` is trained in place; call `finish` for the averaged weights."""

    def __init__(self, parts: BundledParts, recipe: StageRecipe, folder: Path, log: RunLog):
        self.parts, self.recipe, self.log = parts, recipe, log
        self.path = folder / f"{recipe.name}.pt"
        torch.manual_seed(recipe.seed)
        self.rng = np.random.default_rng(recipe.seed)
        self.schedule = NoiseSchedule.named()
        weight = self.schedule.alphas_cumprod.pow(-recipe.noise_power).clamp_max(recipe.noise_cap)
        self.noise_weight = (weight / weight.mean()).float()
        self.new, self.further = trainable_parameters(parts, recipe.name)
        self.groups = [(1.0, self.new), (recipe.text_rate, self.further)]
        self.optimizer = torch.optim.AdamW(
            [{"params": params} for _, params in self.groups if params],
            lr=recipe.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.average = Average(self.new + self.further, recipe.average)
        self.modules = {"unet": parts.unet, "text_encoder": parts.text_encoder}
        state = load_state(self.path)
        self.pool = LatentPool(parts.autoencoder, recipe.pool, self.rng, fill=state is None)
        self.step = 0
        if state is not None:
            self._restore(state)

    def _restore(self, state: dict) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.pool.load_state_dict(state["pool"])
        set_rng_state(self.rng, state["rng"])
        torch.set_rng_state(state["torch_rng"])
        self.step = state["step"]

    def save(self) -> None:
        """Write everything that the next step depends on."""
        save_whole(
            {
                **{name: module.state_dict() for name, module in self.modules.items()},
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict(),
                "pool": self.pool.state_dict(),
                "rng": rng_state(self.rng),
                "torch_rng": torch.get_rng_state(),
                "step": self.step,
                "recipe": asdict(self.recipe),
            },
            self.path,
        )

    def sample(self) -> tuple[Tensor, Tensor, list[str], Tensor | None]:
        """Clean latents (B, F, 4, 8, 8), cover (B, F, 1, 8, 8), prompts, and the frames' rows of the position table."""
        recipe, rng = self.recipe, self.rng
        rows = torch.from_numpy(rng.integers(len(self.pool), size=recipe.batch))
        if recipe.name == "images":
            frames = torch.from_numpy(rng.integers(FRAMES, size=(recipe.batch, 1)))
            positions = None
        else:
            half = self.step < recipe.every_second * recipe.steps
            positions = torch.arange(int(rng.integers(2)), FRAMES, 2) if half else torch.arange(FRAMES)
            frames = positions.expand(recipe.batch, -1)
        picked = rows[:, None], frames
        prompts = write_prompts(rng, self.pool.clips[rows])
        dropped = rng.random(recipe.batch) < recipe.drop_prompt
        prompts = ["" if drop else prompt for prompt, drop in zip(prompts, dropped, strict=True)]
        return self.pool.latents[picked].float(), self.pool.cover[picked].float(), prompts, positions

    def timesteps(self) -> Tensor:
        """(B,) timesteps in 0..999."""
        count = len(self.schedule.alphas_cumprod)
        u = self.rng.random(self.recipe.batch)
        noisy = self.rng.random(self.recipe.batch) < self.recipe.high_noise
        return torch.from_numpy((np.where(noisy, 0.5 + 0.5 * u, u) * count).astype(np.int64))

    def loss(self) -> Tensor:
        """Weighted squared error of the predicted noise on one batch."""
        clean, cover, prompts, positions = self.sample()
        timesteps = self.timesteps()
        noise = torch.randn_like(clean)
        noisy = self.schedule.add_noise(clean, noise, timesteps)
        frames = clean.shape[1]
        with torch.autocast("cpu", torch.bfloat16):
            hidden, pooled = self.parts.encode_prompts(prompts)
            predicted = self.parts.unet.forward_frames(
                noisy.flatten(0, 1),
                timesteps,
                hidden,
                num_frames=frames,
                added_cond_kwargs=added_cond(pooled.float()),
                options=ForwardOptions(frame_positions=positions, attn_processors=PROCESSOR),
            )
        weight = 1 + self.recipe.foreground * cover
        error = (predicted.float().unflatten(0, (-1, frames)) - noise).square()
        rows = (weight * error).flatten(1).sum(1) / (weight.flatten(1).sum(1) * clean.shape[2])
        return (self.noise_weight[timesteps] * rows).mean()

    def train_step(self) -> float:
        """One optimizer step; gives the loss."""
        recipe = self.recipe
        for group, (factor, _) in zip(self.optimizer.param_groups, (g for g in self.groups if g[1]), strict=True):
            group["lr"] = recipe.learning_rate * factor * decayed(self.step, recipe.steps)
        loss = self.loss()
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss of stage {recipe.name} is {loss.item()} at step {self.step}; expected a finite number"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.new + self.further, 1.0)
        self.optimizer.step()
        self.average.update()
        renewed = int((self.step + 1) * recipe.refresh) - int(self.step * recipe.refresh)
        if renewed:
            self.pool.refresh(renewed)
        self.step += 1
        return loss.item()

    def run(self, check: Callable[[int], None] | None = None) -> None:
        """Train to the last step, saving as the recipe says; `check` is called with the averaged weights in place."""
        recipe, seen = self.recipe, []
        skip = without_motion(self.parts.unet) if recipe.name == "images" else contextlib.nullcontext()
        with skip:
            while self.step < recipe.steps:
                seen.append(self.train_step())
                if self.step % recipe.log_every == 0:
                    self.log.write(recipe.name, step=self.step, loss=float(np.mean(seen)))
                    seen.clear()
                if self.step % recipe.save_every == 0 or self.step == recipe.steps:
                    self.save()
                if (
                    check is not None
                    and recipe.check_every
                    and self.step % recipe.check_every == 0
                    and self.step < recipe.steps
                ):
                    with self.averaged():
                        check(self.step)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the live ones, without touching the random state."""
        state = torch.get_rng_state()
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()
            torch.set_rng_state(state)

    def finish(self) -> None:
        """Leave the averaged weights in `parts`."""
        self.average.swap()
