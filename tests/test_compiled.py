"""The compiled energy against OpenMM's Reference platform, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmm_fab.energy import CompiledEnergy, OpenMMEnergy, reduced_energy
from openmm_fab.system import MolecularSystem


@pytest.fixture(scope="module")
def structures(alanine_dipeptide: MolecularSystem) -> torch.Tensor:
    """Thermal and strained structures, (12, 22, 3) nm."""
    noise = np.random.default_rng(0).normal(size=(12, alanine_dipeptide.n_atoms, 3))
    widths = np.repeat([0.003, 0.02], 6)[:, None, None]
    return torch.as_tensor(alanine_dipeptide.minimum + widths * noise)


def test_energies_and_gradients_are_openmms(alanine_dipeptide, structures):
    with OpenMMEnergy(alanine_dipeptide, platform="Reference", workers=1) as reference:
        u, gradient = reference.value_and_gradient(structures)
    compiled = CompiledEnergy(alanine_dipeptide)
    ours, our_gradient = compiled.value_and_gradient(structures)
    torch.testing.assert_close(ours, u, rtol=1e-6, atol=1e-6)
    assert (our_gradient - gradient).abs().max() < 1e-5 * gradient.abs().max()
    x = structures.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(compiled(x).sum(), x)[0], our_gradient)


def test_an_invalid_structure_leaves_the_others_alone(alanine_dipeptide, structures):
    compiled = CompiledEnergy(alanine_dipeptide)
    whole, _ = compiled.value_and_gradient(structures)
    broken = structures.clone()
    broken[3, 5, 1] = torch.nan
    u, gradient = compiled.value_and_gradient(broken)
    assert u[3] == torch.inf and not gradient[3].any()
    others = torch.arange(len(u)) != 3
    torch.testing.assert_close(u[others], whole[others])
    assert compiled.invalid == 1


def test_openmm_stays_the_default(alanine_dipeptide):
    assert isinstance(reduced_energy(alanine_dipeptide), OpenMMEnergy)
    assert isinstance(reduced_energy(alanine_dipeptide, "compiled"), CompiledEnergy)
