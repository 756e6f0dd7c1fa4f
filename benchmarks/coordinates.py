"""Internal coordinates: what they cost, and whether molecules stay within their range.

speed: placing a batch, its log_det and the gradient of both, beside the energy's value and gradient, for molecules of
growing size, and beside bgflow's transform where bgflow is installed.
range: every system of `systems/`: the share of MD frames with a stiff coordinate beyond the splines' range, and the
share of flow samples with a finite energy after a short warm-up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.interop.bgflow.installed import import_bgflow
from openmm_fab.interop.bgflow.outward import z_matrix
from openmm_fab.molecule.folders import available_systems
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.tools.memory import keep_freed_memory
from openmm_fab.train.settings import Budget

from .energy import load

SIZES = ("alanine_dipeptide", "alanine_tetrapeptide", "alanine_hexapeptide", "peptide_ala9", "peptide_ala29")
BATCH = 1024
PICOSECONDS, WALKERS = 10.0, 128


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", nargs="?", choices=("speed", "range"), default="speed")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Figures by name of a molecule: the smallest alone if quick."""
    keep_freed_memory()
    figures: dict[str, Any] = {"part": options.part, "molecules": {}}
    if options.part == "speed":
        names = SIZES[:1] if options.quick else SIZES
    else:
        names = ("butane",) if options.quick else available_systems()
    for name in names:
        if options.part == "speed":
            found = _costs(load(name))
        else:
            found = _range(MolecularSystem.load(name), 2.0 if options.quick else PICOSECONDS)
        figures["molecules"][name] = found
        print(name, found, flush=True)
    return figures


def section_name(figures: dict[str, Any]) -> str:
    return f"coordinates_{figures['part']}"


def title(figures: dict[str, Any]) -> str:
    return f"Coordinates: {figures['part']}"


def table(figures: dict[str, Any]) -> str:
    return (_speed_table if figures["part"] == "speed" else _range_table)(figures["molecules"])


# --- speed ---


def _speed_table(molecules: dict[str, dict[str, Any]]) -> str:
    rows = [
        "| molecule | atoms | dim | eager | fused | fused energy | coordinates / energy | bgflow, eager |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in molecules.items():
        ratio = found["fused"] / found["energy"]
        bgflow = "not installed" if found["bgflow"] is None else f"{found['bgflow']:.1f}"
        rows.append(
            f"| {name} | {found['atoms']} | {found['dim']} | {found['eager']:.1f} | {found['fused']:.1f} "
            f"| {found['energy']:.1f} | {ratio:.2f} | {bgflow} |"
        )
    text = f"Microseconds per structure of a batch of {BATCH}, float64: x, log_det and their gradient in z; the "
    return f"{text}energy's value and gradient; medians of at least 5.\n\n" + "\n".join(rows)


def _costs(system: MolecularSystem) -> dict[str, float | None]:
    energy = CompiledEnergy(system)
    coordinates = InternalCoordinates.from_system(system, energy=energy)
    random = torch.Generator().manual_seed(0)
    z = 0.3 * torch.randn(BATCH, coordinates.dim, generator=random, dtype=torch.float64)

    def there_and_slope() -> None:
        start = z.detach().requires_grad_()
        x, log_det = coordinates.to_cartesian(start)
        torch.autograd.grad(x.sum() + log_det.sum(), start)

    found: dict[str, float | None] = {
        "atoms": system.n_atoms,
        "dim": coordinates.dim,
        "eager": _median(there_and_slope),
    }
    coordinates.compile()
    found["fused"] = _median(there_and_slope)
    x = coordinates.to_cartesian(z)[0].detach()
    energy.compile()
    found["energy"] = _median(lambda: energy.value_and_gradient(x))
    found["bgflow"] = _bgflow(coordinates, x)
    return found


def _median(call: Callable[[], object]) -> float:
    """Microseconds a structure."""
    call()
    seconds: list[float] = []
    while len(seconds) < 5 or sum(seconds) < 1.0:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) / BATCH * 1e6


def _bgflow(coordinates: InternalCoordinates, x: torch.Tensor) -> float | None:
    """The same of bgflow's global transform, with this Z-matrix, rings by angles; None without bgflow."""
    try:
        bgflow = import_bgflow()
    except ImportError:
        return None
    transform = bgflow.GlobalInternalCoordinateTransformation(z_matrix(coordinates), raise_warnings=False).double()
    with torch.no_grad():
        *parts, _ = transform.forward(x.reshape(len(x), -1))

    def there_and_slope() -> None:
        start = [part.detach().clone().requires_grad_() for part in parts]
        y, log_det = transform.forward(*start, inverse=True)
        torch.autograd.grad(y.sum() + log_det.sum(), start, allow_unused=True)

    return _median(there_and_slope)


# --- range ---


def _range_table(molecules: dict[str, dict[str, Any]]) -> str:
    rows = [
        "| system | atoms | dim | frames of MD | beyond, % | finite energies, % | below 100 kT, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in molecules.items():
        rows.append(
            f"| {name} | {found['atoms']} | {found['dim']} | {found['frames']:,} | {100 * found['outside']:.3f} "
            f"| {100 * found['finite']:.1f} | {100 * found['low']:.1f} |"
        )
    text = f"Beyond: frames with a stiff coordinate beyond the splines' range. MD: {WALKERS} walkers on the "
    text += f"translated energy, {PICOSECONDS:g} ps each, the first half, up to 2.5 times as hot, left out. "
    text += "Energies: of 4,096 samples, unweighted, after 20 iterations of FAB, default settings; finite, and less "
    return f"{text}than 100 kT above the minimum.\n\n" + "\n".join(rows)


def _range(system: MolecularSystem, picoseconds: float) -> dict[str, float]:
    generator = BoltzmannGenerator(system)
    coordinates, bound = generator.coordinates, generator.settings.flow.bound
    frames = _dynamics(generator.energy, system, picoseconds)
    outside = []
    for part in frames.split(4096):
        z, _ = coordinates.to_internal(part)
        outside.append((z[:, : coordinates.n_stiff].abs() > bound).any(1))
    generator.train(Budget(iterations=20), progress=False, compile=False, evaluate_every=1e9, evaluate_samples=256)
    u = torch.from_numpy(generator.sample(4096).u)
    minimum = float(generator.energy(torch.as_tensor(system.minimum)[None]))
    return {
        "atoms": system.n_atoms,
        "dim": coordinates.dim,
        "frames": len(frames),
        "outside": float(torch.cat(outside).double().mean()),
        "finite": float(torch.isfinite(u).double().mean()),
        "low": float((u < minimum + 100).double().mean()),
    }


def _dynamics(energy: CompiledEnergy, system: MolecularSystem, picoseconds: float, step: float = 0.001) -> torch.Tensor:
    """Frames (n, n_atoms, 3) of Langevin dynamics (BAOAB) of many walkers from the minimum, hot at first."""
    energy.compile()
    random = torch.Generator().manual_seed(0)
    masses = torch.as_tensor(system.masses)[:, None]
    x = torch.as_tensor(system.minimum).expand(WALKERS, -1, -1).clone()
    v = torch.zeros_like(x)
    keep, frames = np.exp(-5.0 * step), []
    steps = int(picoseconds / step)
    _, gradient = energy.value_and_gradient(x)
    for k in range(steps):
        kT = system.kT * (2.5 if k < steps // 4 else 1.0)
        v = v - step * system.kT * gradient / masses
        x = x + 0.5 * step * v
        noise = torch.randn(x.shape, generator=random, dtype=x.dtype)
        v = keep * v + ((1 - keep**2) * kT / masses).sqrt() * noise
        x = x + 0.5 * step * v
        _, gradient = energy.value_and_gradient(x)
        if k >= steps // 2 and k % 50 == 0:
            frames.append(x.clone())
    return torch.cat(frames)
