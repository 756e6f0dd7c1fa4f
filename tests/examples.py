"""Examples with known answers that several test files use."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmm_fab.molecule.system import MolecularSystem


class GaussianFlow:
    """What annealed importance sampling asks of a flow, as a normal density: mean and std of shape (dim,)."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std

    def sample(self, n: int, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        z = self.mean + self.std * torch.randn(n, len(self.mean), generator=rng, dtype=self.mean.dtype)
        return z, self.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        deviation = (z - self.mean) / self.std
        return (-0.5 * deviation.square() - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(1)

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_prob(z), (self.mean - z) / self.std.square()

    def to_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return (z - self.mean) / self.std, -self.std.log().sum().expand(len(z))

    def from_base(self, base: Tensor, frozen: bool = False) -> tuple[Tensor, Tensor]:
        return self.mean + self.std * base, self.std.log().sum().expand(len(base))

    def base_log_prob(self, base: Tensor) -> Tensor:
        return (-0.5 * base.square() - 0.5 * math.log(2 * math.pi)).sum(1)


# A chain of five beads without nonbonded forces: every bond, angle and torsion is independent of the others.
ELEMENTS = ("C", "C", "O", "C", "N")
BONDS = ((0.153, 20_000.0), (0.143, 25_000.0), (0.143, 40_000.0), (0.147, 30_000.0))  # nm, kJ/mol/nm^2
ANGLES = ((1.95, 200.0), (1.90, 300.0), (2.00, 250.0))  # rad, kJ/mol/rad^2
TORSIONS = (((3, 0.0, 5.0), (1, 0.7, 2.0)), ((2, 0.0, 4.0), (1, -1.0, 1.5)))  # periodicity, phase in rad, kJ/mol


def write_chain(folder: Path, temperature: float = 300.0) -> Path:
    """A system folder of the chain: PDB file, force field, system.toml."""
    folder.mkdir(parents=True, exist_ok=True)
    n = len(ELEMENTS)
    types = "".join(f'<Type name="{i}" class="{i}" element="{e}" mass="14"/>' for i, e in enumerate(ELEMENTS))
    atoms = "".join(f'<Atom name="{e}{i}" type="{i}"/>' for i, e in enumerate(ELEMENTS))
    links = "".join(f'<Bond atomName1="{_name(i)}" atomName2="{_name(i + 1)}"/>' for i in range(n - 1))
    bonds = "".join(f'<Bond {_classes(i, 2)} length="{r}" k="{k}"/>' for i, (r, k) in enumerate(BONDS))
    angles = "".join(f'<Angle {_classes(i, 3)} angle="{a}" k="{k}"/>' for i, (a, k) in enumerate(ANGLES))
    torsions = "".join(
        f"<Proper {_classes(i, 4)} "
        + " ".join(f'periodicity{j}="{m}" phase{j}="{p}" k{j}="{k}"' for j, (m, p, k) in enumerate(terms, start=1))
        + "/>"
        for i, terms in enumerate(TORSIONS)
    )
    (folder / "chain.xml").write_text(
        f'<ForceField><AtomTypes>{types}</AtomTypes><Residues><Residue name="CHN">{atoms}{links}</Residue></Residues>'
        f"<HarmonicBondForce>{bonds}</HarmonicBondForce><HarmonicAngleForce>{angles}</HarmonicAngleForce>"
        f"<PeriodicTorsionForce>{torsions}</PeriodicTorsionForce></ForceField>"
    )
    lines = [
        f"HETATM{i + 1:5d}  {_name(i):<3} CHN A   1    {1.2 * i:8.3f}{0.7 * (i % 2):8.3f}{0.3 * (i % 3):8.3f}"
        f"  1.00  0.00          {e:>2}"
        for i, e in enumerate(ELEMENTS)
    ]
    lines += [f"CONECT{i + 1:5d}{i + 2:5d}" for i in range(n - 1)]
    (folder / "chain.pdb").write_text("\n".join(lines) + "\nEND\n")
    (folder / "system.toml").write_text(
        f'name = "chain"\npdb = "chain.pdb"\nforcefield = "chain.xml"\ntemperature = {temperature}\n'
    )
    return folder


def chain(folder: Path, temperature: float = 300.0) -> MolecularSystem:
    return MolecularSystem.load(write_chain(folder, temperature))


def _name(i: int) -> str:
    return f"{ELEMENTS[i]}{i}"


def _classes(first: int, count: int) -> str:
    return " ".join(f'class{k + 1}="{first + k}"' for k in range(count))


def slopes_along(flow: torch.nn.Module, value: Callable[[], Tensor], rng: torch.Generator) -> tuple[float, float]:
    """The derivative of `value` (a scalar) along a random direction of all parameters: by backward, by differences."""
    value().backward()
    directions = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in flow.parameters()]
    expected = sum(float((p.grad * d).sum()) for p, d in zip(flow.parameters(), directions, strict=True))
    values = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for p, d in zip(flow.parameters(), directions, strict=True):
                p += step * d
        values.append(float(value().detach()))
    return expected, (values[0] - values[1]) / 2e-6


def losses_of(objective: Callable[..., None], trainer: Any) -> list[Tensor]:
    """The losses (scalars) of one iteration of an objective, with their graphs; no gradient step is made."""
    found: list[Tensor] = []
    trainer.learner.learn = found.append
    objective(trainer.learner, trainer.experience, trainer.settings)
    return found
