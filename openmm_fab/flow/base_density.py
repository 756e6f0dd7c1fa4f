"""The density that a flow carries to its own: normal on lines, uniform on circles, with modes or temperatures if given.

Its samples become those of the flow in `coupling`; lines are in units of `scale`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from .modes import Mixture, Modes, mixtures_of
from .resampled import Resampling
from .settings import FlowSettings


class BaseDensity(nn.Module):
    """Base density of a flow over z (batch, dim): standard normal, uniform on circles, and mixtures where minima of
    straight coordinates are known.

    Parameters
    ----------
    periodic, settings, modes, log_temperatures
        See `flow.coupling.CouplingFlow`.
    """

    periodic: Tensor
    _single: Tensor
    _leading: Tensor
    _thermal: Tensor

    def __init__(
        self,
        periodic: Tensor,
        settings: FlowSettings,
        modes: Sequence[Modes],
        log_temperatures: Sequence[float],
    ) -> None:
        super().__init__()
        self.settings, scale = settings, settings.scale
        if len(periodic) < 1:
            raise ValueError("Expected at least one coordinate; got none.")
        self._log_unit = int((~periodic).sum()) * math.log(scale)
        self.log_temperatures = tuple(map(float, log_temperatures))
        condition = torch.zeros_like(periodic)
        if self.log_temperatures:
            _check_temperatures(self.log_temperatures, settings)
            periodic = torch.cat([periodic, periodic.new_zeros(1)])
            condition = torch.cat([condition, condition.new_ones(1)])
        self.dim = len(periodic)
        self.register_buffer("periodic", periodic.clone())
        self.mixtures = mixtures_of([(at, k, m / scale, root / scale, log) for at, k, m, root, log in modes])
        several, leading = torch.zeros_like(periodic), torch.zeros_like(periodic)
        for mixture in map(_mixture, self.mixtures):
            several[mixture.columns] = True
            leading[mixture.columns[: mixture.leading]] = True
        if (several & periodic).any():
            raise ValueError("Expected modes of straight coordinates only; some are of angles.")
        self.register_buffer("_single", ~several & ~condition, persistent=False)
        self.register_buffer("_leading", leading, persistent=False)
        self.register_buffer("_thermal", ~several & ~condition & ~periodic, persistent=False)
        self._thermals = int(self._thermal.sum())
        self.resampling: Resampling | None = None

    def ranges(self) -> tuple[Tensor, Tensor]:
        """Bounds (dim,) of splines, which reach as far beyond the outer modes, and deviations (dim,), of lines."""
        bound, spread = torch.full((self.dim,), self.settings.bound), torch.ones(self.dim)
        for mixture in map(_mixture, self.mixtures):
            wide = mixture.roots[:-1].square().sum(2).sqrt().clamp(min=1.0)  # of each mode, but the broad one
            beyond = mixture.means[:-1].abs() + self.settings.bound * (wide - 1)
            bound[mixture.columns] += beyond.amax(0).float()
            spread[mixture.columns] = mixture.spread.float()
        if self.log_temperatures:
            bound[-1] = torch.inf
            spread[-1] = (self.log_temperatures[-1] - self.log_temperatures[0]) / 2
        return bound, spread

    def sample_base(
        self, n: int, rng: torch.Generator | None = None, *, log_temperature: float | None = None, before: int = 0
    ) -> Tensor:
        """Draw n samples (n, dim) of the base, lines in units of `scale`; the last `before` with modes' shares as they
        were before training."""
        like = next(self.parameters())
        if self.resampling is None:
            return self._plain_base(n, like, rng, log_temperature, before)
        return self.resampling.sample(n, lambda k: self._plain_base(k, like, rng), rng)

    def renew_points(self, rng: torch.Generator | None = None) -> None:
        """Draw new points for the normalisation of a resampled base, so that training does not fit them."""
        if self.resampling is not None:
            points = self.resampling.points
            points.copy_(self._plain_base(len(points), points, rng))

    def _plain_base(
        self,
        n: int,
        like: Tensor,
        rng: torch.Generator | None,
        log_temperature: float | None = None,
        before: int = 0,
    ) -> Tensor:
        z = torch.randn(n, self.dim, generator=rng, device=like.device, dtype=like.dtype)
        uniform = torch.rand(n, self.dim, generator=rng, device=like.device, dtype=like.dtype)
        base = torch.where(self.periodic, (2 * uniform - 1) * math.pi, z)
        if self.log_temperatures:
            given = torch.tensor(self.log_temperatures, device=like.device, dtype=like.dtype)
            between = given[0] + (given[-1] - given[0]) * uniform[:, -1]
            drawn = torch.arange(n, device=like.device)
            # In turn: as many at each of the given ones, and as many again between the first and the last.
            among = torch.where(drawn % 2 == 0, given[drawn // 2 % len(given)], between)
            base[:, -1] = among if log_temperature is None else log_temperature
        for mixture in map(_mixture, self.mixtures):
            columns = mixture.columns
            base[:, columns] = mixture.sample(z[:, columns], uniform[:, columns[0]], self._width(base), before)
        return base

    def redraw_followers(self, base: Tensor, rng: torch.Generator | None) -> Tensor:
        """Base points (n, dim) with all that follows a mixture's leading entries drawn anew, given these."""
        base = base.clone()
        for mixture in map(_mixture, self.mixtures):
            rest = mixture.columns[mixture.leading :]
            if len(rest):
                normal = torch.randn(len(base), len(rest), generator=rng, device=base.device, dtype=base.dtype)
                uniform = torch.rand(len(base), generator=rng, device=base.device, dtype=base.dtype)
                base[:, rest] = mixture.sample_followers(base, normal, uniform, self._width(base))
        return base

    def base_log_prob(self, base: Tensor) -> Tensor:
        """log density (batch,) of the base, as the module describes it, times resampling if there is any."""
        log_prob = self._plain_log_prob(base, torch.ones_like(self.periodic))
        return log_prob if self.resampling is None else log_prob + self.resampling.log_ratio(base)

    def _plain_log_prob(self, base: Tensor, of: Tensor, *, leading: bool = False, before: bool = False) -> Tensor:
        """log density (batch,) of some coordinates (dim,), bool, of the plain base; of a mixture all, or those that
        lead; with modes' shares as they were before training."""
        normal = -0.5 * base.square() - 0.5 * math.log(2 * math.pi)
        each = torch.where(self.periodic, -math.log(2 * math.pi), normal)
        found = torch.where(of & self._single, each, 0.0).sum(1)
        for mixture in map(_mixture, self.mixtures):
            found = found + mixture.log_prob(base, self._width(base), leading=leading, before=before)
        return found

    def scaled(self, z: Tensor) -> Tensor:
        """Convert z (batch, dim) from the units of base and layers, in which lines are in units of `scale`, times
        sqrt(T / T0) where there are several temperatures and no modes."""
        return torch.where(self.periodic, z, z * self._units(z))

    def unscaled(self, z: Tensor) -> Tensor:
        """Convert z (batch, dim) to the units of base and layers."""
        return torch.where(self.periodic, z, z / self._units(z))

    def _units(self, z: Tensor) -> float | Tensor:
        """What `scaled` multiplies lines by."""
        scale, width = self.settings.scale, self._width(z)
        if width is None:
            return scale
        units = torch.where(self._thermal, width[:, None] * scale, scale)
        return torch.cat([units[:, :-1], torch.ones_like(units[:, -1:])], 1)

    def _log_units(self, z: Tensor) -> Tensor:
        """log |d scaled / d unscaled| (batch,)."""
        unit = torch.full_like(z[:, 0], self._log_unit)
        return unit + 0.5 * self._thermals * z[:, -1].detach() if self.log_temperatures else unit

    def _width(self, z: Tensor) -> Tensor | None:
        """sqrt(T / T0) (batch,) of z (batch, dim); None without several temperatures."""
        return (0.5 * z[:, -1].detach()).exp() if self.log_temperatures else None

    def _held(self, z: Tensor) -> Tensor:
        """z (batch, dim) without derivatives by the temperature."""
        return torch.cat([z[:, :-1], z[:, -1:].detach()], 1) if self.log_temperatures else z


def _check_temperatures(log_temperatures: tuple[float, ...], settings: FlowSettings) -> None:
    steps = [b - a for a, b in pairwise(log_temperatures)]
    if len(log_temperatures) < 2 or not min(steps) > 0 or not all(map(math.isfinite, log_temperatures)):
        raise ValueError(f"Expected logarithms of two or more temperatures in rising order; got {log_temperatures}.")
    if settings.resampled:
        raise ValueError("Expected FlowSettings(resampled=False) with several temperatures; got True.")


def _mixture(module: nn.Module) -> Mixture:
    return cast(Mixture, module)
