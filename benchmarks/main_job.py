"""The main job end to end: train, sample, compare with the reference; its learning curve.

Runs the command line program, so it measures what a user gets. `--runs` keeps the run. On another machine, one without
git, `--commit` says what ran; the file of results/ and the picture that it leaves can be recorded here, by
`--read FILE --record`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.free_energy.profiles import phi_positive

from .records import FIGURES, ROOT


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", default="alanine_dipeptide")
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="of training, instead of the preset's")
    parser.add_argument("--objective", default="auto", help="as of the command line program: fab, cmt, ...")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for a GPU")
    parser.add_argument("--runs", type=Path, help="keep the run in this folder")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """A run of some 20 seconds if quick."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = _run(options, options.runs or Path(temporary))
        figures = {**_read(folder), "asked_minutes": options.minutes, "device": options.device}
        figures["objective"] = options.objective
        if options.record and (folder / "comparison.png").exists():
            FIGURES.mkdir(exist_ok=True)
            shutil.copyfile(folder / "comparison.png", FIGURES / f"{section_name(figures)}_comparison.png")
    return figures


def section_name(figures: dict[str, Any]) -> str:
    name = f"main_job_{figures['system']}_{figures['preset']}_{figures['seed']}"
    name += f"_{figures['asked_minutes']:g}min" if figures["asked_minutes"] else ""
    name += f"_{figures['objective']}" if figures.get("objective", "auto") != "auto" else ""  # since there are several
    return name if figures["device"] == "cpu" else f"{name}_{figures['device']}"


def title(figures: dict[str, Any]) -> str:
    minutes = f", {figures['asked_minutes']:g} minutes" if figures["asked_minutes"] else ""
    job = f"{figures['system']}, preset {figures['preset']}, seed {figures['seed']}"
    objective = figures.get("objective", "auto")
    return f"{job}{minutes}{'' if objective == 'auto' else f', objective {objective}'}: training without MD data"


def table(figures: dict[str, Any]) -> str:
    return f"{_figures_table(figures)}\n\n{_curve_table(figures['curve'])}"


# --- a run ---


def _run(options: argparse.Namespace, runs: Path) -> Path:
    name = f"{options.system}-{options.preset}-{options.seed}"
    command = [sys.executable, "-m", "openmm_fab", "run", str(ROOT / "systems" / options.system)]
    command += ["--seed", str(options.seed), "--runs", str(runs), "--name", name, "--device", options.device]
    command += ["--objective", options.objective]
    if options.quick:
        command += ["--preset", "smoke", "--minutes", "0.3", "--samples", "1000"]
    else:
        command += ["--preset", options.preset]
        command += ["--minutes", f"{options.minutes:g}"] if options.minutes else []
    subprocess.run(command, check=True, stdout=sys.stderr)
    return max(runs.glob(f"{name}*"), key=lambda folder: folder.stat().st_mtime)


def _read(folder: Path) -> dict[str, Any]:
    """Without a reference: no differences from it, and phi > 0 of every residue from the ensemble alone."""
    settings = json.loads((folder / "settings.json").read_text())
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    compared = folder / "comparison.json"
    found = _against_reference(json.loads(compared.read_text())) if compared.exists() else _alone(folder)
    shown = ("seconds", "evaluations", "ess", "ess_clipped", "khat", "basin_df", "basin_df_error")
    return {
        **{key: settings[key] for key in ("system", "preset", "seed", "minutes")},
        "seconds": round(metrics[-1]["seconds"], 1),
        "seconds_first_iteration": round(metrics[0]["seconds"], 1),
        "evaluations": metrics[-1]["evaluations"],
        "ess_of_first_20000": _raw_ess(folder, 20_000),
        **found,
        "curve": [{key: m.get(key) for key in shown} for m in metrics if "ess" in m],
    }


def _against_reference(comparison: dict[str, Any]) -> dict[str, Any]:
    ensemble, (basin, *_) = comparison["ensemble"], comparison["basins"]
    return {
        **_weights(ensemble["n"], ensemble["ess"], ensemble["ess_clipped"], ensemble["khat"]),
        "basin_df": basin["ensemble"]["value"],
        "basin_df_error": basin["ensemble"]["error"],
        "basin_df_reference": basin["reference"]["value"],
        "basin_df_reference_error": basin["reference"]["error"],
        "torsions": {
            t["name"]: {"max_df": t["largest"]["value"], "max_df_error": t["largest"]["error"], "rms_df": t["rms"]}
            for t in comparison["torsions"]
            if t["name"].startswith(("phi", "psi"))
        },
    }


def _alone(folder: Path) -> dict[str, Any]:
    ensemble = Ensemble.load(folder / "ensemble.npz")
    names = [name for name in ensemble.torsion_names if name.startswith("phi ")]  # in residue order, as phi()
    rows = {name: ensemble.basin_difference(phi_positive(ensemble, k)) for k, name in enumerate(names)}
    return {
        **_weights(ensemble.n, ensemble.ess, ensemble.ess_clipped, ensemble.khat),
        "phi": {name: {"df": row.value, "df_error": row.error} for name, row in rows.items()},
        "torsions": {},
    }


def _weights(n: int, ess: float, clipped: float, khat: float) -> dict[str, Any]:
    return {"samples": n, "ess": ess / n, "ess_clipped": clipped / n, "khat": khat}


def _raw_ess(folder: Path, n: int) -> float:
    """Normalised effective sample size of the first n samples."""
    log_w = np.load(folder / "ensemble.npz")["log_w"][:n]
    w = np.exp(log_w - log_w.max())
    return float(w.sum() ** 2 / (w @ w) / len(w))


def _figures_table(f: dict[str, Any]) -> str:
    """Two figures are missing in records of early versions."""
    rows = [
        "| figure | value |",
        "|---|---|",
        f"| training | {f['seconds']:.0f} s, {f['evaluations']:.3g} target evaluations |",
    ]
    if "seconds_first_iteration" in f:
        first = f["seconds_first_iteration"]
        rows.append(f"| of that, until the first iteration ends, mostly compiling | {first:.0f} s |")
    clipped = f"{100 * f['ess_clipped']:.1f} %"
    rows.append(f"| raw ESS, N = {f['samples']:,} | {100 * f['ess']:.1f} % (clipped at 1e-4: {clipped}) |")
    if "ess_of_first_20000" in f:
        rows.append(f"| raw ESS of the first 20,000 | {100 * f['ess_of_first_20000']:.1f} % |")
    rows.append(f"| k-hat | {_number(f['khat'], 2)} |")
    rows += [f"| {name} | {value} kT |" for name, value in basins(f).items()]
    for name, t in f["torsions"].items():
        rows.append(
            f"| {name}: largest difference of F where the reference has F < 5 kT | {_number(t['max_df'], 2)} ± "
            f"{_number(t['max_df_error'], 2)} kT (rms {_number(t['rms_df'], 3)}) |"
        )
    return "\n".join(rows)


def basins(f: dict[str, Any]) -> dict[str, str]:
    """Free energies, in kT, of 0 < phi < 2.5 with their errors, and of the reference where there is one."""
    if "phi" in f:
        rows = {f"ΔF of 0 < φ < 2.5, {name.split()[-1]}": row for name, row in f["phi"].items()}
        return {what: f"{_number(row['df'], 2)} ± {_number(row['df_error'], 2)}" for what, row in rows.items()}
    own, given = (
        f"{_number(f[key], 2)} ± {_number(f[f'{key}_error'], 2)}" for key in ("basin_df", "basin_df_reference")
    )
    return {"ΔF of 0 < φ < 2.5": f"{own} kT; reference {given}"}


def _curve_table(curve: list[dict[str, Any]]) -> str:
    rows = [
        "| seconds | target evaluations | raw ESS % | clipped ESS % | k-hat | ΔF(φ > 0) / kT |",
        "|---|---|---|---|---|---|",
    ]
    for m in curve:
        rows.append(
            f"| {m['seconds']:.0f} | {m['evaluations']:.3g} | {100 * m['ess']:.1f} | {100 * m['ess_clipped']:.1f} "
            f"| {_number(m['khat'], 2)} | {_number(m['basin_df'], 2)} ± {_number(m['basin_df_error'], 2)} |"
        )
    return "Learning curve (4,096 samples each):\n\n" + "\n".join(rows)


def _number(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}"
