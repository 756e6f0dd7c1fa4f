"""Path gradients: on average the gradient that the loss has anyway, and none at all where q = p."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.train import pathwise

PERIODIC = torch.tensor([False, True])
GRID = 160


def _flow(seed: int = 0, resampled: bool = False, tilt: float = 0.08) -> CouplingFlow:
    random = torch.Generator().manual_seed(seed)
    flow = CouplingFlow(PERIODIC, FlowSettings(layers=4, hidden=8, bins=4, resampled=resampled), rng=random).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(tilt * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    return flow


def _plane() -> Tensor:
    """Points (GRID^2, 2) of a line where something is, times the circle; all of the same area."""
    line = torch.linspace(-8.0, 8.0, GRID, dtype=torch.float64)
    circle = (2 * torch.arange(GRID, dtype=torch.float64) / GRID - 1) * math.pi
    return torch.cartesian_prod(line, circle)


def _target(z: Tensor) -> tuple[Tensor, Tensor]:
    """log p and its gradient: a normal that leans on the angle."""
    z = z.detach().requires_grad_()
    log_p = -0.5 * ((z[:, 0] - 0.3 * z[:, 1].cos()) / 0.9).square() + 0.4 * (z[:, 1] - 0.5).cos()
    (slope,) = torch.autograd.grad(log_p.sum(), z)
    return log_p.detach(), slope


def _gradient(flow: CouplingFlow, z: Tensor, slope: Tensor, weights: Tensor, alpha: float, share: float) -> Tensor:
    flow.zero_grad()
    loss = -(weights * pathwise.log_probs(flow, z, slope, alpha, share)[:, 0]).sum()
    loss.backward()
    return torch.cat([p.grad.reshape(-1) for p in flow.parameters() if p.grad is not None])


@pytest.mark.parametrize("resampled", [False, True])
@pytest.mark.parametrize("alpha", [2.0, 1.0, 1.5])
def test_the_mean_is_the_gradient_of_the_divergence(alpha, resampled, monkeypatch):
    """Integrated over the plane, with the weights p^alpha q^(1 - alpha): the same as of log q itself."""
    monkeypatch.setattr(pathwise, "CUT", 1e9)
    flow, z = _flow(resampled=resampled), _plane()
    log_p, slope = _target(z)
    weights = (alpha * log_p + (1 - alpha) * flow.log_prob(z).detach()).softmax(0)
    plain, path, half = (_gradient(flow, z, slope, weights, alpha, share) for share in (0.0, 1.0, 0.5))
    assert float(plain.norm()) > 0.1
    assert float((path - plain).norm() / plain.norm()) < 5e-3
    torch.testing.assert_close(half, 0.5 * (plain + path))


def test_nothing_pulls_where_the_flow_is_right():
    """One sample is enough: its path gradient vanishes for p = q, that of log q does not."""
    flow = _flow()
    z, _ = flow.sample(3, torch.Generator().manual_seed(1))
    _, slope = flow.log_prob_and_gradient(z)
    weights = torch.full((3,), 1 / 3, dtype=torch.float64)
    assert float(_gradient(flow, z, slope, weights, 2.0, 1.0).norm()) < 1e-9
    assert float(_gradient(flow, z, slope, weights, 2.0, 0.0).norm()) > 0.1


def test_the_second_log_q_has_its_own_gradient():
    flow, z = _flow(), _plane()[::997]
    _, slope = _target(z)
    found = torch.autograd.grad(pathwise.log_probs(flow, z, slope, 2.0, 0.6)[:, 1].sum(), flow.trained())
    for gradient, own in zip(found, torch.autograd.grad(flow.log_prob(z).sum(), flow.trained()), strict=True):
        torch.testing.assert_close(gradient, own)


def test_the_noise_is_less_near_the_target():
    """Of single samples of p: the variance of the path gradient is a small part of that of log q's."""
    flow, target = _flow(), _flow()
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    z, _ = target.sample(60, torch.Generator().manual_seed(2))
    _, slope = target.log_prob_and_gradient(z)
    one = torch.ones(1, dtype=torch.float64)
    noise = [
        torch.stack([_gradient(flow, z[k : k + 1], slope[k : k + 1], one, 1.0, share) for k in range(len(z))]).var(0)
        for share in (0.0, 1.0)
    ]
    assert float(noise[1].sum()) < 0.05 * float(noise[0].sum())


def test_value_and_cut():
    """The value is log q whatever the share; a pull longer than sqrt(dim) is cut to it, a shorter one left alone."""
    flow, z = _flow(), _plane()[::997]
    _, slope = _target(z)
    torch.testing.assert_close(pathwise.log_probs(flow, z, slope, 2.0, 0.6), flow.log_prob(z)[:, None].expand(-1, 2))
    x, _ = flow.to_base(z)
    short, long = (pathwise.grad_log_weight(flow, x, factor * slope).norm(dim=1) for factor in (1.0, 1e6))
    assert float(short.min()) < 1.0
    torch.testing.assert_close(long, torch.full_like(long, math.sqrt(2)))


def test_who_has_a_base():
    assert pathwise.has_base(_flow()) and not pathwise.has_base(torch.nn.Linear(2, 2))
    assert not pathwise.has_base(SimpleNamespace(to_base=abs, from_base=abs))  # all of it is needed
