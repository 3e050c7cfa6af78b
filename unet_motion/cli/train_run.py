"""What the commands that train on a folder of clips share: their options, and how a run begins and ends."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.lock import folder_lock
from ..training.recipe import SCHEDULES, MotionRecipe
from ..values import quoted

if TYPE_CHECKING:
    from ..training.base import Base
    from ..training.data.dataset import ClipDataset
    from ..training.objective import Objective
    from ..training.processes import Processes
    from ..training.trainer import MotionTrainer
    from ..training.watchers.watcher import Watcher

DEFAULTS = MotionRecipe()
# Option -> (field of the recipe, its type, help).
NUMBERS = {
    "--steps": ("steps", int, "steps of the optimizer"),
    "--batch": ("batch", int, "clips in a forward pass (of each process)"),
    "--accumulate": ("accumulate", int, "passes whose mean gradient makes a step"),
    "--lr": ("learning_rate", float, "highest learning rate"),
    "--warmup": ("warmup", int, "steps in which the learning rate rises"),
    "--weight-decay": ("weight_decay", float, "of the optimizer, where it has one"),
    "--clip": ("clip", float, "largest norm of the gradient; 0 does not clip"),
    "--ema": ("ema", float, "decay of averaged weights, which are then written; 0 is off"),
    "--min-snr": ("min_snr", float, "gamma of the min-SNR weights, usually 5; 0 is off"),
    "--noise-offset": ("noise_offset", float, "noise that is one number for a channel of a clip; 0 is off"),
    "--noise-power": ("noise_power", float, "rows count alpha_bar^-N times, for what is decided at high noise"),
    "--drop-prompt": ("drop_prompt", float, "share of clips that are seen without their prompt"),
    "--seed": ("seed", int, "of new weights and of all draws"),
    "--save-every": ("save_every", int, "steps between checkpoints"),
    "--log-every": ("log_every", int, "steps between lines on the console"),
}
RESUMES = (
    "A run that was stopped goes on from its last checkpoint when the same command is given again, and ends with the "
    "same weights."
)
DATA_HELP = (
    "Videos are read for a base of the bundled form only, since its text encoder and autoencoder come with it. This "
    "package has no CLIP and no VAE of Stable Diffusion: for any other UNet DATA is a folder of encoded clips, "
    ".safetensors files with `latents` (F, C, h, w) as the UNet takes them and `text` (T, D), for SDXL also "
    "`text_embeds` and `time_ids`; empty.safetensors holds the texts of the empty prompt."
)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """What is trained on."""
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder of videos, GIFs, WebPs or folders of frames, captions in .txt "
        "files beside them or in metadata.jsonl; or of encoded clips, see below")  # fmt: skip
    add("--base", default="bundled", metavar="FILE|bundled", help="the UNet (default: bundled)")
    add("--out", type=Path, required=True, metavar="DIR", help="where checkpoints, losses and result go")
    add("--cache", type=Path, metavar="DIR", help="where encoded clips are kept (default: cache in --out)")
    add("--frames", type=int, default=16, help="frames of a clip (default 16)")
    add("--fps", type=float, help="frames a second that are taken of videos (default: all)")
    add("--stride", type=int, help="every which of them is kept (default 1)")
    add("--size", type=_size, action="append", metavar="WxH", help="pixels, multiples of 8 (default 64x64); given "
        "several times, each clip gets the one nearest to its shape")  # fmt: skip
    add("--flip", action="store_true", help="mirror half of the clips; not where captions name directions")


def add_recipe_arguments(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """How it is trained; `defaults` are fields of the recipe."""
    add = parser.add_argument
    for option, (name, kind, text) in NUMBERS.items():
        value = defaults.get(name, getattr(DEFAULTS, name))
        add(option, dest=name, type=kind, default=value, metavar="N", help=f"{text} (default {value:g})")
    add("--schedule", choices=SCHEDULES, default=DEFAULTS.schedule, help="of the learning rate (default cosine)")
    add("--optimizer", default=DEFAULTS.optimizer, metavar="NAME", help="class of torch.optim (default AdamW)")
    add("--optimizer-option", dest="optimizer_options", type=_option, action="append", default=[],
        metavar="NAME=VALUE", help="an argument of it, such as momentum=0.9; may be given several times")  # fmt: skip
    add("--prediction", choices=("epsilon", "v_prediction"), help="what the UNet gives (default: as the base says)")
    add("--beta-schedule", choices=("linear", "scaled_linear"), help="of the noise (default: as the base says, or "
        "linear)")  # fmt: skip
    add("--beta-end", type=float, help="last beta of the noise (default: as the base says, or 0.012)")
    add("--checkpointing", action="store_true", help="less memory, more time, the same result")
    add("--bfloat16", action="store_true", help="compute in bfloat16; weights and optimizer stay in float32")
    add("--device", help="torch device, such as cpu or cuda (default: a CUDA device where there is one; with "
        "--accelerate its choice)")  # fmt: skip
    add("--accelerate", action="store_true", help="one of the processes that `accelerate launch` started; each "
        "computes --batch clips; --device may only say cpu then")  # fmt: skip
    add("--quiet", action="store_true", help="print only what was written")


def add_watch_arguments(parser: argparse.ArgumentParser) -> None:
    """What is shown of a run."""
    add = parser.add_argument
    add("--validate-every", type=int, default=0, metavar="N", help="steps between validation clips, sampled with the "
        "same seeds each time into OUT/validation; 0 is off (default 0)")  # fmt: skip
    add("--validate-prompt", action="append", default=[], metavar="PROMPT", help="what they show; may be given several "
        "times (default: the texts of the first two clips)")  # fmt: skip
    add("--tensorboard", action="store_true", help="log to OUT/tensorboard too (needs the extra `train`)")


@dataclass
class Prepared:
    """Everything that a trainer is made of."""

    base: Base
    clips: ClipDataset
    objective: Objective
    recipe: MotionRecipe
    processes: Processes


def check_options(args: argparse.Namespace) -> None:
    """Raise ValueError or ImportError for what can be refused before any file is read."""
    import torch

    from ..sampling.noise_schedule import make_betas
    from ..training.data.clip_files import ClipOptions
    from ..training.optimizers import make_optimizer
    from ..training.watchers.tensorboard import TensorBoard
    from .device import check_device

    recipe = recipe_of(args)
    if args.accelerate and args.device not in (None, "cpu"):
        raise ValueError(
            f"--device is {args.device} beside --accelerate, expected cpu or none: each process has its own."
        )
    if args.device is not None:
        check_device(args.device)
    ClipOptions(args.frames, args.fps, 1 if args.stride is None else args.stride, tuple(args.size or [(64, 64)]))
    if args.beta_end is not None:
        make_betas(end=args.beta_end)
    if args.validate_every < 0:
        raise ValueError(f"--validate-every is {args.validate_every}, expected at least 0.")
    if args.tensorboard:
        TensorBoard(args.out)  # it writes nothing before the first step
    some = [torch.nn.Parameter(torch.zeros(1))]
    make_optimizer(recipe.optimizer, some, recipe.learning_rate, recipe.weight_decay, recipe.optimizer_options)


def prepare(args: argparse.Namespace, base: Base) -> Prepared:
    """The data, the objective and the recipe of a command; warnings go to standard error."""
    from ..training.base import noise_schedule, read_data
    from ..training.objective import Objective
    from ..training.processes import AcceleratedProcesses, Processes
    from ..training.trainer import check_length
    from .device import choose_device

    recipe = recipe_of(args)
    options = _clip_options(args, base.parts is not None)
    check_length(base.unet.config, args.frames)
    if args.validate_prompt and base.parts is None:
        raise ValueError(f"--validate-prompt: only for the bundled form, but {args.base} is of another.")
    schedule = noise_schedule(base, betas=args.beta_schedule, end=args.beta_end, prediction=args.prediction)
    if args.accelerate:
        processes: Processes = AcceleratedProcesses(cpu=args.device == "cpu")
    else:
        processes = Processes(choose_device(args.device))
    if not processes.main:  # the first process fills the cache, the others read it
        processes.wait()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        clips = read_data(base, args.data, options, args.cache or args.out / "cache")
    if processes.main:
        processes.wait()
        for warning in caught:
            print(f"unet-motion train: {warning.message}", file=sys.stderr)
    objective = Objective(schedule, recipe.min_snr, recipe.noise_offset, recipe.noise_power)
    base.unet.to(processes.device)
    return Prepared(base, clips, objective, recipe, processes)


def watchers(args: argparse.Namespace, ready: Prepared) -> list[Watcher]:
    """Who is told of the run: the loss plot, and what the command asks for.

    Raises:
        ImportError: TensorBoard is asked for and not installed.
    """
    from ..training.base import bundled_encoder
    from ..training.watchers.loss_plot import LossPlot
    from ..training.watchers.tensorboard import TensorBoard
    from ..training.watchers.validation import Validation

    base, clips = ready.base, ready.clips
    if not ready.processes.main:
        return []
    found: list[Watcher] = [LossPlot()]
    board = TensorBoard(args.out / "tensorboard") if args.tensorboard else None
    if args.validate_every:
        texts = clips.texts[:2]
        if args.validate_prompt and base.parts is not None:  # `prepare` refuses others
            encoder = bundled_encoder(base.parts, base.source["base_sha256"])
            texts = [dict(encoder.text(prompt)) for prompt in args.validate_prompt]
        empty = clips.empty_text() if ready.recipe.drop_prompt else None
        shape = (args.frames, *clips.latents[0]["latents"].shape[1:])
        folder = args.out / "validation"
        found.append(Validation(folder, args.validate_every, texts, empty, shape, base.parts, board=board))
    return [*found, board] if board else found


def recipe_of(args: argparse.Namespace) -> MotionRecipe:
    """The recipe of a command.

    Raises:
        ValueError: a number out of its range.
    """
    values: dict[str, Any] = {f.name: getattr(args, f.name) for f in dataclasses.fields(MotionRecipe)}
    values["optimizer_options"] = tuple(values["optimizer_options"])
    return MotionRecipe(**values)


def alone(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """A command that checks its options, and holds its folder from before it reads a file until it wrote its result."""

    @functools.wraps(run)
    def held(args: argparse.Namespace) -> int:
        check_options(args)
        # Of several processes of one run the first takes the folder in its trainer.
        with contextlib.nullcontext() if args.accelerate else folder_lock(args.out):
            return run(args)

    return held


def train(trainer: MotionTrainer) -> tuple[int, bool]:
    """Run; gives the exit status, and whether there are good weights to write: 1 where a loss was not finite."""
    try:
        trainer.run()
    except FloatingPointError as error:
        if trainer.processes.main:
            print(f"unet-motion train: {error}", file=sys.stderr)
        return 1, trainer.path.exists() and trainer.processes.main
    return 0, trainer.processes.main


def _clip_options(args: argparse.Namespace, watched: bool):
    from ..training.data.clip_files import ClipOptions

    given = {"fps": args.fps, "stride": args.stride, "size": args.size, "flip": args.flip}
    if not watched and (extra := [f"--{name}" for name, value in given.items() if value]):
        raise ValueError(f"{', '.join(extra)}: only for videos and pictures, but {args.base} takes encoded clips.")
    buckets = tuple(args.size or [(64, 64)])
    return ClipOptions(args.frames, args.fps, 1 if args.stride is None else args.stride, buckets, args.flip)


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"found {quoted(text)}, expected pixels such as 64x64")
    return int(width), int(height)


def _option(text: str) -> tuple[str, float | bool]:
    name, _, value = text.partition("=")
    words = {"true": True, "false": False}
    try:
        return name, words[value.lower()] if value.lower() in words else float(value)
    except ValueError:
        found = f"found {quoted(text)}, expected a name and a number such as momentum=0.9"
        raise argparse.ArgumentTypeError(found) from None
