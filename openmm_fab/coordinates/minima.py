"""All minima of rings and pyramidal nitrogens, by a search of the energy: what one minimum's Hessian cannot tell.

Ring torsions and the sides of nitrogens are set at random, other torsions too, and all relaxes.  Rings of more than
eight atoms, which hardly any random torsions close, get the minima that hot dynamics reaches, see
`coordinates.quenching`.  Coordinates that differ from one minimum to another get a centre and a width that hold all of
them, and the flow's base a mode at each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..molecule.graph import BondGraph
from ..tools.circle import wrap
from .isomers import hands_of, mirrored, sides_of_nitrogens, stiff_in_large_rings, trans_of
from .layout import Layout
from .scans import Function, relax
from .zmatrix import LARGEST_RING, ZMatrix

DRAWN = 4096  # changes of each set
STARTS = (32, 16)  # structures relaxed for each coordinate of a set, at first and later
BEST = 8  # half of these are the lowest of so many times more
ROUNDS = 6  # of search, at most: until one finds nothing new below the limit
FARTHEST = 2.4  # rad; ring torsions begin so far from where they are, at most
ALIKE = 0.1  # rad; minima that differ by less in every torsion count as one
FLIPPED = 1.2  # rad; a torsion about a stereocentre or a double bond differs by less from one pucker to another
STIFF = 0.05  # rad; a ring torsion of less width in the harmonic picture has one minimum (aromatic rings)
WIDE = 2.0  # of a coordinate whose minima are not known
ABOVE = 12.0  # kT above the limit; what is found up to here is looked at with the rest of the molecule as elsewhere
STAGES = ((20, 300.0), (20, 100.0), (20, 40.0))  # steps; kT above the limit from where nothing comes down below it
TOGETHER = (0.3, 0.5)  # rad; of ring torsions and sides, and of periodic ones: these come down to one minimum
EQUAL = 0.01  # kT; the mirror image of a minimum is one, too, where the atoms that exchange labels are equal
MANY = 48  # minima of one set, the lowest
JOINED, RARE = 3.0, 0.02  # widths; of the population. Minima share a mode if all are so close; rare ones join no others
FOLLOWS = 0.005  # nats; an entry that follows less is left to the flow


@dataclass(frozen=True)
class Modes:
    """Minima of some stiff entries of z, those of one ring system or of one nitrogen.

    Attributes
    ----------
    columns : Tensor of int, shape (k,)
        Those that have several minima first, then others that follow them.
    leading : int
        How many have several.
    means : Tensor, shape (n, k)
        z there.
    roots : Tensor, shape (n, k, k)
        Cholesky factors of the covariances that the Hessian of the energy predicts there.
    log_shares : Tensor, shape (n,)
        -u of the minima, and half the log determinant of the covariance of all stiff coordinates: of their populations
        in the harmonic picture, up to a constant.
    """

    columns: Tensor
    leading: int
    means: Tensor
    roots: Tensor
    log_shares: Tensor

    def of_flow(self) -> tuple[Tensor, int, Tensor, Tensor, Tensor]:
        """What `flow.modes.Mixture` is made of."""
        return self.columns, self.leading, self.means, self.roots, self.log_shares

    @classmethod
    def unknown(cls, column: int) -> Modes:
        """One wide mode for an entry that may have several minima, none of which is known."""
        one = torch.ones(1, dtype=torch.float64)
        return cls(torch.tensor([column]), 1, 0 * one[None], WIDE * one[None, None], 0 * one)


@dataclass(frozen=True)
class Minima:
    """Minima of the energy that a search over rings and nitrogens found, and how high others lie.

    Attributes
    ----------
    x : Tensor, shape (n, n_atoms, 3), nm
        Minima, the lowest first.
    energies : Tensor, shape (n,), kT
        Above the lowest; where that is less, above the lowest with the same torsions elsewhere.
    higher : Tensor, shape (m,), kT
        Energies of those that were left out for being higher than the limit.
    limit : Tensor, shape (), kT
    """

    x: Tensor
    energies: Tensor
    higher: Tensor
    limit: Tensor


class Flexible:
    """Narrow torsions that may have several minima: of rings, and of pyramidal nitrogens.

    Parameters
    ----------
    layout : Layout
    graph : BondGraph
    positions : ndarray, shape (n_atoms, 3), nm
        A minimum of the energy.
    width : ndarray, shape (n_stiff,)
        Of the stiff coordinates, in the harmonic picture, rad.
    nitrogens, amides : bool
        Whether nitrogens may invert, and amides in large rings turn.

    Attributes
    ----------
    sets : list of list of int
        Entries of z, by ring system or nitrogen.
    large : list of list of int
        Those of them that are of ring systems with a ring of more than `LARGEST_RING` atoms.
    kept : list of four int
        Atoms of torsions in large rings that stay cis or trans.
    """

    def __init__(
        self,
        layout: Layout,
        graph: BondGraph,
        positions: np.ndarray,
        width: np.ndarray,
        nitrogens: bool,
        amides: bool = False,
    ) -> None:
        system_of = ring_systems(graph)
        self.kept = stiff_in_large_rings(graph, positions, amides)
        stiff = {frozenset(four[1:3]) for four in self.kept}
        turning: dict[int, int] = {}  # entry of z: set
        for row, axis in ring_rows(layout.zmatrix, graph).items():
            (entry,) = layout.stiff_torsions([row])
            if width[entry] > STIFF and frozenset(layout.zmatrix.rows[row, 1:3].tolist()) not in stiff:
                turning[entry] = system_of[axis]
        inverting: dict[int, int] = {}
        for row, atom in sides_of_nitrogens(layout.zmatrix, graph, positions).items() if nitrogens else []:
            for entry in layout.stiff_torsions([row]):
                if entry not in turning:
                    inverting[entry] = system_of.get(atom, -1 - atom)
        self.turning, self.inverting = sorted(turning), sorted(inverting)
        both = turning | inverting
        keys = sorted(set(both.values()))
        self.sets = [[e for e in sorted(both) if both[e] == key] for key in keys]
        rings = (graph.ring(i, j) for i, j in graph.bonds.tolist())
        wide = {system_of[ring[0]] for ring in rings if len(ring) > LARGEST_RING}
        self.large = [one for one, key in zip(self.sets, keys, strict=True) if key in wide]

    def changes(self, entries: Sequence[int], raw: Tensor, rng: torch.Generator) -> Tensor:
        """Random changes (DRAWN, n_stiff), rad, of some entries of stiff coordinates that are `raw` (n_stiff,)."""
        change = torch.zeros(DRAWN, len(raw), dtype=torch.float64)
        rings = [e for e in entries if e in self.turning]
        change[:, rings] = FARTHEST * (2 * _uniform(rng, DRAWN, len(rings)) - 1)
        sides = [e for e in entries if e in self.inverting]
        flipped = _uniform(rng, DRAWN, len(sides)) < 0.5
        change[:, sides] = torch.where(flipped, wrap(-2 * raw[sides]), 0.0)
        return change


class Chart(Protocol):
    """Interface of coordinates that a search for minima needs; `InternalCoordinates` has it."""

    layout: Layout
    mean: Tensor
    mixing: Tensor
    unmixing: Tensor

    def to_cartesian(self, z: Tensor) -> tuple[Tensor, Tensor]: ...

    def to_internal(self, x: Tensor) -> tuple[Tensor, Tensor]: ...


def search(
    chart: Chart,
    function: Function,
    minimum: Tensor,
    graph: BondGraph,
    flexible: Flexible,
    limit: float,
    others: Tensor | None = None,
) -> tuple[Minima, Tensor]:
    """Minima of u near `minimum` (n_atoms, 3) and beyond, up to `limit` kT above the lowest, each once; and (m,
    n_atoms, 3) all that were found up to there, whatever the torsions elsewhere.

    Every set of coordinates is changed alone, and all of them together; mirror images count as found.  What changes a
    stereocentre or a double bond is none of them.

    Parameters
    ----------
    chart : Chart
        Coordinates centred on the minimum.
    function : callable
        z (n, dim) -> u and its gradient.
    others : Tensor, shape (n, n_atoms, 3), optional
        Structures near minima that were found otherwise: of large rings, which are not changed at random.
    """
    rng = torch.Generator().manual_seed(0)
    here, _ = chart.to_internal(minimum[None])
    x, u = minimum[None], function(here)[0]
    known, rotamers = 0, [(x, u)]

    def also(z: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        found = chart.to_cartesian(z)[0]
        images = mirrored(found, graph)
        equal = (function(chart.to_internal(images)[0])[0] - after).abs() < min(EQUAL, limit)
        both = torch.cat([found, images[equal]]), torch.cat([after, after[equal]])
        found, height = _sound(chart, *both, minimum, graph, flexible)
        rotamers.append((found, height))
        return _distinct_minima(chart, torch.cat([x, found]), torch.cat([u, height]), flexible)

    if others is not None:
        x, u = also(*_relaxed(chart, function, chart.to_internal(others)[0], here, limit, flexible))
    once = 1 if not flexible.sets else 0  # the torsions elsewhere are all there is
    for k in range(ROUNDS if len(flexible.sets) > len(flexible.large) else once):
        starts = _starts(chart, function, here, flexible, STARTS[k > 0], rng)
        x, u = also(*_relaxed(chart, function, starts, chart.to_internal(x)[0], limit, flexible))
        if known == (known := int((u <= u[0] + limit).sum())):
            break
    u = u - u[0]
    torsions = [e for entries in flexible.sets if entries not in flexible.large for e in entries]
    if torsions and chart.layout.n_periodic:
        near = x[u <= limit + ABOVE]
        moved, compared = _compared(chart, function, near, torch.cat([here, chart.to_internal(x[:1])[0]]), torsions)
        found, height = _sound(chart, moved, compared, minimum, graph, flexible)
        x, u = _distinct_minima(chart, torch.cat([x, found]), torch.cat([u, height]), flexible)
    low = u <= limit
    every, heights = (torch.cat(parts) for parts in zip(*rotamers, strict=True))
    minima = Minima(x[low], u[low], u[~low], torch.tensor(limit, dtype=torch.float64))
    return minima, every[heights <= heights.min() + limit]


def _compared(
    chart: Chart, function: Function, x: Tensor, others: Tensor, entries: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Minima x (n, n_atoms, 3) with the rest of the molecule as in each of `others` (k, dim): structures, and energies
    above the lowest with the same rest.

    Which torsions elsewhere a minimum was found with is chance, and may matter more than the ring itself.
    """
    n_stiff, found, heights = chart.layout.n_stiff, [], []
    values = (chart.to_internal(x)[0][:, :n_stiff] @ chart.mixing.T)[:, entries]
    for other in others:
        change = torch.zeros(len(x), n_stiff, dtype=torch.float64)
        change[:, entries] = wrap(values - (chart.mixing @ other[:n_stiff])[entries])
        z = other.repeat(len(x), 1)
        z[:, :n_stiff] += change @ chart.unmixing.T
        z, u = relax(function, z, torch.zeros_like(z, dtype=torch.bool))
        found.append(chart.to_cartesian(z)[0])
        heights.append(u - torch.minimum(u.min(), function(other[None])[0]))
    return torch.cat(found), torch.cat(heights)


def _starts(
    chart: Chart, function: Function, here: Tensor, flexible: Flexible, each: int, rng: torch.Generator
) -> Tensor:
    """z (n, dim) to relax from, so many for each coordinate: every set of them changed alone, and all together."""
    n_stiff = chart.layout.n_stiff
    parts = []
    sets = [entries for entries in flexible.sets if entries not in flexible.large]
    every = [e for entries in sets for e in entries]
    for entries in [*sets, *([every] if len(sets) != 1 else [])]:
        z = here.repeat(DRAWN, 1)
        changes = flexible.changes(entries, chart.mean, rng)
        z[:, :n_stiff] += changes @ chart.unmixing.T
        turned = _uniform(rng, DRAWN, 1) < 0.5
        anywhere = (2 * _uniform(rng, DRAWN, z.shape[1] - n_stiff) - 1) * math.pi
        z[:, n_stiff:] = torch.where(turned, z[:, n_stiff:], anywhere)
        # Most changes of a ring leave it open.
        n = each * max(1, len(entries))
        z = z[torch.isfinite(chart.to_cartesian(z)[1]) & (changes.any(1) if entries else ~turned[:, 0])][: BEST * n]
        order = torch.argsort(function(z)[0])
        others = torch.randperm(len(order[n // 2 :]), generator=rng)[: n // 2]
        parts.append(z[torch.cat([order[: n // 2], order[n // 2 :][others]])])
    return torch.cat(parts)


def _relaxed(
    chart: Chart, function: Function, z: Tensor, known: Tensor, limit: float, flexible: Flexible
) -> tuple[Tensor, Tensor]:
    """z and u of those that come down to about the limit above the lowest, and of the minima `known` (k, dim).

    On the way those that are too high are given up, and those that are like a lower one.
    """
    n_stiff, torsions = chart.layout.n_stiff, flexible.turning + flexible.inverting
    alike = torch.tensor([TOGETHER[0]] * len(torsions) + [TOGETHER[1]] * (z.shape[1] - n_stiff), dtype=torch.float64)
    for steps, above in STAGES:
        z, u = relax(function, z, torch.zeros_like(z, dtype=torch.bool), steps)
        z, u = torch.cat([known, z]), torch.cat([function(known)[0], u])
        z = z[torch.argsort(u)[: int((u < u.min() + limit + above).sum())]]
        angles = torch.cat([(z[:, :n_stiff] @ chart.mixing.T)[:, torsions], z[:, n_stiff:]], 1)
        z = z[distinct(angles, alike)]
    return relax(function, z, torch.zeros_like(z, dtype=torch.bool))


def _sound(
    chart: Chart, x: Tensor, u: Tensor, minimum: Tensor, graph: BondGraph, flexible: Flexible
) -> tuple[Tensor, Tensor]:
    """Minima x and energies u (n,) without those that have another stereochemistry than the minimum given."""
    z, _ = chart.to_internal(torch.cat([minimum[None], x]))
    raw = chart.mean + z[:, : chart.layout.n_stiff] @ chart.mixing.T
    change = wrap(raw[1:] - raw[0]).abs()
    change[:, [*range(len(chart.layout.free)), *flexible.turning, *flexible.inverting]] = 0.0
    hands = hands_of(x, graph)
    same = torch.isfinite(u) & (change < FLIPPED).all(1) & (hands == hands_of(minimum[None], graph)).all(1)
    same &= (trans_of(x, flexible.kept) == trans_of(minimum[None], flexible.kept)).all(1)
    return x[same], u[same]


def _distinct_minima(chart: Chart, x: Tensor, u: Tensor, flexible: Flexible) -> tuple[Tensor, Tensor]:
    """Minima x and energies u (n,), each once by the torsions of rings and sides, the lowest first."""
    z, _ = chart.to_internal(x)
    raw = chart.mean + z[:, : chart.layout.n_stiff] @ chart.mixing.T
    order = torch.argsort(u, stable=True)
    single = order[distinct(raw[order][:, flexible.turning + flexible.inverting])]
    return x[single], u[single]


def ring_systems(graph: BondGraph) -> dict[int, int]:
    """The lowest atom of the ring system (rings that share atoms) of every atom in a ring."""
    found: dict[int, int] = {}
    for i, j in graph.bonds.tolist():
        ring = graph.ring(i, j)
        if not ring:
            continue
        keys = {found[a] for a in ring if a in found} | {min(ring)}
        found |= {a: min(keys) for a, key in found.items() if key in keys} | dict.fromkeys(ring, min(keys))
    return found


def ring_rows(zmatrix: ZMatrix, graph: BondGraph) -> dict[int, int]:
    """Rows whose torsion turns about a bond of a ring of 4 atoms or more, or closes it; and an atom of that ring."""
    found = {}
    for k, (atom, bond, angle, torsion) in enumerate(zmatrix.rows[3:].tolist(), start=3):
        proper = zmatrix.leader[k] < 0 and torsion not in graph.neighbours[bond]
        ring = graph.ring(atom, bond) if zmatrix.closes[k] else graph.ring(bond, angle) if proper else []
        if len(ring) > 3 and not zmatrix.periodic[k]:
            found[k] = bond
    return found


def _uniform(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=rng, dtype=torch.float64)


def unwrapped(angles: Tensor) -> Tensor:
    """Angles (n, k), rad, by columns without the widest gap on the circle between two of them."""
    order = angles.sort(0).values
    gaps = torch.cat([order[1:] - order[:-1], order[:1] + 2 * math.pi - order[-1:]])
    first = torch.take_along_dim(order.roll(-1, 0), gaps.argmax(0, keepdim=True), 0)
    return first + torch.remainder(angles - first + 1e-9, 2 * math.pi) - 1e-9


def followers(sets: Sequence[Sequence[int]], means: Sequence[Tensor], covariances: Sequence[Tensor]) -> list[list[int]]:
    """Every other entry of z that changes from one minimum of a set to another, in the set that it follows most.

    Of each set the means (n, n_stiff) and covariances (n, n_stiff, n_stiff) of z at its minima. How far an entry
    follows is how much its own normal distribution there differs from the standard one, (mean^2 + variance - 1 -
    log(variance)) / 2 nats, and how much of it the set tells by correlation, -log(1 - r^2) / 2, at the minimum where
    this is most. A set with one mode has none: it holds minima that differ in what is not in the set, too.
    """
    found: list[list[int]] = [[] for _ in sets]
    if not sets:
        return found
    scores = []
    for entries, mean, covariance in zip(sets, means, covariances, strict=True):
        variance = covariance.diagonal(dim1=1, dim2=2)
        differs = (mean.square() + variance - 1 - variance.log()) / 2
        cross = covariance[:, :, list(entries)]
        inside = covariance[:, list(entries)][:, :, list(entries)]
        told = (cross @ torch.linalg.inv(inside) * cross).sum(2) / variance
        scores.append((len(mean) > 1) * (differs - (1 - told).clamp(min=1e-9).log() / 2).amax(0))
    score = torch.stack(scores)
    known = {e for entries in sets for e in entries}
    for e in (score > FOLLOWS).any(0).nonzero()[:, 0].tolist():
        if e not in known:
            found[int(score[:, e].argmax())].append(e)
    return found


def joined(
    entries: Sequence[int], means: Tensor, covariances: Tensor, log_shares: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Normal distributions (n, k), (n, k, k) with logarithms of shares (n,): one with their common mean and covariance
    where all of them overlap in some `entries`, each with another; else as they are.

    Minima with little between them are no modes: of a flat nitrogen, or of a ring that turns its pucker around.
    """
    lead, wide = means[:, list(entries)], covariances[:, list(entries)][:, :, list(entries)]
    away = lead[:, None] - lead
    distance = (away * torch.linalg.solve((wide[:, None] + wide) / 2, away)).sum(2).sqrt()
    near, rare = distance < JOINED, log_shares.softmax(0) < RARE
    links = near & ~rare & ~rare[:, None]
    for k in rare.nonzero()[:, 0].tolist():
        nearest = int(distance[k].masked_fill(rare, torch.inf).argmin())
        links[k, nearest] = links[nearest, k] = near[k, nearest]
    connected = torch.linalg.matrix_power(links.double() + torch.eye(len(links)), len(links)) > 0
    if not connected.all():
        return means, covariances, log_shares
    share = log_shares.softmax(0)
    mean = share @ means
    apart = means - mean
    covariance = torch.einsum("m,mij->ij", share, covariances) + (share * apart.mT) @ apart
    return mean[None], covariance[None], log_shares.logsumexp(0)[None]


def varied(sets: Sequence[Sequence[int]], values: Tensor, width: Tensor) -> list[list[int]]:
    """Entries of every set that have several minima: they differ by more than twice the width of one.

    `values` (n, n_stiff) are stiff coordinates at all minima, torsions unwrapped; `width` (n_stiff,) that of one.
    """
    spread = values.amax(0) - values.amin(0)
    found = [[e for e in entries if spread[e] > max(2 * float(width[e]), ALIKE)] for entries in sets]
    return [entries for entries in found if entries]


def distinct(torsions: Tensor, alike: float | Tensor = ALIKE) -> list[int]:
    """Rows of torsions (n, k), rad, that differ from all earlier ones by `alike` or more: of all, or of each (k,)."""
    kept: list[int] = []
    for k in range(len(torsions)):
        if not kept or bool((wrap(torsions[kept] - torsions[k]).abs() >= alike).any(1).all()):
            kept.append(k)
    return kept
