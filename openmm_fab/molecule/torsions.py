"""Named torsions and rotatable bonds of a molecule."""

from __future__ import annotations

import warnings
from collections.abc import Collection

import mdtraj
import numpy as np

from .graph import BondGraph, graph_of
from .names import chain_letter


def named_torsions(topology: mdtraj.Topology) -> dict[str, tuple[int, int, int, int]]:
    """Torsions by name: backbone phi and psi ("phi ALA2"), or without those one for every rotatable bond of heavy
    atoms.

    With several chains a name has the chain's letter, "phi A:ALA2". Rotatable: see `rotatable_bonds`.
    """
    dummy = mdtraj.Trajectory(np.zeros((1, topology.n_atoms, 3)), topology)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phi, psi = (compute(dummy, periodic=False)[0] for compute in (mdtraj.compute_phi, mdtraj.compute_psi))
    # phi is C-[N-CA-C], psi [N-CA-C]-N: in both the residue is that of the third or second atom.
    named = {f"phi {_residue(topology, row[2])}": _four(row) for row in phi}
    named |= {f"psi {_residue(topology, row[1])}": _four(row) for row in psi}
    return named or _rotatable(topology)


def slow_torsions(topology: mdtraj.Topology) -> dict[str, tuple[int, int, int, int]]:
    """The `named_torsions` and one for every other bond with heavy atoms on both sides; without any, of bonds to polar
    hydrogens (OH of a carboxylic acid). Those of `peptide_torsions` have the names and atoms that they have there."""
    named, peptide = named_torsions(topology), peptide_torsions(topology)
    names = {frozenset(atoms[1:3]): name for name, atoms in peptide.items()}
    taken = {frozenset(atoms[1:3]) for atoms in named.values()}
    slow = dict(named)
    for own, atoms in (_rotatable(topology) or _rotatable(topology, polar=True)).items():
        bond = frozenset(atoms[1:3])
        if bond not in taken:
            name = names.get(bond, own)
            slow[name] = peptide.get(name, atoms)
    return slow


def peptide_torsions(topology: mdtraj.Topology) -> dict[str, tuple[int, int, int, int]]:
    """Torsions of amino acids by name: phi, psi, omega (of caps, too; by the residue of the nitrogen), chi1 to chi5."""
    dummy = mdtraj.Trajectory(np.zeros((1, topology.n_atoms, 3)), topology)
    found: dict[str, tuple[int, int, int, int]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in ("phi", "psi", "chi1", "chi2", "chi3", "chi4", "chi5"):
            for row in getattr(mdtraj, f"compute_{kind}")(dummy, periodic=False)[0]:
                found[f"{kind} {_residue(topology, row[2] if kind == 'phi' else row[1])}"] = _four(row)
    for bond in topology.bonds:
        c, n = sorted(bond, key=lambda atom: atom.name)
        if (c.name, n.name) == ("C", "N") and c.residue is not n.residue:
            before = next((atom for atom in c.residue.atoms if atom.name in ("CA", "CH3")), None)
            after = next((atom for atom in n.residue.atoms if atom.name in ("CA", "CH3", "C")), None)
            if before and after:
                found[f"omega {_residue(topology, n.index)}"] = (before.index, c.index, n.index, after.index)
    return found


def names_of_bonds(topology: mdtraj.Topology) -> dict[frozenset[int], str]:
    """Names of `peptide_torsions`, "phi ALA2", "omega ALA2", "chi1 PHE3", by the two atoms of their bond."""
    return {frozenset(atoms[1:3]): name for name, atoms in reversed(peptide_torsions(topology).items())}


def backbone_pairs(topology: mdtraj.Topology) -> dict[str, tuple[str, str]]:
    """Names of phi and psi by residue ("ALA2"), of residues that have both: the axes of its Ramachandran plot."""
    named = named_torsions(topology)
    residues = [name.removeprefix("phi ") for name in named if name.startswith("phi ")]
    return {residue: (f"phi {residue}", f"psi {residue}") for residue in residues if f"psi {residue}" in named}


def map_axes(topology: mdtraj.Topology) -> tuple[str, ...]:
    """Names of two torsions for a map of structures: phi and psi of the first residue with both, or the first two;
    empty for fewer than two torsions."""
    names = next(iter(backbone_pairs(topology).values()), None) or tuple(named_torsions(topology))[:2]
    return names if len(names) == 2 else ()


def _residue(topology: mdtraj.Topology, atom: int) -> str:
    """Residue of an atom by name and number, with its chain where there are several."""
    residue = topology.atom(atom).residue
    chain = residue.chain.index
    return f"{chain_letter(chain)}:{residue}" if topology.n_chains > 1 else str(residue)


def _four(row: np.ndarray) -> tuple[int, int, int, int]:
    i, j, k, m = map(int, row)
    return i, j, k, m


def rotatable_bonds(graph: BondGraph, among: Collection[int] | None = None) -> list[tuple[int, int]]:
    """Bonds (i, j), i < j, that are in no ring and whose atoms both have another neighbour.

    Bonds and neighbours of the atoms `among` only, if given. Lengths and angles are not looked at, since a topology has
    none: double bonds, amides and straight chains are among them. `coordinates.zmatrix` knows a structure and takes
    such bonds as stiff.
    """
    counted = set(range(graph.n_atoms)) if among is None else set(among)
    near = [counted.intersection(atoms) for atoms in graph.neighbours]
    return [
        (i, j)
        for i in sorted(counted)
        for j in graph.neighbours[i]
        if i < j and j in counted and near[i] - {j} and near[j] - {i} and not graph.ring(i, j)
    ]


def _rotatable(topology: mdtraj.Topology, polar: bool = False) -> dict[str, tuple[int, int, int, int]]:
    """Torsions of rotatable bonds between heavy atoms, by name; with `polar` hydrogens that are not on carbon count,
    too."""
    graph = graph_of(topology)
    elements, near = graph.elements, graph.neighbours

    def counts(atom: int) -> bool:
        if elements[atom] == "H":
            return polar and not any(elements[other] == "C" for other in near[atom])
        return elements[atom] != "VS"

    atoms = {atom for atom in range(graph.n_atoms) if counts(atom)}
    named = {}
    for j, k in rotatable_bonds(graph, atoms):
        i, m = (min((atoms & set(near[at])) - {other}) for at, other in ((j, k), (k, j)))
        named["-".join(topology.atom(a).name for a in (i, j, k, m)) + f" ({j},{k})"] = (i, j, k, m)
    return named
