"""Between RDKit's molecules, which know bond orders, charges and patterns, and topologies with coordinates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import mdtraj
import numpy as np
from openmm import app

from ..tools.install import install

if TYPE_CHECKING:
    from rdkit.Chem import Mol

RESIDUE = "LIG"
BONDS = {1: app.Single, 2: app.Double, 3: app.Triple}


def rdkit_chem() -> Any:
    """The module rdkit.Chem; an ImportError with the command that installs it."""
    try:
        from rdkit import Chem
    except ImportError as error:
        raise ImportError(f"What has to know bond orders needs RDKit: {install('ligand')}.") from error
    return Chem


@contextmanager
def silent() -> Iterator[None]:
    """Context manager that keeps RDKit's messages from the terminal."""
    rdkit_chem()
    from rdkit import rdBase

    with rdBase.BlockLogs():
        yield


def topology_of(molecule: Mol) -> app.Topology:
    """One residue LIG with RDKit's atoms in RDKit's order, bond orders (Kekulé) and formal charges.

    An atom is named by its element and its number in the molecule, from 1: C1, C2, N3. As in an SDF file, and unique.
    """
    Chem = rdkit_chem()
    molecule = Chem.Mol(molecule)
    Chem.Kekulize(molecule, clearAromaticFlags=True)
    topology = app.Topology()
    residue = topology.addResidue(RESIDUE, topology.addChain())
    atoms = [
        topology.addAtom(
            f"{atom.GetSymbol()}{atom.GetIdx() + 1}",
            app.element.get_by_symbol(atom.GetSymbol()),
            residue,
            formalCharge=atom.GetFormalCharge(),
        )
        for atom in molecule.GetAtoms()
    ]
    for bond in molecule.GetBonds():
        order = int(bond.GetBondTypeAsDouble())
        topology.addBond(atoms[bond.GetBeginAtomIdx()], atoms[bond.GetEndAtomIdx()], BONDS.get(order), order)
    return topology


def molecule_of(topology: mdtraj.Topology, x: np.ndarray | None = None) -> Mol:
    """RDKit's molecule of a topology that has the order of each bond, atoms in the same order, hydrogens explicit.

    Parameters
    ----------
    x : (n, atoms, 3), nm, optional
        Become conformers 0 to n - 1; the first one tells stereo.

    Raises
    ------
    ImportError
        Without RDKit.
    ValueError
        Bonds without an order.
    """
    Chem = rdkit_chem()
    molecule = Chem.RWMol()
    for atom in topology.atoms:
        new = Chem.Atom(atom.element.symbol)
        new.SetFormalCharge(int(atom.formal_charge or 0))
        new.SetNoImplicit(True)
        molecule.AddAtom(new)
    kinds = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
    for bond in topology.bonds:
        if bond.order not in kinds:
            raise ValueError(
                f"Expected bonds with orders; {bond.atom1.name}-{bond.atom2.name} has none. A PDB file names none: "
                "make the molecule with MolecularSystem.from_sdf, from_smiles or from_rdkit."
            )
        molecule.AddBond(bond.atom1.index, bond.atom2.index, kinds[bond.order])
    found = molecule.GetMol()
    Chem.SanitizeMol(found)
    for one in [] if x is None else x:
        found.AddConformer(conformer_of(one), assignId=True)
    if x is not None and len(x):
        Chem.AssignStereochemistryFrom3D(found, 0)
    return found


def conformer_of(x: np.ndarray) -> Any:
    """RDKit's conformer, in Å, of a structure x (atoms, 3), nm."""
    Chem = rdkit_chem()
    conformer = Chem.Conformer(len(x))
    conformer.SetPositions(10.0 * np.ascontiguousarray(x, dtype=np.float64))
    return conformer


def positions_of(molecule: Mol, conformer: int = -1) -> np.ndarray:
    """(atoms, 3) float64, nm: of a conformer of RDKit's molecule."""
    return 0.1 * np.array(molecule.GetConformer(conformer).GetPositions(), dtype=np.float64)


def find_pattern(molecule: Mol, smarts: str, size: int) -> np.ndarray:
    """Atoms (matches, size) int that a SMARTS pattern picks, each set of atoms once.

    Parameters
    ----------
    smarts : str
        With `size` atoms; with more, those to pick carry the atom maps 1 to `size`: `"[C:1][C:2](=O)[N:3][C:4]"`.

    Raises
    ------
    ValueError
        No SMARTS; another number of atoms or maps; no match.
    """
    Chem = rdkit_chem()
    pattern = Chem.MolFromSmarts(smarts)
    if pattern is None:
        raise ValueError(f"Expected a SMARTS pattern; RDKit cannot read {smarts!r}.")
    maps = {atom.GetAtomMapNum(): atom.GetIdx() for atom in pattern.GetAtoms() if atom.GetAtomMapNum()}
    picked = [maps.get(k + 1, -1) for k in range(size)] if maps else list(range(pattern.GetNumAtoms()))
    if len(picked) != size or -1 in picked:
        raise ValueError(
            f"Expected a SMARTS pattern of {size} atoms, or with the atom maps 1 to {size}; got {smarts!r}, with "
            f"{pattern.GetNumAtoms()} atoms and the maps {sorted(maps)}."
        )
    rows: dict[Any, tuple[int, ...]] = {}
    for match in molecule.GetSubstructMatches(pattern, uniquify=False, maxMatches=100_000):
        row = tuple(match[k] for k in picked)
        middle = frozenset(row) if size < 4 else frozenset((row, row[::-1]))
        rows.setdefault(middle, row)
    if not rows:
        raise ValueError(f"Expected atoms that match {smarts!r}; there are none in {Chem.MolToSmiles(molecule)}.")
    return np.array(sorted(rows.values()), dtype=int)


def without_hydrogens(molecule: Mol) -> str:
    """Canonical SMILES, with stereo, of a molecule whose hydrogens are left implicit."""
    Chem = rdkit_chem()
    return str(Chem.MolToSmiles(Chem.RemoveHs(molecule)))
