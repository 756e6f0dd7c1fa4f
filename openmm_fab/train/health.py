"""Detection of failures of a training, and the reactions to them.

| what | reaction |
|---|---|
| losses that are not finite, or explode | back to the last good state, half the learning rate; the third time stop |
| HMC that accepts nothing, or everything, for long | steps four times shorter, or twice as long; warning |
| the flow's ESS collapses | warning |
| few points hold the buffer's weight | warning |
| a torsional basin of the buffer that the flow does not sample | warning, and the metric `lost_basins` |
"""

from __future__ import annotations

import copy
import math
import statistics
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tools.circle import circular_bins, circular_density, label_basins
from ..tools.metrics import StepMetrics
from ..tools.warn import warn
from ..weights import effective_share
from .errors import TrainingError
from .experience import RECENT, Experience
from .learner import Learner

WINDOW = 20  # iterations that a running mean or median is over
LONG = 5 * RECENT  # the same of the ESS: one heavy sample stays in it for RECENT passes, and two do not make the median
KEEP_EVERY = 25  # iterations between two states to go back to
LOOK_EVERY = 100  # iterations between two looks at buffer and basins
TRIES = 3
DEAD = 50  # iterations
REFUSED, TAKEN = 0.02, 0.995
COLLAPSED, HIGH = 0.1, 0.05  # of the best median of the ESS, which was at least that high
DOMINATED = 0.2  # share of the buffer's weight in one sample
BASIN, FOUND, MANY = 0.02, 0.05, 20.0  # share in the buffer; the flow's share of that; effective samples
SAMPLES = 1024


class Health:
    """Monitor of a training: checks the metrics of every iteration, and at intervals learner and buffer; part of
    checkpoints.

    Attributes
    ----------
    restored : int
        How often training went back to a good state, each time with half the learning rate.
    lost : list of str
        Basins, in words, that the buffer held and the flow did not at the last look.
    """

    def __init__(self) -> None:
        self.restored = 0
        self.lost: list[str] = []
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._ess: deque[float] = deque(maxlen=LONG)
        self._lowest, self._best = math.inf, 0.0
        self._dead = [0, 0]  # iterations in a row that refused everything, that took everything
        self._told: set[str] = set()
        self._good: dict[str, Any] | None = None

    def check(self, learner: Learner, experience: Experience, info: StepMetrics) -> StepMetrics:
        """Check an iteration; returns its metrics with those found here. May restore an earlier state, see the table
        above."""
        self._loss(learner, experience, info)
        self._acceptance(experience, info["acceptance"])
        self._share(info["ess_flow"])
        if info["iteration"] % LOOK_EVERY == 0 and experience.buffer.size:
            self._buffer(experience)
            return {**info, "lost_basins": self._basins(learner, experience, int(info["iteration"]))}
        return info

    def back_off(self, learner: Learner, experience: Experience, seen: str) -> None:
        """Restore the last good state with half the learning rate.

        Raises
        ------
        TrainingError
            The third time; the flow is that of the last good state.
        """
        self.restored += 1
        if self._good is not None:
            good = copy.deepcopy(self._good)
            learner.load_state_dict(good)
            experience.load_steps_state(good)
        self._losses.clear()
        learner.rate *= 0.5
        if self.restored >= TRIES:
            raise TrainingError(
                f"{seen} This is the {self.restored}. time, each with half the learning rate of the one before. Lower "
                f"TrainSettings.learning_rate (now {learner.settings.learning_rate:.1e}), or raise batch."
            )
        warn(
            f"{seen} Training goes back to its last good state, with half the learning rate "
            f"({self.restored} of at most {TRIES - 1} times).",
        )

    def begin_anew(self) -> None:
        """Forget past losses and effective sample sizes, before a phase in which they differ."""
        self._losses.clear()
        self._ess.clear()
        self._lowest, self._best = math.inf, 0.0

    def _loss(self, learner: Learner, experience: Experience, info: StepMetrics) -> None:
        loss = info["loss"]
        if not math.isfinite(loss):
            return  # its gradient steps were skipped, and counted
        self._losses.append(loss)
        recent = statistics.fmean(list(self._losses)[-5:])
        allowed = max(20.0, 2.0 * experience.target.dim)
        if len(self._losses) >= 5 and recent > self._lowest + allowed:
            lowest, self._lowest = self._lowest, math.inf
            seen = f"Expected losses near {lowest:.4g} as before; they rose to {recent:.4g}: training explodes."
            self.back_off(learner, experience, seen)
            return
        if len(self._losses) == WINDOW:
            self._lowest = min(self._lowest, statistics.fmean(self._losses))
        if self._good is None or info["iteration"] % KEEP_EVERY == 0:
            self._good = copy.deepcopy({**learner.state_dict(), **experience.steps_state()})

    def _acceptance(self, experience: Experience, acceptance: float) -> None:
        if math.isnan(acceptance):
            return
        out_of_range = (acceptance < REFUSED, acceptance > TAKEN)
        self._dead = [n + 1 if out else 0 for n, out in zip(self._dead, out_of_range, strict=True)]
        if max(self._dead) < DEAD:
            return
        refuses, takes = self._dead[0] >= DEAD, self._dead[1] >= DEAD
        experience.step_sizes = [size * (0.25 if refuses else 2.0) for size in experience.step_sizes]
        self._dead = [0, 0]
        self._tell(
            "acceptance",
            f"HMC {'refuses' if refuses else 'accepts'} nearly every step ({100 * acceptance:.3g} % for {DEAD} "
            f"iterations): annealing does not move the samples. Its steps are made "
            f"{'four times shorter' if takes < refuses else 'twice as long'}. If this comes again, check the energy "
            "(does its gradient belong to it?), or AISSettings.step_size.",
        )

    def _share(self, ess: float) -> None:
        if math.isnan(ess):
            return
        self._ess.append(ess)
        if len(self._ess) < LONG:
            return
        now = statistics.median(self._ess)
        if self._best > HIGH and now < COLLAPSED * self._best:
            self._tell(
                "ess",
                f"The flow's ESS collapsed from {100 * self._best:.1f} % to {100 * now:.2g} % (medians of {LONG} "
                "iterations). Either a mode was found that the flow does not know yet, which passes; or training is "
                "unstable: then lower the learning rate.",
            )
            return
        if now > 0.5 * self._best:
            self._told.discard("ess")
        self._best = max(self._best, now)

    def _buffer(self, experience: Experience) -> None:
        log_w = experience.buffer.log_w
        largest = float(torch.softmax(log_w, 0).max())
        if largest < DOMINATED:
            self._told.discard("buffer")
            return
        self._tell(
            "buffer",
            f"One sample holds {100 * largest:.0f} % of the buffer's weight "
            f"({len(log_w) * effective_share(log_w):.1f} effective samples of {len(log_w)}): training learns from few "
            "points. Anneal in more steps (AISSettings.intermediate), or with larger batches.",
        )

    @torch.no_grad()
    def _basins(self, learner: Learner, experience: Experience, iteration: int) -> float:
        """Number of basins that the buffer holds and the learner does not sample."""
        buffer, batch, target = experience.buffer, learner.settings.batch, experience.target
        # A generator of its own: looking changes nothing.
        rng = torch.Generator(experience.rng.device).manual_seed(iteration)
        drawn = torch.cat([learner.flow.sample(batch, rng)[0] for _ in range(math.ceil(SAMPLES / batch))])
        weights = torch.softmax(buffer.log_w, 0)
        self.lost = []
        for column in torch.nonzero(target.periodic)[:, 0].tolist():
            held, sampled = (z[:, column] for z in (buffer.z, drawn))
            self.lost += [f"{target.named(column)} {words}" for words in missing_basins(held, weights, sampled)]
        if self.lost:
            self._tell(
                "basins",
                f"The flow has lost {len(self.lost)} basin(s) that annealing found: {'; '.join(self.lost[:3])}. Its "
                "weights cannot show that. Train longer; if it stays, raise TrainSettings.basin_share or buffer_max.",
            )
        else:
            self._told.discard("basins")
        return float(len(self.lost))

    def _tell(self, kind: str, message: str) -> None:
        """Warn once of each kind, until it was well in between."""
        if kind not in self._told:
            warn(message)
        self._told.add(kind)

    def state_dict(self) -> dict[str, Any]:
        return {
            "restored": self.restored,
            "losses": list(self._losses),
            "ess": list(self._ess),
            "best": [self._lowest, self._best],
            "dead": list(self._dead),
            "told": sorted(self._told),
            "lost": list(self.lost),
            "good": self._good,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.restored, self.lost = state["restored"], list(state["lost"])
        self._losses, self._ess = deque(state["losses"], WINDOW), deque(state["ess"], LONG)
        (self._lowest, self._best), self._dead = state["best"], list(state["dead"])
        self._told, self._good = set(state["told"]), state["good"]


def missing_basins(held: Tensor, weights: Tensor, sampled: Tensor) -> list[str]:
    """Descriptions of basins of one torsion that hold weighted points but no samples.

    Parameters
    ----------
    held, sampled : (n,), (m,), rad
    weights : (n,)
        Of the held ones, normalised.
    """
    angle, weight = held.cpu().numpy(), weights.cpu().numpy()
    label = label_basins(circular_density(angle.astype(np.float64), weight))
    place, other = (label[circular_bins(angles.double().cpu().numpy())] for angles in (held, sampled))
    found = []
    for basin in range(label.max() + 1):
        w = weight[place == basin]
        share, drawn = float(w.sum()), float((other == basin).mean())
        if share > BASIN and drawn < FOUND * share and share**2 > MANY * float(np.square(w).sum()):
            degrees = math.degrees(np.angle((w * np.exp(1j * angle[place == basin])).sum()))
            found.append(
                f"near {degrees:.0f} degrees ({100 * share:.1f} % of the buffer, {100 * drawn:.2g} % of samples)"
            )
    return found
