"""The molecule as OpenMM's objects, checked, and what the rest of the package asks of it.

Quantities with `openmm.unit` units are accepted here and nowhere further in: positions become nm, the
temperature K.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from ..tools.warn import warn
from .bias import biases
from .checks import check_supported, repeat_warnings
from .copies import canonical_xml, copied, digest
from .distances import distance_bonds
from .graph import BondGraph, bonds_of, constraints_of, repeated_bonds, tells_bonds
from .minimum import minimised
from .openmm_private import drop_repeated_bonds
from .solvent import default_parameters, solvent_of
from .units import GAS_CONSTANT, in_kelvin, in_nanometers


@dataclass(frozen=True, eq=False, repr=False)
class Molecule:
    """One molecule at one temperature: topology, System and positions, checked at construction; `MolecularSystem` has
    the parameters, and the ways to make one.
    """

    topology: app.Topology
    system: openmm.System
    positions: np.ndarray
    temperature: float
    _: KW_ONLY
    name: str = "molecule"
    folder: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    forcefield: str = "a System made with OpenMM"
    _contents: bytes = field(init=False)

    def __post_init__(self) -> None:
        # The edge of the package: after this, no Quantity.
        object.__setattr__(self, "positions", in_nanometers(self.positions))
        object.__setattr__(self, "temperature", in_kelvin(self.temperature))
        object.__setattr__(self, "topology", _bonded(self.topology, self.system, self.positions))
        check_supported(self.topology, self.system, self.positions, self.name)
        if len(repeated_bonds(self.topology)):
            object.__setattr__(self, "topology", copy.deepcopy(self.topology))
            drop_repeated_bonds(self.topology)
        object.__setattr__(self, "system", copied(self.system, self.name))
        object.__setattr__(self, "_contents", digest(self.system))
        told = repeat_warnings(self.topology, self.system), default_parameters(self.topology, self.system)
        for text in itertools.chain(*told, biases(self.system)):
            warn(f"{self.name}: {text}")

    def __repr__(self) -> str:
        return f"MolecularSystem({self.name!r}, {self.n_atoms} atoms, {self.temperature:g} K; {self.physics})"

    @property
    def physics(self) -> str:
        """Force field, implicit solvent and constraints, in words."""
        fixed = len(self.constraints[0])
        found = [self.forcefield, solvent_of(self.system), *([f"{fixed} bonds constrained"] if fixed else [])]
        return "; ".join(found)

    @property
    def n_atoms(self) -> int:
        return self.system.getNumParticles()

    @property
    def has_forces(self) -> bool:
        """Whether anything in the System adds energy."""
        return any(not isinstance(force, openmm.CMMotionRemover) for force in self.system.getForces())

    @property
    def kT(self) -> float:
        """Thermal energy, kJ/mol, with OpenMM's gas constant."""
        return GAS_CONSTANT * self.temperature

    @property
    def elements(self) -> list[str]:
        return [atom.element.symbol for atom in self.topology.atoms()]

    @property
    def masses(self) -> np.ndarray:
        """Masses (n_atoms,) float64, dalton, of the System (hydrogen masses may be repartitioned)."""
        return np.array([self.system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(self.n_atoms)])

    @property
    def element_masses(self) -> np.ndarray:
        """Masses (n_atoms,) float64, dalton, of the elements, which do not depend on repartitioning."""
        return np.array([atom.element.mass.value_in_unit(unit.dalton) for atom in self.topology.atoms()])

    @cached_property
    def bonds(self) -> np.ndarray:
        """Bonds (n_bonds, 2) int, i < j, sorted: of the topology or, where it lists none, of the System's springs and
        constraints; where there are none either, by elements and distances in `positions`."""
        return bonds_of(self.topology, self.system)

    @cached_property
    def graph(self) -> BondGraph:
        """Bond graph of the molecule."""
        return BondGraph(self.elements, self.bonds)

    @property
    def constraints(self) -> tuple[np.ndarray, np.ndarray]:
        """Bonds of fixed length: pairs (m, 2) int, i < j, sorted, and lengths (m,) float64, nm."""
        found = constraints_of(self.system)
        pairs = np.array([(i, j) for i, j, _ in found], dtype=np.int64).reshape(-1, 2)
        return pairs, np.array([length for _, _, length in found], dtype=np.float64)

    @cached_property
    def md_topology(self) -> mdtraj.Topology:
        topology = mdtraj.Topology.from_openmm(self.topology)
        if topology.n_bonds == 0:
            for i, j in self.bonds:
                topology.add_bond(topology.atom(i), topology.atom(j))
        return topology

    @cached_property
    def minimum(self) -> np.ndarray:
        """Local energy minimum (n_atoms, 3) float64, nm, below `positions` (deterministic).

        Constrained bonds have their lengths.
        """
        return self.minimise(self.positions)

    def minimise(self, positions: np.ndarray) -> np.ndarray:
        """Local energy minimum (n_atoms, 3) float64, nm, below the given positions; see `minimum`."""
        self.require_unchanged()
        return minimised(self.system, positions)

    def require_unchanged(self) -> None:
        """Raise a ValueError if the System was changed after construction, so that its energies are those of another
        one.

        `app.Metadynamics` and its like add their force to the System that they are given.
        """
        if digest(self.system) == self._contents:
            return
        last = self.system.getForce(self.system.getNumForces() - 1) if self.system.getNumForces() else None
        raise ValueError(
            f"Expected the System of {self.name} as it was given; it was changed since (its last force is "
            f"{'none' if last is None else last.getName()}). app.Metadynamics and others add a bias to the System that "
            "they get: pass them copy.deepcopy(system.system), and load the molecule again."
        )

    @property
    def fingerprint(self) -> str:
        """sha256 of elements, bonds, System and temperature, which identifies the molecule that a saved model belongs
        to.

        Raises what `require_unchanged` raises.
        """
        self.require_unchanged()
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        parts = [",".join(self.elements), str(self.bonds.tolist()), canonical_xml(self.system), repr(self.temperature)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _bonded(topology: app.Topology, system: openmm.System, positions: np.ndarray) -> app.Topology:
    """The topology, with bonds by distance where neither it nor the System, as of a neural network, names any."""
    atoms = list(topology.atoms())
    known = topology.getNumBonds() > 0 or tells_bonds(system)
    if known or positions.shape != (len(atoms), 3) or any(atom.element is None for atom in atoms):
        return topology
    topology = copy.deepcopy(topology)
    atoms = list(topology.atoms())
    for i, j in distance_bonds([atom.element.symbol for atom in atoms], positions):
        topology.addBond(atoms[i], atoms[j])
    return topology


def refuse_name(system: object) -> None:
    """Raise a ValueError, with what to do, for the name or path of a molecule in place of a MolecularSystem."""
    if isinstance(system, str | Path):
        raise ValueError(
            f"Expected a MolecularSystem; got {str(system)!r}. Of a shipped molecule or a folder make one with "
            "MolecularSystem.load(...), of a file with MolecularSystem.from_pdb(...), from_sdf(...) or another reader."
        )
