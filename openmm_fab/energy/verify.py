"""A translated energy held against OpenMM's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.energy.compiled import CompiledEnergy

# Of u, relative and in kT; of the gradient, relative to the largest component of a structure. In float32 the terms of
# an energy, each far larger than their sum, lose digits.
TOLERANCES = {torch.float64: (1e-6, 1e-6, 1e-5), torch.float32: (1e-4, 2e-2, 1e-2)}


class DisagreementError(RuntimeError):
    """The translated energy differs from OpenMM's."""


def check(energy: CompiledEnergy, x: Tensor) -> None:
    """Compare with OpenMM's Reference platform on structures x (batch, n_atoms, 3) in nm.

    Raises
    ------
    DisagreementError
        If u or a gradient is off; global parameters have their defaults.
    """
    counts = energy.evaluations, energy.invalid
    u, gradient = energy.value_and_gradient(x)
    energy.evaluations, energy.invalid = counts
    with OpenMMEnergy(energy.system, platform="Reference", workers=1) as openmm_energy:
        expected_u, expected = openmm_energy.value_and_gradient(x)
    relative, absolute, of_gradient = TOLERANCES[energy.dtype or x.dtype]
    both = torch.isfinite(u) & torch.isfinite(expected_u)
    scale = expected.abs().amax(dim=(1, 2)).clamp(min=1.0)
    off = (gradient - expected).abs().amax(dim=(1, 2)) / scale
    wrong = both & (((u - expected_u).abs() > absolute + relative * expected_u.abs()) | (off > of_gradient))
    wrong |= torch.isfinite(u) != torch.isfinite(expected_u)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise DisagreementError(
            f"Expected OpenMM's energies; {int(wrong.sum())} of {len(u)} structures differ, the first is {row}: "
            f"u = {float(u[row]):.8g} kT against OpenMM's {float(expected_u[row]):.8g}, gradient off by "
            f'{float(off[row]):.2g} of its largest component. Use reduced_energy(system, backend="openmm"), and '
            "report this System."
        )


class VerifiedEnergy(CompiledEnergy):
    """`CompiledEnergy` whose first batch is checked.

    Raises
    ------
    DisagreementError
        In the first call with structures; see `check`.
    """

    verified = False

    def _evaluate(
        self, x: Tensor, names: tuple[str, ...], values: Sequence[Tensor], gradient: bool = True, slopes: bool = False
    ) -> list[Tensor]:
        if not self.verified and len(x) > 0:
            self.verified = True  # the check evaluates, too
            try:
                check(self, x.detach())
            except DisagreementError:
                self.verified = False
                raise
        return super()._evaluate(x, names, values, gradient, slopes)
