"""`unet-motion render`: the clips of a file of jobs, whoever draws them and whoever is lost on the way."""

import json
import multiprocessing
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from unet_motion.cli import build_parser, generate, main, render, render_outputs, render_workers
from unet_motion.cli.render_jobs import read_jobs, seed_of
from unet_motion.cli.render_workers import Renderer
from unet_motion.sampling import MotionPipeline
from unet_motion.video import read_metadata

SIZES = {"frames": 4, "steps": 2, "scale": 1}


@pytest.fixture
def batch(model_file, tmp_path):
    """Call `render` with jobs of few steps; gives the status and the folder."""
    folder = tmp_path / "clips"

    def call(jobs, *arguments):
        path = tmp_path / "jobs.jsonl"
        lines = [{"model": str(model_file), **SIZES, **job} if isinstance(job, dict) else job for job in jobs]
        path.write_text("".join(f"{job if isinstance(job, str) else json.dumps(job)}\n" for job in lines))
        return main(["render", str(path), "--out", str(folder), *arguments]), folder

    return call


@pytest.fixture
def in_this_process(monkeypatch):
    """Workers draw when they are asked, here; gives the lines that they drew."""
    drawn = []

    class Here:
        def __init__(self, device, threads):
            self.renderer = Renderer(device, 1)

        def submit(self, job):
            drawn.append(job.line)
            future = Future()
            future.set_result(self.renderer.draw(job))
            return future

        def close(self):
            pass

    monkeypatch.setattr(render_workers, "LocalWorker", Here)
    return drawn


def failures(folder):
    return [json.loads(line) for line in (folder / render.FAILURES).read_text().splitlines()]


def alone(model_file, folder, job):
    """What `generate` makes of a job's options, in this process."""
    words = [f"--{name}={value}" for name, value in {**SIZES, **job}.items() if name not in ("prompt", "out")]
    path = folder / job["out"]
    assert main(["generate", job["prompt"], "--out", str(path), "--model", str(model_file), *words]) == 0
    return path


JOBS = [
    {"prompt": f"a red star moving {way}", "seed": i, "out": f"{i}.webp"}
    for i, way in enumerate(("left", "right", "left", "right"))
]


def pictures(path):
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def same_as_alone(model_file, folder, tmp_path):
    for job in JOBS:
        expected = alone(model_file, tmp_path / "alone", job)
        found = folder / job["out"]
        assert np.array_equal(pictures(found), pictures(expected))
        assert found.read_bytes() == expected.read_bytes()
    assert len({(folder / job["out"]).read_bytes() for job in JOBS}) == len(JOBS)


def kill_at_the_first_clip(monkeypatch, kill):
    place, killed = render._place, []

    def killing(*arguments):
        if not killed:
            killed.append(kill())
        return place(*arguments)

    monkeypatch.setattr(render, "_place", killing)
    return killed


def test_two_workers_of_which_one_is_killed_give_what_generate_gives(batch, model_file, monkeypatch, tmp_path, capsys):
    def kill():
        workers = multiprocessing.active_children()
        workers[0].kill()
        workers[0].join()
        return len(workers)

    killed = kill_at_the_first_clip(monkeypatch, kill)
    status, folder = batch(JOBS, "--workers", "2", "--device", "cpu")
    said = capsys.readouterr()
    assert status == 0 and killed == [2]
    assert said.err.count("its worker was lost, another one draws it") == 1 and "clips: 4 of 4" in said.err
    assert said.out == f"{folder}: drawn 4, there before 0, failed 0\n"
    assert sorted(path.name for path in folder.iterdir()) == [job["out"] for job in JOBS]
    assert multiprocessing.active_children() == []
    same_as_alone(model_file, folder, tmp_path)


def test_two_actors_of_which_one_is_killed_give_what_generate_gives(batch, model_file, monkeypatch, tmp_path, capsys):
    pytest.importorskip("ray", reason="--address needs the extra `ray`")
    psutil = pytest.importorskip("psutil")

    def kill():
        actors = [p for p in psutil.Process().children(recursive=True) if "ray::Renderer" in " ".join(p.cmdline())]
        actors[0].kill()
        return len(actors)

    killed = kill_at_the_first_clip(monkeypatch, kill)
    status, folder = batch(JOBS, "--workers", "2", "--device", "cpu", "--address", "local")
    said = capsys.readouterr()
    assert status == 0 and killed == [2]
    assert said.err.count("its worker was lost, another one draws it") == 1
    assert said.out.endswith(f"{folder}: drawn 4, there before 0, failed 0\n")  # behind what Ray says
    same_as_alone(model_file, folder, tmp_path)


def test_without_ray_an_address_says_which_extra_brings_it(batch, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert batch(JOBS, "--address", "auto")[0] == 2
    assert "`pip install ray` (the extra `ray`)" in capsys.readouterr().err


# what a line means


def test_a_line_means_what_the_words_of_generate_mean(tmp_path):
    words = [
        "--prompts=p.txt", "--out=a.webp", "--sheet=s/b.png", "--negative=-x", "--seed=3", "--steps=2",
        "--guidance=2.5", "--frames=20", "--width=72", "--height=80", "--sampler=euler", "--fps=7.5", "--scale=2",
        "--filter=nearest",
        "--quality=50", "--freeu=0.9,0.2,1.2,1.4", "--attention=math", "--model=m", "--motion-lora=a:0.5",
        "--motion-lora=b", "--allow-partial", "--frames-at-once=3", "--window=8", "--overlap=2", "--stride=2",
        "--schedule=batched", "--fuse=flat", "--loop", "--loop-frames=2", "--use-on-equal-length",
        "--window-part=0.5:stride=2", "--views", "--windows-at-once=2", "--noise=constant", "--free-init",
        "--free-init-filter=box", "--free-init-stop=0.5,0.25", "--free-init-order=2", "--free-init-fast",
        "--step-cache=fast", "--dtype=bfloat16",
    ]  # fmt: skip
    job = {
        "prompts": "p.txt", "out": "a.webp", "sheet": "s/b.png", "negative": "-x", "seed": 3, "steps": 2,
        "guidance": 2.5, "frames": 20, "width": 72, "height": 80, "sampler": "euler", "fps": 7.5, "scale": 2,
        "filter": "nearest", "quality": 50, "freeu": [0.9, 0.2, 1.2, 1.4], "attention": "math", "model": "m",
        "motion-lora": ["a:0.5", "b"], "allow_partial": True, "frames_at_once": 3, "window": 8, "overlap": 2,
        "stride": 2, "schedule": "batched", "fuse": "flat", "loop": True, "loop_frames": 2,
        "use_on_equal_length": True, "window_part": "0.5:stride=2", "views": True, "windows_at_once": 2,
        "noise": "constant", "free_init": True, "free_init_filter": "box", "free_init_stop": "0.5,0.25",
        "free_init_order": 2, "free_init_fast": True, "step_cache": "fast", "dtype": "bfloat16",
    }  # fmt: skip
    expected = vars(build_parser("generate").parse_args(["generate", *words]))
    options = {name for name in expected if name not in ("command", "run", "json", "prompt", "device")}
    assert options == {name.replace("-", "_") for name in job}, "an option of generate that no line here has"
    found = vars(_args(job))
    assert {name: found[name] for name in options} == {name: expected[name] for name in options}
    assert _args({"prompt": "--loop", "noise": None, "loop": False}).prompt == "--loop"
    assert _args({"prompt": "x", "free_noise": True}).noise == "free_noise"


def _args(job):
    from unet_motion.cli import render_jobs

    return render_jobs._args(render_jobs._parser(), json.dumps(job))


def test_a_seed_that_is_not_given_depends_on_the_line_alone(batch, in_this_process):
    job = {"prompt": "a red star", "steps": 2}
    lines = job, {"steps": 2, "prompt": "a red star", "out": "x.webp"}, {**job, "steps": 3}
    seeds = [_args(line).seed for line in lines]
    assert seeds[0] == seeds[1] != seeds[2] and all(0 <= seed < 2**32 for seed in seeds)
    assert seed_of({"prompt": "a"}) == 0xB4199E33 == seed_of({"prompt": "a", "sheet": "x.png"})
    assert _args({**job, "seed": 0}).seed == 0 and str(_args(job).out) == f"a-red-star-{seeds[0]}.webp"
    _, folder = batch([{"prompt": "a red star", "out": "x.webp"}])
    line = json.loads((folder.parent / "jobs.jsonl").read_text())
    assert read_metadata(folder / "x.webp")["seed"] == _args(line).seed


WRONG = [
    ('{"prompt": "a"', ["the job is not JSON"]),
    ("[1]", ["holds a list", "JSON object"]),
    ({"steps": 3}, ["prompt", "`prompts`", "is required"]),
    ({"prompt": "a", "prompts": "b"}, ["not allowed with"]),
    ({"prompt": 5}, ["`prompt` is 5", "a text"]),
    ({"prompt": "a", "stepz": 1}, ["`stepz` is not known", "steps"]),
    ({"prompt": "a", "step": 1}, ["`step` is not known"]),
    ({"prompt": "a", "motion-lora": "x", "motion_lora": "y"}, ["`motion_lora` is given twice"]),
    ({"prompt": "a", "json": True}, ["`json` is not known"]),
    ({"prompt": "a", "device": "cpu"}, ["`device`", "render --device"]),
    ({"prompt": "a", "steps": "x"}, ["`steps`", "'x'"]),
    ({"prompt": "a", "steps": 2.5}, ["`steps`", "'2.5'"]),
    ({"prompt": "a", "steps": True}, ["`steps` is true"]),
    ({"prompt": "a", "steps": {"a": 1}}, ['`steps` is {"a": 1}']),
    ({"prompt": "a", "loop": "yes"}, ['`loop` is "yes"', "true or false"]),
    ({"prompt": "a", "freeu": [1, 2]}, ["`freeu`", "four numbers"]),
    ({"prompt": "a", "out": "../a.webp"}, ["`out` is '../a.webp'", "inside the folder"]),
    ({"prompt": "a", "out": "/a.webp"}, ["`out` is '/a.webp'"]),
    ({"prompt": "a", "sheet": "a/../../s.png"}, ["`sheet` is"]),
    ({"prompt": "a", "out": "s.png", "sheet": "s.png"}, ["`out` and `sheet` are both s.png"]),
    ({"prompt": "a", "out": "a.avi"}, ["'.avi'", ".webp"]),
    ({"prompt": "a", "frames": 40}, ["frames is 40", "1 to 8"]),
    ({"prompt": "a", "frames": 40, "window": 9, "overlap": 1}, ["windows of 9 frames", "at most 8"]),
    ({"prompt": "a", "loop": True}, ["`loop` needs `window`, the frames of a window, such as `window`: 16"]),
    ({"prompt": "a", "seed": -1}, ["seed is -1"]),
    ({"prompt": "a", "steps": 0}, ["steps is 0"]),
    ({"prompt": "a", "steps": 1001}, ["steps is 1001"]),
    ({"prompt": "a", "width": 30}, ["width is 30"]),
    ({"prompt": "a", "guidance": 101}, ["guidance is 101"]),
    ({"prompt": "a", "sampler": "fast"}, ["'fast'", "euler"]),
    ({"prompt": "a", "attention": "fastest"}, ["fastest", "sdpa"]),
    ({"prompt": "a", "frames_at_once": 0}, ["`frames_at_once` is 0"]),
    ({"prompt": "a", "noise": "pink"}, ["noise is 'pink'"]),
    ({"prompt": "a", "free_init": 2, "free_init_stop": [0.5, 2]}, ["`free_init_stop` is 2.0"]),
    ({"prompt": "a", "scale": 0}, ["scale is 0"]),
    ({"prompt": "a", "fps": 0}, ["fps is 0"]),
    ({"prompt": "a", "quality": 80, "out": "a.gif"}, ["quality is 80", "a GIF has none"]),
    ({"prompt": "a", "model": "none.safetensors"}, ["none.safetensors"]),
    ({"prompt": "a", "motion_lora": ["nothing:1"]}, ["`motion_lora` nothing", "pan-left"]),
    ({"prompt": "a", "motion_lora": ["pan-left"]}, ["pan-left", "fit"]),
    ('{"prompt": "a", "steps": 2, "steps": 3}', ["`steps` is given twice", "once"]),
    ({"prompt": "a", "negative": ["a", "b"]}, ['`negative` is ["a", "b"]', "not a list"]),
    ({"prompt": "a", "out": ["a", "b.webp"]}, ['`out` is ["a", "b.webp"]', "not a list"]),
    ({"prompt": "a", "noise": ["default:1"]}, ["`noise` is", "not a list"]),
    ({"prompt": "a", "freeu": ["0.9,0.2", "1.2,1.4"]}, ["`freeu` is", "a list of numbers"]),
    ({"prompt": "a", "free_init": 0}, ["`free_init` is 0"]),
    ({"prompt": "a", "free_init": 2, "free_init_filter": "b"}, ["`free_init_filter` is 'b'"]),
    ({"prompt": "a", "filter": ["b"]}, ["`filter` is ["]),
    ({"prompt": "a", "step_cache": "x"}, ["`step_cache`: the step cache is 'x'"]),
    ({"prompt": "a", "out": "failures.jsonl/x.webp"}, ["`out` is 'failures.jsonl/x.webp'", "clips that fail"]),
    ({"prompt": "a", "out": "Failures.JSONL"}, ["clips that fail"]),
    ({"prompt": "a", "out": ".webp"}, ["`out` is '.webp'", "a space or a dot"]),
    ({"prompt": "a", "out": "a /x.webp"}, ["`out` is 'a /x.webp'", "a space or a dot"]),
    ({"prompt": "a", "sheet": " x.png"}, ["`sheet` is ' x.png'", "a space or a dot"]),
    ({"prompt": "a", "out": "a\nb.webp"}, ["`out` is 'a\\nb.webp'", "without control characters"]),
    ({"prompt": "a", "out": "a\0.webp"}, ['"out": "a\\u0000.webp"', "without NUL"]),
    ({"prompt": "a \ud800"}, ["ud800", "halves of characters"]),
    ({"prompt": "a", "out": f"{'x' * 300}.webp"}, ["`out` is 'xxx", "too long", "file system"]),
    ({"prompt": "a", "width": int("9" * 400)}, ["width is 999", "...", "a multiple of"]),
]


def test_all_wrong_lines_are_named_before_a_model_is_loaded(batch, monkeypatch, capsys):
    loaded, bundled = [], MotionPipeline.bundled

    def noting(**given):
        loaded.append(str(given["device"]))
        return bundled(**given)

    monkeypatch.setattr(MotionPipeline, "bundled", noting)
    monkeypatch.setattr(render, "NAMED", 100)
    lines = [{"prompt": "a", "out": "first.webp"}, "", *(job for job, _ in WRONG)]
    status, folder = batch(lines)
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if "error" in line]
    assert status == 2 and said.out == "" and not folder.exists() and set(loaded) == {"meta"}
    assert len(errors) == len(WRONG), said.err
    for number, (error, (_, words)) in enumerate(zip(errors, WRONG, strict=True), 3):
        assert error.startswith(f"unet-motion render: error: line {number}: "), error
        assert all(word in error for word in words), error
        assert len(error) < 1300 and "9" * 62 not in error
    monkeypatch.setattr(render, "NAMED", 5)
    batch(lines)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"unet-motion render: error: {len(WRONG) - 5} more lines are wrong"


def test_no_two_lines_write_the_same_or_into_each_other(batch, capsys):
    outs = ["a/b.webp", "a/b.webp", "./a/b.webp", "a", "a/b.webp/c.webp", "d", "d/e.gif"]
    named = [{"prompt": "a", "out": out} for out in outs]
    unnamed = [{"prompt": "a", "seed": 1}, {"prompt": "a", "seed": 1, "steps": 3}]
    status, _ = batch([*unnamed, *named, {"prompt": "a", "out": "f", "sheet": "d/e.png"}])
    errors = [line.split(": ", 2)[2] for line in capsys.readouterr().err.splitlines() if "error" in line]
    expected = {2: ("a-1.webp", 1), 4: ("a/b.webp", 3), 5: ("a/b.webp", 3), 6: ("a", 3), 7: ("a/b.webp/c.webp", 3),
                9: ("d/e.gif", 8), 10: ("d/e.png", 8)}  # fmt: skip
    assert status == 2 and errors == [
        f"line {line}: it writes {path}, as line {other} does: expected an `out` of its own"
        for line, (path, other) in expected.items()
    ]


@pytest.mark.parametrize(("text", "words"), [(b"", "holds no jobs"), (b"\n \n", "holds no jobs"), (b"\xff", "UTF-8")])
def test_a_file_without_jobs_is_refused(tmp_path, capsys, text, words):
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(text)
    assert main(["render", str(path), "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_bad_options_of_the_command(batch, tmp_path, capsys):
    for arguments, words in (
        (["--workers", "0"], "--workers is 0"), (["--threads", "0"], "--threads is 0"),
        (["--threads", "9" * 11], "--threads is 99999999999, expected 1 to 256"),
        (["--workers", "9" * 400], "999...999"), (["--workers", "100000"], "--workers is 100000, expected 1 to "),
        (["--device", "toaster"], "toaster"), (["--device", "meta"], "'meta' holds no values"),
        (["--out", str(tmp_path / "jobs.jsonl")], "is a file, expected a folder"),
    ):  # fmt: skip
        status, _ = batch(JOBS[:1], *arguments)
        said = capsys.readouterr().err
        assert status == 2 and words in said and said.count("\n") == 1, said


def test_words_that_the_model_does_not_know_are_said_with_their_line(batch, in_this_process, capsys):
    batch(["", {"prompt": "a purple star"}])
    assert "unet-motion render: line 2: the model does not know purple; it knows " in capsys.readouterr().err


def test_any_error_in_checking_a_line_is_the_lines(batch, in_this_process, monkeypatch, capsys):
    original = generate.notes

    def notes(args):
        if args.seed:
            raise (OverflowError, RuntimeError, MemoryError)[args.seed - 1]("no room\nat all")
        return original(args)

    monkeypatch.setattr(generate, "notes", notes)
    jobs = [{"prompt": "a red star", "seed": seed} for seed in range(4)]
    assert batch(jobs)[0] == 2 and in_this_process == []
    kinds = zip((2, 3, 4), ("OverflowError", "RuntimeError", "MemoryError"), strict=True)
    assert capsys.readouterr().err.splitlines() == [
        f"unet-motion render: error: line {line}: {kind}: no room\\nat all" for line, kind in kinds
    ]
    monkeypatch.setattr(generate, "notes", original)
    monkeypatch.setattr(render_outputs, "is_finished", lambda *arguments: 1 // 0)
    assert batch(jobs[:1], "--overwrite")[0] == 2
    assert "line 1: ZeroDivisionError: " in capsys.readouterr().err


def test_places_that_cannot_be_written_or_read_are_said_in_a_sentence(batch, in_this_process, tmp_path, capsys):
    file, outside = tmp_path / "file", tmp_path / "outside"
    file.write_text("x")
    outside.mkdir()
    folder = tmp_path / "clips"
    (folder / "s.png").mkdir(parents=True)
    (folder / "f").write_text("x")
    (folder / "link").symlink_to(outside)
    (folder / "x.webp").symlink_to(outside / "x.webp")
    (folder / "b").symlink_to("a")
    (folder / "a").mkdir()
    jobs = [{"prompt": "a", "out": out} for out in ("link/a.webp", "x.webp", "f/a.webp", "b/a.webp", "a/a.webp")]
    assert batch([*jobs, {"prompt": "a", "sheet": "s.png"}])[0] == 2
    said = capsys.readouterr().err.splitlines()
    expected = {1: "which a link leads to", 2: "which a link leads to", 3: "f is no folder", 5: "as line 4 does",
                6: "s.png is a folder"}  # fmt: skip
    for line, (number, words) in zip(said, expected.items(), strict=True):
        assert f"error: line {number}: " in line and words in line, said
    assert list(outside.iterdir()) == [] and in_this_process == []
    jobs_file = tmp_path / "jobs.jsonl"
    for path, out, words in (
        (tmp_path / "none", "o", "none cannot be read (No such file or directory), expected"),
        (outside, "o", "outside cannot be read (Is a directory), expected"),
        (jobs_file, file / "o", f"--out {file / 'o'} cannot be made (Not a directory), expected"),
        (jobs_file, "x" * 300, "cannot be made (File name too long), expected"),
    ):
        assert main(["render", str(path), "--out", str(tmp_path / out)]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1 and not (tmp_path / "o").exists(), said


# what is there, and what fails


def test_each_file_of_a_clip_is_judged_on_its_own(batch, in_this_process, capsys):
    small = {"prompt": "a red star", "steps": 1}
    other = {**small, "seed": 5, "out": "5.webp", "sheet": "5.png"}
    job = {**small, "seed": 1, "out": "1.webp", "sheet": "1.png"}
    frames = {**small, "seed": 2, "out": "frames"}
    _, folder = batch([other, job, frames])
    del in_this_process[:]

    def refused(words, of):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert batch(of)[0] == 2 and in_this_process == []
        assert words in capsys.readouterr().err
        assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    sheet = (folder / "1.png").read_bytes()
    (folder / "1.png").unlink()
    refused("1.webp is there with steps 1, but the line asks for 2", [{**job, "steps": 2}])
    (folder / "1.png").write_bytes((folder / "5.png").read_bytes())
    refused("1.png is there with seed 5, but the line asks for 1", [job])
    (folder / "1.png").write_bytes(b"mine")
    refused("1.png is there and holds no settings", [job])
    (folder / "1.webp").unlink()
    refused("1.png is there and holds no settings", [job])
    assert batch([job], "--overwrite")[0] == 0 and in_this_process == [1] and (folder / "1.png").read_bytes() == sheet
    del in_this_process[:]
    first, last = folder / "frames" / "frame_00000.png", folder / "frames" / "frame_00003.png"
    for lacking in (first, last):
        content = lacking.read_bytes()
        lacking.unlink()
        assert batch([frames])[0] == 0 and in_this_process == [1] and lacking.read_bytes() == content
        del in_this_process[:]
    assert batch([frames])[0] == 0 and in_this_process == []
    (folder / "frames" / "frame_copy.png").write_bytes(content)
    refused("holds 5 pictures, but the line asks for 4 frames", [frames])
    last.write_bytes(b"mine")
    refused("frame_00003.png is there and holds no settings", [frames])


def test_what_is_there_is_not_drawn_again_unless_its_line_says_something_else(batch, in_this_process, capsys):
    outs = {"out": "1.webp"}, {"out": "frames"}, {"out": "3.gif", "sheet": "3.png", "freeu": "0.9,0.2,1.2,1.4"}
    jobs = [{"prompt": "a red star", "seed": seed, "steps": 1, **out} for seed, out in enumerate(outs)]
    _, folder = batch(jobs[:2])
    before = (folder / "1.webp").read_bytes()
    assert batch(jobs)[0] == 0 and in_this_process == [1, 2, 3]
    assert (folder / "1.webp").read_bytes() == before and len(list((folder / "frames").iterdir())) == SIZES["frames"]
    assert capsys.readouterr().out.endswith("drawn 1, there before 2, failed 0\n")
    (folder / "3.png").unlink()
    assert batch(jobs)[0] == 0 and in_this_process == [1, 2, 3, 3] and (folder / "3.png").exists()
    changed = [{**jobs[0], "negative": "blue"}, *jobs[1:]]
    assert batch(changed)[0] == 2 and in_this_process == [1, 2, 3, 3]
    assert "line 1: " in (said := capsys.readouterr().err) and "negative_prompt" in said and "'blue'" not in said
    assert (folder / "1.webp").read_bytes() == before
    assert batch(changed, "--overwrite")[0] == 0 and in_this_process == [1, 2, 3, 3, 1]
    assert read_metadata(folder / "1.webp")["negative_prompt"] == "blue"
    (folder / "1.webp").write_bytes(b"else")
    assert batch(changed)[0] == 2 and "holds no settings of this program" in capsys.readouterr().err


def test_failures_are_lines_of_a_file_and_the_other_clips_are_there(batch, in_this_process, monkeypatch, capsys):
    original = generate.write

    def write(args, path, frames):
        if args.seed == 2:
            raise OSError("no room on the disk")
        if args.seed == 3:
            raise RuntimeError("out of memory\nwith details")
        return original(args, path, frames)

    monkeypatch.setattr(generate, "write", write)
    jobs = ["", *({"prompt": "a red star", "seed": seed, "out": f"{seed}.webp"} for seed in (1, 2, 3, 4))]
    status, folder = batch(jobs, "--workers", "1")
    assert status == 1 and sorted(path.name for path in folder.iterdir()) == ["1.webp", "4.webp", render.FAILURES]
    first, second = failures(folder)
    assert first == {"job": 3, "error": "no room on the disk"}
    assert second["job"] == 4 and second["error"].startswith("RuntimeError: out of memory")
    assert capsys.readouterr().out == f"{folder}: drawn 2, there before 0, failed 2\n"
    monkeypatch.setattr(generate, "write", original)
    assert batch(jobs)[0] == 0 and not (folder / render.FAILURES).exists() and in_this_process == [2, 3, 4, 5, 3, 4]


def test_a_clip_that_cannot_be_put_in_its_place_fails(batch, in_this_process, monkeypatch):
    def full(folder, job, files):
        return original(folder / "file", job, files)

    original = render._place
    _, folder = batch([{"prompt": "a red star", "out": "file"}])
    for frame in (folder / "file").iterdir():
        frame.unlink()
    (folder / "file").rmdir()
    (folder / "file").write_text("no folder")
    monkeypatch.setattr(render, "_place", full)
    status, _ = batch([{"prompt": "a red star", "out": "x.webp"}])
    assert status == 1 and failures(folder)[0]["job"] == 1 and "file" in failures(folder)[0]["error"]


def test_two_runs_in_one_folder_are_refused(batch, in_this_process, tmp_path):
    import threading

    from unet_motion.files.lock import folder_lock

    (tmp_path / "clips").mkdir()
    ready, done = threading.Event(), threading.Event()

    def hold():
        with folder_lock(tmp_path / "clips"):
            ready.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait()
    try:
        assert batch([{"prompt": "a red star"}])[0] == 2 and in_this_process == []
    finally:
        done.set()
        thread.join()


def test_jobs_of_one_model_follow_each_other_and_it_is_loaded_once(batch, in_this_process, monkeypatch):
    loads, load = [], generate.load

    def noting(args, device):
        if device != "meta":
            loads.append((args.seed, device))
        return load(args, device)

    monkeypatch.setattr(generate, "load", noting)
    small = {"steps": 1, "frames": 2}
    jobs = [{"prompt": "a red star", "seed": seed, "model": None, "motion_lora": lora, **small}
            for seed, lora in ((1, []), (2, ["spin:0.5"]), (3, []), (4, ["spin:0.5"]), (5, ["spin"]))]  # fmt: skip
    assert batch(jobs, "--workers", "1", "--device", "cpu")[0] == 0
    assert in_this_process == [1, 3, 2, 4, 5] and loads == [(1, "cpu"), (2, "cpu"), (5, "cpu")]


def test_models_of_one_name_in_two_folders_are_two(batch, in_this_process, model_file, tmp_path):
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(model_file, "pt") as file:
        metadata = file.metadata()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        torch.manual_seed(0)
        state = {key: w + (0.1 * torch.randn_like(w) if name == "b" else 0) for key, w in load_file(model_file).items()}
        save_file(state, tmp_path / name / "m.safetensors", metadata)
    jobs = [{"prompt": "a red star", "seed": 1, "steps": 1, "model": str(tmp_path / name / "m.safetensors"),
             "out": f"{name}.webp"} for name in ("a", "b")]  # fmt: skip
    status, folder = batch([*jobs, {**jobs[0], "model": str(model_file), "out": "c.webp"}], "--workers", "1")
    a, b, c = (pictures(folder / f"{name}.webp") for name in "abc")
    assert status == 0 and np.array_equal(a, c) and not np.array_equal(a, b)


def test_read_jobs_gives_what_it_checked(model_file, tmp_path):
    path = tmp_path / "jobs.jsonl"
    path.write_text(f'\ufeff{{"prompt": "a star", "model": "{model_file}", "frames": 4}}\n\n')
    (job,), wrong = read_jobs(path, tmp_path, print)
    assert job.line == 1 and job.model == (Path(model_file), (), False, None) and wrong == [] and len(job.outputs) == 1
