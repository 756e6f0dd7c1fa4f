"""Parts of a generator: its objective by name, and a digest of its tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from ..coordinates.internal import InternalCoordinates
from ..flow.base import TrainableFlow
from ..flow.coupling import CouplingFlow
from ..target import Coordinates
from ..train.objectives import Objective, objective_by_name
from ..train.start import Start


def objective_of(objective: str | Objective, flow: TrainableFlow, data: Callable[[], Tensor] | None) -> Objective:
    """Objective, given as such or by its name.

    Parameters
    ----------
    data : callable, optional
        Returns samples z (n, dim), float64, for an objective that learns from some.
    """
    if callable(objective):
        return objective
    if objective == "auto" and data is None:
        first = isinstance(flow, CouplingFlow) and flow.torsion_layers and flow.resampling is None
        return Start() if first else objective_by_name("fab")
    if data is None:
        return objective_by_name(objective)
    return objective_by_name("fab" if objective == "auto" else objective, data().to(next(flow.parameters())))


def digest(flow: TrainableFlow, coordinates: Coordinates) -> str:
    """sha256 of the flow's and the coordinates' tensors."""
    tensors = dict(flow.state_dict())
    if isinstance(coordinates, InternalCoordinates):
        tensors |= {f"coordinates.{k}": v for k, v in coordinates.to_tensors().items()}
    found = hashlib.sha256()
    for key in sorted(tensors):
        found.update(key.encode() + tensors[key].detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
