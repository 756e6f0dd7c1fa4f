"""All figures. Angles in rad with ticks at multiples of pi, free energies in kT, colours safe for the
colour-blind.

Functions return a matplotlib Figure, or draw into axes they are given; pyplot and its global state are never
used.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import weights as _weights
from .free_energy import Profile, Surface, surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .compare import Comparison, CoordinateComparison, ProfileComparison
    from .ensemble import Ensemble

# Okabe and Ito's palette.
FLOW, REWEIGHTED, REFERENCE = "#E69F00", "#0072B2", "#333333"
CMAP = "viridis"
F_SHOWN = 8.0
MOST = 16  # distributions in one panel


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError("Plotting needs matplotlib: pip install openmm_fab, or pip install matplotlib.") from error

    class NotebookFigure(Figure):
        """A Figure that a notebook shows as a picture, with or without %matplotlib inline."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = NotebookFigure(figsize=(width, height), dpi=150, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def ramachandran(
    ax: Axes,
    ensemble: Ensemble,
    residue: int = 0,
    weighted: bool = True,
    bins: int = 64,
    title: str | None = None,
) -> Any:
    """Draw F(phi, psi) in kT, above its minimum, cut at 8 kT; returns the image, for a colour bar.

    Parameters
    ----------
    residue : int
        Which of the phi, psi pairs, in residue order.
    weighted : bool
        False shows the frames as they were drawn.
    """
    phi, psi = ensemble.phi(), ensemble.psi()
    if residue >= (count := min(phi.shape[1], psi.shape[1])):
        raise ValueError(f"Expected a residue number below {count}, the number with phi and psi; got {residue}.")
    return _ramachandran(ax, ensemble, phi[:, residue], psi[:, residue], weighted, bins, title)


def _ramachandran(
    ax: Axes, ensemble: Ensemble, phi: np.ndarray, psi: np.ndarray, weighted: bool, bins: int, title: str | None
) -> Any:
    image = _draw(ax, surface(ensemble if weighted else _unweighted(ensemble), phi, psi, bins=bins))
    ax.set_aspect("equal")
    _angle_axis(ax, "x", r"$\phi$ / rad")
    _angle_axis(ax, "y", r"$\psi$ / rad")
    ax.set_title(title or ensemble.name)
    return image


def flow_ramachandran(ensemble: Ensemble) -> Figure | None:
    """A flow's samples as they are, and with their weights; None for molecules without phi and psi."""
    if not min(ensemble.phi().shape[1], ensemble.psi().shape[1]):
        return None
    figure = _figure(8.0, 3.6)
    axes = list(figure.subplots(1, 2))
    for ax, weighted, title in zip(axes, (False, True), ("flow", "reweighted"), strict=True):
        image = ramachandran(ax, ensemble, weighted=weighted, title=title)
    figure.colorbar(image, ax=axes, label="F / kT", extend="max", shrink=0.9, pad=0.01)
    return figure


def _draw(ax: Axes, found: Surface) -> Any:
    # Empty bins stay white: never visited is not the same as high.
    value = np.ma.masked_invalid(np.where(np.isinf(found.value), np.nan, found.value)).T
    return ax.pcolormesh(found.edges_a, found.edges_b, value, cmap=CMAP, vmin=0.0, vmax=F_SHOWN, rasterized=True)


def _unweighted(ensemble: Ensemble) -> Ensemble:
    return replace(ensemble, log_w=np.where(ensemble.log_w > -np.inf, 0.0, -np.inf))


def _angle_axis(ax: Axes, which: str, label: str) -> None:
    axis = getattr(ax, f"{which}axis")
    axis.set_ticks([-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], ["−π", "−π/2", "0", "π/2", "π"])
    getattr(ax, f"set_{which}lim")(-np.pi, np.pi)
    axis.set_label_text(label)


def profiles(ax: Axes, curves: Sequence[tuple[str, str, Profile]], label: str) -> None:
    """Draw profiles with bands of two standard errors; `curves` holds (name, colour, profile)."""
    for name, colour, curve in curves:
        shown = np.where(np.isfinite(curve.value), curve.value, np.nan)
        # The dashes let the curve beneath show where two agree.
        ax.plot(curve.centers, shown, "--" if colour == REFERENCE else "-", color=colour, lw=1.5, label=name)
        ax.fill_between(curve.centers, shown - 2 * curve.error, shown + 2 * curve.error, color=colour, alpha=0.25, lw=0)
    ax.set_ylim(-0.5, F_SHOWN + 2.0)
    ax.set_ylabel("F / kT")
    ax.spines[["top", "right"]].set_visible(False)
    _angle_axis(ax, "x", label)


def comparison(result: Comparison, residue: int = 0) -> Figure:
    """One page: Ramachandran plots of flow, reweighted ensemble and reference; profiles; basins; weights; coordinates;
    and how far all distributions are apart, beside what noise makes.

    Parameters
    ----------
    residue : int
        Which phi, psi pair to show; molecules without any show their first two torsions.
    """
    names = [t.name for t in result.torsions]
    if result.pairs:
        if residue >= len(result.pairs):
            raise ValueError(
                f"Expected a residue number below {len(result.pairs)}, the number compared; got {residue}."
            )
        shown = [f"phi {result.pairs[residue].name}", f"psi {result.pairs[residue].name}"]
    else:
        shown = names[:2]
    last = bool(result.coordinates)
    rows = 1 + bool(result.pairs) + last
    figure = _figure(13.0, 4.1 * rows)
    grid = figure.add_gridspec(rows, 1)
    if result.pairs:
        _ramachandran_row(figure, grid[0].subgridspec(1, 3), result, shown)
    below = grid[rows - 1 - last].subgridspec(1, 4, width_ratios=[1.25, 1.25, 1.0, 1.15])
    curves_of = {t.name: t for t in result.torsions}
    for i, name in enumerate(shown):
        ax = figure.add_subplot(below[i])
        t = curves_of[name]
        curves = [
            ("flow", FLOW, t.flow),
            ("reweighted", REWEIGHTED, t.ensemble),
            ("reference", REFERENCE, t.reference),
        ]
        profiles(ax, curves, _torsion_label(name))
        ax.set_title(f"F({_torsion_label(name, unit=False)}), bands ±2 SE")
        if i == 0:
            ax.legend(frameon=False, fontsize=8, loc="best")
    if result.basins:
        _basins(figure.add_subplot(below[2]), result)
    _weight_histogram(figure.add_subplot(below[3]), result.ensemble)
    if last:
        below = grid[rows - 1].subgridspec(1, 4, width_ratios=[1.0, 1.0, 1.0, 1.6])
        for i, c in enumerate(result.coordinates[:3]):
            _densities(figure.add_subplot(below[i]), c)
        _distances(figure.add_subplot(below[3]), [*result.torsions, *result.coordinates])
    figure.suptitle(
        f"{result.ensemble.name} against {result.reference.name}, {result.ensemble.temperature:g} K", weight="bold"
    )
    return figure


def projections(result: Comparison, which: int = 0) -> Figure:
    """Flow, reweighted ensemble and reference on the plane of two collective coordinates, F in kT.

    Parameters
    ----------
    which : int
        0: PCA of the torsions. 1: TICA, where `compare` was given a lag.
    """
    if which >= len(result.projections) or len(result.projections[which].names) < 2:
        raise ValueError(
            f"Expected the number of a projection with two coordinates; got {which} of {len(result.projections)}. Both "
            "need two torsions, and TICA a lag: compare(..., lag=10)."
        )
    names = result.projections[which].names
    ours, theirs = (result.projected(e, which) for e in (result.ensemble, result.reference))
    (low_a, high_a), (low_b, high_b) = ((column.min(), column.max()) for column in theirs[:, :2].T)
    figure = _figure(13.0, 4.3)
    axes = list(figure.subplots(1, 3))
    sides = (
        (_unweighted(result.ensemble), ours, "flow"),
        (result.ensemble, ours, "reweighted"),
        (result.reference, theirs, "reference"),
    )
    image: Any = None
    for ax, (ensemble, plane, title) in zip(axes, sides, strict=True):
        found = surface(ensemble, plane[:, 0], plane[:, 1], range=(low_a, high_a), range_b=(low_b, high_b))
        image = _draw(ax, found)
        ax.set(xlabel=names[0], ylabel=names[1], title=f"{title}, {ensemble.n} samples")
    figure.colorbar(image, ax=axes, label="F / kT", extend="max", shrink=0.9, pad=0.01)
    return figure


def _ramachandran_row(figure: Figure, grid: Any, result: Comparison, shown: list[str]) -> None:
    from .topology import named_torsions

    torsions = named_torsions(result.ensemble.topology)
    axes: list[Axes] = []
    image: Any = None
    sides = (
        (result.ensemble, False, "flow"),
        (result.ensemble, True, "reweighted"),
        (result.reference, True, "reference"),
    )
    for i, (ensemble, weighted, title) in enumerate(sides):
        ax = figure.add_subplot(grid[i])
        phi, psi = ensemble.torsions([torsions[name] for name in shown]).T
        image = _ramachandran(ax, ensemble, phi, psi, weighted, 64, f"{title}, {ensemble.n} samples")
        axes.append(ax)
    figure.colorbar(image, ax=axes, label="F / kT", extend="max", shrink=0.9, pad=0.01)


def _torsion_label(name: str, unit: bool = True) -> str:
    kind, _, residue = name.partition(" ")
    label = rf"$\{kind}$ {residue}" if kind in ("phi", "psi") else name
    return label + " / rad" if unit else label


def _basins(ax: Axes, result: Comparison) -> None:
    sides = (("flow", FLOW), ("ensemble", REWEIGHTED), ("reference", REFERENCE))
    for i, basin in enumerate(result.basins):
        for k, (side, colour) in enumerate(sides):
            estimate = getattr(basin, side)
            if np.isfinite(estimate.value):
                style: Any = dict(fmt="o", color=colour, capsize=3, ms=5)
                ax.errorbar(i + 0.2 * (k - 1), estimate.value, 2 * estimate.error, **style)
            else:
                ax.annotate(
                    "none",
                    (i + 0.2 * (k - 1), 0.02),
                    xycoords=("data", "axes fraction"),
                    color=colour,
                    fontsize=7,
                    ha="center",
                    va="bottom",
                    rotation=90,
                )
    names = [b.name.replace("phi", r"$\phi$") for b in result.basins]
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
    if len(result.basins) == 1 and np.isfinite(result.basins[0].z):
        basin = result.basins[0]
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


def _weight_histogram(ax: Axes, ensemble: Ensemble) -> None:
    log_w = ensemble.log_w[ensemble.log_w > -np.inf]
    centred = log_w - _weights.log_mean_exp(ensemble.log_w)
    ax.set_title("importance weights")
    ax.spines[["top", "right"]].set_visible(False)
    if np.ptp(log_w) == 0.0:
        ax.text(0.5, 0.5, f"{len(log_w)} equal weights", transform=ax.transAxes, ha="center", va="center")
        ax.set(xticks=[], yticks=[])
        return
    # Far-off low weights would squeeze the part that matters, the right-hand tail, into a corner.
    low = max(centred.min(), -15.0)
    bins = np.linspace(low, max(centred.max(), low + 1e-3), 60)
    ax.hist(np.clip(centred, low, None), bins=bins.tolist(), color=REWEIGHTED, alpha=0.85)
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.7, top=ax.get_ylim()[1] * 40)
    ax.set_xlabel("ln w − ln mean w")
    ax.set_ylabel("samples")
    text = (
        f"ESS {ensemble.ess:.0f} of {ensemble.n} ({100 * ensemble.ess_fraction:.1f} %)\n"
        f"top {_weights.CLIP_FRACTION:g} clipped: {ensemble.ess_clipped:.0f}\n"
        f"k-hat {ensemble.khat:.2f}, {ensemble.invalid} invalid"
    )
    ax.text(0.03, 0.97, text, transform=ax.transAxes, ha="left", va="top", fontsize=8)


def learning_curve(metrics: Sequence[Mapping[str, float]]) -> Figure:
    """ESS of flow and of AIS, and basin ΔF, over the energy evaluations spent.

    Parameters
    ----------
    metrics : list of dict
        One a logged step, with any of the keys evaluations, seconds, ess, ess_ais (fractions of 1), basin_df
        (kT), basin_df_error (kT). Missing keys are left out; without evaluations, seconds or the step number
        is the axis.
    """
    if not metrics:
        raise ValueError("Expected at least one row of metrics; got none.")
    x_key = next((k for k in ("evaluations", "seconds") if any(_has(m, k) for m in metrics)), None)
    label = {"evaluations": "energy evaluations", "seconds": "time / s", None: "logged step"}[x_key]
    with_basin = any(_has(m, "basin_df") for m in metrics)
    figure = _figure(10.0 if with_basin else 5.5, 3.8)
    axes = figure.subplots(1, 2 if with_basin else 1, squeeze=False)[0]
    for key, name, colour in (("ess", "flow", FLOW), ("ess_ais", "AIS", REWEIGHTED)):
        x, y = _series(metrics, x_key, key)
        if len(x) > 100:  # one point an iteration: its spread, and the mean of its neighbours
            axes[0].plot(x, 100 * y, ".", color=colour, ms=2, alpha=0.25)
            span = len(y) // 40
            x, y, name = x[span:-span], _running_mean(y, span), f"{name}, running mean"
            axes[0].plot(x, 100 * y, color=colour, lw=1.5, label=name)
        elif len(x):
            axes[0].plot(x, 100 * y, color=colour, marker="o", ms=3, lw=1.5, label=name)
    axes[0].set(xlabel=label, ylabel="ESS / %", title="effective sample size", ylim=(0, None))
    if axes[0].lines:
        axes[0].legend(frameon=False)
    if with_basin:
        x, y = _series(metrics, x_key, "basin_df")
        axes[1].plot(x, y, color=REWEIGHTED, marker="o", ms=3, lw=1.5)
        x, error = _series([m for m in metrics if _has(m, "basin_df")], x_key, "basin_df_error")
        if len(error) == len(y):
            axes[1].fill_between(x, y - 2 * error, y + 2 * error, color=REWEIGHTED, alpha=0.25, lw=0)
        axes[1].set(xlabel=label, ylabel="ΔF / kT", title="basin ΔF")
    for ax in axes:
        if x_key == "evaluations":
            ax.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4), useMathText=True)
        ax.grid(alpha=0.2)
    seconds = [m["seconds"] for m in metrics if _has(m, "seconds")]
    if seconds and x_key == "evaluations":
        figure.suptitle(f"{_duration(seconds[-1])} of training", fontsize=10)
    return figure


def _has(row: Mapping[str, float], key: str) -> bool:
    value = row.get(key)
    return value is not None and np.isfinite(value)


def _series(metrics: Sequence[Mapping[str, float]], x_key: str | None, key: str) -> tuple[np.ndarray, np.ndarray]:
    rows = [
        (i if x_key is None else m[x_key], m[key])
        for i, m in enumerate(metrics)
        if _has(m, key) and (x_key is None or _has(m, x_key))
    ]
    data = np.array(rows, dtype=np.float64).reshape(-1, 2)
    return data[:, 0], data[:, 1]


def _running_mean(y: np.ndarray, span: int) -> np.ndarray:
    """Mean over each point and `span` neighbours on either side, where there are so many."""
    return np.convolve(y, np.full(2 * span + 1, 1 / (2 * span + 1)), mode="valid")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
