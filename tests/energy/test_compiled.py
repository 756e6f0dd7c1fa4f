"""Translated forces one by one, and the energy of the package made of them: parameters, failures, fusing, choice."""

from __future__ import annotations

import shutil
from pathlib import Path

import openmm
import pytest
import torch
from examples import chain
from forces import FORCES, POSITIONS, STRAINED, N, agrees, custom_bonds, nonbonded, structures, system_of

from openmm_fab.energy import compiled
from openmm_fab.energy.agreement import DisagreementError
from openmm_fab.energy.backends import reduced_energy
from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.energy.potential import Potential, UntranslatedSystemError
from openmm_fab.energy.reader import global_parameters
from openmm_fab.energy.verify import check
from openmm_fab.molecule.system import MolecularSystem


@pytest.fixture(scope="module")
def energy(alanine_dipeptide) -> CompiledEnergy:
    return CompiledEnergy(alanine_dipeptide)


# --- every force ---


@pytest.mark.parametrize("name", FORCES)
def test_force_is_openmms(name):
    system = system_of(FORCES[name]())
    agrees(system, structures(POSITIONS, 3, STRAINED))
    changed = {parameter: value + 0.15 for parameter, value in global_parameters(system).items()}
    if changed:
        agrees(system, structures(POSITIONS, 1), changed)


def test_all_forces_in_one_system():
    """They share one list of pairs, of which each needs others."""
    agrees(system_of(*(make() for make in FORCES.values())), structures(POSITIONS))
    some = ("bonds", "nonbonded switching", "custom nonbonded groups")
    assert Potential(system_of(*(FORCES[name]() for name in some))).pairs.number < N * (N - 1) // 2
    agrees(system_of(*(FORCES[name]() for name in some)), structures(POSITIONS))


def test_offset_from_epsilon_zero_has_a_gradient():
    x = structures(POSITIONS, 1).requires_grad_()
    lam = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    u = Potential(system_of(nonbonded()))(x, {"lam": lam, "mu": 0.0})
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(u.sum(), [x, lam]))


# --- global parameters ---


def _with_parameters(tmp_path: Path) -> MolecularSystem:
    """The chain of five beads with a force in two global parameters."""
    loaded = chain(tmp_path / "chain")
    system = openmm.XmlSerializer.clone(loaded.system)
    force = openmm.CustomNonbondedForce("lam*q1*q2/(r+0.1*mu^2)")
    force.addPerParticleParameter("q")
    force.addGlobalParameter("lam", 0.5)
    force.addGlobalParameter("mu", 1.5)
    for i in range(system.getNumParticles()):
        force.addParticle([1.0 + i])
    system.addForce(force)
    return MolecularSystem.from_openmm(loaded.topology, system, loaded.positions, temperature=300.0)


def test_gradient_in_parameters_against_finite_differences(tmp_path):
    system = _with_parameters(tmp_path)
    energy = CompiledEnergy(system)
    x = structures(system.positions, 4).requires_grad_()
    lam = torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64, requires_grad=True)  # one a structure
    mu = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)  # one for all
    u = energy(x, {"lam": lam, "mu": mu})
    slopes = torch.autograd.grad(u.sum(), [x, lam, mu])
    h = 1e-6
    with torch.no_grad():
        by_lam = (energy(x, {"lam": lam + h, "mu": mu}) - energy(x, {"lam": lam - h, "mu": mu})) / (2 * h)
        by_mu = (energy(x, {"lam": lam, "mu": mu + h}) - energy(x, {"lam": lam, "mu": mu - h})) / (2 * h)
        torch.testing.assert_close(slopes[0], energy.value_and_gradient(x, {"lam": lam, "mu": mu})[1], rtol=0, atol=0)
    torch.testing.assert_close(slopes[1], by_lam, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(slopes[2], by_mu.sum(), rtol=1e-6, atol=1e-6)
    assert (slopes[1].abs() > 1.0).all()


def test_parameters_not_given_have_their_default(tmp_path):
    energy = CompiledEnergy(_with_parameters(tmp_path))
    x = structures(energy.system.positions, 3)
    assert energy.defaults == {"lam": 0.5, "mu": 1.5}
    torch.testing.assert_close(energy(x), energy(x, {"lam": 0.5, "mu": torch.tensor(1.5)}))
    assert not torch.allclose(energy(x), energy(x, {"lam": 0.6}))
    with pytest.raises(ValueError, match=r"parameters out of \['lam', 'mu'\]; got \['nu'\]"):
        energy(x, {"nu": 1.0})
    with pytest.raises(ValueError, match=r"one value or one a structure for the parameters \['lam'\]"):
        energy(x, {"lam": torch.zeros(2)})


# --- as an energy of the package ---


def test_reduced_units_are_the_bridges(energy, alanine_dipeptide):
    x = structures(alanine_dipeptide.positions)
    with OpenMMEnergy(alanine_dipeptide, platform="Reference", workers=1) as bridge:
        u, gradient = bridge.value_and_gradient(x)
    torch.testing.assert_close(energy(x), u, rtol=1e-9, atol=1e-9)
    found_u, found = energy.value_and_gradient(x)
    torch.testing.assert_close(found_u, u, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, gradient, rtol=0, atol=1e-9 * float(gradient.abs().max()))
    assert not found_u.requires_grad and not found.requires_grad


def test_the_potential_has_second_derivatives(energy, alanine_dipeptide):
    x = structures(alanine_dipeptide.positions, 1).requires_grad_()

    def slope(x: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(energy.potential(x, {}).sum(), x, create_graph=True)[0][0, 4, 1]

    (second,) = torch.autograd.grad(slope(x), x)
    step, h = torch.zeros_like(x), 1e-5
    step[0, 6, 2] = h
    expected = (slope((x + step).detach().requires_grad_()) - slope((x - step).detach().requires_grad_())) / (2 * h)
    torch.testing.assert_close(second[0, 6, 2], expected.detach(), rtol=1e-5, atol=1e-2)


def test_infinite_coordinates_without_infinite_energy_are_invalid(tmp_path):
    """A Lennard-Jones energy of an atom at infinity is 0."""
    energy = CompiledEnergy(_with_parameters(tmp_path))
    energy.potential.terms = energy.potential.terms[-1:]  # the nonbonded one alone
    x = structures(energy.system.positions)
    x[1, 0, 0] = torch.inf
    u = energy(x)
    assert torch.isfinite(u[0]) and u[1] == torch.inf and energy.invalid == 1


def test_batches(energy, alanine_dipeptide, monkeypatch):
    x = structures(alanine_dipeptide.positions, 41)
    u, gradient = energy.value_and_gradient(x)
    monkeypatch.setitem(compiled.EAGER_BYTES, "cpu", 16 * 8 * 231)  # chunks of 16
    in_chunks = energy.value_and_gradient(x)
    torch.testing.assert_close(in_chunks[0], u, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(in_chunks[1], gradient, rtol=1e-12, atol=1e-8)
    torch.testing.assert_close(energy(x[7:8]), u[7:8], rtol=1e-12, atol=1e-10)
    changed = x.clone()
    changed[18:22] = structures(alanine_dipeptide.positions, 4, seed=1)
    torch.testing.assert_close(energy(changed)[:18], u[:18], rtol=1e-12, atol=1e-10)
    assert (energy(changed)[18:22] != u[18:22]).all()
    empty = torch.empty(0, 22, 3, requires_grad=True)
    assert energy.value_and_gradient(empty)[1].shape == (0, 22, 3)
    energy(empty).sum().backward()
    assert empty.grad.shape == (0, 22, 3)


def test_dtype_follows_x_or_is_chosen(alanine_dipeptide):
    x = structures(alanine_dipeptide.positions, 3)
    follows, single = CompiledEnergy(alanine_dipeptide), CompiledEnergy(alanine_dipeptide, dtype=torch.float32)
    assert follows(x.float()).dtype == torch.float32 and single(x).dtype == torch.float64
    follows.native = single.native = False  # C is float64 whatever is asked for
    u, gradient = follows.value_and_gradient(x)
    u32, gradient32 = follows.value_and_gradient(x.float())
    assert u32.dtype == gradient32.dtype == torch.float32
    torch.testing.assert_close(u32.double(), u, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(gradient32.double(), gradient, rtol=0, atol=1e-3 * float(gradient.abs().max()))
    torch.testing.assert_close(single(x), u32.double(), rtol=0, atol=0)
    torch.testing.assert_close(follows.float()(x), u, rtol=0, atol=0)  # .float() on the module changes nothing
    with torch.inference_mode():
        torch.testing.assert_close(follows.value_and_gradient(x + 0.0)[1], gradient, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda(energy, alanine_dipeptide):
    x = structures(alanine_dipeptide.positions, 8)
    u, gradient = energy.value_and_gradient(x.cuda())
    assert u.device.type == "cuda"
    torch.testing.assert_close(u.cpu(), energy(x), rtol=1e-10, atol=1e-8)
    torch.testing.assert_close(gradient.cpu(), energy.value_and_gradient(x)[1], rtol=1e-10, atol=1e-6)


# --- fused ---

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


def _fused_agrees(energy: CompiledEnergy, fused: CompiledEnergy, batches: tuple[int, ...]) -> None:
    calls = []
    for n in batches:
        x = structures(energy.system.positions, n, seed=n)
        if n > 2:
            x[1, 0, 0] = torch.nan
        for found, expected in zip(fused.value_and_gradient(x), energy.value_and_gradient(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected[0].abs().max()))
        torch.testing.assert_close(fused(x), energy(x), rtol=1e-9, atol=1e-9)
        calls.append(len(fused._functions))
    assert set(calls) == {1}  # one function for every batch size, with and without gradient
    assert fused.invalid == energy.invalid > 0


@needs_compiler
def test_fused(tmp_path):
    system = _with_parameters(tmp_path)
    _fused_agrees(CompiledEnergy(system), CompiledEnergy(system).compile(chunk=16), (5, 16, 40, 1))


@needs_compiler
@pytest.mark.slow
def test_fused_alanine_dipeptide(alanine_dipeptide):
    fused = CompiledEnergy(alanine_dipeptide).compile()
    _fused_agrees(CompiledEnergy(alanine_dipeptide), fused, (300, 7))


def test_without_compiler_it_goes_on(alanine_dipeptide, monkeypatch):
    def broken(*_, **__):
        def call(*inputs):
            raise RuntimeError("no compiler here")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    x = structures(alanine_dipeptide.positions)
    with pytest.warns(UserWarning, match="not fused, and slower: RuntimeError: no compiler here"):
        u = CompiledEnergy(alanine_dipeptide).compile()(x)
    torch.testing.assert_close(u, CompiledEnergy(alanine_dipeptide)(x), rtol=1e-12, atol=1e-10)


# --- what is not covered; the choice ---


def of_three(n: int) -> openmm.CustomManyParticleForce:
    """A force of three particles at a time, which has no translation."""
    force = openmm.CustomManyParticleForce(3, "0.1 * distance(p1, p2)")
    for _ in range(n):
        force.addParticle([], 0)
    return force


def test_uncovered_names_force_and_reason():
    periodic = nonbonded()
    periodic.setNonbondedMethod(periodic.PME)
    boxed = custom_bonds()
    boxed.setUsesPeriodicBoundaryConditions(True)
    external = openmm.CustomExternalForce("periodicdistance(x,y,z,0,0,0)")
    external.addParticle(0, [])
    reduced = FORCES["gbsa obc"]()
    reduced.setNonbondedMethod(reduced.CutoffPeriodic)
    system = system_of(periodic, boxed, external, of_three(N), reduced, openmm.CMMotionRemover())
    found = CompiledEnergy.untranslated(system)
    assert [line.split(":")[0] for line in found] == [
        "NonbondedForce",
        "CustomBondForce",
        "CustomExternalForce",
        "CustomManyParticleForce",
        "GBSAOBCForce",
    ]
    assert "periodic" in found[2]
    system.setVirtualSite(3, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))
    assert "1 virtual sites" in CompiledEnergy.untranslated(system)[0]
    with pytest.raises(UntranslatedSystemError, match="CustomManyParticleForce: no translation of this force"):
        Potential(system)


def test_choice_of_backend(tmp_path, alanine_dipeptide):
    options = {"platform": "Reference", "workers": 1}
    with reduced_energy(alanine_dipeptide, "openmm", **options) as energy:
        assert isinstance(energy, OpenMMEnergy) and energy.reason == "openmm, as asked for"
    energy = reduced_energy(alanine_dipeptide)
    assert isinstance(energy, CompiledEnergy) and energy.reason == "compiled, all is translated"
    with pytest.raises(ValueError, match=r"Expected a named backend for the options \['platform', 'workers'\]"):
        reduced_energy(alanine_dipeptide, **options)
    loaded = chain(tmp_path / "chain")
    system = openmm.XmlSerializer.clone(loaded.system)
    system.addForce(of_three(system.getNumParticles()))
    uncovered = MolecularSystem.from_openmm(loaded.topology, system, loaded.positions, temperature=300.0)
    with reduced_energy(uncovered) as energy:
        assert isinstance(energy, OpenMMEnergy)
        assert energy.reason == "openmm, no translation of CustomManyParticleForce: no translation of this force"


def test_verify_raises_on_the_first_batch(alanine_dipeptide):
    x = structures(alanine_dipeptide.positions, 3)
    x[2, 0] = torch.nan
    good = reduced_energy(alanine_dipeptide, "verify")
    good.value_and_gradient(x)
    assert good.verified and (good.evaluations, good.invalid) == (3, 1)
    reduced_energy(alanine_dipeptide, "verify")(x.float())
    wrong = reduced_energy(alanine_dipeptide, "verify")
    wrong.potential.terms = wrong.potential.terms[1:]
    with pytest.raises(DisagreementError, match="2 of 3 structures differ, the first is 0"):
        wrong(x)


def test_check_leaves_no_trace(alanine_dipeptide, energy):
    counts = energy.evaluations, energy.invalid
    check(energy, structures(alanine_dipeptide.positions, 2))
    assert (energy.evaluations, energy.invalid) == counts
