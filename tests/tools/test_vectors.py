"""Angles and torsions of points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from openmm_fab.tools.vectors import bond_angle, torsion


def test_angles():
    corner = np.zeros(3)
    for degrees in (0.0, 10.0, 90.0, 180.0):
        arm = 0.3 * np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0])
        assert np.degrees(bond_angle(np.array([2.0, 0.0, 0.0]), corner, arm)) == pytest.approx(degrees, abs=1e-6)
    points = np.random.default_rng(0).normal(size=(3, 5, 3))
    np.testing.assert_array_equal(bond_angle(*points), [bond_angle(*points[:, k]) for k in range(5)])
    assert np.isnan(bond_angle(corner, corner, np.ones(3)))


def test_torsions_have_the_sign_of_iupac():
    """Looking along b-c, d is turned clockwise from a by a positive angle."""
    b, c = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    a = torch.tensor([[1.0, 0.0, -0.5]])
    for phi in (-2.0, 0.5, 3.0):
        d = torch.tensor([[2 * math.cos(phi), 2 * math.sin(phi), 1.3]])
        assert float(torsion(a, b, c, d)) == pytest.approx(phi, abs=1e-6)
