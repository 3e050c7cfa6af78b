"""The motion LoRAs that ship beside the bundled model, by name."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).with_name("motion_loras")


def motion_lora_names() -> list[str]:
    """Names such as `pan-left`, in order."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def motion_lora_path(name: str) -> Path:
    """The file of a name.

    Raises:
        FileNotFoundError: no such LoRA ships with the package.
    """
    if name not in motion_lora_names():
        raise FileNotFoundError(f"{name} is no bundled motion LoRA, expected one of {', '.join(motion_lora_names())}.")
    return FOLDER / f"{name}.safetensors"
