"""Surrogate gradients: a tensor that has the value of one expression and the gradient of another."""

from __future__ import annotations

from torch import Tensor


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value`, with the gradient of `surrogate` added to its own; the value of the surrogate, which must be
    finite, has no effect.

    Parameters
    ----------
    value, surrogate : Tensor, of one shape
    """
    return value + (surrogate - surrogate.detach())
