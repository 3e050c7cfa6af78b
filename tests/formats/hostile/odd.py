"""Values, texts and JSON that nobody would write on purpose."""

from __future__ import annotations

import json
import random

ODD = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    7,
    48,
    800,
    5000,
    2**31,
    2**62,
    2**63,
    10**9,
    10**30,
    1.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "a",
    "32",
    "frame",
    "\ud800",
    "\x1b[2J",
    [],
    [0],
    [32, 64],
    [1, 2, 3],
    [[1], [2]],
    [None, None],
    [-1, -1],
    ["a"],
    {},
    {"a": 1},
    [10**9, 10**9],
    [[1, 1], [1, 1]],
    4096,
    65536,
)


def odd_value(dice: random.Random):
    value = dice.choice(ODD)
    if dice.random() < 0.03:
        value = dice.choice(
            (["a"] * 10**5, "x" * 10**6, [[0]] * 10**4, list(range(10**5)), {str(i): i for i in range(10**4)})
        )
    return value


def odd_text(dice: random.Random) -> str:
    return dice.choice(
        (
            "",
            " ",
            "\n",
            "\x1b[31m",
            "\x00",
            "\ud800",
            "é" * 20,
            "\u202e",
            "0",
            "00",
            "-1",
            "1e9",
            "x" * 5000,
            "weight",
            "motion_modules",
            "unet",
            "9" * 5000,
            "../..",
            "a/b",
            "💃",
        )
    )


def odd_json(dice: random.Random) -> str:
    """Text that is JSON, or nearly."""
    way = dice.random()
    if way < 0.1:
        return dice.choice(
            ("[" * 100_000 + "]" * 100_000, '{"a":' * 100_000, "9" * 5000, "", "nul", '{"a":NaN}', "{,}")
        )
    if way < 0.2:
        return "[" + "[]," * dice.choice((10, 10_000)) + "[]]"
    return json.dumps({odd_text(dice): odd_value(dice) for _ in range(3)} if way < 0.6 else odd_value(dice))
