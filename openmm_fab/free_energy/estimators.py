"""Free-energy estimators on arrays: exponential averaging, BAR and MBAR, each with an error and a diagnosis.

Reduced units throughout: works and free energies in kT. `docs/free_energy.md` has the formulas and their sources.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from .. import weights as _weights
from ..tools.install import install
from ..tools.quiet import quiet
from ..weights import Estimate, log_ratio
from .diagnosis import OVERLAP_LIMIT, about_blocks, about_states, one_sided, two_sides
from .units import InUnits

CONSTANT = 1e-9  # kT: of works that differ by less pymbar, which divides by differences of theirs, may find nothing
INFINITE = 1e4  # kT above the largest finite work: exp(-INFINITE) is 0 in float64, and pymbar can subtract it


@dataclass(frozen=True, repr=False)
class FreeEnergy(InUnits, Estimate):
    """Free-energy difference in kT, or log Z in nats, with its error and a diagnosis of its reliability.

    Parameters
    ----------
    method : str
    diagnosis : str
        What the estimator's own checks say, in words.
    trusted : bool
        False if a check failed: then value and error can both be far off.
    ess, khat, overlap : float
        Effective number of samples and Pareto k-hat of one-sided estimators (the worse side of two);
        overlap between 0 and 1 of two-sided ones. nan where there is none.
    unit : str
        "kT" unless `in_units` changed it; "nats" of log Z.
    temperature : float, K
        That kT is of; nan where it is not known.
    """

    value: float
    error: float
    method: str = ""
    diagnosis: str = ""
    trusted: bool = True
    ess: float = np.nan
    khat: float = np.nan
    overlap: float = np.nan
    unit: str = "kT"
    temperature: float = np.nan

    def __str__(self) -> str:
        words = "; ".join(part for part in (self.method, self.diagnosis) if part)
        return (
            f"{super().__str__()} {self.unit}"
            + ("" if self.trusted else " NOT TRUSTED")
            + (f" ({words})" if words else "")
        )

    def __sub__(self, other: FreeEnergy) -> FreeEnergy:
        """Difference of two independent results, of one unit."""
        if self.unit != other.unit:
            raise ValueError(f"Expected two free energies in one unit; got {self.unit} and {other.unit}.")
        return FreeEnergy(
            self.value - other.value,
            float(np.hypot(self.error, other.error)),
            self.method if self.method == other.method else f"{self.method} - {other.method}",
            f"first: {self.diagnosis}; second: {other.diagnosis}",
            self.trusted and other.trusted,
            float(np.fmin(self.ess, other.ess)),
            float(np.fmax(self.khat, other.khat)),
            float(np.fmin(self.overlap, other.overlap)),
            self.unit,
            self.temperature,
        )

    def __neg__(self) -> FreeEnergy:
        return replace(self, value=-self.value)


@dataclass(frozen=True, eq=False, repr=False)
class StateFreeEnergies(Estimate):
    """Free energies of K states from MBAR, with errors and overlaps.

    Parameters
    ----------
    value, error : (K,), kT
        f_k - f_0.
    covariance : (K, K)
        Of f_k - f_0; row and column 0 are zero.
    overlap : (K, K)
        O_ij: share of state i's samples that could have come from state j.
    ess : (K,)
        Kish's effective number of all samples reweighted to each state.
    diagnosis : str
    trusted : bool
    """

    value: np.ndarray
    error: np.ndarray
    covariance: np.ndarray
    overlap: np.ndarray
    ess: np.ndarray
    diagnosis: str
    trusted: bool

    def difference(self, i: int, j: int) -> FreeEnergy:
        """Free-energy difference f_j - f_i, kT."""
        c = self.covariance
        with np.errstate(invalid="ignore"):
            error = float(np.sqrt(c[i, i] + c[j, j] - 2.0 * c[i, j]))
        overlap = float(self.overlap[i, j] + self.overlap[j, i]) if i != j else 1.0
        ess = float(min(self.ess[i], self.ess[j]))
        return FreeEnergy(
            float(self.value[j] - self.value[i]), error, "MBAR", self.diagnosis, self.trusted, ess, np.nan, overlap
        )

    def __repr__(self) -> str:
        k = len(self.value) - 1
        last = Estimate(float(self.value[k]), float(self.error[k]))
        trusted = "" if self.trusted else ", NOT TRUSTED"
        return f"StateFreeEnergies({k + 1} states, f_{k} - f_0 = {last} kT{trusted}; print it for all)"

    def __str__(self) -> str:
        rows = [
            f"f_{k} - f_0 = {Estimate(f, e)} kT" for k, (f, e) in enumerate(zip(self.value, self.error, strict=True))
        ]
        return "\n".join([*rows, ("" if self.trusted else "NOT TRUSTED: ") + self.diagnosis])


def exponential_average(
    log_a: ArrayLike, log_b: ArrayLike | None = None, *, block: ArrayLike | None = None, method: str = "EXP"
) -> FreeEnergy:
    """Exponential averaging (Zwanzig 1954): ln(sum a / sum b) over samples, b = 1 by default.

    With a = exp(-w) it is -dF; with samples from q and a = exp(-u) / q it is log Z.

    Parameters
    ----------
    log_a, log_b : (n,), nats
        -inf for weight zero.
    block : (n,) int, optional
        Samples of the same label depend on each other.
    """
    log_a = np.asarray(log_a, dtype=np.float64)
    found = log_ratio(log_a, np.zeros_like(log_a) if log_b is None else log_b, block)
    words, trusted, ess, khat = one_sided(log_a, block)
    if log_b is not None:
        below, fine, ess_b, khat_b = one_sided(np.asarray(log_b, dtype=np.float64), block)
        if not fine:
            words += f"; of the weights that it starts from: {below}"
        trusted, ess, khat = trusted and fine, min(ess, ess_b), float(np.fmax(khat, khat_b))
    return FreeEnergy(float(found.value), float(found.error), method, words, trusted, ess, khat)


def bar_estimate(
    w_f: ArrayLike,
    w_r: ArrayLike,
    *,
    block_f: ArrayLike | None = None,
    block_r: ArrayLike | None = None,
    method: str = "BAR",
    names: tuple[str, str] = ("the first", "the second"),
) -> FreeEnergy:
    """Free-energy difference F_1 - F_0 by Bennett's acceptance ratio, solved by pymbar.

    Parameters
    ----------
    w_f : (n_f,), kT
        u_1 - u_0 of samples of state 0; +inf where state 1 has no density.
    w_r : (n_r,), kT
        u_0 - u_1 of samples of state 1.
    block_f, block_r : int, optional
        Samples of the same label depend on each other. Without any, the error is pymbar's own.
    names : pair of str
        What the diagnosis calls the two sets of samples.
    """
    import_pymbar()
    from pymbar.other_estimators import bar
    from pymbar.utils import BoundsError, ConvergenceError, ParameterError

    w_f, w_r = _works(w_f), _works(w_r)
    constant = np.concatenate([w_f, -w_r])
    try:
        with _solving():
            if np.ptp(constant) < CONSTANT:
                value = float(constant.mean())
            else:
                value = float(bar(w_f, w_r, compute_uncertainty=False)["Delta_f"])
    except (BoundsError, ConvergenceError, ParameterError, FloatingPointError) as failure:
        return FreeEnergy(
            np.nan,
            np.nan,
            method,
            f"no overlap: pymbar found no solution ({str(failure).splitlines()[0]})",
            False,
            overlap=0.0,
        )
    n_f, n_r = len(w_f), len(w_r)
    shift = np.log(n_f / n_r) - value
    # Probability of each sample, given only where it lies, to be one of state 1's.
    in_1 = expit(-np.concatenate([w_f + shift, -w_r + shift]))
    both = 1.0 / n_f + 1.0 / n_r
    overlap = float((in_1 * (1.0 - in_1)).sum() * both)
    # pymbar's own formula, which there overflows beside works beyond 700 kT: high-energy samples of a flow.
    error = float(np.sqrt(both * max(1.0 / overlap - 1.0, 0.0))) if overlap > 0.0 else np.nan
    if np.isnan(error):
        value = np.nan  # pymbar guesses 0
    labels = (block_f, block_r)
    if any(label is not None for label in labels) and np.isfinite(error):
        weights = np.stack([(1.0 - in_1) / n_f, in_1 / n_r], axis=1)
        error = float(np.sqrt(_block_covariance(weights, np.array([n_f, n_r]), labels)[1, 1]))
    notes, trusted = [f"overlap {overlap:.2f}"], bool(np.isfinite(error))
    if overlap < OVERLAP_LIMIT:
        notes[0] = f"overlap {overlap:.2g}: too little, neither value nor error can be trusted"
        trusted = False
    words, agree = two_sides(w_f, w_r, labels, value, names)
    notes += words + about_blocks(labels)
    return FreeEnergy(value, error, method, "; ".join(notes), trusted and agree, overlap=overlap)


def mbar_estimate(
    u_kn: ArrayLike, n_k: ArrayLike, *, blocks: Sequence[ArrayLike | None] | None = None
) -> StateFreeEnergies:
    """Free energies of K states by the multistate Bennett acceptance ratio, solved by pymbar.

    Parameters
    ----------
    u_kn : (K, n), kT
        Reduced energy of every sample in every state, samples in the order of the states that drew them; +inf where
        there is no density.
    n_k : (K,) int
        Samples of each state; may be 0.
    blocks : K arrays of labels, or None, optional
        Samples of the same label depend on each other. Where all are None, the errors are pymbar's own.
    """
    import_pymbar()
    from pymbar import MBAR
    from pymbar.utils import ConvergenceError, ParameterError

    u_kn, n_k = np.array(u_kn, dtype=np.float64), np.asarray(n_k, dtype=np.int64)
    blocks = [None] * len(n_k) if blocks is None else list(blocks)
    if u_kn.ndim != 2 or u_kn.shape != (len(n_k), n_k.sum()) or n_k.min(initial=0) < 0 or len(blocks) != len(n_k):
        raise ValueError(
            f"Expected u_kn with shape (states, sum of n_k) and one block array a state; got {u_kn.shape}, "
            f"n_k of {len(n_k)} states with the sum {n_k.sum()}, and {len(blocks)} blocks."
        )
    if n_k[0] == 0:
        raise ValueError("Expected samples of state 0, from which differences are taken; got none. Reorder the states.")
    if np.isinf(u_kn).all(0).any():
        raise ValueError("Expected every sample to have density in some state; got some that have none anywhere.")
    u_kn, offset = _levelled(np.stack([_works(row) for row in u_kn]))
    try:
        with _solving():
            solved = MBAR(u_kn, n_k)
            found = solved.compute_free_energy_differences()
            w = solved.weights()
    except (ConvergenceError, ParameterError, FloatingPointError, np.linalg.LinAlgError) as failure:
        k = len(n_k)
        nan = np.full((k, k), np.nan)
        return StateFreeEnergies(
            nan[0],
            nan[0],
            nan,
            nan,
            nan[0],
            f"no overlap: pymbar found no solution ({str(failure).splitlines()[0]})",
            False,
        )
    value, errors = found["Delta_f"][0] + offset - offset[0], found["dDelta_f"]
    overlap = n_k * (w.T @ w)
    if any(block is not None for block in blocks):
        covariance = _block_covariance(w, n_k, blocks)
    else:
        # var(f_i - f_j) is all that pymbar gives: cov = (v_i0 + v_j0 - v_ij) / 2.
        v = np.square(errors)
        covariance = 0.5 * (v[0][:, None] + v[0][None, :] - v)
    with np.errstate(invalid="ignore"):
        error = np.sqrt(np.diag(covariance))
    ess = np.asarray(_weights.kish(w, total=1.0))
    words, trusted = about_states(overlap, ess, n_k)
    trusted = trusted and bool(np.isfinite(error).all())
    return StateFreeEnergies(value, error, covariance, overlap, ess, "; ".join(words + about_blocks(blocks)), trusted)


def import_pymbar() -> Any:
    """Import pymbar; the ImportError names what to install."""
    try:
        with quiet("pymbar"):
            import pymbar
    except ImportError as error:
        raise ImportError(f"BAR and MBAR need pymbar: {install('md')}, or pip install pymbar.") from error
    return pymbar


# --- inside ---


@contextmanager
def _solving() -> Iterator[None]:
    """No warnings of pymbar's, which the diagnosis repeats; numpy's error state, which pymbar changes, is put back."""
    with quiet("pymbar", level=logging.CRITICAL), np.errstate(all="ignore"):
        yield


def _works(w: ArrayLike) -> np.ndarray:
    """Works (n,) with infinite ones set so far up that their weight is exactly 0."""
    w = np.array(w, dtype=np.float64)
    if w.ndim != 1 or w.size == 0 or np.isnan(w).any() or (w == -np.inf).any():
        raise ValueError(f"Expected works with shape (n,), n > 0, none nan or -inf; got {w.shape}.")
    finite = np.isfinite(w)
    if not finite.any():
        raise ValueError(f"Expected at least one finite work; all {w.size} are infinite.")
    w[~finite] = w[finite].max() + INFINITE
    return w


def _levelled(u_kn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """u_kn with its lowest energy in each state, then for each sample, set to 0, and the states' shifts (K,).

    MBAR is invariant under both. What lies INFINITE above has no weight in float64 and stops the solver: a flow's worst
    samples have 1e10 kT.
    """
    offset = u_kn.min(1)
    u_kn = u_kn - offset[:, None]
    return np.minimum(u_kn - u_kn.min(0), INFINITE), offset


def _block_covariance(w: np.ndarray, n_k: np.ndarray, blocks: Sequence[ArrayLike | None]) -> np.ndarray:
    """Covariance (K, K) of f_k - f_0 from MBAR weights w (n, K), for samples that depend on each other within blocks.

    The estimating equations sum_n w_nk = 1 have the derivative 1 - O with respect to f, and noise that is a sum
    over independent blocks, each state's samples about their own mean (the "sandwich" of M-estimation: Huber 1967,
    Liang and Zeger 1986). For independent samples it is MBAR's own error.
    """
    k = len(n_k)
    noise = np.zeros((k, k))
    for part, block in zip(np.split(w, np.cumsum(n_k)[:-1]), blocks, strict=True):
        if len(part) == 0:
            continue
        sums = _weights.block_sums(part - part.mean(0), block)
        n = len(sums)
        noise += sums.T @ sums * (n / (n - 1) if n > 1 else np.nan)
    derivative = np.eye(k) - n_k * (w.T @ w)
    covariance = np.zeros((k, k))
    if not np.isfinite(noise).all():
        covariance[1:, 1:] = np.nan
        return covariance
    # f_0 is held; one equation then follows from the others.
    inverse = np.linalg.pinv(derivative[:, 1:], rcond=1e-12)
    covariance[1:, 1:] = inverse @ noise @ inverse.T
    return covariance
