"""The OpenMM bridge against OpenMM called by hand and against finite differences."""

from __future__ import annotations

import os
import threading

import numpy as np
import openmm
import pytest
import torch

from openmm_fab.energy.bridge import OpenMMEnergy, regularize
from openmm_fab.energy.reduced import reduced_energy
from openmm_fab.molecule.system import MolecularSystem

SIGMA = 0.003  # nm


@pytest.fixture(scope="module")
def alanine() -> MolecularSystem:
    return MolecularSystem.load("alanine_dipeptide")


@pytest.fixture(scope="module")
def energy(alanine):
    with OpenMMEnergy(alanine, platform="Reference", workers=1) as energy:
        yield energy


def _structures(alanine: MolecularSystem, n: int, seed: int = 0) -> torch.Tensor:
    noise = np.random.default_rng(seed).normal(scale=SIGMA, size=(n, alanine.n_atoms, 3))
    return torch.from_numpy(alanine.positions + noise)


def _by_hand(alanine: MolecularSystem, x: torch.Tensor) -> np.ndarray:
    context = openmm.Context(
        alanine.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    energies = []
    for structure in x.numpy():
        context.setPositions(structure)
        energies.append(context.getState(energy=True).getPotentialEnergy() / openmm.unit.kilojoule_per_mole)
    return np.array(energies) / alanine.kT


def test_values_are_openmms(alanine, energy):
    x = _structures(alanine, 7)
    np.testing.assert_allclose(energy(x).numpy(), _by_hand(alanine, x), rtol=1e-12)


def test_gradient_against_finite_differences(alanine, energy):
    x = _structures(alanine, 2).requires_grad_()
    u = energy(x)
    weights = torch.tensor([1.0, -2.0], dtype=u.dtype)
    (gradient,) = torch.autograd.grad((weights * u).sum(), x)
    h = 1e-5
    generator = np.random.default_rng(3)
    for atom, axis in [(int(generator.integers(22)), int(generator.integers(3))) for _ in range(12)]:
        step = torch.zeros_like(x)
        step[:, atom, axis] = h
        with torch.no_grad():
            slope = weights * (energy(x + step) - energy(x - step)) / (2 * h)
        torch.testing.assert_close(gradient[:, atom, axis], slope, rtol=1e-5, atol=1e-2)


def test_value_and_gradient_agrees_with_autograd(alanine, energy):
    x = _structures(alanine, 3)
    u, gradient = energy.value_and_gradient(x)
    leaf = x.clone().requires_grad_()
    value = energy(leaf)
    value.sum().backward()
    torch.testing.assert_close(u, value.detach(), rtol=0, atol=0)
    torch.testing.assert_close(gradient, leaf.grad, rtol=0, atol=0)
    assert not u.requires_grad and not gradient.requires_grad and value.requires_grad


@pytest.mark.parametrize("other", [0.0, 1.0])
def test_second_derivative_is_refused(alanine, energy, other):
    """Also where another term has one: leaving out the energy's part would be silent."""
    x = _structures(alanine, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(energy(x).sum() + other * (x**2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives of the energy only"):
        torch.autograd.grad((gradient**2).sum(), x)


def test_forces_only_when_asked_for(alanine, energy, monkeypatch):
    asked = []
    share_out = energy._share_out

    def spy(positions, with_forces):
        asked.append(with_forces)
        return share_out(positions, with_forces)

    monkeypatch.setattr(energy, "_share_out", spy)
    x = _structures(alanine, 1)
    energy(x)
    energy(x.clone().requires_grad_())
    with torch.no_grad():
        energy(x.clone().requires_grad_())
    assert asked == [False, True, False]


def test_batch_equals_singles_in_any_order(alanine, energy):
    x = _structures(alanine, 9)
    u = energy(x)
    singles = torch.cat([energy(x[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(u, singles, rtol=0, atol=0)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(energy(x[order]), u[order], rtol=0, atol=0)


def test_nothing_is_remembered(alanine, energy):
    """Rows in the middle of a batch are changed in place: a cache keyed on a printout would miss it."""
    x = _structures(alanine, 40)
    before = energy(x)
    x[18:22] = _structures(alanine, 4, seed=1)
    after = energy(x)
    np.testing.assert_allclose(after.numpy(), _by_hand(alanine, x), rtol=1e-12)
    assert (before[18:22] != after[18:22]).all()
    assert (before[:18] == after[:18]).all() and (before[22:] == after[22:]).all()


def test_empty_batch(alanine, energy):
    u, gradient = energy.value_and_gradient(torch.empty(0, 22, 3))
    assert u.shape == (0,) and gradient.shape == (0, 22, 3) and u.dtype == torch.float32
    x = torch.empty(0, 22, 3, requires_grad=True)
    energy(x).sum().backward()
    assert x.grad.shape == x.shape
    with OpenMMEnergy(alanine, platform="Reference", workers=2) as pool:
        assert pool(torch.empty(0, 22, 3)).shape == (0,)


def test_shape_and_dtype_errors(energy):
    with pytest.raises(ValueError, match=r"\(batch, 22, 3\) in nm; got \(22, 3\)"):
        energy(torch.zeros(22, 3))
    with pytest.raises(ValueError, match=r"got \(1, 21, 3\)"):
        energy(torch.zeros(1, 21, 3))
    with pytest.raises(TypeError, match="floating"):
        energy(torch.zeros(1, 22, 3, dtype=torch.int64))


@pytest.mark.parametrize(("platform", "workers"), [("Reference", 1), ("CPU", 1), ("CPU", 3)])
def test_invalid_structures_are_counted_and_leave_others_alone(alanine, platform, workers):
    x = _structures(alanine, 6)
    bad = x.clone()
    bad[0, 3, 1] = torch.nan
    bad[2, 0, 0] = torch.inf
    bad[4, 5] = bad[4, 4]  # coincident atoms
    good = [1, 3, 5]
    with OpenMMEnergy(alanine, platform=platform, workers=workers) as energy:
        expected = energy.value_and_gradient(x)
        assert (energy.evaluations, energy.invalid) == (6, 0)
        u, gradient = energy.value_and_gradient(bad)
        assert (energy.evaluations, energy.invalid) == (12, 3)
        tolerance = {"rtol": 1e-6, "atol": 1e-3}  # the CPU platform sums forces in single precision
        torch.testing.assert_close(u[good], expected[0][good], **tolerance)
        torch.testing.assert_close(gradient[good], expected[1][good], **tolerance)
        assert (u[[0, 2, 4]] == torch.inf).all() and (gradient[[0, 2, 4]] == 0).all()
        # Energies without gradients say the same, and a NaN from above does not reach an invalid row.
        assert (energy(bad)[[0, 2, 4]] == torch.inf).all()
        leaf = bad.clone().requires_grad_()
        energy(leaf).backward(torch.full((6,), torch.nan, dtype=bad.dtype))
        assert (leaf.grad[[0, 2, 4]] == 0).all() and leaf.grad[good].isnan().all()


def test_all_invalid(energy):
    u, gradient = energy.value_and_gradient(torch.full((3, 22, 3), torch.nan))
    assert (u == torch.inf).all() and (gradient == 0).all()


def test_large_energies_stay(alanine, energy):
    x = _structures(alanine, 1) * 1e6
    u = energy(x)
    assert torch.isfinite(u).all() and u > 1e15
    invalid = energy.invalid
    assert energy((x * 1e14).float()) == torch.inf  # finite in float64, not in the caller's float32
    assert energy.invalid == invalid + 1


def test_float32(alanine, energy):
    x = _structures(alanine, 4).float()
    u, gradient = energy.value_and_gradient(x)
    assert u.dtype == gradient.dtype == torch.float32
    u64, gradient64 = energy.value_and_gradient(x.double())
    torch.testing.assert_close(u, u64.float(), rtol=0, atol=0)
    torch.testing.assert_close(gradient, gradient64.float(), rtol=0, atol=0)
    leaf = x.clone().requires_grad_()
    energy(leaf).sum().backward()
    assert leaf.grad.dtype == torch.float32


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_number_of_workers_changes_nothing(alanine, platform):
    x = _structures(alanine, 10)
    with OpenMMEnergy(alanine, platform=platform, workers=1) as one:
        expected = one.value_and_gradient(x)
    with OpenMMEnergy(alanine, platform=platform, workers=4) as four:
        for _ in range(2):
            u, gradient = four.value_and_gradient(x)
            torch.testing.assert_close(u, expected[0], rtol=0, atol=0)
            torch.testing.assert_close(gradient, expected[1], rtol=0, atol=0)
        # Fewer structures than workers:
        torch.testing.assert_close(four(x[:3]), expected[0][:3], rtol=0, atol=0)


def test_choice_of_platform(alanine):
    with OpenMMEnergy(alanine) as energy:
        limit = 1.3 * min(energy.timings.values())
        assert energy.timings[energy.platform, energy.workers] < limit
        assert energy.workers == max(workers for (_, workers), seconds in energy.timings.items() if seconds < limit)
        assert {platform for platform, _ in energy.timings} == {"Reference", "CPU"}
        assert all(seconds > 0 for seconds in energy.timings.values())
        assert energy.evaluations == 0  # timing is not counted
        x = _structures(alanine, 5)
        np.testing.assert_allclose(energy(x).numpy(), _by_hand(alanine, x), rtol=0, atol=1e-3)
    with OpenMMEnergy(alanine, platform="CPU", workers=2) as energy:
        assert (energy.platform, energy.workers, energy.timings) == ("CPU", 2, {})
    with pytest.raises(ValueError, match=r"platform out of .*Reference.*; got 'Abacus'"):
        OpenMMEnergy(alanine, platform="Abacus")
    with pytest.raises(ValueError, match="a platform for the properties"):
        OpenMMEnergy(alanine, properties={"Threads": "2"})
    with pytest.raises(ValueError, match="workers >= 1"):
        OpenMMEnergy(alanine, workers=0)


def test_closed(alanine):
    energy = OpenMMEnergy(alanine, platform="Reference", workers=2)
    energy.close()
    energy.close()
    with pytest.raises(RuntimeError, match="closed"):
        energy(_structures(alanine, 1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_refused_after_fork(alanine, energy, monkeypatch):
    # Another process id stands for the forked child: forking the test runner with its threads is not safe.
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="after the fork"):
        energy(_structures(alanine, 1))


def test_reduced_energy_names_its_backends(alanine):
    with reduced_energy(alanine, "openmm", platform="Reference", workers=1) as energy:
        assert isinstance(energy, OpenMMEnergy)
    with pytest.raises(ValueError, match=r"'auto'.*'openmm'.*'abacus'"):
        reduced_energy(alanine, "abacus")


def test_interrupted_call_leaves_no_thread_at_a_context(alanine, monkeypatch):
    """Whatever ends a call early, the next one gets Contexts that nobody else is using."""
    from openmm_fab.energy.bridge import _Worker

    started, go_on, seen = threading.Event(), threading.Event(), []
    evaluate = _Worker.evaluate

    def slow_or_broken(worker, row):
        if row == 0:
            started.wait(10)
            raise KeyboardInterrupt
        seen.append(row)
        started.set()
        go_on.wait(10)

    with OpenMMEnergy(alanine, platform="Reference", workers=2) as energy:
        before = list(energy._contexts)
        monkeypatch.setattr(_Worker, "evaluate", slow_or_broken)
        with pytest.raises(KeyboardInterrupt):
            energy(_structures(alanine, 4))
        monkeypatch.setattr(_Worker, "evaluate", evaluate)
        x = _structures(alanine, 4)
        np.testing.assert_allclose(energy(x).numpy(), _by_hand(alanine, x), rtol=1e-12)
        assert not set(map(id, before)) & set(map(id, energy._contexts))
        go_on.set()
        for thread in [t for t in threading.enumerate() if t.name == "openmm"]:
            thread.join(10)
        assert seen == [2]  # of rows 2 and 3: it ended with the one that it was at


# --- regularize ---


def test_regularize_closed_form():
    u = torch.tensor([-3.0, 0.0, 10.0, 10.0 + np.e - 1.0, 1e30], dtype=torch.float64)
    expected = torch.tensor([-3.0, 0.0, 10.0, 11.0, 10.0 + np.log(1e30)], dtype=torch.float64)
    torch.testing.assert_close(regularize(u, 10.0), expected, rtol=1e-12, atol=0)


def test_regularize_is_smooth_at_the_cut_and_monotone():
    cut, h = 10.0, 1e-7
    u = torch.tensor([cut - h, cut, cut + h], dtype=torch.float64, requires_grad=True)
    value = regularize(u, cut)
    (slope,) = torch.autograd.grad(value.sum(), u)
    torch.testing.assert_close(value.detach(), torch.full((3,), cut, dtype=u.dtype), rtol=0, atol=2 * h)
    torch.testing.assert_close(slope, torch.ones(3, dtype=u.dtype), rtol=0, atol=2 * h)
    v = torch.linspace(-50.0, 500.0, 2001, dtype=torch.float64, requires_grad=True)
    w = regularize(v, cut)
    assert (w.diff() > 0).all()
    (slope,) = torch.autograd.grad(w.sum(), v)
    torch.testing.assert_close(slope, 1.0 / (1.0 + (v.detach() - cut).clamp(min=0.0)))


def test_regularize_keeps_invalid_visible():
    u = torch.tensor([torch.inf, torch.nan, -torch.inf, 1.0], requires_grad=True)
    value = regularize(u, 5.0)
    assert value[0] == torch.inf and value[1].isnan() and value[2] == -torch.inf and value[3] == 1.0
    value[[0, 3]].sum().backward()
    assert u.grad[0] == 0 and u.grad[3] == 1
