"""The benchmark of ligands: it goes on where it was left, keeps what failed, and compares populations rightly."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pytest
from ensembles import two_basins

from benchmarks import ligands
from benchmarks.budgets import ProcessorTime

pytest.importorskip("rdkit")


def run(folder: Path, minutes: float = 2.0) -> dict:
    options = {"quick": False, "only": ["aspirin"], "parts": ["made", "trained", "sampled"], "preset": "smoke"}
    return ligands.measure(argparse.Namespace(folder=folder, minutes=minutes, replica_minutes=1.0, **options))


def test_parts_that_are_done_are_left_alone_and_failed_ones_are_made_again(tmp_path, monkeypatch) -> None:
    called: list[str] = []
    broken = {"trained"}

    def part(name: str):
        def work(bench: ligands.Bench) -> dict:
            called.append(name)
            if name in broken:
                raise ValueError(f"Expected {name}.")
            return {"atoms": 20, "torsions": 3} if name == "made" else {"minutes": bench.minutes}

        return work

    monkeypatch.setattr(ligands, "PARTS_OF", {name: part(name) for name in ligands.PARTS})
    figures = run(tmp_path)
    assert called == ["made", "trained"]  # nothing is sampled of what was not trained
    assert figures["molecules"]["aspirin"]["trained"]["failure"] == "ValueError: Expected trained."
    assert ligands.failure(figures) == "Failed: aspirin, trained."
    assert "| aspirin, 20, 3 | ValueError: Expected trained. |" in ligands.table(figures)

    broken.clear()
    called.clear()
    assert ligands.failure(run(tmp_path)) is None
    assert called == ["trained", "sampled"]
    called.clear()
    run(tmp_path)
    assert called == []
    run(tmp_path, minutes=3.0)  # longer: what was sampled of the shorter training is made anew
    assert called == ["trained", "sampled"]


def test_minutes_are_those_of_the_processor() -> None:
    budget = ProcessorTime(minutes=1.0, began=time.process_time() - 30.0)
    assert budget.spent(seconds=1e6, iterations=10**6, evaluations=10**6) == pytest.approx(0.5, abs=0.05)


def test_populations_are_compared_in_basins_that_both_have() -> None:
    a, same, other = (two_basins(4000, p, seed=k) for k, p in enumerate((0.3, 0.3, 0.5)))
    found = ligands.agreement(a, same)
    assert found["within two errors"] == len(found["rows"]) == 2
    assert found["rows"][0][0] == pytest.approx(0.7, abs=0.03)
    found = ligands.agreement(a, other)
    assert found["within two errors"] == 0
    assert found["total variation"] == pytest.approx(0.2, abs=0.03)


def test_shares_by_energy_take_the_lowest_minimum_of_each_basin() -> None:
    kinds, share = ligands.lowest(np.array([[1], [0], [1]]), np.array([5.0, 0.0, np.log(4.0)]))
    assert kinds.tolist() == [[0], [1]]
    assert share == pytest.approx([0.8, 0.2])
