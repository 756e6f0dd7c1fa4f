"""Peptides for tests, from ideal internal coordinates: `python tests/peptides.py [NAME ...]` writes them to `data/`.

OpenMM's Modeller adds hydrogens, and the structure is relaxed a little. Nothing here comes from the package.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from molecules import build
from openmm import LocalEnergyMinimizer, Platform, VerletIntegrator, app, unit
from openmm.app import element

DATA = Path(__file__).with_name("data")
PEPTIDES = {
    "akf": ("ALA", "LYS", "PHE"),
    "chm": ("ACE", "CYS", "HIS", "MET", "NME"),
    "ala9": ("ACE", *["ALA"] * 9, "NME"),
    "ala29": ("ACE", *["ALA"] * 29, "NME"),
    "chignolin": ("GLY", "TYR", "ASP", "PRO", "GLU", "THR", "GLY", "THR", "TRP", "GLY"),
}
PSI = 135.0  # phi: -120, in proline -70; omega: 180

# An atom: name, three atoms that place it, length in nm, angle and torsion in degrees. "-C" is in the residue before.
_BETA = ("CB", "CA", "N", "C", 0.153, 110.1, -122.5)
_GAMMA = ("CG", "CB", "CA", "N", 0.151, 113.5, -60.0)
_RING = (("CD1", "CG", "CB", "CA", 0.139, 120.0, 90.0), ("CE1", "CD1", "CG", "CB", 0.139, 120.0, 180.0))
_RING += (("CZ", "CE1", "CD1", "CG", 0.139, 120.0, 0.0), ("CE2", "CZ", "CE1", "CD1", 0.139, 120.0, 0.0))
_RING += (("CD2", "CE2", "CZ", "CE1", 0.139, 120.0, 0.0),)
SIDE_CHAINS: dict[str, tuple[tuple, ...]] = {
    "GLY": (),
    "ALA": (_BETA,),
    "CYS": (_BETA, ("SG", "CB", "CA", "N", 0.181, 114.0, -60.0)),
    "THR": (_BETA, ("OG1", "CB", "CA", "N", 0.143, 109.5, -60.0), ("CG2", "CB", "CA", "N", 0.152, 111.0, 180.0)),
    "PRO": (_BETA, ("CG", "CB", "CA", "N", 0.150, 104.0, 25.0), ("CD", "CG", "CB", "CA", 0.150, 105.0, -37.0)),
    "ASP": (
        *(_BETA, _GAMMA),
        ("OD1", "CG", "CB", "CA", 0.125, 118.0, -20.0),
        ("OD2", "CG", "CB", "CA", 0.125, 118.0, 160.0),
    ),
    "GLU": (
        *(_BETA, _GAMMA, ("CD", "CG", "CB", "CA", 0.152, 112.0, 180.0)),
        ("OE1", "CD", "CG", "CB", 0.125, 118.0, 0.0),
        ("OE2", "CD", "CG", "CB", 0.125, 118.0, 180.0),
    ),
    "LYS": (
        *(_BETA, _GAMMA, ("CD", "CG", "CB", "CA", 0.152, 111.0, 180.0)),
        ("CE", "CD", "CG", "CB", 0.152, 111.0, 180.0),
        ("NZ", "CE", "CD", "CG", 0.149, 112.0, 180.0),
    ),
    "MET": (
        *(_BETA, _GAMMA, ("SD", "CG", "CB", "CA", 0.180, 112.7, 180.0)),
        ("CE", "SD", "CG", "CB", 0.179, 100.9, 70.0),
    ),
    "HIS": (
        *(_BETA, _GAMMA, ("ND1", "CG", "CB", "CA", 0.138, 122.7, -90.0)),
        ("CE1", "ND1", "CG", "CB", 0.132, 109.0, 180.0),
        ("NE2", "CE1", "ND1", "CG", 0.131, 109.0, 0.0),
        ("CD2", "NE2", "CE1", "ND1", 0.137, 107.0, 0.0),
    ),
    "PHE": (_BETA, _GAMMA, *_RING),
    "TYR": (_BETA, _GAMMA, *_RING, ("OH", "CZ", "CE1", "CD1", 0.138, 120.0, 180.0)),
    "TRP": (
        *(_BETA, _GAMMA, ("CD1", "CG", "CB", "CA", 0.137, 127.0, -90.0)),
        ("NE1", "CD1", "CG", "CB", 0.137, 110.0, 180.0),
        ("CE2", "NE1", "CD1", "CG", 0.137, 109.0, 0.0),
        ("CD2", "CE2", "NE1", "CD1", 0.141, 107.4, 0.0),
        ("CZ2", "CE2", "NE1", "CD1", 0.139, 130.0, 180.0),
        ("CH2", "CZ2", "CE2", "NE1", 0.137, 117.5, 180.0),
        ("CZ3", "CH2", "CZ2", "CE2", 0.140, 121.5, 0.0),
        ("CE3", "CZ3", "CH2", "CZ2", 0.138, 121.0, 0.0),
    ),
}


def _atoms(name: str, before: str | None, last: bool) -> list[tuple]:
    """Rows of a residue."""
    if name == "ACE":
        return [("CH3",), ("C", "CH3", 0.152), ("O", "C", "CH3", 0.123, 120.5)]
    carbon = "-CH3" if before == "ACE" else "-CA"
    nitrogen = ("N", "-C", carbon, "-O" if before == "ACE" else "-N", 0.1335, 116.5, 180.0 if before == "ACE" else PSI)
    if name == "NME":
        return [nitrogen, ("C", "N", "-C", "-CA", 0.1449, 121.9, 180.0)]
    phi = -70.0 if name == "PRO" else -120.0
    backbone: list[tuple] = [("N",), ("CA", "N", 0.1449), ("C", "CA", "N", 0.1522, 111.0)]
    if before is not None:
        backbone = [nitrogen, ("CA", "N", "-C", carbon, 0.1449, 121.9, 180.0)]
        backbone.append(("C", "CA", "N", "-C", 0.1522, 111.0, phi))
    backbone.append(("O", "C", "CA", "N", 0.123, 120.5, PSI + 180.0))
    end = [("OXT", "C", "CA", "N", 0.125, 117.0, PSI)] if last else []
    return [*backbone, *SIDE_CHAINS[name], *end]


def peptide(residues: tuple[str, ...]) -> app.Modeller:
    """Extended, hydrogens included."""
    topology = app.Topology()
    chain = topology.addChain()
    rows: list[tuple] = []
    index: dict[str, int] = {}
    for k, name in enumerate(residues):
        before = residues[k - 1] if k else None
        index = {f"-{atom}": i for atom, i in index.items() if atom[0] != "-"}
        residue = topology.addResidue(name, chain)
        for atom, *place in _atoms(name, before, k == len(residues) - 1):
            symbol = atom[0]
            topology.addAtom(atom, element.get_by_symbol(symbol), residue)
            index[atom] = len(rows)
            rows.append((symbol, *(index[p] if isinstance(p, str) else p for p in place)))
    topology.createStandardBonds()
    random.seed(0)  # Modeller's first guess of a hydrogen
    field = app.ForceField("amber14-all.xml", "implicit/obc2.xml")
    reference = Platform.getPlatformByName("Reference")
    modeller = app.Modeller(topology, build(*rows).positions * unit.nanometer)
    modeller.addHydrogens(field, pH=7.0, platform=reference)
    context = app.Simulation(
        modeller.topology, field.createSystem(modeller.topology), VerletIntegrator(0.001), reference
    ).context
    context.setPositions(modeller.positions)
    LocalEnergyMinimizer.minimize(context, 100.0, 50)
    return app.Modeller(modeller.topology, context.getState(positions=True).getPositions())


if __name__ == "__main__":
    for name in sys.argv[1:] or PEPTIDES:
        found = peptide(PEPTIDES[name])
        with open(DATA / f"peptide_{name}.pdb", "w") as file:
            app.PDBFile.writeFile(found.topology, found.positions, file)
