"""Boltzmann ensembles and free energies from an OpenMM energy alone.

One sample's way through the package, wing by wing::

    PDB --molecule--> OpenMM System --energy------> u(x) --.
                             |                              +--target--> log p(z), gradient
                             '--------coordinates--> x(z) --'                 |
                                                                              |
    z ~ q --flow--> --ais--> towards p^2 / q --train--> buffer, loss, a better q
    |
    '--generator--> ensemble: x, u, log_w --free_energy--> F(phi), log Z, each +- its error
                        |
                        '--compare--> against md
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .tools.lazy import load_when_used

if TYPE_CHECKING:
    from .ais.annealing import AISSettings
    from .comparison.comparing import compare
    from .comparison.comparison import Comparison
    from .coordinates.internal import InternalCoordinates
    from .coordinates.settings import CoordinateSettings
    from .coordinates.zmatrix import ZMatrix, build_zmatrix
    from .energy.backends import reduced_energy
    from .energy.bridge import OpenMMEnergy
    from .ensemble.ensemble import Ensemble
    from .ensemble.shipped import load_reference
    from .ensemble.stream import StreamedEnsemble
    from .flow.settings import FlowSettings
    from .free_energy.differences import (
        free_energy_difference,
        free_energy_difference_bar,
        mbar,
        reweight_temperature,
        temperature_difference,
    )
    from .free_energy.estimators import FreeEnergy
    from .free_energy.populations import BasinPopulations, basin_populations
    from .free_energy.profiles import Profile, basin_difference, profile, surface
    from .generator.generator import BoltzmannGenerator
    from .generator.partition import log_z_ais, log_z_bar
    from .generator.presets import PRESETS, load_pretrained
    from .generator.refining import refine
    from .generator.settings import GeneratorSettings
    from .md.convergence import Convergence, ReferenceEnsemble
    from .md.reference import run_reference
    from .molecule.checks import UnsupportedSystemError
    from .molecule.folders import available_systems
    from .molecule.system import PAPER_FORCEFIELD, MolecularSystem
    from .preparation.findings import find_problems
    from .tools.errors import OpenMMFabError
    from .train.errors import TrainingError
    from .train.settings import Budget, TrainSettings
    from .train.trainer import Trainer
    from .weights import Estimate

__version__ = "0.1.0"

__all__ = [
    "OpenMMFabError",
    "MolecularSystem",
    "PAPER_FORCEFIELD",
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
    "run_reference",
    "ReferenceEnsemble",
    "Convergence",
    "Profile",
    "profile",
    "surface",
    "basin_difference",
    "basin_populations",
    "BasinPopulations",
    "FreeEnergy",
    "log_z_ais",
    "log_z_bar",
    "refine",
    "free_energy_difference",
    "free_energy_difference_bar",
    "temperature_difference",
    "reweight_temperature",
    "mbar",
    "Comparison",
    "compare",
]

# A name loads its module when it is used: PyTorch and OpenMM take seconds, and `openmm-fab --help` needs neither.
# Type checkers read the imports above: to them, __getattr__ would make any name right.
if not TYPE_CHECKING:
    __getattr__, __dir__ = load_when_used(
        __name__,
        {
            "ais.annealing": "AISSettings",
            "comparison.comparing": "compare",
            "comparison.comparison": "Comparison",
            "coordinates.internal": "InternalCoordinates",
            "coordinates.settings": "CoordinateSettings",
            "coordinates.zmatrix": "ZMatrix build_zmatrix",
            "energy.backends": "reduced_energy",
            "energy.bridge": "OpenMMEnergy",
            "ensemble.ensemble": "Ensemble",
            "ensemble.shipped": "load_reference",
            "ensemble.stream": "StreamedEnsemble",
            "flow.settings": "FlowSettings",
            "free_energy.differences": "free_energy_difference free_energy_difference_bar mbar reweight_temperature "
            "temperature_difference",
            "free_energy.estimators": "FreeEnergy",
            "free_energy.populations": "BasinPopulations basin_populations",
            "free_energy.profiles": "Profile basin_difference profile surface",
            "generator.generator": "BoltzmannGenerator",
            "generator.partition": "log_z_ais log_z_bar",
            "generator.presets": "PRESETS load_pretrained",
            "generator.refining": "refine",
            "generator.settings": "GeneratorSettings",
            "md.convergence": "Convergence ReferenceEnsemble",
            "md.reference": "run_reference",
            "molecule.checks": "UnsupportedSystemError",
            "molecule.folders": "available_systems",
            "molecule.system": "MolecularSystem PAPER_FORCEFIELD",
            "preparation.findings": "find_problems",
            "tools.errors": "OpenMMFabError",
            "train.errors": "TrainingError",
            "train.settings": "Budget TrainSettings",
            "train.trainer": "Trainer",
            "weights": "Estimate",
        },
    )
