"""Target densities: z -> log p and its gradient.  The seam of the house: nothing after it has seen an atom.

`BoltzmannTarget` joins a molecule's energy to its coordinates.  The others are closed forms, to test against.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Target(ABC):
    """An unnormalised density on z (batch, dim).

    Attributes
    ----------
    dim : int
    periodic : Tensor of bool, shape (dim,)
        Coordinates that are angles in [-pi, pi).
    evaluations : int
        Structures evaluated so far, gradients included in the same count.
    """

    dim: int
    periodic: Tensor
    evaluations: int = 0

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) (batch,), up to a constant; -inf where the density is zero or z is invalid."""

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(z) (batch,) and its gradient (batch, dim), zero where log p is not finite."""
        self.evaluations += len(z)
        z = z.detach().requires_grad_()
        log_p = self.log_prob(z)
        (gradient,) = torch.autograd.grad(log_p.sum(), z)
        finite = torch.isfinite(log_p.detach()) & torch.isfinite(gradient).all(1)
        log_p = torch.where(finite, log_p.detach(), -torch.inf)
        return log_p, torch.where(finite[:, None], gradient, 0.0)


class Coordinates(Protocol):
    """What `BoltzmannTarget` asks of coordinates; `InternalCoordinates` is one."""

    @property
    def dim(self) -> int: ...

    @property
    def periodic(self) -> Tensor: ...

    def to_cartesian(self, z: Tensor) -> tuple[Tensor, Tensor]: ...


class BoltzmannTarget(Target):
    """log p(z) = -u(x(z)) + log |dx/dz|: a molecule's Boltzmann density in internal coordinates.

    Parameters
    ----------
    energy : callable
        x (batch, n_atoms, 3) in nm -> reduced energy u (batch,), differentiable.
    coordinates : Coordinates
    regularize : callable, optional
        u -> u, tames the energy of clashing atoms.  For training only: final weights come from the true energy.

    Notes
    -----
    Works in float64 whatever the dtype of z: float32 Cartesian coordinates alone cost 1e-2 kT.
    """

    def __init__(
        self,
        energy: Callable[[Tensor], Tensor],
        coordinates: Coordinates,
        regularize: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.energy, self.coordinates, self.regularize = energy, coordinates, regularize
        self.dim, self.periodic = coordinates.dim, coordinates.periodic

    def log_prob(self, z: Tensor) -> Tensor:
        x, log_det = self.coordinates.to_cartesian(z.double())
        u = self.energy(x)
        if self.regularize is not None:
            u = self.regularize(u)
        return (log_det - u).to(z.dtype)


class Gaussian(Target):
    """Normal density with its own mean and deviation in each coordinate, times exp(log_z)."""

    def __init__(self, mean: Tensor, std: Tensor, log_z: float = 0.0) -> None:
        self.mean, self.std, self.log_z = mean, std, log_z
        self.dim, self.periodic = len(mean), torch.zeros(len(mean), dtype=torch.bool)

    def log_prob(self, z: Tensor) -> Tensor:
        deviation = (z - self.mean) / self.std
        return (-0.5 * deviation.square() - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(1) + self.log_z


class VonMises(Target):
    """Independent angles with densities exp(kappa cos(m (phi - mean))) / (2 pi I0(kappa)): m equal modes, log Z = 0."""

    def __init__(self, mean: Tensor, kappa: Tensor, modes: int = 1) -> None:
        self.mean, self.kappa, self.modes = mean, kappa, modes
        self.dim, self.periodic = len(mean), torch.ones(len(mean), dtype=torch.bool)

    def log_prob(self, z: Tensor) -> Tensor:
        log_i0 = torch.special.i0e(self.kappa).log() + self.kappa
        return (self.kappa * (self.modes * (z - self.mean)).cos() - log_i0 - math.log(2 * math.pi)).sum(1)


class DoubleWells(Target):
    """Pairs (a, b) with u = a^4 - 6 a^2 - a / 2 + b^2 / 2: two wells of unequal depth a pair (the paper's ManyWell).

    `log_z` is exact, from quadrature.
    """

    def __init__(self, pairs: int) -> None:
        self.dim, self.periodic = 2 * pairs, torch.zeros(2 * pairs, dtype=torch.bool)
        a = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
        log_z_a = float(torch.logsumexp(self._well(a), 0) + (a[1] - a[0]).log())
        self.log_z = pairs * (log_z_a + 0.5 * math.log(2 * math.pi))

    @staticmethod
    def _well(a: Tensor) -> Tensor:
        return -(a**4) + 6 * a**2 + 0.5 * a

    def log_prob(self, z: Tensor) -> Tensor:
        return (self._well(z[:, ::2]) - 0.5 * z[:, 1::2].square()).sum(1)
