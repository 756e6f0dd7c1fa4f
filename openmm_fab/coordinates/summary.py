"""What was decided about a molecule's coordinates, as a table and in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..molecule.graph import is_planar
from ..molecule.stereo import stereocentres
from ..molecule.system import MolecularSystem
from ..molecule.torsions import rotatable_bonds
from ..tools.tables import table
from .isomers import amide_bonds, is_trans, pyramidal_nitrogens
from .zmatrix import LARGEST_RING, LINEAR

if TYPE_CHECKING:
    from .internal import InternalCoordinates


COLUMNS = ("atom", "bonded to", "nm", "angle with", "degrees", "torsion with", "degrees", "which")


def summary(coordinates: InternalCoordinates) -> str:
    """Rows of the Z-matrix with centres and widths, and what turns, is fixed, kept or hard."""
    return "\n".join([table(COLUMNS, _rows(coordinates)), "", *_words(coordinates)])


def _rows(c: InternalCoordinates) -> list[tuple[str, ...]]:
    z, names = c.zmatrix, c.atom_names
    centre, width = _scales(c)
    narrow = iter(range(len(c.lengths), len(centre)))
    rotors = {rotor.rows[0]: rotor for rotor in c.rotors}
    rows: list[tuple[str, ...]] = []
    for k, (atom, *partners) in enumerate(z.rows.tolist()):
        cells = [names[atom], *(names[i] if i >= 0 else "" for i in partners)]
        length = bend = torsion = kind = ""
        if k >= 1:
            length = _length(np.exp(centre[k - 1]), width[k - 1])
        if k >= 2:
            i = c.n_bonds + k - 2
            bend = _length(np.exp(centre[i]), width[i]) + " nm" if z.closes[k] else _angle(centre[i], width[i])
            kind = "closes a ring" if z.closes[k] else ""
        if k >= 3 and z.periodic[k]:
            torsion = "any"
            kind = "periodic" + (f", one of {rotors[k].fold} equal sectors" if k in rotors else "")
        elif k >= 3:
            i = next(narrow)
            torsion = _angle(centre[i], width[i])
            kind = kind or (f"narrow, after {names[z.rows[z.leader[k], 0]]}" if z.leader[k] >= 0 else "narrow")
        rows.append((cells[0], cells[1], length, cells[2], bend, cells[3], torsion, kind))
    return rows


def _scales(c: InternalCoordinates) -> tuple[np.ndarray, np.ndarray]:
    """Centre and width of every length, angle and narrow torsion; the width of a fixed one is 0."""
    spread = c.mixing.square().sum(1).sqrt().numpy()
    narrow = c.n_stiff - int(np.isnan(c.lengths).sum())
    with np.errstate(invalid="ignore"):
        centre = np.concatenate([np.log(c.lengths), np.full(narrow, np.nan)])
    free = np.isnan(centre)
    width = np.zeros(len(centre))
    centre[free], width[free] = c.mean.numpy(), spread
    return centre, width


def _length(value: float, relative: float) -> str:
    return f"{value:.4f} " + (f"± {value * relative:.4f}" if relative > 0 else "fixed")


def _angle(value: float, width: float) -> str:
    return f"{np.degrees(value):.1f} ± {np.degrees(width):.1f}"


def _words(c: InternalCoordinates) -> list[str]:
    z, names = c.zmatrix, c.atom_names
    lines = [f"{c.dim} coordinates: {c.n_stiff} stiff, {c.n_periodic} periodic"]
    fixed = int((~np.isnan(c.lengths)).sum())
    if fixed:
        lines[0] += f"; {fixed} lengths fixed, measure of {'rigid' if c.metric is not None else 'flexible'} bonds"
    if c.rotors:
        groups = [f"{names[r.frame[0]]} ({r.fold} sectors)" for r in c.rotors]
        lines.append(f"Equal atoms in one labelled sector: {', '.join(groups)}; log Z counts all sectors")
    if c.system is not None:
        lines += _chemistry(c, names)
    rings = int(z.closes.sum())
    if rings:
        lines.append(f"Rings closed by their lengths: {rings}")
    return lines


def _chemistry(c: InternalCoordinates, names: Sequence[str]) -> list[str]:
    assert c.system is not None
    graph, x, lines = c.system.graph, _centre(c), []
    turning = {frozenset(row[1:3].tolist()) for row in c.zmatrix.rows[c.zmatrix.periodic]}
    kept: dict[str, list[str]] = {}
    for amide in amide_bonds(graph):
        isomer = "sampled" if frozenset(amide[1:3]) in turning else "trans" if is_trans(x, amide) else "cis"
        kept.setdefault(isomer, []).append(f"{names[amide[1]]}-{names[amide[2]]}")
    lines += [f"Peptide bonds, {isomer}: {', '.join(found)}" for isomer, found in kept.items()]
    if stiff := _stiff_bonds(c.system, turning):
        lines.append(f"Other bonds that do not turn: {', '.join(f'{names[i]}-{names[j]}' for i, j in stiff)}")
    centres = stereocentres(graph)
    if centres:
        lines.append(f"Stereocentres, which keep the hand of the structure: {', '.join(names[i] for i in centres)}")
    kept_side = pyramidal_nitrogens(graph, x)  # those that invert are flat at the centre
    inverting = sorted(set(pyramidal_nitrogens(graph, c.system.minimum)) - set(kept_side))
    if inverting:
        lines.append(f"Pyramidal nitrogens, both sides sampled: {', '.join(names[i] for i in inverting)}")
    if kept_side:
        held = ", ".join(names[i] for i in kept_side)
        lines.append(f"Pyramidal nitrogens, which keep their side where MD may invert them: {held}")
    rings = {frozenset(r) for i, j in graph.bonds.tolist() if (r := graph.ring(i, j))}
    soft = [r for r in rings if not is_planar(sorted(r), x) and len(r) <= LARGEST_RING]
    if soft:
        lines.append(f"Rings that pucker or are bent: {len(soft)}")
    large = [r for r in rings if len(r) > LARGEST_RING]
    if large:
        sizes = ", ".join(str(len(r)) for r in sorted(large, key=len))
        lines.append(
            f"Hard: rings of {sizes} atoms, closed by the energy alone, torsions near those given; expect a low "
            "effective sample size"
        )
    return lines


def _stiff_bonds(system: MolecularSystem, turning: set[frozenset[int]]) -> list[tuple[int, int]]:
    """Bonds with something at both ends about which no torsion turns, but for those in rings and of peptides."""
    graph, near = system.graph, system.graph.neighbours
    known = turning | {frozenset(amide[1:3]) for amide in amide_bonds(graph)}
    straight = {
        i
        for i, around in enumerate(near)
        if len(around) == 2 and _is_straight(system.minimum[[around[0], i, around[1]]])
    }
    return [pair for pair in rotatable_bonds(graph) if frozenset(pair) not in known and not straight & set(pair)]


def _is_straight(x: np.ndarray) -> bool:
    a, b = x[0] - x[1], x[2] - x[1]
    return bool(a @ b / np.linalg.norm(a) / np.linalg.norm(b) < np.cos(LINEAR))


def _centre(c: InternalCoordinates) -> np.ndarray:
    import torch

    x, _ = c.to_cartesian(torch.zeros(1, c.dim, dtype=torch.float64))
    return x[0].numpy()
