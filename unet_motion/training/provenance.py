"""What a trained file says of its making."""

from __future__ import annotations

import json
from typing import Any

from .. import __version__
from .trainer import MotionTrainer


def made(trainer: MotionTrainer, what: str) -> dict[str, Any]:
    """What a file says of its training."""
    identity = dict(trainer.identity)
    return {
        "what": what,
        "from": json.loads(identity.pop("base")),
        "how": identity | {"trained_steps": trainer.step, "clips": len(trainer.clips)},
        "version": __version__,
    }
