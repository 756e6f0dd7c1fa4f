"""Where the benchmarks and their figures are: modules by name, and records, a JSON file each, in results/.

A record has benchmark, title, command, machine, date, commit, and "figures", from which the benchmark's `table` makes
text. One whose benchmark has changed since has "tables" (columns, rows) and "notes" instead, as they were made then.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS, FIGURES, PAGE = HERE / "results", HERE / "figures", HERE / "RESULTS.md"
MODULES = {
    "main_job": "main_job",
    "energy": "energy",
    "own_energy": "own_energy",
    "refine": "refine",
    "coordinates": "coordinates",
    "conformers": "conformers",
    "ligands": "ligands",
    "populations": "populations",
    "flow": "flow",
    "ais": "ais",
    "outer_step": "outer_step",
    "scaling": "scaling",
    "gpu": "gpu",
    "ablations": "ablations",
    "paper": "paper.run",
    "free_energies": "free_energies",
    "temperatures": "temperatures",
    "hops": "hops",
    "calibration": "calibration",
    "race": "race",
    "bgflow_fab": "bgflow_fab",
    "cold_start": "cold_start",
    "steady": "steady",
    "reliability": "reliability",
    "mutation": "mutation",
}
Record = dict[str, Any]


def load(name: str) -> ModuleType:
    """The module of a benchmark."""
    return importlib.import_module(f".{MODULES[name]}", __package__)


def read() -> dict[str, Record]:
    """All records, by the names of their files."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json"))}
