"""What a caller gives to the model, by type, dtype and size, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..values import quoted

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_sample(sample: Any, layout: str, dimensions: int) -> None:
    """Raise ValueError unless a sample has so many dimensions, none of them empty.

    Args:
        layout: what the dimensions are, in words.
    """
    if not isinstance(sample, Tensor):
        raise ValueError(f"`sample` is a {type(sample).__name__}, expected a tensor ({layout}).")
    if sample.dim() != dimensions or 0 in sample.shape:
        empty = ", each of at least 1" if sample.dim() == dimensions else ""
        raise ValueError(f"`sample` has shape {tuple(sample.shape)}, expected ({layout}){empty}.")


def check_frame_count(sample: Tensor, frames: Any) -> None:
    """Raise ValueError unless a sample (B*F, C, H, W) is whole clips of so many frames."""
    if isinstance(frames, bool) or not isinstance(frames, int):
        raise ValueError(f"`num_frames` is {quoted(frames)}, expected a whole number.")
    if frames < 1 or sample.shape[0] % frames:
        raise ValueError(
            f"`sample` has shape {tuple(sample.shape)}, expected (batch * {frames} frames, channels, height, width)."
        )


def check_dtype(name: str, tensor: Tensor, model: nn.Module, plain: bool) -> None:
    """Raise ValueError unless a tensor is of a dtype that the model computes in.

    Args:
        plain: whether the layers are those of ``torch.nn``, which compute in the dtype of their weights only; a host's
            own layers, and autocast, bring the two together.
    """
    if not isinstance(tensor, Tensor):
        raise ValueError(f"`{name}` is a {type(tensor).__name__}, expected a tensor.")
    wanted = model.dtype
    if tensor.dtype == wanted:
        return
    if not tensor.is_floating_point() or plain and not torch.is_autocast_enabled(tensor.device.type):
        expected = str(wanted).removeprefix("torch.") if plain else "floating-point numbers"
        raise ValueError(f"`{name}` has dtype {str(tensor.dtype).removeprefix('torch.')}, expected {expected}.")


def check_frames(frames: int, positions: Any, rows: int) -> None:
    """Raise ValueError unless a table of so many rows has positions for all frames (see :func:`check_positions`)."""
    if positions is not None:
        check_positions(positions, frames, rows)
    elif frames > rows:
        raise ValueError(
            f"{frames} frames were given, but the motion modules' position table has {rows} rows "
            f"(`motion_max_seq_length`): give at most {rows}, or load the motion module with a longer or "
            "stretched table (`positions`)."
        )


def check_timestep(timestep: Any) -> None:
    """Raise ValueError unless a timestep is a real number, or a tensor or list of them."""
    if isinstance(timestep, (list, tuple)):
        try:
            timestep = torch.tensor(timestep)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"`timestep` is {quoted(timestep)}, expected a number or a tensor of numbers.") from None
    if isinstance(timestep, Tensor):
        if timestep.dtype == torch.bool or timestep.is_complex():
            dtype = str(timestep.dtype).removeprefix("torch.")
            raise ValueError(f"`timestep` has dtype {dtype}, expected numbers.")
    elif not isinstance(timestep, (int, float)) or isinstance(timestep, bool):
        raise ValueError(f"`timestep` is a {type(timestep).__name__}, expected a number or a tensor of numbers.")


def check_types(inputs: tuple[Any, ...]) -> None:
    """Raise ValueError unless each of the fields of `Conditioning` that is not None is of its type."""
    # Not _asdict(): some compilers cannot follow it.
    for (name, (kind, words)), value in zip(_KINDS.items(), inputs, strict=True):
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"`{name}` is a {type(value).__name__}, expected {words}.")


# In the order of Conditioning's fields.
_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "timestep_cond": (Tensor, "a tensor"),
    "attention_mask": (Tensor, "a tensor"),
    "cross_attention_kwargs": (Mapping, "a dictionary"),
    "added_cond_kwargs": (Mapping, "a dictionary"),
    "down_block_additional_residuals": ((tuple, list), "a tuple of tensors"),
    "mid_block_additional_residual": (Tensor, "a tensor"),
}


def check_positions(positions: Any, frames: int, rows: int) -> None:
    """Raise ValueError unless ``frame_positions`` are whole numbers of rows, one for each frame."""
    expected = f"`frame_positions` must be {frames} rows between 0 and {rows - 1}"
    if not isinstance(positions, Tensor):
        raise ValueError(f"{expected} as a tensor of whole numbers, found a {type(positions).__name__}.")
    if positions.dtype not in _WHOLE:
        dtype = str(positions.dtype).removeprefix("torch.")
        raise ValueError(f"{expected} as a tensor of whole numbers, found one of dtype {dtype}.")
    if positions.shape != (frames,):
        raise ValueError(f"{expected}, found a tensor of shape {tuple(positions.shape)}.")
    if int(positions.min()) < 0 or int(positions.max()) >= rows:
        raise ValueError(f"{expected}, found {positions.tolist()}.")
