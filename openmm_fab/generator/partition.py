"""log Z of a generator by annealing and by BAR against MD frames, and the flow as a state of known free energy.

All results are configurational: -ln of the integral of exp(-u) over shapes, nm^(3N - 6); momenta are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ais.annealing import PILOTS, AISSettings, anneal_to_target
from ..ensemble.ensemble import Ensemble
from ..flow.base import Flow
from ..free_energy.differences import check_same_temperature, energies_in, equally_weighted
from ..free_energy.estimators import FreeEnergy, bar_estimate, exponential_average
from ..target import BoltzmannTarget, Target
from ..tools.devices import stream
from .generator import BoltzmannGenerator
from .sampling import ANNEALING


def log_z_ais(
    generator: BoltzmannGenerator,
    n: int = 2000,
    *,
    temperature: Any = None,
    settings: AISSettings = ANNEALING,
    seed: int = 0,
    progress: bool = True,
) -> FreeEnergy:
    """log Z by annealed importance sampling from the flow to the true energy (Neal 2001).

    `Ensemble.log_z` with better weights.

    Parameters
    ----------
    n : int
        Samples that count; pilot passes that adapt HMC's steps come before them.
    temperature : float (K), text or Quantity, optional
        As for `BoltzmannGenerator.sample`.
    settings : AISSettings
        With alpha = 1, so that the path ends at the Boltzmann density; without resampling.
    """
    _check(generator)
    settings.require_independent_chains()
    target = BoltzmannTarget(generator.energy_at(temperature), generator.coordinates)
    rng = stream(generator.device, seed)
    log_w = ais_log_weights(
        generator.flow_at(temperature), target, n, settings=settings, rng=rng, batch=generator.batch, progress=progress
    )
    found = exponential_average(log_w, method=f"AIS over {settings.intermediate} intermediate densities")
    return replace(found, unit="nats")


def _check(generator: object) -> None:
    if not isinstance(generator, BoltzmannGenerator):
        raise ValueError(f"Expected a BoltzmannGenerator; got {type(generator).__name__}. Of an ensemble take log_z.")


def ais_log_weights(
    flow: Flow,
    target: Target,
    n: int,
    *,
    settings: AISSettings = ANNEALING,
    rng: torch.Generator | None = None,
    batch: int = 256,
    pilots: int = PILOTS,
    progress: bool = False,
) -> np.ndarray:
    """Log weights (n,) of annealed importance sampling towards the target; their mean weight estimates Z.

    Parameters
    ----------
    batch : int
        Chains run at once.
    pilots : int
        Passes before the first that counts, in which step sizes are adapted; then they are held.
    """
    about: dict[str, Any] = {"batch": batch, "pilots": pilots, "progress": progress}
    return anneal_to_target(flow, target, n, settings, rng=rng, **about)[1].cpu().numpy()


def log_z_bar(
    generator: BoltzmannGenerator, reference: Ensemble, *, samples: Ensemble | int = 10_000, seed: int = 1
) -> FreeEnergy:
    """log Z by targeted BAR between the flow's samples and MD frames (Wirnsberger et al. 2020).

    The flow is a normalised state, so that BAR's difference to it is absolute.

    Parameters
    ----------
    reference : Ensemble
        Of the generator's own system, at the samples' temperature; of frames with unequal weights as many as their
        effective number are drawn.
    samples : Ensemble or int
        What `generator.sample` gave, or how many to draw.
    """
    _check(generator)
    flow = generator.sample(samples, seed=seed) if isinstance(samples, int) else samples
    check_same_temperature(flow, reference)
    if flow.log_q is None:
        raise ValueError("Expected samples of the generator; got an ensemble without log_q. Use generator.sample(n).")
    flow.check_weights_of_flow()
    frames = equally_weighted(reference, seed)
    energy = generator.energy_at(flow.temperature)
    log_w = -energies_in(energy if np.isnan(frames.u).any() else frames.u, frames)
    log_w = log_w - np.asarray(generator.log_prob(frames.x, flow.temperature))
    works = -np.where(np.isfinite(flow.log_w), flow.log_w, -np.inf)
    found = -bar_estimate(
        works,
        log_w,
        block_f=flow.block,
        block_r=frames.block,
        method="targeted BAR",
        names=("the flow", "the MD frames"),
    )
    return replace(found, unit="nats")


def flow_energy(generator: BoltzmannGenerator) -> Callable[[Tensor], Tensor]:
    """Energy function -log q(x) of a generator's flow, a state of known free energy 0; `flow_samples` are its
    samples."""
    return lambda x: -generator.log_prob(x)
