"""Bonded forces without expressions: harmonic bonds and angles, torsions, correction maps."""

from __future__ import annotations

from typing import cast

import numpy as np
import openmm
import torch
from torch import Tensor, nn

from .geometry import Frame, Gather, Parameters, angle, distance, gather_atoms, torsion
from .tables import tabulated
from .terms import Term, atoms_of, refuse_periodic, without_units


class HarmonicBonds(Term):
    """Harmonic bonds: sum of k/2 (r - length)^2."""

    def __init__(self, force: openmm.HarmonicBondForce, system: openmm.System) -> None:
        super().__init__()
        n_atoms = system.getNumParticles()
        refuse_periodic(force)
        rows = [force.getBondParameters(n) for n in range(force.getNumBonds())]
        self.atoms = atoms_of([row[:2] for row in rows], n_atoms)
        self.field("length", [without_units(row[2])[0] for row in rows])
        self.field("k", [without_units(row[3])[0] for row in rows])

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        deviation = distance(*gather_atoms(frame.x, self.atoms)) - self.value("length")
        return (0.5 * self.value("k") * deviation * deviation).sum(0)


class HarmonicAngles(Term):
    """Harmonic angles: sum of k/2 (angle - theta)^2."""

    def __init__(self, force: openmm.HarmonicAngleForce, system: openmm.System) -> None:
        super().__init__()
        n_atoms = system.getNumParticles()
        refuse_periodic(force)
        rows = [force.getAngleParameters(n) for n in range(force.getNumAngles())]
        self.atoms = atoms_of([row[:3] for row in rows], n_atoms)
        self.field("theta", [without_units(row[3])[0] for row in rows])
        self.field("k", [without_units(row[4])[0] for row in rows])

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        deviation = angle(*gather_atoms(frame.x, self.atoms)) - self.value("theta")
        return (0.5 * self.value("k") * deviation * deviation).sum(0)


class PeriodicTorsions(Term):
    """Periodic torsions: sum of k (1 + cos(periodicity phi - phase)); phi is computed once for all terms of the same
    four atoms."""

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
        self.field("phase", [without_units(row[5])[0] for row in rows])
        self.field("k", [without_units(row[6])[0] for row in rows])

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        phi = self.angle(torsion(*gather_atoms(frame.x, self.atoms)))
        return (self.value("k") * (1.0 + torch.cos(self.periodicity * phi - self.value("phase")))).sum(0)


class RBTorsions(Term):
    """Ryckaert-Bellemans torsions: sum_n c_n cos(phi - pi)^n, n = 0 .. 5."""

    def __init__(self, force: openmm.RBTorsionForce, system: openmm.System) -> None:
        super().__init__()
        n_atoms = system.getNumParticles()
        refuse_periodic(force)
        rows = [force.getTorsionParameters(n) for n in range(force.getNumTorsions())]
        self.atoms = atoms_of([row[:4] for row in rows], n_atoms)
        for n in range(6):
            self.field(f"c{n}", [without_units(row[4 + n])[0] for row in rows])

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        cosine = -torch.cos(torsion(*gather_atoms(frame.x, self.atoms)))
        energy = self.value("c5")
        for n in range(4, -1, -1):
            energy = energy * cosine + self.value(f"c{n}")
        return energy.sum(0)


class CMAPTorsions(Term):
    """Correction maps: for each map a periodic bicubic spline of two torsions."""

    def __init__(self, force: openmm.CMAPTorsionForce, system: openmm.System) -> None:
        super().__init__()
        n_atoms = system.getNumParticles()
        refuse_periodic(force)
        rows = [force.getTorsionParameters(n) for n in range(force.getNumTorsions())]
        self.maps, self.torsions = nn.ModuleList(), nn.ModuleList()
        for which in sorted({row[0] for row in rows}):
            size, energies = force.getMapParameters(which)
            grid = np.array(without_units(*energies)).reshape(size, size)
            grid = np.pad(grid, (0, 1), mode="wrap")  # a periodic function repeats its first value
            surface = openmm.Continuous2DFunction(
                size + 1, size + 1, grid.ravel(), 0.0, 2 * np.pi, 0.0, 2 * np.pi, True
            )
            self.maps.append(cast(nn.Module, tabulated(surface)))
            self.torsions.append(atoms_of([row[1:] for row in rows if row[0] == which], n_atoms))

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        energy = frame.x.new_zeros(frame.x.shape[-1])
        for surface, atoms in zip(self.maps, self.torsions, strict=True):
            a, b, c, d, e, f, g, h = gather_atoms(frame.x, cast(Gather, atoms))
            energy = energy + surface(torsion(a, b, c, d), torsion(e, f, g, h)).sum(0)
        return energy
