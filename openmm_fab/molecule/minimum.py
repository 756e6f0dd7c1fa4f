"""Local energy minima, the same in every call, for all that is made from the molecule's structure."""

from __future__ import annotations

import numpy as np
import openmm
from openmm import unit

LARGE = 60  # atoms


def minimised(system: openmm.System, positions: np.ndarray) -> np.ndarray:
    """Local energy minimum (n_atoms, 3) float64, nm, below the given positions (deterministic).

    Constrained bonds have their lengths.
    """
    # Reference: double precision and one thread, so two calls give the same numbers. CPU, faster for large
    # molecules and as repeatable with one thread, goes most of the way; their soft ends need not be followed.
    large = len(positions) > LARGE
    for platform in ("CPU", "Reference") if large else ("Reference",):
        positions = _minimised(system, positions, platform, 1.0 if large else 0.01, 100 if large else 0)
    return positions


def _minimised(
    system: openmm.System, positions: np.ndarray, platform: str, tolerance: float, polish: int
) -> np.ndarray:
    """Tolerance in kJ/mol/nm, root mean square; `polish`: most iterations on Reference, 0 for as many as it takes."""
    properties = {"Threads": "1", "DeterministicForces": "true"} if platform == "CPU" else {}
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform), properties)
    context.setPositions(positions)
    # The minimizer itself leaves constraints with a relative error of up to 1e-4.
    context.applyConstraints(1e-10 if platform == "Reference" else 1e-6)
    openmm.LocalEnergyMinimizer.minimize(context, tolerance, 0 if platform == "CPU" else polish)
    context.applyConstraints(1e-10 if platform == "Reference" else 1e-6)
    return context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
