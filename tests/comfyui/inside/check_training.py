"""The Train Motion LoRA node: what the library's training gives, on a MODEL that stays as it is."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import comfy.model_management as mm
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod, args
from pack.nodes.host.lora import load_motion_lora
from pack.nodes.host.model.bundled import load_bundled_models
from pack.nodes.host.step.preview import PreviewChoice
from pack.nodes.host.training import data, view
from pack.nodes.host.training import run as training
from pack.nodes.host.training.view import TrainingView
from pack.nodes.training import TrainMotionLoRA
from pack.unet_motion.files.reading import open_tensors
from pack.unet_motion.sampling import NoiseSchedule
from pack.unet_motion.training.base import bundled_encoder, load_base, noise_schedule
from pack.unet_motion.training.data.in_memory import HeldClips
from pack.unet_motion.training.lora import LoraSettings, TrainableLora
from pack.unet_motion.training.lora_trainer import LoraTrainer
from pack.unet_motion.training.objective import Objective
from pack.unet_motion.training.recipe import MotionRecipe
from pack.unet_motion.video import write_video
from PIL import Image
from sampled import execute
from small import relative, sd15

FRAMES, STEPS, CAPTION = 8, 30, "a red square still"
RECIPE = {"steps": STEPS, "learning_rate": 0.01, "seed": 3, "noise_power": 1.0}


def pan(frames=FRAMES):
    """A red square that goes to the right by four pixels a frame, float32 (F, 64, 64, 3)."""
    clip = torch.full((frames, 64, 64, 3), 0.1)
    for number, frame in enumerate(clip):
        frame[24:40, 8 + 4 * number : 24 + 4 * number] = torch.tensor([0.9, 0.1, 0.1])
    return clip


@pytest.fixture(scope="module")
def loaded():
    with torch.inference_mode():  # as the server runs nodes
        return load_bundled_models()


@pytest.fixture(autouse=True)
def folders(tmp_path_factory, monkeypatch):
    places = SimpleNamespace(**{name: tmp_path_factory.mktemp(name) for name in ("output", "temp", "input")})
    for name, path in vars(places).items():
        monkeypatch.setattr(folder_paths, f"get_{name}_directory", lambda path=path: str(path))
    return places


@pytest.fixture(autouse=True)
def watching(monkeypatch):
    """Previews go to a page that asked for loops."""
    monkeypatch.setattr(view, "current_choice", lambda: PreviewChoice(True))


def train(loaded, **changes):
    given = {
        "captions": CAPTION, "frames_per_clip": FRAMES, "rank": 4, "filename_prefix": "loras/pan", **RECIPE,
        "sample_every": 0, "images": pan(), **changes,
    }  # fmt: skip
    model, clip, vae = loaded
    with torch.inference_mode():
        return TrainMotionLoRA.execute(given.pop("model", model), clip, vae, **given)


def state(model):
    return {name: tensor.clone() for name, tensor in model.model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in model.model.state_dict().items())


def output(model):
    """What a MODEL gives for one batch, with its patches."""
    mm.load_models_gpu([model], force_patch_weights=True)
    generator = torch.Generator().manual_seed(1)
    x, text, y = (torch.randn(shape, generator=generator) for shape in ((FRAMES, 4, 8, 8), (1, 8, 96), (1, 96)))
    core = model.model.diffusion_model.core.config
    text = text[..., :1].expand(1, 8, core.last("cross_attention_dim"))
    y = y[:, :1].expand(1, core.projection_class_embeddings_input_dim)
    t = torch.full((FRAMES,), 500.0)
    return model.model.diffusion_model(x, t, text, y=y, transformer_options={"cond_or_uncond": [0]})


def library(steps=STEPS, images=None, caption=CAPTION):
    """The same run by the library alone, and its trainer."""
    base = load_base("bundled")
    encoder = bundled_encoder(base.parts, "bundled")
    with torch.no_grad():
        latents = encoder.pictures((pan() if images is None else images).permute(0, 3, 1, 2))
        texts = [dict(encoder.text(line)) for line in (caption, "")]
    clips = HeldClips(["pan"], [latents], texts[:1], texts[1], FRAMES)
    recipe = MotionRecipe(**RECIPE | {"steps": steps})
    lora = TrainableLora(base.unet, LoraSettings(4), recipe.seed)
    objective = Objective(noise_schedule(base), noise_power=1.0)
    return LoraTrainer(lora, base.unet, clips, objective, recipe, folder_paths.get_temp_directory(), quiet=True)


def test_the_lora_and_its_losses_are_those_of_the_library_and_the_loss_falls(loaded, folders):
    before, plain = state(loaded[0]), output(loaded[0])
    seen = []
    comfy.utils.set_progress_bar_global_hook(lambda *given, node_id=None: seen.append(given))
    try:
        lora, loss = (found := train(loaded, sample_every=20)).result
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    with torch.enable_grad():
        (trainer := library()).run()
    expected = trainer.lora.tensors()
    assert len(lora) == 2 * len(expected)
    for path, pair in expected.items():
        for half, value in zip(("down", "up"), pair, strict=True):
            assert relative(lora[f"diffusion_model.motion.{path}.lora_{half}.weight"], value) < 2e-3, path
    lines = [json.loads(line) for line in (folders.temp / "losses.jsonl").read_text().splitlines()]
    assert np.allclose(loss["loss"], [line["loss"] for line in lines], rtol=1e-3)
    # On the same draws, with it and without.
    with torch.no_grad():
        draws = [trainer.draw() for _ in range(12)]
        trained = sum(float(trainer.loss(draw)) for draw in draws)
        with trainer.lora.only({"temporal": 0.0}):
            untrained = sum(float(trainer.loss(draw)) for draw in draws)
    assert trained < 0.9 * untrained
    assert unchanged(loaded[0], before) and torch.equal(output(loaded[0]), plain)
    _same_in_the_graph_and_in_the_file(loaded[0], lora, folders, plain)
    _shown(seen, found.ui, folders)


def _same_in_the_graph_and_in_the_file(model, lora, folders, plain):
    from comfy_extras.nodes_train import LoraModelLoader

    (file,) = (folders.output / "loras").iterdir()
    assert file.name == "pan_00001_.safetensors"
    source = open_tensors(str(file))
    made = json.loads(source.metadata["unet_motion"])["training"]
    assert made["how"]["trained_steps"] == STEPS and made["how"]["lora"]["rank"] == 4
    assert all("temporal_transformer" in name for name in source.keys())
    in_graph = output(execute(LoraModelLoader, model, lora, 0.7))
    from_file = output(load_motion_lora(model, str(file), 0.7))
    assert relative(in_graph, from_file) < 1e-6 < 1e-2 < relative(in_graph, plain)
    assert torch.equal(output(model), plain)


def _shown(seen, ui, folders):
    """Progress of every step, the loss at first, then with a clip beside it, which stays on the node."""
    assert seen[-1][:2] == (STEPS, STEPS) and {total for _, total, _ in seen} == {STEPS}
    kinds = [preview[0] for _, _, preview in seen if preview]
    assert kinds[0] == "PNG" and kinds[-1] == "WEBP"
    assert set(ui) == {"unet_motion_training"}, "a program would take a picture for what the graph saved"
    with Image.open(folders.temp / ui["unet_motion_training"][0]) as picture:
        assert picture.size == (480 + 240, 240) and picture.n_frames == FRAMES
        frames = []
        for number in range(FRAMES):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB"), dtype=float))
    changes = [np.abs(frame - frames[0]).mean(axis=(0, 2)) for frame in frames[1:]]
    assert max(change[:480].max() for change in changes) < 1 < max(change[480:].mean() for change in changes)
    assert [path.name for path in folders.temp.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("kind", ["interrupted", "out of memory"])
def test_a_run_that_ends_early_keeps_what_it_learned(loaded, folders, monkeypatch, kind):
    before = state(loaded[0])
    stepped = TrainingView.stepped

    def watched(view, trainer, row):
        stepped(view, trainer, row)
        if trainer.step == 3 and kind == "interrupted":
            mm.interrupt_current_processing(True)
        elif trainer.step == 3:
            raise mm.OOM_EXCEPTION("no memory")

    monkeypatch.setattr(TrainingView, "stepped", watched)
    expected = mm.InterruptProcessingException if kind == "interrupted" else mm.OOM_EXCEPTION
    with pytest.raises(expected):
        train(loaded)
    assert not mm.processing_interrupted()
    (file,) = (folders.output / "loras").iterdir()
    made = json.loads(open_tensors(str(file)).metadata["unet_motion"])["training"]
    assert made["how"]["trained_steps"] == 3 and made["how"]["steps"] == STEPS
    assert load_motion_lora(loaded[0], str(file), 1.0).patches
    assert unchanged(loaded[0], before) and list(folders.temp.iterdir()) == []


def test_an_interruption_before_the_first_step_leaves_no_file(loaded, folders):
    mm.interrupt_current_processing(True)
    with pytest.raises(mm.InterruptProcessingException):
        train(loaded)
    assert [path for path in folders.output.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("bad", "end"), [(12, "the LoRA of step 10 is in"), (2, "nothing was saved")])
def test_a_loss_that_is_not_finite_says_where_and_keeps_the_last_good_lora(loaded, folders, monkeypatch, bad, end):
    losses = LoraTrainer.losses

    def broken(trainer, draw):
        for loss in losses(trainer, draw):
            yield loss * (float("nan") if trainer.step == bad else 1)

    monkeypatch.setattr(LoraTrainer, "losses", broken)
    with pytest.raises(ValueError) as error:
        train(loaded, steps=20)
    assert f"the loss is nan at step {bad}, for images, clip 1 at timesteps" in str(error.value)
    assert "lower `learning_rate`" in str(error.value) and end in str(error.value)
    files = list(folders.output.rglob("*.safetensors"))
    assert len(files) == (bad == 12) and all(load_motion_lora(loaded[0], str(file), 1.0).patches for file in files)


def test_a_folder_gives_what_its_frames_give_as_images(loaded, folders):
    levels = (pan() * 255).round() / 255
    clips = folders.input / "clips"
    for name, frames in (("a", levels), ("b", levels.flip(0))):
        write_video(clips / f"{name}.webp", (frames * 255).round().to(torch.uint8).numpy(), 8.0)
        (clips / f"{name}.txt").write_text(f"a red square moving {'right' if name == 'a' else 'left'}")
    images = {"images": torch.cat([levels, levels.flip(0)])}
    captions = "a red square moving right\na red square moving left"
    from_images, _ = train(loaded, steps=2, captions=captions, **images).result
    small = {"images": None, "folder": "clips", "width": 64, "height": 64, "captions": ""}
    from_folder, _ = train(loaded, steps=2, **small).result
    assert all(torch.equal(value, from_folder[name]) for name, value in from_images.items())
    other, _ = train(loaded, steps=2, **{**small, "folder": str(clips), "captions": "a blue ring"}).result
    assert any(not torch.equal(value, other[name]) for name, value in from_images.items())
    stamp = TrainMotionLoRA.fingerprint_inputs(folder="clips")
    (clips / "a.txt").write_text("another caption")
    assert TrainMotionLoRA.fingerprint_inputs(folder="clips") != stamp


@pytest.mark.parametrize(("motion", "method", "kinds"), [
    (True, LatentPreviewMethod.NoPreviews, ["PNG", "WEBP"]),
    (False, LatentPreviewMethod.Latent2RGB, ["PNG", "PNG"]),
    (False, LatentPreviewMethod.NoPreviews, []),
])  # fmt: skip
def test_previews_are_as_the_page_and_comfyui_are_set(loaded, monkeypatch, motion, method, kinds):
    seen = []
    monkeypatch.setattr(view, "current_choice", lambda: PreviewChoice(motion))
    monkeypatch.setattr(args, "preview_method", method)
    monkeypatch.setattr(view.Pace, "due", lambda self: True)
    comfy.utils.set_progress_bar_global_hook(lambda *given, node_id=None: seen.append(given))
    try:
        train(loaded, steps=2)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert [preview[0] for _, _, preview in seen if preview] == kinds
    assert [value for value, *_ in seen][-1] == 2


def test_a_folder_lies_in_the_input_folder_or_where_the_owner_allowed(folders, tmp_path, monkeypatch):
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    for place in (folders.input / "mine", allowed / "theirs", outside, tmp_path / "allowed too"):
        place.mkdir(parents=True)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, data.TRAINING_CLIPS, ([str(allowed)], set()))
    inside = {
        "mine": folders.input / "mine", str(folders.input / "mine"): folders.input / "mine", ".": folders.input,
        "mine/../mine": folders.input / "mine", "theirs": allowed / "theirs", str(allowed): allowed,
        str(allowed / "theirs"): allowed / "theirs", "nowhere": folders.input / "nowhere",
    }  # fmt: skip
    assert {given: data.folder_path(given) for given in inside} == {given: str(path) for given, path in inside.items()}
    link = folders.input / "link"
    link.symlink_to(outside, target_is_directory=True)
    assert data.folder_path("link") == str(link), "a link in the input folder was made by the owner"
    for given in ("..", "mine/../..", "/", str(outside), str(tmp_path / "allowed too"), f"{allowed}/../outside", "~"):
        for ask in (data.folder_path, data.folder_stamp):
            with pytest.raises(ValueError) as error:
                ask(given)
            said = str(error.value)
            assert said.startswith("`folder` is ") and "extra_model_paths.yaml" in said
            assert str(folders.input) not in said


def test_a_stamp_reads_what_clips_are_made_of_and_no_more(folders):
    deep = folders.input / "clips" / "walk" / "deeper"
    deep.mkdir(parents=True)
    for place in (deep, deep.parent, deep.parent.parent):
        (place / "0.png").write_bytes(b"1")
    stamp = data.folder_stamp("clips")
    assert [path for path, *_ in stamp] == [str(deep.parent.parent / "0.png"), str(deep.parent / "0.png")]
    (deep / "0.png").write_bytes(b"22")
    assert data.folder_stamp("clips") == stamp
    (deep.parent / "0.png").write_bytes(b"22")
    assert data.folder_stamp("clips") != stamp
    assert data.folder_stamp("nowhere") == []


def test_a_caption_that_cannot_be_read_is_named_where_it_is_needed(loaded, folders):
    write_video(folders.input / "clips" / "a.webp", (pan() * 255).to(torch.uint8).numpy(), 8.0)
    (folders.input / "clips" / "a.txt").write_bytes(b"\xff\xfea")
    given = {"images": None, "folder": "clips", "width": 64, "height": 64, "steps": 1}
    with pytest.raises(ValueError, match="a.txt: is not UTF-8 at byte 0, expected a caption in UTF-8"):
        train(loaded, **given, captions="")
    assert list(folders.output.iterdir()) == []
    train(loaded, **given, captions="a ring")


@pytest.fixture
def untouched(monkeypatch):
    """Fails where clips are encoded."""
    monkeypatch.setattr(training, "encoded_clips", lambda *_: pytest.fail("clips were encoded"))


@pytest.mark.parametrize("prefix", ["../out", "/elsewhere/name", "a/../../b", ".", "", "a\0b", "b" * 237])
def test_a_prefix_that_cannot_be_written_is_refused_before_any_work(loaded, folders, untouched, prefix):
    with pytest.raises((ValueError, OSError)) as error:
        train(loaded, filename_prefix=prefix)
    said = str(error.value)
    assert "too long" in said if prefix[0:1] == "b" else said.startswith("`filename_prefix` is ")
    assert len(said) < 600 and list(folders.output.iterdir()) == []


def test_what_suits_no_layer_is_refused_before_any_work(loaded, folders, untouched):
    with pytest.raises(ValueError, match="`rank` is 1024, expected at most "):
        train(loaded, rank=1024)
    assert list(folders.output.iterdir()) == []


def test_the_longest_prefix_and_the_largest_seed_train(loaded, folders):
    lora, _ = train(loaded, steps=1, filename_prefix="c" * 236, seed=2**64 - 1).result
    assert [file.name for file in folders.output.iterdir()] == [f"{'c' * 236}_00001_.safetensors"]
    other, _ = train(loaded, steps=1, filename_prefix="d", seed=0).result
    assert any(not torch.equal(value, lora[name]) for name, value in other.items())


WRONG = {
    "`images` holds 1 frames, expected at least 2": {"images": pan(1)},
    "`images` holds 8 frames, expected a multiple of `frames_per_clip` 3": {"frames_per_clip": 3},
    "`frames_per_clip` is 1, expected at least 2": {"frames_per_clip": 1},
    "`frames_per_clip` is 65, expected at most 32": {"frames_per_clip": 65, "images": torch.zeros(65, 64, 64, 3)},
    "`images` is 60 by 64 pixels, expected multiples of 8": {"images": pan()[:, :, :60]},
    "`images` has shape (8, 64, 64, 4), expected": {"images": torch.zeros(8, 64, 64, 4)},
    "neither is given": {"images": None},
    "both are given": {"folder": "clips"},
    "`folder` 'nowhere' is no folder, expected one with videos": {"images": None, "folder": "nowhere"},
    "`folder` is 'nul\\x00byte', expected a folder in": {"images": None, "folder": "nul\0byte"},
    "has no clips, expected videos": {"images": None, "folder": "."},
    "`captions` has 2 lines for 1 clips": {"captions": "a\nb"},
    "`steps` is 0, expected at least 1": {"steps": 0},
    "`rank` is 0, expected at least 1": {"rank": 0},
    "`learning_rate` is 0.0, expected more than 0": {"learning_rate": 0.0},
    "`sample_every` is -1, expected at least 0": {"sample_every": -1},
    "`precision` is 'float8', expected one of auto, float32, bfloat16": {"precision": "float8"},
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_input_is_named(loaded, folders, said):
    with pytest.raises((ValueError, OSError)) as error:
        train(loaded, **WRONG[said])
    assert said in str(error.value)
    assert list(folders.output.iterdir()) == []


def test_a_model_without_motion_modules_is_refused(loaded):
    with pytest.raises(ValueError, match="without motion modules; put Apply Motion Module before this node"):
        train(loaded, model=sd15())


def test_the_memory_is_said_before_and_too_little_is_refused(loaded, folders, monkeypatch, caplog):
    with caplog.at_level(logging.INFO):
        train(loaded, steps=1)
    assert "Train Motion LoRA needs about" in caplog.text
    monkeypatch.setattr(mm, "get_free_memory", lambda *_, **__: 2**20)
    with pytest.raises(ValueError, match="but only 1 MB are free on cpu: lower `frames_per_clip`, `batch_size`"):
        train(loaded, steps=1)
    assert len(list(folders.output.rglob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    "change", [{"precision": "bfloat16"}, {"checkpointing": True}, {"batch_size": 2}, {"debias": 1.0}]
)
def test_other_ways_to_compute_give_nearly_the_same_or_another_loss(loaded, change):
    plain, other = (train(loaded, steps=2, **more).result for more in ({}, change))
    losses = plain[1]["loss"][0], other[1]["loss"][0]
    if "precision" in change:
        assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.05)
    elif "checkpointing" in change:
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
        assert all(relative(other[0][name], value) < 1e-3 for name, value in plain[0].items() if value.any())
    else:
        assert losses[1] != pytest.approx(losses[0], rel=0.01)


def test_the_noise_is_that_of_the_bundled_model(loaded):
    ours = training.schedule_of(loaded[0])
    base = NoiseSchedule.named(**load_base("bundled").schedule)
    assert ours.prediction == base.prediction
    assert torch.allclose(ours.alphas_cumprod, base.alphas_cumprod, rtol=1e-5)
