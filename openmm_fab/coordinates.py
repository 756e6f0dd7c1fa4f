"""Internal coordinates: z, the numbers a flow works with, <-> x, a molecule in Cartesian space.

A Z-matrix gives n - 1 bond lengths, n - 2 angles and n - 3 torsions.  Torsions of rotatable bonds are periodic and
stay in radians.  The rest, (ln r, theta, narrow torsions), is stiff: it is centred on the energy minimum and
whitened by the covariance that the Hessian of the energy there predicts, so that every stiff z has about unit width
without any MD.  The measure is that of Cartesian space without overall translation and rotation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .system import MolecularSystem
from .zmatrix import ZMatrix, build_zmatrix

ValueAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class CoordinateSettings:
    """How the stiff coordinates are scaled.

    Attributes
    ----------
    inflate : float
        One unit of z is this many predicted standard deviations: room for what the harmonic picture underrates.
    softest : float, rad (lengths: relative)
        No coordinate is taken to be wider than this where the Hessian says nothing (a free or unstable direction);
        the periodic torsions count with this width while the stiff coordinates follow them.
    whiten : bool
        Also remove the correlations that the Hessian predicts, not only the widths.
    """

    inflate: float = 1.2
    softest: float = 0.3
    whiten: bool = True

    def __post_init__(self) -> None:
        if not (self.inflate > 0 and self.softest > 0):
            raise ValueError(f"Expected inflate > 0 and softest > 0; got {self}.")


class InternalCoordinates(torch.nn.Module):
    """Bijection between internal z (batch, dim) and Cartesian x (batch, n_atoms, 3) of one molecule.

    The first `n_stiff` entries of z are stiff (unit width, any real number); the last `n_periodic` are torsions on
    the circle [-pi, pi).

    Parameters
    ----------
    zmatrix : ZMatrix
    mean : Tensor, shape (n_stiff,), float64
        Centre of the stiff coordinates (ln of nm, rad).
    mixing : Tensor, shape (n_stiff, n_stiff), float64
        Stiff coordinates are mean + mixing @ z.

    Notes
    -----
    dx = prod r^2 sin(theta) dr dtheta dphi over the atoms, b1^2 b2^2 sin(theta) for the first three; the volume and
    the 8 pi^2 of overall motion are left out.  Where theta leaves (0, pi), or a narrow torsion is more than half a
    turn off its centre, another z would mean the same x: there log_det is -inf, that is, the density is zero.
    """

    mean: Tensor
    mixing: Tensor
    unmixing: Tensor

    def __init__(self, zmatrix: ZMatrix, mean: Tensor | None = None, mixing: Tensor | None = None) -> None:
        super().__init__()
        self.zmatrix = zmatrix
        n = self.n_atoms = zmatrix.n_atoms
        if n < 2:
            raise ValueError("Expected a molecule of two atoms or more; got a single atom, which has no shape.")
        self.n_bonds, self.n_angles = n - 1, n - 2
        self.n_periodic = int(zmatrix.periodic.sum())
        self.dim = self.n_bonds + self.n_angles + max(n - 3, 0)
        self.n_stiff = self.dim - self.n_periodic
        self._index_rows(zmatrix)
        self._set_scale(
            torch.zeros(self.n_stiff, dtype=torch.float64) if mean is None else mean,
            torch.eye(self.n_stiff, dtype=torch.float64) if mixing is None else mixing,
        )

    @classmethod
    def fit(
        cls,
        zmatrix: ZMatrix,
        minimum: np.ndarray,
        value_and_gradient: ValueAndGradient,
        settings: CoordinateSettings | None = None,
    ) -> InternalCoordinates:
        """Centre and scale the stiff coordinates by the energy around its minimum.

        Parameters
        ----------
        minimum : ndarray, shape (n_atoms, 3), nm
        value_and_gradient : callable
            x (batch, n_atoms, 3) -> reduced energy (batch,) and its gradient in 1/nm, both float64.
        """
        settings = settings or CoordinateSettings()
        coordinates = cls(zmatrix)
        q0, _ = coordinates._measure(torch.as_tensor(np.asarray(minimum), dtype=torch.float64)[None])
        covariance = coordinates._stiff_covariance(q0, value_and_gradient, settings.softest) * settings.inflate**2
        width = covariance.diagonal().sqrt()
        mixing = torch.diag(width)
        if settings.whiten:  # the root of the correlations that keeps every z closest to its own coordinate
            values, vectors = torch.linalg.eigh(covariance / width[:, None] / width)
            mixing = mixing @ (vectors * values.sqrt()) @ vectors.T
        coordinates._set_scale(q0[0, : coordinates.n_stiff], mixing)
        return coordinates

    @classmethod
    def from_system(cls, system: MolecularSystem, settings: CoordinateSettings | None = None) -> InternalCoordinates:
        """Z-matrix from the bond graph, scales from the Hessian at the system's minimum (Reference platform)."""
        from .energy.bridge import OpenMMEnergy

        zmatrix = build_zmatrix(system.bonds, system.masses, system.minimum)
        with OpenMMEnergy(system, platform="Reference", workers=1) as energy:
            return cls.fit(zmatrix, system.minimum, energy.value_and_gradient, settings)

    @property
    def periodic(self) -> Tensor:
        """Tensor of bool, shape (dim,): which entries of z are torsions on a circle."""
        return torch.arange(self.dim) >= self.n_stiff

    def to_cartesian(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (batch, dim) -> x (batch, n_atoms, 3) in nm and log |dx/dz| (batch,).

        Atoms stand in the topology's order; the first one placed lies at the origin, the second on the x axis.
        """
        if z.ndim != 2 or z.shape[1] != self.dim:
            raise ValueError(f"Expected z with shape (batch, {self.dim}); got {tuple(z.shape)}.")
        deviation = z[:, : self.n_stiff] @ self.mixing.to(z).T
        x, log_det = self._place(torch.cat([self.mean.to(z) + deviation, z[:, self.n_stiff :]], dim=1))
        inside = (deviation[:, self.n_bonds + self.n_angles :].abs() < math.pi).all(1)
        return x, torch.where(inside, log_det + self._log_det_mixing, -torch.inf)

    def to_internal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (batch, n_atoms, 3) in nm -> z (batch, dim) and log |dz/dx| (batch,)."""
        if x.ndim != 3 or x.shape[1:] != (self.n_atoms, 3):
            raise ValueError(f"Expected x with shape (batch, {self.n_atoms}, 3); got {tuple(x.shape)}.")
        q, log_det = self._measure(x)
        deviation = q[:, : self.n_stiff] - self.mean.to(x)
        lengths, torsions = deviation.tensor_split([self.n_bonds + self.n_angles], dim=1)
        stiff = torch.cat([lengths, wrap(torsions)], dim=1) @ self.unmixing.to(x).T
        return torch.cat([stiff, q[:, self.n_stiff :]], dim=1), log_det - self._log_det_mixing

    def _set_scale(self, mean: Tensor, mixing: Tensor) -> None:
        self.register_buffer("mean", mean)
        self.register_buffer("mixing", mixing)
        self.register_buffer("unmixing", torch.linalg.inv(mixing), persistent=False)
        self._log_det_mixing = float(torch.linalg.slogdet(mixing).logabsdet)

    def _index_rows(self, zmatrix: ZMatrix) -> None:
        """Index tensors in Z-matrix order ("row") and in the order in which blocks place their atoms ("rank")."""
        row_of_atom = np.argsort(zmatrix.rows[:, 0])
        rank_of_row = np.argsort(np.concatenate(zmatrix.blocks))
        rank_of_atom = torch.as_tensor(rank_of_row[row_of_atom])
        rows = torch.as_tensor(zmatrix.rows)
        self._atom, self._bond, self._angle, self._torsion = rows.unbind(1)
        self._rank_of_atom = rank_of_atom
        self._second_on_first = bool(rows[2, 1] == rows[1, 0]) if self.n_atoms > 2 else False
        self._blocks = [
            (torch.as_tensor(b), *(rank_of_atom[rows[b, k]] for k in (1, 2, 3)))
            for b in map(torch.as_tensor, zmatrix.blocks[1:])
        ]
        turns = zmatrix.periodic[3:]
        by_kind = np.concatenate([np.flatnonzero(~turns), np.flatnonzero(turns)])  # narrow torsions, then periodic
        self._by_kind, self._by_row = torch.as_tensor(by_kind), torch.as_tensor(np.argsort(by_kind))
        leader = zmatrix.leader[3:]
        self._leader, self._follows = torch.as_tensor(np.maximum(leader - 3, 0)), torch.as_tensor(leader >= 0)

    def _place(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Unscaled q = (ln r, theta, narrow torsions, periodic torsions) -> x and log |dx/dq|."""
        log_r, theta, torsions = q.tensor_split([self.n_bonds, self.n_bonds + self.n_angles], dim=1)
        r = log_r.exp()
        inside = ((theta > 0) & (theta < math.pi)).all(1)
        log_det = torch.where(inside, _log_measure(log_r, theta), -torch.inf)
        torsions = torsions[:, self._by_row]
        torsions = torsions + torch.where(self._follows, torsions[:, self._leader], 0.0)
        # Where each atom lies as seen from its partners: along the bond's backward direction, and across it.
        sine, cosine = theta.sin(), theta.cos()
        zero = torch.zeros_like(r[:, 0])
        seeds = [torch.stack([zero, zero, zero], 1), torch.stack([r[:, 0], zero, zero], 1)]
        if self.n_atoms > 2:
            along = r[:, 1] * cosine[:, 0]
            along = r[:, 0] - along if self._second_on_first else along
            seeds.append(torch.stack([along, r[:, 1] * sine[:, 0], zero], 1))
        placed = torch.stack(seeds, dim=1)
        for rows, bond, angle, torsion in self._blocks:
            length, t = r[:, rows - 1], torsions[:, rows - 3]
            across = length * sine[:, rows - 2]
            local = torch.stack([-length * cosine[:, rows - 2], across * t.cos(), across * t.sin()], dim=-1)
            origin, hinge = placed[:, bond], placed[:, angle]
            axis = _unit(origin - hinge)
            normal = _unit(torch.linalg.cross(hinge - placed[:, torsion], axis))
            frame = torch.stack([axis, torch.linalg.cross(normal, axis), normal], dim=-1)
            new = origin + (frame * local[..., None, :]).sum(-1)
            placed = torch.cat([placed, new], dim=1)
        return placed[:, self._rank_of_atom], log_det

    def _measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x -> unscaled q and log |dq/dx|; the inverse of `_place`."""
        a, b, c, d = (x[:, i] for i in (self._atom, self._bond, self._angle, self._torsion))
        back = b - a
        r = back[:, 1:].norm(dim=-1)
        u, v = -back[:, 2:], (c - b)[:, 2:]
        theta = torch.atan2(torch.linalg.cross(u, v).norm(dim=-1), (u * v).sum(-1))
        torsions = dihedral(a[:, 3:], b[:, 3:], c[:, 3:], d[:, 3:])
        torsions = wrap(torsions - torch.where(self._follows, torsions[:, self._leader], 0.0))
        log_r = r.log()
        return torch.cat([log_r, theta, torsions[:, self._by_kind]], dim=1), -_log_measure(log_r, theta)

    def _stiff_covariance(self, q0: Tensor, value_and_gradient: ValueAndGradient, softest: float) -> Tensor:
        """Covariance of the stiff coordinates at u's minimum q0, from central differences of the gradient of u."""
        step = 1e-4
        shifts = step * torch.eye(self.dim, dtype=torch.float64)
        q = torch.cat([q0 + shifts, q0 - shifts]).requires_grad_()
        x, log_det = self._place(q)
        _, slope = value_and_gradient(x.detach())
        (gradient,) = torch.autograd.grad((x * slope).sum() - log_det.sum(), q)
        up, down = gradient.chunk(2)
        hessian = (up - down + (up - down).T) / (4 * step) + torch.eye(self.dim, dtype=torch.float64) / softest**2
        values, vectors = torch.linalg.eigh(hessian)
        values = values.clamp(min=1 / softest**2)  # an unstable direction counts as a soft one
        return ((vectors / values) @ vectors.T)[: self.n_stiff, : self.n_stiff]


def _log_measure(log_r: Tensor, theta: Tensor) -> Tensor:
    """log of r^3 (of which one r is for ln r) and sin(theta), summed over the atoms."""
    return 3 * log_r.sum(1) + theta.sin().abs().log().sum(1)


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True)


def wrap(angle: Tensor) -> Tensor:
    """Angle in rad -> the same angle in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def dihedral(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Torsion a-b-c-d in rad, IUPAC sign as in mdtraj; each (..., 3)."""
    u, v, w = b - a, c - b, d - c
    n1, n2 = torch.linalg.cross(u, v), torch.linalg.cross(v, w)
    return torch.atan2((torch.linalg.cross(n1, n2) * v).sum(-1) / v.norm(dim=-1), (n1 * n2).sum(-1))
