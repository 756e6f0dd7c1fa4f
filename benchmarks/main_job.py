"""The main job end to end: train, sample, compare with the reference; its learning curve.

`python benchmarks/main_job.py [--preset laptop] [--seed 0] [--minutes 10] [--device cuda] [--quick] [--record]`. Runs
the command line program, so it measures what a user gets. Ends in one JSON line. A run's folder keeps what was measured
in figures.json: `--read FOLDER --record` writes that to RESULTS.md, also on another machine than it ran on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
from record import current_commit, machine, record

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", default="alanine_dipeptide")
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="of training, instead of the preset's")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for a GPU")
    parser.add_argument("--quick", action="store_true", help="a run of some 20 seconds that only shows that all works")
    parser.add_argument("--runs", type=Path, help="keep the run in this folder")
    parser.add_argument("--read", type=Path, help="read a finished run's folder instead of running")
    parser.add_argument("--commit", help="of what ran, where that machine had no git")
    parser.add_argument("--record", action="store_true", help="write the table to RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.read or _run(options, options.runs or Path(temporary))
        measured = json.loads((folder / "figures.json").read_text())
        if options.record:
            _record(options, folder, **measured)
    print(json.dumps(measured["figures"]))


def _record(
    options: argparse.Namespace, folder: Path, figures: dict, curve: str, commit: str, where: str, day: str
) -> None:
    name, pictures = f"main_job_{options.system}_{figures['preset']}_{figures['seed']}", []
    command = f"python benchmarks/main_job.py --preset {figures['preset']} --seed {figures['seed']}"
    title = f"{options.system}, preset {figures['preset']}, seed {figures['seed']}: FAB without MD data"
    if options.minutes:
        name, command = f"{name}_{options.minutes:g}min", f"{command} --minutes {options.minutes:g}"
        title = title.replace(":", f", {options.minutes:g} minutes:")
    if options.device != "cpu":
        name, command = f"{name}_{options.device}", f"{command} --device {options.device}"
    for picture in ("comparison", "learning"):
        target = Path(__file__).parent / "figures" / f"{name}_{picture}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / f"{picture}.png", target)
        pictures.append(f"![{picture}](figures/{target.name})")
    with open(folder / "metrics.jsonl", encoding="utf-8") as rows:
        first = json.loads(rows.readline())["seconds"]
    body = "\n\n".join([_table(figures, first), *pictures, curve])
    record(name, title, f"{command} --record", body, options.commit or commit, where, day)


def _run(options: argparse.Namespace, runs: Path) -> Path:
    name = f"{options.system}-{options.preset}-{options.seed}"
    command = [sys.executable, "-m", "openmm_fab", "run", str(ROOT / "systems" / options.system)]
    command += ["--seed", str(options.seed), "--runs", str(runs), "--name", name, "--device", options.device]
    if options.quick:
        command += ["--preset", "smoke", "--minutes", "0.3", "--samples", "1000"]
    else:
        command += ["--preset", options.preset]
        command += ["--minutes", f"{options.minutes:g}"] if options.minutes else []
    about = {"commit": current_commit(), "where": machine(options.device), "day": str(date.today())}
    subprocess.run(command, check=True, stdout=sys.stderr)
    folder = max(runs.glob(f"{name}*"), key=lambda folder: folder.stat().st_mtime)
    figures, curve = _read(folder)
    (folder / "figures.json").write_text(json.dumps({"figures": figures, "curve": curve, **about}, indent=1))
    return folder


def _read(folder: Path) -> tuple[dict, str]:
    settings = json.loads((folder / "settings.json").read_text())
    comparison = json.loads((folder / "comparison.json").read_text())
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    ensemble, (basin, *_) = comparison["ensemble"], comparison["basins"]
    figures = {key: settings[key] for key in ("system", "preset", "seed", "minutes")}
    figures |= {
        "seconds": round(metrics[-1]["seconds"], 1),
        "evaluations": metrics[-1]["evaluations"],
        "samples": ensemble["n"],
        "ess": ensemble["ess"] / ensemble["n"],
        "ess_clipped": ensemble["ess_clipped"] / ensemble["n"],
        "ess_of_first_20000": _raw_ess(folder, 20_000),
        "khat": ensemble["khat"],
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
    rows = [
        "| seconds | target evaluations | raw ESS % | clipped ESS % | k-hat | ΔF(φ > 0) / kT |",
        "|---|---|---|---|---|---|",
    ]
    for m in metrics:
        if "ess" in m:
            basin_df = f"{_number(m.get('basin_df'), 2)} ± {_number(m.get('basin_df_error'), 2)}"
            rows.append(
                f"| {m['seconds']:.0f} | {m['evaluations']:.3g} | {100 * m['ess']:.1f} | {100 * m['ess_clipped']:.1f} "
                f"| {_number(m['khat'], 2)} | {basin_df} |"
            )
    return figures, "Learning curve (4,096 samples each):\n\n" + "\n".join(rows)


def _table(f: dict, first: float) -> str:
    rows = [
        "| figure | value |",
        "|---|---|",
        f"| training | {f['seconds']:.0f} s, {f['evaluations']:.3g} target evaluations |",
        f"| of that, until the first iteration ends, mostly compiling | {first:.0f} s |",
        f"| raw ESS, N = {f['samples']:,} | {100 * f['ess']:.1f} % (clipped at 1e-4: {100 * f['ess_clipped']:.1f} %) |",
        f"| raw ESS of the first 20,000 | {100 * f['ess_of_first_20000']:.1f} % |",
        f"| k-hat | {_number(f['khat'], 2)} |",
        f"| ΔF of 0 < φ < 2.5 | {_number(f['basin_df'], 2)} ± {_number(f['basin_df_error'], 2)} kT; reference "
        f"{f['basin_df_reference']:.2f} ± {f['basin_df_reference_error']:.2f} kT |",
    ]
    for name, t in f["torsions"].items():
        rows.append(
            f"| {name}: largest difference of F where the reference has F < 5 kT | {_number(t['max_df'], 2)} ± "
            f"{_number(t['max_df_error'], 2)} kT (rms {_number(t['rms_df'], 3)}) |"
        )
    return "\n".join(rows)


def _raw_ess(folder: Path, n: int) -> float:
    """Normalised effective sample size of the first n samples."""
    log_w = np.load(folder / "ensemble.npz")["log_w"][:n]
    w = np.exp(log_w - log_w.max())
    return float(w.sum() ** 2 / (w @ w) / len(w))


def _number(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    main()
