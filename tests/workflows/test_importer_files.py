"""Files that hold a graph: JSON in three forms, pictures and videos."""

import json

import pytest
from PIL import Image, PngImagePlugin

from tests.workflows.conversions import legacy
from unet_motion.cli import main
from unet_motion.video import read_graphs
from unet_motion.workflows.importer import WorkflowError, convert_workflow, old_types
from unet_motion.workflows.importer.files import convert_file

PAGE, PROMPT = legacy()[0].page(), legacy()[0].api()


def png(path, **texts):
    chunks = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        chunks.add_text(name, text)
    Image.new("RGB", (4, 4)).save(path, pnginfo=chunks)


def webp(path, *tags):
    exif = Image.Exif()
    for number, text in tags:
        exif[number] = text
    Image.new("RGB", (4, 4)).save(path, exif=exif)


def converted(path):
    out = path.with_name("out.json")
    report = convert_file(path, out).report
    assert len(report.replaced) == 3 and report.is_whole
    return json.loads(out.read_text())


def test_the_body_that_programs_post_comes_back_as_such_a_body(tmp_path, capsys):
    body = {"client_id": "x", "prompt": PROMPT, "extra_data": {"extra_pnginfo": {"a": [1]}}}
    before = json.dumps(body)
    result = convert_workflow(body)
    assert list(result.graph) == list(body) and json.dumps(body) == before
    assert result.graph == {**body, "prompt": convert_workflow(PROMPT).graph} and old_types(body) == old_types(PROMPT)
    again = convert_workflow(result.graph)
    assert again.graph is result.graph and not again.report.replaced
    file, out = tmp_path / "body.json", tmp_path / "out.json"
    file.write_text(json.dumps(body))
    assert main(["convert-workflow", str(file), "--out", str(out)]) == 0
    assert json.loads(out.read_text()) == result.graph
    report, said = result.report, capsys.readouterr().out.splitlines()
    assert len(report.replaced) > 0 and said[-1] == f"{len(report.replaced)} nodes replaced, 0 left; {out}"
    for entry, line in zip(report.replaced, said, strict=False):
        assert line.startswith(f"{entry.node} {entry.kind}: ") and all(name in line for name in entry.by)
    rest = [f"{entry.node} {entry.kind}: {entry.text}" for entry in (*report.changed, *report.notes)]
    assert [line.partition(": ")[2] for line in said[len(report.replaced) : -1]] == rest


def test_a_node_that_is_called_prompt_is_no_body():
    graph = {"prompt": {"class_type": "ADE_AnimateDiffUnload", "inputs": {}}}
    assert convert_workflow(graph).graph != graph
    with pytest.raises(WorkflowError, match="found a `prompt` that is an object with '1'"):
        convert_workflow({"prompt": {"1": {"inputs": {}}}})
    for given, found in (({}, "an empty object"), ({"prompt": []}, "a `prompt` that is list"),
                         ({"prompt": {}}, "a `prompt` that is an empty object")):  # fmt: skip
        with pytest.raises(WorkflowError, match=f"found {found}"):
            convert_workflow(given)


def test_pictures_that_comfyui_saved(tmp_path):
    """The page's graph counts before the API's; NaN, which old servers wrote, is null."""
    page, prompt = json.dumps(PAGE), json.dumps(PROMPT)
    png(tmp_path / "a.png", workflow=page, prompt=prompt)
    assert converted(tmp_path / "a.png") == convert_workflow(PAGE).graph
    png(tmp_path / "b.png", prompt=prompt[:-1] + ', "99": {"class_type": "X", "inputs": {}, "is_changed": [NaN]}}')
    assert converted(tmp_path / "b.png")["99"]["is_changed"] == [None]
    webp(tmp_path / "c.webp", (0x0110, f"prompt:{prompt}"), (0x010F, f"workflow:{page}"))
    assert converted(tmp_path / "c.webp") == convert_workflow(PAGE).graph


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif"])
def test_files_of_video_helper_suite_have_it_in_a_comment(tmp_path, monkeypatch, name):
    """Without PyAV."""
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    heads = {"a.mp4": b"\0\0\0\x20ftypisom", "a.webm": b"\x1a\x45\xdf\xa3 webm"}
    comment = json.dumps({"prompt": json.dumps(PROMPT), "workflow": PAGE}).encode()
    if name == "a.gif":
        Image.new("P", (4, 4)).save(tmp_path / name)
        heads["a.gif"] = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(heads[name] + b'junk {"prompt": broken \xff\x00' + comment + b"\xff\x01} rest")
    assert converted(tmp_path / name) == convert_workflow(PAGE).graph
    only = json.dumps({"prompt": json.dumps(PROMPT)}).encode()
    (tmp_path / name).write_bytes(heads[name] + only + b"\xff rest")
    assert converted(tmp_path / name) == convert_workflow(PROMPT).graph


def test_a_video_of_core_needs_pyav(tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as file:
        file.metadata["workflow"] = json.dumps(PAGE)
        stream = file.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 16
        file.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        file.mux(stream.encode())
    assert read_graphs(path)["workflow"] == PAGE and converted(path) == convert_workflow(PAGE).graph
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(WorkflowError, match="a.mp4 is a video: MP4 needs PyAV, which is not installed"):
        convert_file(path, tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()


def test_pictures_without_a_graph_and_damaged_ones_are_refused_in_a_sentence(tmp_path):
    png(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:20])
    png(tmp_path / "c.png", workflow="[" * 100_000)
    for name, said in (("a.png", "holds no workflow"), ("b.png", "cannot be read"), ("c.png", "holds no workflow")):
        with pytest.raises(WorkflowError, match=f"{name} {said}"):
            convert_file(tmp_path / name, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()
