"""Reduced energies: x (batch, n_atoms, 3) in nm -> u = U/kT (batch,), differentiable, by OpenMM or by torch."""

from __future__ import annotations

from .agreement import DisagreementError
from .backends import reduced_energy
from .bridge import OpenMMEnergy, WorkerError, regularize
from .compiled import CompiledEnergy
from .potential import UntranslatedSystemError
from .protocol import Energy
from .verify import VerifiedEnergy, check, refuse_fixed_in_space

__all__ = [
    "CompiledEnergy",
    "DisagreementError",
    "Energy",
    "OpenMMEnergy",
    "UntranslatedSystemError",
    "VerifiedEnergy",
    "WorkerError",
    "check",
    "reduced_energy",
    "refuse_fixed_in_space",
    "regularize",
]
