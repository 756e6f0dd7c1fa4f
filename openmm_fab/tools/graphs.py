"""CUDA graphs: many small GPU operations are recorded once and replayed as one.

The layers of a flow are small: launching an operation takes longer than computing it, and a graph launches all of them
at once. A graph reads and writes the same memory each time, so inputs are copied in and results are copied out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .warn import warn

WARM_UP = 3  # calls before one is recorded: compilers and libraries set themselves up in the first ones

Function = Callable[[Tensor], Sequence[Tensor]]


class Graphs:
    """Records functions of z (batch, ...) as CUDA graphs at their first call and replays them in later ones.

    Batches of another size are computed directly. A deep copy starts empty: a recorded CUDA graph is bound to the
    weights of the flow it was recorded from.

    Parameters
    ----------
    batch : int
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self._recorded: dict[Any, Callable[[Tensor], Sequence[Tensor]]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Graphs:
        return Graphs(self.batch)

    def __call__(
        self, name: Any, function: Function, z: Tensor, parameters: Sequence[Tensor] | None = None
    ) -> Sequence[Tensor]:
        """Return function(z) by replaying its graph; differentiable by z and by `parameters`, if those are given.

        Parameters
        ----------
        name : hashable
            Of the function, and of everything but z that it depends on and that changes.
        function : callable
            z -> sequence of tensors; the same steps on the GPU whatever z is.
        z : Tensor
        parameters : sequence of Tensor, optional
            What the first result is differentiated by, besides z; it is then the only one. They stay where they are.
        """
        if len(z) != self.batch:
            return function(z)
        key = (name, parameters is not None, z.dtype)
        if key not in self._recorded:
            self._recorded[key] = self._record(function, z, parameters)
        return self._recorded[key](z)

    @staticmethod
    def _record(
        function: Function, z: Tensor, parameters: Sequence[Tensor] | None
    ) -> Callable[[Tensor], Sequence[Tensor]]:
        try:
            with torch.cuda.device_of(z), torch.inference_mode(False):
                return _Replayed(function, z) if parameters is None else _Differentiable(function, z, parameters)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            first = str(error).strip().splitlines() or [""]
            warn(f"Goes on without CUDA graphs, slower: {type(error).__name__}: {first[0]}")
            return function


class _Replayed:
    """A recorded function whose results cannot be differentiated."""

    def __init__(self, function: Function, z: Tensor) -> None:
        self._z = z.detach().clone()
        warm_up(lambda: function(self._z))
        self._replay, self._results = record(lambda: function(self._z))

    @torch.no_grad()
    def __call__(self, z: Tensor) -> Sequence[Tensor]:
        self._z.copy_(z)
        self._replay()
        return [result.clone() for result in self._results]


class _Differentiable:
    """A recorded function with one result; its derivatives by z and the parameters are a second CUDA graph."""

    def __init__(self, function: Function, z: Tensor, parameters: Sequence[Tensor]) -> None:
        self._z, self._parameters = z.detach().clone().requires_grad_(), parameters
        if hasattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch"):
            # Weights were recorded on another stream than they get their gradients on, for which autograd waits.
            torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        by = [self._z, *parameters]

        def slopes(result: Tensor, above: Tensor) -> Sequence[Tensor]:
            return torch.autograd.grad(result, by, above, allow_unused=True, materialize_grads=True)

        with torch.enable_grad():

            def both() -> None:
                (result,) = function(self._z)
                slopes(result, torch.ones_like(result))

            warm_up(both)
            self._forward, (self._result,) = record(lambda: function(self._z))
            self._above = torch.zeros_like(self._result)
            self._backward, self._slopes = record(lambda: slopes(self._result, self._above))
        self._result = self._result.detach()  # or autograd would hold on to the stream it was recorded on
        self.runs = 0

    def __call__(self, z: Tensor) -> Sequence[Tensor]:
        return [_Derived.apply(self, z, *self._parameters)]

    @torch.no_grad()
    def run(self, z: Tensor) -> Tensor:
        """Replay the function at z; returns a copy of its result."""
        self._z.copy_(z)
        self._forward()
        self.runs += 1
        return self._result.clone()

    @torch.no_grad()
    def derivatives(self, z: Tensor, run: int, above: Tensor) -> Sequence[Tensor]:
        """Derivatives by z and the parameters of the run with this number, times the gradient `above` of its result."""
        if run != self.runs:  # another one has taken its place
            self.run(z)
        self._above.copy_(above)
        self._backward()
        return torch._foreach_mul(list(self._slopes), 1.0)  # copies, in a step or two


class _Derived(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recorded: _Differentiable, z: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        ctx.recorded, result = recorded, recorded.run(z)
        ctx.run = recorded.runs
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.recorded.derivatives(*ctx.saved_tensors, ctx.run, above)


def warm_up(work: Callable[[], object]) -> None:
    """Call work() a few times on a stream of its own, as torch requires before a CUDA graph is recorded."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(stream)


def record(work: Callable[[], Sequence[Tensor]]) -> tuple[Callable[[], None], Sequence[Tensor]]:
    """Record work() as a CUDA graph: returns a function that replays it, and the tensors that then hold the results."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = work()
    return graph.replay, results
