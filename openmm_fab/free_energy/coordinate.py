"""Coordinates, one number for each frame: by name, two to four atoms, a function of a trajectory, or an array."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from ..molecule.torsions import slow_torsions

if TYPE_CHECKING:
    import mdtraj

    from .frames import Frames


# An array (n,), a function of a trajectory, "phi", "psi", "rg", "u", a torsion's name, or a tuple of 2, 3 or 4 atoms.
Coordinate: TypeAlias = "ArrayLike | Callable[[mdtraj.Trajectory], np.ndarray] | str | tuple[int, ...]"


def coordinate_values(ensemble: Frames, values: Coordinate) -> np.ndarray:
    """Evaluate a coordinate: one number for each frame, (n,) float64, nm or rad.

    Parameters
    ----------
    values : (n,) array, callable, str or tuple of int
        Numbers as they are; a function of an mdtraj.Trajectory; "phi" or "psi" (the first one), "rg" (radius of
        gyration), "u" (reduced energy, kT), a name out of `molecule.torsions.slow_torsions`, or a SMARTS pattern that
        one torsion matches; two, three or four atoms: distance, angle, torsion.
    """
    if isinstance(values, str):
        values = _by_name(ensemble, values)
    elif is_atoms(values):
        values = _of_atoms(ensemble, values)
    elif callable(values):
        values = values(ensemble.to_mdtraj())
    if isinstance(values, tuple):
        raise ValueError(
            "Expected one value a frame; got a tuple. mdtraj's compute_phi and the like return atoms and angles: "
            "choose a torsion, lambda t: mdtraj.compute_phi(t)[1][:, 0]."
        )
    found = np.asarray(values, dtype=np.float64)
    if found.shape == (ensemble.n, 1):
        found = found[:, 0]
    if found.shape != (ensemble.n,):
        raise ValueError(
            f"Expected one value a frame, shape ({ensemble.n},); got {found.shape}. "
            "Of several columns choose one: lambda t: mdtraj.compute_phi(t)[1][:, 0]."
        )
    return found


def coordinate_name(values: Coordinate) -> str:
    """Name of a coordinate: as given, its atoms by their numbers, or the function's own name."""
    if isinstance(values, str):
        return values
    if is_atoms(values):
        kind = ("distance", "angle", "torsion")[len(values) - 2]
        return f"{kind} {'-'.join(map(str, values))}"
    return getattr(values, "__name__", "x") if callable(values) else "x"


def is_atoms(values: Any) -> TypeGuard[tuple[int, ...]]:
    """Whether these are two, three or four atoms by their numbers."""
    return isinstance(values, tuple) and 2 <= len(values) <= 4 and all(isinstance(i, int | np.integer) for i in values)


def _by_name(ensemble: Frames, name: str) -> np.ndarray:
    import mdtraj

    if name == "u":
        return ensemble.u
    if name == "rg":
        return mdtraj.compute_rg(ensemble.to_mdtraj())
    named = slow_torsions(ensemble.topology)
    found = named.get(name) or next((q for key, q in named.items() if key.split()[0] == name), None)
    if found is None and "[" in name:
        angles = ensemble.torsions(name)
        if angles.shape[1] > 1:
            raise ValueError(
                f"Expected a pattern that one torsion matches; {name!r} matches {angles.shape[1]}. Choose one of "
                f"ensemble.torsions({name!r}), or its four atoms."
            )
        return angles[:, 0]
    if found is None:
        raise ValueError(
            f'Expected "phi", "psi", "rg", "u" or one of {sorted(named)}; got {name!r}. Other torsions are given by '
            "their four atoms, (0, 1, 2, 3), or by a SMARTS pattern."
        )
    return ensemble.torsions(found)[:, 0]


def _of_atoms(ensemble: Frames, atoms: tuple[int, ...]) -> np.ndarray:
    import mdtraj

    n = ensemble.topology.n_atoms
    if wrong := [i for i in atoms if not 0 <= i < n]:
        raise ValueError(f"Expected numbers of atoms from 0 to {n - 1}; got {wrong}.")
    compute = (mdtraj.compute_distances, mdtraj.compute_angles, mdtraj.compute_dihedrals)[len(atoms) - 2]
    return compute(ensemble.to_mdtraj(), [atoms], periodic=False)[:, 0]
