"""Benchmarks in cells, calibration and race: they go on where they were stopped, and tables say what is wrong."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import mdtraj
import numpy as np
import openmm
import pytest
import torch

from benchmarks import beads, budgets, calibration, contestants, pieces, race
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.generator.seeking import Seeking
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.weights import Estimate

TRUTH = (2.0, 0.01, "told")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pieces, "HERE", tmp_path)
    monkeypatch.setattr(pieces, "RESULTS", tmp_path / "results")
    return tmp_path


def options(module: object, *arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_options(parser)  # type: ignore[attr-defined]
    return argparse.Namespace(quick=False, **vars(parser.parse_args(arguments)))


def test_calibration_goes_on_where_it_was_stopped(places: Path) -> None:
    first = calibration.measure(options(calibration, "--target", "two_wells", "--seeds", "2"))
    assert list(first["cells"]) == ["two_wells 0", "two_wells 1"]
    again = calibration.measure(options(calibration, "--target", "two_wells", "--seeds", "3", "--minutes", "1"))
    assert again["cells"]["two_wells 1"] == first["cells"]["two_wells 1"] and len(again["cells"]) == 3
    none = calibration.measure(
        options(calibration, "--target", "two_wells", "--seeds", "3", "--minutes", "0", "--anew")
    )
    assert none["cells"] == {}
    assert "3 of 3" in calibration.table(again) or "2 of 3" in calibration.table(again)


def test_coverage_counts_what_was_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [(2.1, 0.1, True), (1.7, 0.1, True), (9.0, 0.1, False), (2.0, 0.1, True)]
    cells = {
        f"two_wells {k}": {"value": v, "error": e, "believed": b, "seconds": 1.0} for k, (v, e, b) in enumerate(values)
    }
    found = calibration.summary({"cells": cells, "truths": {"two_wells": [2.0, 0.0, ""]}})["two_wells"]
    assert (found["runs"], found["believed"], found["within"]) == (4, 3, 2)
    assert found["mean"] == pytest.approx(-2 / 3) and found["sd"] == pytest.approx(math.sqrt(13 / 3))


def test_truths_of_the_calibration_are_known() -> None:
    for target in set(calibration.TARGETS) - {"united_pentane"}:
        value, error, source = calibration.truth(target)
        assert 0.5 < value < 7.0 and 0.0 <= error < 0.02 and source
    both = 1 / (1 + math.exp(calibration.truth("butane")[0]))
    half, _, _ = race.MOLECULES["butane"].truth()  # type: ignore[misc]
    assert 1 / (1 + math.exp(half)) == pytest.approx(both / 2)


def test_a_method_runs_until_its_error_and_no_longer(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def method(*_: object) -> Iterator[race.Step]:
        for k, error in enumerate((0.3, 0.09, 0.06, 0.04, 0.03)):
            made.append(k)
            found = Estimate(2.0 + error, error)
            yield SimpleNamespace(basin_difference=lambda basin, found=found: found), 1000 * 2**k  # type: ignore[misc]

    monkeypatch.setattr(race, "METHODS", {"langevin": method})
    monkeypatch.setattr(race, "second", lambda *_: {})
    monkeypatch.setattr(race, "MOLECULES", {"butane": race.Molecule("butane", lambda t: None, lambda: TRUTH)})  # type: ignore
    monkeypatch.setattr(race.fab.MolecularSystem, "load", lambda name: SimpleNamespace())
    figures = race.measure(SimpleNamespace(**_race()))
    (cell,) = figures["cells"].values()
    assert made == [0, 1, 2, 3]
    assert (cell["0.1"]["error"], cell["0.05"]["error"]) == (0.09, 0.04)
    assert (cell["0.1"]["evaluations"], cell["0.05"]["evaluations"]) == (2000, 8000)
    race.measure(SimpleNamespace(**_race()))
    assert len(made) == 4  # the cell is there
    race.measure(SimpleNamespace(**_race(anew=True, cap=0.0)))
    assert len(made) == 5


@pytest.mark.parametrize("name", list(contestants.RINGS))
def test_the_shapes_of_rings_are_mirror_images(name: str) -> None:
    """What is in the basin is out of it in a mirror, which changes no energy: half of all structures are."""
    pytest.importorskip("rdkit")
    pytest.importorskip("openff.toolkit")
    system, molecule = contestants.load(name), contestants.MOLECULES[name]
    x = np.array([system.minimum, system.minimum * [1.0, 1.0, -1.0]])
    u = CompiledEnergy(system).value_and_gradient(torch.as_tensor(x))[0]
    assert float(u[0]) == pytest.approx(float(u[1]), abs=1e-3)
    inside = molecule.basin(mdtraj.Trajectory(x, system.md_topology))  # type: ignore[misc]
    assert sorted(inside) == [False, True]
    ((a, b, c, d),) = molecule.torsions()  # type: ignore[misc]
    assert {frozenset(pair) for pair in ((a, b), (b, c), (c, d))} <= set(map(frozenset, system.graph.bonds.tolist()))


def _race(anew: bool = False, cap: float = 1e9) -> dict[str, object]:
    about = {"molecule": ["butane"], "method": ["langevin"], "folder": None, "seed": 0, "quick": False, "error": None}
    return about | {"anew": anew, "cap": cap}


def test_the_table_says_which_errors_are_wrong_and_what_is_extrapolated() -> None:
    step = {"cpu": 10.0, "wall": 11.0, "evaluations": 1e5, "value": 2.05, "error": 0.09}
    trained = step | {"n": 1e4, "seconds": {"training": 6.0, "sampling": 2.0}, "error": 0.1, "believed": False}
    far = step | {"value": 2.5, "error": 0.08, "cpu": 40.0, "evaluations": 4e5}
    cells = {
        "butane flow": {"0.1": trained | {"second": {"warmer": {"cpu": 1.0}, "charges": {"cpu": None}}}},
        "butane langevin": {"0.1": step, "stopped": far, "second": {"warmer": {"cpu": 33.3}}},
        "butane opes": {"stopped": far | {"error": 0.4}},
        "butane replica-exchange": {"stopped": far | {"error": None}},
    }
    text = race.table({"cells": cells, "truths": {"butane": list(TRUTH)}})
    columns, _, row = text.split("\n\n")[1].splitlines()
    found = dict(zip(columns.split(" | "), row.strip("| ").split(" | "), strict=True))
    # Of a flow sampling alone grows: 10 + 2 * 3; of MD everything, 40 * (0.08 / 0.05)^2.
    assert found["flow"] == "10 / ~16; 1e+05; +0.05 ± 0.10, not believed"
    assert found["langevin |"] == "10 / ~102; 1e+05; +0.50 ± 0.08, WRONG: 6 errors"
    assert found["opes"] == "~640 / ~2,560; ~6.4e+06; +0.50 ± 0.40"
    assert found["replica-exchange"] == "? / ?; ?; no error"
    assert text.splitlines()[-1].startswith("| butane | 1 / anew |") and text.endswith("| 33 |")
    assert "Not run yet:" in text and "alanine_dipeptide" in text


def test_charges_of_every_force_are_weaker() -> None:
    """The energy is what OpenMM says of 0.81 times Coulomb's and the solvent's, both quadratic in the charges."""
    system = MolecularSystem.load("alanine_dipeptide")
    other = race.weaker(system)
    assert other is not None

    def energies(of: MolecularSystem) -> np.ndarray:
        return np.array(
            [_energy(of.system, kind, of.positions) for kind in (openmm.NonbondedForce, openmm.CustomGBForce)]
        )

    def uncharged(kind: type) -> float:
        copied = openmm.XmlSerializer.clone(system.system)
        for force in copied.getForces():
            if isinstance(force, openmm.NonbondedForce):
                for k in range(force.getNumParticles()):
                    _, *rest = force.getParticleParameters(k)
                    force.setParticleParameters(k, 0.0, *rest)
                for k in range(force.getNumExceptions()):
                    i, j, _, *rest = force.getExceptionParameters(k)
                    force.setExceptionParameters(k, i, j, 0.0, *rest)
            elif isinstance(force, openmm.CustomGBForce):
                for k in range(force.getNumParticles()):
                    force.setParticleParameters(k, [0.0, *force.getParticleParameters(k)[1:]])
        return _energy(copied, kind, system.positions)

    without = np.array([uncharged(openmm.NonbondedForce), uncharged(openmm.CustomGBForce)])
    np.testing.assert_allclose(energies(other) - without, 0.81 * (energies(system) - without), rtol=1e-6)
    assert race.weaker(beads.chain(4)) is None


def _energy(system: openmm.System, kind: type, x: np.ndarray) -> float:
    """kJ/mol of one kind of force."""
    copied = openmm.XmlSerializer.clone(system)
    for k in reversed(range(copied.getNumForces())):
        if not isinstance(copied.getForce(k), kind):
            copied.removeForce(k)
    context = openmm.Context(copied, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    return context.getState(getEnergy=True).getPotentialEnergy()._value


# --- united atoms, and clocks ---


def test_quadrature_of_united_atoms_is_their_energy() -> None:
    """Of butane's, against an integral of OpenMM's own energy; structures have the angles that they are placed with."""
    system, kT = beads.chain(4), beads.KELVIN * beads.TEMPERATURE
    phi = (np.arange(72) + 0.5) * 2 * math.pi / 72 - math.pi
    x = beads.placed(np.full((72, 3), beads.BOND), np.full((72, 2), beads.ANGLE), phi[:, None])
    frames = mdtraj.Trajectory(x, system.md_topology)
    np.testing.assert_allclose(mdtraj.compute_dihedrals(frames, [[0, 1, 2, 3]], periodic=False)[:, 0], phi, atol=1e-5)
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system.system, integrator, openmm.Platform.getPlatformByName("Reference"))
    weights = []
    for frame in x:
        context.setPositions(frame)
        weights.append(math.exp(-context.getState(getEnergy=True).getPotentialEnergy()._value / kT))
    inside = beads.inside(frames)
    share = np.array(weights)[inside].sum() / sum(weights)
    assert beads.truth(4, 72) == pytest.approx(math.log((1 - share) / share), abs=1e-6)


def test_pair_of_ends_of_united_pentane() -> None:
    """At rigid bonds and angles, one node each, against OpenMM's energies on a coarse grid of torsions."""
    system, kT = beads.chain(5), beads.KELVIN * beads.TEMPERATURE
    phi = (np.arange(12) + 0.5) * 2 * math.pi / 12 - math.pi
    at = np.stack(np.meshgrid(phi, phi, indexing="ij"), axis=-1).reshape(-1, 2)
    x = beads.placed(np.full((144, 4), beads.BOND), np.full((144, 3), beads.ANGLE), at)
    weights = np.exp([-_all(system, frame) / kT for frame in x])
    inside = beads.inside(mdtraj.Trajectory(x, system.md_topology))
    share = weights[inside].sum() / weights.sum()
    assert beads.truth(5, 12, 1, 1) == pytest.approx(math.log((1 - share) / share), abs=1e-5)


def _all(system: MolecularSystem, x: np.ndarray) -> float:
    return float(system.kT * CompiledEnergy(system)(torch.from_numpy(x[None]))[0])


def test_clocks_of_the_processor() -> None:
    """Sleep takes no time where only work does; afterwards clocks are what they were."""
    before = time.perf_counter, time.monotonic
    with budgets.on_processor_time():
        began = time.perf_counter(), time.monotonic()
        time.sleep(0.3)
        assert time.perf_counter() - began[0] < 0.1 and time.monotonic() - began[1] < 0.1
        work = Seeking(SimpleNamespace(), 0.1, 60.0)  # type: ignore[arg-type]
        assert work.clock is time.process_time
    assert (time.perf_counter, time.monotonic) == before and Seeking(SimpleNamespace(), 0.1, 60.0).clock is before[1]  # type: ignore[arg-type]
