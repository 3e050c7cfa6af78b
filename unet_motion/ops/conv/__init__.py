"""Convolutions of channels-last activations: on a CPU by products and transforms where these are faster than torch."""

from .cpu import convolve, convolve_upsampled

__all__ = ["convolve", "convolve_upsampled"]
