"""The translated energy against OpenMM's Reference platform, in float64: the largest deviations on many systems.

`python benchmarks/energy_accuracy.py [--quick] [--structures N] [--record]`. N structures with thermal noise (0.003 nm)
and N strained ones (0.03 nm); every force is compared alone, then all of them together. The systems are those of
`tests/energy_systems.py`; most of them need openmmtools. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import openmm
import torch
from record import record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from energy_systems import SLOW, SYSTEMS, EnergySystem, load
from forces import STRAINED, Deviation, alone, deviation, structures

TITLE = "The translated energy against OpenMM Reference, float64"
HEADER = "| system | atoms | forces | energy, kJ/mol | energy, relative | force, relative |\n|---|---|---|---|---|---|"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="below a minute: every sixth system")
    parser.add_argument("--structures", type=int, default=8, help="of each kind")
    parser.add_argument("--record", action="store_true", help="write the table to RESULTS.md")
    options = parser.parse_args()
    names = [name for name in SYSTEMS if name not in SLOW][::6] if options.quick else list(SYSTEMS)
    found, rows = {}, []
    for name in names:
        found[name] = worst(load(name), options.structures)
        rows.append(_row(name, load(name), found[name]))
        print(rows[-1], flush=True)
    most = _largest(list(found.values()))
    if options.record:
        text = f"OpenMM {openmm.version.short_version}; {2 * options.structures} structures of each system, half with "
        text += "0.003 nm of noise and half with 0.03 nm; the largest deviation of any force alone and of their sum. "
        text += "Energies relative to their size or to 1 kJ/mol, forces to the largest component in the structure.\n\n"
        command = f"python benchmarks/energy_accuracy.py --structures {options.structures} --record"
        record("energy_accuracy", TITLE, command, text + "\n".join([HEADER, *rows, _row("largest", None, most)]))
    figures = {"systems": len(found), "energy": most.energy, "relative": most.relative, "force": most.force}
    print(json.dumps({"benchmark": "energy_accuracy", "quick": options.quick, **figures}))


def worst(found: EnergySystem, n: int) -> Deviation:
    """Of the whole System and of each of its forces."""
    x = torch.cat([structures(found.positions, n), structures(found.positions, n, STRAINED)])
    return _largest([deviation(system, x, found.parameters) for system in (found.system, *alone(found.system))])


def _largest(deviations: list[Deviation]) -> Deviation:
    return Deviation(*(max(getattr(d, name) for d in deviations) for name in ("energy", "relative", "force")))


def _row(name: str, found: EnergySystem | None, of: Deviation) -> str:
    atoms, forces = "", ""
    if found is not None:
        atoms = str(len(found.positions))
        names = [type(force).__name__.removesuffix("Force") for force in found.system.getForces()]
        forces = ", ".join(dict.fromkeys(n for n in names if n != "CMMotionRemover"))
    return f"| {name} | {atoms} | {forces} | {of.energy:.1e} | {of.relative:.1e} | {of.force:.1e} |"


if __name__ == "__main__":
    main()
