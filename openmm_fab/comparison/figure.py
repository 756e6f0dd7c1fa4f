"""Figures that show an ensemble beside its reference: the page of a comparison, and planes of collective
coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..drawing.style import FLOW, REFERENCE, REWEIGHTED, draw_surface, new_figure, torsion_label
from ..free_energy.profiles import surface
from ..molecule.torsions import named_torsions
from ..plots import draw_ramachandran, profiles, unweighted, weight_histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..ensemble.ensemble import Ensemble
    from .results import BasinComparison, CoordinateComparison, PairComparison, ProfileComparison


MOST = 16  # distributions in one panel


def draw_comparison(
    ensemble: Ensemble,
    reference: Ensemble,
    torsions: Sequence[ProfileComparison],
    pairs: Sequence[PairComparison],
    basins: Sequence[BasinComparison],
    coordinates: Sequence[CoordinateComparison],
    residue: int = 0,
) -> Figure:
    """Page with Ramachandran plots of flow, reweighted ensemble and reference, profiles, basins, weights, coordinates,
    and the distances of all distributions beside those of noise.

    Parameters
    ----------
    residue : int
        Which of the pairs to show; without any the first two torsions.
    """
    names = [t.name for t in torsions]
    if pairs:
        if residue >= len(pairs):
            raise ValueError(f"Expected a residue number below {len(pairs)}, the number compared; got {residue}.")
        shown = [f"phi {pairs[residue].name}", f"psi {pairs[residue].name}"]
    else:
        shown = names[:2]
    last = bool(coordinates)
    rows = 1 + bool(pairs) + last
    figure = new_figure(13.0, 4.1 * rows)
    grid = figure.add_gridspec(rows, 1)
    if pairs:
        _ramachandran_row(figure, grid[0].subgridspec(1, 3), ensemble, reference, shown)
    below = grid[rows - 1 - last].subgridspec(1, 4, width_ratios=[1.25, 1.25, 1.0, 1.15])
    curves_of = {t.name: t for t in torsions}
    for i, name in enumerate(shown):
        ax = figure.add_subplot(below[i])
        t = curves_of[name]
        curves = [
            ("flow", FLOW, t.flow),
            ("reweighted", REWEIGHTED, t.ensemble),
            ("reference", REFERENCE, t.reference),
        ]
        profiles(ax, curves, torsion_label(name))
        ax.set_title(f"F({torsion_label(name, unit=False)}), bands ±2 SE")
        if i == 0:
            ax.legend(frameon=False, fontsize=8, loc="best")
    if basins:
        _basins(figure.add_subplot(below[2]), basins)
    weight_histogram(figure.add_subplot(below[3]), ensemble)
    if last:
        below = grid[rows - 1].subgridspec(1, 4, width_ratios=[1.0, 1.0, 1.0, 1.6])
        for i, c in enumerate(coordinates[:3]):
            _densities(figure.add_subplot(below[i]), c)
        _distances(figure.add_subplot(below[3]), [*torsions, *coordinates])
    figure.suptitle(f"{ensemble.name} against {reference.name}, {ensemble.temperature:g} K", weight="bold")
    return figure


def draw_projection(
    ensemble: Ensemble, reference: Ensemble, ours: np.ndarray, theirs: np.ndarray, names: Sequence[str]
) -> Figure:
    """Flow, reweighted ensemble and reference on the plane of two collective coordinates, F in kT.

    Parameters
    ----------
    ours, theirs : (n, k), k >= 2
        Coordinates of the frames of `ensemble` and of `reference`; the first two are shown, over the range of `theirs`.
    names : sequence of str
        Of the coordinates.
    """
    (low_a, high_a), (low_b, high_b) = ((column.min(), column.max()) for column in theirs[:, :2].T)
    figure = new_figure(13.0, 4.3)
    axes = list(figure.subplots(1, 3))
    sides = (
        (unweighted(ensemble), ours, "flow"),
        (ensemble, ours, "reweighted"),
        (reference, theirs, "reference"),
    )
    image: Any = None
    for ax, (side, plane, title) in zip(axes, sides, strict=True):
        found = surface(side, plane[:, 0], plane[:, 1], range=((low_a, high_a), (low_b, high_b)))
        image = draw_surface(ax, found.edges_a, found.edges_b, found.value)
        ax.set(xlabel=names[0], ylabel=names[1], title=f"{title}, {side.n} samples")
    figure.colorbar(image, ax=axes, label="F / kT", extend="max", shrink=0.9, pad=0.01)
    return figure


def _ramachandran_row(figure: Figure, grid: Any, ensemble: Ensemble, reference: Ensemble, shown: list[str]) -> None:
    torsions = named_torsions(ensemble.topology)
    axes: list[Axes] = []
    image: Any = None
    sides = (
        (ensemble, False, "flow"),
        (ensemble, True, "reweighted"),
        (reference, True, "reference"),
    )
    for i, (side, weighted, title) in enumerate(sides):
        ax = figure.add_subplot(grid[i])
        phi, psi = side.torsions([torsions[name] for name in shown]).T
        image = draw_ramachandran(ax, side, phi, psi, weighted, 64, f"{title}, {side.n} samples")
        axes.append(ax)
    figure.colorbar(image, ax=axes, label="F / kT", extend="max", shrink=0.9, pad=0.01)


def _basins(ax: Axes, basins: Sequence[BasinComparison]) -> None:
    sides = (("flow", FLOW), ("ensemble", REWEIGHTED), ("reference", REFERENCE))
    for i, basin in enumerate(basins):
        for k, (side, colour) in enumerate(sides):
            estimate = getattr(basin, side)
            if np.isfinite(estimate.value):
                style: Any = dict(fmt="o", color=colour, capsize=3, ms=5)
                ax.errorbar(i + 0.2 * (k - 1), estimate.value, 2 * estimate.error, **style)
            else:
                ax.annotate(
                    "none" if estimate.value > 0 else "all",
                    (i + 0.2 * (k - 1), 0.02),
                    xycoords=("data", "axes fraction"),
                    color=colour,
                    fontsize=7,
                    ha="center",
                    va="bottom",
                    rotation=90,
                )
    names = [b.name.replace("phi", r"$\phi$") for b in basins]
    torsion, at, _ = names[0].partition(" at ")
    if at and all(name.startswith(torsion + at) for name in names):
        names = [name.removeprefix(torsion + at) for name in names]
        ax.set_xlabel(torsion)
    ax.set_xticks(range(len(names)), names, rotation=90 if len("".join(names)) > 24 else 0)
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.margins(y=0.25)
    ax.set_ylabel("ΔF / kT")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title("basin ΔF, bars ±2 SE")
    if len(basins) == 1 and np.isfinite(basins[0].z):
        basin = basins[0]
        ax.text(
            0.5,
            0.98,
            f"z = {basin.z:+.1f}".replace("-", "−"),
            transform=ax.transAxes,
            ha="center",
            va="top",
            fontsize=8,
        )


def _densities(ax: Axes, c: CoordinateComparison) -> None:
    sides = ((FLOW, c.flow), (REWEIGHTED, c.ensemble), (REFERENCE, c.reference))
    for colour, side in sides:
        width = np.diff(side.edges)
        density, error = side.probability / width, np.nan_to_num(side.error) * side.probability / width
        ax.plot(side.centers, density, "--" if colour == REFERENCE else "-", color=colour, lw=1.5)
        ax.fill_between(side.centers, density - 2 * error, density + 2 * error, color=colour, alpha=0.25, lw=0)
    # What an unweighted flow has in the outermost bin, all that lies beyond, may be most of it.
    ax.set_ylim(0.0, 1.5 * float((c.reference.probability / width).max()))
    ax.set(xlabel=f"{c.name} / {c.unit}" if c.unit else c.name, ylabel="density", title=f"{c.name}, bands ±2 SE")
    ax.spines[["top", "right"]].set_visible(False)


def _distances(ax: Axes, items: Sequence[ProfileComparison]) -> None:
    """Total variation of every distribution, and what noise makes of it; of many, those that differ most."""
    shown = sorted(items, key=lambda t: -t.divergence.tv)[:MOST]
    for y, t in enumerate(shown):
        if np.isfinite(t.noise.error):
            ax.barh(y, t.noise.value + 2 * t.noise.error, color="0.85", label="noise, mean + 2 SD" if y == 0 else None)
        ax.plot(t.divergence_flow.tv, y, "o", color=FLOW, ms=5)
        ax.plot(t.divergence.tv, y, "o", color=REWEIGHTED, ms=5)
    ax.set_yticks(range(len(shown)), [t.name for t in shown], fontsize=7)
    ax.invert_yaxis()
    ax.set_xlim(left=0.0)
    of = "" if len(shown) == len(items) else f", largest {len(shown)} of {len(items)}"
    ax.set(xlabel="total variation from the reference", title=f"all distributions{of}")
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=7, loc="lower right")
