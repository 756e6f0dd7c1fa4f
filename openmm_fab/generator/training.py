"""A generator's training around the loop: its clock and log, checkpoints, and what there is to warn of at the end."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from ..coordinates.internal import InternalCoordinates
from ..tools.files import latest, previous, set_aside
from ..tools.progress import History, RunLog, TrainingBar
from ..train.trainer import Trainer

if TYPE_CHECKING:
    from ..ensemble.ensemble import Ensemble
    from .generator import BoltzmannGenerator


CHECKPOINT_EVERY = 120.0  # s
OUTSIDE = 0.01  # share of annealed weight beyond the splines' range that is worth a warning
ABOVE = 0.5  # share of annealed structures above the energy cut that is worth a warning


def run(
    generator: BoltzmannGenerator,
    trainer: Trainer,
    started: float,
    folder: str | Path | None,
    resume: bool,
    progress: bool | Literal["plot"],
    evaluate_every: float,
    evaluate_samples: int,
    measure: Callable[[Ensemble], Mapping[str, float]] | None,
) -> History:
    """Train until the budget is spent; see `BoltzmannGenerator.train`. `started` is a time of the ranks' clock."""
    clock = trainer.ranks.clock
    shown = trainer.ranks.first
    checkpoint = None if folder is None else Path(folder) / "checkpoint.pt"
    if checkpoint is not None and (checkpoint.exists() or previous(checkpoint).exists()):
        if resume:
            latest(checkpoint, trainer.load)
            started -= trainer.seconds
        else:  # of another training: nobody shall go on from it by mistake
            trainer.ranks.from_first(lambda: set_aside(checkpoint))
    history = History()
    evaluated = saved = clock()
    if not trainer.ranks.alone:
        saved = -math.inf  # a first checkpoint at once: a rank may die
    after = trainer.iteration if resume else None
    with (
        RunLog(folder if shown else None, after) as log,
        TrainingBar(trainer, progress if shown else False, generator.sample) as bar,
    ):
        try:
            for info in trainer:
                now = clock()
                trainer.seconds = now - started  # the clock on the wall: all of it counts
                if now - evaluated > evaluate_every or trainer.spent >= 1:
                    info |= generator.evaluate(evaluate_samples, measure)
                    if generator.ranged:
                        info["annealed_outside"] = _outside(generator, trainer)
                    if trainer.buffer.size:
                        info["annealed_above_cut"] = _above_cut(generator, trainer)
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
            f"{generator.settings.energy_cut:g} kT over thermal motion, where they count only logarithmically. Train "
            "longer, raise energy_cut (of GeneratorSettings), or check the energy.",
            stacklevel=3,
        )
    outside = next((m["annealed_outside"] for m in reversed(history) if "annealed_outside" in m), 0.0)
    if outside > OUTSIDE:
        warnings.warn(
            f"{100 * outside:.0f} % of the weight of annealed structures lies beyond the splines' range, where the "
            "flow cannot follow the energy. Raise CoordinateSettings.inflate, or give coordinates made from a "
            "trajectory.",
            stacklevel=3,
        )
    return history


@torch.no_grad()
def _above_cut(generator: BoltzmannGenerator, trainer: Trainer) -> float:
    """Share of the latest weight in the replay buffer with an energy above the cut of training."""
    z, log_w = trainer.buffer.newest(generator.settings.train.batch)
    x, _ = generator.coordinates.to_cartesian(z.double())
    weights = torch.softmax(log_w, 0).nan_to_num(0.0)  # there may be none, among the flow's own
    return float(weights[generator.energy(x) > generator.cut].sum())


def _outside(generator: BoltzmannGenerator, trainer: Trainer) -> float:
    """Share of the replay buffer's weight with a stiff coordinate beyond the range of the splines."""
    assert isinstance(generator.coordinates, InternalCoordinates)
    outside = (trainer.buffer.z[:, : generator.coordinates.n_stiff].abs() > generator.settings.flow.bound).any(1)
    return float(torch.softmax(trainer.buffer.log_w, 0)[outside].sum())
