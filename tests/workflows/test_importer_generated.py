"""Graphs that are put together at random from all nodes of the table: whatever comes in, what comes out is sound."""

from __future__ import annotations

import copy
import os
import random

import pytest

from tests.workflows.conversions import check_page
from unet_motion.workflows.importer import convert_workflow
from unet_motion.workflows.importer.table import OTHER_PACKS, ROWS, TARGETS, is_old
from unet_motion.workflows.importer.table.targets import CONTROL, Input

SEED = os.environ.get("UNET_MOTION_SEED") or random.randrange(2**31)
GRAPHS = 120
CORE = {
    "CheckpointLoaderSimple": ("", "MODEL CLIP VAE"),
    "CLIPTextEncode": ("clip CLIP; text STRING", "CONDITIONING"),
    "KSampler": ("model MODEL; positive CONDITIONING; negative CONDITIONING; latent_image LATENT", "LATENT"),
    "VAEDecode": ("samples LATENT; vae VAE", "IMAGE"),
    "LoadImage": ("", "IMAGE MASK"),
    "LoraLoaderModelOnly": ("model MODEL", "MODEL"),
    "INTConstant": ("", "INT"),
    "FloatConstant": ("", "FLOAT"),
}
VIRTUAL = ("Reroute", "SetNode", "GetNode", "PrimitiveNode")
WIDGETS = {"INT": (0, 1, 3, 16, 1000), "FLOAT": (0, 1, 0.5, -1.25), "BOOLEAN": (True, False),
           "STRING": ("", "x", '"0" :"a",'), "COMBO": ("x", "autoselect", "uniform", "flat", "default")}  # fmt: skip


def known(kind):
    """Inputs and outputs of a node."""
    if kind in ROWS:
        return list(ROWS[kind].inputs.values()), list(ROWS[kind].outputs)
    inputs, outputs = CORE.get(kind, ("", "*"))
    pairs = [part.split() for part in inputs.split(";") if part.strip()]
    return [Input(name, type_) for name, type_ in pairs], outputs.split()


class Maker:
    """A page graph, its nodes in an order in which most links lead from earlier to later ones."""

    def __init__(self, draw: random.Random) -> None:
        self.draw, self.nodes, self.links = draw, [], []

    def page(self):
        for _ in range(self.draw.randint(3, 30)):
            self.add(self.draw.choice([*ROWS, *ROWS, *CORE, *VIRTUAL]))
        page = {"nodes": self.nodes, "links": self.links, "version": 0.4, "last_node_id": len(self.nodes),
                "last_link_id": len(self.links), "groups": [], "extra": {}}  # fmt: skip
        return page

    def add(self, kind):
        inputs, outputs = known(kind)
        number = len(self.nodes) + 1
        node = {"id": number, "type": kind, "mode": self.draw.choice([0] * 8 + [2, 4]), "inputs": [],
                "pos": [number % 7 * 300, number // 7 * 400], "size": [250, 120], "properties": {}, "flags": {},
                "order": number, "widgets_values": self.widgets(inputs, kind)}  # fmt: skip
        node["outputs"] = [{"name": type_, "type": type_, "links": []} for type_ in outputs]
        if kind in ("Reroute", "SetNode"):
            inputs = [Input("", self.draw.choice(["MODEL", "LATENT", "CONTEXT_OPTIONS", "MOTION_LORA", "MULTIVAL"]))]
            node["outputs"] = [{"name": "", "type": inputs[0].type if kind == "Reroute" else "*", "links": []}]
        self.nodes.append(node)
        for spec in inputs:
            if self.draw.random() < (0.2 if spec.is_widget else 0.8):
                self.link(node, spec)

    def link(self, node, spec):
        """To an output of that type, most often of an earlier node; now and then of a later one or itself."""
        among = self.nodes if self.draw.random() < 0.05 else self.nodes[:-1]
        found = [(other, place) for other in among for place, slot in enumerate(other["outputs"])
                 if slot["type"] in (spec.type, "*")]  # fmt: skip
        if not found:
            return
        other, place = self.draw.choice(found)
        number = len(self.links) + 1
        slot = {"name": spec.name, "type": spec.type, "link": number}
        node["inputs"].append({**slot, "widget": {"name": spec.name}} if spec.is_widget else slot)
        other["outputs"][place]["links"].append(number)
        self.links.append([number, other["id"], place, node["id"], len(node["inputs"]) - 1, spec.type])

    def widgets(self, inputs, kind):
        """In the order of the widgets; some files lack the last ones, some pages add others."""
        draw = self.draw
        values = [self.value(spec) for spec in inputs if spec.is_widget and not spec.forced]
        if kind.startswith("VHS") and draw.random() < 0.5:
            named = {spec.name: self.value(spec) for spec in inputs if spec.is_widget}
            return {**named, "videopreview": {"hidden": False, "params": {}}, "crf": 20}
        if kind in VIRTUAL:
            return [draw.choice(["a", 3, 0.5]), "fixed"]
        if draw.random() < 0.3:
            values = values[: draw.randint(0, len(values))]
        return values + draw.choice([[]] * 6 + [[""], [None], ["image"], [{"params": {}}], [5], ["fixed"]])

    def value(self, spec):
        if spec.default is not None and self.draw.random() < 0.6:
            return spec.default
        return self.draw.choice(WIDGETS[spec.type])


def prompt_of_page(page):
    """The nodes as a prompt; widget values by name, links as they are."""
    links = {link[0]: link for link in page["links"]}
    prompt = {}
    for node in page["nodes"]:
        names = [spec.name for spec in known(node["type"])[0] if spec.is_widget and not spec.forced]
        values = node["widgets_values"]
        inputs = dict(values) if isinstance(values, dict) else dict(zip(names, values, strict=False))
        inputs |= {slot["name"] or "x": [str(links[slot["link"]][1]), links[slot["link"]][2]]
                   for slot in node["inputs"] if slot.get("link")}  # fmt: skip
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def check_types(page):
    """Every link has the type of both its ends."""
    nodes = {node["id"]: node for node in page["nodes"]}
    for _, source, out, target, place, _type in page["links"]:
        given = nodes[source]["outputs"][out]["type"]
        taken = nodes[target]["inputs"][place]["type"]
        if nodes[target]["type"] in TARGETS:
            spec = TARGETS[nodes[target]["type"]].inputs.get(nodes[target]["inputs"][place]["name"])
            taken = spec.type if spec is not None else taken
        if is_old(nodes[source]["type"]) or is_old(nodes[target]["type"]):
            continue  # what stays as it was does not run
        if "*" not in (given, taken) and "COMBO" not in (given, taken):
            ends = nodes[source]["type"], nodes[target]["type"]
            assert set(given.split(",")) & set(taken.split(",")), (ends, given, taken)


def check(data, packs):
    before = copy.deepcopy(data)
    converted = convert_workflow(data, packs)
    assert data == before
    report = converted.report
    nodes = converted.graph["nodes"] if "nodes" in converted.graph else [
        {"id": key, "type": node["class_type"]} for key, node in converted.graph.items()
    ]  # fmt: skip
    named = {said.node for said in report.left}
    assert {str(node["id"]) for node in nodes if is_old(node["type"])} <= named
    assert report.is_whole == (not report.left)
    if not converted.graph:  # nothing but settings that nothing read
        return converted.graph
    again = convert_workflow(converted.graph, packs)
    assert again.graph == converted.graph and not again.report.replaced
    return converted.graph


@pytest.mark.parametrize("packs", [(), OTHER_PACKS], ids=["beside other packs", "without them"])
def test_any_graph_of_the_tables_nodes(packs):
    draw = random.Random(f"{SEED} {len(packs)}")
    for number in range(GRAPHS):
        page = Maker(draw).page()
        try:
            after = check(page, packs)
            check_page(after)
            check_types(after)
            prompt = check(prompt_of_page(page), packs)
            for key, node in prompt.items():
                for name, value in node["inputs"].items():
                    if isinstance(value, list) and node["class_type"] in TARGETS:
                        assert value[0] in prompt, (key, name)
        except Exception as error:
            raise AssertionError(f"UNET_MOTION_SEED={SEED}, graph {number}: {error}") from error


@pytest.mark.parametrize("kind", [kind for kind, row in ROWS.items() if row.why is None])
def test_each_node_alone_with_any_count_of_widgets(kind):
    """No value, the defaults, one more, one of another type: converted, or named with a reason."""
    inputs, outputs = known(kind)
    defaults = [spec.default if spec.default is not None else WIDGETS[spec.type][1] for spec in inputs
                if spec.is_widget and not spec.forced]  # fmt: skip
    wrong = [[*defaults[:place], {}, *defaults[place + 1 :]] for place in range(len(defaults))]
    counts = [defaults[:count] for count in range(len(defaults) + 1)]
    for values in (*counts, [*defaults, 7], [*defaults, "x"], [*defaults, None], *wrong, None, {}, "text"):
        node = {"id": 1, "type": kind, "mode": 0, "inputs": [], "pos": {"0": 1, "1": 2}, "widgets_values": values,
                "outputs": [{"name": type_, "type": type_, "links": None} for type_ in outputs]}  # fmt: skip
        check({"nodes": [node], "links": []}, OTHER_PACKS)
        names = [spec.name for spec in inputs if spec.is_widget]
        given = dict(zip(names, values, strict=False)) if isinstance(values, list) else {}
        check({"1": {"class_type": kind, "inputs": given}}, OTHER_PACKS)


def readers_of(type_):
    """Nodes that what a node gives runs through, up to one that ends a chain, and their inputs; () where none does."""
    ways, seen = [((), type_)], {type_}
    while ways:
        way, type_ = ways.pop(0)
        for kind, row in ROWS.items():
            name = next((name for name, spec in row.inputs.items() if spec.type == type_), None)
            if name is None or row.why is not None or name in row.only:
                continue
            if row.emits is not None:
                return (*way, (kind, name))
            if row.outputs[0] not in seen:
                seen.add(row.outputs[0])
                ways.append(((*way, (kind, name)), row.outputs[0]))
    return ()


INPUTS = [(kind, name) for kind, row in ROWS.items() for name, spec in row.inputs.items()
          if spec.is_widget and row.why is None]  # fmt: skip


def test_values_of_links_are_taken_or_said_to_be_lost_in_words():
    """Of each input of each node; what its links give cannot be read."""
    for kind, name in INPUTS:
        prompt = {"1": {"class_type": kind, "inputs": {name: ["2", 0]}}, "2": {"class_type": "Any", "inputs": {}}}
        last = "1"
        for number, (reader, place) in enumerate(readers_of(ROWS[kind].outputs[0]) if not ROWS[kind].emits else ()):
            prompt[str(number + 3)] = {"class_type": reader, "inputs": {place: [last, 0]}}
            last = str(number + 3)
        report = convert_workflow(prompt, OTHER_PACKS).report
        texts = [said.text for said in (*report.left, *report.changed, *report.notes)]
        assert not any("(" in text.replace("(Any)", "") and "=" in text for text in texts), (kind, name, texts)
        check(prompt, OTHER_PACKS)


def test_widgets_of_the_page_alone_are_where_the_page_has_them():
    """A page graph of a sampler has a value behind its seed, which is none of the node's inputs."""
    assert TARGETS["KSampler"].page_widgets()[1] == CONTROL
