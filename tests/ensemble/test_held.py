"""What was held fixed is written where the ensemble goes: files, slices, copies, words."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from ensembles import flat, two_basins

from openmm_fab.comparison.comparing import compare
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.ensemble.held import COSTS, TITLE, UNKNOWN, Held, from_json, in_full, in_one_line, to_json
from openmm_fab.report.html import report_html

HELD = (
    Held("peptide bond", "ALA2:C-PRO3:N", "trans", "cis", energy=math.log(9.0)),
    Held("peptide bond", "PRO3:C-NME4:N", "trans", "cis"),
    Held("stereocentre", "ALA2:CA", "the chirality given", "the opposite"),
)
LINE = "held fixed: 2 peptide bonds, 1 stereocentre"


def test_it_goes_where_the_frames_go(tmp_path) -> None:
    ensemble = two_basins(200, 0.3, seed=0, held=HELD)
    assert LINE in repr(ensemble) and "\n" not in repr(ensemble)
    for part in (ensemble[:50], ensemble[np.arange(200) % 2 == 0], ensemble.resample(30), replace(ensemble, name="b")):
        assert part.held == HELD
    assert str(Ensemble.load(ensemble.save(tmp_path / "a.npz")).held) == str(HELD)  # nan is not nan
    nothing, unknown = flat(3, held=()), flat(3)
    assert "held fixed: nothing" in repr(nothing) and "held" not in repr(unknown)
    assert Ensemble.load(nothing.save(tmp_path / "b")).held == ()
    assert Ensemble.load(unknown.save(tmp_path / "c")).held is None


def test_the_cost_is_that_of_two_states() -> None:
    # Nine to one: the other side would hold a tenth.
    assert HELD[0].missing == pytest.approx(0.1) and math.isnan(HELD[1].missing)
    first, second, third, *sentences = in_full(HELD).splitlines()[2:]
    assert "2.2 (some 10 % of the weight)" in first and first.split()[-2:] == UNKNOWN.split()
    assert second.count(UNKNOWN) == 2 and UNKNOWN not in third
    assert [s.split(":")[0] for s in sentences] == ["peptide bond", "stereocentre"]
    assert in_one_line([replace(HELD[0], kind=kind) for kind in COSTS]).count(", 1 ") == len(COSTS) - 1
    assert str(from_json(to_json(HELD))) == str(HELD)
    with pytest.raises(ValueError, match="Expected a kind out of"):
        Held("bond", "a-b", "as given", "turned")


def test_reports_and_comparisons_say_it() -> None:
    ensemble, reference = two_basins(300, 0.3, seed=0, name="flow", held=HELD), two_basins(300, 0.3, seed=1)
    assert f"flow: {LINE}" in compare(ensemble, reference, n_bootstrap=5).words()
    page = report_html(ensemble)
    section = page[page.index(f"<h2>{TITLE}</h2>") :]
    section = section[: section.index("</section>")]
    assert section.count("<tr>") == 1 + len(HELD) and "PRO3:C-NME4:N" in section and "before proline" in section
    assert TITLE not in report_html(reference)
    assert "Nothing is held." in report_html(replace(reference, held=()))
