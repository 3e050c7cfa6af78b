"""The pack's root module outside ComfyUI, and beside a ComfyUI that is broken."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.comfyui.installations import PACK

LOAD = """
import importlib.util, sys
folder = sys.argv[1]
spec = importlib.util.spec_from_file_location("pack", folder + "/__init__.py", submodule_search_locations=[folder])
module = importlib.util.module_from_spec(spec)
sys.modules["pack"] = module
spec.loader.exec_module(module)
print("entrypoint" if hasattr(module, "comfy_entrypoint") else "nothing", "torch" in sys.modules)
"""


def load(path="") -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", LOAD, str(PACK)]
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_without_comfyui_it_registers_nothing_and_loads_nothing():
    done = load()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["nothing", "False"]


def test_an_error_inside_comfyui_is_not_hidden(tmp_path):
    for name, text in (("comfy", ""), ("comfy_api", ""), ("comfy_api/latest", "raise RuntimeError('broken inside')")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
    done = load(tmp_path)
    assert done.returncode != 0 and "RuntimeError: broken inside" in done.stderr
