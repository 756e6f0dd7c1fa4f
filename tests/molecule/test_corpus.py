"""Structure files as programs write them, by every way in: formula, bonds, charge, energy, or the reason of a refusal.

The files and what is right about them are in tests/data/corpus; its make.py says where they come from.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import openmm
import pytest
import torch
from openmm import app, unit

from openmm_fab.energy.backends import reduced_energy
from openmm_fab.molecule.folders import CONSTRAINTS
from openmm_fab.molecule.graph import topology_bonds
from openmm_fab.molecule.structures import read_structure
from openmm_fab.molecule.system import PAPER_FORCEFIELD, MolecularSystem
from openmm_fab.preparation.findings import find_problems

CORPUS = Path(__file__).parents[1] / "data" / "corpus"
ENTRIES = json.loads((CORPUS / "corpus.json").read_text())

pytestmark = pytest.mark.usefixtures("force_fields_are_read_once")


def name_of(entry: dict[str, Any]) -> str:
    return " ".join([entry["door"], *entry["files"], *map(str, entry.get("options", {}).values())])


def read(entry: dict[str, Any]) -> MolecularSystem:
    files = [str(CORPUS / file) for file in entry["files"]]
    options = dict(entry.get("options", {}))
    if "implicitSolvent" in options:
        options["implicitSolvent"] = getattr(app, options["implicitSolvent"])
    if "constraints" in options:
        options["constraints"] = CONSTRAINTS[options["constraints"]]
    if entry["door"] == "pdb":
        fields = [str(CORPUS / f) if (CORPUS / f).is_file() else f for f in entry["forcefield"]]
        return MolecularSystem.from_pdb(*files, forcefield=fields, **options)
    if entry["door"] == "charmm":
        return MolecularSystem.from_charmm(files[0], files[1], files[2:], **options)
    return getattr(MolecularSystem, f"from_{entry['door']}")(*files, **options)


def formula(elements: list[str]) -> str:
    """Hill's: carbon, hydrogen, then the alphabet."""
    counts = Counter(elements)
    order = sorted(counts, key=lambda e: ({"C": 0, "H": 1}.get(e, 2) if "C" in counts else 2, e))
    return "".join(f"{e}{counts[e] if counts[e] > 1 else ''}" for e in order)


def test_every_file_is_in_the_table_and_small() -> None:
    used = {file for entry in ENTRIES for file in [*entry["files"], *entry.get("forcefield", [])]}
    found = {path.name: path.stat().st_size for path in CORPUS.iterdir() if path.is_file()}
    assert set(found) - used == {"corpus.json", "make.py"} and sum(found.values()) < 1_000_000


@pytest.mark.parametrize("entry", ENTRIES, ids=name_of)
def test_what_is_read_is_right_or_refused_with_the_reason(entry) -> None:
    if "refused" in entry:
        with pytest.raises((ValueError, FileNotFoundError), match=f"(?s){entry['refused']}"):
            read(entry)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # OpenMM leaves files of GROMACS open
        if entry["door"] == "structure":  # without a force field
            topology, _ = read_structure(CORPUS / entry["files"][0])
            assert formula([atom.element.symbol for atom in topology.atoms()]) == entry["formula"]
            assert " ".join(f"{i}-{j}" for i, j in topology_bonds(topology)) == entry["bonds"]
            assert "missing bonds" not in str(find_problems(CORPUS / entry["files"][0], PAPER_FORCEFIELD))
            return
        system = read(entry)
    said = " ".join(str(warning.message) for warning in caught)
    assert re.search(entry["warns"], said) if "warns" in entry else not said
    assert formula(system.elements) == entry["formula"]
    assert " ".join(f"{i}-{j}" for i, j in system.bonds) == entry["bonds"]
    charge = sum(
        force.getParticleParameters(i)[0].value_in_unit(unit.elementary_charge)
        for force in system.system.getForces()
        if isinstance(force, openmm.NonbondedForce)
        for i in range(force.getNumParticles())
    )
    assert charge == pytest.approx(entry["charge"], abs=entry.get("charge_tolerance", 2e-3))
    context = openmm.Context(
        system.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(system.positions)
    found = context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    if "energy" in entry:
        assert found == pytest.approx(entry["energy"], abs=entry.get("tolerance", 5e-3))
    if entry["door"] == "pdb" or "implicitSolvent" in entry.get("options", {}):
        return  # what the translation makes of these forces, other tests say
    u = reduced_energy(system)(torch.as_tensor(system.positions)[None])
    assert float(u) * system.kT == pytest.approx(found, rel=1e-9, abs=1e-6)
