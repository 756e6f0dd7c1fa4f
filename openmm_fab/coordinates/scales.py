"""Widths of a molecule's stiff coordinates, from the Hessian at its minimum or from a trajectory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..tools.circle import wrap
from .layout import Layout
from .zmatrix import puckering

ValueAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]
Map = Callable[[Tensor], tuple[Tensor, Tensor]]  # one direction of a bijection: value and log determinant

STEP = 1e-4  # rad, or relative length
BATCH = 256
MANY, SMALLEST = 150, 1e-3  # coordinates; of the root of the correlations
UNRELATED = 0.03  # of the correlations that are left out: angles about a flat atom sum to less as it bends, either way
FAR_OUT = 2.0  # widths; where no rotamer lies farther out, a coordinate is centred on the minimum
PUCKERS = 0.08  # rad; a ring torsion of less width belongs to a cage


@torch.enable_grad()
def covariance_at_minimum(
    layout: Layout, to_cartesian: Map, z: Tensor, value_and_gradient: ValueAndGradient, softest: float, fold: Tensor
) -> Tensor:
    """Harmonic covariance of the stiff coordinates, from central differences of the gradient of u.

    Parameters
    ----------
    to_cartesian : callable
        z (batch, dim) -> x (batch, n_atoms, 3) and log |dx/dz| (batch,); z are the coordinates themselves, not scaled.
    z : Tensor, shape (dim,)
        The minimum of u.
    value_and_gradient : callable
        x -> u (batch,) and du/dx (batch, n_atoms, 3).
    softest : float
        Width beyond which a direction counts as free.
    fold : Tensor, shape (n_periodic,)
        How many times faster than its torsion a periodic entry of z runs: 1, or the fold of a rotor.
    """
    dim = layout.dim
    shifts = STEP * torch.eye(dim, dtype=torch.float64)
    gradients = []
    for part in torch.cat([z + shifts, z - shifts]).split(BATCH):
        part = part.detach().requires_grad_()
        x, log_det = to_cartesian(part)
        _, slope = value_and_gradient(x.detach())
        (gradient,) = torch.autograd.grad((x * slope).sum() - log_det.sum(), part)
        gradients.append(gradient)
    up, down = torch.cat(gradients).chunk(2)
    hessian = (up - down + (up - down).T) / (4 * STEP)
    unit = torch.cat([torch.ones(layout.n_stiff, dtype=torch.float64), fold])
    hessian = hessian * unit[:, None] * unit + torch.eye(dim, dtype=torch.float64) / softest**2
    values, vectors = torch.linalg.eigh(hessian)
    values = values.clamp(min=1 / softest**2)  # an unstable direction counts as a soft one
    return ((vectors / values) @ vectors.T)[: layout.n_stiff, : layout.n_stiff]


def soften(layout: Layout, covariance: Tensor, positions: np.ndarray, softest: float) -> tuple[Tensor, list[int]]:
    """Widen the torsions of puckering rings and set their covariance with all others to zero; also these entries.

    A ring's other pucker is several times the harmonic width away, and not along a straight line: there the picture
    of one minimum is of no use.  Rings that are planar, or too stiff to pucker, stay as they are.
    """
    width = covariance.diagonal().sqrt()
    places = layout.stiff_torsions(np.flatnonzero(puckering(layout.zmatrix, positions)))
    soft = [place for place in places if width[place] > PUCKERS]
    return _on_their_own(covariance, soft, width[soft].clamp(min=softest)), soft


def both_sides(
    layout: Layout, mean: Tensor, covariance: Tensor, rows: Sequence[int], inflate: float
) -> tuple[Tensor, Tensor]:
    """Mean and covariance with the inverting torsions of these rows centred on the planar geometry (z = 0).

    They are widened so that both mirror images lie within |z| <= 1, and their covariance with all other coordinates is
    set to zero.
    """
    places = layout.stiff_torsions(rows)
    mean = mean.clone()
    apart = math.pi - wrap(mean[places]).abs()
    mean[places] = math.pi
    wide = torch.maximum(apart / inflate, covariance.diagonal()[places].sqrt())
    return mean, _on_their_own(covariance, places, wide)


def around_all(mean: Tensor, covariance: Tensor, places: Sequence[int], minima: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance with these entries on their own, centred on minima (n, entries) of theirs.

    Widths stay those of one minimum: the others lie several of them away.
    """
    mean = mean.clone()
    mean[list(places)] = wrap((minima.amin(0) + minima.amax(0)) / 2)
    return mean, _on_their_own(covariance, places, covariance.diagonal()[list(places)].sqrt())


def over_rotamers(mean: Tensor, covariance: Tensor, places: Sequence[int], away: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance with those of some entries that rotamers, `away` (n, entries) from the mean, have more than
    `FAR_OUT` widths out centred between the extremes, and at least as wide as these are from there."""
    width = covariance.diagonal()[list(places)].sqrt()
    low, high = away.amin(0).clamp(max=0.0), away.amax(0).clamp(min=0.0)
    out = torch.maximum(-low, high) > FAR_OUT * width
    moved = torch.tensor(places)[out]
    mean, wider = mean.clone(), torch.ones_like(mean)
    mean[moved] = wrap(mean[moved] + ((low + high) / 2)[out])
    wider[moved] = ((high - low) / 2 / width)[out].clamp(min=1.0)
    return mean, covariance * wider[:, None] * wider


def _on_their_own(covariance: Tensor, places: Sequence[int], width: Tensor) -> Tensor:
    covariance = covariance.clone()
    covariance[places, :] = 0.0
    covariance[:, places] = 0.0
    covariance[places, places] = width**2
    return covariance


def moments(layout: Layout, to_internal: Map, structures: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the stiff entries of z in structures (frames, n_atoms, 3), nm.

    `to_internal` maps x (batch, n_atoms, 3) to z (batch, dim), which is not scaled, and log |dz/dx|. Correlations are
    shrunk as far as frames are few.

    Raises
    ------
    ValueError
        Fewer frames than 10, or a coordinate that does not move.
    """
    n = len(structures)
    if n < 10:
        raise ValueError(f"Expected 10 frames or more to take scales from; got {n}.")
    z = torch.cat([to_internal(part)[0] for part in torch.as_tensor(structures).split(BATCH)])
    z = z[:, : layout.n_stiff]
    mean = z.mean(0)
    covariance = (z - mean).T @ (z - mean) / (n - 1)
    if not (covariance.diagonal() > 0).all():
        raise ValueError(
            "Expected every length, angle and torsion to move in the trajectory; some do not. Constrain these bonds "
            "in the system, too, or take scales from the Hessian."
        )
    share = min(1.0, layout.n_stiff / n)
    return mean, (1 - share) * covariance + share * torch.diag(covariance.diagonal())


def mixing_of(covariance: Tensor, whiten: bool) -> Tensor:
    """Matrix root of a covariance: its widths alone or, with correlations, the root closest to them.

    Of many coordinates correlations below `SMALLEST` are left out, nearly all of them, so that the cost of mixing
    grows with the number of atoms and not with its square.
    """
    width = covariance.diagonal().sqrt()
    if not whiten:
        return torch.diag(width)
    correlation = (1 - UNRELATED) * covariance / width[:, None] / width
    values, vectors = torch.linalg.eigh(correlation + UNRELATED * torch.eye(len(width)).to(width))
    root = (vectors * values.sqrt()) @ vectors.T
    if len(root) > MANY:
        root = torch.where(root.abs() > SMALLEST, root, 0.0)
    return width[:, None] * root
