"""Small generators of a chain, and what is known of it, for tests."""

from __future__ import annotations

import numpy as np
from examples import ANGLES, BONDS, TORSIONS

from openmm_fab.ais.annealing import AISSettings
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.train.settings import TrainSettings

SMALL = GeneratorSettings(
    flow=FlowSettings(layers=2, hidden=16, bins=4),
    train=TrainSettings(
        batch=32, updates=2, buffer_min=2, buffer_max=8, warmup=5, learning_rate=1e-2, averaging=0.5, ais=AISSettings()
    ),
)


QUIET = {"progress": False, "compile": False, "evaluate_samples": 64, "evaluate_every": 1e9}


SETTINGS = GeneratorSettings(
    flow=FlowSettings(layers=4, hidden=32, bins=8), train=TrainSettings(batch=256, buffer_min=2, buffer_max=8)
)


GRID = {
    "bond": np.linspace(0.1, 0.2, 4001),
    "angle": np.linspace(0.6, 3.14, 8001),
    "torsion": np.linspace(-np.pi, np.pi, 4001),
}


def chain_marginals(kT: float, torsions: float = 1.0) -> list[tuple[np.ndarray, np.ndarray]]:
    """(grid, unnormalised density) of each bond, angle and torsion of the chain, volume elements included."""
    r, a, t = GRID["bond"], GRID["angle"], GRID["torsion"]
    found = [(r, r**2 * np.exp(-0.5 * k * (r - r0) ** 2 / kT)) for r0, k in BONDS]
    found += [(a, np.sin(a) * np.exp(-0.5 * k * (a - a0) ** 2 / kT)) for a0, k in ANGLES]
    for terms in TORSIONS:
        u = sum(k * (1 + np.cos(m * t - phase)) for m, phase, k in terms)
        found.append((t, np.exp(-torsions * u / kT)))
    return found
