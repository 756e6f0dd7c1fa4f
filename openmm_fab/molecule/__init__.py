"""The molecule as OpenMM knows it, from files or OpenMM objects, checked: `MolecularSystem`.

`inputs` reads files, `checks` refuses what cannot be sampled, `system` is the result. `graph`, `torsions`, `stereo` and
`names` are what the rest of the package asks of its topology.
"""

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
