"""What a training command refuses before it works, and runs that would disturb each other."""

import dataclasses
import os
import random
import threading

import numpy as np
import pytest
import torch

from tests.cli.test_train_motion_module import FEW, base  # noqa: F401 - a fixture
from tests.training.test_trainer import PLAIN, data, losses, trainer  # noqa: F401 - a fixture
from unet_motion.cli import main
from unet_motion.files.lock import folder_lock
from unet_motion.sampling.noise_schedule import make_betas
from unet_motion.training import base as bases
from unet_motion.training.data.clip_files import find_clips
from unet_motion.training.lora import LoraSettings, TrainableLora
from unet_motion.training.recipe import MotionRecipe
from unet_motion.training.runs import load_state
from unet_motion.video import write_video

MOST = 2**64 - 1
SMALL = np.zeros((4, 16, 16, 3), np.uint8)


def in_a_thread(work):
    """What a function raises in another thread, or None."""
    found = []

    def run():
        try:
            work()
            found.append(None)
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


# Seeds


def test_seeds_go_up_to_what_they_are_declared_to(data, tmp_path):  # noqa: F811
    recipe = dataclasses.replace(PLAIN, seed=MOST, steps=1)
    last, before = (trainer(data, tmp_path / str(i), dataclasses.replace(recipe, seed=MOST - i)) for i in (0, 1))
    assert torch.equal(last.generator.get_state(), torch.Generator().manual_seed(MOST).get_state())
    last.run(), before.run()
    assert losses(tmp_path / "0")[0]["loss"] != losses(tmp_path / "1")[0]["loss"]
    values = [next(iter(TrainableLora(last.unet, LoraSettings(2), seed).parameters().values())) for seed in (MOST, 0)]
    assert not torch.equal(*values)
    for seed in (-1, MOST + 1):
        with pytest.raises(ValueError, match=rf"`seed` is {seed}, expected 0 to 2\*\*64 - 1"):
            MotionRecipe(seed=seed)


# Options


@pytest.fixture
def unread(monkeypatch):
    """Fails where a command reads the model, or its data."""

    def read(*_, **__):
        raise AssertionError("read")

    return lambda name: monkeypatch.setattr(bases, name, read)


EARLY = {
    "the last beta of the noise is nan, expected more than 0 and less than 1": ["--beta-end", "nan"],
    "the last beta of the noise is 1.0,": ["--beta-end", "1"],
    "the last beta of the noise is -0.1,": ["--beta-end", "-0.1"],
    "`seed` is -1, expected 0 to": ["--seed", "-1"],
    "`ema` is nan, expected at least 0": ["--ema", "nan"],
    "`optimizer` is 'Nothing', expected one of": ["--optimizer", "Nothing"],
    "`optimizer_options` has 'momentum'": ["--optimizer-option", "momentum=0.5"],
    "--validate-every is -1, expected at least 0": ["--validate-every", "-1"],
    "`frames` is 0, expected at least 1": ["--frames", "0"],
    "`fps` is nan, expected more than 0": ["--fps", "nan"],
    "device 'nowhere' cannot be used here": ["--device", "nowhere"],
}
LORA_EARLY = {
    "`rank` is 0, expected at least 1": ["--rank", "0"],
    "`debias` is nan, expected at least 0": ["--debias", "nan"],
    "`alpha` is inf, expected more than 0": ["--alpha", "inf"],
}
BEFORE_DATA = {
    "`rank` is 100000, expected at most 16, the width of this UNet's widest layer": ["--rank", "100000"],
    "`rank` is 17, expected at most 16": ["--rank", "17"],
    "clips have 9 frames, expected at most 8": ["--frames", "9"],
    "name no temporal layers of this UNet": ["--blocks", "down_blocks.7"],
}


def command(what, model, out, *options):
    return main(["train", what, "nowhere", "--base", str(model), "--out", str(out), *FEW, *options])


@pytest.mark.parametrize("what", ["motion-module", "motion-lora"])
def test_options_out_of_their_range_are_refused_before_a_model_is_loaded(what, unread, base, tmp_path, capsys):  # noqa: F811
    unread("load_base")
    for said, options in (EARLY | (LORA_EARLY if what == "motion-lora" else {})).items():
        assert command(what, base, tmp_path / "out", *options) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_does_not_suit_the_model_is_refused_before_the_data_is_read(unread, base, tmp_path, capsys):  # noqa: F811
    unread("read_data")
    for said, options in BEFORE_DATA.items():
        assert command("motion-lora", base, tmp_path / "out", *options) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_as_many_columns_as_the_widest_layer_has_are_the_most(data, tmp_path):  # noqa: F811
    unet = trainer(data, tmp_path).unet
    assert {p.shape[0] for p, _ in TrainableLora(unet, LoraSettings(16)).pairs["temporal"].values()} == {16}
    with pytest.raises(ValueError, match="`rank` is 17, expected at most 16"):
        TrainableLora(unet, LoraSettings(17))


@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
def test_betas_lie_between_0_and_1(name):
    assert make_betas(name, 3, 0.1, 0.9)[[0, 2]].tolist() == pytest.approx([0.1, 0.9])
    for which, ends in {"first": ({"start": 0.0}, {"start": float("nan")}), "last": ({"end": 1.0},)}.items():
        for end in ends:
            with pytest.raises(ValueError, match=f"the {which} beta of the noise is "):
                make_betas(name, 3, **end)


# Two runs in one folder


def test_a_second_run_in_the_folder_of_one_is_refused_and_leaves_its_log(data, tmp_path):  # noqa: F811
    first, second = trainer(data, tmp_path, PLAIN), trainer(data, tmp_path, PLAIN)
    refused, step = [], first.train_step

    def beside():
        if not refused:
            refused.append(in_a_thread(second.run))
            refused.append(in_a_thread(lambda: trainer(data, tmp_path, PLAIN)))
        return step()

    first.train_step = beside
    first.run()
    assert [type(error) for error in refused] == [BlockingIOError] * 2
    assert [row["step"] for row in losses(tmp_path)] == list(range(PLAIN.steps))
    again = trainer(data, tmp_path, PLAIN)
    assert again.step == PLAIN.steps


@pytest.mark.parametrize("what", ["motion-module", "motion-lora"])
def test_a_command_says_that_its_folder_is_in_use_before_it_reads_anything(what, unread, base, tmp_path, capsys):  # noqa: F811
    unread("load_base")
    with folder_lock(tmp_path):
        assert in_a_thread(lambda: command(what, base, tmp_path) == 2 or pytest.fail("ran")) is None
    error = capsys.readouterr().err
    assert "another run works in this folder" in error and str(tmp_path) in error and os.listdir(tmp_path) == []


# Checkpoints that are damaged


def test_a_damaged_checkpoint_is_one_sentence_with_its_name(data, tmp_path):  # noqa: F811
    trainer(data, tmp_path, PLAIN).run()
    path, draw = tmp_path / "checkpoint.pt", random.Random(0)
    whole, state = path.read_bytes(), load_state(path)
    name = next(iter(state["trained"]))

    def without(key):
        return {k: v for k, v in state.items() if k != key}

    other = {
        **{f"without {key}": without(key) for key in ("step", "trained", "optimizer", "generator", "identity")},
        "a list": [1],
        "a step": state | {"step": "4"},
        "a negative step": state | {"step": -1},
        "no generator": state | {"generator": torch.zeros(3, dtype=torch.uint8)},
        "no identity": state | {"identity": 3},
        "a shape that spreads": state | {"trained": state["trained"] | {name: torch.zeros(())}},
        "another optimizer": state | {"optimizer": {"state": {}, "param_groups": []}},
    }
    contents = [whole[: draw.randrange(len(whole))] for _ in range(6)] + [b"", b"PK\3\4", bytes(99), b"\x80\x02N."]
    for made in [*contents, *other.values()]:
        path.write_bytes(made) if isinstance(made, bytes) else torch.save(made, path)
        kept = path.read_bytes()
        with pytest.raises(ValueError) as error:
            trainer(data, tmp_path, PLAIN)
        said = str(error.value)
        assert said.startswith(f"{path}: is damaged or no checkpoint of this run (") and "remove it" in said
        assert "\n" not in said and len(said) < 600
        assert path.read_bytes() == kept


# Captions that are not UTF-8


def test_a_caption_that_is_not_utf_8_is_skipped_and_named(base, tmp_path, capsys):  # noqa: F811
    for name in ("a", "b", "c"):
        write_video(tmp_path / f"{name}.webp", SMALL)
    (tmp_path / "a.txt").write_bytes("\ufeffa star".encode())
    (tmp_path / "b.txt").write_bytes("a star, très rouge".encode("latin-1"))
    a, b, c = find_clips(tmp_path)
    assert (a.caption, a.problem, c.caption, c.problem) == ("a star", None, "", None)
    assert b.problem == f"{tmp_path / 'b.txt'}: is not UTF-8 at byte 10, expected a caption in UTF-8."
    out = tmp_path / "out"
    words = ["train", "motion-lora", str(tmp_path), "--base", str(base), "--out", str(out), *FEW]
    assert main([*words, "--steps", "1"]) == 0
    error = capsys.readouterr().err
    assert f"skipped {tmp_path / 'b.webp'}: {b.problem}" in error and error.count("skipped") == 1


@pytest.mark.parametrize("beside", [False, True])
def test_lines_of_metadata_that_are_not_utf_8_skip_the_clips_whose_captions_are_unknown(beside, tmp_path):
    for name in ("a", "b", "c"):
        write_video(tmp_path / f"{name}.webp", SMALL)
    path = tmp_path / "metadata.jsonl"
    lines = [
        b'{"file_name": "a.webp", "text": "a \xe2\x80\xa8 star"}',
        b'{"file_name": "b.webp", "text": "tr\xe8s rouge"}',
    ]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    a, b, c = find_clips(tmp_path)
    assert (a.caption, a.problem) == ("a \u2028 star", None) and (c.caption, c.problem) == ("", None)
    assert b.problem.startswith(f"{path}: line 2 is not UTF-8, expected an object")
    # A line that may be about any clip.
    path.write_bytes(b"\n".join([*lines, b"\xff\xfe{"]))
    if beside:
        (tmp_path / "c.txt").write_text("a ring")
    a, b, c = find_clips(tmp_path)
    assert a.problem is None and b.problem.startswith(f"{path}: line 2 ")
    assert (c.problem is None, c.caption) == (beside, "a ring" if beside else "")
    assert beside or c.problem.startswith(f"{path}: line 3 is not UTF-8")


def test_a_line_of_metadata_that_is_nested_or_has_thousands_of_digits_is_named(tmp_path):
    write_video(tmp_path / "a.webp", SMALL)
    for line in ("[" * 100_000, '{"file_name": ' + "9" * 5000 + "}", "[]"):
        (tmp_path / "metadata.jsonl").write_text(line)
        with pytest.raises(ValueError, match="line 1 is .*, expected an object with `file_name` and `text`") as error:
            find_clips(tmp_path)
        assert len(str(error.value)) < 600
