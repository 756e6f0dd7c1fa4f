"""Widths of rings that pucker: which torsions they are, and that the other pucker is within reach."""

from __future__ import annotations

import molecules as m
import numpy as np
import pytest
import torch

from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.coordinates.zmatrix import build_zmatrix, puckering
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.molecule.graph import is_planar
from openmm_fab.molecule.system import MolecularSystem


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
    z[:, modes.columns] *= -1  # the centre lies between the two
    x, log_det = c.to_cartesian(z)
    assert torch.isfinite(log_det).all()
    second = s.minimise(x[0].numpy())
    assert torsion(first) * torsion(second) < 0 and abs(torsion(second)) > 0.2
    found, _ = c.to_internal(torch.tensor(second)[None])
    assert found[0, : c.n_stiff].abs().max() < FlowSettings().bound
    assert (found[:, modes.columns] - modes.means).abs().amax(1).min() < 0.3  # of a mode's width
    rigid = InternalCoordinates.from_system(s, CoordinateSettings(puckers=0.0), energy=energy)
    assert rigid.to_internal(torch.tensor(second)[None])[0][0, : c.n_stiff].abs().max() > FlowSettings().bound
