"""Generated safetensors files: sound ones of every kind, with defects in names, shapes, dtypes, values or bytes."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

from .models import SIZES, Raw, base
from .odd import odd_json, odd_text

ANCHORS = (
    "conv_in.weight",
    "conv_out.weight",
    "time_embedding.linear_1.weight",
    "mid_block.resnets.0.conv1.weight",
    "down_blocks.0.resnets.0.conv1.weight",
    "down_blocks.0.motion_modules.0.proj_in.weight",
)


def some(dice: random.Random, raw: Raw) -> list[str]:
    """One name, a few, or all."""
    names = list(raw.entries)
    if not names:
        return []
    return dice.choice(([dice.choice(names)], dice.sample(names, min(5, len(names))), names))


def other_dtype(dice, raw):
    dtype = dice.choice(list(SIZES))
    for name in some(dice, raw):
        raw.entries[name][0] = dtype
        raw.refill(name)


def other_rank(dice, raw):
    way = dice.choice(("flat", "scalar", "deeper", "last", "first"))
    for name in some(dice, raw):
        shape = raw.entries[name][1]
        count = 1
        for size in shape[:16]:
            count *= size
        raw.entries[name][1] = {
            "flat": [count],
            "scalar": [],
            "deeper": [1] * dice.choice((1, 2, 5, 70)) + shape,
            "last": shape[:-1],
            "first": shape[1:],
        }[way]
        raw.refill(name)


def other_size(dice, raw):
    for name in some(dice, raw):
        shape = raw.entries[name][1]
        if shape:
            place = dice.randrange(len(shape))
            shape[place] = dice.choice((0, 1, 2, 3, shape[place] * 2, shape[place] // 2, shape[place] + 1, 48))
            raw.refill(name)


def huge_shape(dice, raw):
    name = dice.choice(list(raw.entries) or ["a"])
    size = dice.choice((2**31, 2**62, 2**63 - 1, 10**30))
    rank = dice.choice((1, 2, 10, 1000, 100_000))
    raw.entries[name] = ["F32", [size] * rank + dice.choice(([], [0]))]
    raw.bodies[name] = b""


def fewer(dice, raw):
    for name in some(dice, raw):
        raw.entries.pop(name, None)
    if dice.random() < 0.3:
        for name in list(raw.entries):
            if dice.random() < 0.5:
                del raw.entries[name]


def no_anchor(dice, raw):
    anchor = dice.choice(ANCHORS)
    for name in list(raw.entries):
        if name.endswith(anchor):
            del raw.entries[name]


def rename(dice, raw, name, new):
    raw.entries[new] = raw.entries.pop(name)
    raw.bodies[new] = raw.bodies.pop(name, b"")


def long_names(dice, raw):
    times = dice.choice((1, 20, 500, 40_000))
    piece = dice.choice((".1", ".motion_modules.0", "model.", "module.", "unet.", "_orig_mod.", "a", "down_blocks.0."))
    for name in some(dice, raw)[:3]:
        rename(dice, raw, name, dice.choice((name + piece * times, piece * times + name)))


def odd_names(dice, raw):
    for name in some(dice, raw)[:5]:
        parts = name.split(".")
        parts[dice.randrange(len(parts))] = odd_text(dice)
        rename(dice, raw, name, ".".join(parts))


def other_numbers(dice, raw):
    """Blocks and layers counted from elsewhere, or with holes."""
    for name in some(dice, raw):
        parts = name.split(".")
        places = [i for i, part in enumerate(parts) if part.isdigit()]
        if places:
            parts[dice.choice(places)] = str(dice.choice((0, 1, 2, 7, 10**6, 10**19, "00", "-1")))
            rename(dice, raw, name, ".".join(parts))


def many_names(dice, raw):
    count = dice.choice((1000, 20_000) if dice.random() < 0.9 else (200_000, 1_000_000))
    pattern = dice.choice(
        (
            "down_blocks.{}.motion_modules.0.norm.weight",
            "a{}",
            "unet.x.{}.lora_A.weight",
            "down_blocks.0.motion_modules.{}.transformer_blocks.0.x",
            "input_blocks.{}.0.x",
        )
    )
    raw.entries.update({pattern.format(i): ["F32", [0]] for i in range(count)})


def odd_metadata(dice, raw):
    key = dice.choice(("unet_motion", "lora_adapter_metadata", "format"))
    value = dice.choice(
        (
            odd_json(dice),
            "[" * 100_000,
            "1" * 5000,
            '{"unet": ' + odd_json(dice) + "}",
            json.dumps({"lora_alpha": dice.choice(VALUES), "alpha_pattern": dice.choice(VALUES)}),
            json.dumps({"unet.lora_alpha": 2, "unet.alpha_pattern": {"to_q": dice.choice(VALUES)}}),
        )
    )
    raw.metadata = dice.choice(({key: value}, {key: dice.choice(VALUES)}, dice.choice(VALUES)))


VALUES = (
    None,
    True,
    0,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    3e38,
    10**40,
    "a",
    "16",
    [],
    [1],
    {},
    {"a": [1]},
    [[]] * 9,
)


def odd_values(dice, raw):
    import struct as packing

    value = packing.pack("<f", dice.choice((float("nan"), float("inf"), 3e38, -1.0, 0.0)))
    for name in some(dice, raw):
        if raw.entries[name][0] == "F32":
            raw.bodies[name] = value * (len(raw.bodies.get(name, b"")) // 4)


def odd_alpha(dice, raw):
    import struct as packing

    for name in list(raw.entries):
        if ".lora" in name and dice.random() < 0.5:
            alpha = name.split(".lora")[0] + ".alpha"
            dtype = dice.choice(("F32", "I64", "C64", "BOOL", "F8_E4M3", "F64"))
            raw.entries[alpha] = [dtype, dice.choice(([], [1], [2], [0], [1, 1]))]
            raw.refill(alpha)
            if dtype == "F32" and raw.entries[alpha][1] in ([], [1]):
                raw.bodies[alpha] = packing.pack("<f", dice.choice((float("nan"), float("inf"), 3e38, 1e-40, 2.0)))


def rank_zero(dice, raw):
    for name in some(dice, raw):
        shape = raw.entries[name][1]
        if ".lora" in name and len(shape) == 2:
            shape[0 if min(shape) == shape[0] else 1] = 0
            raw.bodies[name] = b""


def description(dice, raw):
    body = dice.choice((odd_json(dice), '{"unet": ' + odd_json(dice) + "}", "[" * 100_000)).encode("utf-8", "replace")
    raw.entries["unet_motion"] = ["U8", [len(body)]]
    raw.bodies["unet_motion"] = body
    if dice.random() < 0.3:
        raw.entries["unet_motion"] = ["F32", [len(body) // 4]]
        raw.bodies["unet_motion"] = bytes(len(body) // 4 * 4)


SPOILERS = (
    other_dtype,
    other_rank,
    other_size,
    huge_shape,
    fewer,
    no_anchor,
    long_names,
    odd_names,
    other_numbers,
    odd_metadata,
    odd_values,
    odd_alpha,
    rank_zero,
    description,
)


def spoil_bytes(dice: random.Random, content: bytearray) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    for _ in range(dice.randint(1, 4)):
        content[dice.randrange(min(len(content), length + 8))] = dice.randrange(256)
    if dice.random() < 0.2:
        content[:8] = struct.pack("<Q", dice.choice((0, 1, len(content), 2**33, 2**63, 2**64 - 1)))
    return bytes(content[: dice.randint(0, len(content))] if dice.random() < 0.2 else content)


def odd_header(dice: random.Random, raw: Raw) -> bytes:
    """A header that is odd as JSON."""
    number = "9" * dice.choice((20, 4000, 5000, 10**6))
    entry = '"dtype":"F32","shape":{},"data_offsets":{}'
    texts = (
        '{"a":' + "[" * 100_000,
        '{"a":{' + entry.format("[" + number + "]", "[0,8]") + "}}",
        '{"a":{' + entry.format("[2]", f"[0,{number}]") + "}}",
        '{"a":{' + entry.format("[NaN]", "[0,-Infinity]") + "}}",
        '{"a":{' + entry.format("[2]", "[0,8]") + ',"more":' + "[" * 5000 + "]" * 5000 + "}}",
        '{"a":{' + entry.format("[2]", "[0,8]") + "}" + ',"a":{' + entry.format("[2]", "[0,8]") + "}}",
        '{"a":' + odd_json(dice) + "}",
        '{"__metadata__":' + odd_json(dice) + ',"a":{' + entry.format("[2]", "[0,8]") + "}}",
        "{" + ",".join(f'"{i}":[]' for i in range(dice.choice((10, 10**5)))) + "}",
        '{"a":[' + "[]," * dice.choice((10, 10**6)) + "[]]}",
        '{"' + "\\n" * dice.choice((10, 10**6)) + '":{' + entry.format("[2]", "[0,8]") + "}}",
    )
    encoded = dice.choice(texts).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded + bytes(8)


def make(dice: random.Random, folder: Path) -> Path:
    raw, way = Raw(base(dice)), dice.random()
    path = folder / dice.choice(("a.safetensors", "adapter_model.safetensors", "model.ckpt"))
    if way < 0.05:
        path.write_bytes(odd_header(dice, raw))
        return path
    for _ in range(dice.randint(1, 3)):
        spoiler = many_names if dice.random() < 0.004 else dice.choice(SPOILERS)
        if raw.entries:
            spoiler(dice, raw)
    content = raw.content()
    path.write_bytes(spoil_bytes(dice, bytearray(content)) if way > 0.9 else content)
    if path.name.startswith("adapter") and dice.random() < 0.8:
        text = dice.choice((odd_json(dice), json.dumps({"lora_alpha": dice.choice(VALUES), "use_rslora": True})))
        (folder / "adapter_config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    return path
