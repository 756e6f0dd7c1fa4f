"""Z-matrix geometry: lengths, angles and torsions -> Cartesian positions, and back.

The batch is the last dimension, as in `energy.geometry`.  Atoms that depend on the same number of others are placed
at once; between such blocks only those atoms are carried along that a later one refers to, so that the work grows
with the number of atoms and not with the depth of the molecule.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ..energy.geometry import Gather, angle, cross, dot, torsion
from .zmatrix import ZMatrix


class Placement(nn.Module):
    """Conversion between a Z-matrix's internal coordinates and Cartesian positions.

    Attributes
    ----------
    order : ndarray of int, shape (n_atoms,)
        Z-matrix row of each atom in the order of placement; rows 0, 1, 2 come first.

    Notes
    -----
    Rows of `log_r` (n_atoms - 1, batch), `bend` (n_atoms - 2, batch) and `phi` (n_atoms - 3, batch) stand in the
    order of placement, without the seeds that have none.  `bend` is the angle theta, or ln of the second length of
    an atom that closes a ring; phi counts from zero for every atom.  Volumes are log |dx / d(log_r, bend, phi)|:
    r^3 sin(theta) for an atom, and r^2 s^2 / d where a ring is closed by lengths r and s across a distance d.
    """

    _closes: Tensor

    def __init__(self, zmatrix: ZMatrix) -> None:
        super().__init__()
        n = self.n_atoms = zmatrix.n_atoms
        self.order = np.concatenate(zmatrix.blocks)
        rows = zmatrix.rows[self.order]
        self._atoms = Gather(np.argsort(rows[:, 0]), n)
        self._second_on_first = n > 2 and rows[2, 1] == rows[1, 0]
        self._measured = nn.ModuleList(Gather(rows[k:, : k + 1].T, n) for k in range(1, min(n, 4)))
        self._any_closes = bool(zmatrix.closes.any())
        self.register_buffer("_closes", torch.as_tensor(zmatrix.closes[self.order][2:, None]), persistent=False)
        self._partners, self._kept = nn.ModuleList(), nn.ModuleList()
        self._blocks: list[tuple[slice, bool]] = []  # rows of phi, and whether some of them close rings
        used_later = [set(zmatrix.rows[block, 1:].ravel().tolist()) for block in zmatrix.blocks]
        here = zmatrix.rows[zmatrix.blocks[0], 0].tolist()  # atoms that are carried along
        start = 0
        for k, block in enumerate(zmatrix.blocks[1:], start=1):
            places = {atom: i for i, atom in enumerate(here)}
            self._partners.append(Gather(np.vectorize(places.get)(zmatrix.rows[block, 1:].T), len(here)))
            self._blocks.append((slice(start, start + len(block)), bool(zmatrix.closes[block].any())))
            start += len(block)
            wanted = set().union(*used_later[k + 1 :])
            both = here + zmatrix.rows[block, 0].tolist()
            keep = [i for i, atom in enumerate(both) if atom in wanted]
            self._kept.append(Gather(np.array(keep, dtype=int), len(both)))
            here = [both[i] for i in keep]

    def place(self, log_r: Tensor, bend: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (3, n_atoms, batch) of internal coordinates, and their log-volume (batch,).

        The first atom lies in the origin, the second on x, the third in the xy plane. Where an angle is not in
        (0, pi), or two lengths do not reach across a ring, the volume is -inf and positions mean nothing.
        """
        # Volume elements of all atoms but those of closed rings, whose distances are known only when they are placed.
        r = log_r.exp()
        sine, cosine = bend.sin(), bend.cos()
        angles = (bend > 0) & (bend < math.pi)
        volume = 3 * log_r.sum(0)
        if self._any_closes:
            angles = angles | self._closes
            volume = volume + torch.where(self._closes, 2 * bend - log_r[1:], sine.abs().log()).sum(0)
        else:
            volume = volume + sine.abs().log().sum(0)
        volume = torch.where(angles.all(0), volume, -torch.inf)
        # `here` are the atoms placed so far that a later block refers to; `placed` are all, block by block.
        here = self._seeds(r, sine, cosine)
        placed = [here]
        # Split once: the derivative of a split is one concatenation, that of slices one full-sized sum for each.
        sizes = [cut.stop - cut.start for cut, _ in self._blocks]
        rows = (part.split(sizes) for part in (r[2:], bend[1:], sine[1:], cosine[1:], phi.cos(), phi.sin()))
        blocks = zip(self._partners, self._kept, self._blocks, *rows, strict=True)
        for partners, kept, (cut, any_closes), length, angle_, s, c, cos_phi, sin_phi in blocks if sizes else ():
            origin, hinge, side = partners(here).unbind(1)  # bond, angle and torsion partner
            back = origin - hinge
            if any_closes:
                c, s, log_d, reaches = _triangle(length, angle_, back, self._closes[1:][cut], s, c)
                volume = torch.where(reaches.all(0), volume - log_d.sum(0), -torch.inf)
            # A right-handed frame at the bond partner: along the bond, and in and across the partners' plane.
            axis = _unit(back)
            normal = _unit(cross(hinge - side, axis))
            across = length * s
            block = origin - axis * (length * c) + cross(normal, axis) * (across * cos_phi)
            block = block + normal * (across * sin_phi)
            placed.append(block)
            here = kept(torch.cat([here, block], dim=1))
        return self._atoms(torch.cat(placed, dim=1)), volume

    def measure(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Internal coordinates log_r, bend, phi in (-pi, pi] and log-volume of positions (3, n_atoms, batch)."""
        log_r, bend, phi = x.new_zeros(3, 0, x.shape[-1]).unbind(0)
        volume = x.new_zeros(x.shape[-1])
        for k, atoms in enumerate(self._measured):
            a, b, *rest = atoms(x).unbind(1)
            if k == 0:
                log_r = _log_distance(a, b)
                volume = 3 * log_r.sum(0)
            elif k == 1:
                theta = angle(a, b, rest[0])
                second = _log_distance(a, rest[0])
                bend = torch.where(self._closes, second, theta)
                closing = 2 * second - log_r[1:] - _log_distance(b, rest[0])
                volume = volume + torch.where(self._closes, closing, theta.sin().abs().log()).sum(0)
            else:
                phi = torsion(a, b, *rest)
        return log_r, bend, phi, volume

    def _seeds(self, r: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
        zero = torch.zeros_like(r[0])
        x, y = [zero, r[0]], [zero, zero]
        if self.n_atoms > 2:
            along = r[1] * cosine[0]
            x.append(r[0] - along if self._second_on_first else along)
            y.append(r[1] * sine[0])
        return torch.stack([torch.stack(x), torch.stack(y), torch.zeros_like(torch.stack(x))])


def _triangle(
    length: Tensor, log_second: Tensor, back: Tensor, closes: Tensor, s: Tensor, c: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """cos and sin of the angle that two lengths make across `back`, ln of its length, and whether they reach.

    Of rows that do not close a ring: s, c, 0 and True.
    """
    d2 = dot(back, back)
    second = torch.where(closes, log_second, 0.0).exp()
    cosine = (length.square() + d2 - second.square()) / (2 * length * d2.sqrt())
    reaches = (cosine.abs() < 1) | ~closes
    cosine = torch.where(closes & reaches, cosine, 0.0)
    sine = (1 - cosine.square()).sqrt()
    log_d = torch.where(closes, 0.5 * d2.log(), 0.0)
    return torch.where(closes, cosine, c), torch.where(closes, sine, s), log_d, reaches


def _log_distance(a: Tensor, b: Tensor) -> Tensor:
    d = a - b
    return 0.5 * dot(d, d).log()


def _unit(v: Tensor) -> Tensor:
    return v / dot(v, v).sqrt()
