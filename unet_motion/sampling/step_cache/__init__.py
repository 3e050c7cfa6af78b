"""Fewer full steps: settings and presets, what is kept, and the state of a run."""

from .run import RunCache, StepReport
from .settings import PRESETS, StepCache, chosen_cache

__all__ = ["PRESETS", "RunCache", "StepCache", "StepReport", "chosen_cache"]
