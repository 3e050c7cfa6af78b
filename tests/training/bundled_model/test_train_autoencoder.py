"""The decoder's own stage: what it draws, what its loss weighs, and what it leaves alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unet_motion.bundled import load_bundled
from unet_motion.bundled.autoencoder import Autoencoder
from unet_motion.training.bundled_model import drawn_clips as data
from unet_motion.training.bundled_model.train_autoencoder import (
    DecoderRecipe,
    outline_loss,
    outlines_right,
    sample_hard_frames,
    train_decoder,
)
from unet_motion.training.runs import RunLog

QUICK = DecoderRecipe(steps=4, batch=2, save_every=2, check=2)
QUIET = RunLog(None, quiet=True)


def model() -> Autoencoder:
    torch.manual_seed(3)
    return Autoencoder().to(memory_format=torch.channels_last)


def test_only_the_decoder_moves_and_a_killed_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    whole, before = model(), model().state_dict()
    train_decoder(whole, tmp_path / "whole", QUICK, QUIET)
    after = whole.state_dict()
    assert all(torch.equal(before[key], after[key]) == ("decoder" not in key) for key in before)

    class Killed(Exception):
        pass

    drawn = []

    def draw_until(rng, recipe):
        if len(drawn) == 3:
            raise Killed
        drawn.append(1)
        return sample_hard_frames(rng, recipe)

    monkeypatch.setattr("unet_motion.training.bundled_model.train_autoencoder.sample_hard_frames", draw_until)
    with pytest.raises(Killed):
        train_decoder(model(), tmp_path / "killed", QUICK, QUIET)
    monkeypatch.undo()
    resumed = model()
    train_decoder(resumed, tmp_path / "killed", QUICK, QUIET)
    assert all(torch.equal(after[key], value) for key, value in resumed.state_dict().items())


def test_the_loss_is_that_of_its_formula():
    torch.manual_seed(5)
    autoencoder, recipe = model().float(), replace(QUICK, latent_noise=0.0, near=0.6, margin=1)
    pictures, coverage = torch.rand(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    coverage[0, 0, 10, 20], coverage[1, 0, 30:50, 30:50] = 1.0, 1.0
    loss, figures = outline_loss(autoencoder, pictures, coverage, recipe)
    near = torch.zeros(2, 64, 64, dtype=torch.float64)
    near[0, 9:12, 19:22], near[1, 29:51, 29:51] = 1.0, 1.0
    error = (autoencoder.decode(autoencoder.encode(pictures)) - pictures).double()
    each = (error.abs() + 4 * error.square()).mean(1)
    inside = [each[i][near[i] > 0].mean() for i in range(2)]
    expected = (0.4 * each.mean((1, 2)) + 0.6 * torch.stack(inside)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)
    assert figures["mse"] == pytest.approx(error.square().mean().item(), rel=2e-3)
    loss.backward()
    moved = {name.split(".")[0] for name, p in autoencoder.named_parameters() if p.grad is not None}
    assert moved == {"taesd_decoder"}


def test_small_shapes_are_seen_often():
    recipe = replace(DecoderRecipe(), batch=256)
    _, hard = sample_hard_frames(np.random.default_rng(1), recipe)
    clips = data.sample_clips(np.random.default_rng(1), 256)
    _, usual = data.draw(clips)
    small = [share.sum((-1, -2)).flatten().lt(250).float().mean().item() for share in (hard, usual)]
    assert small[0] > 2 * small[1] > 0


def test_the_shipped_decoder_keeps_the_smallest_outlines_and_an_untrained_one_does_not():
    assert outlines_right(load_bundled().autoencoder, 64, seed=4242) >= 0.9
    assert outlines_right(model(), 16) < 0.5
