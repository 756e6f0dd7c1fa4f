"""Puckers of rings and sides of nitrogens: the search for their minima, against OpenMM and symmetry."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import openmm
import pytest
import torch
from molecules import BUTANE
from openmm import app, unit

from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.isomers import hands_of, kept_in_large_rings, mirrored, stiff_in_large_rings
from openmm_fab.coordinates.minima import _compared, _sound, distinct, followers, joined, ring_systems, unwrapped
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.molecule.graph import BondGraph
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.tools.vectors import torsion

KT = 0.0083144626 * 300.0


def ring_of(n: int, substituent: bool = False, torsion: float = 5.86) -> MolecularSystem:
    """A ring of n beads of the mass of CH2 with the bonds, angles and threefold torsions (kJ/mol, k (1 + cos 3 phi)) of
    an alkane; one more bead on the first, if a substituent is asked for, held tetrahedral."""
    topology, system = app.Topology(), openmm.System()
    residue = topology.addResidue("RNG", topology.addChain())
    atoms = [topology.addAtom(f"C{i}", app.element.carbon, residue) for i in range(n + substituent)]
    pairs = [(i, (i + 1) % n) for i in range(n)] + ([(0, n)] if substituent else [])
    bonds, angles, torsions = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
    near: dict[int, list[int]] = {i: [] for i in range(len(atoms))}
    for i, j in pairs:
        topology.addBond(atoms[i], atoms[j])
        bonds.addBond(i, j, 0.153, 2e5)
        near[i].append(j)
        near[j].append(i)
    for j, around in near.items():
        for a, i in enumerate(around):
            for k in around[a + 1 :]:
                angles.addAngle(i, j, k, math.radians(111.0), 500.0)
    for j, k in pairs:
        for i in near[j]:
            for m in near[k]:
                if i != k and m != j and i != m:
                    torsions.addTorsion(i, j, k, m, 3, 0.0, torsion)
    for _ in atoms:
        system.addParticle(14.0)
    for force in (bonds, angles, torsions):
        system.addForce(force)
    turn = 2 * math.pi * np.arange(n) / n
    radius = 0.153 / (2 * math.sin(math.pi / n))
    x = np.stack([radius * np.cos(turn), radius * np.sin(turn), 0.02 * (-1.0) ** np.arange(n)], 1)
    if substituent:
        x = np.concatenate([x, x[:1] + [[0.12, 0.0, 0.1]]])
    return MolecularSystem(topology, system, x * unit.nanometer, 300.0)


def quenched(system: MolecularSystem, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Energies in kT and structures (n, n_atoms, 3) that OpenMM's minimiser reaches from dynamics at 2500 K."""
    integrator = openmm.LangevinMiddleIntegrator(2500.0, 5.0, 0.001)
    integrator.setRandomNumberSeed(seed)
    context = openmm.Context(system.system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(system.minimum)
    context.setVelocitiesToTemperature(2500.0, seed)
    energies, structures = [], []
    for _ in range(n):
        integrator.step(400)
        state = context.getState(positions=True, velocities=True)
        openmm.LocalEnergyMinimizer.minimize(context, 0.01, 5000)
        found = context.getState(positions=True, energy=True)
        energies.append(found.getPotentialEnergy()._value / KT)
        structures.append(found.getPositions(asNumpy=True)._value)
        context.setState(state)
    return np.array(energies), np.array(structures)


@pytest.mark.parametrize("n", [5, 6, 7])
def test_every_minimum_that_hot_dynamics_reaches_is_found(n):
    """Their energies, and that each lies within reach of the coordinates."""
    system = ring_of(n, substituent=True)
    c = InternalCoordinates.from_system(system, CoordinateSettings(nitrogens="as_given"))
    energies, x = quenched(system, 40, seed=n)
    energies -= float(CompiledEnergy(system)(c.minima.x[:1].clone())[0])
    low = energies < 6.0
    assert low.sum() > 10 and energies.min() > -1e-2
    assert len({round(e, 1) for e in energies[low]}) > 1
    z, _ = c.to_internal(torch.as_tensor(x[low]))
    (modes,) = c.modes
    away = (z[:, None, modes.columns] - modes.means)[:, :, : modes.leading].abs().amax(2).min(1)[0]
    # In units of a mode's width; a ring of seven has some thirty minima, and not each has a mode of its own.
    assert (away < (1.0 if n < 7 else 5.0)).all()
    for energy in energies[low]:
        assert np.abs(c.minima.energies.numpy() - energy).min() < 0.05


def test_minima_that_overlap_share_a_mode():
    """On one line with another that follows it: mean and covariance of the mixture, as its samples have them."""
    means = torch.tensor([[0.0, 1.0], [2.0, 0.5]], dtype=torch.float64)
    covariances = torch.tensor([[[1.0, 0.3], [0.3, 1.0]], [[2.0, -0.4], [-0.4, 1.0]]]).double()
    log_shares = torch.tensor([0.2, 0.3]).double().log() + 7.0
    mean, covariance, shares = joined([0], means, covariances, log_shares)
    assert float(shares.exp()) == pytest.approx(0.5 * math.exp(7.0))
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(200_000, 2, generator=random, dtype=torch.float64)
    roots = torch.linalg.cholesky(covariances)
    x = torch.cat([means[k] + part @ roots[k].T for k, part in enumerate(noise.split([80_000, 120_000]))])
    torch.testing.assert_close(mean[0], x.mean(0), rtol=0, atol=0.02)
    torch.testing.assert_close(covariance[0], x.T.cov(), rtol=0, atol=0.03)


def test_with_a_mode_apart_all_stay_as_they_are():
    means = torch.tensor([[0.0, 1.0], [10.0, -1.0], [2.0, 0.5]], dtype=torch.float64)
    made = means, torch.eye(2, dtype=torch.float64).repeat(3, 1, 1), torch.zeros(3, dtype=torch.float64)
    assert all(map(torch.equal, joined([0], *made), made))


@pytest.mark.parametrize(("rare", "modes"), [(0.001, 3), (0.3, 1)])
def test_rare_minima_join_no_others(rare, modes):
    """Three in a row, each 2.5 widths from the next."""
    means, one = torch.tensor([[0.0], [2.5], [5.0]]).double(), torch.ones(3, 1, 1).double()
    shares = torch.tensor([0.5 - rare / 2, rare, 0.5 - rare / 2]).double()
    mean, covariance, log_shares = joined([0], means, one, shares.log())
    assert len(mean) == modes and float(log_shares.exp().sum()) == pytest.approx(1.0)
    if modes == 1:
        assert float(mean) == pytest.approx(2.5) and float(covariance) == pytest.approx(1 + 0.7 * 2.5**2)


def test_minima_of_a_large_ring_are_those_that_hot_dynamics_reaches():
    """Of nine beads: those of OpenMM are within reach, and near one that has a mode."""
    system = ring_of(9)
    c = InternalCoordinates.from_system(system, CoordinateSettings(puckers=4.0))
    energies, x = quenched(system, 25, seed=1)
    energies -= float(CompiledEnergy(system)(c.minima.x[:1].clone())[0])
    low = energies < 3.0
    assert low.sum() > 5 and energies.min() > -1e-2 and len(c.minima.energies) > 4
    for energy in energies[low]:
        assert np.abs(c.minima.energies.numpy() - energy).min() < 0.05
    z, log_det = c.to_internal(torch.as_tensor(x[low]))
    modes = [m.of_flow() for m in c.modes]
    flow = CouplingFlow(c.periodic, FlowSettings(layers=2, hidden=4, torsion_layers=2), modes=modes)
    assert torch.isfinite(log_det).all() and (z.abs() < flow.reach).all()
    assert "rings of 9 atoms" in c.summary() and "that hot dynamics reached" in c.summary()


def test_amides_and_double_bonds_of_large_rings_stay_as_they_are():
    """A ring of ten with a C=O beside an N and a C=C, drawn flat: lengths tell which bonds are stiff."""
    n = 10
    elements = [*("C", "N"), *["C"] * 8, "O", *["H"] * 3]
    bonds = [(i, (i + 1) % n) for i in range(n)] + [(0, 10), (1, 11), (5, 12), (6, 13)]
    graph = BondGraph(elements, np.array(bonds))
    turn = 2 * math.pi * np.arange(n) / n
    ring = 0.25 * np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
    x = np.concatenate([ring, 1.4 * ring[[0, 1, 5, 6]]])
    assert 0.14 < np.linalg.norm(ring[1] - ring[0]) < 0.16
    assert stiff_in_large_rings(graph, x, sampled=False) == []
    x[[1, 6]] += 0.1 * (x[[0, 5]] - x[[1, 6]])
    amide, double = (9, 0, 1, 2), (4, 5, 6, 7)
    assert stiff_in_large_rings(graph, x, sampled=False) == [amide, double]
    assert stiff_in_large_rings(graph, x, sampled=True) == [double]
    other = x.copy()
    other[2:5] = 2 * x[1] - other[2:5]  # C2 on the other side of the amide
    assert kept_in_large_rings(graph, np.stack([x, x])) == [(0, 1, "cis"), (5, 6, "cis")]
    assert kept_in_large_rings(graph, np.stack([x, other])) == [(5, 6, "cis")]


def test_angles_are_unwrapped_at_their_widest_gap():
    angles = torch.tensor([[3.0, -1.0, 0.5], [-3.0, 0.0, 0.5], [2.8, 1.2, 0.5]], dtype=torch.float64)
    found = unwrapped(angles)
    torch.testing.assert_close(found.sin(), angles.sin())
    torch.testing.assert_close(found.cos(), angles.cos())
    spread = torch.tensor([2 * math.pi - 5.8, 2.2, 0.0], dtype=torch.float64)
    torch.testing.assert_close(found.amax(0) - found.amin(0), spread)


def test_what_changes_with_a_set_follows_it():
    """One by its mean, one by its width, one by correlation; the last by nothing."""
    same = torch.eye(6, dtype=torch.float64).repeat(2, 1, 1)
    means, covariances = [torch.zeros(2, 6).double() for _ in range(2)], [same.clone(), same.clone()]
    means[0][1, 2], means[1][1, 2] = 1.0, 0.5
    covariances[1][1, 3, 3] = 2.0
    covariances[0][0, 0, 4] = covariances[0][0, 4, 0] = 0.6
    assert followers([[0], [1]], means, covariances) == [[2, 4], [3]]
    assert followers([], [], []) == []


def test_both_chairs_of_a_ring_of_equal_beads():
    """Mirror images: of one energy, their modes at opposite places; the boats are higher."""
    c = InternalCoordinates.from_system(ring_of(6, torsion=12.0))
    (modes,) = c.modes
    chairs = c.minima.energies < 0.1
    assert chairs.sum() == 2
    torch.testing.assert_close(modes.means[0], -modes.means[1], atol=0.05, rtol=0)
    assert (torch.diff(c.minima.energies) >= 0).all() and c.minima.energies[0] == 0
    one = InternalCoordinates.from_system(ring_of(6, torsion=12.0), CoordinateSettings(puckers=0.05))
    assert len(one.minima.energies) == 2 and len(one.minima.higher) == len(c.minima.energies) + len(c.minima.higher) - 2
    assert (one.minima.higher > 0.05).all()
    made = InternalCoordinates.from_tensors(c.to_tensors())
    assert torch.equal(made.minima.x, c.minima.x) and torch.equal(made.modes[0].means, modes.means)
    assert "left out" in one.summary() and "Minima of rings and nitrogens" in c.summary()


def test_a_new_flow_has_both_chairs():
    """Half of the weight each, by symmetry; log Z is greater by ln 2 than with one of them."""
    found = {}
    for puckers in (1.0, 0.0):
        settings = GeneratorSettings(coordinates=CoordinateSettings(puckers=puckers))
        generator = BoltzmannGenerator(ring_of(6, torsion=12.0), settings, seed=0)
        found[puckers] = generator, generator.sample(20_000, seed=1)
    generator, both = found[1.0]
    z, _ = generator.to_internal(torch.as_tensor(both.x).double())
    (modes,) = generator.coordinates.modes
    assert len(modes.means) == 2 and both.ess_fraction > 0.02
    share = float(both.weights @ ((z[:, modes.columns] * modes.means[0]).sum(1).numpy() > 0))
    assert share == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / both.ess)) and both.ess > 500
    one = found[0.0][1]
    assert not found[0.0][0].coordinates.modes and one.ess > 500
    gap = both.log_z.value - one.log_z.value
    assert abs(gap - math.log(2)) < 4 * math.hypot(one.log_z.error, both.log_z.error) < 0.3


def test_rings_that_share_atoms_are_one_system():
    decalin = [(i, (i + 1) % 6) for i in range(6)] + [(5, 6), (6, 7), (7, 8), (8, 9), (9, 0)]
    apart = [(10, 11), (11, 12), (12, 10), (10, 3)]
    found = ring_systems(BondGraph(["C"] * 13, np.array(decalin + apart)))
    assert found == dict.fromkeys(range(10), 0) | dict.fromkeys(range(10, 13), 10)


def test_copies_are_left_out():
    torsions = torch.tensor([[0.0, 3.13], [0.05, -3.13], [0.5, 3.13]], dtype=torch.float64)
    assert distinct(torsions) == [0, 2]


def test_minima_of_another_hand_are_left_out():
    """Two structures whose torsions tell no difference; one is the mirror image of the other."""
    graph = BondGraph(["C", "H", "F", "Cl", "Br"], np.array([[0, 1], [0, 2], [0, 3], [0, 4]]))
    x = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    both = torch.stack([x, x * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)])

    def to_internal(x):
        return torch.arange(len(x), dtype=torch.float64)[:, None], None

    mean, mixing = torch.zeros(1).double(), torch.ones(1, 1).double()
    layout = SimpleNamespace(n_stiff=1, free=[])
    chart = SimpleNamespace(layout=layout, mean=mean, mixing=mixing, to_internal=to_internal)
    flexible = SimpleNamespace(turning=[0], inverting=[], kept=[])
    found, u = _sound(chart, both, torch.tensor([1.0, 0.0], dtype=torch.float64), x, graph, flexible)
    assert u.tolist() == [1.0] and torch.equal(found, both[:1])


def test_minima_are_compared_with_the_same_torsions_elsewhere():
    """Two wells of a ring 0.5 kT apart, found with different torsions of a chain that are worth 10 kT."""
    chart = SimpleNamespace(
        layout=SimpleNamespace(n_stiff=1),
        mixing=torch.eye(1, dtype=torch.float64),
        unmixing=torch.eye(1, dtype=torch.float64),
        to_cartesian=lambda z: (z, None),
        to_internal=lambda x: (x, None),
    )

    def energy(z):
        ring, chain = z.unbind(1)
        u = 50 * (ring**2 - 1) ** 2 - 0.25 * ring + 5 * (1 + torch.cos(chain)) + 5 * (1 - torch.cos(2 * chain))
        slope = 200 * ring * (ring**2 - 1) - 0.25, -5 * torch.sin(chain) + 10 * torch.sin(2 * chain)
        return u, torch.stack(slope, 1)

    low, other = torch.tensor([[1.0, math.pi]]).double(), torch.tensor([[-1.0, 0.0]]).double()
    assert energy(other)[0] - energy(low)[0] == pytest.approx(10.5)
    x, u = _compared(chart, energy, torch.cat([low, other]), torch.cat([low, other]), [0])
    torch.testing.assert_close(x[:, 0].sign(), torch.tensor([1.0, -1.0, 1.0, -1.0]).double())
    torch.testing.assert_close(x[:, 1].cos(), torch.tensor([-1.0, -1.0, 1.0, 1.0]).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(u, torch.tensor([0.0, 0.5, 0.0, 0.5]).double(), atol=0.01, rtol=0)


def test_mirror_images_keep_all_but_stereocentres():
    """Butane's hydrogens exchange labels; a carbon with four kinds of neighbours changes hands, one with two fluorines
    does not."""
    x = torch.as_tensor(BUTANE.positions)[None] + 0.01 * torch.randn(
        5, 14, 3, generator=torch.Generator().manual_seed(0)
    )
    image = mirrored(x, BUTANE.graph)
    assert torch.equal(hands_of(image, BUTANE.graph), hands_of(x, BUTANE.graph))
    assert not torch.equal(image[..., :2], x[..., :2]) and torch.equal(mirrored(image, BUTANE.graph), x)
    carbons = [k for k, element in enumerate(BUTANE.elements) if element == "C"]
    torch.testing.assert_close(torsion(*image[:, carbons].unbind(1)), -torsion(*x[:, carbons].unbind(1)))
    corners = torch.tensor([[[0.0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]], dtype=torch.float64)
    for elements, same in ((["C", "H", "F", "Cl", "Br"], False), (["C", "H", "F", "F", "Br"], True)):
        graph = BondGraph(elements, np.array([[0, 1], [0, 2], [0, 3], [0, 4]]))
        assert bool(hands_of(mirrored(corners, graph), graph) == hands_of(corners, graph)) == same
