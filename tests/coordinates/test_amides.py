"""Peptide bonds: found by rule, turned trans, kept or sampled."""

from __future__ import annotations

import mdtraj
import molecules as m
import numpy as np
import pytest
import torch
from openmm import app

from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.isomers import amide_bonds, is_trans, of_two_isomers, with_trans_amides, without_hydrogen
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.molecule.graph import BondGraph
from openmm_fab.molecule.system import MolecularSystem


def _named(s: MolecularSystem) -> list[list[str]]:
    atoms = list(s.topology.atoms())
    return [[f"{atoms[i].residue.name}:{atoms[i].name}" for i in amide] for amide in amide_bonds(s.graph)]


def test_by_name():
    assert _named(MolecularSystem.load("alanine_dipeptide")) == [
        ["ACE:CH3", "ACE:C", "ALA:N", "ALA:CA"],
        ["ALA:CA", "ALA:C", "NME:N", "NME:C"],
    ]
    assert _named(MolecularSystem.load("proline_dipeptide"))[0] == ["ACE:CH3", "ACE:C", "PRO:N", "PRO:CA"]
    assert len(_named(MolecularSystem.load("cystine"))) == 4
    assert len(_named(MolecularSystem.load("elil"))) == 3
    assert _named(MolecularSystem.load("butane")) == []


def test_not_in_rings_and_not_without_a_carbon():
    """A lactam (2-pyrrolidone) cannot turn; formamide and acetamide look alike on both sides."""
    ring = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 5), (1, 6)]  # C(=O) N C C C
    assert amide_bonds(BondGraph(["C", "N", "C", "C", "C", "O", "H"], ring)) == []
    chain = [(0, 1), (1, 2), (1, 3), (3, 4), (3, 5)]
    assert amide_bonds(BondGraph(["C", "C", "O", "N", "H", "H"], chain)) == []
    assert amide_bonds(BondGraph(["C", "C", "O", "N", "C", "H"], chain)) == [(0, 1, 3, 4)]


def _cis(s: MolecularSystem) -> tuple[np.ndarray, list]:
    amides = amide_bonds(s.graph)
    x = np.array(s.positions)
    assert all(is_trans(x, amide) for amide in amides)
    side = [a.index for a in s.topology.atoms() if a.residue.name == "ACE" and a.index not in amides[0][1:3]]
    axis = x[amides[0][2]] - x[amides[0][1]]
    axis /= np.linalg.norm(axis)
    arm = x[side] - x[amides[0][1]]
    x[side] = x[amides[0][1]] + 2 * (arm @ axis)[:, None] * axis - arm
    return x, amides


def test_cis_is_turned(alanine_dipeptide):
    s = alanine_dipeptide
    x, amides = _cis(s)
    assert [is_trans(x, amide) for amide in amides] == [False, True]
    turned = with_trans_amides(x, s.graph, amides)
    assert all(is_trans(turned, amide) for amide in amides)
    distances = [np.linalg.norm(p[:, None] - p, axis=-1) for p in (s.positions, turned)]
    np.testing.assert_allclose(distances[1], distances[0], atol=1e-9)
    np.testing.assert_array_equal(with_trans_amides(s.positions, s.graph, amides), s.positions)


def test_what_coordinates_do_with_them(alanine_dipeptide):
    """A cis structure stays cis, is turned trans, or turns freely."""
    s = alanine_dipeptide
    x, amides = _cis(s)
    cis = MolecularSystem(s.topology, s.system, x, 300)

    def omega(settings: CoordinateSettings) -> tuple[np.ndarray, InternalCoordinates]:
        c = InternalCoordinates.from_system(cis, settings)
        z = torch.randn(200, c.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        z[:, c.n_stiff :] = 2 * z[:, c.n_stiff :]
        trajectory = mdtraj.Trajectory(c.to_cartesian(z)[0].numpy(), s.md_topology)
        return np.cos(mdtraj.compute_dihedrals(trajectory, [amides[0]], periodic=False)[:, 0]), c

    kept, c = omega(CoordinateSettings())
    assert (kept > 0.5).all() and c.n_periodic == 5
    turned, c = omega(CoordinateSettings(omega="trans"))
    assert (turned < -0.5).all() and c.n_periodic == 5
    free, c = omega(CoordinateSettings(omega="sample"))
    assert c.n_periodic == 7 and 0.2 < (free > 0).mean() < 0.8
    with pytest.raises(ValueError, match="Expected omega to be one of"):
        CoordinateSettings(omega="cis")


def test_ethylene_is_no_amide():
    assert amide_bonds(m.ETHYLENE.graph) == []


def test_isomers_of_a_nitrogen_without_hydrogen():
    """C-C(=O)-N with two arms: methyl and ethyl differ, two methyls do not, and neither do the two ways around a
    morpholine, unless one of its carbons has a chlorine."""
    acyl = [(0, 1), (1, 2), (1, 3), (3, 4), (3, 5)]
    ring = [(4, 6), (5, 7), (6, 8), (7, 8)]
    for elements, bonds, differ in (
        ("C C O N C C C", [*acyl, (5, 6)], True),
        ("C C O N C C", acyl, False),
        ("C C O N C H C", [*acyl, (4, 6)], False),
        ("C C O N C C C C O", [*acyl, *ring], False),
        ("C C O N C C C C O Cl", [*acyl, *ring, (7, 9)], True),
        ("F C O N C C Cl Cl", [*acyl, (4, 6), (5, 7)], False),
    ):
        graph = BondGraph(elements.split(), bonds)
        (amide,) = amide_bonds(graph)
        assert bool(without_hydrogen([amide], graph)) == differ, elements
        assert bool(of_two_isomers([amide], graph)) == (differ or graph.elements[5] == "H"), elements


@pytest.mark.parametrize(("omega", "more"), [("auto", 1), ("as_given", 0), ("trans", 0), ("sample", 2)])
def test_a_drawing_has_no_isomer_and_a_peptide_has(omega, more):
    """Acetyl proline methylamide as three residues, and as one, which a drawn molecule is."""
    s = MolecularSystem.load("proline_dipeptide")
    drawn = app.Topology()
    residue = drawn.addResidue("LIG", drawn.addChain())
    for atom in s.topology.atoms():
        drawn.addAtom(f"{atom.element.symbol}{atom.index + 1}", atom.element, residue)
    atoms = list(drawn.atoms())
    for i, j in s.topology.bonds():
        drawn.addBond(atoms[i.index], atoms[j.index])
    settings = CoordinateSettings(omega=omega, puckers=0.0)
    linked, single = (
        InternalCoordinates.from_system(m, settings, energy=CompiledEnergy(m))
        for m in (s, MolecularSystem(drawn, s.system, s.positions, 300))
    )
    assert single.n_periodic == 3 + more and linked.n_periodic == 3 + more * (omega == "sample")
    if omega == "auto":
        (amide, _) = amide_bonds(s.graph)
        kept = CoordinateSettings(keep=[amide[1:3]], puckers=0.0)
        assert InternalCoordinates.from_system(single.system, kept, energy=CompiledEnergy(s)).n_periodic == 3
