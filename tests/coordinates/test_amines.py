"""Nitrogens that invert: which they are, that both sides are within reach, and that log Z counts both."""

from __future__ import annotations

import math

import numpy as np
import openmm
import pytest
import torch
import zoo
from openmm import app, unit

from openmm_fab.ais.annealing import AISSettings
from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.isomers import pyramidal_nitrogens, sides_of_nitrogens
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.coordinates.zmatrix import build_zmatrix
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.train.settings import Budget, TrainSettings

KT = 0.596  # kcal/mol at 300 K
zoo.SMILES["indolizidine"] = "C1CCN2CCCC2C1"


# --- which ---


@pytest.mark.parametrize(
    ("name", "sided", "inverts"),
    [
        ("nicotine", 1, 1),  # the methyl is cis or trans to the pyridine
        ("cocaine", 1, 1),  # over one bridge or the other
        ("morphine", 1, 1),
        ("terbinafine", 1, 1),  # three different arms
        ("strychnine", 1, 0),  # all arms in rings, and placed by them
        ("indolizidine", 1, 1),
        ("erythromycin", 1, 1),  # N(CH3)2
        ("methionine sulfoxide", 1, 1),  # NH2
        ("caffeine", 0, 0),  # flat
        ("acetylcholine", 0, 0),  # four arms
    ],
)
def test_which_invert(name, sided, inverts):
    pytest.importorskip("rdkit")
    molecule = zoo.load(name) if name in zoo.ZOO else zoo.from_smiles(name)
    found = pyramidal_nitrogens(molecule.graph, molecule.positions)
    assert len(found) == sided and all(molecule.elements[i] == "N" for i in found)
    z = build_zmatrix(molecule.graph, molecule.masses, molecule.positions)
    rows = list(sides_of_nitrogens(z, molecule.graph, molecule.positions))
    assert len(rows) == inverts and {int(z.rows[k, 1]) for k in rows} == set(found[:inverts])
    assert not z.periodic[rows].any()


# --- the other side ---


class _MMFF:
    """MMFF94s by RDKit: u (batch,) in kT at 300 K and its gradient in 1/nm."""

    def __init__(self, name: str, positions: np.ndarray) -> None:
        from rdkit import Chem
        from rdkit.Chem import rdForceFieldHelpers as helpers
        from rdkit.Geometry import Point3D

        graph = zoo.rdkit_molecule(name)
        conformer = Chem.Conformer(len(positions))
        for i, x in enumerate(10 * positions):
            conformer.SetAtomPosition(i, Point3D(*x))
        graph.AddConformer(conformer)
        self._graph = graph
        properties = helpers.MMFFGetMoleculeProperties(graph, mmffVariant="MMFF94s")
        self._field = helpers.MMFFGetMoleculeForceField(graph, properties)
        self._field.Initialize()

    def __call__(self, x):
        rows = [(10 * one).flatten().tolist() for one in x.detach().numpy()]
        u = torch.tensor([self._field.CalcEnergy(row) for row in rows], dtype=torch.float64) / KT
        slope = np.array([self._field.CalcGrad(row) for row in rows]).reshape(x.shape)
        return u, torch.from_numpy(slope) * 10 / KT

    def minimised(self, x: np.ndarray) -> np.ndarray:
        from rdkit.Geometry import Point3D

        conformer = self._graph.GetConformer()
        for i, row in enumerate(10 * x):
            conformer.SetAtomPosition(i, Point3D(*row))
        self._field.Initialize()
        assert self._field.Minimize(maxIts=5000) == 0
        return 0.1 * conformer.GetPositions()


def _hand(x: torch.Tensor, centre: int, arms: list[int]) -> torch.Tensor:
    """Signed volume (batch,) of the unit vectors to three neighbours."""
    ways = x[:, arms] - x[:, [centre]]
    return torch.linalg.det(ways / ways.norm(dim=2, keepdim=True))


@pytest.mark.parametrize("name", ["nicotine", "cocaine", "terbinafine"])
def test_both_sides_are_within_reach(name):
    """Invert the nitrogen, relax: another minimum, with all of its z within the splines' range."""
    pytest.importorskip("rdkit")
    molecule = zoo.load(name)
    energy = _MMFF(name, molecule.positions)
    z_matrix = build_zmatrix(molecule.graph, molecule.masses, molecule.positions)
    rows = list(sides_of_nitrogens(z_matrix, molecule.graph, molecule.positions))
    nitrogen = int(z_matrix.rows[rows[0], 1])
    arms = [int(b) for bond in molecule.bonds.tolist() if nitrogen in bond for b in bond if b != nitrogen]
    c = InternalCoordinates.fit(z_matrix, molecule.positions, energy, inverting=rows)
    first, _ = c.to_internal(torch.from_numpy(molecule.positions)[None])
    place = int(first[0, : c.n_stiff].abs().argmax())
    assert abs(abs(float(first[0, place])) - 1.0) < 1e-6 and float(c.mixing[place].abs().max()) > 0.3
    assert float(first[0, : c.n_stiff].abs().sum()) == pytest.approx(1.0, abs=1e-6)  # all else is at the minimum

    other = first.clone()
    other[0, place] *= -1
    x, log_det = c.to_cartesian(other)
    assert torch.isfinite(log_det).all()
    relaxed = torch.from_numpy(energy.minimised(x[0].numpy()))[None]
    there, _ = c.to_internal(relaxed)
    assert float(there[0, place] * first[0, place]) < 0
    assert there[0, : c.n_stiff].abs().max() < FlowSettings().bound
    before, after = (_hand(one, nitrogen, arms) for one in (torch.from_numpy(molecule.positions)[None], relaxed))
    assert float(before * after) < 0

    kept = InternalCoordinates.fit(z_matrix, molecule.positions, energy)
    assert kept.to_internal(relaxed)[0][0, : kept.n_stiff].abs().max() > FlowSettings().bound
    normal = torch.randn(300, c.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for coordinates, low, high in ((c, 0.3, 0.7), (kept, 0.0, 0.001)):
        hands = _hand(coordinates.to_cartesian(normal)[0], nitrogen, arms)
        assert low <= float((hands * before < 0).double().mean()) <= high


# --- a whole molecule ---


@pytest.fixture(scope="module")
def haloamine() -> MolecularSystem:
    """NHFCl with harmonic bonds and angles: the smallest molecule with two hands, of one energy."""
    topology = app.Topology()
    residue = topology.addResidue("HAL", topology.addChain())
    atoms = [topology.addAtom(e, app.Element.getBySymbol(e), residue) for e in ("N", "H", "F", "Cl")]
    system, bonds, angles = openmm.System(), openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    for atom in atoms:
        system.addParticle(atom.element.mass)
    for atom, length in zip(atoms[1:], (0.102, 0.14, 0.175), strict=True):
        topology.addBond(atoms[0], atom)
        bonds.addBond(0, atom.index, length, 2e5)
    for i, j in ((1, 2), (1, 3), (2, 3)):
        angles.addAngle(i, 0, j, math.radians(106.0), 150.0)
    system.addForce(bonds)
    system.addForce(angles)
    x = 0.1 * np.array([[0, 0, 0.4], [0.9, 0, 0], [-0.7, 1.2, 0], [-0.85, -1.5, 0]])
    return MolecularSystem(topology, system, x * unit.nanometer, 300.0)


def test_log_z_counts_both_sides(haloamine):
    """The mirror image has the same energy: twice as much of everything, log Z greater by ln 2."""
    found = {}
    for nitrogens in ("as_given", "sample"):
        settings = GeneratorSettings(
            coordinates=CoordinateSettings(nitrogens=nitrogens),
            flow=FlowSettings(layers=4, hidden=16),
            train=TrainSettings(batch=64, ais=AISSettings(intermediate=2, leapfrogs=3)),
        )
        generator = BoltzmannGenerator(haloamine, settings, seed=0)
        generator.train(Budget(iterations=60), progress=False, compile=False)
        found[nitrogens] = generator.sample(20_000, seed=1)
    one, both = found["as_given"], found["sample"]
    assert one.ess_fraction > 0.3 and both.ess_fraction > 0.05
    gap = both.log_z.value - one.log_z.value
    assert abs(gap - math.log(2)) < 4 * math.hypot(one.log_z.error, both.log_z.error) < 0.2
    share = {
        name: float(e.weights @ (_hand(torch.as_tensor(e.x).double(), 0, [1, 2, 3]) > 0).double().numpy())
        for name, e in found.items()
    }
    assert share["as_given"] in (pytest.approx(0.0, abs=1e-9), pytest.approx(1.0, abs=1e-9))
    assert share["sample"] == pytest.approx(0.5, abs=0.06)


def test_what_the_summary_says(haloamine):
    both = InternalCoordinates.from_system(haloamine).summary()
    assert "Pyramidal nitrogens, both sides sampled: HAL1:N" in both and "keep their side" not in both
    kept = InternalCoordinates.from_system(haloamine, CoordinateSettings(nitrogens="as_given")).summary()
    assert "Pyramidal nitrogens, which keep their side where MD may invert them: HAL1:N" in kept
    assert "both sides" not in kept
    with pytest.raises(ValueError, match="Expected nitrogens to be one of"):
        CoordinateSettings(nitrogens="flat")
