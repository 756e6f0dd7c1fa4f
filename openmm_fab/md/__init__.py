"""Reference ensembles from molecular dynamics: by OpenMM, by openmmtools, or by many walkers on the compiled energy."""

from __future__ import annotations

from .bias import TorsionBias
from .convergence import Convergence, ReferenceEnsemble, convergence
from .dynamics import LangevinMiddle, UnstableDynamicsError
from .hybrid import HybridWalkers
from .reference import reference
from .settings import (
    METHODS,
    HybridSettings,
    LangevinSettings,
    MetadynamicsSettings,
    MethodSettings,
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
    "ReferenceEnsemble",
    "ReplicaExchangeSettings",
    "TorsionBias",
    "UnstableDynamicsError",
    "WalkersExchangeSettings",
    "WalkersSettings",
    "convergence",
    "reference",
]
