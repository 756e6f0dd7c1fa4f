"""Who takes part in the race: molecules with a rare basin and a truth, and methods of molecular dynamics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

import openmm_fab as fab
from openmm_fab.md.bias import chosen_torsions

from . import beads, calibration

FIRST_PS = {"langevin": 2000.0, "replica-exchange": 200.0, "opes": 1000.0, "app.Metadynamics": 500.0}
WALKERS_PS = 24.0
HEAVY, STEP_FS = 4.0, 2.0  # dalton, fs: of OpenMM's methods


@dataclass(frozen=True)
class Molecule:
    """A molecule of the race.

    Parameters
    ----------
    system : str
        Shipped, or "united_pentane", see `beads`, or of `RINGS`.
    basin : callable or None
        Frames in the rarest basin above 0.1 %, of an mdtraj.Trajectory; None: it waits for its reference.
    truth : callable or None
        () -> F(basin) - F(rest), kT, its standard error, where it is from.
    torsions : callable
        () -> four atoms each of one or two torsions that biases are on; None: those that the package would choose.
    """

    system: str
    basin: Callable[[mdtraj.Trajectory], np.ndarray] | None = None
    truth: Callable[[], tuple[float, float, str]] | None = None
    torsions: Callable[[], tuple[tuple[int, int, int, int], ...] | None] = lambda: None


def gauche_plus(trajectory: mdtraj.Trajectory) -> np.ndarray:
    """Frames of butane with a torsion between 0 and 120 degrees."""
    torsion = chosen_torsions(trajectory.topology, None)[:1]
    angle = mdtraj.compute_dihedrals(trajectory, torsion, periodic=False)[:, 0]
    return (angle > 0.0) & (angle < calibration.GAUCHE)


def _gauche_plus_truth() -> tuple[float, float, str]:
    """Half of what is gauche, by symmetry."""
    value, error, source = calibration.truth("butane")
    both = 1.0 / (1.0 + math.exp(value))
    half = both / 2.0
    return math.log((1.0 - half) / half), error * (1.0 - both) / (1.0 - half), f"half of gauche; {source}"


RINGS = {"piperidine": "C1CCNCC1", "cyclohexene": "C1CCC=CC1"}  # Sage's parameters, Gasteiger's charges, no solvent


def across(name: str) -> tuple[int, int, int, int]:
    """Atoms of the torsion C-C-C-C in the ring that is positive in one of two equal chairs or half-chairs."""
    from rdkit import Chem

    return Chem.MolFromSmiles(RINGS[name]).GetSubstructMatch(Chem.MolFromSmarts("[CH2][CH2][CH2][CH2]"))


def ring(name: str) -> Molecule:
    """One with two equal shapes, by symmetry; biases are on the torsion that tells them apart."""

    def positive(trajectory: mdtraj.Trajectory) -> np.ndarray:
        return mdtraj.compute_dihedrals(trajectory, [across(name)], periodic=False)[:, 0] > 0.0

    return Molecule(name, positive, lambda: (0.0, 0.0, "symmetry"), lambda: (across(name),))


MOLECULES = {
    "united_pentane": Molecule(
        "united_pentane",
        beads.inside,
        lambda: calibration.truth("united_pentane"),
        lambda: ((0, 1, 2, 3), (1, 2, 3, 4)),
    ),
    "butane": Molecule("butane", gauche_plus, _gauche_plus_truth),
    "alanine_dipeptide": Molecule(
        "alanine_dipeptide", calibration.phi_positive, lambda: calibration.truth("alanine_dipeptide")
    ),
    **{name: ring(name) for name in RINGS},
    "proline_dipeptide": Molecule("proline_dipeptide"),
    "alanine_tetrapeptide": Molecule("alanine_tetrapeptide"),
    "ibuprofen": Molecule("ibuprofen"),
    "elil": Molecule("elil"),
}


def load(name: str) -> fab.MolecularSystem:
    """The molecule of a name of `Molecule.system`."""
    if name in RINGS:
        return fab.MolecularSystem.from_smiles(RINGS[name], name=name, charges="gasteiger", solvent="none")
    return beads.chain(5) if name == "united_pentane" else fab.MolecularSystem.load(name)


def heavy(system: fab.MolecularSystem) -> fab.MolecularSystem:
    """The molecule with hydrogens of `HEAVY` dalton: the distribution of x does not depend on masses."""
    copied = openmm.XmlSerializer.clone(system.system)
    for atom, element in enumerate(system.elements):
        if element == "H":
            copied.setParticleMass(atom, HEAVY)
    about = {"temperature": system.temperature, "name": system.name}
    return fab.MolecularSystem.from_openmm(system.topology, copied, system.positions, **about)


# --- methods: each a series of ensembles that cost more and more ---

Step = tuple[fab.Ensemble, int]  # an ensemble, and energy evaluations so far


def by_reference(
    method: str, **settings: Any
) -> Callable[[fab.MolecularSystem, Path, int, Molecule, float], Iterator[Step]]:
    """A method of `run_reference`, resumed with twice the time again and again."""

    def run(system: fab.MolecularSystem, folder: Path, seed: int, molecule: Molecule, scale: float) -> Iterator[Step]:
        about = dict(settings)
        if method in ("langevin", "replica-exchange", "opes"):
            system = heavy(system)
            about |= {"step_fs": STEP_FS} | fastest(system)
        if method in ("metadynamics", "opes"):
            about["torsions"] = molecule.torsions()
        copies = about.get("walkers", about.get("temperatures", 6) if method == "replica-exchange" else 1)
        before = about.get("equilibration_ps", 50.0) + about.get("build_ps", 0.0)
        ps = scale * FIRST_PS.get(method, WALKERS_PS)
        while True:
            found = fab.run_reference(
                system, method, folder=folder, resume=True, seed=seed, progress=False, time_ps=ps, **about
            )
            yield found, int(copies * (ps + before) * 1000.0 / about["step_fs"])
            ps *= 2.0

    return run


def app_metadynamics(
    system: fab.MolecularSystem, folder: Path, seed: int, molecule: Molecule, scale: float
) -> Iterator[Step]:
    """OpenMM's own: the bias is built on the first torsions, then stays as it is, and frames are weighted by it."""
    system = heavy(system)
    build, frame, hill, step = 500.0 * scale, 1.0, 0.5, 0.001 * STEP_FS  # ps
    torsions = molecule.torsions() or chosen_torsions(system.md_topology, None)
    copied = openmm.XmlSerializer.clone(system.system)
    variables = []
    for atoms in torsions:
        force = openmm.CustomTorsionForce("theta")
        force.addTorsion(*atoms, [])
        variables.append(app.BiasVariable(force, -np.pi, np.pi, 0.35, True, 101))
    kelvin = system.temperature * unit.kelvin
    meta = app.Metadynamics(copied, variables, kelvin, 8.0, 1.2 * unit.kilojoule_per_mole, round(hill / step))
    integrator = openmm.LangevinMiddleIntegrator(kelvin, 1.0 / unit.picosecond, step * unit.picoseconds)
    integrator.setRandomNumberSeed(seed + 1)
    where = fastest(system)
    platform = openmm.Platform.getPlatformByName(where["platform"])
    simulation = app.Simulation(system.topology, copied, integrator, platform, where.get("properties") or {})
    simulation.context.setPositions(system.minimum)
    simulation.context.setVelocitiesToTemperature(kelvin, seed + 1)
    meta.step(simulation, round(build / step))
    group = {copied.getForce(copied.getNumForces() - 1).getForceGroup()}
    kept, bias, ps = [], [], scale * FIRST_PS["app.Metadynamics"]
    while True:
        while len(kept) * frame < ps:
            integrator.step(round(frame / step))
            state = simulation.context.getState(getPositions=True)
            kept.append(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer).astype(np.float32))
            energy = simulation.context.getState(getEnergy=True, groups=group).getPotentialEnergy()
            bias.append(energy.value_in_unit(unit.kilojoule_per_mole) / system.kT)
        trajectory = mdtraj.Trajectory(np.array(kept), system.md_topology)
        log_w = np.array(bias)
        found = fab.Ensemble.from_mdtraj(trajectory, system, log_weights=log_w - log_w.max())
        yield found, round((build + ps) / step)
        ps *= 2.0


METHODS: dict[str, Callable[[fab.MolecularSystem, Path, int, Molecule, float], Iterator[Step]]] = {
    "walkers-exchange": by_reference(
        "walkers-exchange", walkers=128, temperatures=4, equilibration_ps=50.0, hydrogen_mass=3.0, step_fs=2.0
    ),
    "metadynamics": by_reference(
        "metadynamics", walkers=256, build_ps=20.0, equilibration_ps=10.0, hydrogen_mass=3.0, step_fs=2.0
    ),
    "replica-exchange": by_reference("replica-exchange", temperatures=6, max_temperature=600.0),
    "app.Metadynamics": app_metadynamics,
    "opes": by_reference("opes"),
    "langevin": by_reference("langevin"),
}


def fastest(system: fab.MolecularSystem) -> dict[str, Any]:
    """Platform of OpenMM and its properties that take the least CPU time for some thousand steps on one core."""
    times = {}
    for name, properties in (("Reference", {}), ("CPU", {"Threads": "1"})):
        integrator = openmm.VerletIntegrator(0.001)
        platform = openmm.Platform.getPlatformByName(name)
        context = openmm.Context(system.system, integrator, platform, properties)
        context.setPositions(system.minimum)
        integrator.step(100)
        started = time.process_time()
        integrator.step(2000)
        context.getState(getEnergy=True)
        times[time.process_time() - started] = {"platform": name, "properties": properties or None}
    return times[min(times)]
