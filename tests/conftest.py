"""What every test may use.

There is no global seed: a test that needs random numbers makes its own torch.Generator or numpy Generator.
"""

from __future__ import annotations

import os

# Plots are drawn into files, and no test waits for a window.
os.environ.setdefault("MPLBACKEND", "Agg")

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
from examples import chain
from openmm import app

from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.molecule import forcefields
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.tools.memory import keep_freed_memory

# As early as it can be: batches of the same size come and go in every test.
keep_freed_memory()


@pytest.fixture(scope="session")
def alanine_dipeptide() -> MolecularSystem:
    """Alanine dipeptide from `systems/`, 22 atoms. Shared by all tests: do not change it."""
    return MolecularSystem.load("alanine_dipeptide")


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> MolecularSystem:
    """The chain of five beads in `examples`, at 300 K. Shared by all tests that have no system of their own."""
    return chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="session")
def energy(system: MolecularSystem) -> Iterator[OpenMMEnergy]:
    """u(x) of the chain, by OpenMM's Reference platform."""
    with OpenMMEnergy(system, platform="Reference", workers=1) as energy:
        yield energy


_read_forcefield = forcefields.read_forcefield


@cache
def _forcefield(files: tuple[str, ...], contents: tuple[bytes | None, ...]) -> app.ForceField:
    return _read_forcefield(files)


def _forcefield_once(files: Sequence[str]) -> app.ForceField:
    names = tuple(map(str, files))
    return _forcefield(names, tuple(Path(name).read_bytes() if Path(name).is_file() else None for name in names))


@pytest.fixture(scope="module")
def force_fields_are_read_once() -> Iterator[None]:
    """For a module that reads the same ones in many tests, and has no `residueTemplates`, which stay in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forcefields, "read_forcefield", _forcefield_once)
        yield
