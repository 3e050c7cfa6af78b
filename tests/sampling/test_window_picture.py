import numpy as np
import pytest

from unet_motion.sampling import ContextWindows
from unet_motion.sampling.window_picture import BANDS, GROUND, LEFT, TALLEST, TOP, WIDEST, draw_windows


def test_a_line_is_bright_where_its_window_counts_and_dark_where_it_holds_no_frame():
    picture = draw_windows([[([0, 1, 2], [1.0, 1.0, 0.5]), ([2, 3], [0.5, 1.0])]], 4).astype(int)
    wide = (picture.shape[1] - LEFT - 3) // 4
    tall = (picture.shape[0] - TOP - 6) // 2
    first, second = (
        [picture[TOP + line * tall + tall // 2, LEFT + frame * wide + 1].tolist() for frame in range(4)]
        for line in range(2)
    )
    assert first[3] == second[0] == second[1] == list(GROUND)
    assert first[0] == first[1] and first[0] != second[3]
    # Half the weight is 0.3 + 0.7 / 2 of the brightness, of every colour.
    assert np.allclose(first[2], 0.65 * np.array(first[0]), atol=1)
    assert np.allclose(second[2], 0.65 * np.array(second[3]), atol=1)


@pytest.mark.parametrize(("frames", "steps"), [(1, 1), (16, 20), (1024, 100), (4096, 3)])
def test_pictures_stay_within_bounds(frames, steps):
    windows = ContextWindows()
    plans = [windows.plan(frames, step) for step in range(steps)]
    picture = draw_windows(plans, frames)
    lines = sum(len(plan) for plan in plans[:BANDS])
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert picture.shape[1] <= LEFT + max(WIDEST, frames) + 3
    assert picture.shape[0] <= max(TALLEST, lines + 3 * BANDS) + TOP + 3
    # Every frame of the first step has a bright place.
    wide = (picture.shape[1] - LEFT - 3) // frames
    band = picture[TOP : TOP + len(plans[0]), LEFT:].max(axis=(0, 2))
    assert all(band[frame * wide] > 60 for frame in range(frames)) or frames > windows.length
