"""Internal coordinates of a molecule: which torsions turn, where stiff coordinates are centred, and how wide they are.

Centres are those of the energy minimum, widths and correlations what the Hessian of the energy there predicts, so that
every stiff z has about unit width without any MD.  `bijection` has the map itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from .bijection import Bijection
from .constraints import MassMetric, fixed_lengths
from .isomers import Amide, amide_bonds, sides_of_nitrogens, with_trans_amides, without_hydrogen
from .marks import marked_bonds, marked_centres
from .minima import MANY, Flexible, Minima, Modes, distinct, followers, joined, search, unwrapped, varied
from .quenching import reached
from .scales import (
    ValueAndGradient,
    around_all,
    both_sides,
    covariance_at_minimum,
    mixing_of,
    moments,
    over_rotamers,
    soften,
)
from .scans import scan_bonds
from .settings import CoordinateSettings
from .summary import summary, turning_in_words
from .symmetry import Rotor, find_rotors, same_energy
from .turning import Scans, Turning, energy_of, pairs_of
from .zmatrix import ZMatrix, build_zmatrix

if TYPE_CHECKING:
    import mdtraj


ZMATRIX = ("rows", "leader", "periodic", "closes")
MODES = ("columns", "leading", "means", "roots", "log_shares")
MINIMA = ("x", "energies", "higher", "limit")
ROTOR = ("rows", "atoms", "frame", "exchange")


class InternalCoordinates(Bijection):
    """Bijection between internal z (batch, dim) and Cartesian x (batch, n_atoms, 3) of one molecule.

    `from_system` makes it; parameters, and the order of z, are those of `coordinates.bijection.Bijection`.

    Attributes
    ----------
    system : MolecularSystem or None
        None where they were read from a file.
    scans : Scans or None
        Of the bonds whose turning the energy decided.
    minima : Minima or None
        Of rings and nitrogens, where a search was made.
    modes : tuple of Modes
        Stiff entries of z that have several minima.
    """

    system: MolecularSystem | None = None
    scans: Scans | None = None
    minima: Minima | None = None
    modes: tuple[Modes, ...] = ()

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
        sampled = {"sample": amides, "auto": _of_drawings(system, amides)}.get(settings.omega, [])
        turning = Turning(zmatrix, system.graph, asked, amides, sampled, kept)
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
        if not (flexible.sets or one.layout.n_periodic):
            return one
        with doing("looking for puckers", "minima"):
            one.use_c()
            function = energy_of(one.to_cartesian, energy.value_and_gradient)
            start = torch.as_tensor(minimum, dtype=torch.float64)
            others = reached(system, energy.value_and_gradient, start) if flexible.large else None
            minima, rotamers = search(one, function, start, graph, flexible, settings.puckers, others)

        def raw(x: Tensor) -> Tensor:
            return one.mean + one.to_internal(x)[0][:, : one.n_stiff] @ one.mixing.T

        def fit(**more: Any) -> InternalCoordinates:
            return cls.fit(zmatrix, x[0].numpy(), energy.value_and_gradient, **made, soft=False, **more)

        if not flexible.sets:
            x = torch.as_tensor(minimum)[None]
            return fit(rotamers=raw(rotamers))
        x = minima.x
        values = raw(x)
        n_lengths = len(one.layout.free)
        values[:, n_lengths:] = unwrapped(values[:, n_lengths:])
        sets = varied(flexible.sets, values, width)
        coordinates = fit(several=(sets, values), rotamers=raw(rotamers))
        coordinates.modes = cls._modes(coordinates, sets, minima, energy.value_and_gradient, settings)
        coordinates.minima = minima
        return coordinates

    @classmethod
    def _modes(
        cls,
        coordinates: InternalCoordinates,
        sets: Sequence[Sequence[int]],
        minima: Minima,
        value_and_gradient: ValueAndGradient,
        settings: CoordinateSettings,
    ) -> tuple[Modes, ...]:
        """Means and covariances of z, set by set, at the minima of u."""
        c, x = coordinates, minima.x
        plain = cls(c.zmatrix, lengths=c.lengths, rotors=c.rotors, phases=c.phases, metric=c.metric)
        z = c.to_internal(x)[0][:, : c.n_stiff]
        at: dict[int, Tensor] = {}  # covariances of z
        chosen = [distinct(c.mean[e] + z[:, e] * c.mixing.diagonal()[e])[:MANY] for e in map(list, sets)]
        for k in sorted({k for few in chosen for k in few}):
            there, _ = plain.to_internal(x[k : k + 1])
            covariance = covariance_at_minimum(
                c.layout, plain.to_cartesian, there[0], value_and_gradient, settings.softest, plain._fold
            )
            at[k] = settings.inflate**2 * c.unmixing @ covariance @ c.unmixing.T
        means, covariances = [z[few] for few in chosen], [torch.stack([at[k] for k in few]) for few in chosen]
        harmonic = [
            torch.linalg.slogdet(one).logabsdet / 2 - minima.energies[few]
            for one, few in zip(covariances, chosen, strict=True)
        ]
        parts = [joined(*one) for one in zip(sets, means, covariances, harmonic, strict=True)]
        follow = followers(sets, [part[0] for part in parts], [part[1] for part in parts])
        found = []
        for leading, others, (mean, covariance, log_shares) in zip(sets, follow, parts, strict=True):
            columns = [*leading, *others]
            roots = torch.linalg.cholesky(covariance[:, columns][:, :, columns])
            found.append(Modes(torch.tensor(columns), len(leading), mean[:, columns], roots, log_shares))
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
        rotamers: Tensor | None = None,
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
        rotamers : Tensor, shape (n, n_stiff), optional
            Stiff coordinates that the other entries are to hold.
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
        entries: list[int] = []
        if several is not None:
            entries = sorted(entry for one in several[0] for entry in one)
            mean, covariance = around_all(mean, covariance, entries, several[1][:, entries])
        if rotamers is not None:
            single = sorted(set(range(plain.n_stiff)) - set(entries))
            mean, covariance = over_rotamers(mean, covariance, single, wrap(rotamers - mean)[:, single])
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
            found |= {f"modes{k}.{name}": torch.as_tensor(getattr(modes, name)) for name in MODES}
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
            columns, leading, *rest = (tensors[f"modes{len(sets)}.{name}"] for name in MODES)
            sets.append(Modes(columns, int(leading), *rest))
        made.modes = tuple(sets)
        if "minima.x" in tensors:
            made.minima = Minima(*(tensors[f"minima.{name}"] for name in MINIMA))
        return made

    def __repr__(self) -> str:
        name = "" if self.system is None else f"{self.system.name}, "
        return f"InternalCoordinates({name}{self.dim}: {self.n_stiff} stiff, {self.n_periodic} periodic)"

    def turning_in_words(self) -> str:
        """Which torsions turn, by name, and what is kept as given; empty where the system is not known."""
        if self.system is None:
            return ""
        about = (self.structures(), self.atom_names, self.minima is not None, self.scans)
        return turning_in_words(self.zmatrix, self.system, *about)

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
        """Description of entry `column` of z: for a torsion that turns the bond that it turns about, for others their
        atoms."""
        names = self.atom_names
        if column >= self.n_stiff:
            _, bond, angle, _ = self.zmatrix.rows[self.layout.row_of(column)].tolist()
            return f"the torsion about {names[angle]}-{names[bond]}"
        kind, atoms = self.layout.stiff(column)
        return f"the {kind} {'-'.join(names[i] for i in atoms)}"

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


def _of_drawings(system: MolecularSystem, amides: Sequence[Amide]) -> list[Amide]:
    """Amides without a hydrogen on the nitrogen, but for those between residues, whose structure tells the isomer."""
    residue = [atom.residue.index for atom in system.md_topology.atoms]
    return [a for a in without_hydrogen(amides, system.graph) if residue[a[1]] == residue[a[2]]]


def _batched(energy: Energy, system: MolecularSystem) -> CompiledEnergy | None:
    """An energy of many structures at once, if there is one."""
    if isinstance(energy, CompiledEnergy):
        return energy
    if isinstance(energy, GivenEnergy):
        return None
    return None if CompiledEnergy.untranslated(system.system) else CompiledEnergy(system)
