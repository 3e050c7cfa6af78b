"""What stays as it was in a converted graph: links, modes, places, other packs' nodes; and what is no graph."""

import copy
import time

import pytest

from tests.workflows import old_graphs
from tests.workflows.conversions import CORE_WIDGETS, both, check_page, find, gen2, legacy, plain, up, widgets_of
from tests.workflows.old_graphs import Description, Spec, prompt_of
from unet_motion.workflows.importer import WorkflowError, convert_workflow
from unet_motion.workflows.importer.arrange import arrange
from unet_motion.workflows.importer.graph import Counters, Graph, Node
from unet_motion.workflows.importer.table import OTHER_PACKS, is_old

OTHER_PACKS_OUTPUTS = {
    "VHS_LoadVideo": "IMAGE INT AUDIO VHS_VIDEOINFO",
    "VHS_VideoCombine": "VHS_FILENAMES",
    "BatchPromptSchedule": "CONDITIONING CONDITIONING",
    "ControlNetLoaderAdvanced": "CONTROL_NET",
    "ACN_AdvancedControlNetApply": "CONDITIONING CONDITIONING MODEL",
    "RIFE VFI": "IMAGE",
}


def test_nodes_of_other_packs_stay_unless_they_are_missing(monkeypatch):
    for kind, outputs in OTHER_PACKS_OUTPUTS.items():
        monkeypatch.setitem(old_graphs.OUTPUTS, kind, outputs)
    graph = Description()
    video = graph.add("VHS_LoadVideo", video="in.mp4", force_rate=0, force_size="Disabled", custom_width=512,
                      custom_height=512, frame_load_cap=20, skip_first_frames=5, select_every_nth=1)  # fmt: skip
    latents = graph.add("EmptyLatentImage", {"batch_size": (video, 1)}, width=64, height=64, batch_size=1)
    more = graph.add("RIFE VFI", {"frames": (video, 0)}, ckpt_name="rife47.pth", clear_cache_after_n_frames=10,
                     multiplier=3, fast_mode=True, ensemble=True, scale_factor=1)  # fmt: skip
    graph.add("VHS_VideoCombine", {"images": (more, 0)}, frame_rate=24, loop_count=0, filename_prefix="out",
              format="video/h264-mp4", pingpong=False, save_output=True)  # fmt: skip
    kept = convert_workflow(graph.api())
    assert kept.graph == graph.api() and {said.kind for said in kept.report.kept} == {
        "VHS_LoadVideo", "RIFE VFI", "VHS_VideoCombine",
    }  # fmt: skip
    converted = convert_workflow(graph.api(), OTHER_PACKS)
    prompt = plain(converted.graph)
    part, cut = find(prompt, "ImageFromBatch")
    assert (cut["batch_index"], cut["length"]) == (5, 20)
    frames = up(prompt, part, "image")
    assert prompt[frames]["class_type"] == "GetVideoComponents"
    assert prompt[up(prompt, frames, "video")]["inputs"] == {"file": "in.mp4"}
    count = up(prompt, str(latents), "batch_size")
    assert prompt[count]["class_type"] == "GetImageSize" and prompt[str(latents)]["inputs"]["batch_size"][1] == 2
    assert up(prompt, count, "image") == part
    clip = find(prompt, "UNetMotion_SaveClip")[1]
    assert (clip["fps"], clip["format"], clip["filename_prefix"]) == (24.0, "mp4", "out")
    made = clip["images"][0]
    assert prompt[made]["inputs"]["multiplier"] == 3 and up(prompt, made, "images") == part
    assert prompt[up(prompt, made, "interp_model")]["inputs"]["model_name"] == "rife47.pth"


def test_control_of_another_pack_becomes_cores(monkeypatch):
    for kind, outputs in OTHER_PACKS_OUTPUTS.items():
        monkeypatch.setitem(old_graphs.OUTPUTS, kind, outputs)
    graph, _, sampler = legacy()
    net = graph.add("ControlNetLoaderAdvanced", control_net_name="depth.pth")
    picture = graph.add("VHS_LoadVideo", video="in.mp4", force_rate=0, force_size="Disabled", custom_width=0,
                        custom_height=0, frame_load_cap=0, skip_first_frames=0, select_every_nth=2)  # fmt: skip
    links = {
        **{name: graph.nodes[sampler].links[name] for name in ("positive", "negative")},
        "control_net": (net, 0),
        "image": (picture, 0),
        "model_optional": graph.nodes[sampler].links["model"],
    }
    apply = graph.add("ACN_AdvancedControlNetApply", links, strength=0.6, start_percent=0.1, end_percent=0.8)
    graph.nodes[sampler].links.update(positive=(apply, 0), negative=(apply, 1), model=(apply, 2))
    converted = convert_workflow(graph.api(), OTHER_PACKS)
    prompt = plain(converted.graph)
    control, inputs = find(prompt, "ControlNetApplyAdvanced")
    assert [inputs[name] for name in ("strength", "start_percent", "end_percent")] == [0.6, 0.1, 0.8]
    assert prompt[str(sampler)]["inputs"]["positive"] == [control, 0]
    assert prompt[str(sampler)]["inputs"]["negative"] == [control, 1]
    assert prompt[up(prompt, str(sampler), "model")]["class_type"] == "UNetMotion_ApplyMotionModule"
    assert prompt[up(prompt, control, "control_net")]["inputs"] == {"control_net_name": "depth.pth"}
    assert prompt[up(prompt, control, "image")]["class_type"] == "GetVideoComponents"
    assert [said.text.split(" has")[0] for said in converted.report.changed] == ["select_every_nth 2"]


def test_what_unloads_gives_its_model_on():
    graph, loader, sampler = legacy()
    unload = graph.add("ADE_AnimateDiffUnload", {"model": (loader, 0)})
    graph.nodes[sampler].links["model"] = (unload, 0)
    prompt, report = both(graph)
    assert report.is_whole
    assert prompt[up(prompt, str(sampler), "model")]["class_type"] == "UNetMotion_ApplyMotionModule"


def test_linked_values_stay_linked():
    graph, _, _ = legacy()
    length = graph.add("INTConstant", value=48)
    latents = next(number for number, spec in graph.nodes.items() if spec.kind == "ADE_EmptyLatentImageLarge")
    graph.nodes[latents].links["batch_size"] = (length, 0)
    prompt, report = both(graph)
    assert find(prompt, "EmptyLatentImage")[1]["batch_size"] == [str(length), 0]
    assert report.is_whole


def test_a_muted_node_gives_no_value_and_links_are_told_by_their_input():
    """What stands on the node counts then; a link whose number stands at another input than it says is that input's."""
    graph, *_ = legacy()
    length = graph.add("INTConstant", value=48)
    latents = next(number for number, spec in graph.nodes.items() if spec.kind == "ADE_EmptyLatentImageLarge")
    graph.nodes[latents].links.update(batch_size=(length, 0))
    graph.nodes[length].mode = 2
    page = graph.page()
    assert find(prompt_of(convert_workflow(page).graph, widgets_of()), "EmptyLatentImage")[1]["batch_size"] == 16
    page = graph.page()
    page["nodes"][length - 1]["mode"] = 0
    link = next(link for link in page["links"] if link[3] == latents)
    page["nodes"][latents - 1]["inputs"].insert(0, {"name": "width", "type": "INT", "link": None})
    assert link[4] == 0
    prompt = prompt_of(convert_workflow(page).graph, widgets_of())
    assert find(prompt, "EmptyLatentImage")[1]["batch_size"] == [str(length), 0]


def test_links_through_reroutes_primitives_set_and_get_nodes():
    graph, loader, sampler = legacy()
    lora = graph.add("ADE_AnimateDiffLoRALoader", name="zoom.ckpt", strength=0.8)
    first = graph.add("Reroute", {"": (lora, 0)})
    keep = graph.add("SetNode", {"MOTION_LORA": (first, 0)}, word="loras")
    give = graph.add("GetNode", word="loras")
    second = graph.add("Reroute", {"": (give, 0)})
    graph.nodes[loader].links["motion_lora"] = (second, 0)
    models = graph.add("Reroute", {"": (loader, 0)})
    graph.nodes[sampler].links["model"] = (models, 0)
    rate = graph.add("PrimitiveNode", value=24, control="fixed")
    combine = next(number for number, spec in graph.nodes.items() if spec.kind == "ADE_AnimateDiffCombine")
    graph.nodes[combine].links["frame_rate"] = (rate, 0)
    page = convert_workflow(graph.page()).graph
    prompt = prompt_of(page, widgets_of())
    applied = up(prompt, str(sampler), "model")
    assert prompt[applied]["inputs"]["lora_name"] == "zoom.ckpt"
    left = [node["id"] for node in page["nodes"] if node["type"] in ("Reroute", "SetNode", "GetNode")]
    assert left == [models] and keep not in left
    assert find(prompt, "UNetMotion_SaveClip")[1]["fps"] == 24.0


@pytest.mark.parametrize("words", [("first", "second", "third"), (1, 2, 3)])
def test_several_set_nodes_are_told_apart_by_their_names(words):
    graph, loader, sampler = legacy()
    loras = [graph.add("ADE_AnimateDiffLoRALoader", name=f"{name}.ckpt", strength=0.5) for name in "abc"]
    for lora, word in zip(loras, words, strict=True):
        graph.add("SetNode", {"MOTION_LORA": (lora, 0)}, word=word)
    graph.nodes[loras[1]].links["prev_motion_lora"] = (graph.add("GetNode", word=words[0]), 0)
    graph.nodes[loader].links["motion_lora"] = (graph.add("GetNode", word=words[1]), 0)
    prompt = prompt_of(convert_workflow(graph.page()).graph, widgets_of())
    last = up(prompt, str(sampler), "model")
    first = up(prompt, last, "model")
    assert [prompt[key]["inputs"]["lora_name"] for key in (first, last)] == ["a.ckpt", "b.ckpt"]
    assert prompt[up(prompt, first, "model")]["class_type"] == "UNetMotion_ApplyMotionModule"


def test_a_choice_that_a_primitive_gives_is_that_choice():
    graph, loader, _ = legacy(beta="autoselect")
    choice = graph.add("PrimitiveNode", value="lcm[100_ots]", control="fixed")
    graph.nodes[loader].links["beta_schedule"] = (choice, 0)
    converted = convert_workflow(graph.page())
    prompt = prompt_of(converted.graph, widgets_of())
    assert find(prompt, "UNetMotion_ApplyMotionModule")[1]["beta_schedule"] == "lcm 100"
    assert converted.report.is_whole and not converted.report.changed


def test_bypassed_and_muted_nodes_mean_what_they_meant():
    """A bypassed LoRA is bypassed in the chain; one before a muted one does not count, on the page as before."""
    graph, loader, sampler = legacy()
    far = graph.add("ADE_AnimateDiffLoRALoader", name="far.ckpt", strength=1.0)
    muted = graph.add("ADE_AnimateDiffLoRALoader", {"prev_motion_lora": (far, 0)}, name="muted.ckpt", strength=1.0)
    bypassed = graph.add("ADE_AnimateDiffLoRALoader", {"prev_motion_lora": (muted, 0)}, name="by.ckpt", strength=1.0)
    near = graph.add("ADE_AnimateDiffLoRALoader", {"prev_motion_lora": (bypassed, 0)}, name="near.ckpt", strength=0.5)
    graph.nodes[loader].links["motion_lora"] = (near, 0)
    graph.nodes[muted].mode, graph.nodes[bypassed].mode = 2, 4
    page = convert_workflow(graph.page()).graph
    prompt = prompt_of(page, widgets_of())
    assert [inputs["lora_name"] for inputs in (n["inputs"] for n in prompt.values()) if "lora_name" in inputs] == [
        "near.ckpt"
    ]
    assert {node["id"]: node["mode"] for node in page["nodes"] if "LoRA" in node["type"]} == {
        far: 4, muted: 4, bypassed: 4, near: 0,
    }  # fmt: skip
    assert prompt[up(prompt, str(sampler), "model", "model")]["class_type"] == "UNetMotion_ApplyMotionModule"


def test_a_bypassed_loader_stays_bypassed():
    graph, loader, sampler = legacy()
    graph.nodes[loader].mode = 4
    page = convert_workflow(graph.page()).graph
    prompt = prompt_of(page, widgets_of())
    assert prompt[str(sampler)]["inputs"]["model"] == ["1", 0]


def test_the_page_keeps_places_titles_groups_and_what_it_does_not_touch():
    graph, loader, _ = legacy()
    graph.nodes[loader].title = "My loader"
    page = graph.page()
    page["nodes"][loader - 1].update(color="#322", bgcolor="#533", flags={"collapsed": True})
    before = copy.deepcopy(page)
    after = convert_workflow(page).graph
    assert page == before
    nodes = {node["id"]: node for node in after["nodes"]}
    untouched = [node for node in before["nodes"] if node["type"] in CORE_WIDGETS and node["type"] != "KSampler"]
    assert [nodes[node["id"]] for node in untouched] == untouched
    assert nodes[loader]["title"] == "My loader" and nodes[loader]["pos"] == before["nodes"][loader - 1]["pos"]
    assert nodes[loader]["color"] == "#322" and nodes[loader]["flags"] == {"collapsed": True}
    assert after["groups"] == before["groups"] and after["extra"] == before["extra"]
    assert after["last_node_id"] == max(nodes) and after["last_link_id"] == max(link[0] for link in after["links"])
    check_page(after)


def test_converting_twice_changes_nothing():
    for description in (legacy()[0], gen2()[0]):
        for graph in (description.api(), description.page()):
            once = convert_workflow(graph).graph
            again = convert_workflow(once)
            assert again.graph is once and not again.report.replaced


def test_a_graph_without_old_nodes_is_given_back_itself():
    graph = Description()
    graph.add("CheckpointLoaderSimple", ckpt_name="x")
    for form in (graph.api(), graph.page()):
        assert convert_workflow(form).graph is form


def test_a_node_without_counterpart_is_named_and_the_rest_converts():
    graph, loader, sampler = legacy()
    only = graph.add("ADE_ContextExtras_Set")
    graph.nodes[loader].links["context_options"] = (only, 0)
    unknown = graph.add("ADE_AnimateDiffSettings")
    graph.nodes[unknown].kind = "ADE_OfAnotherYear"
    old_graphs.OUTPUTS["ADE_OfAnotherYear"] = "AD_SETTINGS"
    prompt, report = both(graph)
    assert not report.is_whole
    assert {said.kind for said in report.left} >= {"ADE_ContextExtras_Set", "ADE_OfAnotherYear"}
    assert prompt[up(prompt, str(sampler), "model")]["class_type"] == "UNetMotion_ApplyMotionModule"
    page = convert_workflow(graph.page()).graph
    assert {node["id"]: node["mode"] for node in page["nodes"]}[only] == 2
    again = convert_workflow(page)
    assert again.graph is page and {said.text for said in again.report.left} == {said.text for said in report.left}


def test_a_value_that_no_version_has_is_said_and_the_default_counts():
    graph, loader, _ = legacy(beta="no such schedule")
    prompt, report = both(graph)
    assert find(prompt, "UNetMotion_ApplyMotionModule")[1]["beta_schedule"] == "auto"
    assert [(said.node, "no such schedule" in said.text) for said in report.changed] == [(str(loader), True)]


@pytest.mark.parametrize(
    "data",
    [
        None, 3, "text", [], [1], {}, {"nodes": 3}, {"a": {}}, {"1": {"class_type": 3}}, {"nodes": [3]},
        {"nodes": [{"id": 1}]}, {"nodes": [{"id": None, "type": "A"}]}, {"1": {"class_type": "A", "inputs": []}},
        {"nodes": [{"id": 1, "type": "A"}, {"id": 1, "type": "B"}]}, {"nodes": [], "links": {}},
        {"nodes": [], "definitions": {"subgraphs": [{"name": "x"}]}},
    ],
)  # fmt: skip
def test_what_is_no_graph_is_refused_in_a_sentence(data):
    if data == {"nodes": [], "links": {}}:
        data = {"nodes": [], "links": {"a": 1}}
    before = copy.deepcopy(data)
    with pytest.raises(WorkflowError) as error:
        convert_workflow(data)
    assert 10 < len(str(error.value)) < 600 and "\n" not in str(error.value) and data == before


def test_settings_that_lead_back_to_themselves_are_left():
    graph, loader, sampler = legacy()
    first = graph.add("ADE_AnimateDiffLoRALoader", name="a.ckpt", strength=1.0)
    second = graph.add("ADE_AnimateDiffLoRALoader", {"prev_motion_lora": (first, 0)}, name="b.ckpt", strength=1.0)
    graph.nodes[first].links["prev_motion_lora"] = (second, 0)
    graph.nodes[loader].links["motion_lora"] = (second, 0)
    for form in (graph.api(), graph.page()):
        report = convert_workflow(form).report
        assert [said.text for said in report.left] == ["its settings lead back to itself"]


def test_a_circle_of_other_nodes_is_no_obstacle():
    graph, *_ = legacy()
    one = graph.add("LoraLoaderModelOnly", lora_name="x", strength_model=1.0)
    two = graph.add("LoraLoaderModelOnly", {"model": (one, 0)}, lora_name="x", strength_model=1.0)
    graph.nodes[one].links["model"] = (two, 0)
    for form in (graph.api(), graph.page()):
        assert convert_workflow(form).report.is_whole


def test_links_to_nothing_are_said_and_stay():
    graph, loader, _ = legacy(motion_scale=1.0, apply_v2_models_properly=True)
    api = graph.api()
    api[str(loader)]["inputs"]["context_options"] = ["404", 0]
    converted = convert_workflow(api)
    assert ["404" in said.text for said in converted.report.notes] == [True]
    page = graph.page()
    page["links"].append([999, 404, 0, loader, 0, "MODEL"])
    converted = convert_workflow(page)
    assert [999, 404, 0, loader, 0, "MODEL"] in converted.graph["links"] and len(converted.report.notes) == 1


@pytest.mark.parametrize("values", [["m.ckpt", 5], ["m.ckpt", "autoselect", 1.0, True, 17, 18], [{}, []]])
def test_widget_values_of_no_known_order_leave_the_node(values):
    graph, loader, _ = legacy()
    page = graph.page()
    page["nodes"][loader - 1]["widgets_values"] = values
    converted = convert_workflow(page)
    assert [said.node for said in converted.report.left] == [str(loader)]
    assert next(n for n in converted.graph["nodes"] if n["id"] == loader)["type"] == "ADE_AnimateDiffLoaderWithContext"


def test_old_orders_of_widgets_are_read_by_their_types():
    """Sample settings without `seed_override`, with it, and with the empty widgets of some pages."""
    for values in ([0, "default", "comfy", 0, False], [0, "default", "comfy", 0, 0, False],
                   [0, "default", "comfy", 0, 55, False, ""]):  # fmt: skip
        graph, *_, use, sampler = gen2()
        settings = graph.add("ADE_AnimateDiffSamplingSettings")
        graph.nodes[use].links["sample_settings"] = (settings, 0)
        page = graph.page()
        page["nodes"][settings - 1]["widgets_values"] = values
        report = convert_workflow(page).report
        assert report.is_whole and not report.changed


def test_nodes_in_a_subgraph_convert_where_they_are():
    graph, loader, _ = legacy()
    inner = graph.page()
    links = [dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
             for link in inner["links"]]  # fmt: skip
    links[0].update(origin_id=-10, origin_slot=0)
    assert links[0]["target_id"] == loader and links[0]["type"] == "MODEL"
    inner["nodes"][0]["outputs"][0]["links"] = []
    border = {"id": "u", "name": "model", "type": "MODEL", "linkIds": [1]}
    subgraph = {"id": "s", "name": "AD", "nodes": inner["nodes"], "links": links, "inputs": [border], "outputs": [],
                "inputNode": {"id": -10}, "outputNode": {"id": -20}}  # fmt: skip
    instance = {"id": 500, "type": "s", "inputs": [], "outputs": [], "mode": 0}
    outer = {"nodes": [instance], "links": [], "last_node_id": 500,
             "last_link_id": 0, "definitions": {"subgraphs": [subgraph]}, "version": 0.4}  # fmt: skip
    converted = convert_workflow(outer)
    after = converted.graph["definitions"]["subgraphs"][0]
    assert converted.report.is_whole and not any(is_old(node["type"]) for node in after["nodes"])
    apply = next(node for node in after["nodes"] if node["type"] == "UNetMotion_ApplyMotionModule")
    number = next(slot["link"] for slot in apply["inputs"] if slot["name"] == "model")
    assert after["inputs"][0]["linkIds"] == [number]
    assert next(link for link in after["links"] if link["id"] == number)["origin_id"] == -10
    ids = [node["id"] for node in after["nodes"]]
    assert len(set(ids)) == len(ids) and max(ids) > 500
    assert converted.graph["nodes"] == outer["nodes"]


@pytest.mark.parametrize("slot", [0, 1, -1, None, "0"])
def test_a_link_to_an_output_that_a_subgraph_does_not_have_is_said_and_stays(slot):
    inner = legacy()[0].page()
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(names, link, strict=True)) for link in inner["links"]]
    out = dict(zip(names, (99, inner["nodes"][0]["id"], 0, -20, slot, "MODEL"), strict=True))
    inner["nodes"][0]["outputs"][0]["links"].append(99)
    border = {"id": "u", "name": "model", "type": "MODEL", "linkIds": [99]}
    subgraph = {"id": "s", "name": "AD", "nodes": inner["nodes"], "links": [*links, out], "inputs": [],
                "outputs": [border], "inputNode": {"id": -10}, "outputNode": {"id": -20}}  # fmt: skip
    instance = {"id": 500, "type": "s", "inputs": [], "outputs": [], "mode": 0}
    converted = convert_workflow({"nodes": [instance], "links": [], "definitions": {"subgraphs": [subgraph]}})
    after = converted.graph["definitions"]["subgraphs"][0]
    assert out in after["links"] and after["outputs"][0]["linkIds"] == ([99] if slot == 0 else [])
    said = [note.text for note in converted.report.notes if note.kind == "links"]
    assert said == ([] if slot == 0 else ["1 of subgraph AD lead from or to nothing; left as they are"])


@pytest.mark.parametrize("form", ["api", "page"])
def test_five_thousand_nodes_take_under_two_seconds(form):
    graph = Description()
    for _ in range(700):
        part, *_ = legacy()
        offset = len(graph.nodes)
        for spec in part.nodes.values():
            links = {name: (node + offset, out) for name, (node, out) in spec.links.items()}
            graph.nodes[len(graph.nodes) + 1] = Spec(spec.kind, spec.widgets, links)
    data = getattr(graph, form)()
    assert len(graph.nodes) > 5000
    start = time.process_time()
    converted = convert_workflow(data)
    assert time.process_time() - start < 2 and len(converted.report.replaced) == 3 * 700


def test_a_heap_of_nodes_is_laid_out_and_places_that_are_there_stay():
    """Where nodes have no places, or all the same one, each stands behind what it reads, and none over another."""
    for place in (None, [10, 10]):
        page = legacy()[0].page()
        for node in page["nodes"]:
            node.pop("pos") if place is None else node.update(pos=list(place))
        after = convert_workflow(page).graph
        nodes = {node["id"]: node for node in after["nodes"]}
        for _, source, _, target, *_ in after["links"]:
            assert nodes[source]["pos"][0] < nodes[target]["pos"][0]
        assert not lying_over(after["nodes"])
    placed = legacy()[0].page()
    places = {node["id"]: node["pos"] for node in placed["nodes"]}
    after = convert_workflow(placed).graph
    assert all(node["pos"] == places[node["id"]] for node in after["nodes"] if node["id"] in places)


def test_nodes_without_a_place_take_the_room_of_their_slots_texts_and_pictures():
    """26 for a line, 120 for a text of more than 60 letters or of several lines, 300 for a picture; 90 between them."""
    graph = Graph(Counters(99, 99, text_keys=False))
    lines = {"a": "x" * 60, "b": 5, "c": None}
    kinds = [
        Node("1", "Other", values=lines),
        Node("2", "Other", values={"a": "x" * 61, "b": "one\ntwo", "c": "short"}),
        Node("3", "CLIPTextEncode", values={"text": "short"}),
        Node("4", "CLIPTextEncode", values={"text": "x" * 99}),
        Node("5", "LoadImage", values={"image": "a.png"}),
        Node("6", "Other", raw={"widgets_values": ["x" * 61, 1]}, values=lines),
        Node("7", "Other", raw={"widgets_values": {"a": 1}}, values=lines),
        Node("8", "Other", raw={"widgets_values": "odd"}, values=lines),
        Node("9", "Other", raw={"size": [77, 88]}, values=lines, place=(5, 6, 77, 88)),
        Node("10", "Other", values=lines, place=(5, 6, 77, 88)),
    ]
    for node in kinds:
        graph.add(node)
    arrange(graph)
    heights = [
        40 + 3 * 26,
        40 + 3 * 26 + 240,
        40 + 26 + 120,
        40 + 26 + 120,
        40 + 26 + 300,
        40 + 2 * 26 + 120,
        40 + 26,
        40,
    ]
    heights += [88, 40 + 3 * 26]
    assert [node.place[2:] for node in kinds] == [(77 if h == 88 else 340, h) for h in heights]
    assert [node.place[:2] for node in kinds[:9]] == [(0, sum(heights[:i]) + 90 * i) for i in range(9)]
    assert kinds[9].place[:2] == (340 + 60, 0)


def test_columns_of_a_heap_are_no_taller_than_a_page_allows():
    """2400 for the first column's nodes, of which more stand 60 beside the widest."""
    graph = Graph(Counters(99, 99, text_keys=False))
    tall = [Node(str(i), "Other", raw={"size": [100 + i, 1000]}, place=(0, 0, 100 + i, 1000)) for i in range(5)]
    for node in tall:
        graph.add(node)
    arrange(graph)
    assert [node.place[:2] for node in tall] == [(0, 0), (0, 1090), (161, 0), (161, 1090), (324, 0)]


def lying_over(nodes):
    """Pairs of nodes with their titles that share some of the canvas."""
    boxes = [(*node["pos"], *node.get("size", [210, 60])) for node in nodes]
    return [
        (a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :]
        if a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] - 30 < b[1] + b[3] and b[1] - 30 < a[1] + a[3]
    ]  # fmt: skip


def test_a_node_that_grows_over_others_moves():
    graph, loader, _ = legacy(frames=32)
    options = graph.add("ADE_StandardUniformContextOptions", context_length=16, context_stride=1, context_overlap=4)
    graph.nodes[loader].links["context_options"] = (options, 0)
    page = graph.page()
    above = next(node for node in page["nodes"] if node["id"] == options)
    above.update(pos=[0, 2000], size=[280, 100])
    below = next(node for node in page["nodes"] if node["type"] == "VAEDecode")
    below.update(pos=[0, 2150], size=[280, 46])
    after = convert_workflow(page).graph
    windows = next(node for node in after["nodes"] if node["id"] == options)
    assert windows["type"] == "UNetMotion_ContextWindows" and windows["size"][1] > 300
    assert windows["pos"] == [0, 2100 - windows["size"][1]] and not lying_over(after["nodes"])
