"""What users bias with, against OpenMM: the variables of cvpack, and restraints as PLUMED has them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from forces import agrees, structures
from openmm import app, unit

from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.energy.potential import Potential, UntranslatedSystemError
from openmm_fab.energy.reader import global_parameters

NM, RADIAN, KJ = unit.nanometer, unit.radian, unit.kilojoule_per_mole
RESIDUES, BACKBONE = 8, ("N", "CA", "CB", "C", "O")


@pytest.fixture(scope="module")
def peptide() -> tuple[app.Topology, np.ndarray]:
    """Eight residues of backbones and CB alone: topology, and positions (atoms, 3) in nm of something like a helix."""
    topology = app.Topology()
    chain, rng = topology.addChain(), np.random.default_rng(0)
    for _ in range(RESIDUES):
        residue = topology.addResidue("ALA", chain)
        for name in (*BACKBONE, "H"):
            topology.addAtom(name, app.Element.getBySymbol(name[0]), residue)
    turn = np.deg2rad(100.0) * np.arange(RESIDUES)
    centres = np.stack([0.23 * np.cos(turn), 0.23 * np.sin(turn), 0.15 * np.arange(RESIDUES)], 1)
    return topology, np.repeat(centres, 6, 0) + rng.normal(scale=0.1, size=(6 * RESIDUES, 3))


def _system(topology: app.Topology, force: openmm.Force) -> openmm.System:
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    system.addForce(force)
    return system


def _restrained(variables: dict[str, openmm.Force], expression: str, **parameters: float) -> openmm.CustomCVForce:
    force = openmm.CustomCVForce(expression)
    for name, value in parameters.items():
        force.addGlobalParameter(name, value)
    for name, inner in variables.items():
        force.addCollectiveVariable(name, copy.deepcopy(inner))
    return force


def _pushes(system: openmm.System, x: torch.Tensor) -> bool:
    """Whether the force of the System is other than zero somewhere."""
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(Potential(system)(x, global_parameters(system)).sum(), x)
    return bool(slope.abs().max() > 1e-3)


def _charges(n_atoms: int) -> openmm.NonbondedForce:
    force, rng = openmm.NonbondedForce(), np.random.default_rng(2)
    for _ in range(n_atoms):
        force.addParticle(rng.normal(scale=0.3), 0.25, 0.4)
    force.addException(0, 1, 0.0, 0.1, 0.0)
    force.setNonbondedMethod(force.CutoffNonPeriodic)
    force.setCutoffDistance(0.9)
    return force


def _variables(cv: Any, topology: app.Topology, x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Each variable of cvpack by its name."""
    residues, n = list(topology.residues()), topology.getNumAtoms()
    first, near = [a.index for a in residues[0].atoms()], [a.index for a in residues[3].atoms()]
    some, torsions = list(range(0, n, 3)), [(0, 1, 3, 6), (1, 3, 6, 7)]
    rng = np.random.default_rng(1)
    moved = [x + rng.normal(scale=0.05, size=x.shape) for _ in range(3)]
    return {
        "Angle": lambda: cv.Angle(0, 5, 11),
        "AtomicFunction": lambda: cv.AtomicFunction(
            "k*(angle(p1, p2, p3) - t)^2", KJ, [[0, 5, 11], [3, 8, 20]], k=5.0 * KJ / RADIAN**2, t=[1.0, 2.0] * RADIAN
        ),
        "AttractionStrength": lambda: cv.AttractionStrength(first, near, _charges(n)),
        "CentroidFunction": lambda: cv.CentroidFunction("k*distance(g1, g2)", KJ, [first, near], k=3.0 * KJ / NM),
        "Distance": lambda: cv.Distance(0, 20),
        "HelixAngleContent": lambda: cv.HelixAngleContent(residues),
        "HelixHBondContent": lambda: cv.HelixHBondContent(residues),
        "HelixRMSDContent": lambda: cv.HelixRMSDContent(residues, n, thresholdRMSD=0.2 * NM),
        "HelixTorsionContent": lambda: cv.HelixTorsionContent(residues),
        "MetaCollectiveVariable": lambda: cv.MetaCollectiveVariable(
            "k*(a - d)^2", [cv.Angle(0, 5, 11, name="a"), cv.Distance(0, 20, name="d")], KJ, k=2.0 * KJ
        ),
        "NumberOfContacts": lambda: cv.NumberOfContacts(first, near, _charges(n)),
        "OpenMMForceWrapper": lambda: cv.OpenMMForceWrapper(openmm.RGForce(some), NM),
        "PathInCVSpace": lambda: cv.PathInCVSpace(
            cv.path.progress, [cv.Torsion(*t, name=f"t{k}") for k, t in enumerate(torsions)],
            np.array([[-1.5, 2.0], [-1.2, 0.5], [1.0, 1.0]]), 1.5,
        ),
        "PathInRMSDSpace": lambda: cv.PathInRMSDSpace(
            cv.path.deviation, [{a: y[a] * NM for a in some} for y in moved], n, 0.1 * NM
        ),
        "RadiusOfGyration": lambda: cv.RadiusOfGyration(some),
        "RadiusOfGyrationSq": lambda: cv.RadiusOfGyrationSq(some),
        "ResidueCoordination": lambda: cv.ResidueCoordination(residues[:2], residues[4:]),
        "RMSD": lambda: cv.RMSD(moved[0] * NM, some, n),
        "SheetRMSDContent": lambda: cv.SheetRMSDContent(residues, n, blockSizes=[4, 4], thresholdRMSD=0.2 * NM),
        "ShortestDistance": lambda: cv.ShortestDistance(first, near, n),
        "Torsion": lambda: cv.Torsion(*torsions[0]),
        "TorsionSimilarity": lambda: cv.TorsionSimilarity(torsions, [(6, 7, 9, 12), (7, 9, 12, 13)]),
    }  # fmt: skip


def test_every_variable_of_cvpack(peptide) -> None:
    """All but CompositeRMSD, which is a force of a plugin."""
    cv = pytest.importorskip("cvpack")
    topology, positions = peptide
    named, x, wrong = _variables(cv, *peptide), structures(positions), {}
    assert set(named) == set(cv.__all__) - {"CollectiveVariable", "CompositeRMSD"}
    for name, make in named.items():
        system = _system(topology, _restrained({"v": make()}, "k*(v-0.3)^2+v", k=20.0))
        try:
            agrees(system, x)
            assert _pushes(system, x), "no force"
        except (AssertionError, NotImplementedError) as error:
            wrong[name] = str(error)
    assert not wrong


def test_the_variable_that_is_the_force_of_a_plugin_is_named(peptide) -> None:
    cv = pytest.importorskip("cvpack")
    pytest.importorskip("openmmcppforces")
    topology, positions = peptide
    deviation = cv.CompositeRMSD(positions * NM, [[0, 5, 11, 13], [20, 22, 31, 40]], len(positions))
    system = _system(topology, _restrained({"both": deviation}, "k*(both-0.3)^2", k=20.0))
    with pytest.raises(
        UntranslatedSystemError, match="variable 'both', CompositeRMSDForce of a plugin: no translation"
    ):
        Potential(system)


def _torsion(*atoms: int) -> openmm.Force:
    force = openmm.CustomTorsionForce("theta")
    force.addTorsion(*atoms, [])
    return force


def _distance(a: int, b: int) -> openmm.Force:
    force = openmm.CustomBondForce("r")
    force.addBond(a, b, [])
    return force


def _coordination(first: list[int], second: list[int]) -> openmm.Force:
    """PLUMED's default switch: (1 - x^6) / (1 - x^12), x = r / r0."""
    force = openmm.CustomNonbondedForce("(1-x^6)/(1-x^12); x=r/0.35")
    for _ in range(6 * RESIDUES):
        force.addParticle([])
    force.addInteractionGroup(first, second)
    return force


RESTRAINTS: dict[str, Callable[[np.ndarray], openmm.Force]] = {
    "RESTRAINT of a distance": lambda _: _restrained(
        {"d": _distance(0, 20)}, "0.5*kappa*(d-at)^2", kappa=200.0, at=0.5
    ),
    "RESTRAINT of a torsion": lambda _: _restrained(
        {"phi": _torsion(0, 1, 3, 6)}, "0.5*kappa*min(delta,6.283185307179586-delta)^2; delta=abs(phi-at)",
        kappa=50.0, at=-2.9,
    ),
    "UPPER_WALLS": lambda _: _restrained(
        {"rg": openmm.RGForce()}, "kappa*step(over)*over^2; over=rg-at+offset", kappa=500.0, at=0.3, offset=0.01
    ),
    "LOWER_WALLS": lambda x: _restrained(
        {"rmsd": openmm.RMSDForce(x + np.random.default_rng(5).normal(scale=0.05, size=x.shape))},
        "kappa*max(0,at-rmsd)^4", kappa=1e4, at=0.3,
    ),
    "COORDINATION": lambda _: _restrained(
        {"c": _coordination([0, 1, 2], list(range(12, 30)))}, "0.5*kappa*(c-at)^2", kappa=2.0, at=1.5
    ),
    "COMBINE": lambda _: _restrained(
        {"a": _distance(0, 20), "b": _distance(3, 30)}, "kappa*(a^2-0.5*b-at)^2", kappa=30.0, at=0.1
    ),
    "ALPHABETA": lambda _: _restrained(
        {"a": _torsion(0, 1, 3, 6), "b": _torsion(6, 7, 9, 12)}, "-kappa*(0.5*(1+cos(a+1.0))+0.5*(1+cos(b+1.0)))",
        kappa=30.0,
    ),
    "METAD, its table": lambda _: _table(),
}  # fmt: skip


def _table() -> openmm.Force:
    force = _restrained({"a": _torsion(0, 1, 3, 6), "b": _torsion(6, 7, 9, 12)}, "table(a,b)")
    values = np.random.default_rng(6).normal(scale=5.0, size=(31, 31))
    values[-1], values[:, -1] = values[0], values[:, 0]
    table = openmm.Continuous2DFunction(31, 31, values.ravel(), -np.pi, np.pi, -np.pi, np.pi, True)
    force.addTabulatedFunction("table", table)
    return force


@pytest.mark.parametrize("name", RESTRAINTS)
def test_restraints_as_plumed_has_them(name, peptide) -> None:
    topology, positions = peptide
    system, x = _system(topology, RESTRAINTS[name](positions)), structures(positions)
    agrees(system, x)
    assert _pushes(system, x)


def test_a_parameter_of_the_same_name_inside_has_the_default_from_outside(peptide) -> None:
    topology, positions = peptide
    inner = openmm.CustomBondForce("k*r")
    inner.addGlobalParameter("k", 2.0)
    inner.addBond(0, 20, [])
    agrees(_system(topology, _restrained({"v": inner}, "k*(v-0.3)^2", k=5.0)), structures(positions))


def test_the_reason_names_the_force_inside_and_its_variable() -> None:
    inner = _restrained({"bonds": openmm.CustomHbondForce("distance(a1,d1)"), "d": _distance(0, 1)}, "bonds+d")
    system = openmm.System()
    for _ in range(4):
        system.addParticle(1.0)
    system.addForce(_restrained({"outer": inner}, "outer^2"))
    (reason,) = CompiledEnergy.untranslated(system)
    for part in ("CustomCVForce: variable 'outer'", "variable 'bonds', CustomHbondForce: no translation"):
        assert part in reason
