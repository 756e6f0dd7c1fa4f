"""Weighted ensembles of structures in memory; samples of a flow and MD trajectories are the same class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mdtraj
import numpy as np
from numpy.typing import ArrayLike

from .. import weights as _weights
from ..drawing.explore import Explorer
from ..drawing.view import view
from ..energy.evaluate import Rounding
from ..free_energy.coordinate import Coordinate, coordinate_values, is_atoms
from ..free_energy.differences import Energy, free_energy_difference
from ..free_energy.estimators import FreeEnergy
from ..free_energy.populations import BasinPopulations, basin_populations
from ..free_energy.profiles import (
    Basin,
    BasinDifference,
    Profile,
    Ranges,
    Surface,
    basin_difference,
    profile,
    surface,
)
from ..molecule.system import MolecularSystem
from ..molecule.torsions import slow_torsions
from ..tools.files import write_atomically
from ..weights import Average
from .audit import Audit
from .conformers import Conformers, conformers
from .export import Exported
from .files import read_npz, write_npz
from .held import Held, in_one_line
from .netcdf import SUFFIX, WeightedTrajectory
from .pictures import draw_free_energy, draw_structures, torsion_map
from .reading import read_frames
from .states import slow_angles
from .strain import Strain, strains
from .trajectories import HDF5

if TYPE_CHECKING:
    from matplotlib.figure import Figure


TABLES = (".csv", ".colvar")  # suffixes of tables that `write_ensemble` knows
TRAJECTORIES = (  # suffixes of what mdtraj writes for `Ensemble.save`
    *(".dcd", ".xtc", ".trr", ".nc", ".ncdf", ".netcdf", ".mdcrd", ".crd", ".lammpstrj", ".gsd", ".dtr", ".xyz"),
    *(".h5", ".lh5", ".pdb", ".pdbx", ".cif", ".gro", ".rst7", ".ncrst"),
)


@dataclass(frozen=True, eq=False, repr=False)
class Ensemble(Exported):
    """Weighted structures of one molecule at one temperature: a flow's samples, or a trajectory.

    Parameters
    ----------
    x, u, log_w, topology, temperature, block, name, invalid, log_q
        See `free_energy.frames.Frames`.
    rounding : Rounding, optional
        Of a file's coordinates, where u feels it.
    held : tuple of Held, optional
        What the coordinates that drew the frames keep as it was in the structure given; None where that is not known,
        and for MD, which holds what it cannot cross in its time.
    audit : Audit, optional
        What walkers on the energy found that the frames should hold, see `BoltzmannGenerator.audit`.
    """

    _: KW_ONLY
    rounding: Rounding | None = None
    held: tuple[Held, ...] | None = None
    audit: Audit | None = None

    @classmethod
    def from_mdtraj(
        cls,
        trajectory: mdtraj.Trajectory | str | Path,
        system: MolecularSystem,
        *,
        weights: ArrayLike | None = None,
        log_weights: ArrayLike | None = None,
        block: ArrayLike | None = None,
        energies: bool = True,
        u: ArrayLike | None = None,
        name: str = "reference",
        subsample: bool = False,
    ) -> Ensemble:
        """Make an ensemble of an mdtraj trajectory, by default unbiased MD at the system's temperature.

        Parameters
        ----------
        trajectory : mdtraj.Trajectory, or path of a file that mdtraj reads
        system : MolecularSystem
        weights, log_weights : (n,), optional
            Weight of every frame, where it is not 1; give one of the two at most.
        block : (n,) int, optional
            Labels of independent blocks; by default `time_blocks`. For independent frames pass
            ``np.arange(n)``.
        energies : bool
            Evaluate u with the system's energy; False leaves it nan.
        u : (n,), optional
            Reduced energies where they are known; then nothing is evaluated.
        subsample : bool
            Keep one frame a correlation time of the slowest torsion, and take those as independent. Loses precision:
            all frames with blocks know at least as much.

        Raises
        ------
        ValueError
            Where the trajectory's atoms are not the system's, in the same order; coordinates are not in nm; molecules
            are split by a periodic box that is not given; stereocentres have another chirality than the system's. (In a
            few frames only: a warning.)

        Warns
        -----
        UserWarning
            Where a file has rounded the coordinates so that u is not that of the structures that were sampled
            (`rounding`): XTC's 0.001 nm. Nothing is corrected.
        """
        frames, rounding = read_frames(trajectory, system, weights, log_weights, block, energies, u, name, subsample)
        return cls(**{f.name: getattr(frames, f.name) for f in fields(frames)}, rounding=rounding)

    # Estimates

    def expectation(
        self,
        values: Coordinate,
        *,
        n_bootstrap: int = 200,
        seed: int = 0,
    ) -> Average:
        """Weighted mean of an observable, with a bootstrap standard error, and a note where the weights cannot be used.

        Parameters
        ----------
        values : (n, ...), or callable taking an mdtraj.Trajectory and returning it; or a name, or atoms
            Names and atoms as `free_energy.coordinate_values` takes them: "rg", "phi ALA2", (0, 3). Of bool the mean is
            a share; of a share of 0 or 1 the error is what `weights.rule_of_three` allows.
        """
        if isinstance(values, str) or is_atoms(values):
            values = coordinate_values(self, values)
        found = values(self.to_mdtraj()) if callable(values) else values
        if isinstance(found, tuple):
            raise ValueError(
                "Expected numbers, one row a frame; got a tuple. mdtraj's compute_phi and the like return atoms and "
                "angles: take lambda t: mdtraj.compute_phi(t)[1]."
            )
        w, share = self.weights, np.asarray(found).dtype == bool
        found = _weights.weighted_values(w, found)
        mean = np.tensordot(w, found, axes=1)
        error = self.standard_error(self.bootstrap(lambda w: np.tensordot(w, found, axes=1), n_bootstrap, seed=seed))
        error = self.share_error(mean, error) if share else error
        note = _weights.objection(self.ess, self.khat)
        return Average(mean, error, note) if mean.ndim else Average(float(mean), float(error), note)

    def profile(
        self,
        values: Coordinate,
        *,
        bins: int = 60,
        range: tuple[float, float] | None = None,
        n_bootstrap: int = 200,
        seed: int = 0,
    ) -> Profile:
        """Free-energy profile, kT, along a coordinate such as "phi ALA2": see `free_energy.profile`."""
        return profile(self, values, bins=bins, range=range, n_bootstrap=n_bootstrap, seed=seed)

    def surface(
        self,
        a: Coordinate,
        b: Coordinate,
        *,
        bins: int = 64,
        range: Ranges | None = None,
        n_bootstrap: int = 0,
        seed: int = 0,
    ) -> Surface:
        """Free-energy surface, kT, over two coordinates: see `free_energy.surface`."""
        return surface(self, a, b, bins=bins, range=range, n_bootstrap=n_bootstrap, seed=seed)

    def basins(self, definitions: Mapping[str, Basin], *, n_bootstrap: int = 200, seed: int = 0) -> BasinPopulations:
        """Populations of named basins and the differences between them: see `free_energy.basin_populations`."""
        return basin_populations(self, definitions, n_bootstrap=n_bootstrap, seed=seed)

    def basin_difference(self, basin: Basin | None = None, *, n_bootstrap: int = 200, seed: int = 0) -> BasinDifference:
        """Free energy of a basin relative to all the rest, kT: see `free_energy.basin_difference`."""
        return basin_difference(self, basin, n_bootstrap=n_bootstrap, seed=seed)

    def free_energy_difference(self, energy: Energy) -> FreeEnergy:
        """Free energy of another force field, temperature or lambda less this one, kT: see
        `free_energy.free_energy_difference`."""
        return free_energy_difference(self, energy)

    @property
    def torsion_names(self) -> list[str]:
        """Names of torsions that `profile`, `surface` and `expectation` take."""
        return list(slow_torsions(self.topology))

    def slow_angles(self) -> np.ndarray:
        """Torsions (n, torsions), rad, of bonds, rings and nitrogens that change slowly:
        `ensemble.states.slow_states`."""
        return slow_angles(self)

    def conformers(self, n: int = 10, seed: int = 0) -> Conformers:
        """The n most populated torsional basins, each with population, error, free energy and a structure.

        A basin is a combination of wells: of each bond that turns, ring that puckers and nitrogen that inverts
        (`slow_angles`), parted where the free energy along it has a barrier above 1.5 kT. Turning equal atoms into each
        other (phenyl, carboxylate) makes no new one; hydrogens are looked at where no heavy atoms turn.

        Parameters
        ----------
        seed : int
            Of the bootstrap.
        """
        return conformers(self, n, seed)

    def strain(self, pose: Any, within: float | None = None, *, seed: int = 0) -> Strain | list[Strain]:
        """What it costs the free molecule to take a pose: -ln of the population of its torsional basin, kT.

        Parameters
        ----------
        pose : path of an SDF file, rdkit.Chem.Mol, (atoms, 3) or (poses, atoms, 3), nm
            Heavy atoms are what counts; a file or molecule may have them in another order. Exchanges of equal atoms
            count as the same pose.
        within : float, nm, optional
            Take the frames within this heavy-atom RMSD of the pose, instead of those of its basin.

        Returns
        -------
        Strain, or a list of them, one a pose, of a file or several poses

        Raises
        ------
        ImportError
            Without RDKit.
        ValueError
            Another molecule or stereoisomer.
        """
        found = strains(self, pose, within, seed)
        several = isinstance(pose, str | Path) or np.ndim(pose) == 3
        return found if several else found[0]

    def to_sdf(self, path: str | Path, n: int = 10) -> Path:
        """Write the n most populated `conformers` as an SDF file with populations, errors and free energies as
        properties, bond orders as drawn; returns its path. Needs RDKit, and a molecule whose bonds have orders."""
        return self.conformers(n).to_sdf(path, self.name)

    def plot(self) -> Figure:
        """Figure of the free energy over two torsions: phi and psi, or the first two; of fewer, along the one there is,
        or along the radius of gyration. `profile(...).plot()` and `surface(...).plot()` draw others."""
        return draw_free_energy(self)

    def view(self, n: int = 20, seed: int = 0) -> Any:
        """nglview widget of n structures drawn by weight, superposed on the first by their heavy atoms.

        Raises
        ------
        ImportError
            Without nglview; the message has the install command.
        """
        return view(self.resample(n, seed).x, self.topology)

    def explore(self, n: int = 100, seed: int = 0) -> Explorer:
        """Notebook widget of n structures drawn by weight, beside a map of two torsions.

        Raises
        ------
        ValueError
            For a molecule without two torsions to make a map of.
        """
        structures = draw_structures(self, seed, n)
        if not structures.axes:
            raise ValueError("Expected a molecule with two torsions to make a map of; ensemble.view() shows any.")
        surface = torsion_map(self, structures.axes)
        return Explorer(structures, self.topology, self.u[structures.frame], surface)

    def __repr__(self) -> str:
        head = f"Ensemble({self.name!r}: {self.n} frames of {self.topology.n_atoms} atoms"
        head += f", {self.temperature:g} K"
        if self.rounding is not None:
            head += f", {self.rounding}"
        tail = "" if self.held is None else f"; {in_one_line(self.held)}"
        tail += ")" if self.audit is None else f"; audit: {self.audit.counts})"
        if not np.isfinite(self.log_w).any():
            return f"{head}, no frame has any weight{tail}"
        if np.ptp(self.log_w) == 0.0:
            blocks = "" if self.block is None else f", {self._blocks()[0]} blocks"
            return f"{head}, equal weights{blocks}{tail}"
        return (
            f"{head}, ESS {self.ess:.0f} ({100 * self.ess_fraction:.1f} %), {self.ess_clipped:.0f} with "
            f"the top {_weights.CLIP_FRACTION:g} clipped, {_weights.tail_in_words(self.khat)}, "
            f"{self.invalid} invalid{tail}"
        )

    def _repr_html_(self) -> str:
        rows = {"frames": f"{self.n:,} of {self.topology.n_atoms} atoms, {self.temperature:g} K"}
        if np.isfinite(self.log_w).any():
            rows["weights"] = _weights.diagnosis(self.log_w)
            rows["effective samples"] = f"{self.ess:,.0f} ({100 * self.ess_fraction:.1f} %)"
        rows |= {"without a finite energy": f"{self.invalid:,}"} if self.invalid else {}
        rows |= {} if self.held is None else {"structure": in_one_line(self.held)}
        cells = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows.items())
        return f"<table><caption>{escape(self.name)}</caption>{cells}</table>"

    # Files

    def save(self, path: str | Path) -> Path:
        """Write a file by its suffix; returns its path. An interrupted save leaves no half.

        .npz, which is added to any suffix that is not known: everything, topology included, for `load`. Others as
        `write_ensemble` says: tables, or a trajectory (.dcd, .xtc, ...) with its weights in a .colvar beside it.
        """
        path = Path(path)
        if path.suffix.lower() in (*TABLES, *TRAJECTORIES):
            return write_ensemble(self, path)[0]
        path = _with_suffix(path)
        return write_npz(self, path, self.rounding, self.held, self.audit)

    @classmethod
    def load(cls, path: str | Path) -> Ensemble:
        """Read an ensemble that `save` wrote, that of a run's folder, or all frames of a .nc file; `StreamedEnsemble`
        reads the latter in pieces.

        ValueError for a file that is truncated or was written by something else.
        """
        if Path(path).suffix == SUFFIX:
            with WeightedTrajectory.open(path) as frames:
                return cls(**frames.read())
        if Path(path).suffix.lower() in TRAJECTORIES:
            raise ValueError(
                f"Expected a file with weights, as Ensemble.save writes to .npz; {Path(path).name} is a trajectory: "
                "Ensemble.from_mdtraj(path, system) takes it."
            )
        path = Path(path) if Path(path).exists() else _with_suffix(path)
        path = path / "ensemble.npz" if path.is_dir() else path
        if not path.exists():
            raise FileNotFoundError(f"Expected an ensemble file, or a run's folder; there is none at {path}.")
        return cls(**read_npz(path))


def write_ensemble(ensemble: Ensemble, path: str | Path) -> list[Path]:
    """Write by suffix: .npz (`Ensemble.save`), .csv, .colvar, or a trajectory with its weights in a .colvar beside it.

    Returns
    -------
    list of Path
        What was written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in ("", ".npz"):
        return [ensemble.save(path)]
    if suffix == ".csv":
        table = ensemble.to_pandas()
        return [write_atomically(path, lambda file: table.to_csv(file), "w")]
    if suffix == ".colvar":
        return [ensemble.to_colvar(path)]
    if suffix in HDF5 and find_spec("tables") is None:
        raise ImportError(f"{path.name} needs PyTables: pip install tables. Or choose .dcd, .xtc, .trr or .nc.")
    try:
        ensemble.to_mdtraj().save(str(path))
    except OSError as error:
        if error.errno:  # a full disk, say
            raise
        known = ", ".join((".npz", *TABLES))
        raise ValueError(f"Expected {known}, or a suffix that mdtraj writes; got {path.name!r} ({error}).") from error
    return [path, ensemble.to_colvar(path.with_suffix(".colvar"))]


def _with_suffix(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
