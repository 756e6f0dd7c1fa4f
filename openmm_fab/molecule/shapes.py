"""Shapes of a molecule told apart: by the torsions of all bonds, rings included, and by the sides of pyramids.

Nothing here knows how a molecule is sampled.  Structures that exchanges of equal atoms take into each other are the
same: of equal hydrogens at the end of a bond the mean of exp(i m phi) over both is looked at, m = 1, 2, 3, which no
exchange of their labels changes; and of other atoms all automorphisms of the bond graph are tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ..tools.vectors import bond_angle, torsion
from .graph import BondGraph
from .stereo import stereocentres

LINEAR = math.radians(175.0)
ORDERS = 3  # of exp(i m phi), where hydrogens at the end of a bond are equal
PYRAMID = 2.0  # times the volume that three unit arms span, 0.77 where tetrahedral: the two chiralities lie 3 apart
SAME = 0.6  # distance in a block, rad where that is small, up to which two structures are alike
EXCHANGES = 500  # automorphisms looked at
INVERTING = ("N", "P", "As", "S", "Se")  # elements with three neighbours that may be pyramidal


@dataclass(frozen=True)
class Block:
    """A part of the features that belongs to one bond or centre.

    Parameters
    ----------
    atoms : tuple of int
        Two of a bond, one of a centre.
    fours : tuple of four int
        Atoms of its torsions; of a centre one: three neighbours and itself.
    ring : bool
        The bond is in a ring.
    ends : frozenset of (int, int)
        Atoms of the bond, each with its partner, -1 for hydrogens: what an automorphism maps.
    """

    atoms: tuple[int, ...]
    fours: tuple[tuple[int, int, int, int], ...]
    ring: bool
    ends: frozenset[tuple[int, int]]

    @property
    def width(self) -> int:
        """Number of features."""
        return 1 if len(self.atoms) == 1 else 2 if len(self.fours) == 1 else 2 * ORDERS


class Shapes:
    """Features of structures, in which minima of the energy lie apart.

    Parameters
    ----------
    graph : BondGraph
    positions : (n_atoms, 3), nm
        Tell which groups are linear, and have no torsion.
    exchanges : sequence of (n_atoms,) int arrays
        Permutations of atoms that leave the energy as it is, the identity among them.

    Attributes
    ----------
    blocks : list of Block
    permutations : (g, n_features) int
        x[permutation of atoms] has the features f[:, permutations[k]] for one of them.
    """

    def __init__(self, graph: BondGraph, positions: np.ndarray, exchanges: Sequence[np.ndarray] = ()) -> None:
        self.blocks = [*_bonds(graph, positions), *_centres(graph)]
        self._starts = np.cumsum([0, *(block.width for block in self.blocks)])
        self.n_features = int(self._starts[-1])
        # One block of nothing where there is none: all structures are alike.
        self.membership = torch.zeros(self.n_features, max(1, len(self.blocks)), dtype=torch.float64)
        for k in range(len(self.blocks)):
            self.membership[self.columns(k), k] = 1.0
        found = [self._permuted(exchange) for exchange in (np.arange(graph.n_atoms), *exchanges)]
        self.permutations = np.array(sorted({tuple(p.tolist()) for p in found if p is not None}), dtype=np.int64)

    def columns(self, block: int) -> slice:
        """Slice of the features that belong to a block, by its number."""
        return slice(int(self._starts[block]), int(self._starts[block + 1]))

    def _permuted(self, exchange: np.ndarray) -> np.ndarray | None:
        """The permutation (n_features,) that an exchange of atoms (n_atoms,) is; None where it maps no block to one."""
        place = {block.ends: k for k, block in enumerate(self.blocks)}
        columns: list[int] = []
        for block in self.blocks:
            ends = frozenset((int(exchange[i]), int(exchange[k]) if k >= 0 else k) for i, k in block.ends)
            if ends not in place or self.blocks[place[ends]].width != block.width:
                return None
            there = self.columns(place[ends])
            columns += range(there.start, there.stop)
        return np.array(columns, dtype=np.int64)

    def orbit(self, block: int) -> list[int]:
        """Blocks that exchanges of equal atoms take this one to, itself among them."""
        first = self._starts[block]
        return sorted({int(np.searchsorted(self._starts, p[first], "right")) - 1 for p in self.permutations})

    def __call__(self, x: Tensor) -> Tensor:
        """Features (n, n_features), float64, of structures x (n, n_atoms, 3)."""
        x = x.double()
        columns = [x.new_zeros(len(x), 0)]
        fours = torch.tensor([four for b in self.blocks for four in b.fours], dtype=torch.long).reshape(-1, 4)
        points = x[:, fours.to(x.device)]
        phi = torsion(*points.unbind(2))
        at = 0
        for block in self.blocks:
            these = phi[:, at : at + len(block.fours)]
            if len(block.atoms) == 1:
                arms = points[:, at, :3] - points[:, at, 3:]
                arms = arms / arms.norm(dim=2, keepdim=True)
                columns.append(PYRAMID * torch.linalg.det(arms)[:, None])
            else:
                for m in range(1, 1 + (1 if block.width == 2 else ORDERS)):
                    columns += [(m * these).cos().mean(1, True) / m, (m * these).sin().mean(1, True) / m]
            at += len(block.fours)
        return torch.cat(columns, 1)

    def images(self, features: Tensor) -> Tensor:
        """(g, n, n_features): those of the same structures (n, n_features) with equal atoms exchanged."""
        return features[:, torch.as_tensor(self.permutations, device=features.device)].transpose(0, 1)

    def apart(self, a: Tensor, b: Tensor) -> Tensor:
        """(n, n_blocks): distance in every block between features a and b (n, n_features), broadcast."""
        return ((a - b).square() @ self.membership.to(a.device)).sqrt()

    def nearest(self, features: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest of `others` (k, n_features) for each of the features (n, n_features), equal atoms exchanged.

        Returns
        -------
        (n,) int, and (n, n_blocks): which it is, and how far it is in every block
        """
        images = self.images(others).flatten(0, 1)
        index = torch.cdist(features, images, compute_mode="use_mm_for_euclid_dist").argmin(1)
        return index % len(others), self.apart(features, images[index])


def exchanges(graph: BondGraph, most: int = EXCHANGES) -> list[np.ndarray]:
    """Permutations of atoms that keep bonds and elements, the identity first, at most so many.

    Hydrogens go with the atom they are bonded to, in the order of their numbers; permutations of hydrogens alone are
    left out.
    """
    near, kinds = graph.neighbours, graph.kinds
    heavy = [i for i, element in enumerate(graph.elements) if element != "H"]
    identity = np.arange(graph.n_atoms)
    if len({kinds[i] for i in heavy}) == len(heavy):
        return [identity]
    import networkx  # takes a while to load

    molecule = networkx.Graph()
    molecule.add_nodes_from((i, {"kind": kinds[i]}) for i in heavy)
    molecule.add_edges_from((i, j) for i, j in graph.bonds.tolist() if {i, j} <= set(heavy))
    matcher = networkx.isomorphism.GraphMatcher(molecule, molecule, lambda a, b: a["kind"] == b["kind"])

    def hydrogens(i: int) -> list[int]:
        return sorted(j for j in near[i] if graph.elements[j] == "H")

    found = [identity]
    for mapping in islice(matcher.isomorphisms_iter(), most):
        exchange = identity.copy()
        for i, image in mapping.items():
            exchange[[i, *hydrogens(i)]] = [image, *hydrogens(image)]
        if (exchange != identity).any():
            found.append(exchange)
    return found


def _bonds(graph: BondGraph, x: np.ndarray) -> list[Block]:
    """Blocks of all bonds with something at both ends that is not linear."""
    near, kinds, elements = graph.neighbours, graph.kinds, graph.elements
    found = []

    def classes(end: int, other: int, ring: Sequence[int]) -> list[list[int]]:
        """Partners at one end of a bond that tell its torsions, each by itself or equal hydrogens together; none where
        they are linear, or three and more that are equal, whose turns are exchanges."""
        partners = [i for i in near[end] if i != other]
        if not partners or (len(partners) == 1 and bond_angle(x[partners[0]], x[end], x[other]) > LINEAR):
            return []
        groups = [[i for i in partners if kinds[i] == kind] for kind in sorted({kinds[i] for i in partners})]
        if ring:  # the ring's own, and what tells on which side of it the others are
            groups = [g for g in groups if elements[g[0]] != "H" or elements[end] != "C"]
        else:
            groups.sort(key=lambda g: (len(g), elements[g[0]] == "H", -sum(elements[i] != "H" for i in near[g[0]])))
            groups = groups[:1] if len(groups[0]) < 3 else []
        return [part for g in groups for part in ([g] if elements[g[0]] == "H" else [[i] for i in g])]

    for j, k in graph.bonds.tolist():
        ring = graph.ring(j, k)
        for a in classes(j, k, ring):
            for d in classes(k, j, ring):
                fours = tuple((i, j, k, m) for i in a for m in d if i != m)
                if fours:
                    partners = [-1 if elements[group[0]] == "H" else group[0] for group in (a, d)]
                    ends = frozenset(zip((j, k), partners, strict=True))
                    found.append(Block((j, k), fours, bool(ring), ends))
    return found


def _centres(graph: BondGraph) -> list[Block]:
    """Blocks of stereocentres and of pyramids whose arms differ, their arms in the order of their kinds."""
    near, kinds = graph.neighbours, graph.kinds
    centres = set(stereocentres(graph))
    for i, element in enumerate(graph.elements):
        if element in INVERTING and len(near[i]) == 3 and len({kinds[j] for j in near[i]}) == 3:
            centres.add(i)
    found = []
    for i in sorted(centres):
        a, b, c = sorted(near[i], key=lambda j: kinds[j])[:3]
        found.append(Block((i,), ((a, b, c, i),), False, frozenset({(i, -1)})))
    return found
