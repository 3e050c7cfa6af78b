"""What the page asks and what reaches the server, without one: windows as runs, bodies in pieces, posted graphs."""

from __future__ import annotations

import asyncio
import io
from types import SimpleNamespace

import numpy as np
import pytest
from pack.nodes.host.page import routes, windows, workflows
from pack.unet_motion.sampling import ContextWindows
from pack.unet_motion.sampling.window_picture import draw_windows
from PIL import Image


@pytest.mark.parametrize(
    ("frames", "settings"),
    [
        (20, dict(length=8, overlap=2, schedule="standard_static")),
        (33, dict(length=8, overlap=3, stride=2, schedule="looped_uniform", closed_loop=True)),
        (16, dict(length=16, schedule="looped_uniform", use_on_equal_length=True)),
        (9, dict()),
        (29, dict(length=8, schedule="standard_static")),  # eight pixels for a frame, nine if it were 261 in all
    ],
)
def test_windows_are_told_as_runs_and_drawn_as_the_library_draws_them(frames, settings):
    plan = ContextWindows(**settings)
    query = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in settings.items()}
    found = windows.frames_of_settings({"frames": str(frames), **query})
    expected = plan.windows(frames) if plan.apply_to(frames) else []
    assert [[i for first, last in runs for i in range(first, last + 1)] for runs in found] == list(map(list, expected))
    for runs in found:
        assert all(second[0] != first[1] + 1 for first, second in zip(runs, runs[1:], strict=False)), "one run each"
    with Image.open(io.BytesIO(windows.picture_of_settings({"frames": str(frames), **query}))) as picture:
        drawn = draw_windows([plan.plan(frames, step) for step in range(6)], frames, 260, 130)
        assert np.array_equal(np.asarray(picture.convert("RGB")), drawn)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({}, "`frames` is '', expected a whole number."),
        ({"frames": "0"}, "`frames` is 0, expected 1 to 4096."),
        ({"frames": "4097"}, "`frames` is 4097, expected 0 to 4096."),
        ({"frames": "9", "stride": "-1"}, "`stride` is -1, expected 0 to 4096."),
        ({"frames": "9", "closed_loop": "1"}, "`closed_loop` is '1', expected true or false."),
        ({"frames": "9", "x" * 50: "1"}, f"found the setting '{'x' * 40}', expected one of length, overlap, stride"),
    ],
)
def test_what_the_page_may_not_ask_of_windows(query, sentence):
    with pytest.raises(ValueError) as found:
        windows.frames_of_settings(query)
    assert sentence in str(found.value)


def read(pieces: list[bytes]) -> tuple[bytes, int]:
    """What is read of a body in pieces, and how many of them were taken."""
    taken = []

    async def come():
        for piece in pieces:
            taken.append(piece)
            yield piece

    request = SimpleNamespace(content=SimpleNamespace(iter_any=come))
    return asyncio.run(routes._read(request)), len(taken)


def test_a_body_is_read_whole_or_as_far_as_it_is_known_to_be_too_long():
    assert read([]) == (b"", 0)
    assert read([b"{", b'"a": ', b"1}"]) == (b'{"a": 1}', 3)
    assert read([b"a" * 4096]) == (b"a" * 4096, 1)
    assert read([b"a" * 4000, b"b" * 96, b"c", b"d"]) == (b"a" * 4000 + b"b" * 96 + b"c", 3)
    assert read([b"a" * 9000, b"b"]) == (b"a" * 4097, 1)


OLD = "ADE_AnimateDiffLoaderGen1"


def graph():
    names = dict(model_name="m.safetensors", beta_schedule="autoselect")
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
        "2": {"class_type": OLD, "inputs": {"model": ["1", 0], **names}},
    }


def test_a_posted_graph_is_converted_unless_the_user_said_no(monkeypatch):
    body = {"prompt": graph(), "extra_data": {"client": 1}, "client_id": "x"}
    monkeypatch.setattr(workflows, "is_wanted", lambda: True)
    made = workflows.convert_posted(body)
    kinds = {node["class_type"] for node in made["prompt"].values()}
    assert OLD not in kinds and "UNetMotion_ApplyMotionModule" in kinds and made["client_id"] == "x"
    assert made["extra_data"]["client"] == 1 and made["extra_data"]["unet_motion_converted"]["replaced"]
    assert body == {"prompt": graph(), "extra_data": {"client": 1}, "client_id": "x"}, "the given one stays"
    plain = {"prompt": {"1": graph()["1"]}}
    for other in (plain, {"prompt": 5}, [], None):
        assert workflows.convert_posted(other) is other


def test_a_graph_that_is_left_to_core_has_the_titles_that_core_asks_for(monkeypatch):
    monkeypatch.setattr(workflows, "is_wanted", lambda: False)
    monkeypatch.setattr(workflows, "one_to_one", lambda: {"ADE_One": None})
    given = {**graph(), "3": {"class_type": "ADE_One"}, "4": {"class_type": "ADE_One", "_meta": {"title": "mine"}}}
    body = {"prompt": {**given, "5": "no node"}}
    assert workflows.convert_posted(body) is body
    assert body["prompt"] == {
        **graph(), "3": {"class_type": "ADE_One", "_meta": {"title": "ADE_One"}},
        "4": {"class_type": "ADE_One", "_meta": {"title": "mine"}}, "5": "no node",
    }  # fmt: skip
