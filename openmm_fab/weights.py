"""Importance weights: effective sample size, tail diagnostics, normalising constant, resampling, when to trust them.

Log weights are unnormalised, in nats, a numpy array of shape (n,), in `effective_share` alone a tensor; sums are
accumulated in float64. A weight of zero (log weight -inf, an invalid structure) is an ordinary sample: it stays counted
in n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import logsumexp
from torch import Tensor

CLIP_FRACTION = 1e-4
KHAT_RELIABLE = 0.5  # below it the weights have a finite variance
KHAT_LIMIT = 0.7  # Vehtari et al.: beyond it, convergence is too slow to be of use
FEW = 100.0  # effective samples, below which errors are themselves uncertain
LOWEST = -15.0  # ln w - ln mean w, where histograms begin: lower weights would squeeze the tail that matters
ROUNDING = 1e-12  # of a sum of weights that sum to one
OUTSIDE_LIMIT = 0.01  # share of the weight beyond the range of a flow's splines, above which they are too narrow


@dataclass(frozen=True, repr=False)
class Estimate:
    """A value with its standard error; both may be arrays of one shape.

    Parameters
    ----------
    value : float or array
    error : float or array
        One standard error; nan where it cannot be known.
    """

    value: float | np.ndarray
    error: float | np.ndarray

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def __str__(self) -> str:
        if np.ndim(self.value):
            errors = np.asarray(self.error, dtype=np.float64)
            largest = np.nanmax(errors) if np.isfinite(errors).any() else np.nan
            return f"array of shape {np.shape(self.value)}, largest standard error {largest:.2g}"
        value, error = float(self.value), float(self.error)
        if not math.isfinite(value):
            return f"{value}"
        if not math.isfinite(error):
            return f"{value:.4g} ± ?"
        if error == 0.0:
            return f"{value:.6g} ± 0"
        digits = -math.floor(math.log10(error))
        # One digit of an error that starts with 1 or 2 is too coarse; show two of those.
        if error * 10.0**digits < 2.95:
            digits += 1
        shown = max(digits, 0)
        # + 0.0 turns -0.0 into 0.0.
        return f"{round(value, digits) + 0.0:.{shown}f} ± {round(error, digits):.{shown}f}"


@dataclass(frozen=True, repr=False)
class Average(Estimate):
    """A weighted average with its standard error, and whether the weights allow it.

    Parameters
    ----------
    note : str
        Why it is no result; empty where the weights can be used.
    """

    note: str = ""

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.note})" if self.note else super().__str__()


def z_score(a: Estimate, b: Estimate) -> float | np.ndarray:
    """(a - b) in units of their combined standard error; the two are taken as independent."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.subtract(a.value, b.value) / np.hypot(a.error, b.error)
    return z if np.ndim(z) else float(z)


def rule_of_three(effective: float) -> float:
    """Upper bound p = 3 / n, at 95 %, for the share of an outcome that none of n independent samples had: (1 - p)^n =
    0.05.

    At most 1. For an outcome that all samples had, 1 - p is a lower bound. Hanley and Lippman-Hand, JAMA 249, 1743
    (1983).
    """
    return min(1.0, 3.0 / effective) if effective > 0.0 else 1.0


def share_error(p: ArrayLike, error: ArrayLike, effective: float) -> np.ndarray:
    """Standard errors of shares p of the total weight; for shares of 0 and 1, which have no scatter, the rule-of-three
    bound of `effective` samples."""
    p = np.asarray(p, dtype=np.float64)
    return np.where((p <= 0.0) | (p >= 1.0 - ROUNDING), rule_of_three(effective), error)


def _checked(log_w: ArrayLike) -> np.ndarray:
    log_w = np.asarray(log_w, dtype=np.float64)
    if log_w.ndim != 1 or log_w.size == 0:
        raise ValueError(f"Expected log weights with shape (n,), n > 0; got {log_w.shape}.")
    if np.isnan(log_w).any() or (log_w == np.inf).any():
        bad = int((np.isnan(log_w) | (log_w == np.inf)).sum())
        raise ValueError(
            f"Expected finite log weights, or -inf for weight zero; got {bad} of {log_w.size} "
            "that are nan or +inf. Give structures with a non-finite energy the log weight -inf."
        )
    if (log_w == -np.inf).all():
        raise ValueError(f"Expected at least one weight above zero; all {log_w.size} log weights are -inf.")
    return log_w


def log_sum_exp(log_w: ArrayLike) -> float:
    """ln of the sum of the weights."""
    return float(logsumexp(_checked(log_w)))


def log_mean_exp(log_w: ArrayLike) -> float:
    """ln of the mean of the weights, zeros included."""
    log_w = _checked(log_w)
    return float(logsumexp(log_w) - np.log(log_w.size))


def normalized_weights(log_w: ArrayLike) -> np.ndarray:
    """Weights that sum to one, (n,) float64."""
    log_w = _checked(log_w)
    w = np.exp(log_w - log_w.max())
    return w / w.sum()


def effective_sample_size(log_w: ArrayLike) -> float:
    """Kish's effective number of samples, between 1 and n; of the raw weights, never clipped. See `kish`."""
    return kish(normalized_weights(log_w), total=1.0)


def kish(w: np.ndarray, total: ArrayLike | None = None) -> Any:
    """Kish's effective number of samples, (sum w)^2 / sum w^2, of weights that need not be normalised.

    Parameters
    ----------
    w : (n, ...)
        Weights, or sums of weights over blocks; each column has a number of its own.
    total : (...), optional
        sum w where it is known: 1 for normalised weights.

    Returns
    -------
    float or (...)
    """
    found = (w.sum(0) if total is None else np.asarray(total)) ** 2 / np.square(w).sum(0)
    return found if np.ndim(found) else float(found)


def clipped(log_w: ArrayLike, fraction: float = CLIP_FRACTION) -> np.ndarray:
    """Log weights with the largest ``int(fraction * n)`` lowered to the largest of the others.

    Figures from clipped weights are biased and look better: print them beside the raw ones, with the fraction.
    Nothing is clipped when ``fraction * n < 1``.
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"Expected 0 <= fraction < 1; got {fraction}.")
    log_w = _checked(log_w)
    count = int(fraction * log_w.size + 1e-9)
    if count == 0:
        return log_w.copy()
    return np.minimum(log_w, np.partition(log_w, -count - 1)[-count - 1])


def pareto_khat(log_w: ArrayLike, n: int | None = None) -> float:
    """Shape k of a generalised Pareto distribution fitted to the largest weights.

    Weights have a finite variance for k < 0.5 and a finite mean for k < 1. -inf for equal weights, which
    have no tail; inf where a handful of weights dwarfs all others; nan for fewer than 25 positive weights or
    a failed fit. Samples of weight zero say nothing about the tail and are left out. Vehtari, Simpson,
    Gelman, Yao, Gabry, "Pareto smoothed importance sampling", JMLR 25 (2024), arXiv 1507.02646.

    Parameters
    ----------
    log_w
    n : int, optional
        How many positive weights there are, where `log_w` holds only the largest, at least 3 sqrt(n) + 1 of them.
    """
    log_w = _checked(log_w)
    log_w = np.sort(log_w[log_w > -np.inf])
    n = log_w.size if n is None else n
    if log_w[-1] - log_w[0] < 1e-12:
        return -np.inf
    if n < 25:
        return np.nan
    tail = int(3.0 * np.sqrt(n)) if n > 225 else n // 5
    if log_w[-1] == log_w[-tail]:
        return -np.inf
    if n > log_w.size:  # the tail is what counts: of the rest only how many, such that a fifth of all is no less
        log_w = np.concatenate([np.full(5 * tail, log_w[0]), log_w])
    # The fit starts from the lower quartile of its tail. Where exp of that underflows beside the largest
    # weight it returns about 0, the best grade for the worst weights.
    if log_w[-1] - log_w[-tail + tail // 4] > 700.0:
        return np.inf
    with np.errstate(all="ignore"):
        khat = _fitted_khat(log_w, tail)
    return khat if np.isfinite(khat) else np.nan


def _fitted_khat(log_w: np.ndarray, tail: int) -> float:
    """k-hat by arviz-stats or, on Python 3.10, for which there is none, by the arviz before it."""
    try:
        from arviz_stats.base import array_stats
    except ImportError:
        try:
            import arviz
        except ImportError as error:
            raise ImportError("k-hat needs arviz-stats: pip install arviz-stats.") from error
        # reff is there for the tail's size: arviz rounds 3 sqrt(n / reff) up, arviz-stats down.
        return float(arviz.psislw(log_w, reff=9.0 * log_w.size / (tail - 0.5) ** 2)[1])
    # arviz-stats is made for log likelihoods and negates what it gets: +log_w would fit the smallest weights.
    return float(array_stats.psislw(-log_w, r_eff=9.0 * log_w.size / (tail + 0.5) ** 2)[1])


def log_mean_weight(log_w: ArrayLike, block: ArrayLike | None = None) -> Estimate:
    """ln of the mean weight, with the standard error of `log_ratio`; without blocks sd(w) / (mean(w) sqrt(n))."""
    log_w = _checked(log_w)
    return log_ratio(log_w, np.zeros_like(log_w), block)


def log_ratio(log_a: ArrayLike, log_b: ArrayLike, block: ArrayLike | None = None) -> Estimate:
    """ln(sum a / sum b) of two positive functions a, b on the same samples, with its standard error.

    The delta method over independent blocks: error^2 = B / (B - 1) sum_blocks (sum_block a_i / A - b_i / B)^2 with
    A and B the sums of a and of b; a bootstrap of blocks converges to it. nan for a single block.

    Parameters
    ----------
    log_a, log_b : (n,), nats
    block : (n,) int, optional
        Samples of the same label depend on each other; None: all are independent.
    """
    log_a, log_b = _checked(log_a), _checked(log_b)
    if log_a.shape != log_b.shape:
        raise ValueError(f"Expected as many values below as above; got {log_b.size} and {log_a.size}.")
    residual = normalized_weights(log_a) - normalized_weights(log_b)
    sums = block_sums(residual, block)
    n = len(sums)
    error = float(np.sqrt(np.square(sums).sum() * n / (n - 1))) if n > 1 else np.nan
    return Estimate(log_sum_exp(log_a) - log_sum_exp(log_b), error)


def block_sums(values: np.ndarray, block: ArrayLike | None = None) -> np.ndarray:
    """Sums (blocks, ...) of values (n, ...) over samples of the same label; without labels the values themselves."""
    if block is None:
        return values
    labels, label = np.unique(np.asarray(block), return_inverse=True)
    if label.shape != values.shape[:1]:
        raise ValueError(f"Expected one block label a sample, shape ({len(values)},); got {label.shape}.")
    sums = np.zeros((len(labels), *values.shape[1:]))
    np.add.at(sums, label, values)
    return sums


def weighted_mean(log_w: ArrayLike, values: ArrayLike) -> Estimate:
    """Self-normalised importance-sampling mean of independent samples, with its standard error.

    error^2 = sum_i W_i^2 (f_i - mean)^2 with normalised weights W: Owen, "Monte Carlo theory, methods
    and examples", eq. 9.9. Values of samples with weight zero are never looked at.

    Parameters
    ----------
    log_w : (n,)
    values : (n, ...)
        Of bool the mean is a share, see `share_error`.
    """
    w, share = normalized_weights(log_w), np.asarray(values).dtype == bool
    values = weighted_values(w, values)
    mean = np.tensordot(w, values, axes=1)
    error = np.sqrt(np.tensordot(np.square(w), np.square(values - mean), axes=1))
    error = share_error(mean, error, kish(w, total=1.0)) if share else error
    return Estimate(mean, error) if mean.ndim else Estimate(float(mean), float(error))


def weighted_values(w: np.ndarray, values: ArrayLike) -> np.ndarray:
    """Values (n, ...) in float64, those of samples of weight zero, which may be nan, set to zero.

    Raises
    ------
    ValueError
        If there are not as many values as weights (n,).
    """
    values = np.asarray(values, dtype=np.float64)
    if values.shape[:1] != w.shape:
        raise ValueError(f"Expected one value a sample, shape ({w.size}, ...); got {values.shape}.")
    positive = (w > 0.0).reshape((-1,) + (1,) * (values.ndim - 1))
    return np.where(positive, values, 0.0)


def systematic_resample(log_w: ArrayLike, n: int, rng: np.random.Generator) -> np.ndarray:
    """Indices (n,) of samples drawn in proportion to their weights, by systematic resampling, in ascending
    order.

    Sample i is drawn floor(n W_i) or ceil(n W_i) times. Douc, Cappé, Moulines, ISPA 2005, section 2.4.
    """
    if n < 1:
        raise ValueError(f"Expected n >= 1 samples to draw; got {n}.")
    w = normalized_weights(log_w)
    cumulative = np.cumsum(w)
    last = int(np.flatnonzero(w)[-1])
    # The sum may round to just below one: the last positive weight closes the interval.
    cumulative[last:] = 1.0
    return np.searchsorted(cumulative, (rng.random() + np.arange(n)) / n, side="right").clip(max=last)


def trusted(log_w: ArrayLike) -> bool:
    """Whether k-hat (at most 0.7) and the effective sample size (at least 100) allow these weights to be used."""
    khat = pareto_khat(log_w)
    return bool(khat <= KHAT_LIMIT and effective_sample_size(log_w) >= FEW)


def objection(ess: float, khat: float) -> str:
    """Why estimates made with weights of this effective sample size and k-hat are no result; empty if they are one."""
    return "" if khat <= KHAT_LIMIT and ess >= FEW else f"the weights cannot be used: {diagnosed(ess, khat)}"


def diagnosis(log_w: ArrayLike) -> str:
    """Verdict in words on estimates made with these weights, from their k-hat and effective sample size."""
    return diagnosed(effective_sample_size(log_w), pareto_khat(log_w))


def diagnosed(ess: float, khat: float) -> str:
    """Verdict in words for an effective sample size and a Pareto k-hat."""
    if khat == -np.inf:
        tail = "no tail: the largest weights are equal"
    elif np.isnan(khat):
        tail = "k-hat cannot be estimated: do not trust these weights"
    elif khat < KHAT_RELIABLE:
        tail = f"k-hat {khat:.2f}: reliable"
    elif khat <= KHAT_LIMIT:
        tail = f"k-hat {khat:.2f}: usable, errors are underrated"
    else:
        tail = f"k-hat {khat:.2f}: do not trust these weights"
    return tail + (f"; effective sample size {ess:.0f}: too few, draw more samples" if ess < FEW else "")


def tail_in_words(khat: float) -> str:
    """ "k-hat 0.28", or "no tail" where the largest weights are equal."""
    return "no tail" if khat == -np.inf else f"k-hat {khat:.2f}"


def relative_free_energy(probability: np.ndarray) -> np.ndarray:
    """-ln p in kT above its minimum, of probabilities of any shape; inf where p is zero."""
    with np.errstate(divide="ignore"):
        # + 0.0 turns the minimum's -0.0 into 0.0.
        return -np.log(probability / probability.max()) + 0.0


def count_blocks(n: int, block: ArrayLike | None = None) -> int:
    """Number of independent samples: the distinct labels in block (n,), or n without labels."""
    return n if block is None else len(np.unique(np.asarray(block)))


def histogram(log_w: ArrayLike, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Histograms of ln w - ln mean w over the samples of positive weight; None where those weights are all equal.

    Parameters
    ----------
    log_w : (n,)
    bins : int

    Returns
    -------
    edges : (bins + 1,)
        From the smallest weight, but no lower than exp(`LOWEST`) of the mean: the first bin holds all below.
    samples : (bins,)
        Shares of the samples.
    weight : (bins,)
        Shares of the weight.
    """
    w = normalized_weights(log_w)
    log_w = _checked(log_w)
    has = log_w > -np.inf
    centred = log_w[has] - log_mean_exp(log_w)
    if np.ptp(centred) == 0.0:
        return None
    edges = np.linspace(max(centred.min(), LOWEST), centred.max(), bins + 1)
    index = np.clip(np.searchsorted(edges, centred, side="right") - 1, 0, bins - 1)
    samples, weight = (
        np.bincount(index, weights=part, minlength=bins) for part in (np.full(len(index), 1.0 / len(index)), w[has])
    )
    return edges, samples, weight


def trusted_power(log_w: Tensor, share: float, log_drawn: Tensor | None = None) -> tuple[Tensor, float]:
    """Normalised weights w^lam (n,) float64, and lam: the largest in (0, 1] that leaves this share of the samples
    effective.

    `log_w` (n,): -inf where the weight is zero. Where so many have none that no lam will do, those that have one count
    alike, and lam is 0. `log_drawn` (n,): log weights towards the density that w counts from, where samples were not
    drawn from it; then weights are those times w^lam.
    """
    log_w = log_w.double()
    inside = torch.isfinite(log_w)
    start = torch.zeros_like(log_w) if log_drawn is None else log_drawn.double()

    def powered(lam: float) -> Tensor:
        return torch.where(inside, start + lam * log_w, -torch.inf).softmax(0).nan_to_num(0.0)

    def enough(lam: float) -> bool:
        return float(powered(lam).square().sum()) * len(log_w) * share <= 1

    if enough(1.0):
        return powered(1.0), 1.0
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if enough(middle) else (low, middle)
    return powered(low), low


def effective_share(log_w: Tensor) -> float:
    """Kish effective sample size of a tensor of log weights (n,), as a share of n.

    What is not finite has no weight; 0 if no sample has any.
    """
    log_w = torch.where(torch.isfinite(log_w), log_w, -torch.inf)
    share = float((2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()) / len(log_w)
    return 0.0 if math.isnan(share) else share
