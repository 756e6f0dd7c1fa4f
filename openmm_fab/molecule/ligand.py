"""A small molecule as a chemist draws it, SMILES, SDF or RDKit's: with hydrogens, defined stereo and a 3-D structure.

Protonation, tautomer and stereo stay as drawn; what is not said is an error that lists what may be meant.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tools.warn import warn
from .checks import some
from .chemistry import rdkit_chem, silent, without_hydrogens

if TYPE_CHECKING:
    from rdkit.Chem import Mol

SUFFIXES = (".sdf", ".sd", ".mol")
CONFORMERS = 20  # embedded, of which the one of lowest MMFF energy is taken
MOST_ISOMERS = 8  # that an error lists


def read_smiles(smiles: str) -> Mol:
    """RDKit's molecule of a SMILES string, atoms in its order and hydrogens behind them, with a 3-D structure.

    Raises
    ------
    ValueError
        No SMILES; several molecules; undefined stereo: see `prepared`.
    """
    Chem = rdkit_chem()
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    with silent():
        molecule = Chem.MolFromSmiles(smiles, parameters) if smiles.strip() else None
        reason = "" if molecule is not None else _reason(Chem.MolFromSmiles(smiles, sanitize=False))
    if molecule is None:
        raise ValueError(f"Expected a SMILES string; RDKit cannot read {smiles!r}{reason}.")
    return prepared(molecule, f"SMILES {smiles!r}")


def read_sdf(path: str | Path, entry: int | str | None = None) -> tuple[Mol, str]:
    """RDKit's molecule of an SDF or MOL file, as `prepared`, and its title.

    Parameters
    ----------
    entry : int or str, optional
        Of a file with several molecules: which one, by number from 0 or by title.

    Raises
    ------
    FileNotFoundError
    ValueError
        Several molecules and no `entry`; what cannot be read; see `prepared`.
    """
    records = sdf_records(path)
    titles = [title for title, _ in records]
    where = str(path)
    if entry is None and len(records) > 1:
        raise ValueError(
            f"Expected one molecule in {path}; got {len(records)}: {some(titles)}. Name one with entry=0 or its "
            "title; `openmm-fab screen` runs all of them, one after another."
        )
    if isinstance(entry, str):
        if titles.count(entry) != 1:
            raise ValueError(f"Expected one molecule {entry!r} in {path}; got {titles.count(entry)} of {some(titles)}.")
        entry = titles.index(entry)
    number = 0 if entry is None else entry
    if not 0 <= number < len(records):
        raise ValueError(f"Expected a molecule's number from 0 to {len(records) - 1} in {path}; got {number}.")
    if len(records) > 1:
        where += f", molecule {number} ({titles[number] or 'no title'})"
    return read_block(records[number][1], where), titles[number]


def sdf_records(path: str | Path) -> list[tuple[str, str]]:
    """Title and text of every molecule of an SDF or MOL file; a ValueError where there is none."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected an SDF file at {path}; there is none (working directory {Path.cwd()}).")
    records: list[list[str]] = [[]]
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("$$$$"):
            records.append([])
        else:
            records[-1].append(line)
    found = [("".join(lines[:1]).strip(), "\n".join(lines) + "\n") for lines in records if "".join(lines).strip()]
    if not found:
        raise ValueError(f"Expected a molecule in {path}; there is none.")
    return found


def read_block(text: str, where: str) -> Mol:
    """RDKit's molecule of a record of an SDF file, as `prepared`; `where` names it in errors."""
    Chem = rdkit_chem()
    with silent():
        molecule = Chem.MolFromMolBlock(text, removeHs=False)
        reason = "" if molecule is not None else _reason(Chem.MolFromMolBlock(text, sanitize=False))
    if molecule is None:
        raise ValueError(f"Expected a molecule in {where}; RDKit cannot read it{reason}.")
    return prepared(molecule, where)


def prepared(molecule: Mol, where: str = "an RDKit molecule") -> Mol:
    """A copy with all hydrogens and a 3-D structure; a structure that is there is kept.

    Raises
    ------
    ValueError
        No atoms, several molecules, atoms that are no elements; stereo that is not defined, with the isomers.

    Warns
    -----
    UserWarning
        Hydrogens that were added to a 3-D structure.
    """
    Chem = rdkit_chem()
    molecule = Chem.Mol(molecule)
    if reason := _reason(molecule):
        raise ValueError(f"Expected a molecule with possible valences in {where}; RDKit refuses it{reason}.")
    _check_parts(molecule, where)
    solid = molecule.GetNumConformers() > 0 and molecule.GetConformer().Is3D()
    whole = Chem.AddHs(molecule, addCoords=solid)
    added = whole.GetNumAtoms() - molecule.GetNumAtoms()
    if solid:
        Chem.AssignStereochemistryFrom3D(whole)
        if added:
            warn(
                f"{where}: {added} hydrogens were added to a 3-D structure without them, as its valences ask for.",
            )
    whole = with_stereo(whole, where)
    return whole if solid else embedded(whole, where)


def _check_parts(molecule: Mol, where: str) -> None:
    Chem = rdkit_chem()
    if molecule.GetNumAtoms() == 0:
        raise ValueError(f"Expected atoms in {where}; there are none.")
    parts = Chem.GetMolFrags(molecule, asMols=True, sanitizeFrags=False)
    if len(parts) > 1:
        smiles = sorted((Chem.MolToSmiles(part) for part in parts), key=len, reverse=True)
        raise ValueError(
            f"Expected one molecule in {where}; got {len(parts)}: {some(smiles)}. Leave out counter-ions and solvent."
        )
    strange = [f"{atom.GetSymbol()} ({atom.GetIdx() + 1})" for atom in molecule.GetAtoms() if not atom.GetAtomicNum()]
    if strange:
        raise ValueError(f"Expected elements in {where}; got {some(strange)}: no R groups, and no wildcards.")
    radicals = [f"{a.GetSymbol()}{a.GetIdx() + 1}" for a in molecule.GetAtoms() if a.GetNumRadicalElectrons()]
    if radicals:
        raise ValueError(f"Expected a molecule without unpaired electrons in {where}; got {some(radicals)}.")


def with_stereo(molecule: Mol, where: str) -> Mol:
    """The molecule, if its stereo is defined, or only one isomer can be built (bridged rings).

    Phosphorus and sulfur with two oxygens that differ by resonance only (phosphates) are no stereocentres.

    Raises
    ------
    ValueError
        A stereocentre or double bond may be either: with the isomers.
    """
    Chem = rdkit_chem()
    unknown = [
        info
        for info in Chem.FindPotentialStereo(molecule)
        if info.specified == Chem.StereoSpecified.Unspecified and not _by_resonance(molecule, info)
    ]
    if not unknown:
        return molecule
    from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions

    options = StereoEnumerationOptions(tryEmbedding=True, unique=True, maxIsomers=4 * MOST_ISOMERS)
    with silent():
        isomers = {without_hydrogens(isomer): isomer for isomer in EnumerateStereoisomers(molecule, options=options)}
    if len(isomers) == 1:
        return next(iter(isomers.values()))
    listed = sorted(isomers)[:MOST_ISOMERS]
    listed += ["..."] if len(isomers) > MOST_ISOMERS else []
    places = some([_place(molecule, info) for info in unknown])
    raise ValueError(
        f"Expected defined stereo in {where}; it is not at {places}. Each isomer is another molecule; give one of\n  "
        + "\n  ".join(listed)
    )


def _by_resonance(molecule: Mol, info: Any) -> bool:
    if "Atom" not in str(info.type):
        return False
    centre = molecule.GetAtomWithIdx(info.centeredOn)
    ends = [other for other in centre.GetNeighbors() if other.GetDegree() == 1 and other.GetSymbol() in ("O", "S")]
    symbols = [end.GetSymbol() for end in ends]
    return centre.GetSymbol() in ("P", "S", "As", "Se") and len(set(symbols)) < len(symbols)


def _place(molecule: Mol, info: Any) -> str:
    """Element and number, from 1, of a stereocentre, or of both atoms of a bond."""
    if "Bond" in str(info.type):
        bond = molecule.GetBondWithIdx(info.centeredOn)
        return "=".join(f"{a.GetSymbol()}{a.GetIdx() + 1}" for a in (bond.GetBeginAtom(), bond.GetEndAtom()))
    atom = molecule.GetAtomWithIdx(info.centeredOn)
    return f"{atom.GetSymbol()}{atom.GetIdx() + 1}"


def embedded(molecule: Mol, where: str, seed: int = 0) -> Mol:
    """The molecule with one conformer: that of lowest MMFF94s energy (else UFF) of 20 by ETKDG."""
    Chem = rdkit_chem()
    from rdkit.Chem import rdDistGeom
    from rdkit.Chem import rdForceFieldHelpers as fields

    with silent():
        parameters: Any = rdDistGeom.ETKDGv3()
        parameters.randomSeed = seed
        many = Chem.Mol(molecule)
        ids = list(rdDistGeom.EmbedMultipleConfs(many, CONFORMERS, parameters))
        if not ids:
            parameters.useRandomCoords = True
            ids = list(rdDistGeom.EmbedMultipleConfs(many, CONFORMERS, parameters))
        if not ids:
            raise ValueError(
                f"Expected a molecule that RDKit can fold into three dimensions in {where}; it found no structure. Is "
                "the stereo possible? Give a 3-D structure as SDF."
            )
        if fields.MMFFHasAllMoleculeParams(many):
            found = fields.MMFFOptimizeMoleculeConfs(many, maxIters=1000, mmffVariant="MMFF94s")
        elif fields.UFFHasAllMoleculeParams(many):
            found = fields.UFFOptimizeMoleculeConfs(many, maxIters=1000)
        else:
            found = [(0, 0.0)] * len(ids)
    best = min(range(len(ids)), key=lambda k: found[k][1])
    one = Chem.Mol(molecule)
    one.RemoveAllConformers()
    one.AddConformer(many.GetConformer(ids[best]), assignId=True)
    return one


def _reason(unsanitised: Mol | None) -> str:
    """Why RDKit refuses a molecule that it could parse, in brackets."""
    Chem = rdkit_chem()
    try:
        if unsanitised is not None:
            Chem.SanitizeMol(unsanitised)
    except (ValueError, RuntimeError) as error:
        return f" ({str(error).strip()})"
    return ""
