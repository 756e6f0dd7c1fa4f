"""Parameters of the force field as leaves: slopes against finite differences of OpenMM."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from forces import FORCES, POSITIONS, STRAINED, structures, system_of
from openmm import app

from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.energy.potential import Potential
from openmm_fab.molecule.system import MolecularSystem

# Of a force: its rows ("get" and "set" {rows}Parameters), and where in a row a parameter stands.
PLACES: dict[str, tuple[str, dict[str, int]]] = {
    "HarmonicBondForce": ("Bond", {"length": 2, "k": 3}),
    "HarmonicAngleForce": ("Angle", {"theta": 3, "k": 4}),
    "PeriodicTorsionForce": ("Torsion", {"phase": 5, "k": 6}),
    "RBTorsionForce": ("Torsion", {f"c{n}": 4 + n for n in range(6)}),
    "NonbondedForce/particles": ("Particle", {"charge": 0, "sigma": 1, "epsilon": 2}),
    "NonbondedForce/exceptions": ("Exception", {"charge": 2, "sigma": 3, "epsilon": 4}),
    "GBSAOBCForce": ("Particle", {"charge": 0, "radius": 1, "scale": 2}),
    "CustomGBForce": ("Particle", {}),
    "CustomNonbondedForce": ("Particle", {}),
    "CustomBondForce": ("Bond", {}),
    "CustomAngleForce": ("Angle", {}),
    "CustomTorsionForce": ("Torsion", {}),
    "CustomExternalForce": ("Particle", {}),
    "CustomCompoundBondForce": ("Bond", {}),
    "CustomCentroidBondForce": ("Bond", {}),
    "LCPOForce": ("Particle", {"radius": 0, "p1": 1, "p2": 2, "p3": 3, "p4": 4}),
}


def _changed(force: openmm.Force, name: str, row: int, by: float) -> openmm.Force:
    """The force with one parameter changed."""
    kind, field = name.rsplit("/", 1)
    rows, places = PLACES[kind]
    values: list[Any] = list(getattr(force, f"get{rows}Parameters")(row))
    if places:
        values[places[field]] = getattr(values[places[field]], "_value", values[places[field]]) + by
    else:
        names = range(getattr(force, f"getNumPer{'Particle' if rows == 'Particle' else rows}Parameters")())
        where = [getattr(force, f"getPer{rows}ParameterName")(n) for n in names].index(field)
        # The values are the last entry; some forces on particles have nothing else.
        own = list(values[-1] if isinstance(values[-1], tuple) else values)
        own[where] += by
        values = [*values[:-1], own] if isinstance(values[-1], tuple) else [own]
    getattr(force, f"set{rows}Parameters")(row, *values)
    return force


def _energy(force: openmm.Force, x: np.ndarray) -> float:
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system_of(force), openmm.VerletIntegrator(0.001), platform)
    context.setPositions(x)
    return float(context.getState(energy=True).getPotentialEnergy()._value)


def _molecular(system: openmm.System) -> MolecularSystem:
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    atoms = [topology.addAtom(f"C{i}", app.element.carbon, residue) for i in range(system.getNumParticles())]
    for a, b in pairwise(atoms):
        topology.addBond(a, b)
    return MolecularSystem(topology, system, POSITIONS, 300.0)


def _energy_of(name: str) -> CompiledEnergy:
    return CompiledEnergy(_molecular(system_of(FORCES[name]())))


WITHOUT_FIELDS = (
    *("cmap", "constant", "collective variables", "radius of gyration", "rmsd", "rmsd of some", "orientation"),
    "shape restraint",
)
MOVABLE = [name for name in FORCES if name not in (*WITHOUT_FIELDS, "custom external")]


@pytest.mark.parametrize("name", [n for n in FORCES if n not in WITHOUT_FIELDS])
def test_slopes_are_openmms(name):
    x = structures(POSITIONS, 1, STRAINED)
    potential = Potential(system_of(FORCES[name]())).keep_parameters_live()
    fields = potential.fields()
    assert fields
    for user, buffer in fields.items():
        leaf = potential.get_buffer(buffer).requires_grad_()
        u = potential(x, {"lam": 0.7, "mu": 0.1, "w": 1.3})
        (slope,) = torch.autograd.grad(u.sum(), leaf)
        assert slope.shape == leaf.shape
        for row in {0, len(leaf) // 2, len(leaf) - 1}:
            if user.startswith("NonbondedForce/exceptions") and not potential.terms[0].alive.eq(row).any():
                assert slope[row] == 0  # stays excluded
                continue
            if user.endswith("/epsilon") and leaf[row] == 0:
                continue  # OpenMM takes no negative one
            h = 1e-5
            around = [_energy(_changed(FORCES[name](), user, row, by), x[0].numpy()) for by in (h, -h)]
            expected = (around[0] - around[1]) / (2 * h)
            scale = max(abs(expected), 1e-3 * float(slope.abs().max()), 1e-3)
            assert abs(float(slope[row]) - expected) < 1e-4 * scale, (user, row, float(slope[row]), expected)


@pytest.mark.parametrize("name", MOVABLE)
def test_leaves_change_nothing_but_what_can_be_differentiated(name):
    x = structures(POSITIONS, 3, STRAINED)
    energy, plain = _energy_of(name), _energy_of(name)
    energy.make_leaves(*energy.force_field)
    assert sorted(n.removeprefix("leaves.") for n, _ in energy.named_parameters()) == sorted(plain.force_field)
    expected, gradient = plain.value_and_gradient(x)
    x.requires_grad_()
    u = energy(x)
    torch.testing.assert_close(u, expected, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(torch.autograd.grad(u.sum(), x)[0], gradient, rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(energy.value_and_gradient(x)[1], gradient, rtol=1e-9, atol=1e-8)


@pytest.fixture
def dipeptide() -> CompiledEnergy:
    return CompiledEnergy(MolecularSystem.load("alanine_dipeptide"))


def test_an_optimiser_finds_a_bond_length_again(dipeptide):
    """u depends on the leaf as it is now, with and without gradient."""
    x = structures(dipeptide.system.positions, 8)
    target, gradient = dipeptide.value_and_gradient(x)
    name = "HarmonicBondForce/length"
    dipeptide.make_leaves(name)
    leaf = dipeptide.leaves[name]
    with torch.no_grad():
        leaf += 0.002
    before, _ = dipeptide.value_and_gradient(x)
    assert (before - target).abs().min() > 0.01
    optimiser = torch.optim.LBFGS(dipeptide.parameters(), lr=1.0, max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        points = x.clone().requires_grad_()
        u = dipeptide(points)
        (slope,) = torch.autograd.grad(u.sum(), points, create_graph=True)  # forces are matched, too
        value = (u - target).square().mean() + 1e-4 * (slope - gradient).square().mean()
        value.backward()
        return value

    start = float(loss().detach())
    optimiser.step(loss)
    assert float(loss().detach()) < 1e-6 * start
    torch.testing.assert_close(dipeptide.value_and_gradient(x)[0], target, rtol=0, atol=1e-2)
    torch.testing.assert_close(leaf.detach(), dipeptide.force_field[name], rtol=0, atol=1e-4)


def test_a_bad_structure_leaves_slopes_alone(dipeptide):
    dipeptide.make_leaves("NonbondedForce/particles/charge")
    x = structures(dipeptide.system.positions, 3)
    bad = x.clone()
    bad[1] = torch.nan
    leaf = dipeptide.leaves["NonbondedForce/particles/charge"]
    u = dipeptide(bad)
    assert torch.isinf(u).tolist() == [False, True, False] and dipeptide.invalid == 1
    (slope,) = torch.autograd.grad(u[[0, 2]].sum(), leaf, retain_graph=True)
    (whole,) = torch.autograd.grad(u.nan_to_num(posinf=0.0).sum(), leaf)
    (expected,) = torch.autograd.grad(dipeptide(x[[0, 2]]).sum(), leaf)
    torch.testing.assert_close(slope, expected)
    torch.testing.assert_close(whole, expected)


def test_leaves_with_global_parameters_and_float32():
    energy = _energy_of("custom bonds").make_leaves("CustomBondForce/k")
    x = structures(POSITIONS, 4)
    lam = torch.tensor(0.3, requires_grad=True)
    u = energy(x.float(), {"lam": lam})
    assert u.dtype == torch.float32
    by_lam, by_k = torch.autograd.grad(u.sum(), [lam, energy.leaves["CustomBondForce/k"]])
    assert by_k.dtype == torch.float64
    k = energy.force_field["CustomBondForce/k"]
    torch.testing.assert_close(lam.detach() * by_lam, (k * by_k).sum().float())  # the energy is proportional to both


def test_several_forces_of_a_class_and_nested_ones():
    energy = CompiledEnergy(
        _molecular(system_of(FORCES["bonds"](), FORCES["bonds"](), FORCES["collective variables"]()))
    )
    names = set(energy.force_field)
    assert {"HarmonicBondForce/k", "HarmonicBondForce2/k", "CustomCVForce/c/q"} <= names
    x = structures(POSITIONS, 2)
    energy.make_leaves("HarmonicBondForce2/k", "CustomCVForce/c/q")
    slopes = torch.autograd.grad(energy(x).sum(), list(energy.leaves.values()))
    assert all(slope.abs().max() > 0 for slope in slopes)


def test_refusals(dipeptide):
    with pytest.raises(ValueError, match=r"Expected names out of \['CustomGBForce|Expected names out of"):
        dipeptide.make_leaves("HarmonicBondForce/charge")
    dipeptide.make_leaves("HarmonicBondForce/k")
    with pytest.raises(ValueError, match="without leaves"):
        dipeptide.compile()
    fused = CompiledEnergy(dipeptide.system).compile()
    with pytest.raises(ValueError, match="not fused"):
        fused.make_leaves("HarmonicBondForce/k")
