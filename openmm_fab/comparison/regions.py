"""Default basins of `compare`: regions of Ramachandran plots, or wells of rotatable torsions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from ..free_energy.profiles import in_phi_positive
from ..tools.circle import BINS, circular_bins, label_basins, smooth

HELICAL_PSI = (math.radians(-120.0), math.radians(50.0))  # on the two barriers of F(psi) at phi < 0
LEAST = 1e-3  # share of a well, of the mean of both ensembles, to be compared

Values = Mapping[str, np.ndarray]
Region = Callable[[Values], np.ndarray]


def ramachandran_regions(names: Sequence[str]) -> dict[str, Region]:
    """Three regions that fill the Ramachandran plot of every residue with phi and psi; of phi alone the first.

    "phi > 0": 0 < phi < 2.5 rad, alphaL and C7ax (the upper edge is there because the beta region spills over
    phi = ±pi). Of the rest "alphaR", -120 < psi < 50 degrees, and "C7eq/C5", the beta side. For L-residues; of glycine
    and D-residues they are as good, but the names are not.
    """
    found: dict[str, Region] = {}
    residues = [name[4:] for name in names if name.startswith("phi ")]
    for residue in residues:
        found[f"phi > 0 {residue}"] = partial(_in_phi_positive, phi=f"phi {residue}")
    for residue in residues:
        if f"psi {residue}" in names:
            for region, helical in (("C7eq/C5", False), ("alphaR", True)):
                found[f"{region} {residue}"] = partial(
                    _in_phi_negative, phi=f"phi {residue}", psi=f"psi {residue}", helical=helical
                )
    return found


def wells(values: Sequence[Values], weights: Sequence[np.ndarray], names: Sequence[str]) -> dict[str, Region]:
    """Wells of torsions in the mean density of several ensembles, so that wells of any one of them are found.

    Parameters
    ----------
    values : sequence of dict of name to (n,), rad
        Of each ensemble.
    weights : sequence of (n,)
        Normalised.
    names : sequence of str
        Torsions to look at; one with a single well gives none.

    Returns
    -------
    dict of name to region
        "<torsion> at <place of the minimum, degrees>°".
    """
    found: dict[str, Region] = {}
    for name in names:
        density = np.zeros(BINS)
        for one, w in zip(values, weights, strict=True):
            density += np.bincount(circular_bins(one[name]), weights=w, minlength=BINS) / len(weights)
        density = smooth(density)
        label = label_basins(density)
        share = np.bincount(label, weights=density)
        kept = [k for k in range(len(share)) if share[k] >= LEAST]
        for k in kept if len(kept) > 1 else []:
            top = int(np.argmax(np.where(label == k, density, -1.0)))
            degrees = -180.0 + 360.0 * (top + 0.5) / BINS
            found[f"{name} at {_to_ten_degrees(degrees)}°"] = partial(_in_well, torsion=name, inside=label == k)
    return found


def _in_phi_positive(values: Values, phi: str) -> np.ndarray:
    """Frames (n,) with 0 < phi < 2.5 rad."""
    return in_phi_positive(values[phi])


def _in_phi_negative(values: Values, phi: str, psi: str, helical: bool) -> np.ndarray:
    """Frames (n,) with any other phi, and psi inside (helical) or outside of `HELICAL_PSI`."""
    low, high = HELICAL_PSI
    inside = (values[psi] > low) & (values[psi] < high)
    return ~in_phi_positive(values[phi]) & (inside == helical)


def _in_well(values: Values, torsion: str, inside: np.ndarray) -> np.ndarray:
    """Frames (n,) whose torsion falls into one of the bins (BINS,) that are `inside`."""
    return inside[circular_bins(values[torsion])]


def _to_ten_degrees(degrees: float) -> int:
    """Degrees rounded to a multiple of 10, which noise does not change; 180 for -180."""
    found = 10 * round(degrees / 10)
    return 180 if found == -180 else int(found)
