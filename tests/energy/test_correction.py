"""A fitted difference of two energies: fits that are exact, fits that must not be trusted, and their symmetry."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
import torch
from torch import Tensor

from openmm_fab.energy.correction import FARTHEST, OUTLIERS, Correction, Terms
from openmm_fab.molecule.graph import BondGraph
from openmm_fab.molecule.system import MolecularSystem


@pytest.fixture(scope="module")
def butane() -> MolecularSystem:
    return MolecularSystem.load("butane")


def _x(system: MolecularSystem, n: int, seed: int = 0) -> Tensor:
    """Structures with bonds of 0.003 nm and angles of a few degrees off, and any torsion of the middle bond."""
    rng = np.random.default_rng(seed)
    x = system.positions + rng.normal(scale=0.004, size=(n, system.n_atoms, 3))
    axis = x[:, 2] - x[:, 1]
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    side = system.graph.branch(2, 1)[1:]
    arms, angle = x[:, side] - x[:, [2]], rng.uniform(-np.pi, np.pi, n)[:, None, None]
    along = (arms * axis[:, None]).sum(2, keepdims=True) * axis[:, None]
    around = np.cross(np.broadcast_to(axis[:, None], arms.shape), arms)
    x[:, side] = x[:, [2]] + along + np.cos(angle) * (arms - along) + np.sin(angle) * around
    return torch.from_numpy(x)


def _difference(x: Tensor) -> np.ndarray:
    """A stiffer bond of all carbons, an angle between them, and a torsion; kT, by another program's geometry."""
    frames = mdtraj.Trajectory(x.numpy(), MolecularSystem.load("butane").md_topology)
    bonds = mdtraj.compute_distances(frames, [[0, 1], [1, 2], [2, 3]], periodic=False)
    angles = mdtraj.compute_angles(frames, [[0, 1, 2], [1, 2, 3]], periodic=False)
    phi = mdtraj.compute_dihedrals(frames, [[0, 1, 2, 3]], periodic=False)[:, 0]
    d = 7.0 + 3e4 * np.square(bonds - 0.150).sum(1) + 12.0 * (angles - 1.9).sum(1)
    return np.asarray(d + 2.0 * np.cos(3 * phi) - 0.7 * np.sin(phi), dtype=float)


def test_a_difference_of_known_terms_is_found(butane):
    seen, other = _x(butane, 300), _x(butane, 300, seed=5)
    fit = Correction.fitted(butane.graph, seen, _difference(seen))
    left = _difference(other) - fit(other).numpy()
    assert left.std() < 0.1 * _difference(other).std()
    assert abs(left.mean()) > 1.0  # a constant is left


def test_noise_is_not_learned(butane):
    """Values left out one at a time tell: there is nothing in them, for fewer values than functions, too."""
    for n in (40, 200):
        noise = np.random.default_rng(0).normal(size=n)
        fit = Correction.fitted(butane.graph, _x(butane, n), noise)
        assert fit.terms.functions > 100 and float(fit(_x(butane, 300, seed=7)).std()) < 0.4


def test_clashes_do_not_rule_a_fit(butane):
    x = _x(butane, 200)
    d = _difference(x)
    d[:4] = [-1e9, -np.inf, -1e4, -200.0]
    fit = Correction.fitted(butane.graph, x, d)
    assert (_difference(x) - fit(x).numpy())[4:].std() < OUTLIERS / 6
    assert np.isfinite(fit.coefficients.numpy()).all()


def test_what_was_not_seen_is_not_extrapolated(butane):
    """A bond that is far too long counts as FARTHEST standard deviations, so that the other energy decides there."""
    x = _x(butane, 100)
    fit = Correction.fitted(butane.graph, x, _difference(x))
    torn = x[:2].clone()
    torn[:, 4] += torch.tensor([[0.5], [50.0]]) * (x[:2, 4] - x[:2, 0])
    at = fit.terms(torn)[: len(butane.graph.bonds)].abs()
    assert float(at.max()) <= FARTHEST < 1.01 * float(at[:, 1].max())
    assert float(fit(torn).abs().max()) < 1e3


def test_exchanged_and_mirrored_atoms_make_no_difference(butane):
    """Any hydrogens of one carbon, and the two ends of the chain; a mirror changes sines of torsions alone."""
    x = _x(butane, 60)
    fit = Correction.fitted(butane.graph, x, _difference(x))
    hydrogens = [atom for atom in butane.graph.neighbours[0] if butane.elements[atom] == "H"]
    swapped = x.clone()
    swapped[:, hydrogens] = x[:, hydrogens[1:] + hydrogens[:1]]
    torch.testing.assert_close(fit(swapped), fit(x))
    terms = Terms(butane.graph, x)
    here, there = terms(x), terms(x * torch.tensor([1.0, 1.0, -1.0]))
    changed = ((here - there).abs() > 1e-9).any(1)
    assert 0 < int(changed.sum()) < len(changed) / 4
    torch.testing.assert_close(here[changed], -there[changed])


def test_its_gradient_is_that_of_its_value(butane):
    x = _x(butane, 60)
    fit = Correction.fitted(butane.graph, x, _difference(x))
    few = x[:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(fit, (few,), eps=1e-6, atol=1e-3, rtol=1e-4)


def test_a_molecule_of_two_atoms_has_a_bond_alone():
    graph = BondGraph(["H", "H"], np.array([[0, 1]]))
    x = torch.zeros(30, 2, 3, dtype=torch.float64)
    x[:, 1, 0] = torch.linspace(0.07, 0.08, 30, dtype=torch.float64)
    d = -4.0 * (x[:, 1, 0].numpy() - 0.074) / 0.003
    fit = Correction.fitted(graph, x, d)
    assert fit.terms.functions == 3 and (d - fit(x).numpy()).std() < 0.01 * d.std()
