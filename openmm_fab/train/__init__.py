"""Training: `settings`, the loop itself (`trainer`), and its `checkpoints`."""

from openmm_fab.train.checkpoints import CHECKPOINT_FORMAT
from openmm_fab.train.settings import Budget, TrainSettings, parse_budget
from openmm_fab.train.trainer import BASINS_EVERY, PLAIN, RECENT, Trainer
from openmm_fab.watch import TrainingError

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
