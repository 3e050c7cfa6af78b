"""The moving preview on its way to a page: what comes over the websocket while a prompt runs."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import uuid

import aiohttp
import pytest
from PIL import Image

from tests.comfyui.graphs import bundled, sample

PREVIEW_WITH_METADATA = 4
FRAMES, STEPS = 8, 12


def loops_of(server, graph: dict, motion: bool | None, method: str = "default") -> list[tuple[str, Image.Image]]:
    """(node, picture) of all pictures that a page gets while a graph runs.

    Args:
        motion: what the page asked for; None is one that has said nothing.
        method: of ComfyUI's own previews.
    """
    return asyncio.run(asyncio.wait_for(_loops_of(server, graph, motion, method), 300))


async def _loops_of(server, graph, motion, method):
    client, seen = uuid.uuid4().hex, []
    url = f"http://{server.address}"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/ws", params={"clientId": client}, max_msg_size=0) as socket,
    ):
        await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        if motion is not None:
            choice = {"client": client, "motion": motion, "fps": 10}
            async with session.post(f"{url}/unet_motion/preview", json=choice) as answer:
                assert answer.status == 200
        body = {"prompt": graph, "client_id": client, "extra_data": {"preview_method": method}}
        async with session.post(f"{url}/prompt", json=body) as answer:
            assert answer.status == 200, await answer.text()
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                kind, length = struct.unpack(">II", message.data[:8])
                assert kind == PREVIEW_WITH_METADATA
                metadata = json.loads(message.data[8 : 8 + length])
                assert metadata["image_type"] in ("image/png", "image/jpeg")
                seen.append((metadata["node_id"], Image.open(io.BytesIO(message.data[8 + length :]))))
            elif message.type is aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                assert event["type"] != "execution_error", event
                if event["type"] == "executing" and event["data"]["node"] is None:
                    return seen
    raise AssertionError("the server closed the connection")


def graph_of(sampler: str, seed: int) -> dict:
    graph, needs = bundled(FRAMES)
    more = {"frames_per_clip": 0} if sampler == "UNetMotion_Sampler" else {}
    sample(graph, needs, "clip", sampler, seed=seed, steps=STEPS, **more)
    return graph


@pytest.mark.parametrize("sampler", ["KSampler", "UNetMotion_Sampler"])
def test_a_page_gets_loops_of_all_frames_for_the_samplers_node_and_no_file_is_written(server, sampler):
    folders = [server.base / name for name in ("temp", "input", "output")]
    before = sorted(path for folder in folders for path in folder.rglob("*"))
    loops = loops_of(server, graph_of(sampler, seed=41), motion=True)
    assert loops
    for index, (node, picture) in enumerate(loops):
        assert node == "clip sampler"
        # The last one is decoded: it stays on the node.
        size = (64, 64) if index == len(loops) - 1 else (8, 8)
        assert (picture.format, picture.n_frames, picture.size) == ("WEBP", FRAMES, size)
        picture.seek(1)
        picture.load()
        assert picture.info["duration"] == 100
    after = {path for folder in folders for path in folder.rglob("*")} - set(before)
    assert all("latents" in path.parts for path in after if path.is_file()), after  # what the graph itself saves


@pytest.mark.parametrize(("motion", "seed"), [(False, 42), (None, 43)])
def test_nothing_comes_to_a_page_that_turned_it_off_or_to_a_program(server, motion, seed):
    assert loops_of(server, graph_of("KSampler", seed), motion) == []


def test_what_a_program_gets_is_what_comfyui_calls_it(server):
    """Previews are on, and nobody asked for loops: all that comes are core's own pictures."""
    seen = loops_of(server, graph_of("KSampler", 44), None, "latent2rgb")
    assert {picture.format for _, picture in seen} <= {"JPEG"}
    assert seen or server.installation.version == "0.3.64", "this version lets a prompt choose its previews"
