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

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..tools.graphs import Function, Graphs
from ..tools.native import NotCompiledError
from ..tools.warn import warn
from . import native
from .base_density import BaseDensity
from .layers import Arrays, Coupling, apply_layer, halves, move, move_in_c
from .modes import Modes
from .resampled import POINTS, Resampling
from .settings import FlowSettings

GRAPHS = 128  # that a process may compile of a layer


class CouplingFlow(BaseDensity):
    """Coupling flow of circular and linear-tailed rational-quadratic splines.

    Parameters
    ----------
    periodic : Tensor of bool, shape (dim,)
        Which coordinates are angles in [-pi, pi).
    settings : FlowSettings, optional
    rng : torch.Generator, optional
        Draws the partition of each layer and the initial conditioners.
    modes : sequence of (columns, leading, means, roots, log_shares), optional
        Minima of straight coordinates that have several, one entry for each set of coordinates that belong together,
        see `flow.modes.Mixture`: the base has a mode at each.  Where torsions come first, the leading ones are drawn
        with them.
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

    first: Tensor
    reach: Tensor

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
        modes: Sequence[Modes] = (),
        log_temperatures: Sequence[float] = (),
    ) -> None:
        super().__init__(periodic, settings or FlowSettings(), modes, log_temperatures)
        s, bins, periodic = self.settings, self.settings.bins, self.periodic
        condition = torch.arange(self.dim) >= self.dim - bool(self.log_temperatures)
        several, everything = self._leading, torch.ones_like(periodic)
        lines, circles = torch.nonzero(~(periodic | condition))[:, 0], torch.nonzero(periodic)[:, 0]
        bound, spread = self.ranges()
        self.layers = nn.ModuleList()

        def add(pairs: int, lines: Tensor, circles: Tensor, read: Tensor, bins: int) -> None:
            for _ in range(pairs // 2 if len(lines) + len(circles) else 0):
                lines = lines[torch.randperm(len(lines), generator=rng)]
                circles = circles[torch.randperm(len(circles), generator=rng)]
                for half in halves(lines, circles):
                    layer = Coupling(half, read, periodic, self.settings.hidden, bins, bound[half], spread)
                    layer.reset(rng)
                    self.layers.append(layer)

        self.register_buffer("reach", torch.where(periodic, torch.inf, bound * s.scale), persistent=False)
        if s.torsion_layers:
            first = periodic | several
            add(s.torsion_layers, lines[several[lines]], circles, first | condition, bins)
            self.torsion_layers = len(self.layers)
            rest = lines[~several[lines]]
            add(s.layers, rest, lines[:0], everything, bins)
            add(s.affine_layers, rest, lines[:0], everything, 0)
        else:
            first, self.torsion_layers = torch.zeros_like(periodic), 0
            add(s.layers, lines, circles, everything, bins)
        self.register_buffer("first", first, persistent=False)
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
        last so many samples have torsions of these layers and of modes with the shares before training, held fixed, and
        their density in place of log q(t).
        """
        own = self.layers[: self.torsion_layers]
        k, defensive = (0, own) if others is None else others
        base = self.sample_base(n, rng, before=k)
        with torch.no_grad():  # a sample does not move with the shares of modes
            if k:
                z_k, log_q_t_k = self._through(
                    base[n - k :], self._first_log_prob(base[n - k :], before=True), defensive
                )
                # s is drawn given the t of the flow's own base that goes there.
                base = torch.cat([base[: n - k], self.redraw_followers(self._back(z_k, own)[0], rng)])
            log_q_t = self._first_log_prob(base)
            log_q_s = self.base_log_prob(base) - log_q_t - self._log_units(base)
        with torch.set_grad_enabled(torsions and torch.is_grad_enabled()):
            z, log_q_t = self._through(base[: n - k], log_q_t[: n - k], own)
        if k:
            z = torch.cat([z, torch.where(self.first, z_k, base[n - k :])])
            log_q_t = torch.cat([log_q_t, log_q_t_k])
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
        other layers of torsions and the shares of modes before training, if given."""
        z, log_det = self._back(
            self.unscaled(self._held(z)), self.layers[: self.torsion_layers] if layers is None else layers
        )
        return self._first_log_prob(z, before=layers is not None) + log_det

    def _back(self, z: Tensor, layers: nn.ModuleList) -> tuple[Tensor, Tensor]:
        """z (n, dim) through layers, data -> base, with log |det| (n,)."""
        log_det = torch.zeros_like(z[:, 0])
        for layer in reversed(layers):
            z, change = self.couple(z, layer)
            log_det = log_det + change
        return z, log_det

    def _first_log_prob(self, base: Tensor, before: bool = False) -> Tensor:
        return self._plain_log_prob(base, self.first, leading=True, before=before)

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
