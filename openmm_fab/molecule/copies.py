"""Copies of Systems, and texts by which two Systems are told to be one."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import openmm

from .checks import UnsupportedSystemError


def copied(system: openmm.System, name: str) -> openmm.System:
    """A copy of the System of a molecule of this name.

    Raises
    ------
    UnsupportedSystemError
        A force that OpenMM cannot copy.
    """
    try:
        return openmm.XmlSerializer.clone(system)
    except openmm.OpenMMException as error:
        raise UnsupportedSystemError(
            [
                f"Expected forces that can be copied; OpenMM says: {error} A PythonForce needs a function that is "
                "defined at the top level of a module: no lambda, and none inside another function."
            ],
            name,
        ) from error


def digest(system: openmm.System) -> bytes:
    """sha256 of a System, the same for its copies."""
    # Two pickles of one function may differ.
    xml = re.sub(r' function="[0-9A-Fa-f]*"', "", openmm.XmlSerializer.serialize(system))
    return hashlib.sha256(xml.encode()).digest()


def canonical_xml(system: openmm.System) -> str:
    """XML of a System, the same in every process and whichever version of OpenMM wrote it; without CMMotionRemovers,
    which have no energy."""
    system = _kinds_in_order(system)
    for i in reversed(range(system.getNumForces())):
        if isinstance(system.getForce(i), openmm.CMMotionRemover):
            system.removeForce(i)
    return re.sub(r' openmmVersion="[^"]*"', "", openmm.XmlSerializer.serialize(system))


def _kinds_in_order(system: openmm.System) -> openmm.System:
    """Copy of a System in which kinds of atoms in tables of pairs are numbered as they first appear among the atoms.

    OpenMM's ForceField numbers them by the order of a set of text, which differs from process to process.
    """
    system = openmm.XmlSerializer.clone(system)
    for force in system.getForces():
        if not isinstance(force, openmm.CustomNonbondedForce) or force.getNumPerParticleParameters() != 1:
            continue
        tables = [force.getTabulatedFunction(k) for k in range(force.getNumTabulatedFunctions())]
        if not tables or not all(isinstance(table, openmm.Discrete2DFunction) for table in tables):
            continue
        kinds = [force.getParticleParameters(i)[0] for i in range(force.getNumParticles())]
        order = list(dict.fromkeys(kinds))
        shapes = {tuple(table.getFunctionParameters()[:2]) for table in tables}
        if shapes != {(len(order), len(order))} or sorted(order) != list(range(len(order))):
            continue
        for i, kind in enumerate(kinds):
            force.setParticleParameters(i, [order.index(kind)])
        index = np.array(order, dtype=int)
        for table in tables:
            rows, columns, values = table.getFunctionParameters()
            square = np.array(values).reshape(columns, rows)[np.ix_(index, index)]
            table.setFunctionParameters(rows, columns, square.flatten().tolist())
    return system
