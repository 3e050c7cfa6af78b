"""What the pack's page script asks the server."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from aiohttp import web

from ....unet_motion.files.limits import parse_object
from ..step.preview import choose_preview
from .file_info import describe_choices
from .windows import frames_of_settings, picture_of_settings
from .workflows import convert_for_page, register_importer

PREFIX = "/unet_motion"
MOST = 4096
"""Bytes of a request."""


async def _preview(request: web.Request) -> web.Response:
    """POST {client, motion, fps}: what a page wants to see while its prompts run."""
    try:
        body = parse_object(await _read(request), "the request", MOST)
        choose_preview(*(body.get(name) for name in ("client", "motion", "fps")))
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response({})


async def _read(request: web.Request) -> bytes:
    """The body, of a longer one only so much that it is known to be too long."""
    data = bytearray()
    async for part in request.content.iter_any():
        data += part
        if len(data) > MOST:
            break
    return bytes(data[: MOST + 1])


async def _file_info(request: web.Request) -> web.Response:
    """GET ?node=<id>&<input>=<file>...: what the files are that are chosen on a node."""
    query = dict(request.query)
    node = query.pop("node", "")
    try:
        # In a thread: disks can be slow, and the server must go on.
        found = await asyncio.get_running_loop().run_in_executor(None, describe_choices, node, query)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response(found)


async def _windows(request: web.Request) -> web.Response:
    """GET ?frames=<count>&<setting>=<value>...: a PNG of the windows of Context Windows, or {error}: why there is none.

    Settings are on their way to others while a page asks, so that one that cannot be is an answer like any other.
    """
    try:
        png = await asyncio.get_running_loop().run_in_executor(None, picture_of_settings, dict(request.query))
    except ValueError as error:
        return web.json_response({"error": str(error)})
    return web.Response(body=png, content_type="image/png", headers={"Cache-Control": "no-store"})


async def _window_frames(request: web.Request) -> web.Response:
    """GET, asked as above: {windows}, each as runs [first, last] of frames in the first step."""
    try:
        found = await asyncio.get_running_loop().run_in_executor(None, frames_of_settings, dict(request.query))
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response({"windows": found})


def register_routes() -> None:
    """Add the routes to the running server; without one (the pack imported by a tool) nothing happens."""
    server: Any = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is None:
        return
    server.routes.post(f"{PREFIX}/preview")(_preview)
    server.routes.get(f"{PREFIX}/file_info")(_file_info)
    server.routes.get(f"{PREFIX}/windows")(_windows)
    server.routes.get(f"{PREFIX}/window_frames")(_window_frames)
    server.routes.post(f"{PREFIX}/convert_workflow")(convert_for_page)
    register_importer(server)
