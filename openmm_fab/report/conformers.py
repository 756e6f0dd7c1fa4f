"""Conformers in the report: a table, and a picture of each of the most populated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..drawing import sticks
from ..drawing.structures import elements_and_bonds
from ..molecule.torsions import backbone_pairs
from .figures import INK, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..ensemble.ensemble import Ensemble

SHOWN, DRAWN = 12, 6
FEW = 10.0  # effective frames
LEAD = (
    "Combinations of torsional wells, most populated first, with one standard error; F in kT above the first. Angles "
    "are those of the structure drawn; of ends with equal atoms, such as phenyl, modulo their exchange."
)


def conformers_of(ensemble: Ensemble) -> dict[str, Any]:
    """Head, rows and last line of a table of the most populated conformers, and SVG pictures of the first of them.

    Empty for a molecule with a peptide's backbone, which has Ramachandran plots, and for one with a single conformer.
    """
    if backbone_pairs(ensemble.topology) or not (ensemble.weights > 0.0).any():
        return {}
    found = ensemble.conformers(SHOWN)
    if found.count < 2:
        return {}
    names = list(found[0].torsions)
    headings = ["", "population", "F / kT", "effective frames", *names]
    rows: list[list[str]] = []
    for number, one in enumerate(found, 1):
        few = " (few: the error is uncertain)" if one.effective < FEW else ""
        cells = [f"{number}", str(one.population), str(one.free_energy), f"{one.effective:,.0f}{few}"]
        cells += [f"{math.degrees(one.torsions[name]):.0f}°" for name in names]
        rows.append(cells)
    others = f"All others: {found.others}, in {found.count - len(found)} more basins."
    elements, bonds = elements_and_bonds(ensemble.topology)

    def panel(k: int) -> Callable[[], Figure]:
        def draw() -> Figure:
            figure = sticks.structure_picture(found.x[[k]], elements, bonds, edge=INK)
            figure.axes[0].set_title(f"{k + 1}: {100 * float(found[k].population.value):.3g} %")
            return figure

        return draw

    drawings = [svg(f"conformer{k}", f"Conformer {k + 1}", panel(k)) for k in range(min(DRAWN, len(found)))]
    lead = f"{found.note} {LEAD}".strip()
    return {"lead": lead, "head": headings, "rows": rows, "others": others, "drawings": drawings}
