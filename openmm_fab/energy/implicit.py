"""Implicit solvent: the generalised Born models of GBSAOBCForce and CustomGBForce."""

from __future__ import annotations

import numpy as np
import openmm
import torch
from torch import Tensor, nn

from .custom import CustomExpression, functions_of, global_names, per_particle
from .geometry import Frame, Gather, Parameters, Value, all_pairs, expand_like, find_pairs
from .nonbonded import COULOMB
from .terms import Term, cutoff_of, without_units


class Neighbours(nn.Module):
    """Module that arranges values of pairs in a table (n_atoms - 1, n_atoms): column i holds the pairs of atom i.

    Attributes
    ----------
    other : (n_atoms - 1, n_atoms) int
        The other atom of each entry.
    """

    other: Tensor

    def __init__(self, n_atoms: int) -> None:
        super().__init__()
        atom, k = np.arange(n_atoms), np.arange(n_atoms - 1)[:, None]
        other = k + (k >= atom)
        pairs = all_pairs(n_atoms)
        rows = find_pairs(np.stack(np.broadcast_arrays(atom, other), axis=-1).reshape(-1, 2), pairs)
        self.register_buffer("other", torch.from_numpy(other))
        self.gather = Gather(rows.reshape(other.shape), len(pairs))

    def forward(self, values: Tensor) -> Tensor:
        """Arrange values of all pairs (pairs, batch) as (n_atoms - 1, n_atoms, batch)."""
        return self.gather(values)


class GBSAOBC(Term):
    """Generalised Born with OBC2 radii (Onufriev, Bashford, Case 2004) and a surface term, as OpenMM computes it."""

    OFFSET, PROBE = 0.009, 0.14  # nm
    ALPHA, BETA, GAMMA = 1.0, 0.8, 4.85

    def __init__(self, force: openmm.GBSAOBCForce, system: openmm.System) -> None:
        super().__init__()
        n_atoms = system.getNumParticles()
        self.cutoff = cutoff_of(force)
        rows = np.array([without_units(*force.getParticleParameters(i)) for i in range(n_atoms)])
        solvent, solute = without_units(force.getSolventDielectric())[0], without_units(force.getSoluteDielectric())[0]
        self.surface = 4.0 * np.pi * without_units(force.getSurfaceAreaEnergy())[0]
        self.factor = -COULOMB * (1.0 / solute - 1.0 / solvent)
        for name, values in zip(("charge", "radius", "scale"), rows.T, strict=True):
            self.field(name, values)
        self._n_atoms = n_atoms
        self.ends = Gather(all_pairs(n_atoms).T, n_atoms)
        self.neighbours = Neighbours(n_atoms)

    def pairs(self) -> np.ndarray:
        return all_pairs(self._n_atoms)

    def combine_parameters(self) -> dict[str, Tensor]:
        offset_radius = self.value("radius") - self.OFFSET
        first, second = self.ends(self.value("charge")).unbind(0)
        scaled = (self.value("scale") * offset_radius)[self.neighbours.other]
        return {"offset_radius": offset_radius, "scaled": scaled, "pair_charge": first * second}

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        r = self.neighbours(frame.r)
        constants, charge, radius = self.combined(), self.value("charge"), self.value("radius")
        own, scaled = constants["offset_radius"], constants["scaled"]
        low = torch.maximum(own, (r - scaled).abs())
        high = r + scaled
        inverse_low, inverse_high = 1.0 / low, 1.0 / high
        difference = inverse_high * inverse_high - inverse_low * inverse_low
        value = inverse_low - inverse_high + 0.25 * (r - scaled * scaled / r) * difference
        value = value + 0.5 * torch.log(low * inverse_high) / r
        # An atom inside the other's sphere.
        value = value + torch.where(own < scaled - r, 2.0 * (1.0 / own - inverse_low), 0.0)
        counts = own < high if self.cutoff is None else (own < high) & (r < self.cutoff)
        psi = 0.5 * own * torch.where(counts, value, 0.0).sum(0)
        polynomial = psi * (self.ALPHA + psi * (-self.BETA + psi * self.GAMMA))
        born = 1.0 / (1.0 / own - torch.tanh(polynomial) / radius)
        b1, b2 = self.ends(born).unbind(0)
        product = b1 * b2
        f = (frame.r2 + product * torch.exp(-0.25 * frame.r2 / product)).sqrt()
        inverse = 1.0 / f
        if self.cutoff is not None:
            inverse = torch.where(frame.r < self.cutoff, inverse - 1.0 / self.cutoff, 0.0)
        energy = (self.factor * constants["pair_charge"] * inverse).sum(0)
        single = 0.5 * self.factor * charge * charge / born
        single = single + self.surface * (radius + self.PROBE) ** 2 * (radius / born) ** 6
        return energy + single.sum(0)


class CustomGB(Term):
    """CustomGBForce: computed values, then energy terms, each an expression over particles or pairs."""

    present: Tensor
    pair_present: Tensor

    def __init__(self, force: openmm.CustomGBForce, system: openmm.System) -> None:
        super().__init__()
        n_atoms = system.getNumParticles()
        self.cutoff = cutoff_of(force)
        functions = functions_of(force)
        self.n_atoms = n_atoms
        self.globals = global_names(force)
        self.values_of = [force.getComputedValueParameters(n) for n in range(force.getNumComputedValues())]
        self.terms_of = [force.getEnergyTermParameters(n) for n in range(force.getNumEnergyTerms())]
        self.values = [CustomExpression(text, functions) for _, text, _ in self.values_of]
        self.terms = [CustomExpression(text, functions) for text, _ in self.terms_of]

        pairs = all_pairs(n_atoms)
        self.neighbours = Neighbours(n_atoms)
        self.ends = Gather(pairs.T, n_atoms)
        for name, value in zip(*per_particle(force, n_atoms), strict=True):
            self.field(name, value)
        pair_present = np.ones(len(pairs), dtype=bool)
        excluded = [force.getExclusionParticles(n) for n in range(force.getNumExclusions())]
        pair_present[find_pairs(np.array(excluded, dtype=np.int64).reshape(-1, 2), pairs)] = False
        self.has_exclusions = bool(excluded)
        self.register_buffer("pair_present", torch.from_numpy(pair_present)[:, None])
        table = self.neighbours.gather.index.view(self.neighbours.gather.shape)
        self.register_buffer("present", torch.from_numpy(pair_present)[table][:, :, None])

    def pairs(self) -> np.ndarray:
        return all_pairs(self.n_atoms)

    def combine_parameters(self) -> dict[str, Tensor]:
        """Per-atom parameters, gathered three ways: `other NAME` for the other atoms of each atom, NAME1 and NAME2 for
        the first and second atom of each pair."""
        found = {}
        for name in self.fields:
            found[f"other {name}"] = self.value(name)[self.neighbours.other]
            found[f"{name}1"], found[f"{name}2"] = self.ends(self.value(name)).unbind(0)
        return found

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        batch, combined = frame.x.shape[-1], self.combined()
        shared: dict[str, Value] = {name: parameters[name] for name in self.globals}
        x, y, z = frame.x.unbind(0)
        single: dict[str, Value] = {**shared, "x": x, "y": y, "z": z}
        single |= {name: self.value(name) for name in self.fields}
        pair: dict[str, Value] = {**shared, **combined, "r": frame.r}

        for (name, _, kind), expression in zip(self.values_of, self.values, strict=True):
            if kind == openmm.CustomGBForce.SingleParticle:
                value = expand_like(expression(single), x)
            else:
                values = {**shared, "r": self.neighbours(frame.r)}
                for own in self.fields:
                    values |= {f"{own}1": self.value(own), f"{own}2": combined[f"other {own}"]}
                value = expand_like(expression(values), values["r"])
                value = self._present(value, values["r"], kind, self.present).sum(0)
            single[name] = value
            if any(f"{name}{k}" in term.variables for term in self.terms for k in (1, 2)):
                pair[f"{name}1"], pair[f"{name}2"] = self.ends(value).unbind(0)

        energy = frame.x.new_zeros(batch)
        for (_, kind), expression in zip(self.terms_of, self.terms, strict=True):
            if kind == openmm.CustomGBForce.SingleParticle:
                energy = energy + expand_like(expression(single), x).sum(0)
                continue
            value = expand_like(expression(pair), frame.r)
            value = self._present(value, frame.r, kind, self.pair_present)
            energy = energy + value.sum(0)
        return energy

    def _present(self, value: Tensor, r: Tensor, kind: int, present: Tensor) -> Tensor:
        """Values of pairs, 0 beyond the cutoff and, where this kind of expression obeys exclusions, if excluded."""
        if self.cutoff is not None:
            value = torch.where(r < self.cutoff, value, 0.0)
        if kind == openmm.CustomGBForce.ParticlePair and self.has_exclusions:
            value = torch.where(present, value, 0.0)
        return value
