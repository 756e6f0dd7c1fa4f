"""What an Ensemble asks of an mdtraj.Topology: names of torsions, the same atoms or not, arrays to put in a
file."""

from __future__ import annotations

import warnings

import mdtraj
import numpy as np


def named_torsions(topology: mdtraj.Topology) -> dict[str, tuple[int, int, int, int]]:
    """Backbone phi and psi by name ("phi ALA2"); where there are none, one torsion for every rotatable heavy-atom bond.

    With several chains a name has the chain's letter, "phi A:ALA2". A bond counts as rotatable when both its atoms have
    another heavy neighbour and it is in no ring.
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
    """The `named_torsions`, and those of every other bond that heavy atoms turn about (side chains, omega); where no
    heavy atoms do, of bonds that end in a polar hydrogen (a carboxylic acid's OH)."""
    named = named_torsions(topology)
    taken = {frozenset(atoms[1:3]) for atoms in named.values()}
    others = _rotatable(topology) or _rotatable(topology, polar=True)
    return named | {name: atoms for name, atoms in others.items() if frozenset(atoms[1:3]) not in taken}


def backbone_pairs(topology: mdtraj.Topology) -> dict[str, tuple[str, str]]:
    """Names of phi and psi of every residue that has both, by residue ("ALA2"): the axes of its Ramachandran plot."""
    named = named_torsions(topology)
    residues = [name.removeprefix("phi ") for name in named if name.startswith("phi ")]
    return {residue: (f"phi {residue}", f"psi {residue}") for residue in residues if f"psi {residue}" in named}


def map_axes(topology: mdtraj.Topology) -> tuple[str, ...]:
    """Two torsions to draw structures on, by name: phi and psi of the first residue with both, or the first two; none
    where there are fewer."""
    names = next(iter(backbone_pairs(topology).values()), None) or tuple(named_torsions(topology))[:2]
    return names if len(names) == 2 else ()


def _residue(topology: mdtraj.Topology, atom: int) -> str:
    """Residue of an atom by name and number, with its chain where there are several."""
    residue = topology.atom(atom).residue
    chain = residue.chain.index
    return f"{chr(ord('A') + chain % 26)}:{residue}" if topology.n_chains > 1 else str(residue)


def _four(row: np.ndarray) -> tuple[int, int, int, int]:
    i, j, k, m = map(int, row)
    return i, j, k, m


def _rotatable(topology: mdtraj.Topology, polar: bool = False) -> dict[str, tuple[int, int, int, int]]:
    """Of heavy atoms, with `polar` also of hydrogens that are not on carbon."""
    on_carbon = {a.index for pair in topology.bonds for a, b in (pair, pair[::-1]) if b.element.symbol == "C"}
    skipped = {a.index for a in topology.atoms if a.element.symbol == "VS"}
    skipped |= {a.index for a in topology.atoms if a.element.symbol == "H" and not (polar and a.index not in on_carbon)}
    heavy: dict[int, list[int]] = {a.index: [] for a in topology.atoms if a.index not in skipped}
    for a, b in topology.bonds:
        if a.index in heavy and b.index in heavy:
            heavy[a.index].append(b.index)
            heavy[b.index].append(a.index)
    named = {}
    for j in heavy:
        for k in heavy[j]:
            ends = [sorted(set(heavy[j]) - {k}), sorted(set(heavy[k]) - {j})]
            if j < k and all(ends) and not _joined(heavy, j, k):
                quadruple = (ends[0][0], j, k, ends[1][0])
                named["-".join(topology.atom(i).name for i in quadruple) + f" ({j},{k})"] = quadruple
    return named


def _joined(neighbours: dict[int, list[int]], j: int, k: int) -> bool:
    """Is k reached from j without their own bond, that is, through a ring?"""
    seen, todo = {j}, [i for i in neighbours[j] if i != k]
    while todo:
        i = todo.pop()
        if i == k:
            return True
        if i not in seen:
            seen.add(i)
            todo += neighbours[i]
    return False
