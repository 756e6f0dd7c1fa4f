"""Results of a comparison for one distribution, Ramachandran plot, basin or set of weights, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..free_energy.profiles import BasinDifference, Profile
from ..weights import Estimate
from .divergences import Divergence

SAVED_AS_FLOOR: dict[str, Any] = {"key": "floor"}  # its name in `Comparison.to_dict`, and so in files


@dataclass(frozen=True, eq=False)
class ProfileComparison:
    """Comparison of one torsion or other coordinate. "flow" is the ensemble without its weights.

    Parameters
    ----------
    reference_noise : Divergence
        Of one half of the reference from the other, on average over random halves of whole blocks.
    noise : Estimate
        Total variation that noise alone makes between the two, mean and standard deviation; see
        `compare.divergences.noise`.
    z : float
        (TV - its mean by noise) / its standard deviation by noise; `z_flow`: of the unweighted ensemble.
    largest : Estimate, kT
        Largest difference |dF| of -ln p over bins that both visit and where the reference has F < 5 kT; its
        error there.
    rms : float, kT
        Root mean square of the same differences.
    unvisited : int
        Bins with reference F < 5 kT that the ensemble never visits: no difference can be given there.
    """

    name: str
    ensemble: Profile
    flow: Profile
    reference: Profile
    divergence: Divergence
    divergence_flow: Divergence
    reference_noise: Divergence = field(metadata=SAVED_AS_FLOOR)
    noise: Estimate
    z: float
    z_flow: float
    verdict: str
    largest: Estimate
    rms: float
    unvisited: int


@dataclass(frozen=True, eq=False)
class CoordinateComparison(ProfileComparison):
    """Comparison of a distance, energy, ... in `unit`, with averages, standard errors, their z-score and its verdict.

    The outermost bins of its profiles hold all that lies beyond them.
    """

    unit: str
    mean_ensemble: Estimate
    mean_flow: Estimate
    mean_reference: Estimate
    mean_z: float
    mean_verdict: str


@dataclass(frozen=True, eq=False)
class PairComparison:
    """Comparison of one Ramachandran plot: divergences of 2-D histograms by number of bins a side; `reference_noise`
    as in `ProfileComparison`."""

    name: str
    divergence: dict[int, Divergence]
    divergence_flow: dict[int, Divergence]
    reference_noise: dict[int, Divergence] = field(metadata=SAVED_AS_FLOOR)


@dataclass(frozen=True, eq=False)
class BasinComparison:
    """Comparison of one basin's free energy relative to the rest, kT; z = (ensemble - reference) / combined error."""

    name: str
    ensemble: BasinDifference
    flow: BasinDifference
    reference: BasinDifference
    z: float
    z_flow: float
    verdict: str


@dataclass(frozen=True, eq=False)
class WeightHistogram:
    """Histograms of ln w - ln mean w between `edges` (bins + 1,), nats: shares of the samples and of their weight.

    Good weights have both near 0; weight at the right-hand edge means that few samples carry it.
    """

    edges: np.ndarray
    samples: np.ndarray
    weight: np.ndarray
