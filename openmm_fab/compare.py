"""Ensemble against ensemble: free-energy profiles, divergences, basin differences, and who agrees within
errors."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mdtraj
import numpy as np

from . import weights as _weights
from .free_energy import (
    BasinDifference,
    Profile,
    basin_difference,
    in_phi_positive,
    profile,
    surface,
    z_score,
)
from .topology import check_same_atoms, named_torsions
from .weights import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .ensemble import Ensemble

BINS, BINS_2D = 60, (64, 100)
KL_FLOOR = 1e-10
F_MAX = 5.0
FEW = 10.0


@dataclass(frozen=True)
class Divergence:
    """How far one histogram is from another.

    Parameters
    ----------
    kl : float, nats
        KL(reference || ensemble), the ensemble's probabilities floored at 1e-10 a bin. A histogram of n
        samples over B occupied bins differs from the truth by about B / 2n nats: finite samples never reach
        0.
    tv : float
        Total variation, between 0 and 1.
    js : float, nats
        Jensen-Shannon divergence, between 0 and ln 2.
    """

    kl: float
    tv: float
    js: float


@dataclass(frozen=True, eq=False)
class TorsionComparison:
    """One torsion. "flow" is the ensemble without its weights.

    Parameters
    ----------
    largest : Estimate, kT
        Largest difference |dF| of -ln p over bins that both visit and where the reference has F < 5 kT; its
        error there.
    rms : float, kT
        Root mean square of the same differences.
    unvisited : int
        Bins with reference F < 5 kT that the ensemble never visits: no difference can be given there.
    """

    name: str
    ensemble: Profile
    flow: Profile
    reference: Profile
    divergence: Divergence
    divergence_flow: Divergence
    largest: Estimate
    rms: float
    unvisited: int


@dataclass(frozen=True, eq=False)
class PairComparison:
    """One Ramachandran plot: divergences of its 2-D histograms, by number of bins a side."""

    name: str
    divergence: dict[int, Divergence]
    divergence_flow: dict[int, Divergence]


@dataclass(frozen=True, eq=False)
class BasinComparison:
    """One basin's free energy against all the rest, kT; z = (ensemble - reference) / combined error."""

    name: str
    ensemble: BasinDifference
    flow: BasinDifference
    reference: BasinDifference
    z: float
    verdict: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found. `print` it for a table, `.plot()` it for the figure, `.to_dict()` it for a
    file."""

    ensemble: Ensemble
    reference: Ensemble
    torsions: tuple[TorsionComparison, ...]
    pairs: tuple[PairComparison, ...]
    basins: tuple[BasinComparison, ...]

    def table(self) -> str:
        """Plain-text tables; raw ESS, clipped ESS and k-hat always stand above the basins they qualify."""
        blocks = [
            _columns(
                ["", "frames", "invalid", "ESS", "ESS clipped", "k-hat", ""],
                [_ensemble_row(e) for e in (self.ensemble, self.reference)],
            )
            + f"\nESS clipped: the largest {_weights.CLIP_FRACTION:g} of the weights clipped; it flatters."
            + " ESS counts weights, not correlation in time."
        ]
        if self.basins:
            rows = [
                [
                    b.name,
                    _f(b.flow),
                    _f(b.ensemble),
                    _f(b.reference),
                    _g(b.z, 1),
                    f"{b.ensemble.effective:.0f}",
                    b.verdict,
                ]
                for b in self.basins
            ]
            head = ["basin, ΔF (kT)", "unweighted", "reweighted", "reference", "z", "eff. inside", "verdict"]
            blocks.append(_columns(head, rows))
        if self.torsions:
            rows = [
                [
                    t.name,
                    f"{t.divergence_flow.kl:.4f}",
                    f"{t.divergence.kl:.4f}",
                    f"{t.divergence.tv:.4f}",
                    f"{t.divergence.js:.4f}",
                    str(t.largest),
                    f"{t.rms:.3f}",
                    str(t.unvisited),
                ]
                for t in self.torsions
            ]
            head = [
                "torsion",
                "KL unweighted",
                "KL",
                "TV",
                "JS",
                f"max |ΔF|, F < {F_MAX:g} kT",
                "rms",
                "bins unvisited",
            ]
            blocks.append(_columns(head, rows))
        if self.pairs:
            rows = [
                [
                    f"{p.name}, {bins}x{bins}",
                    f"{p.divergence_flow[bins].kl:.4f}",
                    f"{d.kl:.4f}",
                    f"{d.tv:.4f}",
                    f"{d.js:.4f}",
                ]
                for p in self.pairs
                for bins, d in p.divergence.items()
            ]
            blocks.append(_columns(["Ramachandran", "KL unweighted", "KL", "TV", "JS"], rows))
        if self.torsions:
            blocks[-1] += (
                f"\nKL(reference || ensemble) in nats, probabilities floored at {KL_FLOOR:g} a bin; "
                f"{BINS} bins in one dimension."
            )
        return "\n\n".join(blocks)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the structures, as plain numbers, strings and lists; None where a number is not
        finite."""
        result = {"ensemble": _summary(self.ensemble), "reference": _summary(self.reference)}
        return result | {key: _plain(getattr(self, key)) for key in ("torsions", "pairs", "basins")}

    def plot(self, path: str | Path | None = None) -> Figure:
        """The figure of `plots.comparison`, saved where a path is given."""
        from .plots import comparison

        figure = comparison(self)
        if path is not None:
            figure.savefig(path)
        return figure

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.table())}</pre>"


def compare(
    ensemble: Ensemble,
    reference: Ensemble,
    basins: Mapping[str, Callable[[mdtraj.Trajectory], np.ndarray]] | None = None,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> Comparison:
    """Compare an ensemble with a reference of the same molecule at the same temperature.

    Every phi and psi is compared (where there is none, every rotatable bond's torsion), every Ramachandran
    plot, and every basin.

    Parameters
    ----------
    basins : dict of name -> callable, optional
        The callable takes an mdtraj.Trajectory and returns the mask (n,) of frames inside. By default 0 <
        phi < 2.5 rad of every phi; the upper edge is there because the beta region spills over phi = ±pi.

    Raises
    ------
    ValueError
        For different atoms or temperatures.
    """
    check_same_atoms(ensemble.topology, reference.topology)
    if abs(ensemble.temperature - reference.temperature) > 0.01:
        raise ValueError(
            f"Expected two ensembles at one temperature; got {ensemble.temperature:g} K "
            f"and {reference.temperature:g} K."
        )
    flow = replace(ensemble, log_w=np.where(ensemble.log_w > -np.inf, 0.0, -np.inf), name="unweighted")
    sides = (ensemble, flow, reference)
    named = named_torsions(ensemble.topology)
    options: dict[str, Any] = dict(n_bootstrap=n_bootstrap, seed=seed)
    angles = {e: _angles(e, named) for e in sides}
    torsions = tuple(
        _compare_torsion(name, *(profile(e, angles[e][name], BINS, **options) for e in sides)) for name in named
    )
    pairs = tuple(
        _compare_pair(residue, sides, [(angles[e][f"phi {residue}"], angles[e][f"psi {residue}"]) for e in sides])
        for residue in (name[4:] for name in named if name.startswith("phi "))
        if f"psi {residue}" in named
    )
    if basins is None:
        basins = {
            name.replace("phi ", "phi > 0 "): partial(_in_default_basin, torsion=named[name])
            for name in named
            if name.startswith("phi ")
        }
    compared = []
    for name, basin in basins.items():
        a, b, c = (basin_difference(e, np.asarray(basin(e.to_mdtraj())), **options) for e in sides)
        z = float(z_score(a, c))
        compared.append(BasinComparison(name, a, b, c, z, _verdict(a, c, z, ensemble.khat)))
    return Comparison(ensemble, reference, torsions, pairs, tuple(compared))


def divergence(reference: np.ndarray, ensemble: np.ndarray) -> Divergence:
    """Divergence between two histograms of probabilities over the same bins, any shape."""
    p, q = (np.ravel(h) / np.sum(h) for h in (reference, ensemble))
    half = 0.5 * (p + q)
    return Divergence(_kl(p, q), float(0.5 * np.abs(p - q).sum()), 0.5 * (_kl(p, half) + _kl(q, half)))


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    occupied = p > 0.0
    return float((p[occupied] * np.log(p[occupied] / np.maximum(q[occupied], KL_FLOOR))).sum())


def _angles(ensemble: Ensemble, named: dict[str, tuple[int, int, int, int]]) -> dict[str, np.ndarray]:
    return dict(zip(named, ensemble.torsions(list(named.values())).T, strict=True)) if named else {}


def _in_default_basin(trajectory: mdtraj.Trajectory, torsion: tuple[int, int, int, int]) -> np.ndarray:
    return in_phi_positive(mdtraj.compute_dihedrals(trajectory, [torsion], periodic=False)[:, 0])


def _compare_torsion(name: str, ensemble: Profile, flow: Profile, reference: Profile) -> TorsionComparison:
    low = reference.value < F_MAX
    both = low & (ensemble.probability > 0.0)
    # Normalised probabilities are compared, not shifted profiles: the shift would spread one bin's noise
    # over all.
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.abs(np.log(reference.probability / ensemble.probability))
    largest, rms = Estimate(np.inf, np.nan), np.inf
    if both.any():
        i = int(np.argmax(np.where(both, difference, -1.0)))
        largest = Estimate(float(difference[i]), float(np.hypot(ensemble.error[i], reference.error[i])))
        rms = float(np.sqrt(np.mean(difference[both] ** 2)))
    return TorsionComparison(
        name,
        ensemble,
        flow,
        reference,
        divergence(reference.probability, ensemble.probability),
        divergence(reference.probability, flow.probability),
        largest,
        rms,
        int((low & ~both).sum()),
    )


def _compare_pair(
    residue: str, sides: tuple[Ensemble, ...], angles: list[tuple[np.ndarray, np.ndarray]]
) -> PairComparison:
    weighted, unweighted = {}, {}
    for bins in BINS_2D:
        p, flow, reference = (surface(e, *a, bins=bins).probability for e, a in zip(sides, angles, strict=True))
        weighted[bins], unweighted[bins] = divergence(reference, p), divergence(reference, flow)
    return PairComparison(residue, weighted, unweighted)


def _verdict(ensemble: BasinDifference, reference: BasinDifference, z: float, khat: float) -> str:
    missing = [side.effective < FEW for side in (ensemble, reference)]
    if any(missing):
        words = "basin missing" + (" on both sides" if all(missing) else " in the reference" if missing[1] else "")
    elif math.isnan(z):
        words = "no error bar, no verdict"
    elif abs(z) < 3:
        words = "agree within errors" if abs(z) < 2 else "differ, at the edge of the errors"
    else:
        words = "disagree"
    # Written so that a nan k-hat is as bad as a large one.
    return words if khat <= 0.7 else words + "; the weights are not to be trusted (k-hat)"


def _ensemble_row(e: Ensemble) -> list[str]:
    ess = f"{e.ess:.0f} ({100 * e.ess_fraction:.1f} %)"
    return [
        e.name,
        str(e.n),
        str(e.invalid),
        ess,
        f"{e.ess_clipped:.0f}",
        _g(e.khat, 2),
        _weights.diagnosis(e.log_w),
    ]


def _summary(e: Ensemble) -> dict[str, Any]:
    return {
        "name": e.name,
        "n": e.n,
        "temperature": e.temperature,
        "invalid": e.invalid,
        "blocks": None if e.block is None else len(np.unique(e.block)),
        "ess": _plain(e.ess),
        "ess_clipped": _plain(e.ess_clipped),
        "clip_fraction": _weights.CLIP_FRACTION,
        "khat": _plain(e.khat),
        "diagnosis": _weights.diagnosis(e.log_w),
    }


def _plain(value: Any) -> Any:
    """Dataclasses, arrays and numbers as what json can write."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _g(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def _f(difference: BasinDifference) -> str:
    return Estimate.__str__(difference)


def _columns(head: list[str], rows: list[list[str]]) -> str:
    """Left-aligned first and last column, right-aligned others."""
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = []
    for row in table:
        cells = [
            cell.ljust(w) if i in (0, len(row) - 1) else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
