"""What the summary and the picture of coordinates say, against molecules that are known."""

from __future__ import annotations

from dataclasses import replace

import molecules as m
import numpy as np
import pytest
import torch
import zoo
from openmm import app

from openmm_fab.coordinates import marks
from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.coordinates.summary import turning_in_words
from openmm_fab.coordinates.zmatrix import build_zmatrix
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.molecule.stereo import stereocentres
from openmm_fab.molecule.system import PAPER_FORCEFIELD, MolecularSystem
from openmm_fab.target import BoltzmannTarget, ManyWell
from openmm_fab.tools.vectors import bond_angle


def _coordinates(system: MolecularSystem, **settings) -> InternalCoordinates:
    return InternalCoordinates.from_system(system, CoordinateSettings(**settings), energy=CompiledEnergy(system))


@pytest.fixture(scope="module")
def proline() -> InternalCoordinates:
    return _coordinates(MolecularSystem.load("proline_dipeptide"))


def test_a_row_for_every_atom(proline):
    head, *lines = proline.summary().splitlines()
    rows = lines[: proline.n_atoms]
    assert head.split() == "atom bonded to nm angle with degrees torsion with degrees which".split()
    assert lines[proline.n_atoms] == "" and len({row.split()[0] for row in rows}) == proline.n_atoms
    assert sum("periodic" in row for row in rows) == proline.n_periodic == 3
    assert sum("closes a ring" in row for row in rows) == 1
    (closing,) = (row for row in rows if "closes a ring" in row)
    assert {"PRO2:CD", "PRO2:CG"} <= set(closing.split()) or {"PRO2:CG", "PRO2:CD"} <= set(closing.split())


def test_centres_are_those_of_the_minimum(proline):
    """Lengths and angles of the table, read back, against the structure."""
    names = [f"{a.residue.name}{a.residue.id}:{a.name}" for a in proline.system.topology.atoms()]
    x = proline.structures()[0]
    for row in proline.summary().splitlines()[2 : proline.n_atoms + 1]:
        atom, bond, length, _, width, *rest = row.split()
        i, j = names.index(atom), names.index(bond)
        assert float(length) == pytest.approx(np.linalg.norm(x[i] - x[j]), abs=1e-4)
        assert 0.001 < float(width) < 0.01
        if rest and "nm" not in rest:
            u, v = x[i] - x[j], x[names.index(rest[0])] - x[j]
            expected = np.degrees(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))
            assert float(rest[1]) == pytest.approx(expected, abs=0.06)


def test_what_is_said_in_words(proline, alanine_dipeptide):
    text = proline.summary()
    assert "72 coordinates: 69 stiff, 3 periodic" in text
    (amide,) = proline.scans.bonds  # the one without a hydrogen
    energies = f"(barrier {amide.barrier:.1f} kT, other side {amide.other:+.1f} kT)"
    assert f"Peptide bonds, trans: ACE1:C-PRO2:N {energies}, PRO2:C-NME3:N\n" in text
    assert "keep the chirality of the structure: PRO2:CA\n" in text
    assert "Rings that pucker or are bent: 1" in text and "closed by their lengths: 1" in text
    assert "ACE1:CH3 (3 sectors), NME3:C (3 sectors)" in text
    rigid = MolecularSystem.from_pdb(alanine_dipeptide.folder / "input.pdb", PAPER_FORCEFIELD, constraints=app.HBonds)
    text = _coordinates(rigid, omega="sample", symmetry="none").summary()
    assert "48 coordinates: 41 stiff, 7 periodic; 12 lengths fixed, measure of rigid bonds" in text
    assert "Peptide bonds, sampled: ACE1:C-ALA2:N, ALA2:C-NME3:N" in text
    assert text.count(" fixed ") == 12 + 0 and "sector" not in text
    assert "measure of flexible bonds" in _coordinates(rigid, measure="flexible").summary()


def test_what_turns_is_said_by_name(alanine_dipeptide):
    c = _coordinates(alanine_dipeptide)
    text = c.summary().splitlines()[-1]
    assert text == c.turning_in_words() and text.startswith(f"Turning ({c.n_periodic}): ")
    turning, kept = text.removeprefix(f"Turning ({c.n_periodic}): ").split(". Kept as given: ")
    assert {"phi ALA2", "psi ALA2"} < set(turning.split(", ")) and len(turning.split(", ")) == c.n_periodic
    assert kept == "2 x trans amide, stereocentre."
    assert "No torsion of the backbone" not in text

    stiff = replace(c.zmatrix, periodic=np.zeros_like(c.zmatrix.periodic))
    none = turning_in_words(stiff, alanine_dipeptide, c.structures(), c.atom_names, searched=False)
    assert none.startswith("Turning (0): nothing. No torsion of the backbone turns: other shapes of it are missed")


def test_without_a_system_atoms_are_numbers():
    c = InternalCoordinates(build_zmatrix(m.BUTANE.graph, m.BUTANE.masses, m.BUTANE.positions))
    assert "36 coordinates: 33 stiff, 3 periodic" in c.summary()
    with pytest.raises(ValueError, match="these know no system"):
        c.view()


def test_large_rings_are_called_hard():
    """A ring of ten beads, in one plane."""
    angle = np.arange(10) * 2 * np.pi / 10
    x = 0.25 * np.stack([np.cos(angle), np.sin(angle), 0.1 * (-1.0) ** np.arange(10)], 1)
    import openmm

    system, topology = openmm.System(), app.Topology()
    residue = topology.addResidue("RNG", topology.addChain())
    atoms = [topology.addAtom(f"C{k}", app.element.carbon, residue) for k in range(10)]
    springs = openmm.HarmonicBondForce()
    for k in range(10):
        system.addParticle(12.0)
        topology.addBond(atoms[k], atoms[(k + 1) % 10])
        springs.addBond(k, (k + 1) % 10, float(np.linalg.norm(x[0] - x[1])), 1e5)
    system.addForce(springs)
    c = _coordinates(MolecularSystem(topology, system, x, 300))
    assert not c.zmatrix.closes.any()
    assert "Hard: rings of 10 atoms" in c.summary()


@pytest.mark.parametrize(("name", "n"), [("alanine_dipeptide", 1), ("butane", 0), ("adenosine", 4), ("elil", 5)])
def test_stereocentres(name, n):
    s = MolecularSystem.load(name)
    assert len(stereocentres(s.graph)) == n


def test_what_the_picture_marks(proline):
    marked = proline.marks()
    assert sum(colour == marks.TURNS for _, colour, _ in marked) == 1  # psi
    assert sum(colour == marks.SECTOR for _, colour, _ in marked) == 2
    assert [name for _, colour, name in marked if colour == marks.CLOSES] == ["closes a ring: PRO2:CD-PRO2:CG"]
    assert [name for atoms, _, name in marked if len(atoms) == 1] == ["keeps its chirality: PRO2:CA"]
    pytest.importorskip("nglview")
    sent = str(proline.view()._ngl_msg_archive)
    assert (
        sent.count("closes a ring: ") == 1 and sent.count("turns: ") == 3 and sent.count("keeps its chirality: ") == 1
    )


def test_scales_from_a_trajectory(alanine_dipeptide):
    """Widths of a cloud that is known: twice as wide as the Hessian says, about a shifted centre."""
    import mdtraj

    c = _coordinates(alanine_dipeptide)
    g = torch.Generator().manual_seed(0)
    z = 2.0 * torch.randn(4000, c.dim, generator=g, dtype=torch.float64)
    z[:, 3] += 1.0
    z[:, c.n_stiff :] = torch.randn(4000, c.n_periodic, generator=g, dtype=torch.float64)
    trajectory = mdtraj.Trajectory(c.to_cartesian(z)[0].numpy(), alanine_dipeptide.md_topology)
    fitted = InternalCoordinates.from_system(
        alanine_dipeptide, CoordinateSettings(), energy=CompiledEnergy(alanine_dipeptide), trajectory=trajectory
    )
    found, _ = fitted.to_internal(torch.as_tensor(trajectory.xyz, dtype=torch.float64))
    stiff = found[:, : c.n_stiff] * CoordinateSettings().inflate
    assert (stiff.std(0) - 1).abs().max() < 0.06 and stiff.mean(0).abs().max() < 0.1
    centre = c.unmixing @ (fitted.mean - c.mean)
    assert float(centre[3]) == pytest.approx(1.0, abs=0.15) and centre[:3].abs().max() < 0.15
    with pytest.raises(ValueError, match="Expected 10 frames or more"):
        InternalCoordinates.from_system(alanine_dipeptide, trajectory=trajectory[:5])
    with pytest.raises(ValueError, match="some do not"):
        still = mdtraj.Trajectory(np.repeat(trajectory.xyz[:1], 20, 0), alanine_dipeptide.md_topology)
        InternalCoordinates.from_system(alanine_dipeptide, trajectory=still)


def test_bonds_that_do_not_turn_are_listed_and_may_be_made_to() -> None:
    """The amino group of adenine; peptides' own bonds are listed elsewhere."""
    assert "Other bonds that do not turn" not in _coordinates(MolecularSystem.load("elil")).summary()
    s = MolecularSystem.load("adenosine")
    plain = _coordinates(s)
    assert "Other bonds that do not turn: A1:C6-A1:N6 (barrier 2" in plain.summary()
    names = [atom.name for atom in s.topology.atoms()]
    free = _coordinates(s, turning=[[names.index("N6"), names.index("C6")]])
    assert free.n_periodic == plain.n_periodic + 1 and free.dim == plain.dim
    assert "Other bonds that do not turn" not in free.summary()
    with pytest.raises(ValueError, match="Expected turning to name bonds"):
        _coordinates(s, turning=[[names.index("N6"), names.index("N1")]])
    for wrong in ([4, 7], [[4, 7, 9]], 3, [["a", "b"]]):
        with pytest.raises(ValueError, match="Expected turning to be pairs of atoms"):
            CoordinateSettings(turning=wrong)
    bond = [[names.index("C1'"), names.index("N9")]]
    kept = _coordinates(s, keep=bond)
    assert kept.n_periodic == plain.n_periodic - 1 and kept.dim == plain.dim
    assert kept.scans.of(*bond[0]).barrier < 12 and not kept.scans.of(*bond[0]).turns
    assert kept.summary().count("A1:C1'-A1:N9 (barrier") + kept.summary().count("A1:N9-A1:C1' (barrier") == 1
    with pytest.raises(ValueError, match="in turning or in keep"):
        _coordinates(s, keep=bond, turning=bond)
    with pytest.raises(ValueError, match="Expected keep to name bonds"):
        _coordinates(s, keep=[[names.index("N6"), names.index("N1")]])


@pytest.mark.parametrize(
    ("name", "n"),
    [("omeprazole", 1), ("methionine sulfoxide", 2), ("cocaine", 4), ("dimethyl phosphate", 0), ("acetylcholine", 0)],
)
def test_sulfoxides_have_a_hand(name, n):
    pytest.importorskip("rdkit")
    molecule = zoo.load(name)
    found = stereocentres(molecule.graph)
    assert len(found) == n and ("S" in {molecule.elements[i] for i in found}) == ("S" in molecule.elements)


def test_coordinates_have_names(proline):
    """A lost basin is told by its bond."""
    named = [proline.named(k) for k in range(proline.n_stiff, proline.dim)]
    assert "the torsion about PRO2:CA-PRO2:C" in named or "the torsion about PRO2:C-PRO2:CA" in named
    assert len(set(named)) == proline.n_periodic and proline.named(0).startswith("the length ")
    target = BoltzmannTarget(None, proline)
    assert target.named(proline.n_stiff) == named[0] and ManyWell(4).named(2) == "coordinate 2"


def test_stiff_coordinates_have_atoms(proline):
    """Of lengths and angles, at z = 0: those of the atoms named are the centres."""
    x, _ = proline.to_cartesian(torch.zeros(1, proline.dim, dtype=torch.float64))
    kinds = []
    for k in range(proline.n_stiff):
        kind, atoms = proline.layout.stiff(k)
        kinds.append(kind)
        points = x[0, atoms]
        if kind == "length":
            assert float((points[0] - points[1]).norm().log()) == pytest.approx(float(proline.mean[k]), abs=1e-9)
        elif kind == "angle":
            assert float(bond_angle(*points)) == pytest.approx(float(proline.mean[k]), abs=1e-9)
    assert kinds.count("length") == proline.n_atoms and kinds.count("angle") == proline.n_atoms - 3
    assert len(set(map(proline.named, range(proline.dim)))) == proline.dim
