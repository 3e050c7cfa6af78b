"""Writing the shipped files: the bundled model and the judge, as float16 safetensors with their description inside."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from ...bundled.parts import FORMAT, METADATA_KEY, PREFIXES, BundledParts
from ...files.writing import write_safetensors
from .judge import Judge

JUDGE_WEIGHTS = Path(__file__).parents[2] / "bundled" / "judge.safetensors"
LARGEST = 24 * 2**20


def export_bundled(parts: BundledParts, path: Path, info: dict) -> int:
    """Write the model whole or not at all; gives its size in bytes.

    Raises:
        ValueError: a weight that is not finite in float16, or more than 24 MB; nothing is written.
    """
    tensors = {}
    for name, prefix in PREFIXES.items():
        for key, value in getattr(parts, name).state_dict().items():
            tensors[prefix + key] = value.detach().to(torch.float16).contiguous().clone()
            if not torch.isfinite(tensors[prefix + key]).all():
                raise ValueError(
                    f"{prefix + key} holds numbers that are not finite in float16; expected finite weights"
                )
    size = sum(t.numel() * 2 for t in tensors.values())
    if size > LARGEST:
        raise ValueError(f"the model takes {size} bytes; expected at most {LARGEST}")
    description = {
        "format": FORMAT,
        "words": parts.tokenizer.words,
        "unet": parts.unet.config.to_dict(),
        "info": info,
    }
    # One metadata entry only: safetensors writes several in a random order, and equal models are equal files.
    write_safetensors(tensors, path, {METADATA_KEY: json.dumps(description)})
    return path.stat().st_size


def export_judge(judge: Judge, path: Path, info: dict) -> None:
    """Write the judge's weights in float16."""
    tensors = {key: value.detach().half().contiguous() for key, value in judge.state_dict().items()}
    write_safetensors(tensors, path, {"unet_motion_judge": json.dumps(info)})


def load_judge(path: Path = JUDGE_WEIGHTS) -> Judge:
    """Read a judge written by `export_judge`, in float32 and eval mode."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; expected the judge's weights (made by `unet-motion train bundled`)"
        )
    judge = Judge()
    judge.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return judge.eval().requires_grad_(False)
