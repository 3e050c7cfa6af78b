"""The Triton kernels and their launchers; imported only when one runs."""
