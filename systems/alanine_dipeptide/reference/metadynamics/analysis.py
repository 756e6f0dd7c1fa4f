"""What `metadynamics.py analyse` and `metadynamics.py timestep` compute: numpy, mdtraj and pymbar."""

from __future__ import annotations

import json
import platform
import re
import threading
from dataclasses import asdict
from pathlib import Path

import mdtraj
import molecule
import numpy as np
import openmm as mm
from pymbar.timeseries import statistical_inefficiency_multiple

BASIN = (0.0, 2.5)  # rad, of phi
CORES = ((-2.6, -0.9), (0.5, 1.8))  # rad; a transition is a passage from one core of phi to the other
PROFILE_BINS, SURFACE_BINS = 60, 100
MAX_FRAMES = 25_000
BOOTSTRAPS = 1000


# ---------------------------------------------------------------- raw data


def load_raw(raw: Path) -> dict[str, np.ndarray]:
    """All production frames, sorted by walker, then by step: x, bias, u, step, walker."""
    parts = [np.load(path) for path in sorted(raw.glob("production_[0-9]*[0-9].npz"))]
    if not parts:
        raise SystemExit(f"Expected production files in {raw}; got none; start `metadynamics.py run`.")
    data = {key: np.concatenate([p[key] for p in parts]) for key in parts[0].files}
    order = np.lexsort((data["step"], data["walker"]))
    return {key: value[order] for key, value in data.items()}


def transitions(phi: np.ndarray) -> int:
    """Passages of one walker's ``phi`` (frames,) between the two cores."""
    core = np.zeros(len(phi), dtype=int)
    for label, (low, high) in enumerate(CORES, start=1):
        core[(phi > low) & (phi < high)] = label
    visited = core[core > 0]
    return int(np.count_nonzero(np.diff(visited)))


def block_labels(walker: np.ndarray, frames: float) -> np.ndarray:
    """Labels (n,) of walker x time blocks of at least ``frames`` frames, where the walker has as many."""
    label, first = np.empty(len(walker), dtype=np.int64), 0
    for w in np.unique(walker):
        mine = walker == w
        n = mine.sum()
        count = int(np.clip(n // frames, 1, 16))
        label[mine] = first + np.arange(n) * count // n
        first += count
    return label


# ---------------------------------------------------------------- estimates


class Bootstrap:
    """Weighted sums a block, resampled by whole blocks.

    Parameters
    ----------
    w : ndarray, shape (frames,), linear weights
    block : ndarray, shape (frames,), int labels 0..blocks-1
    """

    def __init__(self, w: np.ndarray, block: np.ndarray):
        self.w, self.block = w, block
        blocks = block.max() + 1
        rng = np.random.default_rng(0)
        self.counts = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=BOOTSTRAPS)

    def histogram(self, bins: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (n,) of integer ``bins`` (frames,) and their replicates (BOOTSTRAPS, n)."""
        table = np.zeros((self.counts.shape[1], n))
        np.add.at(table, (self.block, bins), self.w)
        total, replicates = table.sum(axis=0), self.counts @ table
        return total / total.sum(), replicates / replicates.sum(axis=1, keepdims=True)


def minus_log(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return -np.log(p)


def basin_difference(boot: Bootstrap, inside: np.ndarray) -> dict[str, float]:
    """Population of the basin and dF = -ln(p / (1 - p)), each with the bootstrap's standard error."""
    p, replicates = boot.histogram(inside.astype(int), 2)
    dF = minus_log(p[1] / p[0])
    spread = minus_log(replicates[:, 1] / replicates[:, 0])
    return {
        "population": p[1],
        "population_se": replicates[:, 1].std(),
        "dF": dF,
        "dF_se": spread[np.isfinite(spread)].std(),
    }


def profile(boot: Bootstrap, angle: np.ndarray) -> dict[str, list]:
    """F = -ln(density in rad^-1) on PROFILE_BINS bins over (-pi, pi); null where no frame fell."""
    bins = angle_bins(angle, PROFILE_BINS)
    p, replicates = boot.histogram(bins, PROFILE_BINS)
    width = 2 * np.pi / PROFILE_BINS
    F, spread = minus_log(p / width), minus_log(replicates / width)
    always = np.isfinite(spread).all(axis=0)  # else the error is that of a handful of frames: say nothing
    se = np.where(always, np.where(np.isfinite(spread), spread, 0.0).std(axis=0), np.nan)
    centres = -np.pi + width * (np.arange(PROFILE_BINS) + 0.5)
    return {"centre_rad": centres.round(6).tolist(), "F_kT": nulls(F), "F_se_kT": nulls(se)}


def angle_bins(angle: np.ndarray, n: int) -> np.ndarray:
    return np.minimum(((angle + np.pi) / (2 * np.pi) * n).astype(int), n - 1)


def nulls(values: np.ndarray) -> list:
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]


def kish(w: np.ndarray) -> float:
    return float(w.sum() ** 2 / (w**2).sum())


def walker_agreement(w: np.ndarray, phi: np.ndarray, walker: np.ndarray) -> dict:
    """F(phi) on phi < 0 from each walker alone against that of all, each normalised on phi < 0."""
    bins, n = angle_bins(phi, PROFILE_BINS), PROFILE_BINS // 2
    table = np.zeros((walker.max() + 1, n))
    left = bins < n
    np.add.at(table, (walker[left], bins[left]), w[left])
    pooled = table.sum(axis=0) / table.sum()
    seen = pooled > 0.005  # bins within about 3 kT of the best
    deviation = minus_log(table / table.sum(axis=1, keepdims=True))[:, seen] - minus_log(pooled[seen])
    rms = np.sqrt(np.average(deviation**2, axis=1, weights=pooled[seen]))
    return {"bins": int(seen.sum()), "rms_kT": nulls(rms), "largest_kT": nulls([np.abs(deviation).max()])[0]}


def stereo(x: np.ndarray, at: dict[str, int]) -> dict[str, float]:
    """Fractions of frames that are L at CA and have both amides trans."""
    n, c, cb = (x[:, at[f"ALA:{name}"]] - x[:, at["ALA:CA"]] for name in ("N", "C", "CB"))
    volume = np.sum(np.cross(c, cb) * n, axis=-1)  # > 0 for L: C, CB, N clockwise seen from HA
    result = {"L": float((volume > 0).mean())}
    for name, atoms in (
        ("omega_ACE_ALA", ("ACE:CH3", "ACE:C", "ALA:N", "ALA:CA")),
        ("omega_ALA_NME", ("ALA:CA", "ALA:C", "NME:N", "NME:C")),
    ):
        omega = molecule.dihedral(x, [at[a] for a in atoms])
        result[name + "_trans"] = float((np.abs(omega) > np.pi / 2).mean())
        result[name + "_furthest_from_pi"] = float(np.pi - np.abs(omega).min())
    return result


# ---------------------------------------------------------------- the shipped files


def write_json(path: Path, report: dict) -> None:
    """Indented, lists of numbers on one line."""
    text = json.dumps(report, indent=1, allow_nan=False)
    text = re.sub(r"\[[^][{}]*\]", lambda m: "[" + " ".join(m.group()[1:-1].split()) + "]", text)
    path.write_text(text + "\n")


def analyse(folder: Path) -> None:
    """raw/ of the folder -> metadynamics.dcd, metadynamics_weights.npz, metadynamics.json in it."""
    s = molecule.Settings(**json.loads((folder / "raw" / "settings.json").read_text()))
    data = load_raw(folder / "raw")
    topology, _, _ = molecule.load()
    atoms, at = molecule.backbone(topology), molecule.named_atoms(topology)
    x, walker, log_w = data["x"], data["walker"], data["bias"] - data["bias"].max()
    phi, psi, w = molecule.dihedral(x, atoms[:4]), molecule.dihedral(x, atoms[1:]), np.exp(log_w)
    inside = (phi > BASIN[0]) & (phi < BASIN[1])
    ps = s.frame_every * s.step_fs / 1000

    def inefficiency(series: np.ndarray) -> float:
        parts = [series[walker == k] for k in np.unique(walker)]
        return float(statistical_inefficiency_multiple([p.astype(float) for p in parts], fast=True))

    g = {
        "in_basin": inefficiency(inside),
        "cos_phi": inefficiency(np.cos(phi)),
        "cos_psi": inefficiency(np.cos(psi)),
    }
    block = block_labels(walker, 5 * max(g.values()))
    boot = Bootstrap(w, block)
    basin = basin_difference(boot, inside)

    halves, half_of = [], walker < (walker.max() + 1) // 2
    for mine in (half_of, ~half_of):
        renumbered = np.unique(block[mine], return_inverse=True)[1]
        halves.append(basin_difference(Bootstrap(w[mine], renumbered), inside[mine]))
    z = (halves[0]["dF"] - halves[1]["dF"]) / np.hypot(halves[0]["dF_se"], halves[1]["dF_se"])

    stride = -(-len(x) // MAX_FRAMES)
    thin = slice(stride // 2, None, stride)
    thin_block = np.unique(block[thin], return_inverse=True)[1]
    surface = np.zeros((SURFACE_BINS, SURFACE_BINS))
    np.add.at(surface, (angle_bins(phi, SURFACE_BINS), angle_bins(psi, SURFACE_BINS)), w / w.sum())
    mdtraj.Trajectory(x[thin], mdtraj.load_topology(str(molecule.PDB))).save_dcd(str(folder / "metadynamics.dcd"))
    np.savez_compressed(
        folder / "metadynamics_weights.npz",
        log_w=log_w[thin],
        block=thin_block,
        u=data["u"][thin],
        walker=walker[thin],
        frozen_bias_kT=np.load(folder / "raw" / "state.npz")["bias"] / s.kT,
        phi_psi_probability=surface,
        phi_psi_edges=np.linspace(-np.pi, np.pi, SURFACE_BINS + 1),
    )

    steps = int(sum(data["step"][walker == k].max() for k in np.unique(walker)))
    check = folder / "timestep.json"
    report = {
        "system": {
            "pdb": "../../input.pdb",
            "forcefield": list(molecule.FORCEFIELD),
            "constraints": None,
            "nonbonded": "NoCutoff",
            "temperature_K": s.temperature,
        },
        "settings": asdict(s),
        "versions": {
            "python": platform.python_version(),
            "openmm": mm.Platform.getOpenMMVersion(),
            "numpy": np.__version__,
            "mdtraj": mdtraj.__version__,
        },
        "cost": {
            "metadynamics_ns": s.metadynamics_ns,
            "production_ns": steps * s.step_fs / 1e6,
            "production_steps": steps,
        },
        "production": {
            "frames": len(x),
            "frame_ps": ps,
            "ns_analysed": len(x) * ps / 1000,
            "transitions": [transitions(phi[walker == k]) for k in np.unique(walker)],
            "transition_cores_phi_rad": CORES,
            "biased_fraction_in_basin": float(inside.mean()),
            "bias_range_kT": [float(data["bias"].min()), float(data["bias"].max())],
            "statistical_inefficiency_ps": {k: v * ps for k, v in g.items()},
            "independent_samples": {k: len(x) / v for k, v in g.items()},
            "kish_ess": kish(w),
            "blocks": int(block.max() + 1),
            "block_ps": len(x) * ps / (block.max() + 1),
        },
        "basin": {"phi_rad": BASIN, **basin, "free_energy_unit": "kT"},
        "F_phi": profile(boot, phi),
        "F_psi": profile(boot, psi),
        "checks": {
            "halves": halves,
            "halves_z": float(z),
            "walkers_phi_below_0": walker_agreement(w, phi, walker),
            "stereo": stereo(x, at),
        },
        "shipped": {
            "frames": len(x[thin]),
            "stride": stride,
            "kish_ess": kish(w[thin]),
            **basin_difference(Bootstrap(w[thin], thin_block), inside[thin]),
        },
        "timestep_check": json.loads(check.read_text()) if check.exists() else None,
    }
    write_json(folder / "metadynamics.json", report)
    print(
        f"{steps * s.step_fs / 1e6:.1f} ns, transitions {sum(report['production']['transitions'])}, "
        f"p {basin['population']:.5f} +- {basin['population_se']:.5f}, "
        f"dF {basin['dF']:.3f} +- {basin['dF_se']:.3f} kT, halves z {z:.2f}, blocks {block.max() + 1}, "
        f"g {report['production']['statistical_inefficiency_ps']}, kish {kish(w):.0f}"
    )


# ---------------------------------------------------------------- time step


def timestep(folder: Path, ns: float, sizes: tuple[float, ...] = (1.0, 2.5, 4.0), walkers: int = 4) -> None:
    """Unbiased MD from input.pdb with small, the production's and too large steps -> timestep.json in the folder.

    Virial temperature: <x . grad U> = (3 atoms - 3) kT for a free molecule, whatever basins were visited.
    Bond lengths: mean and variance over all bonds, relative to the smallest step's.
    """
    s = molecule.Settings()
    topology, x0, system = molecule.load()
    molecule.set_hydrogen_mass(system, topology, s.hydrogen_mass)
    bonds = np.array([[b.atom1.index, b.atom2.index] for b in topology.bonds()])
    has_h = np.array(["H" in (b.atom1.element.symbol, b.atom2.element.symbol) for b in topology.bonds()])
    found = {}
    for size in sizes:
        samples: list[list[tuple]] = [[] for _ in range(walkers)]
        threads = [
            threading.Thread(target=_sample, args=(system, x0, bonds, s, size, ns / walkers, w, samples[w]))
            for w in range(walkers)
        ]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        found[size] = [[np.array(c) for c in zip(*mine, strict=True)] for mine in samples]

    def blocks(size: float, of) -> np.ndarray:
        """``of(virial, u, lengths)`` of 4 walkers x 5 time blocks."""
        parts = [[np.array_split(c, 5) for c in mine] for mine in found[size]]
        return np.array([of(*(c[k] for c in mine)) for mine in parts for k in range(5)])

    def mean_se(values: np.ndarray) -> list[float]:
        return [round(float(values.mean()), 5), round(float(values.std(ddof=1) / np.sqrt(len(values))), 5)]

    report: dict = {
        "ns_each": ns,
        "walkers": walkers,
        "hydrogen_mass": s.hydrogen_mass,
        "values": "[mean, se]",
    }
    base = {
        k: blocks(sizes[0], lambda a, u, r: r.var(axis=0))[:, m].mean(axis=0)
        for k, m in (("with_H", has_h), ("heavy", ~has_h))
    }
    for size in sizes:
        entry = {
            "virial_temperature_K": mean_se(blocks(size, lambda a, u, r: a.mean())),
            "potential_energy_kT": mean_se(blocks(size, lambda a, u, r: u.mean())),
        }
        for kind, mask in (("with_H", has_h), ("heavy", ~has_h)):
            ratio = (blocks(size, lambda a, u, r: r.var(axis=0))[:, mask] / base[kind]).mean(axis=1)
            entry[f"bond_variance_ratio_{kind}"] = mean_se(ratio)
            lengths = blocks(size, lambda a, u, r: r.mean(axis=0))[:, mask]
            entry[f"bond_length_nm_{kind}"] = mean_se(lengths.mean(axis=1))
        report[f"{size} fs"] = entry
    write_json(folder / "timestep.json", report)
    print(json.dumps(report, indent=1))


def _sample(system, x0, bonds, s, size: float, ns: float, w: int, out: list[tuple]) -> None:
    context = molecule.cpu_context(system, s, size, 77 + w)
    context.setPositions(x0)
    context.setVelocitiesToTemperature(s.temperature, 99 + w)
    step = context.getIntegrator().step
    step(round(20_000 / size))
    for _ in range(round(ns * 1e6 / 50)):
        step(round(50 / size))
        state = context.getState(positions=True, forces=True, energy=True)
        x, f = state.getPositions(asNumpy=True)._value, state.getForces(asNumpy=True)._value
        x = x - x.mean(axis=0)
        virial = -np.sum(x * f) / (3 * len(x) - 3) / molecule.GAS
        lengths = np.linalg.norm(x[bonds[:, 0]] - x[bonds[:, 1]], axis=-1)
        out.append((virial, state.getPotentialEnergy()._value / s.kT, lengths))
