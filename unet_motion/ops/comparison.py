"""A kernel's distance from float64 beside its plain twin's, on fresh random input between poison."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .pairs import Make, Pair, Results


def maker(seed: int, dtype: torch.dtype, device: torch.device, padding: int = 0, double: bool = False) -> Make:
    """Makes random tensors, always the same ones for a seed: as they are, with NaN around each row, or in float64.

    The generator is its own: torch's random state stays as it is.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def make(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float32, device=device).to(dtype)
        if double:
            return values.double()
        if not padding:
            return values
        around = torch.full((*shape[:-1], shape[-1] + 2 * padding), float("nan"), device=device, dtype=dtype)
        around[..., padding:-padding] = values
        return around[..., padding:-padding]

    return make


def last(result: Results) -> Tensor:
    """The last of several results, which depends on all input."""
    return result[-1] if isinstance(result, tuple) else result


def poison(result: Tensor) -> None:
    """Leave NaN in the memory that the next results of this size are likely to get."""
    for _ in range(4):
        torch.empty_like(result).view(torch.uint8).fill_(255)


class Reference:
    """A kernel's input, what it gives in float64, and how far its plain twin is from that.

    Args:
        pair_of: a function of what makes the tensors.
        padding: numbers that are poisoned before and behind each row.
    """

    def __init__(
        self, pair_of: Callable[[Make], Pair], seed: int, dtype: torch.dtype, device: torch.device, padding: int = 0
    ) -> None:
        self.dtype = dtype
        self.exact = _each(pair_of(maker(seed, dtype, device, double=True)).plain())
        self.given = pair_of(maker(seed, dtype, device, padding))
        plain = _each(self.given.plain())
        self._forms = [(result.shape, result.dtype) for result in plain]
        self.twin = self._distance(plain)

    def error(self) -> float:
        """The kernel's largest distance to float64, over the largest value of each result; NaN where it gave one.

        Infinite where its results have other shapes or dtypes than the twin's.
        """
        for exact, (_, dtype) in zip(self.exact, self._forms, strict=True):
            poison(torch.empty(exact.shape, dtype=dtype, device=exact.device))
        found = _each(self.given.kernel())
        if [(result.shape, result.dtype) for result in found] != self._forms:
            return float("inf")
        return self._distance(found)

    def as_exact(self, error: float) -> bool:
        """Whether an error is no larger than the plain twin's, but for a rounding of the result."""
        if self.given.equal:
            return error <= self.twin
        return error <= 1.5 * self.twin + 2 * torch.finfo(self.dtype).eps

    def _distance(self, found: tuple[Tensor, ...]) -> float:
        pairs = zip(found, self.exact, strict=True)
        return torch.stack([(f.double() - e).abs().max() / e.double().abs().max() for f, e in pairs]).max().item()


def _each(result: Results) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)
