"""The chain of beads of examples.py for MD: exact independent structures, and its marginals by quadrature."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from examples import ANGLES, BONDS, TORSIONS

from openmm_fab.ensemble.ensemble import Ensemble

GRID = 20_001
CHEAP = dict(compile=False, progress=False)  # torch.compile takes longer than these runs


def _densities(kT: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """(points, density) of four bonds, three angles and two torsions."""
    found = []
    for r0, k in BONDS:
        r = np.linspace(0.7 * r0, 1.3 * r0, GRID)
        found.append((r, r**2 * np.exp(-0.5 * k * (r - r0) ** 2 / kT)))
    for a0, k in ANGLES:
        a = np.linspace(1.0, np.pi, GRID)
        found.append((a, np.sin(a) * np.exp(-0.5 * k * (a - a0) ** 2 / kT)))
    for terms in TORSIONS:
        t = np.linspace(-np.pi, np.pi, GRID)
        found.append((t, np.exp(-sum(k * (1 + np.cos(m * t - p)) for m, p, k in terms) / kT)))
    return [(points, density / density.sum()) for points, density in found]


def exact_mean(kT: float, which: int, function: Callable[[np.ndarray], np.ndarray]) -> float:
    """Of coordinate `which`: bonds 0-3, angles 4-6, torsions 7-8."""
    points, density = _densities(kT)[which]
    return float((function(points) * density).sum())


def exact_energy(kT: float) -> float:
    """Mean of U/kT."""
    parts = [exact_mean(kT, i, lambda r, r0=r0, k=k: 0.5 * k * (r - r0) ** 2) for i, (r0, k) in enumerate(BONDS)]
    parts += [exact_mean(kT, 4 + i, lambda a, a0=a0, k=k: 0.5 * k * (a - a0) ** 2) for i, (a0, k) in enumerate(ANGLES)]
    parts += [
        exact_mean(kT, 7 + i, lambda t, terms=terms: sum(k * (1 + np.cos(m * t - p)) for m, p, k in terms))
        for i, terms in enumerate(TORSIONS)
    ]
    return sum(parts) / kT


def exact_structures(kT: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Independent structures of the chain, (n, 5, 3) nm."""
    drawn = [np.interp(rng.random(n), np.cumsum(density), points) for points, density in _densities(kT)]
    (r1, r2, r3, r4), (a1, a2, a3), (t1, t2) = drawn[:4], drawn[4:7], drawn[7:]
    zero = np.zeros(n)
    x = [np.zeros((n, 3)), np.stack([r1, zero, zero], 1)]
    x.append(x[1] + r2[:, None] * np.stack([-np.cos(a1), np.sin(a1), zero], 1))
    for r, a, t in ((r3, a2, t1), (r4, a3, t2)):
        u = x[-1] - x[-2]
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        normal = np.cross(x[-2] - x[-3], u)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        side = np.cross(normal, u)
        x.append(
            x[-1]
            + r[:, None]
            * (-np.cos(a)[:, None] * u + np.sin(a)[:, None] * (np.cos(t)[:, None] * side + np.sin(t)[:, None] * normal))
        )
    return np.stack(x, 1)


def coordinates(x: np.ndarray) -> np.ndarray:
    """(n, 9): bonds, angles, torsions."""
    d = np.diff(x.astype(float), axis=1)
    bonds = np.linalg.norm(d, axis=2)
    angles = np.arccos(-(d[:, 1:] * d[:, :-1]).sum(2) / bonds[:, 1:] / bonds[:, :-1])
    normal = np.cross(d[:, :-1], d[:, 1:])
    sine = (d[:, :-2] * normal[:, 1:]).sum(2) * bonds[:, 1:-1]
    torsions = np.arctan2(sine, (normal[:, :-1] * normal[:, 1:]).sum(2))
    return np.concatenate([bonds, angles, torsions], 1)


def z_scores(ensemble: Ensemble, kT: float) -> dict[str, float]:
    """Of means and squares of stiff coordinates, of cosines, sines and populations of torsions, and of the energy."""
    q = coordinates(ensemble.x)
    functions: dict[str, tuple[np.ndarray, float]] = {"u": (ensemble.u, exact_energy(kT))}
    for i in range(7):
        centre, power = (BONDS + ANGLES)[i][0], (lambda v, c, p: (v - c) ** p)
        for p in (1, 2):
            exact = exact_mean(kT, i, lambda v, p=p, c=centre, f=power: f(v, c, p))
            functions[f"coordinate {i} power {p}"] = (power(q[:, i], centre, p), exact)
    for i in (7, 8):
        for name, f in (("cos", np.cos), ("sin", np.sin), ("positive", lambda t: ((t > 0) & (t < 2.5)) * 1.0)):
            functions[f"{name} of torsion {i}"] = (f(q[:, i]), exact_mean(kT, i, f))
    found = {}
    for name, (values, exact) in functions.items():
        estimate = ensemble.expectation(values)
        found[name] = float((estimate.value - exact) / estimate.error)
    return found
