"""Free energies in kT, kJ/mol and kcal/mol, and what ensembles give by their own methods."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from ensembles import butane, two_basins
from openmm import unit

from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.free_energy.estimators import exponential_average
from openmm_fab.free_energy.populations import basin_populations
from openmm_fab.free_energy.profiles import basin_difference, phi_positive, profile, surface
from openmm_fab.weights import Estimate

pytestmark = pytest.mark.base

MD = two_basins(2000, 0.3, seed=0, u=np.random.default_rng(0).normal(size=2000))
# 1 kT at 300 K by OpenMM's own constants.
KJ = (unit.MOLAR_GAS_CONSTANT_R * 300 * unit.kelvin).value_in_unit(unit.kilojoule_per_mole)
KCAL = (unit.MOLAR_GAS_CONSTANT_R * 300 * unit.kelvin).value_in_unit(unit.kilocalorie_per_mole)


@pytest.mark.parametrize(("name", "size"), [("kJ/mol", KJ), ("kcal/mol", KCAL), ("kT", 1.0)])
def test_units(name: str, size: float) -> None:
    found = [MD.basin_difference(), MD.profile("phi"), MD.surface("phi", "psi", n_bootstrap=5)]
    for plain in found:
        other = plain.in_units(name)
        for key in ("value", "error"):
            np.testing.assert_allclose(getattr(other, key), size * np.asarray(getattr(plain, key)), rtol=1e-12)
        assert (other.unit, other.temperature) == (name, 300.0) and name in repr(other)
        np.testing.assert_allclose(other.in_units("kT").value, plain.value, rtol=1e-12)
    one = basin_populations(MD, {"in": phi_positive(MD), "out": ~phi_positive(MD)})
    assert one.in_units(name).between("in", "out").value == pytest.approx(size * one.between("in", "out").value)
    assert one.in_units(name).population is one.population


def test_units_want_a_temperature_and_an_energy() -> None:
    bare = exponential_average(np.random.default_rng(0).normal(size=200))
    with pytest.raises(ValueError, match=r"Expected a temperature.*\.in_units\('kJ/mol', temperature=300\)"):
        bare.in_units("kJ/mol")
    assert bare.in_units("kJ/mol", temperature=300).value == pytest.approx(KJ * bare.value)
    with pytest.raises(ValueError, match="300 K; got 310 K"):
        MD.basin_difference().in_units("kJ/mol", temperature=310)
    with pytest.raises(ValueError, match=r"out of \['kT', 'kJ/mol', 'kcal/mol'\]; got 'kj'"):
        MD.basin_difference().in_units("kj")
    none = two_basins(500, 0.0, seed=1).basin_difference()
    assert none.in_units("kJ/mol").bound == pytest.approx(KJ * none.bound)


def test_methods_are_the_functions() -> None:
    np.testing.assert_array_equal(MD.profile("phi", bins=20).value, profile(MD, "phi", bins=20).value)
    np.testing.assert_array_equal(MD.surface("phi", "psi").value, surface(MD, "phi", "psi").value)
    assert MD.basin_difference().value == basin_difference(MD).value
    assert (
        MD.basins({"a": phi_positive(MD)}).population.value
        == basin_populations(MD, {"a": phi_positive(MD)}).population.value
    )
    assert MD.free_energy_difference(MD.u + 2.0).value == pytest.approx(2.0)
    assert (MD.n_frames, MD.xyz is MD.x) == (MD.n, True)


def test_torsions_by_their_names() -> None:
    assert MD.torsion_names == ["phi ALA2", "psi ALA2"]
    np.testing.assert_array_equal(MD.torsions(), np.stack([MD.phi()[:, 0], MD.psi()[:, 0]], 1))
    gauche = butane(300, 0.2, seed=0)
    (name,) = gauche.torsion_names
    cosine = np.cos(gauche.torsions((0, 1, 2, 3))[:, 0])
    assert gauche.profile(name, bins=10).name == name
    assert gauche.expectation((0, 3)).value == pytest.approx(
        np.linalg.norm(gauche.x[:, 0] - gauche.x[:, 3], axis=1).mean(), rel=1e-5
    )
    assert gauche.expectation(lambda t: cosine).value == pytest.approx(cosine.mean())
    assert gauche.expectation("rg").value == pytest.approx(gauche.profile("rg").centers.mean(), rel=0.2)
    with pytest.raises(ValueError, match=r"numbers of atoms from 0 to 13; got \[99\]"):
        gauche.profile((1, 99))
    with pytest.raises(ValueError, match=r"got a tuple.*compute_phi\(t\)\[1\]"):
        gauche.expectation(lambda t: (np.zeros(3), cosine))


def test_reprs_are_a_line() -> None:
    assert repr(Estimate(1.234, 0.05)) == "Estimate(1.23 ± 0.05)"
    assert repr(Estimate(np.zeros(400), np.ones(400))).startswith("Estimate(array of shape (400,)")
    shown = repr(MD.profile("phi", bins=30))
    assert re.fullmatch(r"Profile\(phi: 30 bins from -3.14 to 3.14, F up to .* ± .* kT(, \d+ bins empty)?\)", shown)
    assert repr(MD.surface("phi", "psi")).count("kT") == 1 and "?" not in repr(MD.surface("phi", "psi"))
    assert "Profile(phi: 30" in (cell := MD.profile("phi", bins=30)._repr_html_()) and "data:image/png;base64," in cell
    for thing in (
        *(MD, MD.surface("phi", "psi"), MD.basin_difference(), MD.basins({"a": phi_positive(MD)})),
        *(exponential_average(MD.u), MD.free_energy_difference(MD.u)),
    ):
        assert len(repr(thing).splitlines()) == 1 and len(repr(thing)) < 400, repr(thing)
        assert "array(" not in repr(thing)
    assert "<b>" not in two_basins(10, 0.1, seed=0, name="<b>")._repr_html_() and "2,000 of 5 atoms" in MD._repr_html_()


def test_averages_and_profiles_of_weights_that_cannot_be_used_say_so() -> None:
    log_w = np.zeros(MD.n)
    log_w[0] = 12.0
    poor = replace(MD, log_w=log_w)
    for result in (
        poor.expectation("rg"),
        poor.profile("phi"),
        poor.surface("phi", "psi"),
        poor.profile("phi").in_units("kJ/mol"),
    ):
        assert "the weights cannot be used: " in repr(result) and "effective sample size 1" in result.note
    for result in (MD.expectation("rg"), MD.profile("phi"), MD.surface("phi", "psi")):
        assert result.note == "" and "cannot" not in repr(result)


def test_a_profile_is_drawn() -> None:
    (ax,) = MD.profile("phi ALA2").in_units("kcal/mol").plot().axes
    assert ax.get_ylabel() == "F / kcal/mol" and "ALA2" in ax.get_xlabel()
    line = ax.lines[0].get_ydata()
    assert np.nanmin(line) == 0.0 and len(line) == 60


def test_an_ensemble_is_drawn_over_two_torsions_or_along_one() -> None:
    ax, bar = MD.plot().axes
    assert ("ALA2" in ax.get_xlabel()) and ("ALA2" in ax.get_ylabel()) and ax.get_title() == MD.name
    assert bar.get_ylabel() == "F / kT"
    found = surface(MD, "phi ALA2", "psi ALA2").value.T
    (drawn,) = ax.collections
    shown = drawn.get_array().reshape(found.shape)
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), ~np.isfinite(found))
    np.testing.assert_array_equal(shown.compressed(), found[np.isfinite(found)])
    gauche = butane(300, 0.2, seed=0)
    (ax,) = gauche.plot().axes
    assert gauche.torsion_names[0] in ax.get_xlabel() and ax.get_ylabel() == "F / kT"
    atoms = gauche.topology.subset([0, 1, 2])
    x = gauche.x[:, :3] * np.linspace(1.0, 1.1, gauche.n)[:, None, None]
    short = Ensemble(x, gauche.u, gauche.log_w, atoms, 300.0)
    assert short.plot().axes[0].get_xlabel() == "rg"


def test_the_energy_is_a_coordinate_by_its_name() -> None:
    energies = replace(MD, u=np.random.default_rng(0).normal(5.0, 2.0, MD.n))
    assert energies.expectation("u").value == pytest.approx(np.average(energies.u, weights=energies.weights))
    profile = energies.profile("u", bins=20)
    assert (profile.edges[0], profile.edges[-1]) == (energies.u.min(), energies.u.max())
    with pytest.raises(ValueError, match=r"\"u\" or one of .* four atoms"):
        MD.expectation("rgg")
