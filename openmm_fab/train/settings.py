"""Settings of training, and its budget."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field
from numbers import Real
from typing import Any

from ..ais.annealing import AISSettings
from ..tools.fields import Fields, check_fields

MINUTES = {
    ("s", "sec", "secs", "second", "seconds"): 1 / 60,
    ("min", "mins", "minute", "minutes"): 1.0,
    ("h", "hour", "hours"): 60.0,
}


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Fields):
    """Settings of a flow's training.

    Attributes
    ----------
    batch : int
        Chains in a pass of annealed importance sampling, and samples in a gradient step.
    updates : int
        Gradient steps in an iteration: after each pass, or where there is no buffer each with a pass of its own.
    buffer_min, buffer_max : int
        Batches in the buffer before the first gradient step, and at most.
    learning_rate : float
        Of Adam; rises over the first `warmup` gradient steps, then falls to zero as a cosine over the budget.
    max_gradient : float
        Norm to which the gradient is cut.
    max_adjustment : float
        Largest correction of a buffered weight inside the loss.
    path_gradient : float
        Share of the gradient that is taken as a path gradient, see `train.pathwise`, where the flow is good enough:
        quicker at first, and an end to the gains of a long training. Not in FAB as published. A flow of another library
        that does not show its base is trained with 0.
    path_above : float
        ESS of the flow towards the target, as a share, above which path gradients come in, in the last 40 % of the
        budget; with 0 they are there from the start.
    averaging : float
        Share of the flow that stays itself at gradient step n, at most (1 + n) / (10 + n); the rest is the learner's.
    matmul_dtype : str
        Of the learner's matrix products: "bfloat16", "float32" (as its parameters are), or "auto", which is bfloat16
        for a `CouplingFlow` of float32 where the processor or the GPU has instructions for it (AVX512-BF16, AMX; Ampere
        and newer). The flow that training leaves keeps its own precision.
    anneal_below : float
        FAB with the buffer anneals every pass while the flow's ESS towards the target is below this share. Above, one
        pass in 16 is annealed, and the others are twice the batch as the flow gives it: for half the energies, and in
        less time. 1 anneals all, which is FAB as published.
    control_variate : bool
        FAB with the buffer subtracts from its gradient what has no mean over the flow's own samples, where the buffer
        has such, which is above `anneal_below`: less noise, the better the flow the less. See `train.buffer`; not in
        FAB as published.
    basin_share : float
        Least share of the training that each torsional basin gets, see `train.lifting`; 0 trains on the target as it
        is.
    """

    batch: int = 256
    updates: int = 1
    buffer_min: int = 16
    buffer_max: int = 256
    learning_rate: float = 3e-4
    warmup: int = 100
    max_gradient: float = 100.0
    max_adjustment: float = 10.0
    path_gradient: float = 0.0
    path_above: float = 0.7
    averaging: float = 0.99
    matmul_dtype: str = "auto"
    anneal_below: float = 0.5
    control_variate: bool = True
    basin_share: float = 0.05
    ais: AISSettings = field(default_factory=AISSettings)

    def __post_init__(self) -> None:
        check_fields(
            self,
            positive=("learning_rate", "max_gradient", "max_adjustment"),
            at_least={"warmup": 0},
            shares=("path_gradient", "path_above", "anneal_below"),
        )
        if not 0 < self.updates <= self.buffer_min <= self.buffer_max or self.batch < 2:
            raise ValueError(f"Expected 0 < updates <= buffer_min <= buffer_max and batch >= 2; got {self}.")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"Expected 0 <= averaging < 1; got {self.averaging}.")
        if self.matmul_dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(f'Expected matmul_dtype "auto", "float32" or "bfloat16"; got {self.matmul_dtype!r}.')
        if not 0 <= self.basin_share < 0.5:
            raise ValueError(f"Expected 0 <= basin_share < 0.5; got {self.basin_share}.")

    def to_dict(self) -> dict[str, Any]:
        """Settings by their names in files, where `matmul_dtype` is called "products"."""
        return {"products" if key == "matmul_dtype" else key: value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainSettings:
        """Make settings from the result of `to_dict`."""
        given = {"matmul_dtype" if key == "products" else key: value for key, value in values.items()}
        return cls(**{**given, "ais": AISSettings(**given["ais"])})


@dataclass(frozen=True)
class Budget:
    """Length of a training: it ends when any of the limits is reached, and the learning rate follows the same measure.

    Minutes may be a text such as "2 h", see `parse_minutes`.
    Only with `iterations` or `evaluations` alone is a run reproducible: minutes depend on the machine.
    """

    minutes: float | None = None
    _: KW_ONLY
    iterations: int | None = None
    evaluations: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.minutes, str):
            object.__setattr__(self, "minutes", parse_minutes(self.minutes))
        check_fields(self)
        limits = [v for v in (self.minutes, self.iterations, self.evaluations) if v is not None]
        if not limits or not all(v > 0 for v in limits):
            given = ", ".join(f"{k} = {v}" for k, v in vars(self).items() if v is not None) or "none of them"
            raise ValueError(f"Expected a positive number of minutes, iterations or evaluations; got {given}.")

    def spent(self, seconds: float, iterations: int, evaluations: int) -> float:
        """Share of the budget that is used; training ends at 1."""
        pairs = ((seconds / 60, self.minutes), (iterations, self.iterations), (evaluations, self.evaluations))
        return max(used / limit for used, limit in pairs if limit is not None)


def parse_budget(budget: str | float | Budget) -> Budget:
    """A budget as "20 min", "90 s", "2 hours", a number of minutes, or a Budget."""
    return budget if isinstance(budget, Budget) else Budget(minutes=parse_minutes(budget))


def parse_minutes(time: str | float) -> float:
    """Minutes of a text such as "20 min", "90 s" or "2 hours"; numbers are minutes already.

    Raises
    ------
    ValueError
        Any other text, or no number.
    """
    if isinstance(time, str):
        match = re.fullmatch(rf"\s*(\d*\.?\d+)\s*({'|'.join(map('|'.join, MINUTES))})\s*", time)
        if match is None:
            raise ValueError(f'Expected a time such as "20 min", "90 s" or "2 h"; got {time!r}.')
        return float(match[1]) * next(size for names, size in MINUTES.items() if match[2] in names)
    if isinstance(time, bool) or not isinstance(time, Real):
        raise ValueError(f'Expected minutes, or a time such as "20 min"; got {time!r}.')
    return float(time)
