"""Reference ensemble of alanine dipeptide at 300 K: exact Markov chains with the proposals of the pretrained flow.

``python make_reference.py [--sweeps 52000] [--resume]`` writes reference.dcd, reference_weights.npz and reference.json
beside this script. `metadynamics/` holds an independent one by plain OpenMM, which the result is held against.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import torch
from tqdm import tqdm

import openmm_fab as fab
from openmm_fab.md.hybrid import HybridWalkers
from openmm_fab.md.settings import HybridSettings
from openmm_fab.molecule.torsions import named_torsions
from openmm_fab.tools.files import write_atomically

HERE = Path(__file__).resolve().parent
RAW = HERE / "raw"
BASIN = (0.0, 2.5)  # rad, of phi
PROFILE_BINS, SURFACES = 60, (64, 100)
# Frames that are shipped: of the whole run one in so many sweeps, outside the basin; inside it, which is rare, every
# one of the last sweeps. Weights undo that.
FRAME_EVERY, BASIN_SWEEPS = 1126, 8000
SAVE_EVERY = 120.0  # s


class Counts:
    """Histograms of (phi, psi), sweep by sweep: profiles a walker, surfaces a half of the walkers."""

    def __init__(self, walkers: int) -> None:
        self.phi, self.psi = (np.zeros((walkers, PROFILE_BINS), dtype=np.int64) for _ in range(2))
        self.basin = np.zeros(walkers, dtype=np.int64)
        self.surfaces = {n: np.zeros((2, n, n), dtype=np.int64) for n in SURFACES}
        self.sweeps = 0

    def add(self, phi: np.ndarray, psi: np.ndarray) -> None:
        walker = np.arange(len(phi))
        self.phi[walker, bins(phi, PROFILE_BINS)] += 1
        self.psi[walker, bins(psi, PROFILE_BINS)] += 1
        self.basin += (phi > BASIN[0]) & (phi < BASIN[1])
        for n, surface in self.surfaces.items():
            np.add.at(surface, (walker % 2, bins(phi, n), bins(psi, n)), 1)
        self.sweeps += 1

    def tensors(self) -> dict[str, torch.Tensor]:
        arrays = {"phi": self.phi, "psi": self.psi, "basin": self.basin, "sweeps": np.array(self.sweeps)}
        arrays |= {f"surface {n}": surface for n, surface in self.surfaces.items()}
        return {key: torch.from_numpy(array) for key, array in arrays.items()}

    @classmethod
    def restored(cls, saved: dict[str, torch.Tensor]) -> Counts:
        counts = cls(len(saved["basin"]))
        counts.phi, counts.psi, counts.basin = (saved[key].numpy() for key in ("phi", "psi", "basin"))
        counts.surfaces = {n: saved[f"surface {n}"].numpy() for n in SURFACES}
        counts.sweeps = int(saved["sweeps"])
        return counts


def bins(angle: np.ndarray, n: int) -> np.ndarray:
    return np.minimum(((angle + np.pi) / (2 * np.pi) * n).astype(int), n - 1)


Frames = dict[str, list[torch.Tensor]]


def run(settings: HybridSettings, seed: int, resume: bool) -> tuple[Counts, Frames, dict, float]:
    """The chains; returns counts, kept frames, the chains' statistics, and seconds."""
    system = fab.MolecularSystem.load("alanine_dipeptide")
    generator = fab.load_pretrained("alanine_dipeptide")
    generator.compile()
    chains = HybridWalkers(generator, settings, seed)
    topology = system.md_topology
    torsions = named_torsions(topology)
    angles = np.array([torsions["phi ALA2"], torsions["psi ALA2"]])
    random, labels = torch.Generator(), torch.Generator().manual_seed(seed + 1)
    path = RAW / "state.pt"
    if resume:
        saved = torch.load(path, weights_only=True)
        state, frames, seconds = saved["state"], saved["frames"], saved["seconds"]
        counts = Counts.restored(saved["counts"])
    else:
        state, counts, seconds = chains.first(), Counts(settings.walkers), 0.0
        frames = {"x": [], "walker": [], "rare": []}
    random.set_state(state["generator"])
    started = last = time.monotonic()

    def save() -> None:
        nonlocal seconds, started
        seconds, started = seconds + time.monotonic() - started, time.monotonic()
        whole = {"state": state | {"generator": random.get_state()}, "counts": counts.tensors()}
        whole |= {"frames": frames}
        RAW.mkdir(exist_ok=True)
        write_atomically(path, lambda file: torch.save(whole | {"seconds": seconds}, file))

    try:
        for sweep in tqdm(range(state["sweeps"], settings.burn_in + settings.sweeps), mininterval=10):
            state = chains.sweep(state, random)
            if sweep < settings.burn_in:
                continue
            x = chains.structures(state, labels).numpy()
            phi, psi = mdtraj.compute_dihedrals(mdtraj.Trajectory(x, topology), angles).T
            counts.add(phi, psi)
            rare = (phi > BASIN[0]) & (phi < BASIN[1])
            if counts.sweeps % FRAME_EVERY == 0:
                keep(frames, x, ~rare, False)
            if counts.sweeps > settings.sweeps - BASIN_SWEEPS and rare.any():
                keep(frames, x, rare, True)
            if time.monotonic() - last > SAVE_EVERY:
                save()
                last = time.monotonic()
    finally:
        save()
    return counts, frames, chains.about(state), seconds


def keep(frames: Frames, x: np.ndarray, which: np.ndarray, rare: bool) -> None:
    walker = torch.from_numpy(np.flatnonzero(which))
    frames["x"].append(torch.from_numpy(x[which]).float())
    frames["walker"].append(walker)
    frames["rare"].append(torch.full_like(walker, rare, dtype=torch.bool))


def mean_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over walkers (axis 0), which are independent, and their standard errors."""
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))


def profile(counts: np.ndarray) -> dict[str, list]:
    """F = -ln(density in rad^-1) from counts (walkers, bins); null where nobody has been."""
    width = 2 * np.pi / PROFILE_BINS
    p, error = mean_error(counts / counts.sum(1, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        F, F_error = -np.log(p / width), error / p
    centre = -np.pi + width * (np.arange(PROFILE_BINS) + 0.5)
    return {"centre_rad": centre.round(6).tolist(), "F_kT": nulls(F), "F_se_kT": nulls(F_error)}


def nulls(values: np.ndarray) -> list:
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]


def against_metadynamics(profiles: dict[str, dict], basin: dict[str, float]) -> dict:
    """Differences to the independent reference in standard errors: the basin's dF, and the bins of both profiles."""
    other = json.loads((HERE / "metadynamics" / "metadynamics.json").read_text())
    found = {"basin_z": (basin["dF"] - other["basin"]["dF"]) / np.hypot(basin["dF_se"], other["basin"]["dF_se"])}
    for name, mine in profiles.items():
        a, b = ({k: np.array(v, dtype=float) for k, v in p.items()} for p in (mine, other[name]))
        z = (a["F_kT"] - b["F_kT"]) / np.hypot(a["F_se_kT"], b["F_se_kT"])
        low = np.isfinite(z) & (a["F_kT"] < np.nanmin(a["F_kT"]) + 5.0)
        found[name] = {
            "bins_below_5_kT": int(low.sum()),
            "largest_kT": float(np.abs(a["F_kT"] - b["F_kT"])[low].max()),
            "mean_square_z": float(np.mean(z[low] ** 2)),
        }
    return found


def write(settings: HybridSettings, seed: int, counts: Counts, frames: Frames, about: dict, seconds: float) -> dict:
    system = fab.MolecularSystem.load("alanine_dipeptide")
    x, block, rare = (torch.cat(frames[key]).numpy() for key in ("x", "walker", "rare"))
    # Sweeps that each frame stands for.
    log_w = np.log(np.where(rare, settings.sweeps / BASIN_SWEEPS, settings.sweeps / (settings.sweeps // FRAME_EVERY)))
    order = np.argsort(block, kind="stable")
    x, block, log_w = x[order], block[order], log_w[order]
    u = fab.reduced_energy(system)(torch.from_numpy(x).double()).numpy()
    p, p_se = mean_error(counts.basin / counts.sweeps)
    basin = {"population": p, "population_se": p_se, "dF": -np.log(p / (1 - p)), "dF_se": p_se / (p * (1 - p))}
    basin = {key: float(value) for key, value in basin.items()}
    profiles = {"F_phi": profile(counts.phi), "F_psi": profile(counts.psi)}
    halves = {n: surface / surface.sum((1, 2), keepdims=True) for n, surface in counts.surfaces.items()}
    report = {
        "command": f"python make_reference.py --sweeps {settings.sweeps}",
        "date": str(date.today()),
        "machine": f"{processor()}, one core",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "openmm": openmm.__version__},
        "system": {
            "pdb": "../input.pdb",
            "forcefield": ["amber96.xml", "implicit/obc1.xml"],
            "constraints": None,
            "nonbonded": "NoCutoff",
            "temperature_K": system.temperature,
        },
        "generator": "../" + system.settings["pretrained"]["model"],
        "settings": {**asdict(settings), "seed": seed},
        "states": counts.sweeps * settings.walkers,
        "seconds": round(seconds),
        "accepted": {"proposals": about["proposals"], "trajectories": about["trajectories"]},
        "longest_wait_sweeps": about["longest_wait"],
        "basin": {"phi_rad": BASIN, **basin, "free_energy_unit": "kT"},
        **profiles,
        "halves": {
            **{f"ramachandran_tv_{n}x{n}": float(0.5 * np.abs(h[0] - h[1]).sum()) for n, h in halves.items()},
            "basin_z": half_z(counts.basin / counts.sweeps),
        },
        "against_metadynamics": against_metadynamics(profiles, basin),
        "shipped": {"frames": len(x), "in_basin": int(rare.sum()), "every": FRAME_EVERY, "basin_sweeps": BASIN_SWEEPS},
    }
    mdtraj.Trajectory(x, system.md_topology).save_dcd(str(HERE / "reference.dcd"))
    surfaces = {f"phi_psi_probability_{n}": s.sum(0) / s.sum() for n, s in counts.surfaces.items()}
    np.savez_compressed(HERE / "reference_weights.npz", log_w=log_w, block=block, u=u, **surfaces)
    text = json.dumps(report, indent=1, allow_nan=False)
    text = re.sub(r"\[[^][{}]*\]", lambda m: "[" + " ".join(m.group()[1:-1].split()) + "]", text)
    (HERE / "reference.json").write_text(text + "\n")
    return report


def half_z(population: np.ndarray) -> float:
    """Even against odd walkers, in standard errors."""
    (a, a_se), (b, b_se) = mean_error(population[::2]), mean_error(population[1::2])
    return float((a - b) / np.hypot(a_se, b_se))


def processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=52_000)
    parser.add_argument("--walk-every", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    settings = HybridSettings(
        walkers=256, sweeps=options.sweeps, burn_in=200, frame_every=1, walk_every=options.walk_every
    )
    report = write(settings, options.seed, *run(settings, options.seed, options.resume))
    print(json.dumps({k: v for k, v in report.items() if not k.startswith("F_")}, indent=1))


if __name__ == "__main__":
    main()
