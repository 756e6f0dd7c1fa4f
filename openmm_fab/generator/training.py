"""Training of a generator: its clock, log, checkpoints and reports, and the warnings at its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..tools.activity import doing
from ..tools.files import latest, previous, set_aside
from ..tools.metrics import FlowMetrics, TrainingMetrics
from ..tools.progress import History, LivePlot, TrainingBar, duration
from ..tools.run_log import RunLog
from ..tools.warn import warn
from ..train.trainer import Trainer
from ..weights import OUTSIDE_LIMIT

LOG = logging.getLogger("openmm_fab.train")
CHECKPOINT_EVERY = 120.0  # s
COMPILING = "compiling for the GPU, a minute or two"
FIRST_REPORT = 60.0  # s of training
LAST_REPORT = 0.8  # share of the budget; then what comes at the end is near
ABOVE = 0.5  # share of annealed structures above the energy cut that is worth a warning


def run(
    trainer: Trainer,
    evaluate: Callable[[], FlowMetrics],
    evaluate_every: float,
    energy_cut: float,
    setup: dict[str, float],
    compiles: bool,
    folder: str | Path | None,
    resume: bool,
    progress: bool,
    plot: LivePlot | None,
    report: Callable[[TrainingMetrics], None] | None = None,
    report_every: float | None = None,
) -> History:
    """Train until the budget is spent; see `BoltzmannGenerator.train`.

    Parameters
    ----------
    evaluate : callable
        Returns more metrics; called every `evaluate_every` seconds and at the end.
    energy_cut : float, kT
        For the warning's words.
    setup : dict of str to float, s
        What came before, by what took it.
    compiles : bool
        The first iteration compiles: it belongs to the set-up.
    progress, plot
        Of the first rank; the others show nothing.
    """
    clock = trainer.ranks.clock
    called = clock()
    shown = trainer.ranks.is_main
    checkpoint = None if folder is None else Path(folder) / "checkpoint.pt"
    if checkpoint is not None and (checkpoint.exists() or previous(checkpoint).exists()):
        if resume:
            latest(checkpoint, trainer.load)
        else:  # of another training: nobody shall go on from it by mistake
            trainer.ranks.from_main(lambda: set_aside(checkpoint))
    history = History()
    after = trainer.iteration if resume else None
    before, due = trainer.seconds, next_report(trainer.seconds, report_every)
    with (
        RunLog(folder if shown else None, after) as log,
        TrainingBar(progress and shown, plot) as bar,
        ExitStack() as compiling,
    ):
        if compiles:
            compiling.enter_context(doing(COMPILING, "code", setup))
        started = evaluated = saved = clock()
        if not trainer.ranks.single:
            saved = -math.inf  # a first checkpoint at once: a rank may die
        if not compiles:
            bar.say(setup_in_words(setup))
        LOG.info("training from iteration %d on. %s", trainer.iteration, setup_in_words(setup))
        try:
            for row in trainer:
                info = cast(TrainingMetrics, row)
                if not history:
                    info["setup"] = sum(setup.values()) + started - called
                    if compiles:
                        compiling.close()
                        bar.say(setup_in_words(setup))
                        evaluated = clock()
                        info["setup"] += evaluated - started
                        started = evaluated
                now = clock()
                trainer.seconds = before + now - started  # the clock on the wall: all of it counts
                if now - evaluated > evaluate_every or trainer.spent >= 1:
                    with doing("evaluating"):
                        info |= evaluate()
                    evaluated = clock()
                    trainer.seconds = before + evaluated - started
                info |= {"seconds": trainer.seconds, "spent": trainer.spent}
                history.append(info)
                log.write(info)
                bar.update(info)
                if "khat" in info:
                    LOG.info(evaluated_in_words(info))
                if checkpoint is not None and now - saved > CHECKPOINT_EVERY:
                    trainer.save(checkpoint)
                    saved = clock()
                    LOG.debug("checkpoint at iteration %d", trainer.iteration)
                if report is not None and trainer.seconds >= due and trainer.spent < LAST_REPORT:
                    reporting = clock()
                    if shown:
                        report(info)
                    started += clock() - reporting  # but for this
                    due = next_report(trainer.seconds, report_every)
        except KeyboardInterrupt:
            if checkpoint is not None:
                trainer.save(checkpoint)
            LOG.info("stopped after iteration %d", trainer.iteration)
            raise
        if checkpoint is not None:  # not after an error: the checkpoint that is there may be the better one
            trainer.save(checkpoint)
    if history and history[-1].get("annealed_above_cut", 0.0) > ABOVE:
        warn(
            f"{100 * history[-1]['annealed_above_cut']:.0f} % of the weight of annealed structures lies above the cut, "
            f"{energy_cut:g} kT over thermal motion, where training counts them for less. Train "
            "longer, raise energy_cut (of GeneratorSettings), or check the energy.",
        )
    outside = next((m["annealed_outside"] for m in reversed(history) if "annealed_outside" in m), 0.0)
    if outside > OUTSIDE_LIMIT:
        warn(
            f"{100 * outside:.0f} % of the weight of annealed structures lies beyond the splines' range, where the "
            "flow cannot follow the energy. Raise CoordinateSettings.inflate, or give coordinates made from a "
            "trajectory.",
        )
    return history


def evaluated_in_words(info: TrainingMetrics) -> str:
    """Summary of an iteration after which the flow was evaluated, in one line."""
    return (
        f"iteration {info['iteration']:.0f}, {duration(info['seconds'])}, {info['evaluations']:.0f} evaluations: "
        f"ESS {100 * info['ess']:.1f} %, k-hat {info['khat']:.2f}, log Z {info['log_z']:.2f}"
    )


def next_report(seconds: float, every: float | None) -> float:
    """Training time, s, of the next report: multiples of `every`, or `FIRST_REPORT` and its doubles."""
    if every is not None:
        if not every > 0:
            raise ValueError(f"Expected report_every > 0; got {every}.")
        return every * (math.floor(seconds / every) + 1)
    return FIRST_REPORT * 2.0 ** max(0, math.floor(math.log2(max(seconds, 1e-9) / FIRST_REPORT)) + 1)


def setup_in_words(times: Mapping[str, float]) -> str:
    """Summary of set-up times: "Set-up: 6 s (coordinates 3 s, code 2 s)", short parts left out."""

    def short(seconds: float) -> str:
        return f"{seconds:.1f} s" if seconds < 2 else duration(seconds)

    parts = [f"{name} {short(seconds)}" for name, seconds in times.items() if seconds >= 0.5]
    return f"Set-up: {short(sum(times.values()))}" + (f" ({', '.join(parts)})" if parts else "")


@torch.no_grad()
def weight_above_cut(u: Tensor, log_w: Tensor, cut: float) -> float:
    """Share of the weight of points of energies u (n,) with log weights (n,) that lies above the cut, in kT."""
    weights = torch.softmax(log_w, 0).nan_to_num(0.0)  # there may be none, among the flow's own
    return float(weights[u > cut].sum())


def weight_outside(z: Tensor, log_w: Tensor, reach: Tensor) -> float:
    """Share of the weight of points z (n, dim) with log weights (n,) that are not all within +-reach (dim,) or
    (n, dim)."""
    outside = (z.abs() > reach.to(z)).any(1)
    return float(torch.softmax(log_w, 0)[outside].sum())
