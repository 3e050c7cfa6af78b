"""A small text-to-video model that ships with the package."""

from .autoencoder import Autoencoder
from .loras import motion_lora_names, motion_lora_path
from .parts import WEIGHTS, BundledParts, added_cond, added_vector, build_parts, load_bundled, read_metadata
from .text import TextEncoder, Tokenizer

__all__ = [
    "WEIGHTS",
    "Autoencoder",
    "BundledParts",
    "TextEncoder",
    "Tokenizer",
    "added_cond",
    "added_vector",
    "build_parts",
    "load_bundled",
    "motion_lora_names",
    "motion_lora_path",
    "read_metadata",
]
