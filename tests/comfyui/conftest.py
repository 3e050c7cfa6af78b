"""One real server per ComfyUI version, started once and used by all tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.comfyui.installations import NOT_FOUND, PACK, find_installations
from tests.comfyui.server import Server

FOLDERS = {
    "CheckpointLoaderSimple": "checkpoints",
    "LoraLoader": "loras",
    "LoraLoaderModelOnly": "loras",
    "ControlNetLoader": "controlnet",
    "UNetMotion_LoadMotionModule": "animatediff_models",
}
"""Core's and the pack's loaders -> the model folder that their first widget names a file of."""

# Run by test_inside.py in a process with ComfyUI's modules.
collect_ignore = ["inside"]


def pytest_collection_modifyitems(items) -> None:
    """A page that is driven from outside can be too busy for a click: such a test gets a second try, said as `R`."""
    for item in items:
        if item.path.name.startswith("test_browser"):
            item.add_marker(pytest.mark.flaky(reruns=1))


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
def elsewhere(tmp_path_factory) -> Path:
    """Model folders that the servers know through an extra_model_paths.yaml."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("animatediff_models", "animatediff_motion_lora", "checkpoints", "controlnet", "loras"):
        (folder / name).mkdir()
    for name in ("animatediff_models", "animatediff_motion_lora"):
        (folder / name / f"{name} from yaml.safetensors").write_bytes(b"")
        (folder / name / "not a model.txt").write_bytes(b"")
    names = [path.name for path in folder.iterdir()]
    yaml = "\n".join(["elsewhere:", f"  base_path: {folder}", *(f"  {name}: {name}" for name in names)])
    (folder / "extra_model_paths.yaml").write_text(yaml + "\n")
    return folder


@pytest.fixture(scope="session")
def small_motion(elsewhere) -> str:
    """The name of a small but whole motion module."""
    from tests.comfyui.big_files import write_motion_module
    from unet_motion import MotionAdapterConfig

    path = elsewhere / "animatediff_models" / "small motion.safetensors"
    write_motion_module(path, MotionAdapterConfig(block_out_channels=(32, 64, 128, 128)))
    return path.name


@pytest.fixture(scope="session")
def files(elsewhere):
    """A checkpoint (2.1 GB), a v2 motion module (0.9 GB), an empty one for SDXL, a ControlNet (0.7 GB), two LoRAs."""
    from tests.comfyui.big_files import (
        write_attention_lora,
        write_controlnet,
        write_lora,
        write_motion_module,
        write_sd15_checkpoint,
    )
    from unet_motion import MotionAdapterConfig

    write_sd15_checkpoint(elsewhere / "checkpoints" / "sd15.safetensors")
    modules = elsewhere / "animatediff_models"
    write_motion_module(modules / "v2.safetensors", MotionAdapterConfig())
    sdxl = MotionAdapterConfig(block_out_channels=(320, 640, 1280), use_motion_mid_block=False)
    write_motion_module(modules / "sdxl.safetensors", sdxl, active=False)
    write_lora(elsewhere / "loras" / "style.safetensors")
    write_attention_lora(elsewhere / "loras" / "every attention.safetensors")
    write_controlnet(elsewhere / "controlnet" / "canny.safetensors")
    yield
    for name in ("checkpoints/sd15", "animatediff_models/v2", "animatediff_models/sdxl", "controlnet/canny"):
        (elsewhere / f"{name}.safetensors").unlink()


@pytest.fixture(scope="session")
def server(installation, elsewhere, tmp_path_factory):
    base = tmp_path_factory.mktemp(f"comfyui-{installation.version}")
    server = Server(installation, base, ("--extra-model-paths-config", str(elsewhere / "extra_model_paths.yaml")))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def model_files(server):
    """Empty files of the names that the workflows give, or the page would speak of missing models."""
    workflows = (PACK / "example_workflows").glob("*.json")
    nodes = [node for path in workflows for node in json.loads(path.read_text())["nodes"] if node["type"] in FOLDERS]
    paths = {server.base / "models" / FOLDERS[node["type"]] / node["widgets_values"][0] for node in nodes}
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    yield
    for path in paths:
        path.unlink()
