"""Bond graph -> Z-matrix: which atom is placed from which, and what kind of variable each coordinate is.

Every atom but the first is placed from a *parent* it is bonded to.  Atoms that share a parent are *siblings*: the first
of them, the leader, is placed by a proper torsion about the bond (grandparent, parent); the others by the difference of
their torsion to the leader's.  So one variable turns a methyl group, and the differences stay narrow: they hold
planarity, ring shape and chirality.  The atom that closes a ring is placed by its distances to both of its ring
neighbours and the angle between two planes, so that a ring is closed whatever its pucker.  Rules, not lists of
residues, so any connected molecule has a Z-matrix, but for one that is all on one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from ..molecule.graph import BondGraph, is_planar
from ..tools.vectors import bond_angle

LINEAR = np.deg2rad(165.0)  # an angle beyond this, or below 15 degrees, cannot carry a torsion
PLANAR = np.deg2rad(350.0)  # a centre of three bonds whose angles sum to more than this is planar, or nearly so
PARTIAL_DOUBLE = 0.1405  # nm; two planar centres bonded more closely than this do not turn freely: amides, anilines
DOUBLE = 0.132  # nm; nor do others bonded more closely than this (C=N, N=N), but for acids' C-OH
SINGLE_LINEAR = 0.136  # nm; bonds of linear centres longer than this are single: alkynes have one, cumulenes none
OXYGEN = (15.5, 16.5)  # dalton
LARGEST_RING = 8  # atoms; larger ones are closed by the energy alone


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
    closes : ndarray of bool, shape (n_atoms,)
        Rows whose angle partner is bonded to the atom, too: the distance to it stands in place of the angle.
    blocks : tuple of ndarray of int
        Rows that can be placed at once, in order; the first block holds the (up to) three seed atoms.
    """

    rows: np.ndarray
    leader: np.ndarray
    periodic: np.ndarray
    closes: np.ndarray
    blocks: tuple[np.ndarray, ...]

    @classmethod
    def from_rows(cls, rows: np.ndarray, leader: np.ndarray, periodic: np.ndarray, closes: np.ndarray) -> ZMatrix:
        """Z-matrix whose blocks follow from its rows."""
        return cls(rows, leader, periodic, closes, _blocks(rows))

    def __repr__(self) -> str:
        return f"ZMatrix({self.n_atoms} atoms, {int(self.periodic.sum())} bonds that turn, {len(self.blocks)} blocks)"

    @property
    def n_atoms(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Row:
    """One row of a Z-matrix while it is built: an atom, and the atoms that it is placed from; see `ZMatrix`."""

    atom: int
    bond: int = -1
    angle: int = -1
    torsion: int = -1
    leader: int = -1  # row
    turns: bool = False
    closes_ring: bool = False


def puckering(zmatrix: ZMatrix, positions: np.ndarray) -> np.ndarray:
    """Rows (n_atoms,) bool whose torsion puckers a ring, one that is not planar at `positions` (n_atoms, 3)."""
    bonds = [*zmatrix.rows[1:, :2], *zmatrix.rows[zmatrix.closes][:, [0, 2]]]
    graph = BondGraph([""] * zmatrix.n_atoms, np.array(bonds))
    found = np.zeros(zmatrix.n_atoms, dtype=bool)
    for k, (atom, bond, angle, torsion) in enumerate(zmatrix.rows[3:].tolist(), start=3):
        ring = graph.ring(atom, bond)
        # A torsion about a bond of the ring, not the difference of two that holds the chirality.
        about_it = angle in ring and torsion not in graph.neighbours[bond] and zmatrix.leader[k] < 0
        found[k] = bool(ring) and (zmatrix.closes[k] or about_it) and not is_planar(ring, positions)
    return found


def turning_rows(zmatrix: ZMatrix, graph: BondGraph) -> dict[int, tuple[int, int]]:
    """Rows whose torsion could turn a whole circle, whether it is `periodic` or not, and the two atoms of the axis.

    The axis is a bond in no ring, or leads through linear atoms, which are not named.
    """
    found = {}
    for k, (_, bond, angle, torsion) in enumerate(zmatrix.rows[3:].tolist(), start=3):
        proper = zmatrix.leader[k] < 0 and not zmatrix.closes[k] and torsion not in graph.neighbours[bond]
        if proper and torsion != angle and not _in_a_ring(graph, bond, angle):
            found[k] = (angle, bond)
    return found


def _in_a_ring(graph: BondGraph, a: int, b: int) -> bool:
    """Whether a bond is in a ring, or the row of linear atoms between a and b."""
    before = graph.tree(a)
    while before[b] != a:
        b = before[b]
    return bool(graph.ring(a, b))


def build_zmatrix(
    graph: BondGraph, masses: np.ndarray, positions: np.ndarray, *, turning: Iterable[Sequence[int]] = ()
) -> ZMatrix:
    """Build the Z-matrix of one connected molecule.

    Parameters
    ----------
    graph : BondGraph
    masses : ndarray, shape (n_atoms,)
        Only tell heavy atoms from hydrogens, and oxygen.
    positions : ndarray, shape (n_atoms, 3), nm
        A minimised structure; it tells planar and linear groups.
    turning : pairs of atoms
        Bonds that turn freely, whatever they look like.

    Raises
    ------
    ValueError
        If the molecule is not connected, or all its atoms lie on one line.
    """
    tree = _Tree(graph, masses, positions)
    turns = _RotatableBonds(tree, turning)
    rows: list[Row] = []
    row_of: dict[int, int] = {}  # of atoms that are placed

    def add_row(row: Row) -> None:
        row_of[row.atom] = len(rows)
        rows.append(row)

    first, second = tree.seeds()  # the molecule's frame is fixed to these and the root
    add_row(Row(tree.root))
    if first >= 0:
        add_row(Row(first, tree.root))
    if second >= 0:
        add_row(Row(second, *((first, tree.root) if tree.parent[second] == first else (tree.root, first))))

    waiting = list(tree.order)
    while waiting:
        # What hangs on an atom whose ring is not closed yet waits for it, but where they wait for each other.
        centre = next((a for a in waiting if a in row_of and tree.closed(a, row_of)), None)
        centre = next(a for a in waiting if a in row_of) if centre is None else centre
        waiting.remove(centre)
        children = [child for child in tree.children[centre] if child not in row_of]
        if not children:
            continue
        axis = tree.parent[centre] if centre != tree.root else first
        if second in tree.children[centre] or centre == tree.root:
            reference = second
        else:
            reference = tree.reference(centre, axis, first)
        leader, anchor = -1, tree.anchor(centre, axis, row_of)
        closing = {child: tree.closing(child, row_of) for child in children}
        in_line = {child: tree.in_line(child, centre, axis) for child in children}
        # Those that close rings first, and before all that lie in line with the axis.
        children.sort(key=lambda child: closing[child] is None)
        children.sort(key=lambda child: in_line[child])
        for child in children:
            partners = closing[child]
            if partners is not None:
                add_row(Row(child, centre, partners[0], partners[1], closes_ring=True))
                anchor = child if anchor is None and not in_line[child] else anchor
            elif in_line[child]:  # a sibling takes the part of the axis
                beside = [k for k in tree.children[centre] if k in row_of and not tree.in_line(child, centre, k)]
                add_row(Row(child, centre, beside[0], axis))
            elif anchor is not None:
                add_row(Row(child, centre, axis, anchor))
            elif leader >= 0 or second in tree.children[centre]:
                # A seed leads its siblings, without a torsion of its own.
                add_row(Row(child, centre, axis, reference, leader=row_of.get(leader, -1)))
            else:
                leader = child
                add_row(Row(child, centre, axis, reference, turns=turns(centre)))
    return ZMatrix.from_rows(
        np.array([(row.atom, row.bond, row.angle, row.torsion) for row in rows], dtype=int),
        np.array([row.leader for row in rows]),
        np.array([row.turns for row in rows]),
        np.array([row.closes_ring for row in rows]),
    )


class _Tree:
    """The molecule as a tree: the atom that each one is placed from.

    That is a bonded one, as a rule. An atom beyond a linear centre is placed from the atom before that centre instead,
    as a sibling of the centre, since an angle of 180 degrees carries no torsion.

    Attributes
    ----------
    root : int
    order : list of int
        Breadth first from the root: a ring is cut opposite to where it is entered.
    parent, bonded : dict of int
        The atom that it is placed from, and the one that it is bonded to on the way from the root; -1 of the root.
    children : dict of list of int
        By parent; larger branches first, those beyond a linear centre last.
    """

    def __init__(self, graph: BondGraph, masses: np.ndarray, positions: np.ndarray) -> None:
        self.graph, self.masses, self.positions = graph, masses, positions
        self.n_atoms, self.neighbours = graph.n_atoms, graph.neighbours
        self.root = self._root(masses)
        self.order, self.bonded = [self.root], {self.root: -1}
        for atom in self.order:  # grows while it is walked
            for other in sorted(self.neighbours[atom], key=lambda b: (-len(self.neighbours[b]), b)):
                if other not in self.bonded:
                    self.bonded[other] = atom
                    self.order.append(other)
        if len(self.order) != self.n_atoms:
            raise ValueError(
                f"Expected one connected molecule of {self.n_atoms} atoms; bonds reach only {len(self.order)} of them "
                f"from atom {self.root}. Keep one molecule, or add the missing bonds (CONECT records) to the topology."
            )
        self.parent = {self.root: -1}
        for atom in self.order[1:]:
            before = self.bonded[atom]
            self.parent[atom] = self.parent[before] if self.linear(before) else before
        size = dict.fromkeys(self.order, 1)  # atoms in the branch that starts here
        for atom in reversed(self.order[1:]):
            size[self.parent[atom]] += size[atom]
        self.children: dict[int, list[int]] = {atom: [] for atom in self.order}
        by_size = sorted(self.order[1:], key=lambda atom: (-size[atom], atom))
        for atom in sorted(by_size, key=lambda atom: self.parent[atom] != self.bonded[atom]):  # beyond linear ones last
            self.children[self.parent[atom]].append(atom)

    def _root(self, masses: np.ndarray) -> int:
        """The heavy atom nearest to the middle of the bond graph: fewest placement steps, least error carried along."""
        bent = [
            i for i in range(self.n_atoms) if not self.linear(i) and (len(self.neighbours[i]) > 1 or self.n_atoms < 3)
        ]
        if not bent:
            raise ValueError(
                "Expected a molecule that is not all on one line; these atoms are. Its shape has no torsions and its "
                "angles of 180 degrees are no coordinates: sample it by molecular dynamics."
            )
        heavy = [i for i in bent if masses[i] > 3.5] or bent
        return min(heavy, key=lambda i: (max(self.graph.distances(i).values()), -len(self.neighbours[i]), i))

    def linear(self, atom: int) -> bool:
        near = self.neighbours[atom]
        return len(near) == 2 and self.in_line(near[0], atom, near[1])

    def in_line(self, a: int, b: int, c: int) -> bool:
        x = self.positions
        return not np.pi - LINEAR < bond_angle(x[a], x[b], x[c]) < LINEAR

    def seeds(self) -> tuple[int, int]:
        """The two atoms that fix, with the root, the molecule's frame; -1 where there are too few atoms."""
        if self.n_atoms == 1:
            return -1, -1
        first, *others = self.children[self.root]
        # At the root rather than beyond the first: then every group that turns has a torsion of its own.
        for second in others:
            if not self.in_line(second, self.root, first):
                return first, second
        return first, next((k for k in self.children[first] if not self.in_line(k, first, self.root)), -1)

    def _across(self, atom: int) -> list[int]:
        """Atoms bonded to this one that are neither before nor after it in the tree: the bond closes a ring."""
        return [b for b in self.neighbours[atom] if self.bonded[atom] != b and self.bonded[b] != atom]

    def closed(self, atom: int, placed: Mapping[int, int]) -> bool:
        return all(b in placed for b in self._across(atom))

    def anchor(self, centre: int, axis: int, placed: Mapping[int, int]) -> int | None:
        """An atom that closes a ring at the centre: what else is bonded there is placed from it."""
        found = [b for b in self._across(centre) if b in placed and not self.in_line(b, centre, axis)]
        return found[0] if found and centre != self.root else None

    def closing(self, atom: int, placed: Mapping[int, int]) -> tuple[int, int] | None:
        """Angle and torsion partner of an atom that closes a ring: its other ring neighbour, and an atom aside."""
        bond = self.parent[atom]
        if self.bonded[atom] != bond:
            return None
        for other in self._across(atom):
            ring = self.graph.ring(atom, other)
            if other in placed and not self.in_line(atom, bond, other) and len(ring) <= LARGEST_RING:
                around = [self.parent[bond], *self.neighbours[bond], *self.neighbours[other]]
                for aside in around:
                    if aside in placed and aside not in (atom, bond, other) and not self.in_line(other, bond, aside):
                        return other, aside
        return None

    def reference(self, centre: int, axis: int, first: int) -> int:
        """The torsion partner of atoms at the centre, placed before it, off the line from the axis to the centre."""
        candidates = [first if axis == self.root else self.parent[axis], *self.children[axis]]
        return next(k for k in candidates if k != centre and not self.in_line(centre, axis, k))


class _RotatableBonds:
    """Whether the atoms at a centre turn about its axis.

    Not where the bond is in a ring, nor where it has the length of a double bond or, between planar centres, of a
    partial one; where the axis leads through linear centres, as it does for a triple bond, one single bond is enough.
    """

    def __init__(self, tree: _Tree, turning: Iterable[Sequence[int]]) -> None:
        self._tree, self._turning = tree, {frozenset(map(int, bond)) for bond in turning}

    def __call__(self, centre: int) -> bool:
        tree = self._tree
        if centre == tree.root:
            return self._turns(centre, tree.children[centre][0])
        chain = [centre, tree.bonded[centre]]
        while chain[-1] != tree.parent[centre]:
            chain.append(tree.bonded[chain[-1]])
        if len(chain) > 2:
            return any(self._length(a, b) > SINGLE_LINEAR and not self._in_ring(a, b) for a, b in pairwise(chain))
        return self._turns(*chain)

    def _turns(self, a: int, b: int) -> bool:
        length = self._length(a, b)
        stiff = length < PARTIAL_DOUBLE and self._planar(a) and self._planar(b)
        stiff |= length < DOUBLE and not any(OXYGEN[0] < self._tree.masses[atom] < OXYGEN[1] for atom in (a, b))
        return not self._in_ring(a, b) and (not stiff or frozenset((a, b)) in self._turning)

    def _length(self, a: int, b: int) -> float:
        return float(np.linalg.norm(self._tree.positions[a] - self._tree.positions[b]))

    def _planar(self, atom: int) -> bool:
        near = self._tree.neighbours[atom]
        if len(near) != 3:
            return False
        x = self._tree.positions
        return sum(bond_angle(x[a], x[atom], x[b]) for a, b in combinations(near, 2)) > PLANAR

    def _in_ring(self, a: int, b: int) -> bool:
        return bool(self._tree.graph.ring(a, b))


def _blocks(rows: np.ndarray) -> tuple[np.ndarray, ...]:
    depth = {int(atom): 0 for atom in rows[:3, 0]}
    for row in rows[3:]:
        depth[int(row[0])] = 1 + max(depth[int(a)] for a in row[1:])
    level = np.array([depth[int(a)] for a in rows[:, 0]])
    return tuple(np.flatnonzero(level == d) for d in range(level.max() + 1))
