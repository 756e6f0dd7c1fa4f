"""Errors mean what they say: z-scores of repeated experiments with known answers have a standard deviation near 1.

What is not here is in test_weights (weighted means), test_ensemble (bootstrap), test_free_energy (independent frames),
test_free_energy_differences (AIS, named basins), test_free_energy_estimators (EXP, BAR, MBAR), test_compare_histograms
(noise of a divergence) and test_md_convergence (halves); files give what memory gives (test_stream).
"""

from __future__ import annotations

from collections.abc import Callable

import mdtraj
import numpy as np
import pytest
from ensembles import backbone, flat, flow, two_basins

from openmm_fab.comparison.comparing import compare
from openmm_fab.ensemble.blocks import time_blocks
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.free_energy.differences import (
    free_energy_difference,
    free_energy_difference_bar,
    mbar,
    temperature_difference,
)
from openmm_fab.free_energy.profiles import basin_difference, profile, surface
from openmm_fab.md.convergence import assess_convergence
from openmm_fab.weights import log_mean_weight

P = 0.3  # share of phi > 0


def honest(z: list | np.ndarray, bias: float = 0.1) -> None:
    """z (repeats,) or (repeats, correlated scores); `bias` for -ln of a mean and the like."""
    z = np.asarray(z, dtype=float)
    assert abs(z.mean()) < 3.0 / np.sqrt(len(z)) + bias, z.mean()
    assert 0.8 < z.std() < 1.25, z.std()


def telegraph(walkers: int, frames: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Which frames (walkers * frames,) have phi > 0: jumps in with probability rate * P, out with rate * (1 - P)."""
    inside = np.empty((walkers, frames), dtype=bool)
    inside[:, 0] = rng.random(walkers) < P
    for t in range(1, frames):
        jump = rng.random(walkers) < rate * np.where(inside[:, t - 1], 1 - P, P)
        inside[:, t] = inside[:, t - 1] ^ jump
    return inside.ravel()


def walkers(seed: int, n: int = 40, frames: int = 50) -> Ensemble:
    rng = np.random.default_rng(seed)
    inside = telegraph(n, frames, 0.2, rng)
    return two_wells(inside, rng, block=np.repeat(np.arange(n), frames))


def two_wells(inside: np.ndarray, rng: np.random.Generator, **fields) -> Ensemble:
    """phi uniform within either half of the circle, so that a bin's share is known."""
    phi = rng.uniform(0.0, np.pi, len(inside)) * np.where(inside, 1, -1)
    return backbone(phi, rng.uniform(-np.pi, np.pi, len(inside)), **fields)


@pytest.mark.parametrize("blocks", [None, 50])
def test_log_z(blocks: int | None) -> None:
    """Independent weights, and weights that come twenty to a block with a common factor."""
    z, rng = [], np.random.default_rng(0)
    for _ in range(200):
        log_w, block = 0.5 * rng.normal(size=1000) - 0.125, None
        if blocks:
            block = np.repeat(np.arange(blocks), 20)
            log_w = log_w + (0.5 * rng.normal(size=blocks) - 0.125)[block]
        found = log_mean_weight(log_w, block)
        z.append(found.value / found.error)
    honest(z)


def test_walkers_that_remember() -> None:
    """Bins of a profile, of a surface, means and basins of correlated walkers."""
    bins, plane, means, basins = [], [], [], []
    for seed in range(60):
        ensemble = walkers(seed)
        phi, psi = ensemble.phi()[:, 0], ensemble.psi()[:, 0]
        exact = np.repeat([1 - P, P], 3) / 3
        found = profile(ensemble, phi, bins=6, n_bootstrap=60, seed=seed)
        bins.append(-(np.log(found.probability) - np.log(exact)) / found.error)
        found = surface(ensemble, phi, psi, bins=4, n_bootstrap=60, seed=seed)
        exact = np.repeat([1 - P, P], 2)[:, None] / 8 * np.ones(4)
        plane.append(-(np.log(found.probability) - np.log(exact)) / found.error)
        mean = ensemble.expectation((phi > 0).astype(float), n_bootstrap=60, seed=seed)
        means.append((mean.value - P) / mean.error)
        basin = basin_difference(ensemble, phi > 0, n_bootstrap=60, seed=seed)
        basins.append((basin.value - np.log((1 - P) / P)) / basin.error)
    for z in (bins, plane, means, basins):
        honest(z)


def test_frames_of_one_run_in_time_blocks() -> None:
    """Nobody says how long the run remembers (about 100 frames): `time_blocks` finds out."""
    pytest.importorskip("pymbar")
    z = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        ensemble = two_wells(telegraph(1, 6000, 0.02, rng), rng)
        ensemble = backbone(ensemble.phi()[:, 0], ensemble.psi()[:, 0], block=time_blocks(ensemble.slow_angles()))
        basin = basin_difference(ensemble, lambda t, e=ensemble: e.phi()[:, 0] > 0, n_bootstrap=60, seed=seed)
        z.append((basin.value - np.log((1 - P) / P)) / basin.error)
    honest(z, bias=0.2)


def test_convergence_of_walkers() -> None:
    """The report of a reference: its free energy, that of each part of the time, and its two halves."""
    final, parts, halves = [], [], []
    for seed in range(60):
        report = assess_convergence(walkers(seed), 40, basin=phi_positive)
        exact = np.log((1 - P) / P)
        final.append((report.df.value - exact) / report.df.error)
        parts.append([(df.value - exact) / df.error for _, df in report.df_against_time])
        halves.append(report.halves_z)
    for z in (final, parts, halves):
        honest(z)


def phi_positive(trajectory: mdtraj.Trajectory) -> np.ndarray:
    return mdtraj.compute_dihedrals(trajectory, [[0, 1, 2, 3]])[:, 0] > 0


def test_scores_of_a_comparison() -> None:
    """A reweighted flow against a reference of the same distribution: basins, means, and distances over their noise."""
    basins, means, profiles = [], [], []
    for seed in range(40):
        result = compare(flow(1500, seed), two_basins(1500, 0.1, 1000 + seed), n_bootstrap=60, seed=seed)
        basins.append(next(b.z for b in result.basins if b.name.startswith("phi > 0")))
        means.append([c.mean_z for c in result.coordinates])
        profiles.append([p.z for p in result.torsions])
    honest(basins)
    honest(means)
    honest(profiles, bias=0.2)


# --- between energies and temperatures, by ensembles ---

N, DEGREES = 600, 6  # frames, and coordinates of a harmonic well


def well(stiffness: float, rng: np.random.Generator, weighted: bool = False) -> Ensemble:
    """r^2 of a harmonic well hides in `log_q`; u = stiffness r^2 / 2. Weighted: drawn from a wider well."""
    drawn = 0.7 * stiffness if weighted else stiffness
    r2 = (rng.normal(size=(N, DEGREES)) ** 2).sum(1) / drawn
    return flat(N, u=0.5 * stiffness * r2, log_w=-0.5 * (stiffness - drawn) * r2 if weighted else np.zeros(N))


def one_sided(rng: np.random.Generator) -> float:
    a = well(1.0, rng)
    return z_of(free_energy_difference(a, 1.3 * a.u))


def temperature(rng: np.random.Generator) -> float:
    return z_of(temperature_difference(well(1.0, rng), 300.0 / 1.3))


def z_of(found) -> float:
    return (found.value - 0.5 * DEGREES * np.log(1.3)) / found.error


class OfRadius:
    """An energy of frames whose own u is known: structures carry r^2 in the first coordinate."""

    def __init__(self, stiffness: float) -> None:
        self.stiffness = stiffness

    def __call__(self, x):
        return 0.5 * self.stiffness * x[:, 0, 0]


def with_radius(ensemble: Ensemble, stiffness: float) -> Ensemble:
    x = ensemble.x.copy()
    x[:, 0, 0] = 2 * ensemble.u / stiffness
    return Ensemble(x, ensemble.u, ensemble.log_w, ensemble.topology, 300.0)


def two_sided(rng: np.random.Generator) -> float:
    """One side weighted: what is drawn from it by weight counts once."""
    a, b = with_radius(well(1.0, rng, weighted=True), 1.0), with_radius(well(1.3, rng), 1.3)
    return z_of(free_energy_difference_bar(a, b, OfRadius(1.0), OfRadius(1.3), seed=int(rng.integers(1000))))


def many_sided(rng: np.random.Generator) -> float:
    a, b = with_radius(well(1.0, rng), 1.0), with_radius(well(1.3, rng, weighted=True), 1.3)
    found = mbar([a, b], [OfRadius(1.0), OfRadius(1.3)], seed=int(rng.integers(1000)))
    return z_of(found.difference(0, 1))


@pytest.mark.parametrize("score", [one_sided, temperature, two_sided, many_sided])
def test_differences_between_ensembles(score: Callable) -> None:
    honest([score(np.random.default_rng(seed)) for seed in range(200)])
