"""One side of a comparison: histograms, and one bootstrap for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..free_energy.profiles import BasinDifference, Profile
from ..weights import Estimate, block_sums, count_blocks
from .divergences import noise, replicas
from .verdicts import Reliability

if TYPE_CHECKING:
    from ..ensemble.ensemble import Ensemble


Column = tuple[np.ndarray, int]  # a bin (n,) for every frame; how many bins


@dataclass(frozen=True, eq=False)
class Side:
    """Ensemble with named columns; `replicas` of each, (n_bootstrap, bins), come from the same resamplings."""

    ensemble: Ensemble
    reliability: Reliability
    weights: np.ndarray
    columns: Mapping[str, Column]
    replicas: Mapping[str, np.ndarray]
    blocks: int

    @classmethod
    def of(cls, ensemble: Ensemble, columns: Mapping[str, Column], n_bootstrap: int, seed: int) -> Side:
        """Make a side whose columns are resampled together, `n_bootstrap` times."""
        found = replicas(ensemble, list(columns.values()), n_bootstrap, seed)
        return cls(
            ensemble,
            Reliability.of(ensemble),
            ensemble.weights,
            columns,
            dict(zip(columns, found, strict=True)),
            count_blocks(ensemble.n, ensemble.block),
        )

    def probability(self, name: str) -> np.ndarray:
        """Weighted histogram (bins,) of a column."""
        index, bins = self.columns[name]
        return np.bincount(index, weights=self.weights, minlength=bins)

    def profile(self, name: str, edges: np.ndarray) -> Profile:
        """Free energy F (bins,) in kT with standard errors, of a column over bins between `edges` (bins + 1,)."""
        p = self.probability(name)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = self.ensemble.share_error(p, self.ensemble.standard_error(self.replicas[name]))
            error = np.where(p > 0.0, error / p, np.nan)
            return Profile(edges, -np.log(p / p.max()) + 0.0, error, p)

    def difference(self, name: str) -> BasinDifference:
        """Free energy, kT, of the basin made of the frames in bin 1 of a two-bin column, relative to the rest."""
        mask = self.columns[name][0] == 1
        return BasinDifference.of(
            self.ensemble, mask, lambda: float(self.ensemble.standard_error(self.replicas[name][:, 1]))
        )

    def mean(self, values: np.ndarray) -> Estimate:
        """Weighted mean of values (n,), with the standard error of independent blocks (delta method)."""
        mean = float(self.weights @ values)
        sums = block_sums(self.weights * (values - mean), self.ensemble.block)
        n = self.blocks
        return Estimate(mean, float(np.sqrt(np.square(sums).sum() * n / (n - 1))) if n > 1 else np.nan)

    def noise(self, name: str, other: Side) -> Estimate:
        """Total variation that noise alone makes between a column of this side and of the other."""
        sides = ((s.probability(name), s.replicas[name], s.blocks) for s in (self, other))
        return noise(*next(sides), *next(sides))
