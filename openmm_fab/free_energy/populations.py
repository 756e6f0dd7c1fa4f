"""Populations of several named basins, and free-energy differences between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ..weights import Estimate, kish, rule_of_three
from .profiles import few_inside
from .units import InUnits

if TYPE_CHECKING:
    import mdtraj

    from .frames import Frames


@dataclass(frozen=True, eq=False, repr=False)
class BasinPopulations(InUnits):
    """Populations of basins and free-energy differences between them, with errors.

    Parameters
    ----------
    names : tuple of str
    population : Estimate, (basins,)
        Shares of the weight; errors of 0 and of 1 are what `weights.rule_of_three` allows.
    difference : Estimate, (basins, basins), kT
        [i, j] is F(j) - F(i) = ln(p_i / p_j), with the correlation of the two shares in its error; inf or nan where
        a basin is empty.
    elsewhere : Estimate
        Share in no basin.
    effective : (basins,)
        Kish's effective number of frames inside.
    notes : dict of str to str
        By basin: why its number is not to be trusted.
    unit, temperature
        As in `Profile`.
    """

    ENERGIES: ClassVar[tuple[str, ...]] = ("difference",)

    names: tuple[str, ...]
    population: Estimate
    difference: Estimate
    elsewhere: Estimate
    effective: np.ndarray
    notes: dict[str, str]
    unit: str = "kT"
    temperature: float = np.nan

    def __repr__(self) -> str:
        return f"BasinPopulations({', '.join(self.names)}; p = {self.elsewhere} elsewhere; print it for the table)"

    def between(self, a: str, b: str) -> Estimate:
        """Free-energy difference F(b) - F(a), in `unit`."""
        for name in (a, b):
            if name not in self.names:
                raise ValueError(f"Expected a basin out of {list(self.names)}; got {name!r}.")
        i, j = self.names.index(a), self.names.index(b)
        return Estimate(float(np.asarray(self.difference.value)[i, j]), float(np.asarray(self.difference.error)[i, j]))

    def __str__(self) -> str:
        values, errors = np.asarray(self.population.value), np.asarray(self.population.error)
        rows = [
            f"{name}: p = {Estimate(p, e)}, F - F({self.names[0]}) = {self.between(self.names[0], name)} {self.unit}"
            + (f" ({self.notes[name]})" if name in self.notes else "")
            for name, p, e in zip(self.names, values, errors, strict=True)
        ]
        return "\n".join([*rows, f"elsewhere: p = {self.elsewhere}"])


def basin_populations(
    ensemble: Frames,
    definitions: Mapping[str, ArrayLike | Callable[[mdtraj.Trajectory], np.ndarray]],
    *,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> BasinPopulations:
    """Populations and free-energy differences of basins that do not overlap.

    Parameters
    ----------
    definitions : mapping of str to (n,) bool, or to callables that take an mdtraj.Trajectory and return it
    n_bootstrap : int
        Bootstrap replicas (of blocks where the ensemble has blocks).
    """
    names = tuple(definitions)
    if not names:
        raise ValueError("Expected at least one basin; got none.")
    masks = np.array([_mask(ensemble, name, definitions[name]) for name in names])
    if (masks.sum(0) > 1).any():
        raise ValueError(f"Expected basins that do not overlap; {int((masks.sum(0) > 1).sum())} frames lie in several.")
    shares = np.vstack([masks, ~masks.any(0)]).astype(float)
    w = ensemble.weights
    p, replicas = shares @ w, ensemble.bootstrap(lambda weights: shares @ weights, n_bootstrap, seed=seed)
    error = ensemble.share_error(p, ensemble.standard_error(replicas))
    inside = p[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        f = -np.log(inside)
        # Of ln p by the delta method: replicas of ln p itself are infinite whenever one leaves a basin empty.
        relative = np.where(inside > 0, replicas[:, :-1] / inside, 0.0)
        difference = np.where(np.eye(len(names), dtype=bool), 0.0, f[None, :] - f[:, None])
        spread = ensemble.standard_error(relative[:, :, None] - relative[:, None, :])
        effective = np.where(inside > 0, kish((masks * w).T, total=inside), 0.0)
    spread = np.where(np.isfinite(difference), spread, np.nan)
    most = rule_of_three(ensemble.independent)
    missed = (
        f"no frame of any weight out of {ensemble.n} is inside: missed, or rarer than can be seen, at 95 % less than "
        f"{most:.2g} of the weight"
    )
    notes = {
        name: note
        for name, mask in zip(names, masks, strict=True)
        if (note := few_inside(w * mask, ensemble) if (w * mask).any() else missed)
    }
    return BasinPopulations(
        names,
        Estimate(inside, error[:-1]),
        Estimate(difference, spread),
        Estimate(float(p[-1]), float(error[-1])),
        effective,
        notes,
        temperature=ensemble.temperature,
    )


def _mask(ensemble: Frames, name: str, basin: ArrayLike | Callable[[mdtraj.Trajectory], np.ndarray]) -> np.ndarray:
    mask = np.asarray(basin(ensemble.to_mdtraj()) if callable(basin) else basin)
    if mask.shape != (ensemble.n,) or mask.dtype != bool:
        raise ValueError(
            f"Expected a boolean mask with shape ({ensemble.n},) for the basin {name!r}; got {mask.dtype} {mask.shape}."
        )
    return mask
