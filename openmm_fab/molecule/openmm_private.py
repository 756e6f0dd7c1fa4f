"""Private names of OpenMM and openmmtools that this package needs, each behind a function.

They may change in any release: `tests/molecule/test_openmm_private.py` reports those that are gone. All exist in OpenMM
8.6 and openmmtools 0.27.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from openmm import app
from openmm.app.internal.pdbx.reader.PdbxReader import PdbxReader


def magnitude(quantity: Any) -> Any:
    """Number or array of a Quantity in its own unit; plain numbers are returned unchanged.

    `Quantity._value`: OpenMM gives Quantities in nm, kJ/mol, rad, e and dalton, and arithmetic with them is slow.
    """
    return getattr(quantity, "_value", quantity)


def standard_bonds(residue: str) -> list[Any]:
    """Bonds that OpenMM gives a standard residue, names of two atoms first in each; empty for any other residue.

    `Topology._standardBonds`.
    """
    app.Topology().createStandardBonds()  # reads the definitions
    bonds: list[Any] = app.Topology._standardBonds.get(residue, [])
    return bonds


def drop_repeated_bonds(topology: app.Topology) -> None:
    """Keep one bond for each pair of atoms of a topology, in place: the first with a type or order, or the first."""
    kept: dict[frozenset[int], Any] = {}
    for bond in topology.bonds():
        pair = frozenset((bond[0].index, bond[1].index))
        before = kept.get(pair)
        if before is None or (before.type is before.order is None and not bond.type is bond.order is None):
            kept[pair] = bond
    if len(kept) < topology.getNumBonds():
        set_bonds(topology, kept.values())


def set_bonds(topology: app.Topology, bonds: Iterable[Any]) -> None:
    """Replace the bonds of a topology.

    `Topology._bonds`.
    """
    topology._bonds = list(bonds)


def residue_replacements() -> Mapping[str, str]:
    """The name that OpenMM's reader of PDB files gives a residue, by its name in the file.

    `PDBFile._loadNameReplacementTables`, `PDBFile._residueNameReplacements`.
    """
    app.PDBFile._loadNameReplacementTables()
    names: Mapping[str, str] = app.PDBFile._residueNameReplacements
    return names


def residues_with_hydrogens() -> Collection[str]:
    """Residues whose hydrogens Modeller knows: the standard ones, and what `loadHydrogenDefinitions` has read.

    `Modeller._loadStandardHydrogenDefinitions`, `Modeller._residueHydrogens`.
    """
    app.Modeller._loadStandardHydrogenDefinitions()
    known: Collection[str] = app.Modeller._residueHydrogens
    return known


def residue_templates(field: app.ForceField) -> Mapping[str, Any]:
    """Residue templates of a force field by name.

    `ForceField._templates`.
    """
    templates: Mapping[str, Any] = field._templates
    return templates


def mmcif_blocks(lines: Iterable[str]) -> list[Any]:
    """Data blocks of a PDBx/mmCIF file.

    `openmm.app.internal.pdbx.reader.PdbxReader`.
    """
    blocks: list[Any] = []
    PdbxReader(lines).read(blocks)
    return blocks


class GromacsTopology(app.GromacsTopFile):
    """OpenMM's reader of GROMACS topologies, with access to what it has read.

    `GromacsTopFile._processLine`, `_currentCategory`, `_ifStack`, `_moleculeTypes`, `_molecules`.

    Attributes
    ----------
    sections : dict of str to int
        Lines of data in each section, without those that the preprocessor leaves out; of included files, too.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        self.sections: dict[str, int] = {}
        super().__init__(*args, **more)

    def _processLine(self, line: str, file: str) -> None:
        super()._processLine(line, file)
        text = line.split(";")[0].strip()
        if text and text[0] not in "#*" and all(self._ifStack):
            name = self._currentCategory
            self.sections[name] = self.sections.get(name, 0) + (text[0] != "[")

    @property
    def molecules(self) -> list[tuple[Any, int]]:
        """Types of molecules and how many of each: with `nrexcl`, and the fields of `bonds`, `constraints`, `pairs`."""
        return [(self._moleculeTypes[name], count) for name, count in self._molecules]


def system_hash(state: Any) -> int:
    """A number that tells the System of an openmmtools ThermodynamicState from others, whatever its thermostat.

    `ThermodynamicState._standard_system_hash`.
    """
    found: int = state._standard_system_hash
    return found


def composed_states(state: Any) -> Any:
    """The states that an openmmtools CompoundThermodynamicState is composed of; None for a plain state.

    `CompoundThermodynamicState._composable_states`.
    """
    return getattr(state, "_composable_states", None)
