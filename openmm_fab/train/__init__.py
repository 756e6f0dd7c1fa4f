"""Training: `settings`, the loop itself (`trainer`), what it minimises (`objectives`), and its `checkpoints`."""

from __future__ import annotations

from .checkpoints import CHECKPOINT_FORMAT
from .health import TrainingError
from .settings import Budget, TrainSettings, parse_budget
from .trainer import BASINS_EVERY, PLAIN, RECENT, Trainer

__all__ = [
    "BASINS_EVERY",
    "CHECKPOINT_FORMAT",
    "PLAIN",
    "RECENT",
    "Budget",
    "TrainSettings",
    "Trainer",
    "TrainingError",
    "parse_budget",
]
