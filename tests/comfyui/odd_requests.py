"""Requests that no page sends on purpose: to the pack's routes, and graphs with odd values on every node."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from tests.comfyui.graphs import Graph
from tests.formats.hostile.odd import ODD, odd_value

Maker = dict[str, list[tuple[str, int]]]
"""A type -> the nodes and outputs that give it."""

WORK = {
    "steps": (1, 2), "iterations": (1, 2), "width": (8, 32, 64, 72), "height": (8, 32, 40, 64), "frames": (1, 2, 5, 17),
    "batch_size": (1, 2, 3, 17, 40), "frames_per_clip": (2, 3, 16), "length": (1, 2, 3, 16, 33), "sample_every": (0, 1),
    "rank": (1, 2, 5), "window_length": (1, 2, 16, 40),
}  # fmt: skip
"""Inputs that say how much is to be computed: what is legal there may take its time, so little is asked for."""

PROVIDERS = (
    "EmptyLatentImage", "EmptySD3LatentImage", "EmptyImage", "SolidMask", "CLIPTextEncode", "ConditioningZeroOut",
    "ConditioningCombine", "LatentFromBatch", "RepeatLatentBatch", "SetLatentNoiseMask", "VAEEncode", "VAEDecode",
    "InvertMask", "CreateVideo", "RandomNoise", "DisableNoise", "ModelSamplingDiscrete", "LatentUpscale",
)  # fmt: skip
"""Core's nodes that stand before the pack's."""

TEXTS = (
    "", " ", "0", "nan", "1e999", "-1:0, 0:1", "0:1, 0:2", "0:0, 5000:1", "0.5:1", "0%:1, 100%:2", "1:", ":", ",,,,",
    '"0": "a", "x": "b"', '"0": "a" "1": "b"', '{"0": 5}', '{"0": "a", "-1": "b"}', "[[[[", "{" * 5000, "[" * 5000,
    "down_blocks.0=2", "down_blocks.9 = 1", "mid: 0\nup: nan", "up_blocks.0.motion_modules.0:1e40", "=", "a=b=c",
    "../../outside", "/etc/passwd", "a" * 300, "x/" * 200 + "y", "%date:yyyy%", "%KSampler.seed%", "nul\0byte",
    "\ud7ff", "line\nline", "\x1b[2J", "🌟" * 50, "0:(1), 8:(sin(t))", '"0": "' + "word " * 3000 + '"', "9" * 5000,
    "0:" + "9" * 400,
)  # fmt: skip

FILES = (
    "",
    ".",
    "..",
    "../secret.safetensors",
    "/etc/passwd",
    "a" * 5000,
    "nul\0",
    "none",
    "no such.safetensors",
    "\udc80",
)


@dataclass
class Request:
    """One HTTP request to a route of the pack."""

    method: str
    path: str
    body: bytes = b""
    query: tuple[tuple[str, str], ...] = ()
    kind: str = "application/json"


def providers(info: dict[str, Any]) -> Maker:
    """Who gives which type, among the pack's nodes and a few of core's."""
    found: Maker = {}
    for name, node in info.items():
        if name in PROVIDERS or (name.startswith("UNetMotion_") and not node["output_node"]):
            for number, kind in enumerate(node["output"]):
                found.setdefault(kind if isinstance(kind, str) else "COMBO", []).append((name, number))
    return found


class Graphs:
    """Graphs whose last node is a given one, each of its inputs legal, at its bounds, or odd.

    Args:
        info: the server's /object_info.
    """

    def __init__(self, info: dict[str, Any], dice: random.Random):
        self.info, self.dice, self.makers = info, dice, providers(info)

    def make(self, name: str) -> Graph:
        graph = Graph()
        node = self._node(graph, name, depth=3, odd=0.25)
        if not self.info[name]["output_node"]:
            outputs = range(len(self.info[name]["output"]))
            graph.add("PreviewAny", "seen", source=(node, self.dice.choice(outputs)))
        return graph

    def _node(self, graph: Graph, name: str, depth: int, odd: float) -> str:
        definition, inputs = self.info[name]["input"], {}
        for key, (kind, *options) in definition.get("required", {}).items():
            if self.dice.random() > odd / 20:  # seldom left out
                inputs[key] = self._value(graph, key, kind, options[0] if options else {}, depth, odd)
        for key, (kind, *options) in definition.get("optional", {}).items():
            if self.dice.random() < 0.4:
                inputs[key] = self._value(graph, key, kind, options[0] if options else {}, depth, odd)
        return graph.add(name, **{key: value for key, value in inputs.items() if value is not None})

    def _value(self, graph: Graph, key: str, kind: Any, options: dict, depth: int, odd: float) -> Any:
        choices = kind if isinstance(kind, list) else options.get("options") if kind == "COMBO" else None
        if choices is not None:
            return (
                self.dice.choice(choices) if choices and self.dice.random() > odd / 4 else self.dice.choice(FILES[:-1])
            )
        if kind == "BOOLEAN":
            return self.dice.random() < 0.5
        if kind == "STRING":
            return options.get("default", "") if self.dice.random() > 2 * odd else self.dice.choice(TEXTS)
        if kind in ("INT", "FLOAT"):
            return self._number(key, kind, options, odd)
        return self._link(graph, kind, depth, odd)

    def _number(self, key: str, kind: str, options: dict, odd: float) -> Any:
        dice = self.dice
        if dice.random() < odd / 10:
            return dice.choice([value for value in ODD if value == value])  # JSON has no NaN
        if key in WORK:
            return dice.choice(WORK[key])
        low, high = options.get("min", 0), options.get("max", 100)
        if dice.random() < odd:
            return dice.choice((low, high))
        if dice.random() < 0.5 and "default" in options:
            return options["default"]
        near = min(high, max(low, 1) * 20)
        return dice.randint(int(low), int(near)) if kind == "INT" else dice.uniform(low, near)

    def _link(self, graph: Graph, kind: str, depth: int, odd: float) -> tuple[str, int] | None:
        types = kind.split(",")
        makers = [maker for one in types for maker in self.makers.get(one, ())]
        if self.dice.random() < odd / 20:
            makers = self.dice.choice(list(self.makers.values()))
        if depth <= 0:
            makers = [maker for maker in makers if not _needs(self.info[maker[0]]) & self.makers.keys()] or makers
            if depth < -3:
                return None
        if not makers:
            return None
        name, output = self.dice.choice(makers)
        if kind in ("MODEL", "CLIP", "VAE") and self.dice.random() < 0.6:
            name, output = "UNetMotion_LoadBundled", ("MODEL", "CLIP", "VAE").index(kind)
        if name == "UNetMotion_LoadBundled":
            known = next((node for node, held in graph.items() if held["class_type"] == name), None)
            return known or graph.add(name), output
        return self._node(graph, name, depth - 1, odd / 3), output


def _needs(node: dict[str, Any]) -> set[str]:
    return {kind for kind, *_ in node["input"].get("required", {}).values() if isinstance(kind, str)}


def make_request(dice: random.Random, info: dict[str, Any], files: list[str]) -> Request:
    """A request to one of the pack's routes."""
    return dice.choice((_preview, _file_info, _convert))(dice, info, files)


def _preview(dice: random.Random, info: dict, files: list[str]) -> Request:
    body = {"client": "somebody", "motion": True, "fps": 8}
    for name in dice.sample(list(body), dice.randint(1, 3)):
        body[name] = odd_value(dice)
    return Request("POST", "preview", _spoilt(dice, body), kind=_content_type(dice))


def _file_info(dice: random.Random, info: dict, files: list[str]) -> Request:
    node = dice.choice(
        [name for name in info if name.startswith("UNetMotion_Load")] + ["", "KSampler", "\ud7ff", "x" * 3000]
    )
    known = info.get(node, {"input": {}})["input"]
    names = [name for part in known.values() for name in part] or ["motion_module"]
    picked = {
        dice.choice([*names, "", "nobody"]): dice.choice([*files, *FILES[:-1]]) for _ in range(dice.randint(0, 4))
    }
    return Request("GET", "file_info", query=(("node", node), *picked.items()))


def _convert(dice: random.Random, info: dict, files: list[str]) -> Request:
    nodes = [_page_node(dice, number) for number in range(dice.choice((0, 1, 3, 30)))]
    links = [
        [dice.choice((i, odd_value(dice))), dice.randint(-1, 9), 0, dice.randint(-1, 9), 0, "MODEL"] for i in range(9)
    ]
    graph: Any = {"nodes": nodes, "links": links, "version": 0.4, "last_node_id": 40, "last_link_id": 9}
    if dice.random() < 0.4:
        graph = {
            str(node.get("id")): {"class_type": node.get("type"), "inputs": {"model": [str(dice.randint(0, 9)), 0]}}
            for node in nodes
        }
    if dice.random() < 0.3 and isinstance(graph, dict) and graph:
        graph[dice.choice(list(graph))] = odd_value(dice)
    body = {"workflow": graph}
    if dice.random() < 0.2:
        body[dice.choice(("workflow", "replace_packs"))] = odd_value(dice)
    return Request("POST", "convert_workflow", _spoilt(dice, body), kind=_content_type(dice))


OLD_TYPES = (
    "ADE_AnimateDiffLoaderWithContext", "ADE_UseEvolvedSampling", "ADE_LoopedUniformContextOptions",
    "ADE_MultivalDynamic",
    "ADE_LoadAnimateDiffModel", "ADE_ApplyAnimateDiffModel", "VHS_VideoCombine", "BatchPromptSchedule", "Reroute",
    "PrimitiveNode", "KSampler", "SetNode", "GetNode", "workflow>group",
)  # fmt: skip


def _page_node(dice: random.Random, number: int) -> dict[str, Any]:
    sockets = [
        {"name": dice.choice(("model", "images", "", "context_options")), "type": "MODEL", "link": dice.randint(-1, 9)}
    ]
    node = {
        "id": number, "type": dice.choice(OLD_TYPES), "pos": [0, 0], "size": [200, 100], "mode": 0, "flags": {},
        "order": number, "inputs": sockets,
        "outputs": [{"name": "MODEL", "type": "MODEL", "links": [dice.randint(-1, 9)]}],
        "properties": {}, "widgets_values": [odd_value(dice) for _ in range(dice.randint(0, 12))],
    }  # fmt: skip
    if dice.random() < 0.3:
        node[dice.choice(list(node))] = odd_value(dice)
    if dice.random() < 0.1:
        del node[dice.choice(list(node))]
    return node


def _spoilt(dice: random.Random, body: Any) -> bytes:
    data = json.dumps(body).encode()
    way = dice.random()
    if way < 0.1:
        return data[: dice.randint(0, len(data))]
    if way < 0.15:
        return bytes(dice.randrange(256) for _ in range(dice.randint(0, 300)))
    if way < 0.2:
        return b"[" * dice.choice((10, 1000, 200_000))
    if way < 0.25:
        return json.dumps(odd_value(dice)).encode()
    return data


def _content_type(dice: random.Random) -> str:
    odd = ("application/json; charset=no-such", "text/plain", "application/json; charset=utf-16", "")
    return dice.choice(odd) if dice.random() < 0.2 else "application/json"
