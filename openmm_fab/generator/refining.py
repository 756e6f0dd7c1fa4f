"""From a cheap energy to an expensive one: a flow's ensemble at a quantum or a learned energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..ais.annealing import anneal_to_target
from ..ais.correction import Corrected, Correction
from ..energy.backends import reduced_energy
from ..energy.evaluate import energies_of
from ..ensemble.ensemble import Ensemble
from ..free_energy.estimators import FreeEnergy, exponential_average
from ..molecule.system import MolecularSystem
from ..target import BoltzmannTarget
from ..tools.devices import stream
from ..weights import effective_sample_size, systematic_resample
from . import sampling
from .generator import BoltzmannGenerator

CHAINS, FEWEST_CHAINS, MOST = 4, 1000, 32  # samples of the flow for each expensive energy; at least; at most
ANNEALED = 200  # of these, at least, where they are annealed
BATCH = 512
FEWEST = 40  # expensive energies


@dataclass(frozen=True, eq=False)
class Refinement:
    """What `refine` found.

    Attributes
    ----------
    ensemble : Ensemble
        Of the expensive energy: structures, its u, weights; a block is one structure, which may be there several times.
    difference : FreeEnergy
        F(expensive) - F(the generator's energy), kT.
    evaluations : int
        Expensive energies that were spent.
    overlap : float
        Between 0 and 1: the effective share of samples of the cheap energy, had they only been reweighted.
    """

    ensemble: Ensemble
    difference: FreeEnergy
    evaluations: int
    overlap: float

    def __str__(self) -> str:
        return (
            f"F(expensive) - F(cheap) = {self.difference} kT; {self.ensemble.ess:.0f} effective samples of "
            f"{self.ensemble.n} ({100 * self.ensemble.ess_fraction:.2g} %) for {self.evaluations} expensive energies; "
            f"reweighting alone keeps {100 * self.overlap:.2g} %"
        )


def refine(
    generator: BoltzmannGenerator,
    energy: MolecularSystem | Callable[[Tensor], Tensor],
    *,
    budget: int = 1000,
    rounds: int = 3,
    seed: int = 0,
) -> Refinement:
    """Carry a trained generator's ensemble to another energy with few evaluations of it, and no gradient.

    In rounds: samples of the cheap energy, corrected by what is known of the difference of both; expensive energies of
    these; a fit of all of them, see `ais.correction`. The last round, of half the budget, weights its samples by what
    the fit has left, so that the result is exact whatever the fit.

    Parameters
    ----------
    generator : BoltzmannGenerator
        Trained: its samples are annealed to its own energy, with or without correction, before an expensive one is
        asked for.
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
        Its `ensemble` gives profiles, populations and basin differences at the expensive energy, with errors.

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
    cheap = BoltzmannTarget(generator.energy, generator.coordinates)
    learned = Correction(cheap.periodic)
    z_seen, d_seen, spent, overlap = [], [], 0, 0.0
    cheap_log_z: FreeEnergy | None = None
    for number in range(rounds):
        last = number == rounds - 1
        n = budget - spent if last else budget // 2 // (rounds - 1)
        target = Corrected(cheap, learned)
        z, index, log_z = _samples(generator, target, n, rng)
        x, d = _differences(generator, dear, z)
        spent += len(z)
        if cheap_log_z is None:
            cheap_log_z, overlap = log_z, _effective(d[index]) / n
        if not last:
            z_seen.append(z)
            d_seen.append(d)
            if np.isfinite(np.concatenate(d_seen)).sum() >= FEWEST // 4:
                learned = Correction.fitted(cheap.periodic, torch.cat(z_seen), np.concatenate(d_seen))
    log_w = d - learned(z).detach().cpu().numpy()
    if not np.isfinite(log_w[index]).any():
        raise ValueError("Expected finite expensive energies; got none of any structure of the cheap one.")
    weighted = exponential_average(log_w[index], block=index, method="reweighting a learned difference")
    # ln of Z(expensive) / Z(corrected), Z(corrected), 1 / Z(cheap); without a correction the last two are one.
    parts = [weighted] if cheap_log_z is None or rounds == 1 else [weighted, log_z, -cheap_log_z]
    difference = FreeEnergy(
        -sum(float(part.value) for part in parts),
        float(np.sqrt(sum(float(part.error) ** 2 for part in parts))),
        "reweighting" if rounds == 1 else weighted.method,
        weighted.diagnosis,
        all(part.trusted for part in parts),
        weighted.ess,
        weighted.khat,
    )
    with torch.no_grad():
        u = generator.energy(x).cpu().numpy() - d
    ensemble = Ensemble(
        x=sampling.relabelled(generator.coordinates, x[torch.from_numpy(index).to(x.device)], rng).cpu().numpy(),
        u=u[index],
        log_w=log_w[index],
        topology=generator.system.md_topology,
        temperature=generator.system.temperature,
        block=index,
        name="refined",
        invalid=int((~np.isfinite(log_w[index])).sum()),
        held=generator.held,
    )
    return Refinement(ensemble, difference, spent, overlap)


def _dear(energy: MolecularSystem | Callable[[Tensor], Tensor], own: MolecularSystem) -> Callable[[Tensor], Tensor]:
    if not isinstance(energy, MolecularSystem):
        return energy
    if energy.elements != own.elements or abs(energy.temperature - own.temperature) > 1e-6 * own.temperature:
        raise ValueError(
            f"Expected the atoms of {own.name} at {own.temperature:g} K; got {energy.name} with {energy.n_atoms} atoms "
            f"at {energy.temperature:g} K."
        )
    return reduced_energy(energy)


def _samples(
    generator: BoltzmannGenerator, target: Corrected, n: int, rng: torch.Generator
) -> tuple[Tensor, np.ndarray, FreeEnergy]:
    """Different samples z (k, dim) of the target, k <= n; which of them (n,) equally weighted ones are; log Z.

    They are the flow's, by weight; where too few of these are effective, annealed ones.
    """
    z, log_w = _weighted(generator, target, n, rng)
    if _effective(log_w) < n:
        with torch.enable_grad():
            chains, batch = max(CHAINS * n, ANNEALED), max(generator.batch, BATCH)
            points, annealed = anneal_to_target(
                generator.flow_at(), target, chains, sampling.ANNEALING, rng=rng, batch=batch
            )
        z, log_w = points.z, annealed.cpu().numpy()
    seed = int(torch.randint(2**62, (1,), generator=rng, device=rng.device))
    drawn, index = np.unique(systematic_resample(log_w, n, np.random.default_rng(seed)), return_inverse=True)
    return z[torch.from_numpy(drawn).to(z.device)].double(), index, exponential_average(log_w, method="the flow")


@torch.no_grad()
def _weighted(
    generator: BoltzmannGenerator, target: Corrected, n: int, rng: torch.Generator
) -> tuple[Tensor, np.ndarray]:
    """Samples z (m, dim) of the flow with log weights (m,): until as many as n are effective, or m is MOST times n."""
    drawn: list[Tensor] = []
    log_w = np.zeros(0)
    while len(log_w) < max(CHAINS * n, FEWEST_CHAINS) or (_effective(log_w) < n and len(log_w) < MOST * n):
        z, log_q = generator.flow_at().sample(max(generator.batch, BATCH), rng)
        found = (target.log_prob(z.double()) - log_q.double()).cpu().numpy()
        drawn.append(z)
        log_w = np.concatenate([log_w, np.where(np.isfinite(found), found, -np.inf)])
    return torch.cat(drawn), log_w


def _effective(log_w: np.ndarray) -> float:
    return effective_sample_size(log_w) if np.isfinite(log_w).any() else 0.0


@torch.no_grad()
def _differences(
    generator: BoltzmannGenerator, dear: Callable[[Tensor], Tensor], z: Tensor
) -> tuple[Tensor, np.ndarray]:
    """Structures x (n, n_atoms, 3), nm, and u of its energy less that of the expensive one, (n,); -inf where the
    latter has no density."""
    x, _ = generator.coordinates.to_cartesian(z)
    cheap, found = generator.energy(x).cpu().numpy(), energies_of(dear, x.cpu().numpy())
    with np.errstate(invalid="ignore"):
        return x, np.where(np.isfinite(found) & np.isfinite(cheap), cheap - found, -np.inf)
