"""The map between scaled internal z, which a flow works with, and Cartesian x, once rows, centres and widths are known.

A Z-matrix gives n - 1 bond lengths, n - 2 angles and n - 3 torsions.  Torsions of rotatable bonds are periodic and stay
in radians.  The rest, (ln r, theta, narrow torsions), is stiff: it is centred and scaled, to about unit width in z.
Constrained lengths are no coordinates.  The measure is that of Cartesian space without overall translation and
rotation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..tools.circle import wrap
from ..tools.fusing import FusedMap
from ..tools.native import NotCompiledError
from ..tools.warn import warn
from .constraints import MassMetric
from .layout import Layout
from .native import NativePlacement
from .placement import Placement
from .sparse import SparseProduct, sparse_pair
from .symmetry import Rotor
from .zmatrix import ZMatrix

B = TypeVar("B", bound="Bijection")
FUSED_ATOMS, FUSED_BATCH = 50, 256


class Bijection(torch.nn.Module):
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
    lengths : ndarray, shape (n_atoms - 1 + n_atoms - 2,), nm, optional
        Fixed lengths of Z-matrix rows 1, 2, ..., then second ones of rows 2, 3, ... that close rings; nan for what is
        a coordinate.
    rotors : sequence of Rotor
        Their periodic z is fold times the mean phase of the group, from `phases` on.
    phases : sequence of float, rad
        One a rotor.
    metric : MassMetric, optional
        Of the constraints: makes the measure that of rigid dynamics.

    Notes
    -----
    dx = prod r^2 sin(theta) dr dtheta dphi over the atoms, b1^2 b2^2 sin(theta) for the first three, r s / d dr ds dphi
    for one that closes a ring; the volume and the 8 pi^2 of overall motion are left out, and so is dr of a fixed
    length.  Where theta leaves (0, pi), a ring cannot be closed, or a narrow torsion is more than half a turn off its
    centre, another z would mean the same x, or none: there log_det is -inf, that is, the density is zero.  A rotor's
    sector is 1/fold of its circle, and log_det counts all of them: log Z is that of the whole molecule, log(fold) for
    each rotor included.
    """

    mean: Tensor
    mixing: Tensor
    unmixing: Tensor
    _slope: Tensor
    _start: Tensor
    _row_of_r: Tensor
    _row_of_bend: Tensor
    _row_of_phi: Tensor
    _leader: Tensor
    _follows: Tensor
    _free: Tensor
    _narrow: Tensor
    _turning: Tensor
    _fold: Tensor
    _phase: Tensor
    _lag: Tensor

    def __init__(
        self,
        zmatrix: ZMatrix,
        mean: Tensor | None = None,
        *,
        mixing: Tensor | None = None,
        lengths: np.ndarray | None = None,
        rotors: Sequence[Rotor] = (),
        phases: Sequence[float] = (),
        metric: MassMetric | None = None,
    ) -> None:
        super().__init__()
        self.layout = Layout(zmatrix, lengths)
        self.zmatrix, self.lengths, self.n_atoms = zmatrix, self.layout.lengths, zmatrix.n_atoms
        self.rotors, self.phases, self.metric = tuple(rotors), tuple(map(float, phases)), metric
        self.n_stiff, self.n_periodic, self.dim = self.layout.n_stiff, self.layout.n_periodic, self.layout.dim
        self.placement = Placement(zmatrix)
        self._set_scale(
            torch.zeros(self.n_stiff, dtype=torch.float64) if mean is None else mean,
            torch.eye(self.n_stiff, dtype=torch.float64) if mixing is None else mixing,
        )
        self._fused: FusedMap | None = None
        self._native: NativePlacement | None = None

    @property
    def periodic(self) -> Tensor:
        """Bool (dim,): which entries of z are torsions on a circle."""
        return torch.arange(self.dim) >= self.n_stiff

    def to_cartesian(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map z (batch, dim) to x (batch, n_atoms, 3), nm, with log |dx/dz| (batch,).

        Atoms stand in the topology's order; the first one placed lies at the origin, the second on the x axis.
        """
        if z.ndim != 2 or z.shape[1] != self.dim:
            raise ValueError(f"Expected z with shape (batch, {self.dim}); got {tuple(z.shape)}.")
        place = self._fused if self._fused is not None and z.dtype == torch.float64 else self._place
        rows, log_det = place(z.T)
        x = rows.permute(2, 1, 0)
        return x, log_det if self.metric is None else log_det + self.metric(x)

    def to_internal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (batch, n_atoms, 3), nm, to z (batch, dim), with log |dz/dx| (batch,).

        Atoms of rotors are relabelled first, see `sector`; fixed lengths are not looked at.
        """
        if x.ndim != 3 or x.shape[1:] != (self.n_atoms, 3):
            raise ValueError(f"Expected x with shape (batch, {self.n_atoms}, 3); got {tuple(x.shape)}.")
        x = self.sector(x)
        log_r, bend, phi, volume = self.placement.measure(x.permute(2, 1, 0))
        phi = phi[self._row_of_phi]
        phi = phi - torch.where(self._follows[:, None], phi[self._leader], 0.0)
        lengths = torch.cat([log_r[self._row_of_r], bend[self._row_of_bend]])[self._free]
        centre = self.mean.to(x)[:, None].split([len(self._free), len(self._narrow)])
        narrow = wrap(phi[self._narrow] - centre[1])
        stiff = self.unmixing.to(x) @ torch.cat([lengths - centre[0], narrow])
        turns = phi[self._turning] * self._fold[:, None].to(x) + self._lag.to(x) @ narrow
        z = torch.cat([stiff, wrap(turns - self._phase[:, None].to(x))]).T
        log_det = volume + self._log_det_scale
        return z, -(log_det if self.metric is None else log_det + self.metric(x))

    def sector(self, x: Tensor) -> Tensor:
        """Exchange equivalent atoms of x so that the mean phase of every rotor lies in the sampled sector."""
        for rotor, phase in zip(self.rotors, self.phases, strict=True):
            x = rotor.turned(x, -torch.round((rotor.phase(x) - phase) * (rotor.fold / (2 * math.pi))).long())
        return x

    def relabelled(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Exchange equivalent atoms of x at random, so that all sectors of every rotor are equally likely."""
        for rotor in self.rotors:
            steps = torch.randint(rotor.fold, (len(x),), generator=rng, device=rng.device)
            x = rotor.turned(x, steps.to(x.device))
        return x

    def __dir__(self) -> list[str]:
        """What is of coordinates: a module's own methods, of which it needs none but `to`, are not offered."""
        return sorted((set(super().__dir__()) - set(dir(torch.nn.Module))) | {"to"})

    def use_c(self: B) -> B:
        """Compute `to_cartesian` and its derivative in C from the next call on, for float64 on a CPU; differentiable
        once.

        Without a C compiler all stays as it is, with a warning.
        """
        try:
            self._native = NativePlacement(self.zmatrix)
        except NotCompiledError as error:
            warn(f"The placement of atoms is PyTorch's own, and slower. {error}")
        return self

    def compile(self: B, chunk: int | None = None) -> B:  # type: ignore[override]
        """Compile `to_cartesian` in float64 and its derivative with torch.compile at the next call.

        A batch is taken in pieces of `chunk` structures; by default what a processor's caches hold. Only of small
        molecules: beyond, fusing takes minutes and gains nothing.
        """
        if self.n_atoms > FUSED_ATOMS:
            return self
        self._fused = FusedMap(self._place, self.dim, chunk or FUSED_BATCH, "The placement of atoms")
        return self

    @property
    def fused(self) -> bool:
        """Whether `compile` was called and the molecule is small enough for it."""
        return self._fused is not None

    # --- inside: the batch is the last dimension ---

    def _set_scale(self, mean: Tensor, mixing: Tensor) -> None:
        """All that `_place` does before atoms are placed is one affine map of z; here it is made."""
        self.register_buffer("mean", mean)
        self.register_buffer("mixing", mixing)
        self.register_buffer("unmixing", torch.linalg.inv(mixing), persistent=False)
        fixed = float(np.log(self.lengths[~np.isnan(self.lengths)]).sum())
        self._log_det_scale = float(torch.linalg.slogdet(mixing).logabsdet) - fixed
        layout = self.layout
        names = ("leader", "follows", "free", "narrow", "turning")
        places = {f"_{name}": torch.as_tensor(getattr(layout, name)) for name in names}
        rank = torch.as_tensor(np.argsort(self.placement.order))  # of rows
        places |= {f"_row_of_{name}": rank[k:] - k for k, name in enumerate(("r", "bend", "phi"), start=1)}
        for name, index in places.items():
            self.register_buffer(name, index, persistent=False)

        # Lengths, angles and relative torsions, in the order of rows: at z = 0, and by z.
        stiff = torch.cat([mixing, torch.zeros(self.n_stiff, self.n_periodic, dtype=torch.float64)], dim=1)
        lengths = torch.zeros(len(layout.lengths), self.dim, dtype=torch.float64)
        lengths[self._free] = stiff[: len(self._free)]
        start = torch.as_tensor(self.lengths).log()
        start[self._free] = mean[: len(self._free)]
        torsions = torch.zeros(layout.n_torsions, self.dim, dtype=torch.float64)
        torsions[self._narrow] = stiff[len(self._free) :]
        zero = torch.zeros(layout.n_torsions, dtype=torch.float64)
        zero[self._narrow] = mean[len(self._free) :]
        self._turn_rotors(torsions, zero)
        torsions = torsions + torch.where(self._follows[:, None], torsions[self._leader], 0.0)
        zero = zero + torch.where(self._follows, zero[self._leader], 0.0)
        by_rank = [torch.argsort(index) for index in (self._row_of_r, self._row_of_bend, self._row_of_phi)]
        by_rank[1] = by_rank[1] + layout.n_bonds
        slope = torch.cat([lengths[by_rank[0]], lengths[by_rank[1]], torsions[by_rank[2]], stiff[len(self._free) :]])
        start = torch.cat([start[by_rank[0]], start[by_rank[1]], zero[by_rank[2]], 0 * mean[len(self._free) :]])
        self.register_buffer("_slope", slope, persistent=False)
        self.register_buffer("_start", start, persistent=False)
        self._sizes = [layout.n_bonds, layout.n_angles, layout.n_torsions, len(layout.narrow)]
        self._sparse = sparse_pair(slope) if self.n_atoms > FUSED_ATOMS else None

    def _turn_rotors(self, torsions: Tensor, zero: Tensor) -> None:
        """Periodic torsions by z: themselves, or the mean phase of a rotor."""
        n = self.n_periodic
        column_of = {int(row): k for k, row in enumerate(self._turning + 3)}
        narrow_of = {int(row): k for k, row in enumerate(self._narrow + 3)}
        self.register_buffer("_fold", torch.ones(n, dtype=torch.float64), persistent=False)
        self.register_buffer("_phase", torch.zeros(n, dtype=torch.float64), persistent=False)
        self.register_buffer("_lag", torch.zeros(n, len(self._narrow), dtype=torch.float64), persistent=False)
        for rotor, phase in zip(self.rotors, self.phases, strict=True):
            column = column_of[rotor.rows[0]]
            self._fold[column] = rotor.fold
            late = 0.0  # how far the atoms lie, together, beyond even spacing after the first
            for k, row in enumerate(rotor.rows[1:], start=1):
                self._lag[column, narrow_of[row]] = 1.0
                late += float(wrap(zero[row - 3] - 2 * math.pi * k / rotor.fold))
            self._phase[column] = rotor.fold * phase - late
        turning = torch.zeros(n, self.dim, dtype=torch.float64)
        turning[:, self.n_stiff :] = torch.eye(n, dtype=torch.float64)
        torsions[self._turning] = (turning - self._lag @ torsions[self._narrow]) / self._fold[:, None]
        zero[self._turning] = self._phase / self._fold

    def _place(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (dim, batch) -> x (3, n_atoms, batch) and log |dx/dz| (batch,), without the metric."""
        if self._sparse is not None and z.dtype == torch.float64 and z.device.type == "cpu":
            q = self._start[:, None] + SparseProduct.apply(z, *self._sparse)
        else:
            q = self._start.to(z)[:, None] + self._slope.to(z) @ z
        log_r, bend, phi, deviation = q.split(self._sizes)
        if self._native is not None and z.dtype == torch.float64 and z.device.type == "cpu":
            x, volume = self._native(q[: len(q) - len(deviation)])
            x = x.permute(2, 1, 0)
        else:
            x, volume = self.placement.place(log_r, bend, phi)
        inside = (deviation.abs() < math.pi).all(0)
        return x, torch.where(inside, volume + self._log_det_scale, -torch.inf)
