"""One reader per OpenMM force class: the parameters of a force -> terms that give its energy for a batch.

This file holds the bonded forces and the table of readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import openmm
import torch
from torch import Tensor, nn

from ..tools.errors import OpenMMFabError
from .geometry import Frame, Gather, Parameters


class UntranslatedForceError(OpenMMFabError, NotImplementedError):
    """A force, or an option of one, that has no translation; the message says which and why."""


class Constants(nn.Module):
    """Numbers read from a force, as buffers, float64. Those that users may differentiate by are its `fields`."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: list[str] = []

    def constant(self, name: str, value: Any) -> None:
        self.register_buffer(name, torch.as_tensor(np.asarray(value, dtype=np.float64)))

    def column(self, name: str, values: Sequence[float] | np.ndarray) -> None:
        """A constant with one value a row, (rows, 1): it broadcasts along the batch."""
        self.constant(name, np.asarray(values, dtype=np.float64).reshape(-1, 1))

    def field(self, name: str, values: Sequence[float] | np.ndarray) -> None:
        """A column that is a parameter of the force field."""
        self.column(f"field_{name}", values)
        self.fields.append(name)

    def value(self, field: str) -> Tensor:
        """(rows, 1)"""
        return cast(Tensor, getattr(self, f"field_{field}"))


class Term(Constants):
    """A part of the energy, made from (force, system)."""

    def __init__(self, *made_from: Any) -> None:
        super().__init__()
        self.freed = False  # its fields may change from call to call
        self._folded: list[str] = []

    def pairs(self) -> np.ndarray:
        """(n, 2) int, i < j: the pairs of atoms whose distances it needs."""
        return np.empty((0, 2), dtype=np.int64)

    def bind(self, pairs: np.ndarray) -> None:
        """Told once which pairs (n, 2) the frame will hold: a superset of its own, in this order."""

    def fold(self) -> dict[str, Tensor]:
        """What follows from the fields before any structure is seen."""
        return {}

    def settle(self) -> None:
        """Fold once, after `bind`."""
        for name, value in self.fold().items():
            self.register_buffer(f"folded_{name}", value)
            self._folded.append(name)

    def folded(self) -> dict[str, Tensor]:
        return self.fold() if self.freed else {name: self.get_buffer(f"folded_{name}") for name in self._folded}

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        """Energy (batch,) in kJ/mol."""
        raise NotImplementedError


def plain(*quantities: Any) -> list[float]:
    """Numbers in OpenMM's own units (nm, kJ/mol, rad, e)."""
    return [float(getattr(q, "_value", q)) for q in quantities]


def refuse_periodic(force: openmm.Force) -> None:
    if force.usesPeriodicBoundaryConditions():
        raise UntranslatedForceError("uses periodic boundary conditions")


def cutoff_of(force: Any) -> float | None:
    """Of a force over pairs, in nm; None where it has none."""
    method = force.getNonbondedMethod()
    if method not in (force.NoCutoff, force.CutoffNonPeriodic):
        raise UntranslatedForceError("periodic: only NoCutoff and CutoffNonPeriodic are translated")
    return plain(force.getCutoffDistance())[0] if method == force.CutoffNonPeriodic else None


def atoms_of(rows: Sequence[Sequence[int]], n_atoms: int) -> Gather:
    """Gathers the atoms of terms (terms, k), for `picked`."""
    return Gather(np.array(rows, dtype=np.int64).T, n_atoms)
