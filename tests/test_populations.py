"""The benchmark of populations: its reference against quadrature, its shares against RDKit, its table."""

from __future__ import annotations

import numpy as np
import openmm
import pytest

from benchmarks import populations


def test_parallel_tempering_against_quadrature() -> None:
    """A particle in two wells, 10 kT deep and 1.2 kT apart."""
    system = openmm.System()
    system.addParticle(12.0)
    force = openmm.CustomExternalForce("25*((10*x)^2-1)^2 + 15*x + 500*(y^2+z^2)")
    force.addParticle(0, [])
    system.addForce(force)
    x = np.linspace(-0.3, 0.3, 6001)
    density = np.exp(-(25 * ((10 * x) ** 2 - 1) ** 2 + 15 * x) / (populations.KB * 300.0))
    exact = density[x > 0].sum() / density.sum()
    assert 0.2 < exact < 0.25
    found = populations.tempered(system, np.array([[0.1, 0.0, 0.0]]), 300.0, 900.0, 120.0)
    share, error = populations.estimate([found[:, 0, 0] > 0])
    assert len(found) == 432 and abs(share - exact) < 4 * error < 0.25
    assert found[:, 0, 1].var() == pytest.approx(populations.KB * 300.0 / 1000.0, rel=0.3)


def test_shares_are_those_of_rdkits_torsions() -> None:
    chem = pytest.importorskip("rdkit.Chem")
    from rdkit.Chem import AllChem, rdMolTransforms

    molecule = chem.AddHs(chem.MolFromSmiles("CCCO"))
    AllChem.EmbedMultipleConfs(molecule, 12, randomSeed=3)
    x = np.array([conformer.GetPositions() for conformer in molecule.GetConformers()]) / 10
    phi = np.array([rdMolTransforms.GetDihedralDeg(c, 0, 1, 2, 3) for c in molecule.GetConformers()])
    for low, high in ((-120.0, 120.0), (120.0, 240.0), (0.0, 180.0)):
        inside = populations.Share("[CH3][CH2][CH2][OH]", low, high).inside(x, "CCCO")
        assert (inside == ((phi - low) % 360 < high - low)).all() and 0 < inside.sum() < 12


def test_every_pattern_has_a_match() -> None:
    chem = pytest.importorskip("rdkit.Chem")
    for name, case in populations.CASES.items():
        molecule = chem.AddHs(chem.MolFromSmiles(case.smiles))
        for share in case.shares.values():
            pattern = chem.MolFromSmarts(share.pattern)
            assert pattern.GetNumAtoms() == 4 and molecule.HasSubstructMatch(pattern), name


def test_weighted_shares_and_what_was_never_seen() -> None:
    weights = np.array([0.5, 0.25, 0.25])
    share, error = populations.weighted(np.array([True, False, False]), weights, 2.0)
    assert share == 0.5 and error == pytest.approx(np.sqrt(0.25**2 + 2 * 0.125**2))
    assert populations.weighted(np.zeros(3, dtype=bool), weights, 10.0) == (0.0, 0.3)
    assert populations.estimate([np.ones(20, dtype=bool)]) == (1.0, 0.3)


def test_runs_that_disagree_have_the_error_of_their_scatter() -> None:
    """Within each nothing changes slowly: 0.2 and 0.4 of every block."""
    runs = [np.tile(np.arange(10) < k, 100) for k in (2, 4)]
    share, error = populations.estimate(runs)
    assert share == pytest.approx(0.3) and error == pytest.approx(0.1)
    random = np.random.default_rng(0)
    runs = [random.random(100_000) < 0.3 for _ in range(8)]
    assert populations.estimate(runs)[1] == pytest.approx(np.sqrt(0.21 / 800_000), rel=0.5)


def test_the_table() -> None:
    row = {"share": 0.51, "error": 0.012, "reference": float("nan"), "reference error": float("nan"), "exact": 0.5}
    shares = {
        "chair": {**row, "z": 0.8},
        "axial": {**row, "reference": 0.4, "reference error": 0.05, "exact": None, "z": 2.1},
    }
    row = {"molecule": "ring", "ess": 0.4, "khat": 0.6, "minutes": 1.5, "shares": shares, "compared": 7}
    row |= {"disagree": ["phi"], "missing": "a boat"}
    text = populations.table(
        {"note": "Alone.", "picoseconds": 400.0, "molecules": [row, {**row, "minutes": 4.0, "missing": ""}]}
    )
    assert "1.5 to 4 min" in text and "ring: chair 51.0 ± 1.2 (50, exact); ring" in text
    assert "|z| above 2: ring: axial 51.0 ± 1.2 (40.0 ± 5.0, z 2.1, ESS 40.0 %, k-hat 0.60); ring" in text
    assert "disagree: ring (1)" in text and "by an audit: ring." in text and "largest 2.1" in text
