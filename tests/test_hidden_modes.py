"""Weights know nothing of a mode that the flow never visits: whoever knows better says so."""

from __future__ import annotations

from dataclasses import replace

import mdtraj
import numpy as np
import pytest
from ensembles import butane

from openmm_fab.comparison.comparing import compare
from openmm_fab.report.words import findings, usable
from openmm_fab.tools.findings import BAD, GOOD

ROWS = [{"iteration": 100, "lost_basins": 1.0}, {"iteration": 200, "lost_basins": 0.0}]


def flow(n: int, gauche: float, seed: int = 0):
    """As a flow that is good wherever it goes: a raw ESS of 70 %, a thin tail."""
    log_w = 0.6 * np.random.default_rng(seed).normal(size=n)
    return replace(butane(n, gauche, seed, name="flow"), log_w=log_w)


def test_a_mode_that_the_flow_never_visits() -> None:
    """All that the weights say is good; the reference knows of a third of the distribution more."""
    ensemble = flow(4000, 0.0)
    assert ensemble.ess_fraction == pytest.approx(0.7, abs=0.03) and ensemble.khat < 0.5
    alone = findings(ensemble)
    assert [f.grade for f in alone[:-1]] == [GOOD] * (len(alone) - 1)
    assert usable(alone).grade != GOOD  # nothing to compare with
    result = compare(ensemble, butane(4000, 0.17, seed=1, name="md"), n_bootstrap=30)
    gauche = [b for b in result.basins if not b.name.endswith("at 180°")]
    assert len(gauche) == 2 and all(b.verdict.startswith("basin missing") for b in gauche)
    assert "basin missing" in result.table()
    found = findings(ensemble, result)
    assert found[-1].grade == BAD and all(b.name in found[-1].because for b in gauche)
    assert usable(found).head == "Do not use these numbers yet."


def test_the_measured_case_a_rare_basin_at_a_third_of_its_share() -> None:
    """As measured: raw ESS 70 %, and 0.07 % where 0.24 % should be; the difference is beyond its error."""
    ensemble, md = flow(25_600, 0.0004), butane(25_600, 0.0012, seed=1, name="md")
    assert ensemble.ess_fraction > 0.65
    result = compare(ensemble, md, basins={"gauche": _gauche}, n_bootstrap=30)
    (basin,) = result.basins
    assert basin.verdict.startswith("disagree") and abs(basin.z) > 3
    found = findings(ensemble, result)
    assert found[-1].grade != GOOD and "gauche" in found[-1].because


def _gauche(trajectory: mdtraj.Trajectory) -> np.ndarray:
    return np.abs(mdtraj.compute_dihedrals(trajectory, [[0, 1, 2, 3]], periodic=False)[:, 0]) < 2.0


def test_a_basin_that_training_lost_is_in_the_report() -> None:
    ensemble = flow(1000, 0.1)
    for rows, grade in ((ROWS, GOOD), (ROWS[:1], BAD), ([*ROWS, {"iteration": 300}], GOOD)):
        (found,) = (f for f in findings(ensemble, None, metrics=rows) if "torsional basin" in f.head)
        assert found.grade == grade
    assert not any("torsional basin" in f.head for f in findings(ensemble))
