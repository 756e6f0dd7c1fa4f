"""Structures with weights, of a flow or of MD, and their statistics: what every estimate here is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import TypeVar

import mdtraj
import numpy as np
from numpy.typing import ArrayLike

from .. import weights as _weights
from ..molecule.chemistry import find_pattern, molecule_of
from ..molecule.torsions import slow_torsions
from ..molecule.units import GAS_CONSTANT
from .estimators import FreeEnergy, exponential_average

F = TypeVar("F", bound="Frames")


@dataclass(frozen=True, eq=False)
class Frames:
    """Weighted structures of one molecule at one temperature.

    Parameters
    ----------
    x : (n, atoms, 3), nm
    u : (n,)
        True (never regularised) reduced energies U/kT; nan where they were not evaluated.
    log_w : (n,), nats
        Unnormalised log weights: zeros for MD, -inf for invalid structures, which stay counted.
    topology : mdtraj.Topology
    temperature : float, K
    block : (n,) int, optional
        Frames with the same label depend on each other, frames with different labels do not (time blocks or
        walkers of MD). None: every frame is independent.
    name : str
    invalid : int
        How many frames have no finite energy (and weight zero).
    log_q : (n,), nats, optional
        Log density of the flow that drew the frames.
    """

    x: np.ndarray
    u: np.ndarray
    log_w: np.ndarray
    topology: mdtraj.Topology
    temperature: float
    _: KW_ONLY
    block: np.ndarray | None = None
    name: str = "ensemble"
    invalid: int = 0
    log_q: np.ndarray | None = None

    def __post_init__(self) -> None:
        x = np.asarray(self.x)
        if x.dtype not in (np.float32, np.float64):
            x = x.astype(np.float64)
        if x.ndim != 3 or x.shape[1:] != (self.topology.n_atoms, 3):
            raise ValueError(f"Expected x with shape (n, {self.topology.n_atoms}, 3) in nm; got {x.shape}.")
        if not float(self.temperature) > 0.0:
            raise ValueError(f"Expected a temperature above 0 K; got {self.temperature}.")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "temperature", float(self.temperature))
        for key, dtype in (
            ("u", np.float64),
            ("log_w", np.float64),
            ("log_q", np.float64),
            ("block", np.int64),
        ):
            value = getattr(self, key)
            if value is None and key in ("log_q", "block"):
                continue
            value = np.asarray(value, dtype=dtype)
            if value.shape != (len(x),):
                raise ValueError(f"Expected {key} with shape ({len(x)},), one a frame; got {value.shape}.")
            object.__setattr__(self, key, value)

    # What the weights say

    @property
    def n(self) -> int:
        """Number of frames, invalid ones included."""
        return len(self.x)

    @property
    def n_frames(self) -> int:
        """`n`, by mdtraj's name."""
        return self.n

    @property
    def xyz(self) -> np.ndarray:
        """`x` (n, atoms, 3), nm, by mdtraj's name."""
        return self.x

    @property
    def kT(self) -> float:
        """Thermal energy, kJ/mol, with OpenMM's gas constant."""
        return GAS_CONSTANT * self.temperature

    @property
    def weights(self) -> np.ndarray:
        """Normalised weights (n,), which sum to one."""
        return _weights.normalized_weights(self.log_w)

    @property
    def ess(self) -> float:
        """Kish's effective sample size of the raw weights; for MD it is n, since correlation in time does not enter."""
        return _weights.effective_sample_size(self.log_w)

    @property
    def independent(self) -> float:
        """Upper bound on the number of independent samples: `ess`, or the number of blocks if smaller."""
        return min(self.ess, _weights.count_blocks(self.n, self.block))

    @property
    def ess_fraction(self) -> float:
        """Effective sample size as a share of the number of frames."""
        return self.ess / self.n

    @property
    def ess_clipped(self) -> float:
        """Effective sample size with the largest 1e-4 of the weights clipped; never smaller than `ess`, and not to
        be shown alone."""
        return _weights.effective_sample_size(_weights.clipped(self.log_w))

    @property
    def khat(self) -> float:
        """Pareto k-hat of the weights' tail: below 0.5 reliable, above 0.7 not to be trusted; -inf for equal
        weights."""
        return _weights.pareto_khat(self.log_w)

    @property
    def log_z(self) -> FreeEnergy:
        """log Z by importance sampling: logarithm of the mean weight of a flow's samples, zeros included.

        Blind to a basin that the flow never visits; `log_z_bar` sees it where MD does. ValueError where the weights
        have no absolute level: those of MD, and those of a flow's samples that are not exp(-u) / q.
        """
        self.check_weights_of_flow()
        found = exponential_average(self.log_w, block=self.block, method="importance sampling")
        return replace(found, unit="nats")

    def check_weights_of_flow(self) -> None:
        """Raise a ValueError unless the weights have a level that gives Z: those of samples of a flow are exp(-u) / q.

        Annealed samples have no log q; their weights have to differ, and no frame may depend on another.
        """
        weighted = np.isfinite(self.log_w)
        if self.log_q is None:
            if self.block is not None or len(np.unique(self.log_w[weighted])) == 1:
                raise ValueError(
                    "Expected an ensemble drawn by a flow, whose weights are exp(-u) / q; got one without log_q. "
                    "Weights of MD have no absolute level: use generator.sample(n), or log_z_bar(generator, ensemble)."
                )
        elif not np.allclose(self.log_w[weighted], (-self.u - self.log_q)[weighted], atol=1e-3):
            raise ValueError(
                "Expected a flow's samples with their weights exp(-u) / q; got others, whose level says nothing of Z. "
                "Use what generator.sample(n) gave."
            )

    # Estimates

    def bootstrap(
        self, statistic: Callable[[np.ndarray], np.ndarray], n_bootstrap: int = 200, *, seed: int = 0
    ) -> np.ndarray:
        """Bootstrap replicas of a statistic, over frames or, where the ensemble has blocks, over blocks.

        Parameters
        ----------
        statistic : callable
            Takes normalised weights (n,), which carry the resampling, and returns an array or a number.

        Returns
        -------
        (n_bootstrap, ...)
            Replicas that drew no frame of positive weight are nan.
        """
        rng = np.random.default_rng(seed)
        blocks, label = (self.n, None) if self.block is None else self._blocks()
        w, replicas, empty = self.weights, [], []
        for i in range(n_bootstrap):
            counts = np.bincount(rng.integers(blocks, size=blocks), minlength=blocks)
            drawn = w * (counts if label is None else counts[label])
            if (total := drawn.sum()) == 0.0:
                empty.append(i)
                drawn, total = w, 1.0
            replicas.append(statistic(drawn / total))
        result = np.array(replicas, dtype=np.float64)
        result[empty] = np.nan
        return result

    def standard_error(self, replicas: np.ndarray) -> np.ndarray:
        """Standard error from bootstrap replicas: their standard deviation times sqrt(B / (B - 1)) for B blocks; nan
        for one.

        The factor undoes the bootstrap's bias, which matters for a handful of walkers.
        """
        blocks = self.n if self.block is None else self._blocks()[0]
        if blocks < 2:
            return np.full(replicas.shape[1:], np.nan)
        return np.nanstd(replicas, axis=0, ddof=1) * np.sqrt(blocks / (blocks - 1))

    def share_error(self, p: ArrayLike, error: ArrayLike) -> np.ndarray:
        """Standard errors of shares p of the weight, any shape; for shares of 0 and 1 the bound by
        `weights.rule_of_three` with as many samples as are `independent`."""
        return _weights.share_error(p, error, self.independent)

    def _blocks(self) -> tuple[int, np.ndarray]:
        """How many blocks there are, and the number of each frame's, (n,)."""
        labels, label = np.unique(np.asarray(self.block), return_inverse=True)
        return len(labels), label

    # Structures

    def torsions(self, which: str | ArrayLike | None = None) -> np.ndarray:
        """Torsion angles (n, torsions), rad in (-pi, pi]; those of `torsion_names` unless others are asked for.

        Parameters
        ----------
        which : "phi", "psi", one of `torsion_names`, a SMARTS pattern, or atom indices (i, j, k, l) or (torsions, 4)
            A pattern of four atoms, `"[H][C][C][H]"`, or with those to take marked 1 to 4, gives every torsion that it
            matches; it needs RDKit, and a molecule whose bonds have orders (`MolecularSystem.from_sdf`, `from_smiles`).
        """
        if which is None:
            which = list(slow_torsions(self.topology).values())
            if not which:
                return np.zeros((self.n, 0))
        if isinstance(which, str) and which in ("phi", "psi"):
            compute = mdtraj.compute_phi if which == "phi" else mdtraj.compute_psi
            return compute(self.to_mdtraj(), periodic=False)[1].astype(np.float64)
        if isinstance(which, str):
            which = self._quadruples(which)
        quadruples = np.atleast_2d(np.asarray(which, dtype=int))
        return mdtraj.compute_dihedrals(self.to_mdtraj(), quadruples, periodic=False).astype(np.float64)

    def _quadruples(self, which: str) -> ArrayLike:
        """Atoms (torsions, 4) of a torsion by its name, or of all that a SMARTS pattern matches."""
        named = slow_torsions(self.topology)
        if which in named:
            return named[which]
        try:
            return find_pattern(molecule_of(self.topology), which, 4)
        except ValueError as error:
            expected = f'"phi", "psi", one of {list(named)}, four atom indices or a SMARTS pattern'
            raise ValueError(f"Expected {expected}; got {which!r}. As a pattern: {error}") from error

    def phi(self) -> np.ndarray:
        """Backbone phi angles (n, residues that have one), rad."""
        return self.torsions("phi")

    def psi(self) -> np.ndarray:
        """Backbone psi angles (n, residues that have one), rad."""
        return self.torsions("psi")

    def resample(self: F, n: int, seed: int = 0) -> F:
        """Draw an equally weighted ensemble of n frames by weight; copies of one frame share a block label.

        They are no samples of a flow any more, and `log_q` is None.
        """
        index = _weights.systematic_resample(self.log_w, n, np.random.default_rng(seed))
        block = index if self.block is None else self.block[index]
        return replace(self[index], log_w=np.zeros(n), log_q=None, block=block, invalid=0)

    def to_mdtraj(self) -> mdtraj.Trajectory:
        """Trajectory of all frames, weights ignored; ``ensemble.resample(n).to_mdtraj()`` is unbiased."""
        return mdtraj.Trajectory(self.x, self.topology)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self: F, index: int | slice | np.ndarray) -> F:
        if isinstance(index, (int, np.integer)):
            # Not slice(-1, 0) for the last frame, and IndexError rather than an empty ensemble.
            index = np.arange(self.n)[[index]]
        pick = {
            key: value[index]
            for key in ("x", "u", "log_w", "block", "log_q")
            if (value := getattr(self, key)) is not None
        }
        return replace(self, **pick, invalid=int((pick["log_w"] == -np.inf).sum()) if self.invalid else 0)
