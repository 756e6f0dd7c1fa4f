"""Comparison of energies and gradients with OpenMM's Reference platform, which uses double precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..tools.errors import OpenMMFabError

# Of u, relative and in kT; of the gradient, relative to the largest component of a structure. In float32 the terms of
# an energy, each far larger than their sum, lose digits.
TOLERANCES = {torch.float64: (1e-6, 1e-6, 1e-5), torch.float32: (1e-4, 2e-2, 1e-2)}


class DisagreementError(OpenMMFabError, RuntimeError):
    """A translated energy, or one of OpenMM's platforms, differs from the Reference platform; or forces that are not
    the negative gradient of their energy."""


@contextmanager
def uncounted(energy: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Context manager that restores the energy's counts of evaluations and invalid structures, if it has any."""
    counts = {name: getattr(energy, name) for name in ("evaluations", "invalid") if hasattr(energy, name)}
    try:
        yield
    finally:
        for name, number in counts.items():
            setattr(energy, name, number)


def compare(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], dtype: torch.dtype, advice: str) -> None:
    """Raise if energies u (batch,) or gradients (batch, n_atoms, 3) differ by more than rounding in `dtype` explains.

    Raises
    ------
    DisagreementError
        Says which structure is the first, by how much it differs, and `advice`.
    """
    (u, gradient), (expected_u, expected_gradient) = found, expected
    relative, absolute, of_gradient = TOLERANCES[dtype]
    both = torch.isfinite(u) & torch.isfinite(expected_u)
    scale = expected_gradient.abs().amax(dim=(1, 2)).clamp(min=1.0)
    off = (gradient - expected_gradient).abs().amax(dim=(1, 2)) / scale
    wrong = both & (((u - expected_u).abs() > absolute + relative * expected_u.abs()) | (off > of_gradient))
    wrong |= torch.isfinite(u) != torch.isfinite(expected_u)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise DisagreementError(
            f"Expected OpenMM's energies; {int(wrong.sum())} of {len(u)} structures differ, the first is {row}: "
            f"u = {float(u[row]):.8g} kT against OpenMM's {float(expected_u[row]):.8g}, gradient off by "
            f"{float(off[row]):.2g} of its largest component. {advice}"
        )
