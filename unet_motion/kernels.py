"""Operations with a kernel of their own, each beside the plain PyTorch code that it must equal.

`use("triton")` (or the environment variable UNET_MOTION_KERNELS) chooses the Triton kernels where they can run,
`use("proven")` those that have shown on this device that they are as exact as the plain code and no slower, and
`use("eager")` the plain code. That is the default: what a program computes is the same bit for bit on the next run, and
does not hang on which kernel was the faster. `report()` says for this machine what takes which path, and why not a
faster one.
"""

from .ops.attention.temporal import temporal_attention
from .ops.feed_forward import geglu
from .ops.freeu import freeu_concat_kernel
from .ops.group_norm import group_norm
from .ops.layer_norm import layer_norm
from .ops.mode import MODES, current_mode, use
from .ops.report import Report, report

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
