"""What a generator's samples are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..ais.annealing import AISSettings, anneal_to_target
from ..ensemble.ensemble import Ensemble
from ..target import BoltzmannTarget
from .log_z import ANNEALING

if TYPE_CHECKING:
    from .generator import BoltzmannGenerator


@torch.no_grad()
def draw(generator: BoltzmannGenerator, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch of x, u, log w and log q(x), in the computer's own memory."""
    parts = generator._halving(lambda a, b: _drawn(generator, b - a, random), generator.batch, random)
    x, u, log_w, log_q = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return x, u, log_w, log_q


def _drawn(generator: BoltzmannGenerator, n: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z, log_q = generator.flow.sample(n, random)
    if not torch.isfinite(log_q).all():
        raise FloatingPointError("Expected finite densities of the flow's own samples; the flow is broken.")
    x, log_det = generator.coordinates.to_cartesian(z.double())
    x, u, log_q = generator.relabelled(x, random), generator.energy(x), log_q.double()
    log_w = log_det - u - log_q
    return x, u, torch.where(torch.isfinite(log_w), log_w, -torch.inf), log_q - log_det


def refined(
    generator: BoltzmannGenerator, n: int, random: torch.Generator, name: str, refine: str | AISSettings
) -> Ensemble:
    """n structures annealed from the flow to the Boltzmann distribution; see `BoltzmannGenerator.sample`."""
    settings = ANNEALING if refine == "ais" else refine
    if not isinstance(settings, AISSettings):
        raise ValueError(f'Expected refine="ais" or AISSettings; got {refine!r}.')
    settings.refuse_dependence()
    size, target = generator.batch, BoltzmannTarget(generator.energy, generator.coordinates)
    with torch.enable_grad():
        points, log_w = anneal_to_target(generator.flow, target, n, settings, random, size)
    x = torch.cat([generator.coordinates.to_cartesian(z.double())[0] for z in points.z.split(size)])
    u = torch.cat([generator.energy(part) for part in x.split(size)])
    return Ensemble(
        x=generator.relabelled(x, random).cpu().numpy(),
        u=u.cpu().numpy(),
        log_w=log_w.cpu().numpy(),
        topology=generator.system.md_topology,
        temperature=generator.system.temperature,
        name=name,
        invalid=int((~torch.isfinite(log_w)).sum()),
    )
