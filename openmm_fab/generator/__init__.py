"""`BoltzmannGenerator`: energy, coordinates and flow of a molecule in one object that is trained, sampled and saved.

`settings` and `presets` configure it, `sampler` is what of it draws samples, `sampling` and `training` implement its
methods, `models` its file format,
`partition` estimates log Z by annealing and by BAR, `refining` carries the ensemble to another energy, `auditing`
looks for states that it lacks. `chains` check an estimate without weights, `seeking` trains and samples until an error
is reached, `planning` divides the time, `quantities` are what has the error, `outcome` is what comes of it.
"""

from __future__ import annotations

from ..tools.metrics import FlowMetrics, TrainingMetrics
from .generator import BoltzmannGenerator
from .outcome import Outcome
from .partition import ais_log_weights, flow_energy, log_z_ais, log_z_bar
from .presets import PRESETS, Preset, load_pretrained
from .refining import Refinement, refine
from .settings import GeneratorSettings

__all__ = [
    "PRESETS",
    "BoltzmannGenerator",
    "FlowMetrics",
    "GeneratorSettings",
    "Outcome",
    "Preset",
    "Refinement",
    "TrainingMetrics",
    "ais_log_weights",
    "flow_energy",
    "load_pretrained",
    "log_z_ais",
    "log_z_bar",
    "refine",
]
