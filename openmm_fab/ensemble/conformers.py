"""Conformers of an ensemble: torsional basins with their populations, errors and free energies, and as an SDF file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mdtraj
import numpy as np

from ..molecule.chemistry import conformer_of, molecule_of, rdkit_chem
from ..tools.files import write_atomically
from ..weights import Estimate, effective_sample_size, kish, objection, pareto_khat
from .weighted import Weighted
from .wells import TorsionWells

BOOTSTRAP = 200


@dataclass(frozen=True)
class Conformer:
    """One conformer: a torsional basin with its population and free energy.

    Parameters
    ----------
    population : Estimate
        Share of the weight.
    free_energy : Estimate, kT
        Above the most populated one, ln(p_1 / p), with the correlation of the two in its error.
    frame : int
        Of the ensemble: the one nearest to the basin's mean torsions.
    effective : float
        Kish's effective number of frames inside; below about ten the error is itself uncertain.
    torsions : dict of str to float, rad
        Of `frame`, those that tell the basins apart; of ends with equal atoms modulo their exchange.
    """

    population: Estimate
    free_energy: Estimate
    frame: int
    effective: float
    torsions: dict[str, float]


@dataclass(frozen=True, eq=False)
class Conformers:
    """The most populated conformers of an ensemble, most populated first: a sequence of `Conformer`.

    Parameters
    ----------
    found : tuple of Conformer
    x : (conformers, atoms, 3), nm
        The frame of each.
    topology : mdtraj.Topology
    label : (n,) int
        Of each frame of the ensemble the number of its conformer; -1 for all others.
    others : Estimate
        Share of the weight that is in none of them.
    count : int
        Of all basins that any frame with weight lies in.
    note : str
        Why the populations are no result; empty where the weights can be used.
    """

    found: tuple[Conformer, ...]
    x: np.ndarray
    topology: mdtraj.Topology
    label: np.ndarray
    others: Estimate
    count: int
    note: str = ""

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: int) -> Conformer:
        return self.found[index]

    def __iter__(self) -> Iterator[Conformer]:
        return iter(self.found)

    def __str__(self) -> str:
        rows = [("conformer", "population", "F / kT", "frames", "torsions / degrees")]
        for number, one in enumerate(self.found, 1):
            angles = ", ".join(f"{name} {np.degrees(value):.0f}" for name, value in one.torsions.items())
            rows.append(
                (str(number), str(one.population), str(one.free_energy), f"{one.effective:.0f}", angles or "none")
            )
        widths = [max(len(row[k]) for row in rows) for k in range(4)]
        lines = ["  ".join([*(cell.rjust(w) for cell, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
        lines.append(f"others: {self.others}, in {self.count - len(self)} more")
        return "\n".join([*filter(None, [self.note]), *lines])

    __repr__ = __str__

    def to_sdf(self, path: str | Path, title: str = "conformer") -> Path:
        """Write an SDF file, a record a conformer, bond orders and charges as drawn; returns its path.

        Properties: population, population_error, free_energy_kT, free_energy_error_kT, frame, effective_frames.

        Raises
        ------
        ImportError, ValueError
            See `molecule.chemistry.molecule_of`.
        """
        Chem = rdkit_chem()
        plain = molecule_of(self.topology, self.x[:1])
        blocks = []
        for number, (one, x) in enumerate(zip(self.found, self.x, strict=True), 1):
            molecule = Chem.Mol(plain)
            molecule.RemoveAllConformers()
            molecule.AddConformer(conformer_of(x), assignId=True)
            molecule.SetProp("_Name", f"{title} {number}")
            properties = {
                "population": one.population.value,
                "population_error": one.population.error,
                "free_energy_kT": one.free_energy.value,
                "free_energy_error_kT": one.free_energy.error,
                "frame": one.frame,
                "effective_frames": one.effective,
            }
            lines = "".join(f">  <{key}>\n{value:.6g}\n\n" for key, value in properties.items())
            blocks.append(f"{Chem.MolToMolBlock(molecule)}{lines}$$$$\n")
        return write_atomically(Path(path), lambda file: file.write("".join(blocks)), "w")


def conformers(ensemble: Weighted, n: int = 10, seed: int = 0) -> Conformers:
    """The n most populated conformers, or all where there are fewer: see `Ensemble.conformers`."""
    if n < 1:
        raise ValueError(f"Expected at least one conformer; got n={n}.")
    w = ensemble.weights
    basins = TorsionWells.of(ensemble.topology, ensemble.x, w)
    states, label = np.unique(basins.states(ensemble.x), axis=0, return_inverse=True)
    label = label.reshape(-1)
    share = np.bincount(label, weights=w, minlength=len(states))
    order = np.argsort(-share, kind="stable")
    count = int((share > 0.0).sum())
    kept = order[: min(n, count)]
    number = np.full(len(states), -1)
    number[kept] = np.arange(len(kept))
    label = number[label]

    def populations(weights: np.ndarray) -> np.ndarray:
        return np.bincount(label + 1, weights=weights, minlength=len(kept) + 1)

    p, replicas = populations(w), ensemble.bootstrap(populations, BOOTSTRAP, seed=seed)
    error = ensemble.share_error(p, ensemble.standard_error(replicas))
    relative = replicas[:, 1:] / p[1:]  # of ln p, by the delta method
    spread = ensemble.standard_error(relative - relative[:, :1])
    found = []
    for k in range(len(kept)):
        inside = np.flatnonzero((label == k) & (w > 0.0))
        frame = _middle(basins, ensemble.x[inside], w[inside])
        angles = {
            angle.name: float(angle.values(ensemble.x[inside[[frame]]])[0]) / angle.fold for angle in basins.angles
        }
        found.append(
            Conformer(
                Estimate(float(p[k + 1]), float(error[k + 1])),
                Estimate(float(np.log(p[1] / p[k + 1])), float(spread[k])),
                int(inside[frame]),
                float(kish(w[inside], total=w[inside].sum())),
                angles,
            )
        )
    frames = np.array([one.frame for one in found], dtype=int)
    others = Estimate(float(p[0]), float(error[0]))
    why = objection(effective_sample_size(ensemble.log_w), pareto_khat(ensemble.log_w))
    note = f"No populations: {why}." if why else ""
    x = np.asarray(ensemble.x[frames])
    return Conformers(tuple(found), x, ensemble.topology, label, others, count, note)


def _middle(basins: TorsionWells, x: np.ndarray, w: np.ndarray) -> int:
    """The structure of x (n, atoms, 3) whose angles are nearest to their mean with weights (n,)."""
    far = np.zeros(len(x))
    for angle in basins.angles:
        values = angle.values(x)
        far += 1.0 - np.cos(values - np.angle(w @ np.exp(1j * values)))
    return int(np.argmin(far))
