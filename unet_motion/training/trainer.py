"""The training loop of motion modules and LoRAs: other weights stay as they are, and a run that was killed goes on.

Everything random comes from one generator whose state is part of the checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config.unet import UNetMotionConfig
from ..files.atomic import atomic_file
from ..files.lock import folder_lock
from ..model import float8_products
from ..model.unet_motion_model import UNetMotionModel
from ..progress import has_bar, track
from ..values import quoted
from .batch import Draw
from .data.dataset import ClipDataset
from .objective import Objective
from .optimizers import make_optimizer, step_divided
from .processes import Processes
from .recipe import FREE, MotionRecipe
from .runs import Average, damage_named, load_state, same_shape, save_whole
from .watchers.watcher import Watcher

CHECKPOINT = "checkpoint.pt"
LOG = "losses.jsonl"


class MotionTrainer:
    """A run in a folder.

    Args:
        unet: trained in place.
        clips: the data.
        objective, recipe: what towards, and how.
        folder: of the checkpoint and the log; a run that was stopped there goes on.
        base: what the weights are from; only a run from the same is resumed.
        quiet: nothing on the console.
        trained: parameters by name; all others are frozen already. The default are the motion modules.
        more: further facts, ready for JSON, that a run must share to be resumed.
        processes: who computes which rows of a batch.
        watchers: are told of every step and checkpoint; they may change nothing.

    Raises:
        ValueError: the clips do not fit the UNet, or the folder has a run of another recipe, base or data, or a
            damaged checkpoint.
        BlockingIOError: another run works in the folder.
    """

    def __init__(
        self,
        unet: UNetMotionModel,
        clips: ClipDataset,
        objective: Objective,
        recipe: MotionRecipe,
        folder: Path,
        base: dict[str, Any] | None = None,
        quiet: bool = False,
        trained: Mapping[str, nn.Parameter] | None = None,
        more: Mapping[str, Any] | None = None,
        processes: Processes | None = None,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        float8_products.refuse(unet, "to train")
        self.unet, self.clips, self.objective, self.recipe = unet, clips, objective, recipe
        self.processes, self.watchers = processes or Processes(), list(watchers)
        self.folder, self.quiet, self.step = Path(folder), quiet or not self.processes.main, 0
        self.empty = clips.empty_text() if recipe.drop_prompt else None
        self._check_data()
        self.trained = trained_parameters(unet) if trained is None else dict(trained)
        self.optimizer = make_optimizer(
            recipe.optimizer, self.trained.values(), recipe.learning_rate, recipe.weight_decay, recipe.optimizer_options
        )
        self.average = Average(self.trained.values(), recipe.ema) if recipe.ema else None
        self.generator = torch.Generator().manual_seed(recipe.seed)
        unet.gradient_checkpointing = recipe.checkpointing
        self.identity = self._identity(base, more or {})
        if (state := load_state(self.path)) is not None:
            self._restore(state)
        self.processes.wait()  # before the first one writes
        if self.processes.main:
            with folder_lock(self.folder):
                self._trim_log()

    def _identity(self, base: dict[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
        """What a run must share with a checkpoint to go on from it."""
        recipe, clips, objective = self.recipe, self.clips, self.objective
        kept = {k: v for k, v in dataclasses.asdict(recipe).items() if k not in FREE}
        schedule = hashlib.sha256(objective.schedule.alphas_cumprod.numpy().tobytes()).hexdigest()
        return {
            **kept,
            "batch": recipe.batch * self.processes.count,
            "optimizer_options": [list(pair) for pair in recipe.optimizer_options],
            "frames": clips.options.frames,
            "prediction": objective.schedule.prediction,
            "noise schedule": schedule,
            "base": json.dumps(base, sort_keys=True),
            "data": clips.digest(),
            **more,
        }

    @property
    def path(self) -> Path:
        """The checkpoint."""
        return self.folder / CHECKPOINT

    def _check_data(self) -> None:
        config = self.unet.config
        check_length(config, self.clips.options.frames)
        for source, entry in zip(self.clips.sources, self.clips.latents, strict=True):
            channels = entry["latents"].shape[1]
            if channels != config.out_channels or channels != config.in_channels:
                raise ValueError(
                    f"{source.path}: has latents of {channels} channels, expected {config.out_channels}, and a UNet "
                    f"that takes as many (this one takes {config.in_channels})."
                )

    def draw(self) -> Draw:
        """The next batch of all processes: clips, prompts (or the empty one), noise and timesteps."""
        generator, recipe = self.generator, self.recipe
        batch = self.clips.draw(generator, recipe.batch * self.processes.count)
        clean, source = batch.pop("latents"), batch.pop("source")
        if self.empty is not None:
            for row in (torch.rand(len(clean), generator=generator) < recipe.drop_prompt).nonzero().flatten():
                for name, value in self.empty.items():
                    batch[name][row] = value
        noise = self.objective.draw_noise(clean, generator)
        return Draw(clean, noise, self.objective.draw_timesteps(len(clean), generator), batch, source)

    def predict(self, draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The UNet's output for a batch, and the batch's clips, noise and timesteps on its device."""
        device = self.unet.device
        clean, noise, timesteps = (t.to(device) for t in (draw.clean, draw.noise, draw.timesteps))
        text = {name: value.to(device) for name, value in draw.text.items()}
        hidden = text.pop("text")
        noisy = self.objective.schedule.add_noise(clean, noise, timesteps)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            output = self.unet.forward_frames(
                noisy.flatten(0, 1),
                timesteps,
                hidden,
                num_frames=clean.shape[1],
                added_cond_kwargs=text or None,
            )
        return output.unflatten(0, clean.shape[:2]), clean, noise, timesteps

    def loss(self, draw: Draw) -> Tensor:
        """The objective of one batch."""
        return self.objective.loss(*self.predict(draw))

    def losses(self, draw: Draw) -> Iterator[Tensor]:
        """Losses whose sum is trained on; each is differentiated before the next one is asked for."""
        yield self.loss(draw)

    def gradients(self, draws: Sequence[Draw]) -> float:
        """Leave the gradient of the batches' mean loss in the parameters; gives that loss.

        Raises:
            FloatingPointError: a loss or the gradient is not finite; names the step and the batch.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for draw in draws:
            for loss in self.losses(self.processes.own(draw)):
                # One process's NaN is everybody's: all of them stop at the same place.
                if not math.isfinite(value := self.processes.mean(loss.item())):
                    raise self._not_finite(f"the loss is {value}", [draw])
                (loss / len(draws)).backward()
                total += value / len(draws)
        # None is the gradient of a part that this step leaves out: the optimizer leaves it out too.
        self.processes.mean_gradients([p for p in self.trained.values() if p.grad is not None])
        return total

    def _not_finite(self, what: str, draws: Sequence[Draw]) -> FloatingPointError:
        names = [self.clips.sources[i].path.name for draw in draws for i in draw.source.tolist()]
        times = [t for draw in draws for t in draw.timesteps.tolist()]
        return FloatingPointError(
            f"{what} at step {self.step}, for {', '.join(names)} at timesteps {', '.join(map(str, times))}; "
            "expected a finite number."
        )

    def train_step(self) -> dict[str, float]:
        """One step of the optimizer; gives its row of the log.

        A checkpoint that is due is written once the loss of its weights is known to be finite.
        """
        state, recipe = self.generator.get_state(), self.recipe
        draws = [self.draw() for _ in range(recipe.accumulate)]
        loss = self.gradients(draws)
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        length = _norm(gradients)
        norm = length.item()
        if not math.isfinite(norm):
            raise self._not_finite(f"the gradient's norm is {norm}", draws)
        if self.step and self.step % recipe.save_every == 0:
            self.save(state)
        rate = recipe.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        too_long = norm > (recipe.clip or math.inf)
        step_divided(self.optimizer, gradients, (length + 1e-6) / recipe.clip if too_long else None)
        if self.average is not None:
            self.average.update()
        self.step += 1
        return {"step": self.step - 1, "loss": loss, "gradient_norm": norm, "learning_rate": rate}

    def run(self) -> None:
        """Train to the last step.

        Raises:
            FloatingPointError: see `gradients`; the weights are then those of the last checkpoint, where there is one.
            BlockingIOError: another run works in the folder.
        """
        with folder_lock(self.folder) if self.processes.main else contextlib.nullcontext():
            self._run()

    def _run(self) -> None:
        log_every, first, began = self.recipe.log_every, self.step, time.perf_counter()
        bar = has_bar() and not self.quiet
        try:
            for _ in track(range(first, self.recipe.steps), description="training", enabled=not self.quiet):
                row = self.train_step()
                self._report(row)
                if self.step % log_every == 0 and not bar and not self.quiet:
                    left = (time.perf_counter() - began) / (self.step - first) * (self.recipe.steps - self.step)
                    print(f"step {self.step} of {self.recipe.steps}: loss {row['loss']:.5f}, {clock(left)} left")
            if first < self.recipe.steps:
                self._save_last()
        except FloatingPointError as error:
            raise self._with_last_good(error) from None

    def _report(self, row: dict[str, float]) -> None:
        if self.processes.main:
            with (self.folder / LOG).open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            for watcher in self.watchers:
                watcher.stepped(self, row)

    def _save_last(self) -> None:
        """The last checkpoint; no step follows whose loss would show that its weights are good."""
        state = self.generator.get_state()
        draw = self.draw()
        self.generator.set_state(state)
        with torch.no_grad():
            value = self.processes.mean(sum(loss.item() for loss in self.losses(self.processes.own(draw))))
        if not math.isfinite(value):
            raise self._not_finite(f"the loss is {value}", [draw])
        self.save(state)

    def _with_last_good(self, error: FloatingPointError) -> FloatingPointError:
        kept = load_state(self.path)
        if kept is None:
            return FloatingPointError(f"{error} No checkpoint was written before.")
        self._restore(kept)
        return FloatingPointError(f"{error} The weights of step {self.step} are kept in {self.path}.")

    def save(self, generator_state: Tensor) -> None:
        """Write all that the next step depends on, whole or not at all."""
        if not self.processes.main:
            return
        state = {
            "step": self.step,
            "trained": {name: p.detach() for name, p in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "generator": generator_state,
            "identity": self.identity,
        }
        save_whole(state, self.path)
        for watcher in self.watchers:
            watcher.saved(self)

    def _restore(self, state: dict[str, Any]) -> None:
        with damage_named(self.path):
            identity = dict(state["identity"])
        for name, value in self.identity.items():
            found = identity.get(name)
            if found != value:
                raise ValueError(
                    f"{self.path}: is of a run with another `{name}` ({found}), expected {value}: resume it with what "
                    "it began with, or write to another folder."
                )
        with damage_named(self.path), torch.no_grad():
            self._take_over(state)

    def _take_over(self, state: dict[str, Any]) -> None:
        """Set all that the next step depends on."""
        for name, parameter in self.trained.items():
            parameter.copy_(same_shape(state["trained"][name], parameter))
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.generator.set_state(state["generator"])
        if not isinstance(state["step"], int) or state["step"] < 0:
            raise TypeError(f"its step is {quoted(state['step'])}")
        self.step = state["step"]

    def _trim_log(self) -> None:
        """Drop what a killed run wrote behind its checkpoint, so that each step is in the log once."""
        path, kept = self.folder / LOG, []
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                    if json.loads(line)["step"] < self.step:
                        kept.append(line + "\n")
        with atomic_file(path) as part:
            part.write_text("".join(kept), encoding="utf-8")

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the live ones, where the recipe has an average."""
        if self.average is not None:
            self.average.swap()
        try:
            yield
        finally:
            if self.average is not None:
                self.average.swap()


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """Norm of all tensors together."""
    if all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors):  # a dot product is faster there
        return torch.stack([torch.dot(t.view(-1), t.view(-1)) for t in map(Tensor.contiguous, tensors)]).sum().sqrt()
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in tensors]))


def trained_parameters(unet: UNetMotionModel, cross_attention: bool = False) -> dict[str, torch.nn.Parameter]:
    """Freeze all but the motion modules; gives what trains, by name.

    Values that are mapped to a file get memory of their own: training writes to them.

    Args:
        cross_attention: the image layers' attention to the text trains too.
    """
    unet.freeze_unet2d_params()
    if cross_attention:
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or ".attentions." in name and ".attn2." in name)
    trained = {name: p for name, p in unet.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        parameter.data = parameter.data.clone()
    return trained


def check_length(config: UNetMotionConfig, frames: int) -> None:
    """Raise ValueError unless motion modules have positions for clips of so many frames."""
    if frames > config.motion_max_seq_length:
        raise ValueError(
            f"clips have {frames} frames, expected at most {config.motion_max_seq_length}, the rows of the motion "
            "modules' position table."
        )


def clock(seconds: float) -> str:
    """A duration as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
