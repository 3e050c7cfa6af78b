"""Files of real size: every name of Stable Diffusion 1.5 and of a motion module, and the memory that loading takes."""

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import diffusers
import pytest
import torch

from tests.formats.files import to_ldm, to_original

ROOT = Path(__file__).parents[2]

LOAD = """
import json, sys, time, torch
torch.set_num_threads(1)
import unet_motion
from unet_motion import load_unet, UNetMotionModel
warm = UNetMotionModel(block_out_channels=(32, 32, 32, 32), device="meta")


def memory():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "RssAnon")}


before, start = memory(), time.process_time()
model = load_unet(sys.argv[1], sys.argv[2], dtype=getattr(torch, sys.argv[3]))
after = memory()
weights = sum(v.nbytes for v in model.state_dict().values())
probe = {name: float(model.state_dict()[name].flatten()[:16].float().sum()) for name in json.loads(sys.argv[4])}
cpu = time.process_time() - start
print(json.dumps({"cpu": cpu, "before": before, "after": after, "weights": weights, "probe": probe,
                  "frames": model.config.motion_max_seq_length, "scopes": model.config.resnet_norm_scope}))
"""


class Pool:
    """Half-precision values for tensors of any size, each starting at another place of one small set of numbers."""

    def __init__(self):
        self.values = (0.02 * torch.randn(2**22, generator=torch.Generator().manual_seed(0))).half()
        self.bytes = self.values.numpy().tobytes() * 2

    def start(self, key):
        return zlib.crc32(key.encode()) % self.values.numel()

    def first(self, key, count=16):
        at = (torch.arange(count) + self.start(key)) % self.values.numel()
        return self.values[at]

    def write(self, file, key, nbytes):
        start, whole = 2 * self.start(key), 2 * self.values.numel()
        while nbytes:
            part = self.bytes[start : start + min(nbytes, whole)]
            file.write(part)
            nbytes -= len(part)

    def write_file(self, path, shapes, names):
        """A safetensors file by hand: ``names`` maps the keys of ``shapes`` to those in the file."""
        header, end = {}, 0
        for key, shape in shapes.items():
            for name in names[key]:
                begin, end = end, end + 2 * shape.numel()
                header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for key, shape in shapes.items():
                for _ in names[key]:
                    self.write(file, key, 2 * shape.numel())
        return path


def renamed(rename, shapes):
    """key -> its names after ``rename``, which works on state dicts."""
    marks = {key: torch.tensor(number) for number, key in enumerate(shapes)}
    names = {key: [] for key in shapes}
    for name, mark in rename(marks).items():
        names[list(shapes)[int(mark)]].append(name)
    return names


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(cross_attention_dim=768)
        motion = diffusers.MotionAdapter(motion_max_seq_length=24, use_motion_mid_block=False)
    unet, motion = ({k: v.shape for k, v in model.state_dict().items()} for model in (unet, motion))
    pool = Pool()
    names = renamed(lambda state: to_ldm(state, 2, "model.diffusion_model."), unet)
    base = pool.write_file(folder / "base.safetensors", unet, names)
    module = pool.write_file(folder / "module.safetensors", motion, renamed(to_original, motion))
    yield base, module, {**unet, **motion}, pool
    base.unlink()
    module.unlink()


def load(files, dtype, names):
    base, module, *_ = files
    command = [sys.executable, "-c", LOAD, str(base), str(module), dtype, json.dumps(names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_a_full_size_checkpoint_and_module_load_without_a_second_copy(files):
    shapes, pool = files[2:]
    assert sum(shape.numel() for shape in shapes.values()) > 1.27e9
    found = load(files, "float16", list(shapes))
    assert (found["frames"], found["scopes"]) == (24, "clip")
    wrong = [
        name
        for name, shape in shapes.items()
        if abs(found["probe"][name] - float(pool.first(name, min(16, shape.numel())).float().sum())) > 1e-5
    ]
    assert not wrong
    weights = found["weights"]
    assert weights > 2.5e9
    # The weights are the mapped files themselves: private memory hardly grows, and the peak is one copy of them.
    assert found["after"]["RssAnon"] - found["before"]["RssAnon"] < 0.05 * weights
    assert found["after"]["VmHWM"] - found["before"]["VmHWM"] < 1.1 * weights
