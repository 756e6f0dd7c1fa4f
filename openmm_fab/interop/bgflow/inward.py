"""Conversion of bgflow's flows, coordinates and energies to those of this package."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...target import Target
from ..flows import ReparametrisedFlow, seeded
from .chart import Chart, Range
from .installed import import_bgflow

SAMPLES = 4096  # of a flow, for centres and widths
EULER = 2 * math.log(2 * math.pi)  # bgflow's global transform has two Euler angles in turns


class BgflowFlow(ReparametrisedFlow):
    """Flow over z made of a prior and layers of bgflow, which stay the user's own objects and are trained in place.

    Attributes
    ----------
    prior, layers
        bgflow's.
    chart : Chart
        z <-> what the last layer gives.
    """

    def __init__(self, prior: Any, layers: Any, chart: Chart) -> None:
        super().__init__()  # the chart knows which coordinates are periodic
        self.prior, self.layers, self.chart = prior, layers, chart

    def _sample(self, n: int) -> tuple[Tensor, Tensor]:
        u = _tensors(self.prior.sample(n))
        *y, dlogp = self.layers(*u)
        return self.chart.pack(*y), log_density(self.prior, u) - dlogp[:, 0] + self.chart.log_det

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) (batch,) of z (batch, dim); -inf where the flow has none."""
        y, inside = self.chart.unpack(z)
        *u, dlogp = self.layers(*y, inverse=True)
        log_q = log_density(self.prior, u) + dlogp[:, 0] + self.chart.log_det
        return torch.where(inside, log_q, -torch.inf)


class BgflowCoordinates(nn.Module):
    """`Coordinates` made of an internal-coordinate transform of bgflow: z <-> x, in float64.

    Parameters
    ----------
    layers : bgflow.SequentialFlow
        Tensors of internal coordinates -> flat Cartesian; a copy of it is used.
    chart : Chart
    transform : bgflow.Flow
        The transform within the layers.

    Notes
    -----
    Of a global transform, log |dx/dz| leaves out the volume and the 8 pi^2 of overall motion, as that of
    `InternalCoordinates`. A mixed transform has no such measure: its whitening drops six directions, so log Z is known
    up to a constant only, and `to_internal` first moves and turns structures to where it drops nothing. A relative one
    keeps the Cartesian coordinates of its fixed atoms, overall motion among them.
    """

    def __init__(self, layers: Any, chart: Chart, transform: Any) -> None:
        super().__init__()
        bgflow = import_bgflow()
        self.layers, self.chart = copy.deepcopy(layers).double(), chart
        in_turns = isinstance(transform, bgflow.GlobalInternalCoordinateTransformation) and transform.normalize_angles
        self._euler = EULER if in_turns else 0.0
        self._mixed = [transform] if isinstance(transform, bgflow.MixedCoordinateTransformation) else []
        for module in self.layers.modules():
            if hasattr(module, "_raise_warnings"):
                module._raise_warnings = False  # each is a look at all numbers; invalid ones are counted elsewhere

    @property
    def dim(self) -> int:
        return self.chart.dim

    @property
    def periodic(self) -> Tensor:
        """Bool (dim,): which entries of z are torsions on a circle."""
        return self.chart.periodic

    def to_cartesian(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map z (batch, dim) to x (batch, n_atoms, 3), nm, with log |dx/dz| (batch,), -inf where z is no structure."""
        if z.ndim != 2 or z.shape[1] != self.dim:
            raise ValueError(f"Expected z with shape (batch, {self.dim}); got {tuple(z.shape)}.")
        y, inside = self.chart.unpack(z.double())
        x, dlogp = self.layers(*y)
        log_det = dlogp[:, 0] + self.chart.log_det - self._euler
        return x.reshape(len(z), -1, 3), torch.where(inside, log_det, -torch.inf)

    def to_internal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (batch, n_atoms, 3), nm, to z (batch, dim), with log |dz/dx| (batch,)."""
        x = x.double()
        for transform in self._mixed:
            x = _laid_in(x, transform)
        *y, dlogp = self.layers(x.reshape(len(x), -1), inverse=True)
        return self.chart.pack(*y), dlogp[:, 0] - self.chart.log_det + self._euler


def from_generator(generator: Any) -> tuple[BgflowFlow, BgflowCoordinates]:
    """Convert a bgflow.BoltzmannGenerator to a flow and coordinates of this package.

    It is parted where its internal coordinates (bonds, angles, torsions) are complete, before those layers at its end
    that only merge tensors, add constants and make structures: that is where annealing moves. Each coordinate is
    measured from the mean of the generator's own samples, in units of their width, so give the generator marginals of
    about the right widths before.

    Returns
    -------
    flow : BgflowFlow
        Shares the generator's parameters: training it trains the generator.
    coordinates : BgflowCoordinates
        Shares the flow's chart.

    Raises
    ------
    ValueError
        If the flow does not end in a global, mixed or relative internal-coordinate transform.
    """
    import_bgflow()
    blocks = list(_flat(generator.flow))
    transform, order = _transform(blocks[-1])
    start = len(blocks) - 1
    while start and _only_rearranges(blocks[start - 1]):
        start -= 1
    head, tail = _sequence(blocks[:start]), _sequence(blocks[start:])
    labels = _labels(transform, order)
    for block in reversed(blocks[start:-1]):
        *labels, _ = block(*labels, inverse=True)
    ranges = [_ranges(label[0], transform) for label in labels]
    with seeded(torch.Generator().manual_seed(0), torch.device("cpu")), torch.no_grad():
        *y, _ = head(*_tensors(generator.prior.sample(SAMPLES)))
    chart = Chart(ranges, y).to(y[0].device)
    return BgflowFlow(generator.prior, head, chart), BgflowCoordinates(tail, chart, transform)


def from_flow(flow: Any, prior: Any, *, ranges: Sequence[Range] | None = None) -> BgflowFlow:
    """Convert a bgflow.Flow and a prior to a flow over z, its output tensors concatenated.

    Parameters
    ----------
    flow : bgflow.Flow
        Of tensors (batch, n_i).
    prior : bgflow.Energy and bgflow.Sampler
    ranges : sequence of Range, optional
        Of each output tensor: ``Range.circle(n)`` for angles in turns [0, 1), ``Range.line(n, low, high)`` for numbers
        with bounds. By default all are straight and without bounds.

    Notes
    -----
    z is centred and scaled as by `from_generator`; `flow.chart` leads back. The density is normalised if the prior is:
    uniform, truncated normal and circular normal priors are made so, which bgflow's are not.
    """
    import_bgflow()
    with seeded(torch.Generator().manual_seed(0), torch.device("cpu")), torch.no_grad():
        *y, _ = flow(*_tensors(prior.sample(SAMPLES)))
    chart = Chart(ranges or [Range.line(part.shape[1]) for part in y], y)
    return BgflowFlow(prior, flow, chart.to(y[0].device))


def from_coordinates(transform: Any, structures: Tensor | np.ndarray) -> BgflowCoordinates:
    """Convert a global, mixed or relative internal-coordinate transform of bgflow to `Coordinates`.

    Parameters
    ----------
    transform : bgflow.Flow
    structures : (n, n_atoms, 3), nm
        Centres and widths come from these: MD frames, or ``BoltzmannGenerator(system).sample(1000).x`` of an untrained
        generator, whose widths are those of the Hessian.
    """
    bgflow = import_bgflow()
    _transform(bgflow.InverseFlow(transform))
    x = torch.as_tensor(structures, dtype=torch.float64)
    blocks = [bgflow.InverseFlow(copy.deepcopy(transform).double())]
    if isinstance(transform, bgflow.GlobalInternalCoordinateTransformation):
        pose = [torch.zeros(1, 3, dtype=torch.float64), torch.full((3,), 0.5, dtype=torch.float64)]
        blocks.insert(0, bgflow.SetConstantFlow([3, 4], pose))
    labels = _labels(transform, range(5))[: 3 if len(blocks) == 2 else 4]
    tail = bgflow.SequentialFlow(blocks)
    if isinstance(transform, bgflow.MixedCoordinateTransformation):
        x = _laid_in(x, transform)
    with torch.no_grad():
        *y, _ = tail(x.reshape(len(x), -1), inverse=True)
    return BgflowCoordinates(tail, Chart([_ranges(label[0], transform) for label in labels], y), transform)


class _BridgeEnergy(torch.autograd.Function):
    """u and gradient by one call of a bridge; a structure that fails has u = +inf and gradient 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bridge: Any) -> Tensor:
        usable = torch.isfinite(x).all(1)
        u = torch.full((len(x),), torch.inf, dtype=torch.float64)
        gradient = torch.zeros(x.shape, dtype=torch.float64)
        if usable.any():  # one that is not finite can stop bgflow's workers for ever, or come back with energy 0
            energies, forces, *_ = bridge.evaluate(x[usable].detach().cpu().double())
            u[usable], gradient[usable] = energies.reshape(-1).double(), -forces.double()
        valid = torch.isfinite(u) & torch.isfinite(gradient).all(1)
        u[~valid], gradient[~valid] = torch.inf, 0.0
        ctx.save_for_backward(gradient.to(x))
        return u.to(x)

    @staticmethod
    def backward(ctx: Any, grad_u: Tensor) -> Any:
        return torch.where(torch.isfinite(grad_u), grad_u, 0.0)[:, None] * ctx.saved_tensors[0], None


def from_energy(energy: Any) -> Callable[[Tensor], Tensor]:
    """Convert a bgflow energy of structures, or an OpenMMBridge, to u(x): x (batch, n_atoms, 3) nm -> (batch,),
    reduced.

    Non-finite structures and energies get u = +inf, in place of bgflow's 0 or of the frame before.
    """
    import_bgflow()
    bridge = getattr(energy, "bridge", energy if hasattr(energy, "evaluate") else None)
    shape = (bridge.n_atoms * 3,) if bridge is not None else tuple(energy.event_shape)
    n_atoms = math.prod(shape) // 3
    if math.prod(shape) != 3 * n_atoms or shape not in ((3 * n_atoms,), (n_atoms, 3)):
        raise ValueError(f"Expected an energy of structures, event_shape (3 n,) or (n, 3); got {shape}.")

    def u(x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[1:] != (n_atoms, 3):
            raise ValueError(f"Expected x with shape (batch, {n_atoms}, 3) in nm; got {tuple(x.shape)}.")
        x = x.reshape(len(x), *shape)
        if bridge is not None:
            return _BridgeEnergy.apply(x, bridge)
        found = energy.energy(x).reshape(-1)
        return torch.where(torch.isfinite(found), found, torch.inf)

    return u


class EnergyTarget(Target):
    """Target exp(-energy(z)) of a bgflow.Energy over vectors (dim,), such as its double wells, for `Trainer`."""

    def __init__(self, energy: Any, periodic: Tensor | None = None) -> None:
        self.energy, self.dim = energy, int(energy.dim)
        self.periodic = torch.zeros(self.dim, dtype=torch.bool) if periodic is None else periodic

    def log_prob(self, z: Tensor) -> Tensor:
        return -self.energy.energy(z).reshape(-1)


def log_density(prior: Any, u: Sequence[Tensor]) -> Tensor:
    """Log density (batch,) of a bgflow prior at its tensors u, normalised and zero outside its support."""
    bgflow = import_bgflow()
    if not isinstance(prior, bgflow.ProductDistribution):
        return _log_density(prior, u)
    product = prior._delegate_energy
    parts = u if product._cat_dim is None else u[0].split(product._lengths, product._cat_dim)
    return torch.stack([log_density(one, (x,)) for one, x in zip(product, parts, strict=True)]).sum(0)


def _log_density(prior: Any, u: Sequence[Tensor]) -> Tensor:
    bgflow = import_bgflow()
    x = u[0]
    if isinstance(prior, bgflow.UniformDistribution):
        uniform = prior._delegate.base_dist
        low, high = uniform.low, uniform.high
        inside = ((x >= low - uniform.tol) & (x <= high + uniform.tol)).flatten(1).all(1)
        return torch.where(inside, -(high - low).log().sum(), -torch.inf)
    if isinstance(prior, bgflow.TruncatedNormalDistribution):
        inside = ((x >= prior.lower_bound) & (x <= prior.upper_bound)).flatten(1).all(1)
        return torch.where(inside, prior.log_prob(x).flatten(1).sum(1), -torch.inf)
    log_q = -prior.energy(*u).reshape(-1)
    if isinstance(prior, bgflow.CircularNormalDistribution):
        log_q = log_q + math.prod(prior.event_shape) * math.log(2 * math.pi)  # a density in turns
    return log_q


# --- inside ---


def _tensors(x: Any) -> tuple[Tensor, ...]:
    return (x,) if isinstance(x, Tensor) else tuple(x)


def _flat(flow: Any) -> Iterator[Any]:
    bgflow = import_bgflow()
    if isinstance(flow, bgflow.SequentialFlow):
        for block in flow:
            yield from _flat(block)
    else:
        yield flow


def _sequence(blocks: Sequence[Any]) -> Any:
    return import_bgflow().SequentialFlow(blocks)


def _transform(block: Any) -> tuple[Any, Sequence[int]]:
    """The coordinate transform that a generator ends with, and where in its input tensors the fields stand."""
    bgflow = import_bgflow()
    kinds = (
        bgflow.GlobalInternalCoordinateTransformation,
        bgflow.MixedCoordinateTransformation,
        bgflow.RelativeInternalCoordinateTransformation,
    )
    inner, order = (block._flow, block._indices) if isinstance(block, bgflow.WrapFlow) else (block, range(5))
    transform = getattr(inner, "_delegate", None)
    if not (isinstance(inner, bgflow.InverseFlow) and isinstance(transform, kinds)):
        raise ValueError(
            "Expected a flow that ends with the inverse of a global, mixed or relative internal-coordinate transform, "
            f"as BoltzmannGeneratorBuilder.add_map_to_cartesian adds it; got {type(inner).__name__}. Of other flows, "
            "from_flow(flow, prior) makes a flow, and your own coordinates go beside it."
        )
    return transform, order


def _only_rearranges(block: Any) -> bool:
    bgflow = import_bgflow()
    inner = getattr(block, "_flow", block) if isinstance(block, bgflow.WrapFlow) else block
    inner = getattr(inner, "_delegate", inner) if isinstance(inner, bgflow.InverseFlow) else inner
    return isinstance(inner, (bgflow.SetConstantFlow, bgflow.SplitFlow, bgflow.SwapFlow))


def _labels(transform: Any, order: Sequence[int]) -> list[Tensor]:
    """The transform's tensors with 0 for bonds, 1 angles, 2 torsions, 3 fixed atoms as every value, -1 for the pose."""
    sizes = [transform.dim_bonds, transform.dim_angles, transform.dim_torsions]
    labels = [torch.full((1, n), float(k)) for k, n in enumerate(sizes)]
    if transform.dim_fixed:
        labels.append(torch.full((1, transform.dim_fixed), 3.0))
    else:
        labels += [torch.full((1, 1, 3), -1.0), torch.full((1, 3), -1.0)]
    placed: list[Any] = [None] * len(labels)
    if sorted(order[: len(labels)]) != list(range(len(labels))):
        raise ValueError("Expected a flow of bonds, angles, torsions and fixed atoms alone; it has other tensors, too.")
    for place, label in zip(order, labels, strict=False):
        placed[place] = label
    return placed


def _ranges(label: Tensor, transform: Any) -> Range:
    """Ranges of a tensor whose numbers belong to these fields."""
    unit = transform.normalize_angles
    kinds = {
        0: (0.0, math.inf, False),
        1: (0.0, 1.0 if unit else math.pi, False),
        2: (0.0, 1.0, True) if unit else (-math.pi, math.pi, True),
        3: (-math.inf, math.inf, False),
    }
    if (label < 0).any():
        raise ValueError(
            "Expected a global transform with fixed_origin_and_rotation=True; this flow also draws the molecule's "
            "place and orientation, which the energy does not depend on."
        )
    low, high, circular = zip(*(kinds[int(k)] for k in label.tolist()), strict=True)
    return Range(torch.tensor(low), torch.tensor(high), torch.tensor(circular))


def _laid_in(x: Tensor, transform: Any, steps: int = 8) -> Tensor:
    """Structures x (batch, n_atoms, 3) moved and turned to where a mixed transform's whitening drops nothing of them.

    Kabsch's superposition (1976) on the mean it whitens about, then Gauss-Newton steps on what it would drop.
    """
    whiten, atoms = transform._whiten, np.asarray(transform.fixed_atoms)
    mean, there, back = (part.to(x) for part in (whiten.X0mean, whiten.Twhiten, whiten.Tblacken))
    if whiten.keepdims == whiten.dim:
        return x
    part, middle = x[:, atoms], x[:, atoms].mean(1, keepdim=True)
    reference = mean.reshape(-1, 3)
    u, _, v = torch.linalg.svd((part - middle).mT @ (reference - reference.mean(0)))
    hand = torch.ones(len(x), 1, 3, dtype=x.dtype)
    hand[:, 0, 2] = torch.linalg.det(u @ v)
    x = (x - middle) @ (u * hand) @ v + reference.mean(0)

    def dropped(y: Tensor) -> Tensor:
        return y - (y @ there) @ back

    axes = torch.eye(3, dtype=x.dtype)
    for _ in range(steps):
        part = x[:, atoms]
        turns = torch.linalg.cross(axes[None, :, None], part[:, None]).flatten(2)
        moves = axes[None, :, None].expand(len(x), 3, len(atoms), 3).flatten(2)
        fields = dropped(torch.cat([turns, moves], 1))
        residual = dropped(part.flatten(1) - mean)
        step = -torch.linalg.lstsq(fields.mT, residual[:, :, None]).solution[:, :, 0]
        turn = torch.linalg.matrix_exp(torch.linalg.cross(step[:, None, :3], axes[None].expand(len(x), 3, 3)))
        x = x @ turn + step[:, None, 3:]
    return x
