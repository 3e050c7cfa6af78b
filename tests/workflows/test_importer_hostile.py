"""Damaged graphs: converted, or refused in one sentence; never another error, and the graph that came in stays."""

import copy
import json
import os
import random

import pytest

from tests.workflows.conversions import gen2, legacy
from unet_motion.workflows.importer import WorkflowError, convert_workflow, old_types
from unet_motion.workflows.importer.files import convert_file
from unet_motion.workflows.importer.table import OTHER_PACKS

SEED = int(os.environ.get("UNET_MOTION_SEED", random.SystemRandom().randrange(2**32)))
JUNK = [None, True, -1, 0, 3, 2**70, 1e308, float("nan"), "", "x", "5", [], [1], [[]], [1, 2], {}, {"a": 1}, ["5", 0],
        {"0": 1, "1": 2}, "Reroute", "SetNode", "GetNode", "PrimitiveNode", "ADE_MultivalDynamic"]  # fmt: skip


def graphs():
    """Graphs with much in them, in both forms."""
    graph, loader, _ = legacy(frames=20)
    options = graph.add("ADE_StandardUniformContextOptions", context_length=8, context_stride=1, context_overlap=2)
    reroute = graph.add("Reroute", {"": (options, 0)})
    lora = graph.add("ADE_AnimateDiffLoRALoader", name="a.ckpt", strength=1.0)
    keep = graph.add("SetNode", {"x": (lora, 0)}, word="w")
    give = graph.add("GetNode", word="w")
    graph.nodes[loader].links.update(context_options=(reroute, 0), motion_lora=(give, 0))
    other, _, apply, use, _ = gen2()
    scale = other.add("ADE_MultivalDynamic", float_val=1.2)
    other.nodes[apply].links["scale_multival"] = (scale, 0)
    assert keep and use
    return [graph.page(), other.page(), graph.api(), other.api()]


def places(data, path=()):
    """Every place in a JSON value."""
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, value in children:
        yield (*path, name)
        yield from places(value, (*path, name))


def spoiled(data, draw):
    """The graph with one to four places taken away, doubled or filled with something else."""
    data = copy.deepcopy(data)
    for _ in range(draw.randint(1, 4)):
        *way, last = draw.choice(list(places(data)))
        holder = data
        for name in way:
            holder = holder[name]
        kind = draw.random()
        if kind < 0.2:
            del holder[last]
        elif kind < 0.3 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        else:
            holder[last] = copy.deepcopy(draw.choice(JUNK))
        if not data:
            break
    return data


@pytest.mark.parametrize("form", range(4))
def test_damaged_graphs(form):
    draw = random.Random(f"{SEED} {form}")
    whole = graphs()[form]
    for number in range(150):
        data = spoiled(whole, draw)
        before = json.dumps(data)
        try:
            converted = convert_workflow(data, draw.choice([(), OTHER_PACKS]))
            again = convert_workflow(converted.graph)
        except WorkflowError as error:
            assert 10 < len(str(error)) < 600 and "\n" not in str(error), (SEED, number)
        except Exception as error:
            raise AssertionError(f"UNET_MOTION_SEED={SEED}, number {number}: {before}") from error
        else:
            json.dumps(converted.graph)
            json.dumps(converted.report.to_dict())
            assert json.dumps(again.graph) == json.dumps(converted.graph), (SEED, number)
            old_types(data)
        assert json.dumps(data) == before, (SEED, number)


SAME = [("graph.json", None), ("new.json", "graph.json"), ("new.json", "new.json")]


@pytest.mark.parametrize(("out", "report"), SAME)
def test_a_file_that_is_converted_stays_as_it_is(tmp_path, out, report):
    """Also under another name of the same file."""
    graph = tmp_path / "graph.json"
    graph.write_text('{"1": {"class_type": "ADE_AnimateDiffUnload", "inputs": {"model": ["2", 0]}}}')
    before = graph.read_bytes()
    named = tmp_path / "folder" / ".." / out
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="graph.json, `out` .*, expected different files"):
        convert_file(graph, named, report and tmp_path / report)
    assert graph.read_bytes() == before and not (tmp_path / "new.json").exists()
