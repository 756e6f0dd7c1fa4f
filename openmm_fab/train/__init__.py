"""Training of a flow on a target, by Flow AIS Bootstrap (FAB) or another objective.

`trainer` holds the loop, `learner` the flow being optimised, `experience` its samples and replay buffer, `objectives`
the losses, and `health` the detection of failures.
"""

from __future__ import annotations

from ..tools.metrics import IterationMetrics, StepMetrics
from .errors import TrainingError
from .settings import Budget, TrainSettings, parse_budget
from .trainer import Trainer

__all__ = [
    "Budget",
    "IterationMetrics",
    "StepMetrics",
    "TrainSettings",
    "Trainer",
    "TrainingError",
    "parse_budget",
]
