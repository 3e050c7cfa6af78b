"""API graphs for the tests."""

from __future__ import annotations

from typing import Any

SAMPLING = {"seed": 5, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}


class Graph(dict):
    """An API graph; `add` returns the node's id, and (id, output) pairs are links."""

    def add(self, class_type: str, node: str | None = None, **inputs: Any) -> str:
        node = node or str(len(self) + 1)
        links = {name: list(value) if isinstance(value, tuple) else value for name, value in inputs.items()}
        self[node] = {"class_type": class_type, "inputs": links}
        return node

    def prompts(self, clip: tuple[str, int], positive: str, negative: str = "") -> dict[str, tuple[str, int]]:
        texts = {"positive": positive, "negative": negative}
        return {name: (self.add("CLIPTextEncode", clip=clip, text=text), 0) for name, text in texts.items()}

    def frames(self, count: int, size: int = 64) -> tuple[str, int]:
        return self.add("EmptyLatentImage", width=size, height=size, batch_size=count), 0


def bundled(frames: int = 8, text: str = "a red star moving left") -> tuple[Graph, dict[str, Any]]:
    """A graph with the bundled model loaded, and what a sampler needs: model, texts, latents."""
    graph = Graph()
    loader = graph.add("UNetMotion_LoadBundled", "loader")
    needs = {"model": (loader, 0), **graph.prompts((loader, 1), text), "latent_image": graph.frames(frames)}
    return graph, needs


def sample(graph: Graph, needs: dict[str, Any], name: str, class_type: str = "KSampler", **changes: Any) -> str:
    """Add a sampler and save its latents under a node called `name`; returns the sampler's id."""
    inputs = {**SAMPLING, **needs, **changes}
    sampler = graph.add(class_type, f"{name} sampler", **inputs)
    graph.add("SaveLatent", name, samples=(sampler, 0), filename_prefix=f"latents/{name}")
    return sampler


NOTES = ("Note", "MarkdownNote")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SEED_CONTROLS = ("fixed", "increment", "decrement", "randomize")


def from_workflow(workflow: dict, info: dict) -> Graph:
    """The API graph of a saved workflow, as the page makes it when Run is pressed.

    Args:
        info: the server's /object_info, which tells which inputs are widgets and in which order.
    """
    links = {link[0]: (str(link[1]), link[2]) for link in workflow["links"]}
    graph = Graph()
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        values = list(node["widgets_values"])
        given = {entry["name"]: links[entry["link"]] for entry in node["inputs"] if entry["link"] is not None}
        inputs: dict[str, Any] = {}
        definition = info[node["type"]]["input"]
        for name, (kind, *options) in {**definition["required"], **definition.get("optional", {})}.items():
            if name in given:
                inputs[name] = given[name]
            elif isinstance(kind, list) or kind in WIDGETS:
                # A widget that is newer than the file: the page leaves it at its default.
                if not values and name in definition.get("optional", {}):
                    continue
                if not values and "default" in options[0]:
                    inputs[name] = options[0]["default"]
                    continue
                inputs[name] = values.pop(0)
                option = options[0] if options else {}
                if option.get("control_after_generate"):
                    assert values.pop(0) in SEED_CONTROLS
                if option.get("image_upload") and values:
                    # The upload button counts as a widget.
                    assert values.pop(0) == "image"
        assert not values, f"{node['type']}: {values} belong to no input"
        graph.add(node["type"], str(node["id"]), **inputs)
    return graph
