"""Properties of a structure that internal coordinates keep fixed, with the names of their atoms."""

from __future__ import annotations

import math
from typing import Any

from ..coordinates.internal import InternalCoordinates
from ..coordinates.isomers import amide_bonds, is_trans, kept_in_large_rings, kept_nitrogens, of_two_isomers
from ..coordinates.minima import MANY
from ..coordinates.zmatrix import LARGEST_RING, LINEAR
from ..ensemble.held import Held
from ..molecule.graph import is_planar
from ..molecule.names import atom_names
from ..molecule.stereo import stereocentres
from ..molecule.system import MolecularSystem
from ..molecule.torsions import rotatable_bonds
from ..tools.vectors import bond_angle

ISOMERS = ("cis", "trans")
NEAR = "near the shape given"


def held_by(coordinates: InternalCoordinates, system: MolecularSystem) -> tuple[Held, ...]:
    """Isomers, stereocentres, nitrogen sides, ring puckers and lengths that the coordinates of a system keep fixed."""
    graph, names = system.graph, atom_names(system.topology)
    structures = coordinates.structures()
    x = structures[0]
    turns = coordinates.zmatrix.rows[coordinates.zmatrix.periodic]
    turning = {frozenset(row[1:3].tolist()) for row in turns}
    amides = {frozenset(amide[1:3]): amide for amide in amide_bonds(graph)}
    found = []

    def bond(i: int, j: int) -> dict[str, Any]:
        scan = None if coordinates.scans is None else coordinates.scans.of(i, j)
        if scan is None:
            return {"atoms": (i, j)}
        return {"energy": math.nan if scan.other is None else scan.other, "barrier": scan.barrier, "atoms": (i, j)}

    for amide in of_two_isomers(list(amides.values()), graph):
        if frozenset(amide[1:3]) not in turning:
            trans = is_trans(x, amide)
            where = f"{names[amide[1]]}-{names[amide[2]]}"
            found.append(Held("peptide bond", where, ISOMERS[trans], ISOMERS[not trans], **bond(*amide[1:3])))
    for i, j, isomer in kept_in_large_rings(graph, structures):
        kind = "peptide bond" if {graph.elements[i], graph.elements[j]} == {"C", "N"} else "stiff bond"
        other = ISOMERS[isomer == "cis"]
        found.append(Held(kind, f"{names[i]}-{names[j]}", isomer, other, atoms=(i, j)))
    straight = {
        i
        for i, near in enumerate(graph.neighbours)
        if len(near) == 2 and bond_angle(x[near[0]], x[i], x[near[1]]) > LINEAR
    }
    bonds = [pair for pair in rotatable_bonds(graph) if not straight & set(pair)]
    for i, j in [*bonds, *([] if coordinates.scans is None else coordinates.scans.across(graph))]:
        if frozenset((i, j)) not in turning | amides.keys():
            found.append(Held("stiff bond", f"{names[i]}-{names[j]}", "as given", "turned", **bond(i, j)))
    chiralities, sides = ("the chirality given", "the opposite"), ("the side given", "the other side")
    found += [Held("stereocentre", names[i], *chiralities, atoms=(i,)) for i in stereocentres(graph)]
    kept = kept_nitrogens(graph, structures)
    found += [Held("pyramidal nitrogen", names[i], *sides, atoms=(i,)) for i in kept]
    rings = {frozenset(ring): ring for i, j in graph.bonds.tolist() if (ring := graph.ring(i, j))}
    for ring in sorted(rings.values(), key=lambda ring: (len(ring), sorted(ring))):
        where = "-".join(names[i] for i in ring)
        if len(ring) > LARGEST_RING:
            shapes = f"near the {min(len(structures), MANY)} shapes found" if len(structures) > 1 else NEAR
            found.append(Held("large ring", where, shapes, "other shapes", atoms=tuple(ring)))
        elif coordinates.minima is None and len(ring) > 3 and not is_planar(sorted(ring), x):
            found.append(Held("ring pucker", where, "about the pucker given", "other puckers", atoms=tuple(ring)))
    if coordinates.minima is not None and len(higher := coordinates.minima.higher):
        limit = f"minima up to {float(coordinates.minima.limit):g} kT"
        found.append(Held("ring pucker", "rings and nitrogens", limit, f"{len(higher)} higher", float(higher[0])))
    if fixed := len(coordinates.layout.fixed):
        found.append(Held("bond length", f"{fixed} of constraints", "fixed", "vibrating"))
    return tuple(found)
