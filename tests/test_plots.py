"""Figures are drawn, hold what they should, and leave pyplot alone."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from ensembles import butane, flat, flow, two_basins

from openmm_fab import plots
from openmm_fab.comparison import figure as compare_figure
from openmm_fab.comparison.comparing import compare
from openmm_fab.comparison.divergences import Divergence
from openmm_fab.drawing import style
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.free_energy.profiles import surface
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.molecule.torsions import named_torsions
from openmm_fab.tools.install import install

pytest.importorskip("matplotlib")
PNG = b"\x89PNG\r\n\x1a\n"


def texts(figure) -> str:
    from matplotlib.text import Text

    return " | ".join(t.get_text() for t in figure.findobj(Text))


def test_comparison_figure(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # whoever imports it now gets an ImportError
    result = compare(flow(3000, seed=0), two_basins(3000, 0.1, seed=1, name="md"), n_bootstrap=30)
    figure = result.plot(tmp_path / "comparison.png")
    content = (tmp_path / "comparison.png").read_bytes()
    assert content.startswith(PNG) and len(content) > 50_000
    words = texts(figure)
    for word in ("reweighted", "flow", "reference", "F / kT", "ΔF / kT", "k-hat", "ESS", "clipped", "−π/2"):
        assert word in words
    for word in ("end to end C-N / nm", "total variation", "noise", "alphaR ALA2", "PC1"):
        assert word in words
    # Three Ramachandran plots share one colour scale.
    images = [
        c for ax in figure.axes for c in ax.collections if c.__class__.__name__ == "QuadMesh" and ax.get_aspect() == 1.0
    ]
    assert len({i.get_clim() for i in images}) == 1 and len(images) == 3


def test_comparison_with_a_missing_basin_and_equal_weights(tmp_path) -> None:
    result = compare(two_basins(1000, 0.0, seed=2), two_basins(1000, 0.1, seed=3), n_bootstrap=20)
    result.plot(tmp_path / "missing.png")
    assert (tmp_path / "missing.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="below 1"):
        result.plot(residue=1)


def test_comparison_of_a_molecule_without_phi(tmp_path) -> None:
    result = compare(butane(800, 0.2, seed=0), butane(800, 0.1, seed=1), n_bootstrap=20)
    figure = result.plot(tmp_path / "butane.png")
    assert (tmp_path / "butane.png").read_bytes().startswith(PNG)
    words = texts(figure)
    for word in ("C1-C2-C3-C4 (1,2)", "| 180° |", "end to end C1-C4", "3-fold"):
        assert word in words
    with pytest.raises(ValueError, match="two torsions"):
        result.plot_projection()


def test_many_distributions_show_those_that_differ_most() -> None:
    result = compare(flow(500, seed=5), two_basins(500, 0.1, seed=6), n_bootstrap=10)
    ax = style.new_figure(4, 4).add_subplot()
    items = [replace(result.torsions[0], name=f"t{i}", divergence=Divergence(0.0, i / 100, 0.0)) for i in range(30)]
    compare_figure._distances(ax, items)
    assert [t.get_text() for t in ax.get_yticklabels()] == [f"t{i}" for i in range(29, 13, -1)]
    assert "largest 16 of 30" in ax.get_title()


def test_projections_show_three_planes(tmp_path) -> None:
    ensemble, reference = flow(1500, seed=7), two_basins(1500, 0.1, seed=8, name="md")
    result = compare(ensemble, reference, n_bootstrap=10, lag=2)
    for which, name in enumerate(("PC1", "TIC1")):
        shown = result.plot_projection(which)
        shown.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG) and name in texts(shown)
    meshes = [c for ax in shown.axes[:3] for c in ax.collections if c.__class__.__name__ == "QuadMesh"]
    flow_, weighted, other = (m.get_array() for m in meshes)
    assert not np.ma.allequal(flow_, weighted) and np.ma.min(other) == 0.0
    with pytest.raises(ValueError, match="got 2 of 2"):
        result.plot_projection(2)


def test_ramachandran_shows_the_weighted_surface() -> None:
    figure = style.new_figure(4, 4)
    ensemble = flow(2000, seed=4)
    weighted = plots.ramachandran(figure.add_subplot(), ensemble).get_array()
    plain = plots.ramachandran(figure.add_subplot(), ensemble, weighted=False).get_array()
    assert np.ma.min(weighted) == 0.0 and not np.ma.allequal(weighted, plain)
    # Phi runs along x: columns of the array, as matplotlib has it.
    column = np.ma.argmin(np.ma.min(weighted.reshape(64, 64), axis=0))
    assert -np.pi + 2 * np.pi * column / 64 == pytest.approx(-1.5, abs=0.6)
    with pytest.raises(ValueError, match="residue"):
        plots.ramachandran(figure.add_subplot(), ensemble, residue=2)


def test_learning_curve_tolerates_missing_keys(tmp_path) -> None:
    rows = [{"evaluations": 1000 * i, "seconds": 2.0 * i, "ess": 0.1 * i, "ess_ais": 0.15 * i} for i in range(5)]
    rows[2].pop("ess_ais")
    rows[3] |= {"basin_df": 2.1, "basin_df_error": 0.1}
    rows[4] |= {"basin_df": 2.2, "basin_df_error": float("nan")}
    figure = plots.learning_curve(rows)
    figure.savefig(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    assert len(figure.axes) == 2 and len(figure.axes[0].lines[1].get_xdata()) == 4
    assert figure.axes[0].get_xlabel() == "energy evaluations"
    assert plots.learning_curve([{"ess": 0.1}, {"ess": 0.2}]).axes[0].get_xlabel() == "logged step"
    assert plots.learning_curve([{"seconds": 1.0, "ess": 0.1}]).axes[0].get_xlabel() == "time / s"
    with pytest.raises(ValueError, match="none"):
        plots.learning_curve([])


def test_a_short_training_shows_what_each_pass_had() -> None:
    rows = [{"evaluations": 256 * i, "ess_flow": 0.01 * i} for i in range(1, 9)]
    rows[-1]["ess"] = 0.1
    dots, line = plots.learning_curve(rows).axes[0].lines
    assert len(dots.get_xdata()) == 8 and dots.get_ydata()[-1] == pytest.approx(8.0)
    assert line.get_ydata() == pytest.approx([10.0])
    often = [{"evaluations": 256 * i, "ess_flow": 0.01 * i, "ess": 0.1} for i in range(1, 9)]
    assert len(plots.learning_curve(often).axes[0].lines) == 1


def test_viewer_says_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "nglview", None)
    with pytest.raises(ImportError, match=re.escape(install("notebook"))):
        flat(3).view()


def test_viewer_gets_superposed_resampled_frames() -> None:
    pytest.importorskip("nglview")
    widget = two_basins(50, 0.3, seed=5).view(7)
    assert widget.max_frame == 6


def test_ramachandran_of_an_uncapped_chain_pairs_angles_of_one_residue() -> None:
    """Its first psi is of the first residue, its first phi of the second."""
    system = MolecularSystem.load("elil")
    rng = np.random.default_rng(0)
    x = np.asarray(system.positions)[None] + rng.normal(scale=0.02, size=(200, system.n_atoms, 3))
    ensemble = Ensemble(x, np.zeros(200), np.zeros(200), system.md_topology, 300.0, name="elil")
    figure = style.new_figure(4, 4)
    image = plots.ramachandran(figure.add_subplot(), ensemble)
    named = named_torsions(system.md_topology)
    phi, psi = ensemble.torsions([named["phi LEU2"], named["psi LEU2"]]).T
    expected = surface(ensemble, phi, psi, bins=64).value
    found = image.get_array().reshape(64, 64).T
    np.testing.assert_allclose(np.ma.filled(found, np.inf), expected)
    assert "LEU2" in texts(figure)
    with pytest.raises(ValueError, match="below 2"):
        plots.ramachandran(figure.add_subplot(), ensemble, residue=2)


def test_axes_of_folded_torsions_say_so() -> None:
    assert style.torsion_label("C1-C2 (0,1), 3-fold") == "3 × C1-C2 (0,1) / rad"
    assert style.torsion_label("phi ALA2") == r"$\phi$ ALA2 / rad"
