"""From a cheap energy to an expensive one: a flow's ensemble at a quantum or a learned energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import mdtraj
import numpy as np
import torch
from torch import Tensor

from ..ais.annealing import AISSettings, anneal_to_target
from ..energy.backends import reduced_energy
from ..energy.correction import Correction
from ..energy.evaluate import energies_of
from ..ensemble.ensemble import Ensemble
from ..flow.base import Flow
from ..free_energy.differences import free_energy_difference_bar
from ..free_energy.estimators import FreeEnergy, exponential_average
from ..free_energy.profiles import BasinDifference, basin_difference, phi_positive
from ..molecule.system import MolecularSystem
from ..target import BoltzmannTarget
from ..tools.devices import stream
from ..weights import effective_sample_size, log_mean_weight, normalized_weights, systematic_resample
from . import sampling
from .generator import BoltzmannGenerator

# Cheap samples for each expensive energy: effective ones that are enough, and chains where the flow has not so many.
POOL, CHAINS = 4, 4
LAST_POOL, LAST_CHAINS = 20, 5  # of the last round, whose samples are part of the result
FEWEST_CHAINS = 200
PILOTS = 10  # passes of chains in which step sizes are found
# From the cheap energy to the fitted one, where weights do not lead there.
LADDER = AISSettings(alpha=1.0, intermediate=64, spacing="adaptive", ess_drop=0.03, leapfrogs=10, step_size=0.15)
LADDER_PILOTS = 2
LEAST_SHARE = 0.02  # effective share of the flow's samples, below which they are annealed
BATCH = 512
FEWEST = 40  # expensive energies

Energy = Callable[[Tensor], Tensor]  # x (batch, n_atoms, 3), nm -> u (batch,)


@dataclass(frozen=True, eq=False)
class Refinement:
    """Ensemble of an expensive energy, made from a cheap one's by `refine`, with the difference of free energies.

    Attributes
    ----------
    ensemble : Ensemble
        Of the expensive energy: structures, its u, weights; a block is one structure, which may be there several times.
    surrogate : Ensemble
        Of the fitted energy, from which those of `ensemble` were drawn: many more structures.
    difference : FreeEnergy
        F(expensive) - F(the generator's energy), kT.
    evaluations : int
        Expensive energies that were spent.
    overlap : float
        Between 0 and 1: the effective share of samples of the cheap energy, had they only been reweighted.
    energy : callable
        The fitted energy: x (batch, n_atoms, 3), nm -> u (batch,).
    step : FreeEnergy
        F(fitted) - F(the generator's energy), kT.
    """

    ensemble: Ensemble
    surrogate: Ensemble
    difference: FreeEnergy
    evaluations: int
    overlap: float
    energy: Energy = field(repr=False)
    step: FreeEnergy

    def __str__(self) -> str:
        return (
            f"F(expensive) - F(cheap) = {self.difference} kT; {self.ensemble.ess:.0f} effective samples of "
            f"{self.ensemble.n} ({100 * self.ensemble.ess_fraction:.2g} %) for {self.evaluations} expensive energies; "
            f"reweighting alone keeps {100 * self.overlap:.2g} %"
        )

    def basin_difference(self, basin: Callable[[mdtraj.Trajectory], np.ndarray] | None = None) -> BasinDifference:
        """Free energy of a basin relative to everything else at the expensive energy, kT.

        The fitted energy's own, from its many structures, and what the fit has left, averaged on either side: a
        smaller error than `ensemble` alone has, in which chance decides how many structures are inside.

        Parameters
        ----------
        basin : callable taking an mdtraj.Trajectory and returning (n,) bool, optional
            By default `free_energy.phi_positive` of the first phi.
        """
        inside, of_surrogate = (
            phi_positive(frames) if basin is None else np.asarray(basin(frames.to_mdtraj()))
            for frames in (self.ensemble, self.surrogate)
        )
        fitted, alone = basin_difference(self.surrogate, of_surrogate), basin_difference(self.ensemble, inside)
        if not np.isfinite(fitted.value) or not np.isfinite(alone.value):
            return alone
        left = [log_mean_weight(part.log_w, part.block) for part in (self.ensemble[inside], self.ensemble[~inside])]
        value = fitted.value - float(left[0].value) + float(left[1].value)
        error = float(np.linalg.norm([fitted.error, *(float(part.error) for part in left)]))
        return replace(alone, value=value, error=error, probability=float(1.0 / (1.0 + np.exp(value))))

    def bar(self, frames: Ensemble) -> FreeEnergy:
        """F(expensive) - F(the generator's energy) in kT by BAR, with frames of the expensive energy.

        Parameters
        ----------
        frames : Ensemble
            Of dynamics on the expensive energy, say, with its u at the level that `refine` was given.
        """
        u = energies_of(self.energy, self.ensemble.x)
        drawn = replace(self.ensemble, u=u, log_w=np.zeros(self.ensemble.n), invalid=0)
        found = free_energy_difference_bar(drawn, frames, self.energy, self.ensemble.u)
        return _sum([found, self.step], found)


def refine(
    generator: BoltzmannGenerator,
    energy: MolecularSystem | Energy,
    *,
    budget: int = 1000,
    rounds: int = 3,
    seed: int = 0,
) -> Refinement:
    """Carry a trained generator's ensemble to another energy with few evaluations of it, and no gradient.

    In rounds: samples of the cheap energy, corrected by what is known of the difference of both; expensive energies of
    these; a fit of all of them, see `energy.correction`. The last round, of half the budget, weights its samples by
    what the fit has left, so that the result is exact whatever the fit.

    Parameters
    ----------
    generator : BoltzmannGenerator
        Trained: its samples are weighted, or annealed, to its own energy, with or without correction, before an
        expensive one is asked for.
    energy : MolecularSystem, or callable
        Of the same atoms at the same temperature; x (batch, n_atoms, 3), nm -> u (batch,). See `energy.from_torch`,
        `energy.from_ase`. Its level is free, and part of `difference`.
    budget : int
        Expensive energies to spend, at most.
    rounds : int
        1 is reweighting alone.
    seed : int

    Returns
    -------
    Refinement
        Its `basin_difference` is the sharpest; its `ensemble` gives profiles and populations at the expensive energy,
        with errors.

    Raises
    ------
    ValueError
        Too small a budget; a System of other atoms or temperature; no structure of finite expensive energy.
    """
    if budget < FEWEST or not 1 <= rounds <= budget // (FEWEST // 2):
        raise ValueError(
            f"Expected a budget of {FEWEST} energies or more, and rounds of {FEWEST // 2} or more; got a budget of "
            f"{budget} and {rounds} rounds."
        )
    dear, rng = _dear(energy, generator.system), stream(generator.device, seed)
    fit: Correction | None = None
    x_seen, d_seen, spent, overlap = [], [], 0, 0.0
    for number in range(rounds):
        last = number == rounds - 1
        n = budget - spent if last else budget // 2 // (rounds - 1)
        fitted = _less(generator.energy, fit)
        pool = _pool(generator, fit, n * (LAST_POOL if last else POOL), n * (LAST_CHAINS if last else CHAINS), rng)
        drawn, index = pool.pick(n, rng)
        x, d = _differences(generator, dear, pool.z[drawn])
        spent += len(x)
        if number == 0:
            overlap = _effective(d[index]) / n
        if not last:
            x_seen.append(x)
            d_seen.append(d)
            if np.isfinite(np.concatenate(d_seen)).sum() >= FEWEST // 4:
                fit = Correction.fitted(generator.system.graph, torch.cat(x_seen), np.concatenate(d_seen))
    with torch.no_grad():
        u, u_fitted = (function(x).cpu().numpy() for function in (generator.energy, fitted))
        x_pool = torch.cat([generator.coordinates.to_cartesian(z)[0] for z in pool.z.split(BATCH)])
        u_pool = torch.cat([fitted(part) for part in x_pool.split(BATCH)]).cpu().numpy()
    log_w = (d - u + u_fitted)[index]
    if not np.isfinite(log_w).any():
        raise ValueError("Expected finite expensive energies; got none of any structure of the cheap one.")
    surrogate = _ensemble(generator, x_pool, u_pool, pool.log_w, "fitted", rng)
    frames = _ensemble(generator, x[torch.from_numpy(index).to(x.device)], (u - d)[index], log_w, "refined", rng)
    found = -exponential_average(
        log_w, block=index, method="reweighting" if fit is None else "reweighting a learned difference"
    )
    step = _step(generator.energy, surrogate, pool.annealed, fit is None)
    return Refinement(replace(frames, block=index), surrogate, _sum([found, step], found), spent, overlap, fitted, step)


# --- inside ---


class _Pool(NamedTuple):
    """Samples z (n, dim), float64, of an energy, with log weights (n,); the flow's own, or annealed."""

    z: Tensor
    log_w: np.ndarray
    annealed: bool

    def pick(self, n: int, rng: torch.Generator) -> tuple[Tensor, np.ndarray]:
        """Numbers of k <= n different samples, and which of them (n,) equally weighted ones are."""
        seed = int(torch.randint(2**62, (1,), generator=rng, device=rng.device))
        drawn, index = np.unique(systematic_resample(self.log_w, n, np.random.default_rng(seed)), return_inverse=True)
        return torch.from_numpy(drawn).to(self.z.device), index


def _pool(
    generator: BoltzmannGenerator, fit: Correction | None, enough: int, chains: int, rng: torch.Generator
) -> _Pool:
    """Samples of the cheap energy less a fit: the flow's, until `enough` of them are effective; where it has too few of
    these, annealed chains, which start from the flow, or with a fit from samples of the cheap energy."""
    target, flow = BoltzmannTarget(_less(generator.energy, fit), generator.coordinates), generator.flow_at()
    batch = max(generator.batch, BATCH)
    drawn: list[Tensor] = []
    log_w = np.zeros(0)
    with torch.no_grad():
        while (effective := _effective(log_w)) < enough:
            if len(log_w) >= enough and effective < LEAST_SHARE * len(log_w):
                break
            z, log_q = flow.sample(batch, rng)
            found = (target.log_prob(z.double()) - log_q.double()).cpu().numpy()
            drawn.append(z.double())
            log_w = np.concatenate([log_w, np.where(np.isfinite(found), found, -np.inf)])
    if effective >= enough:
        return _Pool(torch.cat(drawn), log_w, annealed=False)
    n = max(chains, FEWEST_CHAINS)
    start: Flow = flow
    settings, pilots = sampling.ANNEALING, PILOTS
    if fit is not None:
        cheap = BoltzmannTarget(generator.energy, generator.coordinates)
        start, settings, pilots = _Start(_pool(generator, None, n, n, rng), cheap), LADDER, LADDER_PILOTS
    with torch.enable_grad():
        points, annealed = anneal_to_target(start, target, n, settings, rng=rng, batch=batch, pilots=pilots)
    return _Pool(points.z.double(), annealed.cpu().numpy(), annealed=True)


class _Start:
    """Samples of the cheap energy by weight, for annealing; its log density lacks log Z."""

    def __init__(self, pool: _Pool, target: BoltzmannTarget) -> None:
        self.z, self.target = pool.z, target
        self.weights = torch.from_numpy(normalized_weights(pool.log_w)).to(pool.z.device)

    def sample(self, n: int, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        z = self.z[torch.multinomial(self.weights, n, replacement=True, generator=rng)]
        return z, self.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            return self.target.log_prob(z)

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.target.log_prob_and_gradient(z)


def _dear(energy: MolecularSystem | Energy, own: MolecularSystem) -> Energy:
    if not isinstance(energy, MolecularSystem):
        return energy
    if energy.elements != own.elements or abs(energy.temperature - own.temperature) > 1e-6 * own.temperature:
        raise ValueError(
            f"Expected the atoms of {own.name} at {own.temperature:g} K; got {energy.name} with {energy.n_atoms} atoms "
            f"at {energy.temperature:g} K."
        )
    return reduced_energy(energy)


def _less(energy: Energy, fit: Correction | None) -> Energy:
    """The energy less a fit."""
    return energy if fit is None else lambda x: energy(x) - fit(x)


def _step(energy: Energy, surrogate: Ensemble, annealed: bool, same: bool) -> FreeEnergy:
    """F(fitted) - F(cheap), kT, from weighted samples of the former.

    Chains that started from the cheap energy have its ratio in their weights; of samples of the flow both weights are
    known.
    """
    if same:
        return FreeEnergy(0.0, 0.0, "the same energy")
    if annealed:
        return -exponential_average(surrogate.log_w, method="annealed importance sampling")
    change = energies_of(energy, surrogate.x) - surrogate.u  # cheap less fitted
    below = np.where(np.isfinite(change), surrogate.log_w - change, -np.inf)
    return -exponential_average(surrogate.log_w, below, method="importance sampling")


def _sum(parts: list[FreeEnergy], said: FreeEnergy) -> FreeEnergy:
    """Sum of independent free energies, with the words of one."""
    error = float(np.linalg.norm([part.error for part in parts]))
    value, trusted = float(sum(part.value for part in parts)), all(part.trusted for part in parts)
    return replace(said, value=value, error=error, trusted=trusted)


def _effective(log_w: np.ndarray) -> float:
    return effective_sample_size(log_w) if np.isfinite(log_w).any() else 0.0


@torch.no_grad()
def _differences(generator: BoltzmannGenerator, dear: Energy, z: Tensor) -> tuple[Tensor, np.ndarray]:
    """Structures x (n, n_atoms, 3), nm, and u of its energy less that of the expensive one, (n,); -inf where the
    latter has no density."""
    x, _ = generator.coordinates.to_cartesian(z)
    cheap, found = generator.energy(x).cpu().numpy(), energies_of(dear, x.cpu().numpy())
    with np.errstate(invalid="ignore"):
        return x, np.where(np.isfinite(found) & np.isfinite(cheap), cheap - found, -np.inf)


def _ensemble(
    generator: BoltzmannGenerator, x: Tensor, u: np.ndarray, log_w: np.ndarray, name: str, rng: torch.Generator
) -> Ensemble:
    return Ensemble(
        x=sampling.relabelled(generator.coordinates, x, rng).cpu().numpy(),
        u=u,
        log_w=log_w,
        topology=generator.system.md_topology,
        temperature=generator.system.temperature,
        name=name,
        invalid=int((~np.isfinite(log_w)).sum()),
        held=generator.held,
    )
