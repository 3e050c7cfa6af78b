"""Operations with a kernel of their own, each beside the plain PyTorch code that it must equal.

`use("triton")` (or the environment variable UNET_MOTION_KERNELS) chooses the Triton kernels where they can run, and
`use("eager")` the plain code, which is the default; `report()` says for this machine what takes which path, and why.
"""

from .dispatch import MODES, current_mode, report, use
from .geglu import geglu
from .group_norm import group_norm
from .temporal_attention import temporal_attention

__all__ = ["MODES", "current_mode", "geglu", "group_norm", "report", "temporal_attention", "use"]
