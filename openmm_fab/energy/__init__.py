"""Reduced energies: x (batch, atoms, 3) in nm -> u = U/kT (batch,), differentiable."""

from __future__ import annotations

from typing import Any

from openmm_fab.energy.bridge import OpenMMEnergy, regularize
from openmm_fab.energy.compiled import CompiledEnergy, UncoveredSystemError
from openmm_fab.energy.verify import DisagreementError, VerifiedEnergy
from openmm_fab.system import MolecularSystem

__all__ = [
    "CompiledEnergy",
    "DisagreementError",
    "OpenMMEnergy",
    "UncoveredSystemError",
    "VerifiedEnergy",
    "reduced_energy",
    "regularize",
]

BACKENDS = ("auto", "compiled", "openmm", "verify")
AUTO_MAY_COMPILE = False  # "auto" is OpenMM for now, whatever is covered


def reduced_energy(system: MolecularSystem, backend: str = "auto", **options: Any) -> OpenMMEnergy | CompiledEnergy:
    """The reduced energy of `system` as a function of x.

    Parameters
    ----------
    system : MolecularSystem
    backend : "auto", "compiled", "openmm" or "verify"
        "openmm": OpenMM itself, through a pool of Contexts. "compiled": its forces translated to torch; call
        `.compile()` on it to fuse them. "verify": the same, checked against OpenMM on the first batch. "auto" chooses.
    **options
        Handed to the backend, e.g. `platform` and `workers` of `OpenMMEnergy`, `dtype` of `CompiledEnergy`.

    Returns
    -------
    OpenMMEnergy or CompiledEnergy
        Its `reason` says in words which it is, and why.

    Raises
    ------
    ValueError
        Unknown backend.
    UncoveredSystemError
        "compiled" or "verify", and a force has no translation.
    """
    if backend not in BACKENDS:
        raise ValueError(f"Expected a backend out of {BACKENDS}; got {backend!r}.")
    reason = f"{backend}, as asked for"
    if backend == "auto":
        backend, reason = _choose(system)
    energy: Any  # that both have a reason is known here only
    if backend == "openmm":
        energy = OpenMMEnergy(system, **options)
    else:
        energy = (VerifiedEnergy if backend == "verify" else CompiledEnergy)(system, **options)
    energy.reason = reason
    return energy


def _choose(system: MolecularSystem) -> tuple[str, str]:
    if not AUTO_MAY_COMPILE:
        return "openmm", "openmm: the default"
    uncovered = CompiledEnergy.uncovered(system.system)
    if uncovered:
        return "openmm", "openmm: no translation of " + "; ".join(uncovered)
    return "compiled", "compiled: every force has a translation"
