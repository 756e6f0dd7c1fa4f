"""HTML of the report, made of findings, tables, figures and structures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..comparison.verdicts import AGREE
from ..drawing.structures import Structures, elements_and_bonds
from ..ensemble.audit import COLUMNS as AUDIT_COLUMNS
from ..ensemble.audit import TITLE as AUDIT_TITLE
from ..ensemble.held import COLUMNS, TITLE, costs
from ..ensemble.pictures import draw_structures
from ..generator.outcome import COLUMNS as OUTCOME_COLUMNS
from ..generator.outcome import Outcome
from ..tools.files import write_atomically
from ..tools.findings import BAD, CARE, GOOD, Finding
from ..tools.provenance import provenance
from . import figures, page
from .conformers import LEAD, conformer_table
from .glossary import WORDS
from .tables import html_table
from .viewer import ngl_library
from .words import CONTRADICTION, findings, usable

if TYPE_CHECKING:
    from ..comparison.comparison import Comparison
    from ..comparison.results import BasinComparison
    from ..ensemble.ensemble import Ensemble


MOST_STATES = 20  # of an audit
MOST, MOST_EARLY = 4, 2  # profiles, in a report and in an early one
MARKS = {GOOD: "✓", CARE: "!", BAD: "✗"}


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
    reference = None if comparison is None else comparison.reference
    made = (settings or {}).get("made_with") or provenance()
    name = title or ensemble.name
    sections = [
        _section(
            "Can these numbers be used?",
            _cards(found) + ("" if early else _figure([figures.weight_figure(ensemble)])),
        ),
        outcome_section(outcome),
        _section(TITLE, _held(ensemble), (settings or {}).get("turning", "")),
        _section(AUDIT_TITLE, _audit(ensemble)),
        _section("Basins", _basins(comparison)),
        _section(
            "Ramachandran plots",
            _figure(figures.ramachandrans(ensemble, reference, unweighted=not early)),
            "Free energy over φ and ψ, cut at 8 kT; where nothing was sampled the plot is empty. "
            f"{'The ensemble' if early else 'The flow as it is, then'} with its weights, then the reference if there "
            "is one.",
        ),
        _section(
            "Free energy along torsions",
            _figure(figures.profile_figures(ensemble, comparison, MOST_EARLY if early else MOST)),
            "Bands are two standard errors on either side.",
        ),
        "" if early else _conformers(ensemble),
        _structures(ensemble, bool(early)),
        _section(
            "Training",
            _training(metrics) + _figure(figures.learning_figures(metrics)),
            _temperatures((settings or {}).get("temperatures", ()), ensemble.temperature),
        ),
    ]
    if comparison is not None:
        sections.append(_section("Everything that was compared", _folded("Tables", comparison.table())))
    sections.append(_section("What made this", html_table((), [(name, str(value)) for name, value in made.items()])))
    if settings:
        sections.append(_section("Settings", _folded("As the run was started", json.dumps(settings, indent=2))))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(name)}: openmm_fab report</title>",
            '<link rel="icon" href="data:,">',
            f"<style>{page.CSS}</style></head><body>",
            _head(name, ensemble, usable(found), early, (settings or {}).get("physics", "")),
            *sections,
            _glossary(),
            "</body></html>",
        ]
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


def _early(early: str) -> str:
    if not early:
        return ""
    sentence, now = f"{early_in_words(early)} The last one has more figures.", datetime.now(timezone.utc).timestamp()
    return f'<p id="early" class="card care" data-written="{now:.0f}">{escape(sentence)} <span></span></p>{page.RELOAD}'


def _head(name: str, ensemble: Ensemble, verdict: Finding, early: str, physics: str) -> str:
    residues = {atom.residue.name for atom in ensemble.topology.atoms}
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    about = (
        f"{ensemble.topology.n_atoms} atoms ({', '.join(sorted(residues))}), {ensemble.temperature:g} K, "
        f"{ensemble.n:,} samples{f'; {physics}' if physics else ''}. Written {date}."
    )
    words = '<p class="soft"><a href="#glossary">What the words mean</a></p>'
    head = f'<h1>{escape(name)}</h1><p class="soft">{escape(about)}</p>'
    return f"<header>{head}{_early(early)}{_card(verdict)}{words}</header>"


def _temperatures(several: Sequence[float], own: float) -> str:
    if not several:
        return ""
    return f"One flow of the temperatures {', '.join(f'{t:g}' for t in several)} K; this page is of {own:g} K."


def _glossary() -> str:
    """Folded list of the words of the page."""
    rows = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in WORDS.items())
    listed = f'<details><summary>Glossary</summary><dl id="glossary">{rows}</dl></details>'
    return f"<section><h2>What the words mean</h2>{listed}</section>"


def _section(title: str, body: str, words: str = "") -> str:
    if not body:
        return ""
    return f"<section><h2>{escape(title)}</h2>{_soft(words) if words else ''}{body}</section>"


def _soft(words: str) -> str:
    return f'<p class="soft">{escape(words)}</p>'


def _card(finding: Finding) -> str:
    return (
        f'<div class="card {finding.grade}"><b class="mark">{MARKS[finding.grade]} {escape(finding.head)}</b>'
        f"{escape(finding.because)}</div>"
    )


def _cards(found: Iterable[Finding]) -> str:
    return f'<div class="grid">{"".join(map(_card, found))}</div>'


def _figure(drawings: Sequence[str]) -> str:
    if not drawings:
        return ""
    return f'<div class="grid">{"".join(f"<figure>{svg}</figure>" for svg in drawings)}</div>'


def _folded(summary: str, text: str) -> str:
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def outcome_section(outcome: Outcome | None) -> str:
    """HTML of the verdict's checks and the quantities of a run until an error; empty without one."""
    if outcome is None:
        return ""
    lead = _soft(
        "Free energy of a basin against all the rest, in kT, or the mean of an observable, ± one standard error. The "
        "samples were drawn after the decision to stop; the independent estimate is that of Markov chains."
    )
    table = html_table(OUTCOME_COLUMNS, [row.cells for row in outcome.rows])
    return _section("The errors that were asked for", f"{_cards(outcome.checks)}{lead}{table}")


def _held(ensemble: Ensemble) -> str:
    if ensemble.held is None:
        return ""
    if not ensemble.held:
        return "<p>Nothing is held.</p>"
    lead = _soft("As in the structure given: the weights say nothing of the other sides, and no error bar holds them.")
    words = "".join(f"<p>{escape(line)}</p>" for line in costs(ensemble.held))
    return f"{lead}{html_table(COLUMNS, [one.row for one in ensemble.held])}{words}"


def _audit(ensemble: Ensemble) -> str:
    audit = ensemble.audit
    if audit is None:
        return ""
    lead = _soft(
        "Walkers on the energy, hot and in Cartesian space, see what the coordinates exclude. Due: the share of the "
        "weight that a minimum's energy and Hessian ask for; here: the share that the ensemble has."
    )
    left = len(audit.states) - MOST_STATES
    more = f"<p>... and {left} more.</p>" if left > 0 else ""
    return (
        f"{lead}<p>{escape(audit.counts)}. {escape(audit.effort)}</p>"
        f"{html_table(AUDIT_COLUMNS, audit.rows(MOST_STATES))}{more}"
    )


def _basins(comparison: Comparison | None) -> str:
    if comparison is None or not comparison.basins:
        return ""
    head = ["basin", "unweighted", "reweighted", "reference", "z", "effective samples inside", "verdict"]
    rows, verdicts = zip(*map(_basin, comparison.basins), strict=True)
    words = "".join(f"<p>{escape(line)}</p>" for line in comparison.words().splitlines())
    lead = _soft(
        "Free energy of a basin against all the rest, in kT, ± one standard error. z: difference over its error."
    )
    return f"{words}{lead}{html_table(head, rows, last=verdicts)}"


def _basin(basin: BasinComparison) -> tuple[list[str], tuple[str, str]]:
    """Cells of a basin, and its verdict with a grade."""
    numbers = [side.number for side in (basin.flow, basin.ensemble, basin.reference)]
    z = f"{basin.z:+.1f}" if np.isfinite(basin.z) else "-"
    cells = [basin.name, *numbers, z, f"{basin.ensemble.effective:,.0f}"]
    verdict, _, doubt = basin.verdict.partition(";")  # doubt: k-hat, which the cards above tell
    grade = BAD if verdict.startswith(CONTRADICTION) else CARE if doubt or verdict != AGREE else GOOD
    return cells, (f"{MARKS[grade]} {verdict}", grade)


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
    shown = ", ".join(text for text, key in parts if last.get(key) is not None)
    return f"<p>{escape(shown)}.</p>" if shown else ""


def _conformers(ensemble: Ensemble) -> str:
    table, drawings = conformer_table(ensemble)
    return _section("Conformers", table + _figure(drawings), LEAD) if table else ""


def _structures(ensemble: Ensemble, brief: bool) -> str:
    """The viewer, and a picture for where it does not start; `brief`: either of them."""
    structures = draw_structures(ensemble)
    library, about = ngl_library()
    why = "The structure drawn most often, and the others behind it." if library else f"No 3-D viewer: {about}"
    picture = ""
    if not (brief and library):
        drawn = figures.structure_picture(structures.x, *elements_and_bonds(ensemble.topology))
        picture = f"<figure>{drawn}</figure>"
    still = f'<div id="picture"><p class="soft" id="why">{escape(why)}</p>{picture}</div>'
    lead = "Structures drawn by weight, superposed: what the molecule looks like at equilibrium."
    body = still if not library else _live(structures, library, about, still)
    return _section("Structures", body, lead)


def _live(structures: Structures, library: str, licences: str, still: str) -> str:
    where = "Click a point: its size is the structure's share of the draws." if structures.axes else ""
    return f"""{still}<div id="viewer" hidden><div id="canvas"></div><div id="controls">
<p class="soft">{where}</p><svg id="map" viewBox="-104 -94 204 204"></svg>
<p id="chosen"></p><label>Structure <input id="slider" type="range" min="0" value="0"></label>
<button id="next" type="button">Next</button>
<label><input id="all" type="checkbox" checked> show all, faintly</label>
<p class="soft">Drag to turn, wheel to zoom.</p></div></div>
<script type="application/json" id="structures-data">{structures.to_json()}</script>
<script>/*
{_comment(licences)}
*/
{_script(library)}</script>
<script>{page.VIEWER_JS}</script>"""


def _comment(text: str) -> str:
    return _script(text.replace("*/", "* /"))


def _script(text: str) -> str:
    """Text that does not end the <script> it stands in."""
    return text.replace("</script", "<\\/script")
