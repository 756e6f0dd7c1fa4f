"""The folders of `systems/`: `python systems/make_systems.py [NAME ...]` writes input.pdb, system.toml and README.md.

Heavy atoms are placed by ideal internal coordinates, OpenMM's Modeller adds hydrogens, and the structure is minimised
on the Reference platform. Two runs give the same files. Alanine dipeptide is not made here.
"""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

ROOT = Path(__file__).resolve().parent
TEMPERATURE = 300.0  # K
PH = 7.0
TOLERANCE = 0.01  # kJ/mol/nm, root mean square
OMEGA, PHI, PHI_PROLINE, PSI = 180.0, -120.0, -70.0, 135.0  # degrees

AMBER99 = ("amber99sbildn.xml", "amber99_obc.xml")
AMBER14 = ("amber14/protein.ff14SB.xml", "implicit/obc2.xml")
RNA = ("amber14/RNA.OL3.xml", "implicit/obc2.xml")

# Partners that the first three atoms lack.
STANDINS = [np.array([-1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])]

# A row is an atom: name, the atom it is bonded to, one more for the angle, one more for the torsion, then length in nm,
# angle and torsion in degrees. The first three of a molecule have less. "-C" is in the residue before.
Row = tuple

_BETA = ("CB", "CA", "N", "C", 0.153, 110.1, -122.5)
_GAMMA = ("CG", "CB", "CA", "N", 0.152, 113.5, -60.0)
SIDE_CHAINS: dict[str, list[Row]] = {
    "ALA": [_BETA],
    "CYS": [_BETA, ("SG", "CB", "CA", "N", 0.181, 114.0, -60.0)],
    "PRO": [_BETA, ("CG", "CB", "CA", "N", 0.150, 104.0, 25.0), ("CD", "CG", "CB", "CA", 0.150, 105.0, -37.0)],
    "LEU": [
        *(_BETA, _GAMMA),
        ("CD1", "CG", "CB", "CA", 0.152, 110.5, 180.0),
        ("CD2", "CG", "CB", "CA", 0.152, 110.5, 60.0),
    ],
    "ILE": [
        *(_BETA, ("CG1", "CB", "CA", "N", 0.153, 110.5, -60.0)),
        ("CG2", "CB", "CA", "N", 0.152, 110.5, 177.0),
        ("CD1", "CG1", "CB", "CA", 0.151, 113.5, 180.0),
    ],
    "GLU": [
        *(_BETA, _GAMMA, ("CD", "CG", "CB", "CA", 0.152, 112.5, 180.0)),
        ("OE1", "CD", "CG", "CB", 0.125, 118.0, 0.0),
        ("OE2", "CD", "CG", "CB", 0.125, 118.0, 180.0),
    ],
}
CLOSURES = {"PRO": [("CD", "N")]}  # bonds that close a ring

BUTANE: list[Row] = [
    ("C1",),
    ("C2", "C1", 0.1529),
    ("C3", "C2", "C1", 0.1529, 112.7),
    ("C4", "C3", "C2", "C1", 0.1529, 112.7, 180.0),
    *((f"H1{k}", "C1", "C2", "C3", 0.109, 110.7, phi) for k, phi in enumerate((60.0, 180.0, -60.0), 1)),
    *((f"H2{k}", "C2", "C3", "C4", 0.109, 110.7, phi) for k, phi in enumerate((60.0, -60.0), 1)),
    *((f"H3{k}", "C3", "C2", "C1", 0.109, 110.7, phi) for k, phi in enumerate((60.0, -60.0), 1)),
    *((f"H4{k}", "C4", "C3", "C2", 0.109, 110.7, phi) for k, phi in enumerate((60.0, 180.0, -60.0), 1)),
]

ADENOSINE: list[Row] = [
    # beta-D-ribofuranose, C3'-endo
    ("C4'",),
    ("O4'", "C4'", 0.145),
    ("C1'", "O4'", "C4'", 0.141, 109.7),
    ("C2'", "C1'", "O4'", "C4'", 0.153, 107.6, 3.0),
    ("C3'", "C2'", "C1'", "O4'", 0.152, 101.5, -25.0),
    ("O2'", "C2'", "C1'", "O4'", 0.141, 108.0, 95.0),
    ("O3'", "C3'", "C2'", "C1'", 0.142, 113.0, 157.0),
    ("C5'", "C4'", "O4'", "C1'", 0.151, 109.5, 142.0),
    ("O5'", "C5'", "C4'", "O4'", 0.142, 110.5, -66.0),
    # adenine, anti
    ("N9", "C1'", "O4'", "C4'", 0.147, 108.5, -117.0),
    ("C4", "N9", "C1'", "O4'", 0.1374, 126.4, -160.0),
    ("C8", "N9", "C1'", "O4'", 0.1373, 127.8, 20.0),
    ("N7", "C8", "N9", "C4", 0.1311, 113.8, 0.0),
    ("C5", "C4", "N9", "C8", 0.1383, 105.8, 0.0),
    ("N3", "C4", "C5", "N9", 0.1344, 126.8, 180.0),
    ("C6", "C5", "C4", "N9", 0.1406, 117.0, 180.0),
    ("N6", "C6", "C5", "C4", 0.1335, 123.7, 180.0),
    ("N1", "C6", "C5", "C4", 0.1351, 117.7, 0.0),
    ("C2", "N1", "C6", "C5", 0.1339, 118.6, 0.0),
]
CLOSURES["A"] = [("C3'", "C4'"), ("N7", "C5"), ("C2", "N3")]


def place(a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, angle: float, torsion: float) -> np.ndarray:
    """The point at `length` nm from a, at `angle` with b and `torsion` about a-b with c, in degrees."""
    theta, phi = np.deg2rad(angle), np.deg2rad(torsion)
    x, y, z = _frame(a, b, c)
    return a + length * (np.cos(theta) * x + np.sin(theta) * (np.cos(phi) * y + np.sin(phi) * z))


def _frame(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Axes, as rows: from a to b, across on the side of c, and the way of a torsion of +90 degrees."""
    along = (b - a) / np.linalg.norm(b - a)
    turn = np.cross(c - b, along)
    turn /= np.linalg.norm(turn)
    return np.array([along, np.cross(along, turn), turn])


# --- molecules ---


def assemble(residues: list[tuple[str, list[Row]]]) -> app.Modeller:
    """One chain from the rows of its residues, in this order."""
    topology = app.Topology()
    chain = topology.addChain()
    x: dict[str, np.ndarray] = {}
    atoms: dict[str, app.topology.Atom] = {}
    positions = []
    for name, rows in residues:
        x = {f"-{atom}": at for atom, at in x.items() if atom[0] != "-"}
        atoms = {f"-{atom}": bonded for atom, bonded in atoms.items() if atom[0] != "-"}
        residue = topology.addResidue(name, chain)
        for atom, *how in rows:
            atoms[atom] = topology.addAtom(atom, app.element.get_by_symbol(atom[0]), residue)
            x[atom] = _position(x, how)
            positions.append(x[atom])
            if how:
                topology.addBond(atoms[atom], atoms[how[0]])
        for one, other in CLOSURES.get(name, []):
            topology.addBond(atoms[one], atoms[other])
    return app.Modeller(topology, np.array(positions) * unit.nanometer)


def _position(x: dict[str, np.ndarray], how: list) -> np.ndarray:
    partners = [x[part] for part in how if isinstance(part, str)]
    numbers = [part for part in how if not isinstance(part, str)]
    if not partners:
        return np.zeros(3)
    return place(*(partners + STANDINS)[:3], *numbers, *(90.0, 0.0)[len(numbers) - 1 :])


def peptide(*names: str) -> app.Modeller:
    """Heavy atoms of an extended peptide. Without NME the last residue is a carboxylate."""
    rows = [_residue(name, before) for name, before in zip(names, (None, *names), strict=False)]
    if names[-1] != "NME":
        rows[-1].append(("OXT", "C", "CA", "N", 0.125, 117.0, PSI))
    return assemble(list(zip(names, rows, strict=True)))


def _residue(name: str, before: str | None) -> list[Row]:
    if name == "ACE":
        return [("CH3",), ("C", "CH3", 0.1522), ("O", "C", "CH3", 0.123, 120.5)]
    capped = before == "ACE"
    alpha = "-CH3" if capped else "-CA"
    psi = ("-O", 0.1335, 116.6, 180.0) if capped else ("-N", 0.1335, 116.6, PSI)
    nitrogen = ("N", "-C", alpha, *psi)
    if name == "NME":
        return [nitrogen, ("C", "N", "-C", "-CA", 0.1449, 121.9, OMEGA)]
    oxygen = ("O", "C", "CA", "N", 0.123, 120.5, PSI + 180.0)
    if before is None:
        backbone: list[Row] = [("N",), ("CA", "N", 0.1449), ("C", "CA", "N", 0.1522, 111.0)]
    else:
        phi = PHI_PROLINE if name == "PRO" else PHI
        backbone = [nitrogen, ("CA", "N", "-C", alpha, 0.1449, 121.9, OMEGA)]
        backbone.append(("C", "CA", "N", "-C", 0.1522, 111.0, phi))
    return [*backbone, oxygen, *SIDE_CHAINS[name]]


def cystine() -> app.Modeller:
    """Two capped cysteines: the second is a copy of the first, turned to where the disulfide wants it."""
    half = peptide("ACE", "CYS", "NME")
    x = half.positions.value_in_unit(unit.nanometer)
    names = [atom.name for atom in half.topology.atoms()]
    sulfur, beta, alpha = (x[names.index(name)] for name in ("SG", "CB", "CA"))
    to_sulfur = place(sulfur, beta, alpha, 0.204, 104.0, -80.0)
    to_beta = place(to_sulfur, sulfur, beta, 0.181, 104.0, -87.0)
    to_alpha = place(to_beta, to_sulfur, sulfur, 0.153, 114.0, -80.0)
    turn = _frame(sulfur, beta, alpha).T @ _frame(to_sulfur, to_beta, to_alpha)
    half.add(half.topology, (to_sulfur + (x - sulfur) @ turn) * unit.nanometer)
    half.topology.addBond(*(atom for atom in half.topology.atoms() if atom.name == "SG"))
    return half


# --- folders ---


@dataclass(frozen=True)
class Recipe:
    """Heavy atoms, force-field files, and the README's title and first paragraph."""

    heavy_atoms: Callable[[], app.Modeller]
    forcefield: tuple[str, ...]
    title: str
    about: str


ALANINES = """\
{}, L-alanine. arXiv 2501.19077 (TA-BG) and 2510.18460 (CMT) sample it with the same force field, but with
constrained bonds to hydrogen (HBonds). Here every bond is flexible: compare only what those bonds hardly change."""

RECIPES = {
    "butane": Recipe(
        lambda: assemble([("BUT", BUTANE)]),
        ("butane.xml",),
        "Butane",
        """\
n-Butane with all its atoms, in vacuum: the molecule for a first try. Its slow torsion, C1-C2-C3-C4, is trans or one of
two gauche. OPLS-AA, with geometric means for unlike pairs; `butane.xml` has the parameters and their source.""",
    ),
    "alanine_tetrapeptide": Recipe(
        lambda: peptide("ACE", *["ALA"] * 3, "NME"),
        AMBER99,
        "Alanine tetrapeptide",
        ALANINES.format("ACE-AAA-NME"),
    ),
    "alanine_hexapeptide": Recipe(
        lambda: peptide("ACE", *["ALA"] * 5, "NME"),
        AMBER99,
        "Alanine hexapeptide",
        ALANINES.format("ACE-AAAAA-NME"),
    ),
    "elil": Recipe(
        lambda: peptide("GLU", "LEU", "ILE", "LEU"),
        AMBER99,
        "ELIL",
        """\
Glu-Leu-Ile-Leu, L, without caps: NH3+, COO- and a deprotonated Glu, net charge -1. arXiv 2510.18460 (CMT) gives it 219
dimensions: 3 x 75 - 6, the free peptide. With ACE and NME it would be 3 x 84 - 6 = 246, or 200 without the bonds to
hydrogen. The force field is taken to be that of its alanine peptides, there with HBonds constraints, here without.""",
    ),
    "proline_dipeptide": Recipe(
        lambda: peptide("ACE", "PRO", "NME"),
        AMBER14,
        "Proline dipeptide",
        """\
ACE-PRO-NME, L-proline: a ring with two puckers, and before it a peptide bond that is cis or trans (here trans).""",
    ),
    "cystine": Recipe(
        cystine,
        AMBER14,
        "Cystine",
        """\
Two ACE-CYS-NME, L-cysteine, joined by a disulfide to one molecule. The bond stands in CONECT. The torsion CB-SG-SG-CB
is near -90 (here) or +90 degrees.""",
    ),
    "adenosine": Recipe(
        lambda: assemble([("A", ADENOSINE)]),
        RNA,
        "Adenosine",
        """\
Adenosine, beta-D: a drug with fused aromatic rings, a furanose ring and four stereocentres, 1'R 2'R 3'S 4'R. Amber's
RNA.OL3 describes the lone nucleoside (its residue AN). The sugar puckers; the base is syn or anti (here anti).""",
    ),
}


def minimised(recipe: Recipe, folder: Path) -> app.Modeller:
    """The molecule with hydrogens, at the energy minimum below its ideal geometry."""
    forcefield = app.ForceField(*(str(folder / f) if (folder / f).is_file() else f for f in recipe.forcefield))
    reference = openmm.Platform.getPlatformByName("Reference")
    modeller = recipe.heavy_atoms()
    random.seed(0)  # Modeller's first guess of a hydrogen
    modeller.addHydrogens(forcefield, pH=PH, platform=reference)
    context = openmm.Context(forcefield.createSystem(modeller.topology), openmm.VerletIntegrator(0.001), reference)
    context.setPositions(modeller.positions)
    openmm.LocalEnergyMinimizer.minimize(context, TOLERANCE)
    return app.Modeller(modeller.topology, context.getState(positions=True).getPositions())


def files(name: str) -> dict[str, str]:
    """Name and text of the files that make the folder of a molecule."""
    recipe = RECIPES[name]
    found = minimised(recipe, ROOT / name)
    pdb = io.StringIO()
    pdb.write(f"REMARK   {recipe.title.lower()}, minimised in {' + '.join(recipe.forcefield)}\n")
    app.PDBFile.writeModel(found.topology, found.positions, pdb)
    app.PDBFile.writeFooter(found.topology, pdb)
    quoted = ", ".join(f'"{file}"' for file in recipe.forcefield)
    toml = f"""\
name = "{name}"
pdb = "input.pdb"
forcefield = [{quoted}]
temperature = {TEMPERATURE}      # K
constraints = "none"     # every bond flexible
"""
    n_atoms = found.topology.getNumAtoms()
    readme = f"""\
# {recipe.title}

{recipe.about}

- `input.pdb`: {n_atoms} atoms, {3 * n_atoms - 6} internal degrees of freedom, at a local energy minimum.
- `system.toml`: {" and ".join(f"`{file}`" for file in recipe.forcefield)}, {TEMPERATURE:g} K, no constraints.

Made by `python systems/make_systems.py {name}` from ideal internal coordinates. There is no reference MD.
"""
    return {"input.pdb": pdb.getvalue(), "system.toml": toml, "README.md": readme}


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        raise SystemExit(f"Expected names out of {', '.join(RECIPES)}; got {', '.join(unknown)}.")
    for name in names or RECIPES:
        texts = files(name)
        (ROOT / name).mkdir(exist_ok=True)
        for file, text in texts.items():
            (ROOT / name / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
