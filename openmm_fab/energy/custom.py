"""Forces whose energy is an expression, but for those over pairs of atoms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import openmm
import torch
from torch import Tensor, nn

from openmm_fab.energy.expressions import Expression, tabulated
from openmm_fab.energy.forces import Term, UncoveredError, atoms_of, plain, read, refuse_periodic
from openmm_fab.energy.geometry import Frame, Parameters, Value, angle, distance, filled, picked, torsion


class CustomExpression(nn.Module):
    """An expression with its tabulated functions, and others: a mapping of name to (arguments, function)."""

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
            raise UncoveredError(str(error)) from error
        self.tables = nn.ModuleDict({n: cast(nn.Module, tabulated(f)) for n, f in tables.items()})
        self.others = {n: f for n, (_, f) in others.items()}
        self.variables = self.expression.variables

    def forward(self, values: Mapping[str, Value]) -> Tensor:
        return self.expression(values, functions={**self.tables, **self.others})


def _arguments(function: openmm.TabulatedFunction) -> int:
    return int(type(function).__name__.removesuffix("DFunction")[-1])


def functions_of(force: Any) -> dict[str, openmm.TabulatedFunction]:
    return {
        force.getTabulatedFunctionName(n): force.getTabulatedFunction(n)
        for n in range(getattr(force, "getNumTabulatedFunctions", int)())  # bonds, angles, torsions have none
    }


def global_names(force: Any) -> list[str]:
    return [force.getGlobalParameterName(n) for n in range(force.getNumGlobalParameters())]


def per_particle(force: Any, n_atoms: int) -> tuple[list[str], np.ndarray]:
    """Names of the per-particle parameters, and the values (n_atoms,) of each."""
    names = [force.getPerParticleParameterName(n) for n in range(force.getNumPerParticleParameters())]
    values = np.array([plain(*force.getParticleParameters(i)) for i in range(n_atoms)])
    return names, values.reshape(n_atoms, len(names)).T


# --- sums over bonds, angles, torsions, particles, groups of atoms ---


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
            self.field(name, plain(*(row[-1][n] for row in rows)))
        self.read_atoms([row[0] if isinstance(row[0], tuple) else row[:-1] for row in rows], force, system)

    def read_atoms(self, rows: list[tuple[int, ...]], force: Any, system: openmm.System) -> None:
        self.atoms = atoms_of(rows, system.getNumParticles())

    def variables(self, atoms: Sequence[Tensor]) -> dict[str, Tensor]:
        """The expression's variables (rows, batch), from the atoms of a row, each (3, rows, batch)."""
        raise NotImplementedError

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        atoms = picked(frame.x, self.atoms)
        values: dict[str, Value] = {name: parameters[name] for name in self.globals}
        values |= {name: self.value(name) for name in self.names}
        return filled(self.expression(values | self.variables(atoms)), atoms[0][0]).sum(0)


class CustomBonds(_PerRow):
    def variables(self, atoms: Sequence[Tensor]) -> dict[str, Tensor]:
        return {"r": distance(*atoms)}


class CustomAngles(_PerRow):
    row = "Angle"

    def variables(self, atoms: Sequence[Tensor]) -> dict[str, Tensor]:
        return {"theta": angle(*atoms)}


class CustomTorsions(_PerRow):
    row = "Torsion"

    def variables(self, atoms: Sequence[Tensor]) -> dict[str, Tensor]:
        return {"theta": torsion(*atoms)}


class CustomExternal(_PerRow):
    row = "Particle"

    def variables(self, atoms: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip("xyz", atoms[0].unbind(0), strict=True))


def _of_points(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same function of coordinates x1, y1, z1, x2, ... in place of points."""

    def of_coordinates(*c: Tensor) -> Tensor:
        c = torch.broadcast_tensors(*c)
        return function(*(torch.stack(c[k : k + 3]) for k in range(0, len(c), 3)))

    return of_coordinates


class CustomCompoundBonds(_PerRow):
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
    """As between atoms, for weighted centres of groups."""

    letter = "g"
    weights: Tensor

    def read_atoms(self, rows: list[tuple[int, ...]], force: Any, system: openmm.System) -> None:
        weights = np.zeros((force.getNumGroups(), system.getNumParticles()))
        for n, own in enumerate(weights):
            particles, given = force.getGroupParameters(n)
            own[list(particles)] = given or plain(*(system.getParticleMass(i) for i in particles))
            own /= own.sum()
        self.constant("weights", weights)
        self.atoms = atoms_of(rows, len(weights))

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        return super().forward(Frame(self.weights @ frame.x, frame.pairs), parameters)


class CustomCV(Term):
    """An expression in the energies of other forces."""

    def __init__(self, force: openmm.CustomCVForce, system: openmm.System) -> None:
        super().__init__()
        self.globals = global_names(force)
        self.expression = CustomExpression(force.getEnergyFunction(), functions_of(force))
        numbers = range(force.getNumCollectiveVariables())
        self.names = [force.getCollectiveVariableName(n) for n in numbers]
        terms = {
            name: read(force.getCollectiveVariable(n), system) for n, name in zip(numbers, self.names, strict=True)
        }
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term is not None})

    def pairs(self) -> np.ndarray:
        return np.concatenate([super().pairs(), *(cast(Term, term).pairs() for term in self.terms.values())])

    def bind(self, pairs: np.ndarray) -> None:
        for term in self.terms.values():
            cast(Term, term).bind(pairs)

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        values: dict[str, Value] = {name: parameters[name] for name in self.globals}
        for name in self.names:
            values[name] = self.terms[name](frame, parameters) if name in self.terms else 0.0
        return filled(self.expression(values), frame.x[0, 0])
