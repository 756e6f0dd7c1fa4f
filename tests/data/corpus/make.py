"""Makes the structure files beside it, and `corpus.json`: what is right about each, by other programs than the reader.

    python tests/data/corpus/make.py

needs AmberTools (tleap, antechamber, parmchk2, sander, ambpdb) and GROMACS in double precision (gmx_d) on the PATH, and
RDKit, Open Babel, PyMOL, ParmEd and gemmi in Python. Tests read the files only.

Formula and charge come from a SMILES string, bonds from RDKit by distances, checked against its graph. Energies
(kJ/mol) come from sander and GROMACS; of structure files from the prmtop that tleap made of the same molecule, with the
file's coordinates put in its order by RDKit. sander's Coulomb constant (18.2223^2) is replaced by OpenMM's.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import openmm
import parmed
import pymol2
from openbabel import pybel
from openmm import app, unit
from rdkit import Chem
from rdkit.Chem import AllChem, rdDetermineBonds, rdMolDescriptors

HERE = Path(__file__).parent
WORK = Path(tempfile.mkdtemp())
ENTRIES: list[dict[str, Any]] = []
KCAL = 4.184
ONE_4PI_EPS0 = 138.93545764438198  # kJ nm / mol / e^2, OpenMM's
AMBER_COULOMB = 18.2223**2 * KCAL / 10
VERSIONS: dict[str, str] = {}


def run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, cwd=WORK, input=text, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout + done.stderr


# --- what is right ---


def skeleton(elements: Sequence[str], bonds: Sequence[tuple[int, int]]) -> Chem.Mol:
    """A graph of elements: single bonds, no charges."""
    mol = Chem.RWMol()
    for element in elements:
        atom = Chem.Atom(element)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for i, j in bonds:
        mol.AddBond(int(i), int(j), Chem.BondType.SINGLE)
    return mol.GetMol()


def graph_of(smiles: str) -> tuple[Chem.Mol, Chem.Mol]:
    """The molecule with its hydrogens, and its skeleton."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    elements = [a.GetSymbol() for a in mol.GetAtoms()]
    return mol, skeleton(elements, [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()])


def bonds_of(elements: Sequence[str], x: np.ndarray, smiles: str) -> list[tuple[int, int]]:
    """Bonds by distances in x (atoms, 3), Angstrom; the graph must be the molecule's."""
    mol = Chem.RWMol(skeleton(elements, []))
    conformer = Chem.Conformer(len(elements))
    for i, place in enumerate(x):
        conformer.SetAtomPosition(i, [float(v) for v in place])
    mol.AddConformer(conformer)
    rdDetermineBonds.DetermineConnectivity(mol)
    bonds = sorted(
        (min(b.GetBeginAtomIdx(), b.GetEndAtomIdx()), max(b.GetBeginAtomIdx(), b.GetEndAtomIdx()))
        for b in mol.GetBonds()
    )
    expected = graph_of(smiles)[1]
    if len(bonds) != expected.GetNumBonds() or not skeleton(elements, bonds).HasSubstructMatch(expected):
        raise RuntimeError(f"{smiles}: {len(bonds)} bonds by distances, {expected.GetNumBonds()} in the graph")
    return bonds


def energy(system: openmm.System, x: np.ndarray) -> float:
    """kJ/mol at x (atoms, 3), Angstrom."""
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(np.asarray(x) / 10)
    return context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


def add(door: str, files: Sequence[str], made: str, refused: str | None = None, **right: Any) -> None:
    """An entry: the door that reads the files, what is right, or words of the refusal."""
    if smiles := right.pop("smiles", None):
        elements, x = right.pop("elements"), right.pop("x")
        mol = graph_of(smiles)[0]
        right["formula"] = re.sub(r"[+-]\d*$", "", rdMolDescriptors.CalcMolFormula(mol))
        right["charge"] = Chem.GetFormalCharge(mol)
        right["bonds"] = " ".join(f"{i}-{j}" for i, j in bonds_of(elements, x, smiles))
    if refused is not None:
        right["refused"] = refused
    if "energy" in right:
        right["energy"] = round(right["energy"], 4)
    ENTRIES.append({"door": door, "files": list(files), "made": made, **right})
    print(*files, {k: v for k, v in right.items() if k != "bonds"}, flush=True)


# --- Amber ---

PEPTIDES = {  # tleap's sequence, SMILES
    "ala": ("ACE ALA NME", "CC(=O)N[C@@H](C)C(=O)NC"),
    "gly_ala": ("NGLY CALA", "[NH3+]CC(=O)N[C@@H](C)C(=O)[O-]"),
    "hid": ("ACE HID NME", "CC(=O)N[C@@H](Cc1cnc[nH]1)C(=O)NC"),
    "hie": ("ACE HIE NME", "CC(=O)N[C@@H](Cc1c[nH]cn1)C(=O)NC"),
    "hip": ("ACE HIP NME", "CC(=O)N[C@@H](Cc1c[nH]c[nH+]1)C(=O)NC"),
    "ash": ("ACE ASH NME", "CC(=O)N[C@@H](CC(=O)O)C(=O)NC"),
    "ile": ("ACE ILE NME", "CC(=O)N[C@@H]([C@@H](C)CC)C(=O)NC"),
    "pro": ("ACE PRO NME", "CC(=O)N1CCC[C@H]1C(=O)NC"),
    "lyn": ("ACE LYN NME", "CC(=O)N[C@@H](CCCCN)C(=O)NC"),
    "cyx": ("ACE CYX GLY GLY CYX NME", "CC(=O)N[C@@H]1CSSC[C@@H](C(=O)NC)NC(=O)CNC(=O)CNC1=O"),
    "met": ("ACE MET NME", "CC(=O)N[C@@H](CCSC)C(=O)NC"),
}
OTHERS = {
    "sep": ("phosaa14SB", "ACE SEP NME", "CC(=O)N[C@@H](COP(=O)([O-])[O-])C(=O)NC"),
    "up": (
        *("RNA.OL3", "U5 A3"),
        "O=c1ccn(C2OC(CO)C(OP(=O)([O-])OCC3OC(n4cnc5c(N)ncnc54)C(O)C3O)C2O)c(=O)[nH]1",
    ),
    "glycan": (
        "GLYCAM_06j-1",
        "ROH 4GB 0GA",
        "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1OC1O[C@H](CO)[C@@H](O)[C@H](O)[C@H]1O",
    ),
}
SMALL = {  # residue name: SMILES
    "EOH": "CCO",
    "ACT": "CC(=O)[O-]",
    "MAM": "C[NH3+]",
    "DMS": "CS(C)=O",
    "CLB": "Clc1ccccc1",
    "NBZ": "CC[N+](=O)[O-]",
    "BRE": "BrCCF",
    "NIT": "CC#N",
}


def tleap(name: str, lines: str, radii: str = "mbondi3") -> None:
    text = f"set default PBRadii {radii}\n{lines}\nsaveamberparm m {name}.prmtop {name}.inpcrd\n"
    text += f"savepdb m {name}.pdb\nquit\n"
    (WORK / f"{name}.in").write_text(text)
    run("tleap", "-f", f"{name}.in")


def sander(name: str, igb: int = 6, prmtop: str | None = None, **more: Any) -> float:
    """kJ/mol, with OpenMM's Coulomb constant."""
    options = "".join(f",{k}={v}" for k, v in more.items())
    (WORK / "sp.in").write_text(
        f"single\n&cntrl imin=0,nstlim=0,ntx=1,ntb=0,cut=9999.,rgbmax=9999.,ntpr=1,igb={igb}{options} /\n"
    )
    run("sander", "-O", *("-i", "sp.in", "-p", prmtop or f"{name}.prmtop", "-c", f"{name}.inpcrd", "-o", "sp.out"))
    text = (WORK / "sp.out").read_text().split("NSTEP =", 1)[1].split("-----", 1)[0]
    found = {k.strip(): float(v) for k, v in re.findall(r"([A-Z0-9][A-Z0-9 -]*?) *=\s+(-?[\d.]+)", text)}
    electric = sum(found.get(key, 0.0) for key in ("1-4 EEL", "EELEC", "EGB"))
    rest = sum(
        found.get(key, 0.0) for key in ("BOND", "ANGLE", "DIHED", "1-4 NB", "VDWAALS", "CMAP", "ESURF", "UB", "IMP")
    )
    return KCAL * (rest + electric * ONE_4PI_EPS0 / AMBER_COULOMB)


def noisy(name: str, seed: int = 0) -> None:
    """Coordinates a little away from a minimum, so that all terms count."""
    (WORK / "min.in").write_text("relaxed\n&cntrl imin=1,maxcyc=1000,ncyc=300,ntb=0,cut=999.,igb=6,ntpr=1000 /\n")
    run("sander", *f"-O -i min.in -p {name}.prmtop -c {name}.inpcrd -o min.out -r {name}.rst7".split())
    shutil.move(WORK / f"{name}.rst7", WORK / f"{name}.inpcrd")
    read = parmed.load_file(str(WORK / f"{name}.prmtop"), str(WORK / f"{name}.inpcrd"))
    read.coordinates = (read.coordinates + np.random.default_rng(seed).normal(0, 0.05, read.coordinates.shape)).round(3)
    read.save(str(WORK / f"{name}.rst7"), overwrite=True)
    shutil.move(WORK / f"{name}.rst7", WORK / f"{name}.inpcrd")
    read.save(str(WORK / f"{name}_noisy.pdb"), overwrite=True)


@cache
def read_amber(name: str) -> Any:
    return parmed.load_file(str(WORK / f"{name}.prmtop"), str(WORK / f"{name}.inpcrd"))


def structure(name: str) -> dict[str, Any]:
    read = read_amber(name)
    return {"elements": [a.element_name for a in read.atoms], "x": read.coordinates}


def keep(*names: str) -> list[str]:
    for name in names:
        if name.endswith(".prmtop"):  # the same file, whenever it is made
            (HERE / name).write_text(re.sub(r"DATE = .{18}", "DATE = 01/01/26  00:00:00", (WORK / name).read_text()))
        else:
            shutil.copy(WORK / name, HERE / name)
    return list(names)


def amber() -> None:
    made = f"tleap and sander, AmberTools {VERSIONS['AmberTools']}"
    for name, (sequence, _) in PEPTIDES.items():
        bridge = "\nbond m.2.SG m.5.SG" if name == "cyx" else ""
        tleap(name, f"source leaprc.protein.ff14SB\nm = sequence {{ {sequence} }}{bridge}")
        noisy(name)
    ala = PEPTIDES["ala"][1]
    files = keep("ala.prmtop", "ala.inpcrd")
    add("amber", files, made, smiles=ala, **structure("ala"), energy=sander("ala"))
    for radii in ("bondi", "mbondi", "mbondi2"):
        name = f"ala_{radii}"
        tleap(name, f"source leaprc.protein.ff14SB\nm = sequence {{ {PEPTIDES['ala'][0]} }}", radii)
        shutil.copy(WORK / "ala.inpcrd", WORK / f"{name}.inpcrd")
        keep(f"{name}.prmtop")
    models = {
        1: ("HCT", "_mbondi"),
        2: ("OBC1", "_mbondi2"),
        5: ("OBC2", "_mbondi2"),
        7: ("GBn", "_bondi"),
        8: ("GBn2", ""),
    }
    for igb, (solvent, radii) in models.items():
        options = {"implicitSolvent": solvent, "sasaMethod": None}
        right = {"smiles": ala, **structure("ala"), "energy": sander(f"ala{radii}", igb)}
        add("amber", [f"ala{radii}.prmtop", "ala.inpcrd"], f"{made}, igb={igb}", options=options, **right)
    options = {"implicitSolvent": "OBC2", "sasaMethod": None, "implicitSolventSaltConc": 0.15}
    # OpenMM's kappa has 2.12 mM^-1/2 nm^-1 at 300 K and takes the factor 0.73 of Srinivasan et al. 1999 from Amber.
    right = {"smiles": ala, **structure("ala"), "energy": sander("ala_mbondi2", 5, saltcon=0.15), "tolerance": 0.05}
    add("amber", ["ala_mbondi2.prmtop", "ala.inpcrd"], f"{made}, igb=5, saltcon=0.15", options=options, **right)
    options = {"implicitSolvent": "OBC2", "sasaMethod": "LCPO"}
    right = {"smiles": ala, **structure("ala"), "energy": sander("ala_mbondi2", 5, gbsa=1)}
    add("amber", ["ala_mbondi2.prmtop", "ala.inpcrd"], f"{made}, igb=5, gbsa=1", options=options, **right)
    # ff19SB: its CMAP.
    tleap("ala_ff19sb", f"source leaprc.protein.ff19SB\nm = sequence {{ {PEPTIDES['ala'][0]} }}")
    noisy("ala_ff19sb")
    files = keep("ala_ff19sb.prmtop", "ala_ff19sb.inpcrd")
    add("amber", files, made, smiles=ala, **structure("ala_ff19sb"), energy=sander("ala_ff19sb"))
    for name in ("hip", "gly_ala"):
        files = keep(f"{name}.prmtop", f"{name}.inpcrd")
        add("amber", files, made, smiles=PEPTIDES[name][1], **structure(name), energy=sander(name))
    for name, (field, sequence, smiles) in OTHERS.items():
        if name == "sep":
            field = "protein.ff14SB\nsource leaprc.phosaa14SB"
        tleap(name, f"source leaprc.{field}\nm = sequence {{ {sequence} }}")
        noisy(name)
        files = keep(f"{name}.prmtop", f"{name}.inpcrd")
        add("amber", files, made, smiles=smiles, **structure(name), energy=sander(name))
        if name == "sep":
            right = {"smiles": smiles, **structure(name)}
            options = {"implicitSolvent": "OBC2", "sasaMethod": None}
            add("amber", files, f"{made}, igb=5", options=options, **right, energy=sander(name, 5))
            options = {"implicitSolvent": "GBn2", "sasaMethod": None}  # another energy than sander's, and a warning
            add(
                "amber",
                files,
                f"{made}: GBn2",
                options=options,
                warns="GBn2 has no parameters of its own for P",
                **right,
            )
    # Masses repartitioned; a restart file in NetCDF; one with velocities and a box.
    read = parmed.load_file(str(WORK / "gly_ala.prmtop"), str(WORK / "gly_ala.inpcrd"))
    parmed.tools.HMassRepartition(read).execute()
    read.save(str(HERE / "gly_ala_hmr.prmtop"), overwrite=True)
    parmed_made = f"ParmEd {parmed.__version__} of a prmtop of tleap"
    right = {"smiles": PEPTIDES["gly_ala"][1], **structure("gly_ala"), "energy": sander("gly_ala")}
    add("amber", ["gly_ala_hmr.prmtop", "gly_ala.inpcrd"], parmed_made, **right)
    read.velocities = np.ones((len(read.atoms), 3))
    read.save(str(HERE / "gly_ala_velocities.rst7"), overwrite=True)
    add("amber", ["gly_ala.prmtop", "gly_ala_velocities.rst7"], parmed_made, **right)
    ncrst = parmed.amber.NetCDFRestart.open_new(str(HERE / "gly_ala.ncrst"), len(read.atoms), False, False, False)
    ncrst.coordinates = read.coordinates
    ncrst.close()
    add("amber", ["gly_ala.prmtop", "gly_ala.ncrst"], parmed_made, **right)
    # A pair of types with Lennard-Jones parameters of its own; a box; what is refused.
    parmed_made += ", energy of sander"
    changed = parmed.load_file(str(WORK / "gly_ala.prmtop"), str(WORK / "gly_ala.inpcrd"))
    parmed.tools.changeLJPair(changed, ":1@N", "@OXT", 3.3, 0.3).execute()
    changed.save(str(WORK / "gly_ala_ljpair.prmtop"), overwrite=True)
    found = sander("gly_ala", prmtop="gly_ala_ljpair.prmtop")
    add("amber", [*keep("gly_ala_ljpair.prmtop"), "gly_ala.inpcrd"], parmed_made, **right | {"energy": found})
    changed = parmed.load_file(str(WORK / "gly_ala.prmtop"), str(WORK / "gly_ala.inpcrd"))
    changed.box = [40.0, 40.0, 40.0, 90.0, 90.0, 90.0]
    changed.save(str(WORK / "gly_ala_box.prmtop"), overwrite=True)
    add("amber", [*keep("gly_ala_box.prmtop"), "gly_ala.inpcrd"], parmed_made, **right)
    tleap("lone_pairs", "source oldff/leaprc.ff02polEP.r1\nm = sequence { NGLY CGLY }")
    add("amber", keep("lone_pairs.prmtop", "lone_pairs.inpcrd"), f"tleap (ff02polEP), {made}", "massless")
    # GAFF2.
    for name, smiles in SMALL.items():
        mol = graph_of(smiles)[0]
        AllChem.EmbedMolecule(mol, randomSeed=1)
        mol.SetProp("_Name", name)
        Chem.MolToMolFile(mol, str(WORK / f"{name}.mol"))
        charge = str(Chem.GetFormalCharge(mol))
        options = f"-c gas -nc {charge} -at gaff2 -rn {name} -s 0 -pf y -dr n".split()
        run("antechamber", *f"-i {name}.mol -fi mdl -o {name}.mol2 -fo mol2".split(), *options)
        run("parmchk2", *f"-i {name}.mol2 -f mol2 -o {name}.frcmod -s gaff2".split())
        tleap(name, f"source leaprc.gaff2\nloadamberparams {name}.frcmod\nm = loadmol2 {name}.mol2")
        noisy(name)
        files = keep(f"{name}.prmtop", f"{name}.inpcrd")
        add(
            "amber",
            files,
            f"antechamber (GAFF2, Gasteiger charges), {made}",
            smiles=smiles,
            **structure(name),
            energy=sander(name),
        )


# --- GROMACS ---

MDP = """integrator = md
nsteps = 0
nstcalcenergy = 1
nstenergy = 1
cutoff-scheme = Verlet
verlet-buffer-tolerance = -1
rlist = 5
coulombtype = Cut-off
rcoulomb = 5
rvdw = 5
vdw-modifier = None
continuation = yes
"""
TYPED = {"atomtypes": 1, "bondtypes": 2, "constrainttypes": 2, "angletypes": 3, "dihedraltypes": 4, "cmaptypes": 5}
TYPED |= {"pairtypes": 2, "nonbond_params": 2}


def grompp(top: str, gro: str, *more: str) -> None:
    (WORK / "sp.mdp").write_text(MDP)
    run(*f"gmx_d -quiet grompp -f sp.mdp -p {top} -c {gro} -r {gro} -o sp.tpr -maxwarn 9".split(), *more)


def gromacs_energy(top: str, gro: str) -> float:
    """kJ/mol. A reaction field with a dielectric constant of 1 shifts a neutral molecule's energy by nothing."""
    grompp(top, gro)
    run(*"gmx_d -quiet mdrun -s sp.tpr -deffnm sp -nt 1 -reprod".split())
    run(*"gmx_d -quiet energy -f sp.edr -dp -o sp.xvg".split(), text="Potential\n\n")
    return float((WORK / "sp.xvg").read_text().split("\n")[-2].split()[1])


def trimmed(text: str) -> str:
    """A preprocessed topology without the parameters that its molecule does not use."""
    lines = [line.split(";")[0].rstrip() for line in text.replace("\\\n", " ").splitlines()]
    atoms = re.search(r"\[ atoms \]\n(.*?)\[", "\n".join(lines), re.S).group(1)  # type: ignore[union-attr]
    types = {line.split()[1] for line in atoms.splitlines() if line.strip() and line[0] != "#"}
    section, kept, bonded = "", [], set(types)
    for line in lines:
        fields = line.split()
        if line.startswith("["):
            section = fields[1]
        elif section == "atomtypes" and fields and fields[0] in types and not fields[1][0].isdigit():
            bonded.add(fields[1])
    for line in lines:
        fields = line.split()
        if line.startswith("["):
            section = fields[1]
        elif not fields or line.startswith("#"):
            continue
        elif section in TYPED:
            known = types if section in ("atomtypes", "pairtypes", "nonbond_params") else bonded | {"X"}
            if not set(fields[: TYPED[section]]) <= known:
                continue
            if section == "cmaptypes":  # GROMACS reads no longer lines
                line = " ".join(fields[:8]) + "".join(
                    f"\\\n{' '.join(fields[i : i + 10])}" for i in range(8, len(fields), 10)
                )
        kept.append(line)
    return "\n".join(kept) + "\n"


def write_gro(name: str, read: Any, x: np.ndarray) -> None:
    """x (atoms, 3), Angstrom, in the middle of a box."""
    lines = [name, str(len(x))]
    for i, (atom, place) in enumerate(zip(read.atoms, (x - x.mean(0)) / 10 + 6.0, strict=True)):
        lines.append(
            f"{atom.residue.idx + 1:5d}{atom.residue.name:<5s}{atom.name:>5s}{i + 1:5d}"
            + "".join(f"{v:8.3f}" for v in place)
        )
    (WORK / f"{name}.gro").write_text("\n".join([*lines, "  12.00000  12.00000  12.00000"]) + "\n")


def pdb2gmx(name: str, pdb: str, field: str, *more: str) -> Any:
    """A topology with all that it includes, trimmed, and coordinates with noise; read by ParmEd."""
    run(*f"gmx_d -quiet pdb2gmx -f {pdb} -ff {field} -water none -ignh -o {name}.gro -p {name}_all.top".split(), *more)
    run(*f"gmx_d -quiet editconf -f {name}.gro -o {name}.gro -c -box 12".split())
    grompp(f"{name}_all.top", f"{name}.gro", "-pp", f"{name}_pp.top")
    (WORK / f"{name}.top").write_text(trimmed((WORK / f"{name}_pp.top").read_text()))
    read = parmed.load_file(str(WORK / f"{name}.gro"))
    write_gro(name, read, read.coordinates + np.random.default_rng(1).normal(0, 0.05, read.coordinates.shape))
    return parmed.load_file(str(WORK / f"{name}.gro"))


def gromacs() -> None:
    made = f"pdb2gmx, grompp -pp (parameters of other molecules left out) and mdrun, GROMACS {VERSIONS['GROMACS']}"
    tleap("gag", "source leaprc.protein.ff14SB\nm = sequence { NGLY ALA CGLY }")
    gly_ala, gag = PEPTIDES["gly_ala"][1], "[NH3+]CC(=O)N[C@@H](C)C(=O)NCC(=O)[O-]"
    for name, pdb, field, smiles in (
        ("gmx_amber", "gly_ala.pdb", "amber99sb-ildn", gly_ala),
        ("gmx_opls", "gly_ala.pdb", "oplsaa", gly_ala),
        ("gmx_charmm", "gag.pdb", "charmm27", gag),
    ):
        read = pdb2gmx(name, pdb, field)
        right = {"smiles": smiles, "elements": [a.element_name for a in read.atoms], "x": read.coordinates}
        add(
            "gromacs",
            keep(f"{name}.top", f"{name}.gro"),
            f"{made}, {field}",
            **right,
            energy=gromacs_energy(f"{name}.top", f"{name}.gro"),
        )

    # United atoms, springs in the square of the length, C6 and C12.
    pdb2gmx("gmx_gromos", "gly_ala.pdb", "gromos54a7")
    lines = re.search(r"\[ bonds \]\n(.*?)\[", (WORK / "gmx_gromos.top").read_text(), re.S).group(1)  # type: ignore[union-attr]
    pairs = sorted(tuple(sorted(int(k) - 1 for k in line.split()[:2])) for line in lines.splitlines())
    right = {"formula": "C5H4N2O3", "charge": 0, "bonds": " ".join(f"{i}-{j}" for i, j in pairs)}
    files = keep("gmx_gromos.top", "gmx_gromos.gro")
    add("gromacs", files, f"{made}, gromos54a7", **right, energy=gromacs_energy(*files))
    pdb2gmx("gmx_vsites", "gly_ala.pdb", "amber99sb-ildn", "-vsite", "hydrogens")
    add("gromacs", keep("gmx_vsites.top", "gmx_vsites.gro"), f"{made}, -vsite hydrogens", r"\[ constraints \]")
    variants()


def ethanol() -> tuple[str, Any]:
    """Ethanol of GAFF2 as a topology of ParmEd's, and the structure."""
    read = read_amber("EOH")
    write_gro("eoh", read, read.coordinates)
    read.save(str(WORK / "eoh.top"), overwrite=True)
    text = re.sub(r"(?m)^;.*\n|^\n", "", (WORK / "eoh.top").read_text())
    return text, read


def variants() -> None:
    """What topologies may hold, one thing at a time, in ethanol: atoms 1 to 9 are C C O H H H H H H."""
    text, read = ethanol()
    (WORK / "eoh.gro").write_text((WORK / "eoh.gro").read_text())
    coordinates = parmed.load_file(str(WORK / "eoh.gro")).coordinates
    right = {"smiles": SMALL["EOH"], "elements": [a.element_name for a in read.atoms], "x": coordinates}
    keep("eoh.gro")
    section = lambda name: re.search(rf"(?s)\[ {name} \]\n.*?(?=\[|\Z)", text).group()  # type: ignore[union-attr]  # noqa: E731
    more = lambda extra: text.replace("[ system ]", f"{extra}\n\n[ system ]")  # noqa: E731
    first = lambda extra: text.replace("[ moleculetype ]", f"{extra}\n[ moleculetype ]", 1)  # noqa: E731
    bond = section("bonds").splitlines()[1].split()
    whole = {
        "eoh": text,
        "eoh_no_pairs": text.replace(section("pairs"), ""),
        "eoh_exclusions": more("[ exclusions ]\n9 4 5 6"),
        "eoh_fourier": more("[ dihedrals ]\n1 2 3 9 5 1.5 -2.5 3.5 0.5"),
        "eoh_rb": more("[ dihedrals ]\n1 2 3 9 3 1.5 -2.5 3.5 0.5 1.0 2.0"),
        "eoh_harmonic_dihedral": more("[ dihedrals ]\n1 2 3 9 2 170.0 20.0"),
        "eoh_many_periodic": more("[ dihedrals ]\n1 2 3 9 9 0.0 2.0 1\n1 2 3 9 9 180.0 1.0 2\n1 2 3 9 4 30.0 3.0 3"),
        "eoh_urey_bradley": more("[ angles ]\n1 2 3 5 109.5 200.0 0.24 5000.0"),
        "eoh_gromos": more("[ bonds ]\n1 2 2 0.15 3e6\n[ angles ]\n1 2 3 2 109.5 300.0"),
        "eoh_posres_off": more("#ifdef POSRES\n[ position_restraints ]\n1 1 1000 1000 1000\n#endif"),
        "eoh_pair_1_5_excluded": more("[ pairs ]\n4 9 1\n[ exclusions ]\n9 4"),
        "eoh_nbfix": first("[ nonbond_params ]\nhc ho 1 0.25 0.9\nc3 ho 1 0.25 0.9"),
        "eoh_nbfix_rule_3": re.sub(r"(?m)^1 +2 +yes", "1 3 yes", first("[ nonbond_params ]\nhc ho 1 0.25 0.9")),
        "eoh_pairtypes": first("[ pairtypes ]\nhc oh 1 0.25 0.9"),
        "eoh_pairs_of_its_own": text.replace(section("pairs"), "[ pairs ]\n1 9 1 0.3 0.4\n4 7 1 0.2 0.1\n"),
    }
    for name, content in whole.items():
        (WORK / f"{name}.top").write_text(content)
        add(
            "gromacs",
            [*keep(f"{name}.top"), "eoh.gro"],
            f"ParmEd {parmed.__version__} and GROMACS",
            **right,
            energy=gromacs_energy(f"{name}.top", "eoh.gro"),
        )
    refused = {
        "eoh_morse": (more(f"[ bonds ]\n1 3 3 {bond[3]} 300.0 20.0"), "Unsupported function type"),
        "eoh_dihedral_restraint": (more("[ dihedral_restraints ]\n1 2 3 9 1 170.0 5.0 30.0"), "dihedral_restraints"),
        "eoh_distance_restraint": (more("[ distance_restraints ]\n1 9 1 0 1 0.2 0.21 0.3 1.0"), "distance_restraints"),
        "eoh_angle_restraint": (more("[ angle_restraints ]\n1 2 3 9 1 90.0 20.0 1"), "angle_restraints"),
        "eoh_posres": (more("[ position_restraints ]\n1 1 1000 1000 1000"), "position_restraints"),
        "eoh_nrexcl_2": (
            re.sub(r"(?m)^(\w+ +)3$", r"\g<1>2", text.replace(section("pairs"), "")),
            "3 for nrexcl .* got 2 for EOH",
        ),
        "eoh_nrexcl_4": (re.sub(r"(?m)^(\w+ +)3$", r"\g<1>4", text), r"got 4 for EOH.* of H1 \(4\) and H6"),
        "eoh_pair_1_5": (more("[ pairs ]\n4 9 1"), r"got H1 \(4\) and H6 \(9\)"),
        "eoh_pairs_nb": (more("[ pairs_nb ]\n1 9 1 0.1 -0.1 0.3 0.4"), "pairs_nb"),
        "eoh_intermolecular": (
            text + "\n[ intermolecular_interactions ]\n[ bonds ]\n1 9 1 0.2 500.0\n",
            "intermolecular_interactions",
        ),
        "eoh_include": (text + '\n#include "missing.itp"\n', "missing.itp"),
        "eoh_two": (re.sub(r"(?m)^(EOH +)1$", r"\g<1>2", text), "atoms"),
    }
    for name, (content, words) in refused.items():
        (WORK / f"{name}.top").write_text(content)
        add(
            "gromacs", [*keep(f"{name}.top"), "eoh.gro"], f"the topology of ParmEd {parmed.__version__}, changed", words
        )
    settles = "[ settles ]\n1 1 0.09572 0.15139\n[ exclusions ]\n1 2 3\n2 1 3\n3 1 2\n"
    head = "[ defaults ]\n1 2 yes 0.5 0.8333\n[ atomtypes ]\nOW 8 16.0 0.0 A 0.315057 0.636386\n"
    head += "HW 1 1.008 0.0 A 0.0 0.0\nMW 0 0.0 0.0 D 0.0 0.0\n"
    three = "[ moleculetype ]\nSOL 2\n[ atoms ]\n1 OW 1 SOL OW 1 -0.834 16.0\n"
    three += "2 HW 1 SOL HW1 1 0.417 1.008\n3 HW 1 SOL HW2 1 0.417 1.008\n"
    four = three.replace("-0.834 16.0", "0.0 16.0") + "4 MW 1 SOL MW 1 -0.834 0.0\n"
    tail = "[ system ]\nwater\n[ molecules ]\nSOL 1\n"
    places = [("OW", "6.000", "6.000"), ("HW1", "6.096", "6.000"), ("HW2", "5.976", "6.093"), ("MW", "6.011", "6.014")]
    for name, content, n, words in (
        ("tip3p", head + three + settles + tail, 3, "constraints are between atoms that no bond joins"),
        ("tip4p", head + four + settles + "[ virtual_sites3 ]\n4 1 2 3 1 0.128 0.128\n" + tail, 4, "virtual sites"),
    ):
        (HERE / f"{name}.top").write_text(content)
        rows = [f"    1SOL  {atom:>5s}{i + 1:5d}{x:>8s}{y:>8s}   6.000" for i, (atom, x, y) in enumerate(places[:n])]
        (HERE / f"{name}.gro").write_text(
            "\n".join(["water", f"{n:5d}", *rows, "  12.00000  12.00000  12.00000"]) + "\n"
        )
        add("gromacs", [f"{name}.top", f"{name}.gro"], "by GROMACS' manual", words)


# --- CHARMM ---


def without_bonds_to_hydrogen(read: Any) -> float:
    """kJ/mol, of bonds that constraints replace."""
    found = 0.0
    for bond in read.bonds:
        if 1 in (bond.atom1.atomic_number, bond.atom2.atomic_number):
            a, b = (np.array([atom.xx, atom.xy, atom.xz]) for atom in (bond.atom1, bond.atom2))
            found += KCAL * bond.type.k * (np.linalg.norm(a - b) - bond.type.req) ** 2
    return found


def energy_of_pairs(read: Any) -> list[float]:
    """Electrostatic energies of 1-4 pairs, kJ/mol, by pdb2gmx's list."""
    pairs = re.search(r"\[ pairs \]\n(.*?)\[", (WORK / "gmx_charmm.top").read_text(), re.S).group(1)  # type: ignore[union-attr]
    found = []
    for row in pairs.splitlines():
        a, b = (read.atoms[int(k) - 1] for k in row.split()[:2])
        r = np.linalg.norm([a.xx - b.xx, a.xy - b.xy, a.xz - b.xz]) / 10
        found.append(ONE_4PI_EPS0 * a.charge * b.charge / r)
    return found


def charmm() -> None:
    """CHARMM27 as pdb2gmx gives it, in CHARMM's files, written by ParmEd: a CMAP, Urey-Bradley terms, impropers."""
    made = f"ParmEd {parmed.__version__} of pdb2gmx's topology (charmm27), energy of GROMACS {VERSIONS['GROMACS']}"
    read = parmed.gromacs.GromacsTopologyFile(str(WORK / "gmx_charmm.top"), xyz=str(WORK / "gmx_charmm.gro"))
    read.box = None
    right = {
        "smiles": "[NH3+]CC(=O)N[C@@H](C)C(=O)NCC(=O)[O-]",
        "elements": [a.element_name for a in read.atoms],
        "x": read.coordinates,
    }
    right["energy"] = gromacs_energy("gmx_charmm.top", "gmx_charmm.gro")
    parameters = parmed.charmm.CharmmParameterSet.from_structure(read)
    # What ParmEd does not write: Urey-Bradley terms, and Lennard-Jones parameters of 1-4 pairs.
    ends = {frozenset((u.atom1, u.atom2)): u.type for u in read.urey_bradleys}
    springs = {}
    for angle in read.angles:
        if spring := ends.get(frozenset((angle.atom1, angle.atom3))):
            key = tuple(atom.type for atom in (angle.atom1, angle.atom2, angle.atom3))
            springs[key] = springs[key[::-1]] = f"{spring.k:10.4f} {spring.req:10.6f}"
    for line in (
        re.search(r"\[ pairtypes \]\n(.*?)\[", (WORK / "gmx_charmm.top").read_text(), re.S).group(1).splitlines()
    ):  # type: ignore[union-attr]
        a, b, _, sigma, epsilon = line.split()
        if a == b:
            parameters.atom_types[a].sigma_14 = 10 * float(sigma)
            parameters.atom_types[a].epsilon_14 = float(epsilon) / KCAL
    parameters.write(top=str(WORK / "gag.rtf"), par=str(WORK / "gag.prm"))
    head, angles, tail = re.split(
        r"(?s)(?<=\nANGLES\n)(.*?)(?=\nDIHEDRALS)", (WORK / "gag.prm").read_text(), maxsplit=1
    )
    lines = [f"{line}  {springs.get(tuple(line.split()[:3]), '')}".rstrip() for line in angles.splitlines()]
    (WORK / "gag.prm").write_text(head + "\n".join(lines) + tail)
    for name, xplor in (("gag", False), ("gag_xplor", True)):
        parmed.charmm.CharmmPsfFile.from_structure(read).write_psf(str(WORK / f"{name}.psf"), vmd=xplor)
    read.save(str(WORK / "gag.crd"), overwrite=True)
    read.save(str(WORK / "gag_charmm.pdb"), overwrite=True, charmm=True)
    parts = keep("gag.rtf", "gag.prm")
    for psf in ("gag.psf", "gag_xplor.psf"):
        for places in ("gag.crd", "gag_charmm.pdb"):
            add("charmm", [*keep(psf, places), *parts], made, **right)
    held = right | {"energy": right["energy"] - without_bonds_to_hydrogen(read)}
    add("charmm", ["gag.psf", "gag.crd", *parts], made, **held, options={"constraints": "HBonds"})
    add("gromacs", ["gmx_charmm.top", "gmx_charmm.gro"], made, **held, options={"constraints": "HBonds"})
    text = (WORK / "gag.prm").read_text()
    shift = sum(energy_of_pairs(read))
    (WORK / "gag_e14fac.prm").write_text(text.replace("e14fac 1.0", "e14fac 0.5"))
    halved = right | {"energy": right["energy"] - 0.5 * shift}
    add("charmm", ["gag.psf", "gag.crd", "gag.rtf", *keep("gag_e14fac.prm")], f"{made}, e14fac 0.5", **halved)
    for name, new in (("eps", "cdiel eps 4.0"), ("rdie", "rdie eps 1.0"), ("geom", "cdiel eps 1.0 geom")):
        (HERE / f"{name}.prm").write_text(
            f"* more of it\n*\nNONBONDED nbxmod 5 atom -\n {new} e14fac 1.0 wmin 1.5\n\nEND\n"
        )
        words = {"eps": "EPS 4.0", "rdie": "RDIE", "geom": "GEOM"}[name]
        add(
            "charmm",
            ["gag.psf", "gag.crd", *parts, f"{name}.prm"],
            f"{made}, {new}",
            f"{words}, which OpenMM passes over",
        )
    text = (WORK / "gag.psf").read_text()
    (HERE / "gag_drude.psf").write_text(text.replace("PSF", "PSF DRUDE", 1))
    add("charmm", ["gag_drude.psf", "gag.crd", *parts], f"{made}, marked as polarisable", "gag_drude.psf")
    add("charmm", ["gag.psf", "gag.crd", "gag.rtf"], f"{made}, without the prm", "parameters")
    add("charmm", ["gag.psf", "EOH.inpcrd", *parts], made, "Expected the 27 atoms of .*gag.psf; got 9 in .*EOH.inpcrd")
    add("gromacs", ["gmx_charmm.top", "gag.crd"], made, "GROMACS coordinates in .*gag.crd")
    add("amber", ["gag_chamber.prmtop", "gag.crd"], made, "Amber coordinates in .*gag.crd")
    # chamber: CHARMM's force field in a prmtop.
    chamber = parmed.amber.ChamberParm.from_structure(parmed.charmm.CharmmPsfFile.from_structure(read))
    chamber.save(str(WORK / "gag_chamber.prmtop"), overwrite=True)  # 1-4 pairs as all others: another energy
    read.save(str(WORK / "gag_chamber.rst7"), overwrite=True)
    shutil.copy(WORK / "gag_chamber.rst7", WORK / "gag_chamber.inpcrd")
    made = f"ParmEd {parmed.__version__}, as chamber would, and sander, AmberTools {VERSIONS['AmberTools']}"
    add("amber", keep("gag_chamber.prmtop", "gag_chamber.inpcrd"), made, **right | {"energy": sander("gag_chamber")})


# --- PDB and PDBx/mmCIF ---

ONLY_ONCE = "atoms of one name only once"
FF14SB = ["amber14/protein.ff14SB.xml"]
FIELDS = {"glycan": ["small.xml"], "up": ["amber14/RNA.OL3.xml"]}
FIELDS |= {name: FF14SB for name in (*PEPTIDES, "sep")} | {name: ["small.xml"] for name in SMALL}
SMILES = {name: smiles for name, (_, smiles) in PEPTIDES.items()} | SMALL
SMILES |= {name: smiles for name, (*_, smiles) in OTHERS.items()}


def parsed(path: Path) -> tuple[list[str], np.ndarray]:
    """Elements and coordinates, Angstrom, of the first model, of each atom the first place."""
    if path.suffix == ".cif":
        block = gemmi.cif.read(str(path)).sole_block()
        table = block.find("_atom_site.", ["type_symbol", "Cartn_x", "Cartn_y", "Cartn_z"])
        rows = [[gemmi.cif.as_string(v) for v in row] for row in table]
        return [row[0].capitalize() for row in rows], np.array([[float(v) for v in row[1:]] for row in rows])
    elements, x, seen = [], [], set()
    for line in path.read_text().splitlines():
        if line.startswith("ENDMDL"):
            break
        if not line.startswith(("ATOM", "HETATM")) or (key := (line[12:16], line[17:27])) in seen:
            continue
        if line[16] != " ":
            seen.add(key)
        element = line[76:78].strip() or re.sub(r"[^A-Za-z]", "", line[12:16])[:1]
        elements.append({"D": "H"}.get(element, element.capitalize()))
        x.append([float(line[i : i + 8]) for i in (30, 38, 46)])
    return elements, np.array(x)


def put(
    name: str, content: str, molecule: str, made: str, refused: str | None = None, door: str = "pdb", **more: Any
) -> None:
    """A structure file of a molecule, and what is right about it."""
    path = HERE / name
    path.write_bytes(content.encode())
    more = {"forcefield": FIELDS[molecule], **more}
    if refused is not None:
        add(door, [name], made, refused, **more)
        return
    elements, x = parsed(path)
    bonds = bonds_of(elements, x, SMILES[molecule])
    known = read_amber(molecule)
    ours = [(bond.atom1.idx, bond.atom2.idx) for bond in known.bonds]
    # Atom k of the prmtop is atom match[k] of the file.
    match = skeleton(elements, bonds).GetSubstructMatch(skeleton([a.element_name for a in known.atoms], ours))
    system = app.AmberPrmtopFile(str(WORK / f"{molecule}.prmtop")).createSystem()
    if molecule == "up":  # OpenMM takes the atoms of an improper of adenine in another order than tleap: 0.01 kJ/mol
        system = app.ForceField(*FIELDS[molecule]).createSystem(known.topology)
    right = {"smiles": SMILES[molecule], "elements": elements, "x": x, "energy": energy(system, x[list(match)])}
    add(door, [name], made, **right, **more)


def small_forcefield() -> None:
    """OpenMM's form of the prmtops of GAFF2, by ParmEd."""
    merged = parmed.openmm.OpenMMParameterSet()
    for name in SMALL:
        read = parmed.load_file(str(WORK / f"{name}.prmtop"), str(WORK / f"{name}.inpcrd"))
        for atom in read.atoms:  # types of each molecule are its own
            atom.atom_type.name = f"{name}-{atom.type}"
            atom.type = atom.atom_type.name
        found = parmed.openmm.OpenMMParameterSet.from_structure(read)
        found.residues.update(parmed.modeller.ResidueTemplateContainer.from_structure(read).to_library())
        for kind in (
            "atom_types",
            "bond_types",
            "angle_types",
            "dihedral_types",
            "improper_periodic_types",
            "residues",
        ):
            getattr(merged, kind).update(getattr(found, kind))
        merged.default_scee, merged.default_scnb = 1.2, 2.0
    merged.write(str(HERE / "small.xml"), provenance={"Source": "GAFF2"})


def of_programs() -> None:
    tool = f"AmberTools {VERSIONS['AmberTools']}"
    for name in PEPTIDES:
        words = "no bond is named for them" if name == "lyn" else None  # LYN: bonds of no table of OpenMM's
        put(f"{name}_tleap.pdb", (WORK / f"{name}_noisy.pdb").read_text(), name, f"ParmEd of tleap's, {tool}", words)
    for name in ("ala", "hip"):
        run(*f"cpptraj -p {name}.prmtop -y {name}.inpcrd -x {name}_ambpdb.rst7".split())
        text = run(*f"ambpdb -p {name}.prmtop -c {name}.inpcrd".split())
        put(f"{name}_ambpdb.pdb", text[re.search("ATOM|HETATM", text).start() :], name, f"ambpdb, {tool}")
        text = run(*f"ambpdb -p {name}.prmtop -c {name}.inpcrd -bres".split())
        put(f"{name}_ambpdb_bres.pdb", text[re.search("ATOM|HETATM", text).start() :], name, f"ambpdb -bres, {tool}")
    # OpenMM.
    read = app.PDBFile(str(WORK / "ala_noisy.pdb"))
    for suffix, writer in ((".pdb", app.PDBFile), (".cif", app.PDBxFile)):
        with open(WORK / f"ala_openmm{suffix}", "w") as file:
            writer.writeFile(read.topology, read.positions, file)
        text = re.sub(r"CREATED WITH OPENMM [^\n]*|(?<=REMARK)[^\n]*", "", (WORK / f"ala_openmm{suffix}").read_text())
        put(f"ala_openmm{suffix}", text, "ala", f"OpenMM {openmm.__version__}")
    # GROMACS.
    for name in ("gmx_amber", "gmx_opls"):
        run(*f"gmx_d -quiet editconf -f {name}.gro -o {name}.pdb".split())
        put(
            f"{name}_editconf.pdb",
            (WORK / f"{name}.pdb").read_text(),
            "gly_ala",
            f"editconf, GROMACS {VERSIONS['GROMACS']}",
        )
    # PyMOL.
    with pymol2.PyMOL() as session:
        cmd = session.cmd
        made = f"PyMOL {cmd.get_version()[0]}"
        for name in ("ala", "hie", "gly_ala"):
            cmd.load(str(WORK / f"{name}_noisy.pdb"), name)
            put(f"{name}_pymol.pdb", cmd.get_pdbstr(name), name, made)
        cmd.set("pdb_conect_all", 1)
        put("ala_pymol_conect.pdb", cmd.get_pdbstr("ala"), "ala", f"{made}, pdb_conect_all")
        put("ala_pymol.cif", cmd.get_str("cif", "ala"), "ala", made)
        cmd.delete("all")
        cmd.fab("GA", "built")
        put("pymol_fab.pdb", cmd.get_pdbstr("built"), "gly_ala", f"{made}, fab GA: neutral ends", "template")
        cmd.load(str(WORK / "EOH.mol"), "EOH")
        put("EOH_pymol.pdb", cmd.get_pdbstr("EOH"), "EOH", f"{made}: atoms named by elements", ONLY_ONCE)
    # RDKit.
    made = f"RDKit {Chem.rdBase.rdkitVersion}"
    for name in SMALL:
        mol = Chem.MolFromMolFile(str(WORK / f"{name}.mol"), removeHs=False)
        put(f"{name}_rdkit.pdb", Chem.MolToPDBBlock(mol), name, made)
    for flavor in (2, 4, 8):
        mol = Chem.MolFromPDBFile(str(WORK / "ala_noisy.pdb"), removeHs=False)
        put(f"ala_rdkit_{flavor}.pdb", Chem.MolToPDBBlock(mol, flavor=flavor), "ala", f"{made}, flavor {flavor}")
    mol = Chem.MolFromSequence("GA")
    for info, words in ((True, "hydrogens last"), (False, "hydrogens of no residue")):
        whole = Chem.AddHs(mol, addResidueInfo=info)
        AllChem.EmbedMolecule(whole, randomSeed=1)
        put(f"rdkit_GA_{info}.pdb", Chem.MolToPDBBlock(whole), "gly_ala", f"{made}, neutral ends, {words}", "template")
    # Open Babel.
    made = f"Open Babel {VERSIONS['Open Babel']}"
    for name in ("EOH", "CLB"):
        mol = next(pybel.readfile("mol", str(WORK / f"{name}.mol")))
        put(f"{name}_obabel.pdb", mol.write("pdb"), name, f"{made}: atoms named by elements", ONLY_ONCE)
    for name in ("ala", "pro"):
        mol = next(pybel.readfile("pdb", str(WORK / f"{name}_noisy.pdb")))
        mol.title = name
        put(f"{name}_obabel.pdb", mol.write("pdb"), name, made)
    mol = next(pybel.readfile("mol", str(WORK / "EOH.mol")))
    for suffix in ("mol2", "xyz", "cif"):
        put(f"EOH_obabel.{suffix}", mol.write(suffix), "EOH", made, "EOH_obabel")
    # gemmi.
    made = f"gemmi {gemmi.__version__}"
    for name in ("ala", "hid"):
        read = gemmi.read_structure(str(WORK / f"{name}_noisy.pdb"))
        read.setup_entities()
        put(f"{name}_gemmi.pdb", read.make_pdb_string(), name, made)
        put(f"{name}_gemmi.cif", read.make_mmcif_document().as_string(), name, made)


def rows(name: str) -> list[dict[str, Any]]:
    """Atoms of a molecule, in the order of its prmtop."""
    return [
        {"name": a.name, "residue": a.residue.name, "number": a.residue.idx + 1, "element": a.element_name, "x": x}
        for a, x in zip(read_amber(name).atoms, read_amber(name).coordinates, strict=True)
    ]


def line(i: int, atom: dict[str, Any], **other: Any) -> str:
    """An ATOM record by the PDB's columns; `other` overrides."""
    a = {
        "record": "ATOM",
        "alt": " ",
        "chain": "A",
        "insertion": " ",
        "tail": f"  1.00  0.00          {atom['element']:>2s}",
    }
    a |= atom | other
    name = a["name"] if len(a["name"]) == 4 else f" {a['name']:<3s}"
    x = "".join(f"{v:8.3f}" for v in a["x"])
    place = f"{a['residue']:>3s} {a['chain']}{a['number']:4d}{a['insertion']}"
    return f"{a['record']:<6s}{i:5d} {name}{a['alt']}{place}   {x}{a['tail']}"


def pdb(atoms: Sequence[dict[str, Any]], **other: Any) -> str:
    return "\n".join(line(i + 1, atom, **other) for i, atom in enumerate(atoms))


def conect(name: str, double: Sequence[tuple[int, int]] = ()) -> str:
    near: dict[int, list[int]] = {}
    for bond in read_amber(name).bonds:
        i, j = bond.atom1.idx, bond.atom2.idx
        for _ in range(2 if (i, j) in double or (j, i) in double else 1):
            near.setdefault(i, []).append(j)
            near.setdefault(j, []).append(i)
    return "\n".join(f"CONECT{i + 1:5d}" + "".join(f"{j + 1:5d}" for j in near[i]) for i in sorted(near))


CHARMM_NAMES = {"H1": "HT1", "H2": "HT2", "H3": "HT3", "OXT": "OT2", "H": "HN"}
OLD_NAMES = {"HB1": "1HB ", "HB2": "2HB ", "HB3": "3HB ", "H1": "1H  ", "H2": "2H  ", "H3": "3H  "}
OLD_NAMES |= {"HA2": "1HA ", "HA3": "2HA "}
ENDS = "\nTER\nEND\n"
LINKS = """\
LINK         O1  ROH     1                 C1  4GB     2
LINK         O4  4GB     2                 C1  0GA     3
"""


def named(atoms: Sequence[dict[str, Any]], names: dict[str, str]) -> list[dict[str, Any]]:
    return [a | {"name": names.get(a["name"], a["name"])} for a in atoms]


def in_residues(atoms: Sequence[dict[str, Any]], residues: dict[str, str]) -> list[dict[str, Any]]:
    return [a | {"residue": residues.get(a["residue"], a["residue"])} for a in atoms]


def by_format() -> None:
    """Files by the documented form of programs that pip does not bring."""
    atoms = rows("gly_ala")
    renamed = named(atoms, CHARMM_NAMES)
    last = next(a for a in renamed if a["name"] == "O" and a["number"] == 2)
    last["name"] = "OT1"
    text = "\n".join(
        line(i + 1, a, chain="P", tail=f"  1.00  0.00      PROA{a['element']:>2s}") for i, a in enumerate(renamed)
    )
    text = "REMARK   GENERATED BY CHARMM-GUI\n" + text
    put("gly_ala_charmm_gui.pdb", text + ENDS, "gly_ala", "CHARMM-GUI's form")
    bare = re.sub(r"(?m)(PROA).*$", r"\1", text)
    put("gly_ala_charmm_no_element.pdb", bare + ENDS, "gly_ala", "CHARMM's form, without elements")
    put("hid_hsd.pdb", pdb(in_residues(rows("hid"), {"HID": "HSD"})) + ENDS, "hid", "CHARMM's HSD")
    put("ile_cd.pdb", pdb(named(rows("ile"), {"CD1": "CD"})) + ENDS, "ile", "CHARMM's CD")
    bonds = [(bond.atom1.idx, bond.atom2.idx) for bond in read_amber("gly_ala").bonds]
    doubled = [(i, j) for i, j in bonds if (atoms[i]["name"], atoms[j]["name"]) == ("C", "O")]
    head = "REMARK   4      COMPLIES WITH FORMAT V. 3.0, 1-DEC-2006\nMODEL        1\n"
    text = pdb(atoms, tail="  1.00  0.00           N1+").splitlines()[0] + pdb(atoms)[len(line(1, atoms[0])) :]
    text = f"{head}{text}\n{conect('gly_ala', doubled)}\nENDMDL\nEND\n"
    put("gly_ala_maestro.pdb", text, "gly_ala", "Maestro's form: double bonds twice in CONECT, charges")
    text = pdb([a | {"residue": "UNL", "number": 1} for a in rows("EOH")], record="HETATM", chain=" ")
    text = f"COMPND    UNNAMED\nAUTHOR    GENERATED BY AVOGADRO\n{text}\n{conect('EOH')}\nEND\n"
    put("EOH_avogadro.pdb", text, "EOH", "Avogadro's form")
    sugar = LINKS + pdb(rows("glycan"), record="HETATM", chain=" ")
    text = f"{sugar}\n{conect('glycan')}\nEND\n"
    put("glycan_web.pdb", text, "glycan", "GLYCAM-Web's form", door="structure")
    put("glycan_web_links_only.pdb", f"{sugar}\nEND\n", "glycan", "GLYCAM-Web's form without CONECT", "CONECT")
    of_the_pdb(atoms)


def of_the_pdb(atoms: Sequence[dict[str, Any]]) -> None:
    """What the PDB's own format may hold, in various years: of a dipeptide unless it says something else."""
    cell = "CRYST1   30.000   40.000   50.000  90.00  95.00  90.00 P 1 21 1      2\n"
    text = pdb(atoms)
    aniso = "".join(
        f"{r}\nANISOU{r[6:28]}   1000   1000   1000      0      0      0 {r[70:]}\n" for r in text.splitlines()
    )
    places = []
    for a in atoms:
        twice = a["name"] in ("CB", "HB1", "HB2", "HB3")
        places += [a | {"alt": alt, "x": a["x"] + (0.2 if alt == "B" else 0.0)} for alt in ("AB" if twice else " ")]
    second = pdb([a | {"x": a["x"] + 0.3} for a in atoms])
    contents = {
        "1992": pdb(named(atoms, OLD_NAMES), chain=" ", tail="  1.00  0.00      1ABC   9") + ENDS,
        "negative": pdb([a | {"number": a["number"] - 3} for a in atoms]) + ENDS,
        "insertion": pdb([a | {"number": 52, "insertion": " A"[a["number"] - 1]} for a in atoms]) + ENDS,
        "crlf": (text + ENDS).replace("\n", "\r\n"),
        "short": pdb(atoms, tail="") + ENDS,
        "serials": re.sub(r"(?m)^ATOM  .....", "ATOM  *****", text) + ENDS,
        "crystal": cell + aniso + ENDS[1:],
        "models": f"MODEL        1\n{text}\nTER\nENDMDL\nMODEL        2\n{second}\nTER\nENDMDL\nEND\n",
        "places": pdb(places) + ENDS,
    }
    for name, content in contents.items():
        told = {"models": "holds 2 models", "places": "alternate locations"}
        more = {"warns": told[name]} if name in told else {}
        put(f"gly_ala_{name}.pdb", content, "gly_ala", f"the PDB's format: {name}", **more)
    heavy = pdb([a for a in atoms if a["element"] != "H"]) + ENDS
    put("gly_ala_heavy.pdb", heavy, "gly_ala", "the PDB's format: no hydrogens", "hydrogen")
    lost = text.replace(f"{atoms[3]['x'][0]:8.3f}", "     nan", 1) + ENDS
    put("gly_ala_no_coordinates.pdb", lost, "gly_ala", "the PDB's format: nan for a coordinate", "of line 4")
    bridge = "SSBOND   1 CYS A    2    CYS A    5                          1555   1555  2.05\n"
    text = bridge + pdb(in_residues(rows("cyx"), {"CYX": "CYS"})) + ENDS
    put("cyx_ssbond.pdb", text, "cyx", "the PDB's format: a disulfide, SSBOND")
    text = pdb(in_residues(rows("up"), {"U5": "U", "A3": "A"})) + ENDS
    put("up_pdb3.pdb", text, "up", "the PDB's format: RNA")
    text = pdb(in_residues(rows("up"), {"U5": "URA", "A3": "ADE"})).replace("'", "*") + ENDS
    put("up_asterisks.pdb", text, "up", "the PDB's format of 1992: RNA", "template")
    put("gly_ala_wwpdb.cif", mmcif("gly_ala"), "gly_ala", "the wwPDB's PDBx/mmCIF")
    put("up_wwpdb.cif", mmcif("up"), "up", "the wwPDB's PDBx/mmCIF: RNA")
    # Bonds of what is in no dictionary of OpenMM's: in one table, in both.
    inside, between = bond_tables("EOH")
    put("EOH_bonds.cif", mmcif("EOH") + inside, "EOH", "the wwPDB's PDBx/mmCIF: chem_comp_bond")
    put("EOH_bonds_twice.cif", mmcif("EOH") + inside + between, "EOH", "PDBx/mmCIF: struct_conn, too")
    text = mmcif("glycan") + "".join(bond_tables("glycan"))
    put("glycan_bonds.cif", text, "glycan", "PDBx/mmCIF: both tables", door="structure")
    text = re.sub(r"(?m)^ATOM (.* A 1) \d ", r"HETATM \1 . ", text)
    text = re.sub(r"A (ROH|4GB|0GA) \d ", r"A \1 . ", text)
    text = re.sub(r"(10\d(?: ROH| 4GB| 0GA)?) H ", r"\1 A ", text)
    put("glycan_wwpdb.cif", text, "glycan", "the wwPDB's PDBx/mmCIF: sugars without label_seq_id", door="structure")
    # What programs that add hydrogens, and neutron diffraction, make of a dipeptide.
    last = sorted(atoms, key=lambda a: a["element"] == "H")
    text = pdb(last) + "\nTER\nEND\n"
    put("gly_ala_hydrogens_last.pdb", text, "gly_ala", "hydrogens behind all others", "stand in several places")
    heavy = [a | ({"name": "D", "element": "D"} if a["name"] == "H" else {}) for a in atoms]
    put("gly_ala_deuterium.pdb", pdb(heavy) + ENDS, "gly_ala", "the PDB's format: deuterium", "Deuterium")
    put("sep.pdb", pdb(rows("sep")) + ENDS, "sep", "the PDB's format: phosphoserine", "no bond is named for them")


ATOM_SITE = """\
group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id
label_entity_id label_seq_id pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy
B_iso_or_equiv pdbx_formal_charge auth_seq_id auth_comp_id auth_asym_id auth_atom_id pdbx_PDB_model_num
""".split()


def mmcif(name: str) -> str:
    """As the wwPDB writes it: numbers of the author's beside its own, names with primes in quotes."""
    found = [f"data_{name}", "#", f"_entry.id {name}", "_struct.title", ";A title", "of two lines", ";", "#", "loop_"]
    found += [f"_atom_site.{key}" for key in ATOM_SITE]
    for i, a in enumerate(in_residues(rows(name), {"U5": "U", "A3": "A"})):
        atom = f'"{a["name"]}"' if "'" in a["name"] else a["name"]
        x = " ".join(f"{v:.3f}" for v in a["x"])
        found.append(
            f"ATOM {i + 1} {a['element']} {atom} . {a['residue']} A 1 {a['number']} ? {x} 1.00 0.00 ? "
            f"{a['number'] + 100} {a['residue']} H {atom} 1"
        )
    return "\n".join([*found, "#", ""])


def bond_tables(name: str) -> tuple[str, str]:
    """chem_comp_bond of the bonds in residues, struct_conn of those between; of a single residue of all once more."""
    inside, between = [], []
    single = len(read_amber(name).residues) == 1
    for bond in read_amber(name).bonds:
        ends = bond.atom1, bond.atom2
        if ends[0].residue is ends[1].residue:
            inside.append(f"{ends[0].residue.name} {ends[0].name} {ends[1].name} SING")
        if single or ends[0].residue is not ends[1].residue:
            parts = " ".join(f"A {a.residue.name} {a.residue.idx + 1} {a.name} {a.residue.idx + 101} H ?" for a in ends)
            between.append(f"covale{len(between) + 1} covale {parts}")
    keys = ("comp_id", "atom_id_1", "atom_id_2", "value_order")
    first = ["loop_", *(f"_chem_comp_bond.{key}" for key in keys), *inside, "#", ""]
    keys = ("label_asym_id", "label_comp_id", "label_seq_id", "label_atom_id", "auth_seq_id", "auth_asym_id")
    parts = [f"_struct_conn.ptnr{k}_{key}" for k in (1, 2) for key in keys]
    parts = [key for k in (0, 6) for key in (*parts[k : k + 6], f"_struct_conn.pdbx_ptnr{k // 6 + 1}_PDB_ins_code")]
    second = ["loop_", "_struct_conn.id", "_struct_conn.conn_type_id", *parts, *between, "#", ""]
    return "\n".join(first), "\n".join(second)


def structures() -> None:
    small_forcefield()
    of_programs()
    by_format()


def main() -> None:
    VERSIONS["Open Babel"] = pybel.ob.OBReleaseVersion()
    VERSIONS["GROMACS"] = re.search(r"version: +([\d.]+)", run("gmx_d", "--version")).group(1)  # type: ignore[union-attr]
    VERSIONS["AmberTools"] = re.search(r"(\d+\.\d+)", run("sander", "--version")).group(1)  # type: ignore[union-attr]
    amber()
    gromacs()
    charmm()
    structures()
    (HERE / "corpus.json").write_text(json.dumps(ENTRIES, indent=0) + "\n")


if __name__ == "__main__":
    main()
