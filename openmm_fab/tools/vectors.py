"""Bond angles and torsions of points in space; coordinates are in the last dimension.

`energy.geometry` has both for batches of structures inside an energy, with the batch last and with OpenMM's derivatives
where angles are singular.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def bond_angle(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Angle at b between a and c, rad in [0, pi]; points (..., 3) -> (...). NaN where two points are one."""
    u, v = a - b, c - b
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (u * v).sum(-1) / np.sqrt((u * u).sum(-1)) / np.sqrt((v * v).sum(-1))
    return np.arccos(np.clip(cosine, -1.0, 1.0))


def torsion(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Torsion a-b-c-d, rad in (-pi, pi], with the sign of IUPAC; points (..., 3), broadcast to `a`, -> (...)."""
    u, v, w = (p.expand_as(a) for p in (b - a, c - b, d - c))
    p, q = torch.linalg.cross(u, v), torch.linalg.cross(v, w)
    return torch.atan2((torch.linalg.cross(p, q) * v).sum(-1) / v.norm(dim=-1), (p * q).sum(-1))
