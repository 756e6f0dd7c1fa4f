"""HTML of the report, made of findings, tables, figures and structures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..comparison.verdicts import AGREE
from ..drawing.structures import elements_and_bonds
from ..ensemble.audit import COLUMNS as AUDIT_COLUMNS
from ..ensemble.audit import TITLE as AUDIT_TITLE
from ..ensemble.held import COLUMNS, TITLE, costs
from ..ensemble.pictures import draw_structures
from ..generator.outcome import COLUMNS as OUTCOME_COLUMNS
from ..generator.outcome import Outcome
from ..tools.files import write_atomically
from ..tools.findings import BAD, CARE, GOOD
from ..tools.provenance import provenance
from . import figures, page
from .conformers import conformers_of
from .glossary import WORDS
from .templates import MARKS, now, render
from .viewer import ngl_library
from .words import CONTRADICTION, findings, usable

if TYPE_CHECKING:
    from ..comparison.comparison import Comparison
    from ..comparison.results import BasinComparison
    from ..ensemble.ensemble import Ensemble


MOST_STATES = 20  # of an audit
MOST, MOST_EARLY = 4, 2  # profiles, in a report and in an early one


def write_report(
    path: str | Path,
    ensemble: Ensemble,
    *,
    comparison: Comparison | None = None,
    outcome: Outcome | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    settings: Mapping[str, Any] | None = None,
    title: str = "",
    early: str = "",
) -> Path:
    """Write `report_html` to a file; returns its path."""
    about: dict[str, Any] = {"outcome": outcome, "metrics": metrics, "settings": settings}
    text = report_html(ensemble, comparison, title=title, early=early, **about)
    return write_atomically(path, lambda file: file.write(text), "w")


def report_html(
    ensemble: Ensemble,
    comparison: Comparison | None = None,
    *,
    outcome: Outcome | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    settings: Mapping[str, Any] | None = None,
    title: str = "",
    early: str = "",
) -> str:
    """HTML of the report, with scripts, figures and structures included.

    Parameters
    ----------
    ensemble : Ensemble
        Of a flow, with weights.
    comparison : Comparison, optional
        With reference MD; without one there are no verdicts on basins.
    outcome : Outcome, optional
        Of a run until an error, `BoltzmannGenerator.run`.
    metrics : sequence of dict
        Rows of metrics.jsonl, for the learning curves.
    settings : dict, optional
        Of the run, shown as they are. Its "physics" (force field and solvent) stands at the head, and its "made_with",
        or else `tools.provenance.provenance` of this process, says what made the result.
    early : str
        Of a run that goes on, how far it is: "after 1.0 of 18 minutes of training". The page says so, and how old it
        is, and reloads itself until `end_reloading`. It has only the figures that tell most, as training waits for
        them.
    """
    found = findings(ensemble, comparison, metrics=metrics)
    found = found if outcome is None else [outcome.finding, *found]
    given, reference = settings or {}, None if comparison is None else comparison.reference
    held, several = ensemble.held, given.get("temperatures", ())
    at = "One flow of the temperatures {} K; this page is of {:g} K."
    return render(
        "report.jinja",
        name=title or ensemble.name,
        about=_about(ensemble, given.get("physics", "")),
        early=early and early_in_words(early),
        written=f"{datetime.now(timezone.utc).timestamp():.0f}",
        verdict=usable(found),
        found=found,
        weights=[] if early else [figures.weight_figure(ensemble)],
        outcome=outcome,
        outcome_columns=OUTCOME_COLUMNS,
        held=held,
        held_title=TITLE,
        held_columns=COLUMNS,
        costs=costs(held or ()),
        turning=given.get("turning", ""),
        audit=ensemble.audit,
        audit_title=AUDIT_TITLE,
        audit_columns=AUDIT_COLUMNS,
        most_states=MOST_STATES,
        comparison=comparison,
        basins=[] if comparison is None else [_basin(basin) for basin in comparison.basins],
        ramachandrans=figures.ramachandrans(ensemble, reference, unweighted=not early),
        profiles=figures.profile_figures(ensemble, comparison, MOST_EARLY if early else MOST),
        conformers=conformers_of(ensemble) if not early else {},
        **_structures(ensemble, bool(early)),
        training=_training(metrics),
        temperatures=several and at.format(", ".join(f"{t:g}" for t in several), ensemble.temperature),
        learning=figures.learning_figures(metrics),
        made=[(name, str(value)) for name, value in (given.get("made_with") or provenance()).items()],
        settings=settings and json.dumps(settings, indent=2),
        glossary=WORDS,
    )


def early_in_words(early: str) -> str:
    """Sentence about results of a run that still goes on."""
    return f"Early: {early}; while the run goes on it is rewritten as the ensemble gets better."


def end_reloading(path: Path) -> None:
    """Rewrite a page that reloads itself as one that does not; other pages are left alone."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    first, script, rest = text.partition(page.RELOAD)
    if script:
        write_atomically(path, lambda file: file.write(first + rest), "w")


def _basin(basin: BasinComparison) -> tuple[list[str], tuple[str, str]]:
    """Cells of a basin, and its verdict with a grade."""
    numbers = [side.number for side in (basin.flow, basin.ensemble, basin.reference)]
    z = f"{basin.z:+.1f}" if np.isfinite(basin.z) else "-"
    cells = [basin.name, *numbers, z, f"{basin.ensemble.effective:,.0f}"]
    verdict, _, doubt = basin.verdict.partition(";")  # doubt: k-hat, which the cards above tell
    grade = BAD if verdict.startswith(CONTRADICTION) else CARE if doubt or verdict != AGREE else GOOD
    return cells, (f"{MARKS[grade]} {verdict}", grade)


def _about(ensemble: Ensemble, physics: str) -> str:
    residues = {atom.residue.name for atom in ensemble.topology.atoms}
    return (
        f"{ensemble.topology.n_atoms} atoms ({', '.join(sorted(residues))}), {ensemble.temperature:g} K, "
        f"{ensemble.n:,} samples{f'; {physics}' if physics else ''}. Written {now()}."
    )


def _training(metrics: Sequence[Mapping[str, Any]]) -> str:
    if not metrics:
        return ""
    last = metrics[-1]
    parts = [
        (f"{last['iteration']:,.0f} iteration{'' if last['iteration'] == 1 else 's'}", "iteration"),
        (f"{last.get('evaluations') or 0:,.0f} energy evaluations", "evaluations"),
        (f"{(last.get('seconds') or 0) / 60:.1f} minutes", "seconds"),
        (f"acceptance {100 * (last.get('acceptance') or 0):.0f} %", "acceptance"),
        (f"step size {last.get('step_size') or 0:.3g}", "step_size"),
    ]
    return ", ".join(text for text, key in parts if last.get(key) is not None)


def _structures(ensemble: Ensemble, brief: bool) -> dict[str, Any]:
    """What the viewer shows, and a picture for where it does not start; `brief`: either of them."""
    structures, (library, about) = draw_structures(ensemble), ngl_library()
    why = "The structure drawn most often, and the others behind it." if library else f"No 3-D viewer: {about}"
    picture = ""
    if not (brief and library):
        picture = figures.structure_picture(structures.x, *elements_and_bonds(ensemble.topology))
    return {"structures": structures, "library": library, "licences": about, "why": why, "picture": picture}
