"""What the page and API users see: node definitions, templates, model folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.comfyui.installations import ROOT

SNAPSHOT = Path(__file__).with_name("object_info.json")
KEYS = ("input", "input_order", "output", "output_is_list", "output_name", "output_tooltips", "name", "display_name",
        "description", "category", "output_node")  # fmt: skip
NEWER = ("search_aliases",)  # versions that know no such key leave it out
FILE_INPUTS = {("UNetMotion_LoadUNet", "unet_name"), ("UNetMotion_LoadMotionModule", "motion_module"),
               ("UNetMotion_LoadUNet", "motion_module"), ("UNetMotion_LoadLoRA", "lora_name"),
               ("UNetMotion_LoadMotionLoRA", "lora_name"), ("UNetMotion_LoRAHook", "lora_name")}  # fmt: skip
CORE_INPUTS = ("sampler_name", "scheduler")


def normalise(info: dict) -> dict:
    """The pack's nodes without what differs between ComfyUI versions, files on the disk and core's lists."""
    ours = {
        name: {key: node[key] for key in KEYS} | {key: node[key] for key in NEWER if key in node}
        for name, node in info.items()
        if name.startswith("UNetMotion_")
    }
    for name, node in ours.items():
        # What the server fills in is no input to the page.
        for part in ("input", "input_order"):
            node[part].pop("hidden", None)
        for inputs in node["input"].values():
            for field, (_, options) in inputs.items():
                # Written out by newer versions only.
                options.pop("advanced", None)
                if (name, field) in FILE_INPUTS:
                    options["options"] = [option for option in options["options"] if option == "none"] + ["<files>"]
                elif field in CORE_INPUTS and "options" in options:
                    options["options"] = ["<as KSampler>"]
    return ours


def test_node_definitions_equal_the_committed_ones(server):
    found = json.loads(json.dumps(normalise(server.get("/object_info"))))
    if os.environ.get("UPDATE_OBJECT_INFO"):
        SNAPSHOT.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    expected = json.loads(SNAPSHOT.read_text())
    assert found.keys() == expected.keys()
    for name in expected:
        for key in set(NEWER) - found[name].keys():
            del expected[name][key]
        assert found[name] == expected[name], f"{name}: set UPDATE_OBJECT_INFO=1 if the change is meant"
        # Workflow files store widget values by position.
        assert found[name]["input_order"] == expected[name]["input_order"], name


def test_sampler_lists_are_those_of_ksampler(server):
    core, ours = (server.get(f"/object_info/{name}")[name] for name in ("KSampler", "UNetMotion_Sampler"))
    for field in CORE_INPUTS:
        theirs = core["input"]["required"][field]
        options = theirs[0] if isinstance(theirs[0], list) else theirs[1]["options"]
        assert ours["input"]["required"][field][1]["options"] == options


def test_the_pack_loads_without_a_warning(server):
    log = server.log()
    assert "IMPORT FAILED" not in log and f"{server.folder} module for custom nodes" not in log


def test_example_workflows_are_templates(server):
    listed = server.get("/workflow_templates")[server.folder]
    files = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))
    assert sorted(listed) == files and "first_animation" in files
    for name in files:
        assert (ROOT / "example_workflows" / f"{name}.jpg").is_file()


@pytest.mark.parametrize("folder", ["animatediff_models", "animatediff_motion_lora"])
def test_model_folders_are_known_and_extended_by_yaml(server, folder, elsewhere):
    listed = server.get(f"/models/{folder}")
    assert f"{folder} from yaml.safetensors" in listed
    assert "not a model.txt" not in listed
