"""The energy of a generator: the molecule's own or one that was given, checked on a few structures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..energy.agreement import uncounted
from ..energy.backends import reduced_energy
from ..energy.compiled import CompiledEnergy
from ..energy.minimum import minimise
from ..energy.protocol import Energy
from ..energy.slopes import check_gradient
from ..energy.verify import check, refuse_fixed_in_space
from ..molecule.molecule import refuse_name
from ..molecule.system import MolecularSystem

JIGGLE = 0.01  # nm
STRUCTURES = 4


def checked_energy(
    system: MolecularSystem, given: Callable[[Tensor], Tensor] | None, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """The system's reduced energy, or the one that is given, where it is what it has to be.

    A translation is compared with OpenMM, any other energy's gradient with differences of that energy. Neither may
    change when the molecule is moved.

    Parameters
    ----------
    device : torch.device
        Where an energy that is given is evaluated.

    Raises
    ------
    DisagreementError
        See `energy.verify.check` and `energy.slopes.check_gradient`.
    ValueError
        See `energy.verify.refuse_fixed_in_space`. No energy at all.
    """
    refuse_name(system)
    if not system.has_forces and not hasattr(given, "value_and_gradient"):
        raise ValueError(
            f"Expected forces in the System of {system.name}, or an energy with a gradient of its own; got "
            f"{'neither' if given is None else repr(given)}. Make one with from_torch, from_function or from_ase of "
            "openmm_fab.energy, and give it as energy=..."
        )
    energy = reduced_energy(system) if given is None else given
    jiggle = np.random.default_rng(0).normal(scale=JIGGLE, size=(STRUCTURES, system.n_atoms, 3))
    x = torch.from_numpy(system.positions + jiggle).to("cpu" if given is None else device)
    refuse_fixed_in_space(energy, x)  # before a minimum is looked for
    if given is None and isinstance(energy, CompiledEnergy):
        check(energy, torch.from_numpy(system.minimum + jiggle))
    else:
        check_gradient(energy, x)
    return energy


def exact_energy(system: MolecularSystem, energy: Callable[[Tensor], Tensor]) -> Energy | None:
    """The energy that coordinates are made from, where OpenMM's Reference platform is not the one to take.

    Differences of gradients want float64, which OpenMM's fast platforms do not have; without forces in the System there
    is the energy that was given alone.
    """
    if isinstance(energy, CompiledEnergy):
        return energy
    return None if system.has_forces else cast(Energy, energy)


def relaxed(system: MolecularSystem, energy: Callable[[Tensor], Tensor]) -> MolecularSystem:
    """The system; without forces in it, at the minimum of the energy below its positions."""
    if system.has_forces:
        return system
    with uncounted(energy):
        return replace(system, positions=minimise(cast(Energy, energy).value_and_gradient, system.positions))
