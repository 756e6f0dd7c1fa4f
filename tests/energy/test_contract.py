"""What every energy of the package promises, for each backend: values, gradient, invalid structures, counts, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from forces import structures

from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.energy.given import GivenEnergy, from_function, from_torch
from openmm_fab.energy.potential import Potential
from openmm_fab.energy.protocol import Energy, differentiable_once
from openmm_fab.energy.verify import VerifiedEnergy
from openmm_fab.molecule.system import MolecularSystem


@dataclass(frozen=True)
class Backend:
    """How an energy is made, and how exactly its numbers repeat.

    Attributes
    ----------
    make : callable
        MolecularSystem -> energy, or a context that gives one.
    values : float
        Relative tolerance against OpenMM's Reference platform called by hand; 0 where it works in single precision.
    batches : dict of str to float
        Tolerances between a structure alone and the same one in a batch.
    neighbours : dict of str to float
        Tolerances between a structure among valid ones and the same one among invalid ones.
    """

    make: Callable[[MolecularSystem], Any]
    values: float
    batches: dict[str, float]
    neighbours: dict[str, float]


def _of_torch(system: MolecularSystem) -> GivenEnergy:
    """The same forces as a model of torch operations."""
    potential = Potential(system.system)
    return from_torch(lambda x: potential(x, {}), system, "kJ/mol")


def _of_function(system: MolecularSystem) -> GivenEnergy:
    """The same forces as a function of arrays, in eV."""
    potential = Potential(system.system)

    def function(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        leaf = torch.from_numpy(x).requires_grad_()
        u = potential(leaf, {}) / 96.48533212331
        (gradient,) = torch.autograd.grad(u.sum(), leaf)
        return u.detach().numpy(), gradient.numpy()

    return from_function(function, system, "eV")


EXACT = {"rtol": 0.0, "atol": 0.0}
VECTORISED = {"rtol": 1e-12, "atol": 1e-10}
SINGLE = {"rtol": 1e-6, "atol": 1e-3}  # the CPU platform sums forces in single precision
BACKENDS = {
    "openmm": Backend(lambda s: OpenMMEnergy(s, platform="Reference", workers=1), 1e-12, EXACT, EXACT),
    "openmm CPU": Backend(lambda s: OpenMMEnergy(s, platform="CPU", workers=1), 0.0, SINGLE, SINGLE),
    "openmm CPU, 3 workers": Backend(lambda s: OpenMMEnergy(s, platform="CPU", workers=3), 0.0, SINGLE, SINGLE),
    "compiled": Backend(CompiledEnergy, 1e-9, VECTORISED, EXACT),
    "verify": Backend(VerifiedEnergy, 1e-9, VECTORISED, EXACT),
    "of torch": Backend(lambda s: nullcontext(_of_torch(s)), 1e-9, VECTORISED, VECTORISED),
    "of a function": Backend(lambda s: nullcontext(_of_function(s)), 1e-9, VECTORISED, VECTORISED),
}
in_double = pytest.mark.parametrize("backend", [n for n, b in BACKENDS.items() if b.values > 0], indirect=True)


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]


@pytest.fixture
def energy(backend: Backend, alanine_dipeptide: MolecularSystem) -> Iterator[Any]:
    with backend.make(alanine_dipeptide) as energy:
        yield energy


def _by_hand(system: MolecularSystem, x: torch.Tensor) -> np.ndarray:
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system.system, openmm.VerletIntegrator(0.001), platform)
    energies = []
    for structure in x.numpy():
        context.setPositions(structure)
        energies.append(context.getState(energy=True).getPotentialEnergy() / openmm.unit.kilojoule_per_mole)
    return np.array(energies) / system.kT


@in_double
def test_values_are_openmms(energy, alanine_dipeptide, backend):
    x = structures(alanine_dipeptide.positions, 7)
    np.testing.assert_allclose(energy(x).numpy(), _by_hand(alanine_dipeptide, x), rtol=backend.values)


@in_double
def test_gradient_against_finite_differences(energy, alanine_dipeptide):
    x = structures(alanine_dipeptide.positions).requires_grad_()
    u = energy(x)
    weights = torch.tensor([1.0, -2.0], dtype=u.dtype)
    (gradient,) = torch.autograd.grad((weights * u).sum(), x)
    random, h = np.random.default_rng(3), 1e-5
    for atom, axis in [(int(random.integers(22)), int(random.integers(3))) for _ in range(12)]:
        step = torch.zeros_like(x)
        step[:, atom, axis] = h
        with torch.no_grad():
            slope = weights * (energy(x + step) - energy(x - step)) / (2 * h)
        torch.testing.assert_close(gradient[:, atom, axis], slope, rtol=1e-5, atol=1e-2)


@in_double
def test_value_and_gradient_agrees_with_autograd(energy, alanine_dipeptide):
    x = structures(alanine_dipeptide.positions, 3)
    u, gradient = energy.value_and_gradient(x)
    leaf = x.clone().requires_grad_()
    value = energy(leaf)
    value.sum().backward()
    torch.testing.assert_close(u, value.detach(), rtol=0, atol=0)
    torch.testing.assert_close(gradient, leaf.grad, rtol=0, atol=0)
    assert not u.requires_grad and not gradient.requires_grad and value.requires_grad


@pytest.mark.parametrize("other", [0.0, 1.0])
def test_second_derivative_is_refused(energy, alanine_dipeptide, other):
    """Also where another term has one: leaving out the energy's part would be silent."""
    x = structures(alanine_dipeptide.positions, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(energy(x).sum() + other * (x**2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"first derivatives (of the energy )?only"):
        torch.autograd.grad((gradient**2).sum(), x)


def test_batch_equals_singles_in_any_order(energy, alanine_dipeptide, backend):
    x = structures(alanine_dipeptide.positions, 9)
    u = energy(x)
    singles = torch.cat([energy(x[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(u, singles, **backend.batches)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(energy(x[order]), u[order], **backend.batches)


@in_double
def test_nothing_is_remembered(energy, alanine_dipeptide, backend):
    """Rows in the middle of a batch are changed in place: a cache keyed on a printout would miss it."""
    x = structures(alanine_dipeptide.positions, 40)
    before = energy(x)
    x[18:22] = structures(alanine_dipeptide.positions, 4, seed=1)
    after = energy(x)
    np.testing.assert_allclose(after.numpy(), _by_hand(alanine_dipeptide, x), rtol=backend.values)
    assert (before[18:22] != after[18:22]).all()
    torch.testing.assert_close(before[:18], after[:18], **backend.batches)
    torch.testing.assert_close(before[22:], after[22:], **backend.batches)


def test_empty_batch(energy):
    u, gradient = energy.value_and_gradient(torch.empty(0, 22, 3))
    assert u.shape == (0,) and gradient.shape == (0, 22, 3) and u.dtype == torch.float32
    x = torch.empty(0, 22, 3, requires_grad=True)
    energy(x).sum().backward()
    assert x.grad.shape == x.shape
    assert (energy.evaluations, energy.invalid) == (0, 0)


def test_shape_and_dtype_errors(energy):
    with pytest.raises(ValueError, match=r"\(batch, 22, 3\) in nm; got \(22, 3\)"):
        energy(torch.zeros(22, 3))
    with pytest.raises(ValueError, match=r"got \(1, 21, 3\)"):
        energy.value_and_gradient(torch.zeros(1, 21, 3))
    with pytest.raises(TypeError, match="floating"):
        energy(torch.zeros(1, 22, 3, dtype=torch.int64))


def test_invalid_structures_are_counted_and_leave_others_alone(energy, alanine_dipeptide, backend):
    x = structures(alanine_dipeptide.positions, 6)
    bad = x.clone()
    bad[0, 3, 1] = torch.nan
    bad[2, 0, 0] = torch.inf
    bad[4, 5] = bad[4, 4]  # coincident atoms
    good = [1, 3, 5]
    expected = energy.value_and_gradient(x)
    assert (energy.evaluations, energy.invalid) == (6, 0)
    u, gradient = energy.value_and_gradient(bad)
    assert (energy.evaluations, energy.invalid) == (12, 3)
    torch.testing.assert_close(u[good], expected[0][good], **backend.neighbours)
    torch.testing.assert_close(gradient[good], expected[1][good], **backend.neighbours)
    assert (u[[0, 2, 4]] == torch.inf).all() and (gradient[[0, 2, 4]] == 0).all()
    # Energies without gradients say the same, and a NaN from above does not reach an invalid row.
    assert (energy(bad)[[0, 2, 4]] == torch.inf).all()
    leaf = bad.clone().requires_grad_()
    energy(leaf).backward(torch.full((6,), torch.nan, dtype=bad.dtype))
    assert (leaf.grad[[0, 2, 4]] == 0).all() and leaf.grad[good].isnan().all()
    assert (energy.evaluations, energy.invalid) == (24, 9)


def test_all_invalid(energy):
    u, gradient = energy.value_and_gradient(torch.full((3, 22, 3), torch.nan))
    assert (u == torch.inf).all() and (gradient == 0).all()


@in_double
def test_large_energies_stay(energy, alanine_dipeptide):
    x = structures(alanine_dipeptide.positions, 1) * 1e6
    u = energy(x)
    assert torch.isfinite(u).all() and u > 1e15
    invalid = energy.invalid
    assert energy((x * 1e14).float()) == torch.inf  # finite in float64, not in the caller's float32
    assert energy.invalid == invalid + 1


@in_double
def test_results_have_the_dtype_of_x(energy, alanine_dipeptide):
    x = structures(alanine_dipeptide.positions, 4).float()
    u, gradient = energy.value_and_gradient(x)
    assert u.dtype == gradient.dtype == torch.float32
    leaf = x.clone().requires_grad_()
    energy(leaf).sum().backward()
    assert leaf.grad.dtype == torch.float32


def test_counts_can_be_set(energy, alanine_dipeptide):
    energy.evaluations, energy.invalid = 10, 3
    energy(structures(alanine_dipeptide.positions, 2))
    assert (energy.evaluations, energy.invalid) == (12, 3)


def test_every_backend_is_an_energy(energy):
    for name in ("evaluations", "invalid", "value_and_gradient", "__call__"):
        assert hasattr(energy, name) and name in dir(Energy) + list(Energy.__annotations__)


# --- the autograd function that they share ---


def test_derivatives_are_those_that_were_given():
    """By x and by the values that need one; `evaluate` is asked for slopes only where one of them does."""
    asked = []

    def evaluate(slopes: bool) -> list[torch.Tensor]:
        asked.append(slopes)
        u = torch.tensor([1.0, torch.inf])
        return [u, torch.ones(2, 4, 3), *([torch.tensor([5.0, 0.0])] if slopes else [])]

    x, lam = torch.zeros(2, 4, 3, requires_grad=True), torch.zeros(2, requires_grad=True)
    above = torch.tensor([2.0, torch.nan])
    differentiable_once(evaluate, x, [lam], refusal="").backward(above)
    assert (x.grad[0] == 2).all() and (x.grad[1] == 0).all() and lam.grad.tolist() == [10.0, 0.0]
    differentiable_once(evaluate, x, [lam.detach()], refusal="").backward(above)
    assert (x.grad[0] == 4).all() and asked == [True, False]


def test_second_derivatives_say_why():
    x = torch.zeros(1, 2, 3, requires_grad=True)
    u = differentiable_once(lambda _: [torch.ones(1), torch.ones(1, 2, 3)], x, refusal="only one")
    (gradient,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="only one"):
        torch.autograd.grad(gradient.sum(), x)
