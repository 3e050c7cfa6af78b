"""What the ComfyUI registry takes: comfy-cli's checks, and the archive that it makes and users get."""

import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tests.packing import FOLDER, HAS_COMFY_CLI, ROOT, comfy, copy_of_the_tree, git, make_archive, names_by_the_rule

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings tomli along there
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
needs_comfy_cli = pytest.mark.skipif(not HAS_COMFY_CLI, reason="needs comfy-cli")
# The whole archive: what ComfyUI and the command line read, and what people read.
NEEDED = (
    r"__init__\.py|pyproject\.toml|requirements\.txt|README\.md|LICENSE|assets/(demo|graph)\.webp",
    r"docs/[\w-]+\.md",
    r"(nodes|unet_motion)/(\w+/)*\w+\.pyi?|unet_motion/py\.typed",
    r"unet_motion/bundled/(README\.md|model\.safetensors|judge\.safetensors|motion_loras/[a-z-]+\.safetensors)",
    r"web/([\w-]+/)*[\w.-]+\.(md|js|mjs|css|svg|png|jpg|gif|webp)",
    r"unet_motion/ops/tuned/(README\.md|[\d.]+\.json)",
    r"locales/[\w-]+/\w+\.json",
    r"example_workflows/\w+\.(json|jpg|png|webp|webm|mp4)",
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return make_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked") / FOLDER
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder


@needs_comfy_cli
def test_comfy_node_validate_passes_without_a_warning(tmp_path):
    done = comfy("node", "validate", cwd=copy_of_the_tree(tmp_path), home=tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "All validation checks passed successfully" in said
    assert "warning" not in said.lower(), said


@needs_comfy_cli
def test_comfy_node_validate_finds_what_is_wrong(tmp_path):
    """So that the test above can fail."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
    assert comfy("node", "validate", cwd=tmp_path, home=tmp_path).returncode == 1
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1.0.0"\n')
    (tmp_path / "bad.py").write_text("exec('x')\n")
    done = comfy("node", "validate", cwd=tmp_path, home=tmp_path)
    said = done.stdout + done.stderr
    assert "S102" in said and "passed" not in said


def test_what_the_registry_checks_is_an_error_in_ruff(tmp_path):
    (tmp_path / "bad.py").write_text("x = 1; y = 2\nexec('x')\neval('x')\n")
    config = str(ROOT / "pyproject.toml")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", config, "--output-format=concise", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert all(code in done.stdout for code in ("E702", "S102", "S307")), done.stdout


def test_the_project_section_is_what_the_registry_wants():
    project = PROJECT["project"]
    assert project["name"] == FOLDER and "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert set(project["urls"]) >= {"Repository", "Documentation", "Issues"}
    assert all(url.startswith("https://") for url in project["urls"].values())
    assert "Operating System :: OS Independent" in project["classifiers"]
    # One that the registry does not know would drop them all.
    assert not [name for name in project["classifiers"] if name.startswith("Environment ::")]


def test_the_comfy_section_is_what_the_registry_wants():
    comfy_section = PROJECT["tool"]["comfy"]
    assert comfy_section["PublisherId"] and comfy_section["DisplayName"]
    assert comfy_section["requires-comfyui"] == ">=0.3.64"
    assert "web" not in comfy_section  # ComfyUI would then ignore WEB_DIRECTORY


@needs_comfy_cli
def test_comfy_node_pack_packs_what_the_rule_says(archive):
    """So that the archive of a machine without comfy-cli is the same."""
    with zipfile.ZipFile(archive) as file:
        names = file.namelist()
    assert len(names) == len(set(names)) and set(names) == names_by_the_rule()


def test_the_archive_holds_what_users_need_and_nothing_else(archive):
    needed = {name for name in git("ls-files") if any(re.fullmatch(pattern, name) for pattern in NEEDED)}
    with zipfile.ZipFile(archive) as file:
        assert set(file.namelist()) == needed
        assert all(file.read(name) == (ROOT / name).read_bytes() for name in needed)
    for pattern in NEEDED[:4]:
        assert any(re.fullmatch(pattern, name) for name in needed)


def test_the_archive_is_small_enough_to_fetch(archive):
    assert archive.stat().st_size < 32 * 2**20


def test_pictures_of_the_readme_are_in_the_archive(unpacked):
    text = (unpacked / "README.md").read_text()
    pictures = re.findall(r"!\[[^]]*\]\((?!https?://)([^)]+)\)", text)
    assert pictures
    assert [name for name in pictures if not (unpacked / name).is_file()] == []


def test_the_command_line_of_the_archive_draws_and_judges(unpacked, tmp_path):
    """The bundled model, and the judge that names what a clip shows."""
    code = """
import sys
from unet_motion.cli import main
draw = main(["generate", "a red star moving left", "--steps", "1", "--out", sys.argv[1]])
judge = main(["evaluate", "--clips", "1", "--steps", "2", "--json"])
sys.exit(draw or judge)
"""
    clip = tmp_path / "star.png"
    done = subprocess.run(
        [sys.executable, "-c", code, str(clip)], cwd=unpacked, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert clip.read_bytes().startswith(b"\x89PNG") and '"missed"' in done.stdout


def test_the_licence_is_an_spdx_name_and_people_who_search_find_the_words():
    project = PROJECT["project"]
    assert project["license"] == "Apache-2.0" and project["license-files"] == ["LICENSE"]
    assert not [name for name in project["classifiers"] if name.startswith("License ::")]
    assert all(word in project["description"].lower() for word in ("animatediff", "gif", "animation", "comfyui"))


def test_a_source_distribution_holds_the_library_and_no_lone_tests(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    tree = copy_of_the_tree(tmp_path)
    code = "import setuptools; setuptools.setup()"
    done = subprocess.run(
        [sys.executable, "-c", code, "-q", "sdist", "--dist-dir", "../dist"], cwd=tree, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "dist").iterdir()
    with tarfile.open(made) as file:
        names = {name.partition("/")[2] for name in file.getnames() if file.getmember(name).isfile()}
    library = {name for name in names_by_the_rule() if name.startswith("unet_motion/")}
    beside = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "requirements.txt", "setup.cfg"}
    assert {name for name in names if ".egg-info/" not in name} == library | beside


def test_a_wheel_holds_the_library_with_its_weights_and_nothing_else(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    tree = copy_of_the_tree(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "build_py", "--build-lib", "../lib"],
        cwd=tree,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    built = {path.relative_to(tmp_path / "lib").as_posix() for path in (tmp_path / "lib").rglob("*") if path.is_file()}
    assert built == {name for name in names_by_the_rule() if name.startswith("unet_motion/")}
