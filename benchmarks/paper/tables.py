"""Tables and pictures of the result files of the paper's comparison."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from openmm_fab.target import GaussianMixture, ManyWell

PICTURES = ("samples", "learning")
ORDER = ("fab", "fab_defaults", "fab_no_buffer", "ml", "ml_md", "alpha2", "reverse_kl", "cmt", "snf")
NAMES = {
    "fab_defaults": "FAB with buffer, this project's defaults",
    "fab": "FAB with buffer",
    "fab_no_buffer": "FAB without buffer",
    "ml": "maximum likelihood on exact samples",
    "ml_md": "maximum likelihood on dynamics",
    "alpha2": "α = 2 on flow samples, no AIS",
    "reverse_kl": "reverse KL",
    "cmt": "constrained mass transport",
    "snf": "stochastic normalizing flow",
}
# Column, key, factor, digits.
COLUMNS = (
    ("ESS %", "ess", 100, 1),
    ("clipped", "ess_clipped", 100, 1),
    ("ESS % after AIS", "ess_ais", 100, 1),
    ("modes", "modes", 1, 0),
    ("E_p[log q]", "mean_log_q", 1, 2),
    ("log q on the modes", "modes_log_q", 1, 2),
    ("forward KL", "forward_kl", 1, 3),
    ("log Z error", "log_z_error", 1, 4),
    ("after AIS", "log_z_error_ais", 1, 4),
    ("target evaluations", "evaluations", 1, None),
    ("flow evaluations", "flow_evaluations", 1, None),
    ("seconds", "seconds", 1, 0),
)
# fab-torch's result files of July and August 2022, three seeds: ESS %, mean log q, forward KL.
PUBLISHED = {
    "gmm40": "fab-torch's own files (RealNVP, 2e7 flow evaluations): FAB with buffer ESS 64.1 ± 1.9 %, E_p[log q] "
    "-7.17, forward KL 0.32; FAB without 18.9 %, -8.00, 1.15; maximum likelihood 57.9 %, -7.20, 0.33; SNF 9.9 %. "
    "fab-jax: log Z error 0.0027 ± 0.0005 from 2,000 samples.",
    "manywell32": "fab-torch's own files (RealNVP, 1e10 flow evaluations): FAB with buffer ESS 79.5 ± 1.6 %, log q on "
    "the modes -21.29; FAB without 4.1 %, -28.0; SNF 1.0 %, -361; reverse KL collapses, -537. "
    "fab-jax: log Z error 0.032 ± 0.004 from 2,000 samples.",
}
TITLES = {"gmm40": "GMM-40", "manywell32": "ManyWell-32", "alanine_dipeptide": "alanine dipeptide"}
EXPLANATION = (
    "Means over seeds, their number behind the name, ± standard error; ESS raw and with the largest 1e-4 of the "
    "weights clipped, of {samples:,} samples. Modes: of {n_modes:,}, those where q has at least a tenth of the "
    "density that is due. AIS goes from the flow to the target ({annealing}). The log Z error is the mean "
    "absolute error of estimates from 2,000 samples each. The best possible E_p[log q] is {best:.2f}. "
    "Evaluations and seconds are those of training; compilation counts, evaluation does not. A stochastic flow's "
    "log q is a bound from below, its ESS that of paths."
)


def summary(results: Sequence[dict], keys: Sequence[str]) -> dict:
    """Means over seeds, with the standard error of each under key_se."""
    figures: dict = {key: results[0][key] for key in ("target", "method", "scale")}
    figures["seeds"] = [r["seed"] for r in results]
    for key in keys:
        mean, error = _mean([r.get(key) for r in results])
        figures |= {key: mean, f"{key}_se": error}
    return figures


def read(folder: Path, target: str, scale: str) -> list[dict]:
    """The results of a target in the folder, by name of the file."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{target}_*.json"))]
    results = [r for r in results if (r["target"], r["scale"]) == (target, scale)]
    if not results:
        raise SystemExit(f"Expected results of {target} in {folder}; there are none. Name a method to run.")
    return results


def by_method(results: Sequence[dict]) -> dict[str, list[dict]]:
    """Results of each method, in the order of the table."""
    groups = {method: [r for r in results if r["method"] == method] for method in ORDER}
    return {method: group for method, group in groups.items() if group}


def table(results: Sequence[dict], columns: Sequence[tuple[str, str, float, int | None]]) -> str:
    """A row a method, mean ± standard error over the seeds."""
    rows = ["| method | " + " | ".join(name for name, *_ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for method, group in by_method(results).items():
        cells = [_cell([r[key] for r in group if key in r], factor, digits) for _, key, factor, digits in columns]
        ended = ", until it diverged" if any(r.get("diverged") for r in group) else ""
        rows.append(f"| {NAMES[method]}{ended} ({len(group)}) | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def body(results: list[dict]) -> list[str]:
    """Paragraphs of the section of a target."""
    first = results[0]
    ais = first["settings"]["annealing"]
    text = EXPLANATION.format(
        samples=first["samples"],
        n_modes=first["n_modes"],
        best=first["best_mean_log_q"],
        annealing=f"{ais['intermediate']} intermediate densities, {ais['leapfrogs']} steps of {ais['kernel']}",
    )
    return [text, table(results, COLUMNS), f"Published: {PUBLISHED[first['target']]}"]


def draw(results: list[dict], folder: Path, start: Path) -> None:
    """Pictures, at paths that start so and end in _samples.png and _learning.png."""
    start.parent.mkdir(exist_ok=True)
    samples = _contours if results[0]["target"] == "gmm40" else _pairs
    for kind, picture in zip(PICTURES, (samples, _learning), strict=True):
        picture(results, folder, start.with_name(f"{start.name}_{kind}.png"))


def ran_on(results: list[dict]) -> str:
    return "Trained on: " + "; ".join(sorted({r["machine"] for r in results})) + "."


def _mean(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    known = [v for v in values if v is not None]
    if not known:
        return None, None
    error = float(np.std(known, ddof=1) / len(known) ** 0.5) if len(known) > 1 else None
    return float(np.mean(known)), error


def _cell(values: Sequence[float | None], factor: float, digits: int | None) -> str:
    mean, error = _mean(values)
    if mean is None:
        return "infinite" if values else ""
    if digits is None:
        return f"{mean:.2g}"
    shown = f"{factor * mean:,.{digits}f}"
    shown = shown if error is None or digits == 0 else f"{shown} ± {factor * error:.{digits}f}"
    lost = sum(v is None for v in values)
    return f"{shown}, infinite in {lost}" if lost else shown


def _samples(results: list[dict], folder: Path) -> dict[str, np.ndarray]:
    """Flow samples z (n, dim) of each method's first seed."""
    found = {}
    for method, group in by_method(results).items():
        r = min(group, key=lambda r: r["seed"])
        path = folder / f"{r['target']}_{method}_{r['scale']}_{r['seed']}.npz"
        if path.exists():
            found[method] = np.load(path)["z"]
    return found


def _grid(n: int) -> tuple[plt.Figure, list[plt.Axes]]:
    columns = min(n, 3)
    rows = -(-n // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(3.2 * columns, 3.2 * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for spare in axes.flat[n:]:
        spare.axis("off")
    return figure, list(axes.flat)


def _contours(results: list[dict], folder: Path, path: Path) -> None:
    """Contours of the mixture, and samples of each method's flow."""
    samples, target = _samples(results, folder), GaussianMixture()
    line = torch.linspace(-56, 56, 300)
    grid = torch.cartesian_prod(line, line)
    log_p = target.log_prob(grid).view(300, 300).T.numpy()
    figure, axes = _grid(len(samples))
    for ax, (method, z) in zip(axes, samples.items(), strict=False):
        ax.plot(*z[:1000].T, ".", markersize=2, color="C0", alpha=0.6)
        ax.contour(line, line, log_p, levels=np.arange(-30, 0, 4.0), colors="0.6", linewidths=0.5)
        ax.set(title=NAMES[method], xlim=(-56, 56), ylim=(-56, 56))
        ax.title.set_size(8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _pairs(results: list[dict], folder: Path, path: Path) -> None:
    """Marginals of the first two pairs' wells, (z0, z2), and of one pair (z0, z1), a column a method."""
    samples, target = _samples(results, folder), ManyWell(4)
    line = torch.linspace(-3, 3, 200)
    a, b = torch.meshgrid(line, line, indexing="ij")
    figure, axes = plt.subplots(
        2,
        len(samples),
        figsize=(2.4 * len(samples), 5.0),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for row, (i, j) in enumerate(((0, 1), (0, 2))):
        zero = torch.zeros_like(a)
        place = torch.stack([a, b, zero, zero] if j == 1 else [a, zero, b, zero], -1).view(-1, 4)
        log_p = target.log_prob(place).view(200, 200).T.numpy()
        for column, (method, z) in enumerate(samples.items()):
            ax = axes[row, column]
            ax.plot(z[:2000, i], z[:2000, j], ".", markersize=1.5, color="C0", alpha=0.5)
            ax.contour(line, line, log_p, levels=log_p.max() - np.arange(12, 0, -2.0), colors="0.5", linewidths=0.5)
            ax.set(xlim=(-3, 3), ylim=(-3, 3), xlabel=f"z{i}", ylabel=f"z{j}")
            ax.set_title(NAMES[method] if row == 0 else "", fontsize=7)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _learning(results: list[dict], folder: Path, path: Path) -> None:
    """ESS and mean log q against seconds and target evaluations, a line a seed."""
    figure, axes = plt.subplots(2, 2, figsize=(8, 5.5), sharex="col", sharey="row", layout="constrained")
    for colour, (method, group) in enumerate(by_method(results).items()):
        for k, r in enumerate(group):
            for column, x in enumerate(("seconds", "flow_evaluations")):
                for row, y in enumerate(("ess", "mean_log_q")):
                    points = [(p[x], p[y]) for p in r["curve"] if p.get(y) is not None]
                    label = NAMES[method] if k == row == column == 0 else None
                    axes[row, column].plot(*zip(*points, strict=True), color=f"C{colour}", linewidth=1, label=label)
    best = results[0]["best_mean_log_q"]
    axes[0, 0].set(ylabel="raw ESS of the flow", ylim=(0, 1))
    axes[1, 0].set(ylabel="E_p[log q]", xlabel="training, seconds", ylim=(1.5 * best, 0.98 * best))
    axes[1, 1].set(xlabel="flow evaluations", xscale="log")
    figure.legend(loc="outside lower center", ncols=3, fontsize=7)
    figure.savefig(path, dpi=150)
    plt.close(figure)
