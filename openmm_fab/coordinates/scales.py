"""How wide the stiff coordinates of a molecule are: from the Hessian at its minimum, or from a trajectory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..tools.circle import wrap
from .zmatrix import puckering

if TYPE_CHECKING:
    from .internal import InternalCoordinates, ValueAndGradient


STEP = 1e-4  # rad, or relative length
BATCH = 256
MANY, SMALLEST = 150, 1e-3  # coordinates; of the root of the correlations
PUCKERS = 0.08  # rad; a ring torsion of less width belongs to a cage


@torch.enable_grad()
def covariance_at_minimum(
    plain: InternalCoordinates, z: Tensor, value_and_gradient: ValueAndGradient, softest: float
) -> Tensor:
    """Covariance of the stiff coordinates in the harmonic picture, from central differences of the gradient of u.

    Parameters
    ----------
    plain : InternalCoordinates
        Not scaled: its z are the coordinates.
    z : Tensor, shape (dim,)
        The minimum of u.
    softest : float
        Width beyond which a direction counts as free.
    """
    dim = plain.dim
    shifts = STEP * torch.eye(dim, dtype=torch.float64)
    gradients = []
    for part in torch.cat([z + shifts, z - shifts]).split(BATCH):
        part = part.detach().requires_grad_()
        x, log_det = plain.to_cartesian(part)
        _, slope = value_and_gradient(x.detach())
        (gradient,) = torch.autograd.grad((x * slope).sum() - log_det.sum(), part)
        gradients.append(gradient)
    up, down = torch.cat(gradients).chunk(2)
    hessian = (up - down + (up - down).T) / (4 * STEP)
    unit = torch.cat(
        [torch.ones(plain.n_stiff, dtype=torch.float64), plain._fold]
    )  # a rotor's z runs fold times faster
    hessian = hessian * unit[:, None] * unit + torch.eye(dim, dtype=torch.float64) / softest**2
    values, vectors = torch.linalg.eigh(hessian)
    values = values.clamp(min=1 / softest**2)  # an unstable direction counts as a soft one
    return ((vectors / values) @ vectors.T)[: plain.n_stiff, : plain.n_stiff]


def soften(plain: InternalCoordinates, covariance: Tensor, positions: np.ndarray, softest: float) -> Tensor:
    """Covariance where the torsions of puckering rings are wide, and nothing is taken to depend on them.

    A ring's other pucker is several times the harmonic width away, and not along a straight line: there the picture
    of one minimum is of no use.  Rings that are planar, or too stiff to pucker, stay as they are.
    """
    width = covariance.diagonal().sqrt()
    places = _torsion_places(plain, np.flatnonzero(puckering(plain.zmatrix, positions)))
    soft = [place for place in places if width[place] > PUCKERS]
    return _on_their_own(covariance, soft, width[soft].clamp(min=softest))


def both_sides(
    plain: InternalCoordinates, mean: Tensor, covariance: Tensor, rows: Sequence[int], inflate: float
) -> tuple[Tensor, Tensor]:
    """Mean and covariance where the torsions of these rows are flat at z = 0, and the side that they are on, or the
    one they are nearer to, is at |z| = 1 at most, as its mirror image is; nothing is taken to depend on them.
    """
    places = _torsion_places(plain, rows)
    mean = mean.clone()
    apart = math.pi - wrap(mean[places]).abs()
    mean[places] = math.pi
    wide = torch.maximum(apart / inflate, covariance.diagonal()[places].sqrt())
    return mean, _on_their_own(covariance, places, wide)


def _torsion_places(plain: InternalCoordinates, rows: Sequence[int] | np.ndarray) -> list[int]:
    """Where the narrow torsions of these rows are among the stiff coordinates: after lengths and angles."""
    narrow = np.flatnonzero(~plain.zmatrix.periodic[3:]) + 3
    first = int(np.isnan(plain.lengths).sum())
    return [first + int(np.flatnonzero(narrow == row)[0]) for row in rows if row in narrow]


def _on_their_own(covariance: Tensor, places: Sequence[int], width: Tensor) -> Tensor:
    covariance = covariance.clone()
    covariance[places, :] = 0.0
    covariance[:, places] = 0.0
    covariance[places, places] = width**2
    return covariance


def moments(plain: InternalCoordinates, structures: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean, less that of `plain`, and covariance of the stiff coordinates in structures (frames, n_atoms, 3).

    Correlations are shrunk as far as frames are few.

    Raises
    ------
    ValueError
        Fewer frames than 10, or a coordinate that does not move.
    """
    n = len(structures)
    if n < 10:
        raise ValueError(f"Expected 10 frames or more to take scales from; got {n}.")
    z = torch.cat([plain.to_internal(part)[0] for part in torch.as_tensor(structures).split(BATCH)])
    z = z[:, : plain.n_stiff]
    mean = z.mean(0)
    covariance = (z - mean).T @ (z - mean) / (n - 1)
    if not (covariance.diagonal() > 0).all():
        raise ValueError(
            "Expected every length, angle and torsion to move in the trajectory; some do not. Constrain these bonds "
            "in the system, too, or take scales from the Hessian."
        )
    share = min(1.0, plain.n_stiff / n)
    return mean, (1 - share) * covariance + share * torch.diag(covariance.diagonal())


def mixing_of(covariance: Tensor, whiten: bool) -> Tensor:
    """A root of the covariance: the widths alone, or with correlations the root nearest to them.

    Of many coordinates correlations below `SMALLEST` are left out, nearly all of them, so that the cost of mixing
    grows with the number of atoms and not with its square.
    """
    width = covariance.diagonal().sqrt()
    if not whiten:
        return torch.diag(width)
    values, vectors = torch.linalg.eigh(covariance / width[:, None] / width)
    root = (vectors * values.sqrt()) @ vectors.T
    if len(root) > MANY:
        root = torch.where(root.abs() > SMALLEST, root, 0.0)
    return width[:, None] * root
