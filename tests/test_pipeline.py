"""The whole pipeline against quadrature: a chain whose bonds, angles and torsions are independent.

molecule -> energy, coordinates -> target -> flow -> ais -> train -> ensemble. First a few samples wing by wing, then
what all of them together say: without nonbonded forces p(r) ~ r^2 exp(-u), p(theta) ~ sin(theta) exp(-u),
p(phi) ~ exp(-u), and log Z is the sum of the logarithms of these one-dimensional integrals.
"""

from __future__ import annotations

from collections.abc import Callable

import mdtraj
import numpy as np
import pytest
import torch
from examples import ANGLES, BONDS, TORSIONS

from openmm_fab.ais.annealing import AISSettings, anneal_to_target, run_ais
from openmm_fab.energy.regularization import regularize
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.target import BoltzmannTarget
from openmm_fab.tools.circle import wrap
from openmm_fab.train.buffer import ReplayBuffer
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.weights import Estimate, log_mean_weight, weighted_mean, z_score

pytestmark = pytest.mark.base

SAMPLES = 30_000
SETTINGS = GeneratorSettings(
    flow=FlowSettings(layers=4, hidden=48),
    train=TrainSettings(
        batch=128, updates=8, buffer_min=8, warmup=50, learning_rate=2e-3, ais=AISSettings(intermediate=1, leapfrogs=3)
    ),
)


class Density:
    """An unnormalised density in one variable, on a grid."""

    def __init__(self, u: Callable[[np.ndarray], np.ndarray], measure, low: float, high: float) -> None:
        self.x = np.linspace(low, high, 100_001)
        f = measure(self.x) * np.exp(-u(self.x))
        self.z = np.trapezoid(f, self.x)
        self.f = f / self.z

    def mean(self, values: np.ndarray) -> float:
        return float(np.trapezoid(values * self.f, self.x))

    def moments(self) -> list[tuple[str, Callable[[np.ndarray], np.ndarray], float]]:
        """Mean and variance, as functions of samples with their exact expectations."""
        mean = self.mean(self.x)
        variance = self.mean((self.x - mean) ** 2)
        return [("mean", lambda v: v, mean), ("variance", lambda v: (v - mean) ** 2, variance)]

    def bins(self, n: int) -> list[tuple[str, Callable[[np.ndarray], np.ndarray], float]]:
        edges = np.linspace(self.x[0], self.x[-1], n + 1)
        cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (self.f[1:] + self.f[:-1]) * np.diff(self.x))])
        shares = np.diff(np.interp(edges, self.x, cumulative))
        return [
            (f"bin {k}", lambda v, a=edges[k], b=edges[k + 1]: ((v >= a) & (v < b)).astype(float), float(shares[k]))
            for k in range(n)
        ]


def _densities(kT: float) -> dict[str, list[Density]]:
    def torsion(terms):
        return lambda phi: sum(k * (1 + np.cos(m * phi - phase)) for m, phase, k in terms) / kT

    return {
        "r": [Density(lambda r, a=a, k=k: k / 2 * (r - a) ** 2 / kT, np.square, 0.5 * a, 1.5 * a) for a, k in BONDS],
        "theta": [Density(lambda t, a=a, k=k: k / 2 * (t - a) ** 2 / kT, np.sin, 0.0, np.pi) for a, k in ANGLES],
        "phi": [Density(torsion(terms), np.ones_like, -np.pi, np.pi) for terms in TORSIONS],
    }


def _measured(ensemble: Ensemble) -> dict[str, np.ndarray]:
    """mdtraj's bond lengths, angles and torsions: not our own."""
    trajectory, atoms = ensemble.to_mdtraj(), np.arange(5)
    runs = {k: np.stack([atoms[i : 6 - k + i] for i in range(k)], 1) for k in (2, 3, 4)}
    return {
        "r": mdtraj.compute_distances(trajectory, runs[2], periodic=False, opt=False),
        "theta": mdtraj.compute_angles(trajectory, runs[3], periodic=False, opt=False),
        "phi": mdtraj.compute_dihedrals(trajectory, runs[4], periodic=False, opt=False),
    }


def _z_scores(
    log_w: np.ndarray, measured: dict[str, np.ndarray], densities: dict[str, list[Density]]
) -> dict[str, float]:
    scores = {}
    for kind, group in densities.items():
        for column, density in enumerate(group):
            for name, function, exact in density.bins(12) if kind == "phi" else density.moments():
                estimate = weighted_mean(log_w, function(measured[kind][:, column].astype(np.float64)))
                scores[f"{kind}{column} {name}"] = z_score(estimate, Estimate(exact, 0.0))
    return scores


@pytest.fixture(scope="module")
def trained(system, energy):
    generator = BoltzmannGenerator(system, SETTINGS, energy=energy)
    generator.train(Budget(iterations=60), progress=False, compile=False, evaluate_every=1e9, evaluate_samples=128)
    ensemble = generator.sample(SAMPLES)
    return generator, ensemble, _measured(ensemble), _densities(system.kT)


def _exact_log_z(densities: dict[str, list[Density]]) -> float:
    return float(sum(np.log(d.z) for group in densities.values() for d in group))


@torch.no_grad()
def test_the_way_of_a_batch(trained, system, energy):
    """Each wing by itself, from the flow to the weights; `sample` gives the same numbers."""
    generator, _, _, densities = trained
    flow, coordinates = generator.flow, generator.coordinates
    target = BoltzmannTarget(energy, coordinates)

    z, log_q = flow.sample(generator.batch, torch.Generator().manual_seed(5))  # z ~ q
    x, log_det = coordinates.to_cartesian(z.double())  # x(z), log |dx/dz|
    back, minus_log_det = coordinates.to_internal(x)
    off = torch.where(coordinates.periodic, wrap(back - z), back - z)  # angles come back but for whole turns
    assert off.abs().max() < 1e-8
    torch.testing.assert_close(minus_log_det, -log_det)
    u = energy(x)  # U(x) / kT
    log_p = target.log_prob(z.double())
    torch.testing.assert_close(log_p, log_det - u)
    log_w = log_p - log_q.double()

    ensemble = generator.sample(generator.batch, seed=5)
    np.testing.assert_allclose(ensemble.x, x)
    np.testing.assert_allclose(ensemble.u, u)
    np.testing.assert_allclose(ensemble.log_w, log_w)
    np.testing.assert_allclose(ensemble.log_q, log_q.double() - log_det)  # the density of x

    # In training: from q towards p^2 / q, into the buffer, and back out by weight.
    annealed = run_ais(flow, target, 64, SETTINGS.train.ais, [0.1], rng=torch.Generator().manual_seed(6))
    assert annealed.points.z.shape == (64, coordinates.dim) and torch.isfinite(annealed.log_w).all()
    points = annealed.points
    buffer = ReplayBuffer(64, coordinates.dim)
    buffer.add(points.z, annealed.log_w, points.log_q, points.grad_log_p)
    drawn = buffer.sample(16, torch.Generator().manual_seed(7))
    assert all((points.z == z).all(1).any() for z in drawn.z)

    # To evaluate: from q to p itself, whose mean weight is Z.
    _, log_w = anneal_to_target(
        flow, target, 512, AISSettings(alpha=1.0), rng=torch.Generator().manual_seed(8), batch=512
    )
    assert abs(z_score(log_mean_weight(log_w.numpy()), Estimate(_exact_log_z(densities), 0.0))) < 4


def test_log_z(trained):
    _, ensemble, _, densities = trained
    assert ensemble.ess_fraction > 0.3
    estimate = ensemble.log_z
    assert estimate.error < 0.01
    assert abs(estimate.value - _exact_log_z(densities)) < 0.03
    assert abs(z_score(estimate, Estimate(_exact_log_z(densities), 0.0))) < 4


def test_every_marginal(trained):
    _, ensemble, measured, densities = trained
    scores = _z_scores(ensemble.log_w, measured, densities)
    assert len(scores) == 4 * 2 + 3 * 2 + 2 * 12
    worst = max(scores, key=lambda k: abs(scores[k]))
    assert abs(scores[worst]) < 4.5, (worst, scores[worst])
    assert (
        0.5 < np.sqrt(np.mean(np.square(list(scores.values())))) < 1.5
    )  # the errors are neither too small nor too large


def test_errors_are_small(trained):
    """Below 1 %: of the mean bond length and angle, of the probability of a torsion's half-circle."""
    _, ensemble, measured, densities = trained
    for kind in ("r", "theta"):
        for column, density in enumerate(densities[kind]):
            estimate = weighted_mean(ensemble.log_w, measured[kind][:, column])
            assert estimate.error < 0.01 * density.mean(density.x)
    for column in range(2):
        assert weighted_mean(ensemble.log_w, measured["phi"][:, column] > 0).error < 0.01


def test_wrong_weights_would_fail(trained):
    """Unweighted samples, a missing r^2 or sin(theta): all of them are seen by the same test."""
    _, ensemble, measured, densities = trained

    def worst(log_w: np.ndarray) -> float:
        return max(abs(v) for v in _z_scores(log_w, measured, densities).values())

    log_w = ensemble.log_w
    assert worst(np.where(np.isfinite(log_w), 0.0, -np.inf)) > 5.5
    assert worst(log_w - 2 * np.log(measured["r"]).sum(1)) > 8
    assert worst(log_w - np.log(np.sin(measured["theta"])).sum(1)) > 5.5


def test_regularised_energies_would_be_wrong(trained):
    """Weights from an energy that is tamed too early and too much give another log Z."""
    _, ensemble, _, densities = trained
    u = torch.from_numpy(ensemble.u)
    tame = regularize(u, cut=float(u.min()) + 3.0, dim=1).numpy()
    estimate = log_mean_weight(ensemble.log_w + ensemble.u - tame)
    assert estimate.value - _exact_log_z(densities) > 2.0
    assert z_score(estimate, Estimate(_exact_log_z(densities), 0.0)) > 5
