"""Free energies of generators and ensembles against quadrature, on the five-bead chain and a backbone torsion."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import openmm
import pytest
import torch
from ensembles import backbone
from examples import GaussianFlow
from generators import SETTINGS, chain_marginals
from scipy.special import i0
from torch import Tensor

from openmm_fab.ais.annealing import AISSettings
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.free_energy.coordinate import coordinate_values
from openmm_fab.free_energy.differences import (
    flow_samples,
    free_energy_difference,
    free_energy_difference_bar,
    mbar,
    reweight_energy,
    reweight_temperature,
    temperature_difference,
    temperature_energy,
)
from openmm_fab.free_energy.estimators import exponential_average
from openmm_fab.free_energy.populations import basin_populations
from openmm_fab.free_energy.profiles import profile, surface
from openmm_fab.generator import partition
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.partition import ais_log_weights, flow_energy, log_z_ais, log_z_bar
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.target import Gaussian, VonMises
from openmm_fab.train.settings import Budget

STIFFER = 1.8


def chain_log_z(kT: float, torsions: float = 1.0) -> float:
    return float(sum(np.log(np.trapezoid(p, grid)) for grid, p in chain_marginals(kT, torsions)))


def exact_chain(n: int, kT: float, rng: np.random.Generator, torsions: float = 1.0) -> np.ndarray:
    """Independent structures (n, 5, 3) from the chain's Boltzmann distribution."""
    drawn = []
    for grid, p in chain_marginals(kT, torsions):
        cdf = np.concatenate([[0.0], np.cumsum(0.5 * (p[1:] + p[:-1]))])
        drawn.append(np.interp(rng.random(n), cdf / cdf[-1], grid))
    bond, angle, torsion = drawn[:4], drawn[4:7], drawn[7:]
    x = np.zeros((n, 5, 3))
    x[:, 1, 0] = bond[0]
    x[:, 2] = x[:, 1] + bond[1][:, None] * np.stack([-np.cos(angle[0]), np.sin(angle[0]), 0 * angle[0]], 1)
    for k in (3, 4):
        x[:, k] = _placed(*x[:, k - 3 : k].transpose(1, 0, 2), bond[k - 1], angle[k - 2], torsion[k - 3])
    return x


def _placed(a: np.ndarray, b: np.ndarray, c: np.ndarray, r: np.ndarray, angle: np.ndarray, torsion: np.ndarray):
    u = (c - b) / np.linalg.norm(c - b, axis=1, keepdims=True)
    normal = np.cross(b - a, u)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    side, r, angle, t = np.cross(normal, u), r[:, None], angle[:, None], torsion[:, None]
    return c + r * (-np.cos(angle) * u + np.sin(angle) * (np.cos(t) * side + np.sin(t) * normal))


@pytest.fixture(scope="module")
def stiffer(system) -> MolecularSystem:
    """The chain under another force field: its torsional terms times `STIFFER`."""
    other = openmm.XmlSerializer.clone(system.system)
    (force,) = [f for f in other.getForces() if isinstance(f, openmm.PeriodicTorsionForce)]
    for i in range(force.getNumTorsions()):
        *rest, k = force.getTorsionParameters(i)
        force.setTorsionParameters(i, *rest, STIFFER * k)
    return MolecularSystem.from_openmm(system.topology, other, system.positions, temperature=system.temperature)


@pytest.fixture(scope="module")
def generator(system) -> BoltzmannGenerator:
    """A little trained: an effective sample size of a few tens of per cent."""
    generator = BoltzmannGenerator(system, SETTINGS)
    generator.train(Budget(iterations=60), progress=False, compile=False, evaluate_every=1e9, evaluate_samples=64)
    return generator


def reference(system: MolecularSystem, n: int, seed: int, torsions: float = 1.0, scale: float = 1.0) -> Ensemble:
    """Exact, independent frames at kT times scale."""
    x = exact_chain(n, system.kT * scale, np.random.default_rng(seed), torsions)
    ensemble = Ensemble(x, np.zeros(n), np.zeros(n), system.md_topology, system.temperature * scale)
    u = reweight_energy(ensemble, system).u / scale
    return Ensemble(x, u, np.zeros(n), system.md_topology, system.temperature * scale)


def within(found, exact: float, errors: float = 3.5) -> None:
    assert found.trusted, found
    assert found.error > 0 and abs(found.value - exact) < errors * found.error, f"{found}, exactly {exact:.4f}"


def test_log_z_of_a_generator_by_every_estimator(system, generator) -> None:
    exact = chain_log_z(system.kT)
    samples, md = generator.sample(4000), reference(system, 2000, 1)
    with pytest.raises(ValueError, match="Expected AISSettings without resampling"):
        log_z_ais(generator, 2000, settings=AISSettings(alpha=1.0, intermediate=3, resample=0.5))
    one_sided, annealed = samples.log_z, log_z_ais(generator, 2000, settings=AISSettings(alpha=1.0, intermediate=3))
    two_sided, drawn = log_z_bar(generator, md, samples=samples), log_z_bar(generator, md, samples=4000)
    for found in (one_sided, annealed, two_sided, drawn):
        within(found, exact)
    assert annealed.ess / 2000 > samples.ess_fraction and two_sided.error < one_sided.error
    assert "targeted BAR" in str(two_sided) and "AIS over 3" in str(annealed) and 0 < two_sided.overlap < 1
    states = mbar([flow_samples(samples), md], [flow_energy(generator), generator.energy])
    assert -states.value[1] == pytest.approx(two_sided.value, abs=1e-3)
    assert states.error[1] == pytest.approx(two_sided.error, rel=1e-2)


def test_between_force_fields(system, stiffer, generator) -> None:
    exact = -(chain_log_z(system.kT, STIFFER) - chain_log_z(system.kT))
    flow, md = generator.sample(6000), reference(system, 4000, 2)
    other = reference(stiffer, 2000, 3, STIFFER)
    for found in (
        free_energy_difference(flow, stiffer),
        free_energy_difference(md, stiffer),
        free_energy_difference_bar(md, other, system, stiffer),
        free_energy_difference_bar(flow, other, system, stiffer),  # a weighted ensemble is resampled first
        mbar([md, other], [system, stiffer]).difference(0, 1),
        -(reweight_energy(flow, stiffer).log_z - flow.log_z),
    ):
        within(found, exact)
    assert free_energy_difference_bar(md, other, system, stiffer).error < free_energy_difference(md, stiffer).error


def test_between_temperatures(system, generator) -> None:
    hot = 350.0
    scale = hot / system.temperature
    exact = -(chain_log_z(system.kT * scale) - chain_log_z(system.kT))
    flow, cold, warm = generator.sample(6000), reference(system, 4000, 4), reference(system, 4000, 5, scale=scale)
    within(temperature_difference(cold, hot), exact)
    within(temperature_difference(flow, hot), exact)
    within(-temperature_difference(warm, system.temperature), exact)
    at_hot = temperature_energy(system, hot)
    within(mbar([cold, warm], [system, at_hot]).difference(0, 1), exact)
    within(free_energy_difference_bar(cold, warm, system, at_hot), exact)
    moved = reweight_temperature(cold, hot)
    assert moved.temperature == hot
    np.testing.assert_allclose(moved.u, cold.u / scale)
    within(reweight_temperature(flow, hot).log_z, chain_log_z(system.kT * scale))
    assert not temperature_difference(cold, 3 * hot).trusted


@pytest.mark.parametrize("which", ["gaussian", "torsion"])
def test_ais_known_log_z_with_calibrated_errors(which: str) -> None:
    """From a normal density that is too wide and off centre; the torsion's from a uniform one."""
    if which == "gaussian":
        flow = GaussianFlow(torch.zeros(2, dtype=torch.float64), torch.full((2,), 1.5, dtype=torch.float64))
        target = Gaussian(torch.tensor([0.8, -0.5]).double(), torch.tensor([0.9, 0.6]).double(), log_z=1.7)
        exact = 1.7
    else:
        flow = Uniform()
        target, exact = VonMises(torch.zeros(1).double(), torch.tensor([2.0]).double(), modes=2), 0.0
    settings = AISSettings(alpha=1.0, intermediate=3, leapfrogs=2, step_size=0.5)
    z, ess = [], []
    for seed in range(200):
        log_w = ais_log_weights(
            flow, target, 300, settings=settings, rng=torch.Generator().manual_seed(seed), batch=300, pilots=1
        )
        found = exponential_average(log_w)
        z.append((found.value - exact) / found.error)
        ess.append(found.ess)
    log_w = ais_log_weights(flow, target, 3000, settings=AISSettings(alpha=1.0, intermediate=0))
    assert np.mean(ess) / 300 > 1.2 * exponential_average(log_w).ess / 3000  # the annealing does something
    assert abs(np.mean(z)) < 3.0 / math.sqrt(200) + 0.1
    assert 0.8 < np.std(z, ddof=1) < 1.25 and np.abs(z).max() < 4.5


class Uniform:
    """One angle, uniform on the circle."""

    def sample(self, n: int, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        z = (2 * torch.rand(n, 1, generator=rng, dtype=torch.float64) - 1) * math.pi
        return z, self.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.full((len(z),), -math.log(2 * math.pi), dtype=torch.float64)

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_prob(z), torch.zeros_like(z)


def test_ais_refuses_weights_that_belong_to_another_density() -> None:
    flow = GaussianFlow(torch.zeros(1), torch.ones(1))
    with pytest.raises(ValueError, match="alpha = 2"):
        ais_log_weights(flow, Gaussian(torch.zeros(1), torch.ones(1)), 10, settings=AISSettings(alpha=2.0))


# --- one torsion: ensembles whose energy is kappa cos(phi) ---


def phi_of(x: Tensor) -> Tensor:
    b = x[:, 1:4] - x[:, 0:3]
    n1, n2 = torch.linalg.cross(b[:, 0], b[:, 1]), torch.linalg.cross(b[:, 1], b[:, 2])
    m = torch.linalg.cross(n1, b[:, 1] / b[:, 1].norm(dim=1, keepdim=True))
    return torch.atan2(-(m * n2).sum(1), (n1 * n2).sum(1))


def torsion_energy(x: Tensor, kappa: float) -> Tensor:
    return -kappa * phi_of(x).cos()


def torsion_ensemble(kappa: float, n: int, seed: int, **fields) -> Ensemble:
    phi = np.random.default_rng(seed).vonmises(0.0, kappa, n)
    return backbone(phi, np.zeros(n), u=-kappa * np.cos(phi), **fields)


def test_a_torsion_of_known_free_energy() -> None:
    soft, hard = torsion_ensemble(0.5, 3000, 0), torsion_ensemble(1.5, 3000, 1)
    exact = -np.log(i0(1.5) / i0(0.5))
    energies = [partial(torsion_energy, kappa=k) for k in (0.5, 1.5, 1.0)]
    within(free_energy_difference(soft, energies[1]), exact)
    within(free_energy_difference_bar(soft, hard, *energies[:2]), exact)
    states = mbar([soft, hard], energies)
    within(states.difference(0, 1), exact)
    within(states.difference(0, 2), -np.log(i0(1.0) / i0(0.5)))
    blocks = torsion_ensemble(0.5, 3000, 0, block=np.arange(3000) // 100)
    assert free_energy_difference(blocks, energies[1]).value == free_energy_difference(soft, energies[1]).value
    assert free_energy_difference(blocks, energies[1]).error != free_energy_difference(soft, energies[1]).error


def test_what_cannot_be_is_refused() -> None:
    md = torsion_ensemble(1.0, 50, 0)
    for estimate in (lambda: log_z_ais(md), lambda: log_z_bar(md, md)):
        with pytest.raises(ValueError, match="Expected a BoltzmannGenerator; got Ensemble"):
            estimate()
    with pytest.raises(ValueError, match="without log_q"):
        md.log_z  # noqa: B018
    with pytest.raises(ValueError, match="without log_q"):
        flow_samples(md)
    ones = np.ones(50)
    drawn = replace(md, u=ones, log_w=-2 * ones, log_q=ones)
    assert drawn.log_z.value == pytest.approx(-2.0)
    with pytest.raises(ValueError, match="whose level says nothing of Z"):
        flow_samples(drawn).log_z  # noqa: B018
    with pytest.raises(ValueError, match="without log_q"):
        drawn.resample(20).log_z  # noqa: B018
    with pytest.raises(ValueError, match="energies"):
        free_energy_difference(backbone(np.zeros(3), np.zeros(3)), np.zeros(3))
    with pytest.raises(ValueError, match="one energy a frame"):
        free_energy_difference(md, np.zeros(49))
    with pytest.raises(ValueError, match="0 K"):
        temperature_difference(md, 0.0)
    with pytest.raises(ValueError, match="energy for each ensemble"):
        mbar([md, md], [np.zeros(50)])


# --- coordinates, profiles, basins ---


def test_coordinates_by_name_atoms_and_function() -> None:
    rng = np.random.default_rng(0)
    phi, psi = rng.uniform(-np.pi, np.pi, (2, 40))
    ensemble = backbone(phi, psi)
    np.testing.assert_allclose(coordinate_values(ensemble, "phi"), phi, atol=1e-4)
    np.testing.assert_allclose(coordinate_values(ensemble, "psi ALA2"), psi, atol=1e-4)
    np.testing.assert_allclose(coordinate_values(ensemble, (0, 1, 2, 3)), phi, atol=1e-4)
    np.testing.assert_allclose(coordinate_values(ensemble, (1, 2, 3)), np.deg2rad(110.0), atol=1e-4)
    ends = np.linalg.norm(ensemble.x[:, 4] - ensemble.x[:, 0], axis=1)
    np.testing.assert_allclose(coordinate_values(ensemble, (0, 4)), ends, atol=1e-6)
    np.testing.assert_allclose(
        coordinate_values(ensemble, lambda t: np.linalg.norm(t.xyz[:, 4] - t.xyz[:, 0], axis=1)), ends
    )
    assert coordinate_values(ensemble, "rg").shape == (40,)
    with pytest.raises(ValueError, match="omega"):
        coordinate_values(ensemble, "omega")
    with pytest.raises(ValueError, match=r"\(40, 2\)"):
        coordinate_values(ensemble, lambda t: np.zeros((40, 2)))


def test_unweighted_profiles_and_surfaces_are_numpys_histograms() -> None:
    rng = np.random.default_rng(1)
    phi, psi = rng.vonmises(1.0, 2.0, 5000), rng.vonmises(-1.0, 1.0, 5000)
    ensemble = backbone(phi, psi)
    counts = np.histogram(phi, 30, (-np.pi, np.pi))[0]
    result = profile(ensemble, phi, bins=30, n_bootstrap=0)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(result.value, -np.log(counts / counts.max()), atol=1e-12)
    distance = coordinate_values(ensemble, (0, 4))
    by_atoms = profile(ensemble, (0, 4), bins=12)
    counts, edges = np.histogram(distance, 12)
    np.testing.assert_allclose(by_atoms.probability, counts / 5000, atol=1e-12)
    np.testing.assert_allclose(by_atoms.edges, edges)
    binomial = np.sqrt((1 - counts / 5000) / counts)
    np.testing.assert_allclose(by_atoms.error, binomial, rtol=0.25)
    both = surface(ensemble, phi, lambda t: distance, bins=9, range=((-np.pi, np.pi), (0.2, 0.5)))
    with pytest.raises(ValueError, match="or None for either; got"):
        surface(ensemble, phi, phi, range=(-np.pi, np.pi))
    expected = np.histogram2d(phi, distance, 9, ((-np.pi, np.pi), (0.2, 0.5)))[0] / 5000
    np.testing.assert_allclose(both.probability, expected, atol=1e-12)
    with pytest.raises(ValueError, match="differ"):
        profile(ensemble, (0, 1))


def test_named_basins_with_calibrated_errors() -> None:
    """Weights exp(kappa cos phi) on a uniform angle; three basins, one outside, F from quadrature."""
    kappa, edges, z = 1.0, {"a": (-1.0, 0.5), "b": (0.5, 2.0), "c": (2.0, 3.0)}, []
    grid = np.linspace(-np.pi, np.pi, 200_001)
    p = np.exp(kappa * np.cos(grid)) / np.exp(kappa * np.cos(grid)).sum()
    exact = np.array([p[(grid >= low) & (grid < high)].sum() for low, high in edges.values()])
    for seed in range(60):
        phi = np.random.default_rng(seed).uniform(-np.pi, np.pi, 1500)
        masks = {name: (phi >= low) & (phi < high) for name, (low, high) in edges.items()}
        found = basin_populations(backbone(phi, phi, log_w=kappa * np.cos(phi)), masks, n_bootstrap=100, seed=seed)
        z.append((found.between("a", "c").value + np.log(exact[2] / exact[0])) / found.between("a", "c").error)
        z += list((found.population.value - exact) / found.population.error)
    assert abs(np.mean(z)) < 0.35 and 0.8 < np.std(z) < 1.25
    assert found.elsewhere.value == pytest.approx(1 - found.population.value.sum())
    assert found.between("b", "a").value == -found.between("a", "b").value and found.notes == {}
    np.testing.assert_array_equal(np.diag(found.difference.error), 0.0)


def test_missed_and_rare_basins_are_reported() -> None:
    phi = np.concatenate([np.full(95, -1.0), np.full(5, 1.0)])
    ensemble = backbone(phi, phi, block=np.arange(100) // 2)
    definitions = {"alpha": lambda t: phi < 0, "left": phi > 0, "nowhere": phi > 2}
    found = basin_populations(ensemble, definitions)
    assert "missed" in found.notes["nowhere"] and "only 2.8 effective blocks" in found.notes["left"]
    assert found.between("alpha", "nowhere").value == np.inf and np.isnan(found.between("alpha", "nowhere").error)
    assert "elsewhere" in str(found) and "missed" in str(found)
    stuck = basin_populations(backbone(phi, phi, block=np.where(phi > 0, 1, 0)), {"alpha": phi < 0})
    assert "only 1.0 effective blocks" in stuck.notes["alpha"]
    with pytest.raises(ValueError, match="overlap"):
        basin_populations(ensemble, {"a": phi < 2, "b": phi > 0})
    with pytest.raises(ValueError, match="boolean"):
        basin_populations(ensemble, {"a": phi})
    with pytest.raises(ValueError, match="nobody"):
        found.between("alpha", "nobody")


def test_reweighted_frames_have_the_other_energy() -> None:
    rng = np.random.default_rng(2)
    log_w = np.array([0.0, 1.0, -np.inf, 0.5, 0.0])
    u, new = rng.normal(size=5), np.array([1.0, -2.0, 3.0, np.inf, np.nan])
    found = reweight_energy(backbone(np.zeros(5), np.zeros(5), u=u, log_w=log_w), new)
    np.testing.assert_allclose(found.u[[0, 1]], new[:2])
    np.testing.assert_allclose(found.log_w, [u[0] - 1.0, 1.0 + u[1] + 2.0, -np.inf, -np.inf, -np.inf])
    assert found.invalid == 3
    cold = backbone(np.zeros(5), np.zeros(5), u=u, temperature=300.0)
    hot = reweight_temperature(cold, 400.0)
    np.testing.assert_allclose(hot.u, 0.75 * u)
    np.testing.assert_allclose(hot.log_w, 0.25 * u)
    assert hot.temperature == 400.0


def test_ensembles_of_two_temperatures_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(partition, "_check", lambda generator: None)
    generator = SimpleNamespace(system=None)
    flow = backbone(np.zeros(3), np.zeros(3), u=np.zeros(3), log_q=np.zeros(3))
    other = backbone(np.zeros(3), np.zeros(3), u=np.zeros(3), temperature=300.01)
    with pytest.raises(ValueError, match="at one temperature"):
        log_z_bar(generator, other, samples=flow)
