"""What training minimises."""

from __future__ import annotations

from torch import Tensor


def fab_buffer_loss(log_q: Tensor, log_q_old: Tensor, alpha: float, max_adjustment: float) -> tuple[Tensor, Tensor]:
    """FAB with the prioritised buffer (FAB paper, algorithm 1).

    The alpha-divergence's loss is L = integral p^alpha q^(1 - alpha), here times a constant, so
    grad L = (1 - alpha) integral p^alpha q^(1 - alpha) grad log q.  Samples drawn in proportion to their weights
    towards p^alpha q_old^(1 - alpha) estimate its direction as -E[c grad log q], where c = (q / q_old)^(1 - alpha)
    follows the flow since they were annealed.

    Parameters
    ----------
    log_q, log_q_old : Tensor, shape (batch,)
        Now, with gradient; and when the weights were last right.
    alpha : float
    max_adjustment : float
        c is cut here, for a stable gradient.

    Returns
    -------
    loss : Tensor, scalar
    log_adjustment : Tensor, shape (batch,)
        log c, uncut, to correct the buffer with.
    """
    log_adjustment = (1.0 - alpha) * (log_q.detach() - log_q_old)
    loss = -(log_adjustment.exp().clamp(max=max_adjustment) * log_q).mean()
    return loss, log_adjustment
