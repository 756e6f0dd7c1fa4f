"""A click on the map shows the structure that lies there, as the slider does; pages without widgets get a picture."""

from __future__ import annotations

import base64
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from ensembles import two_basins
from matplotlib.backend_bases import MouseEvent

from openmm_fab import InternalCoordinates, MolecularSystem
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.drawing.explore import Explorer
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.tools.install import install

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def ensemble():
    return two_basins(400, 0.5, seed=0)


def click(explorer: Explorer, at: tuple[float, float]) -> None:
    """The left button, at a place given in rad."""
    canvas, ax = explorer.figure.canvas, explorer.figure.axes[0]
    canvas.draw()
    x, y = ax.transData.transform(at)
    canvas.callbacks.process("button_press_event", MouseEvent("button_press_event", canvas, x, y, 1))


def test_a_click_shows_the_structure_that_lies_there(ensemble) -> None:
    pytest.importorskip("nglview")
    explorer = ensemble.explore(30)
    viewer = explorer.box.children[0].children[0]
    for number in (7, 3):
        click(explorer, tuple(explorer.structures.angles[number]))
        assert explorer.chosen == viewer.frame == number
        assert explorer.words().startswith(f"Structure {number + 1} of ")
        assert explorer.words() == explorer.box.children[1].value
        drawn = explorer.structures.x[number]
        assert np.allclose(viewer.get_state()["frame"], number)
        assert np.allclose(explorer.viewer._trajlist[0].get_coordinates(number), 10 * drawn, atol=1e-3)


def test_a_browsers_click_arrives(ensemble) -> None:
    """The message that ipympl's widget sends when its canvas is clicked."""
    pytest.importorskip("nglview")
    pytest.importorskip("ipympl")
    explorer = ensemble.explore(30)
    canvas = explorer.box.children[0].children[1]
    assert explorer.figure.canvas is canvas
    canvas.draw()
    for number in (4, 2):
        x, y = explorer.figure.axes[0].transData.transform(tuple(explorer.structures.angles[number]))
        height = explorer.figure.bbox.height
        event = {"x": x, "y": height - y, "button": 0, "buttons": 1, "modifiers": [], "guiEvent": {}}
        canvas._handle_message(canvas, {"type": "button_press", **event}, [])
        assert explorer.chosen == explorer.viewer.frame == number


def test_a_click_goes_round_the_circle(ensemble) -> None:
    explorer = ensemble.explore(30)
    explorer.structures.angles[:] = 0.0
    explorer.structures.angles[5] = (3.1, 3.1)
    click(explorer, (-3.1, -3.0))
    assert explorer.chosen == 5
    click(explorer, (-0.2, 0.3))
    assert explorer.chosen == 0


def test_a_click_beside_the_map_changes_nothing(ensemble) -> None:
    explorer = ensemble.explore(30)
    explorer.show(4)
    click(explorer, (9.0, 0.0))
    assert explorer.chosen == 4
    with pytest.raises(ValueError, match="from 0 to"):
        explorer.show(1000)


def test_the_slider_moves_the_ring(ensemble) -> None:
    pytest.importorskip("nglview")
    explorer = ensemble.explore(30)
    box = explorer.box
    before = bytes(explorer._picture.value) if explorer._picture else b""
    box.children[0].children[0].frame = 6
    assert explorer.chosen == 6
    assert np.allclose(explorer._ring.get_xydata()[0], explorer.structures.angles[6])
    if explorer._picture:
        after = bytes(explorer._picture.value)
        assert after.startswith(PNG) and after != before


def test_size_is_the_share_and_colour_the_energy(ensemble) -> None:
    log_w = np.full(ensemble.n, -30.0)
    log_w[[5, 9]] = np.log([3.0, 1.0])
    u = np.linspace(0.0, 40.0, ensemble.n)
    explorer = replace(ensemble, log_w=log_w, u=u).explore(40)
    dots = explorer.figure.axes[0].collections[-1]
    assert explorer.structures.frame.tolist() == [5, 9]
    assert dots.get_array().tolist() == pytest.approx([0.0, u[9] - u[5]])
    assert dots.get_sizes()[0] > 2 * dots.get_sizes()[1]
    explorer.show(1)
    assert "25 % of the draws" in explorer.words() and f"u {u[9] - u[5]:.1f} above" in explorer.words()


def test_pages_without_widgets_get_a_picture(ensemble, monkeypatch) -> None:
    """As IPython itself asks for what it shows."""
    pytest.importorskip("nglview")
    formatter = pytest.importorskip("IPython.core.formatters").DisplayFormatter()
    shown: list[dict] = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
    shown.append(formatter.format(ensemble.explore(10))[0])
    formatter.ipython_display_formatter(ensemble.view(5))
    butane = MolecularSystem.load("butane")
    coordinates = InternalCoordinates.from_system(butane, CoordinateSettings(), energy=CompiledEnergy(butane))
    formatter.ipython_display_formatter(coordinates.view())
    assert len(shown) == 3
    for bundle in shown:
        assert "application/vnd.jupyter.widget-view+json" in bundle
        assert base64.b64decode(bundle["image/png"]).startswith(PNG)
    assert shown[0]["text/plain"].startswith("Structure 1 of")
    assert shown[1]["text/plain"] == "5 structures of 5 atoms, in nglview"


def test_without_nglview_the_error_has_the_command(ensemble, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "nglview", None)
    with pytest.raises(ImportError, match=re.escape(install("notebook"))):
        _ = ensemble.explore(10).box


def test_a_molecule_without_two_torsions_has_no_map() -> None:
    from ensembles import butane

    try:
        explorer = butane(200, 0.2, seed=0).explore(10)
    except ValueError as error:
        assert "two torsions" in str(error)
    else:
        assert len(explorer.structures.axes) == 2
