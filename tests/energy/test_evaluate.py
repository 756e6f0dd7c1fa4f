"""Energies of an ensemble are evaluated in batches, each row once, and in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmm_fab.energy import evaluate
from openmm_fab.energy.evaluate import energies_of


def test_every_row_once_in_batches(monkeypatch) -> None:
    monkeypatch.setattr(evaluate, "BATCH", 4)
    sizes: list[int] = []

    def energy(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        assert not torch.is_grad_enabled()
        return x.square().sum((1, 2))

    x = np.random.default_rng(0).normal(size=(10, 3, 3)).astype(np.float32)
    u = energies_of(energy, x)
    assert sizes == [4, 4, 2] and u.dtype == np.float64
    np.testing.assert_allclose(u, np.square(x).sum((1, 2)), rtol=1e-6)
    assert energies_of(energy, x[:0]).shape == (0,) and len(sizes) == 3


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(batch,\)"):
        energies_of(lambda x: x[:, 0], np.zeros((5, 2, 3)))
