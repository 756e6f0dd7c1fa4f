"""A translated energy that shows its first batch to OpenMM and raises where they differ."""

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


class VerifiedEnergy(CompiledEnergy):
    """`CompiledEnergy` whose first batch is evaluated by OpenMM's Reference platform, too.

    Raises
    ------
    DisagreementError
        In the first call with structures, if u or a gradient is off.
    """

    verified = False

    def _evaluate(
        self, x: Tensor, names: tuple[str, ...], values: Sequence[Tensor], gradient: bool = True, slopes: bool = False
    ) -> list[Tensor]:
        if not self.verified and len(x) > 0:
            counts = self.evaluations, self.invalid
            # Global parameters have their defaults in OpenMM's Contexts.
            u, slope = super()._evaluate(x, (), ())
            self.evaluations, self.invalid = counts
            _compare(self, x.detach(), u, slope, TOLERANCES[self.dtype or x.dtype])
            self.verified = True
        return super()._evaluate(x, names, values, gradient, slopes)


def _compare(
    energy: CompiledEnergy, x: Tensor, u: Tensor, gradient: Tensor, tolerances: tuple[float, float, float]
) -> None:
    relative, absolute, of_gradient = tolerances
    with OpenMMEnergy(energy.system, platform="Reference") as openmm_energy:
        expected_u, expected = openmm_energy.value_and_gradient(x)
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
            f'{float(off[row]):.2g} of its largest component. Use backend="openmm", and report this System.'
        )
