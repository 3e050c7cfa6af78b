"""What a pickle would build, found out from its opcodes: nothing of it is built, imported or called.

Each opcode is one step of bounded work. Dictionaries, lists, tuples, texts and small numbers become themselves,
PyTorch's tensors become descriptions of themselves, everything else harmless becomes :class:`Opaque`. A pickle that
names anything else is refused.
"""

from __future__ import annotations

import mmap
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, cast

import torch

from .limits import MAX_RANK

STEPS = 300_000
"""How many opcodes a pickle may have, and one more for each 16 bytes of the file: a tensor takes 30 to 40."""
_LARGEST = 512
"""Bits of a number."""


class PickleError(ValueError):
    """A stream that is no pickle, or ends early."""


class AsksForCodeError(PickleError):
    """A pickle that names something to run or to build; ``args[0]`` is that."""


@dataclass(frozen=True)
class Name:
    """Something that a pickle calls by its module and name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Opaque:
    """A value that is of no use here, in words."""

    words: str


@dataclass(frozen=True)
class Storage:
    """``count`` values of a dtype, under a key of the file that the pickle is in."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True)
class Tensor:
    """A tensor as it is stored; offset and strides count values of the storage."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class OddTensor:
    """A tensor that is no plain array of numbers, in words."""

    words: str


_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip
_DTYPES = {name: dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)}
_ODD_TENSORS = {
    "_rebuild_qtensor": "quantised", "_rebuild_sparse_tensor": "sparse", "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_meta_tensor_no_storage": "without values (on the meta device)", "_rebuild_nested_tensor": "nested",
    "_rebuild_wrapper_subclass": "of a class of its own", "_rebuild_device_tensor_from_numpy": "of another device",
    "_rebuild_device_tensor_from_cpu_tensor": "of another device", "_rebuild_xla_tensor": "of another device",
}  # fmt: skip
_HARMLESS = {
    "builtins": ("set", "frozenset", "bytearray", "complex", "slice"),
    "__builtin__": ("set", "frozenset", "bytearray", "complex", "slice"),
    "collections": ("Counter",),
    "_codecs": ("encode",),
    "torch": ("Size", "device", "Tensor", "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine",
              "per_channel_symmetric", "per_channel_affine_float_qparams"),
    "torch.serialization": ("_get_layout",),
    "torch.nn.parameter": ("Parameter", "Buffer"),
    # What Stable Diffusion's own early checkpoints store beside their tensors: a callback's record and its scores.
    "pytorch_lightning.callbacks.model_checkpoint": ("ModelCheckpoint",),
    "numpy.core.multiarray": ("scalar",),
    "numpy._core.multiarray": ("scalar",),
    "numpy": ("dtype",),
    "numpy.dtypes": ("Float64DType",),
}  # fmt: skip


class Machine:
    """Reads one pickle after another from a stream.

    Args:
        stream: with ``read``, ``readline`` and ``tell``.
        size: of the file in bytes.
    """

    def __init__(self, stream: IO[bytes] | mmap.mmap, size: int) -> None:
        self.stream, self.steps = stream, STEPS + size // 16
        self.storages: dict[str, Storage] = {}

    def load(self) -> Any:
        """The value of the next pickle.

        Raises:
            PickleError: it is damaged, or takes more steps than a checkpoint does.
        """
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        try:
            for opcode, argument, _ in pickletools.genops(cast(IO[bytes], self.stream)):
                self._spend(1)
                if opcode.name == "STOP":
                    return self.stack.pop()
                step = _STEPS.get(opcode.name)
                if step is None:
                    raise PickleError(f"opcode {opcode.name}")
                step(self, argument)
        except PickleError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise PickleError(f"{str(error) or type(error).__name__}".splitlines()[0][:100]) from None
        raise PickleError("no end")

    def _spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise PickleError("more steps than a checkpoint of its size takes")

    def items(self) -> list[Any]:
        """What was pushed since the last mark."""
        found, self.stack = self.stack, self.marks.pop()
        return found

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.stack = self.marks.pop()

    def put(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def number(self, value: int) -> None:
        large = isinstance(value, int) and value.bit_length() > _LARGEST
        self.stack.append(Opaque("a number of hundreds of digits") if large else value)

    def take(self, count: int) -> tuple[Any, ...]:
        if count > len(self.stack):
            raise PickleError("a value that is missing")
        found = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return found

    def append(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                # Other keys are no names, and the hash of a tuple may take for ever.
                if isinstance(key, (str, int, float)):
                    target[key] = value

    def dictionary(self, items: list[Any]) -> None:
        self.stack.append({})
        self.set_items(items)

    def named(self, module: str, name: str) -> None:
        self.stack.append(_named(module, name))

    def call(self, _: Any) -> None:
        function, arguments = self.take(2)
        if not isinstance(arguments, tuple):
            raise PickleError("a call without arguments")
        self.stack.append(self._result(function, arguments))

    def _result(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        if not isinstance(function, Name):
            return Opaque("a value")
        if function.name == "_rebuild_from_type_v2":
            inner, _, given = arguments[:3]
            once = isinstance(given, tuple) and isinstance(inner, Name) and inner.name != function.name
            return self._result(inner, given) if once else OddTensor("of a class of its own")
        if function.module == "collections" and function.name == "OrderedDict":
            return self._ordered(arguments)
        if function.name in ("_rebuild_parameter", "_rebuild_parameter_with_state", "Parameter", "Buffer"):
            return arguments[0] if arguments else Opaque("a parameter")
        if function.name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            return _tensor(function.name, arguments)
        if function.name in _ODD_TENSORS:
            return OddTensor(_ODD_TENSORS[function.name])
        return Opaque(f"an object of type {function.name}")

    def _ordered(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        pairs = arguments[0] if arguments else ()
        self._spend(len(pairs))
        found: dict[Any, Any] = {}
        if isinstance(pairs, dict):
            return dict(pairs)
        for pair in pairs:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise PickleError("a dictionary of other things than pairs")
            if isinstance(pair[0], (str, int, float)):
                found[pair[0]] = pair[1]
        return found

    def persistent(self, _: Any) -> None:
        given = self.stack.pop()
        if not isinstance(given, tuple) or len(given) < 5 or given[0] != "storage":
            raise PickleError("a reference to something that is no storage")
        kind, key, _, count = given[1:5]
        dtype = _STORAGES.get(kind.name) if isinstance(kind, Name) else None
        view = given[5] if len(given) > 5 else None
        if dtype is None or view is not None:
            self.stack.append(OddTensor(f"of {kind.name}" if isinstance(kind, Name) else "of no storage"))
            return
        if not isinstance(key, str) or type(count) is not int or not 0 <= count < 2**60:
            raise PickleError("a storage without a name or a size")
        storage = Storage(dtype, key, count)
        if self.storages.setdefault(key, storage) != storage:
            raise PickleError(f"two storages of one name, {key[:40]}")
        self.stack.append(storage)


def _named(module: str, name: str) -> Any:
    """A name as a value; the ones that are not known to be harmless end the reading."""
    known = (
        module == "torch._utils" and (name.startswith("_rebuild_tensor") or name in _ODD_TENSORS or
                                      name in ("_rebuild_parameter", "_rebuild_parameter_with_state"))
        or (module, name) in (("torch._tensor", "_rebuild_from_type_v2"), ("collections", "OrderedDict"))
        or module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage")
        or name in _HARMLESS.get(module, ())
        or module == "torch" and name in _DTYPES
    )  # fmt: skip
    if not known:
        raise AsksForCodeError(f"{module}.{name}")
    return Name(module, name)


def _tensor(function: str, arguments: tuple[Any, ...]) -> Tensor | OddTensor:
    """A tensor by the arguments of PyTorch's functions; what does not fit is found out when it is asked for by name."""
    storage, offset, shape, stride = arguments[:4]
    if isinstance(storage, OddTensor):
        return storage
    if not isinstance(storage, Storage):
        raise PickleError("a tensor without a storage")
    if any(not isinstance(sizes, (tuple, list)) or len(sizes) > MAX_RANK for sizes in (shape, stride)):
        return OddTensor(f"of more than {MAX_RANK} dimensions")
    sizes = (offset, *shape, *stride)
    if len(shape) != len(stride) or not all(type(size) is int for size in sizes):
        return OddTensor("of a shape that is no list of numbers")
    if not all(0 <= size < 2**62 for size in sizes):
        return OddTensor(f"of shape {list(shape)} with strides {list(stride)}")
    dtype = storage.dtype
    if function == "_rebuild_tensor_v3" and len(arguments) > 6 and isinstance(arguments[6], Name):
        named = _DTYPES.get(arguments[6].name)
        if named is None:
            return OddTensor("of an unknown dtype")
        dtype = named
    elif function == "_rebuild_tensor_v2" and len(arguments) > 6 and arguments[6]:
        return OddTensor("stored conjugated or negated")
    return Tensor(storage, dtype, offset, tuple(shape), tuple(stride))


def _push(value: Any = None, make: Callable[[], Any] | None = None) -> Callable[[Machine, Any], None]:
    return lambda machine, argument: machine.stack.append(make() if make else value)


def _literal(machine: Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _number(machine: Machine, argument: int) -> None:
    machine.number(argument)


def _build(machine: Machine, argument: Any) -> None:
    machine.take(1)  # the state; it is of no use here
    if not machine.stack:
        raise PickleError("a state of nothing")


def _stack_global(machine: Machine, argument: Any) -> None:
    module, name = machine.take(2)
    if not isinstance(module, str) or not isinstance(name, str):
        raise PickleError("a name that is no text")
    machine.named(module, name)


def _refuse(machine: Machine, argument: Any) -> None:
    raise AsksForCodeError(str(argument).replace(" ", ".") if isinstance(argument, str) else "an object")


def _drop(machine: Machine, argument: Any, push: bool = False) -> None:
    """Forget what was pushed since the last mark, and push the argument in its place if asked to."""
    machine.items()
    if push:
        _literal(machine, argument)


_BYTES = _push(Opaque("bytes"))
_STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "MARK": Machine.mark,
    "POP": Machine.pop,
    "POP_MARK": _drop,
    "DUP": lambda machine, argument: machine.stack.append(machine.stack[-1]),
    "NONE": _push(),
    "NEWTRUE": _push(True),
    "NEWFALSE": _push(False),
    "EMPTY_TUPLE": _push(()),
    "EMPTY_LIST": _push(make=list),
    "EMPTY_DICT": _push(make=dict),
    "EMPTY_SET": _push(Opaque("a set")),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _number),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"), _literal),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _literal),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _BYTES),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, place: machine.stack.append(machine.memo[place])),
    "TUPLE": lambda machine, argument: _literal(machine, tuple(machine.items())),
    "TUPLE1": lambda machine, argument: _literal(machine, machine.take(1)),
    "TUPLE2": lambda machine, argument: _literal(machine, machine.take(2)),
    "TUPLE3": lambda machine, argument: _literal(machine, machine.take(3)),
    "LIST": lambda machine, argument: _literal(machine, machine.items()),
    "DICT": lambda machine, argument: machine.dictionary(machine.items()),
    "FROZENSET": lambda machine, argument: _drop(machine, Opaque("a set"), push=True),
    "APPEND": lambda machine, argument: machine.append(list(machine.take(1))),
    "APPENDS": lambda machine, argument: machine.append(machine.items()),
    "ADDITEMS": _drop,
    "SETITEM": lambda machine, argument: machine.set_items(list(machine.take(2))),
    "SETITEMS": lambda machine, argument: machine.set_items(machine.items()),
    "GLOBAL": lambda machine, argument: machine.named(*argument.split(" ", 1)),
    **dict.fromkeys(("INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"), _refuse),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": Machine.call,
    "NEWOBJ": Machine.call,
    "BUILD": _build,
    "BINPERSID": Machine.persistent,
}
