"""Molecules of several residues that are linked in other ways than chains are, as PDB files like those of RDKit.

RDKit embeds them from SMILES; the residues and names of heavy atoms are written here, in the order of the SMILES.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest

ACE, NME = "ACE 1: CH3 C O", "NME 9: N C"
# SMILES, and residues with the names of their heavy atoms as they come.
LINKED = {
    "isopeptide": (
        "CC(=O)N[C@@H](CCCCNC(=O)C)C(=O)NC",
        f"{ACE}; LYS 2: N CA CB CG CD CE NZ; ACE 3: C O CH3; LYS 2: C O; {NME}",
    ),
    "ester": (
        "CC(=O)N[C@@H](COC(=O)C)C(=O)NC",
        f"{ACE}; SER 2: N CA CB OG; ACE 3: C O CH3; SER 2: C O; {NME}",
    ),
    "lactone": (
        "CC(=O)N[C@H]1COC(=O)CNC(=O)CNC1=O",
        f"{ACE}; SER 2: N CA CB OG; GLY 4: C O CA N; GLY 3: C O CA N; SER 2: C O",
    ),
    "thioether": (
        "CC(=O)N[C@@H](CSC[C@@H](NC(C)=O)C(=O)NC)C(=O)NC",
        f"{ACE}; CYS 2: N CA CB SG; ALA 4: CB CA N; ACE 3: C CH3 O; ALA 4: C O; NME 5: N C; CYS 2: C O; {NME}",
    ),
    "N-glycan": (
        "CC(=O)N[C@@H](CC(=O)N[C@@H]1O[C@H](CO)[C@@H](O)[C@H](O)[C@H]1NC(C)=O)C(=O)NC",
        f"{ACE}; ASN 2: N CA CB CG OD1 ND2; NAG 3: C1 O5 C5 C6 O6 C4 O4 C3 O3 C2 N2 C7 C8 O7; ASN 2: C O; {NME}",
    ),
    "disaccharide": (
        "OC[C@H]1O[C@@H](O[C@H]2[C@H](O)[C@@H](O)[C@H](O)O[C@@H]2CO)[C@H](O)[C@@H](O)[C@H]1O",
        "GAL 1: O6 C6 C5 O5 C1; GLC 2: O4 C4 C3 O3 C2 O2 C1 O1 O5 C5 C6 O6; GAL 1: C2 O2 C3 O3 C4 O4",
    ),
    "SEP": ("CC(=O)N[C@@H](COP(=O)([O-])[O-])C(=O)NC", f"{ACE}; SEP 2: N CA CB OG P O1P O2P O3P C O; {NME}"),
    "TPO": (
        "CC(=O)N[C@@H]([C@@H](C)OP(=O)([O-])[O-])C(=O)NC",
        f"{ACE}; TPO 2: N CA CB CG2 OG1 P O1P O2P O3P C O; {NME}",
    ),
    "PTR": (
        "CC(=O)N[C@@H](Cc1ccc(OP(=O)([O-])[O-])cc1)C(=O)NC",
        f"{ACE}; PTR 2: N CA CB CG CD1 CE1 CZ OH P O1P O2P O3P CE2 CD2 C O; {NME}",
    ),
    "D-valine": ("CC(=O)N[C@H](C(C)C)C(=O)NC", f"{ACE}; DVA 2: N CA CB CG1 CG2 C O; {NME}"),
    "ring": (
        "O=C1CNC(=O)[C@H](C)NC(=O)[C@@H](CO)N1",
        "GLY 3: O C CA N; ALA 2: C O CA CB N; DSN 1: C O CA CB OG N",
    ),
}


@cache
def molecule(name: str) -> tuple[Any, list[tuple[str, int, str]]]:
    """RDKit's molecule with hydrogens behind all heavy atoms, and residue, number and name of each atom."""
    Chem = pytest.importorskip("rdkit.Chem")
    AllChem = pytest.importorskip("rdkit.Chem.AllChem")
    smiles, text = LINKED[name]
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    AllChem.MMFFOptimizeMolecule(mol, maxIters=2000)
    names = []
    for part in text.split("; "):
        head, atoms = part.split(": ")
        names += [(head.split()[0], int(head.split()[1]), atom) for atom in atoms.split()]
    count: Counter[tuple[str, int]] = Counter()
    for atom in list(mol.GetAtoms())[len(names) :]:
        residue = names[atom.GetNeighbors()[0].GetIdx()][:2]
        count[residue] += 1
        names.append((*residue, f"H{count[residue]}"))
    return mol, names


def pdb(name: str, conect: bool = False, last: bool = True) -> str:
    """Atoms by residue; hydrogens behind all residues (`last`), as RDKit and Open Babel write them, or in them."""
    mol, names = molecule(name)
    x, atoms = mol.GetConformer().GetPositions(), list(mol.GetAtoms())
    order = sorted(range(len(names)), key=lambda k: (last and atoms[k].GetAtomicNum() == 1, names[k][1], k))
    serial = {k: number for number, k in enumerate(order, start=1)}
    lines = []
    for k in order:
        residue, number, atom = names[k]
        place = "".join(f"{value:8.3f}" for value in x[k])
        text = f" {atom:<3}" if len(atom) < 4 else atom
        head = f"HETATM{serial[k]:5d} {text} {residue:>3} A{number:4d}    {place}"
        lines.append(f"{head}  1.00  0.00          {atoms[k].GetSymbol():>2}")
    bonds = [(serial[b.GetBeginAtomIdx()], serial[b.GetEndAtomIdx()]) for b in mol.GetBonds()]
    lines += [f"CONECT{i:5d}{j:5d}" for i, j in bonds] if conect else []
    return "\n".join([*lines, "END\n"])
