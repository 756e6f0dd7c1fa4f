"""From a cheap energy to an expensive one, on the chain, whose free energies are integrals."""

from __future__ import annotations

import math
from dataclasses import replace

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from generators import SMALL, chain_marginals

from openmm_fab.energy.backends import reduced_energy
from openmm_fab.free_energy.profiles import basin_difference
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.refining import Refinement, refine
from openmm_fab.molecule.system import MolecularSystem

SHIFT = 5000.0  # kT: the level of another energy is its own


class Dear:
    """The chain with torsions `times` as high, at another level; it knows how often it was asked."""

    def __init__(self, system: MolecularSystem, times: float) -> None:
        changed = openmm.XmlSerializer.clone(system.system)
        (force,) = (f for f in changed.getForces() if isinstance(f, openmm.PeriodicTorsionForce))
        for k in range(force.getNumTorsions()):
            *rest, height = force.getTorsionParameters(k)
            force.setTorsionParameters(k, *rest, times * height)
        self.system = MolecularSystem.from_openmm(
            system.topology, changed, system.positions, temperature=system.temperature
        )
        self.energy, self.asked = reduced_energy(self.system), 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        assert not x.requires_grad
        self.asked += len(x)
        return self.energy(x) + SHIFT


def _exact(system: MolecularSystem, times: float) -> float:
    """F(expensive) - F(cheap), kT, by quadrature of every bond, angle and torsion."""

    def log_z(torsions: float) -> float:
        return sum(math.log(np.trapezoid(p, x)) for x, p in chain_marginals(system.kT, torsions))

    return log_z(1.0) - log_z(times) + SHIFT


@pytest.fixture(scope="module")
def generator(system) -> BoltzmannGenerator:
    """Untrained: its samples are annealed before expensive energies are asked for."""
    return BoltzmannGenerator(system, SMALL)


def _turned(trajectory: mdtraj.Trajectory) -> np.ndarray:
    """Frames whose last torsion is above 0."""
    return mdtraj.compute_dihedrals(trajectory, [[1, 2, 3, 4]])[:, 0] > 0


@pytest.fixture(scope="module")
def refined(generator, system) -> dict[int, tuple[Refinement, Dear]]:
    """By number of rounds."""
    dear = {rounds: Dear(system, 2.5) for rounds in (1, 3)}
    return {
        rounds: (refine(generator, dear[rounds], budget=200, rounds=rounds, seed=1), dear[rounds]) for rounds in dear
    }


@pytest.mark.parametrize("rounds", [1, 3])
def test_free_energy_against_quadrature(refined, generator, system, rounds):
    (found, dear), exact = refined[rounds], _exact(system, 2.5)
    assert abs(found.difference.value - exact) < 4 * found.difference.error < 1.0
    assert found.evaluations == dear.asked and 100 < dear.asked <= 200
    assert 0.1 < found.overlap < 0.8
    # What the fit leaves weighs next to nothing: these differences are sums of waves of single torsions.
    assert found.ensemble.ess_fraction > 0.9 if rounds == 3 else found.ensemble.ess_fraction < 0.8
    np.testing.assert_allclose(
        found.ensemble.u, SHIFT + dear.energy(torch.from_numpy(found.ensemble.x)).numpy(), atol=1e-6
    )
    grid, density = chain_marginals(system.kT, 2.5)[-1]
    share = float(np.trapezoid(np.where(grid > 0, density, 0.0), grid) / np.trapezoid(density, grid))
    basin, alone = found.basin_difference(_turned), basin_difference(found.ensemble, _turned)
    assert abs(basin.value - math.log(1 / share - 1)) < 4 * basin.error < 1.0
    assert basin.error < alone.error and basin.samples == alone.samples
    assert str(found).startswith("F(expensive) - F(cheap) = 500") and "for " + str(found.evaluations) in str(found)


def test_bar_with_frames_of_the_expensive_energy(refined, system):
    """Reweighting alone, and frames that it has not seen."""
    (found, dear), frames, exact = refined[1], refined[3][0].ensemble, _exact(system, 2.5)
    spent = dear.asked
    bar = found.bar(frames)
    assert abs(bar.value - exact) < 4 * bar.error < 4 * found.difference.error < 1.0
    assert bar.method == "BAR" and 0.2 < bar.overlap < 0.9 and dear.asked == spent
    wrong = found.bar(replace(frames, u=frames.u + 2.0))  # the level is the expensive energy's own
    assert abs(wrong.value - exact) > 0.5


def test_what_no_fit_can_have_is_weighted(generator, system):
    """A spring between the ends, which is no sum over coordinates: the same by reweighting alone and with a fit."""
    energy = reduced_energy(system)

    def dear(x: torch.Tensor) -> torch.Tensor:
        return energy(x) + 60.0 * ((x[:, 0] - x[:, 4]).norm(dim=1) - 0.45).square()

    one, three = (refine(generator, dear, budget=200, rounds=rounds, seed=2) for rounds in (1, 3))
    error = math.hypot(one.difference.error, three.difference.error)
    assert abs(one.difference.value - three.difference.value) < 4 * error < 0.8
    assert 0.5 < one.ensemble.ess_fraction < three.ensemble.ess_fraction and three.difference.trusted
    # What is left to the 100 expensive energies is little; how many of these are inside is left to chance.
    basin, alone = three.basin_difference(_turned), basin_difference(three.ensemble, _turned)
    assert basin.error < alone.error / 3
    assert abs(basin.value - basin_difference(one.surrogate, _turned).value) < 0.5


def test_a_budget_or_a_system_that_does_not_fit(generator, system, alanine_dipeptide):
    with pytest.raises(ValueError, match=r"a budget of 40 energies or more, .*got a budget of 5 and 3 rounds"):
        refine(generator, lambda x: x, budget=5)
    with pytest.raises(ValueError, match="got a budget of 100 and 6 rounds"):
        refine(generator, lambda x: x, budget=100, rounds=6)
    with pytest.raises(ValueError, match=r"Expected the atoms of chain at 300 K; got alanine_dipeptide"):
        refine(generator, alanine_dipeptide, budget=100)
    with pytest.raises(ValueError, match="Expected finite expensive energies; got none"):
        refine(generator, lambda x: x.sum((1, 2)) / 0.0, budget=100)
