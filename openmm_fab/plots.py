"""Figures of one ensemble and of a training: Ramachandran plots, profiles, importance weights, learning curves.

Functions that take axes draw into them; the others return a new figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import weights as _weights
from .drawing.style import F_SHOWN, FLOW, REFERENCE, REWEIGHTED, angle_axis, draw_surface, new_figure
from .free_energy.profiles import Profile, surface
from .molecule.torsions import backbone_pairs, named_torsions
from .tools.progress import duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .ensemble.ensemble import Ensemble


WEIGHT_BINS = 59
PLOT_SAMPLES = 2048
FEW_POINTS = 5


def ramachandran(
    ax: Axes,
    ensemble: Ensemble,
    *,
    residue: int = 0,
    weighted: bool = True,
    bins: int = 64,
    title: str | None = None,
) -> Any:
    """Draw F(phi, psi) in kT, above its minimum, cut at 8 kT; returns the image, for a colour bar.

    Parameters
    ----------
    residue : int
        Which of the residues that have both phi and psi.
    weighted : bool
        False shows the frames as they were drawn.
    """
    pairs = backbone_pairs(ensemble.topology)
    if not 0 <= residue < len(pairs):
        raise ValueError(f"Expected a residue number below {len(pairs)}, the number with phi and psi; got {residue}.")
    name = list(pairs)[residue]
    torsions = named_torsions(ensemble.topology)
    phi, psi = ensemble.torsions([torsions[torsion] for torsion in pairs[name]]).T
    title = title or (f"{ensemble.name}, {name}" if len(pairs) > 1 else ensemble.name)
    return draw_ramachandran(ax, ensemble, phi, psi, weighted, bins, title)


def draw_ramachandran(
    ax: Axes, ensemble: Ensemble, phi: np.ndarray, psi: np.ndarray, weighted: bool, bins: int, title: str
) -> Any:
    """Draw F in kT over the angles phi and psi (n,), rad, of all frames; see `ramachandran`."""
    found = surface(ensemble if weighted else unweighted(ensemble), phi, psi, bins=bins)
    image = draw_surface(ax, found.edges_a, found.edges_b, found.value)
    ax.set_aspect("equal")
    angle_axis(ax, "x", r"$\phi$ / rad")
    angle_axis(ax, "y", r"$\psi$ / rad")
    ax.set_title(title)
    return image


def flow_ramachandran(ensemble: Ensemble) -> Figure | None:
    """Figure with the Ramachandran plots of a flow's samples without and with weights; None for molecules without
    phi and psi."""
    if not backbone_pairs(ensemble.topology):
        return None
    figure = new_figure(8.0, 3.6)
    axes = list(figure.subplots(1, 2))
    for ax, weighted, title in zip(axes, (False, True), ("flow", "reweighted"), strict=True):
        image = ramachandran(ax, ensemble, weighted=weighted, title=title)
    figure.colorbar(image, ax=axes, label="F / kT", extend="max", shrink=0.9, pad=0.01)
    return figure


def unweighted(ensemble: Ensemble) -> Ensemble:
    """Ensemble of the frames of positive weight, with equal weights."""
    return replace(ensemble, log_w=np.where(ensemble.log_w > -np.inf, 0.0, -np.inf))


def profiles(ax: Axes, curves: Sequence[tuple[str, str, Profile]], label: str) -> None:
    """Draw free-energy profiles with bands of two standard errors; `curves` holds (name, colour, profile)."""
    for name, colour, curve in curves:
        shown = np.where(np.isfinite(curve.value), curve.value, np.nan)
        # The dashes let the curve beneath show where two agree.
        ax.plot(curve.centers, shown, "--" if colour == REFERENCE else "-", color=colour, lw=1.5, label=name)
        ax.fill_between(curve.centers, shown - 2 * curve.error, shown + 2 * curve.error, color=colour, alpha=0.25, lw=0)
    ax.set_ylim(-0.5, F_SHOWN + 2.0)
    ax.set_ylabel("F / kT")
    ax.spines[["top", "right"]].set_visible(False)
    angle_axis(ax, "x", label)


def weight_histogram(ax: Axes, ensemble: Ensemble, *, words: bool = True) -> None:
    """Draw the histogram of ln w - ln mean w, with the effective sample size and k-hat in words, if wanted."""
    count = int((ensemble.log_w > -np.inf).sum())
    ax.set_title("importance weights")
    ax.spines[["top", "right"]].set_visible(False)
    found = _weights.histogram(ensemble.log_w, WEIGHT_BINS)
    if found is None:
        ax.text(0.5, 0.5, f"{count} equal weights", transform=ax.transAxes, ha="center", va="center")
        ax.set(xticks=[], yticks=[])
        return
    edges, samples, _ = found
    ax.hist(edges[:-1], bins=edges.tolist(), weights=np.rint(count * samples), color=REWEIGHTED, alpha=0.85)
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.7, top=ax.get_ylim()[1] * (40 if words else 1))
    ax.set_xlabel("ln w − ln mean w")
    ax.set_ylabel("samples")
    if not words:
        return
    text = (
        f"ESS {ensemble.ess:.0f} of {ensemble.n} ({100 * ensemble.ess_fraction:.1f} %)\n"
        f"top {_weights.CLIP_FRACTION:g} clipped: {ensemble.ess_clipped:.0f}\n"
        f"k-hat {ensemble.khat:.2f}, {ensemble.invalid} invalid"
    )
    ax.text(0.03, 0.97, text, transform=ax.transAxes, ha="left", va="top", fontsize=8)


def training_figures(metrics: Sequence[Mapping[str, Any]], sample: Callable[[int], Ensemble]) -> list[Figure]:
    """Figures of a live plot: learning curves and, for molecules with phi and psi, Ramachandran plots of the flow.

    Parameters
    ----------
    metrics
        See `learning_curve`.
    sample : callable
        n -> Ensemble of the flow as it is.
    """
    rama = flow_ramachandran(sample(PLOT_SAMPLES))
    return [learning_curve(metrics), *([] if rama is None else [rama])]


def learning_curve(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Figure of the ESS of flow and AIS and the basin's ΔF against the energy evaluations.

    Parameters
    ----------
    metrics : list of dict
        One a logged step, with any of the keys evaluations, seconds, ess, ess_flow, ess_ais (fractions of 1), basin_df
        (kT), basin_df_error (kT); ess_flow, of each pass, is drawn where there is next to no ess. Missing
        keys are left out; without evaluations, seconds or the step number is the axis.
    """
    if not metrics:
        raise ValueError("Expected at least one row of metrics; got none.")
    with_basin = any(map(has_basin, metrics))
    figure = new_figure(10.0 if with_basin else 5.5, 3.8)
    axes = figure.subplots(1, 2 if with_basin else 1, squeeze=False)[0]
    draw_learning_ess(axes[0], metrics)
    if with_basin:
        draw_learning_basin(axes[1], metrics)
    seconds = [m["seconds"] for m in metrics if _has(m, "seconds")]
    if seconds and _progress(metrics)[0] == "evaluations":
        figure.suptitle(f"{duration(seconds[-1])} of training", fontsize=10)
    return figure


def draw_learning_ess(ax: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Draw the effective sample sizes of flow and annealing, in percent, as `learning_curve` does."""
    x_key, _ = _progress(metrics)
    if sum(_has(row, "ess") for row in metrics) < FEW_POINTS:  # of a short training, which was evaluated once or twice
        x, y = _series(metrics, x_key, "ess_flow")
        if len(x):
            ax.plot(x, 100 * y, ".", color=FLOW, ms=3, alpha=0.4, label="flow, each pass")
    for key, name, colour in (("ess", "flow", FLOW), ("ess_ais", "AIS", REWEIGHTED)):
        x, y = _series(metrics, x_key, key)
        if len(x) > 100:  # one point an iteration: its spread, and the mean of its neighbours
            ax.plot(x, 100 * y, ".", color=colour, ms=2, alpha=0.25)
            span = len(y) // 40
            x, y, name = x[span:-span], _running_mean(y, span), f"{name}, running mean"
            ax.plot(x, 100 * y, color=colour, lw=1.5, label=name)
        elif len(x):
            ax.plot(x, 100 * y, color=colour, marker="o", ms=3, lw=1.5, label=name)
    ax.set(ylabel="ESS / %", title="effective sample size", ylim=(0, None))
    if ax.lines:
        ax.legend(frameon=False)
    _progress_axis(ax, metrics)


def draw_learning_basin(ax: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Draw the basin's free energy with a band of two standard errors, in kT, as `learning_curve` does."""
    x_key, _ = _progress(metrics)
    x, y = _series(metrics, x_key, "basin_df")
    ax.plot(x, y, color=REWEIGHTED, marker="o", ms=3, lw=1.5)
    x, error = _series(list(filter(has_basin, metrics)), x_key, "basin_df_error")
    if len(error) == len(y):
        ax.fill_between(x, y - 2 * error, y + 2 * error, color=REWEIGHTED, alpha=0.25, lw=0)
    ax.set(ylabel="ΔF / kT", title="ΔF of the basin 0 < φ < 2.5")
    _progress_axis(ax, metrics)


def has_basin(row: Mapping[str, Any]) -> bool:
    """Whether a row of metrics has the free energy of the basin phi > 0 (`basin_df`)."""
    return _has(row, "basin_df")


def _progress(metrics: Sequence[Mapping[str, Any]]) -> tuple[str | None, str]:
    """What learning curves are drawn against: its key in the metrics, None for the row's number, and its label."""
    key = next((k for k in ("evaluations", "seconds") if any(_has(m, k) for m in metrics)), None)
    return key, {"evaluations": "energy evaluations", "seconds": "time / s", None: "logged step"}[key]


def _progress_axis(ax: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Label the axis of learning curves, from 0 to the last row."""
    key, label = _progress(metrics)
    ax.set_xlabel(label)
    ax.set_xlim(left=0)
    if key == "evaluations":
        ax.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4), useMathText=True)
    ax.grid(alpha=0.2)


def _has(row: Mapping[str, Any], key: str) -> bool:
    """Whether the row has a finite number under this key."""
    value = row.get(key)
    return value is not None and np.isfinite(value)


def _series(metrics: Sequence[Mapping[str, Any]], x_key: str | None, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Arrays (rows,) of `x_key`, or the row's number, and `key`, of the rows that have both."""
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
