"""What made a result, and that TOML reads back what was written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import openmm_fab as fab
from openmm_fab.tools.provenance import command, commit_of, provenance
from openmm_fab.tools.toml import to_toml, tomllib

pytestmark = pytest.mark.base

ROOT = Path(__file__).parents[2]


def test_the_version_is_that_of_the_project() -> None:
    assert fab.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_what_made_a_result(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/openmm-fab", "run", "my molecule.pdb"])
    made = provenance("cpu")
    assert made["command"] == "openmm-fab run 'my molecule.pdb'"
    assert (made["openmm_fab"], made["torch"].split("+")[0]) == (fab.__version__, torch.__version__.split("+")[0])
    assert made["numpy"] == np.__version__ and made["device"] == "cpu" and "OMP_NUM_THREADS" in made["threads"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/openmm_fab/__main__.py", "train", "butane"])
    assert command() == "python -m openmm_fab train butane"
    assert {"openmm", "mdtraj", "Python", "machine", "date"} < made.keys()


def test_the_commit_of_a_checkout(tmp_path) -> None:
    assert commit_of(tmp_path) == ""
    (tmp_path / "openmm_fab").mkdir()
    file = tmp_path / "openmm_fab" / "a.py"
    file.write_text("1\n")

    def git(*arguments: str) -> str:
        named = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *named, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "a")
    head = git("rev-parse", "HEAD")
    assert commit_of(tmp_path) == head
    file.write_text("2\n")
    assert commit_of(tmp_path) == f"{head}, with changes"


@pytest.mark.parametrize(
    "values",
    [
        {"a": 1, "b": 2.5, "c": 'it\'s "quoted", a \\ and ü\n', "d": [1, 2], "e": True, "f": []},
        {"a": 1e-300, "t": {"x": [["a", "b"]], "u": {"v": 1.0, "a key": "b.c"}}, "w": {"x": {"y": 3}}, "z": 1},
    ],
)
def test_toml_reads_back(values) -> None:
    assert tomllib.loads(to_toml(values)) == values


def test_toml_leaves_none_out() -> None:
    assert tomllib.loads(to_toml({"a": None, "b": {"c": None}, "d": 1})) == {"d": 1}
