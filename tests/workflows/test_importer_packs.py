"""Nodes of other packs in the layouts of their versions: what their values become, what is said to be lost."""

import pytest

from tests.workflows.conversions import changed, find, kinds, plain, up
from unet_motion.workflows.importer import convert_workflow
from unet_motion.workflows.importer.table import OTHER_PACKS, TARGETS

LOADED = {"video": "in.mp4", "force_rate": 0, "frame_load_cap": 0, "skip_first_frames": 0, "select_every_nth": 1}


def node(kind, values, outputs, inputs=()):
    """A page graph of one node, whose outputs a node that stays reads; inputs come from one, too."""
    links = [[n + 1, 2, n, 1, n, type_] for n, (_, type_) in enumerate(inputs)]
    links += [[len(inputs) + n + 1, 1, n, 3, n, type_] for n, type_ in enumerate(outputs)]

    def slots(pairs, first):
        return [{"name": name, "type": type_, "link": first + n} for n, (name, type_) in enumerate(pairs)]

    def outs(types, first):
        return [{"name": type_, "type": type_, "links": [first + n]} for n, type_ in enumerate(types)]

    ends = len(inputs) + 1
    return {"version": 0.4, "links": links, "nodes": [
        {"id": 1, "type": kind, "widgets_values": values, "inputs": slots(inputs, 1), "outputs": outs(outputs, ends)},
        {"id": 2, "type": "Source", "outputs": outs([type_ for _, type_ in inputs], 1)},
        {"id": 3, "type": "Sink", "inputs": slots([(f"in{n}", type_) for n, type_ in enumerate(outputs)], ends)},
    ]}  # fmt: skip


def converted(page):
    """The nodes by their types with their values, what feeds the sink, and the report."""
    result = convert_workflow(page, OTHER_PACKS)
    nodes = {entry["id"]: entry for entry in result.graph["nodes"]}
    values = {entry["type"]: dict(zip(TARGETS[entry["type"]].page_widgets(), entry["widgets_values"], strict=True))
              for entry in nodes.values() if entry["type"] in TARGETS}  # fmt: skip
    ends = {link[4]: (nodes[link[1]]["type"], link[2]) for link in result.graph["links"] if link[3] == 3}
    return values, ends, result.report


LIST = [
    # video, rate, size, cap, skip, nth and the button for a file
    (["in.mp4", 0, "Disabled", 20, 5, 1, "image"], (5, 20), None, []),
    (["in.mp4", 0, "Disabled", 20, 5, 1], (5, 20), None, []),
    (["in.mp4", 12, "?x512", 0, 0, 2], None, (0, 512), ["force_rate 12", "select_every_nth 2"]),
    (["in.mp4", 0, "256x?", 0, 0, 1], None, (256, 0), []),
    # with sizes of their own, and in versions that have these alone
    (["in.mp4", 0, "Custom", 640, 360, 8, 0, 1], (0, 8), (640, 360), []),
    (["in.mp4", 0, "Custom Width", 640, 360, 0, 3, 1], (3, 4096), (640, 0), []),
    (["in.mp4", 0, "Custom Height", 640, 360, 0, 0, 1, "image"], None, (0, 360), []),
    (["in.mp4", 0, "Disabled", 640, 360, 0, 0, 1], None, None, []),
    (["in.mp4", 0, 640, 360, 8, 2, 1, "AnimateDiff"], (2, 8), (640, 360), []),
    (["in.mp4", 0, 0, 0, 8, 2, 1, "None", None], (2, 8), None, []),
    ({**LOADED, "force_size": "512x512", "choose video to upload": "image", "videopreview": {}}, None, (512, 512), []),
    ({**LOADED, "custom_width": 0, "custom_height": 288, "format": "AnimateDiff"}, None, (0, 288), []),
    ({**LOADED, "frame_load_cap": 9, "select_every_nth": 3}, (0, 9), None, ["select_every_nth 3"]),
]


@pytest.mark.parametrize(("values", "part", "size", "lost"), LIST)
def test_loaded_videos(values, part, size, lost):
    found, ends, report = converted(node("VHS_LoadVideo", values, ["IMAGE", "INT", "AUDIO"]))
    assert report.is_whole and changed(report) == lost
    assert found["LoadVideo"]["file"] == "in.mp4"
    cut, scaled = found.get("ImageFromBatch"), found.get("ImageScale")
    assert (cut and (cut["batch_index"], cut["length"])) == part
    assert (scaled and (scaled["width"], scaled["height"])) == size
    assert scaled is None or (scaled["upscale_method"], scaled["crop"]) == ("lanczos", "center")
    last = "ImageScale" if size else "ImageFromBatch" if part else "GetVideoComponents"
    assert ends == {0: (last, 0), 1: ("GetImageSize", 2), 2: ("GetVideoComponents", 1)}


def test_a_video_by_its_path_is_looked_for_in_the_input_folder():
    values = {**LOADED, "video": "X:\\clips\\a.b\\in.mp4", "force_size": "Disabled"}
    found, _, report = converted(node("VHS_LoadVideoPath", values, ["IMAGE"]))
    assert found["LoadVideo"]["file"] == "in.mp4" and [said.text for said in report.changed] == [
        "put the file into the input folder"
    ]


@pytest.mark.parametrize(
    "values",
    [
        [12, 2, "out", "video/h264-mp4", True, True],
        [12, 2, "out", "video/h264-mp4", True, True, 20, True, "x.mp4", {"params": {}}],
        {"frame_rate": 12, "loop_count": 2, "filename_prefix": "out", "format": "video/h264-mp4", "pix_fmt": "yuv420p",
         "crf": 20, "save_metadata": True, "trim_to_audio": False, "pingpong": True, "save_output": True},
        {"frame_rate": 12, "loop_count": 2, "filename_prefix": "out", "format": "video/h264-mp4", "pingpong": True,
         "save_image": True, "crf": 20, "videopreview": {"hidden": False}},
    ],
)  # fmt: skip
def test_saved_videos(values):
    page = node("VHS_VideoCombine", values, [], [("images", "IMAGE"), ("audio", "AUDIO")])
    found, _, report = converted(page)
    clip = found["UNetMotion_SaveClip"]
    assert (clip["fps"], clip["filename_prefix"], clip["format"]) == (12.0, "out", "mp4") and report.is_whole
    assert changed(report) == ["loop_count 2", "pingpong True", "audio a link"]


TEXT = '"0" :"a",\n"20" :"b",'


@pytest.mark.parametrize(
    ("kind", "values", "lost"),
    [
        ("BatchPromptSchedule", [TEXT, 40, False, "x, ", ", y", 0, 0, 0, 0, 0, 0], []),
        ("BatchPromptSchedule", [TEXT, 40, "x, ", ", y", 0, 0, 0, 0.2], ["pw_d 0.2"]),
        ("BatchPromptSchedule", [TEXT, 40, True, "x, ", ", y", 5, 0, 0, 0, 0.5], ["pw_d 0.5"]),
        ("BatchPromptSchedule", [TEXT, 40, True, "x, ", ", y", 0, 0, 0, 0], []),
        ("PromptSchedule", [TEXT, 40, False, "x, ", ", y", 0, 0, 0, 0], []),
        ("PromptSchedule", [TEXT, 40, 3, False, "x, ", ", y", 0, 0, 0, 0], []),
    ],
)
def test_prompts_of_fizz(kind, values, lost):
    found, ends, report = converted(node(kind, values, ["CONDITIONING", "CONDITIONING"], [("clip", "CLIP")]))
    inputs = found["UNetMotion_PromptSchedule"]
    assert [inputs[name] for name in ("text", "frames", "before", "after")] == [TEXT, 40, "x, ", ", y"]
    assert changed(report) == lost and report.is_whole
    assert ends == {0: ("UNetMotion_PromptSchedule", 0), 1: ("UNetMotion_PromptSchedule", 1)}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("RIFE VFI", ["rife.pth", 10, 3, True, True, 1]),
        ("RIFE VFI", ["rife.pth", 10, 3, True, False, 0.5, True]),
        ("RIFE VFI", ["rife.pth", 10, 3]),
        ("FILM VFI", ["rife.pth", 10, 3, False]),
        ("GMFSS Fortuna VFI", ["rife.pth", 10, 3]),
        ("STMFNet VFI", ["rife.pth", 10, 3, True]),
        ("IFUnet VFI", ["rife.pth", 10, 3, 1.0, True]),
    ],
)
def test_frames_between(kind, values):
    found, ends, report = converted(node(kind, values, ["IMAGE"], [("frames", "IMAGE")]))
    assert found["FrameInterpolate"]["multiplier"] == 3 and ends == {0: ("FrameInterpolate", 0)}
    assert found["FrameInterpolationModelLoader"]["model_name"] == "rife.pth" and report.is_whole


@pytest.mark.parametrize(
    ("kind", "name"), [("ControlNetLoaderAdvanced", "control_net_name"), ("ACN_ControlNetLoaderAdvanced", "cnet")]
)
def test_control_nets(kind, name):
    found, ends, report = converted(node(kind, ["depth.pth"], ["CONTROL_NET"]))
    assert found["ControlNetLoader"]["control_net_name"] == "depth.pth" and ends == {0: ("ControlNetLoader", 0)}
    graph = {"1": {"class_type": kind, "inputs": {name: "depth.pth", "tk_optional": ["9", 0]}},
             "9": {"class_type": "TimestepKeyframe", "inputs": {}}}  # fmt: skip
    result = convert_workflow(graph, OTHER_PACKS)
    assert find(plain(result.graph), "ControlNetLoader")[1] == {"control_net_name": "depth.pth"}
    assert changed(result.report) == [] and result.report.is_whole


def test_counts_and_copies_of_pictures():
    images = [("images", "IMAGE")]
    _, ends, _ = converted(node("VHS_GetImageCount", [], ["INT"], images))
    assert ends == {0: ("GetImageSize", 2)}
    found, ends, _ = converted(node("VHS_DuplicateImages", {"multiply_by": 3}, ["IMAGE", "INT"], images))
    assert found["RepeatImageBatch"]["amount"] == 3
    assert ends == {0: ("RepeatImageBatch", 0), 1: ("GetImageSize", 2)}
    graph = {"1": {"class_type": "VHS_VAEDecodeBatched", "inputs": {"samples": ["2", 0], "vae": ["2", 1],
                   "per_batch": 16}}, "2": {"class_type": "Source", "inputs": {}},
             "3": {"class_type": "VHS_VAEEncodeBatched", "inputs": {"pixels": ["1", 0], "vae": ["2", 1],
                   "per_batch": 16}}}  # fmt: skip
    prompt = plain(convert_workflow(graph, OTHER_PACKS).graph)
    assert kinds(prompt) == ["Source", "VAEDecode", "VAEEncode"]
    assert up(prompt, find(prompt, "VAEEncode")[0], "pixels") == find(prompt, "VAEDecode")[0]
