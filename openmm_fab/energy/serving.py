"""What a process of `processes.Processes` runs: a Context that evaluates what comes in, until nothing comes any more.

Run as a script, it imports OpenMM and nothing of this package, so that it starts in half a second.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import IO, Any

import numpy as np
import openmm
from openmm import unit


def serve() -> None:
    """System, platform and properties come in, then positions (n, n_atoms, 3), nm, and whether forces are wanted.

    Each time an error, in words, goes out, and energies (n,) in kJ/mol and forces (n, n_atoms, 3) in kJ/mol/nm.
    """
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what functions print is no answer
    try:
        context = _context(*pickle.load(requests))
    except Exception as error:
        _put(answers, f"{type(error).__name__}: {error}", None)
        return
    _put(answers, "", None)
    while True:
        try:
            positions, with_forces = pickle.load(requests)
        except EOFError:
            return
        _put(answers, *_evaluated(context, positions, with_forces))


def _context(xml: str, platform: str, properties: dict[str, str]) -> openmm.Context:
    system = openmm.XmlSerializer.deserialize(xml)
    where = openmm.Platform.getPlatformByName(platform)
    return openmm.Context(system, openmm.VerletIntegrator(0.001), where, properties)


def _evaluated(context: openmm.Context, positions: np.ndarray, with_forces: bool) -> tuple[str, Any]:
    energies, forces = np.empty(len(positions)), np.empty(positions.shape if with_forces else 0)
    for row, structure in enumerate(positions):
        try:
            context.setPositions(structure)
            state = context.getState(energy=True, forces=with_forces)
        except Exception as error:
            return f"{error!r} at its structure {row}", None
        energies[row] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        if with_forces:
            found = state.getForces(asNumpy=True)
            forces[row] = found.value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return "", (energies, forces)


def _put(answers: IO[bytes], error: str, found: Any) -> None:
    pickle.dump((error, found), answers, protocol=5)
    answers.flush()


if __name__ == "__main__":
    serve()
