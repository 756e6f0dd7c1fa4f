"""Quantities with `openmm.unit` units, and texts, to plain numbers: positions in nm, temperatures in K."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from openmm import unit

GAS_CONSTANT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)  # kJ / (mol K)


def in_nanometers(positions: Any) -> np.ndarray:
    """Positions as float64, nm; plain numbers are nm already."""
    value = positions.value_in_unit(unit.nanometer) if unit.is_quantity(positions) else positions
    return np.array(value, dtype=np.float64)


def in_kelvin(temperature: Any) -> float:
    """A temperature in K: a number, a text such as "300 K", or a Quantity.

    Raises
    ------
    ValueError
        Another text, or no positive, finite number.
    """
    if isinstance(temperature, str):
        match = re.fullmatch(r"\s*([\d.]+)\s*(K|kelvin)?\s*", temperature)
        if match is None:
            raise ValueError(f'Expected a temperature in K, such as 300 or "300 K"; got {temperature!r}.')
        temperature = match[1]
    value = float(temperature.value_in_unit(unit.kelvin) if unit.is_quantity(temperature) else temperature)
    if not 0.0 < value < np.inf:
        raise ValueError(f"Expected a positive, finite temperature in K; got {value}.")
    return value
