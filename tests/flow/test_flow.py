"""The whole flow: it is a normalised density, smooth on its circles, and sample and log_prob agree."""

from __future__ import annotations

import math
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from examples import slopes_along
from torch import Tensor

from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings

SMALL = FlowSettings(layers=4, hidden=16, bins=5, bound=4.0)


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _flow(lines: int, circles: int, seed: int = 0, settings: FlowSettings = SMALL, weight: float = 0.2) -> CouplingFlow:
    """Float64 flow whose spline parameters are of the order of one, as after training; angles between the lines."""
    periodic = torch.arange(lines + circles) % 2 == 1 if lines == circles else torch.arange(lines + circles) >= lines
    flow = CouplingFlow(periodic, settings, rng=_random(seed)).double()
    random = _random(seed + 1)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if name[-2:] in ("b1", "b2", "w3", "b3"):
                parameter.normal_(0.0, weight, generator=random)
    return flow


def _points(flow: CouplingFlow, n: int, seed: int = 2) -> Tensor:
    z = torch.randn(n, flow.dim, generator=_random(seed), dtype=torch.float64)
    angles = (2 * torch.rand(n, flow.dim, generator=_random(seed + 1), dtype=torch.float64) - 1) * math.pi
    return torch.where(flow.periodic, angles, 1.5 * z)


def _base(z: Tensor, periodic: Tensor) -> Tensor:
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    return torch.where(periodic, torch.full_like(z, -math.log(2 * math.pi)), normal).sum(1)


def test_a_new_flow_is_its_base():
    flow = CouplingFlow(torch.tensor([False, True, False, True, True]), SMALL, rng=_random(0)).double()
    z = _points(flow, 50)
    torch.testing.assert_close(flow.log_prob(z), _base(z, flow.periodic), atol=1e-12, rtol=0)
    z, log_q = flow.sample(10_000, _random(1))
    torch.testing.assert_close(log_q, _base(z, flow.periodic), atol=1e-12, rtol=0)
    lines, angles = z[:, ~flow.periodic], z[:, flow.periodic]
    assert lines.mean(0).abs().max() < 0.04 and (lines.std(0) - 1).abs().max() < 0.03
    assert (angles.std(0) - math.pi / math.sqrt(3)).abs().max() < 0.03


@pytest.mark.parametrize("lines,circles", [(5, 0), (0, 5), (4, 3), (1, 1)])
def test_sample_and_log_prob_agree(lines, circles):
    flow = _flow(lines, circles)
    z, log_q = flow.sample(200, _random(3))
    torch.testing.assert_close(flow.log_prob(z), log_q, atol=1e-8, rtol=0)
    assert (log_q - _base(z, flow.periodic)).abs().max() > 0.5  # not its base any more
    angles = z[:, flow.periodic]
    assert ((angles >= -math.pi) & (angles < math.pi)).all()


def test_samples_follow_the_density():
    """Averages over samples against averages by quadrature over log_prob."""
    flow = _flow(1, 1, weight=0.15)
    z, _ = flow.sample(20_000, _random(4))
    grid, weight = _grid(flow)
    with torch.no_grad():
        q = flow.log_prob(grid).exp() * weight
    for f in (lambda z: z[:, 0], lambda z: z[:, 0] ** 2, lambda z: z[:, 1].cos(), lambda z: z[:, 0] * z[:, 1].sin()):
        error = float(f(z).std()) / math.sqrt(len(z))
        assert abs(float(f(z).mean()) - float((f(grid) * q).sum())) < 4 * error


def _grid(flow: CouplingFlow, n_line: int = 800, n_circle: int = 150) -> tuple[Tensor, Tensor]:
    """Midpoints of cells of [-12, 12] x [-pi, pi), and the area of one."""
    line = 12 * (2 * (torch.arange(n_line, dtype=torch.float64) + 0.5) / n_line - 1)
    circle = math.pi * (2 * (torch.arange(n_circle, dtype=torch.float64) + 0.5) / n_circle - 1)
    assert flow.periodic.tolist() == [False, True]
    return torch.cartesian_prod(line, circle), torch.tensor(24 * 2 * math.pi / (n_line * n_circle))


@pytest.mark.parametrize("seed", [0, 10])
def test_density_integrates_to_one(seed):
    flow = _flow(1, 1, seed, weight=0.15)
    grid, weight = _grid(flow)
    with torch.no_grad():
        total = float((flow.log_prob(grid).exp() * weight).sum())
    assert abs(total - 1) < 1e-3


@pytest.mark.parametrize("lines,circles", [(0, 2), (0, 5), (4, 4), (3, 2), (1, 1)])
def test_nothing_tears_at_pi(lines, circles):
    """log q and its whole gradient just left and right of +-pi, for each angle in turn."""
    flow = _flow(lines, circles, weight=0.4)
    for angle in torch.nonzero(flow.periodic)[:, 0]:
        left, right = _points(flow, 100), _points(flow, 100)
        left[:, angle], right[:, angle] = math.pi - 1e-11, -math.pi
        (log_l, gradient_l), (log_r, gradient_r) = map(flow.log_prob_and_gradient, (left, right))
        assert gradient_l[:, angle].abs().max() > 0.1  # else there is nothing to tear
        torch.testing.assert_close(log_l, log_r, atol=1e-8, rtol=0)
        torch.testing.assert_close(gradient_l, gradient_r, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("lines,circles", [(0, 3), (2, 2)])
def test_log_prob_is_continuous_around_the_circle(lines, circles):
    """Every angle all the way round, so that the splines' own seams are met wherever rotations have put them."""
    flow = _flow(lines, circles)
    angle = int(torch.nonzero(flow.periodic)[0, 0])
    for point in _points(flow, 3):
        coarse, fine = (_turned(flow, point, angle, n) for n in (2_000, 16_000))
        assert fine.max() < 0.25 * coarse.max()  # a jump would stay as it is


def _turned(flow: CouplingFlow, point: Tensor, angle: int, n: int) -> Tensor:
    """Changes of log q between neighbours on a circle of n points."""
    z = point.repeat(n, 1)
    z[:, angle] = torch.linspace(-math.pi, math.pi, n + 1, dtype=torch.float64)[:-1]
    with torch.no_grad():
        log_q = flow.log_prob(z)
    return (log_q - log_q.roll(1)).abs()


def test_angles_may_lie_anywhere():
    flow = _flow(3, 2)
    z = _points(flow, 20)
    turns = 2 * math.pi * torch.randint(-2, 3, z.shape, generator=_random(5)).double() * flow.periodic
    torch.testing.assert_close(flow.log_prob(z + turns), flow.log_prob(z), atol=1e-9, rtol=0)


def test_gradient_is_that_of_log_prob():
    """Central differences, also far beyond the splines' bound."""
    flow = _flow(3, 2)
    z = _points(flow, 10)
    z[5:, ~flow.periodic] *= 4
    log_q, gradient = flow.log_prob_and_gradient(z)
    assert not log_q.requires_grad and not gradient.requires_grad
    torch.testing.assert_close(log_q, flow.log_prob(z).detach(), atol=0, rtol=0)
    for k in range(flow.dim):
        step = torch.zeros(flow.dim, dtype=torch.float64)
        step[k] = 1e-5
        slope = (flow.log_prob(z + step) - flow.log_prob(z - step)).detach() / 2e-5
        torch.testing.assert_close(gradient[:, k], slope, atol=2e-5, rtol=1e-5)


def test_gradient_of_the_parameters():
    """Directional derivative of the mean of log q, in every parameter at once."""
    flow = _flow(3, 2)
    z = _points(flow, 50)
    flow.log_prob(z).mean().backward()
    random = _random(6)
    directions = [torch.randn(p.shape, generator=random, dtype=p.dtype) for p in flow.parameters()]
    expected = sum(float((p.grad * d).sum()) for p, d in zip(flow.parameters(), directions, strict=True))

    def shifted(step: float) -> float:
        with torch.no_grad():
            for p, d in zip(flow.parameters(), directions, strict=True):
                p += step * d
            value = float(flow.log_prob(z).mean())
            for p, d in zip(flow.parameters(), directions, strict=True):
                p -= step * d
        return value

    assert np.isclose((shifted(1e-6) - shifted(-1e-6)) / 2e-6, expected, rtol=1e-5)
    assert abs(expected) > 0.1


def test_tails_are_gaussian():
    """Beyond the splines' bound a line is shifted and scaled only: log q is minus a square there."""
    flow = _flow(2, 0, weight=0.2)
    t = torch.linspace(60, 120, 61, dtype=torch.float64)[:, None]
    for way in ([1.0, 0.5], [-1.0, 0.7], [0.3, -1.0]):
        log_q = flow.log_prob(t * torch.tensor(way, dtype=torch.float64)).detach()
        assert torch.isfinite(log_q).all()
        assert (log_q < -100).all() and (log_q.diff() < 0).all()


def test_every_coordinate_is_moved_and_conditioned_on():
    """The Jacobian of the score has no zero rows, and each coordinate depends on each other one."""
    for lines, circles in ((5, 0), (0, 5), (3, 4), (1, 2)):
        flow = _flow(lines, circles)
        z = _points(flow, 8)
        _, gradient = flow.log_prob_and_gradient(z)
        for k in range(flow.dim):
            moved = z.clone()
            moved[:, k] += 0.3
            change = (flow.log_prob_and_gradient(moved)[1] - gradient).abs().amax(0)
            assert (change > 1e-4).all()


def test_float32_agrees_with_float64():
    flow = _flow(4, 3)
    z = _points(flow, 200)
    double = flow.log_prob(z).detach()
    single = flow.float().log_prob(z.float()).detach()
    assert single.dtype == torch.float32
    assert (single - double).abs().max() < 2e-3
    z, log_q = flow.sample(500, _random(7))
    assert z.dtype == log_q.dtype == torch.float32
    error = (flow.log_prob(z) - log_q).abs().detach()  # the rarest samples lie where log q is steepest
    assert error.median() < 2e-5 and error.quantile(0.99) < 2e-3
    angles = z[:, flow.periodic]
    assert ((angles >= -math.pi) & (angles <= math.pi)).all()


def test_products_in_bfloat16_make_a_density_as_well():
    """Samples know their density, it integrates to one, and it is another flow's: the products were rounded."""
    flow = _flow(3, 2).float()
    flow.matmul_dtype = torch.bfloat16
    z, log_q = flow.sample(20_000, torch.Generator().manual_seed(1))
    difference = (flow.log_prob(z) - log_q).abs().detach()
    # Where rounding errors of z tip a number over to the next bfloat16, both densities are right, of flows nearby.
    assert float(difference.median()) < 1e-5 and float(difference.quantile(0.99)) < 0.02
    flow.matmul_dtype = None
    plain = flow.log_prob(z).detach()
    assert float((plain - log_q).abs().median()) > 1e-3
    w = (plain - log_q).double().exp()  # towards a density of integral one
    assert abs(float(w.mean()) - 1) < 4 * float(w.std()) / len(w) ** 0.5
    flow.matmul_dtype = torch.bfloat16
    back = flow.from_base(flow.to_base(z)[0])[0].detach()
    far = torch.where(flow.periodic, torch.remainder(back - z + math.pi, 2 * math.pi) - math.pi, back - z).abs()
    assert float(far.amax(1).quantile(0.99)) < 0.01


def test_generators_decide():
    periodic = torch.tensor([False, True, False, True])
    a, b, other = (CouplingFlow(periodic, SMALL, rng=_random(seed)) for seed in (1, 1, 2))
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name])
    assert any(not torch.equal(value, other.state_dict()[name]) for name, value in a.state_dict().items())
    assert torch.equal(a.sample(5, _random(3))[0], b.sample(5, _random(3))[0])


def test_state_dict_round_trip():
    """Also the partition is saved: a flow made with another generator takes it over."""
    flow = _flow(3, 2)
    other = CouplingFlow(flow.periodic, SMALL, rng=_random(99)).double()
    z = _points(flow, 10)
    assert not torch.allclose(other.log_prob(z), flow.log_prob(z))
    other.load_state_dict(flow.state_dict())
    assert torch.equal(other.log_prob(z), flow.log_prob(z))


def test_scale_is_the_unit_of_lines():
    """z = scale * y on lines, of a flow with the same weights and scale one; angles stay."""
    plain, wide = (_flow(3, 2, settings=FlowSettings(layers=4, hidden=16, bins=5, bound=4.0, scale=s)) for s in (1, 20))
    unit = torch.where(plain.periodic, 1.0, 20.0).double()
    z = _points(plain, 50)
    torch.testing.assert_close(wide.log_prob(z * unit), plain.log_prob(z) - 3 * math.log(20), atol=1e-10, rtol=0)
    (a, log_a), (b, log_b) = (flow.sample(100, _random(3)) for flow in (plain, wide))
    torch.testing.assert_close(b, a * unit, atol=1e-9, rtol=0)
    torch.testing.assert_close(log_b, log_a - 3 * math.log(20), atol=1e-10, rtol=0)
    torch.testing.assert_close(wide.log_prob(b), log_b, atol=1e-8, rtol=0)


def test_samples_with_a_graph():
    """rsample's numbers are sample's, and its gradient that of differences over the same random numbers."""
    flow = _flow(3, 2)
    (z, log_q), (same, same_log_q) = flow.rsample(40, _random(8)), flow.sample(40, _random(8))
    assert torch.equal(z, same) and torch.equal(log_q, same_log_q) and not same.requires_grad
    weights = torch.randn(z.shape, generator=_random(9), dtype=z.dtype)

    def value() -> Tensor:
        z, log_q = flow.rsample(40, _random(8))
        return (weights * torch.where(flow.periodic, z.sin(), z)).sum() + log_q.sum()

    expected, found = slopes_along(flow, value, _random(6))
    assert np.isclose(found, expected, rtol=1e-5) and abs(expected) > 0.1


def test_wrong_input():
    flow = _flow(2, 1)
    for shape in ((4, 2), (3,), (2, 4, 3)):
        with pytest.raises(ValueError, match=r"Expected z with shape \(batch, 3\); got"):
            flow.log_prob(torch.zeros(shape))
    with pytest.raises(ValueError, match="at least one coordinate"):
        CouplingFlow(torch.zeros(0, dtype=torch.bool))
    for wrong in ({"layers": 1}, {"layers": 3}, {"hidden": 0}, {"bins": 1}, {"bound": 0.0}, {"scale": 0.0}):
        with pytest.raises(ValueError, match=f"Expected {next(iter(wrong))} >|Expected an even number of layers"):
            FlowSettings(**wrong)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("c++") is None, reason="torch.compile needs a compiler"
)
def test_compiled_is_eager():
    flow = _flow(4, 3, settings=FlowSettings(layers=2, hidden=8, bins=4))
    z = _points(flow, 16)
    eager = flow.log_prob_and_gradient(z)
    sample = flow.sample(16, _random(8))
    flow.compile(16)
    for a, b in ((flow.log_prob_and_gradient(z), eager), (flow.sample(16, _random(8)), sample)):
        torch.testing.assert_close(a[0], b[0], atol=1e-9, rtol=0)
        torch.testing.assert_close(a[1], b[1], atol=1e-9, rtol=0)
    assert flow._compiled
    torch.testing.assert_close(flow.log_prob(z[:5]), eager[0][:5], atol=1e-9, rtol=0)  # other sizes still work
    flow.uncompile()
    assert torch.equal(flow.log_prob(z), eager[0])


def test_many_flows_of_one_process_stay_compiled(monkeypatch):
    """PyTorch gives up a function, with a word in its log, after so many graphs: 8 unless told otherwise."""
    dynamo = pytest.importorskip("torch._dynamo")
    dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    with dynamo.config.patch(cache_size_limit=8, fail_on_recompile_limit_hit=True):
        for straight in range(2, 5):
            flow = _flow(straight, 2, settings=FlowSettings(layers=2, hidden=8, bins=4))
            flow.compile(16)
            z, _ = flow.sample(16, _random(0))
            flow.log_prob(z).sum().backward()
            flow.log_prob_and_gradient(z)  # beyond the limit it raises, as the patch says
            assert flow._compiled and dynamo.config.cache_size_limit > 8
    dynamo.reset()
