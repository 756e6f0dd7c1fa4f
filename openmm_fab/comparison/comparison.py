"""`Comparison`: the result of `compare` as words, tables, plain numbers and figures."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import weights as _weights
from ..ensemble.held import in_one_line
from ..free_energy.diagnosis import FEW_BLOCKS
from ..free_energy.profiles import BasinDifference
from ..tools.tables import table
from ..weights import Estimate, count_blocks
from .divergences import BINS, F_MAX, KL_FLOOR
from .figure import draw_comparison, draw_projection
from .projections import Projection, circle_features
from .results import BasinComparison, CoordinateComparison, PairComparison, ProfileComparison, WeightHistogram
from .torsions import Torsion, torsion_values
from .verdicts import AGREE, NO_VERDICTS, Reliability

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from ..ensemble.ensemble import Ensemble


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Comparison of an ensemble with a reference.

    `print` it for the tables, `.plot()` it for the figure, `.to_dict()` it for a file.

    Parameters
    ----------
    projections : tuple of Projection
        PCA of the torsions, and TICA where a lag was given, as fitted to the reference.
    features : tuple of Torsion
        Those whose cosines, then sines, they project.
    note : str
        What else the two differ in, such as constrained bonds.
    """

    ensemble: Ensemble
    reference: Ensemble
    torsions: tuple[ProfileComparison, ...]
    pairs: tuple[PairComparison, ...]
    basins: tuple[BasinComparison, ...]
    coordinates: tuple[CoordinateComparison, ...] = ()
    projections: tuple[Projection, ...] = ()
    features: tuple[Torsion, ...] = ()
    weights: WeightHistogram | None = None
    note: str = ""

    def projected(self, ensemble: Ensemble, which: int = 0) -> np.ndarray:
        """Coordinates (n, k) of an ensemble of this molecule in a projection."""
        values = torsion_values(ensemble, self.features)
        return self.projections[which].of(circle_features(np.stack(list(values.values()), axis=1)))

    @property
    def reliability(self) -> str:
        """Whether the weights of the two can be used: one line, or two where the reference's cannot or are unequal."""
        ours, theirs = Reliability.of(self.ensemble), Reliability.of(self.reference)
        told = not theirs.usable or theirs.khat > -math.inf
        return f"{ours}\n{theirs}" if told else str(ours)

    def words(self) -> str:
        """Sentences on the weights, on the agreement of basins and distributions, and on what limits the comparison."""
        lines = [self.reliability]
        distributions = [*self.torsions, *self.coordinates]
        for kind, items in (("basin", self.basins), ("distribution", distributions)):
            if items:
                lines.append(_count(kind, items))
        if distributions:
            flow, weighted, noise = (
                float(np.mean([getattr(d, key).tv for d in distributions]))
                for key in ("divergence_flow", "divergence", "reference_noise")
            )
            lines.append(
                f"Mean total variation of the distributions: {flow:.3f} unweighted, {weighted:.3f} reweighted; "
                f"the reference's halves, one from the other: {_g(noise, 3)}."
            )
        for side in (self.ensemble, self.reference):
            if (blocks := count_blocks(side.n, side.block)) < FEW_BLOCKS:
                lines.append(
                    f"{side.name}: only {blocks} independent blocks; verdicts allow for it, error bars do not."
                )
            if side.held:
                lines.append(f"{side.name}: {in_one_line(side.held)}; nothing here tells what the other sides hold.")
            if side.audit is not None and side.audit.missing:
                lines.append(f"{side.name}: {side.audit.finding.head}, by an audit: {side.audit.missing_in_words}.")
            if side.rounding is not None:
                lines.append(f"{side.name}: {side.rounding}; nothing here allows for that.")
        return "\n".join([*lines, *filter(None, [self.note])])

    def table(self) -> str:
        """Plain-text tables; whether the weights can be used, ESS and k-hat stand above the basins they qualify."""
        blocks = [
            self.reliability,
            _table(
                ["", "frames", "invalid", "ESS", "ESS clipped", "k-hat", ""],
                [_ensemble_row(e) for e in (self.ensemble, self.reference)],
            )
            + f"\nESS clipped: the largest {_weights.CLIP_FRACTION:g} of the weights clipped; it flatters."
            + " ESS counts weights, not correlation in time.",
        ]
        if self.basins:
            rows = [
                [
                    *(b.name, _f(b.flow), _f(b.ensemble), _f(b.reference), _g(b.z_flow, 1), _g(b.z, 1)),
                    *(f"{b.ensemble.effective:.0f}", b.verdict),
                ]
                for b in self.basins
            ]
            head = ["basin, ΔF (kT)", "unweighted", "reweighted", "reference", "z unw.", "z", "eff. inside", "verdict"]
            blocks.append(_table(head, rows))
        for kind, profiles in (("torsion", self.torsions), ("coordinate", self.coordinates)):
            if profiles:
                blocks.append(_distributions(kind, profiles))
        if self.coordinates:
            rows = [
                [
                    c.name + (f" ({c.unit})" if c.unit else ""),
                    _f(c.mean_flow),
                    _f(c.mean_ensemble),
                    _f(c.mean_reference),
                    _g(c.mean_z, 1),
                    c.mean_verdict,
                ]
                for c in self.coordinates
            ]
            blocks.append(_table(["average", "unweighted", "reweighted", "reference", "z", "verdict"], rows))
        if self.torsions:
            rows = [[t.name, str(t.largest), f"{t.rms:.3f}", str(t.unvisited), ""] for t in self.torsions]
            head = ["torsion", f"max |ΔF| (kT), F < {F_MAX:g} kT", "rms", "bins unvisited", ""]
            blocks.append(_table(head, rows))
        if self.pairs:
            rows = [
                [f"{p.name}, {bins}x{bins}", *_divergences(p.divergence_flow[bins], d, p.reference_noise[bins]), ""]
                for p in self.pairs
                for bins, d in p.divergence.items()
            ]
            blocks.append(_table(["Ramachandran", *DIVERGENCES, ""], rows))
        if self.torsions or self.coordinates:
            blocks[-1] += (
                f"\nKL(reference || ensemble) in nats, probabilities floored at {KL_FLOOR:g} a bin; "
                f"{BINS} bins in one dimension. unw.: without the weights.\n"
                "floor: one half of the reference from the other. "
                "z: total variation beyond what noise on both sides makes."
            )
            for projection in self.projections:
                what = "share of the variance" if projection.kind == "PC" else "autocorrelation over the lag"
                values = ", ".join(f"{n} {v:.2f}" for n, v in zip(projection.names, projection.values, strict=True))
                blocks[-1] += f"\n{values}: {what} of (cos, sin) of the reference's torsions."
        if text := self.words():
            blocks.append(text)
        return "\n\n".join(blocks)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the structures, as plain numbers, strings and lists; None where a number is not finite."""
        found = {"ensemble": _summary(self.ensemble), "reference": _summary(self.reference)}
        keys = ("torsions", "pairs", "basins", "coordinates", "projections", "features", "weights")
        return found | {key: _plain(getattr(self, key)) for key in keys} | {"words": self.words()}

    def plot(self, path: str | Path | None = None, residue: int = 0) -> Figure:
        """One page: Ramachandran plots, profiles, basins, weights, coordinates, and the distances of all distributions.

        Parameters
        ----------
        path : path, optional
            The figure is saved there.
        residue : int
            Which phi, psi pair to show; molecules without any show their first two torsions.

        Raises
        ------
        ValueError
            There are not so many pairs.
        """
        figure = draw_comparison(
            self.ensemble, self.reference, self.torsions, self.pairs, self.basins, self.coordinates, residue
        )
        if path is not None:
            figure.savefig(path)
        return figure

    def plot_projection(self, which: int = 0) -> Figure:
        """Flow, reweighted ensemble and reference on the plane of two collective coordinates, F in kT.

        Parameters
        ----------
        which : int
            0: PCA of the torsions. 1: TICA, where `compare` was given a lag.

        Raises
        ------
        ValueError
            There is no such projection, or it has a single coordinate.
        """
        if which >= len(self.projections) or len(self.projections[which].names) < 2:
            raise ValueError(
                f"Expected the number of a projection with two coordinates; got {which} of {len(self.projections)}. "
                "Both need two torsions, and TICA a lag: compare(..., lag=10)."
            )
        ours, theirs = (self.projected(e, which) for e in (self.ensemble, self.reference))
        return draw_projection(self.ensemble, self.reference, ours, theirs, self.projections[which].names)

    def __repr__(self) -> str:
        counts = {"basin": self.basins, "torsion": self.torsions, "other coordinate": self.coordinates}
        what = ", ".join(f"{len(items)} {kind}s" for kind, items in counts.items())
        ours, theirs = self.ensemble.name, self.reference.name
        return f"Comparison({ours} with {theirs}: {what}; print it for the tables)\n{self.reliability}"

    def __str__(self) -> str:
        return self.table()

    def to_html(self) -> str:
        """The tables as HTML."""
        return f"<pre>{html.escape(self.table())}</pre>"

    def _repr_html_(self) -> str:
        return self.to_html()


def _count(kind: str, items: Sequence[Any]) -> str:
    """Sentence with how many items agree, and which do not, by verdict; none are counted where there is no verdict."""
    found: dict[str, list[str]] = {}
    for item in items:
        z = "" if item.verdict in (AGREE, *NO_VERDICTS) or not math.isfinite(item.z) else f" (z = {item.z:+.1f})"
        found.setdefault(item.verdict, []).append(item.name + z)
    if len(found) == 1 and (only := next(iter(found))) in NO_VERDICTS:
        return f"{len(items)} {kind}s, of none of which it can be said whether they agree: {only}."
    agree = len(found.pop(AGREE, []))
    text = f"{agree} of {len(items)} {kind}s agree within errors"
    return "; ".join([text, *(f"{key}: {', '.join(names)}" for key, names in found.items())]) + "."


DIVERGENCES = [*("KL unw.", "KL", "floor"), *("TV unw.", "TV", "floor"), *("JS unw.", "JS", "floor")]


def _distributions(kind: str, items: Iterable[ProfileComparison]) -> str:
    rows = [
        [
            t.name,
            *_divergences(t.divergence_flow, t.divergence, t.reference_noise),
            _g(t.z_flow, 1),
            _g(t.z, 1),
            t.verdict,
        ]
        for t in items
    ]
    return _table([kind, *DIVERGENCES, "z unw.", "z", "verdict"], rows)


def _divergences(*sides: Any) -> list[str]:
    return [_g(getattr(side, key), 4) for key in ("kl", "tv", "js") for side in sides]


def _ensemble_row(e: Ensemble) -> list[str]:
    ess = f"{e.ess:.0f} ({100 * e.ess_fraction:.1f} %)"
    khat, diagnosis = _g(e.khat, 2), _weights.diagnosis(e.log_w)
    return [e.name, str(e.n), str(e.invalid), ess, f"{e.ess_clipped:.0f}", khat, diagnosis]


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
        "usable": Reliability.of(e).usable,
        "diagnosis": _weights.diagnosis(e.log_w),
    }


def _plain(value: Any) -> Any:
    """Dataclasses, arrays and numbers as what json can write."""
    if is_dataclass(value):
        return {f.metadata.get("key", f.name): _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _g(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def _f(estimate: Estimate) -> str:
    return estimate.number if isinstance(estimate, BasinDifference) else str(estimate)


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Left-aligned first and last column, numbers in between."""
    return table(head, rows, right=range(1, len(head) - 1), rule=True)
