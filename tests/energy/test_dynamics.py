"""One Langevin step: against OpenMM's integrator, free particles and exact distributions."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
import torch
from examples import chain
from md_examples import coordinates, exact_energy, exact_mean, exact_structures, z_scores

from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.energy.dynamics import LangevinMiddle, Motion, UnstableDynamicsError, repartitioned
from openmm_fab.ensemble.ensemble import Ensemble


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_friction_it_walks_where_openmm_walks(alanine_dipeptide) -> None:
    system, steps = alanine_dipeptide, 50
    rng = np.random.default_rng(0)
    x0 = system.positions + 0.002 * rng.normal(size=(2, system.n_atoms, 3))
    v0 = 0.5 * rng.normal(size=x0.shape)
    energy = CompiledEnergy(system, torch.float64)
    dynamics = LangevinMiddle(0.001, 0.0, system.kT, torch.as_tensor(system.masses))
    x, v = torch.as_tensor(x0), torch.as_tensor(v0)
    end = dynamics(
        Motion(x, v, *energy.value_and_gradient(x)),
        energy.value_and_gradient,
        steps,
        torch.ones(2).double(),
        generator(),
    )
    integrator = openmm.LangevinMiddleIntegrator(system.temperature, 0.0, 0.001)
    context = openmm.Context(system.system, integrator, openmm.Platform.getPlatformByName("Reference"))
    for k in range(2):
        context.setPositions(x0[k])
        context.setVelocities(v0[k])
        integrator.step(steps)
        state = context.getState(positions=True, velocities=True)
        assert np.abs(state.getPositions(asNumpy=True)._value - x0[k]).max() > 0.01
        np.testing.assert_allclose(end.x[k].numpy(), state.getPositions(asNumpy=True)._value, atol=1e-6)
        np.testing.assert_allclose(end.v[k].numpy(), state.getVelocities(asNumpy=True)._value, atol=1e-4)


def test_free_particles_forget_their_velocity_and_diffuse_as_they_should() -> None:
    n, step, friction, kT = 20_000, 0.05, 2.0, 2.5
    masses = torch.tensor([1.0, 16.0], dtype=torch.float64)
    dynamics = LangevinMiddle(step, friction, kT, masses)
    hot = torch.full((n,), 1.5, dtype=torch.float64)
    v = dynamics.thermal(hot) * torch.randn(n, 2, 3, generator=generator(1), dtype=torch.float64)
    x = torch.zeros_like(v)
    end = dynamics(Motion(x, v, x[:, 0, 0], x), lambda x: (torch.zeros_like(x[:, 0, 0]), 0 * x), 10, hot, generator(2))
    time = 10 * step
    for atom, mass in enumerate(masses.tolist()):
        variance = 1.5 * kT / mass
        error = np.sqrt(2 / (3 * n))
        assert float(end.v[:, atom].var()) == pytest.approx(variance, rel=4 * error)
        correlation = float((end.v[:, atom] * v[:, atom]).mean()) / variance
        assert correlation == pytest.approx(np.exp(-friction * time), abs=4 * error)
        # x = sum of half steps with v before and after; of a stationary AR(1) series with factor a:
        a, k = np.exp(-friction * step), np.arange(11)
        weight = step * np.where((k == 0) | (k == 10), 0.5, 1.0)
        exact = variance * weight @ a ** np.abs(k[:, None] - k) @ weight
        assert float(end.x[:, atom].var()) == pytest.approx(exact, rel=4 * error)
    assert float(dynamics.kinetic_temperature(end.v).mean()) == pytest.approx(1.5, rel=4 / np.sqrt(3 * n))


@pytest.fixture(scope="module")
def beads(tmp_path_factory):
    return chain(tmp_path_factory.mktemp("md"))


def test_the_chains_exact_structures_are_exact(beads) -> None:
    # The premise of the tests below: independent structures have the force field's energies and the right moments.
    x = exact_structures(beads.kT, 20_000, np.random.default_rng(2))
    u = CompiledEnergy(beads, torch.float64)(torch.as_tensor(x)).numpy()
    assert u.mean() == pytest.approx(exact_energy(beads.kT), abs=4 * u.std() / np.sqrt(len(u)))
    assert coordinates(x)[:, 7].std() > 1.0
    assert np.cos(coordinates(x)[:, 7]).mean() == pytest.approx(exact_mean(beads.kT, 7, np.cos), abs=0.02)


@pytest.mark.parametrize("factor", [1.0, 1.15])
def test_langevin_dynamics_leaves_the_exact_distribution_as_it_is(beads, factor) -> None:
    n = 3000
    energy = CompiledEnergy(beads, torch.float32)
    dynamics = LangevinMiddle(0.004, 1.0, beads.kT, torch.as_tensor(beads.masses))
    x = torch.as_tensor(exact_structures(beads.kT, n, np.random.default_rng(3)))
    temperature = torch.full((n,), factor, dtype=torch.float64)
    v = dynamics.thermal(temperature) * torch.randn(x.shape, generator=generator(4), dtype=x.dtype)
    start = Motion(x, v, *energy.value_and_gradient(x))
    end = dynamics(start, energy.value_and_gradient, 300, temperature, generator(5))
    moved = coordinates(end.x.numpy())[:, 7] - coordinates(x.numpy())[:, 7]
    assert np.abs(np.angle(np.exp(1j * moved))).mean() > 0.4
    ensemble = Ensemble(end.x.numpy(), end.u.numpy(), np.zeros(n), beads.md_topology, 300.0)
    scores = z_scores(ensemble, beads.kT)
    assert len(scores) == 21
    if factor == 1.0:
        assert max(map(abs, scores.values())) < 4, scores
        # Half-step velocities of this scheme have the right temperature whatever the step.
        kinetic = dynamics.kinetic_temperature(end.v)
        assert float(kinetic.mean()) == pytest.approx(1.0, abs=4 * float(kinetic.std()) / np.sqrt(n))
    else:
        assert scores["u"] > 4  # a temperature 15 % too high is seen


def test_too_long_a_step_is_an_error_with_advice(beads) -> None:
    energy = CompiledEnergy(beads, torch.float64)
    dynamics = LangevinMiddle(0.2, 1.0, beads.kT, torch.as_tensor(beads.masses))
    x = torch.as_tensor(beads.positions)[None]
    start = Motion(x, 0 * x, *energy.value_and_gradient(x))
    with pytest.raises(UnstableDynamicsError, match=r"1 of 1 walkers.*200 fs.*smaller step_fs"):
        dynamics(start, energy.value_and_gradient, 500, torch.ones(1).double(), generator())


def test_heavy_hydrogens_take_their_mass_from_their_neighbours(alanine_dipeptide) -> None:
    masses = repartitioned(alanine_dipeptide, 3.0)
    hydrogen = np.array(alanine_dipeptide.elements) == "H"
    np.testing.assert_allclose(masses[hydrogen], 3.0)
    assert masses.sum() == pytest.approx(alanine_dipeptide.masses.sum()) and (masses[~hydrogen] > 5).all()
    np.testing.assert_array_equal(repartitioned(alanine_dipeptide, None), alanine_dipeptide.masses)
    with pytest.raises(ValueError, match="leaves other atoms heavier"):
        repartitioned(alanine_dipeptide, 4.5)
