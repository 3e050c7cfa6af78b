"""Timelines: what is read, what is refused and by which sentence, and that nothing is lost on the way to JSON."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_motion.schedule import TRACKS, WAYS, Curve, PromptSchedule, Timeline

PROMPTS = {"keys": [{"at": 0, "text": "a"}, {"at": -1, "text": "b", "way": "hold"}]}


def parse(**found):
    return Timeline.parse("timeline", json.dumps(found))


def test_prompts_and_curves_are_those_of_their_classes():
    line = parse(
        prompts=PROMPTS, curves={"scale": [1, 0.5], "cfg": {"over": "steps", "keys": [[0, 2, "hold"], [1, 7]]}}
    )
    assert line.prompts == PromptSchedule.from_json(PROMPTS)
    assert line.curves["scale"].values(2).tolist() == [1, 0.5]
    assert line.curves["cfg"].over == "steps" and line.curves["cfg"].value_at(0.9) == 2
    assert Timeline.parse("timeline", json.dumps(PROMPTS)) == Timeline(line.prompts)
    line.check(2)
    with pytest.raises(ValueError, match="the curve 'scale': found a list of 2 values, expected .* 1 frames"):
        line.check(1)


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from(TRACKS),
        st.lists(st.tuples(st.floats(0, 9), st.sampled_from(WAYS)), min_size=1, max_size=5),
        max_size=4,
    )
)
def test_json_and_back_loses_nothing(drawn):
    curves = {
        name: Curve.from_json([{"at": 3 * i, "value": v, "way": way} for i, (v, way) in enumerate(keys)])
        for name, keys in drawn.items()
    }
    line = Timeline(PromptSchedule.from_json(PROMPTS), curves)
    assert Timeline.parse("t", json.dumps(line.to_json())) == line


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("{", "`t` is no JSON: line 1, column 2"),
        ("[" * 100000, "`t` is (nested too deeply|no JSON)"),
        ("[]", "`t`: found list, expected"),
        ('{"prompts": {"keys": []}}', "`t`: found no prompts"),
        ('{"curves": {}}', "`t`: `prompts` is None, expected"),
        ('{"prompts": {"keys": [{"at": 0, "text": "a"}]}, "curve": {}}', "`t`: found the unknown entry 'curve'"),
        ('{"prompts": {"keys": [{"at": 0, "text": "a"}]}, "curves": {"size": 1}}', "`t`: found the curve 'size'"),
        ('{"prompts": {"keys": [{"at": 0, "text": 5}]}}', "`t`: the prompt at 0 is 5, expected text"),
        (
            '{"prompts": {"keys": [{"at": 0, "text": "a"}]}, "curves": {"cfg": {"keys": [[0, NaN]]}}}',
            "`t`: the curve 'cfg': the value at 0 is nan, expected a finite number",
        ),
    ],
)
def test_what_cannot_be_read_is_named(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        Timeline.parse("t", text)


def test_a_file_holds_a_timeline_or_prompts_alone():
    whole = {"prompts": PROMPTS, "curves": {"cfg": 3}}
    assert Timeline.read("f", json.dumps(whole)) == Timeline.from_json(whole)
    prompts = PromptSchedule.from_json(PROMPTS)
    assert Timeline.read("f", json.dumps(PROMPTS)) == Timeline(prompts)
    assert Timeline.read("f", '"0": "a"\n"4": "b"').prompts == PromptSchedule.parse("f", '"0": "a", "4": "b"')
    for text, said in (('{"curves": {}}', "`f`: `prompts` is None"), ('"0" "a"', "`f`: line 1")):
        with pytest.raises(ValueError, match=said):
            Timeline.read("f", text)


@pytest.mark.parametrize(
    ("curves", "sentence"),
    [
        ('{"effect": 1e300}', "the curve 'effect': the value at 0 is 1e+300, expected -10 to 10"),
        ('{"scale": -1}', "the curve 'scale': the value at 0 is -1, expected 0 to 10"),
        ('{"cfg": 101}', "the curve 'cfg': the value at 0 is 101, expected 0 to 100"),
        ('{"scale": 1, "scale": 2}', "found 'scale' twice, expected each name once"),
        ('{"effect": ' + "9" * 400 + "}", "expected a finite number"),
    ],
)
def test_values_that_no_node_takes_and_names_given_twice_are_refused(curves, sentence):
    text = '{"prompts": {"keys": [{"at": 0, "text": "a"}]}, "curves": ' + curves + "}"
    with pytest.raises(ValueError) as error:
        Timeline.parse("t", text)
    assert sentence in str(error.value) and len(str(error.value)) < 300
    assert Timeline.parse("t", text[: text.index(', "curves"')] + ', "curves": {"effect": -10, "scale": 10}}')
