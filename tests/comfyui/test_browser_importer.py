"""A workflow of AnimateDiff-Evolved on the page: offered once, rewritten, undone in one step, run."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path

import av
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.comfyui.browser import visit, why_not
from tests.comfyui.server import Server
from tests.comfyui.test_browser_drop import DROP, UNCOVERED
from tests.workflows.old_graphs import OUTPUTS, Description
from unet_motion.workflows.importer.table import is_old

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

OUTPUTS["UNetMotion_LoadBundled"] = "MODEL CLIP VAE"
TYPES = "window.app.graph._nodes.map(node => node.type)"


def old_workflow() -> dict:
    """A clip of the bundled model, with nodes of AnimateDiff-Evolved before and behind the sampler."""
    graph = Description()
    loader = graph.add("UNetMotion_LoadBundled")
    texts = [graph.add("CLIPTextEncode", {"clip": (loader, 1)}, text=text) for text in ("a red star moving left", "")]
    latents = graph.add("ADE_EmptyLatentImageLarge", width=64, height=64, batch_size=4)
    links = {"model": (loader, 0), "positive": (texts[0], 0), "negative": (texts[1], 0), "latent_image": (latents, 0)}
    sampler = graph.add(
        "KSampler", links, seed=7, steps=2, cfg=3.0, sampler_name="euler", scheduler="normal", denoise=1.0
    )
    pictures = graph.add("VAEDecode", {"samples": (sampler, 0), "vae": (loader, 2)})
    graph.add("ADE_AnimateDiffCombine", {"images": (pictures, 0)}, frame_rate=12, loop_count=0,
              filename_prefix="old", format="image/webp", pingpong=False, save_image=True)  # fmt: skip
    page = graph.page()
    for node in page["nodes"]:
        node["pos"] = [60 + (node["id"] - 1) % 4 * 330, 100 + (node["id"] - 1) // 4 * 350]
    return page


def answer(page, word: str) -> None:
    """Press a button of the dialog that asks."""
    page.page.get_by_role("dialog").get_by_role("button", name=word).click()


def test_opening_offers_once_and_one_step_undoes(server, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old_workflow()))
    with visit(server) as page:
        types = page.open_workflow(path)
        assert "ADE_AnimateDiffCombine" in types
        page.page.get_by_text("Workflow of AnimateDiff-Evolved").wait_for()
        page.picture("importer-offer")
        answer(page, "Confirm")
        page.page.wait_for_function(f"{TYPES}.includes('UNetMotion_SaveClip')")
        after = page.page.evaluate(TYPES)
        assert not any(is_old(kind) for kind in after) and len(after) == len(types)
        page.page.get_by_text("2 nodes replaced").first.wait_for()
        page.close_dialogs()
        page.picture("importer-done")
        state = page.page.evaluate("window.app.extensionManager.workflow.activeWorkflow.isModified")
        assert state is True
        steps = page.page.evaluate("window.app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length")
        assert steps == 1
        page.page.mouse.click(1200, 600)
        page.page.keyboard.press("Control+z")
        page.page.wait_for_function(f"{TYPES}.includes('ADE_AnimateDiffCombine')")
        assert sorted(page.page.evaluate(TYPES)) == sorted(types)
        page.page.wait_for_timeout(1500)
        assert page.page.get_by_text("Workflow of AnimateDiff-Evolved").count() == 0
        page.close_dialogs()
        page.page.evaluate("window.app.extensionManager.command.execute('UNetMotion.ConvertWorkflow')")
        page.page.wait_for_function(f"{TYPES}.includes('UNetMotion_SaveClip')")
        page.close_dialogs()
        page.press_run()
        assert page.finished_clip()["filename"].startswith("old")
        assert page.problems == []


def test_a_report_is_one_short_message_and_its_sentences_stand_in_a_dialog(server, tmp_path):
    workflow = old_workflow()
    combine = next(node for node in workflow["nodes"] if node["type"] == "ADE_AnimateDiffCombine")
    combine["widgets_values"][1:6] = [2, "old", "image/webp", True, True]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(workflow))
    with visit(server) as page:
        for _ in range(2):
            page.open_workflow(path)
            page.page.get_by_text("Workflow of AnimateDiff-Evolved").first.wait_for()
            answer(page, "Confirm")
            page.page.get_by_text("2 remarks: menu UNetMotion").first.wait_for()
            page.close_dialogs()
        messages = page.page.locator(".p-toast-message")
        page.page.wait_for_function("document.querySelectorAll('.p-toast-message').length === 1")  # the other one fades
        assert "loop_count" not in messages.first.inner_text()
        page.page.evaluate("void window.app.extensionManager.command.execute('UNetMotion.ConversionReport')")
        dialog = page.page.get_by_role("dialog")
        dialog.get_by_text("loop_count 2 has no counterpart").wait_for()
        assert dialog.get_by_text("pingpong True has no counterpart").count() == 1
        page.picture("importer-report")
        assert page.problems == []


def dropped_files(workflow: dict) -> dict[str, tuple[str, bytes]]:
    """The workflow in files as AnimateDiff-Evolved's users have them: name -> type, contents.

    WebP as ComfyUI saves animations; MP4 with the comment that VideoHelperSuite writes.
    """
    text = json.dumps(workflow)
    picture, known = Image.new("RGB", (16, 16), (200, 90, 20)), PngInfo()
    known.add_text("workflow", text)
    exif = picture.getexif()
    exif[0x010F] = f"workflow:{text}"
    png, webp, mp4 = io.BytesIO(), io.BytesIO(), io.BytesIO()
    picture.save(png, "PNG", pnginfo=known)
    picture.save(webp, "WEBP", exif=exif)
    with av.open(mp4, "w", format="mp4") as container:
        prompt = json.dumps({"1": {"class_type": "x", "inputs": {}}})
        container.metadata["comment"] = json.dumps({"prompt": prompt, "workflow": workflow})
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 16
        for packet in (*stream.encode(av.VideoFrame.from_image(picture)), *stream.encode()):
            container.mux(packet)
    return {
        "old.png": ("image/png", png.getvalue()), "old.webp": ("image/webp", webp.getvalue()),
        "old.mp4": ("video/mp4", mp4.getvalue()), "old.json": ("application/json", text.encode()),
    }  # fmt: skip


def test_dropped_files_are_rewritten(server):
    workflow = old_workflow()
    with visit(server) as page:
        for name, (type_, data) in dropped_files(workflow).items():
            page.page.evaluate("window.app.graph.clear()")
            page.page.evaluate(DROP, [name, type_, base64.b64encode(data).decode()])
            page.page.get_by_text("Workflow of AnimateDiff-Evolved").first.wait_for()
            assert len(page.page.evaluate(TYPES)) == len(workflow["nodes"]), name
            answer(page, "Confirm")
            page.page.wait_for_function(f"{TYPES}.includes('UNetMotion_SaveClip')")
            assert not any(is_old(kind) for kind in page.page.evaluate(TYPES)), name
            page.close_dialogs()
            page.page.wait_for_function(UNCOVERED)
        assert page.problems == []


@pytest.fixture
def beside_evolved(installation, tmp_path):
    """A server on which AnimateDiff-Evolved is installed, too."""
    pack = Path(os.environ.get("UNET_MOTION_PACKS") or "none") / "ComfyUI-AnimateDiff-Evolved"
    if not pack.is_dir():
        pytest.skip(f"UNET_MOTION_PACKS names no folder with {pack.name}")
    server = Server(installation, tmp_path / "server", packs=(pack,))
    server.start()
    yield server
    server.stop()


def test_where_the_pack_is_installed_nothing_is_offered_and_the_command_rewrites(beside_evolved, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old_workflow()))
    assert "ADE_AnimateDiffCombine" in beside_evolved.get("/object_info")
    with visit(beside_evolved) as page:
        before = page.open_workflow(path)
        page.page.wait_for_timeout(2000)
        assert page.page.get_by_text("Workflow of AnimateDiff-Evolved").count() == 0
        page.picture("importer-beside-evolved-before")
        command = "void window.app.extensionManager.command.execute('UNetMotion.ConvertWorkflow')"
        page.page.evaluate(command)
        page.page.wait_for_function(f"{TYPES}.includes('UNetMotion_SaveClip')")
        after = page.page.evaluate(TYPES)
        assert not any(is_old(kind) for kind in after) and len(after) == len(before)
        page.close_dialogs()
        page.picture("importer-beside-evolved-after")
        page.page.mouse.click(600, 830)  # where no node is
        page.page.keyboard.press("Control+z")
        page.page.wait_for_function(f"{TYPES}.includes('ADE_AnimateDiffCombine')")
        assert sorted(page.page.evaluate(TYPES)) == sorted(before)
        page.page.evaluate(command)
        page.page.wait_for_function(f"{TYPES}.includes('UNetMotion_SaveClip')")
        page.close_dialogs()
        page.press_run()
        assert page.finished_clip()["filename"].startswith("old")
        assert page.problems == []
