"""A training step is timed beside diffusers only where loss and gradients agree."""

import torch

from unet_motion.bench import cases, nets, training
from unet_motion.bench.measure import Ceilings


def test_a_training_step_has_the_loss_and_gradients_of_diffusers(monkeypatch):
    bench = cases.Bench(torch.device("cpu"), torch.float32, Ceilings(1e9, 1e9), rounds=1)
    monkeypatch.setitem(nets.WIDTHS, "tiny", (64, 64, 64, 64))
    row = training.training_step(bench, "tiny", 2, 16, ">= 1.15")
    assert row.error < 1e-5 and row.ratio is not None and row.memory[0] > 0
    monkeypatch.setattr(training, "disagreement", lambda *_: 1.0)
    row = training.training_step(bench, "tiny", 2, 16, ">= 1.15")
    assert row.ratio is None and "differ" in row.note
