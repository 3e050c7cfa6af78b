"""Operations with a kernel of their own, each beside the plain PyTorch code that it must equal.

`use("triton")` (or the environment variable UNET_MOTION_KERNELS) chooses the Triton kernels where they can run, and
`use("eager")` the plain code, which is the default; `report()` says for this machine what takes which path, and why
not a faster one.
"""

from .dispatch import MODES, current_mode, use
from .freeu import freeu_concat_kernel
from .geglu import geglu
from .group_norm import group_norm
from .layer_norm import layer_norm
from .report import Report, report
from .temporal_attention import temporal_attention

__all__ = [
    "MODES",
    "Report",
    "current_mode",
    "freeu_concat_kernel",
    "geglu",
    "group_norm",
    "layer_norm",
    "report",
    "temporal_attention",
    "use",
]
