"""Quantities whose error is asked for: free energies of basins, and means of observables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mdtraj
import numpy as np

from ..ensemble.ensemble import Ensemble
from ..ensemble.wells import Angle, TorsionWells
from ..tools.circle import BINS, circular_density
from ..weights import block_sums, kish, log_ratio, normalized_weights, pareto_khat, weighted_values

LEAST = 1e-3  # share of a basin that is reported, and of the rest
Observable = Callable[[mdtraj.Trajectory], np.ndarray]
Of = Sequence[str] | Mapping[str, Observable] | None


@dataclass(frozen=True)
class Measured:
    """A quantity, estimated from weighted independent samples.

    Parameters
    ----------
    value, error : float
        Of a basin F - F(all the rest), kT; of an observable its mean.
    population : float
        Of a basin; else nan.
    effective : float
        Kish's number of samples, or of blocks: inside a basin or in the rest, whichever is less; of an observable, in
        all.
    khat : float
        Pareto k-hat of the weights that this number counts.
    n : int
        Samples in all.
    """

    value: float
    error: float
    population: float
    effective: float
    khat: float
    n: int

    @property
    def variance(self) -> float:
        """Squared error of a single sample: n error^2."""
        return self.n * self.error**2 if math.isfinite(self.error) else math.inf


def measured(log_w: np.ndarray, values: np.ndarray, block: np.ndarray | None = None) -> Measured:
    """Estimate a weighted average or the free energy of a basin, with its error.

    Parameters
    ----------
    log_w : (n,), nats
    values : (n,)
        bool: which samples are inside a basin; else an observable.
    block : (n,) int, optional
        Samples of the same label depend on each other.
    """
    n = len(log_w)
    if values.dtype != bool:
        w = normalized_weights(log_w)
        values = weighted_values(w, values)
        mean = float(w @ values)
        sums = block_sums(w * (values - mean), block)
        error = math.sqrt(float(np.square(sums).sum()) * len(sums) / max(len(sums) - 1, 1))
        return Measured(mean, error, math.nan, float(kish(block_sums(w, block))), pareto_khat(log_w), n)
    inside, outside = (np.where(side, log_w, -np.inf) for side in (values, ~values))
    if not (np.isfinite(inside).any() and np.isfinite(outside).any()):
        empty = not np.isfinite(inside).any()
        return Measured(math.inf if empty else -math.inf, math.nan, 0.0 if empty else 1.0, 0.0, math.nan, n)
    found = log_ratio(outside, inside, block)
    effective = [float(kish(block_sums(normalized_weights(side), block))) for side in (inside, outside)]
    fewer = inside if effective[0] < effective[1] else outside
    population = 1.0 / (1.0 + math.exp(float(found.value)))
    return Measured(float(found.value), float(found.error), population, min(effective), pareto_khat(fewer), n)


class Quantities:
    """Quantities by name, as functions of an ensemble.

    Parameters
    ----------
    of : sequence of names of basins, or mapping of names to callables, or None
        A callable takes an mdtraj.Trajectory and returns bool (n,), frames in a basin, or numbers (n,), an observable.
        None: every well of each torsion, ring and nitrogen with more than `LEAST` of the weight.
    """

    def __init__(self, of: Of = None) -> None:
        if isinstance(of, str):
            of = [of]
        if of is not None and not of:
            raise ValueError(
                "Expected names of basins, or observables by name; got none. Leave out `of` for all basins."
            )
        self.named = None if of is None or isinstance(of, Mapping) else tuple(of)
        self.given = dict(of) if isinstance(of, Mapping) else None
        self._basins: TorsionWells | None = None
        self._wells: dict[str, tuple[int, int]] = {}  # number of the angle, and of its well
        self.left_out: tuple[str, ...] = ()  # basins with too little weight

    def define(self, ensemble: Ensemble) -> None:
        """Find the basins that the weights of an ensemble show, and keep them for all that is to come."""
        if self.given is not None:
            return
        x, w = ensemble.x, ensemble.weights
        self._basins = found = TorsionWells.of(ensemble.topology, x, w)
        shares: dict[str, float] = {}
        self._wells = {}
        for k, (angle, well) in enumerate(zip(found.angles, found.wells, strict=True)):
            inside, degrees = _shares(angle, well, x, w)
            kept = [label for label in inside if label >= 0]
            for label in kept if len(kept) > 1 else []:
                name = f"{angle.name} at {degrees[label]}°"
                name = name if name not in self._wells else f"{name} ({label})"
                self._wells[name], shares[name] = (k, label), inside[label]
        if self.named is not None:
            if unknown := [name for name in self.named if name not in self._wells]:
                raise ValueError(
                    f"Expected basins out of {list(self._wells)}; got {unknown}. Or give them as functions: "
                    "of={name: function of an mdtraj.Trajectory}."
                )
            self._wells = {name: self._wells[name] for name in self.named}
            return
        rare = [name for name in self._wells if not LEAST < shares[name] < 1.0 - LEAST]
        self.left_out = tuple(name for name in rare if shares[name] <= LEAST)
        self._wells = {name: place for name, place in self._wells.items() if name not in rare}

    def values(self, ensemble: Ensemble) -> dict[str, np.ndarray]:
        """Each quantity's values (n,) in an ensemble."""
        if self.given is not None:
            trajectory = ensemble.to_mdtraj()
            return {name: _checked(name, function(trajectory), ensemble.n) for name, function in self.given.items()}
        if self._basins is None:
            raise ValueError("Expected basins to be defined first; call define(ensemble).")
        angles = sorted({k for k, _ in self._wells.values()})
        found = self._basins
        parts = TorsionWells(tuple(found.angles[k] for k in angles), tuple(found.wells[k] for k in angles))
        states = parts.states(ensemble.x)
        return {name: states[:, angles.index(k)] == label for name, (k, label) in self._wells.items()}


def _shares(angle: Angle, well: np.ndarray, x: np.ndarray, w: np.ndarray) -> tuple[dict[int, float], dict[int, int]]:
    """Share of the weight in each well of an angle, and where the density is highest, degrees."""
    finite = np.isfinite(x).all((1, 2)) & (w > 0.0)
    density = circular_density(angle.values(x[finite]), w[finite])
    shares, places = {}, {}
    for label in sorted(set(well.tolist())):
        shares[label] = float(density[well == label].sum())
        top = int(np.argmax(np.where(well == label, density, -1.0)))
        degrees = 10 * round((-180.0 + 360.0 * (top + 0.5) / BINS) / 10)
        places[label] = 180 if degrees == -180 else int(degrees)
    return shares, places


def _checked(name: str, values: object, n: int) -> np.ndarray:
    found = np.asarray(values)
    if found.shape != (n,):
        raise ValueError(f"Expected one value a frame of {name!r}, shape ({n},); got {found.shape}.")
    return found if found.dtype == bool else found.astype(np.float64)
