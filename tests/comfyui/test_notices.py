"""What a node says on itself while it runs: pages with the pack's script see it, programs get nothing."""

from __future__ import annotations

import asyncio
import json
import struct
import uuid

import aiohttp
import pytest

TEXT = 3  # comfy's BinaryEventTypes.TEXT


async def texts_of(server, graph: dict, watching: bool) -> list[tuple[str, str]]:
    """(node, text) of all texts that come to a client while a graph of its own runs."""
    client, seen = uuid.uuid4().hex, []
    async with (
        aiohttp.ClientSession(f"http://{server.address}") as session,
        session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket,
    ):
        if watching:
            await session.post("/unet_motion/preview", json={"client": client, "motion": False, "fps": 8})
        async with session.post("/prompt", json={"prompt": graph, "client_id": client}) as answer:
            assert answer.status == 200, await answer.text()
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                kind, length = struct.unpack(">II", message.data[:8])
                assert kind == TEXT
                seen.append((message.data[8 : 8 + length].decode(), message.data[8 + length :].decode()))
                continue
            event = json.loads(message.data)
            assert event["type"] != "execution_error", event
            if event["type"] == "executing" and event["data"]["node"] is None:
                return seen
    raise AssertionError("the server closed the connection")


def graph_of(prompt: str) -> dict:
    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    return {
        "model": node("UNetMotion_LoadBundled"),
        "prompt": node("CLIPTextEncode", clip=["model", 1], text=prompt),
        "other": node("CLIPTextEncode", clip=["model", 1], text="a red star"),
        "noise": node("EmptyLatentImage", width=64, height=64, batch_size=2),
        "sampler": node("KSampler", model=["model", 0], positive=["prompt", 0], negative=["other", 0],
                        latent_image=["noise", 0], seed=1, steps=1, cfg=1.0, sampler_name="euler",
                        scheduler="normal", denoise=1.0),
        "clip": node("SaveLatent", samples=["sampler", 0], filename_prefix="notices"),
    }  # fmt: skip


@pytest.mark.parametrize("watching", [True, False])
def test_unknown_words_are_said_on_the_text_node(server, watching):
    graph = graph_of(f"a red xylophone {'zebra' if watching else 'quagga'}")
    found = asyncio.run(asyncio.wait_for(texts_of(server, graph, watching), 300))
    words = "The bundled motion model does not know 'xylophone', 'zebra' and leaves it out."
    assert found == ([("prompt", words)] if watching else [])
