"""Forces of a System that Python calculates."""

from __future__ import annotations

import openmm


def calls_python(system: openmm.System) -> bool:
    """Whether there is a PythonForce in the System, also one within another force (CustomCVForce, ATMForce)."""
    forces = list(system.getForces())
    for force in forces:  # grows while it is walked
        if type(force).__name__ == "PythonForce":
            return True
        if isinstance(force, openmm.CustomCVForce):
            forces += [force.getCollectiveVariable(k) for k in range(force.getNumCollectiveVariables())]
        if isinstance(force, openmm.ATMForce):
            forces += [force.getForce(k) for k in range(force.getNumForces())]
    return False
