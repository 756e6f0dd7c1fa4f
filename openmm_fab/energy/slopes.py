"""The gradient of an energy against central differences of the energy itself, where nothing else can check it.

A force that Python calculates, or a function that a user gives, is the same on every platform: only its own energies
tell whether its forces belong to them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import openmm
import torch
from torch import Tensor

from ..molecule.openmm_private import magnitude
from ..tools.warn import warn
from .agreement import DisagreementError, uncounted
from .bridge import OpenMMEnergy

STEPS = (1e-4, 4e-4, 1.6e-3)  # nm: how far the atom that goes furthest is moved
RELATIVE = 1e-2  # of a slope
SIGMAS = 5.0
HIDDEN = 0.3  # share of the slopes: a noise beyond it leaves nothing to compare
NOISY = 0.02  # kT, which weights would show
UNITS = {  # ratios of units that forces and energies may be mistaken in
    10.0: "kJ/mol/nm to kJ/mol/Å",
    4.184: "kcal to kJ",
    41.84: "kcal/mol/Å to kJ/mol/nm",
    96.4853: "eV to kJ/mol",
    964.853: "eV/Å to kJ/mol/nm",
    18.8973: "1/bohr to 1/nm",
    2625.5: "hartree to kJ/mol",
    49614.8: "hartree/bohr to kJ/mol/nm",
}


@dataclass(frozen=True)
class Slopes:
    """How u changes along straight lines through some structures.

    Attributes
    ----------
    given, found : (lines,), kT/nm
        By the gradient, and by central differences.
    tolerance : (lines,), kT/nm
        What rounding, the energy's own noise, and 1 % of the slope allow.
    noise : float, kT
        Standard deviation of what u has beside a smooth function.
    hidden : bool
        The noise is so large that slopes cannot be compared.
    """

    given: Tensor
    found: Tensor
    tolerance: Tensor
    noise: float
    hidden: bool

    @property
    def wrong(self) -> Tensor:
        """Bool (lines,): where the slope given differs from the one found by more than rounding explains."""
        return (self.given - self.found).abs() > self.tolerance


def check_gradient(energy: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Compare the gradient of u with differences of u in structures x (batch, n_atoms, 3), nm.

    Of each structure two lines are followed, one along its gradient and one at random: eight energies, a gradient.

    Parameters
    ----------
    energy : callable
        x (batch, n_atoms, 3) -> u (batch,), whose gradient autograd knows.

    Raises
    ------
    DisagreementError
        The gradient is another; where OpenMM evaluates, it names the force.
    ValueError
        No gradient, or no structure of finite energy.

    Warns
    -----
    UserWarning
        Noise that weights would show, or that hides the slopes.
    """
    with uncounted(energy):
        found = measure(lambda x: _values(energy, x), lambda x: _gradient(energy, x), x)
    if found is None:
        raise ValueError(
            f"Expected finite energies near the structure given; got none in {len(x)} structures. Look at the energy "
            "of the structure itself: energy(torch.as_tensor(system.positions)[None])."
        )
    if found.noise > NOISY:
        warn(
            f"The energy has a noise of {found.noise:.2g} kT, which weights show. In single precision a total of 1e6 "
            "kJ/mol is rounded to 0.06 kJ/mol: calculate in float64, or take the energies of the separate atoms off.",
        )
    if found.hidden:
        warn("The energy is too noisy to tell whether its gradient is right.")
    elif found.wrong.any():
        forces = _wrong_forces(energy, x) if isinstance(energy, OpenMMEnergy) else ""
        raise DisagreementError(_message(found, forces))


def measure(value: Callable[[Tensor], Tensor], gradient: Callable[[Tensor], Tensor], x: Tensor) -> Slopes | None:
    """Slopes along two lines through each structure x (batch, n_atoms, 3), nm; None if none has a finite energy.

    Parameters
    ----------
    value, gradient : callable
        x -> u (batch,), and du/dx (batch, n_atoms, 3) in 1/nm.
    """
    x = x.double()
    slope = gradient(x).double()
    rng = torch.Generator().manual_seed(0)
    others = torch.randn(x.shape, generator=rng, dtype=torch.float64).to(x.device)
    steepest = torch.where(slope.abs().amax((1, 2), keepdim=True) > 0, slope, others.flip(0))
    lines = torch.stack([steepest, others], 1)
    lines = lines / lines.abs().amax((2, 3), keepdim=True)
    given = (slope[:, None] * lines).sum((2, 3)).flatten()
    typical = (slope.square().sum((1, 2))[:, None] * lines.square().sum((2, 3))).sqrt().flatten()
    typical = typical / slope[0].numel() ** 0.5
    centre = value(x).double()
    for step in STEPS:
        shifts = step * torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64, device=x.device)
        u = value((x[:, None, None] + shifts[:, None, None] * lines[:, :, None]).flatten(0, 2)).double()
        far_down, down, up, far_up = u.view(-1, 4).unbind(1)
        middle = centre.repeat_interleave(2)
        finite = torch.isfinite(far_down + down + up + far_up + middle) & torch.isfinite(given)
        if not finite.any():
            return None
        difference = (8 * (up - down) - (far_up - far_down)) / (12 * step)
        # What a cubic polynomial leaves: sqrt(70) times the noise, as 1 + 16 + 36 + 16 + 1 = 70.
        fourth = (far_down - 4 * down + 6 * middle - 4 * up + far_up).abs() / 70**0.5
        pooled = fourth[finite].square().mean().sqrt()
        noise = torch.maximum(fourth, pooled).clamp(
            min=torch.finfo(torch.float64).eps * float(middle[finite].abs().max())
        )
        uncertain = SIGMAS * noise * 130**0.5 / (12 * step)
        scale = torch.stack([given.abs(), difference.abs(), typical]).amax(0)
        hidden = bool((uncertain > HIDDEN * scale)[finite].all())
        if bool((uncertain < 0.1 * scale)[finite].all()):
            break
    tolerance = RELATIVE * scale + uncertain
    return Slopes(given[finite], difference[finite], tolerance[finite], float(pooled), hidden)


def _values(energy: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return energy(x)


@torch.enable_grad()
def _gradient(energy: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    u = energy(x)
    if u.shape != x.shape[:1]:
        raise ValueError(f"Expected one energy a structure, shape ({len(x)},); got {tuple(u.shape)}.")
    if not u.requires_grad:
        raise ValueError(
            "Expected an energy that autograd can differentiate; got one without gradient. Make it of torch operations "
            "alone, or use openmm_fab.energy.from_function, which takes a gradient."
        )
    (gradient,) = torch.autograd.grad(u.sum(), x)
    return gradient


def _wrong_forces(energy: OpenMMEnergy, x: Tensor) -> str:
    """Names of the forces whose own energies have another slope, each evaluated alone by the Reference platform."""
    system, names = energy.system.system, []
    for k, force in enumerate(system.getForces()):
        alone = openmm.System()
        for i in range(system.getNumParticles()):
            alone.addParticle(system.getParticleMass(i))
        alone.addForce(copy.deepcopy(force))
        platform = openmm.Platform.getPlatformByName("Reference")
        context = openmm.Context(alone, openmm.VerletIntegrator(0.001), platform)

        def evaluate(x: Tensor, forces: bool, context: openmm.Context = context) -> Tensor:
            found = []
            for structure in x.cpu().numpy():
                context.setPositions(structure)
                state = context.getState(energy=not forces, forces=forces)
                found.append(
                    -magnitude(state.getForces(asNumpy=True)) if forces else magnitude(state.getPotentialEnergy())
                )
            return torch.from_numpy(np.array(found) / energy.system.kT)

        slopes = measure(lambda x: evaluate(x, False), lambda x: evaluate(x, True), x)
        if slopes is not None and not slopes.hidden and slopes.wrong.any():
            names.append(f"force {k} ({force.getName()})")
    return ", ".join(names)


def _message(slopes: Slopes, forces: str) -> str:
    worst = int(((slopes.given - slopes.found).abs() / slopes.tolerance).argmax())
    given, found = float(slopes.given[worst]), float(slopes.found[worst])
    steepest = (torch.maximum(slopes.found.abs(), slopes.given.abs()) > 3 * slopes.tolerance) & (slopes.given != 0)
    ratios = (slopes.found / slopes.given)[steepest]
    ratio = float(ratios.median()) if len(ratios) else float("nan")
    about = f"{forces} of the System: " if forces else ""
    return (
        f"{about}Expected forces that are the negative gradient of the energy; along {int(slopes.wrong.sum())} of "
        f"{len(slopes.given)} lines through structures near the given one they are not. Along the worst, central "
        f"differences of the energy give {found:.6g} kT/nm and the forces {given:.6g}. Differences are "
        f"{ratio:.4g} times what the forces say{_cause(ratio)}. Correct the forces, or the unit of one of the two."
    )


def _cause(ratio: float) -> str:
    """What a ratio of true slopes to those given is known for; empty if for nothing."""
    if abs(ratio + 1) < 0.02:
        return ": the sign, a gradient in place of forces or forces in place of a gradient"
    known = [units for factor, units in UNITS.items() if min(abs(ratio / factor - 1), abs(ratio * factor - 1)) < 0.02]
    return f", the ratio of {known[0]}" if known else ""
