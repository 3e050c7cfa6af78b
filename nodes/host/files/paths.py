"""Model folders. The two of motion files are shared with other packs and can be extended by extra_model_paths.yaml."""

from __future__ import annotations

import os

import folder_paths

from ....unet_motion.bundled.loras import motion_lora_names, motion_lora_path
from ....unet_motion.files.errors import shorten

MOTION_MODULES = "animatediff_models"
MOTION_LORAS = "animatediff_motion_lora"
LORA_FOLDERS = ("loras", MOTION_LORAS)
MOTION_LORA_FOLDERS = (MOTION_LORAS, "loras")
UNET_FOLDERS = ("diffusion_models", "checkpoints", "diffusers")
# Of the folders that ComfyUI lists by file; `diffusers` holds folders instead.
BUNDLED = " (bundled)"
"""Behind the names of the motion LoRAs that come with the pack."""
EXTENSIONS = {".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin"}


def register_folders() -> None:
    """Make the motion folders known to ComfyUI; entries that another pack or a yaml file made are only added to."""
    for name in (MOTION_MODULES, MOTION_LORAS):
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))
        paths, extensions = folder_paths.folder_names_and_paths[name]
        # An entry without extensions lists every file, so it gets some; what others set is kept.
        folder_paths.folder_names_and_paths[name] = (paths, set(extensions) | EXTENSIONS)


def list_motion_modules() -> list[str]:
    return folder_paths.get_filename_list(MOTION_MODULES)


def list_loras() -> list[str]:
    """Files in `loras` and in `animatediff_motion_lora`."""
    return _list(LORA_FOLDERS)


def list_motion_loras() -> list[str]:
    """All of :func:`list_loras`, those of `animatediff_motion_lora` first, and the ones that come with the pack."""
    return [*_list(MOTION_LORA_FOLDERS), *(name + BUNDLED for name in motion_lora_names())]


def list_unets() -> list[str]:
    """Files in `diffusion_models` and `checkpoints`, and folders in `diffusers` that hold a UNet."""
    names = [name for folder in UNET_FOLDERS[:2] for name in folder_paths.get_filename_list(folder)]
    return list(dict.fromkeys([*names, *_diffusers_folders()]))


def find_motion_module(name: str) -> str:
    return _find("motion_module", name, (MOTION_MODULES,))


def find_lora(name: str) -> str:
    return _find("lora_name", name, LORA_FOLDERS)


def find_motion_lora(name: str) -> str:
    own = name.removesuffix(BUNDLED)
    if own != name and own in motion_lora_names():
        return str(motion_lora_path(own))
    return _find("lora_name", name, MOTION_LORA_FOLDERS)


def find_unet(name: str) -> str:
    """The path of a file or folder of :func:`list_unets`."""
    for root in folder_paths.get_folder_paths("diffusers"):
        folder = os.path.join(root, name)
        if name in _diffusers_folders() and os.path.isdir(folder):
            return folder
    return _find("unet_name", name, UNET_FOLDERS[:2])


def is_within(path: str, folder: str) -> bool:
    """Whether an absolute path is a folder itself, or in it; links are followed by whoever made them."""
    folder, path = (os.path.normcase(os.path.abspath(place)) for place in (folder, path))
    try:
        return os.path.commonpath([folder, path]) == folder
    except ValueError:  # on other drives
        return False


def _list(folders: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(name for folder in folders for name in folder_paths.get_filename_list(folder)))


def _find(kind: str, name: str, folders: tuple[str, ...]) -> str:
    """The path of a file in some model folders; `kind` is what the nodes' inputs for it are called."""
    for folder in folders:
        path = folder_paths.get_full_path(folder, name)
        if path is not None:
            return path
    # Not the folders' places: what a page is told of the server's disk are names only.
    raise FileNotFoundError(f"`{kind}`: {shorten(name)!a} is not in the model folders {', '.join(folders)}.")


def _diffusers_folders() -> list[str]:
    found = []
    for root in folder_paths.get_folder_paths("diffusers"):
        if not os.path.isdir(root):
            continue
        for name in sorted(os.listdir(root)):
            inside = (os.path.join(root, name, part) for part in ("config.json", os.path.join("unet", "config.json")))
            if any(os.path.isfile(path) for path in inside):
                found.append(name)
    return found
