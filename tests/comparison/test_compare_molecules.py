"""What is compared of a molecule: its torsions, regions, wells and collective coordinates."""

from __future__ import annotations

from dataclasses import replace

import mdtraj
import numpy as np
import pytest
from ensembles import BUTANE, backbone, backbone_topology, butane, one, place

from openmm_fab.comparison.comparing import compare
from openmm_fab.comparison.projections import circle_features, principal_components, slow_components
from openmm_fab.comparison.regions import ramachandran_regions, wells
from openmm_fab.comparison.torsions import end_to_end, rotatable_torsions, torsion_values
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.molecule.torsions import slow_torsions


def test_butane() -> None:
    a, b = butane(4000, 0.2, seed=0, name="flow"), butane(4000, 0.1, seed=1, name="md")
    result = compare(a, b, n_bootstrap=50)
    assert [t.name for t in result.torsions] == [
        "C1-C2-C3-C4 (1,2)",
        "H11-C1-C2-C3 (0,1), 3-fold",
        "C2-C3-C4-H41 (2,3), 3-fold",
    ]
    assert not result.pairs and not result.projections
    basins = {b.name.rpartition(" at ")[2]: b for b in result.basins}
    trans = basins.pop("180°")
    assert trans.reference.value == pytest.approx(np.log(0.2 / 0.8), abs=4 * trans.reference.error)
    assert trans.ensemble.value == pytest.approx(np.log(0.4 / 0.6), abs=4 * trans.ensemble.error)
    assert trans.verdict == "disagree" and trans.z > 10
    assert len(basins) == 2 and {abs(int(name[:-1])) for name in basins} <= {60, 70}
    assert result.coordinates[0].name == "end to end C1-C4"
    # Gauche brings the ends together.
    assert result.coordinates[0].mean_z < -10
    # The weights that make one of the other.
    inside = np.abs(a.torsions((0, 1, 2, 3))[:, 0]) < 2.0
    weighted = compare(replace(a, log_w=np.where(inside, np.log(0.5), np.log(4 / 3))), b, n_bootstrap=50)
    assert {x.verdict for x in weighted.basins} == {"agree within errors"}
    assert weighted.torsions[0].verdict == "agree within errors" and weighted.torsions[0].z_flow > 10


def test_a_folded_rotor_does_not_see_labels() -> None:
    a = butane(500, 0.1, seed=2)
    torsions = rotatable_torsions(a)
    values = torsion_values(a, torsions)["C2-C3-C4-H41 (2,3), 3-fold"]
    x = a.x.copy()
    x[::2, [11, 12, 13]] = x[::2][:, [12, 13, 11]]
    x[::3, [11, 12]] = x[::3][:, [12, 11]]
    again = torsion_values(replace(a, x=x), torsions)["C2-C3-C4-H41 (2,3), 3-fold"]
    np.testing.assert_allclose(np.exp(1j * again), np.exp(1j * values), atol=1e-4)
    # Three times the torsion of any one hydrogen of a regular methyl; labels seen as they are fill three wells.
    single = a.torsions((1, 2, 3, 11))[:, 0]
    np.testing.assert_allclose(np.exp(3j * single), np.exp(1j * values), atol=0.1)
    assert np.abs(np.exp(1j * single).mean()) < 0.2 < 0.6 < np.abs(np.exp(1j * values).mean())


@pytest.mark.parametrize(("apart", "fold"), [(2.1, 1), (np.pi, 2)])
def test_an_amine_is_pyramidal_or_flat(apart: float, fold: int) -> None:
    """C-C-N(H)H: two equal hydrogens are folded only where they face each other."""
    topology = mdtraj.Topology()
    residue = topology.add_residue("AMI", topology.add_chain())
    atoms = [topology.add_atom(f"{e}{i}", mdtraj.element.get_by_symbol(e), residue) for i, e in enumerate("CCNHH")]
    for i, j in ((0, 1), (1, 2), (2, 3), (2, 4)):
        topology.add_bond(atoms[i], atoms[j])
    angle = np.random.default_rng(8).uniform(-np.pi, np.pi, 50)
    frame = [np.tile(p, (50, 1)) for p in ([0.0, 0.14, 0.0], [0.0, 0.0, 0.0], [0.15, 0.0, 0.0])]
    x = np.stack([*frame, *(place(*frame, angle + side * apart / 2) for side in (-1, 1))], axis=1)
    ensemble = Ensemble(x, np.zeros(50), np.zeros(50), topology, 300.0)
    (torsion,) = rotatable_torsions(ensemble)
    assert torsion.fold == fold
    (values,) = torsion_values(ensemble, [torsion]).values()
    expected = np.exp(1j * angle) if fold == 1 else np.exp(2j * (angle + np.pi / 2))
    np.testing.assert_allclose(np.exp(1j * values), expected, atol=1e-3)


def test_torsions_of_molecules() -> None:
    dipeptide = rotatable_torsions(one("alanine_dipeptide"))
    assert [t.name for t in dipeptide[:2]] == ["phi ALA2", "psi ALA2"]
    assert [t.fold for t in dipeptide].count(3) == 3 and len(dipeptide) == 7
    adenosine = {t.name: t.fold for t in rotatable_torsions(one("adenosine"))}
    # Hydroxyls turn; the flat amino group's hydrogens are equal; rings do not turn.
    assert sum("-HO" in name for name in adenosine) == 3 and len(adenosine) == 6
    assert sorted(adenosine.values()) == [1, 1, 1, 1, 1, 2]
    peptide = [t.name for t in rotatable_torsions(one("elil"))]
    assert {"chi1 GLU1", "chi2 ILE3", "omega LEU2"} <= set(peptide)
    # Two chains with residues of the same name and number.
    for name in ("alanine_dipeptide", "elil", "cystine"):  # the names of a comparison are those that an ensemble takes
        known = slow_torsions(MolecularSystem.load(name).md_topology)
        for torsion in rotatable_torsions(one(name)):
            if torsion.name.split()[0] in ("phi", "psi", "omega", "chi1", "chi2", "chi3"):
                assert known[torsion.name] == torsion.atoms[0]
    assert slow_torsions(MolecularSystem.load("alanine_dipeptide").md_topology)["omega NME3"] == (8, 14, 16, 18)
    cystine = [t.name for t in rotatable_torsions(one("cystine"))]
    assert len(cystine) == len(set(cystine)) == 17 and "CB-SG-SG-CB (15,37)" in cystine


def test_a_straight_bond_has_no_torsion() -> None:
    ensemble = backbone(np.full(20, 1.0), np.full(20, 0.5))
    # Other names, so that there is no phi: C-N-X-C-N, then its last angle is opened.
    ensemble = replace(ensemble, topology=backbone_topology(("N", "CX", "C")))
    assert len(rotatable_torsions(ensemble)) == 2
    x = ensemble.x.copy()
    x[:, 4] = 2 * x[:, 3] - x[:, 2]
    assert len(rotatable_torsions(replace(ensemble, x=x))) == 1


def test_end_to_end() -> None:
    assert end_to_end(BUTANE.topology) == (0, 3)
    topology = backbone_topology()
    assert end_to_end(topology) == (0, 4)
    assert end_to_end(topology.subset([0, 1, 2])) is None


def test_the_regions_fill_the_ramachandran_plot_once() -> None:
    regions = ramachandran_regions(["phi A1", "phi A2", "psi A1"])
    assert list(regions) == ["phi > 0 A1", "phi > 0 A2", "C7eq/C5 A1", "alphaR A1"]
    degrees = np.array([(-80, 75), (-150, 160), (-75, -40), (55, 45), (70, -65), (170, 170), (-150, -170)])
    phi, psi = np.deg2rad(degrees).T
    inside = {name: regions[name]({"phi A1": phi, "psi A1": psi}) for name in list(regions) if name.endswith("A1")}
    np.testing.assert_array_equal(inside["C7eq/C5 A1"], [1, 1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(inside["alphaR A1"], [0, 0, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(inside["phi > 0 A1"], [0, 0, 0, 1, 1, 0, 0])


def test_wells_that_only_one_of_two_visits() -> None:
    rng = np.random.default_rng(3)
    a = np.pi + 0.2 * rng.normal(size=2000)
    second = rng.random(2000) < 0.1
    b = np.where(second, 0.5, np.pi) + 0.2 * rng.normal(size=2000)
    w = np.full(2000, 1 / 2000)
    found = wells([{"t": a}, {"t": b}], [w, w], ["t"])
    assert [name.split(" at ")[0] for name in found] == ["t", "t"]
    inside = {name: region({"t": b}) for name, region in found.items()}
    np.testing.assert_array_equal(sum(inside.values()), np.ones(2000))
    np.testing.assert_array_equal(inside["t at 30°"], second)
    # One well is no basin; one visited by a hair of the weight is none either.
    assert wells([{"t": a}], [w], ["t"]) == {}
    few = np.r_[0.5, a[1:]]
    assert wells([{"t": few}], [w], ["t"]) == {}


def test_principal_components_in_closed_form() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(20_000, 3)) * [3.0, 1.0, 0.1] + [5.0, 0.0, -2.0]
    # Frames of another place that weigh nothing do not matter.
    w = np.r_[np.full(20_000, 1 / 20_000), 0.0]
    found = principal_components(np.vstack([x, [1e3, 1e3, 1e3]]), w)
    np.testing.assert_allclose(found.vectors, np.eye(3)[:, :2], atol=0.02)
    np.testing.assert_allclose(found.values, np.array([9.0, 1.0]) / 10.01, atol=0.01)
    np.testing.assert_allclose(found.of(x).mean(0), 0.0, atol=1e-9)
    assert found.names == ["PC1", "PC2"]


def test_slow_components_find_the_slow_not_the_wide() -> None:
    """Autoregressive x_t = a x_(t-1) + noise: autocorrelation a^lag, whatever its width."""
    rng, n = np.random.default_rng(5), 60_000
    x = np.zeros((n, 2))
    for a, k in ((0.98, 0), (0.5, 1)):
        kicks = np.sqrt(1 - a**2) * rng.normal(size=n)
        for t in range(1, n):
            x[t, k] = a * x[t - 1, k] + kicks[t]
    features = x @ np.array([[0.1, 0.05], [2.0, 5.0]])
    w = np.full(n, 1 / n)
    found = slow_components(features, w, lag=5)
    np.testing.assert_allclose(found.values, [0.98**5, 0.5**5], atol=0.03)
    assert abs(np.corrcoef(found.of(features)[:, 0], x[:, 0])[0, 1]) > 0.99
    assert found.of(features).std(0) == pytest.approx([1.0, 1.0], abs=0.01)
    wide = principal_components(features, w).of(features)[:, 0]
    assert abs(np.corrcoef(wide, x[:, 1])[0, 1]) > 0.99
    # Pairs across blocks would see two runs as one.
    shuffled = slow_components(features, w, lag=5, block=np.arange(n) // 10)
    np.testing.assert_allclose(shuffled.values, found.values, atol=0.03)
    with pytest.raises(ValueError, match="shorter lag"):
        slow_components(features, w, lag=10, block=np.arange(n) // 10)
    with pytest.raises(ValueError, match="got 0"):
        slow_components(features, w, lag=0)


def test_features_have_no_cut() -> None:
    at, just_beyond = (circle_features(np.array([[angle, 0.0]])) for angle in (np.pi, -np.pi))
    np.testing.assert_allclose(at, just_beyond, atol=1e-12)


def test_coordinates_of_ones_own() -> None:
    rng = np.random.default_rng(6)
    a, b = (backbone(*rng.normal(size=(2, 800)) * 0.5) for _ in range(2))
    more = {
        "hinge": (0, 2),
        "bend": (1, 2, 3),
        "twist": (0, 1, 2, 4),
        "x": lambda t: t.xyz[:, 4, 0],
    }
    result = compare(a, b, n_bootstrap=20, coordinates=more, lag=3)
    units = {c.name: c.unit for c in result.coordinates}
    # The fixed distance and angle of the model do not vary: there is nothing to compare.
    assert units == {"end to end C-N": "nm", "rg": "nm", "x": "", **dict.fromkeys(("PC1", "PC2", "TIC1", "TIC2"), "")}
    assert [t.name for t in result.torsions] == ["phi ALA2", "psi ALA2", "twist"]
    assert [t.name for t in result.features] == ["phi ALA2", "psi ALA2"]
    np.testing.assert_allclose(result.projected(b).mean(0), 0.0, atol=1e-6)
    assert "TIC1" in result.table()
    with pytest.raises(ValueError, match="phi ALA2"):
        compare(a, b, n_bootstrap=20, coordinates={"phi ALA2": (0, 1, 2, 3)})
    with pytest.raises(ValueError, match="finite 'x'"):
        compare(a, b, n_bootstrap=20, coordinates={"x": lambda t: np.full(t.n_frames, np.nan)})


def test_structures_without_weight_do_not_matter() -> None:
    rng = np.random.default_rng(7)
    a, b = (backbone(*rng.normal(size=(2, 600)) * 0.5) for _ in range(2))
    b = replace(b, u=rng.normal(size=600))
    x, log_w, u = a.x.copy(), a.log_w.copy(), rng.normal(size=600)
    x[0], log_w[0], u[0] = np.nan, -np.inf, np.nan
    result = compare(replace(a, x=x, log_w=log_w, u=u), b)
    plain = compare(a[1:], b)
    assert result.torsions[0].divergence.tv == pytest.approx(plain.torsions[0].divergence.tv, abs=1e-6)
    assert "u" in {c.name for c in result.coordinates}
