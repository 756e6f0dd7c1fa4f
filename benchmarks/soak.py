"""Does memory stay flat while a flow is trained for hours?

`python benchmarks/soak.py [--system alanine_dipeptide] [--minutes 120] [--quick] [--record]` runs `openmm-fab train` in
another process and looks at its resident memory every few seconds. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import record

SETTLED = 0.15  # share of the time after which the buffer is full and everything is compiled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default="alanine_dipeptide")
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--quick", action="store_true", help="half a minute that only shows that it works")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    minutes = 0.5 if options.quick else options.minutes
    with tempfile.TemporaryDirectory() as runs:
        command = ["train", options.system, "--minutes", f"{minutes:g}", "--runs", runs, "--name", "soak"]
        command += ["--preset", "smoke"] if options.quick else []
        times, memory, status = watch([sys.executable, "-m", "openmm_fab", *command], 1.0 if options.quick else 10.0)
        lines = Path(runs, "soak", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    figures = {
        **flatness(times, memory),
        "minutes": times[-1] / 60,
        "iterations": last["iteration"],
        "evaluations": last["evaluations"],
        "exit_status": status,
    }
    body = "| after | resident memory, MiB |\n|---|---|\n" + "\n".join(
        f"| {times[k] / 60:.0f} min | {memory[k]:.0f} |" for k in np.linspace(0, len(times) - 1, 9).round().astype(int)
    )
    body += (
        f"\n\nIn all {last['iteration']:,} iterations and {last['evaluations']:,} target evaluations. Over the last "
        f"{1 - SETTLED:.0%} of {figures['minutes']:.0f} minutes: least {figures['least_mib']:.0f} MiB, most "
        f"{figures['most_mib']:.0f} MiB, {figures['spread']:.1%} apart; last quarter against first "
        f"{figures['drift']:+.1%}. Exit status {status}."
    )
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
    """MiB; 0 where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = re.search(r"VmRSS:\s+(\d+) kB", text)
    return (int(own[1]) / 1024 if own else 0.0) + sum(resident(int(child)) for child in children)


def flatness(times: list[float], memory: list[float]) -> dict[str, float]:
    """Least, most, their spread over the least, and the drift of the last quarter's mean from the first's."""
    late = np.array(memory)[np.array(times) >= SETTLED * times[-1]]
    quarter = math.ceil(len(late) / 4)
    first, last = late[:quarter].mean(), late[-quarter:].mean()
    least, most = late.min(), late.max()
    spread, drift = most / least - 1, last / first - 1
    return {"least_mib": float(least), "most_mib": float(most), "spread": float(spread), "drift": float(drift)}


if __name__ == "__main__":
    main()
