"""Training of a flow on a target: settings and budget, objectives, the replay buffer, the loop, its checkpoints."""

from __future__ import annotations

from .health import TrainingError
from .settings import Budget, TrainSettings, parse_budget
from .trainer import Trainer

__all__ = [
    "Budget",
    "TrainSettings",
    "Trainer",
    "TrainingError",
    "parse_budget",
]
