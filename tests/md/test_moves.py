"""The flow as an MCMC move: marginals of the chain by quadrature, velocities and orientations, refusals, files."""

from __future__ import annotations

import copy
import subprocess
import sys

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from generators import SETTINGS, chain_marginals
from openmm import unit

from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.molecule.units import GAS_CONSTANT
from openmm_fab.train.settings import Budget

pytest.importorskip("openmmtools")
from openmmtools.mcmc import LangevinDynamicsMove, MCMCSampler, SequenceMove
from openmmtools.states import SamplerState, ThermodynamicState

from openmm_fab.md.moves import FlowProposalMove


@pytest.fixture(scope="module")
def generator(system) -> BoltzmannGenerator:
    generator = BoltzmannGenerator(system, SETTINGS)
    generator.train(Budget(iterations=10), progress=False, compile=False, evaluate_every=1e9, evaluate_samples=64)
    return generator


def state_of(system: MolecularSystem, temperature: float | None = None) -> ThermodynamicState:
    return ThermodynamicState(system.system, (temperature or system.temperature) * unit.kelvin)


def start_of(system: MolecularSystem) -> SamplerState:
    return SamplerState(system.minimum * unit.nanometer)


def positions(state: SamplerState) -> np.ndarray:
    return state.positions.value_in_unit(unit.nanometer).copy()


def internal(x: np.ndarray, system: MolecularSystem) -> list[np.ndarray]:
    """Bonds, angles and torsions of the chain, as `chain_marginals` orders them."""
    trajectory = mdtraj.Trajectory(x, system.md_topology)
    bonds = mdtraj.compute_distances(trajectory, [(i, i + 1) for i in range(4)], periodic=False)
    angles = mdtraj.compute_angles(trajectory, [(i, i + 1, i + 2) for i in range(3)], periodic=False)
    torsions = mdtraj.compute_dihedrals(trajectory, [(i, i + 1, i + 2, i + 3) for i in range(2)], periodic=False)
    return [*bonds.T, *angles.T, *torsions.T]


def marginal_z(values: np.ndarray, grid: np.ndarray, p: np.ndarray, bins: int = 6) -> np.ndarray:
    """z-scores of the shares in bins of equal exact probability, errors from 40 time blocks."""
    cdf = np.concatenate([[0.0], np.cumsum(0.5 * (p[1:] + p[:-1]))])
    share = np.interp(values, grid, cdf / cdf[-1])
    index = np.minimum((bins * share).astype(int), bins - 1)
    blocks = np.array([np.bincount(part, minlength=bins) / len(part) for part in np.array_split(index, 40)])
    return (blocks.mean(0) - 1 / bins) / (blocks.std(0, ddof=1) / np.sqrt(len(blocks)))


# --- the move ---


def run(move, system: MolecularSystem, n: int) -> np.ndarray:
    state, sampler = state_of(system), start_of(system)
    frames = np.empty((n, system.n_atoms, 3))
    for k in range(n):
        move.apply(state, sampler)
        frames[k] = positions(sampler)
    return frames


def test_a_flow_of_several_temperatures_proposes_at_that_of_the_state(system) -> None:
    several = BoltzmannGenerator(system, SETTINGS)
    several.train(Budget(iterations=10), temperatures=(300, 600), progress=False, compile=False, evaluate_every=1e9)
    move, sampler = FlowProposalMove(several, n_proposals=4, batch=4096, seed=3), start_of(system)
    hot, frames = state_of(system, 500.0), np.empty((1500, system.n_atoms, 3))
    for k in range(len(frames)):
        move.apply(hot, sampler)
        frames[k] = positions(sampler)
    assert 0.05 < move.acceptance < 0.95
    z = [
        marginal_z(values, *marginal)
        for values, marginal in zip(internal(frames, system), chain_marginals(GAS_CONSTANT * 500.0), strict=True)
    ]
    assert np.abs(z).max() < 4.5 and np.std(z) < 1.6
    before = positions(sampler)
    move.apply(state_of(system), sampler)  # the same structure has another weight at 300 K
    with torch.no_grad():
        u = float(several.energy(torch.from_numpy(before)[None]))
    assert move._log_w(before) == pytest.approx(-u - float(several.log_prob(before[None], 300.0)), abs=1e-6)
    with pytest.raises(ValueError, match="state at the generator's 300 K; got 700 K"):
        move.apply(state_of(system, 700.0), sampler)


def test_marginals_of_the_chain_by_quadrature(system, generator) -> None:
    move = FlowProposalMove(generator, n_proposals=4, batch=4096, seed=3)
    frames = run(move, system, 3000)
    assert move.n_proposed == 12_000 and 0.05 < move.acceptance < 0.95
    z = [
        marginal_z(values, grid, p)
        for values, (grid, p) in zip(internal(frames, system), chain_marginals(system.kT), strict=True)
    ]
    assert np.abs(z).max() < 4.5 and np.std(z) < 1.4
    # The flow alone is something else: without the Metropolis step this test fails.
    raw = internal(generator.sample(6000, seed=5).x, system)
    worst = [np.abs(marginal_z(v, *m)).max() for v, m in zip(raw, chain_marginals(system.kT), strict=True)]
    assert max(worst) > 8.0


class SeededLangevin(LangevinDynamicsMove):
    def _get_integrator(self, thermodynamic_state: ThermodynamicState) -> openmm.Integrator:
        integrator = super()._get_integrator(thermodynamic_state)
        integrator.setRandomNumberSeed(1)
        return integrator


def test_mixed_with_langevin_dynamics(system, generator) -> None:
    langevin = SeededLangevin(
        timestep=0.5 * unit.femtosecond, collision_rate=50 / unit.picosecond, n_steps=10, reassign_velocities=False
    )
    flow = FlowProposalMove(generator, n_proposals=2, batch=4096, seed=4)
    frames = run(SequenceMove([flow, langevin]), system, 1200)
    assert flow.n_proposed == 2400 and flow.n_accepted > 120
    assert np.abs(np.diff(frames, axis=0)).max((1, 2)).min() > 0  # Langevin moves between the jumps
    z = [
        marginal_z(values, grid, p)
        for values, (grid, p) in zip(internal(frames, system), chain_marginals(system.kT), strict=True)
    ]
    assert np.abs(z).max() < 4.5 and np.std(z) < 1.5


def test_the_contexts_energy_gives_the_same_chain_and_serves_other_temperatures(system, generator) -> None:
    own, context = (FlowProposalMove(generator, seed=6, batch=512, energy=e) for e in ("generator", "context"))
    a, b = run(own, system, 40), run(context, system, 40)
    np.testing.assert_allclose(a, b, atol=1e-9)
    assert own.n_accepted == context.n_accepted > 0
    hot = FlowProposalMove(generator, n_proposals=5, seed=7, batch=2048, energy="context")
    state, sampler, frames = state_of(system, 450.0), start_of(system), []
    for _ in range(600):
        hot.apply(state, sampler)
        frames.append(positions(sampler))
    marginals = chain_marginals(system.kT * 1.5)
    z = [marginal_z(v, *m, bins=4) for v, m in zip(internal(np.array(frames), system), marginals, strict=True)]
    assert np.abs(z).max() < 4.5


def test_velocities_are_drawn_anew_and_the_centroid_stays(system, generator) -> None:
    move, state, sampler = (
        FlowProposalMove(generator, n_proposals=12, batch=3000, seed=8),
        state_of(system),
        start_of(system),
    )
    centroid, speeds = positions(sampler).mean(0), []
    sampler.velocities = np.zeros((5, 3)) * unit.nanometer / unit.picosecond
    for _ in range(250):
        before = positions(sampler)
        move.apply(state, sampler)
        np.testing.assert_allclose(positions(sampler).mean(0), centroid, atol=1e-6)
        if not np.array_equal(before, positions(sampler)):
            speeds.append(sampler.velocities.value_in_unit(unit.nanometer / unit.picosecond))
    speeds = np.array(speeds)
    kinetic = (system.masses[:, None] * speeds**2).mean() / system.kT
    assert len(speeds) > 150 and kinetic == pytest.approx(1.0, abs=0.09)
    assert sampler.potential_energy is None  # openmmtools' sign that the energy is that of other positions


def test_orientations_are_uniform(system, generator) -> None:
    move = FlowProposalMove(generator, n_proposals=6, batch=3000, seed=9)
    frames = run(move, system, 500)
    axis = frames[:, 1] - frames[:, 0]
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    np.testing.assert_allclose(axis.mean(0), 0.0, atol=0.13)
    np.testing.assert_allclose((axis**2).mean(0), 1 / 3, atol=0.07)


def test_wrong_states_are_refused(system, generator, alanine_dipeptide) -> None:
    move, sampler = FlowProposalMove(generator, seed=0), start_of(system)
    with pytest.raises(ValueError, match=r"300 K; got 310 K.*context"):
        move.apply(state_of(system, 310.0), sampler)
    with pytest.raises(ValueError, match=r"5 atoms.*22"):
        move.apply(state_of(alanine_dipeptide), SamplerState(alanine_dipeptide.positions * unit.nanometer))
    other = openmm.XmlSerializer.clone(system.system)
    other.setParticleMass(0, 20.0)
    with pytest.raises(ValueError, match="other forces, constraints or masses"):
        move.apply(ThermodynamicState(other, 300 * unit.kelvin), sampler)
    assert move.n_proposed == 0 and np.array_equal(positions(sampler), system.minimum)
    still = openmm.XmlSerializer.clone(system.system)
    still.addForce(openmm.CMMotionRemover())
    move.apply(ThermodynamicState(still, 300 * unit.kelvin), sampler)
    assert move.n_proposed == 1
    with pytest.raises(ValueError, match="n_proposals"):
        FlowProposalMove(generator, n_proposals=0)
    with pytest.raises(ValueError, match="energy out of"):
        FlowProposalMove(generator, energy="both")


def test_statistics_copies_and_files(system, generator) -> None:
    move = FlowProposalMove(generator, n_proposals=3, seed=1, batch=64)
    run(move, system, 5)
    assert move.statistics == {"n_accepted": move.n_accepted, "n_proposed": 15}
    twin = copy.deepcopy(move)
    assert twin.generator is generator and twin.statistics == move.statistics
    assert not np.array_equal(run(twin, system, 20), run(move, system, 20))  # randomness of its own
    restored = type(move).__new__(type(move))
    restored.__setstate__(move.__getstate__())
    assert restored.n_proposals == 3 and restored.statistics == move.statistics
    with pytest.raises(RuntimeError, match="generator"):
        restored.apply(state_of(system), start_of(system))
    restored.generator = generator
    restored.apply(state_of(system), start_of(system))
    from openmmtools.utils import deserialize, serialize

    again = deserialize(serialize(move))
    assert type(again) is FlowProposalMove and again.statistics == move.statistics


def test_in_openmmtools_sampler(system, generator) -> None:
    move = SequenceMove([FlowProposalMove(generator, seed=2), LangevinDynamicsMove(n_steps=2)])
    sampler = MCMCSampler(state_of(system), start_of(system), move=move)
    sampler.run(n_iterations=3)
    assert move.move_list[0].n_proposed == 3
    assert not np.array_equal(positions(sampler.sampler_state), system.minimum)


def test_same_seed_same_chain(system, generator) -> None:
    a, b = (run(FlowProposalMove(generator, seed=11, batch=128), system, 30) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_openmmtools_is_loaded_only_when_asked_for_and_the_install_command_is_given_without_it() -> None:
    code = """
import sys, openmm_fab, openmm_fab.md
assert "openmmtools" not in sys.modules
sys.modules["openmmtools"] = None
try:
    import openmm_fab.md.moves
except ImportError as error:
    from openmm_fab.tools.install import install
    assert f"FlowProposalMove needs openmmtools: {install('md')}" in str(error), error
else:
    raise AssertionError("it is loaded without openmmtools")
del sys.modules["openmmtools"]
from openmm_fab.md.moves import FlowProposalMove
assert "openmmtools" in sys.modules
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
