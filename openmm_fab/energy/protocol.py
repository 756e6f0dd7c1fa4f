"""The interface of every reduced energy, and how it is made differentiable by autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Energy(Protocol):
    """Interface of the reduced energy u(x) = U(x)/kT of a batch of structures, differentiable once by autograd.

    Every call computes afresh; nothing is cached. A structure with non-finite coordinates, or with a non-finite energy
    or gradient, gets u = +inf and gradient 0 and is counted in `invalid`; the others are untouched. Finite energies
    stay, however large. (Where only the gradient overflows, in nearly coincident atoms, a call without gradient gives
    a finite u.) The dtype that decides is that of x, in which the results are returned.

    Attributes
    ----------
    evaluations, invalid : int
        Structures evaluated so far, and those of them that were invalid.
    """

    evaluations: int
    invalid: int

    def __call__(self, x: Tensor, /) -> Tensor:
        """Reduced energies of a batch.

        Parameters
        ----------
        x : (batch, n_atoms, 3) float tensor, nm; any device

        Returns
        -------
        (batch,) tensor of x's dtype and device; +inf where invalid
            Its gradient can be taken once; a second derivative raises RuntimeError.

        Raises
        ------
        ValueError
            x has another shape.
        TypeError
            x has no floating-point dtype.
        """
        ...

    def value_and_gradient(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        """u (batch,) and du/dx (batch, n_atoms, 3) in 1/nm, both detached."""
        ...


def require_positions(x: Tensor, n_atoms: int) -> None:
    """Raise ValueError or TypeError unless x has the shape (batch, n_atoms, 3) and a floating-point dtype."""
    if x.ndim != 3 or x.shape[1:] != (n_atoms, 3):
        raise ValueError(f"Expected x with shape (batch, {n_atoms}, 3) in nm; got {tuple(x.shape)}.")
    if not x.dtype.is_floating_point:
        raise TypeError(f"Expected x of a floating-point dtype; got {x.dtype}.")


def differentiable_once(
    evaluate: Callable[[bool], Sequence[Tensor]], x: Tensor, values: Sequence[Tensor] = (), *, refusal: str
) -> Tensor:
    """Make u (batch,) differentiable by x and `values`, from derivatives that `evaluate` returns; second derivatives
    raise.

    Parameters
    ----------
    evaluate : callable
        slopes -> u (batch,), du/dx (batch, n_atoms, 3) and, if `slopes` is true, du/dvalue (batch,) of each value, all
        at the given x and values, finite where u is, else 0. Called once, at once.
    x : (batch, n_atoms, 3) tensor, nm
    values : sequence of (batch,) tensors, optional
        Parameters that u depends on besides x.
    refusal : str
        Message of the RuntimeError that a second derivative raises.
    """
    return _Energy.apply(evaluate, refusal, x, *values)


class _Energy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, evaluate: Callable[[bool], Sequence[Tensor]], refusal: str, x: Tensor, *values: Tensor
    ) -> Tensor:
        u, *derivatives = evaluate(any(ctx.needs_input_grad[3:]))
        ctx.save_for_backward(x, *values, u, *derivatives)
        ctx.refusal, ctx.number = refusal, len(values)
        return u

    @staticmethod
    def backward(ctx: Any, grad_u: Tensor) -> tuple[Tensor | None, ...]:
        inputs, (u, *derivatives) = ctx.saved_tensors[: 1 + ctx.number], ctx.saved_tensors[1 + ctx.number :]
        # An invalid structure's gradient is 0 whatever comes down from above (inf and NaN included).
        grad_u = torch.where(torch.isfinite(u), grad_u, 0.0)
        parts = [grad_u.view(-1, *[1] * (d.ndim - 1)) * _Derivative.apply(ctx.refusal, d, *inputs) for d in derivatives]
        return None, None, parts[0], *(parts[1:] or [None] * ctx.number)


class _Derivative(torch.autograd.Function):
    """A derivative as a function of all inputs whose own derivative raises.

    torch's `once_differentiable` looks at the incoming gradient only: in the second derivative of u(x) + f(x) it would
    silently leave out that of u.
    """

    @staticmethod
    def forward(ctx: Any, refusal: str, derivative: Tensor, *inputs: Tensor) -> Tensor:
        ctx.refusal = refusal
        return derivative.view_as(derivative)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        raise RuntimeError(ctx.refusal)
