"""Shared by all tests: their order, one thread, fixed seeds, and no test that changes torch's defaults for the next."""

import os
import random
import sys
from pathlib import Path

# For processes that tests start as for this one: threads that wait for work take a core from whatever runs beside them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

from tests.beside import Beside

# The tests' tensors are small: more threads would wait for each other longer than they work.
torch.set_num_threads(1)

COMFYUI = Path(__file__).with_name("comfyui")
LONG = (
    "test_overfit.py", "test_run.py", "test_card_rehearsal.py", "test_kernels.py", "test_compile.py",
    "test_convert_computes.py", "test_shipped_loras.py",
)  # fmt: skip
"""Minutes each: begun first, so that no core waits for the last one."""
BESIDE = pytest.StashKey[Beside]()
PAGE_FIRST = bool(os.environ.get("UNET_MOTION_PAGE_FIRST"))


def pytest_configure(config):
    config.stash[BESIDE] = Beside()


def pytest_unconfigure(config):
    config.stash[BESIDE].close()


def pytest_collection_modifyitems(items):
    """Long tests first; ComfyUI's servers last: they share the cores, the memory and the disk with nothing else.

    Before them come the tests that wait for the processes beside this one. UNET_MOTION_PAGE_FIRST turns that round,
    where two ComfyUIs are tested at the same time: the page of one is driven while the other's long checks run.
    """
    items.sort(key=order)


def order(item) -> tuple:
    if COMFYUI not in item.path.parents:
        return (0, item.path.name not in LONG)
    inside, page = item.path.name == "test_inside.py", item.path.name.startswith("test_browser")
    return (1, inside, not page) if PAGE_FIRST else (1, not inside, page)


def pytest_collection_finish(session):
    """Start the long checks of the chosen tests: a test file says which by a function ``start_beside``."""
    if not (session.config.option.collectonly or starts_late(session.config)):
        for item in session.items:
            start_beside(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if starts_late(item.config):
        start_beside(item)


def starts_late(config) -> bool:
    """Whether a long check starts with the first test that waits for it, rather than with all tests.

    So it is among pytest-xdist's processes, which all collect all tests, and where the page comes first.
    """
    return PAGE_FIRST or hasattr(config, "workerinput")


def start_beside(item) -> None:
    if start := getattr(item.module, "start_beside", None):
        start(item.config.stash[BESIDE], item)


@pytest.fixture(scope="session")
def beside(request) -> Beside:
    return request.config.stash[BESIDE]


@pytest.fixture(autouse=True)
def same_start_for_every_test():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)


@pytest.fixture
def borrowed_pair():
    """`shared_pair` for tests that switch FreeU or chunking on: both are off again behind the test."""
    from tests.reference import shared_pair

    borrowed = []

    def borrow(config):
        borrowed.extend(shared_pair(config))
        return tuple(borrowed[-2:])

    yield borrow
    for model in borrowed:
        model.disable_freeu()
        model.disable_forward_chunking()


def pytest_terminal_summary(terminalreporter):
    """How near the comparisons with diffusers came to their limits."""
    reference = sys.modules.get("tests.reference")
    if reference is None or not reference.ERRORS:
        return
    terminalreporter.section("parity")
    by_limit = {}
    for error, limit, name in reference.ERRORS:
        by_limit.setdefault(limit, []).append((error, name))
    for limit, entries in sorted(by_limit.items()):
        entries.sort(reverse=True)
        terminalreporter.write_line(f"limit {limit:.0e}: {len(entries)} comparisons, worst relative errors:")
        for error, name in entries[:3]:
            terminalreporter.write_line(f"    {error:.2e}  {name}")
