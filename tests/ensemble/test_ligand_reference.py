"""The shipped reference of ibuprofen fits the molecule: OpenMM's energies, one hand, and hot frames that count less."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import openmm_fab as fab
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.molecule.chemistry import molecule_of

Chem = pytest.importorskip("rdkit.Chem")


def test_frames_have_the_energies_that_openmm_gave_them() -> None:
    system = fab.MolecularSystem.load("ibuprofen")
    reference = fab.load_reference(system)
    assert reference is not None and reference.n > 3000 and len(np.unique(reference.block)) == 20
    few = slice(None, None, 50)
    u = CompiledEnergy(system)(torch.as_tensor(reference.x[few], dtype=torch.float64)).numpy()
    assert np.abs(u - reference.u[few]).max() < 0.01  # kT; coordinates are float32
    hot = reference.u > np.quantile(reference.u, 0.9)
    assert reference.weights[hot].sum() < 0.01
    hands = {Chem.MolToSmiles(Chem.RemoveHs(molecule_of(reference.topology, x[None]))) for x in reference.x[::500]}
    assert hands == {Chem.CanonSmiles("CC(C)Cc1ccc(cc1)[C@H](C)C(=O)[O-]")}
