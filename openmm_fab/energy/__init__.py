"""Reduced energies x (batch, n_atoms, 3) in nm -> u = U/kT (batch,), differentiable: by OpenMM, by torch, your own."""

from __future__ import annotations

from .agreement import DisagreementError
from .backends import reduced_energy
from .bridge import OpenMMEnergy, WorkerError
from .compiled import CompiledEnergy
from .given import GivenEnergy, from_ase, from_function, from_torch
from .potential import UntranslatedSystemError
from .protocol import Energy
from .regularization import regularize
from .slopes import check_gradient
from .verify import VerifiedEnergy, check, refuse_fixed_in_space

__all__ = [
    "CompiledEnergy",
    "DisagreementError",
    "Energy",
    "GivenEnergy",
    "OpenMMEnergy",
    "UntranslatedSystemError",
    "VerifiedEnergy",
    "WorkerError",
    "check",
    "check_gradient",
    "from_ase",
    "from_function",
    "from_torch",
    "reduced_energy",
    "refuse_fixed_in_space",
    "regularize",
]
