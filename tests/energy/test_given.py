"""Energies of your own: PyTorch models, functions of arrays, calculators of ASE; molecules without a force field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from examples import write_chain
from generators import QUIET, SMALL
from torch import Tensor, nn

from openmm_fab.energy.backends import reduced_energy
from openmm_fab.energy.given import UNITS, from_ase, from_function, from_torch
from openmm_fab.energy.minimum import minimise
from openmm_fab.energy.potential import Potential
from openmm_fab.energy.slopes import check_gradient
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.train.settings import Budget


def _near(system: MolecularSystem, n: int = 5) -> Tensor:
    noise = np.random.default_rng(0).normal(scale=0.005, size=(n, system.n_atoms, 3))
    return torch.from_numpy(system.positions + noise)


# --- models of the shapes that machine-learned potentials have, with random weights ---


class Distances(nn.Module):
    """ANI's shape: each atom's radial functions, by the neighbour's element, into a network of the atom's element."""

    def __init__(self, elements: list[str], functions: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kinds = sorted(set(elements))
        self.register_buffer("kind", torch.tensor([self.kinds.index(e) for e in elements]))
        self.register_buffer("centres", torch.linspace(0.8, 4.0, functions))
        width = functions * len(self.kinds)
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 16), nn.CELU(0.1), nn.Linear(16, 1)) for _ in self.kinds
        )

    def forward(self, x: Tensor) -> Tensor:
        """Energies (n,) of x (n, atoms, 3) in Å."""
        n, apart = x.shape[1], ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        d = (x[:, :, None] - x[:, None])[:, apart].view(len(x), n, n - 1, 3).norm(dim=-1)
        radial = (
            torch.exp(-4.0 * (d[..., None] - self.centres) ** 2) * (torch.cos(d / 5.2 * torch.pi) / 2 + 0.5)[..., None]
        )
        of = nn.functional.one_hot(self.kind.expand(n, n)[apart].view(n, n - 1), len(self.kinds)).to(radial)
        features = torch.einsum("bijf,ijk->bikf", radial, of).flatten(2)
        energies = torch.stack([network(features)[..., 0] for network in self.networks], -1)
        return energies.gather(2, self.kind.expand(len(x), -1)[..., None])[..., 0].sum(1)


class Graph(nn.Module):
    """MACE's shape: all structures are one graph of positions, edges and the structure that each atom is in."""

    def __init__(self, elements: list[str], width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(1)
        kinds = sorted(set(elements))
        self.register_buffer("kind", torch.tensor([kinds.index(e) for e in elements]))
        self.embed, self.mix = nn.Embedding(len(kinds), width), nn.Linear(width, width)
        self.radial, self.out = (
            nn.Sequential(nn.Linear(6, width), nn.SiLU(), nn.Linear(width, width)),
            nn.Linear(width, 1),
        )

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        x, (i, j), batch = data["positions"], data["edge_index"], data["batch"]
        r = (x[i] - x[j]).norm(dim=1, keepdim=True)
        weights = self.radial(torch.sin(torch.arange(1, 7, device=x.device) * r) / r)
        h = self.embed(self.kind.repeat(int(batch.max()) + 1))
        for _ in range(2):
            h = h + torch.tanh(self.mix(torch.zeros_like(h).index_add(0, i, h[j] * weights)))
        energies = torch.zeros(int(batch.max()) + 1, dtype=x.dtype, device=x.device)
        return {"energy": energies.index_add(0, batch, self.out(h)[:, 0])}

    @staticmethod
    def of_batch(x: Tensor) -> dict[str, Tensor]:
        """Fully connected structures x (n, atoms, 3) in Å as one graph."""
        n, atoms = x.shape[:2]
        i, j = (~torch.eye(atoms, dtype=torch.bool)).nonzero().T
        edges = torch.stack([torch.cat([k + atoms * b for b in range(n)]) for k in (i, j)])
        return {"positions": x.flatten(0, 1), "edge_index": edges, "batch": torch.arange(n).repeat_interleave(atoms)}


def test_a_network_of_ani_s_shape(system):
    model = Distances(system.elements).double()
    energy = from_torch(lambda x: model(10 * x), system, "hartree")
    check_gradient(energy, _near(system))
    x = _near(system)
    expected = model(10 * x).detach() * 2625.4996394799 / system.kT
    torch.testing.assert_close(energy(x), expected, rtol=1e-9, atol=0)
    assert energy.evaluations == 5 and energy.invalid == 0
    # In pieces it is the same.
    pieces = from_torch(lambda x: model(10 * x), system, "hartree", chunk=2)
    for a, b in zip(energy.value_and_gradient(x), pieces.value_and_gradient(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-9)


def test_a_graph_network_of_mace_s_shape(system):
    model = Graph(system.elements).double()
    energy = from_torch(lambda x: model(Graph.of_batch(10 * x))["energy"], system, "eV")
    check_gradient(energy, _near(system))
    x = _near(system)
    singles = torch.cat([model(Graph.of_batch(10 * x[k : k + 1]))["energy"] for k in range(5)]).detach()
    torch.testing.assert_close(energy(x), singles * 96.4853321233 / system.kT, rtol=1e-9, atol=0)


def test_a_module_gets_its_own_dtype(system):
    """Single precision inside; u and gradient are as wide as x."""

    class Nm(Distances):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.dtype)
            return super().forward(10 * x)[:, None]

    seen: list[torch.dtype] = []
    model = Nm(system.elements)
    energy = from_torch(model, system, "kJ/mol")
    u, gradient = energy.value_and_gradient(_near(system))
    assert u.dtype == gradient.dtype == torch.float64 and set(seen) == {torch.float32}
    exact = from_torch(lambda x: Nm(system.elements).double()(x), system, "kJ/mol").value_and_gradient(_near(system))
    torch.testing.assert_close(u, exact[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, exact[1], rtol=1e-3, atol=1e-3)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_units(system):
    """By numbers that stand here: CODATA 2018."""
    kJ = {"kJ/mol": 1.0, "kcal/mol": 4.184, "eV": 96.4853321233, "hartree": 2625.4996394799, "kT": system.kT}
    assert set(kJ) == {*UNITS, "kT"}
    x = _near(system, 1)
    for units, size in kJ.items():
        energy = from_torch(lambda x: x.square().sum((1, 2)), system, units)
        assert float(energy(x)) == pytest.approx(float(x.square().sum()) * size / system.kT, rel=1e-9)
        slope = energy.value_and_gradient(x)[1]
        torch.testing.assert_close(slope, 2 * x * size / system.kT, rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match=r"units out of .*'hartree'.*; got 'Hartree'"):
        from_torch(lambda x: x.sum((1, 2)), system, "Hartree")
    with pytest.raises(ValueError, match="chunk >= 1"):
        from_torch(lambda x: x.sum((1, 2)), system, "eV", chunk=0)


def test_results_of_another_shape_are_refused(system):
    x = _near(system)
    with pytest.raises(ValueError, match=r"energies with shape \(5,\) of 5 structures from a function|<lambda>"):
        from_torch(lambda x: x.sum(), system, "eV")(x)
    with pytest.raises(ValueError, match=r"whose gradient autograd knows.*from_function"):
        from_torch(lambda x: x.detach().sum((1, 2)), system, "eV").value_and_gradient(x)
    with pytest.raises(ValueError, match=r"Expected a gradient with shape \(5, 5, 3\)"):
        from_function(lambda x: (x.sum((1, 2)), x[0]), system, "eV").value_and_gradient(x)


def test_energies_alone_where_they_are_cheaper(system):
    asked = []

    def both(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append("both")
        return np.square(x).sum((1, 2)), 2 * x

    def values(x: np.ndarray) -> np.ndarray:
        asked.append("values")
        return np.square(x).sum((1, 2))

    energy, x = from_function(both, system, "kT", values=values), _near(system)
    torch.testing.assert_close(energy(x), x.square().sum((1, 2)))
    energy(x.requires_grad_()).sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())
    assert asked == ["values", "both"]


# --- molecules without a force field ---


@pytest.fixture
def bare(tmp_path: Path) -> MolecularSystem:
    """The chain by its atoms alone: no force field, and no CONECT records either."""
    folder = write_chain(tmp_path / "chain")
    lines = (folder / "chain.pdb").read_text().splitlines()
    path = tmp_path / "bare.pdb"
    path.write_text("\n".join(line for line in lines if not line.startswith("CONECT")) + "\n")
    return MolecularSystem.from_structure(path)


def test_bonds_of_a_structure_without_a_force_field(bare, system):
    assert bare.system.getNumForces() == 0 and not bare.has_forces and system.has_forces
    np.testing.assert_array_equal(bare.bonds, system.bonds)
    assert bare.md_topology.n_bonds == 4
    np.testing.assert_allclose(bare.masses, [12.011, 12.011, 15.999, 12.011, 14.007], rtol=1e-3)


def test_bonds_that_stand_in_the_file_are_kept(alanine_dipeptide):
    path = Path(alanine_dipeptide.folder) / alanine_dipeptide.settings["pdb"]
    made = MolecularSystem.from_structure(path)
    np.testing.assert_array_equal(made.bonds, alanine_dipeptide.bonds)


def test_a_generator_of_an_energy_alone(bare, system):
    """The chain's own potential as a model: minimum, coordinates and energies are those of its force field."""
    potential = Potential(system.system)
    energy = from_torch(lambda x: potential(x, {}), bare, "kJ/mol")
    generator = BoltzmannGenerator(bare, SMALL, energy=energy)
    known = reduced_energy(system)
    minimum = torch.from_numpy(generator.system.minimum)[None]
    assert float(energy(minimum)) == pytest.approx(float(known(torch.from_numpy(system.minimum)[None])), abs=1e-4)
    torch.testing.assert_close(
        generator.coordinates.mixing, BoltzmannGenerator(system, SMALL).coordinates.mixing, rtol=0.02, atol=1e-3
    )
    generator.train(Budget(iterations=1), **QUIET)
    ensemble = generator.sample(64)
    np.testing.assert_allclose(ensemble.u, known(torch.from_numpy(ensemble.x)).numpy(), rtol=1e-9)


def test_a_generator_without_any_energy_is_refused(bare):
    for energy in (None, lambda x: x.square().sum((1, 2))):
        with pytest.raises(ValueError, match=r"Expected forces in the System of bare, or an energy .*from_torch"):
            BoltzmannGenerator(bare, SMALL, energy=energy)


def test_minimum(system):
    energy = reduced_energy(system)
    found = minimise(energy.value_and_gradient, system.positions)
    u, gradient = energy.value_and_gradient(torch.from_numpy(found)[None])
    assert float(u) == pytest.approx(float(energy(torch.from_numpy(system.minimum)[None])), abs=1e-4)
    assert float(gradient.abs().max()) < 5.0
    with pytest.raises(ValueError, match="a finite energy of the structure given"):
        minimise(lambda x: (x.sum((1, 2)) / 0.0, x), system.positions)


# --- calculators of ASE ---


def test_a_calculator_of_ase(system):
    pytest.importorskip("ase")
    from ase.calculators.calculator import CalculationFailed, Calculator, all_changes

    class Springs(Calculator):
        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
            super().calculate(atoms, properties, system_changes)
            apart = atoms.positions[1:] - atoms.positions[:-1]
            r = np.linalg.norm(apart, axis=1, keepdims=True)
            if (r > 3.0).any():
                raise CalculationFailed("no convergence")
            slope = 10.0 * (r - 1.5) * apart / r
            forces = np.zeros_like(atoms.positions)
            forces[1:] -= slope
            forces[:-1] += slope
            self.results = {"energy": float(5.0 * ((r - 1.5) ** 2).sum()), "forces": forces}

    energy = from_ase(Springs(), system)
    check_gradient(energy, _near(system))
    x = _near(system)
    r = 10 * (x[:, 1:] - x[:, :-1]).norm(dim=2)
    expected = 5.0 * (r - 1.5).square().sum(1) * 96.4853321233 / system.kT
    torch.testing.assert_close(energy(x), expected, rtol=1e-9, atol=0)
    torn = x.clone()
    torn[1, 0] += 1.0
    u, gradient = energy.value_and_gradient(torn)
    assert u[1] == torch.inf and (gradient[1] == 0).all() and energy.invalid == 1
    torch.testing.assert_close(u[[0, 2, 3, 4]], expected[[0, 2, 3, 4]], rtol=1e-9, atol=0)


def test_tight_binding():
    """GFN2-xTB of butane, by tblite: its parameters come with it."""
    interface = pytest.importorskip("tblite.interface")
    calculators = pytest.importorskip("tblite.ase")
    butane = MolecularSystem.load("butane")
    path = Path(butane.folder) / butane.settings["pdb"]
    bare = MolecularSystem.from_structure(path)
    np.testing.assert_array_equal(bare.bonds, butane.bonds)
    energy = from_ase(calculators.TBLite(method="GFN2-xTB", verbosity=0), bare)
    x = torch.from_numpy(butane.positions)[None]
    numbers = np.array([{"H": 1, "C": 6}[e] for e in butane.elements])
    solved = interface.Calculator("GFN2-xTB", numbers, butane.positions / 0.0529177210903)
    solved.set("verbosity", 0)
    hartree = float(solved.singlepoint().get("energy"))
    assert float(energy(x)) == pytest.approx(hartree * 2625.4996394799 / butane.kT, rel=1e-6)
    check_gradient(energy, _near(butane, 2))
