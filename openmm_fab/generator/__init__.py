"""`BoltzmannGenerator` (in `generator`), its `settings`, `training`, `sampling`, and `models` on disk."""

from openmm_fab.generator.generator import BoltzmannGenerator, Metrics
from openmm_fab.generator.models import MODEL_FORMAT
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.train import parse_budget

__all__ = ["MODEL_FORMAT", "BoltzmannGenerator", "GeneratorSettings", "Metrics", "parse_budget"]
