"""Ensembles of structures with energies u and log weights, from a flow or from MD, in memory and in files."""

from __future__ import annotations

from .audit import Audit, State
from .averages import KARPLUS, couplings, dipole, hydrogen_bonds, noe_distances, polar_surface
from .conformers import Conformer, Conformers
from .ensemble import Ensemble
from .shipped import load_reference
from .strain import Strain
from .stream import StreamedEnsemble

__all__ = [
    "KARPLUS",
    "Audit",
    "Conformer",
    "Conformers",
    "Ensemble",
    "State",
    "Strain",
    "StreamedEnsemble",
    "couplings",
    "dipole",
    "hydrogen_bonds",
    "load_reference",
    "noe_distances",
    "polar_surface",
]
