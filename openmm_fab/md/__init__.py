"""Reference ensembles from molecular dynamics: by OpenMM, by openmmtools, or by many walkers on the compiled energy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from openmm_fab.ensemble import Ensemble
from openmm_fab.files import write_atomically
from openmm_fab.md.bias import TorsionBias
from openmm_fab.md.convergence import (
    Basin,
    Convergence,
    ReferenceEnsemble,
    convergence,
    count_round_trips,
    reported,
    walker_blocks,
)
from openmm_fab.md.dynamics import LangevinMiddle, UnstableDynamicsError
from openmm_fab.md.settings import (
    METHODS,
    LangevinSettings,
    MetadynamicsSettings,
    ReplicaExchangeSettings,
    Settings,
    WalkersExchangeSettings,
    WalkersSettings,
    settings_of,
)
from openmm_fab.md.shipped import load_reference
from openmm_fab.md.store import Store, open_folder
from openmm_fab.md.walkers import BiasedWalkers, ExchangingWalkers, Sampled, Walkers, sample
from openmm_fab.system import MolecularSystem

__all__ = [
    "METHODS",
    "Convergence",
    "LangevinMiddle",
    "LangevinSettings",
    "MetadynamicsSettings",
    "ReferenceEnsemble",
    "ReplicaExchangeSettings",
    "Settings",
    "TorsionBias",
    "UnstableDynamicsError",
    "WalkersExchangeSettings",
    "WalkersSettings",
    "convergence",
    "load_reference",
    "reference",
]


def reference(
    system: MolecularSystem,
    method: str = "langevin",
    folder: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    start: ArrayLike | None = None,
    basin: Basin | None = None,
    progress: bool = True,
    **settings: Any,
) -> ReferenceEnsemble:
    """Sample a molecule by molecular dynamics.

    Ctrl-C ends it with a warning and the ensemble of what was sampled.

    Parameters
    ----------
    method : str
        "langevin": OpenMM, one trajectory. "replica-exchange": openmmtools. Both take constraints.
        "walkers", "walkers-exchange", "metadynamics": many walkers at once on the compiled energy.
    folder : path, optional
        Frames, checkpoints, settings.json and convergence.txt are kept here.
    resume : bool
        Go on from what is in `folder`, if anything; `time_ps` may be longer than it was. The methods on the compiled
        energy then give the numbers of an uninterrupted run.
    start : (atoms, 3) or (n, atoms, 3), nm, optional
        Starting structures, taken in turn; by default the energy minimum.
    basin : callable taking an mdtraj.Trajectory and returning (n,) bool, optional
        For the convergence report; by default 0 < phi < 2.5 rad (or of the first rotatable bond).
    **settings
        See `LangevinSettings`, `ReplicaExchangeSettings`, `WalkersSettings`, `WalkersExchangeSettings`,
        `MetadynamicsSettings`.

    Returns
    -------
    ReferenceEnsemble
        Weights are 1 but for "metadynamics" and reweighted "replica-exchange"; blocks are walkers, ladders or times;
        `.convergence` says whether it is long enough.

    Raises
    ------
    ValueError
        Unknown method or settings; constraints or forces that the method does not take; another run in `folder`.
    UnstableDynamicsError
        Energies that are not finite.
    """
    chosen = settings_of(method, settings)
    if resume and folder is None:
        raise ValueError("Expected a folder to resume from; got none.")
    runner = None if isinstance(chosen, LangevinSettings) else _walkers(system, chosen, seed, start)
    home = None if folder is None else open_folder(folder, system, chosen, seed, resume)
    if isinstance(runner, Walkers):
        ensemble = _of_walkers(runner, sample(runner, Store(home), progress), basin)
    elif isinstance(chosen, ReplicaExchangeSettings):
        from openmm_fab.md.replicas import replica_exchange

        ensemble = replica_exchange(system, chosen, home, seed, progress, start, basin)
    else:
        from openmm_fab.md.langevin import langevin

        assert isinstance(chosen, LangevinSettings)
        ensemble = langevin(system, chosen, home, seed, progress, start, basin)
    if home is not None:
        text = f"{ensemble}\n{ensemble.convergence}\n"
        write_atomically(home / "convergence.txt", lambda file: file.write(text), "w")
    return ensemble


def _walkers(system: MolecularSystem, settings: Settings, seed: int, start: ArrayLike | None) -> Walkers:
    kinds = {WalkersSettings: Walkers, WalkersExchangeSettings: ExchangingWalkers, MetadynamicsSettings: BiasedWalkers}
    assert isinstance(settings, WalkersSettings)
    return kinds[type(settings)](system, settings, seed, start)


def _of_walkers(method: Walkers, sampled: Sampled, basin: Basin | None) -> ReferenceEnsemble:
    """Frames (time, walkers, ...) as an ensemble, walker by walker."""
    system, arrays = method.system, sampled.arrays
    frames, walkers = arrays["u"].shape
    flat = {k: np.moveaxis(a, 0, 1).reshape(frames * walkers, *a.shape[2:]) for k, a in arrays.items() if k != "level"}
    invalid = ~np.isfinite(flat["u"])
    log_w = np.where(invalid, -np.inf, flat.get("log_w", np.zeros(len(invalid))))
    ensemble = Ensemble(
        flat["x"],
        flat["u"],
        log_w,
        system.md_topology,
        system.temperature,
        walker_blocks(walkers, frames),
        method.settings.name,
        int(invalid.sum()),
    )
    about = sampled.about
    if "level" in arrays:
        about = about | {"round_trips": count_round_trips(arrays["level"], len(method.temperatures) - 1)}
    return reported(ensemble, convergence(ensemble, walkers, method.settings.frame_ps, basin, **about))
