"""The paper's comparison on alanine dipeptide, against the reference dynamics that ships with it."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

import openmm_fab as fab
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.tools.devices import stream
from openmm_fab.tools.progress import History
from openmm_fab.train.errors import TrainingError
from openmm_fab.train.multimodal import LOST
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.snf import PathSampler, StochasticFlow

from ..runner import current_commit, machine
from .tables import NAMES, by_method, table

TARGET = "alanine_dipeptide"
PICTURES = ("learning", "ramachandran")
OBJECTIVES = {
    "fab": "fab",
    "fab_defaults": "fab",
    "fab_no_buffer": "fab_no_buffer",
    "reverse_kl": "reverse_kl",
    "cmt": "cmt",
    "ml": "maximum_likelihood",
    "ml_md": "maximum_likelihood",
    "alpha2": "alpha_divergence",
    "snf": StochasticFlow(every=4, kernel="hmc", steps=3, step_size=0.1),
}
MAY_DIVERGE = ("alpha2", "reverse_kl", "snf", "fab_no_buffer")  # then shown as good as they were before
EVALUATIONS = {"cpu": 2_000_000, "full": 100_000_000}  # of the target, the same for all methods
ML_MINUTES = {"cpu": 10.0, "full": 240.0}  # maximum likelihood evaluates no energy
FRAME_STEPS = 1000  # of 1 fs, from one frame of dynamics to the next
MORE = 100  # times as many evaluations have the samples of "ml" as those of "ml_md"
SAMPLES = {"cpu": 100_000, "full": 1_000_000}
LOOK_FRAMES = 2000  # of the reference, on the way
BINS, MAP = 36, 60  # of the Ramachandran histograms; of those that are drawn
SUMMARY = (
    *("ess", "ess_clipped", "mean_log_q", "log_z", "kld", "kld_flow", "tv", "tv_flow", "basin_df"),
    *("evaluations", "flow_evaluations", "seconds"),
)
COLUMNS = (
    ("ESS %", "ess", 100, 1),
    ("clipped", "ess_clipped", 100, 1),
    ("E_p[log q] on MD", "mean_log_q", 1, 2),
    ("log Z", "log_z", 1, 3),
    ("Ram KLD, flow", "kld_flow", 1, 4),
    ("Ram KLD, reweighted", "kld", 1, 4),
    ("Ram TV, flow", "tv_flow", 1, 4),
    ("Ram TV, reweighted", "tv", 1, 4),
    ("ΔF(φ > 0) / kT", "basin_df", 1, 2),
    ("its error, of one run", "basin_df_error", 1, 2),
    ("target evaluations", "evaluations", 1, None),
    ("seconds", "seconds", 1, 0),
)


def settings(scale: str, method: str) -> GeneratorSettings:
    """The project's defaults but for what a method is; on a GPU the paper's batch and a larger flow."""
    flow, train = FlowSettings(), TrainSettings()
    if scale != "cpu":
        flow = FlowSettings(layers=24, hidden=256)
        train = TrainSettings(batch=1024, updates=8, buffer_min=64, buffer_max=512, learning_rate=5e-4, warmup=1000)
    return GeneratorSettings(flow=flow, train=ours(train, method))


def ours(train: TrainSettings, method: str) -> TrainSettings:
    """The training of a method: without what the published ones do not have, unless they are this project's defaults.

    Those lift rare basins, stop annealing once the flow is good, and then use a control variate.
    """
    if method == "fab_defaults":
        return train
    return replace(train, path_gradient=0.0, anneal_below=1.0, control_variate=False, basin_share=0.0)


def run(options: argparse.Namespace, seed: int, path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Train one seed, also an interrupted one, and compare it with the reference; the result, and its maps."""
    if options.method not in OBJECTIVES:
        raise SystemExit(f"Expected a method of {tuple(OBJECTIVES)} for {TARGET}; got {options.method}.")
    system = fab.MolecularSystem.load(TARGET)
    reference = fab.load_reference(system)
    if reference is None:
        raise SystemExit(f"Expected a reference beside systems/{TARGET}; make it first.")
    generator = BoltzmannGenerator(system, settings(options.scale, options.method), seed=seed, device=options.device)
    if options.method == "reverse_kl":
        generator.flow.double()  # a collapse makes splines steep, which single precision does not bear
    likelihood = options.method in ("ml", "ml_md")
    if likelihood and options.quick:
        learned_from, made_with = reference, 0
    elif likelihood:
        learned_from, made_with = _dynamics(system, options.method, EVALUATIONS[options.scale], path.parent, seed)
    layers = OBJECTIVES[options.method] if options.method == "snf" else None
    budget = Budget(evaluations=EVALUATIONS[options.scale])
    if options.quick:
        budget = Budget(iterations=2)
    elif options.minutes or likelihood:
        budget = Budget(minutes=options.minutes or ML_MINUTES[options.scale])
    few = reference.resample(LOOK_FRAMES, seed=0)
    folder, history, diverged = None if options.quick else path.with_suffix(""), History(), False
    try:
        history = generator.train(
            budget,
            folder=folder,
            resume=True,
            progress=False,
            compile=not (options.quick or options.no_compile),
            objective=OBJECTIVES[options.method],
            samples=learned_from if likelihood else None,
            measure=lambda ensemble: _look(ensemble, reference, generator, few, layers),
        )
    except TrainingError as error:  # the generator has the flow that was good last
        if options.method not in MAY_DIVERGE or folder is None:
            raise
        print(f"{path.stem}: {error}", file=sys.stderr)
        diverged = True
    n = 500 if options.quick else SAMPLES[options.scale]
    ensemble = generator.sample(n, seed=seed + 1000) if layers is None else _paths(generator, layers, n, seed + 1000)
    generator.save(path.with_suffix(".safetensors"))
    curve = _curve(folder / "metrics.jsonl") if folder is not None else history
    figures = {
        "ess": ensemble.ess_fraction,
        "ess_clipped": ensemble.ess_clipped / n,
        "khat": ensemble.khat if np.isfinite(ensemble.khat) else None,
        "log_z": float(ensemble.log_z.value),
        "log_z_error": float(ensemble.log_z.error),
        **_against(ensemble, reference, generator, reference if layers is None else few, layers),
        **_basin(ensemble, reference),
        **{key: curve[-1][key] for key in ("evaluations", "flow_evaluations", "seconds")},
    }
    if likelihood:
        figures["evaluations"] = made_with
    print(path.stem, {k: v and round(v, 4) for k, v in figures.items()}, file=sys.stderr, flush=True)
    result = {
        "target": TARGET,
        "method": options.method,
        "scale": options.scale,
        "seed": seed,
        "commit": current_commit(),
        "machine": machine(),
        "settings": asdict(generator.settings),
        "samples": n,
        "diverged": diverged,
        "minutes": budget.minutes,
        "device": options.device,
        **figures,
        "curve": [m for m in curve if "ess" in m],
    }
    maps = {"flow": np.ones(ensemble.n), "reweighted": ensemble.weights}
    return result, {name: _ramachandran(ensemble, w, MAP).astype(np.float32) for name, w in maps.items()}


def _dynamics(
    system: fab.MolecularSystem, method: str, evaluations: int, folder: Path, seed: int
) -> tuple[fab.Ensemble, int]:
    """What maximum likelihood learns from, and the energies that it cost: one frame a ps.

    "ml_md": dynamics from the minimum, of as many steps as the other methods have evaluations. "ml": as many frames as
    `MORE` times as many steps would leave, but independent and in equilibrium, by proposals of the shipped flow: better
    than any such dynamics.
    """
    if method == "ml_md":
        walkers, frames = 16, evaluations // FRAME_STEPS // 16
        about = {"walkers": walkers, "time_ps": float(frames), "frame_ps": 1.0, "equilibration_ps": 0.0}
        found = fab.run_reference(
            system, "walkers", folder=folder / f"dynamics-{seed}", resume=True, seed=seed, **about
        )
        return found, found.n * FRAME_STEPS
    frames = MORE * evaluations // FRAME_STEPS
    about = {"walkers": 1000, "sweeps": 10 * frames // 1000, "frame_every": 10, "walk_every": 5}
    shipped = fab.load_pretrained(system)
    found = fab.run_reference(system, "hybrid", folder=folder / "equilibrium", resume=True, generator=shipped, **about)
    return found, found.n * FRAME_STEPS


def _curve(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@torch.no_grad()
def _paths(generator: BoltzmannGenerator, layers: StochasticFlow, n: int, seed: int) -> fab.Ensemble:
    """Samples of a stochastic flow, whose weights are those of their paths."""
    paths = PathSampler(layers, generator.flow, generator.target, stream(generator.device, 1))
    random, parts, evaluations = stream(generator.device, seed), [], generator.target.evaluations
    for k in range(0, n, generator.batch):
        z, log_q = paths.sample(min(generator.batch, n - k), random)
        x, log_det = generator.coordinates.to_cartesian(z.double())
        u = generator.energy(x)
        log_w = log_det - u - log_q.double()
        parts.append((generator.relabelled(x, random), u, torch.where(torch.isfinite(log_w), log_w, -torch.inf)))
    generator.target.evaluations = evaluations  # a look costs training nothing
    x, u, log_w = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    system, invalid = generator.system, int(np.isneginf(log_w).sum())
    return fab.Ensemble(x, u, log_w, system.md_topology, system.temperature, name="paths", invalid=invalid)


def _look(
    ensemble: fab.Ensemble,
    reference: fab.Ensemble,
    generator: BoltzmannGenerator,
    frames: fab.Ensemble,
    layers: StochasticFlow | None,
) -> dict[str, float]:
    """On the way; of a stochastic flow the paths are looked at, not the samples of its layers alone."""
    if layers is None:
        return _against(ensemble, reference, generator, frames)
    paths = _paths(generator, layers, LOOK_FRAMES, generator.seed + 7)
    found = {"ess": paths.ess_fraction, "ess_clipped": paths.ess_clipped / paths.n, "khat": paths.khat}
    return found | _against(paths, reference, generator, frames, layers)


def _against(
    ensemble: fab.Ensemble,
    reference: fab.Ensemble,
    generator: BoltzmannGenerator,
    frames: fab.Ensemble,
    layers: StochasticFlow | None = None,
) -> dict[str, float]:
    """Divergences of the Ramachandran histograms from the reference's, before and after reweighting; and log q of
    frames of it, of a stochastic flow a bound from below."""
    weights = reference.weights
    p = _ramachandran(reference, weights)
    figures = {}
    for suffix, w in (("", ensemble.weights), ("_flow", np.full(ensemble.n, 1 / ensemble.n))):
        q = _ramachandran(ensemble, w)
        figures[f"tv{suffix}"] = float(0.5 * np.abs(p - q).sum())
        # Bins that no sample fell into would be infinite: half a sample stands there.
        floor = np.maximum(q, 0.5 / ensemble.n)
        figures[f"kld{suffix}"] = float((p[p > 0] * np.log(p[p > 0] / floor[p > 0])).sum())
    log_q = _log_q(generator, torch.from_numpy(np.asarray(frames.x, dtype=np.float64)), layers)
    figures["mean_log_q"] = float(frames.weights @ log_q.nan_to_num(LOST, LOST, LOST).numpy())
    return figures


@torch.no_grad()
def _log_q(generator: BoltzmannGenerator, x: torch.Tensor, layers: StochasticFlow | None) -> torch.Tensor:
    if layers is None:
        return generator.log_prob(x)
    evaluations = generator.target.evaluations
    z, log_det = generator.to_internal(x)
    paths = PathSampler(layers, generator.flow, generator.target, stream(generator.device, 2))
    parts = z.to(next(generator.flow.parameters())).split(generator.batch)
    log_q = torch.cat([paths.log_prob(part) for part in parts]).double() + log_det
    generator.target.evaluations = evaluations
    return log_q.cpu()


def _basin(ensemble: fab.Ensemble, reference: fab.Ensemble) -> dict[str, float | None]:
    figures = {}
    for name, side in (("basin_df", ensemble), ("basin_df_reference", reference)):
        found = fab.basin_difference(side)
        figures[name] = float(found.value) if np.isfinite(found.value) else None
        figures[f"{name}_error"] = float(found.error) if np.isfinite(found.error) else None
    return figures


def _ramachandran(ensemble: fab.Ensemble, weights: np.ndarray, bins: int = BINS) -> np.ndarray:
    edges = np.linspace(-np.pi, np.pi, bins + 1)
    good = weights > 0
    phi, psi = ensemble.phi()[good, 0], ensemble.psi()[good, 0]
    counts, *_ = np.histogram2d(phi, psi, [edges, edges], weights=weights[good])
    return counts / counts.sum()


def draw(results: list[dict], folder: Path, start: Path) -> None:
    """Pictures, at paths that start so and end in _learning.png and _ramachandran.png."""
    start.parent.mkdir(exist_ok=True)
    learning, ramachandran = (start.with_name(f"{start.name}_{kind}.png") for kind in PICTURES)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for colour, (method, group) in enumerate(by_method(results).items()):
        for k, r in enumerate(group):
            for ax, x in zip(axes, ("seconds", "evaluations"), strict=True):
                line = [(m[x], m["ess"]) for m in r["curve"] if m["ess"] is not None]
                if line:
                    ax.plot(*zip(*line, strict=True), color=f"C{colour}", label=NAMES[method] if k == 0 else None)
    axes[0].set(xlabel="training, seconds", ylabel="raw ESS of the flow", ylim=(0, 1))
    axes[1].set(xlabel="target evaluations")
    axes[0].legend(fontsize=7)
    figure.savefig(learning, dpi=150)
    plt.close(figure)
    _maps(results, folder, ramachandran)


def body(results: list[dict]) -> list[str]:
    """Paragraphs of the section."""
    first = results[0]
    text = (
        f"Means ± standard error over seeds (their number behind the name), {first['samples']:,} samples each. KLD and "
        f"TV of the Ramachandran histogram, {BINS} x {BINS} bins, from the reference's; ΔF of 0 < φ < 2.5 in the "
        f"reference: {first['basin_df_reference']:.2f} ± {first['basin_df_reference_error']:.2f} kT. All methods that "
        "use the energy have as many target evaluations; one that diverged is shown as it was last good. A stochastic "
        "flow's ESS is that of paths, its E_p[log q] a bound from below, on 2,000 frames. The "
        "project's defaults lift rare basins while they train, so that their flow, not reweighted, is farther from the "
        "reference. Maximum likelihood learns from dynamics of as many steps, a frame a ps, from the energy minimum "
        "on; and from as many "
        f"frames as {MORE} times as many steps would leave, but drawn independently from the equilibrium, which such "
        "dynamics would not reach."
    )
    return [text, table(results, COLUMNS)]


def _maps(results: list[dict], folder: Path, path: Path) -> None:
    """Free energy over (phi, psi): the reference, and each method's first seed before and after reweighting."""
    reference = fab.load_reference(fab.MolecularSystem.load(TARGET))
    groups = by_method(results)
    figure, axes = plt.subplots(2, len(groups) + 1, figsize=(2.1 * (len(groups) + 1), 4.6), layout="constrained")
    for ax in axes.flat:
        ax.set(xticks=[-np.pi, 0, np.pi], yticks=[-np.pi, 0, np.pi], xticklabels=["-π", "0", "π"])
        ax.set(yticklabels=["-π", "0", "π"], aspect="equal", xlim=(-np.pi, np.pi), ylim=(-np.pi, np.pi))
    shown = {"reference": (None, _ramachandran(reference, reference.weights, MAP))}
    for method, group in groups.items():
        with np.load(folder / f"{TARGET}_{method}_{group[0]['scale']}_{group[0]['seed']}.npz") as found:
            shown[NAMES[method]] = (found["flow"], found["reweighted"])
    edges = np.linspace(-np.pi, np.pi, MAP + 1)
    for (name, maps), column in zip(shown.items(), axes.T, strict=True):
        for ax, counts in zip(column, maps, strict=True):
            if counts is None:
                ax.axis("off")
                continue
            with np.errstate(divide="ignore"):
                energy = -np.log(counts / counts.max())
            picture = ax.pcolormesh(edges, edges, np.ma.masked_invalid(energy).T, vmin=0, vmax=10, cmap="viridis")
        column[0 if name != "reference" else 1].set_title(textwrap.fill(name, 22), fontsize=7)
    axes[0, 1].set_ylabel("as sampled")
    axes[1, 0].set_ylabel("reweighted")
    figure.colorbar(picture, ax=axes, label="F / kT", shrink=0.6)
    figure.savefig(path, dpi=130)
    plt.close(figure)
