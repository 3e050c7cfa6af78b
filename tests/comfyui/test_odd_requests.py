"""Generated requests, new ones in each run: answered, or refused in one sentence, with bounded time and memory.

By default some dozens of each kind; with ``UNET_MOTION_HOSTILE=all`` as many as the table in tests/README.md says.
The seed is printed; ``UNET_MOTION_SEED`` gives the same requests again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re

import aiohttp
import psutil
import pytest

from tests.comfyui.odd_requests import Graphs, Request, make_request
from tests.formats.hostile.generators import GENERATORS
from unet_motion.formats import FileFormatError

ALL = os.environ.get("UNET_MOTION_HOSTILE") == "all"
GRAPHS, REQUESTS = (1000, 1000) if ALL else (40, 60)
SECONDS, BYTES, LENGTH = 1.0, 50 * 2**20, 600
"""What a request may take of processor time and, above ten times its size, of memory; the characters of an error."""
OWN_ERRORS = {"ValueError", "OSError", "FileFormatError"} | {
    error.__name__ for kind in (OSError, FileFormatError) for error in kind.__subclasses__()
}


@pytest.fixture
def seed(capsys):
    chosen = os.environ.get("UNET_MOTION_SEED") or str(random.SystemRandom().randrange(10**9))
    with capsys.disabled():
        print(f"\nrequests from seed {chosen}")
    return chosen


@pytest.fixture(scope="module")
def hostile_files(server):
    """Names of generated files in the server's model folders."""
    folder, names = server.base / "models" / "animatediff_models", []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(20):
        for kind in ("headers", "pickles"):
            place = folder / f"{kind}-{number}"
            place.mkdir()
            path = GENERATORS[kind](random.Random(f"{kind}{number}"), place)
            names.append(str(path.relative_to(folder)))
    return names


def sentence_faults(text: str) -> list[str]:
    """What is wrong with an error's text."""
    faults = [] if len(text) < LENGTH else [f"an error of {len(text)} characters: {text[:80]!r}"]
    return faults if text.isprintable() else [*faults, f"an error that cannot be printed: {text[:80]!r}"]


def test_routes(server, seed, hostile_files):
    info, process = server.get("/object_info"), psutil.Process(server.process.pid)
    faults, counts = [], {}
    for number in range(REQUESTS):
        request = make_request(random.Random(f"{seed}:{number}"), info, hostile_files)
        before, used = process.memory_info().rss, sum(process.cpu_times()[:2])
        status, answer = asyncio.run(send(server, request))
        spent, grown = sum(process.cpu_times()[:2]) - used, process.memory_info().rss - before
        counts[status] = counts.get(status, 0) + 1
        found = route_faults(status, answer)
        if spent > SECONDS:
            found.append(f"took {spent:.1f} seconds")
        if grown > BYTES + 10 * len(request.body):
            found.append(f"took {grown / 2**20:.0f} MiB")
        faults += [f"{seed}:{number} {request.method} {request.path}: {fault}" for fault in found]
    assert not faults, "\n".join(faults[:20])
    # Both ways are taken: requests that are all refused at once would show little.
    assert min(counts.get(200, 0), counts.get(400, 0)) > REQUESTS / 10, counts


def route_faults(status: int, answer: bytes) -> list[str]:
    if status not in (200, 400):
        return [f"status {status}: {answer[:120]!r}"]
    text = json.loads(answer)
    return sentence_faults(text["error"]) if status == 400 else []


async def send(server, request: Request) -> tuple[int, bytes]:
    url = f"http://{server.address}/unet_motion/{request.path}"
    headers = {"Content-Type": request.kind} if request.body else {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session:
        options = {"params": request.query, "data": request.body or None, "headers": headers}
        async with session.request(request.method, url, **options) as answer:
            return answer.status, await answer.read()


@pytest.mark.timeout(7200)
def test_graphs(server, seed, hostile_files):
    info = server.get("/object_info")
    own = sorted(name for name in info if name.startswith("UNetMotion_"))
    assert len(own) > 25
    faults, counts = [], {"ran": 0, "refused": 0, "failed": 0}
    for number in range(GRAPHS):
        dice = random.Random(f"{seed}:graph:{number}")
        # Each node has its turn: over a few runs all of them are last.
        name = own[(number + random.Random(seed).randrange(len(own))) % len(own)]
        graph = Graphs(info, dice).make(name)
        run = server.run(graph)
        kind, found = judged(run, graph, server.folder)
        counts[kind] += 1
        faults += [f"{seed}:{number} {name}: {fault}\n  {json.dumps(graph)[:1500]}" for fault in found]
        assert server.process.poll() is None, f"{seed}:{number} {name} ended the server: {json.dumps(graph)}"
    assert not faults, "\n".join(faults[:20])
    assert min(counts["ran"], counts["refused"] + counts["failed"]) > GRAPHS / 20, counts


def judged(run, graph: dict, folder: str) -> tuple[str, list[str]]:
    """What became of a graph, and what was wrong with that."""
    if run.error is None:
        return "ran", []
    if "node_errors" in run.error:  # core refused it before anything ran: its words
        return "refused", []
    kind, frames = run.error["exception_type"].rpartition(".")[2], run.error.get("traceback") or [""]
    last, is_own = frames[-1].strip(), f"custom_nodes/{folder}/" in frames[-1]
    if not run.error["node_type"].startswith("UNetMotion_") and not is_own:
        return "failed", []  # a node of core refused what an odd value made of its input
    faults = sentence_faults(run.message)
    if kind not in OWN_ERRORS or not is_own:
        faults.append(f"{kind}: {run.message[:200]!r} at {last.splitlines()[0] if last else 'nowhere'}")
    elif not names_its_cause(run.message, graph[run.error["node_id"]]["inputs"]):
        faults.append(f"names no input: {run.message[:200]!r}")
    return "failed", faults


def names_its_cause(text: str, inputs: dict) -> bool:
    """Whether a sentence names an input, or the file that one names."""
    files = [value.rpartition("/")[2] for value in inputs.values() if isinstance(value, str) and value]
    return re.search(r"`\w+`", text) is not None or any(name in text for name in files)
