"""A generator's training around the loop: its clock and log, checkpoints, and what there is to warn of at the end."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..target import Coordinates
from ..tools.files import latest, previous, set_aside
from ..tools.progress import History, LivePlot, RunLog, TrainingBar
from ..train.trainer import Trainer
from ..weights import OUTSIDE_LIMIT

CHECKPOINT_EVERY = 120.0  # s
ABOVE = 0.5  # share of annealed structures above the energy cut that is worth a warning


def run(
    trainer: Trainer,
    evaluate: Callable[[], dict[str, float]],
    evaluate_every: float,
    energy_cut: float,
    started: float,
    folder: str | Path | None,
    resume: bool,
    progress: bool,
    plot: LivePlot | None,
) -> History:
    """Train until the budget is spent; see `BoltzmannGenerator.train`.

    Parameters
    ----------
    evaluate : callable
        Returns more metrics; called every `evaluate_every` seconds and at the end.
    energy_cut : float, kT
        For the warning's words.
    started : float
        A time of the ranks' clock.
    progress, plot
        Of the first rank; the others show nothing.
    """
    clock = trainer.ranks.clock
    shown = trainer.ranks.is_main
    checkpoint = None if folder is None else Path(folder) / "checkpoint.pt"
    if checkpoint is not None and (checkpoint.exists() or previous(checkpoint).exists()):
        if resume:
            latest(checkpoint, trainer.load)
            started -= trainer.seconds
        else:  # of another training: nobody shall go on from it by mistake
            trainer.ranks.from_main(lambda: set_aside(checkpoint))
    history = History()
    evaluated = saved = clock()
    if not trainer.ranks.single:
        saved = -math.inf  # a first checkpoint at once: a rank may die
    after = trainer.iteration if resume else None
    with RunLog(folder if shown else None, after) as log, TrainingBar(progress and shown, plot) as bar:
        try:
            for info in trainer:
                now = clock()
                trainer.seconds = now - started  # the clock on the wall: all of it counts
                if now - evaluated > evaluate_every or trainer.spent >= 1:
                    info |= evaluate()
                    evaluated = clock()
                    trainer.seconds = evaluated - started
                info |= {"seconds": trainer.seconds, "spent": trainer.spent}
                history.append(info)
                log.write(info)
                bar.update(info)
                if checkpoint is not None and now - saved > CHECKPOINT_EVERY:
                    trainer.save(checkpoint)
                    saved = clock()
        except KeyboardInterrupt:
            if checkpoint is not None:
                trainer.save(checkpoint)
            raise
        if checkpoint is not None:  # not after an error: the checkpoint that is there may be the better one
            trainer.save(checkpoint)
    if history and history[-1].get("annealed_above_cut", 0.0) > ABOVE:
        warnings.warn(
            f"{100 * history[-1]['annealed_above_cut']:.0f} % of the weight of annealed structures lies above the cut, "
            f"{energy_cut:g} kT over thermal motion, where they count only logarithmically. Train "
            "longer, raise energy_cut (of GeneratorSettings), or check the energy.",
            stacklevel=3,
        )
    outside = next((m["annealed_outside"] for m in reversed(history) if "annealed_outside" in m), 0.0)
    if outside > OUTSIDE_LIMIT:
        warnings.warn(
            f"{100 * outside:.0f} % of the weight of annealed structures lies beyond the splines' range, where the "
            "flow cannot follow the energy. Raise CoordinateSettings.inflate, or give coordinates made from a "
            "trajectory.",
            stacklevel=3,
        )
    return history


@torch.no_grad()
def weight_above_cut(
    z: Tensor, log_w: Tensor, coordinates: Coordinates, energy: Callable[[Tensor], Tensor], cut: float
) -> float:
    """Share of the weight of points z (n, dim) with log weights (n,) whose energy lies above the cut, in kT."""
    x, _ = coordinates.to_cartesian(z.double())
    weights = torch.softmax(log_w, 0).nan_to_num(0.0)  # there may be none, among the flow's own
    return float(weights[energy(x) > cut].sum())


def weight_outside(z: Tensor, log_w: Tensor, n_stiff: int, bound: float) -> float:
    """Share of the weight of points z (n, dim) with log weights (n,) whose stiff coordinates, the first `n_stiff`, are
    not all within the splines' range, +-bound."""
    outside = (z[:, :n_stiff].abs() > bound).any(1)
    return float(torch.softmax(log_w, 0)[outside].sum())
