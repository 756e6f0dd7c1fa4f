"""`run_reference`: reference ensembles by one of several methods, each a function from `Task` to ensemble."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..ensemble.ensemble import Ensemble
from ..generator.generator import BoltzmannGenerator
from ..molecule.molecule import refuse_name
from ..molecule.system import MolecularSystem
from ..tools.files import write_atomically
from .convergence import Basin, ReferenceEnsemble, assess_convergence, count_round_trips, reported, walker_blocks
from .hybrid import HybridWalkers
from .ladder import by_temperature, ladder_log_weights
from .langevin import langevin
from .opes import OPESWalker
from .replicas import replica_exchange
from .settings import (
    HybridSettings,
    LangevinSettings,
    MetadynamicsSettings,
    MethodSettings,
    OPESSettings,
    ReplicaExchangeSettings,
    WalkersExchangeSettings,
    WalkersSettings,
    settings_of,
)
from .store import Store, open_folder
from .walkers import BiasedWalkers, ExchangingWalkers, Sampled, Walkers, sample


def run_reference(
    system: MolecularSystem,
    method: str | MethodSettings = "langevin",
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    start: ArrayLike | None = None,
    basin: Basin | None = None,
    progress: bool = True,
    generator: BoltzmannGenerator | None = None,
    **settings: Any,
) -> ReferenceEnsemble:
    """Sample a reference ensemble by molecular dynamics, or by Markov chains with proposals of a trained flow.

    Ctrl-C ends it with a warning and the ensemble of what was sampled.

    Parameters
    ----------
    method : str or MethodSettings
        The settings themselves, `md.WalkersSettings(walkers=64)`, or a name, with settings as further arguments.
        "langevin": OpenMM, one trajectory. "replica-exchange": openmmtools.
        "opes": openmm-opes, one trajectory under a bias on one or two torsions. These three take constraints, and any
        force that OpenMM knows.
        "walkers", "walkers-exchange", "metadynamics": many walkers at once on the compiled energy.
        "hybrid": walkers that jump by the proposals of a trained `generator`, each accepted or refused so that the
        distribution is exact; by far the fastest where the flow is good.
    folder : path, optional
        Frames, checkpoints, settings.json and convergence.txt are kept here.
    resume : bool
        Go on from what is in `folder`, if anything; `time_ps` may be longer than it was. The methods on the compiled
        energy then give the numbers of an uninterrupted run.
    start : (atoms, 3) or (n, atoms, 3), nm, optional
        Starting structures, taken in turn; by default the energy minimum.
    basin : callable taking an mdtraj.Trajectory and returning (n,) bool, optional
        For the convergence report; by default 0 < phi < 2.5 rad (or of the first rotatable bond).
    generator : BoltzmannGenerator, optional
        Of this system; for "hybrid" alone.
    **settings
        See `LangevinSettings`, `ReplicaExchangeSettings`, `WalkersSettings`, `WalkersExchangeSettings`,
        `MetadynamicsSettings`, `OPESSettings`, `HybridSettings`.

    Returns
    -------
    ReferenceEnsemble
        Weights are 1 but for "metadynamics", "opes" and exchanges with `reweight`; blocks are walkers, ladders or
        times; `.convergence` says whether it is long enough.

    Raises
    ------
    ValueError
        Unknown method or settings; constraints or forces that the method does not take; another run in `folder`; a
        generator that is missing, of another system, or of no use to the method.
    UnstableDynamicsError
        Energies that are not finite.
    """
    refuse_name(system)
    chosen = settings_of(method, settings)
    if resume and folder is None:
        raise ValueError("Expected a folder to resume from; got none.")
    if generator is not None and not isinstance(chosen, HybridSettings):
        raise ValueError(f'Expected a generator for method="hybrid" alone; got one for {chosen.name!r}.')
    home = None if folder is None else Path(folder)
    ensemble = SAMPLERS[chosen.name](Task(system, chosen, home, resume, seed, start, basin, progress, generator))
    if home is not None:
        text = f"{ensemble}\n{ensemble.convergence}\n"
        write_atomically(home / "convergence.txt", lambda file: file.write(text), "w")
    return ensemble


@dataclass(frozen=True)
class Task:
    """Arguments of `run_reference` with the method's settings."""

    system: MolecularSystem
    settings: MethodSettings
    folder: Path | None
    resume: bool
    seed: int
    start: ArrayLike | None
    basin: Basin | None
    progress: bool
    generator: BoltzmannGenerator | None

    def open_folder(self) -> Path | None:
        """Prepare the run's folder for writing; see `md.store.open_folder`."""
        if self.folder is None:
            return None
        model = None if self.generator is None else self.generator.digest
        return open_folder(self.folder, self.system, self.settings, self.seed, self.resume, model)


# --- the methods ---


def by_langevin(task: Task) -> ReferenceEnsemble:
    """Sample one trajectory of Langevin dynamics with OpenMM."""
    s = task.settings
    assert isinstance(s, LangevinSettings)
    return langevin(task.system, s, task.open_folder(), task.seed, task.progress, task.start, task.basin)


def by_replica_exchange(task: Task) -> ReferenceEnsemble:
    """Sample by parallel tempering with openmmtools."""
    s = task.settings
    assert isinstance(s, ReplicaExchangeSettings)
    return replica_exchange(task.system, s, task.open_folder(), task.seed, task.progress, task.start, task.basin)


def by_walkers(task: Task) -> ReferenceEnsemble:
    """Independent walkers on the compiled energy, all frames with equal weight."""
    assert isinstance(task.settings, WalkersSettings)
    method = Walkers(task.system, task.settings, task.seed, task.start)
    return _of_walkers(method, _sampled(task, method), task.basin)


def by_walkers_exchange(task: Task) -> ReferenceEnsemble:
    """Walkers in temperature ladders: frames of the lowest temperature, or of all with MBAR weights."""
    assert isinstance(task.settings, WalkersExchangeSettings)
    method = ExchangingWalkers(task.system, task.settings, task.seed, task.start)
    sampled = _sampled(task, method)
    level, k = sampled.arrays["level"], task.settings.temperatures
    about = sampled.about | {"round_trips": count_round_trips(level, k - 1)}
    arrays = {key: sampled.arrays[key] for key in ("x", "u")}
    if not task.settings.reweight:
        return _of_walkers(method, Sampled(arrays, about, sampled.stopped), task.basin)
    everything = {key: by_temperature(level, a, k) for key, a in arrays.items()}
    everything["log_w"] = ladder_log_weights(everything["u"], method.temperatures.double().cpu().numpy())
    ladders = everything["u"].shape[1] // k
    cold = {key: everything[key][:, :ladders] for key in ("x", "u")}
    lowest = _of_walkers(method, Sampled(cold, about, sampled.stopped), task.basin)
    assert lowest.block is not None and lowest.convergence is not None
    # Walkers wander through all temperatures of their ladder: what is independent are ladders.
    return reported(_ensemble(method, everything, np.tile(lowest.block, k)), lowest.convergence)


def by_metadynamics(task: Task) -> ReferenceEnsemble:
    """Walkers under a bias that they built together; frames have the weight exp(V)."""
    assert isinstance(task.settings, MetadynamicsSettings)
    method = BiasedWalkers(task.system, task.settings, task.seed, task.start)
    return _of_walkers(method, _sampled(task, method), task.basin)


def by_opes(task: Task) -> ReferenceEnsemble:
    """One trajectory under a bias of openmm-opes; frames have the weight exp(V)."""
    assert isinstance(task.settings, OPESSettings)
    method = OPESWalker(task.system, task.settings, task.seed, task.start)
    return _of_walkers(method, _sampled(task, method), task.basin)


def by_hybrid(task: Task) -> ReferenceEnsemble:
    """Markov chains with proposals of a trained generator's flow."""
    system, generator = task.system, task.generator
    assert isinstance(task.settings, HybridSettings)
    if generator is None or generator.system.fingerprint != system.fingerprint:
        got = "none" if generator is None else f"one of {generator.system.name}, or another temperature"
        raise ValueError(f'Expected generator=..., trained for {system.name}, with method="hybrid"; got {got}.')
    method = HybridWalkers(generator, task.settings, task.seed, task.start)
    return _of_walkers(method, _sampled(task, method), task.basin)


SAMPLERS: dict[str, Callable[[Task], ReferenceEnsemble]] = {
    LangevinSettings.name: by_langevin,
    ReplicaExchangeSettings.name: by_replica_exchange,
    WalkersSettings.name: by_walkers,
    WalkersExchangeSettings.name: by_walkers_exchange,
    MetadynamicsSettings.name: by_metadynamics,
    OPESSettings.name: by_opes,
    HybridSettings.name: by_hybrid,
}


# --- from walkers to an ensemble ---


def _sampled(task: Task, method: Walkers | OPESWalker | HybridWalkers) -> Sampled:
    return sample(method, Store(task.open_folder()), task.progress)


def _of_walkers(
    method: Walkers | OPESWalker | HybridWalkers, sampled: Sampled, basin: Basin | None
) -> ReferenceEnsemble:
    """Frames (time, walkers, ...) as an ensemble, walker by walker, in independent blocks, with its report."""
    frames, walkers = sampled.arrays["u"].shape
    block = walker_blocks(walkers, frames)
    ensemble = _ensemble(method, sampled.arrays, block)
    report = assess_convergence(ensemble, walkers, frame_ps=method.frame_length, basin=basin, **sampled.about)
    if (longer := walker_blocks(walkers, frames, report.slowest)).max() < block.max():
        ensemble = _ensemble(method, sampled.arrays, longer)
        report = assess_convergence(ensemble, walkers, frame_ps=method.frame_length, basin=basin, **sampled.about)
    return reported(ensemble, report)


def _ensemble(
    method: Walkers | OPESWalker | HybridWalkers, arrays: dict[str, np.ndarray], block: np.ndarray
) -> Ensemble:
    """Arrays (time, walkers, ...) walker by walker; frames without a finite energy have no weight."""
    system, n = method.system, arrays["u"].size
    flat = {key: np.moveaxis(a, 0, 1).reshape(n, *a.shape[2:]) for key, a in arrays.items()}
    invalid = ~np.isfinite(flat["u"])
    log_w = np.where(invalid, -np.inf, flat.get("log_w", np.zeros(n)))
    about: dict[str, Any] = {"block": block, "name": method.settings.name, "invalid": int(invalid.sum())}
    return Ensemble(flat["x"], flat["u"], log_w, system.md_topology, system.temperature, **about)
