"""What each command cannot do without, what its options are where nothing is said, and which are numbers or paths."""

from pathlib import Path

import pytest

from unet_motion.cli import build_parser

TRAINING = {
    "base": "bundled", "frames": 16, "batch": 1, "accumulate": 1, "learning_rate": 1e-4, "warmup": 20,
    "weight_decay": 0.01, "clip": 1.0, "drop_prompt": 0.1, "save_every": 100, "log_every": 10, "schedule": "cosine",
    "optimizer": "AdamW", "ema": 0.0, "min_snr": 0.0, "noise_offset": 0.0, "noise_power": 0.0, "seed": 0,
    "validate_every": 0,
}  # fmt: skip
DRAWN = {"seed": 0, "steps": 20, "guidance": 3.0, "sampler": "ddim"}
# What is off, empty or left to the library is not among these.
DEFAULTS = {
    "generate a": {
        **DRAWN, "prompt": "a", "frames": 16, "width": 64, "height": 64, "fps": 8.0, "scale": 4, "filter": "lanczos",
        "attention": "auto", "windows_at_once": 1, "noise": "default",
    },
    "render jobs --out=b": {"jobs": Path("jobs"), "out": Path("b"), "threads": 1},
    "inspect a": {"files": ["a"]},
    "convert a b --to=hotshot": {"file": Path("a"), "out": Path("b"), "form": "hotshot"},
    "merge a --out=c": {"files": ["a"], "out": Path("c")},
    "convert-workflow a --out=b": {"file": "a", "out": "b"},
    "train bundled": {"what": "bundled", "folder": Path("runs/bundled")},
    "train motion-module a --out=b": {
        **TRAINING, "what": "motion-module", "data": Path("a"), "out": Path("b"), "steps": 1000,
    },
    "train motion-lora a --out=b": {
        **TRAINING, "what": "motion-lora", "data": Path("a"), "out": Path("b"), "steps": 500, "rank": 4,
        "projections": "q,k,v,out", "dtype": "float32", "debias": 0.0,
    },
    "train camera-clips pan-left a": {"what": "camera-clips", "motion": "pan-left", "folder": Path("a"), "count": 192,
                                         "seed": 0},
    "evaluate": {**DRAWN, "seed": 1000, "clips": 200},
    "bench": {},
    "kernels": {},
}  # fmt: skip
RECIPE = {
    "whole": "steps batch accumulate warmup seed save_every log_every validate_every frames stride",
    "real": "lr weight_decay clip ema min_snr noise_offset noise_power drop_prompt beta_end fps",
    "path": "motion cache",
}
KINDS = {
    "generate a": {
        "whole": "seed steps frames width height scale quality frames_at_once window overlap stride loop_frames "
        "windows_at_once free_init free_init_order",
        "real": "guidance fps", "path": "out sheet model",
    },
    "render jobs --out=b": {"whole": "workers threads"},
    "train bundled": {"whole": "threads"},
    "train motion-module a --out=b": RECIPE,
    "train motion-lora a --out=b": {"whole": f"{RECIPE['whole']} rank", "real": f"{RECIPE['real']} alpha debias",
                                    "path": RECIPE["path"]},
    "train camera-clips pan-left a": {"whole": "count seed"},
    "evaluate": {"whole": "clips seed steps", "real": "guidance", "path": "model sheet"},
    "bench": {"whole": "threads rounds", "real": "budget", "path": "comfyui evolved out wheels"},
}  # fmt: skip
IS = {"whole": int, "real": float, "path": Path}


def parsed(line: str, *more: str) -> dict:
    words = line.split()
    found = vars(build_parser(words[0]).parse_args([*words, *more]))
    return {name: value for name, value in found.items() if name != "command" and not callable(value)}


@pytest.mark.parametrize("line", DEFAULTS)
def test_the_shortest_line_of_a_command(line, capsys):
    off = (None, False, [], "")
    found = {name: value for name, value in parsed(line).items() if not any(value is x or value == x != 0 for x in off)}
    assert found == DEFAULTS[line]
    words = line.split()
    for word in words[1:] if words[0] != "generate" else ():
        with pytest.raises(SystemExit) as stopped:
            parsed(" ".join(other for other in words if other != word))
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and ("required" in said or "argument WHAT: invalid choice" in said), word


@pytest.mark.parametrize("line", KINDS)
def test_options_are_numbers_and_paths(line):
    for kind, names in KINDS[line].items():
        for name in names.split():
            value = parsed(line, f"--{name.replace('_', '-')}", "3")[{"lr": "learning_rate"}.get(name, name)]
            assert value == IS[kind]("3") and type(value) is type(IS[kind]("3")), name
