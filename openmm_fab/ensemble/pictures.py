"""What is shown of an ensemble: structures drawn by weight, a map of two torsions, and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..drawing.structures import MOST_ATOMS, STRUCTURES, Structures, pdb_models, superposed
from ..free_energy.frames import Frames
from ..free_energy.profiles import profile, surface
from ..molecule.torsions import map_axes, named_torsions
from ..tools.circle import circular_bins
from ..weights import relative_free_energy, systematic_resample

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MAP_BINS = 64  # of either torsion in the map of `Ensemble.explore`


def draw_structures(frames: Frames, seed: int = 0, n: int | None = None) -> Structures:
    """Draw n structures by weight, or about 40; copies of a frame are shown once, with their share."""
    n = n or int(np.clip(MOST_ATOMS // frames.topology.n_atoms, 4, STRUCTURES))
    drawn, counts = np.unique(systematic_resample(frames.log_w, n, np.random.default_rng(seed)), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    index, share = drawn[order], counts[order] / n
    chosen = frames[index]
    trajectory = superposed(chosen.to_mdtraj())
    torsions, axes = named_torsions(frames.topology), map_axes(frames.topology)
    angles = chosen.torsions([torsions[name] for name in axes]) if axes else np.zeros((len(index), 0))
    return Structures(trajectory.xyz, index, share, axes, angles, pdb_models(trajectory))


def torsion_map(frames: Frames, names: Sequence[str]) -> np.ndarray:
    """Free energy (bins, bins), kT, over two named torsions; the lowest is 0."""
    torsions, w = named_torsions(frames.topology), frames.weights
    angles = frames.torsions([torsions[name] for name in names])
    a, b = circular_bins(angles[w > 0.0], MAP_BINS).T
    p = np.bincount(a * MAP_BINS + b, weights=w[w > 0.0], minlength=MAP_BINS**2).reshape(MAP_BINS, MAP_BINS)
    return relative_free_energy(p)


def draw_free_energy(frames: Frames) -> Figure:
    """Figure of F over two torsions (`molecule.torsions.map_axes`); of a molecule with one, along it; else along rg."""
    axes, names = map_axes(frames.topology), tuple(named_torsions(frames.topology))
    figure = surface(frames, *axes).plot() if axes else profile(frames, (*names, "rg")[0]).plot()
    figure.axes[0].set_title(frames.name)
    return figure
