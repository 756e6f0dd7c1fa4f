"""Temperatures of a generator: those it is trained at, and those it can sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..flow.base import TrainableFlow
from ..flow.conditional import AtTemperature
from ..flow.coupling import CouplingFlow
from ..molecule.units import in_kelvin

TINY = 1e-6  # K


def in_order(temperatures: Sequence[Any]) -> tuple[float, ...]:
    """Temperatures, K, in rising order.

    Raises
    ------
    ValueError
        One alone, or the same twice; what is no temperature.
    """
    found = tuple(sorted(in_kelvin(t) for t in temperatures))
    if len(found) == 1 or len(set(found)) < len(found):
        raise ValueError(
            f"Expected two or more different temperatures in K, such as (300, 400, 600); got {tuple(temperatures)}. "
            "For the system's own alone leave them out."
        )
    return found


def log_temperatures(temperatures: Sequence[float], own: float) -> tuple[float, ...]:
    """log(T / T0) of temperatures, K, T0 the system's own.

    Raises
    ------
    ValueError
        T0 is not within their range.
    """
    if temperatures and not temperatures[0] <= own <= temperatures[-1]:
        raise ValueError(
            f"Expected temperatures with the system's own, {own:g} K, within their range; got "
            f"{', '.join(f'{t:g}' for t in temperatures)} K. Add it, or make the system with another temperature."
        )
    return tuple(math.log(t / own) for t in temperatures)


def checked(temperature: Any, several: Sequence[float], own: float) -> float:
    """A temperature in K at which there are samples, the molecule's own for None.

    Parameters
    ----------
    temperature : float (K), text, Quantity or None
    several : sequence of float, K
        That the flow was trained at, in rising order; empty for `own` alone.
    own : float, K

    Raises
    ------
    ValueError
        It is none of these, nor between two of them.
    """
    kelvin = float(own) if temperature is None else in_kelvin(temperature)
    if several and not several[0] - TINY <= kelvin <= several[-1] + TINY:
        raise ValueError(
            f"Expected a temperature from {several[0]:g} to {several[-1]:g} K, which this flow is for; got "
            f"{kelvin:g} K. Train one with temperatures=(...) on both sides of it."
        )
    if not several and abs(kelvin - own) > TINY:
        raise ValueError(
            f"Expected {own:g} K, the one temperature that this flow is for; got {kelvin:g} K. Train one with "
            "temperatures=(...) on both sides of it, or reweight an ensemble: reweight_temperature(ensemble, T)."
        )
    return kelvin


def at_temperature(flow: TrainableFlow, kelvin: float, own: float) -> TrainableFlow | AtTemperature:
    """The flow over z of the coordinates at one of its temperatures; itself where it has one."""
    if not isinstance(flow, CouplingFlow) or not flow.log_temperatures:
        return flow
    return AtTemperature(flow, math.log(kelvin / own))


def temperatures_in_words(several: Sequence[float], own: float) -> str:
    """Sentence about the temperatures of a flow, K; empty for one alone."""
    if not several:
        return ""
    listed = f"{', '.join(f'{t:g}' for t in several[:-1])} and {several[-1]:g} K"
    return (
        f"One flow for {listed} and all between; the results are those at {own:g} K, and sample takes any other of "
        "these temperatures."
    )
