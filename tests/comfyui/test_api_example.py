"""The script in docs/http_api.md, word for word, against a real server."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

import pytest

from tests.comfyui.clips import frames_of, middle_of
from tests.comfyui.installations import ROOT

(SCRIPT,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "http_api.md").read_text(), re.S | re.M)


@pytest.fixture
def draw(server, tmp_path):
    """Runs the script in a folder of its own."""
    (tmp_path / "draw.py").write_text(SCRIPT)

    def run(*arguments):
        command = [sys.executable, "draw.py", *arguments]
        environment = {**os.environ, "COMFYUI": server.address}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_the_script_is_short_and_needs_aiohttp_alone():
    nodes = list(ast.walk(ast.parse(SCRIPT)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert not [node for node in nodes if isinstance(node, ast.ImportFrom)]
    assert names - set(sys.stdlib_module_names) == {"aiohttp"}
    assert len(SCRIPT.splitlines()) <= 50


def test_the_script_prints_every_step_and_writes_a_red_star_that_moves_left(draw, tmp_path):
    # The command that the script's first line gives.
    done = draw(*re.search(r'draw\.py "(.*?)" (\d+)', SCRIPT).groups())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"step {step} of 20" for step in range(1, 21)]
    clip = (tmp_path / "clip.webp").read_bytes()
    frames = frames_of(clip)
    assert frames.shape == (16, 64, 64, 3)
    assert middle_of(frames[0], 0) - middle_of(frames[-1], 0) > 10
    # Once more, now from the server's cache.
    (tmp_path / "clip.webp").unlink()
    assert draw("a red star moving left", "16").stdout == ""
    assert (tmp_path / "clip.webp").read_bytes() == clip


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        ("0", r"refused: Value 0 smaller than min of 1: batch_size"),
        ("40", r"KSampler failed: 40 frames were given, but .* 32 rows .*"),
    ],
)
def test_the_script_ends_with_the_servers_sentence(draw, tmp_path, frames, sentence):
    done = draw("a red star moving left", frames)
    assert done.returncode == 1 and re.fullmatch(sentence, done.stderr.strip()), done.stderr
    assert not (tmp_path / "clip.webp").exists()
