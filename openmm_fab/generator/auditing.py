"""An audit: minima that walkers on the energy reach, looked up in an ensemble.

The search knows nothing of the coordinates and the flow that drew the ensemble, so that it sees what they exclude.
What a minimum should hold follows from its energy and its Hessian, counted from the minima in which the ensemble has
weight; what the ensemble has in it, from the frames that are nearer to it than to any other, in the torsions of all
bonds.  One torsion, ring or centre is looked up by itself, too: of a large molecule no single minimum holds much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..coordinates.quenching import WALKERS, Quenched, Searcher, with_springs
from ..energy.compiled import CompiledEnergy
from ..ensemble.audit import COVERED, EXCLUDED, MISSING, RARE, Audit, State
from ..ensemble.ensemble import Ensemble
from ..ensemble.held import Held
from ..molecule.graph import BondGraph
from ..molecule.names import atom_names
from ..molecule.shapes import SAME, Shapes, exchanges
from ..molecule.system import MolecularSystem
from ..molecule.torsions import peptide_torsions
from ..train.settings import Budget
from ..weights import rule_of_three, systematic_resample

FRAMES = 50_000  # that are looked at; of more, as many are drawn by weight
CHUNK = 4096  # frames at once
WITHIN = 1.2  # in every block, of frames that belong to a minimum
DUE = 20.0  # effective samples that are due in a state that counts as missing, where the harmonic picture may be off
FEW = 0.05  # by so much: with less of its share than this a state counts as not there
EQUAL = 1e-3  # kT
PART = 0.01  # of what a torsion, ring or centre should hold; of its minima, those that are named hold more
CHOSEN = ("peptide bond", "stiff bond", "stereocentre", "pyramidal nitrogen")  # kinds of Held that are kept by choice
LOWEST = 200  # minima whose Hessian is looked at, the lowest ones

ValueAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]


def audit(
    system: MolecularSystem,
    value_and_gradient: ValueAndGradient,
    ensemble: Ensemble,
    held: Sequence[Held] | None = None,
    budget: Budget | None = None,
    seed: int = 0,
) -> Audit:
    """Search for minima from the ensemble's own structures and from hot walkers, and look them up in the ensemble.

    Parameters
    ----------
    system : MolecularSystem
    value_and_gradient : callable
        x (batch, n_atoms, 3), nm -> u (batch,) in kT and its gradient.
    ensemble : Ensemble
        Of the system.
    held : sequence of Held, optional
        What its coordinates keep by choice; by default `ensemble.held`.
    budget : Budget, optional
        Of the search, at most; `quenching.ROUNDS_WITHOUT` rounds in vain end it, too. None: only those.
    seed : int
    """
    rng = torch.Generator().manual_seed(seed)
    potential = with_springs(value_and_gradient, *system.constraints)
    x = system.minimum if system.has_forces else system.positions
    shapes = Shapes(system.graph, x, _same_energy(system.graph, x, value_and_gradient))
    searcher = Searcher(potential, system.graph, shapes, system.kT, system.temperature, rng)
    drawn = systematic_resample(ensemble.log_w, WALKERS, np.random.default_rng(seed))
    start = torch.as_tensor(ensemble.x[drawn], dtype=torch.float64)
    search = searcher.run(start, None if budget is None else budget.spent)
    minima = _lowest(search.minima)
    log_shares = searcher.log_shares(minima)
    weights, features = _frames(ensemble, shapes, seed)
    found = Lookup(minima, log_shares, features, weights, ensemble.independent)
    states = found.states(system, ensemble.held if held is None else held)
    return Audit(
        tuple(states),
        float(rule_of_three(found.effective)),
        searcher.evaluations,
        search.seconds,
        search.exhausted,
    )


def on_cpu(energy: Callable[[Tensor], Tensor], system: MolecularSystem, device: torch.device) -> ValueAndGradient:
    """Function of x (batch, n_atoms, 3), nm, on the CPU that returns u (batch,) and its gradient there, for small
    batches, of an energy on any device."""
    if isinstance(energy, CompiledEnergy):  # one that is fused takes as long for a few structures as for thousands
        return (CompiledEnergy(system) if energy.fused else energy).value_and_gradient

    if (own := getattr(energy, "value_and_gradient", None)) is not None:

        def given(x: Tensor) -> tuple[Tensor, Tensor]:
            u, gradient = own(x.to(device))
            return u.cpu(), gradient.cpu()

        return given

    @torch.enable_grad()
    def value_and_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().to(device).requires_grad_()
        u = energy(x)
        sound = torch.isfinite(u.detach())
        (gradient,) = torch.autograd.grad(torch.where(sound, u, 0.0).sum(), x)
        return torch.where(sound, u.detach(), torch.inf).cpu(), gradient.nan_to_num(0.0, 0.0, 0.0).cpu()

    return value_and_gradient


def _lowest(minima: Quenched) -> Quenched:
    """The lowest minima, of which none is like a lower one: those taken in later may have come to lie between."""
    order = torch.argsort(minima.u)[:LOWEST]
    found = Quenched(minima.shapes, minima.x[:0], minima.u[:0])
    found.add(minima.x[order], minima.u[order])
    return found


def _same_energy(graph: BondGraph, x: np.ndarray, value_and_gradient: ValueAndGradient) -> list[np.ndarray]:
    """Exchanges of equal atoms that leave the energy of a distorted structure x (n_atoms, 3) as it is."""
    known = exchanges(graph)
    distorted = torch.as_tensor(x + np.random.default_rng(0).normal(scale=0.003, size=x.shape))
    u, _ = value_and_gradient(torch.stack([distorted[torch.as_tensor(exchange)] for exchange in known]))
    return [exchange for exchange, same in zip(known, ((u - u[0]).abs() < EQUAL).tolist(), strict=True) if same]


def _frames(ensemble: Ensemble, shapes: Shapes, seed: int) -> tuple[Tensor, Tensor]:
    """Normalised weights (n,) and features (n, n_features) of the ensemble's frames, or of FRAMES drawn by weight."""
    if ensemble.n > FRAMES:
        index = systematic_resample(ensemble.log_w, FRAMES, np.random.default_rng(seed))
        weights = np.full(FRAMES, 1.0 / FRAMES)
    else:
        index = np.flatnonzero(ensemble.weights)
        weights = ensemble.weights[index]
    parts = [
        shapes(torch.as_tensor(ensemble.x[index[k : k + CHUNK]], dtype=torch.float64))
        for k in range(0, len(index), CHUNK)
    ]
    return torch.as_tensor(weights), torch.cat(parts)


@dataclass(frozen=True)
class Well:
    """A range of one block, or of any that equal atoms' exchange takes it to, with minima and frames in it.

    Attributes
    ----------
    block : int
    inside : Tensor of bool, shape (k,)
        Minima that have one of the blocks there.
    share : float
        Of the ensemble's weight that has.
    """

    block: int
    inside: Tensor
    share: float


class Lookup:
    """Minima looked up in the weighted features of an ensemble's frames.

    Parameters
    ----------
    minima : Quenched
    log_shares : Tensor, shape (k,)
        As `Searcher.log_shares` gives them.
    features : Tensor, shape (n, n_features)
    weights : Tensor, shape (n,)
        Of the frames; they sum to 1.
    independent : float
        No more frames than this are independent.

    Attributes
    ----------
    shares : Tensor, shape (k,)
        Of the weight near every minimum.
    wells : list of Well
    """

    def __init__(
        self, minima: Quenched, log_shares: Tensor, features: Tensor, weights: Tensor, independent: float
    ) -> None:
        self.minima, self.shapes, self.log_shares = minima, minima.shapes, log_shares
        self.effective = min(independent, len(weights))
        self.shares = torch.zeros(len(minima.x), dtype=torch.float64)
        for part, w in zip(features.split(CHUNK), weights.split(CHUNK), strict=True):
            which, apart = self.shapes.nearest(part, minima.features)
            near = apart.amax(1) < WITHIN
            self.shares.index_add_(0, which[near], w[near])
        self.wells = [well for orbit in self._orbits() for well in self._wells(orbit, features, weights)]

    def _orbits(self) -> list[list[int]]:
        orbits = {tuple(self.shapes.orbit(k)) for k in range(len(self.shapes.blocks))}
        return [list(orbit) for orbit in sorted(orbits)]

    def _wells(self, orbit: list[int], features: Tensor, weights: Tensor) -> list[Well]:
        columns = [self.shapes.columns(k) for k in orbit]
        order = torch.argsort(self.minima.u)
        values = torch.stack([self.minima.features[:, c] for c in columns], 1)  # (k, blocks, width)
        centres = values[:0, 0]
        for value in values[order].flatten(0, 1):
            if not len(centres) or float((centres - value).norm(dim=1).min()) > SAME:
                centres = torch.cat([centres, value[None]])
        if len(centres) < 2:
            return []
        there = torch.stack([torch.cdist(features[:, c], centres).argmin(1) for c in columns], 1)
        here = torch.cdist(values, centres.expand(len(values), -1, -1)).argmin(2)
        return [
            Well(orbit[0], (here == k).any(1), float(weights[(there == k).any(1)].sum())) for k in range(len(centres))
        ]

    def states(self, system: MolecularSystem, held: Sequence[Held] | None) -> list[State]:
        """A verdict on every minimum."""
        kept = {frozenset(h.atoms): h for h in held or () if h.kind in CHOSEN and h.atoms}
        wells = self.wells
        of_block = [[b for b in range(len(self.shapes.blocks)) if b in self.shapes.orbit(w.block)] for w in wells]

        def excluded_by(k: int) -> Held | None:
            """The property held fixed whose other side minimum k is; None if it is excluded by none."""
            for well, blocks in zip(wells, of_block, strict=True):
                if well.inside[k] and well.share < FEW:
                    for b in blocks:
                        if (one := kept.get(frozenset(self.shapes.blocks[b].atoms))) is not None:
                            return one
            return None

        reasons = [excluded_by(k) for k in range(len(self.shares))]
        reasons = [None if self.shares[k] > FEW else reason for k, reason in enumerate(reasons)]
        allowed = torch.tensor([reason is None for reason in reasons])
        due = self._due(allowed)
        lacking = self._lacking(due, allowed)
        best = int(self.shares.argmax())
        lowest = float(self.minima.u.min())
        names = Words(self.shapes, system)
        found = []
        for k, reason in enumerate(reasons):
            share, energy = float(self.shares[k]), float(self.minima.u[k]) - lowest
            verdict = EXCLUDED if reason else MISSING if lacking[k] else COVERED if share > 0 else RARE
            where = names(self.minima.features[[k]], self.minima.features[[best]])
            barrier = reason.barrier if reason else float("nan")
            x = tuple(map(tuple, self.minima.x[k].tolist())) if verdict == MISSING else ()
            found.append(State(where, verdict, energy, float(due[k]), share, barrier, x))
        return found

    def _due(self, allowed: Tensor) -> Tensor:
        """(k,): share of the weight that every minimum should hold; of one not `allowed`, beside all that are."""
        seen = allowed & (self.shares > 0)
        if not seen.any():
            return torch.softmax(self.log_shares, 0)
        per_share = torch.logsumexp(self.log_shares[seen], 0) - self.shares[seen].sum().log()
        due = (self.log_shares - per_share).exp()
        unseen = due[allowed & ~seen].sum()
        return due / (1.0 + unseen)

    def _lacking(self, due: Tensor, allowed: Tensor) -> Tensor:
        """Bool (k,): minima that hold next to nothing though much is due, by themselves or with all of one well."""

        def lacks(due: float, share: float) -> bool:
            return due * self.effective > DUE and share < FEW * due

        lacking = torch.tensor([lacks(d, s) for d, s in zip(due.tolist(), self.shares.tolist(), strict=True)])
        populations = torch.softmax(torch.where(allowed, self.log_shares, -torch.inf), 0)
        for well in self.wells:
            if lacks(float(populations[well.inside].sum()), well.share):
                inside = torch.where(well.inside, populations, 0.0)
                lacking |= well.inside & (self.shares < FEW * populations) & (inside > PART * inside.sum())
        return lacking & allowed


class Words:
    """Names of minima: the torsions, rings and centres in which one differs from another."""

    def __init__(self, shapes: Shapes, system: MolecularSystem) -> None:
        self.shapes, self.graph = shapes, system.graph
        names = atom_names(system.topology)
        single = len({name.partition(":")[0] for name in names}) == 1
        self.names = [name.partition(":")[2] for name in names] if single else names
        known = peptide_torsions(system.md_topology)
        self.torsions: dict[tuple[int, ...], str] = {
            order: name for name, atoms in known.items() for order in (atoms, atoms[::-1])
        }

    def __call__(self, features: Tensor, other: Tensor) -> str:
        """Name one structure (1, n_features) by the blocks in which it differs from another, equal atoms exchanged."""
        images = self.shapes.images(features)[:, 0]
        apart = self.shapes.apart(images, other)
        best = int(((apart > SAME).sum(1) + 1e-3 * apart.sum(1)).argmin())
        parts: dict[tuple[int, ...], str] = {}  # by bond, centre or ring
        for b in torch.nonzero(apart[best] > SAME)[:, 0].tolist():
            block = self.shapes.blocks[b]
            if block.ring:
                ring = self.graph.ring(*block.atoms)
                parts.setdefault(tuple(sorted(ring)), f"other pucker of {'-'.join(self.names[i] for i in ring)}")
            elif len(block.atoms) == 1:
                parts[block.atoms] = f"other side of {self.names[block.atoms[0]]}"
            else:
                parts.setdefault(block.atoms, self._turned(b, images[best]))
        return ", ".join(parts.values()) or "as most of the weight"

    def _turned(self, block: int, values: Tensor) -> str:
        """ "phi ALA2 at -65°", or a bond with the four atoms that its angle is counted by."""
        made_of = self.shapes.blocks[block]
        bond = "-".join(self.names[i] for i in made_of.atoms)
        if made_of.width > 2:
            return f"{bond} turned"
        cosine, sine = values[self.shapes.columns(block)].tolist()
        degrees, four = f"{np.degrees(np.arctan2(sine, cosine)):.0f}°", made_of.fours[0]
        if (name := self.torsions.get(tuple(map(int, four)))) is not None:
            return f"{name} at {degrees}"
        return f"{bond} at {degrees} ({'-'.join(self.names[i].rpartition(':')[2] for i in four)})"
