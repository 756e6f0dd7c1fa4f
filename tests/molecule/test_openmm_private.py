"""OpenMM's private names are still there, and stand in one file of the package."""

from __future__ import annotations

import ast
from pathlib import Path

import openmm
import pytest
from openmm import app, unit

import openmm_fab
from openmm_fab.molecule import openmm_private as private

PACKAGE = Path(openmm_fab.__file__).parent
NAMES = {
    *("_value", "_standardBonds", "_loadNameReplacementTables", "_residueNameReplacements"),
    *("_loadStandardHydrogenDefinitions", "_residueHydrogens", "_templates", "_bonds"),
    *("_standard_system_hash", "_composable_states"),
    *("_processLine", "_currentCategory", "_ifStack", "_moleculeTypes", "_molecules"),
}
MODULE = "openmm.app.internal"


def private_names(source: str) -> list[str]:
    """Private names of OpenMM in a module's source: attributes, texts (for getattr) and imports."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in NAMES:
            found.append(node.attr)
        elif isinstance(node, ast.Constant) and node.value in NAMES:
            found.append(node.value)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(MODULE):
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith(MODULE)]
    return found


def test_no_other_file_uses_them():
    used = {file.relative_to(PACKAGE).as_posix(): private_names(file.read_text()) for file in PACKAGE.rglob("*.py")}
    here = used.pop("molecule/openmm_private.py")
    assert not {file: names for file, names in used.items() if names}
    assert set(here) >= NAMES  # what is not used is not listed


@pytest.mark.parametrize(
    "source",
    ["q._value", 'getattr(q, "_value", q)', "from openmm.app.internal.pdbfile import x", "import openmm.app.internal"],
)
def test_a_private_name_is_seen(source):
    assert private_names(source)


def test_magnitudes_are_in_the_units_that_openmm_gives():
    assert private.magnitude(2.5) == 2.5
    assert private.magnitude(2.5 * unit.nanometer) == 2.5
    system = openmm.System()
    system.addParticle(12.0)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions([[1.0, 2.0, 3.0]])
    state = context.getState(getPositions=True, getEnergy=True)
    assert private.magnitude(state.getPositions(asNumpy=True)).tolist() == [[1.0, 2.0, 3.0]]
    assert private.magnitude(state.getPotentialEnergy()) == 0.0
    assert private.magnitude(system.getParticleMass(0)) == 12.0


def test_standard_bonds():
    assert ("CA", "CB") in {tuple(bond[:2]) for bond in private.standard_bonds("ALA")}
    assert private.standard_bonds("nothing") == []


def test_replacements_of_residue_names():
    assert private.residue_replacements()["HID"] == "HIS"
    assert "nothing" not in private.residue_replacements()


def test_residues_with_hydrogens():
    assert {"ALA", "HIS", "ACE"} <= set(private.residues_with_hydrogens())


def test_residue_templates():
    template = private.residue_templates(app.ForceField("amber96.xml"))["ALA"]
    assert {"CA", "CB"} <= {atom.name for atom in template.atoms}
    assert all(len(bond) == 2 for bond in template.bonds) and len(template.externalBonds) == 2


def test_mmcif_blocks():
    lines = ["data_x", "loop_", "_atom_site.id", "_atom_site.label_alt_id", "1 A", "2 ."]
    (block,) = private.mmcif_blocks(iter(lines))
    table = block.getObj("atom_site")
    assert table.getAttributeIndex("label_alt_id") == 1 and table.getRowList() == [["1", "A"], ["2", "."]]


def test_states_of_openmmtools():
    states = pytest.importorskip("openmmtools.states")
    system = openmm.System()
    system.addParticle(12.0)
    warm, hot = (states.ThermodynamicState(system, temperature * unit.kelvin) for temperature in (300, 400))
    system.addParticle(1.0)
    assert private.system_hash(warm) == private.system_hash(hot)
    assert private.system_hash(warm) != private.system_hash(states.ThermodynamicState(system, 300 * unit.kelvin))
    assert private.composed_states(warm) is None
    assert private.composed_states(states.CompoundThermodynamicState(hot, [])) is not None
