"""An estimate without weights: Markov chains with a flow's proposals and Hamiltonian Monte Carlo, exact for any flow.

`md.hybrid` has the same moves for long, resumable runs; here short ones of many walkers check what weights gave.
"""

from __future__ import annotations

import mdtraj
import numpy as np
import torch
from torch import Tensor

from ..ais.kernels import accept, adapt, hmc
from ..ais.path import AnnealedDensity, Path, Points
from ..ensemble.ensemble import Ensemble
from ..flow.base import Flow
from ..target import BoltzmannTarget, Coordinates, Target
from .sampling import Energy, relabelled

WALKERS = 256
SWEEPS = 8  # kept of each walker, at least
BURN_IN = 20  # sweeps before, in which the step is adapted
BATCH = 1024
LEAPFROGS, STEP, ACCEPTED = 5, 0.1, 0.8


@torch.no_grad()
def chain_ensemble(
    flow: Flow,
    coordinates: Coordinates,
    energy: Energy,
    n: int,
    rng: torch.Generator,
    topology: mdtraj.Topology,
    temperature: float,
) -> Ensemble:
    """States of `run_chains` as an ensemble of equal weights; a block is a walker."""
    z, walker = run_chains(flow, BoltzmannTarget(energy, coordinates), n, rng)
    x = torch.cat([coordinates.to_cartesian(part.double())[0] for part in z.split(BATCH)])
    u = torch.cat([energy(part) for part in x.split(BATCH)]).cpu().numpy()
    log_w = np.where(np.isfinite(u), 0.0, -np.inf)
    labelled = relabelled(coordinates, x, rng).cpu().numpy()
    return Ensemble(labelled, u, log_w, topology, temperature, block=walker, name="chains")


@torch.no_grad()
def run_chains(flow: Flow, target: Target, n: int, rng: torch.Generator) -> tuple[Tensor, np.ndarray]:
    """Run walkers from samples of the flow until n states are kept, one a sweep of each walker.

    A sweep offers every walker a sample of the flow (a Metropolised independence sampler, see `md.independence`) and
    then makes one trajectory of Hamiltonian Monte Carlo.

    Returns
    -------
    z : (n', dim)
        n' >= n: whole sweeps.
    walker : (n',)
        Which walker each state is of; different ones are independent.
    """
    walkers = min(WALKERS, max(2, n // SWEEPS))
    sweeps = -(-n // walkers)
    density = AnnealedDensity(Path(alpha=1.0), 1.0, flow, target)
    here, step, kept = _proposals(flow, target, walkers, rng), STEP, []
    for sweep in range(BURN_IN + sweeps):
        there = _proposals(flow, target, walkers, rng)
        here, _ = accept(here, there, (there.log_p - there.log_q) - (here.log_p - here.log_q), rng)
        here, taken = hmc(here, density, step, LEAPFROGS, rng)
        if sweep < BURN_IN:
            step = adapt(step, float(taken.mean()), ACCEPTED)
        else:
            kept.append(here.z)
    return torch.cat(kept), np.tile(np.arange(walkers), sweeps)


def _proposals(flow: Flow, target: Target, n: int, rng: torch.Generator) -> Points:
    z, log_q = flow.sample(n, rng)
    log_p, gradient = target.log_prob_and_gradient(z)
    return Points(z, log_q.to(log_p), log_p, gradient)
