"""Parallel tempering with openmmtools: its NetCDF storage, resume, and MBAR weights."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
from numpy.typing import ArrayLike
from openmm import unit

from ..ensemble.ensemble import Ensemble
from ..molecule.system import MolecularSystem
from ..tools.install import install
from ..tools.progress import dynamics_bar
from ..tools.quiet import quiet
from ..tools.warn import warn
from .convergence import ReferenceEnsemble, assess_convergence, count_round_trips, reported
from .ladder import mbar_log_weights, temperature_ladder
from .settings import ReplicaExchangeSettings
from .start import starting_structures
from .storage import check_storage
from .walkers import stopped_message


def replica_exchange(
    system: MolecularSystem,
    settings: ReplicaExchangeSettings,
    folder: Path | None,
    seed: int,
    progress: bool,
    start: ArrayLike | None,
    basin: Any,
) -> ReferenceEnsemble:
    """Sample an ensemble by parallel tempering with openmmtools; the arguments are those of `run_reference`.

    Leaves replicas.nc and its checkpoint, both openmmtools', in the folder, and goes on from them if they are there.

    openmmtools takes no seed for its integrators: two runs are two samples.
    """
    with quiet("openmmtools", "pymbar"), warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.filterwarnings("ignore", message=".*openmmtools API is experimental.*")
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))  # it prints papers to cite: docs/cite.md
        kept = folder is not None
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / "replicas.nc"
        np.random.seed(seed)  # noqa: NPY002 - openmmtools mixes with it
        sampler, done, first = _sampler(system, settings, path, start)
        frames = max(1, round(settings.time_ps / settings.frame_ps))
        total, stopped = first + frames, False
        try:
            for _ in dynamics_bar(
                range(done, total), settings.name, settings.frame_ps, copies=settings.temperatures, show=progress
            ):
                sampler.extend(1)
        except KeyboardInterrupt:
            stopped = True
        del sampler  # closes its files
        read = _read(path, system)
        if len(read["u"]) <= first + 1:
            raise KeyboardInterrupt("Stopped before the first frame of production.")
        if stopped:
            warn(stopped_message((len(read["u"]) - 1) / total, kept))
    # Iteration 0 is the start.
    return _ensemble(system, settings, {k: v[first + 1 :] for k, v in read.items()}, basin)


def _sampler(
    system: MolecularSystem, settings: ReplicaExchangeSettings, path: Path, start: ArrayLike | None
) -> tuple[Any, int, int]:
    """The sampler, iterations done, and how many of them are dropped."""
    try:
        from openmmtools import cache, mcmc, multistate, states
    except ImportError as error:
        raise ImportError(f"Replica exchange needs openmmtools: {install('md')}.") from error
    system.require_unchanged()
    first = round(settings.equilibration_ps / settings.frame_ps)
    reporter = multistate.MultiStateReporter(
        str(path), checkpoint_interval=1, analysis_particle_indices=tuple(range(system.n_atoms))
    )
    if path.exists():
        check_storage(path)
        sampler = multistate.ParallelTemperingSampler.from_storage(reporter)
    else:
        step = settings.step_ps(system.system.getNumConstraints() > 0)
        move = mcmc.LangevinDynamicsMove(
            timestep=step * unit.picosecond,
            collision_rate=settings.friction / unit.picosecond,
            n_steps=max(1, round(settings.frame_ps / step)),
            reassign_velocities=True,  # exchanged replicas keep those of the temperature they come from
        )
        ladder = temperature_ladder(system.temperature, settings.max_temperature, settings.temperatures)
        x = starting_structures(system, start)
        sampler = multistate.ParallelTemperingSampler(mcmc_moves=move, number_of_iterations=0)
        sampler.create(
            thermodynamic_state=states.ThermodynamicState(system.system, system.temperature * unit.kelvin),
            sampler_states=[states.SamplerState(one * unit.nanometer) for one in x[: settings.temperatures]],
            storage=reporter,
            temperatures=[t * unit.kelvin for t in ladder],
            n_temperatures=len(ladder),
        )
    if settings.platform is not None:
        platform = openmm.Platform.getPlatformByName(settings.platform)
        caches = (
            cache.ContextCache(capacity=None, platform=platform, platform_properties=settings.properties)
            for _ in range(2)
        )
        sampler.sampler_context_cache, sampler.energy_context_cache = caches
    return sampler, sampler.iteration, first


def _read(path: Path, system: MolecularSystem) -> dict[str, np.ndarray]:
    """x (iterations, replicas, atoms, 3) nm, u (iterations, replicas, states), level (iterations, replicas)."""
    from openmmtools import multistate

    reporter = multistate.MultiStateReporter(str(path), open_mode="r", checkpoint_interval=1)
    try:
        count = reporter.read_last_iteration(last_checkpoint=False) + 1
        x = [
            [s.positions.value_in_unit(unit.nanometer) for s in reporter.read_sampler_states(i, True)]
            for i in range(count)
        ]
        energies, _, _ = reporter.read_energies()
        level = reporter.read_replica_thermodynamic_states()
    finally:
        reporter.close()
    # Masked arrays of NetCDF; a stop in between leaves later rows unfinished.
    u = np.array(np.ma.filled(energies, np.nan), dtype=np.float64)[:count]
    return {"x": np.array(x, dtype=np.float32), "u": u, "level": np.array(level)[:count]}


def _ensemble(
    system: MolecularSystem, settings: ReplicaExchangeSettings, read: dict[str, np.ndarray], basin: Any
) -> ReferenceEnsemble:
    x, u, level = read["x"], read["u"], read["level"]
    x = x - x.mean(axis=2, keepdims=True)
    frames, replicas = level.shape
    holder = np.argsort(level, axis=1)  # (frames, states)
    rows = np.arange(frames)[:, None]
    x, u = x[rows, holder], u[rows, holder]  # by state
    cold = Ensemble.from_mdtraj(
        mdtraj.Trajectory(x[:, 0], system.md_topology), system, u=u[:, 0, 0], name="replica exchange"
    )
    report = assess_convergence(
        cold,
        1,
        frame_ps=settings.frame_ps,
        basin=basin,
        acceptance=_acceptance(u),
        round_trips=count_round_trips(level, replicas - 1),
    )
    if not settings.reweight:
        return reported(cold, report)
    log_w = mbar_log_weights(np.moveaxis(u, 0, 1))  # (states, frames)
    everything = Ensemble.from_mdtraj(
        mdtraj.Trajectory(np.moveaxis(x, 0, 1).reshape(-1, system.n_atoms, 3), system.md_topology),
        system,
        log_weights=log_w.flatten(),
        # Replicas wander through all temperatures: what is independent are times.
        block=np.tile(np.asarray(cold.block), replicas),
        u=u[..., 0].T.flatten(),
        name="replica exchange",
    )
    return reported(everything, report)


def _acceptance(u: np.ndarray) -> tuple[float, ...]:
    """Mean Metropolis acceptance of exchanges of neighbours, by the energies u (frames, states, states)."""
    k = np.arange(u.shape[1] - 1)
    log_ratio = u[:, k, k] + u[:, k + 1, k + 1] - u[:, k, k + 1] - u[:, k + 1, k]
    return tuple(np.minimum(1.0, np.exp(np.minimum(log_ratio, 0.0))).mean(axis=0).tolist())
