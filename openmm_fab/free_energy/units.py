"""Free energies in kT, and the same in kJ/mol or kcal/mol."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import numpy as np

from ..molecule.units import GAS_CONSTANT
from ..weights import Estimate

CALORIE = 4.184  # kJ a kcal
SIZES = {"kJ/mol": GAS_CONSTANT, "kcal/mol": GAS_CONSTANT / CALORIE}  # of 1 kT, over T / K
UNITS = ("kT", *SIZES)

T = TypeVar("T", bound="InUnits")


class InUnits:
    """A dataclass with energies in some fields, their `unit`, and the `temperature` (K) that kT is of.

    Attributes
    ----------
    ENERGIES : tuple of str
        Names of these fields: numbers, arrays or `Estimate`.
    """

    ENERGIES: ClassVar[tuple[str, ...]] = ("value", "error")
    unit: str
    temperature: float

    def in_units(self: T, unit: str, temperature: float | None = None) -> T:
        """Convert energies to "kT", "kJ/mol" or "kcal/mol".

        Parameters
        ----------
        temperature : float, K
            That kT is of, where the result does not know it: results of ensembles do.

        Raises
        ------
        ValueError
            Another unit; no temperature, or two different ones; log Z, which is no energy.
        """
        if unit not in UNITS:
            raise ValueError(f"Expected a unit out of {list(UNITS)}; got {unit!r}.")
        if self.unit not in UNITS:
            raise ValueError(f"Expected an energy; this is in {self.unit}, and has no unit of energy.")
        known = self.temperature
        if temperature is not None and np.isfinite(known) and abs(known - temperature) > 1e-6 * known:
            raise ValueError(f"Expected the temperature that kT is of, {known:g} K; got {temperature:g} K.")
        kelvin = known if temperature is None else float(temperature)
        if unit == self.unit:
            return self
        if not kelvin > 0.0:
            raise ValueError(f"Expected a temperature, K, that kT is of: .in_units({unit!r}, temperature=300).")
        factor = SIZES.get(unit, 1.0 / kelvin) / SIZES.get(self.unit, 1.0 / kelvin)
        changes = {name: _times(getattr(self, name), factor) for name in self.ENERGIES}
        return replace(self, **changes, unit=unit, temperature=kelvin)  # type: ignore[type-var]


def _times(value: Any, factor: float) -> Any:
    if isinstance(value, Estimate):
        return Estimate(value.value * factor, value.error * factor)
    return value * factor
