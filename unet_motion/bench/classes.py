"""The class of a kernel or operator, by its name as cuDNN, CUTLASS, flash attention, Triton and ATen write it."""

from __future__ import annotations

import re

PATTERNS: tuple[tuple[str, str], ...] = (
    # Before all else: their names hold those of what they are made of or made for.
    ("layout", r"nchwToNhwc|nhwcToNchw|nchw_to_nhwc|nhwc_to_nchw|mkldnn_reorder|^reorder"),
    ("copy", r"^Mem(cpy|set)|^_concat\b"),
    (
        "attention",
        r"flash|fmha|sdpa|scaled_dot_product|temporal_attention|AttentionKernel|[Ss]oft_?[Mm]ax|^_attention\b|sageattn"
        r"|qk_int8",
    ),
    (
        "norm",
        r"[Gg]roup_?[Nn]orm|[Ll]ayer_?[Nn]orm|RowwiseMoments|ComputeFusedParams|[Bb]atch_?[Nn]orm|bn_fw|rms_?norm"
        r"|^_(statistics|combine|apply|whole|layer_norm)\b",
    ),
    ("convolution", r"convolution|conv[123]d|convolve|fprop|dgrad|wgrad|winograd|[Ii]mplicit_?[Gg]emm|scudnn|cudnn"),
    (
        "GEMM",
        r"gemm|gemv|GEMM|Gemm|nvjet|cublas|cutlass|splitKreduce|xmma|triton_tem_"
        r"|aten::(mm|addmm|bmm|baddbmm|matmul|linear)$|^dot_kernel|^_geglu_product\b",
    ),
    (
        "copy",
        r"direct_copy|copy_kernel|aten::(copy_|cat|clone|contiguous|_to_copy|index_select|upsample\w*)$|CatArray"
        r"|upsample|index_(select|elementwise)|indexSelect|vectorized_gather|triton_poi_fused_(cat|clone|_to_copy)_\d+$",
    ),
)
"""Class -> what is found in its names; the first that fits."""

_COMPILED = tuple((kind, re.compile(pattern)) for kind, pattern in PATTERNS)


def class_of(name: str) -> str:
    """One of the classes, or "pointwise"."""
    return next((kind for kind, pattern in _COMPILED if pattern.search(name)), "pointwise")
