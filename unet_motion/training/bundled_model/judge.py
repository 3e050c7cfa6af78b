"""The judge: names the shape and colour of frames and the motion of clips, and measures paths in pixels."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .drawn_clips import COLOUR_NAMES, FRAMES, MOTIONS, SIZE
from .shapes import SHAPES


def _stage(before: int, after: int, norm: nn.Module, kernel: int = 3) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, norm, nn.ReLU())


class FrameJudge(nn.Module):
    """Frames (N, 3, 64, 64) in [0, 1] to logits of shape (N, 8) and colour (N, 8)."""

    def __init__(self):
        super().__init__()
        widths = (3, 24, 48, 64, 96)
        self.body = nn.Sequential(
            *(
                _stage(before, after, nn.GroupNorm(8, after), kernel=5 if before == 3 else 3)
                for before, after in pairwise(widths)
            )
        )
        self.shape = nn.Sequential(nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, len(SHAPES)))
        self.colour = nn.Sequential(nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, len(COLOUR_NAMES)))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(frames * 2 - 1)
        x = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        return self.shape(x), self.colour(x)


class MotionJudge(nn.Module):
    """Clips (N, 16, 3, 64, 64) in [0, 1] to logits of motion (N, 8): the frames side by side as channels.

    It sees each frame's difference from the clip's mean, so what does not change does not distract. How strong that
    difference is tells a faint residue from a motion, so the norms are over the batch: one over a clip would divide
    the strength away.
    """

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            _stage(FRAMES * 3, 48, nn.BatchNorm2d(48), kernel=5),
            _stage(48, 64, nn.BatchNorm2d(64)),
            _stage(64, 64, nn.BatchNorm2d(64)),
        )
        self.head = nn.Sequential(nn.Linear(64 * 16, 64), nn.ReLU(), nn.Linear(64, len(MOTIONS)))

    def forward(self, clips: Tensor) -> Tensor:
        change = (clips - clips.mean(dim=1, keepdim=True)).flatten(1, 2)
        return self.head(self.body(F.avg_pool2d(change, SIZE // 32) * 4).flatten(1))


class Judge(nn.Module):
    """Both classifiers."""

    def __init__(self):
        super().__init__()
        self.frames, self.motion = FrameJudge(), MotionJudge()

    @torch.no_grad()
    def verdict(self, clips: Tensor) -> "Verdict":
        """Judge clips (N, 16, 3, 64, 64) in [0, 1]; shape and colour of a clip are those of its mean frame."""
        if clips.dim() != 5 or clips.shape[1:] != (FRAMES, 3, SIZE, SIZE):
            raise ValueError(f"clips have shape {tuple(clips.shape)}; expected (N, {FRAMES}, 3, {SIZE}, {SIZE})")
        shape, colour = (logits.unflatten(0, clips.shape[:2]) for logits in self.frames(clips.flatten(0, 1)))
        path, area = centroid_path(clips)
        return Verdict(
            shape=shape.log_softmax(-1).mean(1).argmax(-1),
            colour=colour.log_softmax(-1).mean(1).argmax(-1),
            motion=self.motion(clips).argmax(-1),
            path=path,
            area=area,
        )


@dataclass(frozen=True)
class Verdict:
    """What the judge says of N clips of F frames."""

    shape: Tensor  # (N,) index into SHAPES
    colour: Tensor  # (N,) index into COLOUR_NAMES
    motion: Tensor  # (N,) index into MOTIONS
    path: Tensor  # (N, F, 2) centroid x, y in pixels
    area: Tensor  # (N, F) pixels covered

    @property
    def displacement(self) -> Tensor:
        """(N, 2) path from the first two frames' mean to the last two frames' mean, in pixels."""
        return self.path[:, -2:].mean(1) - self.path[:, :2].mean(1)


def centroid_path(clips: Tensor) -> tuple[Tensor, Tensor]:
    """Centre of mass and area of what differs from the background, the median colour of each frame.

    Args:
        clips: (N, F, 3, H, W) in [0, 1].

    Returns:
        x, y (N, F, 2) in pixels and area (N, F) in pixels; a frame without any foreground has its centre and area 0.
    """
    background = clips.flatten(-2).median(-1).values[..., None, None]
    mask = ((clips - background).abs().amax(dim=2) - 0.08).clamp(0, 0.1) / 0.1
    height, width = mask.shape[-2:]
    area = mask.sum((-2, -1))
    x = (mask.sum(-2) * (torch.arange(width) + 0.5)).sum(-1)
    y = (mask.sum(-1) * (torch.arange(height) + 0.5)).sum(-1)
    middle = torch.tensor([width / 2, height / 2])
    path = torch.stack([x, y], dim=-1) / area.clamp_min(1e-6)[..., None]
    return torch.where(area[..., None] > 1, path, middle), area
