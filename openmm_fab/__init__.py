"""Boltzmann ensembles and free energies from an OpenMM energy alone.

One sample's way through the package::

    PDB --system--> OpenMM System --energy--> u(x)
                                                |
    z --coordinates--> x                        +--target--> log p(z)
    ^                                                           |
    +--flow-- trained by path, hmc, ais, buffer, objectives, train
    |
    +--generator.sample--> Ensemble(x, u, log_w) --free_energy, compare--> F(phi), dF +- error, against MD
"""

from __future__ import annotations

from .ais import AISSettings
from .checks import UnsupportedSystemError
from .compare import Comparison, compare
from .coordinates import CoordinateSettings, InternalCoordinates
from .energy import reduced_energy
from .energy.bridge import OpenMMEnergy
from .ensemble import Ensemble
from .flow import FlowSettings
from .free_energy import (
    Basins,
    FreeEnergy,
    Profile,
    at_temperature,
    basin_difference,
    basins,
    difference,
    difference_bar,
    log_z,
    log_z_ais,
    log_z_bar,
    mbar,
    profile,
    surface,
    temperature_difference,
)
from .generator import BoltzmannGenerator, GeneratorSettings
from .md import Convergence, ReferenceEnsemble, load_reference, reference
from .preparation import find_problems
from .presets import PRESETS
from .pretrained import load_pretrained
from .stream import StreamedEnsemble
from .system import MolecularSystem, available_systems
from .train import Budget, Trainer, TrainingError, TrainSettings
from .weights import Estimate
from .zmatrix import ZMatrix, build_zmatrix

__version__ = "0.1.0"

__all__ = [
    "MolecularSystem",
    "UnsupportedSystemError",
    "available_systems",
    "find_problems",
    "reduced_energy",
    "OpenMMEnergy",
    "ZMatrix",
    "build_zmatrix",
    "InternalCoordinates",
    "BoltzmannGenerator",
    "GeneratorSettings",
    "CoordinateSettings",
    "FlowSettings",
    "TrainSettings",
    "AISSettings",
    "load_pretrained",
    "PRESETS",
    "Budget",
    "Trainer",
    "TrainingError",
    "Ensemble",
    "StreamedEnsemble",
    "Estimate",
    "load_reference",
    "reference",
    "ReferenceEnsemble",
    "Convergence",
    "Profile",
    "profile",
    "surface",
    "basin_difference",
    "basins",
    "Basins",
    "FreeEnergy",
    "log_z",
    "log_z_ais",
    "log_z_bar",
    "difference",
    "difference_bar",
    "temperature_difference",
    "at_temperature",
    "mbar",
    "Comparison",
    "compare",
]
