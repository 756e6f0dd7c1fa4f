"""What an audit found is written where the ensemble goes: reports, comparisons, findings."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ensembles import two_basins

from openmm_fab.comparison.comparing import compare
from openmm_fab.ensemble.audit import TITLE, Audit, State
from openmm_fab.report.html import report_html
from openmm_fab.report.words import findings

LOST = State("C2-C3 at 65°", "missing", 1.7, 0.12, 0.0, x=((0.0, 0.1, 0.2),))
KEPT = State("ACE1:C-ALA2:N at 0°", "excluded", 2.0, 0.1, 0.0, barrier=31.0)
HERE, THIN = State("as most of the weight", "covered", 0.0, 0.88, 0.9), State("C1-C2 at 9°", "rare", 9.0, 1e-4, 0.0)


def audit(*states: State, exhausted: bool = True) -> Audit:
    return Audit(states, bound=0.003, evaluations=12_000, seconds=3.2, exhausted=exhausted)


@pytest.mark.parametrize(
    "states, grade, words",
    [
        ((LOST, HERE, KEPT), "bad", "1 state is missing: some 12 % of the weight"),
        ((LOST, LOST, HERE), "bad", "2 states are missing: some 24 % of the weight"),
        # One to ten: a share of 1 / 11.
        ((HERE, KEPT, THIN), "care", "1 state kept out by choice would hold some 9.1 % of the weight"),
        ((HERE, replace(KEPT, due=1e-3), THIN), "good", "No state is missing that walkers on the energy reach"),
    ],
)
def test_the_verdict(states, grade, words) -> None:
    found = audit(*states)
    assert (found.finding.grade, found.finding.head) == (grade, words)
    assert ("longer one" in audit(HERE, exhausted=False).finding.because) and "longer one" not in found.finding.because
    ensemble = two_basins(300, 0.3, seed=0, audit=found)
    assert found.finding in findings(ensemble)


def test_too_few_effective_samples_are_no_verdict() -> None:
    few = replace(audit(HERE, THIN), bound=3.0 / 99.0)
    assert few.finding.grade == "care" and few.finding.head.startswith("No verdict on missing states")
    assert "missing" not in few.counts.replace("no verdict on what is missing", "") and "0 missing" not in repr(few)
    enough = replace(few, bound=3.0 / 100.0)
    assert enough.finding.grade == "good" and enough.counts.endswith("0 missing")
    assert replace(audit(LOST), bound=0.5).finding.grade == "bad"  # what is missing for certain


def test_the_table_has_what_is_missing_first() -> None:
    found = audit(THIN, HERE, KEPT, LOST)
    assert [row[0] for row in found.rows()] == ["missing", "covered", "excluded", "rare"]
    assert found.rows()[0][4] == "0 (< 0.3)" and found.rows()[2][5] == "31"
    assert "1 rare (below 0.3 % of the weight each)" in found.counts
    assert str(Audit.from_json(found.to_json()).states) == str(found.states)
    with pytest.raises(ValueError, match="Expected a verdict out of"):
        State("a", "lost", 0.0, 0.0, 0.0)


def test_reports_and_comparisons_say_it() -> None:
    ensemble = two_basins(300, 0.3, seed=0, name="flow", audit=audit(HERE, LOST))
    reference = two_basins(300, 0.3, seed=1)
    assert "flow: 1 state is missing" in compare(ensemble, reference, n_bootstrap=5).words()
    page = report_html(ensemble)
    section = page[page.index(f"<h2>{TITLE}</h2>") :]
    section = section[: section.index("</section>")]
    assert section.count("<tr>") == 3 and "C2-C3 at 65°" in section and "12,000 energies" in section
    assert "Do not use these numbers yet" in page and TITLE not in report_html(reference)
