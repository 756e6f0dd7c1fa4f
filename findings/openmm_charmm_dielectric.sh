#!/bin/sh
# OpenMM's CharmmParameterSet passes over EPS and RDIE in the NONBONDED line of a CHARMM parameter file.
#
# Versions:  OpenMM 8.6.1 (app.CharmmParameterSet, app.CharmmPsfFile), NumPy 2.4.6, Python 3.11; CPU only.
# Date:      2026-11-30
# Input:     two ions, +1 and -1, 5 angstroms apart: a PSF, and one parameter file written three times, which differs
#            in `CDIE EPS 1.0`, `CDIE EPS 4.0` and `RDIE EPS 1.0` of NONBONDED alone.
# Expected:  in CHARMM the options of NONBONDED become the defaults of the energy: with EPS 4.0 the Coulomb energy is a
#            quarter, with RDIE (dielectric constant EPS * r, r in angstroms) it is a fifth here.
#            A reader without them would stop or warn, as OpenMM's does for an NBXMOD that it does not know.
# Seen:      three times the energy of EPS 1.0, without a warning; E14FAC and NBXMOD of the same line are read.
# CHARMM itself is not run: what it does is computed here.
#
# Exits 0 while this is so, otherwise not.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check openmm==8.6.1 numpy==2.4.6

venv/bin/python - <<'PYTHON'
import sys
import warnings

import openmm
from openmm import app, unit

PSF = """\
PSF

       1 !NTITLE
 REMARKS two ions

       2 !NATOM
       1 IONS 1    CAT  CAT  CAT    1.000000       23.0000           0
       2 IONS 2    ANI  ANI  ANI   -1.000000       35.0000           0

       0 !NBOND: bonds


       0 !NTHETA: angles


       0 !NPHI: dihedrals


       0 !NIMPHI: impropers


       0 !NDON: donors


       0 !NACC: acceptors


       0 !NNB

       0       0

       2       0 !NGRP NST2
       0       2       0       1       2       0

"""
PRM = """\
* two ions
*

ATOMS
MASS  1  CAT  23.00000
MASS  2  ANI  35.00000

NONBONDED NBXMOD 4 ATOM {electrostatics} SWITCH VATOM VDISTANCE VSWITCH -
  CUTNB 999.0 CTOFNB 998.0 CTONNB 997.0 EPS {epsilon} E14FAC 0.75 WMIN 1.5
! type  ignored  epsilon  Rmin/2
CAT     0.0     -0.05     1.40
ANI     0.0     -0.15     2.20

END
"""
with open("ions.psf", "w") as file:
    file.write(PSF)


def read(name, electrostatics, epsilon):
    """The energy in OpenMM in kcal/mol, the warnings, and the options that were read."""
    with open(name, "w") as file:
        file.write(PRM.format(electrostatics=electrostatics, epsilon=epsilon))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parameters = app.CharmmParameterSet(name)
        system = app.CharmmPsfFile("ions.psf").createSystem(parameters, nonbondedMethod=app.NoCutoff)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions([openmm.Vec3(0.0, 0.0, 0.0), openmm.Vec3(0.5, 0.0, 0.0)])
    energy = context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilocalorie_per_mole)
    return energy, [str(w.message) for w in caught], (parameters.nbxmod, parameters.e14fac)


r = 5.0
coulomb = -332.0637 / r
minimum, depth = 1.40 + 2.20, (0.05 * 0.15) ** 0.5
dispersion = depth * ((minimum / r) ** 12 - 2 * (minimum / r) ** 6)
cases = [("CDIE", 1.0, coulomb), ("CDIE", 4.0, coulomb / 4.0), ("RDIE", 1.0, coulomb / r)]
print(f"OpenMM {openmm.__version__}; energies in kcal/mol")
energies, silent, options = [], True, set()
for k, (electrostatics, epsilon, charmm) in enumerate(cases):
    energy, caught, read_options = read(f"ions{k}.prm", electrostatics, epsilon)
    print(
        f"{electrostatics} EPS {epsilon}: CHARMM {charmm + dispersion:9.3f}, OpenMM {energy:9.3f}; "
        f"warnings {caught}; (nbxmod, e14fac) {read_options}"
    )
    energies.append(energy)
    silent = silent and not caught
    options.add(read_options)
as_stated = (
    all(abs(energy - coulomb - dispersion) < 0.05 for energy in energies)  # CHARMM's of EPS 1.0, three times
    and silent
    and options == {(4, 0.75)}  # others of the line arrive
)
print("as stated: EPS and RDIE are passed over" if as_stated else "CHANGED: not as stated at the top of this script")
sys.exit(0 if as_stated else 1)
PYTHON
