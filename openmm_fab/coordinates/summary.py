"""Description of a molecule's coordinates as a table and in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..molecule.graph import is_planar
from ..molecule.stereo import stereocentres
from ..molecule.system import MolecularSystem
from ..molecule.torsions import names_of_bonds, rotatable_bonds
from ..tools.tables import table
from ..tools.vectors import bond_angle
from .isomers import amide_bonds, is_trans, kept_in_large_rings, kept_nitrogens, pyramidal_nitrogens
from .layout import Layout
from .minima import MANY, Minima
from .scans import BondScan, crossing_time
from .symmetry import Rotor
from .turning import Scans
from .zmatrix import LARGEST_RING, LINEAR, ZMatrix

SHOWN = 8  # energies of minima
COLUMNS = ("atom", "bonded to", "nm", "angle with", "degrees", "torsion with", "degrees", "which")


def summary(
    layout: Layout,
    mean: np.ndarray,
    width: np.ndarray,
    rotors: Sequence[Rotor],
    measure: str,
    system: MolecularSystem | None,
    structures: np.ndarray,
    names: Sequence[str],
    scans: Scans | None = None,
    minima: Minima | None = None,
) -> str:
    """Describe coordinates: Z-matrix rows with centres and widths, and what turns, is fixed, kept or hard to sample.

    Parameters
    ----------
    mean, width : (n_stiff,)
        Of the stiff coordinates: ln of nm, rad.
    measure : "rigid" or "flexible"
        Of fixed lengths.
    system : MolecularSystem or None
        The molecule, if known; then its chemistry is described, too.
    structures : (n, n_atoms, 3), nm
        The minima that the coordinates hold.
    names : sequence of str
        Of the atoms.
    scans : Scans, optional
        Of bonds, which decided what turns.
    minima : Minima, optional
        Of rings and nitrogens, by a search.
    """
    words = _words(layout, rotors, measure, names)
    if system is not None:
        words += _chemistry(layout.zmatrix, system, structures, names, scans)
        words += _minima(minima)
    if rings := int(layout.zmatrix.closes.sum()):
        words.append(f"Rings closed by their lengths: {rings}")
    if system is not None:
        words.append(turning_in_words(layout.zmatrix, system, structures, names, minima is not None, scans))
    return "\n".join([table(COLUMNS, _rows(layout, mean, width, rotors, names)), "", *words])


def _rows(
    layout: Layout, mean: np.ndarray, width: np.ndarray, rotors: Sequence[Rotor], names: Sequence[str]
) -> list[tuple[str, ...]]:
    z = layout.zmatrix
    # Of every length and angle; the width of a fixed one is 0.
    centres, widths = np.log(layout.lengths), np.zeros(len(layout.lengths))
    centres[layout.free], widths[layout.free] = mean[: len(layout.free)], width[: len(layout.free)]
    folds = {rotor.rows[0]: rotor.fold for rotor in rotors}
    rows: list[tuple[str, ...]] = []
    for k, (atom, *partners) in enumerate(z.rows.tolist()):
        cells = [names[atom], *(names[i] if i >= 0 else "" for i in partners)]
        length = bend = torsion = kind = ""
        if k >= 1:
            i = layout.length(k)
            length = _length(np.exp(centres[i]), widths[i])
        if k >= 2:
            i = layout.bend(k)
            bend = _length(np.exp(centres[i]), widths[i]) + " nm" if z.closes[k] else _angle(centres[i], widths[i])
            kind = "closes a ring" if z.closes[k] else ""
        if k >= 3 and z.periodic[k]:
            torsion = "any"
            kind = "periodic" + (f", one of {folds[k]} equal sectors" if k in folds else "")
        elif k >= 3:
            (i,) = layout.stiff_torsions([k])
            torsion = _angle(mean[i], width[i])
            kind = kind or (f"narrow, after {names[z.rows[z.leader[k], 0]]}" if z.leader[k] >= 0 else "narrow")
        rows.append((cells[0], cells[1], length, cells[2], bend, cells[3], torsion, kind))
    return rows


def _length(value: float, relative: float) -> str:
    return f"{value:.4f} " + (f"± {value * relative:.4f}" if relative > 0 else "fixed")


def _angle(value: float, width: float) -> str:
    return f"{np.degrees(value):.1f} ± {np.degrees(width):.1f}"


def _words(layout: Layout, rotors: Sequence[Rotor], measure: str, names: Sequence[str]) -> list[str]:
    lines = [f"{layout.dim} coordinates: {layout.n_stiff} stiff, {layout.n_periodic} periodic"]
    if fixed := len(layout.fixed):
        lines[0] += f"; {fixed} lengths fixed, measure of {measure} bonds"
    if rotors:
        groups = [f"{names[r.frame[0]]} ({r.fold} sectors)" for r in rotors]
        lines.append(f"Equal atoms in one labelled sector: {', '.join(groups)}; log Z counts all sectors")
    return lines


def _chemistry(
    zmatrix: ZMatrix, system: MolecularSystem, structures: np.ndarray, names: Sequence[str], scans: Scans | None = None
) -> list[str]:
    graph, lines, x = system.graph, [], structures[0]
    turning = {frozenset(row[1:3].tolist()) for row in zmatrix.rows[zmatrix.periodic]}

    def of(bond: Sequence[int]) -> str:
        """A bond's name, with what its scan says if it was scanned."""
        i, j = bond
        scan = None if scans is None else scans.of(i, j)
        return f"{names[i]}-{names[j]}" + ("" if scan is None else f" ({_energies(scan)})")

    kept: dict[str, list[str]] = {}
    for amide in amide_bonds(graph):
        isomer = "sampled" if frozenset(amide[1:3]) in turning else "trans" if is_trans(x, amide) else "cis"
        peptide = graph.elements[amide[0]] == graph.elements[amide[3]] == "C"
        kind = "Peptide bonds" if peptide else "Formamides, ureas, carbamates and the like"
        kept.setdefault(f"{kind}, {isomer}", []).append(of(amide[1:3]))
    lines += [f"{kind}: {', '.join(found)}" for kind, found in kept.items()]
    if scans is not None:
        if found := [of(scan.bond) for scan in scans.bonds if scan.turns]:
            lines.append(f"Bonds that turn, by the energy: {', '.join(found)}")
    if stiff := _stiff_bonds(system, turning, scans):
        lines.append(f"Other bonds that do not turn: {', '.join(map(of, stiff))}")
    lines += _how_decided(scans)
    centres = stereocentres(graph)
    if centres:
        lines.append(
            f"Stereocentres, which keep the chirality of the structure: {', '.join(names[i] for i in centres)}"
        )
    kept_side = kept_nitrogens(graph, structures)
    inverting = sorted(set(pyramidal_nitrogens(graph, system.minimum)) - set(kept_side))
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
    if kept_bonds := kept_in_large_rings(graph, structures):
        named = ", ".join(f"{names[a]}-{names[b]} {isomer}" for a, b, isomer in kept_bonds)
        lines.append(f"Amides and double bonds in large rings, kept: {named}")
    if large:
        sizes = ", ".join(str(len(r)) for r in sorted(large, key=len))
        shapes = (
            f"the {min(len(structures), MANY)} lowest that hot dynamics reached"
            if len(structures) > 1
            else "that given"
        )
        lines.append(
            f"Hard: rings of {sizes} atoms, closed by the energy alone, shapes near {shapes}: others are missed, and "
            "the weights do not show that; expect a low effective sample size"
        )
    return lines


def _minima(minima: Minima | None) -> list[str]:
    """How many puckers and sides a search found, and what was left out."""
    if minima is None:
        return []
    energies = ", ".join(f"{e:.1f}" for e in minima.energies[:SHOWN].tolist())
    more = f", ... ({len(minima.energies)})" if len(minima.energies) > SHOWN else ""
    lines = [f"Minima of rings and nitrogens, by a search of the energy: {energies}{more} kT"]
    if len(minima.higher):
        lines[0] += (
            f"; higher than {float(minima.limit):g} kT (CoordinateSettings.puckers) and left out: "
            f"{len(minima.higher)}, the lowest at {float(minima.higher[0]):.1f} kT"
        )
    return lines


def turning_in_words(
    zmatrix: ZMatrix,
    system: MolecularSystem,
    structures: np.ndarray,
    names: Sequence[str],
    searched: bool,
    scans: Scans | None = None,
) -> str:
    """Two sentences: names of the torsions that turn; numbers of bonds, stereocentres, nitrogens and rings kept.

    Parameters
    ----------
    structures : (n, n_atoms, 3), nm
        The minima that the coordinates hold.
    names : sequence of str
        Of the atoms.
    searched : bool
        Whether puckers of rings were looked for, and are among the structures.
    scans : Scans, optional
        Of bonds, which decided what turns.
    """
    x = structures[0]
    graph, known = system.graph, names_of_bonds(system.md_topology)
    bonds = [row[1:3].tolist() for row in zmatrix.rows[zmatrix.periodic]]
    turning = {frozenset(bond) for bond in bonds}
    named = [known.get(frozenset(bond)) or "-".join(names[i] for i in sorted(bond)) for bond in bonds]
    text = f"Turning ({len(named)}): {', '.join(named) or 'nothing'}."
    backbone = {bond for bond, name in known.items() if name.startswith(("phi ", "psi "))}
    if backbone and not backbone & turning:
        text += " No torsion of the backbone turns: other shapes of it are missed, and the weights do not show that."
    amides = [amide for amide in amide_bonds(graph) if frozenset(amide[1:3]) not in turning]
    trans = sum(is_trans(x, amide) for amide in amides)
    rings = {frozenset(r) for i, j in graph.bonds.tolist() if (r := graph.ring(i, j))}
    kept = {
        "trans amide": trans,
        "cis amide": len(amides) - trans,
        "other bond": len(_stiff_bonds(system, turning, scans)),
        "stereocentre": len(stereocentres(graph)),
        "side of a nitrogen": len(kept_nitrogens(graph, structures)),
        "pucker of a ring": sum(
            not searched and 3 < len(r) <= LARGEST_RING and not is_planar(sorted(r), x) for r in rings
        ),
        f"large ring near its shape{'s' if len(structures) > 1 else ''}": sum(len(r) > LARGEST_RING for r in rings),
    }
    found = [f"{n} x {what}" if n > 1 else what for what, n in kept.items() if n]
    return f"{text} Kept as given: {', '.join(found) or 'nothing'}."


def _energies(scan: BondScan) -> str:
    other = "no other side" if scan.other is None else f"other side {scan.other:+.1f} kT"
    return f"barrier {scan.barrier:.1f} kT, {other}"


def _how_decided(scans: Scans | None) -> list[str]:
    """Lines on how it was decided which bonds turn, by scans or by the structure, and on the time of a crossing."""
    if scans is None or (scans.batched and not scans.bonds):
        return []
    if not scans.batched:
        return [
            "Bonds were not scanned, since the energy cannot be evaluated for many structures at once: lengths and "
            "angles of the structure told which of them turn"
        ]
    time = crossing_time(scans.limit, scans.kT)
    unit, size = next(
        (u for u in (("ps", 1.0), ("ns", 1e3), ("us", 1e6), ("ms", 1e9)) if time < 1e3 * u[1]), ("s", 1e12)
    )
    return [
        f"Barriers and other sides by relaxed scans; amides apart, bonds turn below {scans.limit:g} kT "
        f"(CoordinateSettings.barrier), which dynamics crosses about once in {time / size:.2g} {unit}"
    ]


def _stiff_bonds(system: MolecularSystem, turning: set[frozenset[int]], scans: Scans | None) -> list[tuple[int, int]]:
    """Bonds with something at both ends about which no torsion turns, but for those in rings and of peptides; the ends
    of linear groups, as far as they were scanned."""
    graph, x = system.graph, system.minimum
    known = turning | {frozenset(amide[1:3]) for amide in amide_bonds(graph)}
    straight = {
        i
        for i, around in enumerate(graph.neighbours)
        if len(around) == 2 and bond_angle(x[around[0]], x[i], x[around[1]]) > LINEAR
    }
    bonds = [pair for pair in rotatable_bonds(graph) if not straight & set(pair)]
    bonds += [] if scans is None else scans.across(graph)
    return [pair for pair in bonds if frozenset(pair) not in known]
