"""The molecule as OpenMM knows it: readers of files, what is refused, the bond graph, torsions, chirality."""

from __future__ import annotations

from .checks import UnsupportedSystemError
from .graph import BondGraph
from .system import MolecularSystem, available_systems

__all__ = [
    "BondGraph",
    "MolecularSystem",
    "UnsupportedSystemError",
    "available_systems",
]
