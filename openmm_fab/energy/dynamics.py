"""Langevin dynamics of many walkers at once, with the step of OpenMM's LangevinMiddleIntegrator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..molecule.system import MolecularSystem
from ..tools.errors import OpenMMFabError

# x (walkers, atoms, 3) -> u (walkers,) in kT of the system and its gradient in kT/nm
Potential = Callable[[Tensor], tuple[Tensor, Tensor]]


class UnstableDynamicsError(OpenMMFabError, RuntimeError):
    """Walkers reached energies that are not finite: the time step is too long, or the start is impossible."""


@dataclass(frozen=True)
class Motion:
    """Positions x (walkers, atoms, 3) nm, velocities v nm/ps, energies u (walkers,) and gradients kT/nm of walkers."""

    x: Tensor
    v: Tensor
    u: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class LangevinMiddle:
    """LangevinMiddle integrator: kick, half drift, Ornstein-Uhlenbeck, half drift (BAOAB with its two half kicks
    joined).

    Zhang, Liu, Yan, Tuckerman, Liu, J. Phys. Chem. A 123, 6056 (2019). Velocities are those at half steps; their
    kinetic temperature is exact for harmonic forces, and so is the distribution of positions.

    Parameters
    ----------
    step : float, ps
    friction : float, 1/ps
    kT : float, kJ/mol
        What u is measured in.
    masses : (atoms,) tensor, dalton
    """

    step: float
    friction: float
    kT: float
    masses: Tensor

    def __call__(
        self, state: Motion, potential: Potential, steps: int, temperature: Tensor, rng: torch.Generator
    ) -> Motion:
        """Integrate a number of steps.

        Parameters
        ----------
        temperature : (walkers,) tensor
            In units of the system's.

        Raises
        ------
        UnstableDynamicsError
        """
        x, v, u, gradient = state.x, state.v, state.u, state.gradient
        # kJ/mol/nm/dalton = nm/ps^2
        kick = (-self.step * self.kT / self.masses)[:, None]
        keep = float(np.exp(-self.friction * self.step))
        noise = np.sqrt(1.0 - keep**2) * self.thermal(temperature)
        for _ in range(steps):
            v = v + kick * gradient
            x = x + 0.5 * self.step * v
            v = keep * v + noise * torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
            x = x + 0.5 * self.step * v
            u, gradient = potential(x)
            if not bool(torch.isfinite(u).all()):
                raise UnstableDynamicsError(
                    f"Expected finite energies; {int((~torch.isfinite(u)).sum())} of {len(u)} walkers have none after "
                    f"a step of {1000 * self.step:g} fs. Use a smaller step_fs (0.5), or check the starting structures."
                )
        return Motion(x, v, u, gradient)

    def thermal(self, temperature: Tensor) -> Tensor:
        """Standard deviation (walkers, atoms, 1) of velocities, nm/ps, at temperatures (walkers,)."""
        return torch.sqrt(self.kT * temperature[:, None, None] / self.masses[:, None])

    def kinetic_temperature(self, v: Tensor) -> Tensor:
        """Kinetic temperature (walkers,) in units of the system's: 2 E_kin / (3 atoms kT)."""
        return (self.masses[:, None] * v.square()).mean(dim=(1, 2)) / self.kT


def repartitioned(system: MolecularSystem, hydrogen_mass: float | None) -> np.ndarray:
    """Masses (atoms,), dalton, with hydrogens made heavier at the cost of the atoms they are bonded to.

    Raises
    ------
    ValueError
        If another atom would be left lighter than its hydrogens.
    """
    masses = system.masses
    if hydrogen_mass is None:
        return masses
    elements = system.elements
    for pair in system.bonds.tolist():
        for hydrogen, other in (pair, pair[::-1]):
            if elements[hydrogen] == "H" and elements[other] != "H":
                masses[other] -= hydrogen_mass - masses[hydrogen]
                masses[hydrogen] = hydrogen_mass
    heavy = masses[[e != "H" for e in elements]]
    if hydrogen_mass <= 0.0 or (len(heavy) and heavy.min() < hydrogen_mass):
        raise ValueError(
            f"Expected a hydrogen_mass that leaves other atoms heavier; got {hydrogen_mass}. Use 3 or less."
        )
    return masses
