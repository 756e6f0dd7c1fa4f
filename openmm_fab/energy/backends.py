"""Choice of the backend that evaluates a molecule's energy."""

from __future__ import annotations

from typing import Any

from ..molecule.system import MolecularSystem
from .bridge import OpenMMEnergy
from .compiled import CompiledEnergy
from .verify import VerifiedEnergy

BACKENDS = ("auto", "compiled", "openmm", "verify")


def reduced_energy(system: MolecularSystem, backend: str = "auto", **options: Any) -> OpenMMEnergy | CompiledEnergy:
    """Make the reduced energy u(x) = U(x)/kT of a molecule, with a chosen backend.

    Parameters
    ----------
    system : MolecularSystem
    backend : "auto", "compiled", "openmm" or "verify"
        "openmm": OpenMM itself, through a pool of Contexts. "compiled": its forces translated to torch; call
        `.compile()` on it to fuse them. "verify": the same, checked against OpenMM on the first batch. "auto":
        "compiled" if every force has a translation, else "openmm".
    **options
        Handed to the backend named, e.g. `platform` and `workers` of `OpenMMEnergy`, `dtype` of `CompiledEnergy`.

    Returns
    -------
    OpenMMEnergy or CompiledEnergy
        Its `reason` says in words which it is, and why.

    Raises
    ------
    ValueError
        Unknown backend; options without a named one.
    UntranslatedSystemError
        "compiled" or "verify", and a force has no translation.
    DisagreementError
        A platform of OpenMM's differs from its Reference platform.
    """
    if backend not in BACKENDS:
        raise ValueError(f"Expected a backend out of {BACKENDS}; got {backend!r}.")
    if backend == "auto" and options:
        raise ValueError(f'Expected a named backend for the options {sorted(options)}; got "auto". Name one.')
    reason = f"{backend}, as asked for"
    if backend == "auto":
        untranslated = CompiledEnergy.untranslated(system.system)
        backend = "openmm" if untranslated else "compiled"
        why = "no translation of " + "; ".join(untranslated) if untranslated else "all is translated"
        reason = f"{backend}, {why}"
    backends = {"openmm": OpenMMEnergy, "compiled": CompiledEnergy, "verify": VerifiedEnergy}
    energy: OpenMMEnergy | CompiledEnergy = backends[backend](system, **options)
    energy.reason = reason
    return energy
