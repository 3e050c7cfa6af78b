"""Motion modules mixed with each other, and scaled, as a whole or block by block."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from torch import Tensor

from ..files.errors import BadWeightsError, FileFormatError
from ..files.names import is_table
from ..files.reading import check_finite
from ..values import quoted
from .motion_weights import MotionModule

MAX_FACTOR = 1e6
"""Of a weight; what makes sense is near 1."""


def merge_motion_modules(
    modules: Sequence[MotionModule], weights: Sequence[float], blocks: Mapping[str, Sequence[float]] | None = None
) -> MotionModule:
    """The weighted sum of motion modules of one structure, in float32, in the first one's dtype; tables are its too.

    Args:
        weights: one number for each module.
        blocks: other weights below a name, such as ``up_blocks`` or ``down_blocks.0``; the longest name counts.

    Raises:
        FileFormatError: modules of different structure.
        ValueError: another number of weights, weights that are not finite or too large for the dtype, or a name that
            is no block.
    """
    blocks = dict(blocks or {})
    for name, numbers in {"weights": weights, **blocks}.items():
        if len(numbers) != len(modules) or not all(map(_is_factor, numbers)):
            raise ValueError(
                f"`{name}` is {list(numbers)}, expected {len(modules)} finite numbers of at most {MAX_FACTOR:g}, one "
                "per module."
            )
    first = modules[0]
    _check_blocks(first, blocks)
    for other in modules[1:]:
        _check_structure(first, other)
    state = {}
    for key, tensor in first.state_dict.items():
        factors = _of_block(key, blocks, weights)
        terms = (f * m.state_dict[key].float() for f, m in zip(factors, modules, strict=True))
        state[key] = tensor if is_table(key) else _finite(cast(Tensor, sum(terms)).to(tensor.dtype), key, first)
    return dataclasses.replace(first, state_dict=state, is_as_in_file=False)


def _check_structure(first: MotionModule, other: MotionModule) -> None:
    """Raise FileFormatError unless two motion modules have the same tensors and compute with them alike."""
    for name in ("motion_num_attention_heads", "reverse_motion_num_attention_heads", "motion_norm_num_groups"):
        if other.config[name] != first.config[name]:
            raise FileFormatError(
                f"{other.path}: has {name} {other.config[name]}, expected {first.config[name]} as in {first.path}."
            )
    for key, tensor in first.state_dict.items():
        found = other.state_dict.get(key)
        if not is_table(key) and (found is None or found.shape != tensor.shape):
            raise FileFormatError(f"{other.path}: is {other.words}, but {first.path} is {first.words} ({key}).")
    extra = other.state_dict.keys() - first.state_dict.keys()
    if extra:
        raise FileFormatError(f"{other.path}: has {min(extra)}, which {first.path} has not.")


def scale_blocks(module: MotionModule, factors: Mapping[str, float]) -> MotionModule:
    """Motion modules whose effect is multiplied block by block: 0 is none, 1 as trained.

    The output projection is scaled, which scales what a module adds to its input.

    Raises:
        ValueError: a name that is no block, or a factor that is not finite or too large for the dtype.
    """
    _check_blocks(module, factors)
    for name, factor in factors.items():
        if not _is_factor(factor):
            raise ValueError(f"`{name}` is {factor}, expected a number of at most {MAX_FACTOR:g}.")
        if not any(key.startswith(f"{name}.") and ".proj_out." in key for key in module.state_dict):
            raise ValueError(f"{quoted(name)} of {module.path} adds no motion that could be scaled, expected a block.")
    state = dict(module.state_dict)
    for key, tensor in state.items():
        factor = _of_block(key, factors, 1.0)
        if ".proj_out." in key and factor != 1.0:
            state[key] = _finite((tensor.float() * factor).to(tensor.dtype), key, module)
    return dataclasses.replace(module, state_dict=state, is_as_in_file=False)


NAMED_WEIGHTS = {"attention": ".attn", "positions": ".pos_embed.pe"}
"""What :func:`adjust_weights` calls by a word of its own -> part of their names."""


def adjust_weights(
    module: MotionModule, times: float = 1.0, plus: float = 0.0, names: Sequence[str] = ()
) -> MotionModule:
    """Motion modules whose weights are multiplied and then added to, in float32, position tables too.

    Args:
        names: which ones: ``attention``, ``positions``, or parts of their names, such as ``to_q``; none is all.

    Raises:
        ValueError: a number that is not finite or too large for the dtype, or a name of no weight.
    """
    for name, number in (("times", times), ("plus", plus)):
        if not _is_factor(number):
            raise ValueError(f"`{name}` is {number}, expected a number of at most {MAX_FACTOR:g}.")
    parts = [NAMED_WEIGHTS.get(name, name) for name in names]
    for name, part in zip(names, parts, strict=True):
        if not any(part in key for key in module.state_dict):
            raise ValueError(
                f"{quoted(name)} is part of no weight's name in {module.path}, expected attention, positions or such "
                "as to_q."
            )
    if times == 1 and plus == 0:
        return module
    state = {
        key: _finite((tensor.float() * times + plus).to(tensor.dtype), key, module)
        if not parts or any(part in key for part in parts)
        else tensor
        for key, tensor in module.state_dict.items()
    }
    return dataclasses.replace(module, state_dict=state, is_as_in_file=False)


def parse_blocks(texts: Iterable[str]) -> dict[str, list[float]]:
    """Numbers by block from texts such as ``up_blocks.1=0.2,0.8``; empty ones are left out.

    Raises:
        ValueError: a text of another form.
    """
    blocks = {}
    for text in texts:
        if not text.strip():
            continue
        name, mark, numbers = text.partition("=")
        try:
            blocks[name.strip()] = [float(number) for number in numbers.split(",")]
        except ValueError:
            mark = ""
        if not mark:
            raise ValueError(f"found {quoted(text)}, expected NAME=NUMBER, such as mid_block=0.5.")
    return blocks


def _is_factor(number: float) -> bool:
    # Not a number is not smaller than one.
    return abs(number) <= MAX_FACTOR


def _finite(tensor: Tensor, key: str, module: MotionModule) -> Tensor:
    """A result, or ValueError where its dtype does not hold its values."""
    try:
        check_finite(tensor, key, module.path)
    except BadWeightsError:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(
            f"{key} of {module.path} gets values that {dtype} does not hold, expected smaller weights, or a file in a "
            "wider dtype."
        ) from None
    return tensor


def _of_block(key: str, blocks: Mapping, default):
    fitting = [name for name in blocks if key.startswith(f"{name}.")]
    return blocks[max(fitting, key=len)] if fitting else default


def _check_blocks(module: MotionModule, names) -> None:
    for name in names:
        if not any(key.startswith(f"{name}.") for key in module.state_dict):
            raise ValueError(
                f"{quoted(name)} is no block of {module.path}, expected a name such as down_blocks.0 or mid_block."
            )
