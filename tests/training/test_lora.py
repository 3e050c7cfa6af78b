"""Training LoRAs: what they are on, that nothing else changes, that a killed run goes on, and the files they become."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from unet_motion import UNetMotionModel, apply_motion_lora, inspect_file, load_motion_lora, remove_motion_lora
from unet_motion.cli import main
from unet_motion.cli.train_motion_lora import DIFFUSERS, ORIGINAL, SPATIAL_OUTPUT
from unet_motion.lora.saving import lora_names, save_lora
from unet_motion.sampling import NoiseSchedule
from unet_motion.training import trainer as motion_loop
from unet_motion.training.data.encoded import EncodedClips
from unet_motion.training.lora import SPATIAL, TEMPORAL, LoraSettings, TrainableLora
from unet_motion.training.lora_trainer import LoraTrainer
from unet_motion.training.objective import Objective
from unet_motion.training.recipe import MotionRecipe

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
}
RECIPE = MotionRecipe(
    steps=6, batch=2, accumulate=2, learning_rate=1e-2, warmup=1, ema=0.9, drop_prompt=0.3, save_every=2, seed=3
)
PLAIN = LoraSettings(rank=2)
SPLIT = LoraSettings(rank=2, alpha=3.0, projections=("q", "v", "out", "ff"), spatial=True)


def tiny_unet():
    torch.manual_seed(0)
    unet = UNetMotionModel(**TINY)
    for part in unet.motion_parts():
        for module in part:
            torch.nn.init.normal_(module.proj_out.weight, std=0.2)
    return unet


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    generator = torch.Generator().manual_seed(11)
    for i in range(3):
        entry = {
            "latents": torch.randn(5, 4, 4, 4, generator=generator),
            "text": torch.randn(6, 16, generator=generator),
        }
        save_file(entry, folder / f"clip{i}.safetensors")
    save_file({"text": torch.zeros(6, 16)}, folder / "empty.safetensors")
    return folder


def trainer(data, folder, settings=PLAIN, recipe=RECIPE, debias=0.0, unet=None):
    unet = unet or tiny_unet()
    lora = TrainableLora(unet, settings, recipe.seed)
    objective = Objective(NoiseSchedule.named())
    return LoraTrainer(
        lora, unet, EncodedClips(data, 4), objective, recipe, folder, {"b": 1}, quiet=True, debias=debias
    )


def everything(run):
    state = {name: value.detach().clone() for name, value in run.trained.items()}
    for number, entry in run.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{number}.{k}": v.clone() for k, v in entry.items()}
    if run.average is not None:
        state |= {f"average.{i}": v.clone() for i, v in enumerate(run.average.values)}
    return state | {"generator": run.generator.get_state()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def output(unet):
    generator = torch.Generator().manual_seed(4)
    sample, text = torch.randn(1, 4, 4, 4, 4, generator=generator), torch.randn(1, 6, 16, generator=generator)
    with torch.no_grad():
        if not isinstance(unet, UNetMotionModel):  # diffusers wants the text once per frame
            text = text.repeat_interleave(sample.shape[2], dim=0)
        return unet(sample, 300, text).sample


@pytest.mark.parametrize(
    ("settings", "count", "has", "has_not"),
    [
        (PLAIN, 56, ".attn2.to_out.0", ".ff."),
        (LoraSettings(projections=("q",), blocks=("mid_block",)), 2, "mid_block.", "to_k"),
        (LoraSettings(projections=("ff", "proj"), blocks=("up_blocks.1", "mid_block")), 12, ".proj_in", "down_blocks"),
    ],
)
def test_the_chosen_layers_of_the_chosen_blocks_get_a_lora(settings, count, has, has_not):
    names = TrainableLora(tiny_unet(), settings).pairs[TEMPORAL]
    assert len(names) == count and all(".motion_modules." in name for name in names)
    assert any(has in name for name in names) and not any(has_not in name for name in names)


def test_the_split_has_self_attention_and_feed_forward_of_image_layers_apart_from_motion():
    pairs = TrainableLora(tiny_unet(), SPLIT).pairs
    assert all(".attentions." in name and ".attn2." not in name for name in pairs[SPATIAL])
    assert any(".ff.net.2" in name for name in pairs[SPATIAL])
    assert all(".motion_modules." in name for name in pairs[TEMPORAL])


def test_a_new_lora_changes_nothing_and_a_removed_one_leaves_nothing():
    unet = tiny_unet()
    expected = output(unet)
    lora = TrainableLora(unet, SPLIT)
    assert torch.equal(output(unet), expected)
    for parameter in lora.parameters().values():
        torch.nn.init.normal_(parameter)
    assert not torch.equal(output(unet), expected)
    lora.remove()
    assert torch.equal(output(unet), expected)


@pytest.mark.parametrize(("settings", "debias"), [(PLAIN, 0.0), (SPLIT, 1.0)])
def test_only_the_lora_changes_and_a_killed_run_ends_as_an_unbroken_one(settings, debias, data, tmp_path):
    unbroken = trainer(data, tmp_path / "one", settings, debias=debias)
    weights = {name: value.clone() for name, value in unbroken.unet.state_dict().items()}
    first = everything(unbroken)
    unbroken.run()
    assert same(unbroken.unet.state_dict(), weights)
    after = everything(unbroken)
    assert all(not torch.equal(after[name], first[name]) for name in unbroken.trained)
    for kill in (1, 4):
        run = trainer(data, tmp_path / "two", settings, debias=debias)
        for _ in range(max(0, kill - run.step) + 1):
            run.train_step()
    last = trainer(data, tmp_path / "two", settings, debias=debias)
    assert last.step == 4
    last.run()
    assert same(everything(last), after)
    with pytest.raises(ValueError, match="another `lora`"):
        trainer(data, tmp_path / "two", dataclasses.replace(settings, rank=3), debias=debias)


def test_gradients_are_equal_with_and_without_checkpointing_and_accumulation(data, tmp_path):
    recipe = dataclasses.replace(RECIPE, batch=4)

    def gradients(name, checkpointing, size):
        run = trainer(data, tmp_path / name, SPLIT, dataclasses.replace(recipe, checkpointing=checkpointing), 1.0)
        with torch.no_grad():
            for parameter in run.trained.values():
                parameter.add_(0.1)
        draw = run.draw()
        draw.extra["alone"][:] = False
        loss = run.gradients(draw.split(size))
        return loss, {name: p.grad for name, p in run.trained.items()}

    loss, expected = gradients("plain", False, 4)
    assert max(g.abs().max() for g in expected.values()) > 1e-2
    for name, how in {"checkpointing": (True, 4), "accumulated": (False, 1), "both": (True, 2)}.items():
        found, grads = gradients(name, *how)
        assert found == pytest.approx(loss, rel=1e-5)
        for key in expected:
            torch.testing.assert_close(grads[key], expected[key], rtol=1e-4, atol=1e-5, msg=f"{name}: {key}")


def test_each_part_of_the_split_learns_from_its_own_loss_only(data, tmp_path):
    run = trainer(data, tmp_path, SPLIT)
    names = {part: {f"{p}.{n}" for p in pairs for n in ("down", "up")} for part, pairs in run.lora.pairs.items()}
    draw = run.draw()
    for alone, expected in ((False, [names[SPATIAL], names[TEMPORAL]]), (True, [names[TEMPORAL]])):
        draw.extra["alone"] = torch.full((2,), alone)
        found = []
        for loss in run.losses(draw):
            run.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            found.append({name for name, p in run.trained.items() if p.grad is not None})
        assert found == expected


def test_the_debiased_loss_is_that_of_its_formula_and_blind_to_what_all_frames_share():
    objective = Objective(NoiseSchedule.named())
    generator = torch.Generator().manual_seed(2)
    clean, noise, output = (torch.randn(2, 3, 4, 2, 2, generator=generator) for _ in range(3))
    timesteps, anchor = torch.tensor([10, 700]), torch.tensor([2, 0])
    found = objective.debiased(output, clean, noise, timesteps, anchor)
    expected = sum(
        ((2**0.5 * (output[b] - noise[b]) - (output[b, a] - noise[b, a])) ** 2).mean() for b, a in ((0, 2), (1, 0))
    )
    torch.testing.assert_close(found, expected / 2)
    shift = torch.randn(2, 1, 4, 2, 2, generator=generator)
    plain = [objective.loss(noise + d, clean, noise, timesteps) for d in (0, shift)]
    less = [objective.debiased(noise + d, clean, noise, timesteps, anchor) for d in (0, shift)]
    assert (less[1] - less[0]) < 0.2 * (plain[1] - plain[0])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unet")
    tiny_unet().save_pretrained(folder)
    return folder


FEW = ["--frames", "4", "--steps", "4", "--lr", "0.05", "--warmup", "0", "--rank", "2", "--save-every", "2", "--quiet"]


def train(data, base, out, *more):
    return main(["train", "motion-lora", str(data), "--base", str(base), "--out", str(out), *FEW, *more])


@pytest.fixture(scope="module")
def trained(data, base, tmp_path_factory):
    out = tmp_path_factory.mktemp("lora")
    assert train(data, base, out, "--alpha", "5") == 0
    return out


def test_both_files_act_like_the_lora_that_was_trained_and_say_how_it_was_made(data, base, trained):
    unet = UNetMotionModel.from_pretrained(base)
    expected = output(unet)
    run = trainer(data, trained / "none", LoraSettings(2, 5.0), unet=unet)
    state = motion_loop.load_state(trained / "checkpoint.pt")
    for name, parameter in run.trained.items():
        parameter.data.copy_(state["trained"][name])
    with_lora = output(unet)
    run.lora.remove()
    assert not torch.allclose(with_lora, expected, atol=1e-2)
    for name in (ORIGINAL, DIFFUSERS):
        assert inspect_file(trained / name).kind == "motion_lora"
        applied = apply_motion_lora(unet, trained / name)
        assert applied.unmatched == [] and len(applied.matched) == 56
        torch.testing.assert_close(output(unet), with_lora, rtol=0, atol=2e-5)
        applied.strength = 0.0
        assert torch.equal(output(unet), expected)
        remove_motion_lora(unet)
        assert len(load_motion_lora(unet, trained / name).layers) == 56
        with safe_open(str(trained / name), "pt") as file:
            said = json.loads(file.metadata()["unet_motion"])["training"]
        assert said["how"]["lora"]["rank"] == 2 and said["how"]["trained_steps"] == 4
        assert "motion LoRA" in said["what"] and len(said["from"]["base_sha256"]) == 64
    names = set(load_file(trained / ORIGINAL))
    block = "mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.processor"
    assert {f"{block}.to_out_lora.up.weight", f"{block}.to_q_lora.down.weight"} <= names
    assert all(name.endswith(("_lora.up.weight", "_lora.down.weight")) for name in names)


def test_the_same_command_goes_on_and_ends_with_the_same_file(data, base, trained, tmp_path, monkeypatch):
    step = motion_loop.MotionTrainer.train_step

    def interrupted(self):
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(motion_loop.MotionTrainer, "train_step", interrupted)
        assert train(data, base, tmp_path, "--alpha", "5") == 130
    assert train(data, base, tmp_path, "--alpha", "5") == 0
    for name in (ORIGINAL, DIFFUSERS):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_the_split_becomes_two_files_and_layers_without_an_original_name_one(data, base, tmp_path, capsys):
    assert train(data, base, tmp_path, "--spatial", "--debias", "1", "--dtype", "float16") == 0
    files = [tmp_path / name for name in (ORIGINAL, DIFFUSERS, SPATIAL_OUTPUT)]
    assert capsys.readouterr().out.splitlines() == [f"wrote {file}" for file in files]
    unet = UNetMotionModel.from_pretrained(base)
    applied = apply_motion_lora(unet, tmp_path / SPATIAL_OUTPUT)
    assert applied.matched and all(".attentions." in path for path in applied.matched)
    assert {t.dtype for t in load_file(tmp_path / ORIGINAL).values()} == {torch.float16}
    assert train(data, base, tmp_path / "ff", "--projections", "q,ff") == 0
    assert not (tmp_path / "ff" / ORIGINAL).exists() and (tmp_path / "ff" / DIFFUSERS).exists()


def test_diffusers_loads_the_file_and_computes_the_same(base, trained):
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    theirs = diffusers.UNetMotionModel.from_pretrained(base)
    pipeline = diffusers.AnimateDiffPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=theirs,
        motion_adapter=None,
        scheduler=diffusers.DDIMScheduler(),
    )
    pipeline.load_lora_weights(str(trained))
    ours = UNetMotionModel.from_pretrained(base)
    apply_motion_lora(ours, trained / ORIGINAL)
    torch.testing.assert_close(output(theirs), output(ours), rtol=0, atol=5e-5)


def test_diffusers_own_renaming_of_both_files_names_its_unets_layers(base, trained):
    """What its loader does with a file's names before it hands them to PEFT."""
    diffusers = pytest.importorskip("diffusers")
    from diffusers.utils import convert_unet_state_dict_to_peft

    theirs = diffusers.UNetMotionModel.from_pretrained(base)
    for form in ("diffusers", "original"):
        tensors = load_file(trained / {"diffusers": DIFFUSERS, "original": ORIGINAL}[form])
        if form == "original":  # AnimateDiff's own names go through diffusers' script, here in one line
            tensors = {
                k.replace(".temporal_transformer", "").replace("attention_blocks.0", "attn1")
                .replace("attention_blocks.1", "attn2"): v for k, v in tensors.items()
            }  # fmt: skip
        renamed = convert_unet_state_dict_to_peft({k.removeprefix("unet."): v for k, v in tensors.items()})
        layers = {k.rsplit(".lora_", 1)[0] for k in renamed}
        assert layers <= {name for name, _ in theirs.named_modules()} and len(layers) == 56


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rank", "0"], "`rank` is 0"),
        (["--alpha", "-1"], "`alpha` is -1"),
        (["--projections", "q,w"], "expected some of q, k"),
        (["--blocks", "down_block.0"], "'down_block.0', expected names such as"),
        (["--blocks", "down_blocks.7"], "name no temporal layers"),
        (["--debias", "-1"], "`debias` is -1"),
    ],
)
def test_a_wrong_choice_is_named(options, said, data, base, tmp_path, capsys):
    assert train(data, base, tmp_path, *options) == 2
    assert said in capsys.readouterr().err


def test_a_lora_that_a_file_cannot_hold_is_not_written(tmp_path):
    pair = torch.full((2, 16), 1e6), torch.zeros(16, 2)
    path = "mid_block.motion_modules.0.transformer_blocks.0.attn1.to_q"
    with pytest.raises(ValueError, match="not finite in torch.float16"):
        save_lora({path: pair}, tmp_path / "a.safetensors", "original", {}, torch.float16)
    with pytest.raises(ValueError, match="no name in AnimateDiff's form"):
        lora_names(path.replace("attn1.to_q", "ff.net.2"), "original")
    assert list(tmp_path.iterdir()) == []
