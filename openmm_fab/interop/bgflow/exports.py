"""Energies, coordinates, flows and ensembles of this package as subclasses of bgflow's classes; needs bgflow.

The functions of `outward` import this module when called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ensemble.ensemble import Ensemble
from ...flow.coupling import CouplingFlow
from ..flows import seeded
from .installed import import_bgflow

bgflow: Any = import_bgflow()


class ReducedEnergy(bgflow.Energy):
    """bgflow.Energy of u(x): flat nm (batch, 3 n_atoms) -> (batch, 1) / temperature."""

    def __init__(self, energy: Callable[[Tensor], Tensor], n_atoms: int) -> None:
        super().__init__(3 * n_atoms)
        self.reduced_energy = energy

    def _energy(self, x: Tensor, **kwargs: Any) -> Tensor:
        batch = x.shape[:-1]
        return self.reduced_energy(x.reshape(-1, x.shape[-1] // 3, 3)).reshape(*batch, 1)


class InternalCoordinatesFlow(bgflow.Flow):
    """bgflow.Flow of coordinates, in the direction of bgflow's transforms: flat nm -> z; ``inverse=True``: z -> flat
    nm."""

    def __init__(self, coordinates: Any) -> None:
        super().__init__()
        self.coordinates = coordinates

    def _forward(self, x: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        z, log_det = self.coordinates.to_internal(x.reshape(len(x), -1, 3))
        return z, log_det[:, None]

    def _inverse(self, z: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        x, log_det = self.coordinates.to_cartesian(z.double())
        return x.reshape(len(z), -1), log_det[:, None]


class Layers(bgflow.Flow):
    """bgflow.Flow of a CouplingFlow's layers: base -> z; ``inverse=True``: z -> base. Results have the dtype
    `dtype`."""

    def __init__(self, flow: CouplingFlow, dtype: torch.dtype) -> None:
        super().__init__()
        self.flow, self.dtype = flow, dtype

    def _forward(self, base: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        z, log_det = self.flow.from_base(base.to(next(self.flow.parameters())))
        return z.to(self.dtype), log_det[:, None].to(self.dtype)

    def _inverse(self, z: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        base, log_det = self.flow.to_base(z.to(next(self.flow.parameters())))
        return base.to(self.dtype), log_det[:, None].to(self.dtype)


class Base(bgflow.Energy, bgflow.Sampler):
    """bgflow prior of a CouplingFlow's base density, normalised at every temperature; angles are uniform at every
    temperature."""

    def __init__(self, flow: CouplingFlow) -> None:
        super().__init__(flow.dim)
        self._flow = [flow]  # in a list, or its parameters would be counted twice in a generator

    def energy(self, base: Tensor, temperature: float | Tensor = 1.0, **kwargs: Any) -> Tensor:
        """-log density (batch, 1)."""
        flow, t = self._flow[0], torch.as_tensor(temperature).to(base)
        lines = ~flow.periodic
        stretched = torch.where(lines, base / t.sqrt(), base)
        return (0.5 * int(lines.sum()) * t.log() - flow.base_log_prob(stretched))[:, None]

    def _energy(self, base: Tensor, **kwargs: Any) -> Tensor:
        return self.energy(base)

    def _sample(self, n_samples: int) -> Tensor:
        return self._flow[0].sample_base(n_samples)

    def _sample_with_temperature(self, n_samples: int, temperature: float | Tensor) -> Tensor:
        base = self._sample(n_samples)
        return torch.where(self._flow[0].periodic, base, base * math.sqrt(temperature))


class EnsembleSampler(bgflow.Sampler):
    """bgflow.Sampler that draws structures by weight, flat nm (n, 3 n_atoms); at another temperature by the weights
    for it."""

    def __init__(self, ensemble: Ensemble, rng: torch.Generator | None, dtype: torch.dtype) -> None:
        super().__init__()
        if not np.isfinite(ensemble.log_w).any():
            raise ValueError("Expected an ensemble with weights; no frame of this one has any.")
        self.x = torch.as_tensor(ensemble.x.reshape(ensemble.n, -1), dtype=dtype)
        self.log_w, self.u = torch.as_tensor(ensemble.log_w), torch.as_tensor(ensemble.u)
        self.rng = rng

    def _sample(self, n_samples: int) -> Tensor:
        return self._drawn(n_samples, self.log_w)

    def _sample_with_temperature(self, n_samples: int, temperature: float | Tensor) -> Tensor:
        if self.u.isnan().any():
            raise ValueError("Expected an ensemble with energies, to draw at another temperature; u is nan.")
        change = self.u * (1 - 1 / float(temperature))
        return self._drawn(n_samples, torch.where(torch.isfinite(self.log_w), self.log_w + change, -torch.inf))

    def _drawn(self, n: int, log_w: Tensor) -> Tensor:
        with seeded(self.rng, torch.device("cpu")):
            return self.x[torch.multinomial(torch.softmax(log_w, 0), n, replacement=True)]
