"""Panels of one ensemble: Ramachandran plots, profiles, weights; and free energies on any plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import weights as _weights
from ..free_energy import Profile, Surface, surface
from ..topology import backbone_pairs, named_torsions
from .style import CMAP, F_SHOWN, REFERENCE, REWEIGHTED, angle_axis, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..ensemble import Ensemble


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
    image = draw_surface(ax, surface(ensemble if weighted else unweighted(ensemble), phi, psi, bins=bins))
    ax.set_aspect("equal")
    angle_axis(ax, "x", r"$\phi$ / rad")
    angle_axis(ax, "y", r"$\psi$ / rad")
    ax.set_title(title)
    return image


def flow_ramachandran(ensemble: Ensemble) -> Figure | None:
    """A flow's samples as they are, and with their weights; None for molecules without phi and psi."""
    if not backbone_pairs(ensemble.topology):
        return None
    figure = new_figure(8.0, 3.6)
    axes = list(figure.subplots(1, 2))
    for ax, weighted, title in zip(axes, (False, True), ("flow", "reweighted"), strict=True):
        image = ramachandran(ax, ensemble, weighted=weighted, title=title)
    figure.colorbar(image, ax=axes, label="F / kT", extend="max", shrink=0.9, pad=0.01)
    return figure


def draw_surface(ax: Axes, found: Surface, alpha: float = 1.0) -> Any:
    """Draw F on a plane, cut at 8 kT; returns the image, for a colour bar."""
    # Empty bins stay white: never visited is not the same as high.
    value = np.ma.masked_invalid(np.where(np.isinf(found.value), np.nan, found.value)).T
    return ax.pcolormesh(
        found.edges_a, found.edges_b, value, cmap=CMAP, vmin=0.0, vmax=F_SHOWN, alpha=alpha, rasterized=True
    )


def unweighted(ensemble: Ensemble) -> Ensemble:
    return replace(ensemble, log_w=np.where(ensemble.log_w > -np.inf, 0.0, -np.inf))


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
    angle_axis(ax, "x", label)


def weight_histogram(ax: Axes, ensemble: Ensemble) -> None:
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
