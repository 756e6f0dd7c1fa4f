"""Checks of an energy: a translation against OpenMM, and any energy for invariance under translation and rotation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .agreement import DisagreementError, compare, uncounted
from .bridge import OpenMMEnergy
from .compiled import CompiledEnergy

MOVED = 0.05  # kT, for OpenMM's platforms in single precision


def check(energy: CompiledEnergy, x: Tensor) -> None:
    """Compare an energy with OpenMM's Reference platform on structures x (batch, n_atoms, 3), nm.

    Raises
    ------
    DisagreementError
        If u or a gradient is off; global parameters have their defaults.
    """
    with uncounted(energy):
        found = energy.value_and_gradient(x)
    with OpenMMEnergy(energy.system, platform="Reference", workers=1) as openmm_energy:
        expected = openmm_energy.value_and_gradient(x)
    advice = 'Use reduced_energy(system, backend="openmm"), and report this System.'
    compare(found, expected, energy.dtype or x.dtype, advice)


def refuse_fixed_in_space(energy: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Raise unless u of structures x (batch, n_atoms, 3), nm, is unchanged by translation and rotation.

    Raises
    ------
    ValueError
        They differ: internal coordinates know nothing of place and direction.
    """
    turn = torch.tensor([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]], dtype=x.dtype, device=x.device)
    with torch.no_grad(), uncounted(energy):
        u, moved = energy(x), energy(x @ turn + torch.tensor([3.0, -2.0, 4.0]).to(x))
    off = (moved - u).abs()
    if (off > MOVED + 1e-4 * u.abs()).any():
        raise ValueError(
            "Expected an energy that does not change when the molecule is moved or turned; it changes by "
            f"{float(off.max()):.3g} kT. Remove forces that depend on absolute positions, or restrain distances or "
            "torsions instead."
        )


class VerifiedEnergy(CompiledEnergy):
    """`CompiledEnergy` whose first batch is compared with OpenMM.

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
