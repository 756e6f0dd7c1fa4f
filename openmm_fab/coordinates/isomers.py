"""Isomers that a molecule may interconvert: cis and trans amides, and the two sides of pyramidal nitrogens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..molecule.graph import BondGraph
from ..tools.vectors import bond_angle, torsion
from .zmatrix import DOUBLE, LARGEST_RING, PARTIAL_DOUBLE, PLANAR, ZMatrix

OMEGAS = ("auto", "as_given", "trans", "sample")
NITROGENS = ("sample", "as_given")

Amide = tuple[int, int, int, int]  # atoms of omega: carbon (or other), carbonyl carbon, nitrogen, carbon (or other)


def amide_bonds(graph: BondGraph) -> list[Amide]:
    """Amides outside rings whose cis and trans forms differ, by the atoms of their omega torsion: C(=O)-N with a heavy
    atom on N.

    Formamides, ureas, carbamates and hydrazides are among them. On the carbon, a carbon counts before a heavy atom and
    that before a hydrogen; of two carbons on the nitrogen (proline) the one with a carbonyl beside it, else the larger
    branch.
    """
    near, elements = graph.neighbours, graph.elements

    def carbonyl(atom: int) -> bool:
        return elements[atom] == "C" and any(elements[o] == "O" and len(near[o]) == 1 for o in near[atom])

    def likely(atoms: Sequence[int]) -> list[int]:
        """The carbons, or else the heavy atoms."""
        return [a for a in atoms if elements[a] == "C"] or [a for a in atoms if elements[a] != "H"]

    found: list[Amide] = []
    for carbon in range(len(elements)):
        if not carbonyl(carbon) or len(near[carbon]) != 3:
            continue
        for nitrogen in near[carbon]:
            others = [a for a in near[carbon] if a != nitrogen and not (elements[a] == "O" and len(near[a]) == 1)]
            before = likely(others) or others
            after = likely([a for a in near[nitrogen] if a != carbon])
            if elements[nitrogen] != "N" or len(near[nitrogen]) != 3 or not before or not after:
                continue
            if carbon in graph.branch(nitrogen, carbon):
                continue  # a lactam
            last = max(after, key=lambda a: (any(map(carbonyl, near[a])), len(graph.branch(a, nitrogen)), -a))
            found.append((before[0], carbon, nitrogen, last))
    return found


def of_two_isomers(amides: Sequence[Amide], graph: BondGraph) -> list[Amide]:
    """Amides with two isomers: the two arms on the nitrogen differ by the bond graph."""
    kinds = _kinds(graph)
    return [a for a in amides if len({kinds[arm] for arm in graph.neighbours[a[2]] if arm != a[1]}) > 1]


def without_hydrogen(amides: Sequence[Amide], graph: BondGraph) -> list[Amide]:
    """Amides with two isomers and no hydrogen on the nitrogen, whose isomers are near in energy."""
    near = graph.neighbours
    return [a for a in of_two_isomers(amides, graph) if "H" not in [graph.elements[arm] for arm in near[a[2]]]]


def _kinds(graph: BondGraph) -> list[int]:
    """A number for each atom, the same where all its neighbours, and theirs, are of the same elements."""
    names: list[object] = list(graph.elements)
    while True:
        known = {name: k for k, name in enumerate(dict.fromkeys(names))}
        kinds = [known[name] for name in names]
        names = [(kinds[i], *sorted(kinds[k] for k in near)) for i, near in enumerate(graph.neighbours)]
        if len(set(names)) == len(known):
            return kinds


def is_trans(x: np.ndarray, amide: Amide) -> bool:
    """Whether the amide is trans, |omega| > 90 degrees, in the structure x (n_atoms, 3)."""
    return bool(torsion(*torch.as_tensor(x[list(amide)])).abs() > math.pi / 2)


def with_trans_amides(x: np.ndarray, graph: BondGraph, amides: Sequence[Amide]) -> np.ndarray:
    """Positions (n_atoms, 3) with every cis amide rotated by half a turn to trans; the smaller side moves."""
    x = np.array(x, dtype=np.float64)
    for amide in amides:
        if is_trans(x, amide):
            continue
        sides = graph.branch(amide[1], amide[2]), graph.branch(amide[2], amide[1])
        moved = sorted(sides[0] if len(sides[0]) <= len(sides[1]) else sides[1])
        axis = x[amide[2]] - x[amide[1]]
        axis /= np.linalg.norm(axis)
        arm = x[moved] - x[amide[1]]
        x[moved] = x[amide[1]] + 2 * (arm @ axis)[:, None] * axis - arm
    return x


def stiff_in_large_rings(graph: BondGraph, x: np.ndarray, sampled: bool) -> list[tuple[int, int, int, int]]:
    """Torsions, within rings of more than `LARGEST_RING` atoms, of double bonds and amides; not of amides if they are
    `sampled`. x (n_atoms, 3), nm, tells the bonds by their lengths."""
    near, elements = graph.neighbours, graph.elements

    def planar(i: int) -> bool:
        arms = x[near[i]]
        return len(near[i]) == 3 and bool(bond_angle(arms, x[i], np.roll(arms, 1, 0)).sum() > PLANAR)

    def amide(i: int, j: int) -> bool:
        carbonyl = any(elements[o] == "O" and len(near[o]) == 1 for o in near[i])
        return elements[i] == "C" and elements[j] == "N" and carbonyl

    found = []
    for i, j in graph.bonds.tolist():
        ring = graph.ring(i, j)
        if len(ring) <= LARGEST_RING or (sampled and (amide(i, j) or amide(j, i))):
            continue
        length = float(np.linalg.norm(x[i] - x[j]))
        if length < DOUBLE or (length < PARTIAL_DOUBLE and planar(i) and planar(j)):
            found.append((ring[1], i, j, ring[-2]))
    return found


def kept_in_large_rings(graph: BondGraph, x: np.ndarray) -> list[tuple[int, int, str]]:
    """Atoms of double bonds and amides in large rings that are "cis", or "trans", in all structures x (n, n_atoms,
    3)."""
    found = []
    for four in stiff_in_large_rings(graph, x[0], sampled=False):
        trans = {is_trans(one, four) for one in x}
        if len(trans) == 1:
            found.append((four[1], four[2], "trans" if trans.pop() else "cis"))
    return found


def pyramidal_nitrogens(graph: BondGraph, x: np.ndarray) -> list[int]:
    """Nitrogens with three neighbours that are not in one plane, in x (n_atoms, 3)."""
    near, elements = graph.neighbours, graph.elements
    found = []
    for i, around in enumerate(near):
        if elements[i] == "N" and len(around) == 3:
            arms = x[around]
            found += [i] * bool(bond_angle(arms, x[i], np.roll(arms, 1, 0)).sum() <= PLANAR)
    return found


def kept_nitrogens(graph: BondGraph, x: np.ndarray) -> list[int]:
    """Pyramidal nitrogens that are on the same side, or flat, in all of the structures x (n, n_atoms, 3)."""
    found = []
    for i in sorted({i for one in x for i in pyramidal_nitrogens(graph, one)}):
        a, b, c = (x[:, k] - x[:, i] for k in graph.neighbours[i])
        volume = np.einsum("nk,nk->n", a, np.cross(b, c))
        if volume.max() * volume.min() > 0:
            found.append(i)
    return found


def sides_of_nitrogens(zmatrix: ZMatrix, graph: BondGraph, x: np.ndarray) -> dict[int, int]:
    """Rows of the Z-matrix whose narrow torsion inverts a pyramidal nitrogen, and the nitrogen.

    The torsion says how two arms lie to each other, seen from the third: its sign is the side.
    """
    near = graph.neighbours
    pyramids = set(pyramidal_nitrogens(graph, x))
    return {
        k: bond
        for k, (_, bond, _, torsion) in enumerate(zmatrix.rows.tolist())
        if k >= 3 and bond in pyramids and (zmatrix.leader[k] >= 0 or torsion in near[bond]) and not zmatrix.closes[k]
    }


def mirrored(x: Tensor, graph: BondGraph) -> Tensor:
    """Mirror images of x (n, n_atoms, 3), in which two equal atoms of each CH2, CH3 or the like have exchanged their
    labels, so that only true stereocentres have changed hands."""
    order = list(range(graph.n_atoms))
    for around in graph.neighbours:
        ends = [i for i in around if len(graph.neighbours[i]) == 1]
        equal = [[i, j] for i in ends for j in ends if i < j and graph.elements[i] == graph.elements[j]]
        if len(around) == 4 and equal:
            i, j = equal[0]
            order[i], order[j] = j, i
    return (x * x.new_tensor([1.0, 1.0, -1.0]))[:, order]


def hands_of(x: Tensor, graph: BondGraph) -> Tensor:
    """Bool (n, centres): on which side the neighbours of every atom that has four lie, x (n, n_atoms, 3)."""
    four = [around for around in graph.neighbours if len(around) == 4]
    if not four:
        return torch.zeros(len(x), 0, dtype=torch.bool)
    a, b, c, d = (x[:, [around[k] for around in four]] for k in range(4))
    return (torch.linalg.cross(b - a, c - a) * (d - a)).sum(2) > 0


def trans_of(x: Tensor, torsions: Sequence[tuple[int, int, int, int]]) -> Tensor:
    """Bool (n, torsions): which of them are trans in structures x (n, n_atoms, 3)."""
    atoms = torch.tensor(torsions, dtype=torch.long).reshape(-1, 4)
    return torsion(*x[:, atoms].unbind(2)).abs() > math.pi / 2
