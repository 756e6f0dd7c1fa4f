"""Groups of equal atoms at the end of a rotatable bond: methyls, ammonium, and others on request.

Turning such a group by a full turn over its fold only exchanges atoms that cannot be told apart, so one sector of its
torsion holds all there is to know.  In terms of the mean phase of its atoms,
psi = phi_1 + sum_k (phi_k - phi_1 - 2 pi (k - 1) / fold) / fold, an exchange is a shift by exactly 2 pi / fold, however
distorted the group is; a sector of psi is therefore an exact domain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .zmatrix import ZMatrix


@dataclass(frozen=True, eq=False)
class Rotor:
    """Equal atoms on one rotatable bond.

    Attributes
    ----------
    rows : tuple of int
        Rows of the Z-matrix of the group's atoms, the leader first, the others in the order in which they follow.
    exchange : ndarray of int, shape (n_atoms,)
        x[exchange] is x with each atom of the group under the label of the one before it: psi grows by 2 pi / fold.
    """

    rows: tuple[int, ...]
    exchange: np.ndarray

    @property
    def fold(self) -> int:
        return len(self.rows)


def find_rotors(
    zmatrix: ZMatrix, bonds: np.ndarray, kinds: list[str], positions: np.ndarray, symmetry: str
) -> list[Rotor]:
    """Rotors of a molecule.

    Parameters
    ----------
    zmatrix : ZMatrix
    bonds : ndarray of int, shape (n_bonds, 2)
    kinds : list of str
        Of each atom; equal strings for atoms that may be exchanged, such as elements.
    positions : ndarray, shape (n_atoms, 3)
        Tell the order of the atoms about the bond.
    symmetry : "none", "methyl" or "all"
        "methyl": three single atoms (CH3, NH3+, CF3). "all": also rings (phenyl), carboxylates, tert-butyl, ...
    """
    found = []
    for row in np.flatnonzero(zmatrix.periodic) if symmetry != "none" else []:
        followers = np.flatnonzero(zmatrix.leader == row)
        atom, centre, axis, reference = (int(a) for a in zmatrix.rows[row])
        kids = [atom, *(int(a) for a in zmatrix.rows[followers, 0])]
        phi = np.array([_dihedral(positions[[kid, centre, axis, reference]]) for kid in kids])
        order = np.argsort((phi - phi[0]) % (2 * np.pi))
        rows, kids = np.array([row, *followers])[order], [kids[k] for k in order]
        neighbours = _neighbours(bonds, len(kinds))
        if len(kids) < 2 or len(neighbours[centre]) != len(kids) + 1:
            continue
        if symmetry == "methyl" and (len(kids) != 3 or any(len(neighbours[kid]) > 1 for kid in kids)):
            continue
        exchange = _exchange(kids, centre, axis, neighbours, kinds)
        if exchange is not None:
            found.append(Rotor(tuple(int(r) for r in rows), exchange))
    return found


def _exchange(
    kids: list[int], centre: int, axis: int, neighbours: list[list[int]], kinds: list[str]
) -> np.ndarray | None:
    """The relabelling that takes each kid to the next, with what hangs on it; None if there is none."""
    exchange = np.arange(len(kinds))
    following = dict(zip(kids, [*kids[1:], kids[0]], strict=True))
    if all(len(neighbours[kid]) == 1 for kid in kids):
        if len({kinds[kid] for kid in kids}) > 1:
            return None
        exchange[list(following)] = list(following.values())
        return exchange
    import networkx  # takes a while to load

    branch, queue = {centre}, [centre]
    for atom in queue:
        new = [b for b in neighbours[atom] if b not in branch and not (atom == centre and b == axis)]
        branch.update(new)
        queue += new
    if axis in branch:  # a ring through the axis
        return None
    here, there = networkx.Graph(), networkx.Graph()
    for atom in branch:
        here.add_node(atom, kind=(kinds[atom], following.get(atom), atom == centre))
        there.add_node(atom, kind=(kinds[atom], atom if atom in following else None, atom == centre))
    edges = [(a, b) for a in branch for b in neighbours[a] if b in branch]
    here.add_edges_from(edges)
    there.add_edges_from(edges)
    matcher = networkx.isomorphism.GraphMatcher(here, there, lambda a, b: a["kind"] == b["kind"])
    mapping = next(matcher.isomorphisms_iter(), None)
    if mapping is None:
        return None
    exchange[list(mapping)] = list(mapping.values())
    return exchange


def _neighbours(bonds: np.ndarray, n_atoms: int) -> list[list[int]]:
    neighbours: list[list[int]] = [[] for _ in range(n_atoms)]
    for i, j in np.asarray(bonds, dtype=int).reshape(-1, 2).tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    return neighbours


def _dihedral(x: np.ndarray) -> float:
    u, v, w = np.diff(x, axis=0)
    p, q = np.cross(u, v), np.cross(v, w)
    return float(np.arctan2(np.cross(p, q) @ v / np.linalg.norm(v), p @ q))
