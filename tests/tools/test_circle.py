"""Angles on the circle."""

from __future__ import annotations

import math

import numpy as np
import torch

from openmm_fab.tools.circle import BINS, circular_density, smooth, wrap, wrap_periodic


def test_wrapping_keeps_the_angle_and_its_half_open_range():
    angles = torch.tensor([0.1, math.pi, -math.pi, 3 * math.pi + 0.1, -7.0], dtype=torch.float64)
    found = wrap(angles)
    assert bool(((found >= -math.pi) & (found < math.pi)).all())
    torch.testing.assert_close(torch.polar(torch.ones(5).double(), found), torch.polar(torch.ones(5).double(), angles))


def test_only_periodic_entries_are_wrapped():
    z = torch.tensor([[4.0, 4.0]])
    found = wrap_periodic(z, torch.tensor([False, True]))
    assert found[0, 0] == 4.0 and found[0, 1] == wrap(z)[0, 1]


def test_densities_close_at_pi():
    density = circular_density(np.array([math.pi - 1e-3]), np.array([2.0]))
    assert abs(density.sum() - 1.0) < 1e-12
    assert np.argmax(density) == BINS - 1 and abs(density[0] - density[BINS - 2]) < 1e-12
    np.testing.assert_allclose(smooth(np.ones(BINS)), 1.0)
