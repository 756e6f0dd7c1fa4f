"""Reference ensembles from molecular dynamics: by OpenMM, by openmmtools, or by many walkers on the compiled energy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..ensemble.ensemble import Ensemble
from ..generator.generator import BoltzmannGenerator
from ..molecule.system import MolecularSystem
from ..tools.files import write_atomically
from .convergence import Basin, ReferenceEnsemble, convergence, count_round_trips, reported, walker_blocks
from .hybrid import HybridWalkers
from .ladder import by_temperature, ladder_log_weights
from .settings import (
    HybridSettings,
    LangevinSettings,
    MetadynamicsSettings,
    MethodSettings,
    ReplicaExchangeSettings,
    WalkersExchangeSettings,
    WalkersSettings,
    settings_of,
)
from .store import Store, open_folder
from .walkers import BiasedWalkers, ExchangingWalkers, Sampled, Walkers, sample


def reference(
    system: MolecularSystem,
    method: str = "langevin",
    folder: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    start: ArrayLike | None = None,
    basin: Basin | None = None,
    progress: bool = True,
    generator: BoltzmannGenerator | None = None,
    **settings: Any,
) -> ReferenceEnsemble:
    """Sample a molecule by molecular dynamics, or by Markov chains that a trained flow helps.

    Ctrl-C ends it with a warning and the ensemble of what was sampled.

    Parameters
    ----------
    method : str
        "langevin": OpenMM, one trajectory. "replica-exchange": openmmtools. Both take constraints.
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
        `MetadynamicsSettings`, `HybridSettings`.

    Returns
    -------
    ReferenceEnsemble
        Weights are 1 but for "metadynamics" and exchanges with `reweight`; blocks are walkers, ladders or times;
        `.convergence` says whether it is long enough.

    Raises
    ------
    ValueError
        Unknown method or settings; constraints or forces that the method does not take; another run in `folder`; a
        generator that is missing, of another system, or of no use to the method.
    UnstableDynamicsError
        Energies that are not finite.
    """
    chosen = settings_of(method, settings)
    if resume and folder is None:
        raise ValueError("Expected a folder to resume from; got none.")
    runner = None if isinstance(chosen, LangevinSettings) else _walkers(system, chosen, seed, start, generator)
    if generator is not None and not isinstance(runner, HybridWalkers):
        raise ValueError(f'Expected a generator for method="hybrid" alone; got one for {method!r}.')
    model = None if generator is None else generator.digest
    home = None if folder is None else open_folder(folder, system, chosen, seed, resume, model)
    if runner is not None:
        ensemble = _of_walkers(runner, sample(runner, Store(home), progress), basin)
    elif isinstance(chosen, ReplicaExchangeSettings):
        from .replicas import replica_exchange

        ensemble = replica_exchange(system, chosen, home, seed, progress, start, basin)
    else:
        from .langevin import langevin

        assert isinstance(chosen, LangevinSettings)
        ensemble = langevin(system, chosen, home, seed, progress, start, basin)
    if home is not None:
        text = f"{ensemble}\n{ensemble.convergence}\n"
        write_atomically(home / "convergence.txt", lambda file: file.write(text), "w")
    return ensemble


def _walkers(
    system: MolecularSystem,
    settings: MethodSettings,
    seed: int,
    start: ArrayLike | None,
    generator: BoltzmannGenerator | None,
) -> Walkers | HybridWalkers:
    if isinstance(settings, HybridSettings):
        if generator is None or generator.system.fingerprint != system.fingerprint:
            got = "none" if generator is None else f"one of {generator.system.name}, or another temperature"
            raise ValueError(f'Expected generator=..., trained for {system.name}, with method="hybrid"; got {got}.')
        return HybridWalkers(generator, settings, seed, start)
    kinds = {WalkersSettings: Walkers, WalkersExchangeSettings: ExchangingWalkers, MetadynamicsSettings: BiasedWalkers}
    assert isinstance(settings, WalkersSettings)
    return kinds[type(settings)](system, settings, seed, start)


def _of_walkers(method: Walkers | HybridWalkers, sampled: Sampled, basin: Basin | None) -> ReferenceEnsemble:
    """Frames (time, walkers, ...) as an ensemble, walker by walker, with the report on the system's temperature."""
    arrays, about, hot = sampled.arrays, sampled.about, None
    if isinstance(method, ExchangingWalkers):
        level, k = arrays["level"], method.settings.temperatures
        about = about | {"round_trips": count_round_trips(level, k - 1)}
        if method.settings.reweight:
            hot = {key: by_temperature(level, arrays[key], k) for key in ("x", "u")}
            hot["log_w"] = ladder_log_weights(hot["u"], method.temperatures.double().cpu().numpy())
            arrays = {key: hot[key][:, : hot["u"].shape[1] // k] for key in ("x", "u")}
    frames, walkers = arrays["u"].shape
    block = walker_blocks(walkers, frames)
    ensemble = _ensemble(method, arrays, block)
    report = convergence(ensemble, walkers, method.frame_length, basin, **about)
    if (longer := walker_blocks(walkers, frames, report.slowest)).max() < block.max():
        block, ensemble = longer, _ensemble(method, arrays, longer)
        report = convergence(ensemble, walkers, method.frame_length, basin, **about)
    if hot is not None:
        # Walkers wander through all temperatures of their ladder: what is independent are ladders.
        ensemble = _ensemble(method, hot, np.tile(block, k))
    return reported(ensemble, report)


def _ensemble(method: Walkers | HybridWalkers, arrays: dict[str, np.ndarray], block: np.ndarray) -> Ensemble:
    system, n = method.system, arrays["u"].size
    flat = {key: np.moveaxis(a, 0, 1).reshape(n, *a.shape[2:]) for key, a in arrays.items() if key != "level"}
    invalid = ~np.isfinite(flat["u"])
    log_w = np.where(invalid, -np.inf, flat.get("log_w", np.zeros(n)))
    about = (system.md_topology, system.temperature, block, method.settings.name, int(invalid.sum()))
    return Ensemble(flat["x"], flat["u"], log_w, *about)
