"""Barriers to rotation about bonds, from relaxed energy scans of all bonds of a molecule at once.

The torsion is driven around its circle, both ways, and everything else relaxes by L-BFGS in scaled internal
coordinates, in which stiff directions have unit width. One call of the energy serves all bonds and both ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..tools.circle import wrap

Function = Callable[[Tensor], tuple[Tensor, Tensor]]  # z (batch, dim) -> u (batch,), du/dz (batch, dim)

ANGLES = 24  # around the circle
SIDE = math.pi / 3  # rad; a minimum further away than this is another side
MEMORY = 8  # steps that L-BFGS remembers
MOST, LONGEST = 300, 1.0  # L-BFGS steps; of one, in units of z
CONVERGED = 1e-3  # kT that the next step would gain
PLANCK = 0.3990313  # kJ/mol ps


@dataclass(frozen=True)
class BondScan:
    """Result of a relaxed scan about a bond; energies are relative to the structure that the coordinates are made from.

    Attributes
    ----------
    bond : tuple of int
        Its atoms.
    barrier : float, kT
        The least height to climb on the way to another minimum, or around the whole circle where there is none.
    other : float or None, kT
        Energy of that minimum; None if there is none 60 degrees away or more.
    turns : bool
        Whether its torsion is sampled.
    """

    bond: tuple[int, int]
    barrier: float
    other: float | None
    turns: bool = False


def crossing_time(barrier: float, kT: float) -> float:
    """Mean time in ps until a barrier (kT) is crossed at kT (kJ/mol): h / kT exp(barrier), transition-state theory."""
    return PLANCK / kT * math.exp(barrier)


def scan_bonds(
    function: Function, minimum: Tensor, columns: Sequence[int], bonds: Sequence[tuple[int, int]]
) -> list[BondScan]:
    """Scan bonds: their barriers and the energies of their other minima.

    Parameters
    ----------
    function : callable
        Reduced energy and gradient; u is +inf where z means no structure.
    minimum : Tensor, shape (dim,), float64
        A minimum of u.
    columns : sequence of int
        Entry of z that is the torsion about each of the `bonds`, in radians.
    """
    energies, z = _profiles(function, minimum, columns)
    # Let go of the driven torsion where the profile has a minimum.
    at = torch.arange(ANGLES)
    far = wrap(at * (2 * math.pi / ANGLES)).abs() >= SIDE - 1e-9
    lowest = (energies <= energies.roll(1, 1)) & (energies <= energies.roll(-1, 1)) & far & torch.isfinite(energies)
    which, k = lowest.nonzero(as_tuple=True)
    freed, relaxed = z[which, k], energies.new_zeros(0)
    if len(freed):
        freed, relaxed = relax(function, freed, torch.zeros_like(freed, dtype=torch.bool))
        relaxed = relaxed - function(minimum[None])[0]
    found = []
    for b, (column, bond) in enumerate(zip(columns, bonds, strict=True)):
        profile = energies[b].numpy()
        turned = wrap(freed[which == b, column] - minimum[column]).abs() >= SIDE - 1e-9
        minima, depths = k[which == b][turned].tolist(), relaxed[which == b][turned].tolist()
        others = [(_pass(profile, m), depth) for m, depth in zip(minima, depths, strict=True)]
        barrier, other = min(others, default=(_peak(profile, range(ANGLES)), None))
        found.append(BondScan(bond, barrier, other))
    return found


def _profiles(function: Function, minimum: Tensor, columns: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Relaxed energies (bonds, ANGLES) above the minimum's and z (bonds, ANGLES, dim), the lower of both ways."""
    n, step = len(columns), 2 * math.pi / ANGLES
    column = torch.tensor([*columns, *columns])
    way = torch.tensor([step] * n + [-step] * n, dtype=torch.float64)
    rows = torch.arange(2 * n)
    z = minimum.repeat(2 * n, 1)
    held = torch.zeros_like(z, dtype=torch.bool)
    held[rows, column] = True
    zero = float(function(minimum[None])[0])
    energies = torch.full((n, ANGLES), torch.inf, dtype=torch.float64)
    structures = minimum.repeat(n, ANGLES, 1)
    energies[:, 0] = 0.0
    for k in range(1, ANGLES):
        z = z.clone()
        z[rows, column] += way
        z, u = relax(function, z, held)
        for part, place in ((slice(n), k), (slice(n, None), -k % ANGLES)):
            lower = u[part] - zero < energies[:, place]
            energies[lower, place] = u[part][lower] - zero
            structures[lower, place] = z[part][lower]
    return energies, structures


def relax(function: Function, z: Tensor, held: Tensor, steps: int = MOST) -> tuple[Tensor, Tensor]:
    """Minimise u from each z (batch, dim), with the entries `held` fixed; returns minima and their u (batch,).

    L-BFGS (Nocedal 1980) of every structure on its own, with one evaluation of all that have not converged a step.
    """
    found, energies = z.clone(), z.new_full((len(z),), torch.inf)
    left = torch.arange(len(z))
    u, g = function(z)
    g = torch.where(held, 0.0, g)
    scale = torch.ones_like(u)
    moves = z.new_zeros(MEMORY, *z.shape)
    changes, weights = torch.zeros_like(moves), z.new_zeros(MEMORY, len(z))
    for k in range(steps):
        move = -_inverse_hessian(g, moves, changes, weights, k)
        uphill = (move * g).sum(1) >= 0
        move = torch.where(uphill[:, None], -g, move)
        move = move * (LONGEST / move.abs().amax(1).clamp(min=LONGEST))[:, None]
        slope = (move * g).sum(1)
        more = (-0.5 * slope > CONVERGED) & (scale > 1e-6) & torch.isfinite(u)
        if not more.all():
            found[left], energies[left] = z, u
            left, z, u, g, held, scale = (t[more] for t in (left, z, u, g, held, scale))
            move, slope = move[more], slope[more]
            moves, changes, weights = moves[:, more], changes[:, more], weights[:, more]
        if not len(left):
            break
        step = scale[:, None] * move
        after, g_after = function(z + step)
        g_after = torch.where(held, 0.0, g_after)
        taken = (after <= u + 1e-4 * scale * slope) & torch.isfinite(g_after).all(1)
        scale = torch.where(taken, 1.0, 0.4 * scale)
        change = torch.where(taken[:, None], g_after - g, 0.0)
        step = torch.where(taken[:, None], step, 0.0)
        curvature = (step * change).sum(1)
        moves[k % MEMORY], changes[k % MEMORY] = step, change
        weights[k % MEMORY] = torch.where(curvature > 1e-12, 1 / curvature.clamp(min=1e-12), 0.0)
        z, u = z + step, torch.where(taken, after, u)
        g = torch.where(taken[:, None], g_after, g)
    found[left], energies[left] = z, u
    return found, energies


def _inverse_hessian(g: Tensor, steps: Tensor, changes: Tensor, weights: Tensor, k: int) -> Tensor:
    """Product of the inverse Hessian and the gradient g (batch, dim), by the last steps before number k (the two-loop
    recursion)."""
    recent = [j % MEMORY for j in range(k - 1, max(k - MEMORY, 0) - 1, -1)]
    kept = {}
    scaled = torch.ones_like(g[:, 0])
    for j in reversed(recent):  # the latest that counts
        square = changes[j].square().sum(1)
        scaled = torch.where(weights[j] > 0, 1 / (weights[j] * square).clamp(min=1e-12), scaled)
    for j in recent:
        kept[j] = weights[j] * (steps[j] * g).sum(1)
        g = g - kept[j][:, None] * changes[j]
    g = scaled[:, None] * g
    for j in reversed(recent):
        g = g + (kept[j] - weights[j] * (changes[j] * g).sum(1))[:, None] * steps[j]
    return g


def _pass(profile: np.ndarray, minimum: int) -> float:
    """The lower of the two ways from place 0 on the circle to a minimum."""
    return min(_peak(profile, range(minimum + 1)), _peak(profile, range(minimum, ANGLES + 1)))


def _peak(profile: np.ndarray, places: Sequence[int]) -> float:
    """The highest of some places on the circle, by a parabola through it and those beside it."""
    at = max(places, key=lambda k: profile[k % ANGLES])
    before, top, after = (float(profile[(at + d) % ANGLES]) for d in (-1, 0, 1))
    bend = before + after - 2 * top
    if not (np.isfinite(bend) and bend < 0 and top >= max(before, after)):
        return top
    return top - (before - after) ** 2 / (8 * bend)
