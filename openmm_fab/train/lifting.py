"""Detection of rare torsional basins, and a bias that raises their share of the training.

A basin that holds 0.3 % of the Boltzmann distribution fills 0.3 % of the training, too little to learn its shape, and
then no reweighting saves its free energy.  So the flow learns p exp(b) instead of p: b raises every basin of every
periodic coordinate to at least a given share.  Final weights are towards p, so b costs at most the share that it
raises.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..target import Target
from ..tools.circle import BINS, circular_density, label_basins, smooth

MAX_LIFT = 5.0  # kT
ORDER = 18  # of the Fourier series that b is
ROWS = 4096  # that are evaluated at once: they stay in the processor's caches


class BiasedTarget(Target):
    """Density p exp(b), where b is a sum of functions of one periodic coordinate each; b = 0 until `update` is called.

    Parameters
    ----------
    target : Target
        p; its `evaluations` are counted there.
    share : float
        Least share of the training that a basin gets.

    Attributes
    ----------
    coefficients : Tensor, shape (n_periodic, 2 * ORDER), float64
        Of cos(k theta), sin(k theta), k = 1 .. ORDER; the constant is left out.
    """

    def __init__(self, target: Target, share: float) -> None:
        self.target, self.share = target, share
        self.dim, self.periodic, self.log_temperatures = target.dim, target.periodic, target.log_temperatures
        self._angles = torch.nonzero(self.periodic)[:, 0]
        self.coefficients = torch.zeros(len(self._angles), 2 * ORDER, dtype=torch.float64)

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return self.target.evaluations

    def named(self, column: int) -> str:
        return self.target.named(column)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.target.log_prob(z) + self.bias(z)[0].to(z.dtype)

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        log_p, gradient = self.target.log_prob_and_gradient(z)
        bias, slope = self.bias(z.detach())
        gradient = self._added(gradient, slope)
        return log_p + bias.to(z.dtype), torch.where(torch.isfinite(log_p)[:, None], gradient, 0.0)

    def add_bias(self, gradient: Tensor, z: Tensor) -> Tensor:
        """Turn a gradient (batch, dim) of log p at z into that of log p + b."""
        return self._added(gradient, self.bias(z)[1])

    def remove_bias(self, gradient: Tensor, z: Tensor) -> Tensor:
        """Turn a gradient (batch, dim) of log p + b at z into that of log p; inverts `add_bias` until the next
        `update`."""
        return self._added(gradient, -self.bias(z)[1])

    def _added(self, gradient: Tensor, slope: Tensor) -> Tensor:
        """The gradient (batch, dim), with slopes (batch, n_periodic) added in the periodic coordinates."""
        return gradient.index_add(1, self._angles, slope.to(gradient.dtype))

    def bias(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Bias b (batch,) and its derivatives by the periodic coordinates (batch, n_periodic), float64."""
        waves, turn = self._waves(z)
        k = torch.arange(1, ORDER + 1, device=z.device)
        height, slope = _series(torch.stack([waves, 1j * k * waves])[:, None], turn).real
        return height.sum(1), slope

    def _height(self, z: Tensor) -> Tensor:
        """b alone, of many structures."""
        parts = [self._waves(part) for part in z.split(ROWS if z.device.type == "cpu" else len(z))]
        return torch.cat([_series(waves, turn).real.sum(1) for waves, turn in parts])

    def _waves(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Complex coefficients (n_periodic, ORDER), and exp(i theta) (batch, n_periodic)."""
        self._angles, self.coefficients = self._angles.to(z.device), self.coefficients.to(z.device)
        cosines, sines = self.coefficients.chunk(2, 1)
        theta = z.index_select(1, self._angles).double()
        return torch.complex(cosines, -sines), torch.polar(torch.ones_like(theta), theta)

    def update(self, z: Tensor, log_w: Tensor, most: float = MAX_LIFT) -> Tensor:
        """Detect basins from weighted samples of p exp(b) and set b anew; returns the change of b at z (batch,).

        No basin is lifted by more than `most` kT.
        """
        before, old = self._height(z), self.coefficients
        log_w = log_w - before
        weights = (log_w - log_w.max()).exp()
        lifts = [
            _lift(z[:, k].double().cpu().numpy(), weights.cpu().numpy(), self.share, most)
            for k in self._angles.tolist()
        ]
        if lifts:
            waves = np.fft.rfft(np.array(lifts), axis=1)[:, 1 : ORDER + 1] * 2 / BINS
            # Bin n has its centre at -pi + 2 pi (n + 1/2) / BINS.
            waves = waves * np.exp(-1j * np.arange(1, ORDER + 1) * (-math.pi + math.pi / BINS))
            self.coefficients = torch.from_numpy(np.concatenate([waves.real, -waves.imag], axis=1)).to(z.device)
        try:
            return self._height(z) - before
        except BaseException:  # Ctrl-C: the weights that belong to the new ones never come
            self.coefficients = old
            raise


def _series(waves: Tensor, turn: Tensor) -> Tensor:
    """Sum over k of waves[..., k - 1] turn^k by Horner's rule; what stands before k is that of turn, or more."""
    first, *others = waves.flip(-1).unbind(-1)
    total = first * turn
    for column in others:
        total = (total + column) * turn
    return total


def _lift(angles: np.ndarray, weights: np.ndarray, share: float, most: float) -> np.ndarray:
    """b (BINS,) of one periodic coordinate."""
    populated = circular_density(angles, weights)
    label = label_basins(populated)
    population = np.bincount(label, weights=populated)
    lift = np.clip(np.log(share / np.maximum(population, 1e-300)), 0.0, most)
    return smooth(lift[label])
