"""Free-energy differences from trained flows against molecular dynamics: butane, alanine dipeptide, two force fields.

Trained models and finished MD in the folder are used again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import openmm_fab as fab
from openmm_fab import free_energy as fe
from openmm_fab.molecule.torsions import named_torsions

from .records import ROOT

INPUT = ROOT / "systems" / "alanine_dipeptide" / "input.pdb"
SOLVENT = "implicit/obc1.xml"


class Bench:
    """Trained models and MD, each made once and kept in a folder."""

    def __init__(self, folder: Path, minutes: float, quick: bool) -> None:
        self.folder, self.minutes, self.quick = folder, 0.2 if quick else minutes, quick
        self.samples = 4_000 if quick else 200_000
        folder.mkdir(parents=True, exist_ok=True)

    def flow(self, name: str, system: fab.MolecularSystem) -> fab.BoltzmannGenerator:
        path = self.folder / f"{name}.safetensors"
        if path.exists():
            return fab.BoltzmannGenerator.load(path, system)
        settings = fab.PRESETS["smoke"].settings if self.quick else fab.GeneratorSettings()
        generator = fab.BoltzmannGenerator(system, settings)
        generator.train(self.minutes, compile=not self.quick)
        generator.save(path)
        return generator

    def md(self, name: str, system: fab.MolecularSystem, method: str, **settings: object) -> fab.ReferenceEnsemble:
        """A finished run gives the same ensemble at once."""
        if self.quick:
            settings |= {"time_ps": 4.0, "equilibration_ps": 1.0, "frame_ps": 1.0}
            settings |= {"build_ps": 2.0} if method == "metadynamics" else {}
            settings |= {} if method == "replica-exchange" else {"walkers": 16, "compile": False}
        return fab.run_reference(system, method, folder=self.folder / name, resume=True, **settings)

    def metadynamics(self, name: str, system: fab.MolecularSystem, longer: float = 1.0) -> fab.ReferenceEnsemble:
        """Heavy hydrogens change the kinetics alone."""
        return self.md(
            f"{name}-metadynamics", system, "metadynamics", walkers=256, hydrogen_mass=3.0, time_ps=longer * 24.0,
            equilibration_ps=longer * 10.0, build_ps=longer * 20.0,
        )  # fmt: skip


def butane(bench: Bench) -> dict:
    """Gauche less trans, and F of the torsion."""
    system = fab.MolecularSystem.load("butane")
    sides = {
        "flow, reweighted": bench.flow("butane", system).sample(bench.samples),
        "OpenMM, replica exchange (openmmtools)": bench.md(
            "butane-remd", system, "replica-exchange", time_ps=800.0, temperatures=4, max_temperature=450.0,
            platform="Reference",
        ),
        "walkers, replica exchange": bench.md(
            "butane-walkers", system, "walkers-exchange", walkers=256, temperatures=4, max_temperature=600.0,
            time_ps=80.0, equilibration_ps=60.0,
        ),
    }  # fmt: skip
    torsion = next(iter(named_torsions(system.md_topology).values()))
    found, profiles = {}, {}
    for name, ensemble in sides.items():
        phi = ensemble.torsions([torsion])[:, 0]
        found[name] = fe.basin_difference(ensemble, np.abs(phi) < 2 * np.pi / 3)
        profiles[name] = fe.profile(ensemble, torsion)
    flow, *others = profiles
    lines = [
        f"F(torsion) of the flow against {other}: {_profiles(profiles[flow], profiles[other])}" for other in others
    ]
    return _figures(found, {name: ensemble.ess for name, ensemble in sides.items()}) | {"lines": lines}


def dipeptide(bench: Bench) -> dict:
    """0 < phi < 2.5 rad less the rest."""
    system = fab.MolecularSystem.load("alanine_dipeptide")
    shipped = json.loads((INPUT.parent / "reference" / "reference.json").read_text())["basin"]
    plain = json.loads((INPUT.parent / "reference" / "metadynamics" / "metadynamics.json").read_text())["basin"]
    cpu = {"platform": "CPU", "properties": {"Threads": "1"}}
    remd = bench.md("dipeptide-remd", system, "replica-exchange", time_ps=3000.0, equilibration_ps=100.0,
                    max_temperature=700.0, **cpu)  # fmt: skip
    found = {
        "pretrained flow, reweighted": fe.basin_difference(fab.load_pretrained(system).sample(bench.samples)),
        "shipped reference (chains with proposals of the flow)": fab.Estimate(shipped["dF"], shipped["dF_se"]),
        "metadynamics by plain OpenMM, 12.9 ns": fab.Estimate(plain["dF"], plain["dF_se"]),
        "replica exchange by openmmtools": fe.basin_difference(remd),
        "metadynamics of walkers on the compiled energy": fe.basin_difference(
            bench.metadynamics("ff96-long", system, longer=5.0)
        ),
    }
    return _figures(found)


def forcefields(bench: Bench) -> dict:
    """F(ff99SB-ILDN) - F(ff96) of alanine dipeptide in OBC1 at 300 K."""
    a = fab.MolecularSystem.load("alanine_dipeptide")
    b = fab.MolecularSystem.from_pdb(INPUT, forcefield=["amber99sbildn.xml", SOLVENT], name="ff99SB-ILDN")
    flow_a = fab.load_pretrained(a).sample(bench.samples)
    flow_b = bench.flow("ff99SB-ILDN", b).sample(bench.samples)
    md_a, md_b = (bench.metadynamics(name, s) for name, s in (("ff96", a), ("ff99SB-ILDN", b)))
    log_z = {name: flow.log_z for name, flow in (("ff96", flow_a), ("ff99SB-ILDN", flow_b))}
    back = fe.free_energy_difference(flow_b, a)
    found = {
        "a flow for each: log Z(ff96) - log Z(ff99SB-ILDN)": log_z["ff96"] - log_z["ff99SB-ILDN"],
        "flow of ff96, reweighted": fe.free_energy_difference(flow_a, b),
        "flow of ff99SB-ILDN, reweighted": replace(back, value=-back.value),
        "MBAR of MD in both": _mbar([md_a, md_b], [a, b]),
    }
    return _figures(found)


def temperature(bench: Bench) -> dict:
    """F(350 K) - F(300 K) in kT of each: -ln of the configurational integrals' ratio."""
    cold = fab.MolecularSystem.load("alanine_dipeptide")
    hot = fab.MolecularSystem.from_pdb(
        INPUT, forcefield=["amber96.xml", SOLVENT], temperature=350.0, name="alanine_dipeptide_350K"
    )
    flow = fab.load_pretrained(cold).sample(bench.samples)
    md = [bench.metadynamics("ff96", cold), bench.metadynamics("ff96-350K", hot)]
    found = {
        "flow of 300 K, reweighted": fe.temperature_difference(flow, 350.0),
        "MBAR of MD at both": _mbar(md, [cold, hot]),
    }
    return _figures(found)


def _mbar(md: list, systems: list) -> fab.FreeEnergy:
    return fe.mbar(md, systems).difference(0, 1)


def _figures(found: dict, ess: dict[str, float] | None = None) -> dict:
    """Of each estimate its value and error, and effective samples and k-hat where it has them; do they agree?"""
    estimates = {}
    for name, value in found.items():
        of = {"value": value.value, "error": value.error, "ess": (ess or {}).get(name, getattr(value, "ess", np.nan))}
        of["khat"] = getattr(value, "khat", np.nan)
        estimates[name] = {key: float(x) if np.isfinite(x) else None for key, x in of.items()}
    return {"estimates": estimates, **_agreement(list(found.values()))}


def _profiles(a: fe.Profile, b: fe.Profile) -> str:
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.log(b.probability) - np.log(a.probability)
        z = difference / np.hypot(a.error, b.error)
    low = np.isfinite(z) & (b.value < 5.0)
    return (
        f"largest difference {np.abs(difference)[low].max():.2f} kT over the {low.sum()} bins below 5 kT, "
        f"mean square z {np.mean(z[low] ** 2):.2f}"
    )


def _agreement(values: list) -> dict[str, float]:
    """The largest |z| between any two."""
    pairs = [fe.z_score(p, q) for i, p in enumerate(values) for q in values[i + 1 :]]
    return {"largest_z": float(np.nanmax(np.abs(pairs)))}


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


COLUMNS = {
    "butane": ("method", "F(gauche) - F(trans) / kT", "effective samples"),
    "dipeptide": ("method", "F(0 < phi < 2.5) - F(rest) / kT"),
    "forcefields": ("estimate", "difference / kT", "effective samples", "k-hat"),
    "temperature": ("estimate", "difference / kT", "effective samples", "k-hat"),
}
SECTIONS = {f.__name__: f for f in (butane, dipeptide, forcefields, temperature)}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", nargs="?", choices=SECTIONS, default="butane")
    parser.add_argument("--minutes", type=float, default=10.0, help="training of each flow that is not pretrained")
    parser.add_argument("--folder", type=Path, help="of models and MD, kept")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(options.folder or Path(temporary), options.minutes, options.quick)
        return {"part": options.part, **SECTIONS[options.part](bench)}


def section_name(figures: dict[str, Any]) -> str:
    return f"free_energies_{figures['part']}"


def title(figures: dict[str, Any]) -> str:
    return f"Free energies: {SECTIONS[figures['part']].__doc__}"


def table(figures: dict[str, Any]) -> str:
    columns = COLUMNS[figures["part"]]
    rows = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for name, of in figures["estimates"].items():
        value, error = (np.nan if of[key] is None else of[key] for key in ("value", "error"))
        cells = [name, str(fab.Estimate(value, error)), _number(of["ess"], 0), _number(of["khat"], 2)]
        rows.append("| " + " | ".join(cells[: len(columns)]) + " |")
    lines = ["", *figures["lines"]] if "lines" in figures else []
    return "\n".join([*rows, *lines, "", f"Largest |z| between any two: {figures['largest_z']:.1f}."])
