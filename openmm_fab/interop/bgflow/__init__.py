"""Conversion from and to bgflow. Importable without bgflow, which is needed when a function is called.

From bgflow: `from_generator`, `from_flow`, `from_coordinates`, `from_energy`, `EnergyTarget`. To bgflow:
`to_generator`, `to_flow`, `to_prior`, `to_coordinates`, `to_energy`, `to_sampler`, `z_matrix`. `import_bgflow` makes an
installed bgflow work with present versions of NumPy and PyTorch, `identity_splines` initialises its splines as the
identity.  See docs/bgflow.md.
"""

from __future__ import annotations

from .chart import Chart, Range
from .installed import identity_splines, import_bgflow
from .inward import (
    BgflowCoordinates,
    BgflowFlow,
    EnergyTarget,
    from_coordinates,
    from_energy,
    from_flow,
    from_generator,
)
from .outward import (
    to_coordinates,
    to_energy,
    to_flow,
    to_generator,
    to_prior,
    to_sampler,
    z_matrix,
)

__all__ = [
    "BgflowCoordinates",
    "BgflowFlow",
    "Chart",
    "EnergyTarget",
    "Range",
    "from_coordinates",
    "from_energy",
    "from_flow",
    "from_generator",
    "identity_splines",
    "import_bgflow",
    "to_coordinates",
    "to_energy",
    "to_flow",
    "to_generator",
    "to_prior",
    "to_sampler",
    "z_matrix",
]
