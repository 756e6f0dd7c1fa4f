"""Free energies of ensembles, in kT, each with a standard error and a diagnosis.

`profiles`: along coordinates, and of one basin. `populations`: several basins. `differences`: log Z, force fields,
temperatures, lambdas. `estimators`: the same on plain arrays. Formulas and sources: docs/free_energy.md.
"""

from __future__ import annotations

from ..weights import Estimate, z_score
from .coordinate import Coordinate, coordinate
from .differences import (
    at_temperature,
    difference,
    difference_bar,
    flow_samples,
    log_z,
    mbar,
    reweighted,
    temperature_difference,
    temperature_energy,
)
from .estimators import FreeEnergy, StateFreeEnergies, bar_estimate, exponential_average, mbar_estimate
from .populations import Basins, basins
from .profiles import (
    PHI_POSITIVE,
    BasinDifference,
    Profile,
    Surface,
    basin_difference,
    in_phi_positive,
    phi_positive,
    profile,
    surface,
)

__all__ = [
    "PHI_POSITIVE",
    "BasinDifference",
    "Basins",
    "Coordinate",
    "Estimate",
    "FreeEnergy",
    "Profile",
    "StateFreeEnergies",
    "Surface",
    "at_temperature",
    "bar_estimate",
    "basin_difference",
    "basins",
    "coordinate",
    "difference",
    "difference_bar",
    "exponential_average",
    "flow_samples",
    "in_phi_positive",
    "log_z",
    "mbar",
    "mbar_estimate",
    "phi_positive",
    "profile",
    "reweighted",
    "surface",
    "temperature_difference",
    "temperature_energy",
    "z_score",
]
