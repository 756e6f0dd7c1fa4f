"""NonbondedForce without a periodic box: Coulomb and Lennard-Jones interactions of pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import openmm
import torch
from torch import Tensor

from .geometry import Frame, Parameters, all_pairs, find_pairs
from .terms import Constants, Term, UntranslatedForceError, cutoff_of, without_units

# CODATA 2018, as in OpenMM: e^2 N_A / (4 pi epsilon_0), kJ nm / mol / e^2.
COULOMB = 1.602176634e-19**2 * 6.02214076e23 / (4 * math.pi * 8.8541878128e-12) * 1e6


def switch(r: Tensor, start: float, cutoff: float) -> Tensor:
    """Switching function: 1 below `start`, 0 beyond `cutoff`, with two continuous derivatives."""
    t = ((r - start) / (cutoff - start)).clamp(0.0, 1.0)
    return 1.0 + t**3 * (-10.0 + t * (15.0 - 6.0 * t))


def _root(value: Tensor) -> Tensor:
    """Square root with derivative 0 at 0, where an atom without Lennard-Jones interaction would give NaN."""
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), 0.0)


class _Offset(Constants):
    """Charge, sigma, epsilon of particles or exceptions: a base value plus each global parameter times its scale."""

    scale: Tensor

    def __init__(self, base: np.ndarray, offsets: Sequence[Any]) -> None:
        super().__init__()
        self.names = list(dict.fromkeys(offset[0] for offset in offsets))
        scale = np.zeros((len(self.names), *base.shape))
        for name, row, *change in offsets:
            scale[self.names.index(name), row] += change
        for name, values in zip(("charge", "sigma", "epsilon"), base.T, strict=True):
            self.field(name, values)
        self.constant("scale", np.moveaxis(scale, 2, 1)[..., None])

    def forward(self, parameters: Parameters) -> Sequence[Tensor]:
        """Charge, sigma, epsilon, each (rows, batch) or (rows, 1)."""
        value = torch.stack([self.value(name) for name in self.fields])
        for name, scale in zip(self.names, self.scale, strict=True):
            value = value + parameters[name] * scale
        return value.unbind(0)


class Nonbonded(Term):
    """NonbondedForce: all pairs, exceptions with their own parameters, offsets that depend on global parameters.

    Charges, sigma, epsilon of a pair: q_i q_j, (sigma_i + sigma_j) / 2, sqrt(epsilon_i epsilon_j).
    """

    i: Tensor
    j: Tensor
    own: Tensor
    regular: Tensor
    alive: Tensor

    def __init__(self, force: openmm.NonbondedForce, system: openmm.System) -> None:
        super().__init__()
        n_atoms = system.getNumParticles()
        self.cutoff = cutoff_of(force)
        if not force.getIncludeDirectSpace():
            raise UntranslatedForceError("includeDirectSpace=False")
        particles = np.array([without_units(*force.getParticleParameters(i)) for i in range(n_atoms)])
        exceptions = [force.getExceptionParameters(n) for n in range(force.getNumExceptions())]
        found = np.array([without_units(*e[2:]) for e in exceptions]).reshape(-1, 3)
        offsets = [force.getExceptionParameterOffset(n) for n in range(force.getNumExceptionParameterOffsets())]
        changing = {offset[1] for offset in offsets}

        every = all_pairs(n_atoms)
        own = find_pairs(np.array([e[:2] for e in exceptions], dtype=np.int64).reshape(-1, 2), every)
        is_exception = np.zeros(len(every), dtype=bool)
        is_exception[own] = True
        alive = [n for n in range(len(exceptions)) if n in changing or found[n, 0] != 0.0 or found[n, 2] != 0.0]
        needed = ~is_exception
        needed[own[alive]] = True
        self._needed, self._is_exception = every[needed], is_exception[needed]
        self._exception_pairs = every[own[alive]]

        self.particles = _Offset(
            particles,
            [force.getParticleParameterOffset(n) for n in range(force.getNumParticleParameterOffsets())],
        )
        self.exceptions = _Offset(found, offsets)
        self.register_buffer("alive", torch.tensor(alive, dtype=torch.int64))
        self.switch_from: float | None = None
        if self.cutoff is not None:
            if force.getUseSwitchingFunction():
                self.switch_from = without_units(force.getSwitchingDistance())[0]
            dielectric = without_units(force.getReactionFieldDielectric())[0]
            self.k_rf = (dielectric - 1.0) / (2.0 * dielectric + 1.0) / self.cutoff**3
            self.c_rf = 3.0 * dielectric / (2.0 * dielectric + 1.0) / self.cutoff

    def pairs(self) -> np.ndarray:
        return self._needed

    def prepare_pairs(self, pairs: np.ndarray) -> None:
        """Register the atoms of each pair of the frame, which pairs are regular, and the rows of exceptions."""
        present = np.zeros(len(pairs), dtype=bool)
        rows = find_pairs(self._needed, pairs)
        present[rows] = True
        regular = np.zeros(len(pairs), dtype=bool)
        regular[rows[~self._is_exception]] = True
        self.register_buffer("i", torch.from_numpy(pairs[:, 0].copy()))
        self.register_buffer("j", torch.from_numpy(pairs[:, 1].copy()))
        self.register_buffer("own", torch.from_numpy(find_pairs(self._exception_pairs, pairs)))
        self.column("regular", regular)

    def combine_parameters(self) -> dict[str, Tensor]:
        return {} if self.particles.names or self.exceptions.names else self._pair_parameters({})

    def _pair_parameters(self, parameters: Parameters) -> dict[str, Tensor]:
        """Charge product, sigma^2 and epsilon of the frame's pairs: (pairs, batch), or (pairs, 1) where constant."""
        q, sigma, epsilon = self.particles(parameters)
        values = [
            self.regular * q[self.i] * q[self.j],
            0.5 * (sigma[self.i] + sigma[self.j]),
            self.regular * _root(epsilon[self.i] * epsilon[self.j]),
        ]
        special = [value[self.alive] for value in self.exceptions(parameters)]
        if len(self.own):
            width = max(v.shape[1] for v in (*values, *special))
            values = [
                v.expand(-1, width).index_copy(0, self.own, s.expand(-1, width).contiguous())
                for v, s in zip(values, special, strict=True)
            ]
        return {"charge": COULOMB * values[0], "sigma2": values[1].square(), "epsilon": 4.0 * values[2]}

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        values = self.combined() or self._pair_parameters(parameters)
        charge, sigma2, epsilon = values["charge"], values["sigma2"], values["epsilon"]
        inverse2 = 1.0 / frame.r2
        inverse = inverse2 * frame.r
        s2 = sigma2 * inverse2
        s6 = s2 * s2 * s2
        lennard_jones = epsilon * (s6 * s6 - s6)
        coulomb = charge * inverse
        if self.cutoff is not None:
            # Exceptions know no cutoff.
            inside = frame.r < self.cutoff
            regular = self.regular > 0.0
            if self.switch_from is not None:
                lennard_jones = torch.where(
                    regular, lennard_jones * switch(frame.r, self.switch_from, self.cutoff), lennard_jones
                )
            coulomb = coulomb + self.regular * charge * (self.k_rf * frame.r2 - self.c_rf)
            return torch.where(inside | ~regular, coulomb + lennard_jones, 0.0).sum(0)
        return (coulomb + lennard_jones).sum(0)
