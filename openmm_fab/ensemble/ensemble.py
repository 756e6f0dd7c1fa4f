"""Weighted ensembles of structures in memory; samples of a flow and MD trajectories are the same class."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mdtraj
import numpy as np
from numpy.typing import ArrayLike

from .. import weights as _weights
from ..drawing.explore import Explorer
from ..drawing.structures import MOST_ATOMS, STRUCTURES, Structures, pdb_models, superposed
from ..drawing.view import view
from ..energy.backends import reduced_energy
from ..molecule.chemistry import find_pattern, molecule_of
from ..molecule.stereo import check_chirality, stereocentres
from ..molecule.system import GAS_CONSTANT, MolecularSystem
from ..molecule.torsions import map_axes, named_torsions
from ..tools.circle import circular_bins
from ..tools.files import check_format, load_npz, write_atomically
from ..weights import Estimate, relative_free_energy, systematic_resample
from .blocks import slowest_inefficiency, time_blocks
from .conformers import Conformers, conformers
from .energies import Rounding, energies_of
from .export import Table, extra_columns, to_arviz, to_pandas, to_xarray, write_colvar
from .held import Held, from_json, in_one_line, to_json
from .netcdf import SUFFIX, WeightedTrajectory
from .states import slow_states
from .strain import Strain, strains
from .trajectories import (
    check_same_atoms,
    coordinate_grid,
    topology_from_arrays,
    topology_to_arrays,
    whole_structures,
)

if TYPE_CHECKING:
    import pandas
    import xarray


_FORMAT = "openmm_fab ensemble 1"
TABLES = (".csv", ".colvar")  # suffixes of tables that `write_ensemble` knows
COARSE = 1e-3  # nm
KEEP = "Keep frames as DCD, TRR or NetCDF, or as XTC with more digits (in GROMACS compressed-x-precision = 100000)."
MAP_BINS = 64  # of either torsion in the map of `Ensemble.explore`


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Weighted structures of one molecule at one temperature.

    Parameters
    ----------
    x : (n, atoms, 3), nm
    u : (n,)
        True (never regularised) reduced energies U/kT; nan where they were not evaluated.
    log_w : (n,), nats
        Unnormalised log weights: zeros for MD, -inf for invalid structures, which stay counted.
    topology : mdtraj.Topology
    temperature : float, K
    block : (n,) int, optional
        Frames with the same label depend on each other, frames with different labels do not (time blocks or
        walkers of MD). None: every frame is independent.
    name : str
    invalid : int
        How many frames have no finite energy (and weight zero).
    log_q : (n,), nats, optional
        Log density of the flow that drew the frames.
    rounding : Rounding, optional
        Of a file's coordinates, where u feels it.
    held : tuple of Held, optional
        What the coordinates that drew the frames keep as it was in the structure given; None where that is not known,
        and for MD, which holds what it cannot cross in its time.
    """

    x: np.ndarray
    u: np.ndarray
    log_w: np.ndarray
    topology: mdtraj.Topology
    temperature: float
    block: np.ndarray | None = None
    name: str = "ensemble"
    invalid: int = 0
    log_q: np.ndarray | None = None
    rounding: Rounding | None = None
    held: tuple[Held, ...] | None = None

    def __post_init__(self) -> None:
        x = np.asarray(self.x)
        if x.dtype not in (np.float32, np.float64):
            x = x.astype(np.float64)
        if x.ndim != 3 or x.shape[1:] != (self.topology.n_atoms, 3):
            raise ValueError(f"Expected x with shape (n, {self.topology.n_atoms}, 3) in nm; got {x.shape}.")
        if not float(self.temperature) > 0.0:
            raise ValueError(f"Expected a temperature above 0 K; got {self.temperature}.")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "temperature", float(self.temperature))
        for key, dtype in (
            ("u", np.float64),
            ("log_w", np.float64),
            ("log_q", np.float64),
            ("block", np.int64),
        ):
            value = getattr(self, key)
            if value is None and key in ("log_q", "block"):
                continue
            value = np.asarray(value, dtype=dtype)
            if value.shape != (len(x),):
                raise ValueError(f"Expected {key} with shape ({len(x)},), one a frame; got {value.shape}.")
            object.__setattr__(self, key, value)

    @classmethod
    def from_mdtraj(
        cls,
        trajectory: mdtraj.Trajectory,
        system: MolecularSystem,
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
        check_same_atoms(trajectory.topology, system.md_topology)
        if weights is not None and log_weights is not None:
            raise ValueError("Expected weights or log_weights; got both.")
        if subsample and block is not None:
            raise ValueError("Expected subsample=True, for one run, or block, for several; got both.")
        x = whole_structures(trajectory, system.graph, system.positions)
        check_chirality(x, stereocentres(system.graph), system.positions, system.md_topology)
        n = trajectory.n_frames
        log_w = np.zeros(n) if log_weights is None else np.array(log_weights, dtype=np.float64)
        if weights is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                log_w = np.log(np.asarray(weights, dtype=np.float64))
        ensemble = cls(x, np.full(n, np.nan), log_w, system.md_topology, float(system.temperature), name=name)
        if u is not None:
            ensemble = replace(ensemble, u=np.asarray(u, dtype=np.float64))
        if subsample:
            if (slowest := slowest_inefficiency(ensemble.slow_angles())) is None:
                raise ImportError("subsample=True needs pymbar: pip install openmm_fab[md].")
            ensemble = ensemble[:: int(np.ceil(slowest))]
            block = np.arange(ensemble.n)
        block = time_blocks(ensemble.slow_angles()) if block is None else np.asarray(block)
        grid = coordinate_grid(trajectory.xyz)
        if u is not None or not energies:
            u = ensemble.u
            rounding = Rounding(grid) if grid >= COARSE else None
            spoilt = "The u given stands; energies of another force field, on these frames, do not fit it."
        else:
            energy = reduced_energy(system)
            u = energies_of(energy, ensemble.x)
            rounding = Rounding.of(energy, ensemble.x, grid) if grid else None
            rounding = rounding if rounding is not None and rounding.matters else None
            spoilt = "Torsions and populations stand; averages of u, its distribution and what is made from it do not."
        ensemble = replace(ensemble, block=block, rounding=rounding)
        if not energies:
            return ensemble
        if rounding is not None:
            warnings.warn(f"{name!r} has {rounding}. {spoilt} {KEEP}", stacklevel=2)
        log_w = np.where(np.isfinite(u), ensemble.log_w, -np.inf)
        return replace(ensemble, u=u, log_w=log_w, invalid=int((~np.isfinite(u)).sum()))

    # What the weights say

    @property
    def n(self) -> int:
        """Number of frames, invalid ones included."""
        return len(self.x)

    @property
    def kT(self) -> float:
        """Thermal energy, kJ/mol, with OpenMM's gas constant."""
        return GAS_CONSTANT * self.temperature

    @property
    def weights(self) -> np.ndarray:
        """Normalised weights (n,), which sum to one."""
        return _weights.normalized_weights(self.log_w)

    @property
    def ess(self) -> float:
        """Kish's effective sample size of the raw weights; for MD it is n, since correlation in time does not enter."""
        return _weights.effective_sample_size(self.log_w)

    @property
    def independent(self) -> float:
        """Upper bound on the number of independent samples: `ess`, or the number of blocks if smaller."""
        return min(self.ess, _weights.count_blocks(self.n, self.block))

    @property
    def ess_fraction(self) -> float:
        """Effective sample size as a share of the number of frames."""
        return self.ess / self.n

    @property
    def ess_clipped(self) -> float:
        """Effective sample size with the largest 1e-4 of the weights clipped; never smaller than `ess`, and not to
        be shown alone."""
        return _weights.effective_sample_size(_weights.clipped(self.log_w))

    @property
    def khat(self) -> float:
        """Pareto k-hat of the weights' tail: below 0.5 reliable, above 0.7 not to be trusted; -inf for equal
        weights."""
        return _weights.pareto_khat(self.log_w)

    @property
    def log_z(self) -> Estimate:
        """Logarithm of the mean weight, with its standard error."""
        return _weights.log_z(self.log_w, self.block)

    # Estimates

    def expectation(
        self,
        values: ArrayLike | Callable[[mdtraj.Trajectory], np.ndarray],
        n_bootstrap: int = 200,
        seed: int = 0,
    ) -> Estimate:
        """Weighted mean of an observable, with a bootstrap standard error.

        Parameters
        ----------
        values : (n, ...), or callable taking an mdtraj.Trajectory and returning it
            Of bool the mean is a share; of a share of 0 or 1 the error is what `weights.rule_of_three` allows.
        """
        values = np.asarray(values(self.to_mdtraj()) if callable(values) else values)
        w, share = self.weights, values.dtype == bool
        values = _weights.weighted_values(w, values)
        mean = np.tensordot(w, values, axes=1)
        error = self.standard_error(self.bootstrap(lambda w: np.tensordot(w, values, axes=1), n_bootstrap, seed))
        error = self.share_error(mean, error) if share else error
        return Estimate(mean, error) if mean.ndim else Estimate(float(mean), float(error))

    def bootstrap(
        self, statistic: Callable[[np.ndarray], np.ndarray], n_bootstrap: int = 200, seed: int = 0
    ) -> np.ndarray:
        """Bootstrap replicas of a statistic, over frames or, where the ensemble has blocks, over blocks.

        Parameters
        ----------
        statistic : callable
            Takes normalised weights (n,), which carry the resampling, and returns an array or a number.

        Returns
        -------
        (n_bootstrap, ...)
            Replicas that drew no frame of positive weight are nan.
        """
        rng = np.random.default_rng(seed)
        blocks, label = (self.n, None) if self.block is None else self._blocks()
        w, replicas, empty = self.weights, [], []
        for i in range(n_bootstrap):
            counts = np.bincount(rng.integers(blocks, size=blocks), minlength=blocks)
            drawn = w * (counts if label is None else counts[label])
            if (total := drawn.sum()) == 0.0:
                empty.append(i)
                drawn, total = w, 1.0
            replicas.append(statistic(drawn / total))
        result = np.array(replicas, dtype=np.float64)
        result[empty] = np.nan
        return result

    def standard_error(self, replicas: np.ndarray) -> np.ndarray:
        """Standard error from bootstrap replicas: their standard deviation times sqrt(B / (B - 1)) for B blocks; nan
        for one.

        The factor undoes the bootstrap's bias, which matters for a handful of walkers.
        """
        blocks = self.n if self.block is None else self._blocks()[0]
        if blocks < 2:
            return np.full(replicas.shape[1:], np.nan)
        return np.nanstd(replicas, axis=0, ddof=1) * np.sqrt(blocks / (blocks - 1))

    def share_error(self, p: ArrayLike, error: ArrayLike) -> np.ndarray:
        """Standard errors of shares p of the weight, any shape; for shares of 0 and 1 the bound by
        `weights.rule_of_three` with as many samples as are `independent`."""
        return _weights.share_error(p, error, self.independent)

    def _blocks(self) -> tuple[int, np.ndarray]:
        """How many blocks there are, and the number of each frame's, (n,)."""
        labels, label = np.unique(np.asarray(self.block), return_inverse=True)
        return len(labels), label

    # Structures

    def torsions(self, which: str | ArrayLike) -> np.ndarray:
        """Torsion angles (n, torsions), rad in (-pi, pi].

        Parameters
        ----------
        which : "phi", "psi", a SMARTS pattern, or atom indices (i, j, k, l) or (torsions, 4)
            A pattern of four atoms, "[H][C][C][H]", or with those to take marked 1 to 4, gives every torsion that it
            matches; it needs RDKit, and a molecule whose bonds have orders (`MolecularSystem.from_sdf`, `from_smiles`).
        """
        if isinstance(which, str):
            if which not in ("phi", "psi"):
                return self.torsions(find_pattern(molecule_of(self.topology), which, 4))
            compute = mdtraj.compute_phi if which == "phi" else mdtraj.compute_psi
            return compute(self.to_mdtraj(), periodic=False)[1].astype(np.float64)
        quadruples = np.atleast_2d(np.asarray(which, dtype=int))
        return mdtraj.compute_dihedrals(self.to_mdtraj(), quadruples, periodic=False).astype(np.float64)

    def phi(self) -> np.ndarray:
        """Backbone phi angles (n, residues that have one), rad."""
        return self.torsions("phi")

    def psi(self) -> np.ndarray:
        """Backbone psi angles (n, residues that have one), rad."""
        return self.torsions("psi")

    def slow_angles(self) -> np.ndarray:
        """Torsions (n, torsions), rad, of bonds, rings and nitrogens that change slowly:
        `ensemble.states.slow_states`."""
        quadruples = list(slow_states(self.topology, self.x).values())
        return self.torsions(quadruples) if quadruples else np.zeros((self.n, 0))

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

    def strain(self, pose: Any, within: float | None = None, seed: int = 0) -> Strain | list[Strain]:
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

    def resample(self, n: int, seed: int = 0) -> Ensemble:
        """Draw an equally weighted ensemble of n frames by weight; copies of one frame share a block label.

        They are no samples of a flow any more, and `log_q` is None.
        """
        index = _weights.systematic_resample(self.log_w, n, np.random.default_rng(seed))
        block = index if self.block is None else self.block[index]
        return replace(self[index], log_w=np.zeros(n), log_q=None, block=block, invalid=0)

    def to_mdtraj(self) -> mdtraj.Trajectory:
        """Trajectory of all frames, weights ignored; ``ensemble.resample(n).to_mdtraj()`` is unbiased."""
        return mdtraj.Trajectory(self.x, self.topology)

    # For other tools

    def columns(self, extra: Mapping[str, ArrayLike] | None = None) -> Table:
        """Table of energy, weights and named torsions with one row for each frame, and further columns in `extra`.

        Raises
        ------
        ValueError
            Extra columns of another length, or under a name that is taken.
        """
        named = named_torsions(self.topology)
        found = self.torsions(list(named.values())).T if named else ()
        return Table(
            u=self.u,
            log_w=self.log_w,
            angles=dict(zip(named, found, strict=True)),
            extra=extra_columns(extra, self.n, list(named)),
            log_q=self.log_q,
            block=self.block,
            about={"temperature_K": self.temperature, "name": self.name, "invalid": self.invalid},
        )

    def to_colvar(self, path: str | Path, extra: Mapping[str, ArrayLike] | None = None) -> Path:
        """Write a PLUMED COLVAR file; returns its path.

        Columns: time (the frame's number), the named torsions (rad), those of `extra`, energy U (kJ/mol), logweight,
        and bias = kT logweight (kJ/mol): PLUMED's ``REWEIGHT_BIAS ARG=bias TEMP=...`` gives the weights exp(bias / kT).
        The largest weight is 1; frames of weight zero, which have no logarithm, are left out.

        Parameters
        ----------
        extra : mapping of str to (n,), optional
        """
        return write_colvar(self.columns(extra), path, self.kT)

    def to_pandas(self, extra: Mapping[str, ArrayLike] | None = None) -> pandas.DataFrame:
        """pandas table with one row for each frame: u, log_w, weight (sum 1), log_q and block where known, torsions
        (rad), `extra`.

        Parameters
        ----------
        extra : mapping of str to (n,), optional
        """
        return to_pandas(self.columns(extra))

    def to_xarray(self, extra: Mapping[str, ArrayLike] | None = None, positions: bool = True) -> xarray.Dataset:
        """xarray data set of the columns of `to_pandas` over (chain, draw), one chain, and x (nm) over (chain, draw,
        atom, xyz), with units.

        ArviZ takes it as it is, and knows nothing of weights: for ArviZ's plots and statistics use `to_arviz`.

        Parameters
        ----------
        extra : mapping of str to (n,), optional
        positions : bool
            False leaves x out.
        """
        atoms = [str(atom) for atom in self.topology.atoms]
        return to_xarray(self.columns(extra), self.x if positions else None, atoms)

    def to_arviz(self, n: int, seed: int = 0, extra: Mapping[str, ArrayLike] | None = None) -> Any:
        """ArviZ data (an xarray DataTree) of n frames drawn by weight, as `resample` does.

        Group posterior: the named torsions (rad) and `extra`; sample_stats: u, and the frame that each draw is. The
        draws are no chain in time, so ArviZ's ess and rhat say nothing here; `ess` and `khat` do.

        Parameters
        ----------
        extra : mapping of str to (n,), optional
        """
        return to_arviz(self.columns(extra), n, seed)

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
        torsions = named_torsions(self.topology)
        angles = self.torsions([torsions[name] for name in structures.axes])
        w = self.weights
        a, b = circular_bins(angles[w > 0.0], MAP_BINS).T
        p = np.bincount(a * MAP_BINS + b, weights=w[w > 0.0], minlength=MAP_BINS**2).reshape(MAP_BINS, MAP_BINS)
        return Explorer(structures, self.topology, self.u[structures.frame], relative_free_energy(p))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int | slice | np.ndarray) -> Ensemble:
        if isinstance(index, (int, np.integer)):
            # Not slice(-1, 0) for the last frame, and IndexError rather than an empty ensemble.
            index = np.arange(self.n)[[index]]
        pick = {
            key: value[index]
            for key in ("x", "u", "log_w", "block", "log_q")
            if (value := getattr(self, key)) is not None
        }
        return replace(self, **pick, invalid=int((pick["log_w"] == -np.inf).sum()) if self.invalid else 0)

    def __repr__(self) -> str:
        head = f"Ensemble({self.name!r}: {self.n} frames of {self.topology.n_atoms} atoms"
        head += f", {self.temperature:g} K"
        if self.rounding is not None:
            head += f", {self.rounding}"
        tail = ")" if self.held is None else f"; {in_one_line(self.held)})"
        if not np.isfinite(self.log_w).any():
            return f"{head}, no frame has any weight{tail}"
        if np.ptp(self.log_w) == 0.0:
            blocks = "" if self.block is None else f", {self._blocks()[0]} blocks"
            return f"{head}, equal weights{blocks}{tail}"
        return (
            f"{head}, ESS {self.ess:.0f} ({100 * self.ess_fraction:.1f} %), {self.ess_clipped:.0f} with "
            f"the top {_weights.CLIP_FRACTION:g} clipped, k-hat {self.khat:.2f}, {self.invalid} invalid{tail}"
        )

    # Files

    def save(self, path: str | Path) -> Path:
        """Write one .npz with everything in it, topology included; returns its path. An interrupted save
        leaves no half."""
        path = _with_suffix(path)
        arrays = {
            key: value for key in ("x", "u", "log_w", "block", "log_q") if (value := getattr(self, key)) is not None
        }
        about: dict[str, Any] = {"temperature": self.temperature, "name": self.name, "invalid": self.invalid}
        if self.rounding is not None:
            about["rounding"] = asdict(self.rounding)
        if self.held is not None:
            about["held"] = to_json(self.held)
        arrays |= topology_to_arrays(self.topology) | {
            "about": np.array(json.dumps(about)),
            "format": np.array(_FORMAT),
        }
        write_atomically(path, lambda file: np.savez(file, **arrays))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Ensemble:
        """Read an ensemble that `save` wrote, or all frames of a .nc file; `StreamedEnsemble` reads the latter in
        pieces.

        ValueError for a file that is truncated or was written by something else.
        """
        if Path(path).suffix == SUFFIX:
            with WeightedTrajectory.open(path) as frames:
                return cls(**frames.read())
        path = Path(path) if Path(path).exists() else _with_suffix(path)
        if not path.exists():
            raise FileNotFoundError(f"Expected an ensemble file; there is none at {path}.")
        try:
            arrays = load_npz(path, "an ensemble file")
            check_format(str(arrays["format"]), _FORMAT, "an ensemble", path, "Read it with the version that wrote it.")
            fields: dict[str, Any] = {key: arrays.get(key) for key in ("x", "u", "log_w", "block", "log_q")}
            about = json.loads(str(arrays["about"]))
            if "rounding" in about:
                about["rounding"] = Rounding(**about["rounding"])
            if "held" in about:
                about["held"] = from_json(about["held"])
            return cls(**fields, topology=topology_from_arrays(arrays), **about)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"Expected a file written by Ensemble.save; {path} is truncated or something else ({error}). "
                "Write it again, or read a trajectory with mdtraj.load and Ensemble.from_mdtraj."
            ) from error


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


def draw_structures(ensemble: Ensemble, seed: int = 0, n: int | None = None) -> Structures:
    """Draw n structures by weight, or about 40; copies of a frame are shown once, with their share."""
    n = n or int(np.clip(MOST_ATOMS // ensemble.topology.n_atoms, 4, STRUCTURES))
    drawn, counts = np.unique(systematic_resample(ensemble.log_w, n, np.random.default_rng(seed)), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    frame, share = drawn[order], counts[order] / n
    chosen = ensemble[frame]
    trajectory = superposed(chosen.to_mdtraj())
    torsions, axes = named_torsions(ensemble.topology), map_axes(ensemble.topology)
    angles = chosen.torsions([torsions[name] for name in axes]) if axes else np.zeros((len(frame), 0))
    return Structures(trajectory.xyz, frame, share, axes, angles, pdb_models(trajectory))
