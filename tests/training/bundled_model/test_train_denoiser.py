"""The denoising stages with a tiny network: resuming is exact, and the freeze holds."""

from dataclasses import replace

import pytest
import torch

from unet_motion.bundled import build_parts
from unet_motion.forward.options import ForwardOptions
from unet_motion.training.bundled_model import drawn_clips as data
from unet_motion.training.bundled_model.prompts import vocabulary
from unet_motion.training.bundled_model.train_denoiser import (
    Batch,
    StageRecipe,
    StageTrainer,
    text_path,
    without_motion,
)
from unet_motion.training.runs import RunLog

TINY = {
    "sample_size": 8,
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    "block_out_channels": (16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "num_attention_heads": 2,
    "motion_num_attention_heads": 2,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
}
IMAGES = StageRecipe("images", steps=6, frames=3, seed=1, pool=3, refresh=0.5, save_every=1, log_every=2)
PLAN = ((0.5, {1: 0.5, 4: 0.5}), (1.0, {16: 1.0}))
MOTION = replace(IMAGES, name="motion", frames=8, plan=PLAN, high_noise=0.5, noise_power=1.0)
PLACED = replace(MOTION, name="placed", frames=16, alone=1.0)
MIXED = replace(PLACED, alone=0.5, place_words=0.5, place_steps=(0, 6))
STEADY = replace(MOTION, name="steady", frames=16, plan=((1.0, {16: 1.0}),), flicker=0.5, favoured={"still": 3.0})
JOINT = replace(STEADY, name="joint", favoured={"spinning": 4.0})
PLAIN = replace(MOTION, noise_power=0.0, drop_prompt=0.0)


def tiny_parts():
    torch.manual_seed(7)
    return build_parts(vocabulary(), TINY)


def weights(parts):
    return {
        f"{name}.{key}": value.clone()
        for name in ("unet", "text_encoder")
        for key, value in getattr(parts, name).state_dict().items()
    }


def trained(recipe, folder, steps=None):
    parts = tiny_parts()
    trainer = StageTrainer(parts, recipe, folder, RunLog(None, quiet=True))
    if steps is None:
        trainer.run()
        trainer.finish()
    else:
        for _ in range(steps):
            trainer.train_step()
        trainer.save()
    return weights(parts)


@pytest.fixture(scope="module")
def unbroken_run(tmp_path_factory):
    """The weights that a recipe's run ends with, each run once."""
    done = {}

    def weights_of(recipe):
        if recipe.name not in done:
            done[recipe.name] = trained(recipe, tmp_path_factory.mktemp(recipe.name))
        return done[recipe.name]

    return weights_of


@pytest.mark.parametrize(
    "recipe", [IMAGES, MIXED, MOTION, STEADY, JOINT], ids=["images", "placed", "motion", "steady", "joint"]
)
def test_a_run_killed_and_resumed_equals_an_unbroken_one(recipe, unbroken_run, tmp_path):
    unbroken = unbroken_run(recipe)
    trained(recipe, tmp_path / "killed", steps=2)
    torch.manual_seed(999)
    resumed = trained(recipe, tmp_path / "killed")
    start = weights(tiny_parts())
    assert [k for k in unbroken if not torch.equal(unbroken[k], resumed[k])] == []
    assert [k for k in unbroken if not torch.equal(unbroken[k], start[k])]


@pytest.mark.parametrize("recipe", [MOTION, STEADY], ids=["motion", "steady"])
def test_the_clip_stages_move_only_motion_modules_and_the_text_path(recipe, unbroken_run):
    parts = tiny_parts()
    before = weights(parts)
    allowed = {name for name, _ in text_path(parts)}
    after = unbroken_run(recipe)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in moved if "motion_modules." not in name and name not in allowed]
    assert [name for name in moved if "motion_modules." in name]
    assert any("add_embedding" in name for name in moved)
    assert "unet.conv_in.weight" not in moved and "unet.mid_block.resnets.0.conv1.weight" not in moved


def test_the_joint_stage_moves_all_that_computes(unbroken_run):
    before, after = weights(tiny_parts()), unbroken_run(JOINT)
    still = {name for name in before if torch.equal(before[name], after[name])}
    # Position tables are no weights; each step sees few words, and only those words move.
    assert all(name.endswith(".pe") or "text_encoder" in name for name in still)


def test_the_image_stage_leaves_motion_modules_alone_and_skips_them(unbroken_run):
    parts = tiny_parts()
    before, after = weights(parts), unbroken_run(IMAGES)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "unet.conv_in.weight" in moved
    assert not [name for name in moved if "motion_modules." in name]
    x, text, vector = torch.randn(2, 4, 8, 8), torch.randn(2, 16, 16), {"vector": torch.randn(2, 24)}
    plain = parts.unet.forward_frames(x, 10, text, 1, added_cond_kwargs=vector)
    with without_motion(parts.unet):
        skipped = parts.unet.forward_frames(x, 10, text, 1, added_cond_kwargs=vector)
    assert torch.equal(plain, skipped)
    torch.nn.init.ones_(parts.unet.mid_block.motion_modules[0].proj_out.bias)
    assert not torch.equal(parts.unet.forward_frames(x, 10, text, 1, added_cond_kwargs=vector), skipped)


def test_a_batch_is_the_pool_at_the_frames_that_its_positions_name(tmp_path):
    trainer = StageTrainer(tiny_parts(), MOTION, tmp_path, RunLog(None, quiet=True))
    counts = set()
    for _ in range(12):
        batch = trainer.sample()
        positions = batch.options.frame_positions
        counts.add(batch.frames)
        assert positions.tolist() == sorted(set(positions.tolist())) and 0 <= positions[0] and positions[-1] < 16
        assert batch.clean.shape == (8 // batch.frames, batch.frames, 4, 8, 8)
        assert batch.cover.shape == (8 // batch.frames, batch.frames, 1, 8, 8)
        assert len(batch.prompts) == 8 // batch.frames
        stored = [torch.equal(batch.clean[0], row[positions].float()) for row in trainer.pool.latents]
        assert sum(stored) == 1
    assert counts == {1, 4}
    trainer.step = MOTION.steps // 2
    batch = trainer.sample()
    assert batch.options.frame_positions.tolist() == list(range(16)) and len(batch.clean) == 1


def test_frames_in_place_are_strangers_at_their_own_position(tmp_path):
    trainer = StageTrainer(tiny_parts(), PLACED, tmp_path, RunLog(None, quiet=True))
    batch = trainer.sample()
    assert batch.clean.shape == (16, 1, 4, 8, 8) and batch.frames == 16
    for place, frame in enumerate(batch.clean[:, 0]):
        assert any(torch.equal(frame, clip[place].float()) for clip in trainer.pool.latents)
    unet, hidden = trainer.parts.unet, torch.randn(16, 16, 16)
    torch.nn.init.normal_(unet.mid_block.motion_modules[0].proj_out.weight)
    x, times, vector = torch.randn(16, 4, 8, 8), torch.arange(16), {"vector": torch.randn(16, 24)}

    def run(frames):
        return unet.forward_frames(frames, times, hidden, 16, added_cond_kwargs=vector, options=batch.options)

    changed = x.clone()
    changed[3] += 1.0
    moved = (run(x) - run(changed)).flatten(1).abs().amax(1) > 1e-6
    assert moved.nonzero().flatten().tolist() == [3]


def test_late_frames_come_from_the_end_of_their_clips(tmp_path):
    trainer = StageTrainer(tiny_parts(), replace(PLACED, late=(0, 3)), tmp_path, RunLog(None, quiet=True))
    seen = set()
    for _ in range(4):
        seen |= set(trainer.sample().options.frame_positions.tolist())
    assert seen == {11, 12, 13, 14, 15}
    trainer.step = 3
    assert trainer.sample().options.frame_positions.tolist() == list(range(16))


def test_the_loss_is_the_weighted_error_of_the_noise(tmp_path):
    trainer = StageTrainer(tiny_parts(), PLAIN, tmp_path, RunLog(None, quiet=True))
    torch.nn.init.zeros_(trainer.parts.unet.conv_out.weight)
    torch.nn.init.zeros_(trainer.parts.unet.conv_out.bias)
    latents, cover = torch.zeros(2, 8, 4, 8, 8), torch.zeros(2, 8, 1, 8, 8)
    cover[:, :, :, :4] = 1.0
    trainer.sample = lambda: Batch(latents, cover, ["a red star moving left"] * 2, 8, ForwardOptions())
    state = torch.get_rng_state()
    loss = trainer.loss()
    torch.set_rng_state(state)
    noise = torch.randn_like(latents)
    expected = (4 * noise[..., :4, :].square().mean() + noise[..., 4:, :].square().mean()) / 5
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_flicker_adds_the_weighted_change_of_the_error_from_frame_to_frame(tmp_path):
    losses = []
    latents, cover = torch.zeros(2, 8, 4, 8, 8), torch.zeros(2, 8, 1, 8, 8)
    cover[:, :, :, :4] = 1.0
    for recipe in (PLAIN, replace(PLAIN, flicker=0.5)):
        trainer = StageTrainer(tiny_parts(), recipe, tmp_path, RunLog(None, quiet=True))
        torch.nn.init.zeros_(trainer.parts.unet.conv_out.weight)
        torch.nn.init.zeros_(trainer.parts.unet.conv_out.bias)
        trainer.sample = lambda: Batch(latents, cover, ["a red star still"] * 2, 8, ForwardOptions())
        torch.manual_seed(5)
        losses.append(trainer.loss().item())
    torch.manual_seed(5)
    change = torch.randn_like(latents).diff(dim=1)
    expected = (4 * change[..., :4, :].square().mean() + change[..., 4:, :].square().mean()) / 5
    assert losses[1] - losses[0] == pytest.approx(0.5 * expected.item(), rel=1e-4)


def test_favoured_motions_are_seen_as_many_times_as_often(tmp_path):
    trainer = StageTrainer(tiny_parts(), replace(MOTION, favoured={"still": 3.0}), tmp_path, RunLog(None, quiet=True))
    trainer.pool.clips.motion[:] = torch.tensor([data.MOTIONS.index(name) for name in ("still", "left", "up")])
    seen = torch.bincount(trainer.rows(6000), minlength=3) / 6000
    assert seen.tolist() == pytest.approx([0.6, 0.2, 0.2], abs=0.03)


def test_a_loss_that_is_not_finite_stops_and_names_the_step(tmp_path):
    trainer = StageTrainer(tiny_parts(), IMAGES, tmp_path, RunLog(None, quiet=True))
    torch.nn.init.constant_(trainer.parts.unet.conv_in.weight, float("nan"))
    with pytest.raises(FloatingPointError, match="stage images is nan at step 0"):
        trainer.train_step()


def test_an_unknown_stage_is_refused(tmp_path):
    with pytest.raises(ValueError, match="stage is 'sound'"):
        StageTrainer(tiny_parts(), replace(IMAGES, name="sound"), tmp_path, RunLog(None, quiet=True))


def test_the_pool_holds_what_the_autoencoder_makes_of_its_clips(tmp_path):
    trainer = StageTrainer(tiny_parts(), IMAGES, tmp_path, RunLog(None, quiet=True))
    pool = trainer.pool
    pictures, coverage = data.draw(pool.clips)
    with torch.no_grad():
        expected = trainer.parts.autoencoder.encode(pictures.flatten(0, 1)).unflatten(0, (3, 16))
    assert (pool.latents.float() - expected).abs().max() < 0.02 * expected.abs().max() + 0.02
    share = coverage[1, 5, 0].reshape(8, 8, 8, 8).mean((1, 3))
    assert (pool.cover[1, 5, 0].float() - share).abs().max() < 1e-3
