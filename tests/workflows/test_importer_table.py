"""The table itself: every input of every row is accounted for, and it writes nothing that is not there."""

import pytest

from unet_motion.workflows.importer.settings import SETTING_TYPES
from unet_motion.workflows.importer.table import (
    NO_NODE,
    ROWS,
    STAGES,
    TARGETS,
    BatchOf,
    Made,
    Named,
    Of,
    one_to_one,
    stage_of,
)

CONVERTING = {kind: row for kind, row in ROWS.items() if row.why is None}


def read_by(row):
    """Names of the inputs that a row's gifts read."""
    names = set()
    for give in row.gives:
        names |= {give.when[0]} if give.when else set()
        for value in give.inputs.values():
            if isinstance(value, (Of, BatchOf, Named)):
                names.add(value.name)
            elif isinstance(value, Made):
                names |= set(value.names)
    return names


@pytest.mark.parametrize("kind", CONVERTING)
def test_every_input_is_read_or_said_to_have_no_effect_or_no_counterpart(kind):
    row = CONVERTING[kind]
    known = read_by(row) | set(row.only) | set(row.ignored) | set(row.reads) | {row.chain, "model"}
    passed = {goal for goal in (row.emits or {}).values() if isinstance(goal, str)}
    settings = {name for name, spec in row.inputs.items() if spec.type in (*SETTING_TYPES, "ADEWARN")}
    # What a function folds is tested by its values.
    assert set(row.inputs) - known - passed - settings == set() or row.fold is not None
    assert known - {row.chain, "model"} <= set(row.inputs)


@pytest.mark.parametrize("kind", CONVERTING)
def test_every_gift_goes_to_an_input_that_its_node_has(kind):
    for give in CONVERTING[kind].gives:
        if give.stage in ("value", "sampler"):
            continue
        stage = stage_of(give.stage)
        assert stage is not None, give.stage
        if stage.kind != NO_NODE:
            assert set(give.inputs) <= set(TARGETS[stage.kind].inputs), give.stage


def test_stages_feed_inputs_that_are_there():
    for stage in STAGES.values():
        for goal, name in stage.feeds:
            assert name in TARGETS[STAGES[goal].kind].inputs
        if stage.kind != NO_NODE:
            assert stage.model is None or stage.model in TARGETS[stage.kind].inputs
            assert set(stage.fixed) | set(stage.neutral) <= set(TARGETS[stage.kind].inputs)


def test_outputs_of_rows_come_from_outputs_that_are_there():
    for row in CONVERTING.values():
        for place, goal in (row.emits or {}).items():
            assert place < len(row.outputs), row.kind
            for name, output in (goal if isinstance(goal[0], tuple) else (goal,)) if isinstance(goal, tuple) else ():
                assert output < len(TARGETS[stage_of(name).kind].outputs), row.kind


def test_chains_are_of_the_type_that_the_node_gives():
    for row in CONVERTING.values():
        assert row.chain is None or row.inputs[row.chain].type == row.outputs[0], row.kind


def test_core_replaces_only_what_means_the_same():
    """One node for one, and no input that can be missing, which core would answer with an error."""
    assert set(one_to_one()) == {
        "ADE_EmptyLatentImageLarge",
        "ADE_ConditioningCombine",
        "ADE_PairedConditioningCombine",
        "ADE_TimestepsConditioning",
    }
    assert one_to_one()["ADE_ConditioningCombine"] == (
        "ConditioningCombine", {"conditioning_1": "cond_A", "conditioning_2": "cond_B"}, [],
    )  # fmt: skip
    assert all(new in TARGETS for new, *_ in one_to_one().values())


def test_what_functions_take_where_the_page_has_another_default():
    flat = {"fuse_method": "flat"}
    found = {kind: dict(row.absent) for kind, row in ROWS.items() if row.absent}
    assert found == {"ADE_LoopedUniformContextOptions": flat, "ADE_StandardStaticViewOptions": flat}
