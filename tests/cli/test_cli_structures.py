"""Structure files on the command line: prepared, misnamed, and used again with the run that was trained on them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import openmm
import pytest
from command import _call
from examples import write_chain
from openmm import app

from openmm_fab.cli.source import Source
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.molecule.system import MolecularSystem

AMBER = ("--forcefield", "amber14-all.xml", "--forcefield", "implicit/gbn2.xml")
# Glycine between caps without hydrogens, an atom in two places, and a water.
GLYCINE = """\
ATOM      1  CH3 ACE A   1      -2.507  -2.692   0.365  1.00 12.00           C
ATOM      2  C   ACE A   1      -1.100  -2.158   0.495  1.00 12.00           C
ATOM      3  O   ACE A   1      -0.245  -2.808   1.098  1.00 12.00           O
ATOM      4  N   GLY A   2      -0.864  -0.976  -0.070  1.00 12.00           N
ATOM      5  CA  GLY A   2       0.417  -0.262  -0.058  1.00 12.00           C
ATOM      6  C   GLY A   2       0.230   1.270   0.007  1.00 12.00           C
ATOM      7  O   GLY A   2      -0.842   1.798  -0.315  1.00 12.00           O
ATOM      8  N   NME A   3       1.283   1.990   0.414  1.00 12.00           N
ATOM      9  C  ANME A   3       1.312   3.447   0.536  0.70 15.00           C
ATOM     10  C  BNME A   3       1.402   3.430   0.700  0.30 15.00           C
HETATM   11  O   HOH A 101       4.900   1.100  -2.700  1.00 25.00           O
END
"""


@pytest.fixture
def flawed(tmp_path) -> Path:
    path = tmp_path / "my.pdb"
    path.write_text(GLYCINE)
    return path


def test_prepare_lists_and_mends(flawed, tmp_path) -> None:
    listed = _call("prepare", flawed, *AMBER)
    assert listed.exit_code == 0, listed.output
    for mark, kind in (("fix", "alternate locations"), ("ask", "solvent and ions"), ("fix", "missing hydrogens")):
        assert f"{mark}  {kind}" in listed.output
    assert "(C6N2O3, 11 atoms, 11 heavy)" not in listed.output and "(C5N2O3, 10 atoms, 10 heavy)" in listed.output
    assert f"--out fixed.pdb {' '.join(AMBER)} --fix safe --fix 'solvent and ions'" in listed.output
    assert f"openmm-fab prepare {flawed} --out fixed.pdb {' '.join(AMBER)}" in listed.output
    assert flawed.read_text() == GLYCINE and sorted(p.name for p in tmp_path.iterdir()) == ["my.pdb"]

    # A water is another formula: it stays until it is named.
    wet = _call("prepare", flawed, *AMBER, "--out", tmp_path / "wet.pdb")
    assert wet.exit_code == 0 and "HOH" in (tmp_path / "wet.pdb").read_text(), wet.output
    assert "ask  solvent and ions" in wet.output.split("20 atoms; done")[1] and "Next:" not in wet.output
    out = tmp_path / "fixed.pdb"
    mended = _call("prepare", flawed, *AMBER, "--out", out, "--fix", "safe", "--fix", "solvent and ions")
    assert mended.exit_code == 0 and "19 atoms" in mended.output, mended.output
    assert "before C5N2O3, 10 atoms, 10 heavy" in mended.output and "after  C5H10N2O2, 19 atoms" in mended.output
    assert f"Next: openmm-fab run {out} --dry-run {' '.join(AMBER)}" in mended.output
    assert flawed.read_text() == GLYCINE
    assert "nothing to mend" in _call("prepare", out, *AMBER).output
    # Nothing is written over.
    again = _call("prepare", flawed, *AMBER, "--out", out)
    assert again.exit_code == 1 and "fixed.pdb exists" in again.output


def test_prepare_mends_what_is_asked_for(flawed, tmp_path) -> None:
    out = tmp_path / "dry.pdb"
    mended = _call("prepare", flawed, *AMBER, "--out", out, "--fix", "solvent and ions")
    assert mended.exit_code == 0 and "HOH" not in out.read_text(), mended.output
    assert "missing hydrogens" in mended.output and "Next:" not in mended.output  # they are still missing
    refused = _call("prepare", flawed, *AMBER, "--fix", "missing hydrogens")
    assert refused.exit_code == 1 and "Expected --out with --fix" in refused.output
    refused = _call("prepare", flawed, *AMBER, "--out", tmp_path / "b.pdb", "--fix", "hydrogens")
    assert refused.exit_code == 1 and "missing hydrogens" in refused.output


def test_a_structure_that_lacks_atoms_says_how_to_mend_it(flawed) -> None:
    result = _call("run", flawed, *AMBER, "--dry-run")
    assert result.exit_code == 1 and "openmm-fab prepare" in result.output, result.output


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("amber14.xml", "amber14-all.xml"),
        ("implicit/gbn3.xml", "implicit/gbn2.xml"),
        ("nonsense", "amber14-all.xml"),
        ("openff-2.2.1", "from SDF or SMILES"),
    ],
)
def test_misnamed_force_fields(flawed, name, meant) -> None:
    result = _call("run", flawed, "--forcefield", name, "--dry-run")
    assert result.exit_code == 1 and f'Could not locate file "{name}"' in result.output, result.output
    assert meant in result.output


def test_warnings_are_one_line(flawed) -> None:
    # In a process of its own: pytest takes warnings for itself.
    command = [sys.executable, "-m", "openmm_fab", "run", str(flawed), *AMBER, "--temperature", "27", "--dry-run"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stderr.splitlines()
    assert lines[0] == "openmm-fab: warning: --temperature is in K: 27 K is -246 °C."
    assert lines[1].startswith(f"openmm-fab: warning: {flawed} has alternate locations")
    assert lines[2].startswith("openmm-fab: This system is not supported")


def test_sample_knows_the_force_field_of_its_run(tmp_path) -> None:
    """Without options `sample` and `compare` take force field and temperature from the run of the same file."""
    system, runs = write_chain(tmp_path / "chain"), tmp_path / "runs"
    files = ("--forcefield", system / "chain.xml", "--temperature", "350")
    options = ("--preset", "smoke", "--minutes", "0.01", "--no-compile", "--runs", runs, "--name", "mine")
    result = _call("train", system / "chain.pdb", *files, *options)
    assert result.exit_code == 0, result.output
    for run in (runs / "mine", runs / "mine" / "model.safetensors"):
        out = tmp_path / f"{run.stem}.npz"
        result = _call("sample", system / "chain.pdb", "--run", run, "--n", 50, "--out", out)
        assert result.exit_code == 0, result.output
        assert Ensemble.load(out).temperature == 350.0
    # What is given counts, and another file has no such run.
    result = _call("sample", system / "chain.pdb", "--run", runs / "mine", *files[:2], "--out", tmp_path / "x.npz")
    assert result.exit_code == 1 and "at 300 K" in result.output and "was trained at 350 K" in result.output
    shutil.copy(system / "chain.pdb", tmp_path / "other.pdb")
    result = _call("sample", tmp_path / "other.pdb", "--run", runs / "mine", "--out", tmp_path / "x.npz")
    assert result.exit_code == 1 and not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize("command", ["report", "compare"])
def test_an_unfinished_run_says_how_to_go_on(command, tmp_path) -> None:
    before = ("butane",) if command == "compare" else ()
    run = tmp_path / "half"
    result = _call(command, *before, run)
    assert result.exit_code == 1 and f"Expected the folder of a run; there is none at {run}" in result.output
    run.mkdir()
    (run / "settings.json").write_text(json.dumps({}))
    result = _call(command, *before, run)
    assert result.exit_code == 1 and "--resume" in result.output and f"sample SYSTEM --run {run}" in result.output


PHOSPHOSERINE = [Path(__file__).parents[1] / "data" / f"phosphoserine.{suffix}" for suffix in ("prmtop", "inpcrd")]


def test_amber_files_are_a_system() -> None:
    prmtop, inpcrd = map(str, PHOSPHOSERINE)
    source = Source.of(prmtop, positions=inpcrd, solvent="OBC2", temperature="310 K")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = MolecularSystem.from_amber(prmtop, inpcrd, temperature=310, implicitSolvent=app.OBC2)
        assert source.load().fingerprint == expected.fingerprint
        assert source.load().physics == "phosphoserine.prmtop; OBC2"
        assert Source(**source.absolute()).load().fingerprint == expected.fingerprint


def test_a_serialized_system_is_one(alanine_dipeptide, tmp_path) -> None:
    path = tmp_path / "system.xml"
    path.write_text(openmm.XmlSerializer.serialize(alanine_dipeptide.system))
    source = Source.of(str(path), positions=str(alanine_dipeptide.folder / "input.pdb"))
    assert source.load().fingerprint == alanine_dipeptide.fingerprint


def test_a_system_toml_is_one(alanine_dipeptide) -> None:
    path = str(alanine_dipeptide.folder / "system.toml")
    assert Source.of(path).load().fingerprint == alanine_dipeptide.fingerprint
    with pytest.raises(ValueError, match=r"Expected --temperature with a file of a molecule; got .*system\.toml"):
        Source.of(path, temperature="310").load()


def test_gromacs_files_are_a_system() -> None:
    corpus = Path(__file__).parents[1] / "data" / "corpus"
    top, gro = str(corpus / "gmx_amber.top"), str(corpus / "gmx_amber.gro")
    found, expected = Source.of(top, positions=gro).load(), MolecularSystem.from_gromacs(top, gro)
    assert found.fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("a.pdb",), "Expected --forcefield"),
        (("a.prmtop",), "Expected --positions with a.prmtop"),
        (("a.psf", None, None, "a.crd"), "Expected --forcefield with a.psf: CHARMM"),
        (("a.prmtop", ["x.xml"], None, "a.inpcrd"), "Expected no --forcefield with a.prmtop"),
        (("a.pdb", ["amber14-all.xml"], None, None, "OBC2"), "Expected no --solvent with a.pdb"),
        (("a.prmtop", None, None, "a.inpcrd", "TIP3P"), "Expected --solvent out of gbn2"),
        (("butane", None, "310"), "Expected --temperature with a file of a molecule"),
        (("a.prmtop", None, "warm", "a.inpcrd"), "Expected --temperature in K"),
        ((None,), "Expected SYSTEM"),
    ],
)
def test_options_that_do_not_fit_the_molecule(given, words, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.pdb", "a.prmtop", "a.psf", "a.crd", "a.inpcrd"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=words):
        Source.of(*given).load()


def test_a_molecule_in_a_file_of_settings() -> None:
    table = {"system": "butane"}
    assert Source.of(None, table=table) == Source("butane") and Source.of("elil", table=table) == Source("elil")
    assert Source.of(None, table={"system": "a.pdb", "temperature": 310}, temperature="320").temperature == 320.0
    with pytest.raises(ValueError, match=r"keys out of .*'forcefield'.* in \[molecule\]; got \['forcfield'\]"):
        Source.of(None, table={**table, "forcfield": []})
