"""Which bonds turn: barriers and other sides against scans by OpenMM, amides by the graph, and what is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import molecules as m
import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.isomers import amide_bonds, without_hydrogen
from openmm_fab.coordinates.scans import BondScan, crossing_time
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.coordinates.turning import Turning
from openmm_fab.coordinates.zmatrix import ZMatrix, build_zmatrix, turning_rows
from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.generator.holding import held_by
from openmm_fab.molecule.graph import BondGraph
from openmm_fab.molecule.system import MolecularSystem

DATA = Path(__file__).parents[1] / "data"
# CH2=CH-NH-CH=CH2, flat: every bond between planar centres and no longer than 0.139 nm.
DIVINYLAMINE = m.build(
    ("N",),
    ("C", 0, 0.139),
    ("C", 0, 1, 0.139, 124.0),
    ("H", 0, 1, 2, 0.1, 118.0, 180.0),
    ("C", 1, 0, 2, 0.134, 124.0, 180.0),
    ("C", 2, 0, 1, 0.134, 124.0, 180.0),
    ("H", 1, 0, 4, m.CH, 116.0, 180.0),
    ("H", 2, 0, 5, m.CH, 116.0, 180.0),
    ("H", 4, 1, 0, m.CH, 120.0, 0.0),
    ("H", 4, 1, 0, m.CH, 120.0, 180.0),
    ("H", 5, 2, 0, m.CH, 120.0, 0.0),
    ("H", 5, 2, 0, m.CH, 120.0, 180.0),
)
LOW, HIGH, DOUBLE = (0, 1), (0, 2), ((1, 4), (2, 5))
TWOFOLD = {LOW: 4.0, HIGH: 12.0, DOUBLE[0]: 30.0, DOUBLE[1]: 30.0}  # kJ/mol, of each torsion about the bond


def _elastic(molecule: m.Molecule) -> tuple[app.Topology, openmm.System]:
    """Springs at the built lengths and angles."""
    graph, x = molecule.graph, molecule.positions
    topology, system = app.Topology(), openmm.System()
    residue = topology.addResidue("DVA", topology.addChain())
    for k, (element, mass) in enumerate(zip(molecule.elements, molecule.masses, strict=True)):
        topology.addAtom(f"{element}{k}", app.Element.getBySymbol(element), residue)
        system.addParticle(mass)
    atoms = list(topology.atoms())
    lengths, angles = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    for i, j in molecule.bonds.tolist():
        topology.addBond(atoms[i], atoms[j])
        lengths.addBond(i, j, float(np.linalg.norm(x[i] - x[j])), 3e5)
    for j, near in enumerate(graph.neighbours):
        for a, i in enumerate(near):
            for k in near[a + 1 :]:
                u, v = x[i] - x[j], x[k] - x[j]
                angles.addAngle(i, j, k, float(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))), 400.0)
    system.addForce(lengths)
    system.addForce(angles)
    return topology, system


def _system(more: openmm.Force | None = None) -> MolecularSystem:
    """With torsions about the bonds, impropers, and repulsion between the rest."""
    graph = DIVINYLAMINE.graph
    topology, system = _elastic(DIVINYLAMINE)
    torsions = openmm.PeriodicTorsionForce()
    for j, near in enumerate(graph.neighbours):
        if len(near) == 3:
            torsions.addTorsion(near[0], near[1], j, near[2], 2, np.pi, 10.0)
    for (j, k), height in TWOFOLD.items():
        for i in set(graph.neighbours[j]) - {k}:
            for end in set(graph.neighbours[k]) - {j}:
                torsions.addTorsion(i, j, k, end, 2, np.pi, height / 2)
    torsions.addTorsion(2, 0, 1, 4, 1, 0.0, 3.0)  # the sides differ by more than repulsion
    others = openmm.NonbondedForce()
    for element in DIVINYLAMINE.elements:
        others.addParticle(0.0, 0.2 if element == "H" else 0.3, 0.2)
    others.createExceptionsFromBonds(DIVINYLAMINE.bonds.tolist(), 0.0, 0.5)
    for force in [torsions, others, *([] if more is None else [more])]:
        system.addForce(force)
    return MolecularSystem(topology, system, DIVINYLAMINE.positions, 300)


@pytest.fixture(scope="module")
def system() -> MolecularSystem:
    return _system()


@pytest.fixture(scope="module")
def coordinates(system) -> InternalCoordinates:
    return InternalCoordinates.from_system(system, energy=CompiledEnergy(system))


def _axes(z: ZMatrix) -> set[frozenset[int]]:
    return {frozenset(row[1:3].tolist()) for row in z.rows[z.periodic]}


def _by_openmm(
    system: MolecularSystem, torsion: list[int], step: float = 10.0, stiff: float = 1e5, accuracy: float = 0.01
) -> tuple[float, float]:
    """Barrier and energy of the other side, kT above the minimum: minimisations with the torsion on a strong spring,
    kJ/mol, to an accuracy in kJ/mol/nm."""
    restrained = openmm.System()
    restrained.__setstate__(system.system.__getstate__())
    for force in restrained.getForces():
        force.setForceGroup(1)
    spring = openmm.CustomTorsionForce(f"0.5 * {stiff} * d^2; d = atan2(sin(theta - at), cos(theta - at))")
    spring.addGlobalParameter("at", 0.0)
    spring.addTorsion(*torsion)
    restrained.addForce(spring)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(restrained, openmm.VerletIntegrator(0.001), platform, {"Threads": "1"})

    def energy() -> float:
        found = context.getState(energy=True, groups={1}).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        return found / system.kT

    def positions() -> np.ndarray:
        return context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)

    context.setPositions(system.minimum)
    zero = energy()
    x = system.minimum[torsion]
    u, v, w = np.diff(x, axis=0)
    start = np.arctan2(np.linalg.norm(v) * u @ np.cross(v, w), np.cross(u, v) @ np.cross(v, w))
    profile = np.full(int(360 / step), np.inf)
    structures = {}
    for way in (1, -1):
        context.setPositions(system.minimum)
        for k in range(1, len(profile)):
            context.setParameter("at", start + way * np.deg2rad(k * step))
            openmm.LocalEnergyMinimizer.minimize(context, accuracy, 3000)
            if energy() - zero < profile[way * k]:
                profile[way * k], structures[way * k % len(profile)] = energy() - zero, positions()
    profile[0] = 0.0
    quarter = len(profile) // 4
    far = quarter + int(np.argmin(profile[quarter:-quarter]))
    other = system.minimise(structures[far])
    context.setPositions(other)
    return min(profile[:far].max(), profile[far:].max()), energy() - zero


@pytest.mark.parametrize("bond", [LOW, HIGH])
def test_barriers_and_other_sides_are_those_of_openmm(system, coordinates, bond):
    z = coordinates.zmatrix
    (row,) = (row for k, row in turning_rows(z, system.graph).items() if set(row) == set(bond))
    k = next(k for k, axis in turning_rows(z, system.graph).items() if axis == row)
    barrier, other = _by_openmm(system, z.rows[k].tolist())
    scan = coordinates.scans.of(*bond)
    assert 3 < barrier and abs(other) > 0.1  # there is something to find
    assert scan.barrier == pytest.approx(barrier, abs=0.2)
    assert scan.other == pytest.approx(other, abs=0.02)


@pytest.mark.parametrize(
    ("name", "bond", "least"),
    [
        ("butane", ("C2", "C3"), 5.0),
        ("proline_dipeptide", ("ACE:C", "PRO:N"), 20.0),  # an amide's
        ("adenosine", ("C6", "N6"), 20.0),  # an amino group's, on an aromatic ring
    ],
)
def test_barriers_of_real_molecules(name, bond, least):
    """Within half a kT of OpenMM's own, on a grid of 10 degrees."""
    s = MolecularSystem.load(name)
    z = build_zmatrix(s.graph, s.element_masses, s.minimum)
    turning = Turning(z, s.graph, amides=amide_bonds(s.graph))

    def named(i: int) -> set[str]:
        atom = list(s.topology.atoms())[i]
        return {atom.name, f"{atom.residue.name}:{atom.name}"}

    def is_it(a: int, b: int) -> bool:
        return any(bond[0] in named(i) and bond[1] in named(j) for i, j in ((a, b), (b, a)))

    turning.to_scan = {k: axis for k, axis in turning_rows(z, s.graph).items() if is_it(*axis)}
    (row,) = turning.to_scan
    lengths = np.full(2 * len(z.rows) - 3, np.nan)
    (scan,) = InternalCoordinates._scan(
        turning, s.minimum, lengths, CompiledEnergy(s), CoordinateSettings(), s.kT
    ).bonds
    barrier, other = _by_openmm(s, z.rows[row].tolist(), stiff=3e3, accuracy=0.5)
    assert barrier > least
    assert scan.barrier == pytest.approx(barrier, abs=0.5) and scan.other == pytest.approx(other, abs=0.5)


def test_the_energy_decides_what_turns(system, coordinates):
    """Lengths and angles would hold all four."""
    z = build_zmatrix(system.graph, system.element_masses, system.minimum)
    assert not z.periodic.any()
    assert _axes(coordinates.zmatrix) == {frozenset(LOW)}
    assert coordinates.scans.of(*LOW).barrier < 12 < coordinates.scans.of(*HIGH).barrier
    amine = Turning(z, system.graph)
    for limit, turning in {1.0: set(), 9.0: {frozenset(LOW)}, 25.0: {frozenset(LOW), frozenset(HIGH)}}.items():
        scans = [amine.decided(scan, limit) for scan in coordinates.scans.bonds]
        assert _axes(amine.chosen(scans)) == turning
    named = Turning(z, system.graph, named=[DOUBLE[0][::-1]])
    assert len(named.to_scan) == 3 and _axes(named.chosen([])) == {frozenset(DOUBLE[0])}


def test_the_summary_has_barriers_and_other_sides(coordinates):
    text = coordinates.summary()
    low, high = (coordinates.scans.of(*bond) for bond in (LOW, HIGH))
    words = "DVA1:N0-DVA1:C{} (barrier {:.1f} kT, other side {:+.1f} kT)"
    assert f"Bonds that turn, by the energy: {words.format(1, low.barrier, low.other)}\n" in text
    assert f"Other bonds that do not turn: {words.format(2, high.barrier, high.other)}, DVA1:C1-DVA1:C4 (bar" in text
    assert "bonds turn below 12 kT" in text and "about once in 26 ns" in text


def test_saved_coordinates_know_their_scans(coordinates):
    again = InternalCoordinates.from_tensors(coordinates.to_tensors())
    assert again.scans == coordinates.scans


def test_an_energy_without_translation_leaves_it_to_lengths_and_angles():
    everywhere = openmm.CustomHbondForce("0.001 * distance(a1, d1)")
    everywhere.addAcceptor(4, -1, -1)
    everywhere.addDonor(5, -1, -1)
    system = _system(everywhere)
    assert CompiledEnergy.untranslated(system.system)
    c = InternalCoordinates.from_system(system)
    assert _axes(c.zmatrix) == set() and c.scans.bonds == () and not c.scans.batched
    assert "Bonds were not scanned" in c.summary() and "barrier" not in c.summary()


def test_openmm_itself_leads_to_the_same_coordinates(system, coordinates):
    """The scans are of the translated energy, whichever was given."""
    with OpenMMEnergy(system, platform="Reference", workers=1) as energy:
        c = InternalCoordinates.from_system(system, energy=energy)
    np.testing.assert_array_equal(c.zmatrix.periodic, coordinates.zmatrix.periodic)


def test_disulfides_turn_as_before():
    """The one scan of a molecule that comes with the package whose bond turns; the others' are of bonds that do not."""
    s = MolecularSystem.load("cystine")
    c = InternalCoordinates.from_system(s, energy=CompiledEnergy(s))
    assert len(c.scans.bonds) == 1 and c.scans.bonds[0].turns
    before = build_zmatrix(s.graph, s.element_masses, s.minimum)
    np.testing.assert_array_equal(c.zmatrix.periodic, before.periodic)


@pytest.mark.parametrize(("height", "turns"), [(0.0, True), (20.0, True), (60.0, False)])
def test_ends_of_an_allene_turn_where_the_energy_lets_them(height, turns):
    """H-C=C=C-H: force fields have no torsion across linear atoms, and nothing then holds the ends; a twofold one of
    this height, kJ/mol, does above 12 kT."""
    ends = [k for k, near in enumerate(m.ALLENE.graph.neighbours) if len(near) == 3]
    (i, _), (j, _) = ([h for h in m.ALLENE.graph.neighbours[k] if m.ALLENE.elements[h] == "H"] for k in ends)
    topology, system = _elastic(m.ALLENE)
    across = openmm.PeriodicTorsionForce()
    across.addTorsion(i, *ends, j, 2, 0.0, height / 2)  # least where they stand at 90 degrees
    system.addForce(across)
    allene = MolecularSystem(topology, system, m.ALLENE.positions, 300)
    c = InternalCoordinates.from_system(allene, energy=CompiledEnergy(allene))
    (scan,) = c.scans.bonds
    assert set(scan.bond) == set(ends) and c.n_periodic == turns == scan.turns
    assert scan.barrier == pytest.approx(height / allene.kT, abs=0.1)
    where = f"DVA1:C{scan.bond[0]}-DVA1:C{scan.bond[1]}"
    assert (f"Other bonds that do not turn: {where} (barrier 2" in c.summary()) != turns
    assert [h.where for h in held_by(c, allene) if h.kind == "stiff bond"] == ([] if turns else [where])


# --- amides ---


def _chain(text: str, *bonds: tuple[int, int]) -> BondGraph:
    return BondGraph(text.split(), np.array(bonds))


@pytest.mark.parametrize(
    ("graph", "amides"),
    [
        (_chain("H C O N C H", (0, 1), (1, 2), (1, 3), (3, 4), (3, 5)), [(0, 1, 3, 4)]),  # formamide
        (_chain("O C O N C H C", (0, 1), (1, 2), (1, 3), (3, 4), (3, 5), (0, 6)), [(0, 1, 3, 4)]),  # carbamate
        (_chain("O C O N C H", (0, 1), (1, 2), (1, 3), (3, 4), (3, 5)), []),  # the oxygens are the same
        (_chain("C C O N O H", (0, 1), (1, 2), (1, 3), (3, 4), (3, 5)), [(0, 1, 3, 4)]),  # hydroxamic acid
        (_chain("C C O N H H", (0, 1), (1, 2), (1, 3), (3, 4), (3, 5)), []),  # the hydrogens are the same
        (_chain("C C S N C H", (0, 1), (1, 2), (1, 3), (3, 4), (3, 5)), []),
        (  # urea, one methyl on each side
            _chain("N C O N C H C H", (0, 1), (1, 2), (1, 3), (3, 4), (3, 5), (0, 6), (0, 7)),
            [(3, 1, 0, 6), (0, 1, 3, 4)],
        ),
    ],
)
def test_amides_by_the_graph(graph, amides):
    assert amide_bonds(graph) == amides


AMIDE = (4, *LOW[::-1], 2)


def _turning(**options) -> Turning:
    """Divinylamine, with one bond taken for an amide's."""
    graph = DIVINYLAMINE.graph
    z = build_zmatrix(graph, DIVINYLAMINE.masses, DIVINYLAMINE.positions)
    return Turning(z, graph, amides=[AMIDE], **options)


def test_amides_are_kept_whatever_their_barrier_or_turn_if_asked_for():
    scan = BondScan(LOW, barrier=3.0, other=0.1)
    kept = _turning()
    assert not kept.decided(scan, 12.0).turns and kept.decided(replace(scan, bond=HIGH), 12.0).turns
    assert not kept.chosen([replace(scan, turns=True)]).periodic.any()
    for free in (_turning(sampled=[AMIDE]), _turning(named=[LOW])):
        assert free.chosen([]).periodic.sum() == 1
    assert set(map(frozenset, kept.to_scan.values())) == {frozenset(b) for b in (HIGH, *DOUBLE)}


@pytest.mark.parametrize(
    ("smiles", "amides", "drawn"),
    [
        ("C[C@@H]1CCN(C[C@@H]1N(C)c1ncnc2[nH]ccc12)C(=O)CC#N", 1, 1),  # tofacitinib
        ("C[C@H](CS)C(=O)N1CCC[C@H]1C(=O)[O-]", 1, 1),  # captopril
        ("Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(n1)-c1cccnc1", 1, 0),  # imatinib
        ("C/N=C(/NC#N)NCCSCc1nc[nH]c1C", 0, 0),  # cimetidine: a guanidine is none
        ("CN(C)C(=O)C1CCCN1C(C)=O", 2, 1),  # a dimethylamide has one isomer
        ("C[C@@H]1NC(=O)[C@H](C)NC(=O)[C@H](C)NC(=O)[C@H](C)NC(=O)[C@H](C)NC1=O", 0, 0),  # all in one ring
    ],
)
def test_amides_of_drugs(smiles, amides, drawn):
    chem = pytest.importorskip("rdkit.Chem")
    molecule = chem.AddHs(chem.MolFromSmiles(smiles))
    bonds = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds()])
    graph = BondGraph([atom.GetSymbol() for atom in molecule.GetAtoms()], bonds)
    found = amide_bonds(graph)
    assert (len(found), len(without_hydrogen(found, graph))) == (amides, drawn)


def test_amides_of_phosphoserine_stay_whatever_their_geometry():
    """Both stretched to 0.16 nm, at which bonds between flat atoms turn by their lengths."""
    files = (DATA / f"phosphoserine.{suffix}" for suffix in ("prmtop", "inpcrd"))
    s = MolecularSystem.from_amber(*files, implicitSolvent=app.OBC2)
    amides = amide_bonds(s.graph)
    x = np.array(s.positions)
    for _, carbon, nitrogen, _ in amides:
        bond = x[nitrogen] - x[carbon]
        x[s.graph.branch(nitrogen, carbon)] += bond * (0.16 / np.linalg.norm(bond) - 1)
    z = build_zmatrix(s.graph, s.element_masses, x)
    omegas = {frozenset(amide[1:3]) for amide in amides}
    assert len(omegas) == 2 and omegas <= _axes(z)
    assert not omegas & _axes(Turning(z, s.graph, amides=amides).chosen([]))
    assert omegas <= _axes(Turning(z, s.graph, amides=amides, sampled=amides).chosen([]))


def test_long_amides_are_amides():
    """A length at which bonds between planar centres would turn, and no hydrogen to tell the sides by."""
    stretched = m.build(
        ("C",),
        ("O", 0, 0.122),
        ("N", 0, 1, 0.1423, 121.0),
        ("H", 0, 1, 2, m.CH, 120.0, 180.0),
        ("C", 2, 0, 1, 0.146, 121.0, 0.0),
        ("C", 2, 0, 4, 0.146, 119.0, 180.0),
        *[("H", 4, 2, 0, m.CH, m.TETRAHEDRAL, phi) for phi in (60.0, 180.0, -60.0)],
        *[("H", 5, 2, 0, m.CH, m.TETRAHEDRAL, phi) for phi in (60.0, 180.0, -60.0)],
    )
    z = build_zmatrix(stretched.graph, stretched.masses, stretched.positions)
    turning = Turning(z, stretched.graph, amides=amide_bonds(stretched.graph))
    held = turning.chosen([])
    assert z.periodic.sum() == 3 and held.periodic.sum() == 2  # both methyls
    assert set(map(frozenset, turning.to_scan.values())) == {frozenset((0, 2))}


# --- what is asked for ---


@pytest.mark.parametrize(
    ("molecule", "bond", "message"),
    [
        (m.CYCLOHEXANE, (0, 1), "cannot: such bonds are in a ring"),
        (m.BUTANE, (4, 0), "at the end"),
        (m.PROPYNE, (0, 1), "in line with another bond"),
        (m.BUTANE, (0, 3), "are not bonded"),
    ],
)
def test_bonds_that_cannot_turn_are_refused(molecule, bond, message):
    z = build_zmatrix(molecule.graph, molecule.masses, molecule.positions)
    with pytest.raises(ValueError, match=message):
        Turning(z, molecule.graph, [bond])


def test_settings_are_checked():
    with pytest.raises(ValueError, match="Expected barrier >= 0"):
        CoordinateSettings(barrier=-1.0)


def test_time_to_cross():
    """12 kT at 300 K, by h and k in SI units."""
    seconds = 6.62607015e-34 / (1.380649e-23 * 300) * np.exp(12.0)
    assert crossing_time(12.0, 8.31446261815324e-3 * 300) == pytest.approx(1e12 * seconds, rel=1e-6)


def test_bonds_are_named_by_smarts():
    """The two bonds of ibuprofen's ring to its arms stay; a pattern that matches nothing is refused."""
    pytest.importorskip("rdkit")
    system = MolecularSystem.load("ibuprofen")
    energy = CompiledEnergy(system)
    plain = InternalCoordinates.from_system(system, energy=energy)
    kept = InternalCoordinates.from_system(system, CoordinateSettings(keep=["c-[CX4]"]), energy=energy)
    assert kept.n_periodic == plain.n_periodic - 2 and kept.dim == plain.dim
    axes = {frozenset(row[1:3].tolist()) for row in plain.zmatrix.rows[plain.zmatrix.periodic]}
    axes -= {frozenset(row[1:3].tolist()) for row in kept.zmatrix.rows[kept.zmatrix.periodic]}
    elements = system.graph.elements
    assert all({elements[i] for i in axis} == {"C"} for axis in axes)
    rings = [any(len(system.graph.neighbours[i]) == 3 for i in axis) for axis in axes]
    assert rings == [True, True]
    with pytest.raises(ValueError, match="match"):
        InternalCoordinates.from_system(system, CoordinateSettings(turning=["[Br]-[Br]"]), energy=energy)
