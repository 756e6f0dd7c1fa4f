"""The Metropolised independence sampler: proposals z' are drawn from q regardless of the chain's state z, for the
density p.

With w = p / q a proposal is accepted with probability min(1, w(z') / w(z)). Hastings, Biometrika 57, 97 (1970); Liu,
Stat. Comput. 6, 113 (1996).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def log_acceptance(log_w: Tensor, log_w_proposed: Tensor) -> Tensor:
    """Logarithm (n,) of the acceptance probability of proposals, float64; -inf where it is zero.

    Parameters
    ----------
    log_w : (n,) tensor, nats
        ln p - ln q of the chains' states. -inf, of no density: any proposal that has some is accepted. +inf, a place
        that q never proposes: none is.
    log_w_proposed : (n,) tensor, nats
        Of the proposals; one that is not finite is never accepted.
    """
    log_ratio = log_w_proposed.double() - log_w.double()
    log_ratio = torch.where(torch.isfinite(log_w_proposed), log_ratio, -torch.inf)
    return torch.where(log_ratio.isnan(), -torch.inf, log_ratio.clamp(max=0.0))


def run_chain(log_w: float, log_w_proposed: np.ndarray, log_uniform: np.ndarray) -> tuple[int, int]:
    """Run one chain through n proposals, one after the other.

    Parameters
    ----------
    log_w : float, nats
        Of the state that the chain starts from.
    log_w_proposed : (n,), nats
    log_uniform : (n,)
        ln of uniform random numbers between 0 and 1.

    Returns
    -------
    tuple of int
        Index of the proposal where the chain ends, -1 for the start; and how many were accepted.
    """
    proposed = torch.as_tensor(log_w_proposed, dtype=torch.float64)
    here, at, accepted = torch.tensor(log_w, dtype=torch.float64), -1, 0
    while True:  # from one accepted proposal to the next
        left = log_uniform[at + 1 :] < log_acceptance(here, proposed[at + 1 :]).numpy()
        if not left.any():
            return at, accepted
        at += 1 + int(left.argmax())
        here, accepted = proposed[at], accepted + 1
