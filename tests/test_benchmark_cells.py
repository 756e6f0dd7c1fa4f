"""Benchmarks in cells, calibration and race: they go on where they were stopped, and tables say what is wrong."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import calibration, pieces, race
from openmm_fab.weights import Estimate

TRUTH = (2.0, 0.01, "told")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pieces, "HERE", tmp_path)
    monkeypatch.setattr(pieces, "RESULTS", tmp_path / "results")
    return tmp_path


def options(module: object, *arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_options(parser)  # type: ignore[attr-defined]
    return argparse.Namespace(quick=False, **vars(parser.parse_args(arguments)))


def test_calibration_goes_on_where_it_was_stopped(places: Path) -> None:
    first = calibration.measure(options(calibration, "--target", "two_wells", "--seeds", "2"))
    assert list(first["cells"]) == ["two_wells 0", "two_wells 1"]
    again = calibration.measure(options(calibration, "--target", "two_wells", "--seeds", "3", "--minutes", "1"))
    assert again["cells"]["two_wells 1"] == first["cells"]["two_wells 1"] and len(again["cells"]) == 3
    none = calibration.measure(
        options(calibration, "--target", "two_wells", "--seeds", "3", "--minutes", "0", "--anew")
    )
    assert none["cells"] == {}
    assert "3 of 3" in calibration.table(again) or "2 of 3" in calibration.table(again)


def test_coverage_counts_what_was_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [(2.1, 0.1, True), (1.7, 0.1, True), (9.0, 0.1, False), (2.0, 0.1, True)]
    cells = {
        f"two_wells {k}": {"value": v, "error": e, "believed": b, "seconds": 1.0} for k, (v, e, b) in enumerate(values)
    }
    found = calibration.summary({"cells": cells, "truths": {"two_wells": [2.0, 0.0, ""]}})["two_wells"]
    assert (found["runs"], found["believed"], found["within"]) == (4, 3, 2)
    assert found["mean"] == pytest.approx(-2 / 3) and found["sd"] == pytest.approx(math.sqrt(13 / 3))


def test_truths_of_the_calibration_are_known() -> None:
    for target in calibration.TARGETS:
        value, error, source = calibration.truth(target)
        assert 0.5 < value < 7.0 and 0.0 <= error < 0.02 and source
    both = 1 / (1 + math.exp(calibration.truth("butane")[0]))
    half, _, _ = race.MOLECULES["butane"].truth()  # type: ignore[misc]
    assert 1 / (1 + math.exp(half)) == pytest.approx(both / 2)


def test_a_method_runs_until_its_error_and_no_longer(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def method(*_: object) -> Iterator[race.Step]:
        for k, error in enumerate((0.3, 0.09, 0.06, 0.04, 0.03)):
            made.append(k)
            yield Estimate(2.0 + error, error), 1000 * 2**k

    monkeypatch.setattr(race, "METHODS", {"langevin": method})
    monkeypatch.setattr(race, "MOLECULES", {"butane": race.Molecule("butane", lambda t: None, lambda: TRUTH)})  # type: ignore
    monkeypatch.setattr(race.fab.MolecularSystem, "load", lambda name: SimpleNamespace())
    figures = race.measure(SimpleNamespace(**_race()))
    (cell,) = figures["cells"].values()
    assert made == [0, 1, 2, 3]
    assert (cell["0.1"]["error"], cell["0.05"]["error"]) == (0.09, 0.04)
    assert (cell["0.1"]["evaluations"], cell["0.05"]["evaluations"]) == (2000, 8000)
    race.measure(SimpleNamespace(**_race()))
    assert len(made) == 4  # the cell is there
    race.measure(SimpleNamespace(**_race(anew=True, cap=0.0)))
    assert len(made) == 5


def _race(anew: bool = False, cap: float = 1e9) -> dict[str, object]:
    about = {"molecule": ["butane"], "method": ["langevin"], "folder": None, "seed": 0, "quick": False}
    return about | {"anew": anew, "cap": cap}


def test_the_table_says_which_errors_are_wrong() -> None:
    step = {"cpu": 10.0, "wall": 11.0, "evaluations": 1e5, "value": 2.05, "error": 0.09}
    wrong = {**step, "value": 2.5, "error": 0.04}
    cells = {
        "butane flow": {"0.1": step | {"second": {"cpu": 1.0}}, "0.05": wrong | {"believed": False}},
        "butane langevin": {"0.1": step, "stopped": wrong | {"error": 0.07}},
    }
    text = race.table({"cells": cells, "truths": {"butane": list(TRUTH)}})
    flow, langevin = text.splitlines()[-2:]
    assert (
        "10, 11, 1e+05, +0.05 |" in flow and "+0.50, WRONG: 12 errors; not believed" in flow and flow.endswith("| 1 |")
    )
    assert "not in 10 s: 0.07 kT" in langevin and langevin.endswith("| as much |")
    assert "Not run yet: alanine_dipeptide" in text
