"""CHARMM's force fields of OpenMM, cut to a few residues: energies of these are the same, and Systems made in a second.

Most of the time that the whole files take goes into types of atoms and residues that no test has, and into patches of
every residue, which OpenMM tries where none fits as it is.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from xml.etree import ElementTree

from openmm import app

SHIPPED = Path(app.__file__).with_name("data")


def cut(file: str, residues: Collection[str]) -> str:
    """The text of a force field shipped with OpenMM, with these residues, their patches and the types of their atoms.

    Terms of other types stay; they apply to nothing. The script that compares versions of files is left out.
    """
    tree = ElementTree.parse(SHIPPED / file).getroot()
    tree.remove(tree.find("InitializationScript"))
    _keep(tree.find("Residues"), lambda residue: residue.get("name") in residues)
    allowed = {patch.get("name").partition(":")[0] for patch in tree.iterfind("Residues/Residue/AllowPatch")}
    _keep(tree.find("Patches"), lambda patch: patch.get("name") in allowed)
    types = {atom.get("type") for part in ("Residues", "Patches") for atom in tree.iterfind(f"{part}/*/*[@type]")}
    _keep(tree.find("AtomTypes"), lambda one: one.get("name") in types)
    return ElementTree.tostring(tree, "unicode")


def _keep(parent: ElementTree.Element, wanted) -> None:
    parent[:] = filter(wanted, parent)
