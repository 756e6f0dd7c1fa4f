"""Memory of the translated energy; measured in a process of its own, which has had no larger peak before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource
from energy_systems import DATA, force_field
from forces import structures
from openmm import app
from openmm_fab.energy import CompiledEnergy
from openmm_fab.molecule.system import MolecularSystem

found = force_field("ala29", "amber14-all.xml", "implicit/obc2.xml")
topology = app.PDBFile(str(DATA / "peptide_ala29.pdb")).topology
energy = CompiledEnergy(MolecularSystem(topology, found.system, found.positions, 300.0))
x = structures(found.positions, 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
u, gradient = energy.value_and_gradient(x)
print(len(found.positions), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, energy.invalid)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kilobytes on Linux, bytes elsewhere")
def test_a_large_molecule_is_evaluated_in_chunks():
    """64 structures are two chunks, and any number of chunks takes as much but for the results."""
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    n_atoms, mebibytes, invalid = map(int, done.stdout.split())
    assert n_atoms == 302 and invalid == 0
    assert mebibytes < 2048
