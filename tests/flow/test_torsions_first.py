"""Flows that draw torsions first: q(t) q(s | t)."""

import math

import pytest
import torch

from openmm_fab.flow.coupling import WIDER, CouplingFlow, FlowSettings

SETTINGS = FlowSettings(layers=2, torsion_layers=4, affine_layers=4, hidden=8, bins=4)
PERIODIC = torch.tensor([False, False, False, True, True])
SEVERAL = torch.tensor([False, True, False, False, False])


def flow_of(periodic=PERIODIC, several=None, settings=SETTINGS, noise=0.5):
    """A flow of random weights, float64."""
    random = torch.Generator().manual_seed(1)
    flow = CouplingFlow(periodic, settings, random, several).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    return flow


@pytest.mark.parametrize("several", [None, SEVERAL])
def test_the_density_is_that_of_the_two_parts(several):
    flow = flow_of(several=several)
    z, log_q_t, log_q_s = flow.rsample_torsions_first(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(flow.log_prob(z), log_q_t + log_q_s, rtol=0, atol=1e-9)
    torch.testing.assert_close(flow.torsions_log_prob(z), log_q_t, rtol=0, atol=1e-9)


@pytest.mark.parametrize("several", [None, SEVERAL])
def test_what_is_drawn_first_does_not_depend_on_the_rest(several):
    flow = flow_of(several=several)
    z, _ = flow.sample(20, torch.Generator().manual_seed(0))
    other = torch.where(flow.first, z, torch.randn_like(z))
    torch.testing.assert_close(flow.torsions_log_prob(other), flow.torsions_log_prob(z), rtol=0, atol=0)
    assert not torch.allclose(flow.log_prob(other), flow.log_prob(z))
    assert flow.first.tolist() == (PERIODIC if several is None else PERIODIC | several).tolist()


def test_the_determinant_is_that_of_the_jacobian():
    flow = flow_of(several=SEVERAL)
    base = flow.sample_base(3, torch.Generator().manual_seed(0))
    z, log_det = flow.from_base(base)
    for k in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda b: flow.from_base(b[None])[0][0], base[k])
        assert float(log_det[k].detach()) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-8)
    back, back_det = flow.to_base(z)
    torch.testing.assert_close(back, base, rtol=0, atol=1e-7)
    torch.testing.assert_close(back_det, -log_det, rtol=0, atol=1e-7)


def test_the_density_integrates_to_one():
    flow = flow_of(torch.tensor([False, True]), noise=0.3)
    lines, circle = torch.linspace(-12, 12, 1201, dtype=torch.float64), torch.arange(256) / 256 * 2 * math.pi - math.pi
    z = torch.cartesian_prod(lines, circle.double())
    total = flow.log_prob(z).detach().exp().sum() * (24 / 1200) * (2 * math.pi / 256)
    assert float(total) == pytest.approx(1.0, abs=2e-3)


def test_torsions_held_fixed_have_no_gradient():
    flow = flow_of()
    z, log_q_t, log_q_s = flow.rsample_torsions_first(10, torch.Generator().manual_seed(0), torsions=False)
    assert not log_q_t.requires_grad
    (z.square().sum() + log_q_s.sum()).backward()
    of_torsions = list(flow.layers[: flow.torsion_layers].parameters())
    assert all(p.grad is None for p in of_torsions)
    assert any(p.grad is not None and p.grad.any() for p in flow.layers[flow.torsion_layers :].parameters())
    free, log_q_t, _ = flow.rsample_torsions_first(10, torch.Generator().manual_seed(0))
    torch.testing.assert_close(free, z, rtol=0, atol=0)
    log_q_t.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in of_torsions)


def test_a_new_flow_is_wider_where_there_may_be_several_minima():
    flow = CouplingFlow(PERIODIC, SETTINGS, torch.Generator().manual_seed(0), SEVERAL)
    z, log_q = flow.sample(20_000, torch.Generator().manual_seed(0))
    assert z[:, 1].std().item() == pytest.approx(WIDER, rel=0.03)
    assert z[:, [0, 2]].std(0).tolist() == pytest.approx([1.0, 1.0], rel=0.03)
    torch.testing.assert_close(flow.log_prob(z), log_q, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"torsion_layers": 3}, {"affine_layers": 2}, {"torsion_layers": 2, "affine_layers": 1}]
)
def test_settings_that_make_no_flow_are_refused(wrong):
    with pytest.raises(ValueError, match=r"torsion_layers"):
        FlowSettings(**wrong)
