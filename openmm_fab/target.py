"""Target densities: z -> log p and its gradient. The interface between molecules and flows: later modules know no
atoms.

`BoltzmannTarget` combines a molecule's energy with its coordinates; the others have closed forms, for tests.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from .tools.graphs import Graphs

T = TypeVar("T", float, Tensor)

FINGERPRINT_POINTS = 4
SAME = 0.1  # of log p, and 0.1 %: rounding makes less of a difference


class Target(ABC):
    """An unnormalised density on z (batch, dim).

    Attributes
    ----------
    dim : int
    periodic : Tensor of bool, shape (dim,)
        Coordinates that are angles in [-pi, pi).
    evaluations : int
        Structures evaluated so far, gradients included in the same count.
    log_temperatures : tuple of float
        Of a density at several temperatures, whose last entry of z is log(T / T0): those that are asked for.
    """

    dim: int
    periodic: Tensor
    evaluations: int = 0
    log_temperatures: tuple[float, ...] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.dim} coordinates, {int(self.periodic.sum())} of them periodic)"

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) (batch,), up to a constant; -inf where the density is zero or z is invalid."""

    @property
    @torch.no_grad()
    def fingerprint(self) -> Tensor:
        """log p (4,), float64, at fixed points, to distinguish targets."""
        rng = torch.Generator().manual_seed(0)
        z = torch.rand(FINGERPRINT_POINTS, self.dim, generator=rng, dtype=torch.float64) - 0.5
        return self.log_prob(z.to(self.periodic.device)).double().cpu()

    def named(self, column: int) -> str:
        """Name of the coordinate z[:, column] for messages."""
        return f"coordinate {column}"

    def matches(self, fingerprint: Tensor) -> bool:
        """Whether `fingerprint` (4,) equals this target's own, up to rounding."""
        own = self.fingerprint
        return own.shape == fingerprint.shape and torch.allclose(own, fingerprint.to(own), 1e-3, SAME, equal_nan=True)

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(z) (batch,) and its gradient (batch, dim), zero where log p is not finite."""
        self.evaluations += len(z)
        return self._log_prob_and_gradient(z)

    @torch.enable_grad()
    def _log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.detach().requires_grad_()
        log_p = self.log_prob(z)
        (gradient,) = torch.autograd.grad(log_p.sum(), z)
        finite = torch.isfinite(log_p.detach()) & torch.isfinite(gradient).all(1)
        log_p = torch.where(finite, log_p.detach(), -torch.inf)
        return log_p, torch.where(finite[:, None], gradient, 0.0)


class Coordinates(Protocol):
    """Interface of coordinates that `BoltzmannTarget` needs; `InternalCoordinates` implements it."""

    @property
    def dim(self) -> int: ...

    @property
    def periodic(self) -> Tensor: ...

    def to_cartesian(self, z: Tensor) -> tuple[Tensor, Tensor]: ...


class BoltzmannTarget(Target):
    """Boltzmann density of a molecule in internal coordinates: log p(z) = -u(x(z)) + log |dx/dz|.

    Parameters
    ----------
    energy : callable
        x (batch, n_atoms, 3) in nm -> reduced energy u (batch,), differentiable.
    coordinates : Coordinates
    regularize : callable, optional
        u -> u, limits the energy of clashing atoms.  For training only: final weights come from the true energy.

    Attributes
    ----------
    graphs : Graphs or None
        On a GPU, where energy and coordinates take the same steps whatever z is: log p and its gradient are replayed.

    Notes
    -----
    Works in float64 whatever the dtype of z: float32 Cartesian coordinates alone cost 1e-2 kT.
    """

    def __init__(
        self,
        energy: Callable[[Tensor], Tensor],
        coordinates: Coordinates,
        *,
        regularize: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.energy, self.coordinates, self.regularize = energy, coordinates, regularize
        self.dim, self.periodic = coordinates.dim, coordinates.periodic
        self.graphs: Graphs | None = None

    def named(self, column: int) -> str:
        """Name of the coordinate z[:, column]: for a torsion its bond, where the coordinates know it."""
        named = getattr(self.coordinates, "named", None)
        return super().named(column) if named is None else named(column)

    def _log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        function = super()._log_prob_and_gradient
        log_p, gradient = function(z) if self.graphs is None else self.graphs("log_p", function, z)
        return log_p, gradient

    def heights(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (batch,), as they are before they are regularised, and log |dx/dz| (batch,), both float64."""
        x, log_det = self.coordinates.to_cartesian(z.double())
        return self.energy(x), log_det

    def log_prob(self, z: Tensor) -> Tensor:
        u, log_det = self.heights(z)
        if self.regularize is not None:
            u = self.regularize(u)
        return (log_det - u).to(z.dtype)


class TemperedTarget(BoltzmannTarget):
    """Boltzmann densities at several temperatures: z (batch, dim) has one entry more, the last, c = log(T / T0).

    log p(z, c) = -(u(x) - u0) T0 / T + log |dx/dz| - level(c), u in units of kT0.  The level keeps the integrals over
    all other entries about equal, so that no temperature outweighs the others in training; it has no derivative, and c
    is held wherever the others move.

    Parameters
    ----------
    energy, coordinates, regularize
        As for `BoltzmannTarget`; what is regularised is (u - u0) T0 / T.
    log_temperatures : sequence of float
        log(T / T0) in rising order.
    lowest : float
        u0, about the energy of the minimum.

    Attributes
    ----------
    levels : Tensor, shape (n_temperatures,), float64
        What log Z is estimated to be at these temperatures, beyond that of harmonic coordinates.
    """

    def __init__(
        self,
        energy: Callable[[Tensor], Tensor],
        coordinates: Coordinates,
        log_temperatures: Sequence[float],
        lowest: float,
        *,
        regularize: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(energy, coordinates, regularize=regularize)
        self.dim = coordinates.dim + 1
        self.periodic = torch.cat([coordinates.periodic, coordinates.periodic.new_zeros(1)])
        self.log_temperatures, self.lowest = tuple(log_temperatures), lowest
        self.levels = torch.zeros(len(self.log_temperatures), dtype=torch.float64, device=self.periodic.device)
        self._straight = int((~coordinates.periodic).sum())

    @property
    def fingerprint(self) -> Tensor:
        levels, self.levels = self.levels, torch.zeros_like(self.levels)
        try:
            return super().fingerprint
        finally:
            self.levels = levels

    def harmonic(self, c: T) -> T:
        """log Z at c less that at 0 of as many harmonic coordinates as are straight."""
        return 0.5 * self._straight * c

    def level(self, c: Tensor) -> Tensor:
        """Level l(c) (batch,), float64, that is taken from log p at c = log(T / T0) (batch,): linear between `levels`,
        plus that of harmonic coordinates."""
        given = torch.tensor(self.log_temperatures, dtype=torch.float64, device=c.device)
        c, levels = c.double(), self.levels.to(c.device)
        k = torch.searchsorted(given, c.contiguous()).clamp(1, len(given) - 1)
        share = (c - given[k - 1]) / (given[k] - given[k - 1])
        return levels[k - 1] + share * (levels[k] - levels[k - 1]) + self.harmonic(c)

    def heights(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(u - u0) T0 / T (batch,) and log |dx/dz| (batch,), both float64."""
        x, log_det = self.coordinates.to_cartesian(z[:, :-1].double())
        return (self.energy(x) - self.lowest) * (-z[:, -1].detach().double()).exp(), log_det

    def log_prob(self, z: Tensor) -> Tensor:
        u, log_det = self.heights(z)
        if self.regularize is not None:
            u = self.regularize(u)
        return (log_det - u - self.level(z[:, -1].detach())).to(z.dtype)


class Gaussian(Target):
    """Normal density with its own mean and deviation in each coordinate, times exp(log_z)."""

    def __init__(self, mean: Tensor, std: Tensor, *, log_z: float = 0.0) -> None:
        self.mean, self.std, self.log_z = mean, std, log_z
        self.dim, self.periodic = len(mean), torch.zeros(len(mean), dtype=torch.bool)

    def log_prob(self, z: Tensor) -> Tensor:
        deviation = (z - self.mean) / self.std
        return (-0.5 * deviation.square() - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(1) + self.log_z


class VonMises(Target):
    """Independent angles with densities exp(kappa cos(m (phi - mean))) / (2 pi I0(kappa)): m equal modes, log Z = 0."""

    def __init__(self, mean: Tensor, kappa: Tensor, *, modes: int = 1) -> None:
        self.mean, self.kappa, self.modes = mean, kappa, modes
        self.dim, self.periodic = len(mean), torch.ones(len(mean), dtype=torch.bool)

    def log_prob(self, z: Tensor) -> Tensor:
        log_i0 = torch.special.i0e(self.kappa).log() + self.kappa
        return (self.kappa * (self.modes * (z - self.mean)).cos() - log_i0 - math.log(2 * math.pi)).sum(1)


class Multimodal(Target):
    """Density whose modes and normalisation are known exactly, to test samplers.

    Attributes
    ----------
    log_z : float
        Exact.
    modes : Tensor, shape (n_modes, dim)
        The test set of modes.
    """

    log_z: float
    modes: Tensor

    @abstractmethod
    def sample(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        """Draw n exact, independent samples (n, dim)."""

    @abstractmethod
    def mode_of(self, z: Tensor) -> Tensor:
        """Number (batch,) of each point's mode; -1 for points outside all modes."""

    def modes_found(self, z: Tensor) -> int:
        """Number of modes that hold at least one of the points z (batch, dim)."""
        found = self.mode_of(z)
        return len(found[found >= 0].unique())


class GaussianMixture(Multimodal):
    """Mixture of equal normal densities at random locations; by default the FAB paper's GMM-40.

    Parameters
    ----------
    components, dim : int
    width : float
        Locations are uniform in [-width, width], by torch's generator of this `seed`.
    std : float
        Of every component; the paper's is softplus(1).
    seed : int
        The paper's problem is that of seed 0.
    """

    REACH = 4.0  # standard deviations around a location that are its mode

    def __init__(
        self, components: int = 40, dim: int = 2, *, width: float = 40.0, std: float = math.log1p(math.e), seed: int = 0
    ) -> None:
        uniform = torch.rand(components, dim, generator=torch.Generator().manual_seed(seed))
        self.modes, self.std, self.log_z = (uniform - 0.5) * 2 * width, std, 0.0
        self.dim, self.periodic = dim, torch.zeros(dim, dtype=torch.bool)

    def _squares(self, z: Tensor) -> Tensor:
        """Squared distances (batch, components) from the locations, in standard deviations."""
        return ((z[:, None] - self.modes.to(z)) / self.std).square().sum(2)

    def log_prob(self, z: Tensor) -> Tensor:
        level = math.log(len(self.modes)) + self.dim * (math.log(self.std) + 0.5 * math.log(2 * math.pi))
        return torch.logsumexp(-0.5 * self._squares(z), 1) - level

    def sample(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        device = rng.device if rng else None
        which = torch.randint(len(self.modes), (n,), generator=rng, device=device)
        return self.modes.to(which.device)[which] + self.std * torch.randn(n, self.dim, generator=rng, device=device)

    def mode_of(self, z: Tensor) -> Tensor:
        square, nearest = self._squares(z).min(1)
        return torch.where(square < self.REACH**2, nearest, -1)


class ManyWell(Multimodal):
    """Pairs (a, b) with u = a^4 - 6 a^2 - a / 2 + b^2 / 2: two wells of unequal depth a pair, 2^pairs modes in all.

    The FAB paper's ManyWell-32 has 16 pairs. `log_z` is by quadrature, and so are the quantiles that a is sampled by.
    As in the paper, the modes' test set has a = +-1.7 in every combination, and b = 0.

    Parameters
    ----------
    dim : int
        Even.
    """

    CENTRE = 1.7
    MAX_PAIRS = 16  # whose modes are all listed; beyond it, as many are drawn at random

    def __init__(self, dim: int = 32) -> None:
        if dim < 2 or dim % 2:
            raise ValueError(f"Expected an even number of dimensions; got {dim}.")
        self.dim, self.periodic, self.pairs = dim, torch.zeros(dim, dtype=torch.bool), dim // 2
        self._a = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
        log_z_a = float(torch.logsumexp(self._well(self._a), 0) + (self._a[1] - self._a[0]).log())
        self.log_z = self.pairs * (log_z_a + 0.5 * math.log(2 * math.pi))
        density = torch.softmax(self._well(self._a), 0)
        self._below = density.cumsum(0) - 0.5 * density  # the trapezoidal rule
        self.modes = torch.zeros(2 ** min(self.pairs, self.MAX_PAIRS), dim)
        self.modes[:, ::2] = self.CENTRE * self._signs()

    def _signs(self) -> Tensor:
        """-1 or 1 (n_modes, pairs); mode number k has a > 0 where bit k of the pair is set."""
        if self.pairs <= self.MAX_PAIRS:
            right = torch.arange(len(self.modes))[:, None] >> torch.arange(self.pairs) & 1
        else:
            rng, n = torch.Generator().manual_seed(0), len(self.modes)
            right = torch.randint(2, (4 * n, self.pairs), generator=rng)
            key = (right[:, :62] << torch.arange(61, -1, -1)[: self.pairs]).sum(1)  # of more pairs no two meet in 62
            key, order = key.sort()
            right = right[order[key.diff(prepend=key[:1] - 1) != 0]]  # each once
            right = right[torch.randperm(len(right), generator=rng)[:n]]
        return 2.0 * right - 1

    @staticmethod
    def _well(a: Tensor) -> Tensor:
        return -(a**4) + 6 * a**2 + 0.5 * a

    def log_prob(self, z: Tensor) -> Tensor:
        return (self._well(z[:, ::2]) - 0.5 * z[:, 1::2].square()).sum(1)

    def sample(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        device = rng.device if rng else None
        u = torch.rand(n, self.pairs, generator=rng, dtype=torch.float64, device=device)
        grid, below = self._a.to(u), self._below.to(u)
        above = torch.searchsorted(below, u).clamp(1, len(grid) - 1)
        share = ((u - below[above - 1]) / (below[above] - below[above - 1])).clamp(0, 1)
        a = grid[above - 1] + share * (grid[1] - grid[0])
        b = torch.randn(n, self.pairs, generator=rng, device=device)
        return torch.stack([a.to(b), b], 2).flatten(1)

    def mode_of(self, z: Tensor) -> Tensor:
        right = (z[:, ::2] > 0).long()
        if self.pairs < 63:
            return (right << torch.arange(self.pairs, device=z.device)).sum(1)
        # More than fit into a number: a hash, in which two of a million modes meet once in ten million times.
        factors = torch.randint(2**62, (self.pairs,), generator=torch.Generator().manual_seed(0))
        return (right * factors.to(z.device)).sum(1) & (2**63 - 1)
