"""What a caller gives to the model, checked and brought into one form before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.layer import is_hosted
from ..values import quoted
from .options import ForwardOptions

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


def check_entry(unet, sample: Tensor, timestep: Any, text: Any, inputs: tuple[Any, ...], options: Any) -> None:
    """Raise ValueError unless what a :class:`unet_motion.model.unet.MotionUNet` is called with is of its types.

    Args:
        sample: (B*F, C, H, W), as :func:`check_sample` wants it.
        inputs: a `Conditioning`.
    """
    if sample.shape[1] != unet.config.in_channels:
        raise ValueError(f"`sample` has {sample.shape[1]} channels, expected `in_channels` {unet.config.in_channels}.")
    plain = not is_hosted(unet.conv_in) and type(unet.conv_in) is nn.Conv2d
    check_dtype("sample", sample, unet, plain)
    check_timestep(timestep)
    check_types(inputs)
    if options is not None and not isinstance(options, ForwardOptions):
        raise ValueError(f"`options` is a {type(options).__name__}, expected ForwardOptions.")
    if text is not None:
        check_dtype("encoder_hidden_states", text, unet, plain)


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
            numbers = torch.tensor(timestep)
            if numbers.dtype != torch.bool and any(isinstance(number, bool) for number in timestep):
                raise TypeError
            timestep = numbers
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"`timestep` is {quoted(timestep)}, expected a number or a tensor of numbers.") from None
    if isinstance(timestep, Tensor):
        if timestep.dtype == torch.bool or timestep.is_complex():
            dtype = str(timestep.dtype).removeprefix("torch.")
            raise ValueError(f"`timestep` has dtype {dtype}, expected numbers.")
    elif isinstance(timestep, int) and not isinstance(timestep, bool) and not -(2**63) <= timestep < 2**63:
        raise ValueError(f"`timestep` is {quoted(timestep)}, expected a number of at most 64 bits.")
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


def expand_timestep(
    timestep: Tensor | float | int | Sequence[float], batch: int, frames: int, device: torch.device
) -> Tensor:
    """A timestep as a tensor of 1, B or B*F numbers.

    Raises:
        ValueError: another number of timesteps.
    """
    if isinstance(timestep, (list, tuple)):
        timestep = torch.tensor(timestep)
    elif not isinstance(timestep, Tensor):
        timestep = torch.tensor(timestep, dtype=torch.float64 if isinstance(timestep, float) else torch.int64)
    timestep = timestep.reshape(-1).to(device)
    count = timestep.shape[0]
    # Not `in`: where sizes are symbols, as under torch.compile, it asks whether they are the same symbol.
    if count != 1 and count != batch and count != batch * frames:
        raise ValueError(
            f"`timestep` holds {count} numbers, expected 1, {batch} (one per clip) or {batch * frames} (one per frame)."
        )
    return timestep


def check_rows(name: str, rows: int, batch: int, frames: int) -> None:
    """Raise ValueError unless ``rows`` is one per clip or one per frame."""
    if rows != batch and rows != batch * frames:
        raise ValueError(
            f"`{name}` has {rows} rows, expected {batch} (one per clip) or {batch * frames} (one per frame)."
        )


def build_text(
    text: Tensor | None, mask: Tensor | None, batch: int, frames: int, dtype: torch.dtype, widths: set[int]
) -> tuple[Tensor | None, Tensor | None]:
    """encoder_hidden_states (B or B*F, L, D), checked, and its mask as an additive one (rows, 1, 1, L).

    The mask (B or B*F, L) keeps a token where it is 1 or True. Both come back with the same rows: per clip, or per
    frame where one of the two is given per frame.
    """
    if text is not None:
        if text.dim() != 3:
            raise ValueError(f"`encoder_hidden_states` has shape {tuple(text.shape)}, expected (rows, tokens, width).")
        if widths - {text.shape[-1]}:
            expected = ", ".join(map(str, sorted(widths)))
            raise ValueError(
                f"`encoder_hidden_states` has width {text.shape[-1]}, the model reads text of width {expected} "
                "(`cross_attention_dim`)."
            )
        check_rows("encoder_hidden_states", text.shape[0], batch, frames)
    if mask is None:
        return text, None
    if text is None:
        raise ValueError("`attention_mask` was given without `encoder_hidden_states`.")
    if mask.dim() != 2 or mask.shape[1] != text.shape[1]:
        raise ValueError(f"`attention_mask` has shape {tuple(mask.shape)}, expected (rows, {text.shape[1]} tokens).")
    check_rows("attention_mask", mask.shape[0], batch, frames)
    rows = max(text.shape[0], mask.shape[0])
    text, mask = (t.repeat_interleave(rows // t.shape[0], dim=0) if t.shape[0] < rows else t for t in (text, mask))
    return text, ((1 - mask.to(dtype)) * -10000.0)[:, None, None, :]
