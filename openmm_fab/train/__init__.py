"""Training a flow on a target, by Flow AIS Bootstrap or another objective.

`trainer` holds the loop, `learner` the flow that learns, `experience` what it learns from, `objectives` what is
minimised, and `health` what is done when training goes wrong.
"""

from __future__ import annotations

from .errors import TrainingError
from .settings import Budget, TrainSettings, parse_budget
from .trainer import Trainer

__all__ = [
    "Budget",
    "TrainSettings",
    "Trainer",
    "TrainingError",
    "parse_budget",
]
