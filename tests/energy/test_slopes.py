"""Gradients against differences of their own energies: a wrong force is found before anything is trained."""

from __future__ import annotations

from functools import partial

import numpy as np
import openmm
import pytest
import torch
from generators import SMALL
from torch import Tensor

from openmm_fab.energy.agreement import DisagreementError
from openmm_fab.energy.backends import reduced_energy
from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.energy.given import from_function
from openmm_fab.energy.slopes import check_gradient, measure
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.molecule.system import MolecularSystem

ENDS = (0, 4)
SPRING, LENGTH = 500.0, 0.4  # kJ/mol/nm^2, nm


def spring(x: np.ndarray) -> tuple[float, np.ndarray]:
    """U, kJ/mol, of a spring between the ends of the chain (n_atoms, 3), nm, and its gradient."""
    apart = x[ENDS[0]] - x[ENDS[1]]
    r = np.linalg.norm(apart)
    gradient = np.zeros_like(x)
    gradient[ENDS[0]] = SPRING * (r - LENGTH) * apart / r
    gradient[ENDS[1]] = -gradient[ENDS[0]]
    return 0.5 * SPRING * (r - LENGTH) ** 2, gradient


def spring_force(state, times: float = 1.0, of_energy: float = 1.0) -> tuple[float, np.ndarray]:
    """For a PythonForce; energy and forces may each be taken wrongly."""
    u, gradient = spring(state.getPositions(asNumpy=True)._value)
    return of_energy * u, -times * gradient


def with_python(system: MolecularSystem, **wrong: float) -> MolecularSystem:
    """The chain with the spring as its last force."""
    added = openmm.XmlSerializer.clone(system.system)
    added.addForce(openmm.PythonForce(partial(spring_force, **wrong)))
    return MolecularSystem.from_openmm(system.topology, added, system.positions, temperature=system.temperature)


FAULTS = {
    "ten times too small": ({"times": 0.1}, r"are 10 times .* the ratio of kJ/mol/nm to kJ/mol/Å"),
    "kcal": ({"times": 1 / 4.184}, r"are 4\.184 times .* the ratio of kcal to kJ"),
    "energy in eV": ({"of_energy": 1 / 96.4853}, r"the ratio of eV to kJ/mol"),
    "sign": ({"times": -1.0}, r"are -1 times .* the sign"),
}


def of_springs(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = [spring(structure) for structure in x]
    return np.array([u for u, _ in found]), np.array([g for _, g in found])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_force_is_found_when_a_generator_is_made(system, fault):
    wrong, says = FAULTS[fault]
    made = with_python(system, **wrong)
    k = made.system.getNumForces() - 1
    with pytest.raises(DisagreementError, match=rf"force {k} \(PythonForce\) of the System: "):
        BoltzmannGenerator(made, SMALL)
    # Alone, without forces that hide a part of it, the ratio says which unit it is.
    u, gradient = wrong.get("of_energy", 1.0), wrong.get("times", 1.0)

    def function(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, slope = of_springs(x)
        return u * value, gradient * slope

    energy = from_function(function, system, "kJ/mol")
    with pytest.raises(DisagreementError, match=says):
        BoltzmannGenerator(system, SMALL, energy=energy)


def test_right_forces_pass_and_are_not_counted(system):
    generator = BoltzmannGenerator(with_python(system), SMALL)
    assert isinstance(generator.energy, OpenMMEnergy) and generator.energy.invalid == 0
    check_gradient(generator.energy, _near(system))
    assert generator.energy.evaluations <= 1  # the minimum's
    given = from_function(of_springs, system, "kJ/mol")
    check_gradient(given, _near(system))
    assert given.evaluations == 0


def _near(system: MolecularSystem, n: int = 3) -> Tensor:
    return torch.from_numpy(system.positions + np.random.default_rng(1).normal(scale=0.01, size=(n, 5, 3)))


class _Wrong(torch.autograd.Function):
    """An energy with another gradient than its own."""

    @staticmethod
    def forward(ctx, x, u, gradient):
        ctx.save_for_backward(gradient)
        return u

    @staticmethod
    def backward(ctx, above):
        return above[:, None, None] * ctx.saved_tensors[0], None, None


def test_one_component_that_is_off_is_found(system):
    """By the lines at random: along the gradient it hardly shows."""
    energy = reduced_energy(system)

    def off(x: Tensor) -> Tensor:
        u, gradient = energy.value_and_gradient(x.detach())
        gradient[:, 2, 1] += 0.1 * gradient.abs().amax((1, 2))
        return _Wrong.apply(x, u, gradient)

    check_gradient(energy, _near(system))
    with pytest.raises(DisagreementError, match="lines through structures"):
        check_gradient(off, _near(system))


def test_differences_are_those_of_a_closed_form():
    """Of u = sum of squares: slopes to rounding, and no noise."""
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    slopes = measure(lambda x: x.square().sum((1, 2)), lambda x: 2 * x, x)
    torch.testing.assert_close(slopes.given, slopes.found, rtol=1e-9, atol=1e-9)
    steepest = 2 * x.square().sum((1, 2)) / x.abs().amax((1, 2))
    torch.testing.assert_close(slopes.given[::2], steepest, rtol=1e-12, atol=0)
    assert slopes.noise < 1e-12 and not slopes.hidden and not slopes.wrong.any()


@pytest.mark.parametrize("times", [1.0, 0.1])
def test_the_tolerance_is_the_noise_of_the_energy(system, times):
    """Energies rounded to 0.25 kJ/mol, as totals of 4e6 are in float32: told, and still told from a wrong gradient."""
    energy, step = reduced_energy(system), 0.25 / system.kT

    def rounded(x: Tensor) -> Tensor:
        u, gradient = energy.value_and_gradient(x.detach())
        return _Wrong.apply(x, (u / step).round() * step, times * gradient)

    with pytest.warns(UserWarning, match="has a noise of") as told:
        if times == 1.0:
            check_gradient(rounded, _near(system))
        else:
            with pytest.raises(DisagreementError, match=r"are (9|10)(\.\d+)? times"):
                check_gradient(rounded, _near(system))
    noise = float(str(told[0].message).split("noise of ")[1].split()[0])
    assert 0.5 < noise / (step / 12**0.5) < 2.0  # of rounding: uniform within a step


def test_a_noise_that_hides_everything_is_told(system):
    random = torch.Generator().manual_seed(3)

    def noisy(x: Tensor) -> Tensor:
        u = (x.square().sum((1, 2))).detach()
        return _Wrong.apply(x, u + 1e4 * torch.rand(len(x), generator=random, dtype=x.dtype), x.detach())

    with pytest.warns(UserWarning) as told:
        check_gradient(noisy, _near(system))
    assert "too noisy to tell whether its gradient is right" in str(told[1].message)


def test_energies_that_cannot_be_checked(system):
    x = _near(system)
    with pytest.raises(ValueError, match="Expected finite energies near the structure given"):
        check_gradient(lambda x: x.sum((1, 2)) / 0.0, x)
    with pytest.raises(ValueError, match=r"autograd can differentiate.*from_function"):
        check_gradient(lambda x: x.detach().square().sum((1, 2)), x)
    with pytest.raises(ValueError, match=r"one energy a structure, shape \(3,\); got \(\)"):
        check_gradient(lambda x: x.square().sum(), x)
    with pytest.raises(ValueError, match="when the molecule is moved or turned"):
        BoltzmannGenerator(system, SMALL, energy=lambda x: 100 * x.square().sum((1, 2)))


def test_forces_without_energy_are_no_matter(system):
    """No force at all: slopes and tolerance are zero, and nothing is wrong."""
    check_gradient(lambda x: 0.0 * x.sum((1, 2)), _near(system))
