"""Kinds of problems of a structure, what corrects them, and names of residues."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FIXES = {
    "models": "the first is kept",
    "split residues": "brought together, as distances say; the order of the atoms changes",
    "missing TER": "written where a chain ends",
    "alternate locations": "of each residue the place of highest mean occupancy is kept",
    "missing elements": "taken from the atoms' names",
    "deuterium": "becomes hydrogen, whose energy it has",
    "duplicate atoms": "nearer to each other than bonded atoms are: the first is kept",
    "atom names": "made such that OpenMM reads every atom and bonds it to its neighbours",
    "residue names": "the standard residue: protonated as the old name says",
    "modified residues": "become the standard residue: atoms beyond it are removed",
    "missing bonds": "added, as distances say; a hydrogen on a sulfur that gets bonded is dropped",
    "solvent and ions": "removed",
    "other molecules": "removed",
    "missing heavy atoms": "added by PDBFixer",
    "missing hydrogens": "added by OpenMM's Modeller at the pH given to fix",
}
# Another formula, hydrogens aside, is another molecule: these wait for a word.
ASKED = frozenset({"modified residues", "solvent and ions", "other molecules", "missing heavy atoms"})
SAFE = frozenset(FIXES) - ASKED
ONCE = frozenset({"split residues", "alternate locations", "duplicate atoms"})  # with these mended, atoms are counted

AMINO = frozenset("ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL".split())
NUCLEIC = frozenset("A C G U DA DC DG DT".split())
BUILT = AMINO | NUCLEIC | {"ACE", "NME"}  # residues that PDBFixer has whole


def _table(text: str) -> dict[str, str]:
    return dict(pair.split(":") for pair in text.split())


# Names of protonations -> the standard residue, and Modeller's name of them.
PROTONATED = _table("HID:HIS HIE:HIS HIP:HIS HSD:HIS HSE:HIS HSP:HIS ASH:ASP GLH:GLU LYN:LYS CYX:CYS CYM:CYS")
VARIANTS = _table("HID:HID HIE:HIE HIP:HIP HSD:HID HSE:HIE HSP:HIP ASH:ASH GLH:GLH LYN:LYN CYX:CYX CYM:CYX")
# Modified residues and D-amino acids -> the standard residue, as PDBFixer has it.
MODIFIED = _table(
    "MSE:MET FME:MET SEP:SER TPO:THR PTR:TYR TYS:TYR HYP:PRO PCA:GLU CGU:GLU CSO:CYS OCS:CYS CME:CYS KCX:LYS ALY:LYS "
    "LLP:LYS SAR:GLY DAL:ALA DAR:ARG DSG:ASN DAS:ASP DCY:CYS DGL:GLU DGN:GLN DHI:HIS DIL:ILE DLE:LEU DLY:LYS MED:MET "
    "DPN:PHE DPR:PRO DSN:SER DTH:THR DTR:TRP DTY:TYR DVA:VAL"
)


@dataclass(frozen=True)
class Problem:
    """One kind of problem, where it occurs, and what `fix` does about it or else what the user can do."""

    kind: str
    places: tuple[str, ...]
    advice: str
    fixable: bool


def fixable(kind: str, places: Iterable[str], also: str = "") -> list[Problem]:
    """List with a problem that `fix` corrects as `FIXES` describes, and `also`; empty without places."""
    places = tuple(places)
    return [Problem(kind, places, FIXES[kind] + also, True)] if places else []


def unfixable(kind: str, places: Iterable[str], advice: str) -> list[Problem]:
    """List with a problem that is left to the user, with advice; empty without places."""
    places = tuple(places)
    return [Problem(kind, places, advice, False)] if places else []
