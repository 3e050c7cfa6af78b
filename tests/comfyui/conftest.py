"""One real server per ComfyUI version, started once and used by all tests."""

from __future__ import annotations

import pytest

from tests.comfyui.installations import NOT_FOUND, find_installations
from tests.comfyui.server import Server


def _parameters() -> list:
    found = find_installations()
    if not found:
        return [pytest.param(None, id="none", marks=pytest.mark.skip(reason=NOT_FOUND))]
    parameters = []
    for item in found:
        problem = item.problem()
        marks = [pytest.mark.skip(reason=problem)] if problem else []
        parameters.append(pytest.param(item, id=item.version, marks=marks))
    return parameters


@pytest.fixture(scope="session", params=_parameters())
def installation(request):
    return request.param


@pytest.fixture(scope="session")
def server(installation, tmp_path_factory):
    server = Server(installation, tmp_path_factory.mktemp(f"comfyui-{installation.version}"))
    server.start()
    yield server
    server.stop()
