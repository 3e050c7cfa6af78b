"""diffusers' own tests of its motion UNet and AnimateDiff pipelines, run on its classes and on `unet_motion.diffusers`.

    python tools/diffusers_tests.py DIFFUSERS_CHECKOUT [TEST_FILE ...] [-k EXPRESSION]

Prints each test that passes with diffusers' classes and fails with this project's, and counts. The tests come from a
checkout of diffusers and run on the diffusers that is installed; the tokenizer that they would fetch is made on the
spot.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).absolute().parents[1]
CHOICE = "UNET_MOTION_DIFFUSERS_CLASSES"
FILES = ("tests/models/unets/test_models_unet_motion.py", "tests/pipelines/animatediff")
PIPELINES = ("", "_controlnet", "_sdxl", "_sparsectrl", "_video2video", "_video2video_controlnet")
TOKENIZER = "hf-internal-testing/tiny-random-clip"

if CHOICE in os.environ:
    # The installed one, before the tests' conftest.py puts the checkout's own code in front of it.
    importlib.import_module("diffusers")


def pytest_configure(config) -> None:
    """As a plugin of pytest: put this project's classes where the tests and pipelines look for diffusers'."""
    replace_tokenizer(Path(tempfile.mkdtemp(prefix="tokenizer-")))
    if os.environ.get(CHOICE) == "ours":
        replace_classes()


def replace_classes() -> None:
    ours = importlib.import_module("unet_motion.diffusers")
    names = ["diffusers", "diffusers.models", "diffusers.pipelines.pag.pipeline_pag_sd_animatediff"]
    names += [f"diffusers.pipelines.animatediff.pipeline_animatediff{name}" for name in PIPELINES]
    for module in map(importlib.import_module, names):
        for name in ("UNetMotionModel", "MotionAdapter"):
            if hasattr(module, name):
                setattr(module, name, getattr(ours, name))


def write_tokenizer(folder: Path) -> None:
    """The files of a CLIP tokenizer of single letters: fewer than 200 words."""
    letters = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "!", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters), "an</w>"]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    special = dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": words[0], **special}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na n</w>\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def replace_tokenizer(folder: Path) -> None:
    """Such a tokenizer in place of one that would be fetched."""
    from transformers import CLIPTokenizer

    write_tokenizer(folder)
    fetched = CLIPTokenizer.from_pretrained.__func__

    def from_pretrained(cls, name, *arguments, **options):
        return fetched(cls, str(folder) if name == TOKENIZER else name, *arguments, **options)

    CLIPTokenizer.from_pretrained = classmethod(from_pretrained)


def outcomes(checkout: Path, classes: str, arguments: list[str]) -> dict[str, str]:
    """Test -> passed, failed or skipped."""
    paths = [str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]
    environ = {**os.environ, CHOICE: classes, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "diffusers_tests", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, "--junitxml", str(report), *arguments], cwd=checkout, env=environ, capture_output=True, text=True
        )
        if not report.is_file():
            raise SystemExit(done.stdout[-4000:] + done.stderr[-4000:])
        cases = list(ElementTree.parse(report).iter("testcase"))
    found = {}
    for case in cases:
        bad = any(case.find(kind) is not None for kind in ("failure", "error"))
        outcome = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
        found[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkout", type=Path, help="a checkout of huggingface/diffusers")
    parser.add_argument("tests", nargs="*", default=list(FILES), help="files or folders in it")
    parser.add_argument("-k", metavar="EXPRESSION", help="as pytest's")
    args = parser.parse_args()
    arguments = [*args.tests, *(["-k", args.k] if args.k else [])]
    theirs, ours = (outcomes(args.checkout, classes, arguments) for classes in ("theirs", "ours"))
    wanted = sorted(test for test, outcome in theirs.items() if outcome == "passed")
    lost = [test for test in wanted if ours.get(test) != "passed"]
    print("diffusers this project")
    for test in sorted({**theirs, **ours}):
        mark = "  <-- lost" if test in lost else ""
        print(f"{theirs.get(test, 'absent'):9} {ours.get(test, 'absent'):12} {test}{mark}")
    print(f"{len(wanted)} tests pass with diffusers' classes, {len(wanted) - len(lost)} of them with this project's")
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
