"""Systems of different make on which the translated energy is compared with OpenMM, for tests and benchmarks.

`SYSTEMS` maps a name to a function that makes the System; `load` keeps what was made. openmmtools is needed for
most of them: its test systems, and the Amber files in its data.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from charmm import cut
from molecules import BUTANE
from openmm import app, unit

from openmm_fab.energy.reader import global_parameters

DATA = Path(__file__).with_name("data")
DIPEPTIDE = Path(__file__).parents[1] / "systems" / "alanine_dipeptide" / "input.pdb"
CUTOFF = {"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": 0.6 * unit.nanometer}
SWITCHED = {**CUTOFF, "switchDistance": 0.4 * unit.nanometer}
CHARMM = frozenset("ALA ASP GLU GLY LYS PHE PRO THR TRP TYR".split())  # residues of the peptides below


@dataclass(frozen=True)
class EnergySystem:
    """A System, a structure (n_atoms, 3) in nm near a minimum, and values of global parameters, if not the defaults."""

    system: openmm.System
    positions: np.ndarray
    parameters: dict[str, float] = field(default_factory=dict)


def _made(system: openmm.System, positions: Any, **parameters: float) -> EnergySystem:
    return EnergySystem(system, np.array(positions.value_in_unit(unit.nanometer), dtype=float), parameters)


# --- openmmtools ---


def openmmtools_system(name: str, **options: Any) -> EnergySystem:
    with _quiet():
        from openmmtools import testsystems

        test = getattr(testsystems, name)(**options)
    return _made(test.system, test.positions)


def _without_box(name: str, **options: Any) -> EnergySystem:
    """A liquid whose forces know no periodic images: cutoffs stay, and reaction fields with them."""
    found = openmmtools_system(name, **options)
    for force in found.system.getForces():
        if hasattr(force, "setNonbondedMethod"):
            force.setNonbondedMethod(force.CutoffNonPeriodic)
        if hasattr(force, "setUsesPeriodicBoundaryConditions"):
            force.setUsesPeriodicBoundaryConditions(False)
    return found


def _amber(name: str, coordinates: str = "inpcrd", **options: Any) -> EnergySystem:
    with _quiet():
        import openmmtools

        path = Path(openmmtools.__file__).with_name("data") / name
        system = app.AmberPrmtopFile(f"{path}.prmtop").createSystem(**options)
    return _made(system, app.AmberInpcrdFile(f"{path}.{coordinates}").positions)


def _restrained(kind: str, **options: Any) -> EnergySystem:
    """A guest tied to its host by a restraint force of openmmtools."""
    with _quiet():
        from openmmtools import forces, testsystems

        test = testsystems.HostGuestVacuum()
    k = 500.0 * unit.kilojoule_per_mole / unit.nanometer**2
    test.system.addForce(getattr(forces, kind)(spring_constant=k, **options))
    return _made(test.system, test.positions)


def _alchemical(name: str, atoms: range, value: float, **options: Any) -> EnergySystem:
    """An alchemically modified test system of openmmtools, all its lambdas at `value`."""
    with _quiet():
        from openmmtools import alchemy

        whole = load(name)
        region = alchemy.AlchemicalRegion(alchemical_atoms=atoms, **options)
        system = alchemy.AbsoluteAlchemicalFactory().create_alchemical_system(whole.system, region)
    lambdas = [name for name in global_parameters(system) if name.startswith("lambda_")]
    return EnergySystem(system, whole.positions, dict.fromkeys(lambdas, value))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


# --- OpenMM's force fields and readers ---


def force_field(pdb: str, *files: str, **options: Any) -> EnergySystem:
    loaded = app.PDBFile(str(DIPEPTIDE if pdb == "aldp" else DATA / f"peptide_{pdb}.pdb"))
    return _made(_field(files).createSystem(loaded.topology, **options), loaded.positions)


@cache
def _field(files: tuple[str, ...]) -> app.ForceField:
    return app.ForceField(*(io.StringIO(cut(file, CHARMM)) if file.startswith("charmm36") else file for file in files))


def _gromacs(rule: int) -> EnergySystem:
    """Butane with every type of bond, angle and torsion that a GROMACS topology may have."""
    neighbours: dict[int, list[int]] = {i: [] for i in range(len(BUTANE.elements))}
    for i, j in BUTANE.bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    angles = [(i, j, k) for j, others in neighbours.items() for i in others for k in others if i < k]
    torsions = [
        (i, j, k, m)
        for j, k in BUTANE.bonds.tolist()
        for i in neighbours[j]
        for m in neighbours[k]
        if i != k and m != j
    ]
    sections = {
        "defaults": [(1, rule, "yes", 0.5, 0.8)],
        "atomtypes": [
            ("CT", 6, 12.011, -0.12, "A", *((2.2e-3, 4.7e-6) if rule == 1 else (0.35, 0.28))),
            ("HC", 1, 1.008, 0.05, "A", *((1.2e-4, 3.0e-8) if rule == 1 else (0.25, 0.13))),
        ],
        "moleculetype": [("BUT", 3)],
        "atoms": [
            (i + 1, {"C": "CT", "H": "HC"}[e], 1, "BUT", f"{e}{i}", 1, -0.12 if e == "C" else 0.048)
            for i, e in enumerate(BUTANE.elements)
        ],
        "bonds": [
            (i + 1, j + 1, *((1, 0.153, 2.2e5) if max(i, j) < 4 else (2, 0.109, 1.2e7)))
            for i, j in BUTANE.bonds.tolist()
        ],
        "pairs": sorted({(min(t[0], t[3]) + 1, max(t[0], t[3]) + 1, 1) for t in torsions}),
        "angles": [(i + 1, j + 1, k + 1, *_angle_type(sum(a > 3 for a in (i, k)))) for i, j, k in angles],
        "dihedrals": [
            (*(a + 1 for a in t), *((3, 2.9, -1.4, 0.2, -1.7, 0.4, 0.1) if max(t) < 4 else (9, 0.0, 0.6, 3)))
            for t in torsions
        ]
        + [(1, 2, 3, 4, 2, 150.0, 2.0), (2, 3, 4, 12, 4, 180.0, 1.5, 2)],
        "system": [("butane",)],
        "molecules": [("BUT", 1)],
    }
    text = "\n".join(
        f"[ {name} ]\n" + "\n".join(" ".join(map(str, row)) for row in rows) for name, rows in sections.items()
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "butane.top")
        path.write_text(text + "\n")
        system = app.GromacsTopFile(str(path)).createSystem()
    return EnergySystem(system, BUTANE.positions)


def _angle_type(hydrogens: int) -> tuple[float, ...]:
    return ((5, 112.0, 480.0, 0.256, 6e3), (1, 110.0, 310.0), (2, 108.0, 400.0))[hydrogens]


# --- the list ---

_IMPLICIT = {"HCT": app.HCT, "OBC1": app.OBC1, "OBC2": app.OBC2, "GBn": app.GBn, "GBn2": app.GBn2}
_TEST_SYSTEMS = (
    *("HarmonicOscillator", "PowerOscillator", "HarmonicOscillatorArray", "ConstraintCoupledHarmonicOscillator"),
    *("Diatom", "CustomExternalForcesTestSystem", "MolecularIdealGas"),
    *("LennardJonesPair", "LennardJonesCluster", "WaterCluster"),
    *("AlanineDipeptideVacuum", "AlanineDipeptideImplicit", "TolueneVacuum", "HostGuestVacuum"),
    *(f"TolueneImplicit{model}" for model in _IMPLICIT),
    *(f"HostGuestImplicit{model}" for model in _IMPLICIT),
)
_LIQUIDS: dict[str, dict[str, Any]] = {
    "CustomGBForceSystem": {},
    "DoubleWellChain_WCAFluid": {"nparticles": 64, "density": 2.0},
    "DoubleWellDimer_WCAFluid": {"nparticles": 64, "density": 2.0},
    "CustomLennardJonesFluidMixture": {"nparticles": 64},
    "DipolarFluid": {"nmolecules": 64},
    "FlexibleReactionFieldWaterBox": {"box_edge": 1.5 * unit.nanometer, "cutoff": 0.7 * unit.nanometer},
}
_GUEST, _HOST = list(range(126, 156)), list(range(126))
_RESTRAINTS: dict[str, dict[str, Any]] = {
    "HarmonicRestraintForce": {"restrained_atom_indices1": _HOST, "restrained_atom_indices2": _GUEST},
    "FlatBottomRestraintBondForce": {
        "well_radius": 0.05 * unit.nanometer,
        "restrained_atom_index1": 40,
        "restrained_atom_index2": 130,
    },
}
_ALCHEMICAL: dict[str, tuple[range, dict[str, Any]]] = {
    "AlanineDipeptideVacuum": (
        range(6),
        {"alchemical_bonds": True, "alchemical_angles": True, "alchemical_torsions": True},
    ),
    "TolueneImplicitHCT": (range(15), {"annihilate_sterics": True}),
    "HostGuestImplicitOBC2": (range(126, 156), {"softcore_beta": 0.3}),
    "LennardJonesCluster": (range(4), {}),
}
_AMBER: dict[str, Callable[[], EnergySystem]] = {
    "benzene, GBn2": partial(_amber, "benzene-toluene-implicit/receptor", implicitSolvent=app.GBn2),
    "benzene and toluene, HCT with salt": partial(
        *(_amber, "benzene-toluene-implicit/complex"),
        implicitSolvent=app.HCT,
        implicitSolventSaltConc=0.15 * unit.molar,
    ),
    "p-xylene, cutoff": partial(_amber, "T4-lysozyme-L99A-implicit/ligand", "crd", **CUTOFF),
    "CB7, cutoff and switch": partial(_amber, "cb7-b2/receptor", **SWITCHED),
    "B2, OBC2 with cutoff": partial(_amber, "cb7-b2/ligand", implicitSolvent=app.OBC2, **CUTOFF),
    "viologen, OBC2 with salt, no surface term": partial(
        *(_amber, "cb7-viologen/leap/ligand"),
        implicitSolvent=app.OBC2,
        implicitSolventKappa=1.0 / unit.nanometer,
        gbsaModel=None,
    ),
    "CB7 and viologen, OBC1 with cutoff, dielectrics 2 and 40": partial(
        *(_amber, "cb7-viologen/leap/complex-vacuum"),
        implicitSolvent=app.OBC1,
        soluteDielectric=2.0,
        solventDielectric=40.0,
        **CUTOFF,
    ),
}
_FORCE_FIELDS = (
    ("aldp", "amber96.xml", "implicit/obc1.xml"),
    ("aldp", "amber99sbildn.xml", "implicit/hct.xml"),
    ("aldp", "amber14-all.xml", "implicit/obc2.xml"),
    ("aldp", "amber14-all.xml", "implicit/gbn.xml"),
    ("aldp", "amber19-all.xml", "implicit/gbn2.xml"),
    ("aldp", "amber99_obc.xml", "amber99sb.xml"),
    ("akf", "charmm36_2024.xml"),
    ("akf", "amber96.xml", "implicit/obc1.xml"),
    ("akf", "amber03.xml"),
    ("akf", "charmm36.xml", "implicit/obc2.xml"),
    ("chm", "amber99sbildn.xml", "implicit/hct.xml"),
    ("chm", "amber10.xml", "implicit/gbn.xml"),
    ("chignolin", "amber14-all.xml", "implicit/gbn2.xml"),
    ("chignolin", "amber19-all.xml", "implicit/obc1.xml"),
    ("chignolin", "amberfb15.xml", "implicit/obc2.xml"),
    ("chignolin", "charmm36.xml"),
)
_OPTIONS: dict[str, Callable[[], EnergySystem]] = {
    "chm: amber14-all, obc2, constraints and heavy hydrogens": partial(
        *(force_field, "chm", "amber14-all.xml", "implicit/obc2.xml"),
        constraints=app.HBonds,
        hydrogenMass=3.0 * unit.dalton,
    ),
    "aldp: amber14-all, gbn2, cutoff and switch": partial(
        force_field, "aldp", "amber14-all.xml", "implicit/gbn2.xml", **SWITCHED
    ),
    "chignolin: amber14-all, obc2, cutoff and switch": partial(
        force_field, "chignolin", "amber14-all.xml", "implicit/obc2.xml", **SWITCHED
    ),
    "akf: charmm36, cutoff and switch": partial(force_field, "akf", "charmm36.xml", **SWITCHED),
}


def _label(pdb: str, *files: str) -> str:
    return f"{pdb}: " + ", ".join(Path(file).stem for file in files)


SYSTEMS: dict[str, Callable[[], EnergySystem]] = {
    **{name: partial(openmmtools_system, name) for name in _TEST_SYSTEMS},
    **{f"{name} without box": partial(_without_box, name, **options) for name, options in _LIQUIDS.items()},
    **{f"HostGuestVacuum, {kind}": partial(_restrained, kind, **options) for kind, options in _RESTRAINTS.items()},
    **{
        f"{name}, alchemical, lambda {value}": partial(_alchemical, name, atoms, value, **options)
        for name, (atoms, options) in _ALCHEMICAL.items()
        for value in (1.0, 0.4, 0.0)
    },
    **{f"Amber: {name}": make for name, make in _AMBER.items()},
    **{f"GROMACS: butane, combination rule {rule}": partial(_gromacs, rule) for rule in (1, 2, 3)},
    **{_label(*row): partial(force_field, *row) for row in _FORCE_FIELDS},
    **_OPTIONS,
}


@cache
def load(name: str) -> EnergySystem:
    """The system of this name in SYSTEMS; the same object in every call, not to be changed."""
    return SYSTEMS[name]()
