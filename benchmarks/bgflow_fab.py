"""A Boltzmann generator built by bgflow, trained by our FAB, beside our own flow at equal evaluations.

Alanine dipeptide. bgflow's builder makes circular splines over its global internal coordinates, with our Z-matrix and
marginals of the Hessian's widths; its energy is OpenMM's, translated, as is ours. It trains for `--minutes`; our flow
then gets as many target evaluations. Needs bgflow, see docs/bgflow.md.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import numpy as np
import torch

import openmm_fab as fab
from openmm_fab.interop import bgflow as interop
from openmm_fab.train.settings import Budget

from .runner import Skip

EVALUATED = 4096  # samples of each point of a learning curve
ROUNDS = 4  # each moves every coordinate
EVALUATE_EVERY = 20.0  # s
CURVE = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # shares of the evaluations shown in the table


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    try:
        interop.import_bgflow()
    except ImportError as error:
        raise Skip(f"bgflow is not importable ({error}); docs/bgflow.md says how to install it.") from error
    system = fab.MolecularSystem.load("alanine_dipeptide")
    own = fab.BoltzmannGenerator(system, seed=options.seed)
    if not options.quick:  # compile before the clock starts: the energy, which both have; our coordinates and flow
        scratch = fab.BoltzmannGenerator(system, energy=own.energy, coordinates=own.coordinates)
        scratch.train(Budget(iterations=1), progress=False, evaluate_every=1e9, evaluate_samples=EVALUATED)
    theirs = build(system, own, options.seed)
    flow, coordinates = interop.from_generator(theirs)
    foreign = fab.BoltzmannGenerator(system, seed=options.seed, energy=own.energy, coordinates=coordinates, flow=flow)
    budget = Budget(iterations=4) if options.quick else Budget(minutes=options.minutes)
    curves = {"bgflow": _train(foreign, budget, options.quick)}
    curves["openmm_fab"] = _train(own, Budget(evaluations=int(curves["bgflow"][-1]["evaluations"])), options.quick)
    figures = {
        name: _figures(curve, generator.flow)
        for (name, curve), generator in zip(curves.items(), (foreign, own), strict=True)
    }
    shown = {name: [info for info in curve if "ess" in info] for name, curve in curves.items()}
    return {"sides": figures, "curves": shown}


def title(figures: dict[str, Any]) -> str:
    return "A generator built by bgflow, trained by FAB"


def build(system: fab.MolecularSystem, own: fab.BoltzmannGenerator, seed: int) -> Any:
    """bgflow's own recipe: uniform prior, circular splines on split torsions, marginals, global coordinates.

    Torsions of rotatable bonds are uniform before training; the others, narrow, are shifted away from the seam and get
    truncated normal marginals, as bonds and angles do, with means and widths of the untrained generator's samples.
    """
    bg = interop.import_bgflow()
    from bgflow import ANGLES, BONDS, TORSIONS, TensorInfo

    warnings.filterwarnings("ignore", message="your nflows version")  # identity_splines does what it lacks
    torch.manual_seed(seed)
    context = {"device": torch.device("cpu"), "dtype": torch.float32}
    transform = bg.GlobalInternalCoordinateTransformation(interop.z_matrix(own.coordinates), raise_warnings=False)
    x = torch.as_tensor(own.sample(4096).x.reshape(4096, -1))
    *_, torsions, _, _, _ = transform.forward(x)
    zmatrix = own.coordinates.zmatrix
    turning = {int(atom) for atom in zmatrix.rows[zmatrix.periodic, 0]}
    is_free = [int(row[0]) in turning for row in transform.torsion_indices]
    free = [k for k, turns in enumerate(is_free) if turns]
    stiff = [k for k, turns in enumerate(is_free) if not turns]

    shape = bg.ShapeDictionary.from_coordinate_transform(transform)
    builder = bg.BoltzmannGeneratorBuilder(shape, target=interop.to_energy(own.energy, system.n_atoms), **context)
    FREE, STIFF = TensorInfo("FREE", True), TensorInfo("STIFF", True)
    builder.add_split(TORSIONS, (FREE, STIFF), (free, stiff))
    halves = [TensorInfo(f"FREE_{k}", True) for k in range(2)]
    for _ in range(ROUNDS):
        builder.add_split(FREE, halves, (len(free) // 2, len(free) - len(free) // 2))
        builder.add_condition(halves[0], on=(halves[1], STIFF))
        builder.add_condition(halves[1], on=(halves[0], STIFF))
        builder.add_merge(halves, FREE)
        builder.add_condition(STIFF, on=(FREE, ANGLES))
        builder.add_condition(ANGLES, on=(FREE, STIFF, BONDS))
        builder.add_condition(BONDS, on=(FREE, STIFF, ANGLES))

    mean = torch.polar(torch.ones_like(torsions), 2 * torch.pi * torsions).mean(0).angle() / (2 * torch.pi)
    marginals = bg.InternalCoordinateMarginals(builder.current_dims, builder.ctx)
    marginals.inform_with_data(x.float(), transform)
    width = (torch.remainder(torsions - mean + 0.5, 1.0) - 0.5).std(0)[stiff].float()
    marginals.pop(TORSIONS, None)
    marginals[STIFF] = bg.TruncatedNormalDistribution(
        torch.full_like(width, 0.5), width, torch.tensor(0.0), torch.tensor(1.0)
    )
    builder.add_map_to_ic_domains(marginals)
    builder.add_torsion_shifts(torch.remainder(mean[stiff].float() - 0.5, 1.0), STIFF)
    builder.add_merge((FREE, STIFF), TORSIONS, sizes_or_indices=(free, stiff))
    builder.add_map_to_cartesian(transform)
    generator = builder.build_generator()
    interop.identity_splines(generator.flow)
    return generator


def _train(generator: fab.BoltzmannGenerator, budget: Budget, quick: bool) -> list[dict[str, float]]:
    samples = 512 if quick else EVALUATED
    every = 1e9 if quick else EVALUATE_EVERY
    return generator.train(budget, progress=False, compile=not quick, evaluate_every=every, evaluate_samples=samples)


def _figures(curve: list[dict[str, float]], flow: torch.nn.Module) -> dict[str, Any]:
    last, seconds = curve[-1], [info["seconds"] for info in curve]
    steps = np.diff(seconds)[["ess" not in info for info in curve[1:]]]
    return {
        "parameters": sum(p.numel() for p in flow.parameters()),
        "iterations": len(curve),
        "seconds": round(last["seconds"], 1),
        "seconds_per_iteration": round(float(np.median(steps)), 4),
        **{key: last[key] for key in ("evaluations", "ess", "ess_clipped", "khat", "basin_df", "basin_df_error")},
    }


def table(found: dict[str, Any]) -> str:
    evaluated, figures = found["curves"], found["sides"]
    total = figures["bgflow"]["evaluations"]
    rows = [
        "| target evaluations | bgflow: seconds | raw ESS, % | openmm_fab: seconds | raw ESS, % |",
        "|---" * 5 + "|",
    ]
    for share in CURVE:
        row = f"| {share * total:.3g} "
        for curve in evaluated.values():
            until = [info for info in curve if info["evaluations"] <= 1.005 * share * total]
            row += f"| {until[-1]['seconds']:.0f} | {100 * until[-1]['ess']:.1f} " if until else "| - | - "
        rows.append(row + "|")
    rows += ["", "| at the end | bgflow | openmm_fab |", "|---|---|---|"]
    for label, key, form in (
        ("parameters", "parameters", "{:,}"),
        ("iterations", "iterations", "{:,}"),
        ("seconds", "seconds", "{:.0f}"),
        ("median of seconds an iteration", "seconds_per_iteration", "{:.3f}"),
        ("raw ESS, share", "ess", "{:.3f}"),
        ("clipped ESS, share", "ess_clipped", "{:.3f}"),
        ("k-hat", "khat", "{:.2f}"),
        ("ΔF(φ > 0) / kT", "basin_df", "{:.2f}"),
        ("its standard error", "basin_df_error", "{:.2f}"),
    ):
        rows.append(f"| {label} | " + " | ".join(form.format(f[key]) for f in figures.values()) + " |")
    text = (
        "Alanine dipeptide, default training settings, the same compiled energy and seed. bgflow: its builder's flow, "
        f"{5 * ROUNDS} circular-spline couplings over its global internal coordinates, not compiled. openmm_fab: its "
        f"default flow, compiled. {EVALUATED:,} samples a point, the last before each number of evaluations; "
        "evaluating counts in the seconds, compiling does not.\n\n"
    )
    return text + "\n".join(rows)
