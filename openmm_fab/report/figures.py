"""Figures of the report as SVG that takes its colours from the page, so that it reads on light and on dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import plots
from ..drawing import sticks, style
from ..free_energy.profiles import profile
from ..molecule.torsions import backbone_pairs, named_torsions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..comparison.comparison import Comparison
    from ..ensemble.ensemble import Ensemble


WIDTH = 4.0  # inches; with the fonts of STYLE letters are 12 pixels in the narrowest column of the page
# Colours that no palette has, and the page's variable each becomes.
INK, PLOT, EMPTY = "#010203", "#fdfcfb", "#fdfcfa"
THEMED = {
    INK: "var(--ink)",
    PLOT: "var(--plot)",
    EMPTY: "var(--empty)",  # bins that were never visited: a grey that the colour map does not have
    style.REFERENCE: "var(--reference)",
    style.REWEIGHTED: "var(--reweighted)",
}
STYLE: dict[str, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **{"figure.facecolor": "none", "savefig.facecolor": "none", "axes.facecolor": PLOT, "legend.facecolor": PLOT},
    **{"svg.fonttype": "path", "font.size": 11.0, "axes.titlesize": 11.0, "legend.fontsize": 11.0},
}


def svg(name: str, label: str, draw: Callable[[], Figure]) -> str:
    """Inline <svg> of the figure that `draw` makes; `label` is its text for screen readers."""
    import matplotlib

    style: Any = {**STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        file = io.StringIO()
        draw().savefig(file, format="svg", transparent=False, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Ids are one space over the whole page; matplotlib's style element would be the page's, too.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    for colour, variable in THEMED.items():
        text = text.replace(colour.lower(), variable)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def ramachandrans(
    ensemble: Ensemble, reference: Ensemble | None, residue: int = 0, unweighted: bool = True
) -> list[str]:
    """Ramachandran plots, SVG, of the flow if `unweighted`, of the reweighted ensemble and of the reference, if any;
    none without phi and psi."""
    pairs = list(backbone_pairs(ensemble.topology))
    if not pairs:
        return []
    where = f", {pairs[residue]}" if len(pairs) > 1 else ""
    sides: list[tuple[str, Ensemble, bool]] = [("flow", ensemble, False)] if unweighted else []
    sides.append(("reweighted", ensemble, True))
    if reference is not None:
        sides.append((reference.name, reference, True))

    def panel(title: str, side: Ensemble, weighted: bool) -> Callable[[], Figure]:
        def draw() -> Figure:
            figure = style.new_figure(WIDTH, 3.4)
            ax = figure.subplots()
            ax.set_facecolor(EMPTY)
            image = plots.ramachandran(
                ax, side, residue=residue, weighted=weighted, title=f"{title}{where}, {side.n:,} samples"
            )
            figure.colorbar(image, ax=ax, label="F / kT", extend="max", shrink=0.9)
            return figure

        return draw

    return [
        svg(f"rama{i}", f"Ramachandran plot, {title}: free energy over phi and psi", panel(title, side, weighted))
        for i, (title, side, weighted) in enumerate(sides)
    ]


def profile_figures(ensemble: Ensemble, comparison: Comparison | None, most: int) -> list[str]:
    """Profiles F along phi and psi, or the first torsions, with bands of two standard errors."""
    curves: dict[str, list[tuple[str, str, Any]]] = {}
    if comparison is not None:
        for torsion in comparison.torsions:
            curves[torsion.name] = [
                ("flow", style.FLOW, torsion.flow),
                ("reweighted", style.REWEIGHTED, torsion.ensemble),
                (comparison.reference.name, style.REFERENCE, torsion.reference),
            ]
    else:
        for name in named_torsions(ensemble.topology):
            curves[name] = [
                ("flow", style.FLOW, profile(plots.unweighted(ensemble), name)),
                ("reweighted", style.REWEIGHTED, profile(ensemble, name)),
            ]
    first = sorted(curves, key=lambda name: not name.startswith(("phi", "psi")))[:most]

    def panel(name: str) -> Callable[[], Figure]:
        def draw() -> Figure:
            figure = style.new_figure(WIDTH, 3.2)
            ax = figure.subplots()
            plots.profiles(ax, curves[name], style.torsion_label(name))
            ax.set_title(f"F({style.torsion_label(name, unit=False)}), bands ±2 SE")
            ax.legend(frameon=False)
            return figure

        return draw

    return [svg(f"profile{i}", f"Free energy along {name}", panel(name)) for i, name in enumerate(first)]


def learning_figures(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Learning curves: ESS of flow and AIS, and the basin's free energy, against energy evaluations."""
    curves = [
        ("ess", "Learning curve: effective sample sizes of flow and annealing", plots.draw_learning_ess),
        ("basin", "Learning curve: free energy of the basin", plots.draw_learning_basin),
    ]
    if not any(map(plots.has_basin, metrics)):
        curves.pop()

    def panel(draw_axes: Callable[..., None]) -> Callable[[], Figure]:
        def draw() -> Figure:
            figure = style.new_figure(WIDTH, 3.2)
            draw_axes(figure.subplots(), metrics)
            return figure

        return draw

    return [svg(f"learning-{name}", label, panel(draw)) for name, label, draw in curves] if metrics else []


def weight_figure(ensemble: Ensemble) -> str:
    def draw() -> Figure:
        figure = style.new_figure(WIDTH, 3.2)
        plots.weight_histogram(figure.subplots(), ensemble, words=False)  # the cards have them
        return figure

    return svg("weights", "Histogram of the log weights", draw)


def structure_picture(x: np.ndarray, elements: Sequence[str], bonds: np.ndarray) -> str:
    """Picture of superposed structures (n, atoms, 3) in nm, the first one in full."""
    return svg(
        "structures",
        "Superposed structures of the molecule, drawn by weight",
        lambda: sticks.structure_picture(x, elements, bonds, edge=INK),
    )
