"""Measuring a text-to-video model: sample clips for known prompts and let the judge name what they show."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...bundled.parts import BundledParts, added_cond
from ...progress import track
from ...sampling import NoiseSchedule, get_sampler
from .drawn_clips import COLOUR_NAMES, DIRECTIONS, FRAMES, MOTIONS, is_held_out
from .judge import Judge, Verdict
from .outline_judge import frame_shapes
from .prompts import plain_prompt
from .shapes import SHAPES

MOVED = 8.0  # pixels between the first and the last frames from which on a clip counts as moving
TARGETS = {  # least share of clips
    "colour": 0.99,
    "shape": 0.98,
    "motion": 0.95,
    "least_motion": 0.88,
    "moves": 0.95,
    "same_shape_in_all_frames": 0.97,
    "held_out_less_seen": -0.05,
}


@dataclass(frozen=True)
class SampleSettings:
    steps: int = 20
    guidance: float = 3.0
    sampler: str = "ddim"
    frames: int = FRAMES
    bfloat16: bool = False  # faster where the device has matrix units for it; figures are the same within a clip or two


@torch.no_grad()
def sample_clips(parts: BundledParts, prompts: list[str], seeds: list[int], settings: SampleSettings) -> Tensor:
    """Clips (N, F, 3, 64, 64) in [0, 1] on the CPU for N prompts; clip i depends on prompt i and seed i alone.

    They are sampled on the device of the UNet.
    """
    device = parts.unet.device
    noise = [torch.randn(settings.frames, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    x = torch.cat(noise).to(device)
    hidden, pooled = parts.encode_prompts([*prompts, *[""] * len(prompts)])
    cond = added_cond(pooled)

    def model(x: Tensor, timestep: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16):
            both = parts.unet.forward_frames(
                torch.cat([x, x]), float(timestep), hidden, settings.frames, added_cond_kwargs=cond
            )
        given, free = both.float().chunk(2)
        return free + settings.guidance * (given - free)

    schedule = NoiseSchedule.named()
    sampler = get_sampler(settings.sampler)
    latents = sampler.run(model, x, schedule, schedule.steps(settings.steps, sampler.spacing))
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16):
        pictures = torch.cat([parts.autoencoder.decode(part).float() for part in latents.split(32)])
    return pictures.clamp(0, 1).cpu().unflatten(0, (len(prompts), settings.frames))


def evaluation_triples(count: int, seed: int) -> np.ndarray:
    """(count, 3) index triples: every motion equally often, shapes and colours drawn."""
    rng = np.random.default_rng(seed)
    motion = np.arange(count) % len(MOTIONS)
    return np.stack(
        [rng.integers(len(SHAPES), size=count), rng.integers(len(COLOUR_NAMES), size=count), motion], axis=1
    )


def _share(hits: Tensor, among: Tensor | None = None) -> float | None:
    hits = hits if among is None else hits[among]
    return round(hits.float().mean().item(), 4) if len(hits) else None


def figures_of(verdict: Verdict, frames: Tensor, asked: np.ndarray) -> dict:
    """Shares of clips that obey their prompt.

    Args:
        verdict: of the judge on N clips.
        frames: (N, F) the shape in each frame, index into SHAPES, as fitted outlines say.
        asked: (N, 3) index triples of shape, colour and motion.

    `direction` counts clips asked to go left, right, up or down that the judge's classifier names so;
    `direction_measured` those whose centre moves more than MOVED pixels, mostly that way. `least_motion` is the share
    of the word that is obeyed least, `held_out_less_seen` by how much more often than others those triples are drawn
    right that no training saw.
    """
    shape, colour, motion = (torch.from_numpy(column.copy()) for column in asked.T)
    held_out = torch.tensor([is_held_out(*triple) for triple in asked.tolist()])
    name = {m: motion == i for i, m in enumerate(MOTIONS)}
    right = verdict.motion == motion
    same_shape = (frames == frames[:, :1]).all(1)
    all_right = right & (verdict.shape == shape) & (verdict.colour == colour)
    by_motion = {m: _share(right, name[m]) for m in MOTIONS}
    seen, unseen = _share(all_right, ~held_out), _share(all_right, held_out)
    return {
        "clips": len(asked),
        "colour": _share(verdict.colour == colour),
        "shape": _share(verdict.shape == shape),
        "motion": _share(right),
        **_path_figures(verdict, motion),
        **{m: _share(right, name[m]) for m in ("still", "spinning", "growing", "shrinking")},
        "by_motion": by_motion,
        "least_motion": min((share for share in by_motion.values() if share is not None), default=None),
        "whole_prompt": _share(all_right),
        "whole_prompt_held_out": unseen,
        "held_out_less_seen": None if seen is None or unseen is None else round(unseen - seen, 4),
        "same_shape_in_all_frames": _share(same_shape),
        "same_shape_by_motion": {m: _share(same_shape, name[m]) for m in MOTIONS},
        "confusion": [[int((verdict.motion[name[m]] == i).sum()) for i in range(len(MOTIONS))] for m in MOTIONS],
    }


def _path_figures(verdict: Verdict, motion: Tensor) -> dict:
    """What the way of the shapes' centres says, for clips asked for the motions (N,), indices into MOTIONS."""
    wanted = torch.tensor([DIRECTIONS.get(m, (0.0, 0.0)) for m in MOTIONS])[motion]
    travels, still = wanted.any(-1), motion == MOTIONS.index("still")
    along = (verdict.displacement * wanted).sum(-1)
    across = (verdict.displacement * wanted.flip(-1)).sum(-1).abs()
    distance = verdict.displacement.norm(dim=-1)
    return {
        "direction": _share(verdict.motion == motion, travels),
        "direction_measured": _share((along > MOVED) & (along > across), travels),
        "moves": _share(distance > MOVED, travels),
        "mean_path_px": round(distance[travels].mean().item(), 2) if travels.any() else None,
        "still_path_px": round(distance[still].mean().item(), 2) if still.any() else None,
    }


def evaluate(
    parts: BundledParts,
    judge: Judge,
    clips: int = 200,
    seed: int = 1000,
    settings: SampleSettings = SampleSettings(),
    batch: int = 8,
    sheet: Path | None = None,
    quiet: bool = True,
) -> dict:
    """Sample `clips` clips and measure them; `sheet` names a PNG to write with the first 32 of them.

    Returns the figures of `figures_of`, with the settings they hold for.
    """
    asked = evaluation_triples(clips, seed)
    shown = []
    for start in track(range(0, clips, batch), description="evaluate", enabled=not quiet):
        rows = asked[start : start + batch]
        seeds = list(range(seed + start, seed + start + len(rows)))
        shown.append(sample_clips(parts, [plain_prompt(*row) for row in rows.tolist()], seeds, settings))
    pictures = torch.cat(shown)
    if sheet is not None:
        write_sheet(pictures[:32], sheet)
    figures = figures_of(judge.verdict(pictures), frame_shapes(pictures), asked)
    how = {name: getattr(settings, name) for name in ("steps", "guidance", "sampler", "bfloat16")}
    return figures | {"seed": seed} | how


def missed_targets(figures: dict, targets: Mapping[str, float] = TARGETS) -> list[str]:
    """Sentences naming each target that the figures miss."""
    return [
        f"{name} is {figures[name]:.1%}, the target is {least:.0%}"
        for name, least in targets.items()
        if figures[name] is not None and figures[name] < least
    ]


def write_sheet(clips: Tensor, path: Path, every: int = 3, columns: int = 2, scale: int = 1) -> None:
    """A PNG contact sheet: a row of frames a clip, `columns` clips side by side. clips (N, F, 3, H, W) in [0, 1]."""
    rows = clips[:, ::every]
    n, f, _, h, w = rows.shape
    strips = (
        torch.nn.functional.pad(rows, (1, 1, 1, 1), value=1.0).permute(0, 3, 1, 4, 2).reshape(n, h + 2, f * (w + 2), 3)
    )
    strips = torch.nn.functional.pad(strips, (0, 0, 4, 4), value=1.0)
    if n % columns:
        strips = torch.cat([strips, strips.new_ones(columns - n % columns, *strips.shape[1:])])
    grid = torch.cat([torch.cat(list(strips[i::columns])) for i in range(columns)], dim=1)
    picture = Image.fromarray((grid * 255).round().byte().numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(path)
