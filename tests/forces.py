"""Twelve particles under one OpenMM force after the other, with every option that has a translation.

A global parameter has the same default in all of them, so that they can share a System.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openmm

N = 12
POSITIONS = np.random.default_rng(3).normal(scale=0.4, size=(N, 3))  # nm


def system_of(*forces: openmm.Force) -> openmm.System:
    system = openmm.System()
    for i in range(N):
        system.addParticle(10.0 + i)
    for force in forces:
        system.addForce(force)
    return system


def _with(force: Any, kind: str = "", per: tuple[str, ...] = (), **parameters: float) -> Any:
    for name in per:
        getattr(force, f"addPer{kind}Parameter")(name)
    for name, value in parameters.items():
        force.addGlobalParameter(name, value)
    return force


def bonds() -> openmm.Force:
    force = openmm.HarmonicBondForce()
    for i in range(N - 1):
        force.addBond(i, i + 1, 0.3 + 0.01 * i, 100.0 + i)
    return force


def angles() -> openmm.Force:
    force = openmm.HarmonicAngleForce()
    for i in range(N - 2):
        force.addAngle(i, i + 1, i + 2, 1.0 + 0.1 * i, 100.0 + i)
    return force


def torsions() -> openmm.Force:
    force = openmm.PeriodicTorsionForce()
    for i in range(N - 3):
        for m in (1, 2, 3):
            force.addTorsion(i, i + 1, i + 2, i + 3, m, 0.3 * i * m, 5.0 + i)
    return force


def rb_torsions() -> openmm.Force:
    force, random = openmm.RBTorsionForce(), np.random.default_rng(4)
    for i in range(5):
        force.addTorsion(i, i + 1, i + 2, i + 3, *random.normal(scale=5.0, size=6))
    return force


def cmap() -> openmm.Force:
    force, random = openmm.CMAPTorsionForce(), np.random.default_rng(5)
    force.addMap(8, random.normal(scale=10.0, size=64))
    force.addMap(6, random.normal(scale=10.0, size=36))
    force.addTorsion(0, 0, 1, 2, 3, 1, 2, 3, 4)
    force.addTorsion(1, 2, 3, 4, 5, 6, 7, 8, 9)
    force.addTorsion(0, 5, 6, 7, 8, 2, 3, 4, 5)
    return force


def nonbonded(cutoff: bool = False, switching: bool = False) -> openmm.Force:
    force, random = openmm.NonbondedForce(), np.random.default_rng(6)
    _with(force, lam=0.7, mu=0.1)
    for i in range(N):
        force.addParticle(random.normal(scale=0.3), 0.2 + 0.1 * random.random(), random.random() if i else 0.0)
    force.addException(0, 1, 0.0, 1.0, 0.0)
    force.addException(2, 1, 0.1, 0.3, 0.2)
    force.addException(3, 2, 0.0, 1.0, 0.0)
    force.addException(4, 5, 0.0, 0.3, 0.0)
    force.addParticleParameterOffset("lam", 2, 0.3, 0.02, 0.5)
    force.addParticleParameterOffset("mu", 2, 0.1, 0.01, 0.1)
    force.addParticleParameterOffset("lam", 0, 0.0, 0.0, 1.5)
    force.addExceptionParameterOffset("lam", 1, 0.2, 0.05, 0.4)
    force.addExceptionParameterOffset("lam", 3, 0.2, 0.05, 0.4)
    if cutoff:
        force.setNonbondedMethod(force.CutoffNonPeriodic)
        force.setCutoffDistance(0.6)
        force.setUseSwitchingFunction(switching)
        force.setSwitchingDistance(0.4)
    return force


def gbsa_obc() -> openmm.Force:
    force, random = openmm.GBSAOBCForce(), np.random.default_rng(7)
    for _ in range(N):
        force.addParticle(random.normal(scale=0.3), 0.1 + 0.1 * random.random(), 0.7 + 0.3 * random.random())
    return force


def custom_gb(cutoff: bool = False) -> openmm.Force:
    force, random = openmm.CustomGBForce(), np.random.default_rng(8)
    _with(force, "Particle", ("q", "s"), w=1.3)
    force.addComputedValue("I", "w*exp(-r/s1)*s2", force.ParticlePair)
    force.addComputedValue("B", "q+tanh(I)*w+0.01*x", force.SingleParticle)
    force.addComputedValue("C", "B^2", force.SingleParticle)
    force.addEnergyTerm("C*q^2+7", force.SingleParticle)
    force.addEnergyTerm("q1*q2*B1*B2/(r+C1*C2)", force.ParticlePair)
    force.addEnergyTerm("r^2*s1*s2", force.ParticlePairNoExclusions)
    for _ in range(N):
        force.addParticle([random.normal(), 0.2 + random.random()])
    force.addExclusion(1, 0)
    force.addExclusion(4, 7)
    if cutoff:
        force.setNonbondedMethod(force.CutoffNonPeriodic)
        force.setCutoffDistance(0.8)
    return force


def custom_bonds() -> openmm.Force:
    force = _with(openmm.CustomBondForce("k*(r-r0)^2*lam"), "Bond", ("k", "r0"), lam=0.7)
    for i in range(N - 1):
        force.addBond(i, i + 1, [10.0 + i, 0.1])
    return force


def custom_angles() -> openmm.Force:
    force = _with(openmm.CustomAngleForce("k*(cos(theta)-c)^2"), "Angle", ("k", "c"))
    for i in range(N - 2):
        force.addAngle(i, i + 1, i + 2, [10.0 + i, 0.1])
    return force


def custom_torsions() -> openmm.Force:
    energy = "k*min(dt,2*pi-dt)^2;dt=abs(theta-t0);pi=3.14159265358979"
    force = _with(openmm.CustomTorsionForce(energy), "Torsion", ("k", "t0"))
    for i in range(N - 3):
        force.addTorsion(i, i + 1, i + 2, i + 3, [10.0 + i, 0.3])
    return force


def constant() -> openmm.Force:
    """An energy without any variable counts once a row."""
    force = openmm.CustomTorsionForce("5")
    force.addTorsion(0, 1, 2, 3, [])
    force.addTorsion(1, 2, 3, 4, [])
    return force


def custom_external() -> openmm.Force:
    force = _with(openmm.CustomExternalForce("k*(x^2+2*y^2+(z-1)^2)"), "Particle", ("k",))
    for i in range(0, N, 2):
        force.addParticle(i, [1.0 + i])
    return force


def compound_bonds() -> openmm.Force:
    force = openmm.CustomCompoundBondForce(
        4,
        "k*distance(p1,p3)+angle(p1,p2,p4)^2+dihedral(p1,p2,p3,p4)+x1*y2-z3+t(distance(p2,p4))"
        "+pointdistance(x1,y1,z1,0,1,z2)+pointangle(x1,y1,z1,x2,y2,z2,x3,y3,z3)",
    )
    _with(force, "Bond", ("k",))
    force.addTabulatedFunction("t", openmm.Continuous1DFunction(list(np.random.default_rng(9).normal(size=20)), 0, 2.5))
    for i in range(6):
        force.addBond([i, i + 3, i + 1, i + 5], [1.0 + i])
    return force


def centroid_bonds() -> openmm.Force:
    force = openmm.CustomCentroidBondForce(3, "k*distance(g1,g2)^2+angle(g1,g2,g3)+x1")
    _with(force, "Bond", ("k",))
    force.addGroup([0, 1, 2])
    force.addGroup([3, 4], [1.0, 3.0])
    force.addGroup([5, 6, 7, 8])
    force.addBond([0, 1, 2], [3.0])
    force.addBond([1, 0, 2], [4.0])
    return force


def custom_nonbonded(option: str = "") -> openmm.Force:
    energy = "4*eps*((s/r)^12-(s/r)^6)*lam+q1*q2*b1*b2*erfc(3*r)/r; eps=sqrt(e1*e2); s=0.5*(s1+s2)"
    force = _with(openmm.CustomNonbondedForce(energy), "Particle", ("q", "s", "e"), lam=0.7)
    force.addComputedValue("b", "1+lam*q^2")
    random = np.random.default_rng(10)
    for _ in range(N):
        force.addParticle([random.normal(), 0.2, random.random()])
    if option:
        force.addExclusion(3, 2)
        force.addExclusion(0, 5)
    if option == "groups":  # overlapping, and one pair in two groups
        force.addInteractionGroup([0, 1, 2, 3, 4], [2, 3, 4, 5, 6])
        force.addInteractionGroup([5], [6, 7, 2])
    if option == "empty group":
        force.addInteractionGroup([], [1, 2])
    if option == "cutoff":
        force.setNonbondedMethod(force.CutoffNonPeriodic)
        force.setCutoffDistance(0.6)
        force.setUseSwitchingFunction(True)
        force.setSwitchingDistance(0.3)
    return force


def collective_variables() -> openmm.Force:
    inner = _with(openmm.CustomBondForce("g*r"), g=2.0)
    inner.addBond(0, 5, [])
    force = _with(openmm.CustomCVForce("h*(a-3)^2+sin(c)+e"), h=0.5)
    force.addCollectiveVariable("a", inner)
    force.addCollectiveVariable("c", custom_nonbonded("exclusions"))
    force.addCollectiveVariable("e", openmm.CustomBondForce("r"))  # without a bond it is 0
    return force


FORCES: dict[str, Callable[[], openmm.Force]] = {
    "bonds": bonds,
    "angles": angles,
    "torsions": torsions,
    "rb torsions": rb_torsions,
    "cmap": cmap,
    "nonbonded": nonbonded,
    "nonbonded cutoff": lambda: nonbonded(True),
    "nonbonded switching": lambda: nonbonded(True, True),
    "gbsa obc": gbsa_obc,
    "custom gb": custom_gb,
    "custom gb cutoff": lambda: custom_gb(True),
    "custom bonds": custom_bonds,
    "custom angles": custom_angles,
    "custom torsions": custom_torsions,
    "constant": constant,
    "custom external": custom_external,
    "compound bonds": compound_bonds,
    "centroid bonds": centroid_bonds,
    **{f"custom nonbonded {o}": lambda o=o: custom_nonbonded(o) for o in ("", "exclusions", "groups", "cutoff")},
    "custom nonbonded empty group": lambda: custom_nonbonded("empty group"),
    "collective variables": collective_variables,
}
