"""OpenMM Contexts in processes of their own: for forces that Python calculates, which threads would do one by one.

A process is a new interpreter, not a copy of this one, so that neither a notebook nor a script without a main guard
is run again. It runs `serving.py`: structures come in by its standard input, energies and forces leave by its standard
output, and it ends when the input does, as with the program that started it.
"""

from __future__ import annotations

import os
import pickle
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openmm

from ..tools.errors import OpenMMFabError

STARTING = 120.0  # s; a function's module may import PyTorch
SERVE = f"import runpy; runpy.run_path({str(Path(__file__).with_name('serving.py'))!r}, run_name='__main__')"


class ProcessError(OpenMMFabError, RuntimeError):
    """A process did not start, ended, or did not answer in time; the message says what it said last."""


class Processes:
    """A batch shared out to processes, each with a Context.

    Parameters
    ----------
    system : openmm.System
        Whose functions other programs can import: defined in a module, not in a notebook or in the script that runs.
    platform : str
    properties : mapping of str to str
    number : int

    Raises
    ------
    ProcessError
    """

    def __init__(self, system: openmm.System, platform: str, properties: Mapping[str, str], number: int) -> None:
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", SERVE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the program that started them
            )
            for _ in range(number)
        ]
        about = (openmm.XmlSerializer.serialize(system), platform, dict(properties))
        try:
            for process in self.processes:
                _send(process, about)
            for process in self.processes:
                _answer(process, STARTING)
        except BaseException:
            self.close()
            raise

    def __call__(
        self, positions: np.ndarray, with_forces: bool, time_limit: float
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Energies (n,), kJ/mol, and forces (n, n_atoms, 3), kJ/mol/nm, of positions (n, n_atoms, 3), nm.

        Parameters
        ----------
        time_limit : float, s
            For a structure.

        Raises
        ------
        ProcessError
            All of them are ended; the next ones have to be made.
        """
        parts = np.array_split(positions, len(self.processes))
        busy = [(process, part) for process, part in zip(self.processes, parts, strict=True) if len(part)]
        try:
            for process, part in busy:
                _send(process, (part, with_forces))
            found = [_answer(process, time_limit * len(part)) for process, part in busy]
        except BaseException:
            self.close()
            raise
        energies = np.concatenate([np.zeros(0), *(energies for energies, _ in found)])
        if not with_forces:
            return energies, None
        return energies, np.concatenate([np.zeros((0, *positions.shape[1:])), *(forces for _, forces in found)])

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self.processes = []


def _send(process: subprocess.Popen[bytes], what: Any) -> None:
    assert process.stdin is not None
    try:
        pickle.dump(what, process.stdin, protocol=5)
        process.stdin.flush()
    except OSError as error:
        raise ProcessError(f"Expected a process that evaluates; it ended with {process.poll()}.") from error


def _answer(process: subprocess.Popen[bytes], seconds: float) -> Any:
    """Unpickle the answer of a process, which has to come within so many seconds; ProcessError otherwise."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    if not ready:
        raise ProcessError(f"Expected an answer of a process in {seconds:g} s; there is none.")
    try:
        error, found = pickle.load(process.stdout)
    except EOFError as end:
        raise ProcessError(f"Expected an answer of a process; it ended with {process.wait()}.") from end
    if error:
        raise ProcessError(error)
    return found
