"""A line of the jobs of `unet-motion render`: what it means, and the sentence about what is wrong with it."""

import json
from pathlib import Path

import pytest

from unet_motion.cli import build_parser, generate, main, render, render_outputs
from unet_motion.cli.render_jobs import read_jobs, seed_of
from unet_motion.sampling import MotionPipeline
from unet_motion.video import read_metadata


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
        "--step-cache=fast", "--dtype=bfloat16", "--float8",
    ]  # fmt: skip
    job = {
        "prompts": "p.txt", "out": "a.webp", "sheet": "s/b.png", "negative": "-x", "seed": 3, "steps": 2,
        "guidance": 2.5, "frames": 20, "width": 72, "height": 80, "sampler": "euler", "fps": 7.5, "scale": 2,
        "filter": "nearest", "quality": 50, "freeu": [0.9, 0.2, 1.2, 1.4], "attention": "math", "model": "m",
        "motion-lora": ["a:0.5", "b"], "allow_partial": True, "frames_at_once": 3, "window": 8, "overlap": 2,
        "stride": 2, "schedule": "batched", "fuse": "flat", "loop": True, "loop_frames": 2,
        "use_on_equal_length": True, "window_part": "0.5:stride=2", "views": True, "windows_at_once": 2,
        "noise": "constant", "free_init": True, "free_init_filter": "box", "free_init_stop": "0.5,0.25",
        "free_init_order": 2, "free_init_fast": True, "step_cache": "fast", "dtype": "bfloat16", "float8": True,
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
    ({"prompt": "a", "stepz": 1}, ["`stepz` is not known", ": prompt, ", ", seed, steps, "]),
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
        status, _ = batch([{"prompt": "a red star", "out": "0.webp"}], *arguments)
        said = capsys.readouterr().err
        assert status == 2 and words in said and said.count("\n") == 1, said


def test_workers_are_at_most_eight_for_each_core(batch, monkeypatch, capsys):
    monkeypatch.setattr(render, "cores", lambda: 3)
    assert batch([{"prompt": "a red star", "out": "0.webp"}], "--workers", "25", "--device", "cpu")[0] == 2
    assert "--workers is 25, expected 1 to 24" in capsys.readouterr().err


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


def test_read_jobs_gives_what_it_checked(model_file, tmp_path):
    path = tmp_path / "jobs.jsonl"
    text = f'"prompt": "a star", "model": "{model_file}", "frames": 4'
    path.write_text(f'\ufeff{{{text}}}\n\n{{{text}, "float8": true, "out": "b.webp"}}\n')
    jobs, wrong = read_jobs(path, tmp_path, print)
    assert [job.line for job in jobs] == [1, 3] and wrong == [] and [len(job.outputs) for job in jobs] == [1, 1]
    assert [job.model for job in jobs] == [(Path(model_file), (), False, None, float8) for float8 in (False, True)]
