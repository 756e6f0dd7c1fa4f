"""Findings on the weights, the training and the comparison of an ensemble: each with a grade and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..comparison.verdicts import DISAGREE, NO_VERDICTS, NO_WEIGHTS
from ..tools.findings import BAD, CARE, GOOD, Finding, worst
from ..tools.progress import duration
from ..weights import CLIP_FRACTION, FEW, KHAT_LIMIT, KHAT_RELIABLE, OUTSIDE_LIMIT

if TYPE_CHECKING:
    from ..comparison.comparison import Comparison
    from ..ensemble.audit import Audit
    from ..ensemble.ensemble import Ensemble


POOR_SHARE = 0.01  # of the samples, effective: below it the flow has hardly learned the molecule
FEW_ITERATIONS, ENOUGH_ITERATIONS = 50, 1000
LATEST = 10  # annealed rows of metrics
LONG_SETUP = 0.2  # of the training
BIG_WEIGHT = 0.05  # of all weight, in one sample
ABOVE_CUT = 0.05
CONTRADICTION = (DISAGREE, "basin missing", "rest missing")  # how such verdicts start


def findings(
    ensemble: Ensemble, comparison: Comparison | None = None, *, metrics: Sequence[Mapping[str, Any]] = ()
) -> list[Finding]:
    """Findings for and against an ensemble of a flow; the first ones decide whether its numbers may be used."""
    weighted = ensemble.log_w[ensemble.log_w > -np.inf]
    if len(weighted) and np.ptp(weighted) == 0.0:  # of MD, or resampled
        found = [Finding(GOOD, f"{len(weighted)} frames of equal weight", "There is nothing to reweight.")]
        found += _audit(ensemble)
        found += [*_ess(ensemble), _invalid(ensemble)] if len(weighted) < ensemble.n else []
        return found if comparison is None else [*found, _agreement(comparison, ensemble.audit)]
    found = [_khat(ensemble.khat), *_ess(ensemble), _largest(ensemble), _invalid(ensemble)]
    found = [*training_findings(metrics, audited=ensemble.audit is not None), *found]
    found += [*_range(metrics), *_cut(metrics), *_lost(metrics), *_audit(ensemble)]
    found.append(_agreement(comparison, ensemble.audit))
    return found


def training_findings(metrics: Sequence[Mapping[str, Any]], *, audited: bool = False) -> list[Finding]:
    """Findings on a training, from the rows of metrics.jsonl: too few iterations, a long set-up; and where no audit
    looked for what the flow has lost, no annealing."""
    if not metrics:
        return []
    found, first, last = [], metrics[0], metrics[-1]
    count, seconds, spent = (last.get(key) or 0 for key in ("iteration", "seconds", "spent"))
    if count < FEW_ITERATIONS:
        more = count - first["iteration"]  # than the first, which fills the buffer, too
        pace = (seconds - (first.get("seconds") or 0)) / more if more else seconds
        found.append(
            Finding(
                BAD,
                f"{count:.0f} iteration{'' if count == 1 else 's'}: too few to learn from",
                f"Give --minutes {_two_digits(ENOUGH_ITERATIONS * pace / 60)} or more, with --resume to go on from "
                f"here: that is some {ENOUGH_ITERATIONS:,} iterations.",
            )
        )
    annealed = [row["ess_ais"] for row in metrics if "ess_ais" in row]
    if not audited and annealed and not any(ess is not None and math.isfinite(ess) for ess in annealed):
        found.append(
            Finding(
                CARE,
                "Nothing was annealed",
                "Training did not come to FAB, whose annealing finds states that the flow has lost or never had: those "
                "leave no trace in the weights. Train longer, audit the ensemble, or compare with dynamics.",
            )
        )
    powers = [row["lam"] for row in metrics if (row.get("ess_ais") or math.nan) > 0 and row.get("lam") is not None]
    if powers and (lam := float(np.median(powers[-LATEST:]))) < 1.0:
        found.append(
            Finding(
                CARE,
                f"Annealed weights were still raised to the power {lam:.2g} at the end",
                "Too few annealed samples count for the whole way to p^2/q: the flow was trained towards less than "
                "that. Train longer, or anneal through more densities (intermediate).",
            )
        )
    setup = math.fsum(row.get("setup") or 0 for row in metrics)
    planned = seconds / spent if spent else seconds
    if setup > LONG_SETUP * planned > 0:
        found.append(
            Finding(
                GOOD,
                f"Set-up took {duration(setup)}, besides the {duration(planned)} of training",
                "What was compiled is kept: the next run is quicker.",
            )
        )
    return found


def usable(found: Sequence[Finding]) -> Finding:
    """Verdict on whether the numbers may be used, in one sentence: the worst of the findings."""
    grade = worst(f.grade for f in found)
    names = "; ".join(f.head for f in found if f.grade == grade)
    if grade == GOOD:
        return Finding(GOOD, "These weights can be relied on.", "Every check below passed.")
    if grade == CARE:
        return Finding(CARE, "Usable with care.", names)
    return Finding(BAD, "Do not use these numbers yet.", names)


def _khat(khat: float) -> Finding:
    if math.isnan(khat):
        return Finding(
            BAD, "k-hat cannot be estimated: do not use", "There are too few samples with a weight: draw more."
        )
    if khat < KHAT_RELIABLE:
        return Finding(
            GOOD, f"k-hat {khat:.2f}: reliable", "The tail of the weights is thin enough for averages and their errors."
        )
    if khat <= KHAT_LIMIT:
        return Finding(
            CARE,
            f"k-hat {khat:.2f}: usable, errors are underrated",
            "The variance of the weights is infinite (k-hat above 0.5): averages converge, but slower than their error "
            "bars say. Train longer.",
        )
    return Finding(
        BAD,
        f"k-hat {khat:.2f}: do not use",
        f"Above {KHAT_LIMIT:g} a few samples to come would change every average: the flow is too thin somewhere the "
        "molecule goes. Train longer; more samples will not help.",
    )


def _ess(ensemble: Ensemble) -> list[Finding]:
    share, count, clipped = ensemble.ess_fraction, ensemble.ess, ensemble.ess_clipped
    head = f"ESS {_percent(share)}, {count:,.0f} of {ensemble.n:,}"
    raw = f"With the largest {CLIP_FRACTION:g} of the weights clipped it is {clipped:,.0f}."
    if share < POOR_SHARE:
        because = (
            f"Because only one sample in {1 / share:,.0f} counts: the flow is far from the molecule, and what it has "
            "not found leaves no trace in the weights. Train longer, or with more layers."
        )
        return [Finding(BAD, f"{head}: do not use", because)]
    if count < FEW:
        because = f"Because fewer than {FEW:g} effective samples leave even the error bars uncertain. Draw more. {raw}"
        return [Finding(BAD, f"{head}: do not use", because)]
    if share < 10 * POOR_SHARE:
        because = f"Enough samples count, but the flow wastes most: train longer before trusting rare basins. {raw}"
        return [Finding(CARE, f"{head}: low", because)]
    return [Finding(GOOD, f"{head}: good", raw)]


def _largest(ensemble: Ensemble) -> Finding:
    largest = float(ensemble.weights.max())
    head = f"The heaviest sample has {_percent(largest)} of all weight"
    if largest > BIG_WEIGHT:
        return Finding(BAD, head, "One structure decides the averages. Train longer; look at it in the viewer below.")
    return Finding(GOOD, head, "No single structure decides the averages.")


def _invalid(ensemble: Ensemble) -> Finding:
    share = ensemble.invalid / ensemble.n
    head = f"{ensemble.invalid:,} of {ensemble.n:,} samples have no finite energy"
    if share > 0.01:
        return Finding(CARE, head, "They have weight zero and are counted. So many hint at clashes: train longer.")
    return Finding(GOOD, head, "They have weight zero and are counted." if ensemble.invalid else "None was left out.")


def _range(metrics: Sequence[Mapping[str, Any]]) -> list[Finding]:
    row = next((m for m in reversed(metrics) if m.get("outside_weight") is not None), None)
    if row is None:
        return []
    weight = max(row["outside_weight"], row.get("annealed_outside") or 0.0)
    head = f"{_percent(weight)} of the weight lies beyond the splines' range"
    if weight > OUTSIDE_LIMIT:
        return [
            Finding(
                CARE,
                head,
                "There the flow cannot follow the energy. Raise coordinates.inflate, or give coordinates made from a "
                "trajectory.",
            )
        ]
    return [Finding(GOOD, head, "The stiff coordinates fit into the range that the flow can shape.")]


def _cut(metrics: Sequence[Mapping[str, Any]]) -> list[Finding]:
    share = next((m["annealed_above_cut"] for m in reversed(metrics) if m.get("annealed_above_cut") is not None), 0.0)
    if share <= ABOVE_CUT:
        return []
    because = (
        "Training counts what lies above the cut logarithmically, and so rates these structures as more probable than "
        "they are; the weights of the samples do not. Train longer; else raise energy_cut."
    )
    return [Finding(CARE, f"{_percent(share)} of the annealed weight lies above the energy cut", because)]


def _lost(metrics: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Basins that the replay buffer holds and the flow does not draw, when training last looked."""
    lost = next((int(m["lost_basins"]) for m in reversed(metrics) if m.get("lost_basins") is not None), None)
    if lost is None:
        return []
    if lost:
        return [
            Finding(
                BAD,
                f"{lost} torsional basin{'s' if lost > 1 else ''} that annealing found {'are' if lost > 1 else 'is'} "
                "not sampled",
                "The replay buffer of training holds structures where the flow draws none; the weights cannot show "
                "that. Train longer.",
            )
        ]
    because = "The flow lost none that annealing brought back. What the coordinates exclude annealing does not reach."
    return [Finding(GOOD, "Every torsional basin in the replay buffer is sampled", because)]


def _audit(ensemble: Ensemble) -> list[Finding]:
    return [] if ensemble.audit is None else [ensemble.audit.finding]


def _agreement(comparison: Comparison | None, audit: Audit | None) -> Finding:
    blind = "A basin that the flow never visits leaves no trace in the weights"
    if comparison is None:
        shown = (
            "only an independent simulation can show it"
            if audit is None
            else "the audit looks for minima, not for what they hold"
        )
        return Finding(CARE, "No reference to compare with", f"{blind}: {shown}.")
    items = [(item.name, item.verdict) for item in comparison.basins]
    items += [(item.name, item.verdict) for item in comparison.torsions]
    judged = [(name, verdict) for name, verdict in items if verdict not in NO_VERDICTS]
    if not judged:
        if any(verdict == NO_WEIGHTS for _, verdict in items):
            head = f"No verdict against {comparison.reference.name}: the weights cannot be used"
            return Finding(BAD, head, "Neither agreement nor contradiction follows from such weights.")
        return Finding(CARE, "Nothing could be judged", "There is no error bar, or there are too few samples inside.")
    apart = [name for name, verdict in judged if verdict.startswith(CONTRADICTION)]
    head = f"{len(judged) - len(apart)} of {len(judged)} basins and torsions do not contradict "
    head += comparison.reference.name
    unjudged = [name for name, _ in items if name not in {name for name, _ in judged}]
    rest = f" Not judged: {', '.join(unjudged)}." if unjudged else ""
    if apart:
        missing = any(
            item.verdict.startswith(("basin missing", "rest missing")) and "in the reference" not in item.verdict
            for item in comparison.basins
        )
        grade = BAD if missing or len(apart) > len(judged) / 4 else CARE
        head = f"{len(apart)} of {len(judged)} basins and torsions contradict {comparison.reference.name}"
        return Finding(grade, head, f"Beyond the errors, or missing: {', '.join(apart)}.{rest}")
    made = {name for projection in comparison.projections for name in projection.names}  # of the torsions above
    others = [c.name for c in comparison.coordinates if c.verdict.startswith(CONTRADICTION) and c.name not in made]
    if others:
        return Finding(CARE, f"{head}; {', '.join(others)} disagree", f"Is it the same force field?{rest}")
    return Finding(GOOD, head, f"{blind}; the reference found none that is missing.{rest}")


def _percent(share: float) -> str:
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %" if value >= 0.1 else f"{value:.2g} %"


def _two_digits(value: float) -> int:
    """Rounded up to two digits, and to a whole number from 1 on."""
    value = max(value, 1.0)
    step = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return step * math.ceil(value / step)
