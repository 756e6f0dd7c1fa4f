"""Path gradients: estimates of the alpha-divergence's gradient with less noise, from the target's gradient.

A sample z of pi ~ p^alpha q^(1 - alpha) corresponds to x = T^-1(z) in the flow's base, where the weight w = p / q is
w(x) = p(T(x)) |dT/dx| / base(x).  Reparametrising twice (Tucker et al. 2019, arXiv 1810.04152; for maximum likelihood
Vaitl et al. 2022, arXiv 2207.08219) gives

    -E_pi[grad_theta log q(z)]  =  alpha E_pi[grad_x log w(x) . grad_theta x]  -  E_pi[grad_theta log base(x)]

with z held fixed, and in the last term x.  Both sides are the loss's gradient.  The left side has noise however good
the flow is; the right side has none once q = p. But samples of q where p is nearly zero, and weights of separated
modes, enter the right side only where p falls off, rarely and then strongly.  So a share of each is used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..flow.base import Invertible
from ..flow.coupling import CouplingFlow

CUT = 1.0  # of a pull, in units of sqrt(dim), about which a normal base's own gradient has


def has_base(flow: object) -> bool:
    """Whether a flow has the methods that path gradients need."""
    return all(hasattr(flow, name) for name in ("to_base", "from_base", "base_log_prob"))


def log_probs(flow: Invertible, z: Tensor, grad_log_p: Tensor, alpha: float, share: float) -> Tensor:
    """log q(z) twice (batch, 2): with a gradient of which `share` is the path gradient, and with its own gradient.

    Parameters
    ----------
    flow : Invertible
    z : Tensor, shape (batch, dim)
        Samples of p^alpha q^(1 - alpha), or weighted so; the gradient is meant for the mean of -log q over them.
    grad_log_p : Tensor, shape (batch, dim)
        Gradient of log p at z.
    alpha : float
    share : float
    """

    def of(both: Tensor) -> list[Tensor]:
        z, grad_log_p = both.chunk(2, 1)
        x, log_det = flow.to_base(z)
        log_q = flow.base_log_prob(x) + log_det
        pull = grad_log_weight(flow, x.detach(), grad_log_p)
        path = flow.base_log_prob(x.detach()) - alpha * (pull * x).sum(1)  # its gradient stands for that of log q
        mixed = (1 - share) * log_q + share * (path - (path - log_q).detach())
        return [torch.stack([mixed, log_q], 1)]

    both = torch.cat([z, grad_log_p], 1)
    if isinstance(flow, CouplingFlow):
        return flow.replayed(("path", alpha, share), of, both, flow.trained())[0]
    return of(both)[0]


@torch.enable_grad()
def grad_log_weight(flow: Invertible, x: Tensor, grad_log_p: Tensor) -> Tensor:
    """Gradient of log w (batch, dim) at base points x, where log p has the given gradient at z = T(x); its norm is cut.

    Its norm is cut at CUT sqrt(dim): a few samples in steep places would outweigh all others.
    """
    x = x.detach().requires_grad_()
    z, log_det = flow.from_base(x, frozen=True)
    log_w = (z * grad_log_p).sum() + (log_det - flow.base_log_prob(x)).sum()
    (pull,) = torch.autograd.grad(log_w, x)
    limit = CUT * math.sqrt(x.shape[1])
    return pull * (limit / pull.norm(dim=1, keepdim=True).clamp(min=limit))
