"""What `openmm-fab run --error` says of molecular dynamics, by the energies that the race has recorded."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from openmm_fab.cli import instead
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.generator.outcome import Outcome, Row
from openmm_fab.molecule.system import MolecularSystem

PACE = 1e-5  # s


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    energies = {"metadynamics": {"a": 2e6, "b": 4e6}, "walkers-exchange": {"a": 1e7}}
    path = tmp_path / "race.json"
    path.write_text(json.dumps({"energies": energies}))
    monkeypatch.setattr(instead, "RECORDED", path)
    monkeypatch.setattr(instead, "seconds_of_a_step", lambda system, method: PACE)


def outcome(seconds: float, reached: float, takes: float = math.nan) -> Outcome:
    row = Row("basin", 1.0, reached, 0.1, 100.0, 0.2)
    return Outcome(0.05, (row,), (), "plain", 1000, {"training": seconds}, 1, takes, ())


@pytest.mark.usefixtures("told")
def test_the_cheaper_one_is_named() -> None:
    """4e6 energies for 0.1 kT are 16e6 for 0.05, 160 s; of several torsions exchanges take 4e7, 400 s."""
    small, large = (MolecularSystem.load(name) for name in ("butane", "alanine_tetrapeptide"))
    for system, method, seconds in ((small, "metadynamics", 160.0), (large, "walkers-exchange", 400.0)):
        generator = SimpleNamespace(system=system, energy=CompiledEnergy(system))
        assert instead.dynamics_instead(outcome(0.9 * seconds, 0.04), generator) is None  # type: ignore[arg-type]
        found = instead.dynamics_instead(outcome(1.1 * seconds, 0.04), generator)  # type: ignore[arg-type]
        assert found is not None and method in found.head and method in found.because
        # Not reached: what it would take counts; what nobody can say is no reason to go on.
        far = outcome(0.9 * seconds, 0.2, 1.1 * seconds)
        assert instead.dynamics_instead(far, generator) is not None  # type: ignore[arg-type]
        near = outcome(0.5 * seconds, 0.2, 0.9 * seconds)
        assert instead.dynamics_instead(near, generator) is None  # type: ignore[arg-type]
        assert instead.dynamics_instead(outcome(1.0, math.nan, math.inf), generator) is not None  # type: ignore[arg-type]


@pytest.mark.usefixtures("told")
def test_walkers_need_a_translated_energy() -> None:
    generator = SimpleNamespace(system=MolecularSystem.load("butane"), energy=lambda x: x)
    assert instead.dynamics_instead(outcome(1e6, 0.04), generator) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["metadynamics", "walkers-exchange"])
def test_pace_of_dynamics(method: str) -> None:
    """A step takes longer than its energy alone, and no more than a hundred times as long."""
    system = MolecularSystem.load("butane")
    energy, x = (
        CompiledEnergy(system).value_and_gradient,
        torch.from_numpy(system.positions).float().expand(256, -1, -1),
    )
    energy(x)
    started = time.process_time()
    for _ in range(5):
        energy(x)
    alone = (time.process_time() - started) / (5 * 256)
    assert alone < instead.seconds_of_a_step(system, method) < 100 * alone
