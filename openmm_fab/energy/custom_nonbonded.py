"""CustomNonbondedForce: an expression summed over pairs of atoms."""

from __future__ import annotations

import numpy as np
import openmm
import torch
from torch import Tensor

from openmm_fab.energy.custom import CustomExpression, functions_of, global_names, per_particle
from openmm_fab.energy.forces import Term, cutoff_of, plain
from openmm_fab.energy.geometry import Frame, Gather, Parameters, Value, filled
from openmm_fab.energy.nonbonded import all_pairs, find_pairs, switch


class CustomNonbonded(Term):
    """All pairs but the excluded ones, or those of interaction groups."""

    def __init__(self, force: openmm.CustomNonbondedForce, system: openmm.System) -> None:
        super().__init__()
        n_atoms = system.getNumParticles()
        self.cutoff = cutoff_of(force)
        self.switch_from: float | None = None
        if force.getUseSwitchingFunction() and self.cutoff is not None:
            self.switch_from = plain(force.getSwitchingDistance())[0]
        functions = functions_of(force)
        self.globals = global_names(force)
        self.expression = CustomExpression(force.getEnergyFunction(), functions)
        self.ordered = _interactions(force, n_atoms)
        for name, value in zip(*per_particle(force, n_atoms), strict=True):
            self.field(name, value)
        computed = [force.getComputedValueParameters(n) for n in range(force.getNumComputedValues())]
        self.computed = [name for name, _ in computed]
        self.computed_by = torch.nn.ModuleList(CustomExpression(text, functions) for _, text in computed)
        self.ends = Gather(self.ordered.T, n_atoms)

    def pairs(self) -> np.ndarray:
        return np.sort(self.ordered, axis=1)

    def bind(self, pairs: np.ndarray) -> None:
        rows = find_pairs(self.ordered, pairs)
        self.distances = None if np.array_equal(rows, np.arange(len(pairs))) else Gather(rows, len(pairs))

    def fold(self) -> dict[str, Tensor]:
        """Every field of the first and of the second atom of a pair."""
        found = {}
        for name in self.fields:
            found[f"{name}1"], found[f"{name}2"] = self.ends(self.value(name)).unbind(0)
        return found

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        r = frame.r if self.distances is None else self.distances(frame.r)
        shared: dict[str, Value] = {name: parameters[name] for name in self.globals}
        values: dict[str, Value] = {**shared, **self.folded(), "r": r}
        single = {**shared, **{name: self.value(name) for name in self.fields}}
        for name, expression in zip(self.computed, self.computed_by, strict=True):
            value = filled(expression(single), frame.x[0])
            values[f"{name}1"], values[f"{name}2"] = self.ends(value).unbind(0)
        energy = filled(self.expression(values), r)
        if self.cutoff is not None:
            if self.switch_from is not None:
                energy = energy * switch(r, self.switch_from, self.cutoff)
            energy = torch.where(r < self.cutoff, energy, 0.0)
        return energy.sum(0)


def _interactions(force: openmm.CustomNonbondedForce, n_atoms: int) -> np.ndarray:
    """(m, 2) int: the pairs that interact, in the expression's order; as often as there are groups that say so."""
    excluded = {tuple(sorted(force.getExclusionParticles(n))) for n in range(force.getNumExclusions())}
    if force.getNumInteractionGroups() == 0:
        found = [(i, j) for i, j in all_pairs(n_atoms).tolist() if (i, j) not in excluded]
    else:
        found = []
        for n in range(force.getNumInteractionGroups()):
            first, second = (set(group) for group in force.getInteractionGroupParameters(n))
            for i in sorted(first):
                for j in sorted(second):
                    twice = i > j and i in second and j in first  # met the other way round, too
                    if i != j and not twice and (min(i, j), max(i, j)) not in excluded:
                        found.append((i, j))
    return np.array(found, dtype=np.int64).reshape(-1, 2)
