"""Patterns in the names of tensors: the prefixes that programs put before them, and the parts of full checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "module.", "unet.", "model.", "_orig_mod.")
"""What DDP, torch.compile, trainers and full checkpoints put before a UNet's own names, in any combination."""

OTHER_PARTS = (
    "first_stage_model.",
    "cond_stage_model.",
    "conditioner.",
    "model_ema.",
    "text_encoder.",
    "text_encoder_2.",
    "text_encoders.",
    "tokenizer.",
    "vae.",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "betas",
    "log_one_minus_alphas_cumprod",
    "logvar",
    "posterior_",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "model.betas",
    "model.alphas_cumprod",
    "model.sqrt_",
    "model.log_one_minus_alphas_cumprod",
    "model.posterior_",
    "scale_factor",
    "edm_mean",
    "edm_std",
    "edm_vpred.",
    "v_pred",
    "ztsnr",
    "unet_motion",
)
"""Parts of a full checkpoint that are no part of the UNet; leaving them out is not worth a warning."""


def prefix_before(keys: Iterable[str], anchor: str) -> str | None:
    """The prefix that stands before ``anchor`` in one of the keys, if it is made of known ones; the shortest wins."""
    found = [key[: -len(anchor)] for key in keys if key.endswith(anchor)]
    legal = [prefix for prefix in found if _is_known(prefix)]
    return min(legal, key=len) if legal else None


_KNOWN = re.compile(f"(?:{'|'.join(map(re.escape, PREFIXES))})*")


def _is_known(prefix: str) -> bool:
    return _KNOWN.fullmatch(prefix) is not None


def strip_prefix(keys: Iterable[str], prefix: str) -> tuple[dict[str, str], list[str]]:
    """Names without the prefix -> names in the file; and the names that do not have it."""
    inside, outside = {}, []
    for key in keys:
        if key.startswith(prefix):
            inside[key[len(prefix) :]] = key
        else:
            outside.append(key)
    return inside, outside


def unknown_parts(keys: Iterable[str]) -> list[str]:
    """Those keys that belong to no known part of a full checkpoint."""
    return [key for key in keys if not key.startswith(OTHER_PARTS)]


def count_indexed(keys: Iterable[str], pattern: str) -> int:
    """One more than the highest number that ``pattern``'s group matches at the start of a key; 0 without any."""
    compiled = re.compile(pattern)
    numbers = [int(match.group(1)) for key in keys if (match := compiled.match(key))]
    return max(numbers) + 1 if numbers else 0
