"""Reduced energies: x (batch, atoms, 3) in nm -> u = U/kT (batch,), differentiable."""

from __future__ import annotations

from typing import Any

from openmm_fab.energy.bridge import OpenMMEnergy, regularize
from openmm_fab.system import MolecularSystem

__all__ = ["OpenMMEnergy", "reduced_energy", "regularize"]

BACKENDS = ("auto", "openmm")


def reduced_energy(system: MolecularSystem, backend: str = "auto", **options: Any) -> OpenMMEnergy:
    """The reduced energy of `system` as a function of x.

    Parameters
    ----------
    system : MolecularSystem
    backend : "auto" or "openmm"
        Both are OpenMM itself, through a pool of Contexts.
    **options
        Handed to the backend, e.g. `platform` and `workers` of `OpenMMEnergy`.

    Raises
    ------
    ValueError
        Unknown backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"Expected a backend out of {BACKENDS}; got {backend!r}.")
    return OpenMMEnergy(system, **options)
