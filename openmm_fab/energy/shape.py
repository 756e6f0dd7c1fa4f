"""Forces over the shape of a group of particles: radius of gyration, deviation from a reference, orientation."""

from __future__ import annotations

from typing import Any

import numpy as np
import openmm
import torch
from torch import Tensor

from ..molecule.openmm_private import magnitude
from .geometry import Frame, Gather, Parameters, root
from .terms import Term, refuse_periodic, without_units


def _particles(force: Any, system: openmm.System) -> np.ndarray:
    """Numbers of the force's particles; all where it names none."""
    return np.array(force.getParticles() or range(system.getNumParticles()), dtype=np.int64)


def _centred(x: Tensor) -> Tensor:
    """x (3, n, batch) about its mean."""
    return x - x.mean(1, keepdim=True)


class RadiusOfGyration(Term):
    """sqrt of the mean squared distance of particles from their mean, in nm, counted as kJ/mol; masses do not count."""

    def __init__(self, force: openmm.RGForce, system: openmm.System) -> None:
        super().__init__()
        refuse_periodic(force)
        self.particles = Gather(_particles(force, system), system.getNumParticles())

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        return root(_centred(self.particles(frame.x)).square().sum(0).mean(0))


class _Fitted(Term):
    """Particles and a reference that they are turned onto (Horn 1987; Coutsias, Seok, Dill 2004)."""

    reference: Tensor

    def __init__(self, force: Any, system: openmm.System) -> None:
        super().__init__()
        refuse_periodic(force)
        particles = _particles(force, system)
        given = np.array(np.ravel(magnitude(force.getReferencePositions()))).reshape(-1, 3)[particles]
        self.constant("reference", (given - given.mean(0)).T[:, :, None])
        self.particles = Gather(particles, system.getNumParticles())

    def centred(self, frame: Frame) -> Tensor:
        """The particles (3, n, batch), nm, about their mean."""
        return _centred(self.particles(frame.x))

    def quadratic(self, x: Tensor) -> Tensor:
        """(batch, 4, 4): of a unit quaternion q, q.F.q is the sum of products of turned references with x."""
        (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (x[:, None] * self.reference).sum(2)
        rows = [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
        return torch.stack([torch.stack(row, -1) for row in rows], -2)


class RMSD(_Fitted):
    """Root mean squared deviation from the reference turned onto the particles, in nm, counted as kJ/mol."""

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        x = self.centred(frame)
        finite, matrices = _finite(self.quadratic(x))
        largest = torch.where(finite, torch.linalg.eigvalsh(matrices)[:, -1], torch.nan)
        squares = (x.square() + self.reference.square()).sum((0, 1)) - 2.0 * largest
        return root(squares.clamp(min=0.0) / x.shape[1])


def _finite(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the matrices (batch, 4, 4) are finite, and all of them with others in place of those that are not: one
    that is not would fail the decomposition of the whole batch."""
    finite = torch.isfinite(matrices).all(-1).all(-1)
    return finite, torch.where(finite[:, None, None], matrices, torch.arange(4.0).diag().to(matrices))


class OrientationRestraint(_Fitted):
    """2 k sin^2(theta / 2), of the angle theta by which the reference is turned onto the particles."""

    def __init__(self, force: openmm.OrientationRestraintForce, system: openmm.System) -> None:
        super().__init__(force, system)
        self.k = without_units(force.getK())[0]

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        finite, matrices = _finite(self.quadratic(self.centred(frame)))
        cosine = torch.linalg.eigh(matrices)[1][:, 0, -1]  # of theta / 2
        return torch.where(finite, 2.0 * self.k * (1.0 - cosine.square()), torch.nan)
