"""What happens when: curves of numbers, and prompts, over the frames of a clip and over the steps of the sampling."""

from .curve import WAYS, Curve, Key, Pieces
from .mixing import mix_tokens, mix_vectors
from .places import OVER, Place
from .prompts import INTERPOLATIONS, PromptKey, PromptSchedule
from .timeline import TRACKS, Timeline

__all__ = [
    "INTERPOLATIONS",
    "OVER",
    "TRACKS",
    "WAYS",
    "Curve",
    "Key",
    "Pieces",
    "Place",
    "PromptKey",
    "PromptSchedule",
    "Timeline",
    "mix_tokens",
    "mix_vectors",
]
