"""A real server with other packs beside this one, against one with this one alone.

Run with UNET_MOTION_PACKS naming a folder with their checkouts; what each pack does to a MODEL is in
`inside/check_packs.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.comfyui.graphs import bundled, sample
from tests.comfyui.server import Server

FOLDER = os.environ.get("UNET_MOTION_PACKS")
pytestmark = pytest.mark.skipif(not FOLDER, reason="UNET_MOTION_PACKS names no folder with other packs")
NAMES = ("ComfyUI_IPAdapter_plus", "ComfyUI-Advanced-ControlNet", "ComfyUI-AnimateDiff-Evolved")
FRAMES = 4
HINT = ((3, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 96, 2), (96, 96, 1), (96, 256, 2), (256, 64, 1))


def write_control_lora(folder: Path) -> None:
    """A ControlLora for the bundled model: its hint's layers and outputs; the rest is taken from the MODEL."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(8)

    def layer(name, out, *rest):
        fan_in = torch.Size(rest).numel()
        weight = torch.randn(out, *rest, generator=generator) * fan_in**-0.5
        return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(out)}

    weights = {"lora_controlnet": torch.zeros(0)}
    for place, (width, out, _) in enumerate(HINT):
        weights |= layer(f"input_hint_block.{2 * place}", out, width, 3, 3)
    for place, width in enumerate((64, 64, 64, 128)):
        weights |= layer(f"zero_convs.{place}.0", width, width, 1, 1)
    save_file(weights | layer("middle_block_out.0", 128, 128, 1, 1), folder / "lora.safetensors")


@pytest.fixture(scope="module")
def crowded(installation, tmp_path_factory):
    """A server with all of the packs."""
    packs = tuple(Path(FOLDER) / name for name in NAMES)
    missing = [pack.name for pack in packs if not pack.is_dir()]
    if missing:
        pytest.skip(f"{FOLDER} has no {', '.join(missing)}")
    found = Server(installation, tmp_path_factory.mktemp("crowded"), packs=packs)
    write_control_lora(found.base / "models" / "controlnet")
    found.start()
    yield found
    found.stop()


def freeu(graph, model):
    numbers = {"enabled": True, "preset": "custom", "version": "v2", "b1": 1.5, "b2": 1.6, "s1": 0.9, "s2": 0.2}
    return graph.add("UNetMotion_FreeU", model=model, **numbers, start_percent=0.0, end_percent=1.0), 0


def run(server, *branches):
    """Latents of the bundled model by branch: ours alone, FreeU, and with a control by core's or the pack's nodes."""
    graph, needs = bundled(FRAMES)
    for name in branches:
        given = dict(needs)
        if name == "freeu":
            given["model"] = freeu(graph, needs["model"])
        elif name != "plain":
            given |= controlled(graph, given, name)
        sample(graph, given, name)
    done = server.run(graph)
    assert done.error is None, done.error
    return {name: server.latent(done, name) for name in branches}


def controlled(graph, needs, name):
    image = graph.add("EmptyImage", width=64, height=64, batch_size=FRAMES, color=0xC08040), 0
    texts = {which: needs[which] for which in ("positive", "negative")}
    given = {**texts, "image": image, "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    if name == "core control":
        loaded = graph.add("ControlNetLoader", control_net_name="lora.safetensors"), 0
        node = graph.add("ControlNetApplyAdvanced", control_net=loaded, **given)
    else:
        loaded = graph.add("ACN_ControlNetLoaderAdvanced", cnet="lora.safetensors"), 0
        if name == "one frame":
            frame = graph.add("LatentKeyframe", batch_index=1, strength=0.0)
            given["latent_kf_override"] = (frame, 0)
        node = graph.add("ACN_AdvancedControlNetApply_v2", control_net=loaded, **given)
    return {"positive": (node, 0), "negative": (node, 1)}


def relative(a, b):
    return float((a - b).norm() / b.norm())


def knows_advanced_controlnet(server, installation):
    """Whether the pack runs here: 0.3.64 refuses its definitions, where inputs and outputs share names."""
    found = "ACN_ControlNetLoaderAdvanced" in server.get("/object_info")
    assert found or "Error while calling comfy_entrypoint" in server.log(), server.log()[-4000:]
    assert found or installation.version == "0.3.64"
    return found


def test_other_packs_beside_ours_change_no_latent_and_their_nodes_act_on_our_model(server, crowded, installation):
    write_control_lora(server.base / "models" / "controlnet")
    ours = ("plain", "freeu", "core control")
    theirs = ("pack control", "one frame") if knows_advanced_controlnet(crowded, installation) else ()
    alone, beside = run(server, *ours), run(crowded, *ours, *theirs)
    for name in ours:
        assert torch.equal(alone[name], beside[name]), name
    assert relative(alone["freeu"], alone["plain"]) > 1e-3
    assert relative(alone["core control"], alone["plain"]) > 1e-2
    if theirs:
        # Advanced-ControlNet at full strength is core's control; with a strength of 0 for frame 1 it is not.
        assert relative(beside["pack control"], beside["core control"]) < 1e-4
        changes = [relative(a, b) for a, b in zip(beside["one frame"], beside["pack control"], strict=True)]
        assert max(changes) == changes[1] > 1e-2
    failed = [line for line in crowded.log().splitlines() if "IMPORT FAILED" in line]
    assert all(name in crowded.log() for name in NAMES) and len(failed) == (0 if theirs else 1), failed
