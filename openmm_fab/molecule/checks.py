"""Checks that refuse what this package cannot sample (several molecules, periodic boxes, ...), all findings in one
error."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from ..tools.errors import OpenMMFabError
from .distances import RADII, TORN, distance_bonds
from .graph import bonds_of, constraints_of, molecules_of, repeated_bonds, repeated_springs, topology_bonds
from .names import residue_label, residue_run
from .openmm_private import magnitude

HEAVIEST_HYDROGEN, LIGHTEST_OTHER = 5.0, 2.5  # dalton, where masses are repartitioned


class UnsupportedSystemError(OpenMMFabError, ValueError):
    """A molecule or System that this package cannot sample; the message lists all findings and the molecule."""

    def __init__(self, problems: Sequence[str], name: str = ""):
        self.problems = list(problems)
        title = f"This system is not supported{f' ({name})' if name else ''}:"
        super().__init__("\n".join([title, *(f"  - {p}" for p in self.problems)]))


def check_supported(topology: app.Topology, system: openmm.System, positions: np.ndarray, name: str = "") -> None:
    """Raise unless a molecule can be sampled in internal coordinates.

    Raises
    ------
    UnsupportedSystemError
        Every problem found, each with what was expected and what to do.
    """
    problems = _count_problems(topology, system, positions) + _system_problems(system)
    if topology.getNumAtoms() == system.getNumParticles() == 1:
        problems.append(
            f"Expected a molecule; got a single atom ({next(topology.atoms()).name}), which has no shape to sample. "
            "Give the molecule that it belongs to, or leave ions out."
        )
    elif topology.getNumAtoms() == system.getNumParticles() > 0:
        nameless = [atom.name for atom in topology.atoms() if atom.element is None]
        if nameless and not any(system.isVirtualSite(i) for i in range(system.getNumParticles())):
            problems.append(
                f"Expected a chemical element for every atom; {some(nameless)} have none. Set atom.element."
            )
        problems += _order_problems(topology, system) + _repeat_problems(topology, system)
        bonds = bonds_of(topology, system)
        problems += _unit_problems(topology, bonds, positions)
        problems += molecule_problems(topology, bonds, positions) + _constraint_problems(topology, system, bonds)
    if problems:
        raise UnsupportedSystemError(problems, name)


def _count_problems(topology: app.Topology, system: openmm.System, positions: np.ndarray) -> list[str]:
    problems = []
    n_topology, n_system = topology.getNumAtoms(), system.getNumParticles()
    if n_topology != n_system or n_system == 0:
        problems.append(
            f"Expected the same number of atoms in topology and System; got {n_topology} in the topology and "
            f"{n_system} in the System. Build the System from this topology."
        )
    if positions.shape != (n_topology, 3):
        problems.append(f"Expected positions with shape ({n_topology}, 3) in nm; got {positions.shape}.")
    elif not np.isfinite(positions).all():
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
        problems.append(f"Expected finite positions; atoms {some(bad.tolist())} (from 0) have NaN or infinite ones.")
    return problems


def _unit_problems(topology: app.Topology, bonds: np.ndarray, positions: np.ndarray) -> list[str]:
    """Bonds that are some ten times as long as their atoms are wide, or a tenth of it."""
    radii = np.array([RADII.get(atom.element.symbol, np.nan) if atom.element else np.nan for atom in topology.atoms()])
    if not len(bonds) or positions.shape != (len(radii), 3):
        return []
    lengths = np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1)
    ratios = lengths / (radii[bonds[:, 0]] + radii[bonds[:, 1]])
    ratio = float(np.median(ratios[np.isfinite(ratios)])) if np.isfinite(ratios).any() else 1.0
    for low, high, what in ((5.0, 20.0, "divide by 10, if they are in Å"), (0.05, 0.2, "multiply by 10")):
        if low < ratio < high:
            return [
                f"Expected positions in nm; got bonds of {np.median(lengths):.2g} nm, {ratio:.2g} times what their "
                f"atoms have: {what}, or give a Quantity, positions * unit.angstrom."
            ]
    return []


def _order_problems(topology: app.Topology, system: openmm.System) -> list[str]:
    """Atoms whose mass contradicts their element, so that topology and System differ in order; repartitioned hydrogen
    masses are allowed."""
    odd = []
    for atom in topology.atoms():
        mass = system.getParticleMass(atom.index).value_in_unit(unit.dalton)
        hydrogen = atom.element == app.element.hydrogen
        if atom.element is not None and mass > 0 and (mass > HEAVIEST_HYDROGEN if hydrogen else mass < LIGHTEST_OTHER):
            odd.append(f"{atom.name} (atom {atom.index}, {mass:.4g} Da)")
    if not odd:
        return []
    return [
        f"Expected the atoms of topology and System in the same order; the masses of {some(odd)} are not those of "
        "their elements. Take the structure that the System was made from, or sort its atoms as they are there."
    ]


def _system_problems(system: openmm.System) -> list[str]:
    problems = []
    forces = [force.getName() if type(force) is openmm.Force else type(force).__name__ for force in system.getForces()]
    particles = range(system.getNumParticles())
    if system.usesPeriodicBoundaryConditions():
        problems.append(
            "Expected a molecule without periodic boundary conditions; this System has a periodic box. "
            "Keep the solute only and use nonbondedMethod=NoCutoff with an implicit-solvent force field."
        )
    virtual = [i for i in particles if system.isVirtualSite(i)]
    if virtual:
        problems.append(
            f"Expected real atoms only; {len(virtual)} particles are virtual sites "
            f"({some(virtual)}, from 0). Use a force field without them (no TIP4P, TIP5P or lone pairs)."
        )
    massless = [i for i in particles if magnitude(system.getParticleMass(i)) == 0 and not system.isVirtualSite(i)]
    if massless:
        problems.append(
            f"Expected a mass for every atom; particles {some(massless)} (from 0) are massless, which "
            "OpenMM takes as fixed in space. Give them their mass back."
        )
    if "DrudeForce" in forces:
        problems.append(
            "Expected a fixed-charge force field; this System has Drude particles (DrudeForce). Use another."
        )
    couplings = [name for name in forces if name.endswith(("Barostat", "Thermostat"))]
    if couplings:
        problems.append(
            f"Expected forces only; this System has {some(couplings)}. Remove them: the temperature is "
            "given to MolecularSystem, and there is no volume to couple to."
        )
    if "CustomExternalForce" in forces:
        problems.append(
            "Expected an energy that does not change when the molecule is moved; this System has a "
            "CustomExternalForce, which depends on absolute positions. Remove it, or restrain distances "
            "or torsions."
        )
    return problems


def _repeat_problems(topology: app.Topology, system: openmm.System) -> list[str]:
    """Bonds that the topology repeats and that have a spring each time; repeats without a second spring do no harm."""
    both = set(map(tuple, repeated_bonds(topology).tolist())) & set(map(tuple, repeated_springs(system).tolist()))
    if not both:
        return []
    return [
        f"Expected every bond once; {len(both)} stand twice in the topology and have two springs in the System, so "
        f"that their energy counts twice: {some(bond_labels(topology, sorted(both)))}. OpenMM reads a bond twice "
        "that a PDBx file has in struct_conn and in chem_comp_bond: use MolecularSystem.from_pdb, which takes it once, "
        "or make the System from a topology without repeats."
    ]


def repeat_warnings(topology: app.Topology, system: openmm.System) -> list[str]:
    """Warnings, at most one, about harmonic springs that occur more than once in the System."""
    twice = repeated_springs(system)
    if not len(twice):
        return []
    return [
        f"{len(twice)} springs stand more than once in the System's HarmonicBondForce, with the same length and "
        f"constant, and count each time: {some(bond_labels(topology, twice.tolist()))}. Unless that is meant, make the "
        "System from a topology in which every bond stands once."
    ]


def bond_labels(topology: app.Topology, bonds: Sequence[Sequence[int]]) -> list[str]:
    """Format bonds as text, such as "ALA 2 N-CA"."""
    atoms = list(topology.atoms())
    return [f"{atoms[i].residue.name} {atoms[i].residue.id} {atoms[i].name}-{atoms[j].name}" for i, j in bonds]


def _constraint_problems(topology: app.Topology, system: openmm.System, bonds: np.ndarray) -> list[str]:
    joined = set(map(tuple, bonds.tolist()))
    angles = bond_labels(topology, [(i, j) for i, j, _ in constraints_of(system) if (i, j) not in joined])
    if not angles:
        return []
    return [
        f"Expected constraints of bonds only; {len(angles)} constraints are between atoms that no bond joins, so they "
        f"fix an angle: {some(angles)}. Use constraints=None, HBonds or AllBonds (not HAngles) and rigidWater=False."
    ]


def residue_parts(topology: app.Topology) -> list[list[Any]]:
    """Residues (openmm.app's) of each molecule by the topology's bonds; a residue that is not connected is in several
    molecules."""
    atoms = list(topology.atoms())
    parts = molecules_of(topology.getNumAtoms(), topology_bonds(topology))
    return [list(dict.fromkeys(atoms[i].residue for i in part)) for part in parts]


def molecule_problems(topology: app.Topology, bonds: np.ndarray, positions: np.ndarray) -> list[str]:
    """Descriptions of atoms that are not bonded to the rest, and of close pairs among them; empty for a single
    molecule.

    Parameters
    ----------
    bonds : (n_bonds, 2) int
    positions : (n_atoms, 3), nm
    """
    molecules = molecules_of(topology.getNumAtoms(), bonds)
    if len(molecules) <= 1:
        return []
    atoms = list(topology.atoms())
    residues = [list(dict.fromkeys(atoms[i].residue for i in molecule)) for molecule in molecules]
    kinds = Counter(residue_run(run) for run in residues)
    found = ", ".join(f"{count} x {names}" for names, count in kinds.most_common())
    expected = f"Expected one molecule; got {len(molecules)} that no bond connects: {found}."
    part = {i: number for number, molecule in enumerate(molecules) for i in molecule}
    symbols = [atom.element.symbol if atom.element else "" for atom in atoms]
    near = [pair for pair in distance_bonds(symbols, np.asarray(positions)) if part[pair[0]] != part[pair[1]]]
    if near:
        near.sort(key=lambda pair: atoms[pair[0]].residue is atoms[pair[1]].residue)  # those between residues first
        places = some([f"{_atom(atoms[i])} - {_atom(atoms[j])}" for i, j in near])
        expected += (
            f" As near as bonded atoms are {places}: no bond is named for them, neither by the residues nor by CONECT "
            "(PDB) or chem_comp_bond (PDBx/mmCIF). openmm_fab.find_problems, or openmm-fab prepare in a shell, shows "
            "such bonds and adds them."
        )
    if not near or len(set(map(frozenset, _joined(residues, near, part)))) > 1:
        expected += (
            ' Keep the solute only and use an implicit-solvent force field: find_problems(path, ...).fix(["safe", '
            '"solvent and ions"]), or in a shell openmm-fab prepare, does the first.'
        )
    return [expected]


def gap_problems(topology: app.Topology, positions: np.ndarray) -> list[str]:
    """Descriptions of bonds that OpenMM made across a gap in a chain, because it bonds residues that follow each other
    in a file.

    Parameters
    ----------
    positions : (n_atoms, 3), nm
    """
    x = np.asarray(positions)
    gaps = []
    for a, b in topology.bonds():
        length = float(np.linalg.norm(x[a.index] - x[b.index]))
        if a.residue is not b.residue and {a.name, b.name} in ({"C", "N"}, {"O3'", "P"}) and length > TORN:
            gaps.append(f"{residue_label(a.residue)} to {residue_label(b.residue)} ({length:.2f} nm)")
    if not gaps:
        return []
    return [
        f"Expected residues that follow each other to be bonded; {some(gaps)} are far apart: residues are missing, or "
        "a TER record. OpenMM bonds the ends; build what is missing, or take a shorter chain."
    ]


def _joined(residues: Sequence[Any], near: Sequence[tuple[int, int]], part: dict[int, int]) -> list[list[int]]:
    pairs = np.array([(part[i], part[j]) for i, j in near], dtype=np.int64).reshape(-1, 2)
    return molecules_of(len(residues), pairs)


AMBIGUOUS = "Multiple non-identical matching templates"  # as OpenMM says it


def ambiguous_template(topology: app.Topology, error: str) -> tuple[str, str]:
    """Message for a residue or molecule that several templates of the force field fit, with how to choose one."""
    found = re.search(r"for residue (-?\d+) .*?: (.+?)\.?$", error)
    index, names = (int(found.group(1)), found.group(2)) if found else (-1, "several templates")
    if index >= 0:
        place = residue_label(list(topology.residues())[index])
    else:  # OpenMM takes the molecule as a whole where it has no template for its residues
        place = residue_run(max(residue_parts(topology), key=len))
    first = names.split(", ")[0]
    return place, (
        f"{names} fit it alike and differ in parameters; choose one with MolecularSystem.from_pdb(..., "
        f"residueTemplates={{{place!r}: {first!r}}}), or in a system.toml with "
        f'residue_templates = {{ "{place}" = "{first}" }}'
    )


def template_problems(
    ff: app.ForceField, files: Sequence[str], topology: app.Topology, error: str, several: bool
) -> list[str]:
    """Messages for residues that the force field has no template for; of several molecules only for the largest."""
    unmatched = ff.getUnmatchedResidues(topology)
    if several:
        # Solvent without parameters is explained by "several molecules" already.
        molecules = molecules_of(topology.getNumAtoms(), topology_bonds(topology))
        largest = set(sorted(molecules, key=lambda atoms: -len(atoms))[0])
        solute = {atom.residue for atom in topology.atoms() if atom.index in largest}
        unmatched = [residue for residue in unmatched if residue in solute]
        if not unmatched:
            return []
    names = some([residue_label(residue) for residue in unmatched])
    return [
        f"Expected residues that {', '.join(files)} knows; it has no template for {names}. "
        f"{''.join(_reasons(topology, unmatched))}OpenMM says: {error.split('  For more information')[0]} "
        "openmm_fab.find_problems, or openmm-fab prepare in a shell, lists what a structure lacks and mends it: "
        "missing hydrogens with OpenMM's Modeller.addHydrogens, missing heavy atoms with PDBFixer. Another molecule, "
        "such as a ligand: give it as SDF or SMILES, from which parameters are made (MolecularSystem.from_sdf, "
        "from_smiles), name a force field file that has it, or read what openmmforcefields, Amber, CHARMM or GROMACS "
        "made of it (from_openmm, from_xml, from_amber, ...)."
    ]


def _reasons(topology: app.Topology, unmatched: Sequence[Any]) -> list[str]:
    """What OpenMM does not name: deuterium, and residues whose atoms stand in several places of the file."""
    reasons = []
    heavy_water = [_atom(a) for r in unmatched for a in r.atoms() if a.element == app.element.deuterium]
    if heavy_water:
        reasons.append(
            f"Deuterium ({some(heavy_water)}) is in no force field; its energy is hydrogen's: write H for D. "
        )
    labels = Counter(residue_label(residue) for residue in topology.residues())
    torn = [label for label in dict.fromkeys(map(residue_label, unmatched)) if labels[label] > 1]
    if torn:
        reasons.append(
            f"The atoms of {some(torn)} stand in several places of the file, such as all hydrogens at its end, and "
            "OpenMM takes each place for a residue: bring them together. "
        )
    return reasons


def _atom(atom: Any) -> str:
    return f"{residue_label(atom.residue)} {atom.name}"


def some(items: Sequence[Any], limit: int = 5) -> str:
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown}, ... ({len(items)} in all)"
