"""What is said of the annealed structures in the buffer: where their weight lies."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from openmm_fab.generator.training import weight_above_cut, weight_outside

LOG_W = torch.log(torch.tensor([1.0, 2.0, 5.0]))


def test_weight_outside_looks_at_stiff_coordinates_only() -> None:
    z = torch.tensor([[0.0, 9.0], [-6.0, 0.0], [4.0, 0.0]])
    assert weight_outside(z, LOG_W, 1, 5.0) == pytest.approx(2 / 8)
    assert weight_outside(z, LOG_W, 2, 5.0) == pytest.approx(3 / 8)


def test_weight_above_the_cut() -> None:
    coordinates = SimpleNamespace(to_cartesian=lambda z: (10 * z, torch.zeros(len(z))))
    z = torch.tensor([[1.0], [2.0], [3.0]])
    assert weight_above_cut(z, LOG_W, coordinates, lambda x: x[:, 0], 15.0) == pytest.approx(7 / 8)
    assert weight_above_cut(z, torch.full((3,), -torch.inf), coordinates, lambda x: x[:, 0], 15.0) == 0.0
