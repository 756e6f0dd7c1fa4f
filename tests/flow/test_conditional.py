"""Flows of several temperatures."""

import math

import pytest
import torch

from openmm_fab.flow.conditional import AtTemperature
from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings

SETTINGS = {
    "all alike": FlowSettings(layers=4, hidden=8, bins=4, scale=0.7),
    "torsions first": FlowSettings(layers=2, torsion_layers=4, affine_layers=2, hidden=8, bins=4),
}
PERIODIC = torch.tensor([False, False, False, True, True])
MODES = [(torch.tensor([1]), 1, torch.tensor([[-1.0], [1.0]]), torch.tensor([[[0.2]], [[0.3]]]), torch.zeros(2))]
LOGS = (0.0, math.log(4 / 3), math.log(2))


def flow_of(settings, periodic=PERIODIC, modes=MODES, noise=0.3):
    """A flow of random weights, float64."""
    random = torch.Generator().manual_seed(1)
    flow = CouplingFlow(periodic, settings, rng=random, modes=modes, log_temperatures=LOGS).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    return flow


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_samples_and_density_are_of_one_bijection_at_every_temperature(settings):
    flow = flow_of(settings)
    z, log_q = flow.sample(60, torch.Generator().manual_seed(0))
    assert z.shape == (60, 6)
    torch.testing.assert_close(flow.log_prob(z), log_q, rtol=0, atol=1e-9)
    base, log_det = flow.to_base(z)
    back, back_det = flow.from_base(base)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-8)
    torch.testing.assert_close(back_det, -log_det, rtol=0, atol=1e-8)
    assert torch.equal(base[:, -1], z[:, -1])  # no layer moves the temperature
    for log_t in (0.0, 0.2, LOGS[-1]):
        at = AtTemperature(flow, log_t)
        z, log_q = at.sample(20, torch.Generator().manual_seed(0))
        assert z.shape == (20, 5)
        torch.testing.assert_close(at.log_prob(z), log_q, rtol=0, atol=1e-9)
        base = at.to_base(z)[0]
        for k in range(2):
            jacobian = torch.autograd.functional.jacobian(lambda b, at=at: at.from_base(b[None])[0][0], base[k])
            by_base = at.base_log_prob(base)[k] - torch.linalg.slogdet(jacobian)[1]
            assert float(log_q[k]) == pytest.approx(float(by_base.detach()), abs=1e-8)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_density_integrates_to_one_at_every_temperature(settings):
    modes = [(torch.tensor([0]), *MODES[0][1:])]
    flow = flow_of(settings, torch.tensor([False, True]), modes, noise=0.15)
    lines, circle = torch.linspace(-12, 12, 1201, dtype=torch.float64), torch.arange(128) / 128 * 2 * math.pi - math.pi
    z = torch.cartesian_prod(lines, circle.double())
    logs = []
    for log_t in (0.0, 0.4, LOGS[-1]):
        log_q = AtTemperature(flow, log_t).log_prob(z).detach()
        logs.append(log_q)
        assert float(log_q.exp().sum()) * (24 / 1200) * (2 * math.pi / 128) == pytest.approx(1.0, abs=1e-3)
    assert float((logs[0] - logs[1]).abs().max()) > 0.1


def test_the_gradient_is_that_of_differences_and_none_by_the_temperature():
    flow = flow_of(SETTINGS["torsions first"])
    z, _ = flow.sample(4, torch.Generator().manual_seed(0))
    _, gradient = flow.log_prob_and_gradient(z)
    assert torch.equal(gradient[:, -1], torch.zeros(4, dtype=torch.float64))
    _, of_at = AtTemperature(flow, float(z[1, -1])).log_prob_and_gradient(z[1:2, :-1])
    torch.testing.assert_close(of_at[0], gradient[1, :-1], rtol=0, atol=1e-9)
    with torch.no_grad():
        for k in range(5):
            step = 1e-6 * torch.eye(6, dtype=torch.float64)[k]
            difference = (flow.log_prob(z + step) - flow.log_prob(z - step)) / 2e-6
            torch.testing.assert_close(difference, gradient[:, k], rtol=1e-6, atol=1e-6)


def test_parts_of_a_flow_with_torsions_first():
    flow = flow_of(SETTINGS["torsions first"])
    z, log_q_t, log_q_s = flow.rsample_torsions_first(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(flow.log_prob(z), log_q_t + log_q_s, rtol=0, atol=1e-9)
    torch.testing.assert_close(flow.torsions_log_prob(z), log_q_t, rtol=0, atol=1e-9)
    assert not flow.first[-1]
    flow = flow_of(SETTINGS["torsions first"], modes=())  # a mode's width would depend on the temperature by itself
    other = z.detach().clone()
    other[:, -1] = 0.5
    assert not torch.allclose(flow.torsions_log_prob(other), flow.torsions_log_prob(z))


def test_an_untrained_flow_is_as_wide_as_harmonic_coordinates_are():
    random = torch.Generator().manual_seed(0)
    flow = CouplingFlow(PERIODIC, FlowSettings(layers=2, hidden=8, bins=4), modes=MODES, log_temperatures=LOGS)
    for log_t in (0.0, 0.3, LOGS[-1]):
        z, _ = AtTemperature(flow, log_t).sample(20_000, random)
        assert float(z[:, 0].std()) == pytest.approx(math.exp(log_t / 2), rel=0.02)
        near = z[:, 1][(z[:, 1] - 1).abs() < 0.9]  # a mode keeps its place
        assert float(near.mean()) == pytest.approx(1.0, abs=0.03)
        assert float((near - near.median()).abs().median() / 0.6745) == pytest.approx(
            0.3 * math.exp(log_t / 2), rel=0.06
        )
        reach = AtTemperature(flow, log_t).reach
        assert float(reach[0]) == pytest.approx(5 * math.exp(log_t / 2), rel=1e-6)
        assert float(reach[1]) == 6.0


def test_samples_have_the_given_temperatures_and_those_between():
    flow = flow_of(SETTINGS["all alike"])
    c = flow.sample(600, torch.Generator().manual_seed(0))[0][:, -1]
    for log_t in LOGS:
        assert int((c == log_t).sum()) == 100
    between = c[~torch.isin(c, torch.tensor(LOGS, dtype=torch.float64))]
    assert len(between) == 300
    assert float(between.mean()) == pytest.approx(LOGS[-1] / 2, abs=0.04)
    assert 0 < float(between.min()) < 0.02
    assert LOGS[-1] - 0.02 < float(between.max()) < LOGS[-1]


def test_without_temperatures_nothing_is_added():
    plain = CouplingFlow(PERIODIC, SETTINGS["torsions first"], rng=torch.Generator().manual_seed(0))
    assert plain.dim == 5
    assert plain.sample_base(7).shape == (7, 5)
    shapes = [p.shape for p in plain.parameters()]
    several = CouplingFlow(PERIODIC, SETTINGS["torsions first"], log_temperatures=LOGS)
    wider = [p.shape for p in several.parameters()]
    assert all(
        a == b or (a[0] == b[0] and a[1] + 1 == b[1]) for a, b in zip(shapes, wider, strict=True)
    )  # one input more


@pytest.mark.parametrize("logs", [(0.0,), (0.3, 0.0), (0.0, 0.0), (0.0, math.inf)])
def test_other_temperatures_are_refused(logs):
    with pytest.raises(ValueError, match="two or more temperatures in rising order"):
        CouplingFlow(PERIODIC, log_temperatures=logs)


def test_outside_the_range_is_refused():
    flow = flow_of(SETTINGS["all alike"])
    with pytest.raises(ValueError, match="Expected 0 <= log"):
        AtTemperature(flow, 0.8)
    with pytest.raises(ValueError, match="several temperatures"):
        AtTemperature(CouplingFlow(PERIODIC), 0.0)
    with pytest.raises(ValueError, match="resampled=False"):
        CouplingFlow(PERIODIC, FlowSettings(resampled=True), log_temperatures=LOGS)
