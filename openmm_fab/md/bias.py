"""A periodic bias on one or two torsions: a Fourier series that hills are added to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import ive
from torch import Tensor

from ..energy.geometry import torsion
from ..molecule.torsions import named_torsions


class TorsionBias:
    """Bias V in kT on one or two torsions, smooth and periodic: f(a) C f(b) with f = (1, cos a, ..., cos Ka, sin a,
    ..., sin Ka).

    A hill is a product of exp((cos(a - a0) - 1) / width^2), which near its top is a Gaussian; its Fourier
    coefficients are Bessel functions, and K is where they have fallen to 1e-9. So no grid and no interpolation.

    Parameters
    ----------
    torsions : sequence of four atoms, one or two of them
    width : float, rad
    coefficients : tensor, (2K+1,) or (2K+1, 2K+1), float64
        None: no hill yet.
    """

    def __init__(self, torsions: Sequence[Sequence[int]], width: float, coefficients: Tensor | None = None) -> None:
        if len(torsions) not in (1, 2):
            raise ValueError(f"Expected one or two torsions; got {len(torsions)}.")
        self.torsions, self.width = [list(t) for t in torsions], width
        bessel = ive(np.arange(1000), 1.0 / width**2)
        modes = int((bessel > 1e-9 * bessel[0]).sum()) - 1
        self.k = torch.arange(1, modes + 1, dtype=torch.float64)
        # g(a - a0) = sum_b share_b f_b(a) f_b(a0)
        self.share = torch.from_numpy(np.concatenate([bessel[:1], *[2 * bessel[1 : modes + 1]] * 2]))
        shape = (2 * modes + 1,) * len(torsions)
        self.coefficients = torch.zeros(shape, dtype=torch.float64) if coefficients is None else coefficients
        atoms = sorted({i for t in self.torsions for i in t})
        self._atoms = torch.tensor(atoms)
        self._places = [[atoms.index(i) for i in t] for t in self.torsions]

    def __repr__(self) -> str:
        return f"TorsionBias(torsions {self.torsions}, hills {self.width:.3g} rad wide)"

    def angles(self, x: Tensor) -> Tensor:
        """The biased torsions (batch, torsions), rad, of structures (batch, atoms, 3)."""
        return self._angles(x[:, self._atoms.to(x.device)])

    def value(self, angles: Tensor) -> Tensor:
        """Bias V (batch,), kT, at angles; differentiable."""
        basis = self._basis(angles)
        c = self.coefficients.to(angles)
        if len(basis) == 1:
            return basis[0] @ c
        return ((basis[0] @ c) * basis[1]).sum(1)

    def __call__(self, x: Tensor) -> Tensor:
        """Bias V (batch,), kT, of structures; differentiable."""
        return self.value(self.angles(x))

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Bias V (batch,) and dV/dx (batch, atoms, 3), detached."""
        atoms = self._atoms.to(x.device)
        with torch.enable_grad():
            near = x[:, atoms].detach().requires_grad_()
            v = self.value(self._angles(near))
            (slope,) = torch.autograd.grad(v.sum(), near)
        return v.detach(), torch.zeros_like(x).index_add_(1, atoms, slope)

    def with_hills(self, angles: Tensor, heights: Tensor) -> TorsionBias:
        """Bias with additional hills of `heights` (batch,), kT, at `angles` (batch, torsions), rad."""
        scaled = [self.share * f for f in self._basis(angles.double().cpu())]
        h = heights.double().cpu()
        added = h @ scaled[0] if len(scaled) == 1 else (scaled[0] * h[:, None]).T @ scaled[1]
        return TorsionBias(self.torsions, self.width, self.coefficients + added)

    def _angles(self, x: Tensor) -> Tensor:
        rows = x.permute(2, 1, 0)  # (3, atoms, batch)
        return torch.stack([torsion(*(rows[:, [i]] for i in t))[0] for t in self._places], dim=1)

    def _basis(self, angles: Tensor) -> list[Tensor]:
        k = self.k.to(angles)
        return [torch.cat([torch.ones_like(a), torch.cos(a * k), torch.sin(a * k)], 1) for a in angles.split(1, dim=1)]


def chosen_torsions(topology: object, wanted: Sequence[str | Sequence[int]] | None) -> list[tuple[int, int, int, int]]:
    """Four atoms of each torsion: by name, by atoms, or the first phi and psi, or the first rotatable bond.

    Raises
    ------
    ValueError
        Unknown names, no torsion at all, or more than two.
    """
    named = named_torsions(topology)
    if wanted is None:
        backbone = {name.split()[0]: name for name in reversed(named) if name.split()[0] in ("phi", "psi")}
        wanted = [backbone[k] for k in sorted(backbone)] or list(named)[:1]
    elif isinstance(wanted, str) or (len(wanted) == 4 and all(isinstance(i, int | np.integer) for i in wanted)):
        wanted = [wanted]  # type: ignore[list-item]
    found = []
    for one in wanted:
        if isinstance(one, str) and one not in named:
            raise ValueError(f"Expected torsions out of {list(named)}, or four atoms; got {one!r}.")
        atoms = tuple(int(i) for i in (named[one] if isinstance(one, str) else one))
        if len(atoms) != 4 or len(set(atoms)) != 4:
            raise ValueError(f"Expected four different atoms for a torsion; got {atoms}.")
        found.append(atoms)
    if len(found) not in (1, 2):
        raise ValueError(f"Expected one or two torsions to bias; got {len(found)}. Name them: torsions=[(0, 1, 2, 3)].")
    return found
