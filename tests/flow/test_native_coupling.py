"""A coupling layer's splines in C against PyTorch's, values and derivatives, both ways, in and beyond their range."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from openmm_fab.flow import native as c
from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.layers import MAX_LOG_SCALE, move, move_in_c
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.tools import native

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C compiler")

DIM, CIRCLES = 7, 3


def case(n: int, bins: int, dtype: torch.dtype, width: float = 1.5) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(n + bins)
    circular = torch.arange(DIM) >= DIM - CIRCLES
    x = 2.5 * torch.randn(DIM, n, generator=random, dtype=torch.float64)  # some beyond the splines' range
    angles = (2 * torch.rand(DIM, n, generator=random, dtype=torch.float64) - 1) * math.pi
    x = torch.where(circular[:, None], angles, x)
    raw = width * torch.randn(2 + 3 * bins, DIM, n, generator=random, dtype=torch.float64)
    return [x.to(dtype), raw.to(dtype), torch.full((DIM,), 5.0, dtype=dtype), circular]


def couple(x, raw, bound, circular, inverse, max_log_scale):
    """By the parameters as such: without a bias."""
    return c.couple(
        x, raw.reshape(-1, x.shape[1]), raw.new_zeros(len(raw) * len(x)), bound, circular, inverse, max_log_scale
    )


def by_torch(x, raw, bound, circular, inverse):
    return move(x, raw.reshape(-1, x.shape[1]), raw.new_zeros(len(raw) * len(x)), bound, circular, inverse)


def derivatives(function, x, raw, *rest):
    x, raw = x.clone().requires_grad_(), raw.clone().requires_grad_()
    y, log_det = function(x, raw, *rest)
    random = torch.Generator().manual_seed(1)
    above = torch.randn(y.shape, generator=random, dtype=torch.float64).to(y)
    above_det = torch.randn(log_det.shape, generator=random, dtype=torch.float64).to(y)
    return y.detach(), log_det.detach(), *torch.autograd.grad((y * above).sum() + (log_det * above_det).sum(), (x, raw))


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("bins", [2, 8, 13])
@pytest.mark.parametrize("n", [1, 16, 45])
def test_agrees_with_pytorch(n, bins, inverse) -> None:
    given = [*case(n, bins, torch.float64), inverse]
    expected = derivatives(by_torch, *given)
    found = derivatives(lambda *a: couple(*a, MAX_LOG_SCALE), *given)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10 * float(1 + b.abs().max()))


@pytest.mark.parametrize("inverse", [False, True])
def test_single_precision_is_as_exact_as_pytorch(inverse) -> None:
    """Both against double precision. Medians: where a spline is nearly flat every error grows a thousandfold."""
    x, raw, bound, circular = case(300, 8, torch.float32, width=0.7)
    exact = derivatives(by_torch, x.double(), raw.double(), bound.double(), circular, inverse)
    torchs = derivatives(by_torch, x, raw, bound, circular, inverse)
    ours = derivatives(lambda *a: couple(*a, MAX_LOG_SCALE), x, raw, bound, circular, inverse)
    for truth, theirs, own in zip(exact, torchs, ours, strict=True):
        error, usual = ((found.double() - truth).abs().median() for found in (own, theirs))
        assert error <= 3 * usual + 1e-7


@pytest.mark.parametrize("product", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 3])
def test_bias_and_products_of_less_precision(product, threads, monkeypatch) -> None:
    """As PyTorch has it, which rounds the derivatives by the product, too; the bias's come before that."""
    x, raw, bound, circular = case(300, 8, torch.float32, width=0.5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    random = torch.Generator().manual_seed(2)
    bias = 0.3 * torch.randn(len(raw) * DIM, generator=random)
    above, above_det = torch.randn(x.shape, generator=random), torch.randn(300, generator=random)
    found = []
    for either in (move, move_in_c):
        given = [
            x.clone().requires_grad_(),
            raw.reshape(-1, 300).to(product).requires_grad_(),
            bias.clone().requires_grad_(),
        ]
        y, log_det = either(*given, bound, circular, False)
        ((y * above).sum() + (log_det * above_det).sum()).backward()
        found.append([y.detach(), log_det.detach(), *(t.grad for t in given)])
    for k, (a, b) in enumerate(zip(found[1], found[0], strict=True)):
        coarse = 2**-7 if k == 3 and product == torch.bfloat16 else 2e-4
        assert a.dtype == b.dtype
        torch.testing.assert_close(a.float(), b.float(), rtol=coarse, atol=coarse * float(b.float().abs().mean()))


def test_derivatives_against_differences() -> None:
    x, raw, bound, circular = case(5, 4, torch.float64, width=0.5)
    x = x.clamp(-4.9, 4.9)
    for inverse in (False, True):
        assert torch.autograd.gradcheck(
            lambda x, raw, inverse=inverse: couple(x, raw, bound, circular, inverse, MAX_LOG_SCALE),
            (x.clone().requires_grad_(), raw.clone().requires_grad_()),
            atol=1e-5,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_there_and_back(dtype) -> None:
    x, raw, bound, circular = case(100, 8, dtype)
    y, log_det = couple(x, raw, bound, circular, False, MAX_LOG_SCALE)
    back, minus = couple(y, raw, bound, circular, True, MAX_LOG_SCALE)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-2
    turned = torch.where(circular[:, None], torch.remainder(back - x + math.pi, 2 * math.pi) - math.pi, back - x)
    assert float(turned.abs().max()) < tolerance
    torch.testing.assert_close(minus, -log_det, rtol=0, atol=10 * tolerance)


def test_identity_at_zero() -> None:
    x, raw, bound, circular = case(20, 8, torch.float64)
    y, log_det = couple(x, torch.zeros_like(raw), bound, circular, False, MAX_LOG_SCALE)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-14)
    torch.testing.assert_close(log_det, torch.zeros(20, dtype=torch.float64), rtol=0, atol=1e-13)


def test_a_flow_is_the_same_with_it_and_a_point_does_not_know_its_batch() -> None:
    periodic = torch.arange(9) >= 5
    flow = CouplingFlow(
        periodic, FlowSettings(layers=4, hidden=16, bins=5), rng=torch.Generator().manual_seed(0)
    ).double()
    random = torch.Generator().manual_seed(1)
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    z, log_q = flow.sample(70, torch.Generator().manual_seed(2))
    value, gradient = flow.log_prob_and_gradient(z)
    flow.use_c()
    again, log_q_again = flow.sample(70, torch.Generator().manual_seed(2))
    torch.testing.assert_close(again, z, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_q_again, log_q, rtol=0, atol=1e-9)
    for a, b in zip(flow.log_prob_and_gradient(z), (value, gradient), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_without_a_compiler_a_flow_is_pytorchs_with_one_warning(monkeypatch) -> None:
    flow = CouplingFlow(torch.arange(4) >= 3, FlowSettings(layers=2, hidden=4, bins=4))
    z = torch.linspace(-1, 1, 32).reshape(8, 4)
    expected = flow.log_prob(z)
    flow.use_c()
    monkeypatch.setenv("OPENMM_FAB_NATIVE", "0")
    monkeypatch.setattr(native, "_compiled", native._compiled.__wrapped__)  # what is loaded already stays out of it
    with pytest.warns(UserWarning, match="The flow is PyTorch's own, and slower"):
        assert torch.equal(flow.log_prob(z), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(flow.log_prob(z), expected)


def test_more_bins_than_c_has_room_for_stay_with_pytorch() -> None:
    flow = CouplingFlow(torch.zeros(2, dtype=torch.bool), FlowSettings(layers=2, hidden=4, bins=65))
    flow.use_c()
    assert not flow._native
    assert torch.isfinite(flow.log_prob(torch.zeros(8, 2))).all()
