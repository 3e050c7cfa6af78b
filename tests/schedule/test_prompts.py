"""Prompts over frames: how they are read, and what the frames get, against float64 by the definition."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_motion.schedule import Place, PromptKey, PromptSchedule, mix_tokens, mix_vectors
from unet_motion.schedule.prompts import common_length

LINES = """
"0" :"a red (star:1.2), moving",
"24" : "",

"48":"a \\"blue\\" star
over two lines \\\\(art\\\\) \\(x\\)" ,
"-1" = "end"
"""


def keys(schedule):
    return [(str(key.at), key.text, key.way) for key in schedule.keys]


def test_lines_as_people_write_them():
    expected = [
        ("0", "a red (star:1.2), moving", "linear"),
        ("24", "", "linear"),
        ("48", 'a "blue" star\nover two lines \\(art\\) \\(x\\)', "linear"),
        ("-1", "end", "linear"),
    ]
    for text in (LINES, "{" + LINES + "}", LINES.replace("\n", "\r\n"), LINES + ",\n"):
        assert [(at, t.replace("\r", ""), way) for at, t, way in keys(PromptSchedule.parse("p", text))] == expected
    one_line = PromptSchedule.parse("p", '"0": "a", 8: "b", 50% = "c",')
    assert keys(one_line) == [("0", "a", "linear"), ("8", "b", "linear"), ("50%", "c", "linear")]
    assert keys(PromptSchedule.parse("p", '{"0": "a", "8": "b"}')) == keys(one_line)[:2]


def test_ranges_and_holds():
    schedule = PromptSchedule.parse("p", '"0:4": "a", "8:": "b", "12": "c"')
    assert keys(schedule) == [("0", "a", "hold"), ("4", "a", "linear"), ("8", "b", "hold"), ("12", "c", "linear")]
    found = [(first, second, round(share, 6)) for first, second, share in schedule.shares(14)]
    assert found[:5] == [(0, 0, 0)] * 4 + [(0, 1, 0)]
    assert [share for *_, share in found[5:8]] == [0.25, 0.5, 0.75]
    assert found[8:12] == [(1, 2, 0)] * 4 and [f[0] for f in found[12:]] == [2, 2]
    assert schedule.texts == ("a", "b", "c")


def test_text_around_each_prompt_and_json():
    schedule = PromptSchedule.parse("p", '"0": "a", "4": "", "8": "a"', "best, ", ", sharp", "slerp")
    assert schedule.texts == ("best,  a , sharp", "best,  , sharp")
    again = PromptSchedule.parse("p", json.dumps(schedule.to_json()))
    assert again == schedule and again.interpolation == "slerp"
    smooth = PromptSchedule.parse("p", '{"keys": [{"at": 0, "text": "a", "way": "smooth"}, {"at": 4, "text": "b"}]}')
    assert [share for *_, share in smooth.shares(5)] == [0, 3 / 16 - 2 / 64, 0.5, 27 / 16 - 54 / 64, 0]
    assert smooth.shares(5)[4][0] == 1


def test_what_stands_behind_neg_is_the_negative_prompt():
    schedule = PromptSchedule.parse("p", '"0": "a --neg bad", "4": "b"', "good", "sharp --neg blurred")
    positive, negative = schedule.split_negative()
    assert positive.texts == ("good a sharp", "good b sharp")
    assert negative.texts == ("bad blurred", "blurred")
    assert PromptSchedule.parse("p", '"0": "a"').split_negative()[1].texts == ("",)


def by_definition(schedule, encoded, frames):
    """float64, key by key, with whole tokens repeated to the least common multiple."""
    length = math.lcm(*map(len, encoded))
    tiled = [np.tile(np.asarray(e, dtype=np.float64), (length // len(e), 1)) for e in encoded]
    places = [key.at.among(frames - 1) for key in schedule.keys]
    rows = [tiled[schedule.texts.index(schedule.whole(key))] for key in schedule.keys]
    out = []
    for frame in range(frames):
        after = [i for i, place in enumerate(places) if place > frame]
        right = after[0] if after else len(places)
        if right in (0, len(places)) or schedule.keys[right - 1].way == "hold":
            out.append(rows[max(0, right - 1)])
            continue
        t = (frame - places[right - 1]) / (places[right] - places[right - 1])
        if schedule.keys[right - 1].way == "smooth":
            t = t * t * (3 - 2 * t)
        out.append((1 - t) * rows[right - 1] + t * rows[right])
    return np.stack(out)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 4), st.data())
def test_mixes_are_linear_and_exact_at_the_keys(frames, count, data):
    places = sorted(data.draw(st.sets(st.integers(0, frames - 1), min_size=1, max_size=min(count, frames))))
    words = [data.draw(st.sampled_from("abc")) for _ in places]
    ways = [data.draw(st.sampled_from(["hold", "linear", "smooth"])) for _ in places]
    schedule = PromptSchedule(
        tuple(PromptKey(Place(float(p)), word, way) for p, word, way in zip(places, words, ways, strict=True))
    )
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    sizes = {"a": 4, "b": 6, "c": 4}
    encoded = [torch.randn(sizes[text], 5, generator=generator) for text in schedule.texts]
    found = mix_tokens(schedule, encoded, frames)
    assert found.dtype == torch.float32
    wanted = torch.tensor(by_definition(schedule, encoded, frames))
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=0)
    for place, word in zip(places, words, strict=True):
        own = encoded[schedule.texts.index(word)]
        assert torch.equal(found[place], own.repeat(len(found[place]) // len(own), 1))


def test_the_midpoint_is_the_midpoint():
    """Not the drift of a mix that goes on from the frame before: a quarter of the way is a quarter."""
    schedule = PromptSchedule.parse("p", '"0": "a", "16": "b"')
    found = mix_vectors(schedule, [torch.zeros(1), torch.ones(1)], 17)
    assert found[:, 0].tolist() == [n / 16 for n in range(17)]


def test_slerp_goes_along_the_circle():
    schedule = PromptSchedule.parse("p", '"0": "a", "8": "b"', interpolation="slerp")
    a, b = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0], [4.0, 0.0], [1.0, 1.0]])
    found = mix_tokens(schedule, [a, b], 9).double()
    for frame in range(9):
        angle = math.pi / 2 * frame / 8
        line = frame / 8  # where there is no circle: one direction, or no length
        expected = torch.tensor([[math.cos(angle), math.sin(angle)], [2 + 2 * line, 0], [line, line]])
        torch.testing.assert_close(found[frame], expected.double(), atol=1e-6, rtol=0)


def test_attention_over_repeated_tokens_is_that_over_the_tokens():
    """Why texts are repeated, and not padded."""
    generator = torch.Generator().manual_seed(0)
    query, tokens = torch.randn(1, 3, 8, generator=generator), torch.randn(1, 4, 8, generator=generator)

    def attend(keys):
        return torch.nn.functional.scaled_dot_product_attention(query, keys, keys)

    alone, tiled = attend(tokens), attend(tokens.repeat(1, 3, 1))
    padded = attend(torch.cat([tokens, torch.zeros(1, 8, 8)], 1))
    assert torch.allclose(alone, tiled, atol=1e-6) and (alone - padded).abs().max() > 0.1
    assert common_length([77, 154, 231]) == 462
    with pytest.raises(ValueError, match="the prompts are of 7, 11, 13 tokens, expected lengths with a common"):
        common_length([7, 11, 13])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('"0": "a",\n"8" "b"', '`p`: line 2: found \'"8" "b"\', expected a line such as'),
        ('"0": "a",\n\n"x": "b"', "line 3: found 'x', expected a frame"),
        ('"0": "a"\n"8": "b', 'line 2: found \'"8": "b\''),
        ('"0": "a" "8": "b"', 'line 1: found \'"8": "b"\''),
        ('"0": a', "line 1: found '\"0\": a'"),
        ("a red star", 'line 1: found \'a red star\', expected a line such as "0": "a red star"'),
        ("", "found no prompts"),
        ('"8": "a",\n"4": "b"', "line 2: 4 stands behind 8"),
        ('"8": "a",\n"8": "b"', "line 2: found 2 keys at 8, expected at most one"),
        ('"9:4": "a"', "line 1: 4 stands behind 9"),
        ('{"keys": [], "x": 1}', "found the unknown entry 'x'"),
        ('{"keys": []}', "found no prompts"),
        ('{"keys": ' + "[" * 100000, "line 1: found"),
        ('{"keys": [{"at": 0}]}', "found the key {'at': 0}, expected"),
        ('{"keys": [{"at": 0, "text": 3}]}', "the prompt at 0 is 3, expected text"),
        ('{"keys": [{"at": 0, "text": "a", "way": "monotone"}]}', "expected one of hold, linear, smooth"),
        ('{"keys": [{"at": 0, "text": "a"}], "interpolation": "cubic"}', "the interpolation is 'cubic'"),
        ('{"keys": [{"at": 0, "text": "a"}], "before": 1}', "`before` is 1, expected text"),
    ],
)
def test_bad_schedules_are_named_with_their_line(text, sentence):
    with pytest.raises(ValueError) as caught:
        PromptSchedule.parse("p", text)
    assert sentence in str(caught.value) and str(caught.value).startswith("`p`")


def test_frames_past_the_end_are_named():
    schedule = PromptSchedule.parse("p", '"0": "a", "12": "b", "24": "c", "36": "d"')
    with pytest.raises(ValueError, match="24 is never reached: the clip has 13 frames, expected at most 12"):
        schedule.shares(13)
    with pytest.raises(ValueError, match="36 is never reached"):
        schedule.shares(20)
    assert schedule.shares(30)[29] == (2, 3, 5 / 12)
