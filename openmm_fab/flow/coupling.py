"""The normalizing flow: a base density and coupling layers of splines, on a mix of lines and circles.

A flow is anything with ``sample(n, rng) -> (z, log_q)`` and ``log_prob(z) -> log_q``.  Here a layer moves half of
the coordinates; how far, it decides from the other half, torsions entering as (cos, sin), so that densities are
continuous at +-pi.  Straight coordinates go through a scale, a shift and a linear-tailed spline; circular ones through
a rotation and a circular spline.  Base: standard normal on lines, uniform on circles, and a mixture of Gaussians where
the minima of straight coordinates are known.  A new flow is the identity.

A flow of several temperatures has one more entry in z, the last: log(T / T0), which every layer reads and none moves.
Densities are then those of the other entries at this temperature, and straight coordinates are sqrt(T / T0) as wide, as
harmonic ones are; `conditional.AtTemperature` is the flow at one temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from ..tools.graphs import Function, Graphs
from ..tools.native import NotCompiledError
from ..tools.warn import warn
from . import native
from .layers import Arrays, Coupling, apply_layer, halves, move, move_in_c
from .modes import Mixture, mixtures_of
from .resampled import POINTS, Resampling
from .settings import FlowSettings

GRAPHS = 128  # that a process may compile of a layer


class CouplingFlow(nn.Module):
    """Coupling flow of circular and linear-tailed rational-quadratic splines.

    Parameters
    ----------
    periodic : Tensor of bool, shape (dim,)
        Which coordinates are angles in [-pi, pi).
    settings : FlowSettings, optional
    rng : torch.Generator, optional
        Draws the partition of each layer and the initial conditioners.
    modes : sequence of (columns, means, roots), optional
        Minima of straight coordinates that have several, one entry for each set of coordinates that belong together,
        see `flow.modes.Mixture`: the base has a mode at each.  Where torsions come first, they are drawn with them.
    log_temperatures : sequence of float, optional
        log(T / T0) of two temperatures or more, in rising order.  A sample has one of them, or one between.

    Attributes
    ----------
    dim : int
        Entries of z, with that of the temperature if there are several.
    log_temperatures : tuple of float
    first : Tensor of bool, shape (dim,)
        What is drawn first; nothing where torsions do not come first.
    reach : Tensor, shape (dim,)
        The range of the splines in z: -reach to reach; infinite of angles.
    """

    periodic: Tensor
    first: Tensor
    reach: Tensor
    _single: Tensor
    _thermal: Tensor

    def __repr__(self) -> str:
        weights = sum(p.numel() for p in self.parameters())
        kind = "torsions first, " if self.settings.torsion_layers else ""
        kind += f"{len(self.log_temperatures)} temperatures, " if self.log_temperatures else ""
        dim = self.dim - bool(self.log_temperatures)
        return f"CouplingFlow({dim} coordinates, {kind}{len(self.layers)} layers, {weights:,} parameters)"

    def __init__(
        self,
        periodic: Tensor,
        settings: FlowSettings | None = None,
        *,
        rng: torch.Generator | None = None,
        modes: Sequence[tuple[Tensor, Tensor, Tensor]] = (),
        log_temperatures: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.settings = settings or FlowSettings()
        if len(periodic) < 1:
            raise ValueError("Expected at least one coordinate; got none.")
        self._log_unit = int((~periodic).sum()) * math.log(self.settings.scale)
        lines, circles = torch.nonzero(~periodic)[:, 0], torch.nonzero(periodic)[:, 0]
        self.log_temperatures = tuple(map(float, log_temperatures))
        if self.log_temperatures:
            _check_temperatures(self.log_temperatures, self.settings)
            periodic = torch.cat([periodic, periodic.new_zeros(1)])
        self.dim = len(periodic)
        self.register_buffer("periodic", periodic.clone())
        self.layers = nn.ModuleList()
        none, bins = lines[:0], self.settings.bins
        self.mixtures = mixtures_of(
            [(columns, m / self.settings.scale, root / self.settings.scale) for columns, m, root in modes]
        )
        several = torch.zeros_like(periodic)
        bound = torch.full((self.dim,), self.settings.bound)  # of splines, which reach as far beyond the outer modes
        spread = torch.ones(self.dim)
        for mixture in map(_mixture, self.mixtures):
            several[mixture.columns] = True
            bound[mixture.columns] += mixture.means.abs().amax(0).float()
            spread[mixture.columns] = mixture.spread.float()
        condition = torch.zeros_like(periodic)
        if self.log_temperatures:
            condition[-1] = True
            bound[-1] = torch.inf
            spread[-1] = (self.log_temperatures[-1] - self.log_temperatures[0]) / 2

        def add(pairs: int, lines: Tensor, circles: Tensor, read: Tensor, bins: int) -> None:
            for _ in range(pairs // 2 if len(lines) + len(circles) else 0):
                lines = lines[torch.randperm(len(lines), generator=rng)]
                circles = circles[torch.randperm(len(circles), generator=rng)]
                for half in halves(lines, circles):
                    layer = Coupling(half, read, periodic, self.settings.hidden, bins, bound[half], spread)
                    layer.reset(rng)
                    self.layers.append(layer)

        everything, s = torch.ones_like(periodic), self.settings
        if (several & periodic).any():
            raise ValueError("Expected modes of straight coordinates only; some are of angles.")
        self.register_buffer("_single", ~several & ~condition, persistent=False)
        self.register_buffer("_thermal", ~several & ~condition & ~periodic, persistent=False)
        self._thermals = int(self._thermal.sum())
        self.register_buffer("reach", torch.where(periodic, torch.inf, bound * s.scale), persistent=False)
        if s.torsion_layers:
            first = periodic | several
            add(s.torsion_layers, lines[several[lines]], circles, first | condition, bins)
            self.torsion_layers = len(self.layers)
            rest = lines[~several[lines]]
            add(s.layers, rest, none, everything, bins)
            add(s.affine_layers, rest, none, everything, 0)
        else:
            first, self.torsion_layers = torch.zeros_like(periodic), 0
            add(s.layers, lines, circles, everything, bins)
        self.register_buffer("first", first, persistent=False)
        self.resampling: Resampling | None = None
        if self.settings.resampled:
            points = self._plain_base(POINTS, torch.zeros(()), torch.Generator().manual_seed(0))
            self.resampling = Resampling(periodic, self.settings.hidden, points, rng)
        # Of the conditioners' matrix products, if not the parameters' own; everything else keeps its precision.
        self.matmul_dtype: torch.dtype | None = None
        self._compiled: dict[int, Callable[..., tuple[Tensor, Tensor]]] = {}
        self._graphs: Graphs | None = None
        self._native = False

    def use_c(self) -> None:
        """Compute splines and their derivatives in C on a CPU from the next call on; differentiable once.

        What a call needs is compiled in it, if need be. Without a C compiler it is PyTorch's, with a warning.
        """
        self._native = self.settings.bins <= native.MOST_BINS

    def compile(self, batch: int) -> None:
        """Compile a coupling layer with `torch.compile`, once for all layers, for this batch size; other sizes run
        uncompiled.

        On a GPU all layers together become CUDA graphs, too, see `tools.graphs`.

        Raises whatever the compiler raises.
        """
        from torch._dynamo import config  # not above: it takes a second to import

        # One graph each for both directions, with gradients and without, of every shape; after 8, the default, PyTorch
        # would compile no more of this function in the process, and go on slowly.
        config.cache_size_limit = max(config.cache_size_limit, GRAPHS)
        self._compiled = {batch: torch.compile(apply_layer, dynamic=False)}
        self._graphs = Graphs(batch) if self.periodic.is_cuda else None

    def uncompile(self) -> None:
        """Undo `compile`."""
        self._compiled, self._graphs = {}, None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CouplingFlow:
        self._graphs = None  # they know where the weights were
        return super()._apply(fn, recurse)

    def replayed(
        self, name: Hashable, function: Function, z: Tensor, of: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Evaluate function(z) through a CUDA graph if there is one, with derivatives by z and the parameters `of`; see
        `tools.graphs.Graphs`."""
        return list(function(z) if self._graphs is None else self._graphs((name, self.matmul_dtype), function, z, of))

    def couple(self, z: Tensor, layer: nn.Module, inverse: bool = False, frozen: bool = False) -> tuple[Tensor, Tensor]:
        """Apply one of `layers` to z (batch, dim), data -> base, or base -> data if `inverse`; returns z and log |det|
        (batch,)."""
        couple = self._compiled.get(len(z), apply_layer)
        z = z.T.contiguous().T  # layers work along the batch, and leave z so: only the first has to copy
        arrays = cast(Coupling, layer).arrays()
        if frozen:
            arrays = Arrays(*(a.detach() for a in arrays))
        if self._native and z.device.type == "cpu" and couple is apply_layer:
            try:
                return couple(z, arrays, inverse, self.matmul_dtype, move_in_c)
            except NotCompiledError as error:
                self._native = False
                warn(f"The flow is PyTorch's own, and slower. {error}")
        return couple(z, arrays, inverse, self.matmul_dtype, move)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) (batch,) of z (batch, dim); angles may lie anywhere on the line."""
        of = self.trained() if torch.is_grad_enabled() else None
        return self.replayed("log_prob", lambda z: [self._log_prob(z)], self._checked(z), of)[0]

    def trained(self) -> list[Tensor]:
        """Trainable parameters."""
        return [p for p in self.parameters() if p.requires_grad]

    def _checked(self, z: Tensor) -> Tensor:
        if z.ndim != 2 or z.shape[1] != self.dim:
            raise ValueError(f"Expected z with shape (batch, {self.dim}); got {tuple(z.shape)}.")
        return z

    def _log_prob(self, z: Tensor, frozen: bool = False) -> Tensor:
        base, log_det = self._to_base(z, frozen)
        return self.base_log_prob(base) + log_det

    def to_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map z (batch, dim) to the base, with log |d base / dz| (batch,)."""
        return self._to_base(self._checked(z))

    def _to_base(self, z: Tensor, frozen: bool = False) -> tuple[Tensor, Tensor]:
        z = self._held(z)
        z, log_det = self.unscaled(z), -self._log_units(z)
        for layer in reversed(self.layers):
            z, change = self.couple(z, layer, frozen=frozen)
            log_det = log_det + change
        return z, log_det

    def from_base(self, base: Tensor, frozen: bool = False) -> tuple[Tensor, Tensor]:
        """Map a base point (batch, dim) to z, angles in [-pi, pi), with log |dz / d base| (batch,).

        `frozen`: without a graph of the parameters.
        """
        z = self._held(base)
        log_det = self._log_units(z)
        for layer in self.layers:
            z, change = self.couple(z, layer, inverse=True, frozen=frozen)
            log_det = log_det + change
        return self.scaled(z), log_det

    def rsample_torsions_first(
        self,
        n: int,
        rng: torch.Generator | None = None,
        torsions: bool = True,
        others: tuple[int, nn.ModuleList] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw n samples of a flow with torsions first: z (n, dim), log q(t) and log q(s | t) (n,); see `FlowSettings`.

        They have a graph of the parameters; without `torsions` t is held fixed, and z and log q(s | t) have a graph of
        the parameters of q(s | t) alone, log q(t) has none. With `others`, a number and other layers of torsions, the
        last so many samples have torsions of these layers, held fixed, and their density in place of log q(t).
        """
        base = self.sample_base(n, rng)
        log_q_t = self._first_log_prob(base)
        log_q_s = self.base_log_prob(base) - log_q_t - self._log_units(base)
        own = self.layers[: self.torsion_layers]
        k, defensive = (0, own) if others is None else others
        with torch.set_grad_enabled(torsions and torch.is_grad_enabled()):
            z, log_q_t_own = self._through(base[: n - k], log_q_t[: n - k], own)
        if k:
            with torch.no_grad():
                z_k, log_q_t_k = self._through(base[n - k :], log_q_t[n - k :], defensive)
            z, log_q_t_own = torch.cat([z, z_k]), torch.cat([log_q_t_own, log_q_t_k])
        log_q_t = log_q_t_own
        for layer in self.layers[self.torsion_layers :]:
            z, change = self.couple(z, layer, inverse=True)
            log_q_s = log_q_s - change
        return self.scaled(z), log_q_t, log_q_s

    def _through(self, z: Tensor, log_q: Tensor, layers: Iterable[nn.Module]) -> tuple[Tensor, Tensor]:
        """Base points z (n, dim) with log density (n,) through layers, base -> data."""
        for layer in layers:
            z, change = self.couple(z, layer, inverse=True)
            log_q = log_q - change
        return z, log_q

    def torsions_log_prob(self, z: Tensor, layers: nn.ModuleList | None = None) -> Tensor:
        """log q(t) (batch,) of the coordinates drawn first in z (batch, dim), in the unit of length of log q(s | t); of
        other layers of torsions, if given."""
        z = self._held(z)
        z, log_det = self.unscaled(z), torch.zeros_like(z[:, 0])
        for layer in reversed(self.layers[: self.torsion_layers] if layers is None else layers):
            z, change = self.couple(z, layer)
            log_det = log_det + change
        return self._first_log_prob(z) + log_det

    def _first_log_prob(self, base: Tensor) -> Tensor:
        return self._plain_log_prob(base, self.first)

    def _plain_log_prob(self, base: Tensor, of: Tensor) -> Tensor:
        """log density (batch,) of some coordinates (dim,), bool, of the plain base; all of a mixture, or none."""
        normal = -0.5 * base.square() - 0.5 * math.log(2 * math.pi)
        each = torch.where(self.periodic, -math.log(2 * math.pi), normal)
        found = torch.where(of & self._single, each, 0.0).sum(1)
        for mixture in map(_mixture, self.mixtures):
            found = found + mixture.log_prob(base, self._width(base))
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

    def reach_at(self, z: Tensor) -> Tensor:
        """`reach` at the temperatures of z (batch, dim): (batch, dim), or (dim,) where there is one."""
        width = self._width(z)
        reach = self.reach.to(z)
        return reach if width is None else torch.where(self._thermal, reach * width[:, None], reach)

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log q(z) (batch,) and its gradient in z (batch, dim), without a graph of the parameters."""
        log_q, gradient = self.replayed("log_prob_and_gradient", self._log_prob_and_gradient, self._checked(z))
        return log_q, gradient

    @torch.enable_grad()
    def _log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.detach().requires_grad_()
        log_q = self._log_prob(z, frozen=True)
        (gradient,) = torch.autograd.grad(log_q.sum(), z)
        return log_q.detach(), gradient

    @torch.no_grad()
    def sample(
        self, n: int, rng: torch.Generator | None = None, *, log_temperature: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw n samples z (n, dim), angles in [-pi, pi), with log q(z) (n,); of several temperatures at one, if it is
        given."""
        base = self.sample_base(n, rng, log_temperature=log_temperature)
        z, log_det = self.replayed("from_base", self.from_base, base)
        return z, self.base_log_prob(base) - log_det

    def rsample(self, n: int, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw samples as `sample` does, differentiable by the parameters.

        Raises
        ------
        ValueError
            If the base is resampled: being kept or not has no derivative.
        """
        if self.resampling is not None:
            raise ValueError(
                "Expected a flow whose base does not depend on parameters; this one is resampled. Train it by FAB, the "
                "alpha-divergence or maximum likelihood."
            )
        base = self.sample_base(n, rng)
        z, log_det = self.from_base(base)
        return z, self.base_log_prob(base) - log_det

    def sample_base(
        self, n: int, rng: torch.Generator | None = None, *, log_temperature: float | None = None
    ) -> Tensor:
        """Draw n samples (n, dim) of the base, lines in units of `scale`."""
        like = next(self.parameters())
        if self.resampling is None:
            return self._plain_base(n, like, rng, log_temperature)
        return self.resampling.sample(n, lambda k: self._plain_base(k, like, rng), rng)

    def renew_points(self, rng: torch.Generator | None = None) -> None:
        """Draw new points for the normalisation of a resampled base, so that training does not fit them."""
        if self.resampling is not None:
            points = self.resampling.points
            points.copy_(self._plain_base(len(points), points, rng))

    def _plain_base(
        self, n: int, like: Tensor, rng: torch.Generator | None, log_temperature: float | None = None
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
            base[:, columns] = mixture.sample(z[:, columns], uniform[:, columns[0]], self._width(base))
        return base

    def base_log_prob(self, base: Tensor) -> Tensor:
        """log density (batch,) of the base, as the module describes it, times resampling if there is any."""
        log_prob = self._plain_log_prob(base, torch.ones_like(self.periodic))
        return log_prob if self.resampling is None else log_prob + self.resampling.log_ratio(base)


def _check_temperatures(log_temperatures: tuple[float, ...], settings: FlowSettings) -> None:
    steps = [b - a for a, b in pairwise(log_temperatures)]
    if len(log_temperatures) < 2 or not min(steps) > 0 or not all(map(math.isfinite, log_temperatures)):
        raise ValueError(f"Expected logarithms of two or more temperatures in rising order; got {log_temperatures}.")
    if settings.resampled:
        raise ValueError("Expected FlowSettings(resampled=False) with several temperatures; got True.")


def _mixture(module: nn.Module) -> Mixture:
    return cast(Mixture, module)
