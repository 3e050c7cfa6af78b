"""The loop of the five denoising stages.

images: single frames, without motion modules. placed: all weights, on single frames that know their place in the clip
and on clips, so that the image layers learn that a prompt and a place together decide where the shape is. motion:
clips, with the image weights frozen. steady: the same on whole clips, with an extra loss on what differs from frame to
frame. joint: as steady, with all weights.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...bundled.parts import BundledParts, added_cond
from ...forward.options import ForwardOptions
from ...ops.attention import AttentionProcessor
from ...sampling.noise_schedule import NoiseSchedule
from ..runs import Average, RunLog, damage_named, decayed, load_state, rng_state, save_whole, set_rng_state
from .drawn_clips import DIRECTIONS, FRAMES, MOTIONS
from .latent_pool import LatentPool
from .precision import autocast
from .prompts import place_prompt, write_prompts

# The fused CPU kernel's backward pass is several times slower than plain products on sequences this short.
PROCESSOR = "math"
STAGES = ("images", "placed", "motion", "steady", "joint")


@dataclass(frozen=True)
class Batch:
    """R independent rows of f frames each, with the prompt and the timestep of every row."""

    clean: Tensor  # latents (R, f, 4, 8, 8)
    cover: Tensor  # (R, f, 1, 8, 8)
    prompts: list[str]
    frames: int  # frames of a clip as the UNet sees it; f, or more where single frames (f = 1) are set side by side
    options: ForwardOptions


class OwnFrame(AttentionProcessor):
    """Attention of every token to itself alone: frames that are set side by side stay strangers."""

    name = "own_frame"

    def attend(self, query, key, value, mask, scale):
        return value


@dataclass(frozen=True)
class StageRecipe:
    """How one stage is trained. A step sees `frames` frames: single ones, or those of some clips."""

    name: str  # one of STAGES
    steps: int
    frames: int
    seed: int
    learning_rate: float = 1.2e-3
    further_rate: float = 1.0  # factor on the learning rate of what an earlier stage has trained already
    alone: float = 0.0  # placed: share of the steps that see single frames, each with its row of the position table
    place_words: float = 0.0  # placed: share of moving single frames whose prompt says where they are instead
    place_steps: tuple[int, int] = (0, 0)  # from and to which step that
    late: tuple[int, int] = (0, 0)  # placed: from and to which step only single frames of the clips' ends are seen
    plan: tuple[tuple[float, dict[int, float]], ...] = ((1.0, {FRAMES: 1.0}),)  # motion: see `frames_per_clip`
    high_noise: float = 0.0  # share of samples whose timestep is drawn from the noisier half
    noise_power: float = 0.0  # loss weight alpha_bar^-power: 1 weighs errors as a loss of v would
    noise_cap: float = 50.0  # largest such weight
    foreground: float = 3.0  # extra loss weight of cells that the shape covers
    flicker: float = 0.0  # weight of the error's change from frame to frame, of clips: what makes outlines tremble
    favoured: Mapping[str, float] = field(default_factory=dict)  # how many times as often a motion's clips are seen
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

    images: everything but the motion modules. placed and joint: the motion modules; everything else is trained further.
    motion and steady: the motion modules; the text path is trained further.
    """
    parts.autoencoder.requires_grad_(False)
    parts.text_encoder.requires_grad_(True)
    if stage == "images":
        for name, parameter in parts.unet.named_parameters():
            parameter.requires_grad_("motion_modules." not in name)
        modules = (parts.unet, parts.text_encoder)
        return [p for module in modules for p in module.parameters() if p.requires_grad], []
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}; expected one of {', '.join(STAGES)}")
    parts.unet.requires_grad_(True)
    parts.unet.freeze_unet2d_params()
    new = [p for p in parts.unet.parameters() if p.requires_grad]
    if stage in ("placed", "joint"):
        further = [p for p in parts.unet.parameters() if not p.requires_grad] + list(parts.text_encoder.parameters())
    else:
        further = [p for _, p in text_path(parts)]
    for parameter in further:
        parameter.requires_grad_(True)
    return new, further


def weighted_mean_square(error: Tensor, weight: Tensor) -> Tensor:
    """(R,) weighted means of squares. error (R, f, 4, 8, 8), weight (R, f, 1, 8, 8)."""
    return (weight * error.square()).flatten(1).sum(1) / (weight.flatten(1).sum(1) * error.shape[2])


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
        self.groups = [(1.0, self.new), (recipe.further_rate, self.further)]
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
            with damage_named(self.path):
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

    def sample(self) -> Batch:
        """Draw a batch from the pool, with prompts."""
        recipe, rng = self.recipe, self.rng
        late = recipe.late[0] <= self.step < recipe.late[1]
        if recipe.name == "images" or late or rng.random() < recipe.alone:
            return self._single_frames(recipe.name != "images", late)
        count = self.frames_per_clip()
        rows = self.rows(max(1, recipe.frames // count))
        positions = torch.from_numpy(np.sort(rng.choice(FRAMES, count, replace=False)))
        options = ForwardOptions(frame_positions=positions, attn_processors=PROCESSOR)
        return self._batch(rows, positions.expand(len(rows), -1), count, options)

    def rows(self, count: int) -> Tensor:
        """Indices (count,) of clips of the pool, drawn with the recipe's favour for some motions."""
        if not self.recipe.favoured:
            return torch.from_numpy(self.rng.integers(len(self.pool), size=count))
        times = np.array([self.recipe.favoured.get(name, 1.0) for name in MOTIONS])[self.pool.clips.motion.numpy()]
        return torch.from_numpy(self.rng.choice(len(times), size=count, p=times / times.sum()))

    def _single_frames(self, in_place: bool, late: bool) -> Batch:
        """Frames of different clips; in place: 16 side by side, each at its own row of the position table.

        Late frames are the last five of a clip: there "moving left" means left of the centre and "growing" means large,
        which is learned as readily as a colour, and only then has the frame's place something to multiply.
        """
        frames = self.recipe.frames
        rows = self.rows(frames)
        if not in_place:
            picked = torch.from_numpy(self.rng.integers(FRAMES, size=(frames, 1)))
            return self._batch(rows, picked, 1, ForwardOptions(attn_processors=PROCESSOR))
        if frames % FRAMES:
            raise ValueError(
                f"frames is {frames}; expected a multiple of {FRAMES} in a stage with frames in their place"
            )
        processors = {"*": PROCESSOR, "*motion_modules*": OwnFrame()}
        positions = torch.from_numpy(self.rng.integers(FRAMES - 5, FRAMES, FRAMES)) if late else torch.arange(FRAMES)
        options = ForwardOptions(frame_positions=positions, attn_processors=processors, motion_norm_scope="frame")
        picked = positions.repeat(frames // FRAMES)[:, None]
        batch = self._batch(rows, picked, FRAMES, options)
        if self.recipe.place_steps[0] <= self.step < self.recipe.place_steps[1]:
            clips = self.pool.clips[rows]
            for i in np.flatnonzero(self.rng.random(frames) < self.recipe.place_words):
                if batch.prompts[i] and MOTIONS[clips.motion[i]] in DIRECTIONS:
                    batch.prompts[i] = place_prompt(clips, int(i), picked[i, 0].item() / (FRAMES - 1))
        return batch

    def _batch(self, rows: Tensor, picked: Tensor, frames: int, options: ForwardOptions) -> Batch:
        prompts = write_prompts(self.rng, self.pool.clips[rows])
        dropped = self.rng.random(len(rows)) < self.recipe.drop_prompt
        prompts = ["" if drop else prompt for prompt, drop in zip(prompts, dropped, strict=True)]
        at = rows[:, None], picked
        return Batch(self.pool.latents[at].float(), self.pool.cover[at].float(), prompts, frames, options)

    def frames_per_clip(self) -> int:
        """How many frames of each clip this step sees, drawn from the part of the plan that the step is in.

        The plan is ((share of the steps at which the part ends, {frames: probability}), ...). Few frames first: a
        single frame tells nothing of its clip's direction, so the modules must read it from the prompt and from the
        position table, while a whole clip gives its direction away and leaves the prompt's word without use.
        """
        share = self.step / self.recipe.steps
        part = next((chances for end, chances in self.recipe.plan if share < end), self.recipe.plan[-1][1])
        return int(self.rng.choice(list(part), p=list(part.values())))

    def timesteps(self, batch: int) -> Tensor:
        """(batch,) timesteps in 0..999."""
        count = len(self.schedule.alphas_cumprod)
        u = self.rng.random(batch)
        noisy = self.rng.random(batch) < self.recipe.high_noise
        return torch.from_numpy((np.where(noisy, 0.5 + 0.5 * u, u) * count).astype(np.int64))

    def loss(self) -> Tensor:
        """Weighted squared error of the predicted noise on one batch."""
        batch = self.sample()
        timesteps = self.timesteps(len(batch.clean))
        noise = torch.randn_like(batch.clean)
        noisy = self.schedule.add_noise(batch.clean, noise, timesteps)
        with autocast():
            hidden, pooled = self.parts.encode_prompts(batch.prompts)
            predicted = self.parts.unet.forward_frames(
                noisy.flatten(0, 1),
                timesteps,
                hidden,
                num_frames=batch.frames,
                added_cond_kwargs=added_cond(pooled.float()),
                options=batch.options,
            )
        weight = 1 + self.recipe.foreground * batch.cover
        error = predicted.float().unflatten(0, noise.shape[:2]) - noise
        rows = weighted_mean_square(error, weight)
        if self.recipe.flicker and error.shape[1] > 1:
            rows = rows + self.recipe.flicker * weighted_mean_square(error.diff(dim=1), weight[:, 1:])
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
        first, began = self.step, time.perf_counter()
        skip = without_motion(self.parts.unet) if recipe.name == "images" else contextlib.nullcontext()
        with skip:
            while self.step < recipe.steps:
                seen.append(self.train_step())
                if self.step % recipe.log_every == 0:
                    left = (time.perf_counter() - began) / (self.step - first) * (recipe.steps - self.step) / 60
                    self.log.write(recipe.name, step=self.step, loss=float(np.mean(seen)), minutes_left=round(left, 1))
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
