"""Training motion modules: what moves, what the loss is, and that a killed run ends as an unbroken one."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from unet_motion import UNetMotionModel, load_motion_module, load_unet
from unet_motion.formats.save_motion_module import save_motion_file
from unet_motion.sampling import NoiseSchedule, get_sampler
from unet_motion.training import trainer as motion_loop
from unet_motion.training.data.encoded import EncodedClips
from unet_motion.training.objective import Objective
from unet_motion.training.recipe import MotionRecipe
from unet_motion.training.runs import Average
from unet_motion.training.trainer import MotionTrainer

TINY = {
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    "block_out_channels": (16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "num_attention_heads": 2,
    "motion_num_attention_heads": 4,
    "motion_max_seq_length": 8,
    "motion_norm_scope": "frame",
}
RECIPE = MotionRecipe(
    steps=7, batch=2, accumulate=2, learning_rate=3e-3, warmup=2, ema=0.9, min_snr=5.0, noise_offset=0.1,
    drop_prompt=0.3, save_every=2, seed=3,
)  # fmt: skip
PLAIN = MotionRecipe(steps=4, drop_prompt=0.0, warmup=0)
ROOT = Path(__file__).parents[2]


def tiny_unet(seed=0):
    """A random UNet whose motion modules act."""
    torch.manual_seed(seed)
    unet = UNetMotionModel(**TINY)
    for part in unet.motion_parts():
        for module in part:
            torch.nn.init.normal_(module.proj_out.weight, std=0.2)
    return unet


def write_clips(folder, count=3, frames=5, bad=()):
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(11)
    for i in range(count):
        latents = torch.randn(frames, 4, 4, 4, generator=generator)
        if i in bad:
            latents[0, 0, 0, 0] = float("nan")
        save_file(
            {"latents": latents, "text": torch.randn(6, 16, generator=generator)}, folder / f"clip{i}.safetensors"
        )
    save_file({"text": torch.zeros(6, 16)}, folder / "empty.safetensors")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("data"))


def trainer(data, folder, recipe=RECIPE, unet=None, prediction="epsilon"):
    objective = Objective(NoiseSchedule.named(prediction=prediction), recipe.min_snr, recipe.noise_offset)
    return MotionTrainer(unet or tiny_unet(), EncodedClips(data, 4), objective, recipe, folder, {"b": 1}, quiet=True)


def everything(run):
    """All that a step depends on and all that it leaves, by name."""
    state = {f"unet.{k}": v.clone() for k, v in run.unet.state_dict().items()}
    for number, entry in run.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{number}.{k}": v.clone() for k, v in entry.items()}
    if run.average is not None:
        state |= {f"average.{i}": v.clone() for i, v in enumerate(run.average.values)}
    return state | {"generator": run.generator.get_state()}


def different(one, other):
    return [name for name in one if not torch.equal(one[name], other[name])] + sorted(one.keys() ^ other.keys())


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """A whole run: its folder and what it leaves."""
    folder = tmp_path_factory.mktemp("unbroken")
    run = trainer(data, folder)
    run.run()
    return folder, everything(run)


def losses(folder):
    return [json.loads(line) for line in (folder / motion_loop.LOG).read_text(encoding="utf-8").splitlines()]


def test_only_motion_modules_change_and_all_of_them_do(unbroken):
    before, after = tiny_unet().state_dict(), unbroken[1]
    moved = {name for name in before if not torch.equal(before[name], after[f"unet.{name}"])}
    assert moved == {k for k in before if ".motion_modules." in k and not k.endswith(".pe")}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("seed", range(5))
def test_a_run_killed_at_random_steps_and_resumed_equals_an_unbroken_one_bit_for_bit(seed, data, unbroken, tmp_path):
    at = sorted(random.Random(seed).sample(range(RECIPE.steps * RECIPE.accumulate), 2))
    for kill in at:  # counted in forward passes, so that a run also dies between those of one step
        run = trainer(data, tmp_path)
        left, loss = [kill - run.step * RECIPE.accumulate], run.loss

        def dying(draw, left=left, loss=loss):
            if left[0] <= 0:
                raise Killed
            left[0] -= 1
            return loss(draw)

        run.loss = dying
        torch.manual_seed(seed)  # the global generator has no part in it
        with pytest.raises(Killed):
            run.run()
    last = trainer(data, tmp_path, unet=tiny_unet(seed=0))
    assert last.step in (0, 2, 4, 6)
    last.run()
    assert different(unbroken[1], everything(last)) == []
    assert losses(tmp_path) == losses(unbroken[0]) and [r["step"] for r in losses(tmp_path)] == list(range(7))
    assert different(everything(trainer(data, tmp_path)), unbroken[1]) == []


def test_a_process_killed_while_it_saves_leaves_the_last_good_checkpoint(data, unbroken, tmp_path):
    code = f"""
import os, signal, sys, torch
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
torch.set_num_threads({torch.get_num_threads()})  # sums round by the number of threads
import test_trainer as t
from pathlib import Path
save, count = torch.save, []
def dying(state, path):
    count.append(1)
    save(state, path)
    if len(count) == 3:
        whole = Path(path).read_bytes()
        Path(path).write_bytes(whole[: len(whole) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = dying
t.trainer(Path({str(data)!r}), Path({str(tmp_path)!r})).run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = trainer(data, tmp_path)
    assert run.step == 4
    run.run()
    assert different(unbroken[1], everything(run)) == []


def test_a_save_that_fails_leaves_the_last_good_checkpoint_and_no_rest(data, tmp_path, monkeypatch):
    run = trainer(data, tmp_path)
    for _ in range(3):
        run.train_step()
    good = run.path.read_bytes()

    def full(state, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        run.save(run.generator.get_state())
    assert run.path.read_bytes() == good and sorted(os.listdir(tmp_path)) == ["checkpoint.pt", "losses.jsonl"]


@pytest.mark.parametrize("change", [{"learning_rate": 1e-3}, {"batch": 1}, {"steps": 99}, {"drop_prompt": 0.0}])
def test_a_run_is_not_resumed_with_another_recipe(change, data, unbroken):
    with pytest.raises(ValueError, match=f"another `{next(iter(change))}`"):
        trainer(data, unbroken[0], dataclasses.replace(RECIPE, **change))


def test_a_run_is_not_resumed_with_other_data(unbroken, tmp_path):
    with pytest.raises(ValueError, match="another `data`"):
        trainer(write_clips(tmp_path / "more", count=4), unbroken[0])


def test_gradients_are_equal_with_and_without_checkpointing_and_accumulation(data, tmp_path):
    recipe = dataclasses.replace(RECIPE, batch=4)

    def gradients(name, checkpointing, size):
        run = trainer(data, tmp_path / name, dataclasses.replace(recipe, checkpointing=checkpointing))
        loss = run.gradients(run.draw().split(size))
        return loss, {name: p.grad for name, p in run.trained.items()}

    loss, expected = gradients("plain", False, 4)
    assert max(g.abs().max() for g in expected.values()) > 1e-2
    for name, how in {"checkpointing": (True, 4), "accumulated": (False, 1), "both": (True, 2)}.items():
        found, grads = gradients(name, *how)
        assert found == pytest.approx(loss, rel=1e-5)
        for key in expected:
            torch.testing.assert_close(grads[key], expected[key], rtol=0, atol=1e-5, msg=f"{name}: {key}")


def test_checkpointing_keeps_less_for_the_backward_pass(data, tmp_path):
    kept = {}
    for checkpointing in (False, True):
        run, sizes = trainer(data, tmp_path, dataclasses.replace(PLAIN, checkpointing=checkpointing)), {}

        def pack(t, sizes=sizes):
            sizes[t.data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            run.loss(run.draw())
        kept[checkpointing] = sum(sizes.values())
    assert kept[True] < 0.7 * kept[False]


@pytest.mark.parametrize("gamma", [0.0, 5.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_that_of_its_closed_form(prediction, gamma):
    schedule = NoiseSchedule.named(prediction=prediction)
    generator = torch.Generator().manual_seed(2)
    clean, noise, output = (torch.randn(4, 3, 4, 2, 2, generator=generator) for _ in range(3))
    timesteps = torch.tensor([0, 140, 600, 999])
    expected = []
    for row, t in enumerate(timesteps.tolist()):
        level = schedule.alphas_cumprod[t].item()
        alpha, sigma = level**0.5, (1 - level) ** 0.5
        x = alpha * clean[row] + sigma * noise[row]
        # The clean clip that the output stands for; its error is the prediction's, scaled.
        guess, scale = {
            "epsilon": ((x - sigma * output[row]) / alpha, sigma / alpha),
            "v_prediction": (alpha * x - sigma * output[row], sigma),
            "sample": (output[row], 1.0),
        }[prediction]
        error = ((guess - clean[row]) ** 2).mean().item()
        weight = min(level / (1 - level), gamma) if gamma else 1 / scale**2
        expected.append(weight * error)
    found = Objective(schedule, gamma).loss(output, clean, noise, timesteps).item()
    assert found == pytest.approx(sum(expected) / 4, rel=2e-3)


def test_min_snr_weights_stay_finite_where_nothing_of_the_clip_is_left():
    for prediction, expected in (("epsilon", 1.0), ("v_prediction", 0.0), ("sample", 0.0)):
        schedule = NoiseSchedule.named(prediction=prediction, zero_terminal_snr=True)
        assert Objective(schedule, 5.0).weights(torch.tensor([999])).tolist() == [expected]


def test_offset_noise_is_one_number_more_for_a_channel_of_a_clip():
    plain, offset = Objective(NoiseSchedule.named()), Objective(NoiseSchedule.named(), noise_offset=0.5)
    clean = torch.zeros(500, 3, 4, 2, 2)
    difference = offset.draw_noise(clean, torch.Generator().manual_seed(4)) - plain.draw_noise(
        clean, torch.Generator().manual_seed(4)
    )
    shift = difference[:, :1, :, :1, :1]
    torch.testing.assert_close(difference, shift.expand_as(difference), rtol=0, atol=1e-6)
    assert shift.std().item() == pytest.approx(0.5, rel=0.06)


def test_the_average_is_that_of_a_loop_by_hand(data, tmp_path):
    run = trainer(data, tmp_path)
    name = next(iter(run.trained))
    expected = run.trained[name].detach().double().clone()
    for count in range(1, 6):
        run.train_step()
        decay = min(0.9, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * run.trained[name].detach().double()
    live = run.trained[name].detach().clone()
    with run.averaged():
        torch.testing.assert_close(run.trained[name].detach().double(), expected, rtol=0, atol=1e-6)
        assert not torch.equal(run.trained[name], live)
    assert torch.equal(run.trained[name], live)


def test_an_average_grows_slower_up_to_its_decay_and_no_further():
    weight, draw = torch.nn.Parameter(torch.zeros(3)), torch.Generator().manual_seed(2)
    average, expected = Average([weight], 0.7), torch.zeros(3, dtype=torch.float64)
    for count in range(1, 60):
        with torch.no_grad():
            weight.copy_(torch.randn(3, generator=draw))
        average.update()
        decay = (1 + count) / (10 + count) if count < 20 else 0.7
        expected = decay * expected + (1 - decay) * weight.detach().double()
    torch.testing.assert_close(average.values[0].double(), expected, rtol=0, atol=1e-6)


def test_a_step_is_adamw_on_the_clipped_gradient_at_the_scheduled_rate(data, tmp_path):
    recipe = dataclasses.replace(PLAIN, clip=0.05, learning_rate=1e-2, weight_decay=0.1, warmup=3, steps=8)
    run = trainer(data, tmp_path, recipe)
    name = max(run.trained, key=lambda n: run.trained[n].numel())
    value, first, second = run.trained[name].detach().double().clone(), 0.0, 0.0
    for step in range(5):
        state = run.generator.get_state()
        run.gradients([run.draw()])
        norm = sum(p.grad.double().square().sum() for p in run.trained.values()).sqrt()
        grad = run.trained[name].grad.double() * min(1.0, 0.05 / (norm.item() + 1e-6))
        run.generator.set_state(state)
        row = run.train_step()
        assert row["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4) and norm > 0.05
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
        rate = row["learning_rate"]
        value = value * (1 - rate * 0.1)
        value -= rate * (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        torch.testing.assert_close(run.trained[name].detach().double(), value, rtol=0, atol=2e-5)


def test_the_rate_rises_and_then_stays_or_falls_as_a_half_cosine():
    cosine = MotionRecipe(steps=12, warmup=4, learning_rate=1.0)
    constant = dataclasses.replace(cosine, schedule="constant")
    assert [constant.rate(i) for i in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert [cosine.rate(i) for i in (3, 4, 8, 12)] == pytest.approx([0.8, 1.0, 0.5, 0.0])


def test_dropped_prompts_are_the_empty_one_in_the_asked_share(data, tmp_path):
    run = trainer(data, tmp_path, dataclasses.replace(RECIPE, batch=50))
    texts = torch.cat([run.draw().text["text"] for _ in range(20)])
    assert (texts == 0).flatten(1).all(1).float().mean().item() == pytest.approx(0.3, abs=0.045)


def test_lines_on_the_console_say_the_step_the_loss_and_the_time_that_is_left(data, tmp_path, monkeypatch, capsys):
    """Ten seconds a step, in a run that goes on at its third of 11 steps."""
    now = [5.0]
    recipe = dataclasses.replace(PLAIN, steps=11, log_every=3)
    run = trainer(data, tmp_path, recipe)
    run.step, run.quiet = 2, False

    def step():
        run.step += 1
        now[0] += 10
        return {"loss": run.step / 8}

    monkeypatch.setattr(motion_loop.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(run, "train_step", step)
    monkeypatch.setattr(run, "_save_last", lambda: None)
    run.run()
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "step 3 of 11: loss 0.37500, 0:01:20 left",
        "step 6 of 11: loss 0.75000, 0:00:50 left",
        "step 9 of 11: loss 1.12500, 0:00:20 left",
    ]
    assert said.err.startswith("training: 9 of 9 in ")
    assert [motion_loop.clock(s) for s in (0, 59.4, 59.5, 3599, 3600, 45296)] == [
        "0:00:00", "0:00:59", "0:01:00", "0:59:59", "1:00:00", "12:34:56"
    ]  # fmt: skip


def test_bfloat16_computes_nearly_the_same_and_keeps_float32_weights(data, tmp_path):
    runs = [trainer(data, tmp_path, dataclasses.replace(RECIPE, bfloat16=half)) for half in (False, True)]
    full, half = (run.loss(run.draw()).item() for run in runs)
    assert full != half and half == pytest.approx(full, rel=0.02)
    assert {p.dtype for p in runs[1].trained.values()} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_names_step_and_batch_and_keeps_the_last_good_weights(tmp_path):
    recipe = dataclasses.replace(PLAIN, steps=60, save_every=1, seed=6, learning_rate=1e-3)
    data = write_clips(tmp_path / "data", count=5, bad=[2])
    run = trainer(data, tmp_path / "out", recipe)
    with pytest.raises(FloatingPointError) as error:
        run.run()
    stopped = len(losses(tmp_path / "out"))
    assert 1 < stopped < 60
    timestep = int(str(error.value).split("timesteps ")[1].split(";")[0])
    assert 0 <= timestep < 1000
    assert f"the loss is nan at step {stopped}, for clip2.safetensors at timesteps {timestep};" in str(error.value)
    assert f"The weights of step {stopped - 1} are kept in {run.path}" in str(error.value)
    again = trainer(data, tmp_path / "again", recipe)
    for _ in range(stopped - 1):
        again.train_step()
    kept = trainer(data, tmp_path / "out", recipe)
    for one in (run, kept):
        assert different(everything(one), everything(again)) == []


def test_weights_that_a_step_has_spoilt_are_never_saved(data, tmp_path):
    recipe = dataclasses.replace(PLAIN, learning_rate=1e30, save_every=1, weight_decay=0.0)
    with pytest.raises(FloatingPointError, match="at step 1, .*No checkpoint was written before"):
        trainer(data, tmp_path, recipe).run()
    assert not (tmp_path / "checkpoint.pt").exists()
    with pytest.raises(FloatingPointError, match="at step 1, "):
        trainer(data, tmp_path / "one", dataclasses.replace(recipe, steps=1)).run()
    assert not (tmp_path / "one" / "checkpoint.pt").exists()


def test_one_clip_is_learned_and_the_file_samples_it_too(tmp_path):
    """A clip whose frames have one colour each: whoever does not know which frame is which errs by their variance."""
    clip = 0.5 * torch.randn(4, 4, 1, 1, generator=torch.Generator().manual_seed(8)).expand(4, 4, 4, 4).contiguous()
    data = tmp_path / "data"
    data.mkdir()
    save_file({"latents": clip, "text": torch.zeros(6, 16)}, data / "clip.safetensors")
    base, unet = colourful_unet(), colourful_unet()
    recipe = MotionRecipe(steps=60, learning_rate=2e-2, warmup=5, drop_prompt=0.0, seed=1)
    trainer(data, tmp_path / "out", recipe, unet, "sample").run()
    rows = [row["loss"] for row in losses(tmp_path / "out")]
    assert clip.var(0, correction=0).mean() > 0.18
    assert sum(rows[:5]) / 5 > 0.3 and sum(rows[-10:]) / 10 < 0.12
    path = tmp_path / "m.safetensors"
    save_motion_file(unet, path, {"what": "test"})
    base.save_pretrained(tmp_path / "base")
    found = sample(load_unet(tmp_path / "base", path))
    assert torch.equal(found, sample(unet))
    assert (found - clip).square().mean() < 0.12 and (sample(base) - clip).square().mean() > 0.3


def colourful_unet():
    """A random UNet whose output layer looks at one pixel, and whose motion modules look hard at positions."""
    unet = tiny_unet()
    with torch.no_grad():
        total = 4 * unet.conv_out.weight.sum((2, 3))
        unet.conv_out.weight.zero_()[:, :, 1, 1] = total
        for name, parameter in unet.named_parameters():
            if ".motion_modules." in name and (".to_q." in name or ".to_k." in name):
                parameter *= 6
    return unet


@torch.no_grad()
def sample(unet):
    schedule, run = NoiseSchedule.named(prediction="sample"), get_sampler("ddim")
    x = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    text = torch.zeros(1, 6, 16)
    return run.run(lambda x, t: unet.forward_frames(x, float(t), text, 4), x, schedule, schedule.steps(5, run.spacing))


def test_the_file_has_the_original_names_and_says_what_they_do_not(tmp_path):
    unet = tiny_unet()
    save_motion_file(unet, tmp_path / "m.safetensors", {"what": "test"})
    with safe_open(str(tmp_path / "m.safetensors"), "pt") as file:
        names, said = set(file.keys()), json.loads(file.metadata()["unet_motion"])
    block = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0"
    assert {f"{block}.attention_blocks.1.to_q.weight", f"{block}.attention_blocks.0.pos_encoder.pe"} <= names
    assert said["training"] == {"what": "test"}
    module = load_motion_module(tmp_path / "m.safetensors")
    assert module.config == unet.motion_adapter_config() and module.norm_scopes == ("frame", "frame")
    assert all(torch.equal(module.state_dict[k], v) for k, v in unet.state_dict().items() if ".motion_modules." in k)


@pytest.mark.parametrize(
    ("name", "tensors", "said"),
    [
        ("short", {"latents": torch.zeros(3, 4, 4, 4), "text": torch.zeros(6, 16)}, r"\[3, 4, 4, 4\], expected .*4 fr"),
        ("none", {"text": torch.zeros(6, 16)}, "no latents"),
        ("wordless", {"latents": torch.zeros(4, 4, 4, 4)}, "no `text`"),
        ("odd", {"latents": torch.zeros(4, 4, 4, 4), "text": torch.zeros(6, 16), "x": torch.zeros(1)}, "`x` among"),
        ("flat", {"latents": torch.zeros(4, 4, 4, 4), "text": torch.zeros(16)}, "`text` among"),
        ("long", {"latents": torch.zeros(4, 4, 4, 4), "text": torch.zeros(7, 16)}, "texts of shapes"),
    ],
)
def test_an_encoded_clip_that_does_not_fit_is_named(name, tensors, said, tmp_path):
    write_clips(tmp_path)
    save_file(tensors, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=f"{name}.safetensors: .*{said}"):
        EncodedClips(tmp_path, 4)


def test_a_folder_without_clips_or_without_the_empty_prompt_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no encoded clips"):
        EncodedClips(tmp_path, 4)
    with pytest.raises(NotADirectoryError):
        EncodedClips(tmp_path / "gone", 4)
    (write_clips(tmp_path) / "empty.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no empty\.safetensors"):
        trainer(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="expected at most 8"):
        objective = Objective(NoiseSchedule.named())
        write_clips(tmp_path, frames=9)
        MotionTrainer(tiny_unet(), EncodedClips(tmp_path, 9), objective, PLAIN, tmp_path / "out")


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"learning_rate": 0.0}, {"ema": 1.0}, {"schedule": "steep"}, {"min_snr": float("nan")}]
)
def test_numbers_out_of_range_are_named(bad):
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}`"):
        MotionRecipe(**bad)
