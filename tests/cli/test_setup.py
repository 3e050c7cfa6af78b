"""The set-up behind `make demo` and `make test`, without installing anything."""

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """tools/setup_env.py as a module, in a repository and a home of its own; `calls` are the commands it would run."""
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "tools" / "setup_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ROOT = tmp_path / "repository"
    module.ROOT.mkdir()
    for name in ("requirements.txt", "pyproject.toml"):
        (module.ROOT / name).write_text((ROOT / name).read_text())
    module.calls = []

    def run(command, variables=None, check=True, log=None):
        module.calls.append(([str(word) for word in command], variables or {}))
        if "venv" in command:
            (command[-1] / "bin").mkdir(parents=True)
            (command[-1] / "bin" / "python").symlink_to(sys.executable)
        if "--target" in command:
            Path(command[command.index("--target") + 1]).mkdir(parents=True)
        return 0

    monkeypatch.setattr(module, "run", run)
    # Whether this machine has room for the whole suite is nothing to these tests.
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1e12))
    monkeypatch.setattr(module.Path, "home", lambda: tmp_path / "home")
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "COMFYUI_PATH"):
        monkeypatch.delenv(name, raising=False)
    return module


def make_comfyui(folder, version, frontend="1.0"):
    folder.mkdir(parents=True)
    (folder / "main.py").write_text("")
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    (folder / "requirements.txt").write_text(f"comfyui-frontend-package=={frontend}\ntorch\ntorchaudio\n")
    return folder


pytestmark = pytest.mark.skipif(os.name == "nt", reason="the fake environment is a link")


def test_demo_makes_an_environment_once_installs_once_and_generates(setup, capsys):
    assert setup.demo() == 0
    words = [" ".join(call[0]) for call in setup.calls]
    assert len(words) == 3
    assert "-m venv" in words[0] and "pip install -r requirements.txt" in words[1] and "generate" in words[2]
    assert setup.DEMO_PROMPT in words[2] and "output/demo.webp" in capsys.readouterr().out
    setup.calls.clear()
    assert setup.demo() == 0
    assert len(setup.calls) == 1 and "generate" in setup.calls[0][0]


def test_changed_requirements_are_installed_again(setup):
    setup.demo()
    (setup.ROOT / "requirements.txt").write_text("torch\nsomething-new\n")
    setup.calls.clear()
    setup.demo()
    assert "pip" in setup.calls[0][0]


def test_an_active_environment_is_used_only_if_it_has_torch(setup, tmp_path, monkeypatch):
    active = tmp_path / "active"
    (active / "bin").mkdir(parents=True)
    (active / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("VIRTUAL_ENV", str(active))
    monkeypatch.setattr(setup, "has_torch", lambda python: True)
    assert setup.environment([]) == active / "bin" / "python"
    monkeypatch.setattr(setup, "has_torch", lambda python: False)
    assert setup.environment([]) == setup.ROOT / ".venv" / "bin" / "python"
    # ComfyUI's torch is another than the newest: neither environment is turned into the other.
    comfyui = make_comfyui(tmp_path / "ComfyUI", "0.33.0")
    assert setup.environment([comfyui]) == setup.ROOT / ".venv-comfyui" / "bin" / "python"
    monkeypatch.setattr(setup, "has_torch", lambda python: True)
    monkeypatch.setenv("VIRTUAL_ENV", str(setup.ROOT / ".venv"))
    assert setup.environment([]) == setup.ROOT / ".venv" / "bin" / "python"
    assert setup.environment([comfyui]) == setup.ROOT / ".venv-comfyui" / "bin" / "python"


def test_torch_is_found_in_this_python_and_not_in_a_bare_one(setup):
    assert setup.has_torch(Path(sys.executable))
    assert not setup.has_torch(setup.ROOT / "no" / "python")


def test_without_comfyui_the_extras_are_installed_and_the_tests_run(setup, capsys):
    assert setup.test(["tests/ops"]) == 0
    install, tests = setup.calls[-2:]
    assert install[0][2:] == ["pip", "install", "-e", ".[dev]"]
    assert tests[0][1:3] == ["-m", "pytest"] and tests[0][-1] == "tests/ops" and tests[1] == {}
    assert "No ComfyUI found" in capsys.readouterr().out


def test_the_librarys_tests_share_the_cores_and_comfyuis_follow(setup, tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "workers", lambda: 3)
    assert setup.test([]) == 0
    (whole,) = (call[0] for call in setup.calls if "pytest" in call[0])
    assert whole[whole.index("-n") + 1] == "3" and "--ignore" not in whole and "tests/comfyui" not in whole
    make_comfyui(tmp_path / "home" / "ComfyUI", "0.33.0")
    assert setup.test([]) == 0
    library, comfyui = (call[0] for call in setup.calls[-2:])
    assert library[library.index("-n") + 1] == "3" and library[library.index("--ignore") + 1] == "tests/comfyui"
    assert comfyui[-1] == "tests/comfyui" and "-n" not in comfyui


@pytest.mark.parametrize(("cores", "found", "runs"), [(4, 3, 3), (4, 1, 1), (1, 2, 1), (2, 0, 1)])
def test_two_comfyuis_at_a_time_where_there_are_cores_for_them(setup, tmp_path, monkeypatch, cores, found, runs):
    monkeypatch.setattr(setup, "workers", lambda: cores)
    folders = [str(make_comfyui(tmp_path / "home" / f"ComfyUI-{i}", f"0.{i}.0")) for i in range(found)]
    assert setup.test_comfyui(["-k", "api"]) == 0
    calls = [call for call in setup.calls if "pytest" in call[0]]
    assert len(calls) == runs and all(command[-3:] == ["tests/comfyui", "-k", "api"] for command, _ in calls)
    paths = [variables.get("COMFYUI_PATH", "") for _, variables in calls]
    newest_first = folders[::-1]
    assert sorted(paths) == (sorted(folders) if runs > 1 else [os.pathsep.join(newest_first)])
    first = {"COMFYUI_PATH": newest_first[0]} if runs > 1 else None
    assert [v for _, v in calls if "UNET_MOTION_PAGE_FIRST" not in v] == ([first] if first else [calls[0][1]])


@pytest.mark.parametrize("first,second", [(0, 1), (2, 0), (-9, 0), (0, -9), (0, 0)])
def test_a_failure_in_either_of_two_comfyuis_is_one_and_what_it_printed_is_shown(
    setup, tmp_path, monkeypatch, capsys, first, second
):
    """A process that a signal ended, for want of memory say, has a status below 0."""
    for number in range(2):
        make_comfyui(tmp_path / "home" / f"ComfyUI-{number}", f"0.{number}.0")
    monkeypatch.setattr(setup, "workers", lambda: 2)

    def run(command, variables=None, check=True, log=None):
        if log is None:
            return first
        log.write_text("one ran here")
        return second

    monkeypatch.setattr(setup, "environment", lambda comfyuis: Path(sys.executable))
    monkeypatch.setattr(setup, "install", lambda *arguments: None)
    monkeypatch.setattr(setup, "install_pinned", lambda *arguments: None)
    monkeypatch.setattr(setup, "run", run)
    assert setup.test_comfyui([]) == (first or second)
    assert "one ran here" in capsys.readouterr().out


def test_check_is_ruff_mypy_and_pyright_and_then_files_that_exist(setup, monkeypatch):
    monkeypatch.setattr(setup, "workers", lambda: 3)
    assert setup.check(["-k", "freeu"]) == 0
    style, types, more_types, tests = (call[0] for call in setup.calls[-4:])
    assert style[1:] == ["-m", "ruff", "check", "."] and types[1:] == ["-m", "mypy"]
    assert more_types[1:] == ["-m", "pyright", "--pythonpath", more_types[0]]
    assert tests[tests.index("-n") + 1] == "3" and tests[-2:] == ["-k", "freeu"]
    chosen = [word for word in tests if word.startswith("tests/")]
    assert chosen and all((ROOT / path).exists() for path in chosen)
    assert not any(path.startswith("tests/comfyui") for path in chosen)


@pytest.mark.parametrize("tool", ["ruff", "mypy", "pyright"])
def test_check_stops_where_a_tool_finds_something(setup, monkeypatch, tool):
    done = []

    def run(command, variables=None, check=True, log=None):
        done.append(command)
        return int(tool in command)

    monkeypatch.setattr(setup, "environment", lambda comfyuis: Path(sys.executable))
    monkeypatch.setattr(setup, "install", lambda *arguments: None)
    monkeypatch.setattr(setup, "run", run)
    assert setup.check([]) == 1 and tool in done[-1]


@pytest.mark.parametrize("failing", [1, 2])
def test_either_half_that_fails_fails_the_whole(setup, tmp_path, monkeypatch, failing):
    make_comfyui(tmp_path / "home" / "ComfyUI", "0.33.0")
    done = []

    def run(command, variables=None, check=True, log=None):
        done.extend([command] * ("pytest" in command))
        return int("pytest" in command and len(done) == failing)

    monkeypatch.setattr(setup, "environment", lambda comfyuis: Path(sys.executable))
    monkeypatch.setattr(setup, "install", lambda *arguments: None)
    monkeypatch.setattr(setup, "run", run)
    assert setup.test([]) == 1 and len(done) == failing


@pytest.mark.parametrize("cores,gigabytes,expected", [(2, 24, 2), (16, 32, 6), (8, 4, 1), (None, 64, 1)])
def test_workers_fit_into_cores_and_memory(setup, monkeypatch, cores, gigabytes, expected):
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(gigabytes * 1e9 / 4096) + 1}
    monkeypatch.setattr(setup.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(setup.os, "sysconf", sizes.__getitem__)
    assert setup.workers() == expected


def test_versions_are_those_that_python_has(setup, capsys, monkeypatch):
    monkeypatch.setattr(setup, "environment", lambda comfyuis: Path(sys.executable))
    monkeypatch.setattr(setup, "install", lambda *arguments: None)
    setup.test(["tests/ops"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Python ")]
    assert line.startswith(f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}, ")
    assert f"diffusers {importlib.metadata.version('diffusers')}" in line


def test_the_newest_comfyui_is_installed_and_others_get_their_pins_beside(setup, tmp_path):
    old = make_comfyui(tmp_path / "home" / "ComfyUI-old", "0.3.64", "1.27.10")
    new = make_comfyui(tmp_path / "home" / "ComfyUI", "0.33.0", "1.49.6")
    assert setup.find_comfyuis() == [new, old]
    setup.test([])
    commands = [" ".join(call[0]) for call in setup.calls]
    assert any(f"-e .[dev] -r {new}/requirements.txt" in command for command in commands)
    target = setup.ROOT / ".venv-extras" / "0.3.64"
    assert any(f"--no-deps --target {target} comfyui-frontend-package==1.27.10" in command for command in commands)
    assert not any(f"-r {old}" in command or "0.33.0" in command for command in commands)
    assert {call[1].get("COMFYUI_PATH") for call in setup.calls[-2:]} == {str(new), str(old)}
    setup.calls.clear()
    setup.test([])
    assert all("pytest" in call[0] for call in setup.calls)  # nothing is installed a second time


def test_a_full_disk_is_said_before_the_whole_suite_starts_and_not_before_a_part(setup, monkeypatch):
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda folder: SimpleNamespace(free=3.26e9))
    with pytest.raises(SystemExit, match=r"has 3\.3 GB of free space, expected at least \d+ GB for .*tests write"):
        setup.test([])
    assert not any("pytest" in call[0] for call in setup.calls)
    assert setup.test(["tests/ops"]) == 0
    assert "pytest" in setup.calls[-1][0]


def test_comfyui_path_comes_first_then_the_one_around_the_pack(setup, tmp_path, monkeypatch):
    make_comfyui(tmp_path / "home" / "ComfyUI", "0.33.0")
    around = make_comfyui(tmp_path / "around", "0.9.0")
    setup.ROOT = around / "custom_nodes" / "pack"
    assert setup.find_comfyuis() == [around]
    named = make_comfyui(tmp_path / "named", "0.10.1")
    monkeypatch.setenv("COMFYUI_PATH", f"{around}{os.pathsep}{named}")
    assert setup.find_comfyuis() == [named, around]
    monkeypatch.setenv("COMFYUI_PATH", "")
    assert setup.find_comfyuis() == []
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit, match="COMFYUI_PATH names .*nothing"):
        setup.find_comfyuis()


def test_a_failed_command_is_named_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "setup_env.py"), "paint"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2 and "usage" in done.stderr


def test_makefile_and_ci_call_the_script_and_nothing_else():
    makefile = (ROOT / "Makefile").read_text()
    assert "tools/setup_env.py demo" in makefile and "tools/setup_env.py test" in makefile
    lines = [line for line in (ROOT / ".ci" / "run").read_text().split("\n") if line and not line.startswith("#")]
    assert lines[-2:] == ["COMFYUI_PATH= make test", "exec make test-comfyui"] and "set -eu" in lines
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_card_runs_on_this_python_and_installs_nothing_where_torch_is_there(setup, monkeypatch):
    assert setup.card(["--rehearse"]) == 0
    ((command, _),) = setup.calls
    assert command[0] == sys.executable
    assert command[1:] == "-m unet_motion bench --card --out benchmarks/results --rehearse".split()
    setup.calls.clear()
    monkeypatch.setattr(setup, "has_torch", lambda python: False)
    assert setup.card([]) == 0
    words = [" ".join(command) for command, _ in setup.calls]
    assert "-m venv" in words[0] and "pip install -r requirements.txt" in words[1] and "--card" in words[2]
