"""`BoltzmannGenerator`, the one object of a notebook: its settings, training, sampling, models on disk, and log Z."""

from __future__ import annotations

from ..train.settings import parse_budget
from .generator import BoltzmannGenerator, Metrics
from .log_z import ais_log_weights, flow_energy, log_z_ais, log_z_bar
from .models import MODEL_FORMAT
from .presets import PRESETS, Preset, load_pretrained
from .settings import GeneratorSettings

__all__ = [
    "MODEL_FORMAT",
    "PRESETS",
    "BoltzmannGenerator",
    "GeneratorSettings",
    "Metrics",
    "Preset",
    "ais_log_weights",
    "flow_energy",
    "load_pretrained",
    "log_z_ais",
    "log_z_bar",
    "parse_budget",
]
