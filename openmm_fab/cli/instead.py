"""Whether molecular dynamics would have had a run's error in less time, by what it took of the molecules in race.json.

The file is of `python -m benchmarks race`, as recorded: energies that each method of many walkers took, from nothing,
until a standard error of 0.1 kT.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..energy.compiled import CompiledEnergy
from ..md.bias import chosen_torsions
from ..md.settings import WalkersSettings, settings_of
from ..md.walkers import BiasedWalkers, ExchangingWalkers
from ..molecule.torsions import named_torsions
from ..tools.findings import CARE, Finding
from ..tools.progress import duration

if TYPE_CHECKING:
    from ..generator.generator import BoltzmannGenerator
    from ..generator.outcome import Outcome
    from ..molecule.system import MolecularSystem

RECORDED = Path(__file__).with_name("race.json")
AT = 0.1  # kT, of the energies in the file
BATCH = 256


def dynamics_instead(outcome: Outcome, generator: BoltzmannGenerator) -> Finding | None:
    """Method of dynamics that is expected to take less time than a run did, or would take; None: none is.

    Metadynamics is for molecules that its biases cover, with two torsions that are named at most; others have exchanges
    of temperatures; both are for energies that are translated. The most energies that any molecule took are counted, at
    the pace that they have here.
    """
    if not isinstance(generator.energy, CompiledEnergy):
        return None
    named = named_torsions(generator.system.md_topology)
    covered = bool(named) and len(named) <= len(chosen_torsions(generator.system.md_topology, None))
    method = "metadynamics" if covered else "walkers-exchange"
    recorded = json.loads(RECORDED.read_text("utf-8"))["energies"].get(method, {})
    if not recorded:
        return None
    molecule = max(recorded, key=recorded.get)
    energies = recorded[molecule] * (AT / outcome.error) ** 2
    seconds = energies * seconds_of_a_step(generator.system, method)
    spent = sum(outcome.seconds.values())
    took = spent if outcome.reached <= outcome.error else outcome.takes
    if math.isfinite(took) and seconds >= took:
        return None
    flow = f"the flow's {duration(took)}" if math.isfinite(took) else "what cannot be said of the flow"
    return Finding(
        CARE,
        f"Molecular dynamics may take less: {method}, about {duration(seconds)}, against {flow}",
        f"{energies:.2g} energies, as it took of {molecule}, the most of {len(recorded)} in the recorded race: "
        f"openmm-fab reference SYSTEM --method {method}. A flow also answers what comes after: other temperatures, "
        "other charges.",
    )


def seconds_of_a_step(system: MolecularSystem, method: str) -> float:
    """Seconds of one step of one of `BATCH` walkers of a method, its energy and its bias among them."""
    settings = settings_of(method, {"walkers": BATCH, "hydrogen_mass": 3.0, "step_fs": 2.0, "frame_ps": 0.2})
    assert isinstance(settings, WalkersSettings)
    walkers = (BiasedWalkers if method == "metadynamics" else ExchangingWalkers)(system, settings, 0, None)
    state, _ = walkers.advance(walkers.first())
    started = time.perf_counter()
    walkers.advance(state)
    return (time.perf_counter() - started) / (BATCH * walkers.steps * walkers.rounds)
