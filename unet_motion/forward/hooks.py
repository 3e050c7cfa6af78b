"""Places where a host program may look at, or change, what flows through the UNet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

Step = Callable[[Tensor], Tensor]


class BlockSteps(Protocol):
    """A block of a spatial transformer, bound to its call.

    Attributes:
        layer: with the attentions ``attn1`` (over the pixels) and ``attn2`` (to the text).
    """

    layer: nn.Module

    def run(
        self, tokens: Tensor, self_attention: Step | None = None, between: Step | None = None,
        cross_attention: Step | None = None,
    ) -> Tensor:  # fmt: skip
        """The block on tokens (B*F, H*W, C), with a host's code in the place of some of its steps.

        Args:
            self_attention, cross_attention: normalised tokens -> what is added to the residual stream.
            between: residual stream behind self-attention -> the stream that goes on.
        """
        ...

    def attend(self, attention: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of (N, L, heads*dim) tensors with the processor that the call has for a layer."""
        ...


class BoundBlock:
    """A block and its call, as :class:`BlockSteps`."""

    layer: nn.Module

    def __init__(self, block: Any, call: Any):
        self.layer, self._block, self._call = block, block, call

    def run(
        self, tokens: Tensor, self_attention: Step | None = None, between: Step | None = None,
        cross_attention: Step | None = None,
    ) -> Tensor:  # fmt: skip
        return self._block.run(tokens, self._call, self_attention, between, cross_attention)

    def attend(self, attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attention.attend(self._call.processor(attention), query, key, value, None)


class Hooks:
    """Identity hooks; a host overrides what it needs and passes an instance in ``ForwardOptions(hooks=...)``.

    Stages are numbered as in the original latent-diffusion UNet: ``conv_in`` is input 0, each down layer and each
    downsampler is one more input stage; each up layer is one output stage, and the upsampler belongs to the last
    layer of its block. A motion module runs inside the stage of its layer. Tensors are (B*F, C, H, W).
    """

    def replayable(self) -> tuple | None:
        """What a recorded step depends on in these hooks, or None where later steps have to call them again.

        With an answer, a step may be recorded and replayed (:class:`unet_motion.StepGraphs`) under other hooks with an
        equal answer.
        """
        return None

    def takes_parts(self) -> bool:
        """Whether blocks may get some of a clip's frames at a time (``ForwardOptions.frames_at_once``)."""
        return False

    def after_time_embedding(self, embedding: Tensor) -> Tensor:
        """The embedding of the timestep, (B or B*F, 4 * C0), before other conditioning is added to it."""
        return embedding

    def after_embedding(self, embedding: Tensor) -> Tensor:
        """The embedding that the resnets read, before their activation."""
        return embedding

    def before_stage(self, kind: str, index: int) -> None:
        """A stage begins; ``kind`` is ``input``, ``middle`` or ``output``."""

    def after_input(self, hidden: Tensor, index: int) -> Tensor:
        """The output of an input stage, before it is kept as a skip."""
        return hidden

    def after_input_skip(self, hidden: Tensor, index: int) -> Tensor:
        """The output of an input stage, after it was kept as a skip."""
        return hidden

    def after_middle(self, hidden: Tensor) -> Tensor:
        """The output of the mid block."""
        return hidden

    def before_output(self, hidden: Tensor, skip: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """What an output stage is about to concatenate: the hidden state and its skip."""
        return hidden, skip

    def transformer_block(self, block: BlockSteps, tokens: Tensor) -> Tensor:
        """One block of a spatial transformer: tokens (B*F, H*W, C); ``block.run(tokens)`` is the UNet's own path."""
        return block.run(tokens)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None) -> Tensor | None:
        """Spatial attention on (N, L, heads*dim) tensors, or None to use the chosen processor.

        ``mask`` is additive and broadcasts to (N, heads, L, S).
        """
        return None
