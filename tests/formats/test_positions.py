"""Position tables changed, against the closed form of the interpolation, on every kind of module."""

import pytest
import torch

from tests.files.test_damage import MOTION, motion_file
from tests.formats.files import adapter, relative_error, to_ldm, to_original, unet2d, write
from unet_motion import load_motion_module, load_unet
from unet_motion.formats import FileFormatError, PositionOptions
from unet_motion.formats.positions import adjust_table


def resampled(values, rows):
    """Linear interpolation at the middles of equal intervals, in Python's own floats."""
    out = []
    for i in range(rows):
        place = min(max((i + 0.5) * len(values) / rows - 0.5, 0.0), len(values) - 1.0)
        low = min(int(place), len(values) - 1)
        high = min(low + 1, len(values) - 1)
        out.append(values[low] + (place - low) * (values[high] - values[low]))
    return out


def closed_form(values, stretch=0, skip=0, cap=0, interpolate=0, skip_after=0):
    values = resampled(values, len(values) + stretch) if stretch else values
    values = values[skip:]
    values = values[:cap] if cap else values
    values = resampled(values, interpolate) if interpolate else values
    return values[skip_after:]


CASES = [
    {"stretch": 8}, {"skip": 3}, {"cap": 16}, {"interpolate": 48}, {"interpolate": 5}, {"skip_after": 2},
    {"skip": 4, "cap": 8}, {"stretch": 7, "skip": 2, "cap": 20, "interpolate": 31, "skip_after": 3},
]  # fmt: skip
EVERY = [(kind, case) for kind in MOTION for case in (CASES if kind in ("v1", "lcm") else CASES[-1:])]


def test_the_example_of_four_rows_to_eight():
    table = torch.arange(4.0)[None, :, None]
    made = adjust_table(table, PositionOptions(interpolate=8)).flatten().tolist()
    assert made == [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]


@pytest.mark.filterwarnings("ignore:.*holds no position tables")
@pytest.mark.parametrize(("kind", "case"), EVERY, ids=str)
def test_every_kind_gets_the_table_of_the_closed_form(tmp_path, kind, case):
    path = write(tmp_path / "a.safetensors", motion_file(kind))
    plain, made = load_motion_module(path), load_motion_module(path, positions=PositionOptions(**case))
    assert (made.version, made.norm_scopes) == (kind, plain.norm_scopes)
    for key, table in plain.state_dict.items():
        if not key.endswith(".pe"):
            assert torch.equal(made.state_dict[key], table)
            continue
        columns = [closed_form(column.tolist(), **case) for column in table[0].double().T]
        expected = torch.tensor(columns, dtype=torch.float64).T
        assert made.state_dict[key].shape == (1, *expected.shape)
        assert (made.state_dict[key][0].double() - expected).abs().max() < 1e-6
        assert made.config.motion_max_seq_length == len(expected)


def test_a_stretched_table_runs_longer_clips_and_a_window_runs_what_it_says(tmp_path):
    base = write(tmp_path / "sd.safetensors", to_ldm(unet2d().state_dict(), 2))
    path = write(tmp_path / "a.safetensors", to_original(adapter(motion_max_seq_length=8).state_dict()))
    plain = load_unet(base, path)
    long = load_unet(base, load_motion_module(path, positions=PositionOptions(stretch=4)))
    window = load_unet(base, load_motion_module(path, positions=PositionOptions(skip=2, cap=3)))
    sample, text = torch.randn(1, 4, 12, 8, 8), torch.randn(1, 5, 24)
    with torch.no_grad():
        assert long(sample, 5, text).sample.shape == sample.shape
        with pytest.raises(ValueError, match="12 frames were given"):
            plain(sample, 5, text)
        from unet_motion import ForwardOptions

        rows = ForwardOptions(frame_positions=torch.tensor([2, 3, 4]))
        expected = plain(sample[:, :, :3], 5, text, options=rows).sample
        assert relative_error(window(sample[:, :, :3], 5, text).sample, expected) < 1e-6
        assert relative_error(plain(sample[:, :, :3], 5, text).sample, expected) > 1e-4


def test_wrong_numbers_are_named(tmp_path):
    path = write(tmp_path / "a.safetensors", to_original(adapter(motion_max_seq_length=8).state_dict()))
    with pytest.raises(ValueError, match="`stretch` is -1, expected a whole number of at least 0"):
        PositionOptions(stretch=-1)
    for options, words in (({"skip": 8}, "`skip` is 8"), ({"cap": 2, "skip_after": 2}, "`skip_after` is 2")):
        with pytest.raises(FileFormatError, match=f"a.safetensors: {words}, expected less than the"):
            load_motion_module(path, positions=PositionOptions(**options))
