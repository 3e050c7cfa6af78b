"""Group nodes and subgraphs with settings across their border convert as the nodes that they stand for."""

from __future__ import annotations

import copy
import random

import pytest

from tests.workflows.conversions import check_page, legacy, shape, widgets_of
from tests.workflows.old_graphs import prompt_of
from tests.workflows.test_importer_hostile import SEED, spoiled
from unet_motion.workflows.importer import WorkflowError, convert_workflow, old_types
from unet_motion.workflows.importer.page import fresh_numbers, place_of
from unet_motion.workflows.importer.scope import Part, Scope
from unet_motion.workflows.importer.table import is_old


def whole():
    """A page graph, with the numbers of the nodes that a group takes in: the loader and a LoRA of it."""
    graph, loader, _ = legacy(frames=32)
    options = graph.add("ADE_StandardUniformContextOptions", context_length=8, context_stride=2, context_overlap=2)
    lora = graph.add("ADE_AnimateDiffLoRALoader", name="zoom.ckpt", strength=0.5)
    graph.nodes[loader].links.update(context_options=(options, 0), motion_lora=(lora, 0))
    return graph.page(), [lora, loader]


def sides(page, inside):
    """Links into, out of and between nodes of a set."""
    links = page["links"]
    into = [link for link in links if link[3] in inside and link[1] not in inside]
    out = [link for link in links if link[1] in inside and link[3] not in inside]
    return into, out, [link for link in links if link[1] in inside and link[3] in inside]


def outer(page, inside, kind, into, out, **more):
    """The page with one node in the place of some."""
    page = copy.deepcopy(page)
    gone = {link[0] for link in sides(page, inside)[2]}
    inputs = [{"name": f"in {place}", "type": link[5], "link": link[0]} for place, link in enumerate(into)]
    outputs = [{"name": f"out {place}", "type": link[5], "links": [link[0]]} for place, link in enumerate(out)]
    instance = {"id": 900, "type": kind, "pos": [100, 900], "size": [200, 100], "mode": 0, "flags": {}, "order": 0,
                "properties": {}, "inputs": inputs, "outputs": outputs, **more}  # fmt: skip
    page["links"] = [link for link in page["links"] if link[0] not in gone]
    for link in page["links"]:
        for place, other in enumerate(into):
            if link[0] == other[0]:
                link[3:5] = [900, place]
        for place, other in enumerate(out):
            if link[0] == other[0]:
                link[1:3] = [900, place]
    page["nodes"] = [node for node in page["nodes"] if node["id"] not in inside] + [instance]
    page["last_node_id"] = 900
    return page, instance


def bare(page, inside):
    """Nodes as a definition holds them: without links."""
    nodes = [copy.deepcopy(node) for number in inside for node in page["nodes"] if node["id"] == number]
    for node in nodes:
        for slot in node["inputs"]:
            slot["link"] = None
        for slot in node["outputs"]:
            slot["links"] = []
    return nodes


def grouped(prefix="workflow>"):
    page, inside = whole()
    into, out, between = sides(page, inside)
    nodes = [{**node, "index": place} for place, node in enumerate(bare(page, inside))]
    links = [[inside.index(link[1]), link[2], inside.index(link[3]), link[4], link[1], link[5]] for link in between]
    values = [value for node in nodes for value in node["widgets_values"]]
    # The instance's own values are others than those of its definition.
    after, instance = outer(page, inside, f"{prefix}AD", into, out, widgets_values=values)
    nodes[0]["widgets_values"] = ["other.ckpt", 1.0]
    after["extra"]["groupNodes"] = {"AD": {"nodes": nodes, "links": links, "external": []}, "more": {"nodes": []}}
    return page, after, instance


def prompt(page):
    return shape(prompt_of(page, widgets_of()))


@pytest.mark.parametrize("prefix", ["workflow>", "workflow/"])
def test_a_group_node_converts_as_its_nodes(prefix):
    page, group, _ = grouped(prefix)
    before = copy.deepcopy(group)
    converted = convert_workflow(group)
    assert group == before and converted.report.is_whole and not converted.report.changed
    assert prompt(converted.graph) == prompt(convert_workflow(page).graph)
    check_page(converted.graph)
    assert list(converted.graph["extra"]["groupNodes"]) == ["more"]
    assert "ADE_AnimateDiffLoaderWithContext" in old_types(group)
    again = convert_workflow(converted.graph)
    assert again.graph is converted.graph


def test_a_muted_group_node_is_muted_and_one_with_other_values_has_its_definitions():
    _, group, instance = grouped()
    instance["mode"] = 4
    modes = {node["type"]: node["mode"] for node in convert_workflow(group).graph["nodes"]}
    assert modes["UNetMotion_ApplyMotionModule"] == modes["UNetMotion_LoadMotionLoRA"] == 4 and modes["KSampler"] == 0
    _, group, instance = grouped()
    instance["widgets_values"] = instance["widgets_values"][:-1]
    converted = convert_workflow(group)
    lora = next(node for node in converted.graph["nodes"] if node["type"] == "UNetMotion_LoadMotionLoRA")
    assert lora["widgets_values"][0] == "other.ckpt" and [said.node for said in converted.report.changed] == ["900"]


def test_definitions_that_nothing_uses_go_and_unsound_ones_are_named():
    page = legacy()[0].page()
    nodes = [{"type": "ADE_LoadAnimateDiffModel"}]
    page["extra"]["groupNodes"] = {"AD": {"nodes": nodes}, "odd": {"nodes": nodes, "links": [[{}, 0, 0, 0]]}}
    converted = convert_workflow(page)
    assert list(converted.graph["extra"]["groupNodes"]) == ["odd"]
    assert [(said.node, said.kind) for said in converted.report.left] == [("odd:0", "ADE_LoadAnimateDiffModel")]
    page["extra"]["groupNodes"] = [3]
    assert convert_workflow(page).report.is_whole


def subgraphed(**more):
    """The same nodes in a subgraph, into which the context options lead from outside."""
    page, inside = whole()
    into, out, between = sides(page, inside)
    after, instance = outer(page, inside, "s", into, out, **more)
    nodes, links = bare(page, inside), []

    def link(source, output, target, place, type_):
        number = len(links) + 1
        links.append({"id": number, "origin_id": source, "origin_slot": output, "target_id": target,
                      "target_slot": place, "type": type_})  # fmt: skip
        for node in nodes:
            if node["id"] == source:
                node["outputs"][output]["links"].append(number)
            if node["id"] == target:
                node["inputs"][place]["link"] = number
        return number

    for one in between:
        link(*one[1:])
    inputs = [{"id": f"i{n}", "name": f"in {n}", "type": one[5], "linkIds": [link(-10, n, *one[3:])]}
              for n, one in enumerate(into)]  # fmt: skip
    outputs = [{"id": f"o{n}", "name": f"out {n}", "type": one[5], "linkIds": [link(one[1], one[2], -20, n, one[5])]}
               for n, one in enumerate(out)]  # fmt: skip
    border = {"inputNode": {"id": -10}, "outputNode": {"id": -20}, "inputs": inputs, "outputs": outputs}
    after["definitions"] = {"subgraphs": [{"id": "s", "name": "AD", "nodes": nodes, "links": links, **border}]}
    return page, after, instance


def test_settings_across_a_subgraphs_border_count():
    page, sub, _ = subgraphed()
    assert "CONTEXT_OPTIONS" in [entry["type"] for entry in sub["definitions"]["subgraphs"][0]["inputs"]]
    before = copy.deepcopy(sub)
    converted = convert_workflow(sub)
    assert sub == before and converted.report.is_whole and not converted.report.changed
    assert prompt(converted.graph) == prompt(convert_workflow(page).graph)
    check_page(converted.graph)
    assert converted.graph["definitions"]["subgraphs"] == []
    assert ["turned into" in said.text for said in converted.report.notes].count(True) == 1
    assert convert_workflow(converted.graph).graph is converted.graph


def test_a_subgraph_whose_old_widgets_its_instances_show_keeps_their_values():
    page, sub, instance = subgraphed()
    options = next(node["id"] for node in page["nodes"] if node["type"] == "ADE_StandardUniformContextOptions")
    # Without the options it is the widgets alone that make it a case.
    for graph in (page, sub):
        graph["nodes"] = [node for node in graph["nodes"] if node["id"] != options]
        graph["links"] = [link for link in graph["links"] if link[1] != options]
        for node in graph["nodes"]:
            node["inputs"] = [slot for slot in node["inputs"] if slot["type"] != "CONTEXT_OPTIONS"]
    inner = sub["definitions"]["subgraphs"][0]
    place = next(n for n, entry in enumerate(inner["inputs"]) if entry["type"] == "CONTEXT_OPTIONS")
    numbers = inner["inputs"].pop(place)["linkIds"]
    inner["links"] = [link for link in inner["links"] if link["id"] not in numbers]
    for node in inner["nodes"]:
        for n, slot in enumerate(list(node["inputs"])):
            if slot["type"] == "CONTEXT_OPTIONS":
                del node["inputs"][n]
    for link in inner["links"]:
        if link["target_id"] in {node["id"] for node in inner["nodes"]} and link["type"] == "MOTION_LORA":
            link["target_slot"] = 1
    for link in page["links"]:
        if link[5] == "MOTION_LORA":
            link[4] = 1
    lora = next(node for node in inner["nodes"] if node["type"] == "ADE_AnimateDiffLoRALoader")
    untouched = convert_workflow(copy.deepcopy(sub)).graph
    assert [one["id"] for one in untouched["definitions"]["subgraphs"]] == ["s"]
    instance["properties"]["proxyWidgets"] = [[str(lora["id"]), "strength"]]
    converted = convert_workflow(sub)
    assert converted.graph["definitions"]["subgraphs"] == [] and converted.report.is_whole
    assert prompt(converted.graph) == prompt(convert_workflow(page).graph)
    # A widget of the border, whose value stands on the instance.
    lora["inputs"].append({"name": "strength", "type": "FLOAT", "widget": {"name": "strength"}, "link": 77})
    inner["inputs"].append({"id": "w", "name": "strength", "type": "FLOAT", "linkIds": [77]})
    inner["links"].append({"id": 77, "origin_id": -10, "origin_slot": len(inner["inputs"]) - 1, "target_id": lora["id"],
                           "target_slot": len(lora["inputs"]) - 1, "type": "FLOAT"})  # fmt: skip
    instance["inputs"].append({"name": "strength", "type": "FLOAT", "widget": {"name": "strength"}, "link": None})
    instance["widgets_values"] = [0.25]
    made = convert_workflow(sub).graph
    (values,) = [node["widgets_values"] for node in made["nodes"] if node["type"] == "UNetMotion_LoadMotionLoRA"]
    assert values[:2] == ["zoom.ckpt", 0.25]


def test_a_subgraph_in_itself_ends():
    _, sub, instance = subgraphed()
    sub["definitions"]["subgraphs"][0]["nodes"].append({**copy.deepcopy(instance), "id": 901})
    again, without = convert_workflow(sub).graph, convert_workflow(subgraphed()[1]).graph
    assert len(again["nodes"]) == len(without["nodes"]) + 1 and len(again["definitions"]["subgraphs"]) == 1


def test_a_subgraph_of_nothing_goes():
    _, sub, instance = subgraphed()
    assert instance["pos"]
    sub["definitions"]["subgraphs"][0]["nodes"] = []
    made = convert_workflow(sub).graph
    assert instance["id"] not in {node["id"] for node in made["nodes"]}


@pytest.mark.parametrize("make", [grouped, subgraphed])
def test_damaged_definitions(make):
    draw = random.Random(f"{SEED} {make.__name__}")
    for number in range(150):
        data = spoiled(make()[1], draw)
        before = copy.deepcopy(data)
        try:
            converted = convert_workflow(data)
            again = convert_workflow(converted.graph)
        except WorkflowError as error:
            assert 10 < len(str(error)) < 600, (SEED, number)
        except Exception as error:
            raise AssertionError(f"UNET_MOTION_SEED={SEED}, number {number}") from error
        else:
            assert again.graph == converted.graph, (SEED, number)
            named = {said.kind for said in converted.report.left}
            assert {node["type"] for node in converted.graph["nodes"] if is_old(node["type"])} <= named
        assert data == before


def test_one_input_for_two_nodes_inside_gets_two_links():
    def inner(key):
        return {"id": key, "type": "T", "inputs": [{"name": "x", "type": "INT"}], "outputs": []}

    source = {"id": 1, "type": "S", "outputs": [{"name": "INT", "type": "INT", "links": [5]}]}
    instance = {"id": 2, "type": "I", "inputs": [{"name": "x", "type": "INT", "link": 5}], "outputs": []}
    scope = {"nodes": [source, instance], "links": [[5, 1, 0, 2, 0, "INT"]]}
    part = Part({7: inner(7), 8: inner(8)}, [], inputs={0: [(7, 0), (8, 0)]})
    new = Scope(scope, fresh_numbers([scope])).replace(instance, part, place_of)
    assert [node["id"] for node in new] == [3, 4] and [node["id"] for node in scope["nodes"]] == [1, 3, 4]
    assert scope["links"] == [[5, 1, 0, 3, 0, "INT"], [6, 1, 0, 4, 0, "INT"]]
    assert source["outputs"][0]["links"] == [5, 6] and [node["inputs"][0]["link"] for node in new] == [5, 6]
