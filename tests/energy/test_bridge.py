"""What is OpenMM's own in an energy: platforms, workers, Contexts; and the regularised energy."""

from __future__ import annotations

import ctypes
import os
import sys
import threading

import numpy as np
import openmm
import pytest
import torch

from openmm_fab.energy.backends import reduced_energy
from openmm_fab.energy.bridge import OpenMMEnergy, WorkerError
from openmm_fab.energy.processes import ProcessError
from openmm_fab.energy.regularization import regularize
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
    u = torch.tensor([-3.0, 0.0, 10.0, 10.0 + 6 * (np.e - 1.0), 6e30], dtype=torch.float64)
    expected = torch.tensor([-3.0, 0.0, 10.0, 16.0, 10.0 + 6 * np.log(1e30)], dtype=torch.float64)
    torch.testing.assert_close(regularize(u, 10.0, 6), expected, rtol=1e-12, atol=0)


def test_regularize_is_smooth_at_the_cut_and_monotone():
    cut, dim, h = 10.0, 6, 1e-7
    u = torch.tensor([cut - h, cut, cut + h], dtype=torch.float64, requires_grad=True)
    value = regularize(u, cut, dim)
    (slope,) = torch.autograd.grad(value.sum(), u)
    torch.testing.assert_close(value.detach(), torch.full((3,), cut, dtype=u.dtype), rtol=0, atol=2 * h)
    torch.testing.assert_close(slope, torch.ones(3, dtype=u.dtype), rtol=0, atol=2 * h)
    v = torch.linspace(-50.0, 500.0, 2001, dtype=torch.float64, requires_grad=True)
    w = regularize(v, cut, dim)
    assert (w.diff() > 0).all()
    (slope,) = torch.autograd.grad(w.sum(), v)
    torch.testing.assert_close(slope, 1.0 / (1.0 + (v.detach() - cut).clamp(min=0.0) / dim))


def test_regularize_keeps_invalid_visible():
    u = torch.tensor([torch.inf, torch.nan, -torch.inf, 1.0], requires_grad=True)
    value = regularize(u, 5.0, 6)
    assert value[0] == torch.inf and value[1].isnan() and value[2] == -torch.inf and value[3] == 1.0
    value[[0, 3]].sum().backward()
    assert u.grad[0] == 0 and u.grad[3] == 1


@pytest.mark.parametrize("dim", [3, 60, 600])
def test_regularize_makes_stretching_dear(dim):
    """Reverse KL of a Gaussian stretched by c, against that Gaussian: what stretching costs is twice what it brings."""
    x = torch.randn(1000, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, cut = 0.5 * x.square().sum(1), dim / 2 + 70.0
    stretch = torch.logspace(0, 4, 41, dtype=torch.float64)
    loss = torch.stack([regularize(c**2 * u, cut, dim).mean() for c in stretch]) - dim * stretch.log()
    assert (loss.diff() > 0).all()
    assert float(loss[-1] - loss[-11]) == pytest.approx(dim * np.log(10), rel=1e-3)


# --- processes, for forces that Python calculates ---


def slow_tether(state) -> tuple[float, np.ndarray]:
    """A spring between the first two atoms that sleeps 30 ms without letting other threads on, as Python code does."""
    ctypes.PyDLL(None).usleep(30_000)
    x = state.getPositions(asNumpy=True)._value
    forces = np.zeros_like(x)
    forces[0], forces[1] = x[1] - x[0], x[0] - x[1]
    if x[0, 0] > 50.0:
        raise ArithmeticError("out of reach")
    return 0.5 * float(((x[0] - x[1]) ** 2).sum()), forces


@pytest.fixture(scope="module")
def tethered(alanine) -> MolecularSystem:
    if not hasattr(openmm, "PythonForce") or sys.platform == "win32":
        pytest.skip("needs OpenMM's PythonForce, and usleep")
    added = openmm.XmlSerializer.clone(alanine.system)
    added.addForce(openmm.PythonForce(slow_tether))
    return MolecularSystem.from_openmm(alanine.topology, added, alanine.positions)


def test_processes_are_taken_where_threads_wait_for_each_other(tethered, monkeypatch):
    monkeypatch.setattr("openmm_fab.energy.bridge.core_count", lambda: 3)
    monkeypatch.setattr("openmm_fab.energy.bridge._candidates", lambda *_: [("Reference", 2)])
    x = _structures(tethered, 7)
    with OpenMMEnergy(tethered, platform="Reference", workers=1) as one:
        expected = one.value_and_gradient(x)
    with OpenMMEnergy(tethered) as energy:
        assert energy.processes and energy.workers == 3 and "3 processes" in repr(energy)
        u, gradient = energy.value_and_gradient(x)
        torch.testing.assert_close(u, expected[0], rtol=0, atol=0)
        torch.testing.assert_close(energy(x[:1]), expected[0][:1], rtol=0, atol=0)  # fewer than there are processes
        assert energy(x[:0]).shape == (0,) and energy.evaluations == 8
        left = list(energy._pool.processes)
    assert all(process.poll() is not None for process in left)
    torch.testing.assert_close(gradient, expected[1], rtol=0, atol=0)


def test_a_function_that_raises_is_told_with_what_it_should_do(tethered):
    x = _structures(tethered, 4)
    far = x.clone()
    far[2] += 100.0
    advice = r"PythonForce: .*return an energy of inf and forces of zero"
    for processes, names in ((False, "structure 2 of the batch"), (True, "at its structure 2")):
        with OpenMMEnergy(tethered, platform="Reference", workers=1, processes=processes) as energy:
            with pytest.raises(WorkerError, match=rf"{names}.*{advice}|out of reach.*{names}.*{advice}"):
                energy(far)
            assert torch.isfinite(energy(x)).all()  # the next call


def test_a_function_that_no_other_program_can_import_stays_in_threads(tethered, monkeypatch):
    """As those of a notebook."""
    monkeypatch.setattr("openmm_fab.energy.bridge.core_count", lambda: 2)
    monkeypatch.setattr("openmm_fab.energy.bridge._candidates", lambda *_: [("Reference", 2)])
    monkeypatch.setattr("openmm_fab.energy.processes.SERVE", "import sys; sys.exit(3)")
    with OpenMMEnergy(tethered) as energy:
        assert not energy.processes and torch.isfinite(energy(_structures(tethered, 2))).all()
    with pytest.raises(ProcessError, match="it ended with 3"):
        OpenMMEnergy(tethered, platform="Reference", workers=1, processes=True)


def test_an_impossible_structure_of_a_python_force_is_counted(alanine):
    added = openmm.XmlSerializer.clone(alanine.system)
    added.addForce(openmm.PythonForce(impossible_beyond))
    system = MolecularSystem.from_openmm(alanine.topology, added, alanine.positions)
    x = _structures(alanine, 3)
    x[1] += 100.0
    with OpenMMEnergy(system, platform="Reference", workers=1) as energy:
        u, gradient = energy.value_and_gradient(x)
    assert torch.isfinite(u).tolist() == [True, False, True] and energy.invalid == 1 and (gradient[1] == 0).all()


def impossible_beyond(state) -> tuple[float, np.ndarray]:
    x = state.getPositions(asNumpy=True)._value
    return (np.inf if x[0, 0] > 50.0 else 0.0), np.zeros_like(x)
