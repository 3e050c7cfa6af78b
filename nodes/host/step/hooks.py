"""ComfyUI's patches of a MODEL (control, block patches, attention patches) on the core's hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.ldm.modules.attention as comfy_attention
from torch import Tensor, nn

from ....unet_motion.forward.hooks import BlockSteps, Hooks
from .control import add_residual

KEY = "unet_motion"
"""Where the pack's own settings stand in `transformer_options`."""

OVERRIDE = "optimized_attention_override"
BLOCK_PATCHES = (
    "attn1_patch", "attn1_output_patch", "attn2_patch", "attn2_output_patch", "middle_patch",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a transformer block stands.

    Attributes:
        index: of the block in its spatial transformer.
        last: whether it is the transformer's last block.
        transformer: of the spatial transformer in the UNet.
        level: how often the picture was halved before it.
        channels: of the transformer's input.
    """

    index: int
    last: bool
    transformer: int
    level: int
    channels: int


class Places:
    """The place of every spatial transformer block of a core, in the order of the forward pass.

    Attributes:
        model_channels: of the UNet's first layer.
    """

    def __init__(self, core: nn.Module):
        self.model_channels = core.conv_in.out_channels
        self._places: dict[int, Place] = {}
        self._count = 0
        for level, block in enumerate(core.down_blocks):
            self._add(block, level)
        lowest = len(core.down_blocks) - 1
        self._add(core.mid_block, lowest)
        for index, block in enumerate(core.up_blocks):
            self._add(block, lowest - index)

    def _add(self, block: nn.Module, level: int) -> None:
        for transformer in getattr(block, "attentions", None) or ():
            depth = len(transformer.transformer_blocks)
            channels = transformer.norm.num_channels
            for index, inner in enumerate(transformer.transformer_blocks):
                self._places[id(inner)] = Place(index, index == depth - 1, self._count, level, channels)
            self._count += 1

    def __getitem__(self, block: nn.Module) -> Place:
        return self._places[id(block)]


class ComfyHooks(Hooks):
    """One call's hooks.

    Args:
        places: of the core's transformer blocks.
        options: ComfyUI's `transformer_options` of the call; the current block is written into it, as core does.
        x, timesteps, context, y: the arguments of the diffusion model.
        control: ComfyUI's control dict.
    """

    def __init__(
        self, places: Places, options: dict, x: Tensor, timesteps: Tensor, context: Tensor | None, y: Tensor | None,
        control: dict | None,
    ):  # fmt: skip
        self.places, self.options, self.control = places, options, control
        self.context = context
        self.model_channels = places.model_channels
        self.arguments = {"x": x, "timesteps": timesteps, "context": context, "y": y}
        self.patches: dict[str, list[Callable]] = options.get("patches", {})
        self.replace: dict[str, dict] = options.get("patches_replace", {})
        self.patches_blocks = any(self.patches.get(name) for name in BLOCK_PATCHES) or any(
            self.replace.get(name) for name in ("attn1", "attn2")
        )
        chosen = options.get(KEY, {}).get("attention", {}).get("spatial", "auto")
        self.core_attention = chosen != "auto" and OVERRIDE not in options
        self.embedding: Tensor | None = None
        options["original_shape"] = list(x.shape)
        options["transformer_index"] = 0

    def replayable(self) -> tuple | None:
        changed = self.control or any(self.patches.values()) or any(self.replace.values()) or OVERRIDE in self.options
        return None if changed else (self.core_attention, comfy_attention.optimized_attention)

    def takes_parts(self) -> bool:
        # Patches of attention count the rows of a batch, and take their own part of it.
        return not self.patches_blocks and OVERRIDE not in self.options

    def after_time_embedding(self, embedding: Tensor) -> Tensor:
        for patch in self.patches.get("emb_patch", ()):
            embedding = patch(embedding, self.model_channels, self.options)
        return embedding

    def after_embedding(self, embedding: Tensor) -> Tensor:
        self.embedding = embedding
        return embedding

    def before_stage(self, kind: str, index: int) -> None:
        self.options["block"] = (kind, index)

    def after_input(self, hidden: Tensor, index: int) -> Tensor:
        return self._patch("input_block_patch", add_residual(hidden, self.control, "input", index))

    def after_input_skip(self, hidden: Tensor, index: int) -> Tensor:
        return self._patch("input_block_patch_after_skip", hidden)

    def after_middle(self, hidden: Tensor) -> Tensor:
        hidden = add_residual(hidden, self.control, "middle", 0)
        for patch in self.patches.get("middle_block_after_patch", ()):
            seen = {"h": hidden, "emb": self.embedding, **self.arguments, "transformer_options": self.options}
            hidden = patch(seen)["h"]
        return hidden

    def before_output(self, hidden: Tensor, skip: Tensor, index: int) -> tuple[Tensor, Tensor]:
        skip = add_residual(skip, self.control, "output", index)
        channels = skip.shape[1]
        for patch in self.patches.get("output_block_patch", ()):
            hidden, skip = patch(hidden, skip, self.options)
        if skip is None:
            # A patch may have joined the two itself.
            hidden, skip = hidden[:, :-channels], hidden[:, -channels:]
        return hidden, skip

    def transformer_block(self, block: BlockSteps, tokens: Tensor) -> Tensor:
        place = self.places[block.layer]
        height, width = (-(-size // 2**place.level) for size in self.options["original_shape"][2:])
        self.options["block_index"] = place.index
        self.options["transformer_index"] = place.transformer  # not counted: a step may be the last layers alone
        self.options["activations_shape"] = [tokens.shape[0], place.channels, height, width]
        tokens = self._patched_block(block, tokens) if self.patches_blocks else block.run(tokens)
        if place.last:
            self.options["transformer_index"] = place.transformer + 1
        return tokens

    def attention(self, query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None) -> Tensor | None:
        if self.core_attention:
            return None
        if mask is None:
            return comfy_attention.optimized_attention(query, key, value, heads, transformer_options=self.options)
        return comfy_attention.optimized_attention_masked(
            query, key, value, heads, mask, transformer_options=self.options
        )

    def _patch(self, name: str, hidden: Tensor) -> Tensor:
        for patch in self.patches.get(name, ()):
            hidden = patch(hidden, self.options)
        return hidden

    def _patched_block(self, block: BlockSteps, tokens: Tensor) -> Tensor:
        """The block with ComfyUI's attention patches, which see the tokens and the text of every frame."""
        extra = {k: v for k, v in self.options.items() if k not in ("patches", "patches_replace")}
        attention = block.layer.attn1
        extra["n_heads"] = attention.heads
        extra["dim_head"] = attention.to_q.out_features // attention.heads
        extra["attn_precision"] = None

        def between(tokens: Tensor) -> Tensor:
            for patch in self.patches.get("middle_patch", ()):
                tokens = patch(tokens, extra)
            return tokens

        return block.run(
            tokens,
            self_attention=lambda normed: self._patched_attention("attn1", block, normed, None, extra),
            between=between,
            cross_attention=lambda normed: self._patched_attention("attn2", block, normed, self.context, extra),
        )

    def _patched_attention(
        self, name: str, block: BlockSteps, tokens: Tensor, context: Tensor | None, extra: dict
    ) -> Tensor:
        attention = getattr(block.layer, name)
        key_tokens = tokens if context is None else context
        value_tokens = key_tokens
        for patch in self.patches.get(f"{name}_patch", ()):
            tokens, key_tokens, value_tokens = patch(tokens, key_tokens, value_tokens, extra)
            if value_tokens is None:
                value_tokens = key_tokens
        query, key, value = attention.to_q(tokens), attention.to_k(key_tokens), attention.to_v(value_tokens)
        replacement = self._replacement(name)
        if replacement is not None:
            out = replacement(query, key, value, extra)
        else:
            out = self.attention(query, key, value, attention.heads, None)
            if out is None:
                out = block.attend(attention, query, key, value)
        out = attention.finish(out)
        for patch in self.patches.get(f"{name}_output_patch", ()):
            out = patch(out, extra)
        return out

    def _replacement(self, name: str) -> Callable | None:
        replacements = self.replace.get(name, {})
        kind, index = self.options["block"]
        exact = (kind, index, self.options["block_index"])
        return replacements.get(exact, replacements.get((kind, index)))
