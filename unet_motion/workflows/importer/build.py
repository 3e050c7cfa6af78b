"""Writes the nodes of the stages that a node's gifts make, and joins them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from .graph import BYPASSED, Graph, Joint, Key, Node, Slot, constant_of
from .place import Places
from .report import Report
from .settings import Gift
from .table import (
    CHOICES,
    FURTHER,
    KEYS,
    NO_NODE,
    PER_MODULE,
    PER_PICTURE,
    ROWS,
    STAGES,
    TARGETS,
    Row,
    Stage,
    Target,
    has_mid_block,
    stage_of,
)

ORDER = {name: place for place, name in enumerate(STAGES)}
SCHEDULES_KEPT = (None, "keep", "auto")
OLD_WORDS = "\N{PERFORMING ARTS}"  # in the names that the other pack shows


@dataclass
class Built:
    """A stage of one node's chain: what it gets, from which nodes, and the node that was written for it.

    Attributes:
        givers: nodes without which it would not be there.
        sources: of each input.
    """

    stage: str
    group: Any
    givers: list[Node]
    inputs: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Node] = field(default_factory=dict)
    mode: int = 0
    node: Node | None = None

    @property
    def entry(self) -> Stage:
        """What the table says of the stage."""
        entry = stage_of(self.stage)
        assert entry is not None
        return entry

    @property
    def target(self) -> Target:
        """The node that is written for it."""
        return TARGETS[self.entry.kind]

    @property
    def written(self) -> Node:
        """That node, once it is there."""
        assert self.node is not None
        return self.node


def plan(node: Node, gifts: list[Gift], report: Report) -> list[Built]:
    """The stages of a node's chain in their order, with the values that gifts agree on."""
    gifts, groups = _modules(gifts, report)
    places: dict[tuple[Any, str, int], list[Gift]] = {}
    for number, gift in enumerate(gifts):
        group = gift.group if gift.stage in PER_MODULE | PER_PICTURE else None
        for one in groups if gift.stage in PER_MODULE and group is None else [group]:
            places.setdefault((one, gift.stage, number if gift.again else -1), []).append(gift)
    for (group, name, number), given in places.items():
        if number >= 0:  # one of several stages: what holds for all of them holds for it
            given.extend(gift for gift in places.get((group, name, -1), ()) if gift.weak)
    for (group, name, _), given in list(places.items()):
        stage = stage_of(name)
        if stage is not None and stage.makes and not all(g.weak for g in given):
            strong = next(gift for gift in given if not gift.weak)
            fed = Gift(strong.giver, stage.feeds[0][0], dict(stage.sets), mode=strong.mode)
            places.setdefault((group, stage.feeds[0][0], -1), []).append(fed)
    if any(name == "apply" and not all(gift.weak for gift in given) for (_, name, _), given in places.items()):
        places = {key: given for key, given in places.items() if key[1] != "schedule"}
    stages = [_merge(name, group, given, report) for (group, name, _), given in places.items()
              if stage_of(name) is not None]  # fmt: skip
    goals = {goal[0] for built in stages if built is not None and built.entry.makes for goal in built.entry.feeds}
    made = [built for built in stages if built is not None and _can_be_written(built, built.stage in goals, report)]
    made = [built for built in made if not built.entry.demand or _is_read(node, built.stage)]
    made.sort(key=_first_step)
    rank = {group: place for place, group in enumerate(groups)}
    made.sort(key=lambda s: (s.stage not in ("checkpoint", "schedule"), s.stage not in PER_MODULE,
                             rank.get(s.group, 0), ORDER.get(s.stage, 0)))  # fmt: skip
    for built in made:
        built.mode = node.mode or built.mode
    _say_together(made, report)
    return made


def _say_together(stages: list[Built], report: Report) -> None:
    """Pictures that are laid into the clip in the same step, of which the other pack lays each in a step of its own."""
    first: dict[float, Node] = {}
    for built in stages:
        at = built.inputs.get("at")
        if built.stage != "injection" or built.mode or not isinstance(at, (int, float)):
            continue
        if at in first:
            text = f"its picture is laid in in the step of node {first[at].key}'s, in AnimateDiff-Evolved a step later"
            report.change(built.givers[0], text)
        first.setdefault(at, built.givers[0])


def _modules(gifts: list[Gift], report: Report) -> tuple[list[Gift], list[Any]]:
    """Gifts, and the motion modules that they are for: first the one that the MODEL has, then those beside it."""
    groups = list(dict.fromkeys(g.group for g in gifts if g.group is not None and g.stage in PER_MODULE)) or [None]
    acting = {gift.group: gift.giver for gift in gifts if gift.stage == "apply" and gift.group and not gift.mode}
    if len(acting) < 2:
        return gifts, groups
    with_picture = {gift.group for gift in gifts if gift.stage in ("encode", "pia", "i2v")}
    named = {gift.group: gift.inputs.get("name") for gift in gifts if gift.stage == "file"}
    *_, last = acting
    # Beside others there are no pictures, and no modules where the MODEL has none.
    *_, main = sorted(acting, key=lambda group: (group in with_picture, has_mid_block(named.get(group))))
    schedules = [g.inputs["beta_schedule"] for g in gifts
                 if g.group == last and g.stage == "apply" and "beta_schedule" in g.inputs]  # fmt: skip
    kept: list[Gift] = []
    for gift in gifts:
        if gift.group not in acting:
            kept.append(gift)
        elif gift.group != main:
            kept += _beside(gift, acting[gift.group], gift.group in with_picture, report)
        elif gift.stage == "apply" and schedules:
            kept.append(replace(gift, inputs={**gift.inputs, "beta_schedule": schedules[-1]}))
        else:
            kept.append(gift)
    for group in (group for group in acting if group != main):
        text = f"its motion module acts beside that of node {acting[main].key} here, not behind it: the clip differs"
        if group in with_picture:
            text = f"its motion module is left out: it takes a picture, and node {acting[main].key} does already"
        report.change(acting[group], text)
    return kept, [main, *(group for group in groups if group != main)]


def _beside(gift: Gift, applied: Node, is_left_out: bool, report: Report) -> list[Gift]:
    """What a gift to a motion module is for one beside another."""
    if is_left_out or (gift.stage == "effect_curve" and gift.giver is applied):
        return []  # the latter is its part of the steps, for which there are inputs
    if gift.stage in FURTHER:
        inputs = {name: value for name, value in gift.inputs.items() if name != "beta_schedule"}
        return [replace(gift, stage=FURTHER[gift.stage], inputs=inputs)]
    if gift.stage not in PER_MODULE:
        return [gift]
    if not gift.weak and not gift.mode:
        report.change(gift.giver, "is lost: a motion module beside another has its effect and scale alone")
    return []


def _first_step(built: Built) -> float:
    """Windows for parts of the run follow each other in the order of these parts."""
    start = built.inputs.get("start_percent")
    return start if built.stage == "windows" and isinstance(start, (int, float)) else 0


def _is_read(node: Node, name: str) -> bool:
    """Whether something reads an output of the node that a stage stands for."""
    emits = ROWS[node.kind].emits or {}
    return any(slot.links and isinstance(emits.get(place), tuple) and emits[place][0] == name
               for place, slot in enumerate(node.outputs))  # fmt: skip


def _merge(name: str, group: Any, gifts: list[Gift], report: Report) -> Built | None:
    """One stage of the gifts to it; those of nodes that are off count only where all are off."""
    if all(gift.weak for gift in gifts):
        return None
    strong = [gift for gift in gifts if not gift.weak]
    off = all(gift.mode for gift in strong)
    counted = [gift for gift in gifts if off or not gift.mode]
    built = Built(name, group, [gift.giver for gift in counted if not gift.weak], mode=BYPASSED if off else 0)
    stage = built.entry
    built.inputs.update(stage.fixed)
    defaults = TARGETS[stage.kind].inputs if stage.kind in TARGETS else {}
    for gift in sorted(counted, key=lambda gift: gift.over):
        for word, value in gift.inputs.items():
            default = defaults[word].default if word in defaults else None
            before = built.inputs.get(word)
            if before is None or before == default or (gift.over and value != default):
                built.inputs[word], built.sources[word] = value, gift.giver
            elif name in KEYS and word == "text":
                built.inputs[word] = f"{before}, {value}"
            elif _multiplies(name, word) and all(isinstance(v, (int, float)) for v in (before, value)):
                built.inputs[word] = before * value
            elif value not in (before, default):
                report.change(gift.giver, f"its {word} {_say(value)} is lost: {_say(before)} is set elsewhere")
    if name in KEYS and isinstance(built.inputs.get("text"), str):
        built.inputs["text"] = _from_the_first_step(built.inputs["text"], KEYS[name])
    return built


def _from_the_first_step(text: str, before: str | None) -> str:
    """The keys of a curve with one at the first step."""
    keys = sorted(text.split(", "), key=lambda key: float(key.partition(":")[0]))
    if float(keys[0].partition(":")[0]) > 0:
        first = keys[0].partition(":")[2].split(" ")[0]
        keys.insert(0, f"0:{before or first} hold")
    return ", ".join(keys)


def _multiplies(stage: str, name: str) -> bool:
    return stage in ("amount", "add") and name in ("scale", "effect")


def _say(value: Any) -> str:
    return "of a link" if isinstance(value, Joint) else repr(value)


def _can_be_written(built: Built, is_fed: bool, report: Report) -> bool:
    """Whether its node is there and has something to say; values that it cannot take are lost, and said so."""
    stage = built.entry
    known = TARGETS.get(stage.kind)
    if stage.skip and known is not None and not is_fed and _says_nothing(built, stage, known):
        return False
    giver = built.givers[0]
    if stage.kind == NO_NODE:
        for name, value in built.inputs.items():
            if not built.mode and value not in SCHEDULES_KEPT:
                report.change(built.sources.get(name, giver), f"{name} {_say(value)} has no node here without a module")
        return False
    for name, why in (stage.without(built.inputs) if stage.without is not None else {}).items():
        if not _is_default(TARGETS[stage.kind].inputs, name, built.inputs.pop(name)):
            report.note(built.sources.get(name, giver), f"{name} {why}")
    for text in stage.says(built.inputs) if stage.says is not None and not built.mode else ():
        report.note(giver, text)
    for name, value in list(built.inputs.items()):
        spec = TARGETS[stage.kind].inputs.get(name)
        allowed = CHOICES.get((stage.kind, name))
        if spec is not None and (allowed is None or isinstance(value, Joint) or value in allowed):
            continue
        del built.inputs[name]
        if known is not None and not _is_default(known.inputs, name, value):
            report.change(built.sources.get(name, giver), f"{name} {_say(value)} has no counterpart")
    return True


def _says_nothing(built: Built, stage: Stage, known: Target) -> bool:
    """Whether all its values are defaults or those that change nothing."""
    return all(
        not isinstance(value, Joint) and value == stage.neutral[name]
        if name in stage.neutral
        else _is_default(known.inputs, name, value)
        for name, value in built.inputs.items()
    )


def _main_stage(row: Row, built: Built) -> str | None:
    """The stage that takes the place of a node of a row."""
    if not row.gives:
        return row.folds[0] if row.folds else None
    name = row.gives[0].stage
    return FURTHER.get(name) if built.stage == "add" else name


def _is_default(inputs: dict[str, Any], name: str, value: Any) -> bool:
    return name in inputs and not isinstance(value, Joint) and value == inputs[name].default


class Builder:
    """Writes planned stages into a graph.

    Attributes:
        moved: where an output of the file stands since its node was replaced, or None; of a node that was already
            written then, or of one of the file.
        written: keys of the nodes that were written.
    """

    def __init__(self, graph: Graph, places: Places, report: Report) -> None:
        self.graph, self.places, self.report = graph, places, report
        self.taken: dict[Key, str] = {}
        self.moved: dict[tuple[Key, int], tuple[tuple[Key, int] | None, bool]] = {}
        self.written: set[Key] = set()
        self.by: dict[Key, list[str]] = {}
        self.kinds: dict[Key, str] = {}
        self.spare: dict[tuple[Key, int], list[int]] = {}

    def build(self, node: Node, row: Row, stages: list[Built]) -> None:
        """Write the stages of a node in the place of the node itself and of those that gave the values."""
        kind = self.kinds[node.key] = node.kind
        home = next((built for built in stages if built.stage == row.home), None)
        source = self.graph.link_into(node, "model") if "model" in row.inputs else None
        start = (source.source, source.output) if source is not None and source.source != node.key else None
        links = {slot.name: self.graph.link_into(node, slot.name) for slot in node.inputs}
        through = {name: (link.source, link.output) for name, link in links.items()
                   if link is not None and link.source != node.key}  # fmt: skip
        readers = [list(slot.links) for slot in node.outputs]
        self.spare = self._links_into(node)
        if home is not None:
            self._write(home, node)
        for built in stages:
            if built is not home:
                self._write(built, self._free_giver(built, node), near=node)
            for giver in built.givers:
                self.by.setdefault(giver.key, []).append(built.target.kind)
        end = self._chain(stages, start)
        self._feed(stages)
        for built in stages:
            self._fill(built)
        self._send_on(node, row, stages, {**through, "model": end}, readers)
        self.report.replace(node, kind, tuple(dict.fromkeys(self._kinds(stages, node))))
        if home is None:
            self.graph.remove(node)

    def put(self, built: Built, near: Node) -> Node:
        """Write a stage beside a node, when all nodes are built."""
        self._write(built, None, near)
        self._fill(built)
        for giver in built.givers:
            self.by.setdefault(giver.key, []).append(built.target.kind)
        return built.written

    def _kinds(self, stages: list[Built], node: Node) -> list[str]:
        return [b.target.kind for b in stages if node in b.givers or b.node is node]

    def _free_giver(self, built: Built, node: Node) -> Node | None:
        """The node whose place the stage takes: the first that gave to it alone and that nothing took yet."""
        for giver in built.givers:
            row = ROWS.get(giver.kind)
            if row is None or row.emits is not None or giver is node:
                continue
            if giver.key not in self.taken and _main_stage(row, built) == built.stage:
                return giver
        return None

    def _write(self, built: Built, instead: Node | None, near: Node | None = None) -> None:
        target = built.target
        if instead is None:
            node = Node(self.graph.counters.node(), target.kind, mode=built.mode)
            node.place = self.places.near(near, target.size()) if near is not None else None
            self.graph.add(node)
        else:
            node = instead
            self.taken[node.key] = node.kind
            for slot in (*node.inputs, *(node.outputs if near is not None else ())):
                self.graph.cut(slot)
            node.kind, node.mode = target.kind, built.mode
            if node.title is not None and OLD_WORDS in node.title:
                node.title = None
            if node.raw is not None and "class_type" in node.raw:
                node.raw = None
            if node.place is not None:
                self.places.grow(node, target.size())
        node.values = {spec.name: spec.default for spec in target.inputs.values()
                       if spec.is_widget and spec.default is not None}  # fmt: skip
        node.inputs = [Slot(name, target.inputs[name].type) for name in target.sockets]
        node.outputs = [Slot(name, type_) for name, type_ in target.outputs]
        built.node = node
        self.written.add(node.key)

    def _chain(self, stages: list[Built], start: tuple[Key, int] | None) -> tuple[Key, int] | None:
        """Run the MODEL through the stages; returns where it comes out."""
        end = start
        for built in stages:
            stage, node = built.entry, built.written
            if built.stage == "checkpoint":
                end = (node.key, 0)
            if stage.model is None:
                continue
            if end is not None:
                self._join(end, node.key, stage.model, "MODEL")
            end = (node.key, 0)
        return end

    def _links_into(self, node: Node) -> dict[tuple[Key, int], list[int]]:
        """Numbers of the links into a node, which its successors' links get where they begin at the same output."""
        found: dict[tuple[Key, int], list[int]] = {}
        for link in (self.graph.links[number] for slot in node.inputs for number in slot.links):
            found.setdefault((link.source, link.output), []).append(link.number)
        return found

    def _now(self, source: tuple[Key, int] | None) -> tuple[Key, int] | None:
        """Where an output of the file stands now; None where it leads in a circle or nowhere."""
        seen, final = set(), False
        while source in self.moved and not final:
            if source in seen:
                return None
            seen.add(source)
            source, final = self.moved[source]
        return source if source is not None and source[0] in self.graph.nodes else None

    def _join(self, source: tuple[Key, int], target: Key, name: str, type_: str) -> None:
        numbers = [number for number in self.spare.get(source, ()) if number not in self.graph.links]
        outputs = self.graph.nodes[source[0]].outputs
        known = outputs[source[1]].type if source[1] < len(outputs) else "*"
        type_ = type_ if known == "*" else known
        self.graph.join(*source, target, name, type_, numbers[0] if numbers else None)

    def _feed(self, stages: list[Built]) -> None:
        goals: dict[tuple[str, Any], list[Built]] = {}
        for built in stages:
            goals.setdefault((built.stage, built.group), []).append(built)
        for built in stages:
            type_ = built.target.outputs[0][1]
            for goal, name in built.entry.feeds:
                for other in goals.get((goal, built.group), ()):
                    self.graph.join(built.written.key, 0, other.written.key, name, type_)

    def _fill(self, built: Built) -> None:
        target = built.target
        for name, value in built.inputs.items():
            spec = target.inputs[name]
            start = self._now((value.source.key, value.output)) if isinstance(value, Joint) else None
            if isinstance(value, Joint) and (start is None or self._is_odd(value, start, spec.type)):
                # Links do not turn whole numbers into others.
                number = constant_of(value.source) if start is not None and spec.is_widget else None
                if number is None:
                    what = "nothing gives any more" if start is None else "is of another type"
                    text = f"its {name} is a link that {what}; {spec.default} counts"
                    source = built.sources.get(name, built.givers[0])
                    self.report.change(source, text, self.kinds.get(source.key, source.kind))
                    continue
                value = float(number) if spec.type == "FLOAT" else int(number)
            if isinstance(value, Joint) and start is not None:
                self._join(start, built.written.key, name, spec.type)
            elif spec.is_widget:
                kinds = {"FLOAT": float, "STRING": str}
                built.written.values[name] = kinds.get(spec.type, lambda same: same)(value)

    def _is_odd(self, value: Joint, start: tuple[Key, int], wanted: str) -> bool:
        """Whether numbers of another kind come over a link; in an API graph, where a whole one stands at its start."""
        outputs = self.graph.nodes[start[0]].outputs
        known = outputs[start[1]].type if start[1] < len(outputs) else "*"
        if known == "*":
            return wanted == "FLOAT" and isinstance(constant_of(value.source), int)
        return known != wanted and {known, wanted} <= {"INT", "FLOAT", "FLOATS"}

    def _send_on(self, node: Node, row: Row, stages: list[Built], through: dict, readers: list) -> None:
        """Let what read the node's outputs read those of the stages, or what goes through the node."""
        for output, numbers in enumerate(readers):
            goal = (row.emits or {}).get(output)
            goals = goal if isinstance(goal, tuple) and isinstance(goal[0], tuple) else [goal]
            to = next((found for goal in goals if (found := self._goal(goal, stages, through)) is not None), None)
            self.moved[node.key, output] = (to, to is not None and to[0] in self.written)
            for number in numbers:
                self._turn(number, to)

    def _goal(self, goal: Any, stages: list[Built], through: dict) -> tuple[Key, int] | None:
        if isinstance(goal, str):
            return through.get(goal)
        if goal is None:
            return None
        built = next((b for b in stages if b.stage == goal[0]), None)
        return None if built is None or built.node is None else (built.node.key, goal[1])

    def _turn(self, number: int, to: tuple[Key, int] | None) -> None:
        """Give a link another beginning, or take it away."""
        link = self.graph.links.get(number)
        if link is None:
            return
        old = self.graph.nodes.get(link.source)
        if old is not None:
            for slot in old.outputs:
                if number in slot.links:
                    slot.links.remove(number)
        if to is None:
            target = self.graph.nodes[link.target]
            self.graph.cut(target.inputs[link.input])
            return
        link.source, link.output = to
        outputs = self.graph.nodes[to[0]].outputs
        while len(outputs) <= to[1]:
            outputs.append(Slot("", link.type))
        outputs[to[1]].links.append(number)
        link.type = outputs[to[1]].type if outputs[to[1]].type != "*" else link.type
