"""Conformers, strain and averages of ligands, against populations that are set and against closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
from ligands import drawn, turned
from openmm import app

from openmm_fab import Ensemble, MolecularSystem
from openmm_fab.ensemble import couplings, dipole, hydrogen_bonds, noe_distances, polar_surface
from openmm_fab.ensemble.wells import slow_angles, torsions
from openmm_fab.free_energy import coordinate_values
from openmm_fab.molecule.chemistry import conformer_of, molecule_of
from openmm_fab.weights import rule_of_three

Chem = pytest.importorskip("rdkit.Chem")

BUTANE = "CCCC"
# Of CCCC the atoms that turn with C3 about C2-C3: C4, its hydrogens, and those of C3.
ANGLES = {"trans": math.pi, "gauche+": math.radians(65.0), "gauche-": -math.radians(65.0)}


def ensemble_of(
    smiles: str, bond: tuple[int, int], first: int, last: int, angles: np.ndarray, log_w: np.ndarray | None = None
) -> Ensemble:
    """Frames of a molecule with one torsion, first-bond-last, set to angles (n,), rad."""
    topology, x = drawn(smiles)
    graph = [{a.index, b.index} for a, b in topology.bonds]
    moved, ahead = {bond[1]}, [bond[1]]
    while ahead:
        atom = ahead.pop()
        for pair in graph:
            if atom in pair and pair != set(bond):
                (other,) = pair - {atom}
                if other not in moved:
                    moved.add(other)
                    ahead.append(other)
    now = torsions(x[None], (first, *bond, last))[0]
    frames = np.array([turned(x, bond, sorted(moved), angle - now) for angle in angles])
    log_w = np.zeros(len(angles)) if log_w is None else log_w
    return Ensemble(frames, np.zeros(len(angles)), log_w, topology, 300.0, name="set")


def butane(n: int = 3000, log_w: bool = False) -> tuple[Ensemble, np.ndarray]:
    """Butane with 70, 20 and 10 % in trans, gauche+ and gauche-; with log_w by weights."""
    rng = np.random.default_rng(1)
    p = np.array([0.7, 0.2, 0.1])
    which = rng.choice(3, size=n, p=None if log_w else p)
    angles = np.array(list(ANGLES.values()))[which] + rng.normal(0.0, 0.15, n)
    return ensemble_of(BUTANE, (1, 2), 0, 3, angles, np.log(p)[which] + 7.0 if log_w else None), which


@pytest.mark.parametrize("weighted", [False, True])
def test_conformers_have_the_populations_that_were_set(weighted: bool) -> None:
    ensemble, which = butane(log_w=weighted)
    found = ensemble.conformers()
    assert len(found) == found.count == 3 and float(found.others.value) == 0.0
    for k, (one, p) in enumerate(zip(found, (0.7, 0.2, 0.1), strict=True)):
        share = float(ensemble.weights[which == k].sum())
        assert one.population.value == pytest.approx(share, abs=1e-12)
        assert abs(one.population.value - p) < 4 * one.population.error
        if not weighted:
            assert one.population.error == pytest.approx(math.sqrt(share * (1 - share) / ensemble.n), rel=0.2)
            assert one.effective == pytest.approx((which == k).sum())
        assert which[one.frame] == k and np.array_equal(found.label == k, which == k)
        (angle,) = one.torsions.values()
        assert abs((angle - list(ANGLES.values())[k] + math.pi) % (2 * math.pi) - math.pi) < 0.02
        assert one.free_energy.value == pytest.approx(math.log(found[0].population.value / share))
    assert found[0].free_energy.error == 0.0
    # ln(n_1 / n_3) of counts has the variance 1 / n_1 + 1 / n_3
    if not weighted:
        n = [(which == k).sum() for k in range(3)]
        assert found[2].free_energy.error == pytest.approx(math.sqrt(1 / n[0] + 1 / n[2]), rel=0.2)
    assert "population" in str(found) and len(str(found).splitlines()) == 5


def test_the_first_few_conformers_and_the_rest() -> None:
    ensemble, which = butane()
    found = ensemble.conformers(1)
    assert len(found) == 1 and found.count == 3
    assert found.others.value == pytest.approx((which > 0).mean())
    assert "in 2 more" in str(found) and not found.note
    few = ensemble[:50].conformers()
    assert str(few).startswith("No populations: the weights cannot be used: ") and "50" in str(few)
    with pytest.raises(ValueError, match="n=0"):
        ensemble.conformers(0)
    # a frame of no weight, and one that is not finite, are no conformer
    ensemble.x[0] = np.nan
    log_w = ensemble.log_w.copy()
    log_w[which == 2] = log_w[0] = -np.inf
    assert Ensemble(ensemble.x, ensemble.u, log_w, ensemble.topology, 300.0).conformers().count == 2


def test_turns_that_exchange_equal_atoms_are_no_conformers() -> None:
    rng = np.random.default_rng(0)
    flips = ensemble_of("CCc1ccccc1", (1, 2), 0, 3, math.pi / 2 + math.pi * rng.integers(2, size=500))
    assert flips.conformers().count == 1
    (angle,) = [a for a in slow_angles(flips.topology, flips.x) if a.atoms[0][1:3] == (1, 2)]
    assert angle.fold == 2
    # Pyridine has no such symmetry.
    other = ensemble_of("CCc1ccccn1", (1, 2), 0, 3, math.pi / 2 + math.pi * (np.arange(200) % 2))
    assert other.conformers().count == 2
    # Isopropyl's methyls are equal, but not spread evenly: three rotamers stay three.
    three = ensemble_of("CC(C)CC#N", (1, 3), 0, 4, 2 * math.pi / 3 * (np.arange(300) % 3) + math.pi / 3)
    assert three.conformers().count == 3
    # Nor are the methyls of a pyramidal nitrogen.
    amine = ensemble_of("CN(C)CC", (1, 3), 0, 4, 2 * math.pi / 3 * (np.arange(300) % 3) + math.pi / 3)
    (angle,) = [a for a in slow_angles(amine.topology, amine.x) if a.atoms[0][1:3] == (1, 3)]
    assert angle.fold == 1 and amine.conformers().count == 3
    assert all(a.atoms[0][1:3] != (3, 4) for a in slow_angles(three.topology, three.x))  # straight: C-C-C#N


def test_conformers_as_sdf_have_bond_orders_and_populations(tmp_path: Path) -> None:
    angles = np.where(np.arange(400) % 4 == 0, 1.2, 3.1)
    ensemble = ensemble_of("OC(=O)CC[NH3+]", (3, 4), 1, 5, angles)
    read = list(Chem.SDMolSupplier(str(ensemble.to_sdf(tmp_path / "c.sdf")), removeHs=False))
    assert [Chem.MolToSmiles(Chem.RemoveHs(one)) for one in read] == [Chem.CanonSmiles("OC(=O)CC[NH3+]")] * 2
    assert [float(one.GetProp("population")) for one in read] == [0.75, 0.25]
    assert float(read[1].GetProp("free_energy_kT")) == pytest.approx(math.log(3), rel=1e-5)
    found = ensemble.conformers()
    assert np.allclose(read[1].GetConformer().GetPositions(), 10 * found.x[1], atol=1e-4)
    assert read[0].GetProp("_Name") == "set 1"


def pose(ensemble: Ensemble, frame: int, seed: int = 3) -> Chem.Mol:
    """A frame as RDKit's molecule, atoms shuffled, no hydrogens, moved."""
    molecule = Chem.RemoveHs(molecule_of(ensemble.topology, ensemble.x[[frame]] + 0.3))
    order = np.random.default_rng(seed).permutation(molecule.GetNumAtoms())
    return Chem.RenumberAtoms(molecule, order.tolist())


def test_strain_is_the_population_of_the_basin_of_a_pose(tmp_path: Path) -> None:
    ensemble, which = butane()
    for k in range(3):
        share, frame = (which == k).mean(), int(np.flatnonzero(which == k)[0])
        # Butane is the same from either end: the exchange keeps its torsion.
        found = ensemble.strain(ensemble.x[frame])
        assert found.value == pytest.approx(-math.log(share)) and found.population == pytest.approx(share)
        assert found.error == pytest.approx(math.sqrt((1 - share) / share / ensemble.n), rel=0.2)
        assert ensemble.strain(pose(ensemble, frame)).value == found.value
    path = tmp_path / "poses.sdf"
    with Chem.SDWriter(str(path)) as writer:
        for frame in (0, 1, 2):
            writer.write(pose(ensemble, frame))
    several = ensemble.strain(path)
    assert [one.value for one in several] == [ensemble.strain(ensemble.x[k]).value for k in (0, 1, 2)]
    assert [one.value for one in ensemble.strain(ensemble.x[:3])] == [one.value for one in several]


def test_strain_within_an_rmsd_is_mdtrajs() -> None:
    ensemble, _ = butane(500)
    heavy = [0, 1, 2, 3]
    mine = mdtraj.Trajectory(ensemble.x, ensemble.topology)
    for frame in (0, 7):
        # from both ends: the exchange 0123 -> 3210 lays butane on itself
        target = mine[frame]
        swapped = mdtraj.Trajectory(target.xyz.copy(), ensemble.topology)
        swapped.xyz[:, heavy] = swapped.xyz[:, heavy[::-1]]
        far = np.minimum(mdtraj.rmsd(mine, target, 0, heavy), mdtraj.rmsd(mine, swapped, 0, heavy))
        assert ensemble.strain(ensemble.x[frame], within=0.02).population == pytest.approx((far < 0.02).mean())
    with pytest.raises(ValueError, match="within above 0"):
        ensemble.strain(ensemble.x[0], within=0.0)


def test_a_pose_that_was_never_visited_has_a_bound() -> None:
    ensemble, which = butane()
    trans = ensemble[which == 0]
    found = trans.strain(ensemble.x[int(np.flatnonzero(which == 1)[0])])
    assert found.value == math.inf and found.bound == pytest.approx(-math.log(rule_of_three(trans.n)))
    assert str(found).startswith("> ")
    assert trans.strain(trans.x[0]).value == pytest.approx(0.0)


def test_another_molecule_or_stereoisomer_is_no_pose() -> None:
    ensemble = ensemble_of("C[C@H](O)CN", (1, 3), 0, 4, np.linspace(2.5, 3.5, 50))
    mirrored = Chem.Mol(pose(ensemble, 0))
    mirrored.GetConformer().SetPositions(mirrored.GetConformer().GetPositions() * [1.0, 1.0, -1.0])
    with pytest.raises(ValueError, match="another stereoisomer"):
        ensemble.strain(mirrored)
    with pytest.raises(ValueError, match="heavy atoms and bonds, 5 and 4"):
        ensemble.strain(pose(butane(10)[0], 0))
    with pytest.raises(ValueError, match="Expected a 3-D structure"):
        ensemble.strain(Chem.MolFromSmiles("C[C@H](O)CN"))
    with pytest.raises(ValueError, match=r"got an array \(3, 3\)"):
        ensemble.strain(np.zeros((3, 3)))


def test_torsions_by_smarts() -> None:
    ensemble, _ = butane(20)
    assert np.array_equal(ensemble.torsions("[CH3][CH2][CH2][CH3]"), ensemble.torsions((0, 1, 2, 3)))
    marked = ensemble.torsions("[CH3:1][CH2:2][CH2:3][CH3:4]")
    assert np.array_equal(marked, ensemble.torsions((0, 1, 2, 3)))
    assert ensemble.torsions("[H][CH2][CH2][CH3]").shape == (20, 4)
    assert np.array_equal(coordinate_values(ensemble, "[CH3][CH2][CH2][CH3]"), ensemble.torsions((0, 1, 2, 3))[:, 0])
    with pytest.raises(ValueError, match=r"one torsion matches; '\[H\]\[CH2\]\[CH2\]\[CH3\]' matches 4"):
        ensemble.profile("[H][CH2][CH2][CH3]")
    with pytest.raises(ValueError, match="none in"):
        ensemble.torsions("[N]CCC")


def test_hydrogen_bonds_are_baker_and_hubbards() -> None:
    rng = np.random.default_rng(2)
    n = 400
    ensemble = ensemble_of("OCCCN", (1, 2), 0, 3, np.zeros(n))
    x = ensemble.x.copy()
    names = [atom.name for atom in ensemble.topology.atoms]
    oxygen, nitrogen = names.index("O1"), names.index("N5")
    (hydrogen,) = [b.index if a.index == oxygen else a.index for a, b in ensemble.topology.bonds
                   if oxygen in (a.index, b.index) and "H" in (a.element.symbol, b.element.symbol)]  # fmt: skip
    # The nitrogen anywhere near the hydrogen: distance and angle both decide.
    x[:, nitrogen] = x[:, hydrogen] + rng.uniform(-0.25, 0.25, (n, 3))
    ensemble = Ensemble(x, np.zeros(n), rng.normal(size=n), ensemble.topology, 300.0)
    found = hydrogen_bonds(ensemble)[f"O1-{names[hydrogen]}...N5"]
    triples = [mdtraj.baker_hubbard(frame, freq=0.0, periodic=False).tolist() for frame in ensemble.to_mdtraj()]
    inside = np.array([[oxygen, hydrogen, nitrogen] in triple for triple in triples])
    assert 0.05 < inside.mean() < 0.6
    assert found.value == pytest.approx(ensemble.weights[inside].sum()) and found.error > 0.0
    with pytest.raises(ValueError, match="near above 0"):
        hydrogen_bonds(ensemble, near=0.0)


def test_an_amide_nitrogen_accepts_nothing_and_neighbours_are_no_bonds() -> None:
    ensemble = ensemble_of("CC(=O)NCCO", (4, 5), 3, 6, np.linspace(-3, 3, 60))
    # However far and bent: not O7-H...N4, which ends at an amide's nitrogen, nor N4-H...O3, two bonds away.
    assert set(hydrogen_bonds(ensemble, near=1.0, straight=0.0)) == {"N4-H11...O7", "O7-H16...O3"}


def test_noe_distances_are_means_of_the_inverse_sixth_power() -> None:
    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    for name in ("A", "B", "C"):
        topology.add_atom(name, mdtraj.element.hydrogen, residue)
    rng = np.random.default_rng(0)
    r = rng.uniform(0.2, 0.5, 2000)
    x = np.zeros((2000, 3, 3))
    x[:, 1, 0], x[:, 2, 1] = r, 0.3
    ensemble = Ensemble(x, np.zeros(2000), np.zeros(2000), topology, 300.0)
    found = noe_distances(ensemble, [(0, 1), (0, 2), (0, (1, 2))])
    mean = (r**-6.0).mean()
    expected = [mean ** (-1 / 6), 0.3, ((mean + 0.3**-6) / 2) ** (-1 / 6)]
    assert np.allclose(found.value, expected, rtol=1e-6)
    error = (r**-6.0).std(ddof=1) / math.sqrt(2000)
    assert found.error[0] == pytest.approx(expected[0] * error / mean / 6, rel=0.2) and found.error[1] < 1e-9
    with pytest.raises(ValueError, match="got none"):
        noe_distances(ensemble, [])


def test_couplings_are_karplus() -> None:
    ensemble = ensemble_of("CC", (0, 1), 2, 5, np.array([0.0, math.pi / 3, math.pi]))
    found = couplings(ensemble, (2, 0, 1, 5))
    assert float(found.value[0]) == pytest.approx(
        np.mean([9.5 - 1.6 + 1.8, 9.5 / 4 - 0.8 + 1.8, 9.5 + 1.6 + 1.8]), abs=1e-3
    )
    assert couplings(ensemble, "[H]CC[H]", karplus=(0.0, 0.0, 3.0)).value == pytest.approx(np.full(9, 3.0))
    with pytest.raises(ValueError, match="HNCH, HCCH"):
        couplings(ensemble, (2, 0, 1, 5), karplus="altona")


def test_a_dipole_is_charge_times_distance() -> None:
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    atoms = [topology.addAtom(name, app.element.carbon, residue) for name in "ABC"]
    topology.addBond(atoms[0], atoms[1])
    topology.addBond(atoms[1], atoms[2])
    system, force, springs = openmm.System(), openmm.NonbondedForce(), openmm.HarmonicBondForce()
    for charge in (0.5, 0.0, -0.5):
        system.addParticle(12.0)
        force.addParticle(charge, 0.3, 0.1)
    springs.addBond(0, 1, 0.15, 1000.0)
    springs.addBond(1, 2, 0.15, 1000.0)
    system.addForce(force)
    system.addForce(springs)
    x = np.array([[0.0, 0.0, 0.0], [0.1, 0.1, 0.0], [0.2, 0.0, 0.0]])
    molecule = MolecularSystem.from_openmm(topology, system, x)
    ensemble = Ensemble(np.array([x, x + 3.0]), np.zeros(2), np.zeros(2), molecule.md_topology, 300.0)
    # 0.1 e nm are 4.8032 D
    assert dipole(ensemble, molecule).value == pytest.approx(4.8032, abs=1e-4)
    with pytest.raises(ValueError, match="3 atoms with one NonbondedForce"):
        dipole(ensemble, MolecularSystem.load("butane"))


def test_the_polar_surface_is_of_nitrogen_oxygen_and_their_hydrogens() -> None:
    ensemble = ensemble_of("CCO", (0, 1), 3, 2, np.array([0.5, 1.0]))
    atoms = mdtraj.shrake_rupley(ensemble.to_mdtraj(), probe_radius=0.14)
    hydrogen = ensemble.topology.n_atoms - 1  # the last one that RDKit adds is the hydroxyl's
    expected = (atoms[:, 2] + atoms[:, hydrogen]).mean()
    assert polar_surface(ensemble).value == pytest.approx(expected, rel=1e-5) and expected > 0.1
    assert polar_surface(butane(5)[0]).value == 0.0
    assert conformer_of(ensemble.x[0]).GetNumAtoms() == 9
