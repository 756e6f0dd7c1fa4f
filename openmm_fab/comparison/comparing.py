"""`compare`: choice of coordinates, basins and projections of two ensembles, and their differences in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import mdtraj
import numpy as np

from .. import weights as _weights
from ..ensemble.beside import as_ensemble
from ..ensemble.ensemble import Ensemble
from ..ensemble.trajectories import check_same_atoms, fixed_lengths
from ..free_energy.coordinate import coordinate_values
from ..molecule.graph import graph_of
from ..molecule.torsions import backbone_pairs
from ..tools.circle import circular_bins
from ..weights import Estimate, kish, z_score
from .comparison import Comparison
from .divergences import BINS, F_MAX, Divergence, divergence, edges_of, halves, open_bins, own_noise
from .projections import Projection, circle_features, principal_components, slow_components
from .regions import ramachandran_regions, wells
from .results import BasinComparison, CoordinateComparison, PairComparison, ProfileComparison, WeightHistogram
from .sides import Column, Side
from .torsions import (
    Torsion,
    end_to_end,
    ring_torsions,
    rotatable_torsions,
    side_torsions,
    telling,
    torsion_values,
)
from .verdicts import DISAGREE, TOO_FEW, objection, verdict

BINS_2D = (64, 100)
FEW, DUE = 10.0, 20.0  # effective samples: with fewer there is no verdict; with so many due, fewer than few are missing

# A function of a trajectory, or two, three or four atoms.
Chosen: TypeAlias = "Callable[[mdtraj.Trajectory], np.ndarray] | tuple[int, ...]"
Values = dict[str, np.ndarray]


def compare(
    ensemble: Ensemble,
    reference: Ensemble | mdtraj.Trajectory | str | Path,
    *,
    basins: Mapping[str, Callable[[mdtraj.Trajectory], np.ndarray]] | None = None,
    n_bootstrap: int = 200,
    seed: int = 0,
    coordinates: Mapping[str, Chosen] | None = None,
    lag: int | None = None,
) -> Comparison:
    """Compare an ensemble with a reference of the same molecule at the same temperature, before and after reweighting.

    Compared are every rotatable torsion, those of rings that pucker, sides of nitrogens, every Ramachandran plot, the
    end-to-end distance, the radius of gyration, the energy, the principal components of the rotatable torsions, and
    every basin; where both sides have `log_q`, ln w = -u - log q.

    Parameters
    ----------
    ensemble : Ensemble
    reference : Ensemble, mdtraj.Trajectory, or path
        A trajectory, or a file of one, is taken as unbiased MD at the ensemble's temperature, without energies; a path
        may be that of a saved ensemble, too.
    basins : dict of name -> callable, optional
        The callable takes an mdtraj.Trajectory and returns the mask (n,) of frames inside. By default three regions of
        every Ramachandran plot (`regions.ramachandran_regions`), or without phi and psi, the wells of the torsions;
        and the wells of omega, of rings (`torsions.telling`) and of nitrogens that either of the two visits.
    coordinates : dict of name -> callable or tuple, optional
        More of them: a function of an mdtraj.Trajectory, or 2, 3 or 4 atoms (nm, rad; 4 are one more torsion).
    lag : int, frames, optional
        The reference is in the order of time: compare along its slowest coordinates (TICA at this lag) too.

    Raises
    ------
    ValueError
        For different atoms or temperatures.
    """
    if not isinstance(ensemble, Ensemble):
        raise ValueError(
            f"Expected an Ensemble first; got {type(ensemble).__name__}. The second may be a trajectory or a path; "
            "of the first make one with Ensemble.from_mdtraj(trajectory, system), or Ensemble.load(path)."
        )
    if reference is None:
        raise ValueError(
            "Expected an ensemble to compare with; got None: this system brings no reference. Make one with "
            "fab.run_reference(system, ...), or from MD of your own with Ensemble.from_mdtraj."
        )
    reference = as_ensemble(reference, ensemble)
    check_same_atoms(ensemble.topology, reference.topology)
    if abs(ensemble.temperature - reference.temperature) > 0.01:
        raise ValueError(
            f"Expected two ensembles at one temperature; got {ensemble.temperature:g} K "
            f"and {reference.temperature:g} K."
        )
    if reference.name == ensemble.name:  # two runs of a flow: tables and figures tell sides by their names
        reference = replace(reference, name=f"{reference.name}, reference")
    both = (ensemble, reference)
    torsions, rings, sides_of = rotatable_torsions(reference), ring_torsions(reference), side_torsions(reference)
    # Rotors that are folded turn freely: they would be the widest motion and say the least.
    features = tuple(t for t in torsions if t.fold == 1)
    torsions += [*(t for ring in rings for t in ring), *sides_of]
    if taken := sorted({t.name for t in torsions} & set(coordinates or {})):
        raise ValueError(
            f"Expected coordinates under names of their own; {taken} are torsions that are compared anyway."
        )
    asked = [Torsion(n, (c,)) for n, c in (coordinates or {}).items() if isinstance(c, tuple) and len(c) == 4]
    torsions, turning = torsions + asked, [t.name for t in (*features, *asked)]
    angles = [_checked(e, torsion_values(e, torsions)) for e in both]
    others = [_checked(e, v) for e, v in zip(both, _coordinates(both, coordinates or {}), strict=True)]
    projections = _projections(reference, angles[1], features, lag)
    for one, values in zip(others, angles, strict=True):
        for projection in projections:
            projected = projection.of(_features(values, features))
            one.update(zip(projection.names, projected.T, strict=True))
    edges = {name: edges_of(others[1][name], reference.weights, BINS) for name in others[1]}
    kept = {name: e for name, e in edges.items() if e is not None}
    puckers = [name for ring in rings for name in telling(ring, angles)]
    masks = _masks(both, angles, turning, [*puckers, *(t.name for t in sides_of)], basins)
    columns = [_columns(a, o, kept, m) for a, o, m in zip(angles, others, masks, strict=True)]

    flow = replace(ensemble, log_w=np.where(ensemble.log_w > -np.inf, 0.0, -np.inf), name="unweighted")
    # Other resamplings on the other side: the same would cancel where the two ensembles are one.
    sides = (
        Side.of(ensemble, columns[0], n_bootstrap, seed),
        Side.of(flow, columns[0], n_bootstrap, seed),
        Side.of(reference, columns[1], n_bootstrap, seed + 1),
    )
    split = halves(reference, seed)
    circle = np.linspace(-np.pi, np.pi, BINS + 1)
    compared = tuple(ProfileComparison(t.name, **_profiles(sides, t.name, circle, split)) for t in torsions)
    return Comparison(
        ensemble,
        reference,
        compared,
        _pairs(sides, angles, split),
        tuple(_basin(sides, name) for name in masks[0]),
        tuple(
            CoordinateComparison(
                name,
                **_profiles(sides, name, kept[name], split),
                unit=_unit(name, (coordinates or {}).get(name)),
                **_means(sides, [o[name] for o in others]),
            )
            for name in kept
        ),
        projections,
        features,
        _weight_histogram(ensemble),
        _stiffer(ensemble, reference),
    )


# --- what is compared ---


def _checked(ensemble: Ensemble, values: Values) -> Values:
    """Finite values; those of frames without weight do not matter and are set to 0."""
    weightless = ensemble.log_w == -np.inf
    for name, found in values.items():
        values[name] = np.where(weightless, 0.0, found)
        if not np.isfinite(values[name]).all():
            bad = int((~np.isfinite(values[name])).sum())
            raise ValueError(
                f"Expected a finite {name!r} of every frame that has weight; {bad} of {ensemble.name!r} are not. "
                "Give such frames the log weight -inf."
            )
    return values


def _coordinates(both: Sequence[Ensemble], chosen: Mapping[str, Chosen]) -> list[Values]:
    """Distance, radius of gyration, energy and ln w where both sides know them, then what was asked for."""
    ends = end_to_end(both[0].topology)
    atoms = list(both[0].topology.atoms)
    asked: dict[str, Any] = {}
    if ends is not None:
        asked |= {f"end to end {atoms[ends[0]].name}-{atoms[ends[1]].name}": ends, "rg": "rg"}
    asked |= {name: c for name, c in chosen.items() if not (isinstance(c, tuple) and len(c) == 4)}
    found = [{name: coordinate_values(e, c) for name, c in asked.items()} for e in both]
    for name, values in (("u", [e.u for e in both]), ("log w", [_log_w(e) for e in both])):
        if all(np.isfinite(v[e.log_w > -np.inf]).all() for v, e in zip(values, both, strict=True)):
            for one, v in zip(found, values, strict=True):
                one[name] = v
    return found


def _unit(name: str, chosen: Chosen | None) -> str:
    if chosen is not None:
        return "" if callable(chosen) else "nm" if len(chosen) == 2 else "rad"
    return {"u": "kT", "log w": "nats"}.get(name, "nm" if name == "rg" or name.startswith("end to end") else "")


def _log_w(ensemble: Ensemble) -> np.ndarray:
    return np.full(ensemble.n, np.nan) if ensemble.log_q is None else -ensemble.u - ensemble.log_q


def _projections(
    reference: Ensemble, angles: Values, features: Sequence[Torsion], lag: int | None
) -> tuple[Projection, ...]:
    if len(features) < 2:
        return ()
    x = _features(angles, features)
    found = [principal_components(x, reference.weights)]
    if lag is not None:
        found.append(slow_components(x, reference.weights, lag, reference.block))
    return tuple(found)


def _features(angles: Values, torsions: Sequence[Torsion]) -> np.ndarray:
    return circle_features(np.stack([angles[t.name] for t in torsions], axis=1))


def _masks(
    both: Sequence[Ensemble],
    angles: Sequence[Values],
    turning: Sequence[str],
    others: Sequence[str],
    basins: Mapping[str, Callable[[mdtraj.Trajectory], np.ndarray]] | None,
) -> list[Values]:
    """Frames inside (n,) bool, by name of the basin, of each ensemble: of torsions about bonds, and of others."""
    if basins is None:
        regions = ramachandran_regions(turning)
        left = [name for name in turning if not regions or name.startswith("omega ")]
        regions |= wells(angles, [e.weights for e in both], [*left, *others])
        return [{name: region(a) for name, region in regions.items()} for a in angles]
    found: list[Values] = []
    for e in both:
        found.append({name: np.asarray(basin(e.to_mdtraj())) for name, basin in basins.items()})
        for name, mask in found[-1].items():
            if mask.shape != (e.n,) or mask.dtype != bool:
                raise ValueError(
                    f"Expected a boolean mask with shape ({e.n},) of the basin {name!r}; got {mask.dtype} {mask.shape}."
                )
    return found


def _columns(angles: Values, others: Values, edges: Mapping[str, np.ndarray], masks: Values) -> dict[str, Column]:
    columns = {name: (circular_bins(a, BINS), BINS) for name, a in angles.items()}
    columns |= {name: (open_bins(others[name], e), BINS) for name, e in edges.items()}
    return columns | {_key(name): (mask.astype(np.int64), 2) for name, mask in masks.items()}


def _key(basin: str) -> str:
    return f"basin {basin}"


def _stiffer(ensemble: Ensemble, reference: Ensemble) -> str:
    """A sentence where bonds have fixed lengths on one side and vibrate on the other; else empty."""
    bonds = graph_of(ensemble.topology).bonds
    counts = [int(fixed_lengths(e.x[e.log_w > -np.inf], bonds).sum()) for e in (ensemble, reference)]
    if abs(counts[0] - counts[1]) <= len(bonds) / 10:
        return ""
    names = [e.name for e in (ensemble, reference)]
    stiff, soft = names if counts[0] > counts[1] else names[::-1]
    return (
        f"{max(counts)} bonds have fixed lengths in {stiff}, {min(counts)} in {soft}: energies and lengths differ for "
        "that alone."
    )


# --- how it compares ---


def _profiles(sides: tuple[Side, Side, Side], name: str, edges: np.ndarray, split: list[np.ndarray]) -> dict[str, Any]:
    """Fields of a `ProfileComparison`: profiles, divergences with their noise, verdict, and the largest difference."""
    a, flow, b = sides
    ensemble, unweighted, reference = (side.profile(name, edges) for side in sides)
    distance = divergence(reference.probability, ensemble.probability)
    distance_flow = divergence(reference.probability, unweighted.probability)
    noise, noise_flow = a.noise(name, b), flow.noise(name, b)
    z = _excess(distance.tv, noise)
    return dict(
        ensemble=ensemble,
        flow=unweighted,
        reference=reference,
        divergence=distance,
        divergence_flow=distance_flow,
        reference_noise=own_noise(b.weights, *b.columns[name], split),
        noise=noise,
        z=z,
        z_flow=_excess(distance_flow.tv, noise_flow),
        # Nearer than noise would have it is no disagreement.
        verdict=_verdict(a, b, z if np.isnan(z) else max(z, 0.0)),
        **_differences(ensemble, reference),
    )


def _verdict(a: Side, b: Side, z: float) -> str:
    return objection(a.reliability, b.reliability) or verdict(z, min(a.blocks, b.blocks) - 1)


def _excess(tv: float, noise: Estimate) -> float:
    value, error = float(noise.value), float(noise.error)
    if error < 1e-9:  # both sides have all in one bin
        return 0.0 if tv < 1e-9 else np.inf
    return (tv - value) / error


def _differences(ensemble: Any, reference: Any) -> dict[str, Any]:
    low = reference.value < F_MAX
    both = low & (ensemble.probability > 0.0)
    # Normalised probabilities are compared, not shifted profiles: the shift would spread one bin's noise
    # over all.
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.abs(np.log(reference.probability / ensemble.probability))
    largest, rms = Estimate(np.inf, np.nan), np.inf
    if both.any():
        i = int(np.argmax(np.where(both, difference, -1.0)))
        largest = Estimate(float(difference[i]), float(np.hypot(ensemble.error[i], reference.error[i])))
        rms = float(np.sqrt(np.mean(difference[both] ** 2)))
    return dict(largest=largest, rms=rms, unvisited=int((low & ~both).sum()))


def _means(sides: tuple[Side, Side, Side], values: Sequence[np.ndarray]) -> dict[str, Any]:
    a, flow, b = (side.mean(v) for side, v in zip(sides, (values[0], values[0], values[1]), strict=True))
    z = float(z_score(a, b))
    return dict(
        mean_ensemble=a, mean_flow=flow, mean_reference=b, mean_z=z, mean_verdict=_verdict(sides[0], sides[2], z)
    )


def _pairs(
    sides: tuple[Side, Side, Side], angles: Sequence[Values], split: list[np.ndarray]
) -> tuple[PairComparison, ...]:
    pairs = []
    for residue in backbone_pairs(sides[0].ensemble.topology):
        found: tuple[dict[int, Divergence], ...] = ({}, {}, {})
        for bins in BINS_2D:
            places = [
                circular_bins(a[f"phi {residue}"], bins) * bins + circular_bins(a[f"psi {residue}"], bins)
                for a in angles
            ]
            p, flow, reference = (
                np.bincount(place, weights=side.weights, minlength=bins * bins)
                for side, place in zip(sides, (places[0], *places), strict=True)
            )
            found[0][bins], found[1][bins] = divergence(reference, p), divergence(reference, flow)
            found[2][bins] = own_noise(sides[2].weights, places[1], bins * bins, split)
        pairs.append(PairComparison(residue, *found))
    return tuple(pairs)


def _basin(sides: tuple[Side, Side, Side], name: str) -> BasinComparison:
    a, flow, b = (side.difference(_key(name)) for side in sides)
    z, cannot = float(z_score(a, b)), objection(sides[0].reliability, sides[2].reliability)
    masks = [side.columns[_key(name)][0] == 1 for side in (sides[0], sides[2])]
    both = tuple(zip((sides[0], sides[2]), masks, strict=True))
    missing = [*_missing("basin", both), *_missing("rest", tuple((side, ~mask) for side, mask in both))]
    few = min(_effective(side, m) for side, mask in both for m in (mask, ~mask))
    words = verdict(z, min(few, sides[0].blocks, sides[2].blocks) - 1)
    if missing:  # a count of frames: it stands whatever the weights
        words = f"{missing[0]}; {cannot}" if cannot else missing[0]
    elif cannot:
        words = cannot
    elif any(_heavy(side, mask) for side, mask in both):
        words = TOO_FEW
    elif (few < FEW or not np.isfinite(z)) and words != DISAGREE:
        words = TOO_FEW  # enough to contradict, perhaps, but not to agree
    return BasinComparison(name, a, flow, b, z, float(z_score(flow, b)), words)


def _effective(side: Side, mask: np.ndarray) -> float:
    w = side.weights * mask
    return kish(w) if w.any() else 0.0


def _heavy(side: Side, mask: np.ndarray) -> bool:
    """Whether a few of the weights in a mask (n,) are too large for its share, and the error of that, to mean much."""
    log_w = side.ensemble.log_w[mask]
    return bool((log_w > -np.inf).any()) and _weights.pareto_khat(log_w) > _weights.KHAT_LIMIT


def _missing(what: str, both: tuple[tuple[Side, np.ndarray], ...]) -> list[str]:
    """Verdicts on frames in masks (n,) that one side hardly has: few, and less than half of the other's share, by which
    many are due."""
    found = []
    for (side, mask), (other, theirs), where in zip(both, both[::-1], ("", " in the reference"), strict=True):
        here, there = float(side.weights[mask].sum()), float(other.weights[theirs].sum())
        due = there * min(side.ensemble.ess, side.blocks)
        if _effective(side, mask) < FEW and due >= DUE and here < 0.5 * there:
            found.append(f"{what} missing{where}")
    return found


def _weight_histogram(ensemble: Ensemble) -> WeightHistogram | None:
    """Histogram of the weights; None where all are equal."""
    found = _weights.histogram(ensemble.log_w, BINS)
    return None if found is None else WeightHistogram(*found)
