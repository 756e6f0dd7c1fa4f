"""One flow of several temperatures beside flows of one: ESS, log Z and heat capacity at each.

Every training has as many target evaluations. The flow of one temperature is reweighted to the others.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import openmm_fab as fab
from openmm_fab import free_energy as fe


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", default="alanine_dipeptide")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[300.0, 400.0, 600.0])
    parser.add_argument("--between", type=float, nargs="*", default=[350.0], help="sampled, too, but not trained at")
    parser.add_argument("--evaluations", type=int, default=500_000, help="of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--samples", type=int, default=20_000, help="at each temperature, at the end")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    system = fab.MolecularSystem.load("butane" if options.quick else options.system)
    evaluations, samples = (4_000, 500) if options.quick else (options.evaluations, options.samples)
    kelvin = sorted({*options.temperatures, *options.between})
    runs = []
    for seed in options.seeds:
        for temperatures in (None, tuple(options.temperatures)):
            settings = fab.PRESETS["smoke"].settings if options.quick else fab.GeneratorSettings()
            generator = fab.BoltzmannGenerator(system, settings, seed=seed)
            started = time.process_time()
            history = generator.train(
                fab.Budget(evaluations=evaluations),
                temperatures=temperatures,
                evaluate_every=60.0,
                evaluate_samples=2048,
                progress=False,
            )
            curve = [(int(row["evaluations"]), float(row["ess"])) for row in history if "ess" in row]
            runs.append(
                {
                    "temperatures": list(generator.settings.temperatures),
                    "seed": seed,
                    "processor": time.process_time() - started,
                    "evaluations": int(history[-1]["evaluations"]),
                    "curve": curve,
                    "at": {f"{t:g}": _at(generator, t, samples, seed) for t in kelvin},
                }
            )
    return {"system": system.name, "own": float(system.temperature), "samples": samples, "runs": runs}


def _at(generator: fab.BoltzmannGenerator, kelvin: float, samples: int, seed: int) -> dict[str, float | None]:
    """What there is at a temperature: by the flow of several, or reweighted from the flow's own."""
    if generator.settings.temperatures:
        ensemble = generator.sample(samples, seed=seed + 1, temperature=kelvin)
    else:
        ensemble = fe.reweight_temperature(generator.sample(samples, seed=seed + 1), kelvin)
    log_z = ensemble.log_z
    found: dict[str, float | None] = {
        "ess": ensemble.ess_fraction,
        "khat": ensemble.khat,
        "log_z": float(log_z.value),
        "log_z_error": float(log_z.error),
    }
    capacity = fe.heat_capacity(ensemble)
    found |= {"heat_capacity": float(capacity.value), "heat_capacity_error": float(capacity.error)}
    if ensemble.phi().shape[1]:
        basin = fe.basin_difference(ensemble)
        found |= {"basin_df": float(basin.value), "basin_df_error": float(basin.error)}
    return {key: value if value is not None and abs(value) < float("inf") else None for key, value in found.items()}


def title(figures: dict[str, Any]) -> str:
    return f"Several temperatures: {figures['system']}"


def _ratio(a: dict[str, float], b: dict[str, float]) -> str:
    """log Z of a less that of b, whose samples are others, or the same reweighted: then the error is an upper bound."""
    error = (a["log_z_error"] ** 2 + b["log_z_error"] ** 2) ** 0.5
    return f"{a['log_z'] - b['log_z']:.3f} ± {error:.3f}"


def table(figures: dict[str, Any]) -> str:
    runs = figures["runs"]
    kelvin = list(runs[0]["at"])
    own = f"{figures['own']:g}"
    columns = [
        "flow of",
        "seed",
        "processor minutes",
    ]
    columns += [f"ESS at {t} K, %" for t in kelvin]
    columns += [f"ln Z({t} K) / Z({own} K)" for t in kelvin if t != own]
    columns += [f"C_V at {t} K, J/mol/K" for t in kelvin]
    columns += [f"ΔF(φ > 0) at {own} K / kT"]
    rows = []
    for run in runs:
        own_at = run["at"][own]
        basin = own_at.get("basin_df")
        rows.append(
            [
                ", ".join(f"{t:g}" for t in run["temperatures"] or [figures["own"]]) + " K",
                str(run["seed"]),
                f"{run['processor'] / 60:.1f}",
                *(f"{100 * run['at'][t]['ess']:.1f}" for t in kelvin),
                *(_ratio(run["at"][t], own_at) for t in kelvin if t != own),
                *(
                    f"{1e3 * run['at'][t]['heat_capacity']:.0f} ± {1e3 * run['at'][t]['heat_capacity_error']:.0f}"
                    for t in kelvin
                ),
                "" if basin is None else f"{basin:.2f} ± {own_at['basin_df_error']:.2f}",
            ]
        )
    lines = [columns, ["---"] * len(columns), *rows]
    words = (
        f"Equal evaluations of the target, {runs[0]['evaluations']:.2g} a training; raw ESS of {figures['samples']:,} "
        "samples at each temperature, those of a flow of one temperature reweighted to it. Heat capacities are "
        "configurational."
    )
    return words + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)
