"""From a cheap energy to an expensive one, on the chain, whose free energies are integrals."""

from __future__ import annotations

import math

import numpy as np
import openmm
import pytest
import torch
from generators import SMALL, chain_marginals

from openmm_fab.energy.backends import reduced_energy
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.refining import refine
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.weights import log_ratio

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


@pytest.mark.parametrize("rounds", [1, 3])
def test_free_energy_against_quadrature(generator, system, rounds):
    dear, exact = Dear(system, 2.5), _exact(system, 2.5)
    found = refine(generator, dear, budget=400, rounds=rounds, seed=1)
    assert abs(found.difference.value - exact) < 4 * found.difference.error < 1.0
    assert found.evaluations == dear.asked and 100 < dear.asked <= 400
    assert 0.1 < found.overlap < 0.8
    # What the fit leaves weighs next to nothing: these differences are sums of waves of single torsions.
    assert found.ensemble.ess_fraction > 0.9 if rounds == 3 else found.ensemble.ess_fraction < 0.8
    np.testing.assert_allclose(found.ensemble.u, dear(torch.from_numpy(found.ensemble.x)).numpy(), atol=1e-6)
    if rounds == 3:  # the share of a torsion's range
        grid, density = chain_marginals(system.kT, 2.5)[-1]
        share = float(np.trapezoid(np.where(grid > 0, density, 0.0), grid) / np.trapezoid(density, grid))
        phi = generator.to_internal(torch.from_numpy(found.ensemble.x))[0][:, -1].numpy()
        inside = np.where(phi > 0, found.ensemble.log_w, -np.inf)
        measured = log_ratio(inside, found.ensemble.log_w, found.ensemble.block)
        assert abs(float(measured.value) - math.log(share)) < 4 * float(measured.error) < 0.8
    assert str(found).startswith("F(expensive) - F(cheap) = 500") and "for " + str(found.evaluations) in str(found)


def test_what_no_fit_can_have_is_weighted(generator, system):
    """A spring between the ends, which is no sum over coordinates: the same by reweighting alone and with a fit."""
    energy = reduced_energy(system)

    def dear(x: torch.Tensor) -> torch.Tensor:
        return energy(x) + 60.0 * ((x[:, 0] - x[:, 4]).norm(dim=1) - 0.45).square()

    one, three = (refine(generator, dear, budget=400, rounds=rounds, seed=2) for rounds in (1, 3))
    error = math.hypot(one.difference.error, three.difference.error)
    assert abs(one.difference.value - three.difference.value) < 4 * error < 0.8
    assert three.ensemble.ess_fraction < 0.999 and three.difference.trusted


def test_a_budget_or_a_system_that_does_not_fit(generator, system, alanine_dipeptide):
    with pytest.raises(ValueError, match=r"a budget of 40 energies or more, .*got a budget of 5 and 3 rounds"):
        refine(generator, lambda x: x, budget=5)
    with pytest.raises(ValueError, match="got a budget of 100 and 6 rounds"):
        refine(generator, lambda x: x, budget=100, rounds=6)
    with pytest.raises(ValueError, match=r"Expected the atoms of chain at 300 K; got alanine_dipeptide"):
        refine(generator, alanine_dipeptide, budget=100)
    with pytest.raises(ValueError, match="Expected finite expensive energies; got none"):
        refine(generator, lambda x: x.sum((1, 2)) / 0.0, budget=100)
