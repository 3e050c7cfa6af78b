"""What a parameter's name tells."""

from __future__ import annotations

IMAGE_ENCODER = "img_encoder."
"""What the names of the image encoder's parameters start with, in the authors' files too."""


def is_encoder(name: str) -> bool:
    """Whether a parameter is the image encoder's."""
    return name.startswith(IMAGE_ENCODER)


def is_image_layer(key: str) -> bool:
    """Whether a name is that of an IP-Adapter's layers, which a configuration does not speak of."""
    return key.startswith("encoder_hid_proj.") or ".processor.to_" in key


def is_table(key: str) -> bool:
    """Whether a name is that of a position table, which can be computed where a file leaves it out."""
    return key.endswith(".pos_embed.pe")


def is_motion(name: str) -> bool:
    """Whether a parameter of a UNet comes with its motion modules, rather than with the image UNet."""
    return ".motion_modules." in name or is_encoder(name)
