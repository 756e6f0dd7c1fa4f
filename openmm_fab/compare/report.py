"""A comparison in words, as tables, and as plain numbers for a file."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from .. import weights as _weights
from ..free_energy import BasinDifference
from ..free_energy.estimators import FEW_BLOCKS
from ..weights import Estimate
from .divergences import BINS, F_MAX, KL_FLOOR, count_blocks

if TYPE_CHECKING:
    from ..ensemble import Ensemble
    from .results import Comparison, ProfileComparison

AGREE, EDGE, DISAGREE = "agree within errors", "differ, at the edge of the errors", "disagree"
NO_ERROR = "no error bar, no verdict"
TOO_FEW = "too few samples, no verdict"
DISTRUST = "the weights are not to be trusted (k-hat)"


def verdict(z: float, khat: float, freedom: float = math.inf) -> str:
    """|z| below 2, below 3, or beyond, in words; and whether the weights allow to say so.

    Parameters
    ----------
    freedom : float
        Degrees of freedom of the standard error in z: of few blocks it is itself uncertain, and z is as unlikely as the
        normal deviate with Student's t tail probability.
    """
    if math.isnan(z):
        return qualified(NO_ERROR, khat)
    if math.isfinite(freedom) and math.isfinite(z):
        z = float(norm.isf(student.sf(abs(z), max(freedom, 1.0))))
    return qualified(DISAGREE if abs(z) >= 3 else AGREE if abs(z) < 2 else EDGE, khat)


def worst_khat(*ensembles: Ensemble) -> float:
    """The largest k-hat; nan, which is no better, where one has none."""
    return float(np.max([ensemble.khat for ensemble in ensembles]))


def qualified(words: str, khat: float) -> str:
    # Written so that a nan k-hat is as bad as a large one.
    return words if khat <= _weights.KHAT_LIMIT else f"{words}; {DISTRUST}"


def words(result: Comparison) -> str:
    """Sentences: basins, distributions, what the weights changed, and what limits all this."""
    lines = []
    distributions = [*result.torsions, *result.coordinates]
    for kind, items in (("basin", result.basins), ("distribution", distributions)):
        if items:
            lines.append(_count(kind, items))
    if distributions:
        flow, weighted, floor = (
            float(np.mean([getattr(d, key).tv for d in distributions]))
            for key in ("divergence_flow", "divergence", "floor")
        )
        lines.append(
            f"Mean total variation of the distributions: {flow:.3f} unweighted, {weighted:.3f} reweighted; "
            f"the reference's halves, one from the other: {_g(floor, 3)}."
        )
    for whose, side in (("the weights", result.ensemble), ("the reference's weights", result.reference)):
        if not side.khat <= _weights.KHAT_LIMIT:
            lines.append(f"k-hat: {whose}, and with them every error bar here, are not to be trusted.")
        if (blocks := count_blocks(side)) < FEW_BLOCKS:
            lines.append(f"{side.name}: only {blocks} independent blocks; verdicts allow for it, error bars do not.")
    return "\n".join(lines)


def _count(kind: str, items: Sequence[Any]) -> str:
    plain = [item.verdict.removesuffix(f"; {DISTRUST}") for item in items]
    agree = [p == AGREE for p in plain]
    text = f"{sum(agree)} of {len(items)} {kind}s agree within errors"
    others: dict[str, list[str]] = {}
    for item, p in zip(items, plain, strict=True):
        if p != AGREE:
            z = f" (z = {item.z:+.1f})" if math.isfinite(item.z) else ""
            others.setdefault(p, []).append(item.name + z)
    return "; ".join([text, *(f"{key}: {', '.join(names)}" for key, names in others.items())]) + "."


def table(result: Comparison) -> str:
    blocks = [
        _columns(
            ["", "frames", "invalid", "ESS", "ESS clipped", "k-hat", ""],
            [_ensemble_row(e) for e in (result.ensemble, result.reference)],
        )
        + f"\nESS clipped: the largest {_weights.CLIP_FRACTION:g} of the weights clipped; it flatters."
        + " ESS counts weights, not correlation in time."
    ]
    if result.basins:
        rows = [
            [
                *(b.name, _f(b.flow), _f(b.ensemble), _f(b.reference), _g(b.z_flow, 1), _g(b.z, 1)),
                *(f"{b.ensemble.effective:.0f}", b.verdict),
            ]
            for b in result.basins
        ]
        head = ["basin, ΔF (kT)", "unweighted", "reweighted", "reference", "z unw.", "z", "eff. inside", "verdict"]
        blocks.append(_columns(head, rows))
    for kind, profiles in (("torsion", result.torsions), ("coordinate", result.coordinates)):
        if profiles:
            blocks.append(_distributions(kind, profiles))
    if result.coordinates:
        rows = [
            [
                c.name + (f" ({c.unit})" if c.unit else ""),
                _f(c.mean_flow),
                _f(c.mean_ensemble),
                _f(c.mean_reference),
                _g(c.mean_z, 1),
                "",
            ]
            for c in result.coordinates
        ]
        blocks.append(_columns(["average", "unweighted", "reweighted", "reference", "z", ""], rows))
    if result.torsions:
        rows = [[t.name, str(t.largest), f"{t.rms:.3f}", str(t.unvisited), ""] for t in result.torsions]
        head = ["torsion", f"max |ΔF| (kT), F < {F_MAX:g} kT", "rms", "bins unvisited", ""]
        blocks.append(_columns(head, rows))
    if result.pairs:
        rows = [
            [f"{p.name}, {bins}x{bins}", *_divergences(p.divergence_flow[bins], d, p.floor[bins]), ""]
            for p in result.pairs
            for bins, d in p.divergence.items()
        ]
        blocks.append(_columns(["Ramachandran", *DIVERGENCES, ""], rows))
    if result.torsions or result.coordinates:
        blocks[-1] += (
            f"\nKL(reference || ensemble) in nats, probabilities floored at {KL_FLOOR:g} a bin; "
            f"{BINS} bins in one dimension. unw.: without the weights.\n"
            "floor: one half of the reference from the other. z: total variation beyond what noise on both sides makes."
        )
        for projection in result.projections:
            what = "share of the variance" if projection.kind == "PC" else "autocorrelation over the lag"
            values = ", ".join(f"{n} {v:.2f}" for n, v in zip(projection.names, projection.values, strict=True))
            blocks[-1] += f"\n{values}: {what} of (cos, sin) of the reference's torsions."
    if text := words(result):
        blocks.append(text)
    return "\n\n".join(blocks)


DIVERGENCES = [*("KL unw.", "KL", "floor"), *("TV unw.", "TV", "floor"), *("JS unw.", "JS", "floor")]


def _distributions(kind: str, items: Iterable[ProfileComparison]) -> str:
    rows = [
        [t.name, *_divergences(t.divergence_flow, t.divergence, t.floor), _g(t.z_flow, 1), _g(t.z, 1), t.verdict]
        for t in items
    ]
    return _columns([kind, *DIVERGENCES, "z unw.", "z", "verdict"], rows)


def _divergences(*sides: Any) -> list[str]:
    return [_g(getattr(side, key), 4) for key in ("kl", "tv", "js") for side in sides]


def to_dict(result: Comparison) -> dict[str, Any]:
    found = {"ensemble": _summary(result.ensemble), "reference": _summary(result.reference)}
    keys = ("torsions", "pairs", "basins", "coordinates", "projections", "features", "weights")
    return found | {key: _plain(getattr(result, key)) for key in keys} | {"words": words(result)}


def to_html(result: Comparison) -> str:
    return f"<pre>{html.escape(table(result))}</pre>"


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


def _f(estimate: Estimate | BasinDifference) -> str:
    return Estimate.__str__(estimate)


def _columns(head: list[str], rows: list[list[str]]) -> str:
    """Left-aligned first and last column, right-aligned others."""
    lines = [head, *rows]
    widths = [max(len(row[i]) for row in lines) for i in range(len(head))]
    text = []
    for row in lines:
        cells = [
            cell.ljust(w) if i in (0, len(row) - 1) else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])
