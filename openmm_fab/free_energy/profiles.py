"""Free-energy profiles, surfaces and basin differences of an Ensemble, in kT, with bootstrap standard
errors."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from ..drawing.curves import draw_map, draw_profile
from ..drawing.view import png
from ..weights import Estimate, block_sums, kish, objection, relative_free_energy, rule_of_three
from .coordinate import Coordinate, coordinate_name, coordinate_values, is_atoms
from .units import InUnits

if TYPE_CHECKING:
    import mdtraj
    from matplotlib.figure import Figure

    from .frames import Frames


# A mask (n,) of bool, or a function of a trajectory that returns it.
Basin: TypeAlias = "ArrayLike | Callable[[mdtraj.Trajectory], np.ndarray]"
Ranges: TypeAlias = "tuple[tuple[float, float] | None, tuple[float, float] | None]"  # of two coordinates
PHI_POSITIVE = (0.0, 2.5)
FEW_INSIDE = 10.0  # effective samples, or blocks: with fewer an error bar is a guess


@dataclass(frozen=True, eq=False, repr=False)
class Profile(InUnits):
    """Free-energy profile F = -ln p along one coordinate.

    Parameters
    ----------
    edges : (bins + 1,)
    value : (bins,), kT
        Shifted so that its minimum is 0; inf in empty bins.
    error : (bins,), kT
        Standard error of -ln p, before the shift: normalisation, not the lowest bin, is what fixes it. nan
        in empty bins.
    probability : (bins,)
        Share of all weight; less than 1 in sum where values lie outside the edges.
    name : str
        Of the variable.
    unit : str
        Of value and error: "kT" unless `in_units` changed it.
    temperature : float, K
        That kT is of.
    note : str
        Why it is no result; empty where the weights can be used.
    """

    edges: np.ndarray
    value: np.ndarray
    error: np.ndarray
    probability: np.ndarray
    name: str = "x"
    unit: str = "kT"
    temperature: float = np.nan
    note: str = ""

    @property
    def centers(self) -> np.ndarray:
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    def plot(self) -> Figure:
        """Figure of F with a band of two standard errors."""
        return draw_profile(self.edges, self.value, self.error, self.name, self.unit)

    def __repr__(self) -> str:
        span = f"{len(self.value)} bins from {self.edges[0]:.3g} to {self.edges[-1]:.3g}"
        return f"Profile({self.name}: {span}, {_range_of(self)})"

    def _repr_html_(self) -> str:
        picture = base64.b64encode(png(self.plot())).decode("ascii")
        return f'<p>{escape(repr(self))}</p><img alt="" src="data:image/png;base64,{picture}">'


@dataclass(frozen=True, eq=False, repr=False)
class Surface(InUnits):
    """Free-energy surface F = -ln p over two coordinates: value, error, probability (bins, bins), first axis a; see
    `Profile`."""

    edges_a: np.ndarray
    edges_b: np.ndarray
    value: np.ndarray
    error: np.ndarray
    probability: np.ndarray
    name: str = "a, b"
    unit: str = "kT"
    temperature: float = np.nan
    note: str = ""

    def plot(self) -> Figure:
        """Figure of F as colours, cut at 8."""
        a, _, b = self.name.partition(", ")
        return draw_map(self.edges_a, self.edges_b, self.value, (a, b), self.unit)

    def __repr__(self) -> str:
        bins = "x".join(map(str, self.value.shape))
        return f"Surface({self.name}: {bins} bins, {_range_of(self)})"


def _range_of(result: Profile | Surface) -> str:
    """ "F up to 7.2 ± 0.3 kT, 5 bins empty": the highest value with its error, and how many bins have none."""
    value, filled = result.value, np.isfinite(result.value)
    if not filled.any():
        return "all bins empty"
    top = np.unravel_index(int(np.argmax(np.where(filled, value, -np.inf))), value.shape)
    error, empty = float(result.error[top]), int((~filled).sum())
    highest = str(Estimate(float(value[top]), error)) if np.isfinite(error) else f"{value[top]:.3g}"
    note = f"; {result.note}" if result.note else ""
    return f"F up to {highest} {result.unit}" + (f", {empty} bins empty" if empty else "") + note


@dataclass(frozen=True, repr=False)
class BasinDifference(InUnits, Estimate):
    """Free energy of a basin relative to everything else, F(basin) - F(rest) in kT, with the samples it rests on.

    Parameters
    ----------
    probability : float
        Share of the weight inside.
    samples : int
        Frames inside, and `effective`: Kish's effective number of them, (sum w)^2 / sum w^2 over the frames
        inside. Frames of one MD trajectory are correlated: the error bar knows, this count does not.
    note : str
        Empty, or why there is no number, or why its error is uncertain.
    bound : float
        Where no frame is inside, what the difference is at least at 95 %, by `weights.rule_of_three`; where all are,
        what it is at most; else nan.
    unit, temperature
        As in `Profile`.
    """

    ENERGIES: ClassVar[tuple[str, ...]] = ("value", "error", "bound")

    value: float
    error: float
    probability: float = np.nan
    samples: int = 0
    effective: float = 0.0
    note: str = ""
    bound: float = np.nan
    unit: str = "kT"
    temperature: float = np.nan

    @classmethod
    def of(cls, ensemble: Frames, mask: np.ndarray, error: Callable[[], float]) -> BasinDifference:
        """Free energy of the frames in a mask (n,); `error()` returns the standard error of their share."""
        w = ensemble.weights * mask
        inside, outside, samples = w.sum(), ensemble.weights[~mask].sum(), int((w > 0.0).sum())
        if inside == 0.0 or outside == 0.0:
            most = rule_of_three(ensemble.independent)
            bound = float(np.log1p(-most) - np.log(most)) if most < 1.0 else -np.inf
            none, what = inside == 0.0, "inside" if inside == 0.0 else "elsewhere"
            note = f"{f'none of {ensemble.n} samples is' if none else f'all of {ensemble.n} samples are'} inside: "
            note += f"less than {most:.2g} of the weight {what} at 95 %"
            note += "" if ensemble.block is None else ", if the run was long enough to cross"
            if none:
                return cls(np.inf, np.nan, 0.0, samples, 0.0, note, bound, temperature=ensemble.temperature)
            return cls(-np.inf, np.nan, 1.0, samples, kish(w), note, -bound, temperature=ensemble.temperature)
        effective = kish(w)
        # d(dF)/dp = -1 / (p (1 - p)). Replicas of dF itself are infinite whenever one leaves the basin empty.
        spread = error() / (inside * outside)
        value, note = float(np.log(outside / inside)), few_inside(w, ensemble)
        return cls(value, float(spread), float(inside), samples, effective, note, temperature=ensemble.temperature)

    @property
    def number(self) -> str:
        """Text of value and error, or of the bound where there is no value."""
        if np.isfinite(self.bound):
            return f"{'>' if self.value > 0 else '<'} {self.bound:.1f}"
        return super().__str__()

    def __str__(self) -> str:
        return f"{self.number} {self.unit}" + (f" ({self.note})" if self.note else "")


def profile(
    ensemble: Frames,
    values: Coordinate,
    *,
    bins: int = 60,
    range: tuple[float, float] | None = None,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> Profile:
    """Free-energy profile along a coordinate.

    Parameters
    ----------
    values
        See `coordinate_values`. Over a range of 2 pi they are angles (rad), wrapped into the range.
    range : pair of float, optional
        By default (-pi, pi) for arrays and torsions; for functions, "rg", "u", distances and angles what the frames
        with weight span.
    n_bootstrap : int
        Bootstrap replicas (of blocks where the ensemble has blocks); 0 leaves the errors nan.
    """
    index, edges = _bin(ensemble, values, bins, range)
    probability, error = _histogram(ensemble, index, bins, n_bootstrap, seed)
    about: dict[str, Any] = {"name": coordinate_name(values), "temperature": ensemble.temperature}
    about["note"] = objection(ensemble.ess, ensemble.khat)
    return Profile(edges, _free_energy(probability), error, probability, **about)


def surface(
    ensemble: Frames,
    a: Coordinate,
    b: Coordinate,
    *,
    bins: int = 64,
    range: Ranges | None = None,
    n_bootstrap: int = 0,
    seed: int = 0,
) -> Surface:
    """Free-energy surface over `a` and `b`; arguments as in `profile`, without errors unless asked for.

    Parameters
    ----------
    range : ((float, float), (float, float)), optional
        Of a and of b, as numpy.histogram2d takes it; either of them may be None.
    """
    if range is not None and (len(range) != 2 or not all(r is None or np.shape(r) == (2,) for r in range)):
        raise ValueError(f"Expected range=((a from, a to), (b from, b to)), or None for either; got {range}.")
    range_a, range_b = (None, None) if range is None else range
    index_a, edges_a = _bin(ensemble, a, bins, range_a)
    index_b, edges_b = _bin(ensemble, b, bins, range_b)
    index = np.where((index_a == bins) | (index_b == bins), bins * bins, index_a * bins + index_b)
    probability, error = _histogram(ensemble, index, bins * bins, n_bootstrap, seed)
    probability, error = probability.reshape(bins, bins), error.reshape(bins, bins)
    about: dict[str, Any] = {"name": f"{coordinate_name(a)}, {coordinate_name(b)}", "temperature": ensemble.temperature}
    about["note"] = objection(ensemble.ess, ensemble.khat)
    return Surface(edges_a, edges_b, _free_energy(probability), error, probability, **about)


def phi_positive(ensemble: Frames, torsion: int = 0) -> np.ndarray:
    """Mask (n,) of frames with 0 < phi < 2.5 rad, the left-handed region of a Ramachandran plot.

    The upper edge is there because the beta region spills over phi = ±pi: "phi > 0" alone would count
    its rim.

    Parameters
    ----------
    torsion : int
        Which phi, in residue order.
    """
    phi = ensemble.phi()
    if not phi.shape[1]:
        raise ValueError(
            "Expected a molecule with a backbone torsion phi; this one has none. Give the basin: a mask (n,), or a "
            "function of an mdtraj.Trajectory that returns it."
        )
    if torsion >= phi.shape[1]:
        raise ValueError(
            f"Expected a phi torsion number below {phi.shape[1]}, the number in this molecule; got {torsion}."
        )
    return in_phi_positive(phi[:, torsion])


def in_phi_positive(phi: np.ndarray) -> np.ndarray:
    """Whether 0 < phi < 2.5 rad, for phi in (-pi, pi]."""
    return (phi > PHI_POSITIVE[0]) & (phi < PHI_POSITIVE[1])


def basin_difference(
    ensemble: Frames,
    basin: ArrayLike | Callable[[mdtraj.Trajectory], np.ndarray] | None = None,
    *,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> BasinDifference:
    """Free energy of a basin relative to everything else: dF = -ln(p_in / (1 - p_in)) in kT.

    Parameters
    ----------
    basin : (n,) bool, or callable taking an mdtraj.Trajectory and returning it
        Which frames are inside; by default `phi_positive` of the first phi.
    """
    if basin is None:
        basin = phi_positive(ensemble)
    mask = np.asarray(basin(ensemble.to_mdtraj()) if callable(basin) else basin)
    if mask.shape != (ensemble.n,) or mask.dtype != bool:
        raise ValueError(f"Expected a boolean mask with shape ({ensemble.n},); got {mask.dtype} {mask.shape}.")

    def error() -> float:
        return float(ensemble.standard_error(ensemble.bootstrap(lambda w: w[mask].sum(), n_bootstrap, seed=seed)))

    return BasinDifference.of(ensemble, mask, error)


def few_inside(w: np.ndarray, ensemble: Frames) -> str:
    """Note on a basin with weights (n,), zero outside, that rests on few frames or few blocks; empty otherwise."""
    found = {"samples": kish(w)}
    if ensemble.block is not None:
        found["blocks"] = kish(block_sums(w, ensemble.block))
    what = min(found, key=found.__getitem__)
    few = found[what] < FEW_INSIDE
    return f"only {found[what]:.1f} effective {what} inside: the error is itself uncertain" if few else ""


def _bin(
    ensemble: Frames, values: Coordinate, bins: int, range: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Bin index (n,) of each value, `bins` for those outside or not finite; and the edges."""
    free = values in ("rg", "u") if isinstance(values, str) else callable(values)
    free = free or (is_atoms(values) and len(values) < 4)
    found = coordinate_values(ensemble, values)
    if range is None and free:
        seen = found[np.isfinite(found) & (ensemble.log_w > -np.inf)]
        if seen.size == 0 or seen.min() == seen.max():
            raise ValueError("Expected values that differ to choose a range from; give range=(low, high).")
        range = float(seen.min()), float(seen.max())
    low, high = (-np.pi, np.pi) if range is None else range
    if bins < 1 or not low < high:
        raise ValueError(f"Expected bins >= 1 and range[0] < range[1]; got {bins} and {range}.")
    scaled = (found - low) / (high - low)
    if abs(high - low - 2.0 * np.pi) < 1e-9:
        scaled = np.mod(scaled, 1.0)
    valid = (scaled >= 0.0) & (scaled <= 1.0)
    index = np.minimum(bins * np.where(valid, scaled, 0.0), bins - 1).astype(np.int64)
    return np.where(valid, index, bins), np.linspace(low, high, bins + 1)


def _histogram(
    ensemble: Frames, index: np.ndarray, bins: int, n_bootstrap: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probability (bins,) and the standard error of its -ln, by the delta method sd(p) / p."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.bincount(index, weights=weights, minlength=bins + 1)[:bins]

    probability = statistic(ensemble.weights)
    if n_bootstrap == 0:
        return probability, np.full(bins, np.nan)
    error = ensemble.standard_error(ensemble.bootstrap(statistic, n_bootstrap, seed=seed))
    error = ensemble.share_error(probability, error)
    with np.errstate(divide="ignore", invalid="ignore"):
        return probability, np.where(probability > 0.0, error / probability, np.nan)


def _free_energy(probability: np.ndarray) -> np.ndarray:
    """-ln p in kT above its minimum; a ValueError where no bin has any weight."""
    if not (probability > 0.0).any():
        raise ValueError("Expected some weight inside the range; every bin is empty. Check the range and its unit.")
    return relative_free_energy(probability)
