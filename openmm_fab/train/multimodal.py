"""Metrics of a flow, with and without annealing, on a target whose modes and normalisation are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..ais.annealing import AISSettings, anneal_to_target
from ..flow.base import Flow
from ..target import Multimodal
from ..tools.adaptive_batch import AdaptiveBatch
from ..weights import clipped, effective_sample_size, log_mean_exp

BLOCK = 2000  # samples in an estimate of log Z whose error is looked at, as in FAB's own tables
MODE_SHARE = 0.1  # of the density that is due at a mode, from which it counts as covered
LOST = -1e4  # stands for the log density of a sample that the flow cannot make


class Sampler(Protocol):
    """Interface of what is evaluated: a flow, or a sampler with a bound of its density."""

    def sample(self, n: int, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]: ...

    def log_prob(self, z: Tensor) -> Tensor: ...


@torch.no_grad()
def evaluate(
    sampler: Sampler, target: Multimodal, n: int, rng: torch.Generator, batch: int, *, modes: bool = True
) -> dict[str, float]:
    """Metrics from n samples of the sampler, n exact samples and the target's modes.

    Exact samples and modes do not count towards `target.evaluations`.

    Parameters
    ----------
    batch : int
        Points evaluated at once.
    modes : bool
        Ask the sampler about the modes' test set, too, however large.

    Returns
    -------
    dict
        ess, ess_clipped (shares; raw, and with the largest 1e-4 of the weights clipped), log_z, log_z_error (mean
        absolute error of log Z from blocks of 2,000 samples), modes_sampled (modes with a sample), mean_log_q (over
        exact samples), forward_kl, modes (with at least a tenth of the density that is due there), modes_log_q (mean
        over the modes' test set).
    """
    adaptive = AdaptiveBatch("Evaluation")
    drawn = [
        part
        for k in range(0, n, batch)
        for part in adaptive(lambda a, b: sampler.sample(b - a, rng), min(batch, n - k), rng)
    ]
    z, log_q = (torch.cat(part) for part in zip(*drawn, strict=True))
    log_p = torch.cat([target.log_prob(part) for part in z.split(batch)])
    figures = of_weights(log_p.double() - log_q.double(), target.log_z) | {"modes_sampled": target.modes_found(z)}
    log_q, log_p = _at(target.sample(n, rng).to(z), sampler, target, batch)
    figures |= {"mean_log_q": float(log_q.mean()), "forward_kl": float((log_p - target.log_z - log_q).mean())}
    if modes:
        log_q, log_p = _at(target.modes.to(z), sampler, target, batch)
        covered = log_q > log_p - target.log_z + math.log(MODE_SHARE)
        figures |= {"modes": int(covered.sum()), "modes_log_q": float(log_q.mean())}
    return figures


def evaluate_ais(
    flow: Flow, target: Multimodal, n: int, settings: AISSettings, rng: torch.Generator, batch: int
) -> dict[str, float]:
    """Metrics of n samples annealed to the target, as `evaluate` returns them, with names that end in _ais."""
    evaluations = target.evaluations
    points, log_w = anneal_to_target(flow, target, n, settings, rng=rng, batch=batch)
    target.evaluations = evaluations
    figures = of_weights(log_w, target.log_z) | {"modes_sampled": target.modes_found(points.z)}
    return {f"{name}_ais": value for name, value in figures.items()}


def of_weights(log_w: Tensor, exact: float) -> dict[str, float]:
    """ESS and log Z of log weights (n,) with a known log Z."""
    w = torch.where(torch.isfinite(log_w), log_w, -torch.inf).double().cpu().numpy()
    if np.isneginf(w).all():
        return {"ess": 0.0, "ess_clipped": 0.0, "log_z": -math.inf, "log_z_error": math.inf}
    blocks = w[: len(w) // BLOCK * BLOCK].reshape(-1, BLOCK) if len(w) >= BLOCK else w[None]
    errors = [abs(log_mean_exp(b) - exact) if np.isfinite(b).any() else math.inf for b in blocks]
    return {
        "ess": effective_sample_size(w) / len(w),
        "ess_clipped": effective_sample_size(clipped(w)) / len(w),
        "log_z": log_mean_exp(w),
        "log_z_error": float(np.mean(errors)),
    }


def _at(z: Tensor, sampler: Sampler, target: Multimodal, batch: int) -> tuple[Tensor, Tensor]:
    """log q and log p at z, float64."""

    def of(function: Callable[[Tensor], Tensor]) -> Tensor:
        found = [v for part in z.split(batch) for v in adaptive(lambda a, b: function(part[a:b]), len(part))]  # noqa: B023
        return torch.cat(found).double()

    adaptive = AdaptiveBatch("Evaluation")
    log_q, log_p = of(sampler.log_prob), of(target.log_prob)
    return log_q.nan_to_num(LOST, LOST, LOST), log_p
