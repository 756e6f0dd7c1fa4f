"""What training minimises."""

from __future__ import annotations

from torch import Tensor


def fab_buffer_loss(log_q: Tensor, log_q_old: Tensor, alpha: float, max_adjustment: float) -> tuple[Tensor, Tensor]:
    """FAB with the prioritised buffer (paper, eq. 9 and algorithm 1).

    Samples drawn in proportion to their weights towards p^alpha q_old^(1 - alpha) estimate the alpha-divergence's
    gradient as -E[c grad log q], where c = (q / q_old)^(1 - alpha) follows the flow since they were annealed.

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
