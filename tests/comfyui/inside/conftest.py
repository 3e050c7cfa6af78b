"""Puts ComfyUI and the pack into this process. These checks run in a child process, see test_inside.py."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

PACK = Path(os.environ.get("UNET_MOTION_PACK", Path(__file__).resolve().parents[3]))

sys.path.insert(0, os.environ["UNET_MOTION_COMFYUI"])

from comfy.cli_args import args  # noqa: E402

args.cpu = True


def load_pack():
    """The pack as ComfyUI imports it: a package of its own, with `unet_motion` inside."""
    spec = importlib.util.spec_from_file_location("pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)
    return module


load_pack()

from pack.nodes.host.files.paths import register_folders  # noqa: E402

register_folders()


@pytest.fixture(scope="session", autouse=True)
def in_float32():
    """As on a CPU that is not made for bfloat16, so that bounds are those of float32; others: check_bfloat16."""
    from pack.unet_motion.ops import cpu_vectors

    cpu_vectors.BFLOAT16 = False


@pytest.fixture(scope="session", autouse=True)
def without_gradients():
    """For the session: what a fixture of a module computes is compared bit for bit with what its checks compute."""
    import torch

    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def seeded():
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="module")
def moving():
    """A small MODEL whose motion modules move something."""
    from sampled import models

    return models(active=True, shallow=True)[1]
