"""What a comparison found, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..free_energy import BasinDifference, Profile
from ..weights import Estimate
from . import report
from .divergences import Divergence
from .projections import Projection, circle_features
from .torsions import Torsion, torsion_values

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from ..ensemble import Ensemble


@dataclass(frozen=True, eq=False)
class ProfileComparison:
    """One torsion, or another coordinate. "flow" is the ensemble without its weights.

    Parameters
    ----------
    floor : Divergence
        Of one half of the reference from the other, on average over random halves of whole blocks.
    noise : Estimate
        Total variation that noise alone makes between the two, mean and standard deviation; see `divergences.noise`.
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
    floor: Divergence
    noise: Estimate
    z: float
    z_flow: float
    verdict: str
    largest: Estimate
    rms: float
    unvisited: int


@dataclass(frozen=True, eq=False)
class CoordinateComparison(ProfileComparison):
    """A distance, energy, ... in `unit`: also its averages, with standard errors, and `mean_z`, their z-score.

    The outermost bins of its profiles hold all that lies beyond them.
    """

    unit: str
    mean_ensemble: Estimate
    mean_flow: Estimate
    mean_reference: Estimate
    mean_z: float


@dataclass(frozen=True, eq=False)
class PairComparison:
    """One Ramachandran plot: divergences of its 2-D histograms, by number of bins a side; `floor` as above."""

    name: str
    divergence: dict[int, Divergence]
    divergence_flow: dict[int, Divergence]
    floor: dict[int, Divergence]


@dataclass(frozen=True, eq=False)
class BasinComparison:
    """One basin's free energy against all the rest, kT; z = (ensemble - reference) / combined error."""

    name: str
    ensemble: BasinDifference
    flow: BasinDifference
    reference: BasinDifference
    z: float
    z_flow: float
    verdict: str


@dataclass(frozen=True, eq=False)
class WeightHistogram:
    """Shares of the samples, and of their weight, over ln w - ln mean w.

    Good weights have both near 0; weight at the right-hand edge means that few samples carry it.
    """

    edges: np.ndarray
    samples: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found. `print` it for a table, `.plot()` it for the figure, `.to_dict()` it for a
    file.

    Parameters
    ----------
    projections : tuple of Projection
        PCA of the torsions, and TICA where a lag was given, as fitted to the reference.
    features : tuple of Torsion
        Those whose cosines, then sines, they project.
    """

    ensemble: Ensemble
    reference: Ensemble
    torsions: tuple[ProfileComparison, ...]
    pairs: tuple[PairComparison, ...]
    basins: tuple[BasinComparison, ...]
    coordinates: tuple[CoordinateComparison, ...] = ()
    projections: tuple[Projection, ...] = ()
    features: tuple[Torsion, ...] = ()
    weights: WeightHistogram | None = None

    def projected(self, ensemble: Ensemble, which: int = 0) -> np.ndarray:
        """Coordinates (n, k) of an ensemble of this molecule in a projection."""
        values = torsion_values(ensemble, self.features)
        return self.projections[which].of(circle_features(np.stack(list(values.values()), axis=1)))

    def words(self) -> str:
        """Do they agree within errors? In sentences."""
        return report.words(self)

    def table(self) -> str:
        """Plain-text tables; raw ESS, clipped ESS and k-hat always stand above the basins they qualify."""
        return report.table(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the structures, as plain numbers, strings and lists; None where a number is not
        finite."""
        return report.to_dict(self)

    def plot(self, path: str | Path | None = None) -> Figure:
        """The figure of `plots.comparison`, saved where a path is given."""
        from ..plots import comparison

        figure = comparison(self)
        if path is not None:
            figure.savefig(path)
        return figure

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return report.to_html(self)
