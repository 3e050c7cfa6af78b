"""Small graphs of AnimateDiff-Evolved in both forms, from one description."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CONTROL = {"KSampler": "seed", "KSamplerAdvanced": "noise_seed", "SamplerCustom": "noise_seed"}
OUTPUTS = {
    "CheckpointLoaderSimple": "MODEL CLIP VAE",
    "CheckpointLoaderSimpleWithNoiseSelect": "MODEL CLIP VAE",
    "CLIPTextEncode": "CONDITIONING",
    "EmptyLatentImage": "LATENT",
    "KSampler": "LATENT",
    "VAEDecode": "IMAGE",
    "SaveImage": "",
    "LoraLoaderModelOnly": "MODEL",
    "INTConstant": "INT",
    "ADE_AnimateDiffLoaderWithContext": "MODEL",
    "ADE_AnimateDiffLoaderGen1": "MODEL",
    "ADE_UseEvolvedSampling": "MODEL",
    "ADE_LoadAnimateDiffModel": "MOTION_MODEL_ADE",
    "ADE_ApplyAnimateDiffModelSimple": "M_MODELS",
    "ADE_ApplyAnimateDiffModel": "M_MODELS",
    "ADE_AnimateDiffLoRALoader": "MOTION_LORA",
    "ADE_AnimateDiffUniformContextOptions": "CONTEXT_OPTIONS",
    "ADE_StandardUniformContextOptions": "CONTEXT_OPTIONS",
    "ADE_StandardStaticContextOptions": "CONTEXT_OPTIONS",
    "ADE_LoopedUniformContextOptions": "CONTEXT_OPTIONS",
    "ADE_ViewsOnlyContextOptions": "CONTEXT_OPTIONS",
    "ADE_ContextExtras_Set": "CONTEXT_OPTIONS",
    "ADE_StandardStaticViewOptions": "VIEW_OPTS",
    "ADE_StandardUniformViewOptions": "VIEW_OPTS",
    "ADE_LoopedUniformViewOptions": "VIEW_OPTS",
    "ADE_NoisedImageInjection": "IMAGE_INJECT",
    "ADE_NoisedImageInjectOptions": "IMAGE_INJECT_OPTIONS",
    "ADE_ApplyAnimateDiffModelWithPIA": "M_MODELS",
    "LoadImage": "IMAGE MASK",
    "ADE_AnimateDiffSamplingSettings": "SAMPLE_SETTINGS",
    "ADE_CustomCFGSimple": "CUSTOM_CFG",
    "ADE_SigmaSchedule": "SIGMA_SCHEDULE",
    "ADE_MultivalDynamic": "MULTIVAL",
    "ADE_AnimateDiffSettings": "AD_SETTINGS",
    "ADE_AdjustPESweetspotStretch": "PE_ADJUST",
    "ADE_AdjustPEFullStretch": "PE_ADJUST",
    "ADE_AnimateDiffCombine": "GIF",
    "ADE_EmptyLatentImageLarge": "LATENT",
    "ADE_AnimateDiffUnload": "MODEL",
    "ADE_IterationOptsFreeInit": "ITERATION_OPTS",
    "ADE_AnimateDiffKeyframe": "AD_KEYFRAMES",
    "Reroute": "*",
    "PrimitiveNode": "*",
    "SetNode": "*",
    "GetNode": "*",
}


@dataclass
class Spec:
    """A node: widget values by name in the page's order, links as input -> (node, output)."""

    kind: str
    widgets: dict[str, Any] = field(default_factory=dict)
    links: dict[str, tuple[int, int]] = field(default_factory=dict)
    mode: int = 0
    title: str | None = None


@dataclass
class Description:
    """Nodes by their numbers. Nodes of the page alone (reroutes, primitives, ...) have no place in the API's form."""

    nodes: dict[int, Spec] = field(default_factory=dict)

    def add(self, kind: str, links: dict[str, tuple[int, int]] | None = None, **widgets: Any) -> int:
        """Add a node; returns its number."""
        number = len(self.nodes) + 1
        self.nodes[number] = Spec(kind, widgets, links or {})
        return number

    def api(self) -> dict[str, Any]:
        """As the API takes it."""
        return {
            str(number): {
                "class_type": spec.kind,
                "inputs": {**spec.widgets, **{name: [str(node), out] for name, (node, out) in spec.links.items()}},
                "_meta": {"title": spec.title or spec.kind},
            }
            for number, spec in self.nodes.items()
        }

    def page(self) -> dict[str, Any]:
        """As the page saves it: nodes side by side, linked widgets as inputs with a widget."""
        links: list[list[Any]] = []
        nodes = []
        for number, spec in self.nodes.items():
            inputs = []
            for name, (source, out) in spec.links.items():
                type_ = self._type(source, out)
                links.append([len(links) + 1, source, out, number, len(inputs), type_])
                entry = {"name": name, "type": type_, "link": len(links)}
                inputs.append({**entry, "widget": {"name": name}} if name in spec.widgets else entry)
            nodes.append(self._drawn(number, spec, inputs))
        for number, source, out, *_ in links:
            nodes[source - 1]["outputs"][out]["links"].append(number)
        return {
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": links,
            "groups": [{"title": "all", "bounding": [0, 0, 4000, 600], "color": "#3f789e"}],
            "config": {},
            "extra": {"ds": {"scale": 1.0, "offset": [0, 0]}},
            "version": 0.4,
        }

    def _type(self, node: int, out: int) -> str:
        kinds = OUTPUTS[self.nodes[node].kind].split()
        if kinds == ["*"] and self.nodes[node].links:
            return self._type(*next(iter(self.nodes[node].links.values())))
        return kinds[out]

    def _drawn(self, number: int, spec: Spec, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        values: list[Any] = []
        for name, value in spec.widgets.items():
            values.append(value)
            if CONTROL.get(spec.kind) == name:
                values.append("fixed")
        node = {
            "id": number,
            "type": spec.kind,
            "pos": [number * 320, 100],
            "size": [280, 160],
            "flags": {},
            "order": number - 1,
            "mode": spec.mode,
            "inputs": inputs,
            "outputs": [{"name": kind, "type": kind, "slot_index": place, "links": []}
                        for place, kind in enumerate(OUTPUTS[spec.kind].split())],
            "properties": {"Node name for S&R": spec.kind},
            "widgets_values": values,
        }  # fmt: skip
        return node if spec.title is None else {**node, "title": spec.title}


def prompt_of(page: dict[str, Any], widgets: dict[str, list[str]]) -> dict[str, Any]:
    """The prompt that the page makes of a graph: `widgets` names the values of each type of node in their order.

    A restatement of the page's rules, for tests: bypassed nodes let the first input of an output's type through, muted
    ones end a link, reroutes and primitives vanish.
    """
    nodes = {node["id"]: node for node in page["nodes"]}
    links = {link[0]: link for link in page["links"]}

    def start(number: int):
        _, source, out, *_ = links[number]
        node = nodes[source]
        if node["mode"] == 2:
            return None
        if node["type"] in ("Reroute", "SetNode"):
            return follow(node["inputs"][0])
        if node["type"] == "GetNode":
            setter = next(n for n in nodes.values() if n["type"] == "SetNode"
                          and n["widgets_values"] == node["widgets_values"])  # fmt: skip
            return follow(setter["inputs"][0])
        if node["mode"] == 4:
            type_ = node["outputs"][out]["type"]
            passing = [slot for slot in node["inputs"] if slot["type"] == type_]
            return follow(passing[0]) if passing else None
        if node["type"] == "PrimitiveNode":
            return ("value", node["widgets_values"][0])
        return [str(source), out]

    def follow(slot):
        return None if slot.get("link") is None else start(slot["link"])

    prompt = {}
    for node in nodes.values():
        if node["mode"] in (2, 4) or node["type"] in ("Reroute", "SetNode", "GetNode", "PrimitiveNode"):
            continue
        inputs = dict(zip(widgets[node["type"]], node.get("widgets_values") or [], strict=False))
        inputs = {name: value for name, value in inputs.items() if not name.startswith("(")}
        for slot in node.get("inputs") or []:
            found = follow(slot)
            if isinstance(found, tuple):
                inputs[slot["name"]] = found[1]
            elif found is not None:
                inputs[slot["name"]] = found
            elif "widget" not in slot:
                inputs.pop(slot["name"], None)
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt
