"""Fixtures of the parity suite; the comparisons themselves live in `core_reference.py`."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import core_reference  # noqa: E402


@pytest.fixture(autouse=True)
def _repeatable():
    """Each test starts from the same random state and leaves the global defaults as they were.

    One thread: these nets are so small that a second one only waits.
    """
    torch.manual_seed(0)
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.fixture(autouse=True)
def _name_comparisons(request):
    core_reference.CURRENT_TEST = request.node.name
    yield
    core_reference.CURRENT_TEST = ""


def pytest_terminal_summary(terminalreporter):
    if not core_reference.ERRORS:
        return
    terminalreporter.section("parity")
    by_limit = {}
    for error, limit, name in core_reference.ERRORS:
        by_limit.setdefault(limit, []).append((error, name))
    for limit, entries in sorted(by_limit.items()):
        entries.sort(reverse=True)
        terminalreporter.write_line(f"limit {limit:.0e}: {len(entries)} comparisons, worst relative errors:")
        for error, name in entries[:3]:
            terminalreporter.write_line(f"    {error:.2e}  {name}")
