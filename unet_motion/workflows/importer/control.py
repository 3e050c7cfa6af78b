"""Puts nodes for strengths that change behind those that apply a ControlNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .build import Builder, Built
from .graph import GET, VIRTUAL_PASSES, Graph, Joint, Node, constant_of
from .report import Report
from .settings import Gatherer
from .table import SAMPLERS
from .table.control import (
    APPLIERS,
    LATENT_KEYFRAME,
    MOST_FRAMES,
    TIMESTEP_KEYFRAME,
    Strength,
    strength_of,
    text_over_steps,
    texts_over_frames,
)
from .table.rows import Row

PROMPTS = ("positive", "negative", "conditioning")


@dataclass(frozen=True)
class Planned:
    """A node that applies a ControlNet, the strength that keyframes give it, and where the frames end."""

    node: Node
    strength: Strength
    givers: tuple[Node, ...]
    frames: int | None


class Strengths:
    """Of one canvas. `read` comes before the nodes of the file are replaced, `write` behind that."""

    def __init__(self, graph: Graph, gatherer: Gatherer, builder: Builder, report: Report) -> None:
        self.graph, self.gatherer, self.builder, self.report = graph, gatherer, builder, report
        self.planned: dict[object, Planned] = {}
        self.clips: dict[Any, set[Any]] | None = None

    def read(self, node: Node, row: Row) -> None:
        """Note the strengths of a node that applies or loads a ControlNet."""
        if "CONTROL_NET" in row.outputs:
            given = [read for name in self._keyframed(row) for read in self.gatherer.values_of(node, name)]
            readers = list(self._readers(node)) if given else []
            for reader in readers:
                if reader.kind in APPLIERS:
                    self._plan(reader, given, [])
                elif not self._is_applier(reader):
                    self.report.change(node, f"its keyframes are lost where node {reader.key} ({reader.kind}) reads it")
        elif self._is_applier(node):
            given = [read for name in self._keyframed(row) for read in self.gatherer.values_of(node, name)]
            origin = self.graph.origin(node, "control_net")
            known = None if origin is None or given else self.gatherer.row_of(origin.node)
            if origin is not None and known is not None:
                given = [read for name in self._keyframed(known)
                         for read in self.gatherer.values_of(origin.node, name)]  # fmt: skip
            own = [name for name, spec in row.inputs.items() if spec.type == LATENT_KEYFRAME]
            self._plan(node, given, [read for name in own for read in self.gatherer.values_of(node, name)])

    def _keyframed(self, row: Row) -> list[str]:
        return [name for name, spec in row.inputs.items() if spec.type == TIMESTEP_KEYFRAME]

    def _is_applier(self, node: Node) -> bool:
        row = self.gatherer.row_of(node)
        return row is not None and row.home in ("control", "control_single")

    def _plan(self, node: Node, keys: list, frames: list) -> None:
        if not keys and not frames:
            return
        strength = strength_of([value for _, value in keys], [value for _, value in frames])
        givers = tuple({giver.key: giver for giver, _ in (*keys, *frames)}.values())
        for text in strength.lost:
            self.report.change(node, text)
        self.planned[node.key] = Planned(node, strength, givers, self._clip(node))

    def _readers(self, node: Node, outputs: tuple[int, ...] = (0,)):
        """The nodes that read outputs, through reroutes, set and get nodes."""
        rest, seen = [(node, output) for output in outputs], set()
        while rest:
            here, output = rest.pop()
            for reader, _ in self.graph.readers(here, output):
                if reader.key in seen:
                    continue
                seen.add(reader.key)
                if reader.kind in VIRTUAL_PASSES or reader.kind == GET:
                    rest.append((reader, 0))
                    rest += [(getter, 0) for getter in self.graph.getters(reader)]
                else:
                    yield reader

    def _clip(self, node: Node) -> int | None:
        """How many frames the clip has that a node's conditioning is for, or None where that is not known."""
        if self.clips is None:
            self.clips = self._all_clips()
        sizes = self.clips.get(node.key, set())
        only = next(iter(sizes)) if len(sizes) == 1 else None
        return only if isinstance(only, int) and 1 <= only <= MOST_FRAMES else None

    def _all_clips(self) -> dict[Any, set[Any]]:
        """The lengths of the clips that each node's conditioning is for; of more than one, two."""
        before: dict[Any, list[Any]] = {}
        sizes: dict[Any, set[Any]] = {}
        for node in self.graph.nodes.values():
            outputs = tuple(n for n, slot in enumerate(node.outputs) if self._is_prompt(node, n, slot.type))
            for reader in self._readers(node, outputs):
                if reader.kind in SAMPLERS:
                    size = self.gatherer.size_of(reader, "latent_image", "batch_size")
                    length = constant_of(size.source) if isinstance(size, Joint) else size
                    sizes.setdefault(node.key, set()).add(length)
                else:
                    before.setdefault(reader.key, []).append(node.key)
        waiting = list(sizes)
        while waiting:
            here = waiting.pop()
            for key in before.get(here, ()):
                known = sizes.setdefault(key, set())
                new = list(sizes[here] - known)[: max(0, 2 - len(known))]
                if new:
                    known.update(new)
                    waiting.append(key)
        return sizes

    def _is_prompt(self, node: Node, output: int, type_: str) -> bool:
        if type_ == "*":  # of an API graph
            return any(slot.name.startswith(PROMPTS) for _, slot in self.graph.readers(node, output))
        return type_ == "CONDITIONING"

    def write(self) -> None:
        """Put the nodes behind those that the strengths are for."""
        for planned in self.planned.values():
            node = self.graph.nodes.get(planned.node.key)
            outputs = APPLIERS.get(node.kind) if node is not None else None
            curves = self._curves(planned) if outputs is not None else []
            strength = planned.strength
            number = next(iter(strength.steps.values())) if len(set(strength.steps.values())) == 1 else 1.0
            if outputs is None or node is None or (not curves and strength.linked is None and number == 1):
                continue
            built = Built("control_strength", None, list(planned.givers), {"strength": number}, mode=node.mode)
            if strength.linked is not None:
                built.inputs["strength_curve"] = strength.linked
            written = self.builder.put(built, node)
            before = None
            for curve in curves:
                made = self.builder.put(curve, node)
                if before is not None:
                    self.graph.join(before.key, 0, made.key, "times", "UNET_MOTION_CURVE")
                before = made
            if before is not None:
                self.graph.join(before.key, 0, written.key, "strength_curve", "UNET_MOTION_CURVE")
            for output in sorted(set(outputs)):
                self.graph.move_output(node, output, written.key, output)
            for name, output in zip(PROMPTS, outputs, strict=False):
                self.graph.join(node.key, output, written.key, name, "CONDITIONING")

    def _curve(self, planned: Planned, **inputs: Any) -> Built:
        return Built("control_curve", None, list(planned.givers), inputs, mode=planned.node.mode)

    def _curves(self, planned: Planned) -> list[Built]:
        strength, node = planned.strength, planned.node
        curves: list[Built] = []
        if len(set(strength.steps.values())) > 1:
            curves.append(self._curve(planned, text=text_over_steps(strength.steps), over="steps"))
        if strength.linked is not None:
            self.report.change(node, "a list of strengths: it must have one for each frame of the clip")
        elif strength.frames is not None:
            texts, count = texts_over_frames(strength.frames, strength.null, planned.frames)
            if planned.frames is None:
                self.report.change(node, f"the length of its clip is not known: its strengths need {count} frames "
                                         "or more")  # fmt: skip
            for text in texts:
                curves.append(self._curve(planned, text=text, over="frames", frames=count))
        return curves
