"""Thermodynamics against temperature: energy, free energy, entropy and heat capacity of ensembles.

All of it is configurational: momenta, which add R / 2 to the heat capacity for each of their degrees of freedom, are
left out.  u is the potential energy in kT, Z the integral of exp(-u) over shapes in nm^(3N - 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..molecule.units import GAS_CONSTANT
from ..tools.tables import table
from ..weights import Estimate
from .frames import Frames


def heat_capacity(ensemble: Frames) -> Estimate:
    """Configurational heat capacity at constant volume, kJ/mol/K, by the fluctuations of the energy: R (<u^2> - <u>^2).

    It is the derivative of the mean energy by temperature at the ensemble's own.

    Parameters
    ----------
    ensemble : Frames
        With u: of a flow, or of MD whose energies were evaluated.

    Raises
    ------
    ValueError
        A frame with a weight has no finite energy.
    """
    return _of(ensemble, GAS_CONSTANT, _parts(ensemble)[1])


def mean_energy(ensemble: Frames) -> Estimate:
    """Mean potential energy, kJ/mol; parameters and errors as for `heat_capacity`."""
    return _of(ensemble, ensemble.kT, _parts(ensemble)[0])


@dataclass(frozen=True, eq=False)
class TemperatureCurve:
    """Configurational thermodynamics at several temperatures.

    Parameters
    ----------
    temperature : (n,), K
    log_z : Estimate of (n,), nats
    free_energy : Estimate of (n,), kJ/mol
        F = -RT log Z; its level, and that of the entropy, is of the unit of length, nm.
    energy : Estimate of (n,), kJ/mol
        U, the mean potential energy.
    entropy : Estimate of (n,), kJ/mol/K
        (U - F) / T.
    heat_capacity : Estimate of (n,), kJ/mol/K
        By the fluctuations of the energy at each temperature.
    slope : Estimate of (n,), kJ/mol/K
        The same as dU/dT along the curve: of the parabola through a temperature and its two neighbours, of the line
        through both where there are two.
    """

    temperature: np.ndarray
    log_z: Estimate
    free_energy: Estimate
    energy: Estimate
    entropy: Estimate
    heat_capacity: Estimate
    slope: Estimate

    def __str__(self) -> str:
        columns = [self.free_energy, self.energy, self.entropy, self.heat_capacity, self.slope]
        rows = [
            [f"{t:g}", *(str(Estimate(v, e)) for v, e in cells)]
            for t, *cells in zip(self.temperature, *map(_pairs, columns), strict=True)
        ]
        head = ["T / K", "F, kJ/mol", "U, kJ/mol", "S, kJ/mol/K", "C_V, kJ/mol/K", "dU/dT, kJ/mol/K"]
        return table(head, rows)


def temperature_curve(ensembles: Sequence[Frames]) -> TemperatureCurve:
    """Free energy, energy, entropy and heat capacity against temperature, from independent ensembles.

    Parameters
    ----------
    ensembles : sequence of Frames
        One at each temperature, of one molecule, with weights whose mean is Z, as `BoltzmannGenerator.sample` gives
        them; of seeds of their own.

    Raises
    ------
    ValueError
        Fewer than two temperatures, or one of them twice; weights without a level, as those of MD, see
        `Ensemble.log_z`; frames of no finite energy, see `heat_capacity`.
    """
    ensembles = sorted(ensembles, key=lambda e: e.temperature)
    t = np.array([e.temperature for e in ensembles])
    if len(t) < 2 or not (np.diff(t) > 0.0).all():
        raise ValueError(f"Expected ensembles of two or more different temperatures; got {t.tolist()} K.")
    rows = []
    for e in ensembles:
        level, by_z = float(e.log_z.value), e.weights * e.n - 1.0
        (u, by_u), capacity = _parts(e)
        estimates = [
            _of(e, 1.0, (level, by_z)),
            _of(e, -e.kT, (level, by_z)),
            _of(e, e.kT, (u, by_u)),
            _of(e, GAS_CONSTANT, (u + level, by_u + by_z)),
            _of(e, GAS_CONSTANT, capacity),
        ]
        rows.append([(float(one.value), float(one.error)) for one in estimates])
    # (estimates, value and error, temperatures)
    log_z, free, energy, entropy, fluctuations = (Estimate(v, e) for v, e in np.array(rows).transpose(1, 2, 0))
    return TemperatureCurve(t, log_z, free, energy, entropy, fluctuations, _slope(t, energy))


def _pairs(estimate: Estimate) -> list[tuple[float, float]]:
    """Values and errors of an estimate of (n,), one by one."""
    return list(zip(np.asarray(estimate.value).tolist(), np.asarray(estimate.error).tolist(), strict=True))


def _slope(t: np.ndarray, energy: Estimate) -> Estimate:
    """dU/dT (n,) at temperatures t (n,)."""
    matrix = np.zeros((len(t), len(t)))
    for k in range(len(t)):
        start = min(max(k - 1, 0), max(len(t) - 3, 0))
        near = np.arange(start, min(start + 3, len(t)))
        # Derivative at t[k] of the polynomial through these: by the coefficients of its values.
        powers = np.vander(t[near] - t[k], increasing=True)
        matrix[k, near] = np.linalg.inv(powers)[1]
    return Estimate(matrix @ energy.value, np.sqrt(matrix**2 @ np.asarray(energy.error) ** 2))


Part = tuple[float, np.ndarray]  # an estimate, and by how much a frame (n,) changes it, times n


def _parts(ensemble: Frames) -> tuple[Part, Part]:
    """<u> and <u^2> - <u>^2."""
    w = ensemble.weights
    held = w > 0.0
    if not np.isfinite(ensemble.u[held]).all():
        raise ValueError(
            "Expected a finite energy u of every frame that has a weight; some have none. Evaluate them: "
            "energies_of(reduced_energy(system), ensemble.x)."
        )
    u, r = np.where(held, ensemble.u, 0.0), w * ensemble.n
    mean = float(w @ u)
    away = np.where(held, u - mean, 0.0)
    variance = float(w @ away**2)
    return (mean, r * away), (variance, r * (away**2 - variance))


def _of(ensemble: Frames, factor: float, part: Part) -> Estimate:
    """An estimate times a factor, with the standard error over frames, or blocks where there are any."""
    value, change = part
    if ensemble.block is not None:
        change = np.bincount(np.unique(ensemble.block, return_inverse=True)[1], weights=change)
    blocks = len(change)
    error = np.sqrt((change**2).sum() * blocks / (blocks - 1)) / ensemble.n if blocks > 1 else np.nan
    return Estimate(factor * value, float(abs(factor) * error))
