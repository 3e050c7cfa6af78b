"""What the repository promises about itself: packaging, imports, style, and that its parts are in step."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import unet_motion

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings tomli along there
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_TIME_NEEDS = {"torch", "safetensors", "einops", "numpy", "pillow"}
IMPORT_NAMES = {"torch", "safetensors", "einops", "numpy", "PIL"}
TRITON = (
    "attention",
    "feed_forward",
    "feed_forward/product",
    "float8",
    "freeu",
    "group_norm",
    "layer_norm",
    "residual",
)
# What may be imported where it is installed, and by which files.
DIFFUSERS = ("__init__", "configuration", "layers", "models", "pipelines")
OPTIONAL_IMPORTS = {
    "tqdm": {"unet_motion/progress.py"},
    "av": {"unet_motion/training/data/clip_files.py", "unet_motion/video/metadata.py"},
    "xformers": {"unet_motion/ops/attention/processors.py"},
    "sageattention": {"unet_motion/ops/attention/processors.py"},
    "triton": {
        "unet_motion/ops/triton_pieces.py",
        *(f"unet_motion/ops/{name}/triton.py" for name in TRITON),
    },
    "accelerate": {"unet_motion/training/processes.py"},
    "ray": {"unet_motion/cli/render_ray.py"},
    "diffusers": {
        *(f"unet_motion/diffusers/{name}.py" for name in DIFFUSERS),
        *(f"unet_motion/bench/{name}.py" for name in ("cases", "freeu", "nets", "report", "training", "card/networks")),
    },
    # The benchmark's peers, in processes of their own.
    "comfy": {f"unet_motion/bench/{name}.py" for name in ("evolved_process", "card/comfyui_process")},
    "folder_paths": {f"unet_motion/bench/{name}.py" for name in ("evolved_process", "card/comfyui_process")},
}


def core_files():
    return sorted((ROOT / "unet_motion").rglob("*.py"))


def test_requirements_are_the_run_time_needs_without_pins():
    lines = (ROOT / "requirements.txt").read_text().split("\n")
    assert {line for line in lines if line} == RUN_TIME_NEEDS
    assert PROJECT["project"]["dynamic"] == ["dependencies"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}


def test_version_is_the_same_everywhere():
    assert PROJECT["project"]["version"] == unet_motion.__version__


def test_ruff_finds_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--output-format=concise", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_bundled_model_is_small_enough_for_a_repository():
    assert (ROOT / "unet_motion" / "bundled" / "model.safetensors").stat().st_size <= 24 * 2**20


@pytest.mark.parametrize("path", core_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_core_imports_itself_relatively_and_only_what_it_declares(path):
    name = path.relative_to(ROOT).as_posix()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            depth = len(path.relative_to(ROOT / "unet_motion").parts)
            assert node.level <= depth, f"{name}:{node.lineno} reaches out of unet_motion"
            modules = [node.module] if node.level == 0 else []
        else:
            continue
        for module in modules:
            top = module.split(".")[0]
            allowed = top in sys.stdlib_module_names or top in IMPORT_NAMES or name in OPTIONAL_IMPORTS.get(top, ())
            assert allowed, f"{name}:{node.lineno} imports {module}"


def test_type_checkers_see_every_export():
    stub = ast.parse((ROOT / "unet_motion" / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    typed = {alias.asname: "." * node.level + node.module for node in imports for alias in node.names}
    assert typed == unet_motion._EXPORTS and set(unet_motion.__all__) == {*typed, "__version__"}
    assert all(getattr(unet_motion, name) is not None for name in dir(unet_motion))
    assert (ROOT / "unet_motion" / "py.typed").is_file()


def test_core_works_with_neither_comfyui_nor_diffusers_nor_any_extra():
    blocked = ["comfy", "nodes", "folder_paths", "diffusers", "transformers", "tqdm", "av", "xformers", "triton"]
    code = f"""
import importlib, pkgutil, sys
for name in {blocked}:
    sys.modules[name] = None
import unet_motion
found = pkgutil.walk_packages(unet_motion.__path__, "unet_motion.")
left_out = ("__main__", ".triton", ".triton_pieces", "unet_motion.diffusers")
names = [m.name for m in found if not m.name.endswith(left_out) and "unet_motion.diffusers." not in m.name]
for name in names:
    importlib.import_module(name)
for name in unet_motion.__all__:
    getattr(unet_motion, name)
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels = len(OPTIONAL_IMPORTS["triton"])
    files = [path for path in core_files() if path.name != "__main__.py" and path.parent.name != "diffusers"]
    assert int(done.stdout) == len(files) - 1 - kernels


FEW_STEPS = """
from unet_motion.sampling import NoiseSchedule
plain = NoiseSchedule.steps
NoiseSchedule.steps = lambda self, count, *others: plain(self, min(count, 2), *others)
"""


def test_readme_library_example_runs(tmp_path):
    """The block of the README's section "In Python", run as it stands, but for the number of steps."""
    (section,) = re.findall(r"^## In Python\n(.*?)^## ", (ROOT / "README.md").read_text(), re.S | re.M)
    blocks = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len(blocks) == 1
    lines = [line for line in blocks[0].split("\n") if line.strip()]
    assert len(lines) <= 12
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{FEW_STEPS}\n{blocks[0]}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("*.webp")), "the example is expected to write a WebP"


def links(page):
    """What a Markdown page links to in this repository."""
    text = page.read_text()
    return re.findall(r"\]\((?!https?://|#)([^)#]+)", text) + re.findall(r'src="(?!https?://)([^"]+)"', text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


def test_the_readme_is_short_and_links_every_page():
    readme, *others = PAGES
    assert len(readme.read_text().splitlines()) <= 200
    assert {page.relative_to(ROOT).as_posix() for page in others} <= set(links(readme))


def test_the_readmes_tree_has_every_folder_of_the_library():
    """And each file that its text names is there."""
    text = (ROOT / "README.md").read_text()
    shown = set(re.findall(r"^      (\w+)/ ", text, re.M))
    assert shown == {path.parent.name for path in (ROOT / "unet_motion").glob("*/__init__.py")}
    named = re.findall(r"`((?:unet_motion|nodes|tests|tools)/[\w/]*(?:\.py)?)`", text)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_readme_names_every_subcommand_and_extra():
    text = (ROOT / "README.md").read_text()
    from unet_motion.cli import COMMANDS

    assert all(f"unet_motion {name}" in text for name in COMMANDS)
    assert all(f"`{name}`" in text for name in PROJECT["project"]["optional-dependencies"])
