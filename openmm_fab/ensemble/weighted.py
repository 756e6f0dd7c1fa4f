"""What functions of a weighted ensemble ask of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import mdtraj
import numpy as np
from numpy.typing import ArrayLike

from ..weights import Estimate


class Weighted(Protocol):
    """Structures of one molecule with weights: an `Ensemble`, seen by those of its functions that it calls itself."""

    @property
    def x(self) -> np.ndarray:
        """(n, atoms, 3), nm."""

    @property
    def topology(self) -> mdtraj.Topology:
        """Of the atoms."""

    @property
    def n(self) -> int:
        """Number of frames."""

    @property
    def weights(self) -> np.ndarray:
        """(n,), they sum to one."""

    @property
    def independent(self) -> float:
        """No more samples than this are independent."""

    def to_mdtraj(self) -> mdtraj.Trajectory:
        """All frames, weights ignored."""

    def torsions(self, which: str | ArrayLike) -> np.ndarray:
        """(n, torsions), rad."""

    def expectation(self, values: ArrayLike) -> Estimate:
        """Weighted mean of values (n, ...) with its error."""

    def bootstrap(self, statistic: Callable[[np.ndarray], np.ndarray], n_bootstrap: int, seed: int) -> np.ndarray:
        """Replicas of a statistic of weights."""

    def standard_error(self, replicas: np.ndarray) -> np.ndarray:
        """Of replicas."""

    def share_error(self, p: ArrayLike, error: ArrayLike) -> np.ndarray:
        """Errors of shares of the weight."""
