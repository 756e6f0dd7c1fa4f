"""Sampling of structures with weights from a flow, coordinates and an energy, plain or annealed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..ais.annealing import AISSettings, anneal_to_target
from ..coordinates.internal import InternalCoordinates
from ..flow.base import Flow
from ..target import BoltzmannTarget, Coordinates
from ..tools.adaptive_batch import AdaptiveBatch

ANNEALING = AISSettings(alpha=1.0, intermediate=8)
Energy = Callable[[Tensor], Tensor]  # x (batch, n_atoms, 3) in nm -> u (batch,)


@torch.no_grad()
def draw(
    flow: Flow, coordinates: Coordinates, energy: Energy, n: int, rng: torch.Generator, pieces: AdaptiveBatch
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw n plain samples of the flow, in the computer's own memory, float64.

    Parameters
    ----------
    pieces : AdaptiveBatch
        Draws them in pieces that fit into the device's memory.

    Returns
    -------
    x : (n, n_atoms, 3), nm
    u : (n,)
    log_w : (n,)
        -u - log_q; -inf where that is not finite.
    log_q : (n,)
        The flow's density over shapes.
    """
    parts = pieces(lambda a, b: _drawn(flow, coordinates, energy, b - a, rng), n, rng)
    x, u, log_w, log_q = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return x, u, log_w, log_q


def _drawn(
    flow: Flow, coordinates: Coordinates, energy: Energy, n: int, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z, log_q = flow.sample(n, rng)
    if not torch.isfinite(log_q).all():
        raise FloatingPointError("Expected finite densities of the flow's own samples; the flow is broken.")
    x, log_det = coordinates.to_cartesian(z.double())
    u, log_q = energy(x), log_q.double()  # which equal atom is which changes neither
    x = relabelled(coordinates, x, rng)
    log_w = log_det - u - log_q
    return x, u, torch.where(torch.isfinite(log_w), log_w, -torch.inf), log_q - log_det


def refined(
    flow: Flow,
    coordinates: Coordinates,
    energy: Energy,
    n: int,
    rng: torch.Generator,
    settings: str | AISSettings,
    batch: int,
    progress: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw n structures annealed from the flow to the Boltzmann distribution, `batch` at once: x (nm), u and log_w.

    Parameters
    ----------
    settings : "ais" or AISSettings
        "ais" stands for `ANNEALING`.
    """
    settings = ANNEALING if settings == "ais" else settings
    if not isinstance(settings, AISSettings):
        raise ValueError(f'Expected refine="ais" or AISSettings; got {settings!r}.')
    settings.require_independent_chains()
    with torch.enable_grad():
        points, log_w = anneal_to_target(
            flow, BoltzmannTarget(energy, coordinates), n, settings, rng=rng, batch=batch, progress=progress
        )
    x = torch.cat([coordinates.to_cartesian(z.double())[0] for z in points.z.split(batch)])
    u = torch.cat([energy(part) for part in x.split(batch)])
    return relabelled(coordinates, x, rng).cpu(), u.cpu(), log_w.cpu()


def relabelled(coordinates: Coordinates, x: Tensor, rng: torch.Generator) -> Tensor:
    """Exchange equivalent atoms of x at random, where the coordinates keep them in one sector."""
    return coordinates.relabelled(x, rng) if isinstance(coordinates, InternalCoordinates) else x
