"""Settings as arguments of a compiled model: constants of its graph that are looked at before every call.

A compiler takes a number that has changed for a variable, and a variable cannot decide how many frames a clip has; a
word is always a constant.
"""

from __future__ import annotations

from typing import Any


def encode_settings(value: Any) -> Any:
    """Settings (dicts and lists of numbers, strings, None and tensors) with every number and string as a word."""
    if isinstance(value, dict):
        return {name: encode_settings(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode_settings(item) for item in value]
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return value
    return f"{'s' if isinstance(value, str) else 'i' if isinstance(value, int) else 'f'}{value}"


def decode_settings(value: Any) -> Any:
    """What :func:`encode_settings` was given; tuples come back as lists."""
    if isinstance(value, dict):
        return {name: decode_settings(item) for name, item in value.items()}
    if isinstance(value, list):
        return [decode_settings(item) for item in value]
    if not isinstance(value, str):
        return value
    kind, word = value[0], value[1:]
    return float(word) if kind == "f" else int(word) if kind == "i" else word
