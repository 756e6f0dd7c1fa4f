"""Decision which bonds turn: by request, for amides by the bond graph, else by relaxed scans of the energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..molecule.chemistry import find_pattern, molecule_of
from ..molecule.graph import BondGraph
from .isomers import Amide
from .scans import BondScan
from .zmatrix import ZMatrix, turning_rows

if TYPE_CHECKING:
    import mdtraj

Bond = frozenset[int]
Bonds = tuple[tuple[int, int] | str, ...]  # by numbers of atoms, or by a SMARTS pattern
TETRAHEDRAL = 4  # neighbours; bonds of such an atom have barriers of a few kT


@dataclass(frozen=True)
class Scans:
    """Results of the scans made before coordinates are built.

    Attributes
    ----------
    bonds : tuple of BondScan
        Empty where the energy cannot be evaluated for a batch: lengths and angles decided.
    limit : float, kT
        Barriers up to it are crossed by the coordinates.
    kT : float, kJ/mol
    batched : bool
        Whether the energy can be.
    """

    bonds: tuple[BondScan, ...]
    limit: float
    kT: float
    batched: bool = True

    def of(self, i: int, j: int) -> BondScan | None:
        """Scan of the bond between two atoms, or None."""
        return next((scan for scan in self.bonds if set(scan.bond) == {i, j}), None)

    def across(self, graph: BondGraph) -> list[tuple[int, int]]:
        """Ends of linear groups among the axes that were scanned."""
        return [scan.bond for scan in self.bonds if scan.bond[1] not in graph.neighbours[scan.bond[0]]]

    def to_tensors(self) -> dict[str, Tensor]:
        """Tensors for `from_tensors`: rows of (i, j, barrier, other or nan, turns)."""
        rows = [(*s.bond, s.barrier, math.nan if s.other is None else s.other, s.turns) for s in self.bonds]
        bonds = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)
        return {"bonds": bonds, "limit": torch.tensor([self.limit, self.kT, self.batched], dtype=torch.float64)}

    @classmethod
    def from_tensors(cls, bonds: Tensor, limit: Tensor) -> Scans:
        """Make scans from the result of `to_tensors`."""
        scans = [
            BondScan((int(i), int(j)), barrier, None if math.isnan(other) else other, bool(turns))
            for i, j, barrier, other, turns in bonds.tolist()
        ]
        most, kT, batched = limit.tolist()
        return cls(tuple(scans), most, kT, bool(batched))


class Turning:
    """Rows of a Z-matrix that could turn, and what is known about each without an energy.

    Parameters
    ----------
    zmatrix : ZMatrix
        As `build_zmatrix` makes it: its periodic rows are told by lengths and angles.
    graph : BondGraph
    named : pairs of atoms
        Bonds that turn whatever they look like.
    amides : sequence of Amide
    sampled : sequence of Amide
        Those of them that turn; the others are kept as they are.
    kept : pairs of atoms
        Bonds that do not turn whatever their barrier.

    Attributes
    ----------
    to_scan : dict of int to pair of atoms
        Rows that an energy has to decide, or to describe (amides without a hydrogen, whose other side is near in
        energy), by the bonds they turn about.

    Raises
    ------
    ValueError
        A named pair is not bonded, or cannot turn.
    """

    def __init__(
        self,
        zmatrix: ZMatrix,
        graph: BondGraph,
        named: Collection[Sequence[int]] = (),
        amides: Sequence[Amide] = (),
        sampled: Sequence[Amide] = (),
        kept: Collection[Sequence[int]] = (),
    ) -> None:
        self._zmatrix, self._rows = zmatrix, turning_rows(zmatrix, graph)
        bonded, axes = set(map(frozenset, graph.bonds.tolist())), set(map(frozenset, self._rows.values()))
        for option, pairs in (("turning", named), ("keep", kept)):
            if wrong := [tuple(pair) for pair in pairs if frozenset(pair) not in bonded]:
                raise ValueError(f"Expected {option} to name bonds by two atoms each; atoms {wrong} are not bonded.")
            if wrong := [tuple(pair) for pair in pairs if frozenset(pair) not in axes]:
                raise ValueError(
                    f"Expected {option} to name bonds that can turn; {wrong} cannot: such bonds are in a ring, at the "
                    "end of the molecule, or in line with another bond (nitriles, alkynes, cumulenes). Leave them out."
                )
        asked, held = set(map(frozenset, named)), set(map(frozenset, kept))
        if both := sorted(map(sorted, asked & held)):
            raise ValueError(f"Expected every bond in turning or in keep; {both} are in both.")
        omegas, free = ({frozenset(amide[1:3]) for amide in some} for some in (amides, sampled))
        self._free = asked | (free - held)
        self._kept = (omegas - self._free) | held
        hydrogens = {i for i, element in enumerate(graph.elements) if element == "H"}
        near = graph.neighbours
        told = held | {frozenset(amide[1:3]) for amide in amides if not hydrogens & set(near[amide[2]])}

        def unknown(row: int, a: int, b: int) -> bool:
            bond = frozenset((a, b))
            if bond in self._free or bond in self._kept:
                return bond in self._kept & told
            plainly = zmatrix.periodic[row] and max(len(near[a]), len(near[b])) >= TETRAHEDRAL
            return not plainly

        self.to_scan = {row: axis for row, axis in self._rows.items() if unknown(row, *axis)}

    def widest(self) -> ZMatrix:
        """Z-matrix in which all scanned bonds turn."""
        return self._with(dict.fromkeys(self.to_scan, True))

    def chosen(self, scans: Sequence[BondScan]) -> ZMatrix:
        """Z-matrix in which requested bonds and those that scans allow turn, and amides only on request."""
        found = {frozenset(scan.bond): scan.turns for scan in scans}
        found |= dict.fromkeys(self._kept, False) | dict.fromkeys(self._free, True)
        rows = {row: frozenset(axis) for row, axis in self._rows.items()}
        return self._with({row: found[bond] for row, bond in rows.items() if bond in found})

    def decided(self, scan: BondScan, limit: float) -> BondScan:
        """The scan with its decision: bonds with a barrier up to `limit` (kT) turn, amides excepted."""
        return replace(scan, turns=scan.barrier <= limit and frozenset(scan.bond) not in self._kept)

    def _with(self, turns: Mapping[int, bool]) -> ZMatrix:
        periodic = self._zmatrix.periodic.copy()
        periodic[list(turns)] = list(turns.values())
        return replace(self._zmatrix, periodic=periodic)


def checked_bonds(name: str, bonds: Iterable[Any]) -> Bonds:
    """Bonds given as setting `name`, where they may be lists that come from a file, as tuples.

    Raises
    ------
    ValueError
    """
    try:
        found: list[tuple[int, int] | str] = []
        for one in bonds:
            if isinstance(one, str):
                found.append(one)
            else:
                i, j = one
                found.append((int(i), int(j)))
        return tuple(found)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected {name} to be pairs of atoms or SMARTS patterns of two, [[4, 7], '[c]-[CX4]']; got {bonds!r}."
        ) from error


def pairs_of(bonds: Bonds, topology: mdtraj.Topology) -> list[tuple[int, int]]:
    """Atoms of bonds; those of SMARTS patterns by RDKit, in a topology that has the orders of bonds."""
    pairs = [one for one in bonds if not isinstance(one, str)]
    for pattern in bonds:
        if isinstance(pattern, str):
            pairs += [(int(i), int(j)) for i, j in find_pattern(molecule_of(topology), pattern, 2)]
    return pairs


def energy_of(
    to_cartesian: Callable[[Tensor], tuple[Tensor, Tensor]],
    value_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Compose energy and coordinates: z (batch, dim) -> u (batch,) and du/dz (batch, dim); u is +inf outside the
    coordinates' domain."""

    @torch.enable_grad()
    def function(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.detach().requires_grad_()
        x, log_det = to_cartesian(z)
        u, slope = value_and_gradient(x.detach())
        (gradient,) = torch.autograd.grad(x, z, slope)
        return torch.where(torch.isfinite(log_det.detach()), u, torch.inf), gradient

    return function
