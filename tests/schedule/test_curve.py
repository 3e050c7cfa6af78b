"""Curves against closed forms, in exact fractions where they are rational."""

import json
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_motion.schedule import WAYS, Curve, Key, Pieces, Place
from unet_motion.schedule.curve import product

NUMBERS = st.floats(-8, 8, allow_nan=False).map(lambda x: round(x, 3))
FRAMES = st.integers(2, 40)


def shaped(way: str, t: Fraction) -> Fraction:
    """How far the way from one key to the next has come, at a share of the way."""
    return {"hold": Fraction(0), "linear": t, "smooth": 3 * t**2 - 2 * t**3}[way]


def expected(keys: list[tuple[Fraction, float, str]], x: Fraction) -> float:
    """A curve's value by its definition: (place, value, way) in order."""
    before = [key for key in keys if key[0] <= x]
    behind = [key for key in keys if key[0] > x]
    if not before or not behind:
        return (before or behind)[-1 if before else 0][1]
    (start, a, way), (end, b, _) = before[-1], behind[0]
    return float(Fraction(a) + (Fraction(b) - Fraction(a)) * shaped(way, (x - start) / (end - start)))


@st.composite
def over_frames(draw):
    """(frames, keys as they are written, keys with their places as fractions)."""
    frames = draw(FRAMES)
    count = draw(st.integers(1, min(frames, 6)))
    places = sorted(draw(st.sets(st.integers(0, frames - 1), min_size=count, max_size=count)))
    written, plain = [], []
    for place in places:
        value, way = draw(NUMBERS), draw(st.sampled_from(["hold", "linear", "smooth"]))
        form = draw(st.sampled_from(["frame", "negative", "share"]))
        if form == "share" and frames - 1 in (1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 40):
            word = f"{float(Fraction(place * 100, frames - 1))!r}%"
        else:
            word = str(place - frames if form == "negative" else place)
        written.append((word, value, way))
        plain.append((Fraction(place), value, way))
    return frames, written, plain


@settings(max_examples=150, deadline=None)
@given(over_frames())
def test_values_over_frames_are_those_of_the_definition(drawn):
    frames, written, plain = drawn
    text = ", ".join(f"{place}:{value!r} {way}" for place, value, way in written)
    values = Curve.parse("c", text).values(frames)
    assert values.dtype == torch.float64 and values.shape == (frames,)
    for frame in range(frames):
        assert values[frame] == pytest.approx(expected(plain, Fraction(frame)), abs=1e-9), (text, frame)
    for place, value, _ in plain:
        assert float(values[int(place)]) == value  # not a bit off at the keys themselves


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 64), min_size=1, max_size=6, unique=True), st.data())
def test_values_over_steps_are_those_of_the_definition(places, data):
    keys = [(Fraction(p, 64), data.draw(NUMBERS), data.draw(st.sampled_from(WAYS[:3]))) for p in sorted(places)]
    curve = Curve(tuple(Key(Place(float(p), share=True), value, way) for p, value, way in keys), "steps")
    shares = [Fraction(n, 96) for n in range(97)]
    found = curve.pieces().at(torch.tensor([float(s) for s in shares], dtype=torch.float64))
    for share, value in zip(shares, found, strict=True):
        near = [k for k in keys if k[0] != share and abs(k[0] - share) < Fraction(1, 10**9)]
        assert not near
        assert float(value) == pytest.approx(expected(keys, share), abs=1e-9)
        assert curve.value_at(float(share)) == float(value)


@settings(max_examples=100, deadline=None)
@given(over_frames())
def test_text_and_json_give_equal_curves_back(drawn):
    frames, written, _ = drawn
    curve = Curve.parse("c", "\n".join(f"{place}: {value!r} {way}" for place, value, way in written))
    assert Curve.from_json(json.loads(json.dumps(curve.to_json()))) == curve
    assert Curve.parse("c", json.dumps(curve.to_json())) == curve
    again = Curve.parse("c", str(curve))
    assert torch.equal(again.values(frames), curve.values(frames))
    assert again == curve or curve.is_constant


def test_two_keys_at_one_place_are_a_jump_and_the_second_counts_there():
    curve = Curve.parse("c", "0:0, 4:1, 4:5, 8:5")
    assert curve.values(9).tolist() == [0, 0.25, 0.5, 0.75, 5, 5, 5, 5, 5]


def test_a_key_between_two_frames_and_beyond_the_last_still_shapes_what_is_there():
    assert Curve.parse("c", "0:0, 50%:1, 100%:0").values(4).tolist() == pytest.approx([0, 2 / 3, 2 / 3, 0])
    assert Curve.parse("c", "0:0, 30:1").values(16)[15] == pytest.approx(0.5)


def test_numbers_and_lists_are_curves():
    assert Curve.parse("c", " 0.7 ").values(3).tolist() == [0.7] * 3
    assert Curve.parse("c", "[1, 0.5, 2]").values(3).tolist() == [1, 0.5, 2]
    assert Curve.from_json(2).values(2).tolist() == [2, 2]
    assert Curve.parse("c", '[[0, 1, "hold"], [1, 2]]').values(2).tolist() == [1, 2]
    assert Curve.constant(0.5, "steps").value_at(0.3) == 0.5
    assert Curve.parse("c", "0:2, 3:2").is_constant and not Curve.parse("c", "0:2, 3:1").is_constant


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBERS, min_size=2, max_size=7), st.data())
def test_monotone_pieces_are_fritsch_and_carlsons(values, data):
    """Through the keys, with one slope on both sides of a key, and never beyond the values of the keys around."""
    places = sorted(data.draw(st.sets(st.integers(0, 60), min_size=len(values), max_size=len(values))))
    keys = tuple(Key(Place(p / 60, True), v, "monotone") for p, v in zip(places, values, strict=True))
    pieces = Curve(keys, "steps").pieces()
    known = list(zip(places, values, strict=True))
    for (p, a), (q, b) in zip(known, known[1:], strict=False):
        inside = pieces.at(torch.linspace(p / 60, q / 60, 33, dtype=torch.float64))
        assert inside.min() >= min(a, b) - 1e-9 and inside.max() <= max(a, b) + 1e-9
        assert inside[0] == pytest.approx(a, abs=1e-9) and inside[-1] == pytest.approx(b, abs=1e-9)
        assert ((inside[1:] - inside[:-1]) * (1 if b >= a else -1)).min() >= -1e-9
    width = pieces.places.diff()
    _, b, c, d = pieces.factors.unbind(-1)
    ends = (b + 2 * c + 3 * d)[:-1] / width
    assert torch.allclose(ends[:-1], (b[:-1] / width)[1:], atol=1e-7)


def test_a_monotone_curve_of_known_slopes():
    """Places 0, 1, 3 and values 0, 1, 7: the secants are 1 and 3, so the middle slope is 2 and the ends 1 and 3."""
    keys = tuple(Key(Place(float(p)), v, "monotone") for p, v in ((0, 0), (1, 1), (3, 7)))
    values = Curve(keys).values(4)
    h = [0.5**3 - 2 * 0.5**2 + 0.5, 0.5**3 - 0.5**2, 3 * 0.5**2 - 2 * 0.5**3]
    assert values.tolist() == pytest.approx([0, 1, 1 + 6 * h[2] + 2 * 2 * h[0] + 2 * 3 * h[1], 7])


def test_pieces_on_another_dtype_and_shape():
    pieces = Curve.parse("c", "0:0, 1:2", "steps").pieces().to("cpu", torch.float32)
    assert isinstance(pieces, Pieces)
    out = pieces.at(torch.tensor([[0.25, 2.0], [-1.0, 0.5]], dtype=torch.float64))
    assert out.dtype == torch.float32 and out.tolist() == [[0.5, 2.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("text", "over", "sentence"),
    [
        ("0:1, x:2", "frames", "`c`: found 'x', expected a frame such as 0, 12 or -1"),
        ("0:1, 2.5:2", "frames", "found '2.5', expected a frame"),
        ("0:1, 1.5:2", "steps", "found '1.5', expected a share of the sampling from 0 to 1"),
        ("0:nan", "frames", "the value at 0 is nan, expected a finite number"),
        ("0:inf", "frames", "the value at 0 is inf, expected a finite number"),
        ("nan", "frames", "is nan, expected a finite number"),
        ("0:1 bounce", "frames", "the way from 0 is 'bounce', expected one of hold, linear, smooth, monotone"),
        ("0:1, 8", "frames", "found '8', expected PLACE:VALUE"),
        ("0:1, 8:", "frames", "found '8:', expected PLACE:VALUE"),
        ("0:1, 8:fast", "frames", "found 'fast', expected a number"),
        ("", "frames", "found 0 keys, expected 1 to"),
        ("8:1, 4:2", "frames", "4 stands behind 8, expected places that rise"),
        ("-2:1, -4:2", "frames", "-4 stands behind -2"),
        ("4:1, 4:2, 4:3", "frames", "found 3 keys at 4, expected at most two, a jump"),
        ('{"keys": [[0, 1]], "speed": 2}', "frames", "found the unknown entry 'speed', expected `over` and `keys`"),
        ('{"keys": [{"at": 0, "value": 1, "ease": 2}]}', "frames", "found the key .*, expected .*'value'"),
        ('{"keys": [[0, true]]}', "frames", "the value at 0 is True, expected a finite number"),
        ('{"keys": [[0, 1]], "over": "time"}', "frames", "`over` is 'time', expected frames or steps"),
        ('{"keys": 3}', "frames", "found {'keys': 3}, expected a number or"),
        ('[0, 1', "frames", "`c` is no JSON: line 1, column 6"),
        ('["a"]', "frames", "the value at 0 is 'a', expected a finite number"),
        ("[" * 100000, "frames", "`c` is (nested too deeply, expected a number, a list|no JSON)"),
        ('{"keys": ' + "[" * 100000, "frames", "`c` is (nested too deeply|no JSON)"),
    ],
)  # fmt: skip
def test_bad_curves_are_named_in_one_sentence(text, over, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        Curve.parse("c", text, over)
    assert "`c`" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0:1, 15:2, 20:3", "20 is never reached: the clip has 16 frames, expected at most 15"),
        ("0:1 hold, 16:3", "16 is never reached: the clip has 16 frames"),
        ("0:1, -17:3", "-17 lies before the first frame: the clip has 16 frames, expected at least -16"),
        ("12:1, -8:3", "-8 stands behind 12, expected places that rise: the clip has 16 frames"),
        ("0:1, 8:1, 25%:2", "25% stands behind 8"),
    ],
)
def test_keys_that_a_clip_has_no_place_for_are_named(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        Curve.parse("c", text).values(16)
    with pytest.raises(ValueError, match="a curve over frames was asked for None frames"):
        Curve.parse("c", "0:1, 2:3").pieces()
    assert math.isfinite(float(Curve.parse("c", "0:1, 15:2").values(16)[7]))


@pytest.mark.parametrize("frames", [1, 3, 5, 16])
def test_a_list_has_a_value_for_each_frame_of_the_clip(frames):
    for curve in (Curve.parse("c", "[1, 0.5, 0.5, 2]"), Curve.per_frame([1, 1, 1, 1])):
        assert curve.values(4).tolist() == [key.value for key in curve.keys] and not curve.is_constant
        same = Curve.from_json(curve.to_json()), Curve.parse("c", str(curve))
        for one in (curve, *same):
            with pytest.raises(ValueError, match=f"a list of 4 values, expected one for each of the {frames} frames"):
                one.values(frames)
    with pytest.raises(ValueError, match=f"^`c`: found a list of 4 values, .* {frames} frames.$"):
        Curve.parse("c", "[1, 0.5, 0.5, 2]").values(frames)
    with pytest.raises(ValueError, match="^`c`: a curve over steps was asked for"):
        Curve.parse("c", "0:1, 1:2", "steps").values(frames)
    assert Curve.parse("c", "[0.5]").values(frames).tolist() == [0.5] * frames
    assert Curve.parse("c", "0:1, 0.5:2").values(frames).numel() == frames


def test_a_product_of_curves_over_frames_and_over_steps():
    curves = [Curve.parse("a", "0:1, 2:3"), Curve.parse("b", "0:0, 1:8", "steps"), Curve.per_frame([1, 0.5, -1])]
    assert product(curves, 3, 0.25).tolist() == [2, 2, -6]
    assert product([], 3, 0.5).tolist() == [1, 1, 1] and product([], 3, 0.5).dtype == torch.float64
