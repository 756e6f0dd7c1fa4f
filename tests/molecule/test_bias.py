"""A bias that enhanced sampling puts into a System is not taken for the molecule's energy."""

from __future__ import annotations

import copy

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from openmm_fab.energy.backends import reduced_energy
from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.md.reference import run_reference
from openmm_fab.molecule.checks import UnsupportedSystemError
from openmm_fab.molecule.system import MolecularSystem

WIDTH = 21


@pytest.fixture
def butane() -> MolecularSystem:
    return MolecularSystem.load("butane")


def _metadynamics(system: openmm.System) -> openmm.CustomCVForce:
    """app.Metadynamics of the first torsion, with 10 kJ/mol everywhere."""
    torsion = openmm.CustomTorsionForce("theta")
    torsion.addTorsion(0, 1, 2, 3)
    variable = app.BiasVariable(torsion, -np.pi, np.pi, 0.3, True, WIDTH)
    app.Metadynamics(system, [variable], 300 * unit.kelvin, 5.0, 1.0, 10)
    force = system.getForce(system.getNumForces() - 1)
    force.getTabulatedFunction(0).setFunctionParameters([10.0] * WIDTH, -np.pi, np.pi)
    return force


def _u(system: MolecularSystem) -> float:
    return reduced_energy(system)(torch.from_numpy(system.positions)[None]).item()


def test_a_bias_that_is_added_later_to_the_system_that_was_given(butane) -> None:
    theirs = openmm.XmlSerializer.clone(butane.system)
    made = MolecularSystem.from_openmm(butane.topology, theirs, butane.positions)
    forces, before, print_ = theirs.getNumForces(), _u(made), made.fingerprint
    _metadynamics(theirs)
    assert theirs.getNumForces() == forces + 1 and made.system.getNumForces() == forces
    assert _u(made) == before and made.fingerprint == print_
    frames = mdtraj.Trajectory(made.positions[None], made.md_topology)
    assert Ensemble.from_mdtraj(frames, made).u[0] == pytest.approx(before, abs=1e-4)


def test_what_is_done_here_does_not_change_the_system_that_was_given(butane) -> None:
    theirs = openmm.XmlSerializer.clone(butane.system)
    before = openmm.XmlSerializer.serialize(theirs)
    made = MolecularSystem.from_openmm(butane.topology, theirs, butane.positions)
    made.system.getForce(0).setForceGroup(3)
    assert openmm.XmlSerializer.serialize(theirs) == before


def test_a_bias_that_is_added_later_to_our_system_is_refused(butane, tmp_path) -> None:
    frames = mdtraj.Trajectory(butane.positions[None], butane.md_topology)
    energy = OpenMMEnergy(butane, platform="Reference", workers=1)
    x = torch.from_numpy(butane.positions)[None]
    before, print_ = energy(x).item(), butane.fingerprint
    _metadynamics(butane.system)
    assert energy(x).item() == before  # its Contexts were made before
    for use in (
        lambda: reduced_energy(butane),
        lambda: OpenMMEnergy(butane, platform="Reference", workers=1),
        lambda: Ensemble.from_mdtraj(frames, butane),
        lambda: butane.fingerprint,
        lambda: butane.minimise(butane.positions),
        lambda: run_reference(butane, "langevin", folder=tmp_path / "a", time_ps=0.1, progress=False),
    ):
        with pytest.raises(ValueError, match=r"of butane as it was given; it was changed since .*CustomCVForce"):
            use()
    butane.system.removeForce(butane.system.getNumForces() - 1)
    assert butane.fingerprint == print_ and _u(butane) == pytest.approx(before, abs=1e-6)


def test_a_table_that_grows_is_noticed(butane) -> None:
    system = openmm.XmlSerializer.clone(butane.system)
    _metadynamics(system)
    with pytest.warns(UserWarning, match="has a bias"):
        made = MolecularSystem.from_openmm(butane.topology, system, butane.positions)
    made.require_unchanged()
    table = made.system.getForce(made.system.getNumForces() - 1).getTabulatedFunction(0)
    table.setFunctionParameters([10.0, 11.0] + [10.0] * (WIDTH - 3) + [10.0], -np.pi, np.pi)
    with pytest.raises(ValueError, match="it was changed since"):
        made.require_unchanged()


def test_a_bias_that_is_there_is_told_of(butane, recwarn) -> None:
    system = openmm.XmlSerializer.clone(butane.system)
    k = system.getNumForces()
    _metadynamics(system)
    with pytest.warns(
        UserWarning, match=rf"its System has a bias, force {k} \(CustomCVForce: table\(cv0\)\)"
    ) as caught:
        made = MolecularSystem.from_openmm(butane.topology, system, butane.positions, name="mine")
    assert caught[0].filename == __file__ and "removeForce" in str(caught[0].message)
    assert _u(made) - _u(butane) == pytest.approx(10.0 / made.kT, abs=1e-4)  # it is part of u
    # An expression without a table is a restraint, or whatever its author means.
    recwarn.clear()
    plain = openmm.XmlSerializer.clone(butane.system)
    force = openmm.CustomCVForce("2*cv")
    force.addCollectiveVariable("cv", copy.deepcopy(system.getForce(k).getCollectiveVariable(0)))
    plain.addForce(force)
    MolecularSystem.from_openmm(butane.topology, plain, butane.positions)
    assert not len(recwarn)


def test_functions_that_cannot_be_copied(butane) -> None:
    system = openmm.XmlSerializer.clone(butane.system)
    system.addForce(openmm.PythonForce(lambda state: (0.0, np.zeros((14, 3)))))
    with pytest.raises(UnsupportedSystemError, match="at the top level of a module: no lambda"):
        MolecularSystem.from_openmm(butane.topology, system, butane.positions)


def nothing(state) -> tuple[float, np.ndarray]:
    return 0.0, np.zeros((14, 3))


def test_a_python_force_is_the_same_each_time(butane) -> None:
    system = openmm.XmlSerializer.clone(butane.system)
    system.addForce(openmm.PythonForce(nothing))
    made = MolecularSystem.from_openmm(butane.topology, system, butane.positions)
    made.require_unchanged()
    with OpenMMEnergy(made, platform="Reference", workers=1) as energy:
        u = energy(torch.from_numpy(made.positions)[None]).item()
    assert u == pytest.approx(_u(butane), abs=1e-9)
