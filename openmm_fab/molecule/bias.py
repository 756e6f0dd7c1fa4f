"""Detection of forces in a System that look like a bias left by enhanced sampling."""

from __future__ import annotations

import openmm

TABLES = (openmm.Continuous1DFunction, openmm.Continuous2DFunction, openmm.Continuous3DFunction)


def biases(system: openmm.System) -> list[str]:
    """Warnings, one a force, for forces that are tables over collective variables, as metadynamics makes them.

    `app.Metadynamics` and openmm-opes put such a force, a CustomCVForce, into the System that they are given, and it
    stays there.
    """
    return [
        f"its System has a bias, force {k} ({force.getName()}: {force.getEnergyFunction()}), a table over collective "
        "variables as app.Metadynamics and OPES leave it behind. Its energy is part of u. Unless that is meant, give a "
        f"System from before, or take it out: system.removeForce({k})."
        for k, force in enumerate(system.getForces())
        if isinstance(force, openmm.CustomCVForce)
        and any(isinstance(force.getTabulatedFunction(n), TABLES) for n in range(force.getNumTabulatedFunctions()))
    ]
