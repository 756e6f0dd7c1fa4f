"""Translation of a System: the table of translated force classes, and forces that contain other forces."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import openmm
from torch import Tensor, nn

from .bonded import CMAPTorsions, HarmonicAngles, HarmonicBonds, PeriodicTorsions, RBTorsions
from .custom import (
    CustomAngles,
    CustomBonds,
    CustomCentroidBonds,
    CustomCompoundBonds,
    CustomExpression,
    CustomExternal,
    CustomNonbonded,
    CustomTorsions,
    functions_of,
    global_names,
)
from .geometry import Frame, Parameters, Value, expand_like
from .implicit import GBSAOBC, CustomGB
from .nonbonded import Nonbonded
from .shape import RMSD, OrientationRestraint, RadiusOfGyration
from .surface import LCPO
from .terms import Term, UntranslatedForceError


def translate(system: openmm.System) -> tuple[list[tuple[str, Term]], list[str]]:
    """Translated forces that add energy, by class name, and descriptions of what could not be translated."""
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


def global_parameters(system: openmm.System) -> dict[str, float]:
    """Default values of all global parameters of a System's forces, and of the forces within them.

    Where a CustomCVForce and a force within have one of the same name, its own default counts, as in OpenMM.
    """
    found: dict[str, float] = {}
    forces = list(system.getForces())
    for force in forces:  # grows while it is walked
        if hasattr(force, "getNumGlobalParameters"):
            for n in range(force.getNumGlobalParameters()):
                found.setdefault(force.getGlobalParameterName(n), force.getGlobalParameterDefaultValue(n))
        if isinstance(force, openmm.CustomCVForce):
            forces += [force.getCollectiveVariable(n) for n in range(force.getNumCollectiveVariables())]
    return found


def read(force: openmm.Force, system: openmm.System) -> Term | None:
    """Translate a force to a term; None if it adds no energy.

    Raises
    ------
    UntranslatedForceError
        No translation of this force, or of one of its options.
    """
    name = type(force).__name__
    if name in ("AndersenThermostat", "CMMotionRemover"):
        return None
    if name not in TRANSLATIONS:
        raise UntranslatedForceError("no translation of this force")
    term, count = TRANSLATIONS[name]
    return term(force, system) if count(force) else None


class CustomCV(Term):
    """CustomCVForce: an expression in the energies of other forces."""

    def __init__(self, force: openmm.CustomCVForce, system: openmm.System) -> None:
        super().__init__()
        self.globals = global_names(force)
        self.expression = CustomExpression(force.getEnergyFunction(), functions_of(force))
        numbers = range(force.getNumCollectiveVariables())
        self.names = [force.getCollectiveVariableName(n) for n in numbers]
        terms = {name: _variable(force, n, system) for n, name in zip(numbers, self.names, strict=True)}
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term is not None})

    def pairs(self) -> np.ndarray:
        return np.concatenate([super().pairs(), *(cast(Term, term).pairs() for term in self.terms.values())])

    def prepare_pairs(self, pairs: np.ndarray) -> None:
        for term in self.terms.values():
            cast(Term, term).prepare_pairs(pairs)

    def forward(self, frame: Frame, parameters: Parameters) -> Tensor:
        values: dict[str, Value] = {name: parameters[name] for name in self.globals}
        for name in self.names:
            values[name] = self.terms[name](frame, parameters) if name in self.terms else 0.0
        return expand_like(self.expression(values), frame.x[0, 0])


def _variable(force: openmm.CustomCVForce, n: int, system: openmm.System) -> Term | None:
    """A collective variable as a term; the reason why there is none names the variable and its force."""
    inner = force.getCollectiveVariable(n)
    try:
        return read(inner, system)
    except UntranslatedForceError as error:
        name = force.getCollectiveVariableName(n)
        raise UntranslatedForceError(f"variable {name!r}, {_class_of(inner)}: {error}") from error


def _class_of(force: openmm.Force) -> str:
    """Name of a force's class; of a plugin's, which OpenMM hands out as a mere Force, by what it is written as."""
    name = type(force).__name__
    written = (
        re.search(r'<Force\b[^>]*\btype="(\w+)"', openmm.XmlSerializer.serialize(force)) if name == "Force" else None
    )
    return f"{written[1]} of a plugin" if written else name


# By the class of the force: its translation, made from (force, system), and the number of its rows; without rows it
# adds no energy.
TRANSLATIONS: dict[str, tuple[Callable[[Any, openmm.System], Term], Callable[[Any], int]]] = {
    "HarmonicBondForce": (HarmonicBonds, lambda f: f.getNumBonds()),
    "HarmonicAngleForce": (HarmonicAngles, lambda f: f.getNumAngles()),
    "PeriodicTorsionForce": (PeriodicTorsions, lambda f: f.getNumTorsions()),
    "RBTorsionForce": (RBTorsions, lambda f: f.getNumTorsions()),
    "CMAPTorsionForce": (CMAPTorsions, lambda f: f.getNumTorsions()),
    "NonbondedForce": (Nonbonded, lambda f: f.getNumParticles()),
    "GBSAOBCForce": (GBSAOBC, lambda f: f.getNumParticles()),
    "CustomGBForce": (CustomGB, lambda f: f.getNumParticles()),
    "CustomBondForce": (CustomBonds, lambda f: f.getNumBonds()),
    "CustomAngleForce": (CustomAngles, lambda f: f.getNumAngles()),
    "CustomTorsionForce": (CustomTorsions, lambda f: f.getNumTorsions()),
    "CustomExternalForce": (CustomExternal, lambda f: f.getNumParticles()),
    "CustomCompoundBondForce": (CustomCompoundBonds, lambda f: f.getNumBonds()),
    "CustomCentroidBondForce": (CustomCentroidBonds, lambda f: f.getNumBonds()),
    "CustomNonbondedForce": (CustomNonbonded, lambda f: f.getNumParticles()),
    "CustomCVForce": (CustomCV, lambda f: 1),
    "LCPOForce": (LCPO, lambda f: f.getNumParticles()),
    "OrientationRestraintForce": (OrientationRestraint, lambda f: 1),
    "RGForce": (RadiusOfGyration, lambda f: 1),
    "RMSDForce": (RMSD, lambda f: 1),
}
