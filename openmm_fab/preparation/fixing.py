"""Addition of missing atoms to a structure whose other atoms stay in place."""

from __future__ import annotations

import io
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import openmm
from openmm import app

from ..molecule.checks import AMBIGUOUS, some
from ..molecule.graph import topology_bonds
from ..molecule.names import residue_label
from ..molecule.openmm_private import residues_with_hydrogens
from ..tools.install import install
from .bonding import in_nanometers, is_hydrogen
from .problems import BUILT
from .records import residue_key
from .structure import MissingAtoms, missing_atoms, solute_of

IN_THE_WAY = 0.15  # nm; two bonds apart are 0.2


def add_heavy_atoms(model: app.Modeller, field: app.ForceField) -> list[str]:
    """Add missing heavy atoms of the solute with PDBFixer; changes `model` and returns a description.

    Raises
    ------
    ImportError
        Without PDBFixer, if anything is missing.
    """
    heavy = _missing_of_solute(model, field).heavy
    missing = {k: names for k, names in heavy.items() if _residue(model, k).name in BUILT}
    if not missing:
        return []
    try:
        from pdbfixer import PDBFixer
    except ImportError as error:
        raise ImportError(
            f"Adding missing heavy atoms needs PDBFixer: {install('prepare')}, or with conda: conda install "
            "-c conda-forge pdbfixer. To do without it, leave 'missing heavy atoms' out of what fix accepts."
        ) from error
    hydrogens = sum(map(is_hydrogen, model.topology.atoms()))
    # A hydrogen without its heavy atom has no bond.
    bonded = set(topology_bonds(model.topology).ravel().tolist())
    atoms = [atom for k in missing for atom in _residue(model, k).atoms()]
    model.delete([atom for atom in atoms if is_hydrogen(atom) and atom.index not in bonded])
    fixer = PDBFixer(pdbfile=_as_pdb(model))
    fixer.topology, fixer.positions = model.topology, model.positions  # not rounded to a PDB file's digits
    fixer.platform = openmm.Platform.getPlatformByName("Reference")
    fixer.missingResidues, fixer.missingAtoms, fixer.missingTerminals = {}, {}, {}
    for k, names in missing.items():
        residue = _residue(model, k)
        template = fixer.templates[residue.name].topology.atoms()
        fixer.missingAtoms[residue] = [atom for atom in template if atom.name in names and atom.name != "OXT"]
        if "OXT" in names:
            fixer.missingTerminals[residue] = ["OXT"]
    fixer.addMissingAtoms(seed=0)
    _restore_bonds(fixer.topology, model.topology)
    there = {(atom.residue.index, atom.name) for atom in model.topology.atoms()}
    model.topology, model.positions = fixer.topology, fixer.positions
    new = [atom for atom in model.topology.atoms() if (atom.residue.index, atom.name) not in there]
    _make_way(model, new)
    dropped = hydrogens - sum(map(is_hydrogen, model.topology.atoms()))
    also = f", without {dropped} hydrogens that they bear or that were in their way" if dropped else ""
    return [f"missing heavy atoms: {some([f'{residue_label(a.residue)} {a.name}' for a in new])}{also}"] if new else []


def add_hydrogens(
    model: app.Modeller, field: app.ForceField, variants: dict[tuple[str, str, str], str], pH: float, insist: bool
) -> list[str]:
    """Add missing hydrogens of the solute with OpenMM's Modeller; changes `model`, the same in every call.

    `variants` are Modeller's names of residues whose protonation is known, by `records.residue_key`. Returns a
    description of what was added; empty if nothing was missing, or where residues lack heavy atoms that PDBFixer can
    add.

    Raises
    ------
    ValueError
        Residues that lack such heavy atoms, if `insist`.
    """
    found = _missing_of_solute(model, field)
    residues = [_residue(model, k) for k in found.heavy]
    lacking_heavy_atoms = [residue_label(residue) for residue in residues if residue.name in BUILT]
    if lacking_heavy_atoms and not insist:
        return []
    if lacking_heavy_atoms:
        raise ValueError(
            f"Expected all heavy atoms before hydrogens are added; {some(lacking_heavy_atoms)} lack some. Accept "
            "'missing heavy atoms' too, or leave 'missing hydrogens' out."
        )
    lacking_hydrogens = [k for k in found.hydrogens if _residue(model, k).name in residues_with_hydrogens()]
    if not lacking_hydrogens:
        return []
    there = {(atom.residue.index, atom.name) for atom in model.topology.atoms()}
    named = [variants.get(residue_key(r)) if r.index in lacking_hydrogens else None for r in model.topology.residues()]
    before, state = model.topology.getNumAtoms(), random.getstate()
    reference = openmm.Platform.getPlatformByName("Reference")
    without = ""
    random.seed(0)  # Modeller's first guess of a hydrogen
    try:
        chosen = model.addHydrogens(field, pH=pH, variants=named, platform=reference)
    except Exception as error:
        if "No template found" not in str(error) and AMBIGUOUS not in str(error):
            raise
        random.seed(0)
        chosen = model.addHydrogens(None, pH=pH, variants=named, platform=reference)
        without = ", placed without the force field, which does not know every residue"
    finally:
        random.setstate(state)
    new = [atom for atom in model.topology.atoms() if (atom.residue.index, atom.name) not in there]
    model.delete([*_not_wanted(new, lacking_hydrogens), *_at_joints(model, new)])
    forms = [f"{residue_label(_residue(model, k))} is {chosen[k]}" for k in lacking_hydrogens if chosen[k]]
    count = model.topology.getNumAtoms() - before
    return [f"missing hydrogens: {count} at pH {pH:g}{without}{f'; {some(forms)}' if forms else ''}"]


def _not_wanted(new: Sequence[Any], lacking: Sequence[int]) -> list[Any]:
    """Modeller completes all residues that it knows, also those whose bonds to others it does not look at."""
    return [atom for atom in new if atom.residue.index not in lacking]


def _at_joints(model: app.Modeller, new: Sequence[Any]) -> list[Any]:
    """Modeller makes NH3+ of the first nitrogen of a chain and CHO of the last carbon, whatever they are bonded to.

    Both have three neighbours where they join residues, as in a ring.
    """
    beside: dict[Any, list[Any]] = defaultdict(list)
    for a, b in model.topology.bonds():
        beside[a].append(b)
        beside[b].append(a)
    extra = []
    for atom, near in beside.items():
        if atom.name in ("N", "C") and any(other.residue is not atom.residue for other in near):
            extra += [other for other in near if other in new][::-1][: max(len(near) - 3, 0)]
    return extra


def _missing_of_solute(model: app.Modeller, field: app.ForceField) -> MissingAtoms:
    """Missing atoms of the solute, by the residue's index in `model`."""
    solute, at = solute_of(model)
    found = missing_atoms(solute.topology, field)
    heavy = {at[k]: names for k, names in found.heavy.items()}
    return replace(found, heavy=heavy, hydrogens={at[k]: count for k, count in found.hydrogens.items()})


def _make_way(model: app.Modeller, new: Sequence[Any]) -> None:
    """Drop the hydrogens that are too near to new atoms, none of which has any: PDBFixer does not look at them."""
    x = in_nanometers(model)
    places = x[[atom.index for atom in new]].reshape(-1, 1, 3)
    near = np.flatnonzero((np.linalg.norm(x - places, axis=-1) < IN_THE_WAY).any(axis=0))
    atoms = list(model.topology.atoms())
    model.delete([atoms[k] for k in near if is_hydrogen(atoms[k])])


def _residue(model: app.Modeller, index: int) -> Any:
    return next(residue for residue in model.topology.residues() if residue.index == index)


def _as_pdb(model: app.Modeller) -> io.StringIO:
    text = io.StringIO()
    app.PDBFile.writeFile(model.topology, model.positions, text)
    text.seek(0)
    return text


def _restore_bonds(topology: app.Topology, before: app.Topology) -> None:
    """PDBFixer bonds standard residues anew, by their names; bonds beyond those are put back."""
    atoms = {(atom.residue.index, atom.name): atom for atom in topology.atoms()}
    there = set(map(tuple, topology_bonds(topology).tolist()))
    for bond in before.bonds():
        a, b = sorted((atoms[atom.residue.index, atom.name] for atom in bond), key=lambda atom: atom.index)
        if (a.index, b.index) not in there:
            topology.addBond(a, b)
