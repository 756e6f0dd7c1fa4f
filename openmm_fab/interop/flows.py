"""Flows of torch.distributions, normflows and zuko as flows of this package.

Each function returns a `ForeignFlow` over z (batch, dim): train it with `Trainer`, or in ``BoltzmannGenerator(system,
flow=...)``.  Parameters are shared with the given object.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..flow.base import Flow, share_outside_circle
from ..tools.circle import wrap_periodic
from ..tools.warn import warn

TEAR = 0.1  # nats at +-pi that are worth a warning
SAMPLES = 1000  # drawn to check a flow


class ForeignFlow(nn.Module, ABC):
    """Flow of another library that draws from PyTorch's global random numbers, made reproducible, with its gradient.

    Subclasses say how to `_sample` and give `log_prob`.

    Parameters
    ----------
    periodic : Tensor of bool, shape (dim,), optional
        Which z are angles in [-pi, pi): `InternalCoordinates.periodic`. By default none is.
    """

    periodic: Tensor | None

    def __init__(self, periodic: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("periodic", None if periodic is None else periodic.clone(), persistent=False)

    @abstractmethod
    def _sample(self, n: int) -> tuple[Tensor, Tensor]:
        """n samples z (n, dim) and log q(z) (n,), by the global random numbers."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) (batch,) of z (batch, dim); angles may lie anywhere on the line."""

    @torch.no_grad()
    def sample(self, n: int, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n samples z (n, dim), angles in [-pi, pi), and log q(z) (n,)."""
        with seeded(rng, next(self.parameters()).device):
            z, log_q = self._sample(n)
        return self._wrapped(z), log_q

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log q(z) (batch,) and its gradient (batch, dim), zero where the density is."""
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            log_q = self.log_prob(z)
        (gradient,) = torch.autograd.grad(log_q.sum(), z)
        return log_q.detach(), torch.where(torch.isfinite(log_q.detach())[:, None], gradient, 0.0)

    def _wrapped(self, z: Tensor) -> Tensor:
        if self.periodic is None:
            return z
        return wrap_periodic(z, self.periodic)


class ReparametrisedFlow(ForeignFlow):
    """`ForeignFlow` whose samples can be differentiated by its parameters, for objectives that need it."""

    def rsample(self, n: int, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n samples z (n, dim) and log q(z) (n,), differentiable by the flow's parameters."""
        with seeded(rng, next(self.parameters()).device):
            z, log_q = self._sample(n)
        return self._wrapped(z), log_q


@contextmanager
def seeded(rng: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Context manager that seeds PyTorch's global random numbers from `rng`; None changes nothing.

    Their state is restored at the end.
    """
    if rng is None:
        yield
        return
    seed = torch.randint(2**62, (), generator=rng, device=rng.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(seed))
        yield


def from_distribution(module: nn.Module, periodic: Tensor | None = None) -> ForeignFlow:
    """Convert a module that returns a `torch.distributions.Distribution` over z (dim,) when called.

    The module is called anew at every evaluation, so the distribution follows its parameters.

    Raises
    ------
    TypeError
        If what the call returns cannot sample and tell log_prob of vectors.
    """
    if isinstance(module, torch.distributions.Distribution):
        raise TypeError(
            "Expected a torch.nn.Module whose call returns a distribution; got the distribution itself, which cannot "
            "be trained or copied. Keep its parameters in a Module and build it in forward()."
        )
    shape = tuple(module().event_shape)
    if len(shape) != 1:
        raise TypeError(
            f"Expected a distribution of vectors, event_shape (dim,); got event_shape {shape}. "
            "torch.distributions.Independent(distribution, 1) makes one of a batch."
        )
    kind = _ReparametrisedDistributionFlow if module().has_rsample else _DistributionFlow
    return _check(kind(module, periodic), shape[0])


def from_zuko(flow: nn.Module, periodic: Tensor | None = None) -> ForeignFlow:
    """Convert a zuko flow over z, such as ``zuko.flows.NSF(dim)``.

    Circular ones, ``NCSF``, live on [-pi, pi] in every coordinate: pass a `periodic` that is all True. Their networks
    see raw angles, so that a density of several angles is discontinuous at +-pi, which is warned of.
    """
    return from_distribution(flow, periodic)


def from_normflows(model: nn.Module, periodic: Tensor | None = None) -> ForeignFlow:
    """Convert a ``normflows.NormalizingFlow`` over z; its circular coordinates in radians: tail_bound = pi.

    Raises
    ------
    TypeError
        If the model has no `sample` and `log_prob`.
    """
    if not (hasattr(model, "sample") and hasattr(model, "log_prob")):
        raise TypeError(f"Expected a normflows.NormalizingFlow; got {type(model).__name__}.")
    flow = _NormflowsFlow(model, periodic)
    # Not two: layers such as ActNorm take their scales from the first batch that they see.
    return _check(flow, flow.sample(SAMPLES, torch.Generator().manual_seed(0))[0].shape[-1])


def tear(flow: Flow, periodic: Tensor, *, n: int = 256, seed: int = 0) -> float:
    """Largest discontinuity of log q, in nats, at +-pi, over n samples and all periodic coordinates.

    A molecule's density has none; a discontinuity of the flow is a barrier to HMC and an error of weights. Ask again
    after training: a flow that starts as the identity cannot show it before.
    """
    z, _ = flow.sample(n, torch.Generator().manual_seed(seed))
    largest = 0.0
    with torch.no_grad():
        for k in torch.nonzero(periodic)[:, 0].tolist():
            ends = []
            for end in (-math.pi + 1e-4, math.pi - 1e-4):
                there = z.clone()
                there[:, k] = end
                ends.append(flow.log_prob(there))
            largest = max(largest, float((ends[1] - ends[0]).abs().max()))
    return largest


class _DistributionFlow(ForeignFlow):
    def __init__(self, module: nn.Module, periodic: Tensor | None) -> None:
        super().__init__(periodic)
        self.module = module

    def _sample(self, n: int) -> tuple[Tensor, Tensor]:
        distribution = self.module()
        z = distribution.sample((n,))
        return z, distribution.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.module().log_prob(self._wrapped(z))


class _ReparametrisedDistributionFlow(_DistributionFlow, ReparametrisedFlow):
    def _sample(self, n: int) -> tuple[Tensor, Tensor]:
        distribution = self.module()
        z = distribution.rsample((n,))
        return z, distribution.log_prob(z)


class _NormflowsFlow(ReparametrisedFlow):
    def __init__(self, model: nn.Module, periodic: Tensor | None) -> None:
        super().__init__(periodic)
        self.model = model

    def _sample(self, n: int) -> tuple[Tensor, Tensor]:
        return cast(Any, self.model).sample(n)

    def log_prob(self, z: Tensor) -> Tensor:
        return cast(Any, self.model).log_prob(self._wrapped(z))


def _check(flow: ForeignFlow, dim: int) -> ForeignFlow:
    """The flow, after errors for what cannot be trained and warnings of angles that are not on the circle."""
    if next(flow.parameters(), None) is None:
        raise TypeError("Expected a flow with parameters to train; this module has none.")
    if flow.periodic is None:
        return flow
    if flow.periodic.shape != (dim,):
        raise ValueError(f"Expected periodic with shape ({dim},), one flag a coordinate; got {flow.periodic.shape}.")
    with torch.no_grad(), seeded(torch.Generator().manual_seed(0), next(flow.parameters()).device):
        z, _ = flow._sample(SAMPLES)
    if share := share_outside_circle(z, flow.periodic):
        warn(
            f"{100 * share:.2g} % of this flow's samples have angles beyond +-pi. They are taken back to the circle "
            "with the log q of where they were, which makes their weights wrong. Take a flow whose angles stay on the "
            "circle, such as openmm_fab's CouplingFlow or normflows' circular couplings.",
        )
    if (jump := tear(flow, flow.periodic)) > TEAR:
        warn(
            f"log q of this flow jumps by up to {jump:.1f} nats where an angle closes at +-pi. Its networks seem to "
            "see raw angles: give them (cos, sin), or take a flow that does, such as openmm_fab's CouplingFlow or "
            "normflows' circular couplings.",
        )
    return flow
