"""Custom forces whose energy is a sum of an expression over bonds, particles, groups or pairs of atoms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import openmm
import torch
from torch import Tensor, nn

from .expressions import Expression
from .geometry import (
    Frame,
    Gather,
    Parameters,
    Value,
    all_pairs,
    angle,
    distance,
    expand_like,
    find_pairs,
    gather_atoms,
    torsion,
)
from .nonbonded import switch
from .tables import tabulated
from .terms import Term, UntranslatedForceError, atoms_of, cutoff_of, refuse_periodic, without_units


class CustomExpression(nn.Module):
    """An expression together with the functions that it calls.

    Parameters
    ----------
    text : str
        In OpenMM's language.
    tables : mapping of str to openmm.TabulatedFunction
    others : mapping of str to (int, callable), optional
        Further functions: how many arguments each takes, and the function.

    Raises
    ------
    UntranslatedForceError
        The text cannot be parsed, e.g. it calls an unknown function.
    """

    def __init__(
        self,
        text: str,
        tables: Mapping[str, openmm.TabulatedFunction],
        others: Mapping[str, tuple[int, Callable[..., Tensor]]] | None = None,
    ) -> None:
        super().__init__()
        others = others or {}
        arguments = {n: _arguments(f) for n, f in tables.items()} | {n: k for n, (k, _) in others.items()}
        try:
            self.expression = Expression.parse(text, functions=arguments)
        except ValueError as error:
            raise UntranslatedForceError(str(error)) from error
        self.tables = nn.ModuleDict({n: cast(nn.Module, tabulated(f)) for n, f in tables.items()})
        self.others = {n: f for n, (_, f) in others.items()}
        self.variables = self.expression.variables

    def forward(self, values: Mapping[str, Value]) -> Tensor:
        return self.expression(values, functions={**self.tables, **self.others})


def _arguments(function: openmm.TabulatedFunction) -> int:
    """Number of arguments of the function, 1, 2 or 3, from the name of its class."""
    return int(type(function).__name__.removesuffix("DFunction")[-1])


def functions_of(force: Any) -> dict[str, openmm.TabulatedFunction]:
    """The tabulated functions of a custom force by name; empty for the classes that cannot have any."""
    if not hasattr(force, "getNumTabulatedFunctions"):  # bonds, angles, torsions
        return {}
    numbers = range(force.getNumTabulatedFunctions())
    return {force.getTabulatedFunctionName(n): force.getTabulatedFunction(n) for n in numbers}


def global_names(force: Any) -> list[str]:
    """Names of the global parameters of a custom force."""
    return [force.getGlobalParameterName(n) for n in range(force.getNumGlobalParameters())]


def per_particle(force: Any, n_atoms: int) -> tuple[list[str], np.ndarray]:
    """Names of a force's per-particle parameters, and the values (n_atoms,) of each."""
    names = [force.getPerParticleParameterName(n) for n in range(force.getNumPerParticleParameters())]
    values = np.array([without_units(*force.getParticleParameters(i)) for i in range(n_atoms)])
    return names, values.reshape(n_atoms, len(names)).T


# --- sums over bonds, angles, torsions, particles or groups of atoms ---


class _PerRow(Term):
    """The sum of an expression over rows, each with its atoms and parameters.

    Subclasses name the rows ("Bond" for getNumBonds, getBondParameters, getPerBondParameterName) and compute the
    variables of the expression.
    """

    row = "Bond"
    functions: Mapping[str, tuple[int, Callable[..., Tensor]]] = {}

    def __init__(self, force: Any, system: openmm.System) -> None:
        super().__init__()
        refuse_periodic(force)
        rows = [getattr(force, f"get{self.row}Parameters")(n) for n in range(getattr(force, f"getNum{self.row}s")())]
        self.names = [
            getattr(force, f"getPer{self.row}ParameterName")(n)
            for n in range(getattr(force, f"getNumPer{self.row}Parameters")())
        ]
        self.globals = global_names(force)
        self.expression = CustomExpression(force.getEnergyFunction(), functions_of(force), self.functions)
        for n, name in enumerate(self.names):
            self.field(name, without_units(*(row[-1][n] for row in rows)))
        self.read_atoms([row[0] if isinstance(row[0], tuple) else row[:-1] for row in rows], force, system)

    def read_atoms(self, rows: list[tuple[int, ...]], force: Any, system: openmm.System) -> None:
        """Set `atoms`, the index of the atoms (or groups) of each row."""
        self.atoms = atoms_of(rows, system.getNumParticles())

    def variables(self, atoms: Sequence[Tensor]) -> dict[str, Tensor]:
        """The expression's variables (rows, batch), from the atoms of a row, each (3, rows, batch)."""
        raise NotImplementedError

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        atoms = gather_atoms(frame.x, self.atoms)
        values: dict[str, Value] = {name: parameters[name] for name in self.globals}
        values |= {name: self.value(name) for name in self.names}
        return expand_like(self.expression(values | self.variables(atoms)), atoms[0][0]).sum(0)


class CustomBonds(_PerRow):
    """Expression in the length r of every bond."""

    def variables(self, atoms: Sequence[Tensor]) -> dict[str, Tensor]:
        return {"r": distance(*atoms)}


class CustomAngles(_PerRow):
    """Expression in every angle theta."""

    row = "Angle"

    def variables(self, atoms: Sequence[Tensor]) -> dict[str, Tensor]:
        return {"theta": angle(*atoms)}


class CustomTorsions(_PerRow):
    """Expression in every torsion theta."""

    row = "Torsion"

    def variables(self, atoms: Sequence[Tensor]) -> dict[str, Tensor]:
        return {"theta": torsion(*atoms)}


class CustomExternal(_PerRow):
    """Expression in the position x, y, z of every particle."""

    row = "Particle"

    def variables(self, atoms: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip("xyz", atoms[0].unbind(0), strict=True))


def _of_points(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Turn a function of points (3, ...) into one of their coordinates x1, y1, z1, x2, ..."""

    def of_coordinates(*c: Tensor) -> Tensor:
        c = torch.broadcast_tensors(*c)
        return function(*(torch.stack(c[k : k + 3]) for k in range(0, len(c), 3)))

    return of_coordinates


class CustomCompoundBonds(_PerRow):
    """Expression in positions, distances, angles and dihedrals of the atoms p1, p2, ... of every bond."""

    letter = "p"
    functions = {  # noqa: RUF012
        "distance": (2, distance),
        "angle": (3, angle),
        "dihedral": (4, torsion),
        "pointdistance": (6, _of_points(distance)),
        "pointangle": (9, _of_points(angle)),
        "pointdihedral": (12, _of_points(torsion)),
    }

    def variables(self, atoms: Sequence[Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for n, atom in enumerate(atoms, start=1):
            x, y, z = atom.unbind(0)
            found |= {f"x{n}": x, f"y{n}": y, f"z{n}": z, f"{self.letter}{n}": atom}
        return found


class CustomCentroidBonds(CustomCompoundBonds):
    """Expression in positions, distances, ... of the weighted centres g1, g2, ... of groups of atoms."""

    letter = "g"
    weights: Tensor

    def read_atoms(self, rows: list[tuple[int, ...]], force: Any, system: openmm.System) -> None:
        weights = np.zeros((force.getNumGroups(), system.getNumParticles()))
        for n, own in enumerate(weights):
            particles, given = force.getGroupParameters(n)
            own[list(particles)] = given or without_units(*(system.getParticleMass(i) for i in particles))
            own /= own.sum()
        self.constant("weights", weights)
        self.atoms = atoms_of(rows, len(weights))

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        return super().forward(Frame(self.weights @ frame.x, frame.pairs), parameters)


# --- sums over pairs of atoms ---


class CustomNonbonded(Term):
    """Expression over all pairs of atoms but the excluded ones, or over those of interaction groups."""

    def __init__(self, force: openmm.CustomNonbondedForce, system: openmm.System) -> None:
        super().__init__()
        n_atoms = system.getNumParticles()
        self.cutoff = cutoff_of(force)
        self.switch_from: float | None = None
        if force.getUseSwitchingFunction() and self.cutoff is not None:
            self.switch_from = without_units(force.getSwitchingDistance())[0]
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

    def prepare_pairs(self, pairs: np.ndarray) -> None:
        rows = find_pairs(self.ordered, pairs)
        self.distances = None if np.array_equal(rows, np.arange(len(pairs))) else Gather(rows, len(pairs))

    def combine_parameters(self) -> dict[str, Tensor]:
        """Per-atom parameters, gathered for the first (`name`1) and the second atom (`name`2) of each pair."""
        found = {}
        for name in self.fields:
            found[f"{name}1"], found[f"{name}2"] = self.ends(self.value(name)).unbind(0)
        return found

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        r = frame.r if self.distances is None else self.distances(frame.r)
        shared: dict[str, Value] = {name: parameters[name] for name in self.globals}
        values: dict[str, Value] = {**shared, **self.combined(), "r": r}
        single = {**shared, **{name: self.value(name) for name in self.fields}}
        for name, expression in zip(self.computed, self.computed_by, strict=True):
            value = expand_like(expression(single), frame.x[0])
            values[f"{name}1"], values[f"{name}2"] = self.ends(value).unbind(0)
        energy = expand_like(self.expression(values), r)
        if self.cutoff is not None:
            if self.switch_from is not None:
                energy = energy * switch(r, self.switch_from, self.cutoff)
            energy = torch.where(r < self.cutoff, energy, 0.0)
        return energy.sum(0)


def _interactions(force: openmm.CustomNonbondedForce, n_atoms: int) -> np.ndarray:
    """The interacting pairs (m, 2) int, the expression's atom 1 first; as often as there are groups that hold them."""
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
