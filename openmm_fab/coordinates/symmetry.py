"""Groups of equivalent atoms on a rotatable bond: methyls, ammonium, and others on request.

A full turn divided by the group's fold only exchanges equivalent atoms, so one sector of its torsion represents all of
it.  In terms of the mean phase of its atoms, psi = phi_1 + sum_k (phi_k - phi_1 - 2 pi (k - 1) / fold) / fold, an
exchange is a shift by exactly 2 pi / fold, however distorted the group is; a sector of psi is therefore an exact
domain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ..molecule.graph import BondGraph
from ..tools.circle import wrap
from ..tools.vectors import torsion
from .zmatrix import ZMatrix

SYMMETRIES = ("methyl", "all", "none")
ALIKE = 1.0  # rad; an exchange that changes a narrow torsion by more is no turn of the group
TRIES = 200  # exchanges looked at


@dataclass(frozen=True, eq=False)
class Rotor:
    """Group of equivalent atoms on one rotatable bond.

    Attributes
    ----------
    rows : tuple of int
        Rows of the Z-matrix of the group's atoms, the leader first, the others in the order in which they follow.
    atoms : tuple of int
        The atoms of these rows.
    frame : tuple of int
        The atom they are bonded to, and those that the angle and the torsion are counted from.
    exchange : ndarray of int, shape (n_atoms,)
        x[exchange] is x with each atom of the group under the label of the one before it: psi grows by 2 pi / fold.
    """

    rows: tuple[int, ...]
    atoms: tuple[int, ...]
    frame: tuple[int, int, int]
    exchange: np.ndarray

    @property
    def fold(self) -> int:
        return len(self.rows)

    def phase(self, x: Tensor) -> Tensor:
        """Mean phase psi (batch,) of x (batch, n_atoms, 3), rad, not wrapped."""
        centre, axis, reference = (x[:, [i]] for i in self.frame)
        phi = torsion(x[:, list(self.atoms)], centre, axis, reference)
        spacing = torch.arange(self.fold, device=x.device) * (2 * math.pi / self.fold)
        late = wrap(phi - phi[:, :1] - spacing)
        return phi[:, 0] + late.sum(1) / self.fold

    def turned(self, x: Tensor, steps: Tensor) -> Tensor:
        """x (batch, n_atoms, 3) after `steps` (batch,) exchanges of labels, each of which adds 2 pi / fold to psi."""
        powers = [np.arange(len(self.exchange))]
        for _ in range(self.fold - 1):
            powers.append(powers[-1][self.exchange])
        labels = torch.as_tensor(np.array(powers), device=x.device)[torch.remainder(steps, self.fold)]
        return torch.take_along_dim(x, labels[:, :, None], dim=1)


def find_rotors(zmatrix: ZMatrix, graph: BondGraph, positions: np.ndarray, symmetry: str) -> list[Rotor]:
    """Find the groups of equivalent atoms of a molecule, those nearer to the root first.

    Parameters
    ----------
    zmatrix : ZMatrix
    graph : BondGraph
        Atoms of equal elements may be exchanged.
    positions : ndarray, shape (n_atoms, 3)
        Tell the order of the atoms about the bond, and which exchanges are turns.
    symmetry : "none", "methyl" or "all"
        "methyl": three single atoms (CH3, NH3+, CF3). "all": also rings (phenyl), carboxylates, tert-butyl, ...
    """
    found = []
    neighbours = graph.neighbours
    x = torch.as_tensor(np.asarray(positions), dtype=torch.float64)
    for row in np.flatnonzero(zmatrix.periodic) if symmetry != "none" else []:
        followers = np.flatnonzero(zmatrix.leader == row)
        rows = np.array([row, *followers])
        members, (centre, axis, reference) = zmatrix.rows[rows, 0], zmatrix.rows[row, 1:].tolist()
        phi = torsion(x[members], x[[centre]], x[[axis]], x[[reference]]).numpy()
        order = np.argsort((phi - phi[0]) % (2 * np.pi))
        members = [int(k) for k in members[order]]
        if len(members) < 2 or len(neighbours[centre]) != len(members) + 1:
            continue
        if symmetry == "methyl" and (len(members) != 3 or any(len(neighbours[member]) > 1 for member in members)):
            continue
        for exchange in islice(_exchanges(members, centre, axis, graph), TRIES):
            rotor = Rotor(tuple(int(r) for r in rows[order]), tuple(members), (centre, axis, reference), exchange)
            if _is_turn(rotor, zmatrix, x):
                found.append(rotor)
                break
    return found


def same_energy(
    rotor: Rotor, positions: np.ndarray, energy: Callable[[Tensor], Tensor], metric: Callable | None = None
) -> bool:
    """Whether the rotor's exchange of atoms changes no energy by 1e-3 or more, in four randomly distorted structures.

    Parameters
    ----------
    positions : (n_atoms, 3), nm
    energy, metric : callable
        x (batch, n_atoms, 3) -> (batch,): the reduced energy and, if given, the mass metric.
    """
    noise = np.random.default_rng(0).normal(scale=0.003, size=(4, *positions.shape))
    x = torch.as_tensor(positions + noise)
    both = [u(x) - u(rotor.turned(x, torch.ones(4, dtype=torch.long))) for u in (energy, metric) if u is not None]
    return all(bool((difference.abs() < 1e-3).all()) for difference in both)


def _is_turn(rotor: Rotor, zmatrix: ZMatrix, x: Tensor) -> bool:
    """The exchange keeps every narrow torsion, so that no hydrogens of a CH2 change sides."""
    rows = zmatrix.rows[3:]

    def torsions(x: Tensor) -> Tensor:
        phi = torsion(*(x[rows[:, k]] for k in range(4)))
        leader = torch.as_tensor(np.maximum(zmatrix.leader[3:] - 3, 0))
        phi = phi - torch.where(torch.as_tensor(zmatrix.leader[3:] >= 0), phi[leader], 0.0)
        return phi[torch.as_tensor(~zmatrix.periodic[3:])]

    change = torsions(x[torch.as_tensor(rotor.exchange)]) - torsions(x)
    return bool(wrap(change).abs().max() < ALIKE)


def _exchanges(members: Sequence[int], centre: int, axis: int, graph: BondGraph) -> Iterator[np.ndarray]:
    """Relabellings that take each atom, with its branch, to the next."""
    neighbours, elements = graph.neighbours, graph.elements
    exchange = np.arange(graph.n_atoms)
    following = dict(zip(members, [*members[1:], members[0]], strict=True))
    if all(len(neighbours[member]) == 1 for member in members):
        if len({elements[member] for member in members}) == 1:
            exchange[list(following)] = list(following.values())
            yield exchange
        return
    import networkx  # takes a while to load

    branch = set(graph.branch(centre, axis))
    if axis in branch:  # a ring through the axis
        return
    here, there = networkx.Graph(), networkx.Graph()
    for atom in branch:
        here.add_node(atom, kind=(elements[atom], following.get(atom), atom == centre))
        there.add_node(atom, kind=(elements[atom], atom if atom in following else None, atom == centre))
    edges = [(a, b) for a in branch for b in neighbours[a] if b in branch]
    here.add_edges_from(edges)
    there.add_edges_from(edges)
    matcher = networkx.isomorphism.GraphMatcher(here, there, lambda a, b: a["kind"] == b["kind"])
    for mapping in matcher.isomorphisms_iter():
        found = exchange.copy()
        found[list(mapping)] = list(mapping.values())
        if (_power(found, len(members)) == exchange).all():
            yield found


def _power(exchange: np.ndarray, n: int) -> np.ndarray:
    found = np.arange(len(exchange))
    for _ in range(n):
        found = found[exchange]
    return found
