"""How far the translated energy is from OpenMM's; and a System of twelve particles for every force and option.

A global parameter has the same default in all of these forces, so that they can share a System.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import openmm
import torch

from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.energy.potential import Potential
from openmm_fab.energy.reader import global_parameters

N = 12
THERMAL, STRAINED = 0.003, 0.03  # nm
POSITIONS = np.random.default_rng(3).normal(scale=0.4, size=(N, 3))  # nm


# --- against OpenMM ---


@dataclass(frozen=True)
class Deviation:
    """The largest differences from OpenMM's Reference platform over some structures.

    Attributes
    ----------
    energy : float, kJ/mol
    relative : float
        Of an energy, relative to it, or to 1 kJ/mol where it is smaller.
    force : float
        Relative to the largest component in its structure, or to 0.001 kJ/mol/nm where that is smaller.
    """

    energy: float
    relative: float
    force: float


def structures(positions: np.ndarray, n: int = 2, scale: float = THERMAL, seed: int = 0) -> torch.Tensor:
    noise = np.random.default_rng(seed).normal(scale=scale, size=(n, *positions.shape))
    return torch.from_numpy(positions + noise)


def deviation(system: openmm.System, x: torch.Tensor, given: dict[str, float] | None = None) -> Deviation:
    """How far the translation of a System is from OpenMM, in structures x (batch, n_atoms, 3), nm."""
    given = given or {}
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    for name in given.keys() & context.getParameters().keys():
        context.setParameter(name, given[name])
    x = x.detach().requires_grad_()
    energies = Potential(system)(x, {**global_parameters(system), **given})
    gradients = torch.zeros_like(x)
    if energies.requires_grad:
        (gradients,) = torch.autograd.grad(energies.sum(), x)
    found = []
    for structure, energy, gradient in zip(x.detach().numpy(), energies.tolist(), gradients.numpy(), strict=True):
        context.setPositions(structure)
        state = context.getState(energy=True, forces=True)
        expected, forces = state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value
        off = abs(energy - expected)
        found.append(
            (off, off / max(abs(expected), 1.0), np.abs(forces + gradient).max() / max(np.abs(forces).max(), 1e-3))
        )
    return Deviation(*(float(worst) for worst in np.max(found, axis=0)))


def agrees(system: openmm.System, x: torch.Tensor, given: dict[str, float] | None = None) -> None:
    """Assert that translation and OpenMM agree: energies to 1e-9 (or relative), forces to 1e-9 of the largest."""
    assert CompiledEnergy.untranslated(system) == []
    found = deviation(system, x, given)
    assert found.relative < 1e-9 and found.force < 1e-9, found


def alone(system: openmm.System) -> Iterator[openmm.System]:
    """For every force of the System, a System that has no other."""
    for force in system.getForces():
        single = openmm.System()
        for i in range(system.getNumParticles()):
            single.addParticle(system.getParticleMass(i))
        single.addForce(copy.deepcopy(force))
        yield single


# --- the forces ---


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


def gbsa_obc(cutoff: bool = False) -> openmm.Force:
    force, random = openmm.GBSAOBCForce(), np.random.default_rng(7)
    for _ in range(N):
        force.addParticle(random.normal(scale=0.3), 0.1 + 0.1 * random.random(), 0.7 + 0.3 * random.random())
    if cutoff:
        force.setNonbondedMethod(force.CutoffNonPeriodic)
        force.setCutoffDistance(0.8)
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


def radius_of_gyration() -> openmm.Force:
    return openmm.RGForce([0, 2, 3, 7, 11])


def _moved(scale: float) -> np.ndarray:
    """Reference positions (N, 3), nm, unlike those of the test."""
    return POSITIONS + np.random.default_rng(11).normal(scale=scale, size=(N, 3))


def rmsd(particles: tuple[int, ...] = ()) -> openmm.Force:
    return openmm.RMSDForce(_moved(0.1), particles)


def orientation() -> openmm.Force:
    return openmm.OrientationRestraintForce(20.0, _moved(0.2), [1, 2, 4, 5, 8])


def lcpo() -> openmm.Force:
    force, random = openmm.LCPOForce(), np.random.default_rng(12)
    force.setSurfaceTension(2.3)
    for i in range(N):
        p = random.normal(size=4) * (0.6, 0.2, 0.02, 0.5)
        force.addParticle(0.0 if i == 4 else 0.25 + 0.2 * random.random(), *p)
    return force


def shape_restraint() -> openmm.Force:
    """As users bias with them: forces of a shape as collective variables."""
    force = _with(openmm.CustomCVForce("k*((rg-0.5)^2+(rmsd-0.1)^2)+sasa*turned"), k=50.0)
    for name, inner in (("rg", openmm.RGForce()), ("rmsd", rmsd()), ("sasa", lcpo()), ("turned", orientation())):
        force.addCollectiveVariable(name, inner)
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
    "gbsa obc cutoff": lambda: gbsa_obc(True),
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
if hasattr(openmm, "LCPOForce"):  # since OpenMM 8.4
    FORCES |= {
        "radius of gyration": radius_of_gyration,
        "rmsd": rmsd,
        "rmsd of some": lambda: rmsd((1, 2, 4, 5, 8)),
        "orientation": orientation,
        "lcpo": lcpo,
        "shape restraint": shape_restraint,
    }
