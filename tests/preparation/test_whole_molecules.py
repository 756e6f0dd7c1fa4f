"""No molecule becomes another: what RDKit built comes back with its atoms, its bonds and its hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import linked
import numpy as np
import pytest
from openmm import app

from openmm_fab.molecule.structures import read_structure
from openmm_fab.molecule.system import PAPER_FORCEFIELD, MolecularSystem
from openmm_fab.preparation.findings import Prepared, _check_same, find_problems
from openmm_fab.preparation.problems import ASKED

ROOT = Path(__file__).parents[2]
Bond = frozenset[tuple[int, ...]]

pytestmark = pytest.mark.usefixtures("force_fields_are_read_once")


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _bonds(topology: app.Topology, positions: Any) -> set[Bond]:
    """Bonds by the places of their atoms, in 0.001 Angstrom: whatever the order and names of the atoms."""
    place = [tuple(np.rint(1e4 * np.asarray(x)).astype(int).tolist()) for x in positions]
    return {frozenset((place[a.index], place[b.index])) for a, b in topology.bonds()}


def _built(mol: Any) -> set[Bond]:
    place = [tuple(np.rint(1e3 * x).astype(int).tolist()) for x in mol.GetConformer().GetPositions()]
    return {frozenset((place[b.GetBeginAtomIdx()], place[b.GetEndAtomIdx()])) for b in mol.GetBonds()}


def _elements(mol: Any) -> Counter[str]:
    return Counter(atom.GetSymbol() for atom in mol.GetAtoms())


def _check_whole(prepared: Prepared, mol: Any, path: Path) -> None:
    """As it was built, in the object and in the file that is written of it; nothing safe is left to do."""
    assert prepared.elements == prepared.before == _elements(mol)
    assert _bonds(prepared.topology, prepared.positions) == _built(mol)
    topology, positions = read_structure(prepared.write(path))
    assert _bonds(topology, [x._value for x in positions]) == _built(mol)
    assert set(find_problems(path, PAPER_FORCEFIELD).kinds) <= ASKED


@pytest.mark.parametrize("name", linked.LINKED)
def test_hydrogens_at_the_end_and_no_bonds_named(tmp_path, name):
    mol, _ = linked.molecule(name)
    findings = find_problems(_write(tmp_path / "a.pdb", linked.pdb(name)), PAPER_FORCEFIELD)
    assert findings.elements == _elements(mol) and "other molecules" not in str(findings)
    assert {"split residues", "missing bonds"} <= set(findings.kinds)
    prepared = findings.fix()
    _check_whole(prepared, mol, tmp_path / "whole.pdb")
    assert repr(prepared).count(f"{prepared.elements.total()} atoms") == 3  # in the title, before and after


@pytest.mark.parametrize(("name", "last"), [("isopeptide", True), ("N-glycan", False), ("ring", True), ("PTR", False)])
def test_with_bonds_named(tmp_path, name, last):
    """Some of RDKit's names of hydrogens are OpenMM's names of others: H2 and H3 of glycine's CA."""
    findings = find_problems(_write(tmp_path / "a.pdb", linked.pdb(name, conect=True, last=last)), PAPER_FORCEFIELD)
    assert ("split residues" in findings.kinds) is last
    _check_whole(findings.fix(), linked.molecule(name)[0], tmp_path / "whole.pdb")


@pytest.mark.parametrize(("name", "residues"), [("D-valine", "ACE VAL NME"), ("ring", "SER ALA GLY")])
def test_d_residues_keep_their_hand_and_have_energies(tmp_path, name, residues):
    prepared = find_problems(_write(tmp_path / "a.pdb", linked.pdb(name)), PAPER_FORCEFIELD).fix()
    system = MolecularSystem.from_pdb(prepared.write(tmp_path / "whole.pdb"), PAPER_FORCEFIELD)
    assert [residue.name for residue in system.topology.residues()] == residues.split()
    assert system.n_atoms == linked.molecule(name)[0].GetNumAtoms() and len(system.bonds) == len(
        _built(linked.molecule(name)[0])
    )
    hand = find_problems(tmp_path / "whole.pdb", PAPER_FORCEFIELD)
    assert [problem.kind for problem in hand.problems] == ["D-amino acids"]
    assert hand.problems[0].places == (f"{'VAL 2' if name == 'D-valine' else 'SER 1'}",)


@pytest.mark.parametrize(("name", "standard", "atoms"), [("SEP", "SER", 4), ("TPO", "THR", 4), ("PTR", "TYR", 4)])
def test_phosphates_go_only_where_that_is_said(tmp_path, name, standard, atoms):
    findings = find_problems(_write(tmp_path / "a.pdb", linked.pdb(name)), PAPER_FORCEFIELD)
    assert findings.asked == ["modified residues"] and "  ask  modified residues" in str(findings)
    assert f"{name} 2 -> {standard} without P, O1P, O2P, O3P" in str(findings)
    bare = findings.fix(["safe", "modified residues"])
    lost = findings.elements - bare.elements
    assert lost - Counter({"H": lost["H"]}) == Counter({"P": 1, "O": 3}) and bare.left == ()
    assert (
        MolecularSystem.from_pdb(bare.write(tmp_path / "bare.pdb"), PAPER_FORCEFIELD).n_atoms
        == findings.elements.total() - atoms + 1
    )


def test_no_hydrogens_where_a_residue_is_linked_otherwise(tmp_path):
    """Lysine's template has NH3+: not for the nitrogen of an amide. Modeller would complete it."""
    lines = [k for k in linked.pdb("isopeptide").splitlines() if k[76:78].strip() != "H"]
    findings = find_problems(_write(tmp_path / "a.pdb", "\n".join(lines) + "\n"), PAPER_FORCEFIELD)
    assert "LYS 2 (chain A) (bonded to another residue at NZ)" in str(findings)
    prepared = findings.fix()
    bearing = Counter(str(a.residue.name) for a in prepared.topology.atoms() if a.element.symbol == "H")
    assert bearing == Counter(ACE=6, NME=4)  # NME begins a chain here, and the second ACE ends one
    assert prepared.elements - Counter(H=10) == findings.elements


def test_names_that_are_elements(tmp_path):
    """Diclofenac, 30 atoms of five names: not one of them stands there twice."""
    Chem, AllChem = pytest.importorskip("rdkit.Chem"), pytest.importorskip("rdkit.Chem.AllChem")
    mol = Chem.AddHs(Chem.MolFromSmiles("OC(=O)Cc1ccccc1Nc1c(Cl)cccc1Cl"))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    lines = []
    for atom, x in zip(mol.GetAtoms(), mol.GetConformer().GetPositions(), strict=True):
        place, symbol = "".join(f"{value:8.3f}" for value in x), atom.GetSymbol().upper()
        lines.append(f"HETATM{atom.GetIdx():5d}  {symbol:<3} MOL     1    {place}  1.00  0.00          {symbol:>2}")
    findings = find_problems(_write(tmp_path / "a.pdb", "\n".join([*lines, "END\n"])), PAPER_FORCEFIELD)
    assert "duplicate atoms" not in findings.kinds and "MOL 1: 2 CL -> CL1 to CL2" in str(findings)
    prepared = findings.fix()
    _check_whole(prepared, mol, tmp_path / "whole.pdb")
    names = [atom.name for atom in prepared.topology.atoms()]
    assert len(set(names)) == 30 and [a.element.symbol for a in prepared.topology.atoms()].count("Cl") == 2
    with pytest.raises(ValueError, match="Expected OpenMM to read the 30 atoms of the file; it reads 5"):
        findings.fix(["missing bonds"])


def test_two_molecules_whose_hydrogens_are_mixed(tmp_path):
    """Same chain, same numbers, no TER: distances tell which hydrogen belongs to which, and where a chain ends."""
    mol, _ = linked.molecule("D-valine")
    atoms = [k for k in linked.pdb("D-valine").splitlines() if k.startswith("HETATM")]
    far = [f"{k[:30]}{float(k[30:38]) + 25:8.3f}{k[38:]}" for k in atoms]
    heavy = [k for k in (*atoms, *far) if k[76:78].strip() != "H"]
    mixed = [k for pair in zip(far, atoms, strict=True) for k in pair if k[76:78].strip() == "H"]
    findings = find_problems(_write(tmp_path / "two.pdb", "\n".join([*heavy, *mixed, "END\n"])), PAPER_FORCEFIELD)
    assert findings.asked == ["other molecules"]
    both = findings.fix()
    assert both.elements == findings.elements == Counter({k: 2 * n for k, n in _elements(mol).items()})
    assert len(_bonds(both.topology, both.positions)) == 2 * mol.GetNumBonds()
    one = findings.fix(["safe", "other molecules"])
    assert one.elements == _elements(mol) and _bonds(one.topology, one.positions) == _built(mol)


@pytest.mark.parametrize("name", ["D-valine", "ring", "N-glycan"])
def test_hydrogens_in_a_residue_of_their_own(tmp_path, name):
    """RDKit's AddHs puts them into UNL 1 of no chain unless it is asked for residues."""
    lines, count = [], 0
    for k in linked.pdb(name).splitlines():
        if k[76:78].strip() == "H":
            count += 1
            k = f"{k[:12]} H{count:<2} UNL     1{k[26:]}"
        lines.append(k)
    findings = find_problems(_write(tmp_path / "a.pdb", "\n".join(lines) + "\n"), PAPER_FORCEFIELD)
    prepared = findings.fix()
    _check_whole(prepared, linked.molecule(name)[0], tmp_path / "whole.pdb")
    assert "UNL" not in {residue.name for residue in prepared.topology.residues()}


def test_chains_that_nothing_ends(tmp_path):
    """Peptides one after the other: OpenMM would bond the end of one to the beginning of the next, 2 nm away."""
    atoms = [k for k in (ROOT / "tests" / "data" / "peptide_akf.pdb").read_text().splitlines() if k[:4] == "ATOM"]
    far = [f"{k[:30]}{float(k[30:38]) + 40:8.3f}{k[38:]}" for k in atoms]
    findings = find_problems(_write(tmp_path / "two.pdb", "\n".join([*atoms, *far, "END\n"])), PAPER_FORCEFIELD)
    assert findings.kinds == ["missing TER", "other molecules"] and "between PHE 3 and ALA 1" in str(findings)
    far = [f"{k[:22]}{int(k[22:26]) + 3:4d}{k[26:]}" for k in far]  # PHE 3 has its OXT
    findings = find_problems(_write(tmp_path / "on.pdb", "\n".join([*atoms, *far, "END\n"])), PAPER_FORCEFIELD)
    assert findings.kinds == ["missing TER", "other molecules"] and "between PHE 3 and ALA 4" in str(findings)
    assert findings.fix(["safe", "other molecules"]).topology.getNumAtoms() == len(atoms)


def test_deuterium_is_offered_hydrogen(tmp_path):
    lines = (ROOT / "systems" / "alanine_dipeptide" / "input.pdb").read_text().splitlines()
    heavy = [f"{k[:12]} D  {k[16:76]} D" if k[12:16] == " H  " else k for k in lines]
    findings = find_problems(_write(tmp_path / "d.pdb", "\n".join(heavy) + "\n"), PAPER_FORCEFIELD)
    assert [problem.kind for problem in findings.problems] == ["deuterium"] and "C6H10D2N2O2" in str(findings)
    assert findings.problems[0].places == ("ALA 2 D", "NME 3 D")
    system = MolecularSystem.from_pdb(findings.fix().write(tmp_path / "h.pdb"), PAPER_FORCEFIELD)
    assert system.fingerprint == MolecularSystem.load("alanine_dipeptide").fingerprint


def test_bonds_that_would_be_too_many_are_left(tmp_path):
    """A hydrogen of the nitrogen is not taken off for them: neither added nor "other molecules"."""
    text = linked.pdb("isopeptide").splitlines()
    near = next(k for k in text if k[12:16].strip() == "NZ")
    extra = [
        f"{near[:12]} HZ{n} LYS A   2    {near[30:46]}{float(near[46:54]) + z:8.3f}{near[54:76]} H"
        for n, z in ((2, 1.0), (3, -1.0))
    ]
    findings = find_problems(_write(tmp_path / "a.pdb", "\n".join([*text[:-1], *extra, "END\n"])), PAPER_FORCEFIELD)
    left = [problem for problem in findings.problems if problem.kind == "missing bonds" and not problem.fixable]
    assert left[0].places == ("LYS 2 (chain A) NZ - ACE 3 (chain A) C",) and "a hydrogen too many" in left[0].advice
    assert findings.asked == [] and findings.fix().elements == findings.elements


def test_several_templates_are_listed(tmp_path):
    text = (ROOT / "systems" / "butane" / "butane.xml").read_text()
    first, last = text.index('  <Residue name="BUT">'), text.index(" </Residues>")
    other = text[first:last].replace('"BUT"', '"TUB"').replace("opls_135", "opls_136")
    field = _write(tmp_path / "rivals.xml", text[:last] + other + text[last:])
    findings = find_problems(ROOT / "systems" / "butane" / "input.pdb", str(field))
    assert [problem.kind for problem in findings.problems] == ["ambiguous templates"] and findings.kinds == []
    assert "you  ambiguous templates  BUT 1: BUT, TUB fit it alike" in str(findings)
    assert "residueTemplates={'BUT 1': 'BUT'}" in str(findings)
    assert findings.fix().elements == Counter(C=4, H=10)


def test_heavy_atoms_that_would_change_stop_it():
    _check_same(Counter(C=2, H=6), Counter({"C": 1, "": 1, "H": 1}))
    for after in (Counter(C=1, H=6), Counter(C=3), Counter(C=1, Si=1)):
        with pytest.raises(ValueError, match=r"Expected the heavy atoms of the file, C2; .*Nothing is mended"):
            _check_same(Counter(C=2, D=6), after)
