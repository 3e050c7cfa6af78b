"""PyTorch checkpoints (``.ckpt``, ``.pt``, ``.pth``, ``.bin``) through the weights-only loader: no code is run."""

from __future__ import annotations

import pickle
import re
import threading
from pathlib import Path
from typing import Any

import torch

from .errors import FileFormatError, UnsafeFileError
from .sniffing import EXPECTED

_WRAPPERS = ("state_dict", "model_state_dict", "module", "model", "params", "weights")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


class _Inert:
    """Stands in for objects of training frameworks; keeps nothing and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_HARMLESS = (
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "dtype"),
    ("numpy.dtypes", "Float64DType"),
)
"""What Stable Diffusion's own early checkpoints store beside their tensors: a callback's record and its scores."""

_STAND_INS = [type(name, (_Inert,), {"__module__": module, "__qualname__": name}) for module, name in _HARMLESS]
_lock = threading.Lock()  # the list of allowed names belongs to the process


def load_pickle(path: Path, mapped: bool) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors by name, and the other entries, of a PyTorch checkpoint.

    Args:
        mapped: map the file instead of reading it (zip checkpoints only).

    Raises:
        UnsafeFileError: the pickle asks for anything but tensors and plain values.
        FileFormatError: damaged, or not a dictionary of tensors.
    """
    try:
        with _lock, torch.serialization.safe_globals(_STAND_INS):
            content = _load(path, mapped)
    except pickle.UnpicklingError as error:
        raise _explain(path, error) from error
    except Exception as error:  # the loader raises whatever a damaged stream happens to hit
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise FileFormatError(f"{path}: is damaged or truncated ({first}), {EXPECTED}.") from error
    state, extras = _state_dict(content)
    if state is None:
        raise FileFormatError(
            f"{path}: holds {_describe(content)}, expected a dictionary of tensors or one with a `state_dict`."
        )
    return state, extras


def _load(path: Path, mapped: bool) -> Any:
    if path.name.endswith(".safetensors"):
        # Newer releases of torch go by this name and would not look inside; they cannot map an open file.
        with path.open("rb") as stream:
            return torch.load(stream, map_location="cpu", weights_only=True)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _explain(path: Path, error: pickle.UnpicklingError) -> FileFormatError:
    text = str(error)
    found = _GLOBAL.search(text)
    if found or "Unsupported" in text:
        asks = f"asks to run or build `{found.group(1)}`" if found else "asks for more than tensors"
        return UnsafeFileError(
            f"{path}: is a pickle that {asks}, expected tensors only; nothing of it was run. "
            "If you trust its source, have it converted to safetensors."
        )
    detail = text.splitlines()[0][:120]
    return FileFormatError(f"{path}: is damaged or truncated ({detail}), {EXPECTED}.")


def _state_dict(content: Any, depth: int = 0) -> tuple[dict[str, torch.Tensor] | None, dict[str, Any]]:
    """The innermost dictionary that holds tensors, and everything that lies around it."""
    if not isinstance(content, dict) or depth > 3:
        return None, {}
    names = [name for name in _WRAPPERS if isinstance(content.get(name), dict)]
    tensors = {
        str(k): v.detach() for k, v in content.items() if isinstance(v, torch.Tensor) and v.layout == torch.strided
    }
    if tensors and "state_dict" not in names:
        return tensors, {str(k): v for k, v in content.items() if str(k) not in tensors}
    for name in names or [k for k, v in content.items() if isinstance(v, dict)]:
        state, extras = _state_dict(content[name], depth + 1)
        if state:
            return state, {**{str(k): v for k, v in content.items() if k != name}, **extras}
    return None, {}


def _describe(content: Any) -> str:
    if isinstance(content, dict):
        keys = ", ".join(str(k) for k in list(content)[:4])
        return f"a dictionary without tensors (keys: {keys})" if keys else "an empty dictionary"
    return f"an object of type {type(content).__name__}"
