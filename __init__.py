"""ComfyUI-UNetMotion as a ComfyUI pack. The library itself is the package `unet_motion` and does not need ComfyUI."""

from importlib.util import find_spec

# Looked up rather than tried, so that an error inside ComfyUI or the pack shows itself.
if __package__ and find_spec("comfy") is not None and find_spec("comfy_api") is not None:
    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "./web"
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
