"""The FAB paper's comparison: every method on its multimodal targets, with one trainer and one flow.

`paper TARGET METHOD` trains, seed by seed, in `--out`, and leaves figures of each, .json and .npz, in `--results`,
which are kept with the project: finished ones are skipped, interrupted ones go on from their checkpoint. The table,
with pictures, is of all methods that have figures there; `paper TARGET` trains nothing and only makes it. The line of
JSON has the means over the seeds of the method.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_fab.ais.annealing import AISSettings
from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.target import GaussianMixture, ManyWell, Multimodal
from openmm_fab.tools.devices import stream
from openmm_fab.tools.files import write_atomically
from openmm_fab.train.errors import TrainingError
from openmm_fab.train.multimodal import evaluate, evaluate_ais
from openmm_fab.train.objectives import MaximumLikelihood, Objective, alpha_divergence, fab, fab_no_buffer, reverse_kl
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.snf import PathSampler, StochasticFlow
from openmm_fab.train.trainer import Trainer
from openmm_fab.train.transport import ConstrainedMassTransport

from ..records import FIGURES, RESULTS, ROOT
from ..runner import current_commit, machine
from . import molecule, tables

OUT, KEPT = ROOT / "runs" / "paper", RESULTS / "paper"
METHODS = ("fab", "fab_defaults", "fab_no_buffer", "reverse_kl", "cmt", "ml", "alpha2", "snf", "ml_md")
CHECKPOINT_EVERY = 60.0  # s
LOOKS = 10  # evaluations on the way
FEW_MODES = 1000  # so many are looked at on the way, too
FIGURE_SAMPLES, FIGURE_DIM = 2000, 4  # kept of a flow's samples
SUMMARY = (
    *("ess", "ess_clipped", "modes", "modes_sampled", "mean_log_q", "modes_log_q", "forward_kl", "log_z_error"),
    *("ess_ais", "log_z_error_ais", "evaluations", "flow_evaluations", "seconds"),
)


@dataclass(frozen=True)
class Setting:
    """A target and everything that all methods share on it.

    Attributes
    ----------
    minutes : float
        Training time, compilation included, evaluation not.
    samples : int
        Of the last evaluation; those on the way have a tenth.
    annealing : AISSettings
        Towards the target, for evaluation.
    stochastic : StochasticFlow
        Kernels between the layers, for the method snf.
    """

    target: Callable[[], Multimodal]
    minutes: float
    flow: FlowSettings
    train: TrainSettings
    annealing: AISSettings
    stochastic: StochasticFlow
    samples: int = 100_000


_GMM_AIS = AISSettings(kernel="metropolis", leapfrogs=1, intermediate=1, step_size=5.0, acceptance=0.3)
_GMM = Setting(
    target=GaussianMixture,
    minutes=3.0,
    flow=FlowSettings(layers=8, hidden=64, bins=16, bound=3.0, scale=20.0),
    train=TrainSettings(
        batch=512, updates=4, buffer_min=16, buffer_max=128, learning_rate=3e-3, basin_share=0.0, ais=_GMM_AIS
    ),
    annealing=AISSettings(alpha=1.0, intermediate=8, leapfrogs=5, kernel="metropolis", step_size=2.0, acceptance=0.4),
    # As in the paper: one random-walk move of 5 units behind every third layer of 15, here behind every second of 8.
    stochastic=StochasticFlow(every=2, kernel="metropolis", steps=1, step_size=5.0),
)
_WELLS = Setting(
    target=ManyWell,
    minutes=10.0,
    flow=FlowSettings(layers=8, hidden=128, bins=8, bound=5.0),
    train=TrainSettings(
        batch=512,
        updates=4,
        buffer_min=16,
        buffer_max=128,
        learning_rate=1e-3,
        basin_share=0.0,
        ais=AISSettings(intermediate=1, leapfrogs=3, step_size=0.2),
    ),
    annealing=AISSettings(alpha=1.0, intermediate=4, leapfrogs=3, step_size=0.2),
    stochastic=StochasticFlow(every=2, kernel="hmc", steps=5, step_size=0.1),
)
SETTINGS: dict[str, dict[str, Setting]] = {
    "gmm40": {
        "cpu": _GMM,
        "full": Setting(
            GaussianMixture,
            30.0,
            FlowSettings(layers=16, hidden=128, bins=32, bound=3.0, scale=20.0),
            TrainSettings(
                batch=2048, updates=4, buffer_min=16, buffer_max=128, learning_rate=1e-3, basin_share=0.0, ais=_GMM_AIS
            ),
            _GMM.annealing,
            StochasticFlow(every=4, kernel="metropolis", steps=1, step_size=5.0),
            500_000,
        ),
    },
    "manywell32": {
        "cpu": _WELLS,
        # The paper's batch, annealing and buffer.
        "full": Setting(
            ManyWell,
            240.0,
            FlowSettings(layers=16, hidden=256, bins=16, bound=5.0),
            TrainSettings(
                batch=2048,
                updates=8,
                buffer_min=32,
                buffer_max=250,
                learning_rate=5e-4,
                basin_share=0.0,
                ais=AISSettings(intermediate=4, leapfrogs=5, step_size=0.2),
            ),
            _WELLS.annealing,
            StochasticFlow(every=4, kernel="hmc", steps=5, step_size=0.1),
            500_000,
        ),
    },
}
QUICK = TrainSettings(batch=64, updates=2, buffer_min=4, buffer_max=16, basin_share=0.0)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="?", default="gmm40", choices=[*SETTINGS, molecule.TARGET])
    parser.add_argument("method", nargs="?", choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="of training, a seed")
    parser.add_argument("--scale", choices=["cpu", "full"], default="cpu", help="full is for a GPU and hours")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for a GPU")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of checkpoints and flows, by default %(default)s")
    parser.add_argument("--results", type=Path, default=KEPT, help="folder of figures, by default %(default)s")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """A few steps of the first seed, nothing kept, if quick."""
    keys = molecule.SUMMARY if options.target == molecule.TARGET else SUMMARY
    figures: dict[str, Any] = {"target": options.target, "scale": options.scale}
    with tempfile.TemporaryDirectory() as temporary:
        if options.quick:
            options.out = options.results = Path(temporary)
            options.method = options.method or "fab"
        options.out.mkdir(parents=True, exist_ok=True)
        options.results.mkdir(parents=True, exist_ok=True)
        if options.method:
            seeds = options.seeds[:1] if options.quick else options.seeds
            figures |= tables.summary([_one(options, seed) for seed in seeds], keys)
        results = tables.read(options.results, options.target, options.scale)
        if options.record:
            draw = molecule.draw if options.target == molecule.TARGET else tables.draw
            draw(results, options.results, FIGURES / section_name(figures))
    kept = [{key: value for key, value in r.items() if key != "curve"} for r in results]
    return figures | {"commit": ", ".join(sorted({r["commit"] for r in results})), "results": kept}


def section_name(figures: dict[str, Any]) -> str:
    return f"paper_{figures['target']}_{figures['scale']}"


def title(figures: dict[str, Any]) -> str:
    return f"The paper's methods on {tables.TITLES[figures['target']]}, {figures['scale']} scale"


def table(figures: dict[str, Any]) -> str:
    how = f"python -m benchmarks paper {figures['target']} METHOD --scale {figures['scale']}"
    parts = molecule if figures["target"] == molecule.TARGET else tables
    body = parts.body(figures["results"])
    links = [f"![{kind}](figures/{section_name(figures)}_{kind}.png)" for kind in parts.PICTURES]
    return "\n\n".join([*body, f"{tables.ran_on(figures['results'])} By `{how}`.", *links])


def _one(options: argparse.Namespace, seed: int) -> dict:
    """The result of one seed: read if it is there, else run."""
    name = f"{options.target}_{options.method}_{options.scale}_{seed}"
    path = options.results / f"{name}.json"
    if path.exists():
        found = json.loads(path.read_text())
        asked = {"device": options.device} | ({"minutes": options.minutes} if options.minutes else {})
        if other := {key: found[key] for key in asked.keys() & found.keys() if found[key] != asked[key]}:
            raise SystemExit(f"Expected a result of {asked} in {path}; got one of {other}. Use another --results.")
        print(f"{path} is there already.", file=sys.stderr)
        return found
    run = molecule.run if options.target == molecule.TARGET else _run
    result, arrays = run(options, seed, options.out / f"{name}.json")
    write_atomically(path.with_suffix(".npz"), lambda file: np.savez_compressed(file, **arrays))
    write_atomically(path, lambda file: file.write(json.dumps(result, indent=1).encode()))
    return result


@dataclass
class _Clock:
    """Says when it is time again, by share of the budget or by seconds."""

    every: float
    last: float = field(default=0.0)

    def due(self, now: float) -> bool:
        if now - self.last < self.every:
            return False
        self.last = now
        return True


def _run(options: argparse.Namespace, seed: int, path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Train one seed, also an interrupted one; its figures, and what pictures are drawn of."""
    setting = SETTINGS[options.target][options.scale]
    target, samples = setting.target(), 400 if options.quick else setting.samples
    minutes = options.minutes or setting.minutes
    budget = Budget(iterations=3) if options.quick else Budget(minutes=minutes)
    train = molecule.ours(QUICK if options.quick else setting.train, options.method)
    random = stream("cpu", seed)
    flow = CouplingFlow(target.periodic, setting.flow, rng=random).to(options.device)
    if options.device != "cpu":
        random = stream(options.device, seed)
    if not options.no_compile and not options.quick:
        flow.compile(train.batch)
    trainer = Trainer(
        flow, target, budget, settings=train, rng=random, objective=_objective(options.method, setting, target)
    )
    checkpoint, curve = path.with_suffix(".pt"), []
    if checkpoint.exists():
        trainer.load(checkpoint)
        curve = json.loads(path.with_suffix(".curve").read_text())
    looks, saves = _Clock(1 / LOOKS, trainer.spent), _Clock(CHECKPOINT_EVERY, time.monotonic())
    diverged = False
    try:
        for _ in trainer:
            if trainer.spent < 1 and looks.due(trainer.spent):
                curve.append(_figures(options, trainer, setting, samples // 10, last=False))
                print(path.stem, _shown(curve[-1]), file=sys.stderr, flush=True)
            if saves.due(time.monotonic()) or trainer.spent >= 1:
                write_atomically(path.with_suffix(".curve"), lambda file: file.write(json.dumps(curve).encode()))
                trainer.save(checkpoint)
    except TrainingError as error:  # the trainer has the flow that was good last
        if options.method not in molecule.MAY_DIVERGE:
            raise
        print(f"{path.stem}: {error}", file=sys.stderr)
        diverged = True
    figures = _figures(options, trainer, setting, samples, last=True)
    print(path.stem, _shown(figures), file=sys.stderr, flush=True)
    z, _ = _sampler(options.method, trainer, setting).sample(FIGURE_SAMPLES, stream(options.device, seed))
    write_atomically(path.with_suffix(".flow.pt"), lambda file: torch.save(flow.state_dict(), file))
    checkpoint.unlink(missing_ok=True)
    path.with_suffix(".curve").unlink(missing_ok=True)
    exact = target.sample(samples, torch.Generator().manual_seed(0))
    result = {
        "target": options.target,
        "method": options.method,
        "scale": options.scale,
        "seed": seed,
        "minutes": minutes,
        "device": options.device,
        "commit": current_commit(),
        "machine": machine(),
        "settings": {"flow": asdict(setting.flow), "train": asdict(train), "annealing": asdict(setting.annealing)},
        "samples": samples,
        "iterations": trainer.iteration,
        "updates": trainer.learner.updates,
        "diverged": diverged,
        "best_mean_log_q": float(target.log_prob(exact).double().mean()) - target.log_z,
        "n_modes": len(target.modes),
        **figures,
        "curve": [*curve, figures],
    }
    return result, {"z": z[:, :FIGURE_DIM].cpu().numpy()}


def _objective(method: str, setting: Setting, target: Multimodal) -> Objective:
    return {
        "fab": fab,
        "fab_defaults": fab,
        "fab_no_buffer": fab_no_buffer,
        "reverse_kl": reverse_kl,
        "cmt": ConstrainedMassTransport(),
        "ml": MaximumLikelihood(target.sample),
        "alpha2": alpha_divergence,
        "snf": setting.stochastic,
    }[method]


def _sampler(method: str, trainer: Trainer, setting: Setting) -> CouplingFlow | PathSampler:
    flow = trainer.flow
    assert isinstance(flow, CouplingFlow)
    if method != "snf":
        return flow
    return PathSampler(setting.stochastic, flow, setting.target(), stream(next(flow.parameters()).device, 1))


def _figures(
    options: argparse.Namespace, trainer: Trainer, setting: Setting, n: int, last: bool
) -> dict[str, float | None]:
    """Flow and annealed flow, by fresh random numbers; the kernels of a stochastic flow are its annealing."""
    random, batch, target = stream(options.device, 12345), setting.train.batch, setting.target()
    modes = len(target.modes) <= FEW_MODES or (last and not options.quick)
    figures = evaluate(_sampler(options.method, trainer, setting), target, n, random, batch, modes=modes)
    if options.method != "snf":
        figures |= evaluate_ais(trainer.flow, target, n, setting.annealing, random, batch)
    figures |= {
        "iteration": trainer.iteration,
        "evaluations": trainer.evaluations,
        "flow_evaluations": trainer.learner.counted.evaluations,
        "seconds": trainer.seconds,
    }
    return {key: value if math.isfinite(value) else None for key, value in figures.items()}


def _shown(figures: dict[str, float]) -> str:
    shown = ("seconds", "ess", "ess_ais", "modes", "mean_log_q", "modes_log_q", "log_z_error", "log_z_error_ais")
    return ", ".join(f"{key} {figures[key]:.4g}" for key in shown if figures.get(key) is not None)
