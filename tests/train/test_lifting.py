"""Torsional basins and the bias that lifts the rare ones, against quadrature and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from openmm_fab.target import Target, VonMises
from openmm_fab.tools.circle import BINS, circular_bins, label_basins
from openmm_fab.train.lifting import MAX_LIFT, ORDER, ROWS, BiasedTarget

GRID = torch.from_numpy(-math.pi + 2 * math.pi * (np.arange(720) + 0.5) / 720)


class _Wells(Target):
    """One line (standard normal) and one angle: wells at -1.5 and 1.5 rad, the second with a share `rare`."""

    def __init__(self, rare: float, kappa: float = 20.0) -> None:
        self.dim, self.periodic = 2, torch.tensor([False, True])
        self.rare, self.kappa = rare, kappa

    def log_prob(self, z: Tensor) -> Tensor:
        a = math.log1p(-self.rare) + self.kappa * (z[:, 1] + 1.5).cos()
        b = math.log(self.rare) + self.kappa * (z[:, 1] - 1.5).cos()
        return torch.logaddexp(a, b) - self.kappa - 0.5 * z[:, 0].square()


def _uniform(n: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    angle = (2 * torch.rand(n, generator=random, dtype=torch.float64) - 1) * math.pi
    return torch.stack([torch.randn(n, generator=random, dtype=torch.float64), angle], dim=1)


def _log_w(target: Target, z: Tensor) -> Tensor:
    return target.log_prob(z) + 0.5 * z[:, 0].square()


def _share(target: Target) -> float:
    """Of the angles above zero, by quadrature."""
    density = target.log_prob(torch.stack([torch.zeros_like(GRID), GRID], dim=1)).exp()
    return float(density[GRID > 0].sum() / density.sum())


def _circle(*wells: tuple[float, float, float]) -> np.ndarray:
    """Mixture of von Mises densities (share, centre, kappa) on BINS bins."""
    angle = -math.pi + 2 * math.pi * (np.arange(BINS) + 0.5) / BINS
    parts = [share * np.exp(k * (np.cos(angle - c) - 1)) / np.i0(k) / np.exp(-k) for share, c, k in wells]
    return np.sum(parts, axis=0) / BINS


def test_a_rare_basin_gets_its_share():
    target = _Wells(0.002)
    lifted = BiasedTarget(target, 0.05)
    assert _share(lifted) == pytest.approx(0.002, rel=1e-3)
    z = _uniform(50_000)
    lifted.update(z, _log_w(lifted, z))
    assert 0.045 < _share(lifted) < 0.055
    _, slope = lifted.bias(torch.tensor([[0.0, -1.5], [0.0, 1.5]], dtype=torch.float64))
    assert slope.abs().max() < 0.1  # level within a basin: its shape stays as it is


def test_common_basins_are_left_alone():
    lifted = BiasedTarget(VonMises(torch.zeros(1), torch.tensor([4.0]), modes=3), 0.05)
    z = _uniform(20_000)[:, 1:]
    lifted.update(z, lifted.log_prob(z))
    assert lifted.coefficients.abs().max() < 1e-12


def test_an_update_starts_from_the_target_itself():
    """Not from the bias before: a second one changes nothing, and says by how much weights change."""
    lifted = BiasedTarget(_Wells(0.002), 0.05)
    z = _uniform(5_000)
    log_w = _log_w(lifted, z)
    change = lifted.update(z, log_w)
    torch.testing.assert_close(log_w + change, _log_w(lifted, z), atol=1e-9, rtol=0)
    assert change.abs().max() > 1
    assert lifted.update(z, log_w + change).abs().max() < 1e-9


def test_the_bias_is_its_fourier_series():
    """Value and slope against sums of cosines and sines, for more rows than are evaluated at once."""
    lifted = BiasedTarget(_Wells(0.01), 0.05)
    periodic = torch.nonzero(lifted.periodic)[:, 0]
    random = torch.Generator().manual_seed(0)
    lifted.coefficients = torch.randn(len(periodic), 2 * ORDER, generator=random, dtype=torch.float64)
    z = 3 * torch.randn(ROWS + 500, lifted.dim, generator=random)
    k = torch.arange(1, ORDER + 1)
    phase, (a, b) = z[:, periodic, None].double() * k, lifted.coefficients.chunk(2, 1)
    bias, slope = lifted.bias(z)
    torch.testing.assert_close(bias, (a * phase.cos() + b * phase.sin()).sum((1, 2)))
    torch.testing.assert_close(slope, (k * (b * phase.cos() - a * phase.sin())).sum(2))
    target = BiasedTarget(_Wells(0.01), 0.05)
    before = lifted.update(z, torch.zeros(len(z), dtype=torch.float64))
    target.coefficients = lifted.coefficients
    torch.testing.assert_close(before, target.bias(z)[0] - bias)


def test_an_interrupted_update_changes_nothing(monkeypatch):
    """Else what is stored keeps the weights of before."""
    lifted, z = BiasedTarget(_Wells(0.01), 0.1), _uniform(2_000)
    calls, height = [], BiasedTarget._height

    def interrupted(self: BiasedTarget, z: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return height(self, z)

    monkeypatch.setattr(BiasedTarget, "_height", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lifted.update(z, _log_w(lifted, z))
    assert not lifted.coefficients.any()
    monkeypatch.undo()
    lifted.update(z, _log_w(lifted, z))
    assert lifted.coefficients.any()


def test_the_lift_is_bounded():
    lifted = BiasedTarget(_Wells(1e-7), 0.05)
    z = _uniform(20_000)
    lifted.update(z, _log_w(lifted, z))
    b, _ = lifted.bias(torch.tensor([[0.0, -1.5], [0.0, 1.5]], dtype=torch.float64))
    assert float(b[1] - b[0]) == pytest.approx(MAX_LIFT, abs=0.2)


def test_gradient_and_count():
    target = _Wells(0.01)
    lifted = BiasedTarget(target, 0.1)
    z = _uniform(2_000)
    lifted.update(z, _log_w(lifted, z))
    z = z[:50]
    target.evaluations = 0
    log_p, gradient = lifted.log_prob_and_gradient(z)
    assert target.evaluations == lifted.evaluations == 50
    torch.testing.assert_close(log_p, lifted.log_prob(z), atol=1e-12, rtol=0)
    for k in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[k] = 1e-5
        slope = (lifted.log_prob(z + step) - lifted.log_prob(z - step)) / 2e-5
        torch.testing.assert_close(gradient[:, k], slope, atol=1e-6, rtol=1e-6)


def test_points_of_zero_density_stay_so():
    class Half(_Wells):
        def log_prob(self, z: Tensor) -> Tensor:
            return torch.where(z[:, 0] > 0, super().log_prob(z), -torch.inf)

    lifted = BiasedTarget(Half(0.01), 0.1)
    z = _uniform(2_000)
    lifted.update(z, _log_w(lifted, z))
    log_p, gradient = lifted.log_prob_and_gradient(z)
    nothing = z[:, 0] <= 0
    assert torch.isinf(log_p[nothing]).all() and torch.isfinite(log_p[~nothing]).all()
    assert (gradient[nothing] == 0).all()


def test_no_circles_no_bias():
    class Line(Target):
        dim, periodic = 1, torch.tensor([False])

        def log_prob(self, z: Tensor) -> Tensor:
            return -z[:, 0].square()

    lifted = BiasedTarget(Line(), 0.05)
    z = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    assert (lifted.update(z, torch.zeros(5, dtype=torch.float64)) == 0).all()
    torch.testing.assert_close(lifted.log_prob(z), -z[:, 0].square())


@pytest.mark.parametrize(
    "wells,number",
    [
        ([(1.0, 0.0, 0.0)], 1),
        ([(1.0, 0.3, 10.0)], 1),
        ([(0.5, -1.0, 10.0), (0.5, 1.5, 10.0)], 2),
        ([(0.998, -1.0, 10.0), (0.002, 1.5, 10.0)], 2),
        ([(0.5, -0.5, 5.0), (0.5, 0.5, 5.0)], 1),  # one hump
        ([(0.5, -1.0, 3.0), (0.5, 0.6, 3.0)], 1),  # two, a low barrier between
        ([(1 / 3, c, 12.0) for c in (-2.1, 0.0, 2.1)], 3),
        ([(0.6, 3.1, 10.0), (0.4, 0.0, 10.0)], 2),  # across the seam
    ],
)
def test_number_of_basins(wells, number):
    label = label_basins(_circle(*wells))
    assert label.max() + 1 == number
    changes = (label != np.roll(label, 1)).sum()
    assert changes == (number if number > 1 else 0)  # each basin is one stretch of the circle


def test_borders_lie_on_the_barriers():
    density = _circle((0.7, -1.0, 15.0), (0.3, 1.0, 15.0))
    label = label_basins(density)
    borders = np.flatnonzero(label != np.roll(label, 1))
    barriers = [k for k in range(BINS) if density[k] <= min(density[k - 1], density[(k + 1) % BINS])]
    assert len(barriers) == len(borders) == 2
    assert all(min(abs(b - k) for k in barriers) <= 1 for b in borders)


def test_every_angle_has_its_bin() -> None:
    """Also at the seam, of whatever turn, and where rounding would make it one too many."""
    width = 2 * math.pi / BINS
    middles = -math.pi + width * (torch.arange(BINS) + 0.5)
    for turn in (0, 1, -2):
        assert circular_bins((middles + 2 * math.pi * turn).numpy()).tolist() == list(range(BINS))
    below = torch.tensor(-math.pi, dtype=torch.float64).nextafter(torch.tensor(-4.0, dtype=torch.float64))
    edges = torch.stack([below, torch.tensor(math.pi - 1e-12, dtype=torch.float64)])
    assert circular_bins(edges.numpy()).tolist() == [BINS - 1, BINS - 1]
    assert circular_bins(np.array([-math.pi + 1e-6])).tolist() == [0]
