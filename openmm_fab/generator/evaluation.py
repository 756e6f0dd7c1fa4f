"""Metrics of a flow: of its samples with their weights, and of the annealed structures in a replay buffer."""

from __future__ import annotations

from ..coordinates.internal import InternalCoordinates
from ..ensemble.ensemble import Ensemble
from ..flow.base import TrainableFlow
from ..flow.coupling import CouplingFlow
from ..free_energy.profiles import basin_difference
from ..target import BoltzmannTarget
from ..tools.metrics import FlowMetrics
from ..train.buffer import ReplayBuffer
from . import training


def metrics_of(ensemble: Ensemble) -> FlowMetrics:
    """ESS, k-hat and log Z of a flow's samples, and the difference of a basin where there is a phi torsion."""
    metrics: FlowMetrics = {
        "ess": ensemble.ess_fraction,
        "ess_clipped": ensemble.ess_clipped / ensemble.n,
        "khat": ensemble.khat,
        "log_z": float(ensemble.log_z.value),
        "log_z_error": float(ensemble.log_z.error),
    }
    if ensemble.phi().shape[1]:
        basin = basin_difference(ensemble)
        metrics |= {"basin_df": basin.value, "basin_df_error": basin.error}
    return metrics


def metrics_of_annealed(
    buffer: ReplayBuffer,
    flow: TrainableFlow,
    target: BoltzmannTarget,
    cut: float,
    batch: int,
) -> FlowMetrics:
    """Shares of annealed weight beyond the splines' range, and of the newest above the cut of the target's energies."""
    metrics: FlowMetrics = {}
    if isinstance(flow, CouplingFlow) and isinstance(target.coordinates, InternalCoordinates):
        metrics["annealed_outside"] = training.weight_outside(buffer.z, buffer.log_w, flow.reach_at(buffer.z))
    if buffer.size:
        z, log_w = buffer.newest(batch)
        metrics["annealed_above_cut"] = training.weight_above_cut(target.heights(z)[0], log_w, cut)
    return metrics
