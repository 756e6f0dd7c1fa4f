"""OpenMM as one torch function: a batch of structures in, reduced energies and their gradient out.

OpenMM evaluates one structure per call, so a batch is shared out to several *workers*: each is a Python
thread with a Context of its own. OpenMM releases Python's lock while it computes, so threads run side by
side. Worker processes evaluate about as many structures a second (`python -m benchmarks energy bridge` measures both,
on every platform), and have to be started and fed through pipes. They are taken for forces that Python calculates,
which keep the lock, where they are faster by timing (`processes`).

A worker that raises, or does not answer for long, ends the call with a `WorkerError`; no numbers come of that call, and
the next one starts with new Contexts.

On the CPU platform a Context with one thread still hands every step of the calculation to its own worker
thread and waits for it. For small molecules on idle cores these waits dominate, so more workers than
cores can be the fastest choice. Which platform and how many workers win differs from molecule to molecule
and from machine to machine: they are timed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import openmm
import torch
from torch import Tensor

from ..molecule.openmm_private import magnitude
from ..molecule.python import calls_python
from ..molecule.system import MolecularSystem
from ..tools.devices import core_count
from ..tools.errors import OpenMMFabError
from .agreement import compare
from .processes import ProcessError, Processes
from .protocol import differentiable_once, require_positions

TIMING_SECONDS = 0.06  # per candidate; up to about eight candidates
ABOUT_AS_FAST = 1.3
TIMING_JIGGLE = 0.003  # nm, about a thermal displacement
TIME_LIMIT = 600.0  # s for one structure; the first one on a GPU takes up to about a minute
CLASH = 1e6  # 1/nm; single precision has nothing to say of steeper energies
ONLY_FIRST = "OpenMM gives first derivatives of the energy only; do not differentiate twice."


class WorkerError(OpenMMFabError, RuntimeError):
    """A worker of an `OpenMMEnergy` raised, or did not answer in time; the message says which, on what structure."""


class OpenMMEnergy:
    """Reduced energy u(x) = U(x)/kT computed by OpenMM; see `energy.protocol.Energy`.

    A structure with non-finite coordinates is never shown to OpenMM: the CPU platform may answer with a plausible
    number.

    Parameters
    ----------
    system : MolecularSystem
    platform : str or None
        "Reference", "CPU", "CUDA", "OpenCL", ...; None times Reference and CPU and takes the faster one.
        The CPU platform works in single precision (errors of a few 1e-4 kJ/mol); which one wins can
        change from run to run, so name the platform where numbers must repeat.
    workers : int or None
        Contexts and threads; None: timed together with the platform (GPUs: 1).
    properties : mapping of str to str
        OpenMM's platform properties; on the CPU platform Threads is "1" unless given.
    time_limit : float, s
        How long a worker may take for one structure before the call is given up.
    processes : bool or None
        Workers that are processes. None: timed where there is a PythonForce, more than one core, and neither platform
        nor workers are named.

    Attributes
    ----------
    platform, workers, processes
        The choice made.
    timings : dict of (platform, workers) to float
        Seconds per structure, for the candidates that were timed; empty if nothing was.
    evaluations, invalid : int
        Structures evaluated so far, and those of them that were invalid.
    reason : str
        Why it is OpenMM and not a translation, if `reduced_energy` chose.

    Raises
    ------
    DisagreementError
        If a Context of the platform gives another energy or gradient than the Reference platform.
    WorkerError
        Here and in calls: see the module's head.
    """

    def __init__(
        self,
        system: MolecularSystem,
        platform: str | None = None,
        *,
        workers: int | None = None,
        properties: Mapping[str, str] | None = None,
        time_limit: float = TIME_LIMIT,
        processes: bool | None = None,
    ):
        known = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
        if platform is not None and platform not in known:
            raise ValueError(f"Expected a platform out of {known}; got {platform!r}.")
        if properties and platform is None:
            raise ValueError(f"Expected a platform for the properties {dict(properties)}; got None. Name it.")
        if workers is not None and workers < 1:
            raise ValueError(f"Expected workers >= 1; got {workers}.")
        if not time_limit > 0:
            raise ValueError(f"Expected time_limit > 0 s; got {time_limit}.")
        self.system, self.time_limit = system, time_limit
        self.evaluations = 0
        self.invalid = 0
        self.reason = ""
        self.timings: dict[tuple[str, int], float] = {}
        self._properties = dict(properties or {})
        self._lock = threading.Lock()  # a Context serves one caller at a time
        self._pid = os.getpid()
        self._contexts: list[openmm.Context] = []
        self._broken = False  # a call ended early: a thread may still be using a Context
        self._pool: Processes | None = None
        self.processes = bool(processes)
        candidates = _candidates(platform, workers, known)
        if len(candidates) > 1:
            self._time(candidates)
            candidates = [_choose(self.timings)]
        self._start(*candidates[0])
        if processes is None and platform is None and workers is None and calls_python(system.system):
            self._try_processes()
        if self.platform != "Reference":
            self._hold_against_reference()

    def __call__(self, x: Tensor) -> Tensor:
        """Reduced energies (batch,) of x (batch, n_atoms, 3), nm; see `energy.protocol.Energy`.

        Forces are computed in the same pass where x needs a gradient, and only there.
        """
        if x.requires_grad and torch.is_grad_enabled():
            return differentiable_once(lambda _: self.value_and_gradient(x), x, refusal=ONLY_FIRST)
        return self._evaluate(x.detach(), with_gradient=False)[0]

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u (batch,) and du/dx (batch, n_atoms, 3) in 1/nm, both detached."""
        u, gradient = self._evaluate(x.detach(), with_gradient=True)
        assert gradient is not None
        return u, gradient

    def close(self) -> None:
        """Free the Contexts; later calls raise."""
        self._contexts, self._broken = [], False
        if self._pool is not None:
            self._pool.close()
        self._pool = None

    def __del__(self) -> None:
        if getattr(self, "_pool", None) is not None:
            self.close()

    def __enter__(self) -> OpenMMEnergy:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        workers = f"{self.workers} processes" if self.processes else f"{self.workers}"
        about = f"platform={self.platform!r}, workers={workers}, {self.reason!r}"
        return f"OpenMMEnergy({self.system.name!r}, {about})"

    # --- inside ---

    def _start(self, platform: str, workers: int) -> None:
        self.system.require_unchanged()
        self.platform, self.workers = platform, workers
        properties = {"Threads": "1", **self._properties} if platform == "CPU" else self._properties
        if self.processes:
            self._pool = Processes(self.system.system, platform, properties, workers)
        self._contexts = [
            openmm.Context(
                self.system.system,
                openmm.VerletIntegrator(0.001),  # never stepped
                openmm.Platform.getPlatformByName(platform),
                properties,
            )
            for _ in range(1 if self.processes else workers)
        ]
        self._broken = False

    def _try_processes(self) -> None:
        """Go over to a process a core where that is faster than the threads that were chosen."""
        n, platform, workers = core_count(), self.platform, self.workers
        if n < 2 or sys.platform == "win32":
            return
        x = self.system.positions + np.random.default_rng(0).normal(
            scale=TIMING_JIGGLE, size=(4 * n, self.system.n_atoms, 3)
        )

        def seconds() -> float:
            self._share_out(x[:n], True)
            begun = time.perf_counter()
            self._share_out(x, True)
            return time.perf_counter() - begun

        self._start(platform, workers)
        by_threads, self.processes = seconds(), True
        try:
            self._start(platform, n)
            self.processes = seconds() * ABOUT_AS_FAST < by_threads
        except (ProcessError, WorkerError):  # functions of a notebook, which no other program can import
            self.processes = False
        if not self.processes:
            self.close()
            self._start(platform, workers)

    def _hold_against_reference(self) -> None:
        """Compare every Context with the Reference platform on one structure, or raise DisagreementError."""
        noise = np.random.default_rng(0).normal(scale=TIMING_JIGGLE, size=(self.system.n_atoms, 3))
        with OpenMMEnergy(self.system, platform="Reference", workers=1) as reference:
            x = torch.from_numpy(self.system.positions + noise)[None]
            u, gradient = reference.value_and_gradient(x)
            if not u.isfinite().all() or float(gradient.abs().max()) > CLASH:
                x = torch.from_numpy(self.system.minimum + noise)[None]
                u, gradient = reference.value_and_gradient(x)
        n = self.workers
        found = self.value_and_gradient(x.expand(n, -1, -1))
        self.evaluations = self.invalid = 0
        advice = (
            f'This is platform "{self.platform}" against "Reference". Name another platform; on a GPU also look at its '
            'driver, and at Precision "mixed".'
        )
        compare(found, (u.expand(n), gradient.expand(n, -1, -1)), torch.float32, advice)

    def _time(self, candidates: list[tuple[str, int]]) -> None:
        """Fill `timings` with seconds per structure on slightly perturbed copies of the molecule."""
        noise = np.random.default_rng(0).normal(
            scale=TIMING_JIGGLE, size=(2 * max(n for _, n in candidates), self.system.n_atoms, 3)
        )
        x = self.system.positions + noise
        for platform, workers in candidates:
            self._start(platform, workers)
            self._share_out(x[:workers], True)  # the first evaluation of a Context compiles and allocates
            seconds: list[float] = []
            while sum(seconds) < TIMING_SECONDS:
                start = time.perf_counter()
                self._share_out(x[: 2 * workers], True)
                seconds.append(time.perf_counter() - start)
            # The median, as other programs on the machine slow some calls a lot.
            self.timings[platform, workers] = float(np.median(seconds)) / len(x[: 2 * workers])
            self.close()

    def _evaluate(self, x: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        require_positions(x, self.system.n_atoms)
        if os.getpid() != self._pid:
            # OpenMM's threads do not follow into a forked child: its Contexts would wait for ever.
            raise RuntimeError("This OpenMMEnergy was made in the parent process; make a new one after the fork.")
        if not self._contexts:
            raise RuntimeError("This OpenMMEnergy was closed; make a new one.")
        positions = x.to("cpu", torch.float64).numpy()
        energies = np.full(len(x), np.inf)
        forces = np.zeros(positions.shape) if with_gradient else None
        usable = np.flatnonzero(np.isfinite(positions).all(axis=(1, 2)))
        with self._lock:
            energies[usable], found = self._share_out(positions[usable], with_gradient)
        # Judged in the caller's dtype, where a large finite number may already be infinite.
        u = torch.from_numpy(energies / self.system.kT).to(x)
        valid = torch.isfinite(u)
        gradient = None
        if forces is not None:
            forces[usable] = found
            gradient = torch.from_numpy(forces / -self.system.kT).to(x)
            valid &= torch.isfinite(gradient).all(dim=(1, 2))
            gradient[~valid] = 0.0
        u[~valid] = torch.inf
        with self._lock:
            self.evaluations += len(x)
            self.invalid += int((~valid).sum())
        return u, gradient

    def _share_out(self, positions: np.ndarray, with_forces: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Energies (n,), kJ/mol, and forces (n, n_atoms, 3), kJ/mol/nm; each worker takes one stretch of rows."""
        if self._broken:
            self._start(self.platform, self.workers)
        if self._pool is not None:
            self._broken = True
            try:
                found = self._pool(positions, with_forces, self.time_limit)
            except ProcessError as error:
                raise WorkerError(
                    f"Expected energies from {self.workers} processes; one said: {error} The next call starts with new "
                    f"ones. If it comes again, {self._advice}."
                ) from error
            self._broken = False
            return found
        energies = np.full(len(positions), np.nan)
        forces = np.full(positions.shape, np.nan) if with_forces else None
        stretches = [s for s in np.array_split(np.arange(len(positions)), self.workers) if len(s)]
        workers = [
            _Worker(context, positions, s, energies, forces)
            for context, s in zip(self._contexts, stretches, strict=False)
        ]
        self._broken = True
        try:
            for worker in workers:
                worker.start()
            for k, worker in enumerate(workers):
                self._finish(k, worker)
        finally:
            for worker in workers:
                worker.stopped = True  # after Ctrl-C, too, it ends with the structure that it is at
        self._broken = False
        return energies, forces

    def _finish(self, k: int, worker: _Worker) -> None:
        """Wait for a worker and pass on what it raised."""
        while worker.is_alive():
            before = worker.done
            worker.join(self.time_limit)
            if worker.is_alive() and worker.done == before:
                raise WorkerError(
                    f"Expected an energy from OpenMM's {self.platform} platform in {self.time_limit:g} s; worker {k} "
                    f"of {self.workers} has been at structure {worker.rows[before]} for longer. Name another platform, "
                    "or raise time_limit if it is only slow."
                )
        if isinstance(worker.error, Exception) or (worker.error is None and worker.done < len(worker.rows)):
            raise WorkerError(
                f"Expected energies from OpenMM's {self.platform} platform; worker {k} of {self.workers} ended at "
                f"structure {worker.rows[worker.done]} of the batch with {worker.error!r}. The next call starts with "
                f"new Contexts. If it comes again, {self._advice}."
            ) from worker.error
        if worker.error is not None:
            raise worker.error

    @property
    def _advice(self) -> str:
        if not calls_python(self.system.system):
            return "name another platform or fewer workers"
        return (
            "look at the function of the PythonForce: where it cannot calculate, as for atoms on top of each other, "
            "let it return an energy of inf and forces of zero, and the structure is counted as invalid"
        )


class _Worker(threading.Thread):
    """Evaluates some rows of a batch in one Context.

    A thread of its own a call, which costs less than one structure; a daemon, so that one that hangs holds up neither
    the caller nor the end of the program.
    """

    def __init__(
        self,
        context: openmm.Context,
        positions: np.ndarray,
        rows: np.ndarray,
        energies: np.ndarray,
        forces: np.ndarray | None,
    ) -> None:
        super().__init__(name="openmm", daemon=True)
        self.context, self.positions, self.rows, self.energies, self.forces = context, positions, rows, energies, forces
        self.done, self.stopped = 0, False
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for row in self.rows:
                if self.stopped:
                    return
                self.evaluate(row)
                self.done += 1
        except BaseException as error:
            self.error = error

    def evaluate(self, row: int) -> None:
        self.context.setPositions(self.positions[row])
        state = self.context.getState(energy=True, forces=self.forces is not None)
        self.energies[row] = magnitude(state.getPotentialEnergy())
        if self.forces is not None:
            self.forces[row] = magnitude(state.getForces(asNumpy=True))


def _candidates(platform: str | None, workers: int | None, known: list[str]) -> list[tuple[str, int]]:
    """(platform, workers) to choose from. GPUs only if asked for: starting one outlasts the whole timing."""
    cores = core_count()
    # More workers than cores hide the CPU platform's waits, on machines with few cores.
    counts = {"Reference": [1, cores], "CPU": [1, cores, *(n for n in (2 * cores, 4 * cores) if n <= 16)]}
    platforms = [platform] if platform is not None else [p for p in counts if p in known]
    return [(p, n) for p in platforms for n in ([workers] if workers is not None else sorted(set(counts.get(p, [1]))))]


def _choose(timings: Mapping[tuple[str, int], float]) -> tuple[str, int]:
    """The most workers among the candidates that are about as fast as the fastest.

    On a busy machine one worker can look as good as many, as waits cost nothing there; when it falls idle, they do.
    """
    fast = [candidate for candidate, seconds in timings.items() if seconds < ABOUT_AS_FAST * min(timings.values())]
    return max(fast, key=lambda candidate: (candidate[1], -timings[candidate]))
