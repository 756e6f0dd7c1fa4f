"""The base class of every translated force, and helpers that read OpenMM's force objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import openmm
import torch
from torch import Tensor, nn

from ..molecule.openmm_private import magnitude
from ..tools.errors import OpenMMFabError
from .geometry import Frame, Gather, Parameters


class UntranslatedForceError(OpenMMFabError, NotImplementedError):
    """A force, or an option of one, that has no translation; the message says which and why."""


class Constants(nn.Module):
    """Numbers read from a force, as float64 buffers; those that users may differentiate by are its `fields`."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: list[str] = []

    def constant(self, name: str, value: Any) -> None:
        """Register a number or an array of any shape as the buffer `name`."""
        self.register_buffer(name, torch.as_tensor(np.asarray(value, dtype=np.float64)))

    def column(self, name: str, values: Sequence[float] | np.ndarray) -> None:
        """Register values (rows,) as the buffer `name`, (rows, 1): it broadcasts along the batch."""
        self.constant(name, np.asarray(values, dtype=np.float64).reshape(-1, 1))

    def field(self, name: str, values: Sequence[float] | np.ndarray) -> None:
        """Register values (rows,) of a force-field parameter, as a column."""
        self.column(f"field_{name}", values)
        self.fields.append(name)

    def value(self, field: str) -> Tensor:
        """The values (rows, 1) of a force-field parameter."""
        return cast(Tensor, getattr(self, f"field_{field}"))


class Term(Constants):
    """Part of the energy, translated from one OpenMM force.

    A subclass reads the force in its constructor and computes the energy in `forward`. `Potential` asks every term for
    its `pairs`, hands each of them the union of all (`prepare_pairs`), and has it `cache` what does not depend on the
    structure.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = False  # its fields may change from call to call
        self._cached: list[str] = []

    def pairs(self) -> np.ndarray:
        """Pairs of atoms (n, 2) int, i < j, whose distances the term needs."""
        return np.empty((0, 2), dtype=np.int64)

    def prepare_pairs(self, pairs: np.ndarray) -> None:
        """Take the pairs (n, 2) of all later frames, a sorted superset of `pairs()`; called once."""

    def combine_parameters(self) -> dict[str, Tensor]:
        """Tensors by name that depend on the force-field parameters alone, not on the structure."""
        return {}

    def cache(self) -> None:
        """Store the result of `combine_parameters` as buffers; called once, after `prepare_pairs`."""
        for name, value in self.combine_parameters().items():
            self.register_buffer(f"cached_{name}", value)
            self._cached.append(name)

    def combined(self) -> dict[str, Tensor]:
        """Result of `combine_parameters`: from the cache, or recomputed if the term is `live`."""
        if self.live:
            return self.combine_parameters()
        return {name: self.get_buffer(f"cached_{name}") for name in self._cached}

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        """Energy (batch,) in kJ/mol of a frame."""
        raise NotImplementedError


def without_units(*quantities: Any) -> list[float]:
    """Convert Quantities or numbers to floats in OpenMM's units (nm, kJ/mol, rad, e)."""
    return [float(magnitude(q)) for q in quantities]


def refuse_periodic(force: openmm.Force) -> None:
    """Raise UntranslatedForceError if the force uses periodic boundary conditions."""
    if force.usesPeriodicBoundaryConditions():
        raise UntranslatedForceError("uses periodic boundary conditions")


def cutoff_of(force: Any) -> float | None:
    """Cutoff distance, nm, of a force over pairs; None if it has none.

    Raises
    ------
    UntranslatedForceError
        The force's method is periodic.
    """
    method = force.getNonbondedMethod()
    if method not in (force.NoCutoff, force.CutoffNonPeriodic):
        raise UntranslatedForceError("periodic: only NoCutoff and CutoffNonPeriodic are translated")
    return without_units(force.getCutoffDistance())[0] if method == force.CutoffNonPeriodic else None


def atoms_of(rows: Sequence[Sequence[int]], n_atoms: int) -> Gather:
    """Index of the k atoms of every bond, angle, ...: rows (terms, k) as a Gather for `gather_atoms`."""
    return Gather(np.array(rows, dtype=np.int64).T, n_atoms)
