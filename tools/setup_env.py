"""Set-up for make's targets: find or make an environment, install what is missing, run.

Only the standard library is used, so any Python from 3.10 on can run this file. Every command is printed before it
runs; the same commands, typed by hand, do the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).absolute().parent.parent
DEMO_PROMPT = "a red star moving left"
# ComfyUI pins these to its own version; a second ComfyUI gets its own copies beside the environment.
COMFYUI_PINNED = ("comfyui-frontend-package", "comfyui-workflow-templates", "comfyui-embedded-docs")
# ComfyUI and diffusers' peft import torchaudio, whose releases do not say to pip which torch they import beside:
# 2.11.0 needs torch 2.11, 2.11.1 a newer one. So the three are named exactly, for the environment that is made here
# where a ComfyUI is found; without one it gets the newest torch.
TORCH_WITH_AUDIO = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
# Measured: 5.7 GB at the most, which are removed as the tests go on.
TESTED_GB = 7
# Memory that a process of the library's tests may need: some load files of full size.
WORKER_GB = 5
# What `check` runs besides ruff, mypy and pyright, and what it leaves to `test`: kernels in an interpreter, files of
# full size, thousands of damaged ones.
CHECKED = (
    "tests/test_floors.py", "tests/config", "tests/files", "tests/forward", "tests/ops", "tests/formats",
    "tests/model/test_parity.py",
)  # fmt: skip
LEFT_OUT = (
    "tests/files/test_damage.py", "tests/files/test_loading_memory.py", "tests/formats/test_full_size.py",
    "tests/formats/test_full_size_kinds.py", "tests/formats/test_hostile_files.py", "tests/ops/kernels",
)  # fmt: skip
# What the tests compare with or run on, printed before they start.
SHOWN = (
    "torch", "triton", "numpy", "safetensors", "einops", "pillow", "av", "diffusers", "transformers", "peft",
    "accelerate", "hypothesis", "pytest",
)  # fmt: skip


def main() -> int:
    task = sys.argv[1] if len(sys.argv) > 1 else ""
    tasks = {"check": check, "test": test, "test-comfyui": test_comfyui, "bench": bench, "card": card}
    if task not in ("demo", *tasks):
        usage = f"usage: python tools/setup_env.py demo|{'|'.join(tasks)} [arguments of pytest or of the bench]"
        print(usage, file=sys.stderr)
        return 2
    if sys.version_info < (3, 10):  # noqa: UP036 - this file is run before anything is installed
        print(f"Python is {sys.version.split()[0]}, expected 3.10 or newer", file=sys.stderr)
        return 2
    try:
        return demo() if task == "demo" else tasks[task](sys.argv[2:])
    except subprocess.CalledProcessError as error:
        print(f"failed with status {error.returncode}: {shlex.join(map(str, error.cmd))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def demo() -> int:
    comfyuis = find_comfyuis()
    python = environment(comfyuis)
    wanted = ["-r", "requirements.txt", *fitting_torch(python, comfyuis)]
    install(python, "demo", wanted, [ROOT / "requirements.txt"])
    clip, sheet = ROOT / "output" / "demo.webp", ROOT / "output" / "demo.png"
    run([python, "-m", "unet_motion", "generate", DEMO_PROMPT, "--out", clip, "--sheet", sheet])
    say(f"The clip:                  {clip}   (a browser plays it)")
    say(f"Its frames in one picture: {sheet}")
    say(f"Another one: {relative(python)} -m unet_motion generate 'a blue circle growing'")
    return 0


def check(pytest_arguments: list[str]) -> int:
    """Ruff, mypy, pyright, then the library's fast tests, as many processes as cores; stops at the first failure."""
    python = environment([])
    install(python, "check", ["-e", ".[dev]"], [ROOT / "requirements.txt", ROOT / "pyproject.toml"])
    for tool in (["ruff", "check", "."], ["mypy"], ["pyright", "--pythonpath", python]):
        if status := run([python, "-m", *tool], check=False):
            return status
    pytest = [python, "-m", "pytest", "-q", "-x", "--durations=5", "-n", str(workers()), "--dist", "worksteal"]
    left_out = [word for path in LEFT_OUT for word in ("--ignore", path)]
    return run([*pytest, *CHECKED, *left_out, *pytest_arguments], check=False)


def test(pytest_arguments: list[str]) -> int:
    """The library's tests in as many processes as there are cores, then ComfyUI's, where there is one.

    With arguments, one pytest with these.
    """
    python, comfyuis = prepare_test()
    say(versions(python))
    if pytest_arguments:
        return run_pytest(python, comfyuis, pytest_arguments)
    need_space(Path(tempfile.gettempdir()), TESTED_GB, "the files of full size that the tests write")
    parallel = ["-n", str(workers()), "--dist", "loadfile", "--no-loadscope-reorder"]
    if not comfyuis:  # what needs one is skipped, at no cost beside the others
        return run_pytest(python, comfyuis, parallel)
    library = run_pytest(python, comfyuis, [*parallel, "--ignore", "tests/comfyui"])
    return library or run_comfyui_tests(python, comfyuis)


def test_comfyui(pytest_arguments: list[str]) -> int:
    """Only the second half of `test`."""
    python, comfyuis = prepare_test()
    say(versions(python))
    return run_comfyui_tests(python, comfyuis, pytest_arguments)


def run_comfyui_tests(python: Path, comfyuis: list[Path], arguments: list[str] = ()) -> int:
    """Each ComfyUI's tests in a pytest of their own, two at a time where there are cores: a server takes one.

    The page of one is driven while the long checks of the other run. What the second and later ones print comes at
    the end.
    """
    together = max(1, min(len(comfyuis), workers(), 2))
    if comfyuis:
        need_space(Path(tempfile.gettempdir()), together * TESTED_GB, "the files of full size that the tests write")
    if together == 1:
        return run_pytest(python, comfyuis, ["tests/comfyui", *arguments])
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(together) as pool:
        logs = [None, *(Path(folder) / f"{number}.txt" for number in range(1, len(comfyuis)))]
        chosen = ["tests/comfyui", *arguments]
        jobs = [pool.submit(run_pytest, python, [at], chosen, log) for at, log in zip(comfyuis, logs, strict=True)]
        statuses = [job.result() for job in jobs]
        for log in filter(None, logs):
            say(log.read_text(encoding="utf-8", errors="replace") if log.exists() else "")
    return next(filter(None, statuses), 0)  # one that a signal ended is below 0


def run_pytest(python: Path, comfyuis: list[Path], arguments: list[str], log: Path | None = None) -> int:
    """The status of pytest, which prints into a file where one is given, and then begins with the page."""
    variables = {"COMFYUI_PATH": os.pathsep.join(map(str, comfyuis))} if comfyuis else {}
    if log is not None:
        variables["UNET_MOTION_PAGE_FIRST"] = "1"
    return run([python, "-m", "pytest", "-q", "--durations=10", *arguments], variables, check=False, log=log)


def bench(arguments: list[str]) -> int:
    python, _ = prepare_test()
    return run([python, "-m", "unet_motion", "bench", "--out", "benchmarks/results", *arguments], check=False)


def card(arguments: list[str]) -> int:
    """On this Python where that has torch, and nothing is installed: a machine with a card is often a bare one."""
    python = Path(sys.executable)
    if not has_torch(python):
        python = environment([])
        install(python, "demo", ["-r", "requirements.txt"], [ROOT / "requirements.txt"])
    command = [python, "-m", "unet_motion", "bench", "--card", "--out", "benchmarks/results", *arguments]
    return run(command, check=False)


def prepare_test() -> tuple[Path, list[Path]]:
    """Install what the tests need; gives the Python and the ComfyUI folders found."""
    comfyuis = find_comfyuis()
    python = environment(comfyuis)
    wanted = ["-e", ".[dev]"]
    sources = [ROOT / "requirements.txt", ROOT / "pyproject.toml"]
    if comfyuis:
        say("ComfyUI found: " + ", ".join(f"{path} ({comfyui_version(path)})" for path in comfyuis))
        wanted += ["-r", str(comfyuis[0] / "requirements.txt"), *fitting_torch(python, comfyuis)]
        sources += [path / "requirements.txt" for path in comfyuis]
    else:
        looked = (
            "COMFYUI_PATH is empty"
            if "COMFYUI_PATH" in os.environ
            else ("COMFYUI_PATH, the folder above custom_nodes, ~/ComfyUI*")
        )
        say(f"No ComfyUI found ({looked}): its tests are skipped.")
    install(python, "test", wanted, sources)
    for path in comfyuis[1:]:
        install_pinned(python, path)
    return python, comfyuis


def environment(comfyuis: list[Path]) -> Path:
    """The Python of the active environment if that has torch, else of one in this folder, which is made if needed.

    ComfyUI's packages and torch are others than the newest: with one the environment is .venv-comfyui, without .venv.
    """
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        prefix = os.environ.get(variable)
        if prefix and comfyuis and Path(prefix) == ROOT / ".venv":
            continue  # it keeps the newest torch
        if prefix and has_torch(python := interpreter(Path(prefix))):
            say(f"Using the active environment {prefix}, which has torch.")
            return python
    folder = ROOT / (".venv-comfyui" if comfyuis else ".venv")
    python = interpreter(folder)
    if not python.exists():
        say(f"Making a virtual environment in {folder.name}")
        try:
            run([sys.executable, "-m", "venv", folder])
        except subprocess.CalledProcessError:
            shutil.rmtree(folder, ignore_errors=True)
            say("On Debian and Ubuntu, `apt install python3-venv` adds what is missing.")
            raise
    return python


def fitting_torch(python: Path, comfyuis: list[Path]) -> tuple[str, ...]:
    """Versions of torch and its companions that ComfyUI can import; none to an environment that is not ours."""
    return TORCH_WITH_AUDIO if comfyuis and python.is_relative_to(ROOT / ".venv-comfyui") else ()


def install(python: Path, task: str, arguments: list[str], sources: list[Path]) -> None:
    """`pip install` unless the same was installed into this environment before."""
    prefix = python.parent.parent if python.parent.name in ("bin", "Scripts") else python.parent
    stamp = prefix / f"unet-motion-{task}.txt"
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()
    key = f"{shlex.join(arguments)} {ROOT} {digest}\n"
    if stamp.exists() and stamp.read_text() == key:
        return
    if not has_torch(python):
        say(
            "Installing PyTorch and the rest. This is a few GB and takes minutes, once. Without an NVIDIA card a "
            "tenth will do: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo"
        )
    run([python, "-m", "pip", "install", *arguments], {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    stamp.write_text(key)


def versions(python: Path) -> str:
    """Such as "Python 3.12.1, torch 2.9.0, ...": the packages of `SHOWN` that are installed."""
    code = (
        "import importlib.metadata as m, platform, sys\n"
        "found = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "shown = [f'{name} {found[name]}' for name in sys.argv[1:] if name in found]\n"
        "print(', '.join([f'Python {platform.python_version()}', *shown]))"
    )
    return subprocess.run([python, "-c", code, *SHOWN], capture_output=True, text=True, check=True).stdout.strip()


def workers() -> int:
    """Processes for the library's tests: one a core, as far as the memory goes."""
    try:
        gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):  # Windows does not say
        gigabytes = 2 * WORKER_GB
    return max(1, min(os.cpu_count() or 1, int(gigabytes // WORKER_GB)))


def need_space(folder: Path, gigabytes: int, purpose: str) -> None:
    """Stop before the work rather than in the middle of it."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        raise SystemExit(f"{folder} has {free:.1f} GB of free space, expected at least {gigabytes} GB for {purpose}")


def install_pinned(python: Path, comfyui: Path) -> None:
    """Put the packages that a second ComfyUI pins into .venv-extras/<its version>, for its PYTHONPATH."""
    target = ROOT / ".venv-extras" / comfyui_version(comfyui)
    lines = (comfyui / "requirements.txt").read_text().split()
    pins = [line for line in lines if line.split("==")[0] in COMFYUI_PINNED]
    stamp = target / "unet-motion-pins.txt"
    if not pins or (stamp.exists() and stamp.read_text().split() == pins):
        return
    shutil.rmtree(target, ignore_errors=True)
    run([python, "-m", "pip", "install", "--no-deps", "--target", target, *pins])
    stamp.write_text("\n".join(pins))


def find_comfyuis() -> list[Path]:
    """ComfyUI folders, newest first: in COMFYUI_PATH (empty: none), else the one around this pack, else ~/ComfyUI*."""
    named = os.environ.get("COMFYUI_PATH")
    if named is not None:
        folders = [Path(part).expanduser().absolute() for part in named.split(os.pathsep) if part]
        for folder in folders:
            if not is_comfyui(folder):
                raise SystemExit(f"COMFYUI_PATH names {folder}, expected a ComfyUI folder with main.py")
    elif ROOT.parent.name == "custom_nodes" and is_comfyui(ROOT.parent.parent):
        folders = [ROOT.parent.parent]
    else:
        folders = [path for path in Path.home().glob("ComfyUI*") if is_comfyui(path)]
    return sorted(folders, key=lambda path: [int(part) for part in comfyui_version(path).split(".")], reverse=True)


def is_comfyui(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("main.py", "comfyui_version.py", "requirements.txt"))


def comfyui_version(folder: Path) -> str:
    """Such as 0.33.0, from the file that ComfyUI keeps for it."""
    found = re.search(r'"(\d+(?:\.\d+)*)', (folder / "comfyui_version.py").read_text())
    return found.group(1) if found else "0"


def interpreter(prefix: Path) -> Path:
    names = ("Scripts/python.exe", "python.exe") if os.name == "nt" else ("bin/python",)
    return next((prefix / name for name in names if (prefix / name).exists()), prefix / names[0])


def has_torch(python: Path) -> bool:
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    return python.exists() and subprocess.run([python, "-c", probe], cwd=ROOT).returncode == 0


def run(
    command: list, variables: dict[str, str] | None = None, check: bool = True, log: Path | None = None
) -> int:  # fmt: skip
    """Print a command as one would type it in the repository's root, run it there, and give its status.

    Args:
        log: a file for what it prints.
    """
    words = [relative(word) if isinstance(word, Path) else str(word) for word in command]
    assignments = "".join(f"{name}={shlex.quote(value)} " for name, value in (variables or {}).items())
    say(f"$ {assignments}{shlex.join(words)}")
    environ = {**os.environ, **(variables or {})}
    with log.open("wb") if log else contextlib.nullcontext() as output:
        done = subprocess.run(
            [str(word) for word in command], cwd=ROOT, env=environ, check=check, stdout=output,
            stderr=subprocess.STDOUT if log else None,
        )  # fmt: skip
    return done.returncode


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
