"""What loading takes at its peak: the file once and one tensor, measured from outside of Python's own book-keeping."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.formats.full_size import kind_shapes, read_half, write_kind

ROOT = Path(__file__).parents[2]
WIDTHS = (160, 320, 640, 640)
SLACK = 24 * 2**20
"""What the allocator and newly imported modules may take beside the tensors."""

MEASURE = """
import json, sys, torch
torch.set_num_threads(1)
from unet_motion import inspect_file, load_motion_module

inspect_file(sys.argv[1])
torch.ones(2**16).half().float().sum()


def memory():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS", "RssAnon")}


def bytes_read():
    return int(dict(line.split(": ") for line in open("/proc/self/io"))["rchar"])


found = {}
for name, path, dtype in json.loads(sys.argv[2]):
    open("/proc/self/clear_refs", "w").write("5")
    before = memory()
    module = load_motion_module(path, dtype and getattr(torch, dtype))
    after = memory()
    found[name] = [after["VmHWM"] - before["VmRSS"], after["RssAnon"] - before["RssAnon"]]
    del module
start = bytes_read()
inspect_file(sys.argv[1])
print(json.dumps({**found, "inspect": bytes_read() - start}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self")
def test_loading_takes_the_file_once_and_at_most_one_tensor_more(tmp_path):
    path, pickled = tmp_path / "a.safetensors", tmp_path / "a.ckpt"
    names = write_kind(path, "v3", WIDTHS)
    tensors = {found[0]: value for key, value in read_half(path, names).items() for found in (names[key],)}
    torch.save({"state_dict": {f"module.{name}": value for name, value in tensors.items()}}, pickled)
    largest = 2 * max(shape.numel() for shape in kind_shapes("v3", WIDTHS).values())
    size = path.stat().st_size
    assert size > 2e8
    cases = [("mapped", str(path), None), ("pickled", str(pickled), None), ("wider", str(path), "float32")]
    command = [sys.executable, "-c", MEASURE, str(path), json.dumps(cases)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("mapped", "pickled"):
        peak, kept = found[name]
        assert peak < size + largest + SLACK, name
        # The weights are the mapped file itself; position tables are computed anew or copied.
        assert kept < largest + SLACK, name
    # Of another dtype the weights are twice the file: nothing but them stays, and the file's pages are the kernel's.
    peak, kept = found["wider"]
    assert kept < 2 * size + SLACK
    assert peak < 3 * size + largest + SLACK
    assert found["inspect"] < 2**20
