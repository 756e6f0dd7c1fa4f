"""Strain of a pose, the free energy that a free molecule has to pay for it: -ln of the population about the pose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..molecule.chemistry import positions_of, rdkit_chem, silent
from ..molecule.graph import BondGraph, graph_of
from ..molecule.ligand import sdf_records
from ..molecule.stereo import inverted_centres
from ..weights import Estimate, kish, rule_of_three
from .weighted import Weighted
from .wells import TorsionWells

BOOTSTRAP = 200
MATCHES = 200  # ways to lay equal atoms on each other that are looked at


@dataclass(frozen=True)
class Strain(Estimate):
    """Strain -ln p of a pose in kT, with the samples it rests on.

    Parameters
    ----------
    value : float, kT
        inf where no frame is about the pose.
    error : float, kT
    population : float
        p, the share of the weight about the pose.
    effective : float
        Kish's effective number of frames there; below about ten the error is itself uncertain.
    bound : float, kT
        Where no frame is there, what the strain is at least at 95 %, by `weights.rule_of_three`; else nan.
    """

    value: float
    error: float
    population: float
    effective: float
    bound: float = np.nan

    def __str__(self) -> str:
        if not np.isfinite(self.value):
            return f"> {self.bound:.1f} kT (no frame of any weight is there)"
        few = f" (only {self.effective:.1f} effective frames are there)" if self.effective < 10 else ""
        return f"{super().__str__()} kT{few}"


def strains(
    ensemble: Weighted, pose: str | Path | Any | ArrayLike, within: float | None = None, seed: int = 0
) -> list[Strain]:
    """Strain of every pose; see `Ensemble.strain`."""
    if within is not None and not within > 0.0:
        raise ValueError(f"Expected within above 0 nm; got {within}.")
    w = ensemble.weights
    heavy = [a.index for a in ensemble.topology.atoms if a.element.symbol != "H"]
    basins = TorsionWells.of(ensemble.topology, ensemble.x, w, heavy=True) if within is None else None
    states = None if basins is None else basins.states(ensemble.x)
    found = []
    for structures in _poses(ensemble, pose):
        if basins is None or states is None:
            near = np.min([_rmsd(ensemble.x[:, heavy], one[heavy]) for one in structures], axis=0)
            mask = near < (within or 0.0)
        else:
            mask = (states[:, None] == basins.states(structures)[None]).all(-1).any(1)
        found.append(_strain(ensemble, mask, seed))
    return found


def _strain(ensemble: Weighted, mask: np.ndarray, seed: int) -> Strain:
    w = ensemble.weights * mask
    p = float(w.sum())
    if p == 0.0:
        return Strain(np.inf, np.nan, 0.0, 0.0, float(-np.log(rule_of_three(ensemble.independent))))
    replicas = ensemble.bootstrap(lambda weights: weights[mask].sum(), BOOTSTRAP, seed=seed)
    error = float(ensemble.share_error(p, ensemble.standard_error(replicas)))
    return Strain(float(-np.log(p)), error / p, p, float(kish(w)))


def _poses(ensemble: Weighted, pose: Any) -> list[np.ndarray]:
    """Structures (ways, atoms, 3), nm, of each pose under every exchange of equivalent atoms; hydrogens are nan."""
    if isinstance(pose, str | Path):
        Chem = rdkit_chem()
        with silent():
            read = [(Chem.MolFromMolBlock(text, removeHs=False), title) for title, text in sdf_records(pose)]
        unread = [f"{k} ({title or 'no title'})" for k, (one, title) in enumerate(read) if one is None]
        if unread:
            raise ValueError(f"Expected molecules in {pose}; RDKit cannot read {', '.join(unread[:5])}.")
        return [_of_molecule(ensemble, one, f"pose {k} of {pose}") for k, (one, _) in enumerate(read)]
    if hasattr(pose, "GetNumConformers"):
        return [_of_molecule(ensemble, pose, "the pose")]
    x, atoms = np.asarray(pose, dtype=np.float64), ensemble.topology.n_atoms
    if x.ndim not in (2, 3) or x.shape[-2:] != (atoms, 3) or not np.isfinite(x).all():
        raise ValueError(
            f"Expected a pose as an SDF file, an RDKit molecule, or finite positions ({atoms}, 3) or (poses, {atoms}, "
            f"3) in nm; got an array {x.shape}."
        )
    skeleton, heavy = _skeleton(graph_of(ensemble.topology))
    return [_laid(ensemble, skeleton, one[heavy], "the pose") for one in x.reshape(-1, atoms, 3)]


def _of_molecule(ensemble: Weighted, pose: Any, what: str) -> np.ndarray:
    if not pose.GetNumConformers() or not pose.GetConformer().Is3D():
        raise ValueError(f"Expected a 3-D structure of {what}; it has none.")
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in pose.GetBonds()]
    graph = BondGraph([atom.GetSymbol() for atom in pose.GetAtoms()], np.array(bonds, dtype=int))
    skeleton, heavy = _skeleton(graph)
    return _laid(ensemble, skeleton, positions_of(pose)[heavy], what)


def _laid(ensemble: Weighted, skeleton: Any, x: np.ndarray, what: str) -> np.ndarray:
    """Positions of the heavy atoms of a pose on those of the ensemble, (ways, atoms, 3): one for each exchange of equal
    atoms that keeps the chirality. Bond orders, charges and hydrogens of the pose are not looked at."""
    own, heavy = _skeleton(graph_of(ensemble.topology))
    ways = skeleton.GetSubstructMatches(own, uniquify=False, maxMatches=MATCHES)
    if not ways or skeleton.GetNumAtoms() != len(heavy) or skeleton.GetNumBonds() != own.GetNumBonds():
        raise ValueError(
            f"Expected the ensemble's heavy atoms and bonds, {len(heavy)} and {own.GetNumBonds()}, in {what}; got "
            f"{skeleton.GetNumAtoms()} and {skeleton.GetNumBonds()}, or others."
        )
    structures = np.full((len(ways), ensemble.topology.n_atoms, 3), np.nan)
    structures[:, heavy] = x[np.array(ways)]
    same = _same_hands(ensemble, structures)
    if not same.any():
        raise ValueError(f"Expected the ensemble's chirality at its stereocentres in {what}; got another stereoisomer.")
    return structures[same]


def _skeleton(graph: BondGraph) -> tuple[Any, list[int]]:
    """RDKit's molecule of the heavy atoms, all bonds single, and their numbers in the graph."""
    Chem = rdkit_chem()
    heavy = [i for i, element in enumerate(graph.elements) if element not in ("H", "D", "VS")]
    number = {atom: k for k, atom in enumerate(heavy)}
    molecule = Chem.RWMol()
    for atom in heavy:
        molecule.AddAtom(Chem.Atom(graph.elements[atom]))
    for i, j in graph.bonds.tolist():
        if i in number and j in number:
            molecule.AddBond(number[i], number[j], Chem.BondType.SINGLE)
    found = molecule.GetMol()
    found.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(found)
    return found, heavy


def _same_hands(ensemble: Weighted, structures: np.ndarray) -> np.ndarray:
    """(ways,) bool: every tetrahedral atom with three heavy neighbours has them around it as the ensemble has."""
    graph = graph_of(ensemble.topology)
    first = ensemble.x[[int(np.argmax(ensemble.weights))]]
    same = np.ones(len(structures), dtype=bool)
    for i, around in enumerate(graph.neighbours):
        arms = [j for j in around if graph.elements[j] != "H"]
        pyramid = len(around) == 3 and graph.elements[i] in ("S", "P", "Se")
        if len(arms) >= 3 and (len(around) == 4 or pyramid):
            centres = {i: arms}
            for k in np.flatnonzero(same):
                same[k] = inverted_centres(first, centres, structures[k])[i] == 0.0
    return same


def _rmsd(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Root mean square deviations (n,), nm, of structures x (n, atoms, 3) from y (atoms, 3), superposed; inf where x
    is not finite."""
    a = x.astype(np.float64) - x.mean(1, keepdims=True, dtype=np.float64)
    b = y - y.mean(0)
    finite = np.isfinite(a).all((1, 2))
    a[~finite] = 0.0
    covariance = np.einsum("nai,aj->nij", a, b)
    size = np.linalg.svd(covariance, compute_uv=False)
    size[:, 2] *= np.sign(np.linalg.det(covariance))
    square = (np.square(a).sum((1, 2)) + np.square(b).sum() - 2.0 * size.sum(1)) / len(b)
    return np.where(finite, np.sqrt(np.maximum(square, 0.0)), np.inf)
