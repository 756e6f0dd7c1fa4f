"""From a System to its translation: the table of readers, one an OpenMM force class, and what nests other forces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import openmm
from torch import Tensor, nn

from . import custom, implicit, nonbonded
from .bonded import CMAPTorsions, HarmonicAngles, HarmonicBonds, PeriodicTorsions, RBTorsions
from .custom import CustomExpression, functions_of, global_names
from .geometry import Frame, Parameters, Value, filled
from .terms import Term, UntranslatedForceError


def read(force: openmm.Force, system: openmm.System) -> Term | None:
    """The force as a term; None where it adds no energy.

    Raises
    ------
    UntranslatedForceError
        No translation of this force, or of one of its options.
    """
    readers: dict[str, tuple[type[Term], Callable[[Any], int]]] = {
        "HarmonicBondForce": (HarmonicBonds, lambda f: f.getNumBonds()),
        "HarmonicAngleForce": (HarmonicAngles, lambda f: f.getNumAngles()),
        "PeriodicTorsionForce": (PeriodicTorsions, lambda f: f.getNumTorsions()),
        "RBTorsionForce": (RBTorsions, lambda f: f.getNumTorsions()),
        "CMAPTorsionForce": (CMAPTorsions, lambda f: f.getNumTorsions()),
        "NonbondedForce": (nonbonded.Nonbonded, lambda f: f.getNumParticles()),
        "GBSAOBCForce": (implicit.GBSAOBC, lambda f: f.getNumParticles()),
        "CustomGBForce": (implicit.CustomGB, lambda f: f.getNumParticles()),
        "CustomBondForce": (custom.CustomBonds, lambda f: f.getNumBonds()),
        "CustomAngleForce": (custom.CustomAngles, lambda f: f.getNumAngles()),
        "CustomTorsionForce": (custom.CustomTorsions, lambda f: f.getNumTorsions()),
        "CustomExternalForce": (custom.CustomExternal, lambda f: f.getNumParticles()),
        "CustomCompoundBondForce": (custom.CustomCompoundBonds, lambda f: f.getNumBonds()),
        "CustomCentroidBondForce": (custom.CustomCentroidBonds, lambda f: f.getNumBonds()),
        "CustomNonbondedForce": (custom.CustomNonbonded, lambda f: f.getNumParticles()),
        "CustomCVForce": (CustomCV, lambda f: 1),
    }
    name = type(force).__name__
    if name in ("AndersenThermostat", "CMMotionRemover"):
        return None
    if name not in readers:
        raise UntranslatedForceError("no translation of this force")
    term, count = readers[name]
    return term(force, system) if count(force) else None


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


def global_parameters(system: openmm.System) -> dict[str, float]:
    """Default values of all global parameters of a System's forces."""
    found: dict[str, float] = {}
    forces = list(system.getForces())
    for force in forces:  # grows while it is walked
        for n in range(getattr(force, "getNumGlobalParameters", int)()):
            found[force.getGlobalParameterName(n)] = force.getGlobalParameterDefaultValue(n)
        forces += [force.getCollectiveVariable(n) for n in range(getattr(force, "getNumCollectiveVariables", int)())]
    return found


def translate(system: openmm.System) -> tuple[list[tuple[str, Term]], list[str]]:
    """The forces that add energy, by the name of their class, and what could not be translated."""
    terms, problems = [], []
    virtual = sum(system.isVirtualSite(i) for i in range(system.getNumParticles()))
    if virtual:
        problems.append(f"{virtual} virtual sites: their forces are not handed on to other particles")
    for force in system.getForces():
        try:
            term = read(force, system)
        except UntranslatedForceError as error:
            problems.append(f"{type(force).__name__}: {error}")
        else:
            terms += [] if term is None else [(type(force).__name__, term)]
    return terms, problems
