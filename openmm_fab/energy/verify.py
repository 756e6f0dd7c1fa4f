"""A translated energy held against OpenMM's own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from openmm_fab.energy.agreement import DisagreementError, compare
from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.energy.compiled import CompiledEnergy


def check(energy: CompiledEnergy, x: Tensor) -> None:
    """Compare with OpenMM's Reference platform on structures x (batch, n_atoms, 3) in nm.

    Raises
    ------
    DisagreementError
        If u or a gradient is off; global parameters have their defaults.
    """
    counts = energy.evaluations, energy.invalid
    found = energy.value_and_gradient(x)
    energy.evaluations, energy.invalid = counts
    with OpenMMEnergy(energy.system, platform="Reference", workers=1) as openmm_energy:
        expected = openmm_energy.value_and_gradient(x)
    advice = 'Use reduced_energy(system, backend="openmm"), and report this System.'
    compare(found, expected, energy.dtype or x.dtype, advice)


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
