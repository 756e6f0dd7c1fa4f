"""Conversion of energies, coordinates, flows, generators and ensembles of this package to those of bgflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...coordinates.internal import InternalCoordinates
from ...ensemble.ensemble import Ensemble
from ...flow.coupling import CouplingFlow
from .installed import import_bgflow

if TYPE_CHECKING:
    from ...generator.generator import BoltzmannGenerator


def to_energy(energy: Callable[[Tensor], Tensor], n_atoms: int) -> Any:
    """Convert u(x), x (batch, n_atoms, 3) nm, to a bgflow.Energy: flat nm in, (batch, 1) out, divided by `temperature`.

    `temperature` is relative to the one within u, as ever in bgflow. Nothing is remembered from call to call.
    """
    import_bgflow()
    from .exports import ReducedEnergy

    return ReducedEnergy(energy, n_atoms)


def to_coordinates(coordinates: Any) -> Any:
    """Convert coordinates to a bgflow.Flow in the direction of bgflow's own: flat nm -> z, one tensor, in float64."""
    import_bgflow()
    from .exports import InternalCoordinatesFlow

    return InternalCoordinatesFlow(coordinates)


def to_flow(flow: CouplingFlow) -> Any:
    """Convert the layers of a CouplingFlow to a bgflow.Flow, base -> z, with shared parameters and their dtype."""
    import_bgflow()
    from .exports import Layers

    return Layers(_coupling(flow), next(flow.parameters()).dtype)


def to_prior(flow: CouplingFlow) -> Any:
    """Convert the base density of a CouplingFlow to a bgflow prior: normal on lines, uniform on circles, one tensor."""
    import_bgflow()
    from .exports import Base

    return Base(_coupling(flow))


def to_generator(generator: BoltzmannGenerator) -> Any:
    """Convert a generator to a bgflow.BoltzmannGenerator; parameters are shared, so training either trains both.

    Its target is the true energy. Atoms that are equal by symmetry keep the labels of one sector, with the weights of
    all of them. Structures, energies and weights are float64.
    """
    bgflow = import_bgflow()
    from .exports import Layers

    flow = _coupling(generator.flow)
    # bgflow adds up dlogp in the first layer's dtype.
    layers = [Layers(flow, torch.float64), bgflow.InverseFlow(to_coordinates(generator.coordinates))]
    target = to_energy(generator.energy, generator.system.n_atoms)
    return bgflow.BoltzmannGenerator(to_prior(flow), bgflow.SequentialFlow(layers), target)


def to_sampler(ensemble: Ensemble, seed: int | None = None, *, dtype: torch.dtype = torch.float32) -> Any:
    """Convert an ensemble to a bgflow.Sampler, e.g. as data of KLTrainer: draws by weight, with replacement.

    Without a seed it draws by PyTorch's global random numbers, as bgflow does.
    """
    import_bgflow()
    from .exports import EnsembleSampler

    return EnsembleSampler(ensemble, None if seed is None else torch.Generator().manual_seed(seed), dtype)


def z_matrix(coordinates: InternalCoordinates) -> np.ndarray:
    """Z-matrix rows (n_atoms, 4) for bgflow's global transform: atom, bond, angle, torsion; -1 where the first three
    lack one.

    Siblings are placed from the first of them, so that their torsions are narrow differences that keep planarity and
    chirality. The first three are a chain, as bgflow takes them to be. An atom that closes a ring is placed by an
    angle, where ours uses its distance to both neighbours.
    """
    z = coordinates.zmatrix
    rows = z.rows.copy()
    follows = z.leader >= 0
    rows[follows, 3] = z.rows[z.leader[follows], 0]
    if len(rows) > 2 and rows[2, 1] == rows[0, 0]:
        first, second = rows[:2, 0].copy()
        rows[:2] = [second, -1, -1, -1], [first, second, -1, -1]
    return rows


def _coupling(flow: Any) -> CouplingFlow:
    if not isinstance(flow, CouplingFlow):
        raise TypeError(
            f"Expected openmm_fab's CouplingFlow; got {type(flow).__name__}. A flow that came from bgflow shares its "
            "parameters with the bgflow generator it was made from: use that one."
        )
    if flow.log_temperatures:
        raise TypeError(
            "Expected a flow of one temperature; got one of several, which bgflow's layers do not know. Train one "
            "without temperatures."
        )
    return flow
