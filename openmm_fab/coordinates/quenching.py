"""Search for the minima of an energy in Cartesian space: hot walkers, quenched; nothing of coordinates or flows.

Masses do not matter to where minima are: all atoms weigh the same, so that steps are long, and bonds of fixed length
are springs.  Each round half of the walkers go on where they were, the others leave from minima that are known, with
torsions turned at random; then all of them are quenched by L-BFGS.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..energy.dynamics import LangevinMiddle, Motion, UnstableDynamicsError
from ..molecule.graph import BondGraph
from ..molecule.shapes import SAME, Shapes
from ..molecule.system import MolecularSystem
from ..molecule.torsions import rotatable_bonds
from .scans import relax

Potential = Callable[[Tensor], tuple[Tensor, Tensor]]  # x (n, atoms, 3), nm -> u (n,), gradient

WALKERS = 32
HOT = (600.0, 1000.0, 1600.0, 2500.0)  # K
HOTTER = 1.5  # times the molecule's temperature, at least
MASS, STEP, FRICTION = 12.0, 0.003, 5.0  # dalton, ps, 1/ps
STEPS = 200  # of a round
FEW_ROUNDS = 8  # where coordinates are made
ROUNDS_WITHOUT = 5  # that find nothing new of low energy, and the search is over
LOW = 8.0  # kT above the lowest
RANGE = 20.0  # kT above the lowest; minima that walkers leave from
SPRING = 1e5  # kT/nm^2, of fixed lengths
CLOSE = 0.09  # nm; atoms three and more bonds apart that are closer have collapsed onto each other
LENGTH = 0.01  # nm, of a unit in which L-BFGS steps
SOFTEST = 100.0  # kT/nm^2; a softer direction is as wide as this allows
NEGATIVE, DOWNHILL, PASSES = -10.0, 0.1, 3  # kT/nm^2, of a pass; nm, along its way down; so many in a row
DISPLACED = 1e-4  # nm, for differences of gradients
LINEAR = 1e-9  # nm^2, of moments of inertia: a linear molecule's smallest one


@dataclass
class Quenched:
    """Minima found so far, the lowest of those that are alike.

    Attributes
    ----------
    x : Tensor, shape (k, atoms, 3), nm
    u : Tensor, shape (k,), kT
    features : Tensor, shape (k, n_features)
    """

    shapes: Shapes
    x: Tensor
    u: Tensor
    features: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.features = self.shapes(self.x)

    def like(self, features: Tensor) -> int | None:
        """Number of the minimum that features (n_features,) of a structure belong to, equal atoms exchanged; None for
        none."""
        if not len(self.x):
            return None
        apart = self.shapes.apart(self.shapes.images(self.features), features).amax(2).amin(0)
        which = int(apart.argmin())
        return which if apart[which] < SAME else None

    def unknown(self, x: Tensor) -> Tensor:
        """Bool (n,): structures x (n, atoms, 3), nm, that belong to none of the minima."""
        return torch.tensor([self.like(features) is None for features in self.shapes(x)], dtype=torch.bool)

    def add(self, x: Tensor, u: Tensor) -> Tensor:
        """Take in more minima; returns u (new,) of those that none of before is like."""
        features, new = self.shapes(x), []
        for k in torch.argsort(u).tolist():
            which = self.like(features[k])
            if which is None:
                self.x, self.u = torch.cat([self.x, x[[k]]]), torch.cat([self.u, u[[k]]])
                self.features = torch.cat([self.features, features[[k]]])
                new.append(u[k])
            elif u[k] < self.u[which]:
                self.x[which], self.u[which], self.features[which] = x[k], u[k], features[k]
        return torch.stack(new) if new else u[:0]


@dataclass(frozen=True)
class Search:
    """Minima that quenched walkers found, and the effort; `exhausted`: the last rounds found nothing new."""

    minima: Quenched
    evaluations: int
    seconds: float
    rounds: int
    exhausted: bool


def with_springs(potential: Potential, pairs: np.ndarray, lengths: np.ndarray) -> Potential:
    """The potential with springs at pairs (m, 2) of these lengths (m,), nm."""
    if not len(pairs):
        return potential
    i, j = torch.as_tensor(pairs).T

    def sprung(x: Tensor) -> tuple[Tensor, Tensor]:
        u, gradient = potential(x)
        arm = x[:, i] - x[:, j]
        r = arm.norm(dim=2)
        stretch = r - torch.as_tensor(lengths).to(r)
        pull = (SPRING * stretch / r)[:, :, None] * arm
        gradient = gradient.index_add(1, i.to(x.device), pull).index_add(1, j.to(x.device), -pull)
        return u + 0.5 * SPRING * stretch.square().sum(1), gradient

    return sprung


def reached(system: MolecularSystem, potential: Potential, x: Tensor) -> Tensor:
    """Minima (n, atoms, 3) that walkers reach in `FEW_ROUNDS` rounds from a structure x (atoms, 3), the lowest first;
    none higher than `RANGE`."""
    rng = torch.Generator().manual_seed(0)
    shapes = Shapes(system.graph, x.numpy())
    potential = with_springs(potential, *system.constraints)
    searcher = Searcher(potential, system.graph, shapes, system.kT, system.temperature, rng)
    minima = searcher.run(x.repeat(WALKERS, 1, 1), lambda _, rounds, __: rounds / FEW_ROUNDS).minima
    order = torch.argsort(minima.u)
    return minima.x[order[minima.u[order] < minima.u.min() + RANGE]]


class Searcher:
    """Walkers and quenches on one potential.

    Parameters
    ----------
    potential : callable
    graph : BondGraph
    shapes : Shapes
    kT : float, kJ/mol
    temperature : float, K
    rng : torch.Generator
    """

    def __init__(
        self,
        potential: Potential,
        graph: BondGraph,
        shapes: Shapes,
        kT: float,
        temperature: float,
        rng: torch.Generator,
    ) -> None:
        self._potential, self.graph, self.shapes, self.rng = potential, graph, shapes, rng
        self.kT, self.temperature, self.evaluations = kT, temperature, 0
        self._branches = [
            (j, k, min((graph.branch(k, j), graph.branch(j, k)), key=lambda atoms: len(atoms)))
            for j, k in rotatable_bonds(graph)
        ]
        distances = [graph.distances(i) for i in range(graph.n_atoms)]
        self._far = torch.tensor(
            [(i, j) for i in range(graph.n_atoms) for j in range(i) if distances[i].get(j, 9) > 2], dtype=torch.long
        ).reshape(-1, 2)

    def potential(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.evaluations += len(x)
        return self._potential(x)

    def run(self, x: Tensor, spent: Callable[[float, int, int], float] | None = None) -> Search:
        """Search from structures x (walkers, atoms, 3) until nothing new turns up or a budget is spent.

        Parameters
        ----------
        spent : callable, optional
            Seconds, rounds and evaluations so far -> share of the budget.
        """
        began, rounds, without = time.perf_counter(), 0, 0
        minima = Quenched(self.shapes, x[:0], x[:0, 0, 0])
        self._take_in(minima, *self.quench(x))
        hot = x
        while without < ROUNDS_WITHOUT:
            used = 0.0 if spent is None else spent(time.perf_counter() - began, rounds, self.evaluations)
            if used >= 1 or not len(minima.x):
                break
            half = len(x) // 2
            leaving = self.turned(self._known(minima, half))
            relaxed, u = self.quench(leaving)
            new = self._take_in(minima, relaxed, u)
            start = torch.cat([hot[half:], relaxed, hot[: half - len(relaxed)]])
            hot = self.heated(start)
            new = torch.cat([new, self._take_in(minima, *self.quench(hot))])
            rounds += 1
            low = bool(((new - minima.u.min()) < LOW).any())
            without = 0 if low else without + 1
        return Search(
            minima, self.evaluations, time.perf_counter() - began, rounds, exhausted=without >= ROUNDS_WITHOUT
        )

    def _take_in(self, minima: Quenched, x: Tensor, u: Tensor) -> Tensor:
        """Add minima; those that are new go downhill first where they are passes, which L-BFGS may end at."""
        unknown = minima.unknown(x)
        minima.add(x[~unknown], u[~unknown])
        x, u = x[unknown], u[unknown]
        for _ in range(PASSES):
            lowest = [self._modes(one) for one in x]
            down = torch.tensor([float(values[0]) < NEGATIVE for values, _ in lowest], dtype=torch.bool)
            if not down.any():
                break
            steps = [DOWNHILL * vectors[:, 0].view(x.shape[1:]) for _, vectors in lowest]
            moved, lower = self.quench(torch.stack([one + step for one, step in zip(x, steps, strict=True)])[down])
            x, u = torch.cat([x[~down], moved]), torch.cat([u[~down], lower])
        return minima.add(x, u)

    def heated(self, x: Tensor, kelvin: Sequence[float] = HOT, steps: int = STEPS) -> Tensor:
        """Structures x (n, atoms, 3) after dynamics at these temperatures, in turn."""
        chosen = [max(t, HOTTER * self.temperature) for t in kelvin]
        chosen = (chosen * len(x))[: len(x)]
        return self.moved(x, torch.tensor(chosen).to(x) / self.temperature, steps)

    def moved(self, x: Tensor, temperature: Tensor, steps: int) -> Tensor:
        """x after so many steps at temperatures (n,) in units of the molecule's; shorter steps where energies break
        down, and where they still do, x itself."""
        masses = torch.full((x.shape[1],), MASS).to(x)
        for shorter in (1, 2, 4):
            dynamics = LangevinMiddle(STEP / shorter, FRICTION, self.kT, masses)
            v = dynamics.thermal(temperature) * torch.randn(x.shape, generator=self.rng, dtype=x.dtype, device=x.device)
            try:
                u, gradient = self.potential(x)
                motion = dynamics(Motion(x, v, u, gradient), self.potential, steps, temperature, self.rng)
            except UnstableDynamicsError:
                continue
            return motion.x - motion.x.mean(1, keepdim=True)
        return x

    def turned(self, x: Tensor) -> Tensor:
        """x (n, atoms, 3) with torsions of bonds that are in no ring turned: each bond of every other structure with
        probability 1 / 2 at least one, by any angle."""
        x = x.clone()
        for k in range(len(x)) if self._branches else ():
            count = 1 + int(torch.randint(min(3, len(self._branches)), (1,), generator=self.rng))
            for b in torch.randperm(len(self._branches), generator=self.rng)[:count].tolist():
                i, j, moved = self._branches[b]
                angle = 2 * math.pi * float(torch.rand(1, generator=self.rng))
                axis = x[k, j] - x[k, i]
                axis = axis / axis.norm()
                arm = x[k, moved] - x[k, i]
                across = torch.linalg.cross(axis.expand_as(arm), arm)
                along = (arm @ axis)[:, None] * axis
                x[k, moved] = x[k, i] + along + math.cos(angle) * (arm - along) + math.sin(angle) * across
        return x

    def _known(self, minima: Quenched, n: int) -> Tensor:
        """n of the minima of no high energy, drawn at random."""
        low = torch.nonzero(minima.u < minima.u.min() + RANGE)[:, 0]
        return minima.x[low[torch.randint(len(low), (n,), generator=self.rng)]]

    def quench(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Minima below structures x (n, atoms, 3), and u there, without those that collapsed or have no energy."""
        n, atoms = len(x), x.shape[1]
        if not n:
            return x, x[:, 0, 0]

        def function(z: Tensor) -> tuple[Tensor, Tensor]:
            u, gradient = self.potential(LENGTH * z.view(-1, atoms, 3))
            return u, LENGTH * gradient.flatten(1)

        z = x.flatten(1) / LENGTH
        z, u = relax(function, z, torch.zeros_like(z, dtype=torch.bool))
        x = LENGTH * z.view(n, atoms, 3)
        sound = torch.isfinite(u)
        if len(self._far):
            sound &= (x[:, self._far[:, 0]] - x[:, self._far[:, 1]]).norm(dim=2).amin(1) > CLOSE
        return x[sound], u[sound]

    def log_shares(self, minima: Quenched) -> Tensor:
        """(k,): logarithm of the integral of exp(-u) around every minimum, harmonic, up to one constant.

        Over all structures that equal atoms' exchanges make of it, and over orientations.
        """
        found = [self._log_integral(x, u) for x, u in zip(minima.x, minima.u.tolist(), strict=True)]
        images = minima.shapes.images(minima.features)  # (g, k, n_features)
        copies = [len(_unlike(images[:, k], minima.shapes)) for k in range(len(minima.x))]
        return torch.tensor(found, dtype=torch.float64) + torch.tensor(copies, dtype=torch.float64).log()

    def _modes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues (3 atoms,), kT/nm^2, and vectors, in columns, of the Hessian at x (atoms, 3); overall motion has
        the eigenvalue SOFTEST."""
        n = x.numel()
        shift = DISPLACED * torch.eye(n).to(x).view(n, *x.shape)
        slopes = self.potential(torch.cat([x + shift, x - shift]))[1].flatten(1)
        hessian = (slopes[:n] - slopes[n:]) / (2 * DISPLACED)
        arm = x - x.mean(0)
        rigid = [axis.expand_as(arm) for axis in torch.eye(3).to(x)]
        rigid += [torch.linalg.cross(axis.expand_as(arm), arm) for axis in torch.eye(3).to(x)]
        basis, _ = torch.linalg.qr(torch.stack([r.reshape(-1) for r in rigid], 1))
        inside = torch.eye(n).to(x) - basis @ basis.T
        found = torch.linalg.eigh(inside @ (0.5 * (hessian + hessian.T)) @ inside + SOFTEST * basis @ basis.T)
        return found.eigenvalues, found.eigenvectors

    def _log_integral(self, x: Tensor, u: float) -> float:
        arm = x - x.mean(0)
        inertia = (arm.square().sum() + LINEAR) * torch.eye(3).to(x) - arm.T @ arm
        values, _ = self._modes(x)
        return float(-u + 0.5 * torch.linalg.slogdet(inertia)[1] - 0.5 * values.clamp(min=SOFTEST).log().sum())


def _unlike(features: Tensor, shapes: Shapes) -> Tensor:
    """Features (m, n_features) of distinct structures: those that differ from all before them."""
    kept = features[:1]
    for one in features[1:]:
        if bool((shapes.apart(kept, one[None]).amax(1) > SAME).all()):
            kept = torch.cat([kept, one[None]])
    return kept
