"""The ligands of `systems/`: `python systems/make_ligands.py [NAME ...]` makes each anew from SMILES.

It needs openmm_fab[ligand]. Structures are RDKit's, parameters and charges OpenFF's: with other versions of these the
files differ a little.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from openmm_fab import MolecularSystem

ROOT = Path(__file__).resolve().parent
TEMPERATURE = 300.0  # K
FORCEFIELD, CHARGES, SOLVENT = "openff-2.2.1", "nagl", "gbn2"
LIGANDS = {
    "ibuprofen": (
        "CC(C)Cc1ccc(cc1)[C@H](C)C(=O)[O-]",
        "(S)-Ibuprofen as a carboxylate. Four bonds turn: isobutyl, phenyl, and the propionate.",
    ),
    "imatinib": (
        "Cc1ccc(cc1Nc1nccc(n1)-c1cccnc1)NC(=O)c1ccc(cc1)CN1CC[NH+](C)CC1",
        "Imatinib, protonated at the N-methyl of its piperazine, which puckers; aryl bonds, an anilino-pyrimidine and "
        "the bonds beside an amide turn.",
    ),
}
REFERENCE = """
[reference]
trajectory = "reference/reference.dcd"
weights = "reference/reference_weights.npz"
"""


def main(names: list[str]) -> None:
    if unknown := [name for name in names if name not in LIGANDS]:
        raise SystemExit(f"Expected names out of {', '.join(LIGANDS)}; got {', '.join(unknown)}.")
    for name in names or LIGANDS:
        smiles, about = LIGANDS[name]
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / name
            options = {"forcefield": FORCEFIELD, "charges": CHARGES, "solvent": SOLVENT, "temperature": TEMPERATURE}
            system = MolecularSystem.from_smiles(smiles, name, folder=folder, **options)
            (ROOT / name).mkdir(exist_ok=True)
            reference = (ROOT / name / "reference" / "reference.dcd").exists()
            for file in ("input.sdf", "ligand.xml", "system.toml"):
                text = (folder / file).read_text(encoding="utf-8")
                text += REFERENCE if reference and file == "system.toml" else ""
                (ROOT / name / file).write_text(text, encoding="utf-8")
        made = ", ".join(f"{package} {version(package)}" for package in ("rdkit", "openmm"))
        kept = "`reference/` has an ensemble by plain OpenMM." if reference else "There is no reference MD."
        readme = f"""\
# {name.capitalize()}

{about}

- `input.sdf`: {system.n_atoms} atoms, {3 * system.n_atoms - 6} internal degrees of freedom, of
  `{smiles}`:
  of 20 structures by RDKit (ETKDG, seed 0) the one of lowest MMFF94s energy.
- `ligand.xml`: {FORCEFIELD}, charges by NAGL.
- `system.toml`: with `implicit/{SOLVENT}.xml`, {TEMPERATURE:g} K, no constraints.

Made by `python systems/make_ligands.py {name}` ({made}). {kept}
"""
        (ROOT / name / "README.md").write_text(readme, encoding="utf-8")
        print(system)


if __name__ == "__main__":
    main(sys.argv[1:])
