"""The bundled model as ComfyUI's MODEL, CLIP and VAE."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.sd1_clip
import torch
from torch import Tensor, nn

from ....unet_motion.bundled import BundledParts, Tokenizer, added_vector, load_bundled
from ....unet_motion.bundled.text import MIN_TOKENS, PAD, START
from ....unet_motion.formats.kinds import COMFY_SCHEDULES
from ..page.notices import say_on_node
from .build import Source, build_model, sampling_settings
from .saving import UnscaledLatent

TOKENS = "unet_motion"


class BundledTokenizer:
    """A tokenizer as ComfyUI's CLIP object uses it, with `(word:1.2)` weights."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_) -> dict[str, list]:
        """Rows of (id, weight) or (id, weight, word number); words that the model does not know are logged by name."""
        row, unknown = [(START, 1.0)], []
        for part, weight in comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(text), 1.0):
            part = comfy.sd1_clip.unescape_important(part)
            unknown += self.tokenizer.unknown_words(part)
            words = self.tokenizer.split(part)
            row += [(self.tokenizer.ids[word], weight) for word in words if word in self.tokenizer.ids]
        if unknown:
            words = ", ".join(repr(word) for word in dict.fromkeys(unknown))
            text = f"The bundled motion model does not know {words} and leaves it out"
            logging.warning("%s; it knows: %s.", text, ", ".join(self.tokenizer.words))
            say_on_node(f"{text}.")
        row += [(PAD, 1.0)] * (-len(row) % MIN_TOKENS)
        if return_word_ids:
            row = [(*pair, 0 if pair[0] in (START, PAD) else place) for place, pair in enumerate(row)]
        return {TOKENS: [row]}

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class BundledTextModel(nn.Module):
    """A text encoder as ComfyUI's CLIP object uses it."""

    # A few hundred kilobytes: never worth offloading in parts.
    disable_offload = True
    dtypes = (torch.float32,)

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def set_clip_options(self, options: dict) -> None:
        """CLIP's layers and projections do not exist here."""

    def reset_clip_options(self) -> None:
        pass

    def encode_token_weights(self, tokens: dict[str, list]) -> tuple[Tensor, Tensor]:
        """Hidden states (N, T, C) and pooled text (N, C), each word's embedding multiplied by its weight."""
        device = self.encoder.embedding.weight.device
        ids = torch.tensor([[pair[0] for pair in row] for row in tokens[TOKENS]], device=device)
        weights = torch.tensor([[float(pair[1]) for pair in row] for row in tokens[TOKENS]], device=device)
        embeddings = self.encoder.embed(ids) * weights.unsqueeze(-1)
        hidden, pooled = self.encoder.from_embeddings(embeddings, ids != PAD)
        return hidden.float(), pooled.float()

    def load_sd(self, state: dict[str, Tensor]) -> Any:
        return self.load_state_dict(state, strict=False)


def _model(parts: BundledParts, disable_dynamic: bool = False) -> Any:
    info = parts.info
    sampling = sampling_settings(COMFY_SCHEDULES[info["beta_schedule"]], info["beta_start"], info["beta_end"])
    source = Source(parts.unet.config, parts.unet.state_dict(), sampling, UnscaledLatent, added_vector)
    return build_model(source, disable_dynamic)


def _reload(disable_dynamic: bool = False) -> Any:
    return _model(load_bundled(), disable_dynamic)


def _clip(parts: BundledParts) -> Any:
    target = SimpleNamespace(
        params={},
        clip=lambda **_: BundledTextModel(parts.text_encoder),
        tokenizer=lambda **_: BundledTokenizer(parts.tokenizer),
    )
    size = sum(p.numel() for p in parts.text_encoder.parameters())
    return comfy.sd.CLIP(target, parameters=size)


def load_bundled_models() -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the model that ships with the pack."""
    parts = load_bundled()
    model = _model(parts)
    model.cached_patcher_init = (_reload, ())
    return model, _clip(parts), comfy.sd.VAE(sd=parts.autoencoder.state_dict())
