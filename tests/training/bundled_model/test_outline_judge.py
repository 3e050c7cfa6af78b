"""The outline judge on drawn clips, where the shape of every frame is known."""

import numpy as np
import pytest
import torch

from unet_motion.training.bundled_model import drawn_clips as data
from unet_motion.training.bundled_model.outline_judge import coverage, frame_shapes


@pytest.fixture(scope="module")
def drawn():
    """Two clips of every shape, in all motions and colours."""
    rng = np.random.default_rng(11)
    chosen = [(s, (3 * s + k) % 8, (s + 5 * k) % 8) for k in range(2) for s in range(8)]
    rows = [data.sample_clips(rng, 1, np.array([triple])) for triple in chosen]
    clips = data.ClipBatch(**{key: torch.cat([getattr(row, key) for row in rows]) for key in vars(rows[0])})
    return clips, *data.draw(clips)


def test_every_frame_of_drawn_clips_is_named_rightly(drawn):
    clips, pictures, _ = drawn
    assert torch.equal(frame_shapes(pictures), clips.shape[:, None].expand(-1, data.FRAMES))


def test_noise_and_another_brightness_do_not_matter(drawn):
    clips, pictures, _ = drawn
    noisy = pictures[:8] + 0.03 * torch.randn(pictures[:8].shape, generator=torch.Generator().manual_seed(1)) + 0.04
    right = frame_shapes(noisy.clamp(0, 1)) == clips.shape[:8, None]
    assert right.float().mean() >= 0.99


def test_what_is_covered_is_what_was_drawn(drawn):
    _, pictures, covered = drawn
    found = torch.stack([coverage(clip) for clip in pictures])
    assert (found - covered[:, :, 0]).abs().mean() < 0.02


def test_a_frame_that_shows_nothing_has_no_shape(drawn):
    clips, pictures, _ = drawn
    clip = pictures[:1].clone()
    clip[0, 3] = 0.2
    found = frame_shapes(clip)
    assert found[0, 3] == -1 and (found[0, 4:] == clips.shape[0]).all()


def test_a_shape_that_turns_into_another_is_seen(drawn):
    clips, pictures, _ = drawn
    clip = torch.cat([pictures[:1, :8], pictures[1:2, 8:]], dim=1)
    assert frame_shapes(clip)[0].tolist() == [clips.shape[0]] * 8 + [clips.shape[1]] * 8
