"""PIA's influences against the authors' published lists and rule, and its channels against their definition."""

import pytest
import torch

from unet_motion.control.pia import LOOPS, PRESETS, frame_influence, pia_channels

PUBLISHED = {
    "small motion": [1.0, 0.9, 0.85, 0.85, 0.85, 0.8],
    "medium motion": [1.0, 0.8, 0.8, 0.8, 0.79, 0.78, 0.75],
    "large motion": [1.0, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.5],
    "small loop": [1.0, 0.9, 0.85, 0.85, 0.85, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.85, 0.85, 0.9, 1.0],
    "medium loop": [1.0, 0.8, 0.8, 0.8, 0.79, 0.78, 0.75, 0.75, 0.75, 0.75, 0.75, 0.78, 0.79, 0.8, 0.8, 1.0],
    "large loop": [1.0, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.5, 0.6, 0.7, 0.7, 0.7, 0.7, 0.8, 1.0],
    "small motion, new style": [0.5, 0.4, 0.4, 0.4, 0.35, 0.3],
    "medium motion, new style": [0.5, 0.4, 0.4, 0.4, 0.35, 0.35, 0.3, 0.25, 0.2],
    "large motion, new style": [0.5, 0.2],
}


@pytest.mark.parametrize("frame", [0, 5, 15])
@pytest.mark.parametrize("name", PUBLISHED)
def test_sixteen_frames_get_the_published_numbers(name, frame):
    values = PUBLISHED[name]
    values = values + [values[-1]] * (16 - len(values))
    expected = torch.tensor([values[abs(i - frame)] for i in range(16)])
    assert (frame_influence(PRESETS[name], 16, frame, name in LOOPS) - expected).abs().max() < 1e-6


def test_loops_fit_clips_of_other_lengths():
    made = frame_influence((1.0, 0.0, 1.0), 5, loop=True)
    assert made.tolist() == [1.0, 0.5, 0.0, 0.5, 1.0]
    assert frame_influence((1.0, 0.5), 1, loop=True).tolist() == [1.0]


def test_channels_are_the_influence_and_the_picture():
    picture, influence = torch.randn(2, 4, 3, 5), torch.tensor([1.0, 0.5, 0.2])
    made = pia_channels(picture, influence, batch=2)
    assert made.shape == (6, 5, 3, 5)
    for clip in range(2):
        for frame in range(3):
            row = made[clip * 3 + frame]
            assert torch.equal(row[1:], picture[clip]) and (row[0] == influence[frame]).all()


def test_wrong_frames_and_values_are_named():
    with pytest.raises(ValueError, match="`frame` is 9, expected 0 to 7 in a clip of 8 frames"):
        frame_influence((1.0,), 8, 9)
    with pytest.raises(ValueError, match="holds no numbers"):
        frame_influence((), 8)
