"""LCPOForce: the solvent-accessible surface by linear combinations of pairwise overlaps."""

from __future__ import annotations

import numpy as np
import openmm
import torch
from torch import Tensor

from .geometry import Frame, Gather, Parameters, find_pairs
from .terms import Term, refuse_periodic, without_units


class LCPO(Term):
    """Surface tension times the area of all atoms (Weiser, Shenkin, Still, J. Comput. Chem. 20, 217 (1999), eq. 3).

    A sphere i of radius R loses A_ij = 2 pi R_i (R_i - r / 2 - (R_i^2 - R_j^2) / (2 r)) to a sphere j that it cuts; its
    area is P1 4 pi R^2 + P2 sum_j A_ij + sum_j (P3 + P4 A_ij) sum_k A_jk, over those j and k that cut i and each other.
    """

    together: Tensor

    def __init__(self, force: openmm.LCPOForce, system: openmm.System) -> None:
        super().__init__()
        refuse_periodic(force)
        rows = np.array([without_units(*force.getParticleParameters(i)) for i in range(system.getNumParticles())])
        self.tension = without_units(force.getSurfaceTension())[0]
        for name, values in zip(("radius", "p1", "p2", "p3", "p4"), rows.T, strict=True):
            self.field(name, values)
        self.atoms = np.flatnonzero(rows[:, 0] > 0)  # without a radius an atom is not there
        self.own = Gather(self.atoms, len(rows))
        self.constant("together", 1.0 - np.eye(len(self.atoms))[:, :, None])

    def pairs(self) -> np.ndarray:
        i, j = np.triu_indices(len(self.atoms), 1)
        return np.stack([self.atoms[i], self.atoms[j]], 1)

    def prepare_pairs(self, pairs: np.ndarray) -> None:
        n = len(self.atoms)
        i, j = np.indices((n, n)).reshape(2, -1)
        j = np.where(i == j, (i + 1) % max(n, 1), j)  # any other atom: `together` leaves them out
        rows = find_pairs(np.stack([self.atoms[i], self.atoms[j]], 1), pairs) if n > 1 else np.zeros(n * n, dtype=int)
        self.distances = Gather(rows.reshape(n, n), len(pairs))

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        radius, p1, p2, p3, p4 = (self.own(self.value(name)) for name in self.fields)
        area = (p1 * 4 * torch.pi * radius.square()).sum(0).expand(frame.x.shape[-1])
        if len(self.atoms) < 2:
            return self.tension * area
        r = self.distances(frame.r)
        first, second = radius[:, None], radius[None]
        cut = (r < first + second) & (self.together > 0)
        r = torch.where(cut, r, 1.0)
        lost = 2 * torch.pi * first * (first - 0.5 * r - (first.square() - second.square()) / (2 * r))
        lost = torch.where(cut, lost, 0.0)  # (i, j, batch)
        near = cut.to(lost).permute(2, 0, 1)
        shared = (near @ lost.permute(2, 1, 0)).permute(1, 2, 0)  # sum over k that cut i, of what j loses to k
        near = near.permute(1, 2, 0)
        area = area + (p2 * lost.sum(1)).sum(0) + (p3 * (near * shared).sum(1) + p4 * (lost * shared).sum(1)).sum(0)
        return self.tension * area
