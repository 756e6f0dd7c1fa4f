"""A value with the gradient of another one, for reverse-mode differentiation."""

from __future__ import annotations

from torch import Tensor


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value, to whose own gradient that of a surrogate is added; the surrogate's finite value does not count.

    Parameters
    ----------
    value, surrogate : Tensor, of one shape
    """
    return value + (surrogate - surrogate.detach())
