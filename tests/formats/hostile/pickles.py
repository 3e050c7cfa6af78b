"""Generated pickles, built from opcodes: random programs, ways to make a small stream cost much, and tensors."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from pathlib import Path

import torch

from .models import base

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Program:
    """A pickle that is written opcode by opcode."""

    def __init__(self, dice: random.Random) -> None:
        self.dice, self.out, self.memo = dice, bytearray(b"\x80\x02"), 0
        self.storages: dict[str, bytes] = {}

    def op(self, code: bytes, argument: bytes = b"") -> Program:
        self.out += code + argument
        return self

    def text(self, text: str) -> Program:
        raw = text.encode("utf-8", "surrogatepass")
        return self.op(b"X", struct.pack("<I", len(raw)) + raw)

    def integer(self, value: int) -> Program:
        if 0 <= value < 256:
            return self.op(b"K", bytes([value]))
        if -(2**31) <= value < 2**31:
            return self.op(b"J", struct.pack("<i", value))
        raw = pickle.encode_long(value)
        return (
            self.op(b"\x8a", bytes([len(raw)]) + raw)
            if len(raw) < 256
            else self.op(b"\x8b", struct.pack("<i", len(raw)) + raw)
        )

    def name(self, module: str, name: str) -> Program:
        return self.op(b"c", f"{module}\n{name}\n".encode())

    def put(self) -> int:
        self.op(b"r", struct.pack("<I", self.memo))
        self.memo += 1
        return self.memo - 1

    def get(self, place: int) -> Program:
        return self.op(b"j", struct.pack("<I", place))

    def numbers(self, values) -> Program:
        self.op(b"(")
        for value in values:
            self.integer(value)
        return self.op(b"t")

    def tensor(
        self, shape=(2, 2), stride=None, offset=0, count=None, kind="FloatStorage", key=None, body=None
    ) -> Program:
        if stride is None:
            stride = tuple(torch.empty(shape, device="meta").stride()) if len(shape) < 9 else shape
        if count is None:
            count = 1
            for size in shape[:9]:
                count *= size
        key = key or str(len(self.storages))
        size = {"HalfStorage": 2, "DoubleStorage": 8, "LongStorage": 8}.get(kind, 4)
        if body is None and 0 <= count < 2**20:
            body = bytes(count * size)
        self.storages.setdefault(key, body or b"")
        self.name("torch._utils", "_rebuild_tensor_v2").op(b"(").op(b"(")
        self.text("storage").name("torch", kind).text(key).text("cpu").integer(count).op(b"t").op(b"Q")
        self.integer(offset).numbers(shape).numbers(stride).op(b"\x89")
        return self.name("collections", "OrderedDict").op(b")").op(b"R").op(b"t").op(b"R")

    def done(self) -> bytes:
        return bytes(self.out) + b"."


def item(program: Program, dice: random.Random, depth: int = 0) -> None:
    """One value at random, containers with some inside."""
    way = dice.randrange(16 if depth < 3 else 9)
    if way == 0:
        program.text(dice.choice(("a", "state_dict", "weight", "", "x" * 2000, "\ud800", "\x1b[0m")))
    elif way == 1:
        program.integer(dice.choice((0, 1, -1, 300, 2**40, -(2**70), 2**1000, 2**8000)))
    elif way == 2:
        program.op(dice.choice((b"N", b"\x88", b"\x89", b"]", b"}", b")", b"\x8f")))
    elif way == 3:
        program.op(b"G", struct.pack(">d", dice.choice((0.5, float("nan"), float("inf")))))
    elif way == 4:
        program.tensor(tuple(dice.choice((0, 1, 2, 3)) for _ in range(dice.randint(0, 4))))
    elif way == 5:
        program.op(b"B", struct.pack("<I", 3) + b"abc")
    elif way == 6 and program.memo:
        program.get(dice.randrange(program.memo))
    elif way == 7:
        program.name(
            *dice.choice(
                (
                    ("collections", "OrderedDict"),
                    ("torch", "float32"),
                    ("torch", "Size"),
                    ("os", "system"),
                    ("builtins", "bytearray"),
                    ("numpy", "dtype"),
                    ("builtins", "eval"),
                )
            )
        )
    elif way == 8:
        program.op(b"I", dice.choice((b"5\n", b"01\n", b"9" * 5000 + b"\n", b"x\n")))
    elif way < 12:
        program.op(b"}").put()
        program.op(b"(")
        for _ in range(dice.randint(0, 4)):
            item(program, dice, depth + 1) if dice.random() < 0.15 else program.text(f"k{dice.randrange(9)}.weight")
            item(program, dice, depth + 1)
        program.op(b"u")
    else:
        program.op(b"(")
        for _ in range(dice.randint(0, 4)):
            item(program, dice, depth + 1)
        program.op(dice.choice((b"t", b"l", b"\x91")))
        program.put()


def random_program(program: Program, dice: random.Random) -> None:
    item(program, dice)
    for _ in range(dice.randint(0, 6)):
        code = dice.choice(
            (b"0", b"2", b"a", b"s", b"b", b"R", b"\x81", b"Q", b"e", b"1", b"\x94", b"\x85", b"\x86", b"d")
        )
        if dice.random() < 0.5:
            item(program, dice)
        program.op(code)


def random_bytes(program: Program, dice: random.Random) -> None:
    program.out += bytes(dice.randrange(256) for _ in range(dice.randint(1, 200)))


def doubled_key(program, dice):
    """A tuple of a tuple of a tuple, twice each: its hash takes two to the power of its depth."""
    program.op(b"}").op(b"]").op(b")").put()
    for _ in range(dice.choice((5, 40, 2000))):
        program.op(b"a").get(program.memo - 1).get(program.memo - 1).op(b"\x86").put()
    # The list below takes what is not needed any more: PyTorch's own loader knows no opcode that drops it.
    program.op(b"a").op(b"}").get(program.memo - 1).op(dice.choice((b"", b"\x85"))).integer(1).op(b"s")


def shared(program, dice):
    """Dictionaries in dictionaries, each many times."""
    count, levels = dice.choice(((300, 3), (20, 8), (2, 60)))
    program.op(b"]").op(b"}").put()
    for _ in range(levels):
        program.op(b"a").op(b"}")
        for i in range(count):
            program.text(f"k{i}").get(program.memo - 1).op(b"s")
        program.put()


def wide_strides(program, dice):
    size = dice.choice((10**3, 10**6, 2**40))
    program.op(b"}").text("a.weight")
    program.tensor(
        (size, size), dice.choice(((0, 0), (1, 0), (0, 1), (1, 1), (-1, 1))), 0, dice.choice((1, size)), body=b"abcd"
    )
    program.op(b"s")


def odd_tensor(program, dice):
    odd = (0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**200)
    program.op(b"}").text("a.weight")
    shape = tuple(dice.choice(odd) for _ in range(dice.choice((0, 1, 2, 3, 1000))))
    stride = tuple(dice.choice(odd) for _ in range(len(shape) + dice.choice((0, 0, 0, 1))))
    program.tensor(
        shape,
        stride,
        dice.choice(odd),
        dice.choice(odd),
        dice.choice(("FloatStorage", "HalfStorage", "QInt8Storage", "ComplexFloatStorage", "BoolStorage", "NoStorage")),
        dice.choice(("0", "../0", "", "x" * 300)),
        b"abcdefgh",
    )
    program.op(b"s")


def allocations(program, dice):
    module, name, arguments = dice.choice(
        (
            ("builtins", "bytearray", (4 * 10**8,)),
            ("torch", "Size", (tuple,)),
            ("torch", "ByteStorage", (4 * 10**8,)),
            ("torch._utils", "_rebuild_meta_tensor_no_storage", ()),
            ("torch._utils", "_rebuild_qtensor", ()),
            ("torch._utils", "_rebuild_nested_tensor", ()),
            ("torch.nn.parameter", "Parameter", ()),
            ("torch", "Tensor", (10**8,)),
            ("torch.storage", "UntypedStorage", (10**9,)),
            ("builtins", "list", ()),
            ("collections", "Counter", (10**9,)),
            ("_codecs", "encode", ()),
            ("numpy.core.multiarray", "_reconstruct", ()),
            ("builtins", "set", ()),
        )
    )
    program.op(b"}").text("a").name(module, name).op(b"(")
    for argument in arguments:
        program.numbers((1,) * 10) if argument is tuple else program.integer(argument)
    program.op(b"t").op(b"R").op(b"s")


def repeated(program, dice):
    """A long list that the same call goes through again and again."""
    program.op(b"]").op(b"]").put()
    program.op(b"(")
    for i in range(dice.choice((10, 5000))):
        program.integer(i).integer(i).op(b"\x86")
    program.op(b"e").op(b"a")
    name = dice.choice(
        (("collections", "OrderedDict"), ("builtins", "set"), ("torch", "Size"), ("builtins", "bytearray"))
    )
    program.name(*name).put()
    program.op(b"a").op(b"}")
    for i in range(dice.choice((2, 3000))):
        program.integer(i).get(program.memo - 1).get(program.memo - 2).op(b"\x85").op(b"R").op(b"s")


def numbers(program, dice):
    program.op(b"]").integer(2 ** dice.choice((100, 2000, 8 * 10**5))).put()
    program.op(b"a")
    for _ in range(dice.choice((3, 5000))):
        program.get(program.memo - 1).op(b"a")
    program.op(b"}").get(program.memo - 1).integer(1).op(b"s")
    if dice.random() < 0.5:
        program.op(b"L", b"9" * dice.choice((10, 5000, 10**5)) + b"L\n").integer(2).op(b"s")


def many(program, dice):
    program.op(b"]").op(b"(").op(dice.choice((b"}", b"]", b")", b"N", b"\x8f")) * dice.choice((1000, 200_000))).op(b"e")


def nested(program, dice):
    depth = dice.choice((10, 1000, 100_000))
    program.op(dice.choice((b"]", b"}X\1\0\0\0a"))).op(b"") if False else None
    program.op(b")")
    program.op(b"\x85" * depth)


def recursive(program, dice):
    program.op(b"}").put()
    program.text(dice.choice(("state_dict", "a"))).get(program.memo - 1).op(b"s")
    program.text("model").get(program.memo - 1).op(b"s")


def many_views(program, dice):
    """One storage that many tensors show."""
    program.op(b"}")
    for i in range(dice.choice((3, 2000))):
        program.text(f"down_blocks.0.motion_modules.{i}.temporal_transformer.proj_in.weight")
        program.tensor((1000, 64), key="all", body=bytes(4 * 64_000)).op(b"s")


def odd_keys(program, dice):
    program.op(b"}").op(dice.choice((b"N", b"\x88", b"]", b"}", b")"))).tensor().op(b"s")
    for key in ("x" * 10**5, "\ud800", "a\nb", "", "." * 500):
        program.text(key).tensor().op(b"s")
    program.integer(dice.choice((1, 2**2000))).tensor().op(b"s")


def deep_states(program, dice):
    for name in dice.choices(("state_dict", "model", "module", "x"), k=dice.choice((2, 50, 5000))):
        program.op(b"}").text(name)
    program.op(b"}").op(b"s" * 2)


TEMPLATES = (
    doubled_key,
    shared,
    wide_strides,
    odd_tensor,
    allocations,
    repeated,
    numbers,
    many,
    nested,
    recursive,
    many_views,
    odd_keys,
    deep_states,
    random_program,
    random_program,
    random_bytes,
)


def sound(program: Program, dice: random.Random) -> None:
    """A model's tensors; some of the containers around them are odd."""
    program.op(b"}").op(b"(")
    for key, value in base(dice).items():
        kind = {torch.float32: "FloatStorage", torch.float16: "HalfStorage"}.get(value.dtype, "FloatStorage")
        kind = dice.choice(("LongStorage", "HalfStorage", "ComplexFloatStorage")) if dice.random() < 0.002 else kind
        program.text(key).tensor(tuple(value.shape), kind=kind)
    program.op(b"u")
    if dice.random() < 0.5:
        inner = bytes(program.out[2:])
        program.out = bytearray(b"\x80\x02")
        program.op(b"}").text(dice.choice(("state_dict", "model", "other"))).op(inner).op(b"s")
        program.text("epoch")
        item(program, dice)
        program.op(b"s")


def plain(dice, content: bytes, storages) -> bytes:
    return content


def legacy(dice, content: bytes, storages) -> bytes:
    out = pickle.dumps(MAGIC, 2) + pickle.dumps(PROTOCOL, 2)
    out += pickle.dumps({"protocol_version": PROTOCOL, "little_endian": dice.random() < 0.9, "type_sizes": {}}, 2)
    keys = sorted(storages)
    out += content + pickle.dumps(keys if dice.random() < 0.9 else [*keys, "none"], 2)
    for key in keys:
        count = len(storages[key]) // 4 if dice.random() < 0.97 else dice.choice((-1, 0, 2**62, 2**63 - 1))
        out += struct.pack("<q", count) + storages[key]
    return out


def zipped(dice, content: bytes, storages) -> bytes:
    out = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if dice.random() < 0.1 else zipfile.ZIP_STORED
    head = dice.choice(("archive", "archive", "archive", "a/b", "")) + "/"
    with zipfile.ZipFile(out, "w", method) as file:
        if dice.random() < 0.03:
            file.writestr(f"{head}data/0", bytes(4 * 10**7), zipfile.ZIP_DEFLATED)
        file.writestr(f"{head}data.pkl" if dice.random() < 0.97 else "data.pkl", content)
        for key, body in storages.items():
            if dice.random() < 0.995:
                file.writestr(f"{head}data/{key}", body)
        file.writestr(f"{head}version", b"3\n")
        if dice.random() < 0.1:
            file.writestr(f"{head}byteorder", dice.choice((b"little", b"big", b"middle")))
        if dice.random() < 0.02:
            file.writestr(f"{head}constants.pkl", b"\x80\x02).")
    raw = bytearray(out.getvalue())
    if dice.random() < 0.15:
        for _ in range(dice.randint(1, 5)):
            raw[dice.randrange(len(raw))] = dice.randrange(256)
    return bytes(raw[: dice.randrange(len(raw))] if dice.random() < 0.03 else raw)


def make(dice: random.Random, folder: Path) -> Path:
    program = Program(dice)
    (sound if dice.random() < 0.3 else dice.choice(TEMPLATES))(program, dice)
    content = program.done()
    if dice.random() < 0.1:
        content = bytearray(content)
        content[dice.randrange(len(content))] = dice.randrange(256)
        content = bytes(content)
    raw = dice.choice((plain, legacy, legacy, zipped, zipped, zipped, zipped))(dice, content, program.storages)
    path = folder / dice.choice(("a.ckpt", "a.pt", "a.bin", "a.safetensors"))
    path.write_bytes(raw)
    return path
