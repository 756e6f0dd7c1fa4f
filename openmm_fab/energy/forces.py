"""One reader per OpenMM force class: the parameters of a force -> terms that give its energy for a batch.

This file holds the bonded forces and the table of readers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import openmm
import torch
from torch import Tensor, nn

from openmm_fab.energy.expressions import tabulated
from openmm_fab.energy.geometry import Frame, Gather, Parameters, angle, distance, picked, torsion


class UncoveredError(NotImplementedError):
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
        raise UncoveredError("uses periodic boundary conditions")


def cutoff_of(force: Any) -> float | None:
    """Of a force over pairs, in nm; None where it has none."""
    method = force.getNonbondedMethod()
    if method not in (force.NoCutoff, force.CutoffNonPeriodic):
        raise UncoveredError("periodic: only NoCutoff and CutoffNonPeriodic are translated")
    return plain(force.getCutoffDistance())[0] if method == force.CutoffNonPeriodic else None


def atoms_of(rows: Sequence[Sequence[int]], n_atoms: int) -> Gather:
    """Gathers the atoms of terms (terms, k), for `picked`."""
    return Gather(np.array(rows, dtype=np.int64).T, n_atoms)


# --- bonds, angles, torsions ---


class HarmonicBonds(Term):
    def __init__(self, force: openmm.HarmonicBondForce, system: openmm.System) -> None:
        super().__init__()
        n_atoms = system.getNumParticles()
        refuse_periodic(force)
        rows = [force.getBondParameters(n) for n in range(force.getNumBonds())]
        self.atoms = atoms_of([row[:2] for row in rows], n_atoms)
        self.field("length", [plain(row[2])[0] for row in rows])
        self.field("k", [plain(row[3])[0] for row in rows])

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        deviation = distance(*picked(frame.x, self.atoms)) - self.value("length")
        return (0.5 * self.value("k") * deviation * deviation).sum(0)


class HarmonicAngles(Term):
    def __init__(self, force: openmm.HarmonicAngleForce, system: openmm.System) -> None:
        super().__init__()
        n_atoms = system.getNumParticles()
        refuse_periodic(force)
        rows = [force.getAngleParameters(n) for n in range(force.getNumAngles())]
        self.atoms = atoms_of([row[:3] for row in rows], n_atoms)
        self.field("theta", [plain(row[3])[0] for row in rows])
        self.field("k", [plain(row[4])[0] for row in rows])

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        deviation = angle(*picked(frame.x, self.atoms)) - self.value("theta")
        return (0.5 * self.value("k") * deviation * deviation).sum(0)


class PeriodicTorsions(Term):
    """Torsions of the same four atoms are computed once, as many terms as they have."""

    periodicity: Tensor

    def __init__(self, force: openmm.PeriodicTorsionForce, system: openmm.System) -> None:
        super().__init__()
        n_atoms = system.getNumParticles()
        refuse_periodic(force)
        rows = [force.getTorsionParameters(n) for n in range(force.getNumTorsions())]
        quadruples = list(dict.fromkeys(tuple(row[:4]) for row in rows))
        which = {quadruple: n for n, quadruple in enumerate(quadruples)}
        self.atoms = atoms_of(quadruples, n_atoms)
        self.angle = Gather(np.array([which[tuple(row[:4])] for row in rows]), len(quadruples))
        self.column("periodicity", [row[4] for row in rows])
        self.field("phase", [plain(row[5])[0] for row in rows])
        self.field("k", [plain(row[6])[0] for row in rows])

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        phi = self.angle(torsion(*picked(frame.x, self.atoms)))
        return (self.value("k") * (1.0 + torch.cos(self.periodicity * phi - self.value("phase")))).sum(0)


class RBTorsions(Term):
    """Ryckaert-Bellemans: sum_n c_n cos(phi - pi)^n, n = 0 .. 5."""

    def __init__(self, force: openmm.RBTorsionForce, system: openmm.System) -> None:
        super().__init__()
        n_atoms = system.getNumParticles()
        refuse_periodic(force)
        rows = [force.getTorsionParameters(n) for n in range(force.getNumTorsions())]
        self.atoms = atoms_of([row[:4] for row in rows], n_atoms)
        for n in range(6):
            self.field(f"c{n}", [plain(row[4 + n])[0] for row in rows])

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        cosine = -torch.cos(torsion(*picked(frame.x, self.atoms)))
        energy = self.value("c5")
        for n in range(4, -1, -1):
            energy = energy * cosine + self.value(f"c{n}")
        return energy.sum(0)


class CMAPTorsions(Term):
    """Correction maps: a periodic bicubic spline of two torsions."""

    def __init__(self, force: openmm.CMAPTorsionForce, system: openmm.System) -> None:
        super().__init__()
        n_atoms = system.getNumParticles()
        refuse_periodic(force)
        rows = [force.getTorsionParameters(n) for n in range(force.getNumTorsions())]
        self.maps, self.torsions = nn.ModuleList(), nn.ModuleList()
        for which in sorted({row[0] for row in rows}):
            size, energies = force.getMapParameters(which)
            grid = np.array(plain(*energies)).reshape(size, size)
            grid = np.pad(grid, (0, 1), mode="wrap")  # a periodic function repeats its first value
            surface = openmm.Continuous2DFunction(
                size + 1, size + 1, grid.ravel(), 0.0, 2 * np.pi, 0.0, 2 * np.pi, True
            )
            self.maps.append(cast(nn.Module, tabulated(surface)))
            self.torsions.append(atoms_of([row[1:] for row in rows if row[0] == which], n_atoms))

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        energy = frame.x.new_zeros(frame.x.shape[-1])
        for surface, atoms in zip(self.maps, self.torsions, strict=True):
            a, b, c, d, e, f, g, h = picked(frame.x, cast(Gather, atoms))
            energy = energy + surface(torsion(a, b, c, d), torsion(e, f, g, h)).sum(0)
        return energy


# --- the table ---


def read(force: openmm.Force, system: openmm.System) -> Term | None:
    """The force as a term; None where it adds no energy.

    Raises
    ------
    UncoveredError
        No translation of this force, or of one of its options.
    """
    # These build on `Term`.
    from openmm_fab.energy import custom, custom_nonbonded, implicit, nonbonded

    readers: dict[str, tuple[type[Term], Callable[[Any], int]]] = {
        "HarmonicBondForce": (HarmonicBonds, lambda f: f.getNumBonds()),
        "HarmonicAngleForce": (HarmonicAngles, lambda f: f.getNumAngles()),
        "PeriodicTorsionForce": (PeriodicTorsions, lambda f: f.getNumTorsions()),
        "RBTorsionForce": (RBTorsions, lambda f: f.getNumTorsions()),
        "CMAPTorsionForce": (CMAPTorsions, lambda f: f.getNumTorsions()),
        "NonbondedForce": (nonbonded.Nonbonded, lambda f: f.getNumParticles()),
        "GBSAOBCForce": (implicit.GBSAOBC, lambda f: f.getNumParticles()),
        "CustomGBForce": (implicit.CustomGB, lambda f: f.getNumParticles()),
        "CustomBondForce": (custom.CustomBonds, lambda f: f.getNumBonds()),
        "CustomAngleForce": (custom.CustomAngles, lambda f: f.getNumAngles()),
        "CustomTorsionForce": (custom.CustomTorsions, lambda f: f.getNumTorsions()),
        "CustomExternalForce": (custom.CustomExternal, lambda f: f.getNumParticles()),
        "CustomCompoundBondForce": (custom.CustomCompoundBonds, lambda f: f.getNumBonds()),
        "CustomCentroidBondForce": (custom.CustomCentroidBonds, lambda f: f.getNumBonds()),
        "CustomNonbondedForce": (custom_nonbonded.CustomNonbonded, lambda f: f.getNumParticles()),
        "CustomCVForce": (custom.CustomCV, lambda f: 1),
    }
    name = type(force).__name__
    if name in ("AndersenThermostat", "CMMotionRemover"):
        return None
    if name not in readers:
        raise UncoveredError("no translation of this force")
    term, count = readers[name]
    return term(force, system) if count(force) else None
