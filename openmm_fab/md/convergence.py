"""Convergence of a reference: correlation times, comparison of halves, round trips between temperatures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mdtraj
import numpy as np

from ..ensemble.blocks import inefficiency
from ..ensemble.ensemble import Ensemble
from ..ensemble.states import slow_states
from ..free_energy.profiles import BasinDifference, Profile, Surface, basin_difference
from ..weights import Estimate, block_sums, z_score

ZERO = Estimate(0.0, 0.0)
Basin = Callable[[mdtraj.Trajectory], np.ndarray]


@dataclass(frozen=True)
class Convergence:
    """Report on the length and quality of a reference's sampling; printable.

    Parameters
    ----------
    frames, walkers : int
    frame_ps : float, ps
    inefficiency : dict of str to float
        Frames for one independent one (>= 1), by torsion or basin; nan without pymbar or for a constant.
    effective : float
        Independent samples: Kish's effective number of the weights over the largest inefficiency; nan where none is
        known.
    basin : str
    df : BasinDifference or None
        dF of the basin, kT, with a block-bootstrap error.
    df_against_time : tuple of (ps of each walker, BasinDifference)
        From the beginning up to there.
    halves_z : float
        Basin's population in one half of the walkers less that in the other, in standard errors; nan for a single
        walker. (Populations, as dF is infinite in a half that has never been there.)
    drift_z : float
        The same for the first and the second half of the time.
    acceptance : tuple of float
        Of exchanges between neighbouring temperatures.
    round_trips : int or None
        From the lowest to the highest temperature and back, all replicas together.
    proposals, trajectories : float
        Share accepted of a flow's proposals, and of Hamiltonian Monte Carlo.
    longest_wait : int or None
        Sweeps that a walker waited for an accepted proposal, at most: it stood where the flow hardly goes.
    surface : Profile, Surface or None
        Free energy of the torsions of "opes" as its kernels tell it, without an error; `free_energy.profile` of the
        ensemble is that of the weights.
    unit : str
        Of `frame_ps` and times: "ps", or "sweeps" where there is no time.
    """

    frames: int
    walkers: int
    frame_ps: float
    inefficiency: dict[str, float]
    effective: float
    basin: str = ""
    df: BasinDifference | None = None
    df_against_time: tuple[tuple[float, BasinDifference], ...] = ()
    halves_z: float = np.nan
    drift_z: float = np.nan
    acceptance: tuple[float, ...] = ()
    round_trips: int | None = None
    proposals: float = np.nan
    trajectories: float = np.nan
    longest_wait: int | None = None
    surface: Profile | Surface | None = None
    unit: str = "ps"

    @property
    def length(self) -> float:
        """Length of each walker's run, in `unit`."""
        return self.frames / self.walkers * self.frame_ps

    @property
    def slowest(self) -> float:
        """The largest statistical inefficiency, in frames."""
        return float(np.nanmax([1.0, *self.inefficiency.values()]))

    @property
    def warnings(self) -> list[str]:
        """Reasons to sample longer or otherwise, one sentence each; empty if all checks pass."""
        found = []
        if np.isnan(self.effective):
            why = "no torsion moves, or pymbar is not installed" if self.inefficiency else "no torsion is looked at"
            found.append(f"how many samples are independent is not known: {why}")
        elif self.effective < 100:
            found.append(f"{self.effective:.0f} independent samples: sample longer, or use an enhanced method")
        if abs(self.halves_z) > 3:
            found.append(f"the halves of the walkers disagree ({self.halves_z:+.1f} standard errors)")
        if abs(self.drift_z) > 3:
            found.append(f"the basin's population drifts ({self.drift_z:+.1f} standard errors): equilibrate longer")
        if self.acceptance and min(self.acceptance) < 0.1:
            found.append(f"exchanges are accepted in {100 * min(self.acceptance):.0f} %: use more temperatures")
        if self.round_trips is not None and self.round_trips < 10:
            found.append(f"{self.round_trips} round trips: sample longer")
        if self.longest_wait is not None and self.longest_wait > 0.2 * self.length:
            found.append(
                f"a walker waited {self.longest_wait} sweeps for an accepted proposal, of {self.length:.0f} in all: "
                "there are places where the flow hardly goes; train it longer, or sample longer"
            )
        if self.df is not None and self.df.note:
            found.append(f"{self.basin}: {self.df.note}")
        return found

    def __str__(self) -> str:
        length = f"{self.walkers} x {self.length:.4g} {self.unit}"
        independent = "an unknown number" if np.isnan(self.effective) else f"{self.effective:.0f}"
        lines = [f"{self.frames} frames: {length}; {independent} independent"]
        lines += [f"  {name}: one independent frame in {g:.1f}" for name, g in self.inefficiency.items()]
        if self.df is not None:
            lines.append(f"dF({self.basin}) = {self.df}")
            lines += [f"  up to {time:.4g} {self.unit}: {df}" for time, df in self.df_against_time]
            halves = {"of the walkers": self.halves_z, "of the time": self.drift_z}
            lines += [f"  halves {what}: z = {z:+.1f}" for what, z in halves.items() if np.isfinite(z)]
        if self.acceptance:
            lines.append("Exchanges accepted: " + ", ".join(f"{100 * a:.0f} %" for a in self.acceptance))
        if self.round_trips is not None:
            lines.append(f"Round trips: {self.round_trips}")
        if self.longest_wait is not None:
            lines.append(
                f"Proposals accepted: {100 * self.proposals:.0f} %, trajectories {100 * self.trajectories:.0f} %; "
                f"longest wait {self.longest_wait} sweeps"
            )
        if self.surface is not None:
            lines.append(f"By kernels of the bias: {self.surface}")
        return "\n".join([*lines, *(f"Caution: {w}" for w in self.warnings)])


@dataclass(frozen=True, eq=False, repr=False)
class ReferenceEnsemble(Ensemble):
    """Ensemble from MD with a report on its convergence.

    Parameters
    ----------
    convergence : Convergence or None
        Of the whole run, also where this is a part of it; not saved in files.
    """

    convergence: Convergence | None = None


def assess_convergence(
    ensemble: Ensemble,
    walkers: int = 1,
    *,
    frame_ps: float = 1.0,
    basin: Basin | None = None,
    **about: Any,
) -> Convergence:
    """Report on the convergence of an ensemble whose frames stand walker by walker, each in time order.

    Parameters
    ----------
    walkers : int
        The ensemble holds as many runs of equal length.
    basin : callable taking an mdtraj.Trajectory and returning (n,) bool, optional
        By default 0 < angle < 2.5 rad of the first named torsion.
    **about
        Further fields of `Convergence`.

    Raises
    ------
    ValueError
        The frames are not those of so many walkers.
    """
    if walkers < 1 or ensemble.n % walkers or not ensemble.n:
        raise ValueError(f"Expected frames of {walkers} walkers of equal length; got {ensemble.n} frames.")
    shape = (walkers, ensemble.n // walkers)
    torsions = slow_states(ensemble.topology, ensemble.x)
    angles = ensemble.torsions(list(torsions.values())) if torsions else np.zeros((ensemble.n, 0))
    slow = {
        name: _slowest([np.cos(a), np.sin(a), (a > 0.0) & (a < 2.5)], shape)
        for name, a in zip(torsions, angles.T, strict=True)
    }
    inside: np.ndarray | None = None
    what = ""
    if basin is not None:
        inside, what = np.asarray(basin(ensemble.to_mdtraj()), dtype=bool), getattr(basin, "__name__", "basin")
    elif torsions:
        inside, what = (angles[:, 0] > 0.0) & (angles[:, 0] < 2.5), f"0 < {next(iter(torsions))} < 2.5 rad"
    if basin is not None and inside is not None:
        slow[what] = _slowest([inside], shape)
    # Nothing known of the correlation is not the same as none.
    known = [g for g in slow.values() if np.isfinite(g)]
    effective = ensemble.ess / max([1.0, *known]) if known else np.nan
    if inside is None:
        return Convergence(ensemble.n, walkers, frame_ps, slow, effective, **about)
    time = np.tile(np.arange(shape[1]), walkers)
    walker = np.repeat(np.arange(walkers), shape[1])

    def of(mask: np.ndarray) -> BasinDifference:
        return basin_difference(ensemble[mask], inside[mask])

    def population_z(half: np.ndarray) -> float:
        """One half against the other, in standard errors; walkers that are blocks of both are paired."""
        block = ensemble.block
        if block is None or set(block[half]) != set(block[~half]):
            parts = [ensemble[mask].expectation(inside[mask]) for mask in (half, ~half)]
            return float(z_score(*parts))
        gap, off = 0.0, np.zeros(ensemble.n)
        for mask, sign in ((half, 1.0), (~half, -1.0)):
            w = ensemble.weights[mask] / ensemble.weights[mask].sum()
            population = float(w @ inside[mask])
            gap += sign * population
            off[mask] = sign * w * (inside[mask] - population)
        sums = block_sums(off, block)
        n = len(sums)
        return float(z_score(Estimate(gap, np.sqrt(np.square(sums).sum() * n / (n - 1)) if n > 1 else np.nan), ZERO))

    ends = [max(1, round(shape[1] * k / 5)) for k in range(1, 6)]
    return Convergence(
        ensemble.n,
        walkers,
        frame_ps,
        slow,
        effective,
        what,
        of(walker >= 0),
        tuple((end * frame_ps, of(time < end)) for end in ends),
        population_z(walker % 2 == 0) if walkers > 1 else np.nan,
        population_z(time < shape[1] // 2) if shape[1] > 1 else np.nan,
        **about,
    )


def reported(ensemble: Ensemble, report: Convergence) -> ReferenceEnsemble:
    """Make a `ReferenceEnsemble` of an ensemble and its report."""
    fields = {k: getattr(ensemble, k) for k in ensemble.__dataclass_fields__ if k != "convergence"}
    return replace(ReferenceEnsemble(**fields), convergence=report)


def walker_blocks(walkers: int, frames: int, slowest: float = 0.5, blocks: int = 20) -> np.ndarray:
    """Labels (walkers * frames,): a block a walker; fewer than ten walkers are cut in time into `blocks` in all, or
    into less where pieces would be shorter than two statistical inefficiencies of `slowest` frames."""
    long_enough = max(-(-2 // walkers), int(frames / (2 * slowest)))
    pieces = 1 if walkers >= 10 else min(frames, -(-blocks // walkers), long_enough)
    time = np.arange(frames) * pieces // frames
    return (np.arange(walkers)[:, None] * pieces + time).flatten()


def count_round_trips(level: np.ndarray, highest: int) -> int:
    """Round trips, lowest to highest and back, of levels (time, replicas)."""
    trips = 0
    for path in np.asarray(level).T:
        ends = path[(path == 0) | (path == highest)]
        turns = ends[np.r_[True, ends[1:] != ends[:-1]]] if len(ends) else ends
        # 0, top, 0 is one; what comes before the first 0 is no trip yet.
        turns = turns[1:] if len(turns) and turns[0] != 0 else turns
        trips += max(0, (len(turns) - 1) // 2)
    return trips


def _slowest(series: Sequence[np.ndarray], shape: tuple[int, int]) -> float:
    found = [_inefficiency(np.asarray(s, dtype=np.float64).reshape(shape)) for s in series]
    return float(np.nanmax(found)) if np.isfinite(found).any() else np.nan


def _inefficiency(series: np.ndarray) -> float:
    """Statistical inefficiency of (walkers, frames), in frames.

    Of many walkers: frames * Var(means of walkers) / Var(all), which needs no model of the correlation and knows what
    is slower than a walker is long. Of few: pymbar's.
    """
    walkers, frames = series.shape
    variance = series.var()
    if variance < 1e-12:
        return np.nan
    if walkers >= 20:
        return float(max(1.0, frames * series.mean(1).var(ddof=1) / variance))
    found = inefficiency(list(series))
    return np.nan if found is None else found
