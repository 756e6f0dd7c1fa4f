"""Does memory stay flat while a flow is trained for hours?

`python benchmarks/soak.py [--system alanine_dipeptide] [--minutes 120] [--out DIR] [--quick] [--record]` runs
`openmm-fab train` in another process and looks at its resident memory every few seconds. `--out` keeps the trained run
and the whole series (memory.csv: seconds, MiB). Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from record import record

PICTURE = Path(__file__).parent / "figures" / "soak.png"
SETTLED = 0.15  # share of the time after which the buffer is full and everything is compiled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default="alanine_dipeptide")
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--out", type=Path, help="keep the run and the series of memory there")
    parser.add_argument("--quick", action="store_true", help="half a minute that only shows that it works")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    minutes = 0.5 if options.quick else options.minutes
    with contextlib.ExitStack() as stack:
        runs = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs.mkdir(parents=True, exist_ok=True)
        command = ["train", options.system, "--minutes", f"{minutes:g}", "--runs", str(runs), "--name", "soak"]
        command += ["--preset", "smoke"] if options.quick else []
        began = time.time()
        times, memory, status = watch([sys.executable, "-m", "openmm_fab", *command], 1.0 if options.quick else 10.0)
        np.savetxt(runs / "memory.csv", np.stack([times, memory], 1), "%.1f", ",", header="seconds,MiB", comments="")
        metrics = runs / "soak" / "metrics.jsonl"
        last = json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])
        trained = metrics.stat().st_mtime - began  # what comes after the last line is no training
    figures = {
        **flatness(times, memory, trained),
        "minutes": trained / 60,
        "iterations": last["iteration"],
        "evaluations": last["evaluations"],
        "exit_status": status,
    }
    shown = np.linspace(0, len(times) - 1, 9).round().astype(int)
    body = "| after | resident memory, MiB |\n|---|---|\n"
    body += "\n".join(f"| {times[k] / 60:.0f} min | {memory[k]:.0f} |" for k in shown)
    body += (
        f"\n\n{last['iteration']:,} iterations and {last['evaluations']:,} target evaluations in {trained / 60:.0f} "
        f"minutes. Over their last {1 - SETTLED:.0%}: least {figures['least_mib']:.0f} MiB, most "
        f"{figures['most_mib']:.0f} MiB, {figures['spread']:.1%} apart; last quarter against first "
        f"{figures['drift']:+.1%}, most of it against most {figures['growth']:+.1%}. Exit status {status}."
    )
    if math.isfinite(figures["closing_mib"]):
        body += f" Most afterwards: {figures['closing_mib']:.0f} MiB."
    if options.record:
        draw(times, memory, trained)
        body += f"\n\n![Memory against time](figures/{PICTURE.name})"
    print(body)
    if options.record:
        told = f"python benchmarks/soak.py --system {options.system} --minutes {minutes:g} --record"
        record("soak", f"Memory of a training of {minutes:g} minutes, {options.system}", told, body)
    print(json.dumps(figures))
    if status:
        raise SystemExit(status)


def watch(command: list[str], every: float) -> tuple[list[float], list[float], int]:
    """Seconds, resident MiB of the process and its children, exit status."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    times: list[float] = []
    memory: list[float] = []
    while process.poll() is None:
        found = resident(process.pid)
        if found:
            times.append(time.monotonic() - started)
            memory.append(found)
        time.sleep(every)
    return times, memory, process.returncode


def resident(pid: int) -> float:
    """MiB of its own (files that are mapped, which a system takes back as it likes, not counted), children included; 0
    where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = re.search(r"RssAnon:\s+(\d+) kB", text)
    return (int(own[1]) / 1024 if own else 0.0) + sum(resident(int(child)) for child in children)


def flatness(times: list[float], memory: list[float], trained: float) -> dict[str, float]:
    """Least, most, their spread over the least, and how the last quarter's mean and most stand to the first's, all
    while the flow is trained; and the most from then on.

    Memory may fall for a while where a library has the C library give back what is free; a leak raises the most.
    """
    time, all_of_it = np.array(times), np.array(memory)
    late = all_of_it[(time >= SETTLED * trained) & (time <= trained)]
    quarter = math.ceil(len(late) / 4)
    first, last = late[:quarter], late[-quarter:]
    least, most, closing = late.min(), late.max(), all_of_it[time > trained]
    return {
        "least_mib": float(least),
        "most_mib": float(most),
        "spread": float(most / least - 1),
        "drift": float(last.mean() / first.mean() - 1),
        "growth": float(last.max() / first.max() - 1),
        "closing_mib": float(closing.max()) if len(closing) else float("nan"),
    }


def draw(times: list[float], memory: list[float], trained: float) -> None:
    figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
    axes.plot(np.array(times) / 60, memory, lw=1)
    axes.axvspan(SETTLED * trained / 60, trained / 60, alpha=0.1, label="where it has to be flat")
    axes.set(xlabel="minutes", ylabel="resident memory, MiB", ylim=(0, None))
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
