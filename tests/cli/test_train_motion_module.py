"""`train motion-module` as a user meets it: from files to a file."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from unet_motion import UNetMotionModel, load_motion_module, load_unet
from unet_motion.bundled import build_parts, load_bundled
from unet_motion.bundled.parts import FORMAT, METADATA_KEY, PREFIXES
from unet_motion.cli import main
from unet_motion.cli.train_motion_module import FORMS, OUTPUT
from unet_motion.cli.train_run import NUMBERS
from unet_motion.formats.convert import convert
from unet_motion.sampling import NoiseSchedule, get_sampler
from unet_motion.training import trainer as motion_loop
from unet_motion.training.base import bundled_encoder, checksum, load_base
from unet_motion.training.recipe import MotionRecipe
from unet_motion.training.watchers import validation
from unet_motion.video import write_video

IMAGE = {
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    "block_out_channels": (16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "num_attention_heads": 2,
    "motion_num_attention_heads": 2,
    "motion_max_seq_length": 8,
}
BUNDLED = IMAGE | {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
}
INFO = {"beta_schedule": "scaled_linear", "beta_end": 0.02, "prediction": "v_prediction"}
FEW = ["--frames", "3", "--steps", "3", "--size", "16x16", "--save-every", "2", "--warmup", "0", "--quiet"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A file of the bundled model's form with small random weights."""
    torch.manual_seed(5)
    parts = build_parts(["a", "red", "star"], BUNDLED)
    for part in parts.unet.motion_parts():
        torch.nn.init.normal_(part[0].proj_out.weight, std=0.2)
    state = {
        prefix + key: value.clone().contiguous()
        for name, prefix in PREFIXES.items()
        for key, value in getattr(parts, name).state_dict().items()
    }
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    description = {"format": FORMAT, "words": parts.tokenizer.words, "unet": BUNDLED, "info": INFO}
    save_file(state, path, metadata={METADATA_KEY: json.dumps(description)})
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for name in ("a.webp", "b"):
        write_video(folder / name, rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8))
    (folder / "b.txt").write_text("a red star", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """A UNet whose encoders are not here, and clips that are encoded for it."""
    torch.manual_seed(6)
    folder, data = tmp_path_factory.mktemp("unet"), tmp_path_factory.mktemp("encoded")
    UNetMotionModel(**IMAGE).save_pretrained(folder)
    save_file({"latents": torch.randn(4, 4, 4, 4), "text": torch.randn(6, 16)}, data / "c.safetensors")
    save_file({"text": torch.zeros(6, 16)}, data / "empty.safetensors")
    return folder, data


def train(data, base, out, *more):
    return main(["train", "motion-module", str(data), "--base", str(base), "--out", str(out), *FEW, *more])


@pytest.fixture(scope="module")
def trained(clips, base, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert train(clips, base, out) == 0
    return out


def test_clips_become_a_file_that_fits_its_base_and_says_how_it_was_made(trained, base):
    module = load_motion_module(trained / OUTPUT)
    parts = load_bundled(path=base)
    assert module.config == parts.unet.motion_adapter_config()
    own = parts.unet.state_dict()
    moved = [name for name, value in module.state_dict.items() if not torch.equal(value, own[name])]
    assert sorted(moved) == sorted(name for name in module.state_dict if not name.endswith(".pe"))
    again = load_base(base, trained / OUTPUT).unet.state_dict()
    assert all(torch.equal(again[name], module.state_dict.get(name, own[name])) for name in again)
    with safe_open(str(trained / OUTPUT), "pt") as file:
        said = json.loads(file.metadata()["unet_motion"])["training"]
    assert said["from"] == {
        "base": "small.safetensors", "base_sha256": checksum(base), "new_motion_modules": False
    }  # fmt: skip
    how = said["how"]
    assert (how["trained_steps"], how["clips"], how["frames"], how["prediction"]) == (3, 2, 3, "v_prediction")
    rows = [json.loads(line) for line in (trained / "losses.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]


def test_validation_clips_are_pictures_and_change_no_weight(trained, clips, base, tmp_path, monkeypatch):
    given = []

    class Seen(validation.Validation):
        def __init__(self, folder, every, texts, *others, **more):
            given.extend(texts)
            super().__init__(folder, every, texts, *others, **more)

    monkeypatch.setattr(validation, "Validation", Seen)
    shown = ["--validate-every", "2", "--validate-prompt", "a red star", "--validate-prompt", ""]
    assert train(clips, base, tmp_path, *shown) == 0
    names = sorted(path.name for path in (tmp_path / "validation").iterdir())
    assert names == [f"step-{step:06}-{number}.webp" for step in (2, 3) for number in (0, 1)]
    with Image.open(tmp_path / "validation" / names[0]) as clip:
        assert (clip.n_frames, clip.size) == (3, (64, 64))
    assert (tmp_path / "loss.png").is_file()
    assert (tmp_path / OUTPUT).read_bytes() == (trained / OUTPUT).read_bytes()
    encoder = bundled_encoder(load_bundled(path=base), checksum(base))
    for text, prompt in zip(given, ("a red star", ""), strict=True):
        expected = dict(encoder.text(prompt))
        assert text.keys() == expected.keys() and all(torch.equal(text[name], expected[name]) for name in text)


def test_the_same_command_goes_on_and_ends_with_the_same_file(trained, clips, base, tmp_path, monkeypatch):
    step = motion_loop.MotionTrainer.train_step

    def interrupted(self):
        if self.step == 2 and not self.path.exists():
            step(self)
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(motion_loop.MotionTrainer, "train_step", interrupted)
    assert train(clips, base, tmp_path) == 130 and not (tmp_path / OUTPUT).exists()
    assert motion_loop.load_state(tmp_path / "checkpoint.pt")["step"] == 2
    assert train(clips, base, tmp_path) == 0
    assert (tmp_path / OUTPUT).read_bytes() == (trained / OUTPUT).read_bytes()
    assert train(clips, base, tmp_path) == 0
    assert (tmp_path / OUTPUT).read_bytes() == (trained / OUTPUT).read_bytes()


def test_a_converted_file_keeps_what_its_header_says(trained, tmp_path):
    convert(trained / OUTPUT, tmp_path / "same.safetensors", "original")
    convert(trained / OUTPUT, tmp_path / "folder", "folder")
    expected = load_motion_module(trained / OUTPUT)
    for name in ("same.safetensors", "folder"):
        found = load_motion_module(tmp_path / name)
        assert (found.config, found.norm_scopes) == (expected.config, expected.norm_scopes)
        assert all(torch.equal(found.state_dict[k], v) for k, v in expected.state_dict.items())


def test_every_option_reaches_the_run(clips, base, tmp_path, monkeypatch):
    taken = {}

    class Captured(Exception):
        pass

    def capture(unet, clips, objective, recipe, folder, source, quiet, **more):
        taken.update(clips=clips, objective=objective, recipe=recipe, source=source)
        raise Captured

    monkeypatch.setattr(motion_loop, "MotionTrainer", capture)
    values = {name: getattr(MotionRecipe(), name) for _, (name, *_) in NUMBERS.items()}
    values = {name: value + 1 if isinstance(value, int) else value / 2 + 0.25 for name, value in values.items()}
    given = [word for option, (name, *_) in NUMBERS.items() for word in (option, str(values[name]))]
    given += ["--optimizer", "SGD", "--optimizer-option", "momentum=0.5", "--optimizer-option", "nesterov=true"]
    given += ["--schedule", "constant", "--checkpointing", "--bfloat16", "--prediction", "epsilon"]
    given += ["--beta-schedule", "linear", "--beta-end", "0.012", "--fps", "10", "--stride", "1", "--size", "24x16"]
    with pytest.raises(Captured):
        train(clips, base, tmp_path, *given, "--flip", "--new", "--frames", "2")
    expected = values | {"schedule": "constant", "checkpointing": True, "bfloat16": True, "optimizer": "SGD"}
    expected["optimizer_options"] = (("momentum", 0.5), ("nesterov", True))
    assert dataclasses.asdict(taken["recipe"]) == expected
    objective, options = taken["objective"], taken["clips"].options
    assert (objective.min_snr, objective.noise_offset) == (values["min_snr"], values["noise_offset"])
    assert objective.schedule.prediction == "epsilon"
    betas = 1 - objective.schedule.alphas_cumprod[1:] / objective.schedule.alphas_cumprod[:-1]
    assert betas.diff().std() < 1e-12 and betas[-1].item() == pytest.approx(0.012)
    assert (options.frames, options.fps, options.stride, options.flip) == (2, 10.0, 1, True)
    assert options.buckets == ((16, 16), (24, 16)) and taken["source"]["new_motion_modules"]


def test_another_unet_is_trained_on_encoded_clips(unet, tmp_path):
    folder, data = unet
    arguments = ["train", "motion-module", str(data), "--base", str(folder), "--frames", "3", "--steps", "2", "--quiet"]
    assert main([*arguments, "--new", "--out", str(tmp_path)]) == 0
    model, own = load_unet(folder, tmp_path / OUTPUT), load_unet(folder)
    assert model.config == own.config
    after = model.state_dict()
    changed = {k for k, v in own.state_dict().items() if not torch.equal(v, after[k])}
    assert changed and all(".motion_modules." in name for name in changed)


def test_every_form_loads_back_and_samples_the_same(unet, tmp_path):
    folder, data = unet
    arguments = ["train", "motion-module", str(data), "--base", str(folder), "--frames", "3", "--steps", "2", "--quiet"]
    every = [word for form in FORMS for word in ("--form", form)]
    assert main([*arguments, "--new", "--lr", "0.1", "--warmup", "0", *every, "--out", str(tmp_path)]) == 0
    models = {
        "original": load_unet(folder, tmp_path / FORMS["original"]),
        "adapter": load_unet(folder, tmp_path / FORMS["adapter"]),
        "unet": UNetMotionModel.from_pretrained(tmp_path / FORMS["unet"]),
    }
    found = {form: sampled(model) for form, model in models.items()}
    own = sampled(load_unet(folder))
    for form, model in models.items():
        assert torch.equal(found[form], found["unet"]) and model.config == models["unet"].config, form
    assert not torch.allclose(found["unet"], own, atol=1e-3)
    for form in ("adapter", "unet"):
        said = json.loads((tmp_path / FORMS[form] / "training.json").read_text(encoding="utf-8"))
        assert said["how"]["trained_steps"] == 2


def test_diffusers_reads_the_folders_and_computes_the_same(unet, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    folder, data = unet
    arguments = ["train", "motion-module", str(data), "--base", str(folder), "--frames", "3", "--steps", "1", "--quiet"]
    main([*arguments, "--form", "adapter", "--form", "unet", "--out", str(tmp_path)])
    theirs = diffusers.UNetMotionModel.from_pretrained(tmp_path / FORMS["unet"])
    adapter = diffusers.MotionAdapter.from_pretrained(tmp_path / FORMS["adapter"]).state_dict()
    state = theirs.state_dict()
    assert adapter and all(torch.equal(state[name], value) for name, value in adapter.items())
    ours = UNetMotionModel.from_pretrained(tmp_path / FORMS["unet"])
    ours.set_norm_scope("frame", "clip")  # diffusers' only rule
    x, text = torch.randn(1, 4, 3, 4, 4), torch.randn(1, 6, 16)
    with torch.no_grad():
        expected = theirs(x, 5, text.repeat_interleave(3, 0)).sample
        torch.testing.assert_close(ours(x, 5, text).sample, expected, rtol=0, atol=2e-5)


@torch.no_grad()
def sampled(model):
    """Latents (3, 4, 4, 4) after three steps."""
    schedule, run = NoiseSchedule.named(), get_sampler("ddim")
    generator = torch.Generator().manual_seed(3)
    x, text = torch.randn(3, 4, 4, 4, generator=generator), torch.randn(1, 6, 16, generator=generator)
    return run.run(lambda x, t: model.forward_frames(x, float(t), text, 3), x, schedule, schedule.steps(3, run.spacing))


def test_cross_attention_trains_where_asked_and_nothing_else_does(unet, tmp_path, capsys):
    folder, data = unet
    arguments = ["train", "motion-module", str(data), "--base", str(folder), "--frames", "3", "--steps", "2", "--quiet"]
    assert main([*arguments, "--cross-attention", "--lr", "0.1", "--warmup", "0", "--out", str(tmp_path)]) == 0
    written = [tmp_path / FORMS[form] for form in FORMS if (tmp_path / FORMS[form]).exists()]
    assert capsys.readouterr().out.splitlines() == [f"wrote {file}" for file in written] and len(written) == 2
    before = UNetMotionModel.from_pretrained(folder).state_dict()
    after = UNetMotionModel.from_pretrained(tmp_path / FORMS["unet"]).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    text = {name for name in before if ".attentions." in name and ".attn2." in name}
    assert text <= moved and all(".motion_modules." in name for name in moved - text)


def test_new_modules_follow_the_seed_and_change_nothing_yet(unet):
    first, same, other = (load_base(unet[0], new=True, seed=seed).unet for seed in (1, 1, 2))
    name = "mid_block.motion_modules.0.proj_in.weight"
    assert torch.equal(first.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])
    x, text = torch.randn(3, 4, 4, 4), torch.randn(1, 6, 16)
    assert torch.equal(first.forward_frames(x, 5, text, 3), other.forward_frames(x, 5, text, 3))


def test_training_leaves_the_files_that_it_began_from_as_they_were(unet, tmp_path):
    files = [path for path in unet[0].iterdir() if path.suffix == ".safetensors"]
    before = [path.read_bytes() for path in files]
    main(["train", "motion-module", str(unet[1]), "--base", str(unet[0]), "--frames", "3", "--steps", "2",
          "--lr", "0.1", "--warmup", "0", "--out", str(tmp_path), "--quiet"])  # fmt: skip
    assert (tmp_path / OUTPUT).exists() and [path.read_bytes() for path in files] == before


def test_a_loss_that_is_not_finite_is_exit_status_1_and_the_last_good_weights_are_written(unet, tmp_path, capsys):
    torch.manual_seed(7)
    for name, value in (("a", 0.0), ("b", float("nan"))):
        save_file(
            {"latents": torch.randn(4, 4, 4, 4) + value, "text": torch.zeros(6, 16)}, tmp_path / f"{name}.safetensors"
        )
    arguments = ["train", "motion-module", str(tmp_path), "--base", str(unet[0]), "--frames", "3", "--steps", "40",
                 "--save-every", "1", "--drop-prompt", "0", "--seed", "1", "--quiet"]  # fmt: skip
    seeds = [seed for seed in range(9) if int(torch.randint(2, (), generator=torch.Generator().manual_seed(seed))) == 0]
    for seed in seeds:
        out = tmp_path / f"out{seed}"
        assert main([*arguments, "--seed", str(seed), "--out", str(out)]) == 1
        error = capsys.readouterr().err
        assert "the loss is nan at step" in error and "b.safetensors" in error
        if (out / OUTPUT).exists():
            assert all(torch.isfinite(value).all() for value in load_file(out / OUTPUT).values())
            return
        assert "No checkpoint was written before" in error
    pytest.fail("no run reached its first checkpoint")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--fps", "8"], "--fps: only for videos and pictures"),
        (["--flip", "--size", "16x16"], "--size, --flip: only for videos"),
        (["--validate-prompt", "a", "--frames", "3"], "--validate-prompt: only for the bundled form"),
        (["--optimizer", "LBFGS", "--frames", "3"], "`optimizer` is 'LBFGS', expected one of"),
        (["--device", "cuda", "--accelerate"], "--device is cuda beside --accelerate"),
        (["--steps", "0"], "`steps` is 0"),
        (["--frames", "9"], "frames"),
        (["--device", "moon"], "device 'moon' cannot be used"),
        (["--motion", "gone.safetensors"], "gone.safetensors"),
        (["--base", "gone.safetensors"], "gone.safetensors"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(more, said, unet, tmp_path, capsys):
    status = main(["train", "motion-module", str(unet[1]), "--base", str(unet[0]), "--out", str(tmp_path), *more])
    assert status == 2 and said in capsys.readouterr().err


def test_videos_for_a_unet_without_its_encoders_are_refused_and_help_says_so(clips, unet, tmp_path, capsys):
    arguments = ["train", "motion-module", str(clips), "--base", str(unet[0]), "--out", str(tmp_path), "--frames", "3"]
    assert main(arguments) == 2
    assert "videos can be read for the bundled model only" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "motion-module", "--help"])
    assert "no CLIP and no VAE" in " ".join(capsys.readouterr().out.split())


def test_a_caption_with_unknown_words_is_named(clips, base, tmp_path, capsys):
    write_video(tmp_path / "in" / "c", np.zeros((3, 16, 16, 3), np.uint8))
    (tmp_path / "in" / "c.txt").write_text("a red zebra", encoding="utf-8")
    assert train(tmp_path / "in", base, tmp_path / "out") == 0
    assert "words that the model does not know: ['zebra']" in capsys.readouterr().err
