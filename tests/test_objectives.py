"""FAB's loss against the gradient of the alpha-divergence by quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from openmm_fab.objectives import fab_buffer_loss

X = torch.linspace(-14, 14, 400_001, dtype=torch.float64)


def _log_normal(x: Tensor, mean: Tensor | float, log_std: Tensor | float) -> Tensor:
    log_std = torch.as_tensor(log_std, dtype=torch.float64)
    return -0.5 * ((x - mean) * (-log_std).exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)


def _log_p(x: Tensor) -> Tensor:
    """Two unequal peaks, unnormalised."""
    return torch.logaddexp(_log_normal(x, 1.2, -0.5), _log_normal(x, -0.8, -0.9) - 1.0) + 0.7


def _quantiles(log_f: Tensor, n: int) -> Tensor:
    """n samples of the density f on the grid, as even as can be: no noise."""
    f = (log_f - log_f.max()).exp()
    cumulative = torch.cumsum(f, 0) / f.sum()
    return X[torch.searchsorted(cumulative, (torch.arange(n, dtype=torch.float64) + 0.5) / n)]


@pytest.mark.parametrize("alpha", [2.0, 1.5])
@pytest.mark.parametrize("moved", [0.0, 0.15])
def test_gradient_is_that_of_the_alpha_divergence(alpha, moved):
    """Samples of p^alpha q_old^(1 - alpha), a flow that has moved on: grad of int p^alpha q^(1 - alpha) / Z_old."""
    old = torch.tensor([0.1, 0.3], dtype=torch.float64)
    now = (old + moved * torch.tensor([1.0, -1.0])).requires_grad_()
    log_f_old = alpha * _log_p(X) + (1 - alpha) * _log_normal(X, *old)
    log_f = alpha * _log_p(X) + (1 - alpha) * _log_normal(X, *now)
    divergence = torch.trapezoid(log_f.exp(), X) / torch.trapezoid(log_f_old.exp(), X)
    (exact,) = torch.autograd.grad(divergence / (alpha - 1), now)

    x = _quantiles(log_f_old, 200_000)
    loss, _ = fab_buffer_loss(_log_normal(x, *now), _log_normal(x, *old), alpha, max_adjustment=1e6)
    (gradient,) = torch.autograd.grad(loss, now)
    assert exact.norm() > 0.2
    torch.testing.assert_close(gradient, exact, rtol=2e-3, atol=1e-3)


def test_at_its_minimum_the_flow_is_the_target():
    """For p in the flow's family the gradient vanishes at q = p, and nowhere near."""
    at = {}
    for shift in (0.0, 0.2):
        now = torch.tensor([0.5 + shift, -0.3], dtype=torch.float64, requires_grad=True)
        x = _quantiles(2 * _log_normal(X, 0.5, -0.3) - _log_normal(X, *now.detach()), 100_000)
        log_q = _log_normal(x, *now)
        (gradient,) = torch.autograd.grad(fab_buffer_loss(log_q, log_q.detach(), 2.0, 10.0)[0], now)
        at[shift] = float(gradient.norm())
    assert at[0.0] < 1e-3 < 0.1 < at[0.2]


def test_adjustment():
    """The loss cuts it, the buffer gets all of it, and no gradient flows through it."""
    log_q_old = torch.zeros(3)
    log_q = torch.tensor([0.0, 1.0, -5.0], requires_grad=True)
    loss, log_adjustment = fab_buffer_loss(log_q, log_q_old, alpha=2.0, max_adjustment=10.0)
    torch.testing.assert_close(log_adjustment, torch.tensor([0.0, -1.0, 5.0]))
    assert not log_adjustment.requires_grad
    loss.backward()
    torch.testing.assert_close(log_q.grad, -torch.tensor([1.0, math.exp(-1.0), 10.0]) / 3)
