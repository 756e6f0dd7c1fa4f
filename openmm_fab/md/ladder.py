"""Temperature ladders of parallel tempering, and MBAR weights of all temperatures towards the lowest."""

from __future__ import annotations

import numpy as np

from ..free_energy.estimators import import_pymbar


def temperature_ladder(lowest: float, highest: float, count: int) -> np.ndarray:
    """Temperatures (count,), K, in geometric order.

    Raises
    ------
    ValueError
    """
    if not highest > lowest:
        raise ValueError(f"Expected max_temperature above the system's {lowest:g} K; got {highest:g} K.")
    return np.geomspace(lowest, highest, count)


def by_temperature(level: np.ndarray, values: np.ndarray, temperatures: int) -> np.ndarray:
    """Sort frames (time, walkers, ...) by temperature: (time, temperatures * ladders, ...), the lowest first.

    Parameters
    ----------
    level : (time, walkers) int
        Each walker's temperature; walkers stand ladder by ladder, and each ladder has every temperature once.
    """
    shape = (len(level), -1, temperatures)
    holder = np.argsort(level.reshape(shape), axis=2)
    values = values.reshape(len(level), holder.shape[1], temperatures, *values.shape[2:])
    ordered = np.take_along_axis(values, holder.reshape(*holder.shape, *[1] * (values.ndim - 3)), axis=2)
    return np.moveaxis(ordered, 2, 1).reshape(len(level), -1, *values.shape[3:])


def ladder_log_weights(u: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
    """MBAR log weights towards the lowest temperature of frames as `by_temperature` gives them; shape of u.

    Parameters
    ----------
    u : (time, temperatures * ladders)
        In kT of the lowest temperature.
    temperatures : (temperatures,)
        In units of the lowest.
    """
    shape = (len(u), len(temperatures), -1)
    states = np.moveaxis(u.reshape(shape), 1, 0)
    log_w = mbar_log_weights(states.reshape(len(temperatures), -1, 1) / temperatures)
    return np.moveaxis(log_w.reshape(states.shape), 0, 1).reshape(u.shape)


def mbar_log_weights(u: np.ndarray) -> np.ndarray:
    """Log weights (states, frames) towards the first state, by MBAR over all frames.

    Shirts and Chodera, J. Chem. Phys. 129, 124105 (2008), eq. 9. All are used, correlated or not: correlation costs
    precision and not correctness. Block errors of averages with these weights hold the free energies of the states
    fixed, which are of the same frames: they are too small, most for a basin that the lowest state hardly visits.

    Parameters
    ----------
    u : (states, frames, states)
        Reduced energies: of frames drawn at the first index in the last.
    """
    import_pymbar()
    from pymbar import MBAR

    states, frames, _ = u.shape
    mbar = MBAR(u.reshape(-1, states).T, np.full(states, frames), solver_protocol="robust")
    with np.errstate(divide="ignore"):
        return np.log(mbar.weights()[:, 0]).reshape(states, frames)
