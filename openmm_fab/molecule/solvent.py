"""Implicit solvent: the model that a System has, and elements for which it has no parameters and uses defaults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openmm
from openmm import app

from .checks import some
from .openmm_private import magnitude

NUMBER = 1e-6  # numbers that differ by less are the same
# Own radii in OpenMM's tables, which are LEaP's: the sets bondi, mbondi, mbondi2 and mbondi3. Others have 0.15 nm.
RADII, RADIUS = frozenset("H D C N O F Si P S Cl".split()), 0.15
# By model: elements with screening factors of their own; the factor of all others.
SCREENING: dict[str, tuple[frozenset[str], float]] = {
    **dict.fromkeys(("HCT", "OBC1", "OBC2"), (frozenset("HDCNOFPS"), 0.8)),
    **dict.fromkeys(("GBn", "GBn2"), (frozenset("HDCNOS"), 0.5)),
}
# GBn2 alone has alpha, beta and gamma by element: H, C, N, O, S, and phosphorus in nucleic acids.
GBN2 = (1.0, 0.8, 4.851)
AMBER_P = (0.418365, 0.290054, 0.1064245)  # sander and pmemd of Amber 2024 and later, outside nucleic acids as well


def default_parameters(topology: app.Topology, system: openmm.System) -> list[str]:
    """Warnings, one a model, about atoms with default Born parameters, with the values that Amber uses.

    Models are known by their expressions, whatever made the System; atoms by the numbers that they have in it, so that
    parameters set by hand give no warning. Forces of other models are ignored.
    """
    return [
        text
        for force in system.getForces()
        if (model := _model(force)) and force.getNumParticles() == topology.getNumAtoms()
        for text in _told(model, topology, force)
    ]


def solvent_of(system: openmm.System) -> str:
    """The implicit solvent of a System, in words: a model by its name, else the forces that may be one."""
    found = [
        _model(force) or f"implicit solvent by a {type(force).__name__}"
        for force in system.getForces()
        if isinstance(force, openmm.GBSAOBCForce | openmm.CustomGBForce)
    ]
    return " and ".join(found) or "no solvent"


def _model(force: openmm.Force) -> str:
    """HCT, OBC1, OBC2, GBn or GBn2; empty for any other force."""
    if isinstance(force, openmm.GBSAOBCForce):
        return "OBC2"
    if not isinstance(force, openmm.CustomGBForce):
        return ""
    names = _names(force)
    if not {"or", "sr"} <= set(names):
        return ""
    text = "".join(force.getComputedValueParameters(k)[1].replace(" ", "") for k in range(force.getNumComputedValues()))
    marks = {
        "GBn2": "alpha*psi-beta*psi^2+gamma*psi^3",
        "GBn": "1.09511284*psi",
        "OBC2": "psi-0.8*psi^2+4.85*psi^3",
        "OBC1": "0.8*psi+2.909125*psi^3",
        "HCT": "1/(1/or-I)",
    }
    return next((model for model, mark in marks.items() if mark in text), "")


def _told(model: str, topology: app.Topology, force: Any) -> Iterator[str]:
    own, screening = SCREENING[model]
    found: dict[tuple[str, str], list[str]] = {}
    for atom, (radius, screen, shape) in zip(topology.atoms(), _parameters(model, force), strict=True):
        symbol = "" if atom.element is None else atom.element.symbol
        what = []
        if symbol not in RADII and abs(radius - RADIUS) < NUMBER:
            what.append(f"radius {RADIUS} nm")
        set_by_hand = model == "GBn2" and any(abs(a - b) > NUMBER for a, b in zip(shape, GBN2, strict=True))
        if symbol not in own and abs(screen - screening) < NUMBER and not set_by_hand:
            what.append(f"screening {screening}")
            what += ["alpha, beta, gamma {}, {}, {}".format(*GBN2)] if model == "GBn2" else []
        if what:
            found.setdefault((symbol, "; ".join(what)), []).append(f"{atom.residue.name} {atom.residue.id} {atom.name}")
    others = []
    for (symbol, defaults), atoms in found.items():
        if model == "GBn2" and symbol == "P":
            amber = "{}, {}, {}".format(*AMBER_P)
            yield (
                f"{model} has no parameters of its own for {symbol} ({some(atoms)}), which has defaults: {defaults}. "
                f"Amber takes alpha, beta, gamma {amber} and screening 0.5, also outside nucleic acids: tens of "
                "kcal/mol for a phosphate. Set them in the CustomGBForce and use from_openmm, or take OBC2."
            )
        else:
            others.append(f"{symbol} ({some(atoms, 2)}: {defaults})")
    if others:
        yield f"{model} has no parameters of its own for {', '.join(others)}; Amber takes the same."


def _parameters(model: str, force: Any) -> Iterator[tuple[float, float, tuple[float, ...]]]:
    """Radius (nm), screening factor and (alpha, beta, gamma) of each atom; the last is empty but for GBn2."""
    if isinstance(force, openmm.GBSAOBCForce):
        for i in range(force.getNumParticles()):
            _, radius, screen = force.getParticleParameters(i)
            yield magnitude(radius), screen, ()
        return
    place = {name: k for k, name in enumerate(_names(force))}
    offset = 0.0195141 if model == "GBn2" else 0.009
    for i in range(force.getNumParticles()):
        values = force.getParticleParameters(i)
        reduced = values[place["or"]]
        shape = tuple(values[place[name]] for name in ("alpha", "beta", "gamma")) if model == "GBn2" else ()
        yield reduced + offset, values[place["sr"]] / reduced if reduced else 0.0, shape


def _names(force: openmm.CustomGBForce) -> list[str]:
    return [force.getPerParticleParameterName(k) for k in range(force.getNumPerParticleParameters())]
