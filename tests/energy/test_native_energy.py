"""The energy in C against the same terms in PyTorch, for every kind of force and force field that the tests know."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import openmm
import pytest
import torch
from energy_systems import SYSTEMS, load
from examples import chain
from forces import FORCES, POSITIONS, structures, system_of

from openmm_fab.energy import native as c
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.energy.native import NativeEnergy
from openmm_fab.energy.potential import Potential
from openmm_fab.energy.reader import global_parameters
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.tools import native
from openmm_fab.tools.native import LANES, NotCompiledError

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C compiler")

IN_PYTORCH = {"CustomExternal", "CustomCompoundBonds", "CustomCentroidBonds", "CustomCV"}


def by_torch(potential: Potential, x: torch.Tensor, parameters: dict[str, float]) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    u = potential(x, parameters)
    if not u.requires_grad:
        return u, torch.zeros_like(x)
    return u.detach(), torch.autograd.grad(u.sum(), x)[0]


def held_together(system: openmm.System, x: torch.Tensor) -> list[str]:
    """Compare the terms that are in C; the others' reasons."""
    potential, parameters = Potential(system), global_parameters(system)
    energy = NativeEnergy(potential, parameters, 2.5, x.shape[1])
    in_c = [term for term in potential.terms if all(term is not left for left in energy.left)]
    u, gradient = energy(x)
    expected, slope = by_torch(potential.of_terms(in_c), x, parameters)
    good = torch.isfinite(expected) & torch.isfinite(slope).all(2).all(1)
    assert good.float().mean() > 0.9
    scale = 1.0 + expected[good].abs().max()
    torch.testing.assert_close(2.5 * u[good], expected[good], rtol=0, atol=float(2e-13 * scale))
    torch.testing.assert_close(
        2.5 * gradient[good], slope[good], rtol=0, atol=float(2e-12 * (1 + slope[good].abs().max()))
    )
    return energy.reasons


@pytest.mark.parametrize("name", SYSTEMS)
def test_force_fields(name) -> None:
    found = load(name)
    n = 40 if len(found.positions) < 100 else 4
    reasons = held_together(found.system, structures(found.positions, n))
    for reason in reasons:
        assert reason.split(":")[0] in IN_PYTORCH or "cutoff" in reason or "offsets" in reason, reason


@pytest.mark.parametrize("name", FORCES)
def test_forces(name) -> None:
    held_together(system_of(FORCES[name]()), structures(POSITIONS, 2 * LANES + 3))


def test_biomolecular_force_fields_are_all_c() -> None:
    for name in ("aldp: amber19-all, gbn2", "akf: charmm36_2024", "aldp: amber96, obc1", "aldp: amber14-all, obc2"):
        found = load(name)
        potential, parameters = Potential(found.system), global_parameters(found.system)
        assert not NativeEnergy(potential, parameters, 2.5, len(found.positions)).reasons


def test_molecules_of_a_force_field_share_a_library(tmp_path) -> None:
    texts = set()
    for name in ("aldp: amber14-all, obc2", "chm: amber14-all, obc2, constraints and heavy hydrogens"):
        found = load(name)
        energy = NativeEnergy(Potential(found.system), global_parameters(found.system), 2.5, len(found.positions))
        texts.add(energy._text)
    assert len(texts) == 1


@pytest.mark.parametrize("n", [0, 1, LANES - 1, LANES, LANES + 1, 200])
def test_a_structure_does_not_know_its_batch(n, tmp_path, monkeypatch) -> None:
    system = chain(tmp_path)
    x = structures(system.positions, 200)
    potential = Potential(system.system)
    energy = NativeEnergy(potential, {}, system.kT, system.n_atoms)
    whole = energy(x)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for of_all, of_part in zip(whole, energy(x[:n]), strict=True):
        assert torch.equal(of_all[:n], of_part)


def test_what_is_not_in_c_is_added(tmp_path, monkeypatch) -> None:
    system = chain(tmp_path)
    monkeypatch.setattr(MolecularSystem, "require_unchanged", lambda self: None)  # a force that no molecule may have
    restraint = openmm.CustomExternalForce("k*(x*x+y^2)")
    restraint.addGlobalParameter("k", 3.0)
    for k in range(system.n_atoms):
        restraint.addParticle(k)
    system.system.addForce(restraint)
    energy, plain = CompiledEnergy(system), CompiledEnergy(system)
    plain.native = False
    x = structures(system.positions, 50)
    for a, b in zip(energy.value_and_gradient(x), plain.value_and_gradient(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-10)
    assert energy.how == "C, but for CustomExternal: not written in C" and plain.how == "PyTorch"
    given = {"k": 7.0}  # other parameters than the defaults are PyTorch's
    torch.testing.assert_close(energy(x, given), plain(x, given), rtol=0, atol=0)


def test_bad_structures_are_counted_as_ever(tmp_path) -> None:
    system = chain(tmp_path)
    energy = CompiledEnergy(system)
    x = structures(system.positions, 6)
    x[1, 0, 0], x[3, 1] = torch.nan, torch.inf
    x[4] = 0.0
    u, gradient = energy.value_and_gradient(x)
    assert torch.isfinite(u).tolist() == [True, False, True, False, False, True] and energy.invalid == 3
    assert not gradient[~torch.isfinite(u)].any()
    good = torch.isfinite(u)
    torch.testing.assert_close(u[good], energy(x[good]), rtol=0, atol=0)


def test_copies_and_pickles_work(tmp_path) -> None:
    system = chain(tmp_path)
    x = structures(system.positions, 20)
    energy = NativeEnergy(Potential(system.system), {}, system.kT, system.n_atoms)
    for other in (copy.deepcopy(energy), pickle.loads(pickle.dumps(energy))):
        assert torch.equal(other(x)[0], energy(x)[0])


def test_without_a_compiler_pytorch_goes_on_and_says_so(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise NotCompiledError("Expected a C compiler.")

    monkeypatch.setattr(c, "library", refuse)
    system = chain(tmp_path)
    x = structures(system.positions, 20)
    energy = CompiledEnergy(system)
    with pytest.warns(UserWarning, match="slower. Expected a C compiler"):
        u = energy(x)
    assert energy.how == "PyTorch" and np.isfinite(u.numpy()).all()
