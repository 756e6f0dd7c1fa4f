"""Free-energy differences between force fields, lambdas and temperatures.

All results are configurational: -ln of the integral of exp(-u) over shapes, nm^(3N - 6); momenta are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from torch import Tensor

from ..energy.backends import reduced_energy
from ..energy.evaluate import energies_of
from ..molecule.system import MolecularSystem
from .estimators import FreeEnergy, StateFreeEnergies, bar_estimate, exponential_average, mbar_estimate
from .frames import F, Frames

# A molecule, a function x (n, atoms, 3) in nm -> u (n,), or the numbers u (n,) themselves.
Energy: TypeAlias = "MolecularSystem | Callable[[Tensor], Tensor] | np.ndarray"


def free_energy_difference(ensemble: Frames, energy: Energy) -> FreeEnergy:
    """F(energy) - F(ensemble's own) in kT by exponential averaging over weighted frames (Zwanzig 1954).

    One-sided: right only where the ensemble visits all that matters to the other energy.

    Parameters
    ----------
    ensemble : Frames
        With u, of MD or of a flow.
    energy : MolecularSystem, callable or (n,)
        The other Hamiltonian in units of its own kT: another force field or temperature, or a lambda as
        ``functools.partial(compiled, parameters={"lambda": 0.5})``.
    """
    change = _change(ensemble, energy)
    log_a = np.where(ensemble.log_w > -np.inf, ensemble.log_w - change, -np.inf)
    log_b = ensemble.log_w
    found = -exponential_average(log_a, log_b, block=ensemble.block, method="exponential averaging")
    return replace(found, temperature=_common(ensemble.temperature, energy))


def free_energy_difference_bar(
    a: Frames, b: Frames, energy_a: Energy, energy_b: Energy, *, seed: int = 0
) -> FreeEnergy:
    """F_b - F_a in kT by BAR between an ensemble of each of two Hamiltonians (Bennett 1976).

    Parameters
    ----------
    a, b : Frames
        With u of their own; of frames with unequal weights as many as their effective number are drawn.
    energy_a, energy_b : MolecularSystem or callable
        energy_a is evaluated on frames of b, energy_b on frames of a.
    """
    a, b = equally_weighted(a, seed), equally_weighted(b, seed + 1)
    found = bar_estimate(_change(a, energy_b), _change(b, energy_a), block_f=a.block, block_r=b.block, names=("a", "b"))
    return replace(found, temperature=a.temperature if a.temperature == b.temperature else np.nan)


def temperature_difference(ensemble: Frames, temperature: float) -> FreeEnergy:
    """-ln Z(T') / Z(T) by exponential averaging, for a U that does not depend on T itself.

    Parameters
    ----------
    temperature : float, K
        T'; far from the ensemble's own the weights fail, and the result says so.
    """
    found = free_energy_difference(ensemble, ensemble.u * _beta_ratio(ensemble, temperature))
    return replace(found, temperature=np.nan)  # kT of two


def reweight_temperature(ensemble: F, temperature: float) -> F:
    """Reweight frames to another temperature (K)."""
    u = ensemble.u * _beta_ratio(ensemble, temperature)
    return replace(reweight_energy(ensemble, u), temperature=float(temperature))


def reweight_energy(ensemble: F, energy: Energy) -> F:
    """Reweight frames to another energy; see `free_energy_difference`."""
    change = _change(ensemble, energy)
    with np.errstate(invalid="ignore"):
        log_w = np.where(ensemble.log_w > -np.inf, ensemble.log_w - change, -np.inf)
    return replace(ensemble, u=ensemble.u + change, log_w=log_w, invalid=int((log_w == -np.inf).sum()))


def mbar(ensembles: Sequence[Frames], energies: Sequence[Energy], *, seed: int = 0) -> StateFreeEnergies:
    """Free energies of several Hamiltonians, temperatures or lambdas by MBAR (Shirts and Chodera 2008).

    Parameters
    ----------
    ensembles : K' of Ensemble
        Frames of the first K' states; unequal weights as in `free_energy_difference_bar`.
    energies : K >= K' of MolecularSystem, callable or `flow_energy`
        Of each state, in units of its own kT; those beyond the ensembles have no samples of their own.
    """
    if not 0 < len(ensembles) <= len(energies):
        raise ValueError(
            f"Expected an energy for each ensemble, and more if you like; got {len(energies)} energies and "
            f"{len(ensembles)} ensembles."
        )
    frames = [equally_weighted(e, seed + k) for k, e in enumerate(ensembles)]
    u_kn = [np.concatenate([energies_in(energy, e) for e in frames]) for energy in energies]
    rest = len(energies) - len(frames)
    return mbar_estimate(u_kn, [e.n for e in frames] + [0] * rest, blocks=[e.block for e in frames] + [None] * rest)


def temperature_energy(system: MolecularSystem, temperature: float) -> Callable[[Tensor], Tensor]:
    """Reduced energy U / kT' of a system at another temperature (K), as a state for `mbar`."""
    u, ratio = reduced_energy(system), system.temperature / float(temperature)
    return lambda x: u(x) * ratio


def flow_samples(ensemble: F) -> F:
    """Flow samples as samples of q: all weights equal, structures of infinite energy included."""
    if ensemble.log_q is None:
        raise ValueError("Expected samples of a flow; got an ensemble without log_q. Use generator.sample(n).")
    return replace(ensemble, log_w=np.zeros(ensemble.n), invalid=0)


# --- of ensembles ---


def energies_in(energy: Energy, ensemble: Frames) -> np.ndarray:
    """Energies u (n,) float64 of an ensemble's frames in another Hamiltonian; +inf where there is no density."""
    if isinstance(energy, np.ndarray):
        if energy.shape != (ensemble.n,):
            raise ValueError(f"Expected one energy a frame, shape ({ensemble.n},); got {energy.shape}.")
        return np.where(np.isfinite(energy), energy, np.inf)
    found = energies_of(reduced_energy(energy) if isinstance(energy, MolecularSystem) else energy, ensemble.x)
    return np.where(np.isfinite(found), found, np.inf)


def _common(temperature: float, energy: Energy) -> float:
    """The temperature of an ensemble, K, where the other Hamiltonian is not known to have another one; else nan."""
    other = energy.temperature if isinstance(energy, MolecularSystem) else temperature
    return temperature if other == temperature else np.nan


def _change(ensemble: Frames, energy: Energy) -> np.ndarray:
    """u_new - u (n,); +inf where the new energy is infinite; 0 for frames that have no weight anyway."""
    used = ensemble.log_w > -np.inf
    if np.isnan(ensemble.u[used]).any():
        raise ValueError(
            "Expected an ensemble with energies; some frames have none. Make it with energies=True, or set u."
        )
    return np.where(used, energies_in(energy, ensemble) - np.where(used, ensemble.u, 0.0), 0.0)


def equally_weighted(ensemble: F, seed: int) -> F:
    """The ensemble itself where all weights are equal; else as many frames as their effective number, by weight."""
    if np.ptp(ensemble.log_w) == 0.0:  # -inf among them makes it inf or nan
        return ensemble
    return ensemble.resample(max(int(ensemble.ess), 2), seed)


def _beta_ratio(ensemble: Frames, temperature: float) -> float:
    """T / T' for a new temperature T', K."""
    if not float(temperature) > 0.0:
        raise ValueError(f"Expected a temperature above 0 K; got {temperature}.")
    return ensemble.temperature / float(temperature)


def check_same_temperature(a: Frames, b: Frames) -> None:
    """Raise a ValueError unless two ensembles are of one temperature."""
    if abs(a.temperature - b.temperature) > 1e-6 * a.temperature:
        raise ValueError(
            f"Expected both at one temperature; got {a.temperature:g} K and {b.temperature:g} K. "
            "Reweight one of them first: reweight_temperature(ensemble, T)."
        )
