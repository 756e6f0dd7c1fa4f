"""Reference ensembles from molecular dynamics, by OpenMM, by openmmtools, or by many walkers on the compiled energy.

`run_reference` runs any of the `METHODS`, resumable; `assess_convergence` says whether the run was long enough. `moves`
has the trained flow as an openmmtools move.
"""

from __future__ import annotations

from ..energy.dynamics import LangevinMiddle, UnstableDynamicsError
from .bias import TorsionBias
from .convergence import Convergence, ReferenceEnsemble, assess_convergence
from .hybrid import HybridWalkers
from .reference import run_reference
from .settings import (
    METHODS,
    HybridSettings,
    LangevinSettings,
    MetadynamicsSettings,
    MethodSettings,
    OPESSettings,
    ReplicaExchangeSettings,
    WalkersExchangeSettings,
    WalkersSettings,
)

__all__ = [
    "METHODS",
    "Convergence",
    "HybridSettings",
    "HybridWalkers",
    "LangevinMiddle",
    "LangevinSettings",
    "MetadynamicsSettings",
    "MethodSettings",
    "OPESSettings",
    "ReferenceEnsemble",
    "ReplicaExchangeSettings",
    "TorsionBias",
    "UnstableDynamicsError",
    "WalkersExchangeSettings",
    "WalkersSettings",
    "assess_convergence",
    "run_reference",
]
