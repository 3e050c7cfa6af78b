"""ComfyUI with only the registry's archive, unpacked under the registry's name, as people get the pack."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from urllib.parse import urljoin

import pytest

from tests.comfyui.graphs import from_workflow
from tests.comfyui.server import Server
from tests.comfyui.test_api import (  # noqa: F401 - these tests run here with the server below
    test_example_workflows_are_templates,
    test_node_definitions_equal_the_committed_ones,
    test_the_pack_loads_without_a_warning,
)
from tests.comfyui.test_help import (  # noqa: F401 - as above
    test_pages_have_pictures_that_the_server_serves,
)
from tests.comfyui.test_workflows import (  # noqa: F401 - as above
    clip_of,
    test_first_animation_draws_a_red_star_that_moves_left,
)
from tests.packing import FOLDER, ROOT, make_archive


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    return make_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def server(installation, archive, tmp_path_factory):
    base = tmp_path_factory.mktemp(f"archive-{installation.version}")
    with zipfile.ZipFile(archive) as file:
        file.extractall(base / "custom_nodes" / FOLDER)
    server = Server(installation, base, folder=FOLDER)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def first_animation(server):
    """The clip that the template makes, with the template as the page fetches it."""
    workflow = server.get(f"/api/workflow_templates/{FOLDER}/first_animation.json")
    return clip_of(server, from_workflow(workflow, server.get("/object_info")))


def test_the_server_has_no_other_copy_of_the_pack(server):
    folders = [path.name for path in (server.base / "custom_nodes").iterdir() if path.name != "__pycache__"]
    assert folders == [FOLDER]
    nodes = {name: node for name, node in server.get("/object_info").items() if name.startswith("UNetMotion_")}
    assert {node["python_module"] for node in nodes.values()} == {f"custom_nodes.{FOLDER}"}


def test_everything_for_the_page_is_served_under_the_name_of_the_folder(server):
    web = server.base / "custom_nodes" / FOLDER / "web"
    files = [path for path in web.rglob("*") if path.is_file()]
    assert files
    for path in files:
        address = f"/extensions/{FOLDER}/{path.relative_to(web).as_posix()}"
        served = server.get(address)
        if path.suffix in (".js", ".mjs"):
            imports = re.findall(r"""(?:from|import)\s*\(?\s*["'](\.[^"']+)["']""", path.read_text())
            for name in imports:
                server.get(urljoin(address, name))
        assert (served if isinstance(served, bytes) else json.dumps(served).encode()) == path.read_bytes(), address
    listed = {Path(name).name for name in server.get("/extensions") if name.startswith(f"/extensions/{FOLDER}/")}
    assert listed == {path.name for path in files if path.suffix == ".js"}


def test_translations_of_the_nodes_reach_the_page(server):
    expected = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in ROOT.glob("locales/*/nodeDefs.json")
    }
    served = {
        language: {name: node for name, node in texts.get("nodeDefs", {}).items() if name.startswith("UNetMotion_")}
        for language, texts in server.get("/i18n").items()
    }
    assert {language: nodes for language, nodes in served.items() if nodes} == expected
