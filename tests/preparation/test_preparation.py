"""Files broken in one way each: it is found and told, mended if accepted and only then, and the rest stays in place."""

from __future__ import annotations

import random
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import zoo
from charmm import cut
from openmm import app, unit

from openmm_fab.molecule.checks import UnsupportedSystemError
from openmm_fab.molecule.graph import topology_bonds
from openmm_fab.molecule.system import PAPER_FORCEFIELD, MolecularSystem
from openmm_fab.preparation.findings import Findings, Prepared, find_problems
from openmm_fab.preparation.problems import FIXES
from openmm_fab.tools.install import install

ROOT = Path(__file__).parents[2]
FF14SB = ("amber14/protein.ff14SB.xml", "implicit/obc2.xml")
BUTANE = str(ROOT / "systems" / "butane" / "butane.xml")

Places = dict[tuple[str, str, str], np.ndarray]  # chain, number of the residue, atom -> nm

pytestmark = pytest.mark.usefixtures("force_fields_are_read_once")


# --- files ---


def _lines(name: str) -> list[str]:
    path = ROOT / "tests" / "data" / name if name.startswith("peptide") else ROOT / "systems" / name / "input.pdb"
    return [line for line in path.read_text().splitlines() if line.startswith(("ATOM", "HETATM", "TER"))]


def _is(line: str, residue: str, *atoms: str) -> bool:
    return not line.startswith("TER") and line[17:20].strip() == residue and line[12:16].strip() in atoms


def _bare(lines: Iterable[str]) -> list[str]:
    return [line for line in lines if line[76:78].strip() != "H"]


def _moved(line: str, x: float = 0.0, **columns: str) -> str:
    """The line `x` Angstrom further, with other contents: place="B", number="  7", ..."""
    where = {"place": 16, "name": 17, "chain": 21, "number": 23, "occupancy": 56, "element": 76}
    line = f"{line[:30]}{float(line[30:38]) + x:8.3f}{line[38:]}"
    for key, text in columns.items():
        line = line[: where[key]] + text + line[where[key] + len(text) :]
    return line


def _write(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("\n".join([*lines, "END"]) + "\n")
    return path


def _as_cif(path: Path, source: Path) -> Path:
    pdb = app.PDBFile(str(source))
    with open(path, "w") as file:
        app.PDBxFile.writeFile(pdb.topology, pdb.positions, file, keepIds=True)
    return path


def _places(topology: app.Topology, positions: np.ndarray) -> Places:
    return {(a.residue.chain.id, a.residue.id, a.name): positions[a.index] for a in topology.atoms()}


def _heavy_places(lines: Iterable[str]) -> Places:
    """Read column by column: OpenMM has no part in it."""
    return {
        (line[21], line[22:26].strip(), line[12:16].strip()): np.array([float(line[k : k + 8]) for k in (30, 38, 46)])
        / 10
        for line in _bare(lines)
        if not line.startswith("TER")
    }


def _check_stayed(prepared: Prepared, lines: Iterable[str]) -> None:
    there = _places(prepared.topology, prepared.positions)
    for key, x in _heavy_places(lines).items():
        np.testing.assert_allclose(there[key], x, atol=1e-7, err_msg=str(key))


def _read_back(prepared: Prepared, path: Path, forcefield=PAPER_FORCEFIELD) -> MolecularSystem:
    """What from_pdb makes of the written file; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return MolecularSystem.from_pdb(prepared.write(path), forcefield)


def _kinds(findings: Findings | Prepared) -> list[str]:
    return [problem.kind for problem in (findings.problems if isinstance(findings, Findings) else findings.left)]


def _only(findings: Findings, kind: str) -> tuple[str, ...]:
    """Places of this problem, the only one."""
    assert _kinds(findings) == [kind], str(findings)
    return findings.problems[0].places


# --- nothing to mend ---


@pytest.mark.parametrize(
    "name", ["alanine_dipeptide", "cystine", "proline_dipeptide", "peptide_akf.pdb", "peptide_chm.pdb"]
)
def test_good_files(tmp_path, name):
    path = _write(tmp_path / "good.pdb", _lines(name))
    findings = find_problems(path, FF14SB)
    assert findings.problems == () and findings.kinds == [] and "nothing to mend" in str(findings)
    prepared = findings.fix(FIXES)
    assert prepared.done == prepared.left == ()
    assert prepared.topology.getNumAtoms() == sum(not line.startswith("TER") for line in _lines(name))


def test_finding_and_fixing_leave_the_file(tmp_path):
    path = _write(tmp_path / "bare.pdb", _bare(_lines("alanine_dipeptide")))
    before = path.read_bytes()
    find_problems(path, PAPER_FORCEFIELD).fix(FIXES)
    assert path.read_bytes() == before


# --- missing atoms ---


@pytest.mark.parametrize(
    ("name", "atoms"), [("alanine_dipeptide", 22), ("proline_dipeptide", 26), ("cystine", 44), ("peptide_chm.pdb", 57)]
)
@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_hydrogens(tmp_path, name, atoms, suffix):
    lines = _bare(_lines(name))
    path = _write(tmp_path / "bare.pdb", lines)
    findings = find_problems(path if suffix == ".pdb" else _as_cif(tmp_path / "bare.cif", path), FF14SB)
    assert _only(findings, "missing hydrogens")[0].startswith("ACE 1")
    prepared = findings.fix(FIXES)
    _check_stayed(prepared, lines)
    system = _read_back(prepared, tmp_path / f"whole{suffix}", FF14SB)
    assert system.n_atoms == atoms and prepared.left == ()
    assert _kinds(find_problems(tmp_path / f"whole{suffix}", FF14SB)) == []


def test_hydrogens_are_the_same_in_every_call(tmp_path):
    findings = find_problems(_write(tmp_path / "bare.pdb", _bare(_lines("peptide_akf.pdb"))), PAPER_FORCEFIELD)
    random.seed(3)
    state = random.getstate()
    first = findings.fix(FIXES)
    assert random.getstate() == state
    random.seed(4)
    np.testing.assert_array_equal(findings.fix(FIXES).positions, first.positions)


def test_pH(tmp_path):
    findings = find_problems(_write(tmp_path / "bare.pdb", _bare(_lines("peptide_chignolin.pdb"))), PAPER_FORCEFIELD)
    acid, neutral = (findings.fix(FIXES, pH=pH) for pH in (2.0, 7.0))
    atoms = [{(a.residue.name, a.name) for a in prepared.topology.atoms()} for prepared in (acid, neutral)]
    assert atoms[0] - atoms[1] == {("ASP", "HD2"), ("GLU", "HE2")} and atoms[1] <= atoms[0]
    assert "at pH 2" in acid.done[0] and neutral.topology.getNumAtoms() == 138


def _ala(*atoms: str) -> list[str]:
    return [line for line in _lines("alanine_dipeptide") if not _is(line, "ALA", *atoms)]


@pytest.mark.parametrize("names", [("O",), ("CB",), ("C",), ("N", "CB", "O")])
def test_heavy_atoms(tmp_path, names):
    pytest.importorskip("pdbfixer")
    lines = _ala(*names)
    findings = find_problems(_write(tmp_path / "short.pdb", lines), PAPER_FORCEFIELD)
    assert set(re.findall(r"[A-Z]+", _only(findings, "missing heavy atoms")[0])) == {"ALA", *names}
    prepared = findings.fix(FIXES)
    _check_stayed(prepared, lines)
    system = _read_back(prepared, tmp_path / "whole.pdb")
    whole = MolecularSystem.load("alanine_dipeptide")
    got, expected = (_places(s.topology, s.positions) for s in (system, whole))
    assert got.keys() == expected.keys()
    for name in names:
        assert np.linalg.norm(got["A", "2", name] - expected["A", "2", name]) < 0.06, name
    assert prepared.left == ()  # no D-alanine, no overlap


def test_missing_end_of_a_chain(tmp_path):
    pytest.importorskip("pdbfixer")
    lines = [line for line in _lines("peptide_akf.pdb") if not _is(line, "PHE", "OXT")]
    findings = find_problems(_write(tmp_path / "short.pdb", lines), PAPER_FORCEFIELD)
    assert _only(findings, "missing heavy atoms") == ("PHE 3 (OXT)",)
    prepared = findings.fix(FIXES)
    _check_stayed(prepared, lines)
    at = _places(prepared.topology, prepared.positions)
    oxygens = [at["A", "3", name] - at["A", "3", "C"] for name in ("O", "OXT")]
    lengths = np.linalg.norm(oxygens, axis=1)
    assert lengths == pytest.approx(0.125, abs=0.015)
    assert np.degrees(np.arccos(np.dot(*oxygens) / lengths.prod())) == pytest.approx(126, abs=12)
    assert _read_back(prepared, tmp_path / "whole.pdb").n_atoms == 55


def test_hydrogens_in_the_way_of_heavy_atoms(tmp_path):
    """PDBFixer does not see them: it would put NME's carbon onto the amide hydrogen."""
    pytest.importorskip("pdbfixer")
    lines = [line for line in _lines("alanine_dipeptide") if not _is(line, "NME", "C", "CH3")]
    findings = find_problems(_write(tmp_path / "short.pdb", lines), PAPER_FORCEFIELD)
    assert _kinds(findings.fix(["missing heavy atoms"])) == ["missing hydrogens"]
    prepared = findings.fix(FIXES)
    assert prepared.left == () and "without 4 hydrogens" in prepared.done[0]
    x = _places(prepared.topology, prepared.positions)
    assert np.linalg.norm(x["A", "3", "H"] - x["A", "3", "C"]) > 0.18


def test_disulfides_outlive_added_atoms(tmp_path):
    """PDBFixer finds bonds anew, up to 0.3 nm; this one is longer and in CONECT."""
    pytest.importorskip("pdbfixer")
    lines = [line for line in _lines("cystine") if not (line[21] == "A" and _is(line, "CYS", "O"))]
    lines = [line if line[21] == "A" or line[:3] == "TER" else _moved(line, -1.5) for line in lines]
    serial = {line[21]: line[6:11] for line in lines if _is(line, "CYS", "SG")}
    path = _write(tmp_path / "long.pdb", [*lines, f"CONECT{serial['A']}{serial['B']}"])
    prepared = find_problems(path, FF14SB).fix(FIXES)
    sulfurs = [(a.name, b.name) for a, b in prepared.topology.bonds() if a.residue.chain is not b.residue.chain]
    assert sulfurs == [("SG", "SG")]
    assert _read_back(prepared, tmp_path / "whole.pdb", FF14SB).n_atoms == 44


def test_hydrogens_wait_for_heavy_atoms(tmp_path):
    findings = find_problems(_write(tmp_path / "short.pdb", _bare(_ala("CB"))), PAPER_FORCEFIELD)
    with pytest.raises(
        ValueError, match=r"Expected all heavy atoms .*; ALA 2 lack some\. Accept 'missing heavy atoms'"
    ):
        findings.fix(["missing hydrogens"])


def test_without_pdbfixer(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pdbfixer", None)
    findings = find_problems(_write(tmp_path / "short.pdb", _ala("CB")), PAPER_FORCEFIELD)
    with pytest.raises(ImportError, match=rf"PDBFixer: {re.escape(install('prepare'))}, .*conda-forge pdbfixer.*leave"):
        findings.fix(FIXES)
    assert findings.fix(set(FIXES) - {"missing heavy atoms", "missing hydrogens"}).done == ()
    find_problems(_write(tmp_path / "bare.pdb", _bare(_lines("alanine_dipeptide"))), PAPER_FORCEFIELD).fix(
        FIXES
    )  # does not need it


def test_named_protonation(tmp_path):
    """Unnamed, this histidine becomes HID."""
    lines = _bare(_lines("peptide_chm.pdb"))
    assert "HIS 3 is HID" in find_problems(_write(tmp_path / "his.pdb", lines), PAPER_FORCEFIELD).fix(FIXES).done[0]
    for name, present, absent in (
        ("HIE", "HE2", "HD1"),
        ("HSE", "HE2", "HD1"),
        ("HIP", "HE2", "-"),
        ("HIP", "HD1", "-"),
    ):
        named = [_moved(line, name=name) if line[17:20] == "HIS" else line for line in lines]
        findings = find_problems(_write(tmp_path / "named.pdb", named), PAPER_FORCEFIELD)
        assert findings.kinds == ["residue names", "missing hydrogens"]
        assert findings.problems[0].places == (f"{name} 3 -> HIS",)
        prepared = findings.fix(FIXES)
        atoms = {atom.name for atom in prepared.topology.atoms() if atom.residue.name == "HIS"}
        assert present in atoms and absent not in atoms
        _check_stayed(prepared, named)
        _read_back(prepared, tmp_path / "whole.pdb")
    named = [_moved(line, name="HID") if line[17:20] == "HIS" else line for line in _lines("peptide_chm.pdb")]
    assert find_problems(_write(tmp_path / "whole.pdb", named), PAPER_FORCEFIELD).problems == ()  # its hydrogens tell


def test_charmm(tmp_path):
    """Its ends of chains are patches: no template has their atoms."""
    pytest.importorskip("pdbfixer")
    forcefield = tmp_path / "charmm36.xml"
    forcefield.write_text(cut("charmm36.xml", {"ALA", "GLU", "ILE", "LEU", "LYS", "PHE"}))
    short = [line for line in _bare(_lines("peptide_akf.pdb")) if not _is(line, "PHE", "OXT", "CZ")]
    findings = find_problems(_write(tmp_path / "short.pdb", short), str(forcefield))
    places = {problem.kind: problem.places for problem in findings.problems}
    assert set(re.findall(r"[A-Z]+", places["missing heavy atoms"][0])) == {"PHE", "CZ", "OXT"}
    assert [place[:5] for place in places["missing hydrogens"]] == ["ALA 1", "LYS 2"]
    prepared = findings.fix(FIXES)
    assert prepared.left == () and prepared.topology.getNumAtoms() == 55
    short = [line for line in _lines("elil") if not _is(line, "ILE", "CD1")]  # CD in CHARMM
    findings = find_problems(_write(tmp_path / "elil.pdb", short), str(forcefield))
    assert _only(findings, "missing heavy atoms") == ("ILE 3 (CD1)",)


# --- records ---


def _cb(change: Callable[[str], list[str]]) -> list[str]:
    return [new for line in _lines("alanine_dipeptide") for new in (change(line) if _is(line, "ALA", "CB") else [line])]


def test_models(tmp_path):
    lines = _lines("alanine_dipeptide")
    # What is wrong with the second only, here its elements, is of no concern.
    shifted = [line if line.startswith("TER") else _moved(line, 3.0, element="  ") for line in lines]
    path = _write(tmp_path / "two.pdb", ["MODEL        1", *lines, "ENDMDL", "MODEL        2", *shifted, "ENDMDL"])
    cif = _as_cif(tmp_path / "one.cif", _write(tmp_path / "one.pdb", lines)).read_text().splitlines()
    atoms = [k for k, line in enumerate(cif) if line.startswith(("ATOM", "HETATM"))]
    second = [" ".join([*cif[k].split()[:2], "?", *cif[k].split()[3:-1], "2"]) for k in atoms]
    (tmp_path / "two.cif").write_text("\n".join([*cif[: atoms[-1] + 1], *second, *cif[atoms[-1] + 1 :]]) + "\n")
    for file in (path, tmp_path / "two.cif"):
        findings = find_problems(file, PAPER_FORCEFIELD)
        assert _only(findings, "models") == ("2 models",)
        prepared = findings.fix(FIXES)
        assert prepared.done == ("models: 2 models",)
        _check_stayed(prepared, lines)
        assert _read_back(prepared, tmp_path / "whole.pdb").n_atoms == 22


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_alternate_locations(tmp_path, suffix):
    """B has the higher occupancy, A comes first."""
    lines = _cb(
        lambda line: [_moved(line, place="A", occupancy="0.30"), _moved(line, 0.3, place="B", occupancy="0.70")]
    )
    path = _write(tmp_path / "a.pdb", lines)
    if suffix == ".cif":
        cif = _as_cif(tmp_path / "a.cif", path).read_text().splitlines()
        at = next(k for k, line in enumerate(cif) if " CB " in line and line.startswith("ATOM"))
        cells = cif[at].split()
        a, b = ([*cells[:4], place, *cells[5:]] for place in "AB")
        a[13], b[13] = "0.30", "0.70"
        b[10] = f"{float(b[10]) + 0.3:.3f}"
        path = tmp_path / "b.cif"
        path.write_text("\n".join([*cif[:at], " ".join(a), " ".join(b), *cif[at + 1 :]]) + "\n")
    findings = find_problems(path, PAPER_FORCEFIELD)
    assert _only(findings, "alternate locations") == ("ALA 2: B (0.70), not A (0.30)",)
    a, b = (_heavy_places(_cb(lambda line, x=x: [_moved(line, x)]))["A", "2", "CB"] for x in (0.0, 0.3))
    prepared = findings.fix(["alternate locations"])
    np.testing.assert_allclose(_places(prepared.topology, prepared.positions)["A", "2", "CB"], b, atol=1e-7)
    assert _read_back(prepared, tmp_path / "whole.pdb").n_atoms == 22
    rejected = findings.fix(["missing hydrogens"])
    assert rejected.done == ()
    np.testing.assert_allclose(_places(rejected.topology, rejected.positions)["A", "2", "CB"], a, atol=1e-7)


def _at_places(places: dict[str, list[tuple[str, float]]]) -> list[str]:
    """Alanine dipeptide; atoms of ALA stand once for each of their places, each further along, by occupancies."""
    lines = []
    for line in _lines("alanine_dipeptide"):
        name = line[12:16].strip() if line[17:20] == "ALA" else ""
        several = [(place, f"{occupancy:.2f}") for place, occupancy in places.get(name, [])]
        lines += [_moved(line, 0.2 * k, place=p, occupancy=o) for k, (p, o) in enumerate(several)] or [line]
    return lines


def test_atoms_whose_places_have_other_names_are_kept(tmp_path):
    """No heavy atom is lost with the places that are left out, whether A and B belong to all atoms or not."""
    for places, told in (
        ({"CB": [("A", 0.5), ("B", 0.5)], "O": [("C", 0.4), ("D", 0.6)]}, "D (0.60), not A (0.50), B (0.50), C (0.40)"),
        ({"CB": [("A", 0.7), ("B", 0.3)], "O": [("B", 0.3)]}, "A (0.70), not B (0.30); O B too"),
        ({"CB": [("C", 0.2)], "HB1": [("C", 0.2)], "O": [("A", 0.7)]}, "A (0.70), not C (0.20); CB C, HB1 C too"),
    ):
        findings = find_problems(_write(tmp_path / "a.pdb", _at_places(places)), PAPER_FORCEFIELD)
        assert _only(findings, "alternate locations")[0].startswith(f"ALA 2: {told}")
        assert findings.elements == Counter(MolecularSystem.load("alanine_dipeptide").elements)
        assert _read_back(findings.fix(), tmp_path / "whole.pdb").n_atoms == 22


def test_hydrogens_of_other_places_stay_out(tmp_path):
    """HB1 is placed A and HB3 B, on a carbon that has one place: two forms of a molecule do not become one of both."""
    findings = find_problems(
        _write(tmp_path / "a.pdb", _at_places({"HB1": [("A", 0.7)], "HB3": [("B", 0.3)]})), PAPER_FORCEFIELD
    )
    assert findings.problems[0].places == ("ALA 2: A (0.70), not B (0.30)",)
    assert findings.elements["H"] == 11 and findings.elements["C"] == 6


def test_two_residues_in_one_place(tmp_path):
    """Serine A and alanine B: the residue is one of them, not a mixture."""
    atoms = [line for line in _bare(_lines("alanine_dipeptide"))]
    both = []
    for line in atoms:
        if line[17:20] != "ALA":
            both.append(line)
            continue
        both += [_moved(line, name="SER", place="A", occupancy="0.40"), _moved(line, place="B", occupancy="0.60")]
        if _is(line, "ALA", "CB"):
            both.append(_moved(line, 1.4, name="SER", place="A", occupancy="0.40").replace(" CB ASER", " OG ASER"))
    prepared = find_problems(_write(tmp_path / "both.pdb", both), PAPER_FORCEFIELD).fix(FIXES)
    assert [residue.name for residue in prepared.topology.residues()] == ["ACE", "ALA", "NME"]
    assert _read_back(prepared, tmp_path / "whole.pdb").n_atoms == 22


def test_duplicate_atoms(tmp_path):
    lines = _cb(lambda line: [line, _moved(line, 1.0)])
    findings = find_problems(_write(tmp_path / "twice.pdb", lines), PAPER_FORCEFIELD)
    assert _only(findings, "duplicate atoms") == ("ALA 2 CB",)
    prepared = findings.fix(FIXES)
    _check_stayed(prepared, _lines("alanine_dipeptide"))
    assert _read_back(prepared, tmp_path / "whole.pdb").n_atoms == 22


def test_elements(tmp_path):
    lines = [line if line.startswith("TER") else _moved(line, element="  ") for line in _lines("alanine_dipeptide")]
    lines += [_moved(lines[1], 9.0, name="LIG", chain="L").replace(" CH3 ", " QX1 ")]
    findings = find_problems(_write(tmp_path / "blank.pdb", lines), PAPER_FORCEFIELD)
    known, unknown = (p for p in findings.problems if p.kind == "missing elements")
    assert len(known.places) == 22 and "ALA 2 (chain A) CA (C)" in known.places and known.fixable
    assert unknown.places == ("LIG 1 (chain L) QX1 (?)",) and not unknown.fixable
    cif = _as_cif(tmp_path / "a.cif", ROOT / "systems" / "alanine_dipeptide" / "input.pdb").read_text()
    (tmp_path / "a.cif").write_text(cif.replace(" C   CA ", " ?   CA "))
    findings = find_problems(tmp_path / "a.cif", PAPER_FORCEFIELD)
    assert _only(findings, "missing elements") == ("ALA 2 CA (C)",)
    assert (
        _read_back(findings.fix(FIXES), tmp_path / "whole.cif").elements
        == MolecularSystem.load("alanine_dipeptide").elements
    )
    assert None in [atom.element for atom in findings.fix(["models"]).topology.atoms()]


def test_modified_residues(tmp_path):
    lines = _lines("peptide_chm.pdb")
    mse = [_moved(line, name="MSE") if line[17:20] == "MET" else line for line in lines]
    mse = [
        _moved(line, element="SE").replace(" SD  MSE", "SE   MSE") if _is(line, "MSE", "SD") else line for line in mse
    ]
    oxidised = [
        new
        for line in mse
        for new in ([_moved(line, 1.5, element=" O").replace(" SG ", " OD ")] if _is(line, "CYS", "SG") else [])
        + [line]
    ]
    oxidised = [_moved(line, name="CSO") if line[17:20] == "CYS" else line for line in oxidised]
    findings = find_problems(_write(tmp_path / "modified.pdb", oxidised), PAPER_FORCEFIELD)
    assert _kinds(findings) == ["modified residues", "missing bonds", "unknown residues"]
    assert findings.problems[0].places == ("CSO 2 -> CYS without OD", "MSE 4 -> MET")
    assert findings.asked == ["modified residues"] and "fix(['safe', 'modified residues'])" in str(findings)
    kept = findings.fix()  # selenium and the oxygen are not given up without a word
    assert {"MSE", "CSO"} <= {residue.name for residue in kept.topology.residues()}
    assert kept.elements == findings.elements and kept.elements["Se"] == 1
    prepared = findings.fix(["safe", "modified residues"])
    assert prepared.before["Se"] == 1 and prepared.elements["Se"] == 0 and prepared.elements["S"] == 2
    _check_stayed(prepared, lines)
    assert (
        _read_back(prepared, tmp_path / "whole.pdb").fingerprint
        == MolecularSystem.from_pdb(ROOT / "tests" / "data" / "peptide_chm.pdb", PAPER_FORCEFIELD).fingerprint
    )
    assert {"MSE", "CSO"} <= {residue.name for residue in findings.fix(["models"]).topology.residues()}


def test_d_amino_acids(tmp_path):
    """The mirror image, under its own name: D-alanine is alanine to a force field, and keeps its hand."""
    mirror = [
        line if line.startswith("TER") else f"{line[:30]}{-float(line[30:38]):8.3f}{line[38:]}"
        for line in _lines("alanine_dipeptide")
    ]
    assert _only(find_problems(_write(tmp_path / "d.pdb", mirror), PAPER_FORCEFIELD), "D-amino acids") == ("ALA 2",)
    assert "note D-amino acids" in str(find_problems(tmp_path / "d.pdb", PAPER_FORCEFIELD))
    named = [_moved(line, name="DAL") if line[17:20] == "ALA" else line for line in mirror]
    findings = find_problems(_write(tmp_path / "dal.pdb", named), PAPER_FORCEFIELD)
    assert _kinds(findings) == ["residue names", "D-amino acids"]
    prepared = findings.fix(FIXES)
    _check_stayed(prepared, mirror)
    assert _kinds(prepared) == ["D-amino acids"] and _read_back(prepared, tmp_path / "whole.pdb").n_atoms == 22


# --- bonds ---


def _with_hg(lines: list[str]) -> list[str]:
    """Each cysteine of cystine with a hydrogen on its sulfur, away from the other."""
    new = []
    for line in lines:
        new.append(line)
        if _is(line, "CYS", "SG"):
            hydrogen = line.replace(" SG ", " HG ").replace(" S ", " H ")
            new.append(f"{hydrogen[:46]}{float(line[46:54]) - 1.3:8.3f}{hydrogen[54:]}")
    return new


def test_disulfide(tmp_path):
    lines = _lines("cystine")
    findings = find_problems(_write(tmp_path / "reduced.pdb", _with_hg(lines)), FF14SB)
    assert _only(findings, "missing bonds") == ("CYS 2 (chain A) SG - CYS 2 (chain B) SG",)
    prepared = findings.fix(FIXES)
    _check_stayed(prepared, lines)
    assert _read_back(prepared, tmp_path / "whole.pdb", FF14SB).n_atoms == 44
    rejected = findings.fix(set(FIXES) - {"missing bonds"})  # the halves are one molecule all the same
    assert rejected.topology.getNumAtoms() == 46 and _kinds(rejected) == ["missing bonds"]
    with pytest.raises(UnsupportedSystemError, match="one molecule"):
        _read_back(rejected, tmp_path / "halves.pdb", FF14SB)


def test_disulfide_of_mmcif(tmp_path):
    """OpenMM finds disulfides of PDB files by distance, not of PDBx/mmCIF."""
    text = _as_cif(tmp_path / "a.cif", _write(tmp_path / "a.pdb", _lines("cystine"))).read_text().splitlines()
    first = next(k for k, line in enumerate(text) if "struct_conn" in line)
    last = next(k for k in range(first, len(text)) if text[k].startswith("#"))
    (tmp_path / "a.cif").write_text("\n".join(text[: first - 1] + text[last:]) + "\n")
    findings = find_problems(tmp_path / "a.cif", FF14SB)
    assert _only(findings, "missing bonds")[0].count("SG") == 2
    for suffix in (".pdb", ".cif"):
        assert _read_back(findings.fix(FIXES), tmp_path / f"whole{suffix}", FF14SB).n_atoms == 44


def test_ligand_without_conect(tmp_path):
    path = _write(tmp_path / "butane.pdb", _lines("butane"))
    findings = find_problems(path, BUTANE)
    assert len(_only(findings, "missing bonds")) == 13
    whole = MolecularSystem.load("butane")
    assert _read_back(findings.fix(FIXES), tmp_path / "whole.pdb", BUTANE).fingerprint == whole.fingerprint
    findings = find_problems(path, PAPER_FORCEFIELD)  # a force field without butane
    assert findings.kinds == ["missing bonds"]
    assert "unknown residues     BUT 1: amber96.xml, implicit/obc1.xml has none" in str(findings)
    prepared = findings.fix()
    assert topology_bonds(prepared.topology).tolist() == whole.bonds.tolist()
    far = [_moved(line, 3.0) if _is(line, "BUT", "H41") else line for line in _lines("butane")]
    findings = find_problems(_write(tmp_path / "far.pdb", far), BUTANE)
    assert "BUT 1 is in 2 pieces: CONECT" in str(findings)


def test_residue_that_only_the_force_field_knows(tmp_path):
    """Hydroxyproline of ff14SB: OpenMM bonds neither its atoms nor it to what precedes it."""
    lines = [_moved(line, name="HYP") if line[17:20] == "PRO" else line for line in _bare(_lines("proline_dipeptide"))]
    findings = find_problems(_write(tmp_path / "hyp.pdb", lines), FF14SB)
    bonds, heavy = findings.problems[0], findings.problems[1]
    assert {"ACE 1 C - HYP 2 N", "HYP 2 N - HYP 2 CD"} < set(bonds.places)
    assert heavy.places == ("HYP 2 (OD1)",) and not heavy.fixable and "PDBFixer has no such residue" in heavy.advice
    prepared = findings.fix(FIXES)
    assert "missing heavy atoms" in _kinds(prepared) and "missing bonds" not in _kinds(prepared)


# --- molecules ---


@pytest.fixture(scope="module")
def solvated(alanine_dipeptide, tmp_path_factory) -> Path:
    modeller = app.Modeller(alanine_dipeptide.topology, alanine_dipeptide.positions * unit.nanometer)
    ff = app.ForceField("amber96.xml", "tip3p.xml")
    modeller.addSolvent(ff, boxSize=(1.6, 1.6, 1.6) * unit.nanometer, ionicStrength=0.5 * unit.molar)
    path = tmp_path_factory.mktemp("solvated") / "box.pdb"
    with open(path, "w") as file:
        app.PDBFile.writeFile(modeller.topology, modeller.positions, file)
    return path


def test_solvent(tmp_path, solvated):
    findings = find_problems(solvated, PAPER_FORCEFIELD)
    places = _only(findings, "solvent and ions")
    waters = sum(line.startswith("HETATM") and line[12:21] == " O   HOH " for line in solvated.read_text().splitlines())
    assert waters > 50 and f"{waters} x HOH" in places and {"NA", "CL"} <= {place.split()[-1] for place in places}
    assert "the solute is ACE-ALA-NME" in findings.problems[0].advice
    prepared = findings.fix(FIXES)
    assert _read_back(prepared, tmp_path / "whole.pdb").n_atoms == 22
    assert findings.fix(["missing hydrogens"]).topology.getNumAtoms() > 22 + 3 * waters


def test_hydrogens_beside_rejected_solvent(tmp_path, solvated):
    lines = [line for line in solvated.read_text().splitlines() if not (line[17:20] == "ALA" and line[76:78] == " H")]
    findings = find_problems(_write(tmp_path / "bare.pdb", lines), PAPER_FORCEFIELD)
    assert findings.kinds == ["solvent and ions", "missing hydrogens"]
    prepared = findings.fix(["missing hydrogens"])
    assert "5 at pH 7, placed without the force field" in prepared.done[0]
    assert _kinds(prepared) == ["solvent and ions"]


def test_two_copies(tmp_path):
    lines = _lines("alanine_dipeptide")
    second = [line if line.startswith("TER") else _moved(line, 20.0, chain="B") for line in _bare(lines)]
    findings = find_problems(_write(tmp_path / "two.pdb", [*lines, "TER", *second]), PAPER_FORCEFIELD)
    assert _only(findings, "other molecules") == ("ACE-ALA-NME",)  # its hydrogens do not matter
    prepared = findings.fix(FIXES)
    _check_stayed(prepared, lines)
    assert _read_back(prepared, tmp_path / "whole.pdb").n_atoms == 22
    assert findings.fix(["solvent and ions"]).topology.getNumAtoms() == 22 + 10


def test_the_larger_molecule_is_the_solute(tmp_path):
    small = [line if line.startswith("TER") else _moved(line, 40.0, chain="B") for line in _lines("alanine_dipeptide")]
    findings = find_problems(_write(tmp_path / "two.pdb", [*small, *_lines("peptide_akf.pdb")]), PAPER_FORCEFIELD)
    assert _only(findings, "other molecules") == ("ACE-ALA-NME",)
    assert "the solute is ALA-LYS-PHE" in findings.problems[0].advice
    _check_stayed(findings.fix(FIXES), _lines("peptide_akf.pdb"))


def test_a_torn_chain_is_one_molecule(tmp_path):
    """Without its C, ALA 5 is bonded to nothing that follows; the rest is no other molecule for that."""
    lines = [line for line in _lines("peptide_ala9.pdb") if not (line[22:26] == "   5" and _is(line, "ALA", "C"))]
    assert _only(find_problems(_write(tmp_path / "torn.pdb", lines), PAPER_FORCEFIELD), "missing heavy atoms") == (
        "ALA 5 (C)",
    )


# --- what fix leaves alone ---


def test_missing_residues(tmp_path):
    whole = [line for line in _lines("peptide_ala9.pdb") if line[:3] != "TER"]
    lines = [line for line in whole if line[22:26].strip() not in ("5", "6")]
    findings = find_problems(_write(tmp_path / "gap.pdb", lines), PAPER_FORCEFIELD)
    assert _only(findings, "missing residues")[0].startswith("ALA 4 to ALA 7 (0.") and findings.kinds == []
    written = find_problems(findings.fix(FIXES).write(tmp_path / "written.pdb"), PAPER_FORCEFIELD)
    assert written.problems == findings.problems  # the numbers are kept
    jump = [_moved(line, number=f"{int(line[22:26]) + 20 * (int(line[22:26]) > 6):3d}") for line in whole]
    path = _write(tmp_path / "numbers.pdb", jump)
    assert find_problems(path, PAPER_FORCEFIELD).problems == ()  # numbers jump, the chain does not
    with pytest.raises(ValueError, match=r"Expected 'safe' or kinds out of models, .*; got missing residues"):
        findings.fix(["missing residues"])
    with pytest.raises(ValueError, match=r"got hydrogens\."):
        findings.fix("hydrogens")


def test_overlapping_atoms(tmp_path):
    at = next(line for line in _lines("alanine_dipeptide") if _is(line, "ALA", "HB1"))
    lines = _cb(lambda line: [line[:30] + _moved(at, 0.3)[30:54] + line[54:]])
    assert "ALA 2 CB and ALA 2 HB1" in _only(
        find_problems(_write(tmp_path / "on.pdb", lines), PAPER_FORCEFIELD), "overlapping atoms"
    )
    lines = _cb(lambda line: [f"{line[:30]}     nan{line[38:]}"])
    assert _only(find_problems(_write(tmp_path / "nan.pdb", lines), PAPER_FORCEFIELD), "overlapping atoms") == (
        "ALA 2 CB (not finite)",
    )


def test_residue_with_too_many_atoms(tmp_path):
    lines = _cb(lambda line: [line, _moved(line, 1.5).replace(" CB ", " CG ")])
    for some_lines in (lines, [line for line in lines if not _is(line, "ALA", "HB1")]):
        findings = find_problems(_write(tmp_path / "more.pdb", some_lines), PAPER_FORCEFIELD)
        kinds = ["missing bonds", "unknown residues"]  # CB has no bond left for CG until a hydrogen is gone
        assert _kinds(findings) == kinds and findings.problems[1].places == ("ALA 2 differs from ALA",)
        assert findings.kinds == ([] if some_lines is lines else kinds[:1])


# --- wrong files, and words ---


def test_wrong_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a PDB or PDBx/mmCIF file at .*none\.pdb"):
        find_problems(tmp_path / "none.pdb", PAPER_FORCEFIELD)
    for name, text in (("empty.pdb", "REMARK\n"), ("empty.cif", "data_x\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"Expected atoms in .*{name}; got none"):
            find_problems(tmp_path / name, PAPER_FORCEFIELD)
    cif = _as_cif(tmp_path / "a.cif", ROOT / "systems" / "alanine_dipeptide" / "input.pdb").read_text()
    (tmp_path / "a.cif").write_text(cif.replace(" CB ", " CB\n", 1))
    with pytest.raises(ValueError, match="Expected one line for each atom, with 26 values; got 'ATOM"):
        find_problems(tmp_path / "a.cif", PAPER_FORCEFIELD)


def test_table(tmp_path):
    findings = find_problems(_write(tmp_path / "bare.pdb", _bare(_lines("alanine_dipeptide"))), PAPER_FORCEFIELD)
    assert str(findings).splitlines() == [
        "bare.pdb (C6N2O2, 10 atoms, 10 heavy), for amber96.xml, implicit/obc1.xml:",
        "  fix  missing hydrogens    ACE 1 (3), ALA 2 (5), NME 3 (4): " + FIXES["missing hydrogens"],
        "Correct what leaves the molecule as it is with fix(), or some: fix(['missing hydrogens']).",
    ]
    assert repr(findings) == str(findings)
    assert findings._repr_html_().count("<tr>") == len(findings.problems) and "fix()" in findings._repr_html_()
    assert repr(findings.fix(FIXES)).splitlines() == [
        "22 atoms; done: 1, left: 0",
        "  before C6N2O2, 10 atoms, 10 heavy",
        "  after  C6H12N2O2, 22 atoms, 10 heavy",
        "  done missing hydrogens: 12 at pH 7",
    ]


# --- rings ---


def _cyclic() -> list[str]:
    """Lines of cyclo(Gly-Gly-Gly), heavy atoms, no CONECT records."""
    pytest.importorskip("rdkit")
    x = 10 * zoo.load("cyclotriglycine").positions
    lines = []
    for number, atoms in enumerate(((9, 8, 6, 7), (5, 4, 2, 3), (1, 0, 10, 11)), start=1):
        for name, atom in zip(("N", "CA", "C", "O"), atoms, strict=True):
            place = "".join(f"{value:8.3f}" for value in x[atom])
            lines.append(
                f"ATOM  {len(lines) + 1:5d}  {name:<3s} GLY A{number:4d}    {place}  1.00  0.00           {name[0]}"
            )
    return lines


def test_a_ring_of_residues_stays_one(tmp_path):
    """Its ends are bonded: no NH3+, no OXT, and the bond outlives the file."""
    findings = find_problems(_write(tmp_path / "ring.pdb", _cyclic()), FF14SB)
    assert _kinds(findings) == ["missing bonds", "missing hydrogens"]
    assert findings.problems[0].places == ("GLY 1 N - GLY 3 C",)
    prepared = findings.fix(FIXES)
    assert prepared.left == () and prepared.topology.getNumAtoms() == 21
    read = _read_back(prepared, tmp_path / "fixed.pdb", FF14SB)
    names = [f"{a.residue.id} {a.name}" for a in read.topology.atoms()]
    assert {names.index("1 N"), names.index("3 C")} in [set(bond) for bond in read.bonds.tolist()]
    assert len(read.bonds) == 21 and "OXT" not in str(names) and "H3" not in str(names)
    with pytest.raises(ValueError, match=r"Write a \.pdb"):
        prepared.write(tmp_path / "fixed.cif")
