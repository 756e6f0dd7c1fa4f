"""Learning curves of all recorded main jobs on one picture, and how long each took to reach a given ESS.

`python benchmarks/learning_curves.py [--record]`. Reads RESULTS.md, runs nothing. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from record import RESULTS, record

PICTURE = Path(__file__).parent / "figures" / "learning_curves.png"
GOALS = (50, 70, 90, 95)  # % raw ESS
SECTION = re.compile(r"<!-- main_job_(\S+) -->\n## (.*?)\n(.*?)<!-- /main_job_\1 -->", re.DOTALL)
ROW = re.compile(r"^\| (\d+) \| (\S+) \| ([\d.]+) \| [\d.]+ \|", re.MULTILINE)

Curve = list[tuple[float, float, float]]  # seconds, evaluations, raw ESS in %


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="write the picture, and the table to RESULTS.md")
    parser.add_argument("--quick", action="store_true", help="makes no difference: it takes a second")
    options = parser.parse_args()
    curves = {
        title: [(float(s), float(n), float(ess)) for s, n, ess in ROW.findall(text)]
        for _, title, text in SECTION.findall(RESULTS.read_text(encoding="utf-8"))
    }
    if not curves:
        raise SystemExit(f"Expected sections of benchmarks/main_job.py in {RESULTS}; there are none. Run it first.")
    rows = ["| | " + " | ".join(f"{goal} %" for goal in GOALS) + " |", "|---" * (len(GOALS) + 1) + "|"]
    for title, curve in curves.items():
        rows.append(f"| {title} | " + " | ".join(_reached(curve, goal) for goal in GOALS) + " |")
    if options.record:
        _draw(curves)
        text = "Seconds, and target evaluations, until the raw ESS of 4,096 samples first reached\n\n" + "\n".join(rows)
        record(
            "learning_curves",
            "Learning curves side by side",
            "python benchmarks/learning_curves.py --record",
            f"{text}\n\n![ESS against time and evaluations](figures/{PICTURE.name})",
        )
    print(json.dumps({"benchmark": "learning_curves", "final_ess": {t: c[-1][2] for t, c in curves.items()}}))


def _reached(curve: Curve, goal: float) -> str:
    for seconds, evaluations, ess in curve:
        if ess >= goal:
            return f"{seconds:.0f} s, {evaluations:.2g}"
    return "not reached"


def _draw(curves: dict[str, Curve]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for title, curve in curves.items():
        seconds, evaluations, ess = zip(*curve, strict=True)
        axes[0].plot([s / 60 for s in seconds], ess, label=title)
        axes[1].semilogx(evaluations, ess)
    axes[0].set(xlabel="training, minutes", ylabel="raw ESS of the flow, %", ylim=(0, 100))
    axes[1].set(xlabel="target evaluations")
    figure.legend(loc="outside lower center", fontsize=7)
    figure.savefig(PICTURE, dpi=150)


if __name__ == "__main__":
    main()
