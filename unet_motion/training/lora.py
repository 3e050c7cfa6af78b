"""LoRAs in training: pairs of thin layers beside a frozen UNet's own.

W + (alpha / rank) * up @ down (Hu et al., 2021, https://arxiv.org/abs/2106.09685), in the motion modules and, for
MotionDirector's split (Zhao et al., 2023, https://arxiv.org/abs/2310.08465), in the image layers too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..model import float8_products
from ..ops.linear.low_rank import low_rank
from ..values import quoted

PROJECTIONS = {
    "q": r"\.attn[12]\.to_q",
    "k": r"\.attn[12]\.to_k",
    "v": r"\.attn[12]\.to_v",
    "out": r"\.attn[12]\.to_out\.0",
    "ff": r"\.ff\.net\.(0\.proj|2)",
    "proj": r"\.motion_modules\.\d+\.proj_(in|out)",
}
"""Choices of layers -> the end of their paths."""
ATTENTION = ("q", "k", "v", "out")
TEMPORAL, SPATIAL = "temporal", "spatial"
_BLOCK = re.compile(r"(down_blocks|up_blocks)\.\d+|mid_block")


@dataclass(frozen=True)
class LoraSettings:
    """Which layers of a UNet get a LoRA, and how wide it is.

    Attributes:
        rank: columns of the thin layers.
        alpha: the change counts alpha / rank times; None is `rank`, that is once.
        projections: of `PROJECTIONS`, in the motion modules.
        blocks: such as `up_blocks.1` or `mid_block`; empty is all of them.
        spatial: a second LoRA for what the clips look like, in the self-attention (and the feed-forward layers, where
            `ff` is chosen) of the image layers of the same blocks.

    Raises:
        ValueError: a number out of its range, or no such layers.
    """

    rank: int = 4
    alpha: float | None = None
    projections: tuple[str, ...] = ATTENTION
    blocks: tuple[str, ...] = ()
    spatial: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"`rank` is {self.rank}, expected at least 1.")
        if self.alpha is not None and not 0 < self.alpha < float("inf"):
            raise ValueError(f"`alpha` is {self.alpha}, expected more than 0.")
        unknown = [name for name in self.projections if name not in PROJECTIONS]
        if unknown or not self.projections:
            raise ValueError(
                f"`projections` is {quoted(','.join(self.projections))}, expected some of {', '.join(PROJECTIONS)}."
            )
        if wrong := [name for name in self.blocks if not _BLOCK.fullmatch(name)]:
            raise ValueError(f"`blocks` has {quoted(wrong[0])}, expected names such as down_blocks.0, mid_block.")

    @property
    def factor(self) -> float:
        """alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def identity(self) -> dict[str, Any]:
        """The settings, ready for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def check(self, unet: nn.Module) -> None:
        """Raise ValueError unless these settings suit a UNet, on any device, "meta" too.

        More columns than the widest layer has inputs or outputs add nothing that a LoRA could express.
        """
        layers = self.layers(unet)
        if empty := [part for part, found in layers.items() if not found]:
            raise ValueError(
                f"`blocks` {', '.join(self.blocks) or 'all'} and `projections` {', '.join(self.projections)} "
                f"name no {empty[0]} layers of this UNet, expected some."
            )
        most = max(min(cast(nn.Linear, layer).weight.shape) for found in layers.values() for layer in found.values())
        if self.rank > most:
            raise ValueError(f"`rank` is {self.rank}, expected at most {most}, the width of this UNet's widest layer.")

    def layers(self, unet: nn.Module) -> dict[str, dict[str, nn.Module]]:
        """Part -> path -> layer, of all that get a LoRA."""
        found: dict[str, dict[str, nn.Module]] = {TEMPORAL: {}, **({SPATIAL: {}} if self.spatial else {})}
        for path, layer in unet.named_modules():
            part = self.part(path)
            weight = getattr(layer, "weight", None)
            if part is not None and isinstance(weight, Tensor) and weight.dim() == 2:
                found[part][path] = layer
        return found

    def part(self, path: str) -> str | None:
        """Which LoRA the layer at a path belongs to, or None."""
        if self.blocks and not path.startswith(tuple(f"{block}." for block in self.blocks)):
            return None
        if ".motion_modules." in path:
            wanted = "|".join(f"(?:{PROJECTIONS[name]})" for name in self.projections)
            return TEMPORAL if re.search(f"(?:{wanted})$", path) else None
        if not self.spatial or ".attentions." not in path:
            return None
        wanted = "|".join(
            f"(?:{PROJECTIONS[name]})".replace("[12]", "1") for name in self.projections if name != "proj"
        )
        return SPATIAL if re.search(f"(?:{wanted})$", path) else None


class TrainableLora:
    """LoRAs that act on a UNet while they are trained; all other weights of the UNet are frozen.

    Args:
        unet: gets a hook on each layer; `remove` takes them away.
        settings: which layers.
        seed: of the first values: the down halves are random, the up halves 0, so that nothing changes yet.

    Attributes:
        pairs: part -> path -> (down (R, in), up (out, R)), float32 parameters.
        scale: part -> what its change is multiplied with; 0 leaves it out.
        fixed: parts that act but get no gradient.

    Raises:
        ValueError: the UNet has no such layers, or none so wide.
    """

    def __init__(self, unet: nn.Module, settings: LoraSettings, seed: int = 0) -> None:
        float8_products.refuse(unet, "to train a LoRA on")
        self.settings = settings
        settings.check(unet)
        chosen = settings.layers(unet)
        self.pairs: dict[str, dict[str, tuple[nn.Parameter, nn.Parameter]]] = {part: {} for part in chosen}
        self.scale = dict.fromkeys(self.pairs, 1.0)
        self.fixed: set[str] = set()
        self._handles = []
        unet.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        parts = {path: part for part, found in chosen.items() for path in found}
        for path, layer in unet.named_modules():  # in the UNet's order: the values are drawn one after the other
            if (part := parts.get(path)) is None:
                continue
            weight = cast(nn.Linear, layer).weight
            out, width = weight.shape
            # Like diffusers' first LoRA layers: a change of the order of the input for any rank.
            down = torch.randn(settings.rank, width, generator=generator) / settings.rank
            up = torch.zeros(out, settings.rank)
            pair = nn.Parameter(down.to(weight.device)), nn.Parameter(up.to(weight.device))
            self.pairs[part][path] = pair
            self._handles.append(layer.register_forward_hook(self._hook(part, pair)))

    def _hook(self, part: str, pair: tuple[nn.Parameter, nn.Parameter]):
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            factor = self.settings.factor * self.scale[part]
            if factor == 0:
                return output
            down, up = (t.detach() for t in pair) if part in self.fixed else pair
            return output + factor * low_rank(inputs[0], down, up).to(output.dtype)

        return add

    def parameters(self) -> dict[str, nn.Parameter]:
        """What trains, by name: the layer's path with `.down` or `.up`."""
        return {
            f"{path}.{name}": parameter
            for pairs in self.pairs.values()
            for path, pair in pairs.items()
            for name, parameter in zip(("down", "up"), pair, strict=True)
        }

    def tensors(self, part: str = TEMPORAL) -> dict[str, tuple[Tensor, Tensor]]:
        """Path -> (down (R, in), up (out, R)) with alpha / rank inside of `up`: a file needs no alpha then."""
        return {
            path: (down.detach().clone(), up.detach() * self.settings.factor)
            for path, (down, up) in self.pairs[part].items()
        }

    @contextmanager
    def only(self, scale: dict[str, float], fixed: frozenset[str] | set[str] = frozenset()) -> Iterator[None]:
        """Other scales, and parts without a gradient, for a while."""
        before = self.scale, self.fixed
        self.scale, self.fixed = {**self.scale, **scale}, set(fixed)
        try:
            yield
        finally:
            self.scale, self.fixed = before

    def remove(self) -> None:
        """Take the hooks away; the UNet computes what it did before, bit for bit."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
