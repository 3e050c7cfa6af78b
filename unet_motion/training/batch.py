"""The batches that a training step sees."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Draw:
    """A batch of rows.

    Attributes:
        clean, noise: float32 (B, F, C, h, w), clips and noise.
        timesteps: int64 (B,).
        text: tensors (B, ...) by name; `text` for cross-attention, the others for the time embedding.
        source: int64 (B,), the clips' numbers.
        extra: more tensors (B, ...), for trainers that draw more.
    """

    clean: Tensor
    noise: Tensor
    timesteps: Tensor
    text: dict[str, Tensor]
    source: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clean)

    def rows(self, which: slice) -> Draw:
        """Some of the rows."""
        text = {name: value[which] for name, value in self.text.items()}
        extra = {name: value[which] for name, value in self.extra.items()}
        return Draw(self.clean[which], self.noise[which], self.timesteps[which], text, self.source[which], extra)

    def split(self, size: int) -> list[Draw]:
        """The rows in batches of `size`."""
        return [self.rows(slice(start, start + size)) for start in range(0, len(self), size)]
