"""Bond graph -> Z-matrix: which atom is placed from which, and what kind of variable each coordinate is.

Every atom but the first hangs on a *parent* it is bonded to.  Atoms that share a parent are *siblings*: the first of
them, the leader, is placed by a proper torsion about the bond (grandparent, parent); the others by the difference of
their torsion to the leader's.  So one variable turns a methyl group, and the differences stay narrow: they hold
planarity, ring shape and chirality.  Rules, not lists of residues, so any connected molecule has a Z-matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LINEAR = np.deg2rad(170.0)  # an angle beyond this cannot carry a torsion
PLANAR = np.deg2rad(357.0)  # a centre of three bonds whose angles sum to more than this is planar
PARTIAL_DOUBLE = 0.142  # nm; two planar centres bonded more closely than this do not turn freely


@dataclass(frozen=True, eq=False)
class ZMatrix:
    """Placement order of a molecule's atoms.

    Attributes
    ----------
    rows : ndarray of int, shape (n_atoms, 4)
        Atom, its bond partner (parent), angle partner and torsion partner; -1 where the first three atoms lack one.
    leader : ndarray of int, shape (n_atoms,)
        Row of the sibling from whose torsion this row's torsion is counted; -1 if it is counted from zero.
    periodic : ndarray of bool, shape (n_atoms,)
        Rows whose torsion turns a whole circle (a rotatable bond); all others are narrow.
    blocks : tuple of ndarray of int
        Rows that can be placed at once, in order; the first block holds the (up to) three seed atoms.
    """

    rows: np.ndarray
    leader: np.ndarray
    periodic: np.ndarray
    blocks: tuple[np.ndarray, ...]

    @classmethod
    def from_rows(cls, rows: np.ndarray, leader: np.ndarray, periodic: np.ndarray) -> ZMatrix:
        """Z-matrix whose blocks follow from its rows."""
        return cls(rows, leader, periodic, _blocks(rows))

    @property
    def n_atoms(self) -> int:
        return len(self.rows)

    def describe(self, names: Sequence[str]) -> str:
        """A table of rows for the user: atom, partners and kind of torsion."""
        lines = ["atom     bond     angle    torsion  torsion variable"]
        for row, leader, periodic in zip(self.rows, self.leader, self.periodic, strict=True):
            cells = [names[i] if i >= 0 else "-" for i in row]
            if row[3] < 0:
                kind = "-"
            elif periodic:
                kind = "periodic"
            else:
                kind = f"narrow, from {names[self.rows[leader, 0]]}" if leader >= 0 else "narrow"
            lines.append("".join(f"{cell:<9}" for cell in cells) + kind)
        return "\n".join(lines)


def build_zmatrix(bonds: np.ndarray, masses: np.ndarray, positions: np.ndarray) -> ZMatrix:
    """Z-matrix of one connected molecule.

    Parameters
    ----------
    bonds : ndarray of int, shape (n_bonds, 2)
    masses : ndarray, shape (n_atoms,)
        Only tells heavy atoms from hydrogens.
    positions : ndarray, shape (n_atoms, 3), nm
        A minimised structure; it tells planar and linear groups.

    Raises
    ------
    ValueError
        If the molecule is not connected, or an atom would have to be placed by way of a linear angle.
    """
    n_atoms = len(masses)
    neighbours: list[list[int]] = [[] for _ in range(n_atoms)]
    for i, j in np.asarray(bonds, dtype=int):
        neighbours[i].append(int(j))
        neighbours[j].append(int(i))
    root = _root(neighbours, masses)
    order, parent = _spanning_tree(root, neighbours)
    if len(order) != n_atoms:
        raise ValueError(
            f"Expected one connected molecule of {n_atoms} atoms; bonds reach only {len(order)} of them from atom "
            f"{root}. Keep one molecule, or add the missing bonds (CONECT records) to the topology."
        )
    size = np.ones(n_atoms, dtype=int)  # atoms in the branch that starts here
    for atom in reversed(order[1:]):
        size[parent[atom]] += size[atom]
    children = {a: sorted((b for b in neighbours[a] if parent[b] == a), key=lambda b: (-size[b], b)) for a in order}
    flexible = _RotatableBonds(neighbours, positions)

    rows, leader, periodic = [(root, -1, -1, -1)], [-1], [False]
    row_of = {root: 0}

    def place(atom: int, bond: int, angle: int, torsion: int, first: int = -1, turns: bool = False) -> None:
        for a, b, c in ((atom, bond, angle), (bond, angle, torsion)):
            if c >= 0 and _angle(positions, a, b, c) > LINEAR:
                raise ValueError(
                    f"Atoms {a}-{b}-{c} are linear, so angles and torsions cannot place atom {atom}. Linear groups "
                    "(nitriles, alkynes) are not supported yet."
                )
        row_of[atom] = len(rows)
        rows.append((atom, bond, angle, torsion))
        leader.append(row_of[first] if first >= 0 else -1)
        periodic.append(turns)

    first = children[root][0] if children[root] else -1  # the branch that the molecule's frame is fixed to
    second = -1
    if first >= 0:
        place(first, root, -1, -1)
    if n_atoms > 2:
        second = children[first][0] if children[first] else children[root][1]
        place(second, *((first, root) if parent[second] == first else (root, first)), -1)

    for centre in order:
        kids = [k for k in children[centre] if k not in row_of]
        if not kids:
            continue
        axis = parent[centre] if centre != root else first
        if parent[second] == centre:  # the second seed leads its siblings; its own torsion is the frame's
            for kid in kids:
                place(kid, centre, axis, second)
            continue
        if centre == root:
            reference = second
        else:
            reference = parent[axis] if axis != root else first
        lead, *others = kids
        place(lead, centre, axis, reference, turns=flexible(axis, centre))
        for kid in others:
            place(kid, centre, axis, reference, first=lead)
    return ZMatrix.from_rows(np.array(rows, dtype=int), np.array(leader), np.array(periodic))


def _root(neighbours: list[list[int]], masses: np.ndarray) -> int:
    """The heavy atom nearest to the middle of the bond graph: fewest placement steps, least error carried along."""
    heavy = [i for i in range(len(masses)) if masses[i] > 3.5] or list(range(len(masses)))
    return min(heavy, key=lambda i: (_eccentricity(i, neighbours), -len(neighbours[i]), i))


def _eccentricity(start: int, neighbours: list[list[int]]) -> int:
    distance = {start: 0}
    queue = [start]
    for atom in queue:
        for other in neighbours[atom]:
            if other not in distance:
                distance[other] = distance[atom] + 1
                queue.append(other)
    return max(distance.values())


def _spanning_tree(root: int, neighbours: list[list[int]]) -> tuple[list[int], dict[int, int]]:
    """Breadth first: a ring is cut opposite to where it is entered."""
    parent = {root: -1}
    order = [root]
    for atom in order:
        for other in sorted(neighbours[atom], key=lambda b: (-len(neighbours[b]), b)):
            if other not in parent:
                parent[other] = atom
                order.append(other)
    return order, parent


class _RotatableBonds:
    """Whether a bond turns freely: not in a ring, and not between two planar centres at partial-double-bond length."""

    def __init__(self, neighbours: list[list[int]], positions: np.ndarray) -> None:
        self._neighbours, self._positions = neighbours, positions

    def __call__(self, a: int, b: int) -> bool:
        length = np.linalg.norm(self._positions[a] - self._positions[b])
        stiff = length < PARTIAL_DOUBLE and self._planar(a) and self._planar(b)
        return not stiff and not self._in_ring(a, b)

    def _planar(self, atom: int) -> bool:
        near = self._neighbours[atom]
        if len(near) != 3:
            return False
        pairs = ((0, 1), (0, 2), (1, 2))
        return sum(_angle(self._positions, near[i], atom, near[j]) for i, j in pairs) > PLANAR

    def _in_ring(self, a: int, b: int) -> bool:
        seen, queue = {a}, [n for n in self._neighbours[a] if n != b]
        while queue:
            atom = queue.pop()
            if atom == b:
                return True
            if atom not in seen:
                seen.add(atom)
                queue.extend(self._neighbours[atom])
        return False


def _angle(x: np.ndarray, a: int, b: int, c: int) -> float:
    u, v = x[a] - x[b], x[c] - x[b]
    return float(np.arccos(np.clip(u @ v / np.linalg.norm(u) / np.linalg.norm(v), -1.0, 1.0)))


def _blocks(rows: np.ndarray) -> tuple[np.ndarray, ...]:
    depth = {int(atom): 0 for atom in rows[:3, 0]}
    for row in rows[3:]:
        depth[int(row[0])] = 1 + max(depth[int(a)] for a in row[1:])
    level = np.array([depth[int(a)] for a in rows[:, 0]])
    return tuple(np.flatnonzero(level == d) for d in range(level.max() + 1))
