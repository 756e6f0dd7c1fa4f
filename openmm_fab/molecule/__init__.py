"""The molecule as OpenMM knows it, from files or OpenMM objects, checked: `MolecularSystem`.

`inputs` reads files of other programs by way of `structures`, `forcefields` and `folders`; `checks` refuses what cannot
be sampled; `molecule` is the result, and `system` the ways to it. `graph`, `torsions`, `stereo`, `names`: what the
rest of the package asks of its topology.
"""

from __future__ import annotations

from .checks import UnsupportedSystemError
from .folders import available_systems
from .graph import BondGraph
from .system import MolecularSystem

__all__ = [
    "BondGraph",
    "MolecularSystem",
    "UnsupportedSystemError",
    "available_systems",
]
