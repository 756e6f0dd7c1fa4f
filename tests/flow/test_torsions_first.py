"""Flows that draw torsions first: q(t) q(s | t)."""

import math
from dataclasses import replace

import pytest
import torch

from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.modes import BROAD, FLOOR, GAIN
from openmm_fab.flow.settings import FlowSettings

SETTINGS = FlowSettings(layers=2, torsion_layers=4, affine_layers=4, hidden=8, bins=4)
PERIODIC = torch.tensor([False, False, False, True, True])
# Two minima of coordinate 1, two more of coordinates 0 and 2 together.
ALIKE = torch.zeros(2)
ONE = (torch.tensor([1]), 1, torch.tensor([[-1.0], [1.0]]), torch.tensor([[[0.2]], [[0.3]]]), ALIKE)
TWO = (
    torch.tensor([2, 0]),
    2,
    torch.tensor([[-1.0, 0.5], [1.0, 1.0]]),
    torch.tensor([[[0.2, 0.0], [0.1, 0.3]], [[0.3, 0.0], [-0.2, 0.1]]]),
    torch.tensor([0.0, -1.0]),
)
FOLLOWED = (TWO[0], 1, *TWO[2:])  # coordinate 0 has the modes of coordinate 2, but is drawn after it
NONE = ()


def flow_of(periodic=PERIODIC, modes=NONE, settings=SETTINGS, noise=0.5):
    """A flow of random weights, float64."""
    random = torch.Generator().manual_seed(1)
    flow = CouplingFlow(periodic, settings, rng=random, modes=modes).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    return flow


@pytest.mark.parametrize("modes", [NONE, (ONE,), (ONE, TWO), (ONE, FOLLOWED)])
def test_the_density_is_that_of_the_two_parts(modes):
    flow = flow_of(modes=modes, noise=0.3)
    z, log_q_t, log_q_s = flow.rsample_torsions_first(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(flow.log_prob(z), log_q_t + log_q_s, rtol=0, atol=1e-9)
    torch.testing.assert_close(flow.torsions_log_prob(z), log_q_t, rtol=0, atol=1e-9)


@pytest.mark.parametrize("modes", [NONE, (ONE,), (ONE, TWO), (ONE, FOLLOWED)])
def test_what_is_drawn_first_does_not_depend_on_the_rest(modes):
    flow = flow_of(modes=modes)
    z, _ = flow.sample(20, torch.Generator().manual_seed(0))
    other = torch.where(flow.first, z, torch.randn_like(z))
    torch.testing.assert_close(flow.torsions_log_prob(other), flow.torsions_log_prob(z), rtol=0, atol=0)
    columns = [3, 4, *(int(c) for mode in modes for c in mode[0][: mode[1]])]
    assert flow.first.nonzero()[:, 0].tolist() == sorted(columns)
    if len(columns) < 5:
        assert not torch.allclose(flow.log_prob(other), flow.log_prob(z))


def test_the_determinant_is_that_of_the_jacobian():
    flow = flow_of(modes=(ONE,))
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


@pytest.mark.parametrize(("scale", "modes"), [(1.0, TWO), (1.7, TWO), (1.7, FOLLOWED)])
def test_a_new_flow_has_a_mode_at_every_minimum(scale, modes):
    """Against PyTorch's own mixtures, and by what is drawn; means and roots are in units of z, whatever the scale."""
    from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

    flow = CouplingFlow(
        PERIODIC, replace(SETTINGS, scale=scale), rng=torch.Generator().manual_seed(0), modes=(ONE, modes)
    ).double()
    z, log_q = flow.sample(20_000, torch.Generator().manual_seed(0))
    expected = torch.full_like(log_q, -2 * math.log(2 * math.pi))
    of_first = torch.full_like(log_q, -2 * math.log(2 * math.pi))
    for columns, leading, means, roots, log_shares in (ONE, modes):
        broad = torch.diag((scale**2 + means.square().mean(0)).sqrt())  # as wide as both modes together
        means, roots = (
            torch.cat([means, torch.zeros(1, len(columns))]).double(),
            torch.cat([roots, broad[None]]).double(),
        )
        shares = (1 - FLOOR) * log_shares.softmax(0) + FLOOR / 2
        shares = torch.cat([(1 - BROAD) * shares, torch.tensor([BROAD])]).double()
        normal, first = MultivariateNormal(means, roots @ roots.mT), columns[:leading]
        expected += MixtureSameFamily(Categorical(shares), normal).log_prob(z[:, columns])
        normal = MultivariateNormal(means[:, :leading], normal.covariance_matrix[:, :leading, :leading])
        of_first += MixtureSameFamily(Categorical(shares), normal).log_prob(z[:, first])
    torch.testing.assert_close(log_q, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(flow.log_prob(z), expected, rtol=0, atol=1e-5)
    # In the unit of length of the rest.
    of_first += int((flow.first & ~flow.periodic).sum()) * math.log(scale)
    torch.testing.assert_close(flow.torsions_log_prob(z), of_first, rtol=0, atol=1e-5)
    below = (1 - BROAD) / 2 * (1 + 0) + BROAD * float(Normal(0, 1).cdf(torch.zeros(())))
    assert (z[:, 1] < 0).double().mean().item() == pytest.approx(below, abs=0.012)


def test_shares_of_modes_are_learned_from_samples_but_not_along_their_paths():
    """By maximum likelihood they become those of the samples; no mode gets less than its part of the floor."""
    flow = flow_of(modes=(ONE,), noise=0.0)
    (mixture,) = flow.mixtures
    z, log_q_t, log_q_s = flow.rsample_torsions_first(50, torch.Generator().manual_seed(0))
    (z.square().sum() + log_q_t.sum() + log_q_s.sum()).backward()
    assert mixture.raw.grad is None
    z[:, 1] = torch.where(torch.arange(50) < 10, -1.0, 1.0)
    optimizer = torch.optim.LBFGS([mixture.raw], line_search_fn="strong_wolfe", max_iter=50)

    def loss():
        optimizer.zero_grad()
        value = -flow.torsions_log_prob(z.detach()).mean()
        value.backward()
        return value

    optimizer.step(loss)
    of_modes = mixture.shares()[:2].detach() / (1 - BROAD)
    assert of_modes[0].item() == pytest.approx(0.2, abs=0.01)
    with torch.no_grad():
        mixture.raw.copy_(torch.tensor([-1e3, 0.0]) / GAIN)
    assert mixture.shares().tolist() == pytest.approx([(1 - BROAD) * s for s in (FLOOR / 2, 1 - FLOOR / 2)] + [BROAD])


def test_modes_that_no_flow_can_have_are_refused():
    with pytest.raises(ValueError, match="one mixture at most"):
        CouplingFlow(PERIODIC, SETTINGS, modes=(ONE, ONE))
    with pytest.raises(ValueError, match="straight coordinates only"):
        CouplingFlow(PERIODIC, SETTINGS, modes=((torch.tensor([4]), *ONE[1:]),))
    with pytest.raises(ValueError, match="Expected columns"):
        CouplingFlow(PERIODIC, SETTINGS, modes=((torch.tensor([0, 1]), *ONE[1:]),))
    with pytest.raises(ValueError, match="1 <= leading <= k"):
        CouplingFlow(PERIODIC, SETTINGS, modes=((ONE[0], 0, *ONE[2:]),))


@pytest.mark.parametrize(
    "wrong", [{"torsion_layers": 3}, {"affine_layers": 2}, {"torsion_layers": 2, "affine_layers": 1}]
)
def test_settings_that_make_no_flow_are_refused(wrong):
    with pytest.raises(ValueError, match=r"torsion_layers"):
        FlowSettings(**wrong)


@pytest.mark.parametrize("modes", [(ONE,), (ONE, FOLLOWED)])
def test_some_samples_may_have_torsions_of_other_layers(modes):
    """Of shares before training, too; what is drawn given them is the flow's own."""
    flow, other = flow_of(modes=modes, noise=0.3), flow_of(modes=modes, noise=0.5)
    for mixture in other.mixtures:
        mixture.raw.data.copy_(mixture.untrained)
    layers = other.layers[: other.torsion_layers]
    z, log_q_t, log_q_s = flow.rsample_torsions_first(50, torch.Generator().manual_seed(0), others=(20, layers))
    torch.testing.assert_close(flow.torsions_log_prob(z[:30]), log_q_t[:30], rtol=0, atol=1e-9)
    torch.testing.assert_close(flow.torsions_log_prob(z[30:], layers), log_q_t[30:], rtol=0, atol=1e-8)
    torch.testing.assert_close(other.torsions_log_prob(z[30:]), log_q_t[30:], rtol=0, atol=1e-8)
    assert (flow.torsions_log_prob(z[30:]) - log_q_t[30:]).abs().max() > 0.1
    torch.testing.assert_close(flow.log_prob(z) - flow.torsions_log_prob(z), log_q_s, rtol=0, atol=1e-8)
    plain, _, _ = flow.rsample_torsions_first(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(z[:30], plain[:30], rtol=0, atol=1e-12)
    log_q_t.sum().backward()
    assert all(p.grad is None for p in layers.parameters())


def test_what_follows_is_drawn_given_the_leading_coordinates():
    """As by the whole mixture among samples whose leading coordinate is the same."""
    (mixture,) = flow_of(modes=(FOLLOWED,), noise=0.0).mixtures
    random, n = torch.Generator().manual_seed(0), 400_000
    draw = {"generator": random, "dtype": torch.float64}
    both = mixture.sample(torch.randn(n, 2, **draw), torch.rand(n, **draw))
    near = both[(both[:, 0] - 0.5).abs() < 0.02, 1]
    z = torch.full((20_000, 5), 0.5, dtype=torch.float64)
    found = mixture.sample_followers(z, torch.randn(20_000, 1, **draw), torch.rand(20_000, **draw))[:, 0]
    at = torch.linspace(-1, 2, 13, dtype=torch.float64)
    expected, got = ((sample[:, None] < at).double().mean(0) for sample in (near, found))
    assert len(near) > 1000 and (got - expected).abs().max() < 5 * 0.5 / len(near) ** 0.5


def far_apart(distance):
    """A flow whose coordinate 1 has modes at so much and minus so much, and random weights that do not depend on it."""
    modes = (torch.tensor([1]), 1, torch.tensor([[-distance], [distance]]), torch.ones(2, 1, 1), ALIKE)
    return flow_of(modes=(modes,))


def test_conditioners_read_modes_in_units_of_how_far_they_are_apart():
    """At the same share of their spread, whatever it is, they move the other coordinates alike."""
    moved = []
    for distance in (5.0, 50.0):
        flow, z = far_apart(distance), torch.full((1, 5), 0.3, dtype=torch.float64)
        z[0, 1] = 0.7 * (1 + distance**2) ** 0.5
        (layer, *_) = (k for k in flow.layers if 1 in k.kept_lines.tolist() and 0 in k.moved.tolist())
        moved.append(flow.couple(z, layer)[0][0, [0, 2, 3, 4]])
    torch.testing.assert_close(moved[0], moved[1], rtol=0, atol=1e-5)
    assert (moved[0] - 0.3).abs().max() > 0.01


def test_splines_reach_beyond_the_outer_modes():
    flow = far_apart(9.0)
    assert flow.reach.tolist() == [5.0, 14.0, 5.0, math.inf, math.inf]
    layers = [k for k in flow.layers[: flow.torsion_layers] if 1 in k.moved.tolist()]
    assert layers and all(float(k.bound[k.moved == 1]) == 14.0 for k in layers)


@pytest.mark.parametrize("periodic", [[False, True, True, True], [False, False, False, True], [False, True]])
def test_every_coordinate_is_read_by_a_layer_that_moves_others(periodic):
    """Lines that are drawn first, and circles: also where there is one of a kind."""
    lines = [k for k, circle in enumerate(periodic) if not circle]
    modes = [(torch.tensor(lines), len(lines), torch.zeros(1, len(lines)), torch.eye(len(lines))[None], torch.zeros(1))]
    flow = CouplingFlow(torch.tensor(periodic), SETTINGS, rng=torch.Generator().manual_seed(0), modes=modes)
    read = [{*k.kept_lines.tolist(), *k.kept_circles.tolist()} for k in flow.layers]
    assert set().union(*read) == set(range(len(periodic)))
    assert set().union(*(k.moved.tolist() for k in flow.layers)) == set(range(len(periodic)))


def test_the_range_of_splines_holds_a_wide_mode():
    """A mode four times as wide as another line has the same number of its widths within reach."""
    wide = (torch.tensor([0]), 1, torch.zeros(1, 1), torch.full((1, 1, 1), 4.0), torch.zeros(1))
    plain, flow = flow_of(noise=0.0), flow_of(modes=(wide,), noise=0.0)
    torch.testing.assert_close(flow.reach[0], 4 * plain.reach[0])
    torch.testing.assert_close(flow.reach[1:], plain.reach[1:])
