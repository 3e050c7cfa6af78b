"""diffusers' base classes over this project's network: for programs and pipelines that are written for diffusers.

    from unet_motion.diffusers import MotionAdapter, UNetMotionModel    # in place of: from diffusers import ...

Everything that diffusers' classes of these names inherit is there: loading from folders and from the Hugging Face hub,
variants, device maps, PEFT adapters, layerwise casting, offloading, gradient checkpointing. Needs the extra
``diffusers``.
"""

try:
    # Pipelines that read parts of this package look for their base class beside them.
    from diffusers import ModelMixin

    from .models import MotionAdapter, UNetMotionModel
    from .pipelines import accelerate, restore
except ImportError as error:
    raise ImportError(
        f"unet_motion.diffusers needs diffusers 0.35 or newer ({error}): pip install 'unet-motion[diffusers]'"
    ) from error

for _model in (MotionAdapter, UNetMotionModel):
    # A saved pipeline names the package that its parts are read with.
    _model.__module__ = __name__

__all__ = ["ModelMixin", "MotionAdapter", "UNetMotionModel", "accelerate", "restore"]
