"""Molecules from SMILES, SDF and RDKit: what is kept as drawn, what is asked for, and what is refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import mdtraj
import numpy as np
import openmm
import pytest
from ligands import standin_xml, without_openff  # noqa: F401
from openmm import app, unit

from openmm_fab import MolecularSystem
from openmm_fab.molecule import parameters
from openmm_fab.molecule.chemistry import find_pattern, molecule_of, positions_of, topology_of
from openmm_fab.molecule.ligand import prepared, read_block, read_sdf, read_smiles
from openmm_fab.molecule.ligand_folder import file_name, ligand_files, write_ligand
from openmm_fab.tools.install import install

Chem = pytest.importorskip("rdkit.Chem")
AllChem = pytest.importorskip("rdkit.Chem.AllChem")

IBUPROFEN = "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O"
ALANINE = "C[C@H]([NH3+])C(=O)[O-]"


def same(a: Chem.Mol, b: Chem.Mol) -> bool:
    return Chem.MolToSmiles(a) == Chem.MolToSmiles(b)


def test_a_smiles_string_keeps_its_order_charge_and_stereo() -> None:
    molecule = read_smiles(ALANINE)
    assert [atom.GetSymbol() for atom in molecule.GetAtoms()][:6] == ["C", "C", "N", "C", "O", "O"]
    assert molecule.GetNumAtoms() == 13 and Chem.GetFormalCharge(molecule) == 0
    again = Chem.Mol(molecule)
    Chem.AssignStereochemistryFrom3D(again)
    assert Chem.MolToSmiles(Chem.RemoveHs(again)) == Chem.CanonSmiles(ALANINE)
    assert np.array_equal(positions_of(molecule), positions_of(read_smiles(ALANINE)))


def test_files_with_and_without_hydrogens_and_depth_give_one_molecule(tmp_path: Path) -> None:
    molecule = read_smiles(IBUPROFEN)
    solid = read_block(Chem.MolToMolBlock(molecule), "a")
    assert same(solid, molecule) and np.allclose(positions_of(solid), positions_of(molecule), atol=1e-5)
    with pytest.warns(UserWarning, match="18 hydrogens were added"):
        bare = read_block(Chem.MolToMolBlock(Chem.RemoveHs(molecule)), "a")
    assert same(bare, molecule)
    heavy = [a.GetIdx() for a in molecule.GetAtoms() if a.GetSymbol() != "H"]
    assert np.allclose(positions_of(bare)[: len(heavy)], positions_of(molecule)[heavy], atol=1e-5)
    flat = Chem.RemoveHs(molecule)
    AllChem.Compute2DCoords(flat)
    Chem.WedgeMolBonds(flat, flat.GetConformer())
    drawn = read_block(Chem.MolToMolBlock(flat), "a")
    assert same(drawn, molecule) and np.ptp(positions_of(drawn)[:, 2]) > 0.1


def test_a_structure_tells_the_hand() -> None:
    molecule = Chem.Mol(read_smiles(IBUPROFEN))
    molecule.GetConformer().SetPositions(10 * positions_of(molecule) * np.array([1.0, 1.0, -1.0]))
    mirrored = read_block(Chem.MolToMolBlock(molecule), "a")
    assert Chem.MolToSmiles(Chem.RemoveHs(mirrored)) == Chem.CanonSmiles(IBUPROFEN.replace("@@", "@"))
    untold = Chem.AddHs(Chem.MolFromSmiles("CC(O)N"))
    AllChem.EmbedMolecule(untold, randomSeed=1)
    assert "@" not in Chem.MolToSmiles(untold) and "@" in Chem.MolToSmiles(prepared(untold))


@pytest.mark.parametrize(
    ("smiles", "isomers"),
    [
        ("CC(O)C(=O)O", {"C[C@@H](O)C(=O)O", "C[C@H](O)C(=O)O"}),
        ("CC(F)=CCl", {"C/C(F)=C/Cl", r"C/C(F)=C\Cl"}),
        ("OC1CCC(C)CC1", {"C[C@H]1CC[C@@H](O)CC1", "C[C@H]1CC[C@H](O)CC1"}),
        ("CS(=O)CC", {"CC[S@@](C)=O", "CC[S@](C)=O"}),
    ],
)
def test_undefined_stereo_is_an_error_that_lists_the_isomers(smiles: str, isomers: set[str]) -> None:
    with pytest.raises(ValueError, match="Expected defined stereo in SMILES") as caught:
        read_smiles(smiles)
    assert set(str(caught.value).split("\n  ")[1:]) == isomers
    for isomer in isomers:
        assert Chem.MolToSmiles(Chem.RemoveHs(read_smiles(isomer))) == isomer


@pytest.mark.parametrize("smiles", ["COP(=O)([O-])OCC", "C1CC2CCC1N2", "CN(CC)CC1CC1", "C[N+]([O-])(C)C"])
def test_no_stereo_is_asked_for_where_there_is_one_isomer(smiles: str) -> None:
    assert read_smiles(smiles).GetConformer().Is3D()


@pytest.mark.parametrize(
    ("smiles", "words"),
    [
        ("CC(=O)[O-].[Na+]", r"got 2: CC\(=O\)\[O-\], \[Na\+\]"),
        ("C(C)(C)(C)(C)C", "valence for atom # 0 C, 5"),
        ("CC(", "cannot read 'CC\\('"),
        ("", "cannot read ''"),
        ("[*]CC", "no R groups"),
        ("CC[CH2]", "without unpaired electrons.*C3"),
    ],
)
def test_what_is_no_molecule_is_refused(smiles: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_smiles(smiles)


def test_one_of_several_molecules_is_named(tmp_path: Path) -> None:
    path = tmp_path / "two.sdf"
    blocks = []
    for title, smiles in (("first", "CCO"), ("second", "CCN")):
        molecule = read_smiles(smiles)
        molecule.SetProp("_Name", title)
        blocks.append(Chem.MolToMolBlock(molecule) + "> <id>\n7\n\n$$$$\n")
    path.write_text("".join(blocks))
    with pytest.raises(ValueError, match="got 2: first, second"):
        read_sdf(path)
    for entry in (1, "second"):
        molecule, title = read_sdf(path, entry)
        assert title == "second" and Chem.MolToSmiles(Chem.RemoveHs(molecule)) == "CCN"
    for entry, words in ((2, "from 0 to 1"), (-1, "from 0 to 1"), ("third", "got 0 of first, second")):
        with pytest.raises(ValueError, match=words):
            read_sdf(path, entry)
    path.write_text("\n\n")
    with pytest.raises(ValueError, match="there is none"):
        read_sdf(path)
    with pytest.raises(FileNotFoundError, match=r"none\.sdf"):
        read_sdf(tmp_path / "none.sdf")


@pytest.mark.parametrize(
    "smiles",
    [
        *(IBUPROFEN, ALANINE, "C[N+](=O)[O-]", "c1ccncc1", "CC[n+]1ccccc1", "C[N+](C)(C)[O-]", "CN=[N+]=[N-]"),
        *("COP(=O)([O-])[O-]", "CS(=O)(=O)Nc1ccccc1", "C/C=C/C#N", "CC[S@](C)=O", "Cn1cnc2c1c(=O)[nH]c(=O)n2C"),
    ],
)
def test_bond_orders_charges_and_stereo_survive_the_topology(smiles: str) -> None:
    molecule = read_smiles(smiles)
    topology = mdtraj.Topology.from_openmm(topology_of(molecule))
    found = molecule_of(topology, positions_of(molecule)[None])
    assert Chem.MolToSmiles(Chem.RemoveHs(found)) == Chem.CanonSmiles(smiles)
    assert len({atom.name for atom in topology.atoms}) == topology.n_atoms
    assert [a.name for a in topology.atoms][:2] == [f"{molecule.GetAtomWithIdx(i).GetSymbol()}{i + 1}" for i in (0, 1)]


def test_bonds_without_orders_are_told_of() -> None:
    topology = MolecularSystem.load("butane").md_topology
    with pytest.raises(ValueError, match=r"Expected bonds with orders.*from_sdf"):
        molecule_of(topology)


def test_patterns_pick_atoms() -> None:
    molecule = read_smiles("CC(=O)NC")  # C1 C2 O3 N4 C5
    assert find_pattern(molecule, "[CX4][CX3]N[CX4]", 4).tolist() == [[0, 1, 3, 4]]
    assert find_pattern(molecule, "[CH3:4][N:3][C:2](=O)[CH3:1]", 4).tolist() == [[0, 1, 3, 4]]
    assert find_pattern(molecule, "[#6]-[#6]", 2).tolist() == [[0, 1]]
    assert len(find_pattern(molecule, "[H]C[C]=O", 4)) == 3
    for smarts, words in (
        ("C(", "cannot read"),
        ("CCC", "of 4 atoms"),
        ("[C:1][C:2]O", "maps 1 to 4"),
        ("SSSS", "none in"),
    ):
        with pytest.raises(ValueError, match=words):
            find_pattern(molecule, smarts, 4)


def test_charges_sum_to_the_charge_drawn() -> None:
    for smiles, total in (("CC(=O)[O-]", -1), ("C[NH3+]", 1), (IBUPROFEN, 0)):
        molecule = read_smiles(smiles)
        found = parameters.charges_of(molecule, "gasteiger")
        assert abs(found.sum() - total) < 1e-12 and np.ptp(found) > 0.1
        assert np.allclose(parameters.charges_of(molecule, found), found)
        rounded = found + 0.001 / molecule.GetNumAtoms()
        assert abs(parameters.charges_of(molecule, rounded).sum() - total) < 1e-12
    with pytest.raises(ValueError, match="Expected 7 finite charges"):
        parameters.charges_of(read_smiles("CN"), np.zeros(3))
    with pytest.raises(ValueError, match=r"sum to 0.*got 0\.7"):
        parameters.charges_of(read_smiles("CN"), np.full(7, 0.1))


def test_a_force_field_file_describes_an_rdkit_molecule(tmp_path: Path) -> None:
    molecule = read_smiles(ALANINE)
    path = tmp_path / "alanine.xml"
    path.write_text(standin_xml(molecule))
    files = [str(path), "implicit/obc2.xml"]
    system = MolecularSystem.from_rdkit(molecule, "alanine", forcefield=files, temperature=310.0 * unit.kelvin)
    assert system.temperature == 310.0 and system.folder is None and system.n_atoms == 13
    assert np.allclose(system.positions, positions_of(molecule), atol=1e-5)
    topology = topology_of(molecule)
    expected = app.ForceField(*files).createSystem(topology, nonbondedMethod=app.NoCutoff)
    energies = []
    for one in (system.system, expected):
        context = openmm.Context(one, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
        context.setPositions(positions_of(molecule))
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    assert energies[0] == pytest.approx(energies[1], abs=1e-6)
    (nonbonded,) = [force for force in system.system.getForces() if isinstance(force, openmm.NonbondedForce)]
    charges = [nonbonded.getParticleParameters(i)[0]._value for i in range(13)]
    assert np.allclose(charges, parameters.charges_of(molecule, "gasteiger"), atol=1e-9)
    same_file = MolecularSystem.from_sdf(_sdf(tmp_path, molecule), forcefield=files, temperature=310)
    assert same_file.fingerprint == system.fingerprint and same_file.name == "drawn"
    with pytest.raises(ValueError, match="has charges of its own"):
        MolecularSystem.from_rdkit(molecule, "alanine", forcefield=files, charges="nagl")


def _sdf(folder: Path, molecule: Chem.Mol) -> Path:
    path = folder / "drawn.sdf"
    path.write_text(Chem.MolToMolBlock(molecule) + "$$$$\n")
    return path


def test_a_force_field_by_name_is_kept_in_a_folder(tmp_path: Path, without_openff: None) -> None:  # noqa: F811
    folder = tmp_path / "made" / "here"
    system = MolecularSystem.from_smiles(r"C/C=C/O", solvent="obc2", temperature=320, folder=folder)
    assert system.folder == folder and system.name == r"C/C=C/O"
    again = MolecularSystem.load(folder)
    assert again.fingerprint == system.fingerprint and again.temperature == 320.0
    free = MolecularSystem.from_smiles(r"C/C=C/O", solvent="obc2", temperature=320)
    assert free.fingerprint == system.fingerprint and free.folder is None
    assert any("GB" in force.getName() for force in system.system.getForces())
    vacuum = MolecularSystem.from_smiles(r"C/C=C/O", solvent="none")
    assert not any("GB" in force.getName() for force in vacuum.system.getForces())
    with pytest.raises(ValueError, match=r"has a system\.toml"):
        MolecularSystem.from_smiles("CO", folder=folder)
    given = MolecularSystem.from_smiles("CO", charges=[0.1, -0.6, 0.0, 0.05, 0.05, 0.4], solvent="none")
    (nonbonded,) = [force for force in given.system.getForces() if isinstance(force, openmm.NonbondedForce)]
    assert nonbonded.getParticleParameters(1)[0]._value == pytest.approx(-0.6)


def test_charges_and_conformer_of_an_openff_molecule_are_taken(without_openff: None) -> None:  # noqa: F811
    molecule = read_smiles("CO")
    charges = SimpleNamespace(m=np.array([0.1, -0.6, 0.0, 0.05, 0.05, 0.4]))
    openff = SimpleNamespace(name="methanol", partial_charges=charges, to_rdkit=lambda: molecule)
    system = MolecularSystem.from_openff(openff, solvent="none")
    (nonbonded,) = [force for force in system.system.getForces() if isinstance(force, openmm.NonbondedForce)]
    assert system.name == "methanol" and nonbonded.getParticleParameters(5)[0]._value == pytest.approx(0.4)
    assert np.allclose(system.positions, positions_of(molecule), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"forcefield": "amber14"}, "such as openff-2.2.1 or gaff"),
        ({"forcefield": ["openff-2.2.1", "a.xml"]}, "one force field by name"),
        ({"charges": "resp"}, "nagl, am1bcc, gasteiger"),
        ({"solvent": "tip3p"}, "gbn2, gbn, obc2"),
        ({"temperature": 0.0}, "positive, finite temperature"),
    ],
)
def test_wrong_options_are_told_before_anything_is_loaded(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MolecularSystem.from_smiles("CO", **options)


def test_a_missing_package_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("openff.toolkit", "openmmforcefields.generators"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=re.escape(install("ligand"))):
        MolecularSystem.from_smiles("CO")
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=re.escape(f"needs RDKit: {install('ligand')}")):
        MolecularSystem.from_smiles("CO")


def test_texts_of_a_folder_survive_odd_names(tmp_path: Path, without_openff: None) -> None:  # noqa: F811
    texts = ligand_files(read_smiles("CO"), 'a "quoted" \\ näme')
    folder = write_ligand(tmp_path / "odd", texts)
    assert (read := MolecularSystem.load(folder)).name == 'a "quoted" \\ näme'
    assert read.physics == "openff-2.2.1, charges nagl; GBn2"  # not the name of the file with its parameters
    assert [file_name(text) for text in ("a b/c", "..", "(+)-x", "")] == ["a_b_c", "ligand", "-x", "ligand"]
    with pytest.raises(ValueError, match=r"pdb, or sdf.*both"):
        (folder / "system.toml").write_text('pdb = "a.pdb"\nsdf = "input.sdf"\n')
        MolecularSystem.load(folder)


def test_a_molecule_without_a_force_field_has_its_bonds() -> None:
    """For an energy of one's own."""
    system = MolecularSystem.from_smiles("CC(=O)[O-]", forcefield=None, temperature=310.0)
    assert system.system.getNumForces() == 0 and not system.has_forces and system.temperature == 310.0
    assert system.elements == list("CCOOHHH")
    assert sorted(map(tuple, system.bonds.tolist())) == [(0, 1), (0, 4), (0, 5), (0, 6), (1, 2), (1, 3)]
    apart = np.linalg.norm(system.positions[system.bonds[:, 0]] - system.positions[system.bonds[:, 1]], axis=1)
    assert ((apart > 0.1) & (apart < 0.16)).all()
    with pytest.raises(ValueError, match="no charges, solvent or folder without a force field"):
        MolecularSystem.from_smiles("CCO", forcefield=None, solvent="gbn2")


def test_an_rdkit_molecule_is_left_as_it_was() -> None:
    molecule = Chem.MolFromSmiles("CCO")
    assert prepared(molecule).GetNumAtoms() == 9
    assert molecule.GetNumAtoms() == 3 and molecule.GetNumConformers() == 0


@pytest.mark.parametrize(("name", "atoms", "charge"), [("ibuprofen", 32, -1), ("imatinib", 69, 1)])
def test_shipped_ligands(name: str, atoms: int, charge: int) -> None:
    system = MolecularSystem.load(name)
    assert system.n_atoms == atoms and len(system.constraints[0]) == 0
    (nonbonded,) = [force for force in system.system.getForces() if isinstance(force, openmm.NonbondedForce)]
    total = sum(nonbonded.getParticleParameters(i)[0]._value for i in range(atoms))
    assert total == pytest.approx(charge, abs=1e-5)
    molecule = molecule_of(system.md_topology, system.positions[None])
    smiles = (system.folder / "system.toml").read_text().split("# ")[1].split(": ")[0]
    assert Chem.MolToSmiles(Chem.RemoveHs(molecule)) == smiles
