"""The command line as a user meets it: what it writes, what it says, and its exit status."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from unet_motion import __version__
from unet_motion.bundled import motion_lora_path
from unet_motion.cli import COMMANDS, build_parser, main
from unet_motion.cli.generate import load
from unet_motion.ops import cpu_vectors
from unet_motion.sampling import SAMPLERS, MotionPipeline, NoiseSchedule
from unet_motion.video import read_metadata

ROOT = Path(__file__).parents[2]


def run_python(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def generate(model_file, tmp_path):
    """Call `generate` with few steps; gives the status and the file."""

    def call(*arguments, prompt="a red star moving left", name="clip.webp"):
        path = tmp_path / name
        sizes = ["--model", str(model_file), "--frames", "4", "--steps", "2"]
        return main(["generate", prompt, "--out", str(path), *sizes, *arguments]), path

    return call


def test_generate_writes_a_moving_picture_with_its_settings(generate, capsys):
    status, path = generate("--seed", "7", "--negative", "blue")
    assert status == 0
    with Image.open(path) as image:
        assert image.format == "WEBP" and image.size == (256, 256) and image.n_frames == 4
    settings = read_metadata(path)
    assert settings["prompt"] == "a red star moving left" and settings["seed"] == 7
    assert settings["negative_prompt"] == "blue" and settings["steps"] == 2 and settings["version"] == __version__
    said = capsys.readouterr().out
    assert re.search(rf"^{re.escape(str(path))}: 4 frames of 256x256, in \d+\.\d s$", said, re.MULTILINE), said


def test_a_timeline_is_the_file_of_prompts(generate, tmp_path, capsys, monkeypatch):
    """As the node's page writes it: the call gets what prompts, guidance and options by themselves give it."""
    called = []

    def call(self, *args, **named):
        called.append(named)
        return np.zeros((named["frames"], 64, 64, 3), np.uint8)

    monkeypatch.setattr(MotionPipeline, "__call__", call)
    file, lines = tmp_path / "line.json", tmp_path / "travel.txt"
    prompts = {"keys": [{"at": 0, "text": "a red star"}, {"at": 3, "text": "a blue star"}]}
    curves = {"cfg": {"over": "frames", "keys": [[0, 5], [3, 2]]}, "effect": [0, 1, 0.5, 1], "strength": 1}
    file.write_text(json.dumps({"prompts": prompts, "curves": curves}))
    lines.write_text('"0": "a red star", "3": "a blue star"')
    status, path = generate("--negative", "grey", prompt=f"--prompts={file}")
    assert status == 0 and f"{file}: the curve `strength` is left out" in capsys.readouterr().err
    generate("--negative", "grey", prompt=f"--prompts={lines}", name="plain.webp")
    whole, plain = called
    same = ("prompt", "negative_prompt", "seed", "frames", "steps", "noise")
    assert all(whole[name] == plain[name] for name in same) and whole["negative_prompt"] == "grey"
    assert whole["guidance"].values(4).tolist() == [5, 4, 3, 2] and plain["guidance"] == 3.0
    (amount,) = whole["options"].motion_amounts
    assert amount.scale == 1 and amount.effect.tolist() == [0, 1, 0.5, 1] and not plain["options"].motion_amounts
    assert read_metadata(path)["curves"]["effect"] == [0, 1, 0.5, 1]
    file.write_text(json.dumps({"prompts": prompts, "curves": {"effect": [0, 1, 0]}}))
    assert generate(prompt=f"--prompts={file}")[0] == 2
    assert f"{file}: the curve 'effect': found a list of 3 values, expected" in capsys.readouterr().err


def test_motion_loras_act_with_the_strength_behind_the_last_colon_or_fully(tmp_path, monkeypatch):
    applied = []
    monkeypatch.setattr("unet_motion.lora.apply.apply_motion_lora", lambda unet, *given: applied.append(given))
    file = tmp_path / "d:zoom"
    file.touch()
    words = [f"{file}:0.5", "pan-left", "pan-left:-2", str(file)]
    args = build_parser("generate").parse_args(["generate", "a", *(f"--motion-lora={word}" for word in words)])
    load(args, "meta")
    left = str(motion_lora_path("pan-left"))
    assert applied == [(str(file), 0.5, False), (left, 1.0, False), (left, -2.0, False), (str(file), 1.0, False)]


def test_what_a_stride_and_unknown_words_become_is_said_shortly(generate, capsys, monkeypatch):
    monkeypatch.setattr("unet_motion.cli.generate.SHOWN_WORDS", 3)
    assert generate("--window", "3", "--overlap", "1", "--stride", "99", prompt="a cirle moving zzzz")[0] == 0
    err = capsys.readouterr().err
    assert "a stride of 99 acts as 2 on 4 frames with windows of 3 (standard_uniform)" in err
    known = err.partition("does not know cirle, zzzz; it knows ")[2].partition("\n")[0]
    assert known == "circle, a, red and 5 more"
    assert generate("--window", "3", "--overlap", "1", "--stride", "2")[0] == 0
    assert "stride" not in capsys.readouterr().err


def test_prompts_over_the_frames_come_from_a_file(generate, tmp_path, capsys):
    lines = tmp_path / "travel.txt"
    lines.write_text('"0": "a red star", "3": "a blue star --neg green",\n')
    status, path = generate(prompt=f"--prompts={lines}")
    assert status == 0
    settings = read_metadata(path)
    assert [key["text"] for key in settings["prompt"]["keys"]] == ["a red star", "a blue star"]
    assert [key["text"] for key in settings["negative_prompt"]["keys"]] == ["", "green"]
    _, one = generate(prompt="a red star", name="one.webp")
    assert one.read_bytes() != path.read_bytes()
    with Image.open(path) as image:
        assert image.n_frames == 4 and "workflow" not in str(image.getexif())
    lines.write_text('"0": "a red star",\n"9" "a blue star"')
    assert generate(prompt=f"--prompts={lines}")[0] == 2
    assert f"`{lines}`: line 2: found" in capsys.readouterr().err
    lines.write_text('"0": "a red star", "3": "a blue star --neg green"')
    assert generate("--negative", "grey", prompt=f"--prompts={lines}")[0] == 2
    assert f"--negative is 'grey', but {lines} has negative prompts" in capsys.readouterr().err
    lines.write_bytes(b"\xff\xfe\x00")
    for path, words in ((lines, "is not UTF-8"), (tmp_path, "cannot be read"), (tmp_path / "none", "cannot be read")):
        assert generate(prompt=f"--prompts={path}")[0] == 2
        assert f"--prompts {path} {words}" in capsys.readouterr().err
    lines.write_text('"0": "a red star", "3": "a ring", "9": "a blue star"')
    assert generate(prompt=f"--prompts={lines}")[0] == 2
    assert "9 is never reached: the clip has 4 frames" in capsys.readouterr().err


def test_a_clip_longer_than_the_model_knows_is_drawn_in_windows(generate):
    status, path = generate("--frames", "19", "--window", "8", "--overlap", "3", "--loop", "--free-noise")
    assert status == 0
    with Image.open(path) as image:
        assert image.n_frames == 19
    settings = read_metadata(path)
    (part,) = settings["windows"]
    windows = part["windows"]
    assert settings["noise"] == "free_noise" and (windows["length"], windows["overlap"]) == (8, 3)
    assert windows["schedule"] == "looped_uniform" and windows["closed_loop"] is True
    _, plain = generate("--frames", "19", "--window", "8", "--overlap", "3", "--free-noise", name="plain.webp")
    assert plain.read_bytes() != path.read_bytes()
    options = ["--frames", "19", "--window", "8", "--overlap", "3", "--free-noise", "--views", "--frames-at-once", "4"]
    status, views = generate(*options, name="views.webp")
    assert status == 0 and views.read_bytes() != plain.read_bytes()
    assert read_metadata(views)["windows"][0]["views"] is True


def test_parts_of_the_sampling_have_windows_of_their_own(generate):
    sizes = ["--frames", "19", "--window", "8", "--overlap", "3", "--steps", "2"]
    late = ["--window-part", "0.5:schedule=looped_uniform,closed_loop=on,fuse=flat", "--window-part", "0.9-1:views=on"]
    status, path = generate(*sizes, *late)
    whole, loop, views = read_metadata(path)["windows"]
    assert status == 0 and whole["windows"] == {**loop["windows"], "schedule": "standard_uniform", "fuse": "pyramid",
                                                "closed_loop": False}  # fmt: skip
    assert (loop["windows"]["schedule"], loop["windows"]["closed_loop"]) == ("looped_uniform", True)
    assert [(p["start"], p["end"], p["views"]) for p in (loop, views)] == [(0.5, 1.0, False), (0.9, 1.0, True)]
    assert generate(*sizes, name="plain.webp")[1].read_bytes() != path.read_bytes()


def test_a_loop_over_some_frames_and_windows_of_a_clip_as_long_as_one(generate):
    sizes = ["--frames", "8", "--window", "8", "--overlap", "3"]
    _, plain = generate(*sizes, name="plain.webp")
    _, equal = generate(*sizes, "--schedule", "looped_uniform", "--use-on-equal-length", name="equal.webp")
    _, loop = generate(*sizes, "--loop", "--loop-frames", "2", name="loop.webp")
    _, whole = generate(*sizes, "--loop", name="whole.webp")
    assert len({path.read_bytes() for path in (plain, equal, loop, whole)}) == 4
    (part,) = read_metadata(loop)["windows"]
    assert part["windows"]["loop_frames"] == 2 and part["windows"]["use_on_equal_length"] is True


def test_free_init_and_mixed_noise_stand_in_the_file(generate, capsys):
    options = ["--free-init", "2", "--free-init-filter", "box", "--free-init-stop", "0.5,0.25", "--free-init-fast"]
    status, path = generate("--noise", "default:1,constant:0.5", *options)
    assert status == 0 and "sampling 2/2: 2 of 2" in capsys.readouterr().err
    settings = read_metadata(path)
    expected = {"iterations": 2, "filter": "box", "spatial_stop": 0.5, "temporal_stop": 0.25, "order": 4, "fast": True}
    assert settings["free_init"] == expected and settings["noise"] == "default:1,constant:0.5"
    _, plain = generate("--noise", "default:1,constant:0.5", name="plain.webp")
    assert plain.read_bytes() != path.read_bytes() and read_metadata(plain)["free_init"] is None


def test_a_step_cache_stands_in_the_file_and_says_what_it_skipped(generate, capsys):
    status, path = generate("--steps", "6", "--step-cache", "balanced,first=0.2,last=0")
    told = "3 of 6 calls of the network were full, 3 of the last layers alone, the unconditional half was left out of 3"
    assert status == 0 and told in capsys.readouterr().out
    settings = read_metadata(path)["step_cache"]
    assert (settings["interval"], settings["guidance_interval"], settings["first"]) == (3, 3, 0.2)
    with Image.open(path) as image:
        assert "workflow" not in str(image.getexif())
    assert generate("--step-cache", "quick")[0] == 2
    assert "--step-cache: the step cache is 'quick', expected careful, balanced, fast or" in capsys.readouterr().err


def test_same_seed_same_file_another_seed_another(generate, tmp_path):
    _, first = generate("--seed", "7", name="1.webp")
    _, second = generate("--seed", "7", name="2.webp")
    _, third = generate("--seed", "8", name="3.webp")
    assert first.read_bytes() == second.read_bytes()
    assert np.abs(np.asarray(Image.open(first), int) - np.asarray(Image.open(third), int)).max() > 0


@pytest.mark.parametrize("suffix", [".webp", ".mp4"])
def test_less_quality_makes_a_smaller_file(generate, suffix):
    if suffix == ".mp4":
        pytest.importorskip("av", reason="MP4 needs the extra `video`")
    qualities = {"none": [], "fine": ["--quality", "80"], "coarse": ["--quality", "10"]}
    none, fine, coarse = (
        generate(*arguments, name=name + suffix)[1].stat().st_size for name, arguments in qualities.items()
    )
    assert coarse < 0.7 * fine < 0.7 * 0.9 * none


@pytest.mark.parametrize(
    "arguments",
    [
        ("--sampler", "euler_ancestral"),
        ("--guidance", "1"),
        ("--freeu", "0.3,0.2,1.4,1.6"),
        ("--negative", "circle"),
        ("--width", "32", "--height", "72"),
    ],
)
def test_each_option_changes_the_picture(generate, arguments):
    _, plain = generate(name="plain.webp")
    status, changed = generate(*arguments, name="changed.webp")
    assert status == 0
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in (plain, changed)]
    assert pictures[0].shape != pictures[1].shape or not np.array_equal(*pictures)


def test_the_dtype_is_the_named_one_and_stands_in_the_file(generate, monkeypatch, capsys):
    monkeypatch.setattr(cpu_vectors, "BFLOAT16", True)
    pictures = {}
    for name, arguments in {"": (), **{n: ("--dtype", n) for n in ("float32", "bfloat16")}}.items():
        status, path = generate(*arguments, "--device", "cpu", name=f"clip-{name}.webp")
        pictures[name] = np.asarray(Image.open(path).convert("RGB"))
        assert status == 0 and read_metadata(path).get("dtype", "") == name
    assert np.array_equal(pictures[""], pictures["bfloat16"])
    assert not np.array_equal(pictures[""], pictures["float32"])
    with pytest.raises(SystemExit):
        generate("--dtype", "int8")


def test_float8_products_act_and_stand_in_the_file(generate):
    pictures = []
    for name, arguments in {"plain": (), "float8": ("--float8",)}.items():
        status, path = generate("--dtype", "float32", "--device", "cpu", *arguments, name=f"{name}.webp")
        pictures.append(np.asarray(Image.open(path).convert("RGB"), int))
        settings = read_metadata(path)
        assert status == 0 and settings.get("float8", False) is (name == "float8")
    assert 0 < np.abs(pictures[0] - pictures[1]).mean() < 8


def test_the_schedule_is_the_one_in_the_file(model_file):
    pipeline = MotionPipeline.bundled(path=model_file)
    expected = NoiseSchedule.named("scaled_linear", end=0.02, prediction="v_prediction")
    assert torch.equal(pipeline.schedule.alphas_cumprod, expected.alphas_cumprod)
    assert pipeline.schedule.prediction == "v_prediction" and pipeline.latent_scale == 0.5


def test_attention_processors_agree(generate):
    _, exact = generate("--attention", "math", name="math.webp")
    _, fused = generate("--attention", "sdpa", name="sdpa.webp")
    pictures = [np.asarray(Image.open(path).convert("RGB"), int) for path in (exact, fused)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 2
    assert read_metadata(exact)["attention"] == "math"


def test_size_follows_scale_and_json_is_all_that_is_printed(generate, capsys):
    status, path = generate(
        "--scale", "1", "--filter", "nearest", "--json", "--sheet", str(Path(generate()[1]).with_name("s.png"))
    )
    out = capsys.readouterr().out.strip().splitlines()
    assert status == 0
    assert Image.open(path).size == (64, 64)
    report = json.loads(out[-1])
    assert report["path"] == str(path) and report["seed"] == 0 and report["unknown_words"] == []
    assert Image.open(path.with_name("s.png")).size == (2 * 64 + 2, 2 * 64 + 2)


def test_the_seconds_of_a_run_are_those_between_its_beginning_and_its_end(generate, capsys, monkeypatch):
    times = iter([50.0, 52.346])
    monkeypatch.setattr("unet_motion.cli.generate.time", SimpleNamespace(perf_counter=lambda: next(times)))
    assert generate("--json", "--frames", "1")[0] == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["seconds"] == 2.35


def test_unknown_words_are_named_beside_the_known_ones(generate, capsys):
    status, _ = generate(prompt="a purple star")
    said = capsys.readouterr().err
    assert status == 0
    assert "purple" in said and "circle, moving, left" in said


def test_without_out_the_name_comes_from_the_prompt(model_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        main(["generate", "A Red/../star!", "--seed", "3", "--model", str(model_file), "--frames", "2", "--steps", "1"])
        == 0
    )
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["a-red-star-3.webp"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--frames", "40"], ["frames is 40", "1 to 8"]),
        (["--frames", "40", "--window", "9"], ["windows of 9 frames", "at most 8"]),
        (["--window", "8", "--overlap", "8"], ["`overlap` is 8", "less than `length`"]),
        (["--loop"], ["--loop needs --window"]),
        (["--overlap", "2"], ["--overlap needs --window"]),
        (["--overlap", "0"], ["--overlap needs --window"]),
        (["--loop-frames", "0"], ["--loop-frames needs --window"]),
        (["--windows-at-once", "0"], ["--windows-at-once needs --window"]),
        (["--window", "8", "--window-part", "0.5"], ["--window-part is '0.5'", "START[-END]"]),
        (["--window", "8", "--window-part", "0.5:,"], ["--window-part is '0.5:,'", "START[-END]"]),
        (["--free-noise"], ["--noise needs --window"]),
        (["--views"], ["--views needs --window"]),
        (["--window-part", "0.5:stride=2"], ["--window-part needs --window"]),
        (["--window", "8", "--window-part", "0.5:strides=2"], ["'0.5:strides=2'", "START[-END]", "stride"]),
        (["--window", "4", "--overlap", "1", "--window-part", "0.5-0.2:stride=2"], ["0.5 to 0.2", "start < end"]),
        (["--window", "8", "--loop-frames", "2"], ["--loop-frames needs --loop"]),
        (["--window", "0"], ["--window is 0", "at least 1"]),
        (["--window", "8", "--overlap", "1", "--views", "--windows-at-once", "2"], ["--windows-at-once is 2", "views"]),
        (["--free-init", "2", "--free-init-filter", "box", "--free-init-order", "2"], ["butterworth", "box"]),
        (["--frames-at-once", "0"], ["`frames_at_once` is 0"]),
        (["--loop", "--window", "8"], ["--loop needs at least a window of frames", "--frames 4"]),
        (["--window", "4", "--schedule", "spiral"], ["'spiral'", "standard_static"]),
        (["--noise", "pink"], ["noise is 'pink'", "free_noise"]),
        (["--noise", "default:1,repeated:1"], ["--noise needs --window"]),
        (["--noise", "default:a"], ["noise is 'default:a'", "KIND:WEIGHT"]),
        (["--free-init-fast"], ["--free-init-fast needs --free-init", "number of runs"]),
        (["--free-init-stop", "0.5"], ["--free-init-stop needs --free-init"]),
        (["--free-init", "0"], ["`iterations` is 0"]),
        (["--free-init", "2", "--free-init-filter", "sharp"], ["`filter` is 'sharp'", "butterworth"]),
        (["--free-init", "2", "--free-init-stop", "0.5,2"], ["`temporal_stop` is 2.0"]),
        (["--width", "30"], ["width is 30"]),
        (["--sampler", "fast"], ["'fast'", "euler"]),
        (["--seed", "-1"], ["seed is -1"]),
        (["--scale", "0"], ["scale is 0"]),
        (["--fps", "0"], ["fps is 0"]),
        (["--filter", "cubic"], ["'cubic'", "lanczos"]),
        (["--quality", "200"], ["quality is 200"]),
        (["--quality", "80", "--out", "clip.gif"], ["quality is 80", "a GIF has none"]),
        (["--attention", "fastest"], ["fastest", "sdpa"]),
        (["--out", "clip.avi"], ["'.avi'", ".webp"]),
        (["--sheet", "clip.jpg"], ["clip.jpg", ".png"]),
        (["--model", "none.safetensors"], ["none.safetensors"]),
        (["--device", "toaster"], ["toaster"]),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(generate, capsys, arguments, words):
    status, path = generate(*arguments)
    said = capsys.readouterr()
    assert status == 2
    assert said.err.startswith("unet-motion generate: error: ") and said.err.count("\n") == 1, said.err
    assert all(word in said.err for word in words), said.err
    assert not path.exists() and said.out == ""


WRONG = [
    [], ["paint"], ["generate"], ["generate", "x", "--prompts", "y"], ["generate", "x", "--freeu", "1,2"], ["inspect"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: unet-motion" in capsys.readouterr().err


def test_a_model_file_of_another_kind_is_refused(generate, capsys, tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"not a model")
    status, path = generate("--model", str(tmp_path / "other.safetensors"))
    assert status == 2 and not path.exists()
    assert "other.safetensors" in capsys.readouterr().err


def test_inspect_and_bad_files(model_file, tmp_path, capsys):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"")
    assert main(["inspect", str(bad)]) == 2
    assert "bad.safetensors" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "none.safetensors")]) == 2
    assert "none.safetensors" in capsys.readouterr().err
    main(["inspect", "--json", str(model_file)])
    assert json.loads(capsys.readouterr().out)["path"] == str(model_file)


@pytest.fixture(scope="module")
def ascii_helps():
    """What --help of each command writes on a terminal of ASCII, as what `python -m` runs; in one process."""
    code = (
        "import contextlib, runpy, sys\n"
        "for sys.argv[1:] in [[name, '--help'] for name in sys.argv[1:]]:\n"
        "    sys.stdout.reconfigure(errors='strict')\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        runpy.run_module('unet_motion', run_name='__main__')\n"
        "    print(end='\\0')\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, *COMMANDS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(zip(COMMANDS, done.stdout.decode("ascii").split("\0"), strict=False))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_shown_on_a_terminal_without_unicode(ascii_helps, name):
    assert ascii_helps[name].startswith(f"usage: unet-motion {name}")


def test_a_reader_that_has_seen_enough_is_no_error():
    from unet_motion.bundled import WEIGHTS

    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as pipe:
        command = [sys.executable, "-m", "unet_motion", "inspect", str(WEIGHTS)]
        done = subprocess.run(command, cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (141, "")


def test_errors_are_shown_on_a_terminal_without_unicode():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "unet_motion", "inspect", "st\u00e9rn\u661f.safetensors"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=environment)
    assert done.returncode == 2 and b"does not exist" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_each_subcommand_shows_its_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"unet-motion {name}" in capsys.readouterr().out


def test_help_of_all_lists_the_subcommands_without_importing_torch():
    code = "import sys; sys.modules['torch'] = None; from unet_motion.cli import main; main(['--help'])"
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_version_of_the_module_run_as_a_program():
    assert run_python("-m", "unet_motion", "--version").stdout == f"unet-motion {__version__}\n"


def test_help_names_every_sampler(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in SAMPLERS)
