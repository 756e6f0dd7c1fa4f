"""Internal coordinates: the bijection between scaled z, which a flow works with, and Cartesian x.

A Z-matrix gives n - 1 bond lengths, n - 2 angles and n - 3 torsions.  Torsions of rotatable bonds are periodic and stay
in radians.  The rest, (ln r, theta, narrow torsions), is stiff: it is centred on the energy minimum and whitened by the
covariance that the Hessian of the energy there predicts, so that every stiff z has about unit width without any MD.
Constrained lengths are no coordinates.  The measure is that of Cartesian space without overall translation and
rotation.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..drawing.view import Mark, view
from ..energy.compiled import CompiledEnergy
from ..energy.given import GivenEnergy
from ..energy.protocol import Energy
from ..molecule.names import atom_names
from ..molecule.stereo import stereocentres
from ..molecule.system import MolecularSystem
from ..tools.activity import doing
from ..tools.circle import wrap
from ..tools.fields import Fields, check_fields
from ..tools.fusing import FusedMap
from ..tools.native import NotCompiledError
from .constraints import MassMetric, fixed_lengths
from .isomers import NITROGENS, OMEGAS, amide_bonds, sides_of_nitrogens, with_trans_amides
from .layout import Layout
from .marks import marked_bonds, marked_centres
from .minima import MANY, Flexible, Minima, Modes, distinct, search, unwrapped, varied, with_far
from .native import NativePlacement
from .placement import Placement
from .quenching import reached
from .scales import ValueAndGradient, around_all, both_sides, covariance_at_minimum, mixing_of, moments, soften
from .scans import scan_bonds
from .sparse import SparseProduct, sparse_pair
from .summary import summary, turning_in_words
from .symmetry import SYMMETRIES, Rotor, find_rotors, same_energy
from .turning import Bonds, Scans, Turning, checked_bonds, energy_of, pairs_of
from .zmatrix import ZMatrix, build_zmatrix

if TYPE_CHECKING:
    import mdtraj


MEASURES = ("rigid", "flexible")
CHOICES = {"symmetry": SYMMETRIES, "omega": OMEGAS, "nitrogens": NITROGENS, "measure": MEASURES}
ZMATRIX = ("rows", "leader", "periodic", "closes")
MODES = ("columns", "means", "roots")
MINIMA = ("x", "energies", "higher", "limit")
ROTOR = ("rows", "atoms", "frame", "exchange")
FUSED_ATOMS, FUSED_BATCH = 50, 256
FITS = 4  # of scales, at most, until all minima are within reach


@dataclass(frozen=True, kw_only=True)
class CoordinateSettings(Fields):
    """Settings of internal coordinates: which torsions turn, and how stiff coordinates are scaled.

    Attributes
    ----------
    inflate : float
        One unit of z is this many predicted standard deviations: room for what the harmonic picture underrates.
    softest : float, rad (lengths: relative)
        No coordinate is taken to be wider than this where the Hessian says nothing (a free or unstable direction);
        the periodic torsions count with this width while the stiff coordinates follow them.
    whiten : bool
        Also remove the correlations that the Hessian predicts, not only the widths.
    symmetry : "methyl", "all" or "none"
        Groups of equal atoms of which one labelled sector is sampled: see `coordinates.symmetry`.
    omega : "as_given", "trans" or "sample"
        Peptide bonds and other amides, by the bond graph: they keep the isomer of the given structure, are turned trans
        first, or turn freely.
    barrier : float, kT
        Other bonds turn if a relaxed scan of the energy climbs no higher, see `coordinates.scans`. Dynamics crosses 12
        kT about once in 26 ns at 300 K (h / kT exp(barrier)).
    turning : pairs of atoms, or SMARTS patterns of two
        Bonds that turn freely whatever their barrier, by numbers of atoms.
    nitrogens : "sample" or "as_given"
        Pyramidal nitrogens whose sides differ invert, or keep the side of the given structure: see
        `coordinates.isomers`.
    measure : "rigid" or "flexible"
        Of molecules with constraints: what rigid dynamics samples, as OpenMM does, or the limit of stiff springs.
    puckers : float, kT
        Minima of rings and pyramidal nitrogens up to so much above the lowest are sampled, see `coordinates.minima`.
    keep : pairs of atoms, or SMARTS patterns of two
        Bonds that keep the side of the given structure whatever their barrier, by numbers of atoms.
    """

    inflate: float = 1.2
    softest: float = 0.3
    whiten: bool = True
    symmetry: str = "methyl"
    omega: str = "as_given"
    barrier: float = 12.0
    turning: Bonds = ()
    nitrogens: str = "sample"
    measure: str = "rigid"
    puckers: float = 8.0
    keep: Bonds = ()

    def __post_init__(self) -> None:
        for name in ("turning", "keep"):
            object.__setattr__(self, name, checked_bonds(name, getattr(self, name)))
        check_fields(self, positive=("inflate", "softest"), at_least={"barrier": 0, "puckers": 0})
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"Expected {name} to be one of {known}; got {getattr(self, name)!r}.")


class InternalCoordinates(torch.nn.Module):
    """Bijection between internal z (batch, dim) and Cartesian x (batch, n_atoms, 3) of one molecule.

    The first `n_stiff` entries of z are stiff (unit width, any real number); the last `n_periodic` are torsions on
    the circle [-pi, pi).

    Parameters
    ----------
    zmatrix : ZMatrix
    mean : Tensor, shape (n_stiff,), float64
        Centre of the stiff coordinates (ln of nm, rad).
    mixing : Tensor, shape (n_stiff, n_stiff), float64
        Stiff coordinates are mean + mixing @ z.
    lengths : ndarray, shape (n_atoms - 1 + n_atoms - 2,), nm, optional
        Fixed lengths of Z-matrix rows 1, 2, ..., then second ones of rows 2, 3, ... that close rings; nan for what is
        a coordinate.
    rotors : sequence of Rotor
        Their periodic z is fold times the mean phase of the group, from `phases` on.
    phases : sequence of float, rad
        One a rotor.
    metric : MassMetric, optional
        Of the constraints: makes the measure that of rigid dynamics.

    Notes
    -----
    dx = prod r^2 sin(theta) dr dtheta dphi over the atoms, b1^2 b2^2 sin(theta) for the first three, r s / d dr ds dphi
    for one that closes a ring; the volume and the 8 pi^2 of overall motion are left out, and so is dr of a fixed
    length.  Where theta leaves (0, pi), a ring cannot be closed, or a narrow torsion is more than half a turn off its
    centre, another z would mean the same x, or none: there log_det is -inf, that is, the density is zero.  A rotor's
    sector is 1/fold of its circle, and log_det counts all of them: log Z is that of the whole molecule, log(fold) for
    each rotor included.
    """

    mean: Tensor
    mixing: Tensor
    unmixing: Tensor
    _slope: Tensor
    _start: Tensor
    _row_of_r: Tensor
    _row_of_bend: Tensor
    _row_of_phi: Tensor
    _leader: Tensor
    _follows: Tensor
    _free: Tensor
    _narrow: Tensor
    _turning: Tensor
    _fold: Tensor
    _phase: Tensor
    _lag: Tensor

    def __init__(
        self,
        zmatrix: ZMatrix,
        mean: Tensor | None = None,
        *,
        mixing: Tensor | None = None,
        lengths: np.ndarray | None = None,
        rotors: Sequence[Rotor] = (),
        phases: Sequence[float] = (),
        metric: MassMetric | None = None,
    ) -> None:
        super().__init__()
        self.layout = Layout(zmatrix, lengths)
        self.zmatrix, self.lengths, self.n_atoms = zmatrix, self.layout.lengths, zmatrix.n_atoms
        self.rotors, self.phases, self.metric = tuple(rotors), tuple(map(float, phases)), metric
        self.n_stiff, self.n_periodic, self.dim = self.layout.n_stiff, self.layout.n_periodic, self.layout.dim
        self.placement = Placement(zmatrix)
        self._set_scale(
            torch.zeros(self.n_stiff, dtype=torch.float64) if mean is None else mean,
            torch.eye(self.n_stiff, dtype=torch.float64) if mixing is None else mixing,
        )
        self.system: MolecularSystem | None = None
        self.scans: Scans | None = None
        self.minima: Minima | None = None
        self.modes: tuple[Modes, ...] = ()
        self._fused: FusedMap | None = None
        self._native: NativePlacement | None = None

    # --- made from a molecule ---

    @classmethod
    def from_system(
        cls,
        system: MolecularSystem,
        settings: CoordinateSettings | None = None,
        *,
        energy: Energy | None = None,
        trajectory: mdtraj.Trajectory | None = None,
    ) -> InternalCoordinates:
        """Make coordinates of a molecule: a Z-matrix from its bond graph, scales from the Hessian at its minimum or
        from a trajectory.

        Parameters
        ----------
        system : MolecularSystem
        settings : CoordinateSettings, optional
        energy : Energy, optional
            As `energy.reduced_energy` gives it; by default OpenMM's Reference platform.
        trajectory : mdtraj.Trajectory, optional
            Of the system's atoms, if there is one: centres and widths then come from it.

        Raises
        ------
        ValueError
            The molecule lies on one line; a constraint that no row of the Z-matrix holds.
        """
        from ..energy.bridge import OpenMMEnergy

        if energy is None:
            with OpenMMEnergy(system, platform="Reference", workers=1) as energy:
                return cls.from_system(system, settings, energy=energy, trajectory=trajectory)
        settings = settings or CoordinateSettings()
        amides = amide_bonds(system.graph)
        minimum = system.minimum
        if settings.omega == "trans" and amides:
            minimum = system.minimise(with_trans_amides(minimum, system.graph, amides))
        zmatrix = build_zmatrix(system.graph, system.element_masses, minimum)
        pairs, lengths = system.constraints
        fixed = fixed_lengths(zmatrix, pairs, lengths, [str(a) for a in system.md_topology.atoms])
        asked, kept = (pairs_of(bonds, system.md_topology) for bonds in (settings.turning, settings.keep))
        turning = Turning(zmatrix, system.graph, asked, amides, settings.omega == "sample", kept)
        scans = cls._scan(turning, minimum, fixed, _batched(energy, system), settings, system.kT)
        zmatrix = turning.chosen(scans.bonds)
        metric = MassMetric(pairs, system.masses) if settings.measure == "rigid" and len(pairs) else None
        rotors = find_rotors(zmatrix, system.graph, minimum, settings.symmetry)
        rotors = [r for r in rotors if same_energy(r, minimum, energy, metric)]
        made: dict[str, Any] = {"settings": settings, "lengths": fixed, "rotors": rotors, "metric": metric}
        batched = _batched(energy, system) if trajectory is None else None
        if batched is not None:
            coordinates = cls._searched(zmatrix, system, minimum, batched, settings, made)
        else:
            x = None if trajectory is None else np.asarray(trajectory.xyz, dtype=np.float64)
            inverting = sides_of_nitrogens(zmatrix, system.graph, minimum) if settings.nitrogens == "sample" else ()
            made |= {"structures": x, "inverting": tuple(inverting)}
            coordinates = cls.fit(zmatrix, minimum, energy.value_and_gradient, **made)
        coordinates.system, coordinates.scans = system, scans
        return coordinates

    @classmethod
    def _searched(
        cls,
        zmatrix: ZMatrix,
        system: MolecularSystem,
        minimum: np.ndarray,
        energy: CompiledEnergy,
        settings: CoordinateSettings,
        made: dict[str, Any],
    ) -> InternalCoordinates:
        """Coordinates that hold all minima of rings and nitrogens which a search of the energy finds."""
        graph = system.graph
        one = cls.fit(zmatrix, minimum, energy.value_and_gradient, **made, soft=False)
        width = one.mixing.square().sum(1).sqrt() / settings.inflate
        choices = settings.nitrogens == "sample", settings.omega == "sample"
        flexible = Flexible(one.layout, graph, minimum, width.numpy(), *choices)
        if not flexible.sets:
            return one
        with doing("looking for puckers", "minima"):
            one.use_c()
            function = energy_of(one.to_cartesian, energy.value_and_gradient)
            start = torch.as_tensor(minimum, dtype=torch.float64)
            others = reached(system, energy.value_and_gradient, start) if flexible.large else None
            minima = search(one, function, start, graph, flexible, settings.puckers, others)
        x = minima.x
        raw = one.mean + one.to_internal(x)[0][:, : one.n_stiff] @ one.mixing.T
        n_lengths = len(one.layout.free)
        raw[:, n_lengths:] = unwrapped(raw[:, n_lengths:])
        sets = varied(flexible.sets, raw, width)
        for _ in range(FITS):
            several = (sets, raw)
            coordinates = cls.fit(zmatrix, x[0].numpy(), energy.value_and_gradient, **made, soft=False, several=several)
            if sets == (sets := with_far(sets, coordinates.to_internal(x)[0][:, : one.n_stiff], raw)):
                break
        coordinates.modes = cls._modes(coordinates, sets, x, energy.value_and_gradient, settings)
        coordinates.minima = minima
        return coordinates

    @classmethod
    def _modes(
        cls,
        coordinates: InternalCoordinates,
        sets: Sequence[Sequence[int]],
        x: Tensor,
        value_and_gradient: ValueAndGradient,
        settings: CoordinateSettings,
    ) -> tuple[Modes, ...]:
        """Means and covariances of entries of z, set by set, at the minima x (n, n_atoms, 3) of u."""
        c, found = coordinates, []
        plain = cls(c.zmatrix, lengths=c.lengths, rotors=c.rotors, phases=c.phases, metric=c.metric)
        z, _ = c.to_internal(x)
        covariances: dict[int, Tensor] = {}
        for entries in sets:
            few = distinct(c.mean[entries] + z[:, entries] * c.mixing.diagonal()[entries])[:MANY]
            for k in few:
                if k not in covariances:
                    at, _ = plain.to_internal(x[k : k + 1])
                    covariances[k] = covariance_at_minimum(
                        c.layout, plain.to_cartesian, at[0], value_and_gradient, settings.softest, plain._fold
                    )
            width = c.mixing.diagonal()[entries]
            # While all else stays: how the rest follows is for the flow to learn.
            blocks = torch.stack([covariances[k].inverse()[entries][:, entries].inverse() for k in few])
            blocks = blocks * settings.inflate**2
            roots = torch.linalg.cholesky(blocks / width[:, None] / width)
            found.append(Modes(torch.tensor(entries), z[few][:, entries], roots))
        return tuple(found)

    @classmethod
    def _scan(
        cls,
        turning: Turning,
        minimum: np.ndarray,
        lengths: np.ndarray,
        energy: CompiledEnergy | None,
        settings: CoordinateSettings,
        kT: float,
    ) -> Scans:
        """Relaxed scans of the bonds that an energy has to decide, in coordinates in which all of them turn."""
        if energy is None or not turning.to_scan:
            return Scans((), settings.barrier, kT, energy is not None)
        with doing("scanning bonds", "scans"):
            wide = cls.fit(
                turning.widest(), minimum, energy.value_and_gradient, settings=settings, lengths=lengths
            ).use_c()
            z, _ = wide.to_internal(torch.as_tensor(minimum, dtype=torch.float64)[None])
            column = {wide.layout.row_of(k): k for k in range(wide.n_stiff, wide.dim)}
            columns, bonds = [column[row] for row in turning.to_scan], list(turning.to_scan.values())
            found = scan_bonds(energy_of(wide.to_cartesian, energy.value_and_gradient), z[0], columns, bonds)
        return Scans(tuple(turning.decided(scan, settings.barrier) for scan in found), settings.barrier, kT)

    @classmethod
    def fit(
        cls,
        zmatrix: ZMatrix,
        minimum: np.ndarray,
        value_and_gradient: ValueAndGradient,
        *,
        settings: CoordinateSettings | None = None,
        lengths: np.ndarray | None = None,
        rotors: Sequence[Rotor] = (),
        metric: MassMetric | None = None,
        structures: np.ndarray | None = None,
        inverting: Sequence[int] = (),
        soft: bool = True,
        several: tuple[Sequence[Sequence[int]], Tensor] | None = None,
    ) -> InternalCoordinates:
        """Centre and scale the stiff coordinates by the energy around its minimum, or by given structures.

        Parameters
        ----------
        minimum : ndarray, shape (n_atoms, 3), nm
        value_and_gradient : callable
            x (batch, n_atoms, 3) -> reduced energy (batch,) and its gradient in 1/nm, both float64.
        lengths, rotors, metric
            As for `InternalCoordinates`.
        structures : ndarray, shape (frames, n_atoms, 3), nm, optional
            Centre and scale the stiff coordinates by these instead.
        inverting : rows of the Z-matrix, optional
            Whose torsion is centred between this side and its mirror image, and as wide as they are apart.
        soft : bool
            Whether torsions of puckering rings are widened, by rule: where no search tells their minima.
        several : (sets of entries of z, stiff coordinates (n, n_stiff)), optional
            Entries that hold several minima, and these.
        """
        settings = settings or CoordinateSettings()
        x = torch.as_tensor(np.asarray(minimum), dtype=torch.float64)[None]
        phases = [float(rotor.phase(x)) for rotor in rotors]
        plain = cls(zmatrix, lengths=lengths, rotors=rotors, phases=phases, metric=metric)
        layout = plain.layout
        z, _ = plain.to_internal(x)
        plain._set_scale(z[0, : plain.n_stiff].clone(), plain.mixing)
        z[0, : plain.n_stiff] = 0.0
        wide: list[int] = []
        if structures is None:
            covariance = covariance_at_minimum(
                layout, plain.to_cartesian, z[0], value_and_gradient, settings.softest, plain._fold
            )
            if soft:
                covariance, wide = soften(layout, covariance, np.asarray(minimum), settings.softest)
        else:
            shift, covariance = moments(layout, plain.to_internal, structures)
            plain._set_scale(plain.mean + shift, plain.mixing)
        mean, covariance = both_sides(layout, plain.mean, covariance, inverting, settings.inflate)
        if several is not None:
            entries = sorted(entry for one in several[0] for entry in one)
            mean, covariance = around_all(mean, covariance, entries, several[1][:, entries])
        plain._set_scale(mean, mixing_of(covariance * settings.inflate**2, settings.whiten))
        plain.modes = tuple(map(Modes.unknown, sorted({*wide, *layout.stiff_torsions(inverting)})))
        return plain

    def to_tensors(self) -> dict[str, Tensor]:
        """Tensors from which `from_tensors` makes the same coordinates."""
        z = self.zmatrix
        tensors = {name: getattr(z, name) for name in ZMATRIX} | {"lengths": self.lengths}
        for k, (rotor, phase) in enumerate(zip(self.rotors, self.phases, strict=True)):
            tensors |= {f"rotor{k}.{name}": np.array(getattr(rotor, name)) for name in ROTOR}
            tensors[f"rotor{k}.phase"] = np.array([phase])
        if self.metric is not None:
            tensors |= {"metric.pairs": self.metric.pairs, "metric.masses": self.metric.masses}
        found = {"mean": self.mean, "mixing": self.mixing} | {k: torch.as_tensor(v) for k, v in tensors.items()}
        if self.scans is not None and (self.scans.bonds or not self.scans.batched):
            found |= {f"scans.{name}": tensor for name, tensor in self.scans.to_tensors().items()}
        for k, modes in enumerate(self.modes):
            found |= {f"modes{k}.{name}": getattr(modes, name) for name in MODES}
        if self.minima is not None:
            found |= {f"minima.{name}": getattr(self.minima, name) for name in MINIMA}
        return {k: v.cpu() for k, v in found.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> InternalCoordinates:
        """Make coordinates from the result of `to_tensors`."""
        arrays = {k: v.numpy() for k, v in tensors.items()}
        rotors: list[Rotor] = []
        phases: list[float] = []
        while f"rotor{len(rotors)}.rows" in arrays:
            rows, atoms, frame, exchange = (arrays[f"rotor{len(rotors)}.{name}"] for name in ROTOR)
            phases.append(float(arrays[f"rotor{len(rotors)}.phase"][0]))
            a, b, c = map(int, frame)
            rotors.append(Rotor(tuple(map(int, rows)), tuple(map(int, atoms)), (a, b, c), exchange))
        metric = MassMetric(arrays["metric.pairs"], arrays["metric.masses"]) if "metric.pairs" in arrays else None
        zmatrix = ZMatrix.from_rows(*(arrays[name] for name in ZMATRIX))
        made = cls(
            zmatrix,
            tensors["mean"],
            mixing=tensors["mixing"],
            lengths=arrays["lengths"],
            rotors=rotors,
            phases=phases,
            metric=metric,
        )
        if "scans.bonds" in tensors:
            made.scans = Scans.from_tensors(tensors["scans.bonds"], tensors["scans.limit"])
        sets: list[Modes] = []
        while f"modes{len(sets)}.columns" in tensors:
            sets.append(Modes(*(tensors[f"modes{len(sets)}.{name}"] for name in MODES)))
        made.modes = tuple(sets)
        if "minima.x" in tensors:
            made.minima = Minima(*(tensors[f"minima.{name}"] for name in MINIMA))
        return made

    # --- the two directions ---

    @property
    def periodic(self) -> Tensor:
        """Bool (dim,): which entries of z are torsions on a circle."""
        return torch.arange(self.dim) >= self.n_stiff

    def to_cartesian(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map z (batch, dim) to x (batch, n_atoms, 3), nm, with log |dx/dz| (batch,).

        Atoms stand in the topology's order; the first one placed lies at the origin, the second on the x axis.
        """
        if z.ndim != 2 or z.shape[1] != self.dim:
            raise ValueError(f"Expected z with shape (batch, {self.dim}); got {tuple(z.shape)}.")
        place = self._fused if self._fused is not None and z.dtype == torch.float64 else self._place
        rows, log_det = place(z.T)
        x = rows.permute(2, 1, 0)
        return x, log_det if self.metric is None else log_det + self.metric(x)

    def to_internal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (batch, n_atoms, 3), nm, to z (batch, dim), with log |dz/dx| (batch,).

        Atoms of rotors are relabelled first, see `sector`; fixed lengths are not looked at.
        """
        if x.ndim != 3 or x.shape[1:] != (self.n_atoms, 3):
            raise ValueError(f"Expected x with shape (batch, {self.n_atoms}, 3); got {tuple(x.shape)}.")
        x = self.sector(x)
        log_r, bend, phi, volume = self.placement.measure(x.permute(2, 1, 0))
        phi = phi[self._row_of_phi]
        phi = phi - torch.where(self._follows[:, None], phi[self._leader], 0.0)
        lengths = torch.cat([log_r[self._row_of_r], bend[self._row_of_bend]])[self._free]
        centre = self.mean.to(x)[:, None].split([len(self._free), len(self._narrow)])
        narrow = wrap(phi[self._narrow] - centre[1])
        stiff = self.unmixing.to(x) @ torch.cat([lengths - centre[0], narrow])
        turns = phi[self._turning] * self._fold[:, None].to(x) + self._lag.to(x) @ narrow
        z = torch.cat([stiff, wrap(turns - self._phase[:, None].to(x))]).T
        log_det = volume + self._log_det_scale
        return z, -(log_det if self.metric is None else log_det + self.metric(x))

    def sector(self, x: Tensor) -> Tensor:
        """Exchange equivalent atoms of x so that the mean phase of every rotor lies in the sampled sector."""
        for rotor, phase in zip(self.rotors, self.phases, strict=True):
            x = rotor.turned(x, -torch.round((rotor.phase(x) - phase) * (rotor.fold / (2 * math.pi))).long())
        return x

    def relabelled(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Exchange equivalent atoms of x at random, so that all sectors of every rotor are equally likely."""
        for rotor in self.rotors:
            steps = torch.randint(rotor.fold, (len(x),), generator=rng, device=rng.device)
            x = rotor.turned(x, steps.to(x.device))
        return x

    def __dir__(self) -> list[str]:
        """What is of coordinates: a module's own methods, of which it needs none but `to`, are not offered."""
        return sorted((set(super().__dir__()) - set(dir(torch.nn.Module))) | {"to"})

    def __repr__(self) -> str:
        name = "" if self.system is None else f"{self.system.name}, "
        return f"InternalCoordinates({name}{self.dim}: {self.n_stiff} stiff, {self.n_periodic} periodic)"

    def turning_in_words(self) -> str:
        """Which torsions turn, by name, and what is kept as given; empty where the system is not known."""
        if self.system is None:
            return ""
        return turning_in_words(self.zmatrix, self.system, self.structures(), self.atom_names, self.minima is not None)

    def summary(self) -> str:
        """Description of the coordinates: a table of Z-matrix rows, and what turns, is fixed or kept."""
        width = self.mixing.square().sum(1).sqrt().numpy()
        measure = "flexible" if self.metric is None else "rigid"
        mean, names = self.mean.numpy(), self.atom_names
        found = (self.structures(), names, self.scans, self.minima)
        return summary(self.layout, mean, width, self.rotors, measure, self.system, *found)

    def structures(self) -> np.ndarray:
        """(n, n_atoms, 3), nm: all minima that a search found; the structure at z = 0 where there was none."""
        if self.minima is not None:
            return self.minima.x.cpu().numpy()
        z = torch.zeros(1, self.dim, dtype=torch.float64, device=self.mean.device)
        return self.to_cartesian(z)[0].detach().cpu().numpy()

    @property
    def atom_names(self) -> list[str]:
        """Label of each atom, "ALA2:CA", or its number where the system is not known."""
        return [str(i) for i in range(self.n_atoms)] if self.system is None else atom_names(self.system.topology)

    def named(self, column: int) -> str:
        """Description of entry `column` of z: for a torsion the bond that it turns about."""
        if column < self.n_stiff:
            return f"stiff coordinate {column}"
        _, bond, angle, _ = self.zmatrix.rows[self.layout.row_of(column)].tolist()
        names = self.atom_names
        return f"the torsion about {names[angle]}-{names[bond]}"

    def view(self) -> Any:
        """nglview widget of the molecule with its rotatable bonds, rotors, closed rings and stereocentres marked."""
        if self.system is None:
            raise ValueError("Expected coordinates made with InternalCoordinates.from_system; these know no system.")
        return view(self.structures()[:1], self.system.md_topology, self.marks(), aspectRatio=1.5)

    def marks(self) -> list[Mark]:
        """Bonds and, where the system is known, stereocentres to highlight in a picture."""
        rotors = {rotor.rows[0] for rotor in self.rotors}
        centres = [] if self.system is None else list(stereocentres(self.system.graph))
        return [
            *marked_bonds(self.zmatrix, rotors, self.lengths, self.atom_names),
            *marked_centres(centres, self.atom_names),
        ]

    def use_c(self) -> InternalCoordinates:
        """Compute `to_cartesian` and its derivative in C from the next call on, for float64 on a CPU; differentiable
        once.

        Without a C compiler all stays as it is, with a warning.
        """
        try:
            self._native = NativePlacement(self.zmatrix)
        except NotCompiledError as error:
            warnings.warn(f"The placement of atoms is PyTorch's own, and slower. {error}", stacklevel=2)
        return self

    def compile(self, chunk: int | None = None) -> InternalCoordinates:  # type: ignore[override]
        """Compile `to_cartesian` in float64 and its derivative with torch.compile at the next call.

        A batch is taken in pieces of `chunk` structures; by default what a processor's caches hold. Only of small
        molecules: beyond, fusing takes minutes and gains nothing.
        """
        if self.n_atoms > FUSED_ATOMS:
            return self
        self._fused = FusedMap(self._place, self.dim, chunk or FUSED_BATCH, "The placement of atoms")
        return self

    @property
    def fused(self) -> bool:
        """Whether `compile` was called and the molecule is small enough for it."""
        return self._fused is not None

    # --- inside: the batch is the last dimension ---

    def _set_scale(self, mean: Tensor, mixing: Tensor) -> None:
        """All that `_place` does before atoms are placed is one affine map of z; here it is made."""
        self.register_buffer("mean", mean)
        self.register_buffer("mixing", mixing)
        self.register_buffer("unmixing", torch.linalg.inv(mixing), persistent=False)
        fixed = float(np.log(self.lengths[~np.isnan(self.lengths)]).sum())
        self._log_det_scale = float(torch.linalg.slogdet(mixing).logabsdet) - fixed
        layout = self.layout
        names = ("leader", "follows", "free", "narrow", "turning")
        places = {f"_{name}": torch.as_tensor(getattr(layout, name)) for name in names}
        rank = torch.as_tensor(np.argsort(self.placement.order))  # of rows
        places |= {f"_row_of_{name}": rank[k:] - k for k, name in enumerate(("r", "bend", "phi"), start=1)}
        for name, index in places.items():
            self.register_buffer(name, index, persistent=False)

        # Lengths, angles and relative torsions, in the order of rows: at z = 0, and by z.
        stiff = torch.cat([mixing, torch.zeros(self.n_stiff, self.n_periodic, dtype=torch.float64)], dim=1)
        lengths = torch.zeros(len(layout.lengths), self.dim, dtype=torch.float64)
        lengths[self._free] = stiff[: len(self._free)]
        start = torch.as_tensor(self.lengths).log()
        start[self._free] = mean[: len(self._free)]
        torsions = torch.zeros(layout.n_torsions, self.dim, dtype=torch.float64)
        torsions[self._narrow] = stiff[len(self._free) :]
        zero = torch.zeros(layout.n_torsions, dtype=torch.float64)
        zero[self._narrow] = mean[len(self._free) :]
        self._turn_rotors(torsions, zero)
        torsions = torsions + torch.where(self._follows[:, None], torsions[self._leader], 0.0)
        zero = zero + torch.where(self._follows, zero[self._leader], 0.0)
        by_rank = [torch.argsort(index) for index in (self._row_of_r, self._row_of_bend, self._row_of_phi)]
        by_rank[1] = by_rank[1] + layout.n_bonds
        slope = torch.cat([lengths[by_rank[0]], lengths[by_rank[1]], torsions[by_rank[2]], stiff[len(self._free) :]])
        start = torch.cat([start[by_rank[0]], start[by_rank[1]], zero[by_rank[2]], 0 * mean[len(self._free) :]])
        self.register_buffer("_slope", slope, persistent=False)
        self.register_buffer("_start", start, persistent=False)
        self._sizes = [layout.n_bonds, layout.n_angles, layout.n_torsions, len(layout.narrow)]
        self._sparse = sparse_pair(slope) if self.n_atoms > FUSED_ATOMS else None

    def _turn_rotors(self, torsions: Tensor, zero: Tensor) -> None:
        """Periodic torsions by z: themselves, or the mean phase of a rotor."""
        n = self.n_periodic
        column_of = {int(row): k for k, row in enumerate(self._turning + 3)}
        narrow_of = {int(row): k for k, row in enumerate(self._narrow + 3)}
        self.register_buffer("_fold", torch.ones(n, dtype=torch.float64), persistent=False)
        self.register_buffer("_phase", torch.zeros(n, dtype=torch.float64), persistent=False)
        self.register_buffer("_lag", torch.zeros(n, len(self._narrow), dtype=torch.float64), persistent=False)
        for rotor, phase in zip(self.rotors, self.phases, strict=True):
            column = column_of[rotor.rows[0]]
            self._fold[column] = rotor.fold
            late = 0.0  # how far the atoms lie, together, beyond even spacing after the first
            for k, row in enumerate(rotor.rows[1:], start=1):
                self._lag[column, narrow_of[row]] = 1.0
                late += float(wrap(zero[row - 3] - 2 * math.pi * k / rotor.fold))
            self._phase[column] = rotor.fold * phase - late
        turning = torch.zeros(n, self.dim, dtype=torch.float64)
        turning[:, self.n_stiff :] = torch.eye(n, dtype=torch.float64)
        torsions[self._turning] = (turning - self._lag @ torsions[self._narrow]) / self._fold[:, None]
        zero[self._turning] = self._phase / self._fold

    def _place(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (dim, batch) -> x (3, n_atoms, batch) and log |dx/dz| (batch,), without the metric."""
        if self._sparse is not None and z.dtype == torch.float64 and z.device.type == "cpu":
            q = self._start[:, None] + SparseProduct.apply(z, *self._sparse)
        else:
            q = self._start.to(z)[:, None] + self._slope.to(z) @ z
        log_r, bend, phi, deviation = q.split(self._sizes)
        if self._native is not None and z.dtype == torch.float64 and z.device.type == "cpu":
            x, volume = self._native(q[: len(q) - len(deviation)])
            x = x.permute(2, 1, 0)
        else:
            x, volume = self.placement.place(log_r, bend, phi)
        inside = (deviation.abs() < math.pi).all(0)
        return x, torch.where(inside, volume + self._log_det_scale, -torch.inf)


def _batched(energy: Energy, system: MolecularSystem) -> CompiledEnergy | None:
    """An energy of many structures at once, if there is one."""
    if isinstance(energy, CompiledEnergy):
        return energy
    if isinstance(energy, GivenEnergy):
        return None
    return None if CompiledEnergy.untranslated(system.system) else CompiledEnergy(system)
