"""The difference of two log densities, learned from some of its values, so that what is left of it is small.

Of a density p that is cheap and another, p exp(d), whose values d are expensive, d is fitted by a sum of functions of
one coordinate each. p times the exponential of the fit is as cheap as p and near to the other density, and its samples
are weighted by what the fit leaves: exact, whatever the fit, as long as it is made before the values that count. This
is a targeted perturbation (Jarzynski, Phys. Rev. E 65, 046122 (2002)) of densities in place of maps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..target import Target

WAVES = 3  # of a torsion: cos and sin of 1, 2, 3 times it
STRENGTHS = np.logspace(-6.0, 3.0, 28)  # of the ridge, relative to the number of values
WIDEST = 0.3  # of z^2 in a fit: p exp(fit) stays narrower than twice p, whose z has about unit width
OUTLIERS = 30.0  # kT below the middle: values of clashes, which would rule a fit


class Correction:
    """A fit of d(z): sums of z and z^2 of straight coordinates, and of waves of periodic ones.

    Parameters
    ----------
    periodic : Tensor of bool, shape (dim,)
    coefficients : Tensor, shape (functions,), float64, optional
        None: no difference at all.
    """

    def __init__(self, periodic: Tensor, coefficients: Tensor | None = None) -> None:
        self.periodic = periodic.cpu()
        functions = 2 * int((~periodic).sum()) + 2 * WAVES * int(periodic.sum())
        self.coefficients = torch.zeros(functions, dtype=torch.float64) if coefficients is None else coefficients

    @classmethod
    def fitted(cls, periodic: Tensor, z: Tensor, d: np.ndarray) -> Correction:
        """Ridge regression, its strength by the error in values left out one at a time.

        Parameters
        ----------
        z : Tensor, shape (n, dim)
        d : (n,)
            Up to a constant; -inf, where the other density is zero, and what lies far below counts as OUTLIERS below
            the middle.
        """
        plain = cls(periodic)
        middle = np.median(d[np.isfinite(d)])
        values = np.maximum(np.where(np.isfinite(d), d, -np.inf), middle - OUTLIERS)
        functions = plain._functions(z.cpu().double()).numpy()
        offset, spread = functions.mean(0), functions.std(0)
        spread[spread < 1e-9] = np.inf  # a coordinate that does not move
        u, s, v = np.linalg.svd((functions - offset) / spread, full_matrices=False)
        values = values - values.mean()
        projected, best, chosen = u.T @ values, np.inf, np.zeros(len(s))
        for strength in STRENGTHS * len(values):
            shrunk = s**2 / (s**2 + strength)
            residual = values - u @ (shrunk * projected)
            left_out = residual / (1.0 - np.minimum(np.square(u) @ shrunk + 1.0 / len(values), 0.999))
            if (error := float(np.square(left_out).mean())) < best:
                best, chosen = error, shrunk
        if best < np.square(values).mean():
            safe = np.where(s > 0, s, np.inf)
            plain.coefficients = torch.from_numpy(v.T @ (chosen / safe * projected) / spread)
            squares = slice(plain._straight, 2 * plain._straight)
            plain.coefficients[squares] = plain.coefficients[squares].clamp(max=WIDEST)
        return plain

    def __call__(self, z: Tensor) -> Tensor:
        """The fit (batch,), float64, without a constant; differentiable."""
        return self._functions(z.double()) @ self.coefficients.to(z.device)

    @property
    def _straight(self) -> int:
        return int((~self.periodic).sum())

    def _functions(self, z: Tensor) -> Tensor:
        """(batch, functions): z and z^2 of straight coordinates, then waves of the others."""
        straight, angles = z[:, ~self.periodic.to(z.device)], z[:, self.periodic.to(z.device)]
        waves = [wave(k * angles) for k in range(1, WAVES + 1) for wave in (torch.cos, torch.sin)]
        return torch.cat([straight, straight.square(), *waves], 1)


class Corrected(Target):
    """A density p times the exponential of a fitted difference."""

    def __init__(self, target: Target, difference: Correction) -> None:
        self.target, self.difference = target, difference
        self.dim, self.periodic = target.dim, target.periodic

    def log_prob(self, z: Tensor) -> Tensor:
        return self.target.log_prob(z) + self.difference(z).to(z.dtype)
