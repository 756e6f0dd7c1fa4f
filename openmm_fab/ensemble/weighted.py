"""What functions of a weighted ensemble ask of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import mdtraj
import numpy as np
from numpy.typing import ArrayLike

from ..weights import Estimate


class Weighted(Protocol):
    """Interface of weighted structures: the part of an `Ensemble` that its own functions need."""

    @property
    def x(self) -> np.ndarray:
        """Positions (n, atoms, 3), nm."""

    @property
    def topology(self) -> mdtraj.Topology:
        """Topology of the atoms."""

    @property
    def n(self) -> int:
        """Number of frames."""

    @property
    def log_w(self) -> np.ndarray:
        """Unnormalised log weights (n,), nats."""

    @property
    def weights(self) -> np.ndarray:
        """Normalised weights (n,), which sum to one."""

    @property
    def independent(self) -> float:
        """Upper bound on the number of independent samples."""

    def to_mdtraj(self) -> mdtraj.Trajectory:
        """Trajectory of all frames, weights ignored."""

    def torsions(self, which: str | ArrayLike) -> np.ndarray:
        """Torsion angles (n, torsions), rad."""

    def expectation(self, values: ArrayLike) -> Estimate:
        """Weighted mean of values (n, ...) with its error."""

    def bootstrap(self, statistic: Callable[[np.ndarray], np.ndarray], n_bootstrap: int, *, seed: int) -> np.ndarray:
        """Bootstrap replicas of a statistic of the weights."""

    def standard_error(self, replicas: np.ndarray) -> np.ndarray:
        """Standard error from bootstrap replicas."""

    def share_error(self, p: ArrayLike, error: ArrayLike) -> np.ndarray:
        """Standard errors of shares of the weight."""
