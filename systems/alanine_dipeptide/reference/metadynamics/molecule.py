"""Alanine dipeptide by plain OpenMM: the settings of a run, the System of ../../input.pdb, its angles and contexts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm as mm
from openmm import app, unit

PDB = Path(__file__).resolve().parents[2] / "input.pdb"
FORCEFIELD = ("amber96.xml", "implicit/obc1.xml")
GAS = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)


@dataclass(frozen=True)
class Settings:
    """Everything that shapes the run; saved in raw/settings.json and in metadynamics.json."""

    temperature: float = 300.0  # K
    friction: float = 1.0  # 1/ps
    step_fs: float = 2.5
    hydrogen_mass: float = 4.0  # amu; other masses as in the force field. Masses leave the equilibrium alone
    walkers: int = 8
    seed: int = 2024
    grid: int = 60  # bias grid points an angle
    bias_factor: float = 6.0
    hill_height: float = 0.6  # kT
    hill_width: float = 0.3  # rad
    hill_every: int = 200  # steps
    metadynamics_ns: float = 3.0  # all walkers together
    cap: float = 9.5  # kT; the frozen bias levels F(phi, psi) up to here, above it (steric walls) no further
    settle_ps: float = 50.0  # each walker, dropped at the start of production
    frame_every: int = 160  # steps
    ns: float = 90.0  # production, all walkers together

    def __post_init__(self) -> None:
        if self.bias_factor <= 1 or self.walkers < 2:
            raise ValueError(f"Expected bias_factor > 1 and at least 2 walkers; got {self}.")

    @property
    def kT(self) -> float:
        """kJ/mol."""
        return GAS * self.temperature


def load() -> tuple[app.Topology, np.ndarray, mm.System]:
    """Topology, positions (atoms, 3) nm and the unbiased, unconstrained System of ../../input.pdb."""
    pdb = app.PDBFile(str(PDB))
    system = app.ForceField(*FORCEFIELD).createSystem(
        pdb.topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False, removeCMMotion=False
    )
    return pdb.topology, pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer), system


def named_atoms(topology: app.Topology) -> dict[str, int]:
    """Indices of the backbone atoms by "RES:ATOM", e.g. "ALA:CA"."""
    return {f"{a.residue.name}:{a.name}": a.index for a in topology.atoms()}


def backbone(topology: app.Topology) -> list[int]:
    """C, N, CA, C, N: the five atoms of phi and psi."""
    at = named_atoms(topology)
    return [at[name] for name in ("ACE:C", "ALA:N", "ALA:CA", "ALA:C", "NME:N")]


def dihedral(x: np.ndarray, atoms: list[int]) -> np.ndarray:
    """Dihedral in (-pi, pi] of ``x`` (..., atoms, 3), IUPAC sign."""
    a, b, c, d = (x[..., i, :] for i in atoms)
    axis = c - b
    n1, n2 = np.cross(b - a, axis), np.cross(axis, d - c)
    return np.arctan2(np.linalg.norm(axis, axis=-1) * np.sum((b - a) * n2, axis=-1), np.sum(n1 * n2, axis=-1))


def set_hydrogen_mass(system: mm.System, topology: app.Topology, mass: float) -> None:
    for atom in topology.atoms():
        if atom.element.symbol == "H":
            system.setParticleMass(atom.index, mass)


def cpu_context(system: mm.System, s: Settings, step_fs: float, seed: int) -> mm.Context:
    integrator = mm.LangevinMiddleIntegrator(s.temperature, s.friction, step_fs / 1000)
    integrator.setRandomNumberSeed(seed)
    return mm.Context(system, integrator, mm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
