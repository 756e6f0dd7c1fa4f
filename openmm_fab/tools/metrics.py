"""Types of metrics: dicts of numbers, those of an iteration of a training and those of a flow's samples.

What was not looked at is nan. A run's metrics.jsonl has a line of `TrainingMetrics` for each iteration.
"""

from __future__ import annotations

from typing import TypedDict


class _Looked(TypedDict, total=False):
    lost_basins: float  # that the buffer held and the flow did not draw at this look


class StepMetrics(_Looked):
    """Metrics of one iteration, as `Trainer.step` returns them."""

    iteration: int  # from 1 on
    evaluations: int  # of the target, in this training
    flow_evaluations: int  # of the learner
    loss: float  # mean over the iteration's gradient steps
    ess_flow: float  # Kish share of the learner's samples in the last passes, towards the target as trained on
    ess_ais: float  # Kish share of this pass, towards p^alpha q^(1 - alpha)
    lam: float  # power of the weights in a stage before FAB or of mass transport, or of a pass that goes to the buffer
    acceptance: float  # mean over the pass's trajectories
    step_size: float
    buffer: int  # samples in it
    invalid: float  # the learner's samples of zero density in this pass
    gradient: float  # largest norm
    learning_rate: float


class IterationMetrics(StepMetrics):
    """Metrics of one iteration with the time and budget that are spent, as iterating over a `Trainer` yields them."""

    seconds: float  # of training until now
    spent: float  # share of the budget


class FlowMetrics(TypedDict, total=False):
    """Metrics of a flow's samples, as `BoltzmannGenerator.evaluate` returns them; what `measure` adds stands beside."""

    ess: float  # Kish share
    ess_clipped: float  # the same with the largest 1e-4 of the weights clipped
    khat: float
    log_z: float
    log_z_error: float
    outside: float  # share of samples beyond the splines' range
    outside_weight: float  # share of weight there
    basin_df: float  # kT, where there is a phi torsion
    basin_df_error: float
    annealed_outside: float  # share of annealed structures' weight beyond the splines' range
    annealed_above_cut: float  # share of the latest ones' weight whose energy lies above the cut


class TrainingMetrics(IterationMetrics, FlowMetrics, total=False):
    """A row of what `BoltzmannGenerator.train` returns, and of metrics.jsonl."""

    setup: float  # s before the first iteration, in its row
