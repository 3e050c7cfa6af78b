"""A real ComfyUI server as a child process, and a client that follows a prompt over the websocket."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from safetensors.torch import load as load_safetensors

from tests.comfyui.installations import PACK, PACK_FOLDER, Installation

START_SECONDS = 300
PROMPT_SECONDS = 500


@dataclass
class Run:
    """What one prompt did.

    Attributes:
        executed: ids of the nodes that ran.
        cached: ids of the nodes whose results were reused.
        error: the `execution_error` message, or the server's answer to a prompt it refused.
        outputs: node id -> what it put into the history.
    """

    prompt_id: str = ""
    executed: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    interrupted: bool = False
    outputs: dict[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """The sentence of an error that happened while a node ran."""
        return self.error["exception_message"].strip()


class Server:
    """ComfyUI on the CPU with this pack linked in, in folders of its own.

    Args:
        base: a new folder for custom_nodes, models, input, output and user.
        arguments: further start options.
        folder: what the pack is called in custom_nodes. It is linked there, unless the folder is there already.
        packs: folders of other packs that are linked in, too.
    """

    def __init__(
        self, installation: Installation, base: Path, arguments: tuple[str, ...] = (), folder: str = PACK_FOLDER,
        packs: tuple[Path, ...] = (),
    ):  # fmt: skip
        self.installation, self.base, self.folder = installation, base, folder
        for name in ("custom_nodes", "models", "input", "output", "user", "temp"):
            (base / name).mkdir(parents=True, exist_ok=True)
        if not (base / "custom_nodes" / folder).exists():
            (base / "custom_nodes" / folder).symlink_to(PACK, target_is_directory=True)
        for pack in packs:
            (base / "custom_nodes" / pack.name).symlink_to(pack, target_is_directory=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.arguments = arguments
        self.log_path = base / "server.log"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        named = any("-unet" in argument or "force-fp" in argument for argument in self.arguments)
        command = [
            sys.executable, "main.py", "--cpu", "--base-directory", str(self.base), "--disable-api-nodes",
            "--port", self.address.split(":")[1], "--database-url", "sqlite:///:memory:", *self.arguments,
            # What is compared is float32, on CPUs that are made for bfloat16 too.
            *(() if named else ("--fp32-unet",)),
        ]  # fmt: skip
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.installation.path,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.installation.environment(),
            )
        try:
            asyncio.run(self._wait_until_ready())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=30)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    async def _wait_until_ready(self) -> None:
        end = time.monotonic() + START_SECONDS
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < end and self.process.poll() is None:
                try:
                    async with session.get(f"http://{self.address}/system_stats") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.2)
        raise RuntimeError(f"ComfyUI {self.installation.version} did not start:\n{self.log()[-4000:]}")

    def get(self, path: str, **query: str) -> Any:
        """The answer to a GET request: JSON, or bytes of any other kind."""
        return asyncio.run(self._request("GET", path, query, None))

    def post(self, path: str, body: dict | None = None) -> Any:
        return asyncio.run(self._request("POST", path, {}, body))

    async def _request(self, method: str, path: str, query: dict, body: dict | None) -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"http://{self.address}{path}", params=query, json=body) as answer,
        ):
            data = await answer.read()
            assert answer.status == 200, f"{path}: {answer.status} {data[:500]!r}"
            return json.loads(data) if "json" in answer.content_type else data

    def free(self) -> None:
        """Drop all cached results, so that the next prompt runs every node."""
        # One flag, which unloads models, too: of two, the worker might take the first and sleep on the second.
        self.post("/free", {"free_memory": True})
        # The worker looks at it when it wakes and after each prompt, always before it takes the next one.
        run = self.run({"freed": {"class_type": "PreviewAny", "inputs": {"source": "freed"}}})
        assert run.error is None, run.error

    def run(
        self, graph: dict, on_message: Callable[[dict], str | None] | None = None, extra: dict[str, Any] | None = None
    ) -> Run:
        """Queue an API graph and follow it to its end.

        Args:
            on_message: sees every message of the websocket; a path that it returns is POSTed to, such as /interrupt.
            extra: what the page sends beside the graph, such as `extra_pnginfo`.
        """
        return asyncio.run(asyncio.wait_for(self._run(graph, on_message, extra or {}), PROMPT_SECONDS))

    async def _run(self, graph: dict, on_message, extra: dict[str, Any]) -> Run:
        client, run = uuid.uuid4().hex, Run()
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"ws://{self.address}/ws", params={"clientId": client}, max_msg_size=0) as socket_,
        ):
            body = {"prompt": graph, "client_id": client, "extra_data": extra}
            async with session.post(f"http://{self.address}/prompt", json=body) as answer:
                given = await answer.json()
                if answer.status != 200:
                    run.error = given
                    return run
            run.prompt_id = given["prompt_id"]
            async for message in socket_:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                event = json.loads(message.data)
                path = on_message(event) if on_message else None
                if path:
                    await session.post(f"http://{self.address}{path}")
                if self._note(run, event):
                    break
            async with session.get(f"http://{self.address}/history/{run.prompt_id}") as answer:
                run.outputs = (await answer.json())[run.prompt_id]["outputs"]
        return run

    @staticmethod
    def _note(run: Run, event: dict) -> bool:
        """Enter a message into the run; True at its end."""
        kind, data = event["type"], event.get("data", {})
        if data.get("prompt_id") != run.prompt_id:
            return False
        if kind == "executing":
            if data["node"] is None:
                return True
            run.executed.append(data["node"])
        elif kind == "execution_cached":
            run.cached += data["nodes"]
        elif kind == "execution_error":
            run.error = data
        elif kind == "execution_interrupted":
            run.interrupted = True
        return False

    def file(self, entry: dict) -> bytes:
        """The bytes of a file that a node saved."""
        query = {name: entry[name] for name in ("filename", "subfolder", "type")}
        data = self.get("/view", **query)
        return data if isinstance(data, bytes) else json.dumps(data).encode()

    def latent(self, run: Run, node: str) -> Any:
        """The tensor that a SaveLatent node saved."""
        return load_safetensors(self.file(run.outputs[node]["latents"][0]))["latent_tensor"]
