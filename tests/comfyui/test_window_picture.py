"""The picture on Context Windows: what the server draws for the settings that the page asks for."""

from __future__ import annotations

import asyncio
import io
import json

import aiohttp
import numpy as np
import pytest
from PIL import Image

from unet_motion import ContextWindows
from unet_motion.sampling.window_picture import draw_windows


def ask(server, **query) -> tuple[int, bytes]:
    async def request():
        url = f"http://{server.address}/unet_motion/windows"
        async with aiohttp.ClientSession() as session, session.get(url, params=query) as answer:
            return answer.status, await answer.read()

    return asyncio.run(request())


def drawn(windows, frames, steps):
    return draw_windows([windows.plan(frames, step) for step in range(steps)], frames, 260, 130)


@pytest.mark.parametrize(
    ("query", "windows", "frames", "steps"),
    [
        ({}, ContextWindows(), 48, 6),
        (
            {"length": 8, "overlap": 2, "stride": 2, "schedule": "looped_uniform", "closed_loop": "true",
             "loop_frames": 3, "fuse": "flat"},
            ContextWindows(8, 2, 2, "looped_uniform", True, 3, "flat"), 40, 6,
        ),
        ({"loop_frames": 0, "use_on_equal_length": "false"}, ContextWindows(), 1024, 4),
    ],
)  # fmt: skip
def test_the_server_draws_the_windows_of_the_first_steps(server, query, windows, frames, steps):
    status, png = ask(server, frames=frames, **query)
    assert status == 200
    with Image.open(io.BytesIO(png)) as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), drawn(windows, frames, steps))


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"overlap": 16}, "`overlap` is 16, expected less than `length`, which is 16."),
        ({"frames": 0}, "`frames` is 0, expected 1 to 4096."),
        ({"frames": 5000}, "`frames` is 5000, expected 0 to 4096."),
        ({"length": "many"}, "`length` is 'many', expected a whole number."),
        ({"closed_loop": "yes"}, "`closed_loop` is 'yes', expected true or false."),
        ({"colour": "red"}, "found the setting 'colour', expected one of length, overlap"),
        ({"length": 1, "overlap": 0, "frames": 4096}, "about 4096 windows in each step are too many for a picture"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(server, query, sentence):
    status, said = ask(server, **{"frames": 48, **query})
    assert status == 200 and sentence in json.loads(said)["error"]
