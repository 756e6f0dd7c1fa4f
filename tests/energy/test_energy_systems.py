"""The translated energy against OpenMM's Reference platform: many Systems, odd geometries, odd batches, refusals."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from energy_systems import SYSTEMS, force_field, load, openmmtools_system
from forces import (
    FORCES,
    POSITIONS,
    STRAINED,
    agrees,
    alone,
    custom_gb,
    custom_nonbonded,
    gbsa_obc,
    nonbonded,
    structures,
    system_of,
)
from openmm import unit

from openmm_fab.energy.potential import Potential, UntranslatedSystemError
from openmm_fab.energy.reader import global_parameters


def _context(system: openmm.System, given: dict[str, float] | None = None) -> openmm.Context:
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    for name, value in (given or {}).items():
        context.setParameter(name, value)
    return context


def _energy_and_gradient(system: openmm.System, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.detach().requires_grad_()
    u = Potential(system)(x, global_parameters(system))
    return u.detach(), torch.autograd.grad(u.sum() + 0.0 * x.sum(), x)[0]


def _particles(n: int, force: openmm.Force) -> openmm.System:
    system = openmm.System()
    for _ in range(n):
        system.addParticle(1.0)
    system.addForce(force)
    return system


# --- every System, and each of its forces alone ---


@pytest.mark.parametrize("name", SYSTEMS)
def test_system_is_openmms(name):
    pytest.importorskip("openmmtools")
    found = load(name)
    x = torch.cat([structures(found.positions), structures(found.positions, scale=STRAINED)])
    for system in (found.system, *alone(found.system)):
        agrees(system, x, found.parameters)


@pytest.mark.parametrize(
    "name", ["akf: charmm36, obc2", "HostGuestImplicitOBC2", "AlanineDipeptideVacuum, alchemical, lambda 0.4"]
)
def test_xml_changes_nothing(name):
    found = load(name)
    read = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(found.system))
    x = structures(found.positions, 1)
    for a, b in zip(_energy_and_gradient(found.system, x), _energy_and_gradient(read, x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_constraints_leave_the_energy_alone():
    system = load("chm: amber14-all, obc2, constraints and heavy hydrogens").system
    free = openmm.XmlSerializer.clone(system)
    for n in reversed(range(system.getNumConstraints())):
        free.removeConstraint(n)
    assert system.getNumConstraints() > 0 and free.getNumConstraints() == 0
    x = structures(load("chm: amber14-all, obc2, constraints and heavy hydrogens").positions, 1, STRAINED)
    torch.testing.assert_close(_energy_and_gradient(system, x), _energy_and_gradient(free, x), rtol=0, atol=0)


@pytest.mark.parametrize("name", [n for n in SYSTEMS if "alchemical" in n])
def test_slope_in_lambda_against_finite_differences_of_openmm(name):
    pytest.importorskip("openmmtools")
    found = load(name)
    x = structures(found.positions, 1)
    values = {n: torch.tensor(v, dtype=x.dtype, requires_grad=True) for n, v in found.parameters.items()}
    u = Potential(found.system)(x, {**global_parameters(found.system), **values})
    slopes = torch.autograd.grad(u.sum(), list(values.values()), materialize_grads=True, allow_unused=True)
    context, h = _context(found.system, found.parameters), 1e-5
    context.setPositions(x[0].numpy())
    expected = []
    for n, value in found.parameters.items():
        around = []
        for shifted in (value + h, value - h):
            context.setParameter(n, shifted)
            around.append(context.getState(energy=True).getPotentialEnergy()._value)
        context.setParameter(n, value)
        expected.append((around[0] - around[1]) / (2 * h))
    np.testing.assert_allclose([float(s) for s in slopes], expected, rtol=1e-6, atol=1e-5)
    assert np.abs(expected).max() > 0.01


# --- odd geometries: as valid as in OpenMM, and where valid, equal ---


def _bonded(n: int) -> list[openmm.Force]:
    """Forces on the first n particles."""
    energy = {2: "distance(p1,p2)", 3: "angle(p1,p2,p3)^2", 4: "dihedral(p1,p2,p3,p4)^2"}[n]
    compound = openmm.CustomCompoundBondForce(n, energy)
    compound.addBond(range(n))
    if n == 2:
        forces = [openmm.HarmonicBondForce(), openmm.CustomBondForce("(r-0.1)^2")]
        forces[0].addBond(0, 1, 0.1, 100.0)
        forces[1].addBond(0, 1)
    elif n == 3:
        forces = [openmm.HarmonicAngleForce(), openmm.CustomAngleForce("(theta-1)^2")]
        forces[0].addAngle(0, 1, 2, 1.5, 100.0)
        forces[1].addAngle(0, 1, 2)
    else:
        forces = [openmm.PeriodicTorsionForce(), openmm.RBTorsionForce()]
        forces += [openmm.CustomTorsionForce("cos(theta-1)"), openmm.CMAPTorsionForce()]
        forces[0].addTorsion(0, 1, 2, 3, 2, 0.3, 5.0)
        forces[1].addTorsion(0, 1, 2, 3, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
        forces[2].addTorsion(0, 1, 2, 3)
        forces[3].addMap(4, np.random.default_rng(0).normal(size=16))
        forces[3].addTorsion(0, 0, 1, 2, 3, 1, 2, 3, 4)
    return [*forces, compound]


ODD = {
    "coincident bond": (2, [[0, 0, 0], [0, 0, 0]]),
    "straight angle": (3, [[0, 0, 0], [1, 0, 0], [2, 0, 0]]),
    "folded angle": (3, [[0, 0, 0], [1, 0, 0], [0.5, 0, 0]]),
    "angle with an end on its centre": (3, [[0, 0, 0], [0, 0, 0], [2, 0, 0]]),
    "angle with coincident ends": (3, [[0, 0, 0], [1, 0, 0], [0, 0, 0]]),
    "torsion with three on a line": (4, [[0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 1, 0]]),
    "torsion with the last three on a line": (4, [[1, 1, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]]),
    "torsion on a line": (4, [[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]]),
    "torsion about nothing": (4, [[0, 0, 0], [1, 0, 0], [1, 0, 0], [2, 1, 0]]),
    "torsion almost on a line": (4, [[0, 0, 0], [1, 0, 0], [2, 1e-6, 0], [2, 1, 0.3]]),
    "cis": (4, [[0, 1, 0], [1, 0, 0], [2, 0, 0], [2, 1, 0]]),
    "trans": (4, [[0, 1, 0], [1, 0, 0], [2, 0, 0], [2, -1, 0]]),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_geometry_is_openmms(name):
    n, positions = ODD[name]
    x = torch.tensor([[*positions, [2.5, 1.0, 1.5]]], dtype=torch.float64)
    valid = []
    for force in _bonded(n):
        system = _particles(n + 1, force)
        context = _context(system)
        context.setPositions(x[0].numpy())
        state = context.getState(energy=True, forces=True)
        expected = np.append(state.getForces(asNumpy=True)._value, state.getPotentialEnergy()._value)
        u, gradient = _energy_and_gradient(system, x)
        valid.append(bool(np.isfinite(expected).all()))
        assert valid[-1] == bool(torch.isfinite(u).all() and torch.isfinite(gradient).all())
        if valid[-1]:
            agrees(system, x)
    assert len(set(valid)) == 1  # a geometry that one force takes and the other does not is none of this list


def test_coincident_atoms():
    """They are invalid where they repel each other, and not where they are excluded."""
    x = torch.from_numpy(POSITIONS[None].repeat(3, axis=0))
    x[1, 1] = x[1, 0]  # an exception without interaction
    x[2, 8] = x[2, 7]
    u, gradient = _energy_and_gradient(system_of(nonbonded()), x)
    assert torch.isfinite(u).tolist() == [True, True, False]
    assert torch.isfinite(gradient).all(dim=(1, 2)).tolist() == [True, True, False]
    agrees(system_of(nonbonded()), x[:2])


CUTOFFS: dict[str, tuple[float, Callable[[], Any]]] = {
    "nonbonded": (0.6, lambda: nonbonded(True)),
    "nonbonded switching": (0.6, lambda: nonbonded(True, True)),
    "custom nonbonded": (0.6, lambda: custom_nonbonded("cutoff")),
    "custom gb": (0.8, lambda: custom_gb(True)),
    "gbsa obc": (0.8, lambda: gbsa_obc(True)),
}


@pytest.mark.parametrize("name", CUTOFFS)
def test_at_and_beyond_cutoffs(name):
    cutoff, make = CUTOFFS[name]
    d = np.linalg.norm(POSITIONS[10] - POSITIONS[11])
    scales = (20.0, cutoff / d * (1 - 1e-9), cutoff / d * (1 + 1e-9))
    agrees(system_of(make()), torch.from_numpy(np.stack([POSITIONS * scale for scale in scales])))


# --- odd batches ---


@pytest.mark.parametrize("name", FORCES)
def test_bad_structures_leave_others_alone(name):
    system = system_of(FORCES[name]())
    x = structures(POSITIONS, 5, STRAINED)
    expected = _energy_and_gradient(system, x)
    bad = x.clone()
    bad[0] = torch.nan
    bad[2, 3, 1] = torch.inf
    bad[4] = 0.0  # all atoms coincide
    for found, good in zip(_energy_and_gradient(system, bad), expected, strict=True):
        torch.testing.assert_close(found[[1, 3]], good[[1, 3]], rtol=0, atol=0)


@pytest.mark.parametrize("name", FORCES)
def test_batches_of_none_and_of_one(name):
    system = system_of(FORCES[name]())
    x = structures(POSITIONS, 3, STRAINED)
    expected = _energy_and_gradient(system, x)
    for n in (0, 1):
        for found, whole in zip(_energy_and_gradient(system, x[:n]), expected, strict=True):
            torch.testing.assert_close(found, whole[:n], rtol=1e-13, atol=1e-11)


@pytest.mark.parametrize("name", ["nonbonded", "gbsa obc", "custom gb", "custom nonbonded"])
def test_a_single_particle(name):
    forces = {"nonbonded": openmm.NonbondedForce(), "gbsa obc": openmm.GBSAOBCForce()}
    custom = openmm.CustomGBForce()
    custom.addComputedValue("I", "1/r", custom.ParticlePair)
    custom.addEnergyTerm("I^2+x", custom.SingleParticle)
    custom.addEnergyTerm("I1*I2/r", custom.ParticlePair)
    forces |= {"custom gb": custom, "custom nonbonded": openmm.CustomNonbondedForce("1/r")}
    force = forces[name]
    force.addParticle(*{"nonbonded": (1.0, 0.3, 1.0), "gbsa obc": (1.0, 0.15, 0.8)}.get(name, ([],)))
    agrees(_particles(1, force), structures(POSITIONS[:1], 3))


# --- refused ---


def _tip4p_under_pressure() -> openmm.System:
    system = openmmtools_system("FourSiteWaterBox", box_edge=1.9 * unit.nanometer).system
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0))
    return system


REFUSED: dict[str, tuple[Callable[[], openmm.System], tuple[str, ...]]] = {
    "crystal": (lambda: openmmtools_system("SodiumChlorideCrystal").system, ("NonbondedForce: periodic",)),
    "box of ions": (
        lambda: openmmtools_system("CustomGBForceSystem").system,
        ("NonbondedForce: periodic", "CustomGBForce: periodic"),
    ),
    "TIP4P water": (
        _tip4p_under_pressure,
        (r"\d+ virtual sites", "NonbondedForce: periodic", "MonteCarloBarostat: no translation of this force"),
    ),
    "AMOEBA": (
        lambda: force_field("aldp", "amoeba2018.xml").system,
        ("AmoebaTorsionTorsionForce", "AmoebaVdwForce", "AmoebaMultipoleForce"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal_lists_every_reason(name):
    pytest.importorskip("openmmtools")
    make, reasons = REFUSED[name]
    with pytest.raises(UntranslatedSystemError) as error:
        Potential(make())
    first, *lines = str(error.value).splitlines()
    assert first == "Not covered by CompiledEnergy:" and len(lines) == len(reasons)
    for line, reason in zip(lines, reasons, strict=True):
        assert re.match(f"  - {reason}", line), line


def test_a_thermostat_adds_no_energy():
    x = structures(POSITIONS, 1)
    with_thermostat = system_of(FORCES["bonds"](), openmm.AndersenThermostat(300.0, 1.0))
    agrees(with_thermostat, x)
