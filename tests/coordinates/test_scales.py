"""Widths of rings that pucker: which torsions they are, and that the other pucker is within reach."""

from __future__ import annotations

import molecules as m
import numpy as np
import openmm
import pytest
import torch

from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.scales import over_rotamers
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.coordinates.zmatrix import build_zmatrix, puckering
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.molecule.graph import is_planar
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.tools.vectors import bond_angle, torsion


def _names(system: MolecularSystem) -> list[str]:
    return [atom.name for atom in system.topology.atoms()]


@pytest.mark.parametrize(
    ("name", "ring"),
    [
        ("alanine_dipeptide", set()),
        ("proline_dipeptide", {"N", "CA", "CB", "CG", "CD"}),
        ("adenosine", {"O4'", "C1'", "C2'", "C3'", "C4'"}),  # and none of adenine's
    ],
)
def test_which_torsions_pucker(name, ring):
    s = MolecularSystem.load(name)
    z = build_zmatrix(s.graph, s.masses, s.minimum)
    rows = z.rows[puckering(z, s.minimum)]
    assert len(rows) == (2 if ring else 0)
    for row in rows:
        assert {_names(s)[atom] for atom in row[:3]} <= ring


def test_chairs_pucker_and_benzene_does_not():
    for molecule, n in ((m.CYCLOHEXANE, 3), (m.TOLUENE, 0), (m.BUTANE, 0)):
        z = build_zmatrix(molecule.graph, molecule.masses, molecule.positions)
        assert puckering(z, molecule.positions).sum() == n


def test_flat_rings():
    flat = np.array([[np.cos(a), np.sin(a), 0] for a in np.arange(6)])
    assert is_planar(range(6), flat) and not is_planar(
        range(6), flat + np.array([[0, 0, 0.02 * (-1) ** k] for k in range(6)])
    )


def test_the_other_pucker_is_within_the_range():
    """Proline's ring the other way up, relaxed: another minimum, and all of its z within the splines' range."""
    s = MolecularSystem.load("proline_dipeptide")
    energy = CompiledEnergy(s)
    c = InternalCoordinates.from_system(s, energy=energy)
    names = _names(s)
    ring = [names.index(a) for a in ("N", "CA", "CB", "CG")]

    def torsion(x: np.ndarray) -> float:
        u, v, w = np.diff(x[ring], axis=0)
        p, q = np.cross(u, v), np.cross(v, w)
        return float(np.arctan2(np.cross(p, q) @ v / np.linalg.norm(v), p @ q))

    first = s.minimum
    (modes,) = c.modes
    z, _ = c.to_internal(torch.tensor(first)[None])
    ring_of_z = modes.columns[: modes.leading]
    z[:, ring_of_z] *= -1  # the centre lies between the two
    x, log_det = c.to_cartesian(z)
    assert torch.isfinite(log_det).all()
    second = s.minimise(x[0].numpy())
    assert torsion(first) * torsion(second) < 0 and abs(torsion(second)) > 0.2
    found, _ = c.to_internal(torch.tensor(second)[None])
    assert found[0, : c.n_stiff].abs().max() < FlowSettings().bound
    away = (found[:, modes.columns] - modes.means).abs()
    assert away.amax(1).min() < 0.6 and away[:, : modes.leading].amax(1).min() < 0.3  # of a mode's width
    rigid = InternalCoordinates.from_system(s, CoordinateSettings(puckers=0.0), energy=energy)
    assert rigid.to_internal(torch.tensor(second)[None])[0][0, : c.n_stiff].abs().max() > FlowSettings().bound


def test_rotamers_far_out_are_centred_between():
    """Widths 0.1 and 0.2; the first entry stays, the second is off the circle's edge, the third is no candidate."""
    covariance = torch.tensor([[0.01, 0.01, 0.0], [0.01, 0.04, 0.0], [0.0, 0.0, 0.01]], dtype=torch.float64)
    mean = torch.tensor([1.0, 3.0, 1.0], dtype=torch.float64)
    away = torch.tensor([[0.0, 0.0], [0.15, 0.8], [-0.1, -0.2]], dtype=torch.float64)
    centre, wide = over_rotamers(mean, covariance, [0, 1], away)
    torch.testing.assert_close(centre, torch.tensor([1.0, 3.3 - 2 * np.pi, 1.0], dtype=torch.float64))
    expected = torch.tensor([[0.01, 0.025, 0.0], [0.025, 0.25, 0.0], [0.0, 0.0, 0.01]], dtype=torch.float64)
    torch.testing.assert_close(wide, expected)


def test_an_angle_that_another_rotamer_bends_is_within_reach():
    """Acetyl alanine methylamide with a spring that opens N-CA-C where psi is turned, to a minimum by OpenMM."""
    s = MolecularSystem.load("alanine_dipeptide")
    names = [f"{atom.residue.name}:{atom.name}" for atom in s.topology.atoms()]
    four = [names.index(a) for a in ("ALA:N", "ALA:CA", "ALA:C", "NME:N")]
    here = torch.as_tensor(s.minimum)[four]
    bending = openmm.CustomCompoundBondForce(
        4,
        "2000*(angle(p1,p2,p3) - at - 0.06*(1 - cos(turn)))^2 - 30*cos(2*turn) + 15*cos(turn);"
        "turn=dihedral(p1,p2,p3,p4)-psi",
    )
    bending.addGlobalParameter("psi", float(torsion(*here)))
    bending.addGlobalParameter("at", float(bond_angle(*here[:3])))
    bending.addBond(four)
    system = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(s.system))
    system.addForce(bending)
    bent = MolecularSystem(s.topology, system, s.minimum, 300)
    moved = s.graph.branch(four[2], four[1])[1:]
    axis = torch.nn.functional.normalize(here[2] - here[1], dim=0).numpy()
    arm = bent.minimum[moved] - bent.minimum[four[1]]
    along = (arm @ axis)[:, None] * axis
    found = [bent.minimum]
    for turn in np.deg2rad((90.0, 180.0, 270.0)):
        x = np.array(bent.minimum)
        x[moved] = x[four[1]] + along + np.cos(turn) * (arm - along) + np.sin(turn) * np.cross(axis, arm)
        found.append(bent.minimise(x))
    x = torch.as_tensor(np.array(found))
    energy = CompiledEnergy(bent)
    low = x[energy(x) < energy(x).min() + 8.0]
    c = InternalCoordinates.from_system(bent, energy=energy)
    (column,) = (k for k in range(c.n_stiff) if set(c.layout.stiff(k)[1]) == set(four[:3]) and c.named(k)[4] == "a")
    plain = InternalCoordinates.fit(c.zmatrix, bent.minimum, energy.value_and_gradient)
    out, within = (one.to_internal(low)[0][:, column].abs().max() for one in (plain, c))
    assert out > 2.5 and within < 1.2
