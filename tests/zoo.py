"""A zoo of molecules of different make, for tests: `ZOO` maps a name to a function that makes one.

Peptides are built like those in `peptides.py`; all others come from a SMILES string by RDKit (ETKDG, then MMFF94s,
whose conjugated nitrogens are planar). `load` keeps what was made. No structure here comes from the package.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import molecules as m
import numpy as np
from openmm import unit
from peptides import _BETA, _GAMMA, SIDE_CHAINS, peptide

MASSES = m.MASSES | {"P": 30.974, "Cl": 35.45}


@dataclass(frozen=True, eq=False)
class Molecule(m.Molecule):
    """With more elements; names ("ALA:CA") of a peptide's atoms."""

    names: tuple[str, ...] = ()

    @property
    def masses(self) -> np.ndarray:
        return np.array([MASSES[e] for e in self.elements])


# --- peptides ---

SIDE_CHAINS.update(  # `peptide` builds from this table
    {
        "SER": (_BETA, ("OG", "CB", "CA", "N", 0.142, 110.8, 60.0)),
        "VAL": (_BETA, ("CG1", "CB", "CA", "N", 0.152, 110.9, 180.0), ("CG2", "CB", "CA", "N", 0.152, 110.9, -60.0)),
        "LEU": (
            *(_BETA, ("CG", "CB", "CA", "N", 0.153, 116.3, -65.0)),
            ("CD1", "CG", "CB", "CA", 0.152, 110.5, 175.0),
            ("CD2", "CG", "CB", "CA", 0.152, 110.5, -62.0),
        ),
        "ILE": (  # 3S
            *(_BETA, ("CG1", "CB", "CA", "N", 0.153, 110.4, -60.0), ("CG2", "CB", "CA", "N", 0.152, 110.5, 177.0)),
            ("CD1", "CG1", "CB", "CA", 0.152, 113.8, 170.0),
        ),
        "ASN": (
            *(_BETA, _GAMMA),
            ("OD1", "CG", "CB", "CA", 0.123, 120.8, -20.0),
            ("ND2", "CG", "CB", "CA", 0.133, 116.4, 160.0),
        ),
        "GLN": (
            *(_BETA, _GAMMA, ("CD", "CG", "CB", "CA", 0.152, 112.6, 180.0)),
            ("OE1", "CD", "CG", "CB", 0.123, 120.8, -20.0),
            ("NE2", "CD", "CG", "CB", 0.133, 116.4, 160.0),
        ),
        "ARG": (
            *(
                _BETA,
                _GAMMA,
                ("CD", "CG", "CB", "CA", 0.152, 111.3, 180.0),
                ("NE", "CD", "CG", "CB", 0.146, 112.0, 180.0),
            ),
            ("CZ", "NE", "CD", "CG", 0.133, 124.2, 180.0),
            ("NH1", "CZ", "NE", "CD", 0.133, 120.0, 0.0),
            ("NH2", "CZ", "NE", "CD", 0.133, 120.0, 180.0),
        ),
    }
)
AMINO_ACIDS = tuple(sorted(SIDE_CHAINS))


def _sequence(seed: int) -> tuple[str, ...]:
    """3 + seed residues drawn at random; every other peptide is capped, the rest are zwitterions."""
    residues = random.Random(seed).choices(AMINO_ACIDS, k=3 + seed)
    return ("ACE", *residues, "NME") if seed % 2 else tuple(residues)


PEPTIDES = {
    "-".join(residues): residues
    for residues in [*(("ACE", name, "NME") for name in AMINO_ACIDS), *(_sequence(seed) for seed in range(6))]
}


def from_sequence(residues: tuple[str, ...]) -> Molecule:
    found = peptide(residues)
    atoms = list(found.topology.atoms())
    bonds = np.array([(a.index, b.index) for a, b in found.topology.bonds()])
    positions = np.array(found.positions.value_in_unit(unit.nanometer), dtype=float)
    names = tuple(f"{a.residue.name}:{a.name}" for a in atoms)
    return Molecule([a.element.symbol for a in atoms], bonds, positions, names)


# --- the rest ---

NUCLEOSIDES = {
    "adenosine": "Nc1ncnc2c1ncn2[C@@H]1O[C@H](CO)[C@@H](O)[C@H]1O",
    "cytidine": "NC1=NC(=O)N(C=C1)[C@@H]1O[C@H](CO)[C@@H](O)[C@H]1O",
    "guanosine": "Nc1nc2c(ncn2[C@@H]2O[C@H](CO)[C@@H](O)[C@H]2O)c(=O)[nH]1",
    "uridine": "O=c1ccn([C@@H]2O[C@H](CO)[C@@H](O)[C@H]2O)c(=O)[nH]1",
    "deoxythymidine": "Cc1cn([C@H]2C[C@H](O)[C@@H](CO)O2)c(=O)[nH]c1=O",
}
SUGARS = {
    "alpha-glucose": "OC[C@H]1O[C@H](O)[C@H](O)[C@@H](O)[C@@H]1O",
    "beta-glucose": "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O",
    "fructofuranose": "OC[C@H]1O[C@](O)(CO)[C@@H](O)[C@@H]1O",
    "fructopyranose": "OC[C@@]1(O)OC[C@@H](O)[C@@H](O)[C@@H]1O",
    "sucrose": "OC[C@H]1O[C@H](O[C@]2(CO)O[C@H](CO)[C@@H](O)[C@@H]2O)[C@H](O)[C@@H](O)[C@@H]1O",
    "lactose": "OC[C@H]1O[C@@H](O[C@H]2[C@H](O)[C@@H](O)[C@H](O)O[C@@H]2CO)[C@H](O)[C@@H](O)[C@H]1O",
}
DRUGS = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "paracetamol": "CC(=O)Nc1ccc(O)cc1",
    "ibuprofen": "CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O",
    "caffeine": "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "nicotine": "CN1CCC[C@H]1c1cccnc1",
    "diazepam": "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
    "penicillin G": "CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)O",
    "testosterone": "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@]34C)[C@@H]1CC[C@@H]2O",
    "ethinylestradiol": "C[C@]12CC[C@H]3[C@@H](CCc4cc(O)ccc43)[C@@H]1CC[C@@]2(O)C#C",
    "morphine": "CN1CC[C@]23c4c5ccc(O)c4O[C@H]2[C@@H](O)C=C[C@H]3[C@H]1C5",
    "cocaine": "CN1[C@H]2CC[C@@H]1[C@H]([C@H](C2)OC(=O)c3ccccc3)C(=O)OC",
    "artemisinin": "C[C@@H]1CC[C@H]2[C@H](C(=O)O[C@H]3[C@@]24[C@H]1CC[C@](O3)(OO4)C)C",
    "biotin": "OC(=O)CCCC[C@@H]1SC[C@@H]2NC(=O)N[C@H]12",
    "griseofulvin": "COC1=CC(=O)C[C@@H](C)[C@]12Oc1c(Cl)c(OC)cc(OC)c1C2=O",
    "omeprazole": "COc1ccc2[nH]c([S@@](=O)Cc3ncc(C)c(OC)c3C)nc2c1",
    "terbinafine": "CN(C/C=C/C#CC(C)(C)C)Cc1cccc2ccccc12",
    "sulfanilamide": "Nc1ccc(cc1)S(N)(=O)=O",
    "sulfamethoxazole": "Cc1cc(NS(=O)(=O)c2ccc(N)cc2)no1",
    "metformin": "CN(C)C(=N)NC(N)=N",
    "acetylcholine": "CC(=O)OCC[N+](C)(C)C",
    "erythromycin": (
        "CC[C@@H]1[C@@]([C@@H]([C@H](C(=O)[C@@H](C[C@@]([C@@H]([C@H]([C@@H]([C@H](C(=O)O1)C)O[C@H]2C[C@@]([C@H]"
        "([C@@H](O2)C)O)(C)OC)C)O[C@H]3[C@@H]([C@H](C[C@H](O3)C)N(C)C)O)(C)O)C)C)O)(C)O"
    ),
}
CAGES_AND_RINGS = {
    "spiro[4.5]decane": "C1CCC2(C1)CCCCC2",
    "norbornane": "C1CC2CCC1C2",
    "adamantane": "C1C2CC3CC1CC(C2)C3",
    "cubane": "C12C3C4C1C5C2C3C45",
    "camphor": "CC1(C)[C@@H]2CC[C@@]1(C)C(=O)C2",
    "[1.1.1]propellane": "C1C23C1(C2)C3",
    "cyclododecane": "C1CCCCCCCCCCC1",
    "18-crown-6": "C1COCCOCCOCCOCCOCCO1",
    "[2.2]paracyclophane": "C1Cc2ccc(CCc3ccc1cc3)cc2",
    "cyclodecyne": "C1CCCCC#CCCC1",
    "cyclononyne": "C1CCCCC#CCC1",
    "strychnine": "C1CN2CC3=CCO[C@H]4CC(=O)N5[C@H]6[C@H]4[C@H]3C[C@H]2[C@@]61C7=CC=CC=C75",
    "C60": (
        "c12c3c4c5c1c6c7c8c2c9c1c3c2c3c4c4c%10c5c5c6c6c7c7c%11c8c9c8c9c1c2c1c2c3c4c3c4c%10c5c5c6c6c7c7c%11c8c8c9c1c1c2"
        "c3c2c4c5c6c3c7c8c1c23"
    ),
    "cyclotriglycine": "C1NC(=O)CNC(=O)CNC1=O",
}
GROUPS = {
    "pentanenitrile": "CCCCC#N",
    "2-pentyne": "CC#CCC",
    "penta-2,3-diene": "CC=C=CC",
    "2,3,4-hexatriene": "CC=C=C=CC",
    "tolane": "c1ccccc1C#Cc1ccccc1",
    "dimethyl disulfide": "CSSC",
    "benzyl azide": "c1ccccc1CN=[N+]=[N-]",
    "phenyl isocyanate": "c1ccccc1N=C=O",
    "dimethyl phosphate": "COP(=O)([O-])OC",
    "methyl triphosphate": "COP(=O)([O-])OP(=O)([O-])OP(=O)([O-])[O-]",
    "methionine sulfoxide": "C[S@](=O)CC[C@H](N)C(=O)O",
    "nitrobenzene": "c1ccccc1[N+](=O)[O-]",
    "biphenyl": "c1ccc(cc1)-c1ccccc1",
    "butadiene": "C=CC=C",
    "stilbene": "c1ccccc1/C=C/c1ccccc1",
    "azobenzene": "c1ccccc1/N=N/c1ccccc1",
    "acetophenone oxime": "C/C(=N\\O)c1ccccc1",
}
SMILES = NUCLEOSIDES | SUGARS | DRUGS | CAGES_AND_RINGS | GROUPS


def rdkit_molecule(name: str) -> Any:
    """RDKit's graph, hydrogens included, in the order of the atoms in the zoo."""
    try:
        from rdkit import Chem
    except ImportError as error:
        raise ImportError(f"Expected RDKit, which makes {name}; got none. pip install openmm_fab[test].") from error
    return Chem.AddHs(Chem.MolFromSmiles(SMILES[name]))


def from_smiles(name: str) -> Molecule:
    graph = rdkit_molecule(name)
    from rdkit.Chem import AllChem

    strained = {"useRandomCoords": True, "useBasicKnowledge": False, "useExpTorsionAnglePrefs": False}
    attempts = (AllChem.EmbedMolecule(graph, randomSeed=1, **options) for options in ({"maxAttempts": 50}, strained))
    if 0 not in attempts:  # the first structure found is kept
        raise RuntimeError(f"Expected ETKDG to find a structure of {name}; got none. Try another seed.")
    if AllChem.MMFFOptimizeMolecule(graph, mmffVariant="MMFF94s", maxIters=5000) != 0:
        raise RuntimeError(f"Expected MMFF94s to find a minimum of {name}; got none. Try more steps.")
    bonds = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in graph.GetBonds()])
    return Molecule([a.GetSymbol() for a in graph.GetAtoms()], bonds, 0.1 * graph.GetConformer().GetPositions())


ZOO: dict[str, Callable[[], Molecule]] = {
    **{name: partial(from_sequence, residues) for name, residues in PEPTIDES.items()},
    **{name: partial(from_smiles, name) for name in SMILES},
}


@cache
def load(name: str) -> Molecule:
    """Made once a session. Shared by all tests: do not change it."""
    return ZOO[name]()
