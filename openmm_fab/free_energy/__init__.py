"""Free energies of ensembles, in kT, each with a standard error and a diagnosis.

`profiles`: along coordinates, and of one basin. `populations`: several basins. `differences`: log Z, force fields,
temperatures, lambdas. `temperatures`: heat capacities, and F, U and S against temperature. `estimators`: the same on
plain arrays. Formulas and sources: docs/free_energy.md.
"""

from __future__ import annotations

from ..weights import Estimate, z_score
from .coordinate import Coordinate, coordinate_values
from .differences import (
    flow_samples,
    free_energy_difference,
    free_energy_difference_bar,
    mbar,
    reweight_energy,
    reweight_temperature,
    temperature_difference,
    temperature_energy,
)
from .estimators import FreeEnergy, StateFreeEnergies, bar_estimate, exponential_average, mbar_estimate
from .populations import BasinPopulations, basin_populations
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
from .temperatures import TemperatureCurve, heat_capacity, mean_energy, temperature_curve

__all__ = [
    "PHI_POSITIVE",
    "BasinDifference",
    "BasinPopulations",
    "Coordinate",
    "Estimate",
    "FreeEnergy",
    "Profile",
    "StateFreeEnergies",
    "Surface",
    "TemperatureCurve",
    "bar_estimate",
    "basin_difference",
    "basin_populations",
    "coordinate_values",
    "exponential_average",
    "flow_samples",
    "free_energy_difference",
    "free_energy_difference_bar",
    "heat_capacity",
    "in_phi_positive",
    "mbar",
    "mbar_estimate",
    "mean_energy",
    "phi_positive",
    "profile",
    "reweight_energy",
    "reweight_temperature",
    "surface",
    "temperature_curve",
    "temperature_difference",
    "temperature_energy",
    "z_score",
]
