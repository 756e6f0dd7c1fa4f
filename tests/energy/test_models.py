"""Packages of machine-learned and tight-binding potentials, as `docs/energy.md` shows them, where they are installed.

Trained weights have to be downloaded: these networks are small ones of the same architecture, with random weights.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
import pytest
import torch
from openmm import app
from torch import Tensor

from openmm_fab.energy.given import from_torch
from openmm_fab.energy.slopes import check_gradient
from openmm_fab.molecule.system import MolecularSystem

BOHR, HARTREE, EV = 0.0529177210903, 2625.4996394799, 96.4853321233  # nm, kJ/mol

pytestmark = pytest.mark.filterwarnings("ignore")


def _numbers(system: MolecularSystem) -> Tensor:
    return torch.tensor([app.Element.getBySymbol(e).atomic_number for e in system.elements])


def _near(system: MolecularSystem, n: int = 3) -> Tensor:
    noise = np.random.default_rng(0).normal(scale=0.003, size=(n, system.n_atoms, 3))
    return torch.from_numpy(system.positions + noise)


def test_torchani(alanine_dipeptide: MolecularSystem) -> None:
    """ANI-2x's symmetry functions and networks of its elements, two members."""
    arch = pytest.importorskip("torchani.arch")
    torch.manual_seed(0)
    ani = arch.simple_ani(("H", "C", "N", "O"), lot="wb97x-631gd", ensemble_size=2, self_energies="zero").double()
    system, species = alanine_dipeptide, _numbers(alanine_dipeptide)
    energy = from_torch(lambda x: ani((species.expand(len(x), -1), 10 * x)).energies, system, "hartree")
    x = _near(system)
    singles = torch.cat([ani((species[None], 10 * x[k : k + 1])).energies for k in range(len(x))]).detach()
    torch.testing.assert_close(energy(x), singles * HARTREE / system.kT, rtol=1e-9, atol=0)
    check_gradient(energy, x)


def test_aimnet(alanine_dipeptide: MolecularSystem) -> None:
    """AIMNet2 with narrower layers; all atoms of a structure see each other."""
    aimnet, yaml = pytest.importorskip("aimnet.config"), pytest.importorskip("yaml")
    settings: Any = yaml.safe_load(resources.files("aimnet.models").joinpath("aimnet2.yaml").read_text())
    narrow = settings["kwargs"]
    narrow |= {"hidden": [[32, 24], [32, 24], [32, 24, 24]], "aim_size": 16}
    narrow["outputs"]["energy_mlp"]["kwargs"] |= {"n_in": 16}
    torch.manual_seed(0)
    model = aimnet.build_module(settings).double().eval()
    system, numbers = alanine_dipeptide, _numbers(alanine_dipeptide)

    def energies(x: Tensor) -> Tensor:
        n = len(x)
        return model({"coord": 10 * x, "numbers": numbers.expand(n, -1), "charge": x.new_zeros(n)})["energy"]

    energy, x = from_torch(energies, system, "eV"), _near(system)
    singles = torch.cat([energies(x[k : k + 1]) for k in range(len(x))]).detach()
    torch.testing.assert_close(energy(x), singles * EV / system.kT, rtol=1e-9, atol=0)
    check_gradient(energy, x)


def test_dxtb() -> None:
    """GFN1-xTB in PyTorch, whose parameters come with it, and tblite's."""
    dxtb, tblite = pytest.importorskip("dxtb"), pytest.importorskip("tblite.interface")
    system = MolecularSystem.load("butane")
    numbers, x = _numbers(system), _near(system)

    def energies(x: Tensor) -> Tensor:
        options = {"verbosity": 0, "batch_mode": 2}
        calculator = dxtb.Calculator(numbers.expand(len(x), -1), dxtb.GFN1_XTB, dtype=torch.float64, opts=options)
        return calculator.get_energy(x / BOHR, chrg=x.new_zeros(len(x), 1))

    u, gradient = from_torch(energies, system, "hartree").value_and_gradient(x)
    for k in range(len(x)):
        solver = tblite.Calculator("GFN1-xTB", numbers.numpy(), x[k].numpy() / BOHR)
        solver.set("verbosity", 0)
        known = solver.singlepoint()
        assert float(u[k]) == pytest.approx(float(known["energy"]) * HARTREE / system.kT, abs=0.005)
        slope = np.array(known["gradient"]) * HARTREE / BOHR / system.kT
        np.testing.assert_allclose(gradient[k], slope, atol=1e-4 * np.abs(slope).max())
