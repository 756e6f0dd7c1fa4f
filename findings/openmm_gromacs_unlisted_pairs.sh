#!/bin/sh
# OpenMM's GromacsTopFile gives atoms three bonds apart an interaction that [ pairs ] does not list.
#
# Versions:  OpenMM 8.6.1 (app.GromacsTopFile, app.GromacsGroFile), NumPy 2.4.6, Python 3.11; CPU only.
# Date:      2026-11-30
# Input:     a chain of four atoms, nrexcl 3, gen-pairs "yes", fudgeLJ 0.5, fudgeQQ 0.8333; bonds and angles are at rest,
#            no dihedrals. Written twice: with `1 4 1` in [ pairs ], and without a [ pairs ] section.
# Expected:  as the GROMACS manual has it, nrexcl 3 leaves out atoms 1 and 4, and only what [ pairs ] lists comes back;
#            gen-pairs makes the *parameters* of listed pairs that [ pairtypes ] does not have. So -12.65 kJ/mol with the
#            line, and 0 without it.
# Seen:      both files give the same System: one 1-4 exception scaled by fudgeLJ and fudgeQQ, and the same energy. With
#            gen-pairs "no", the file without [ pairs ] has no interaction, as in GROMACS.
# GROMACS itself is not run: what it does is computed here from its manual's formulas.
#
# Exits 0 while this is so, otherwise not.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check openmm==8.6.1 numpy==2.4.6

venv/bin/python - <<'PYTHON'
import math
import sys

import openmm
from openmm import app, unit

TOP = """\
[ defaults ]
; nbfunc  comb-rule  gen-pairs  fudgeLJ  fudgeQQ
  1       2          {generate}        0.5      0.8333

[ atomtypes ]
; name  at.num  mass    charge  ptype  sigma  epsilon
  X     6       14.000  0.0     A      0.35   0.40

[ moleculetype ]
; name   nrexcl
  CHAIN  3

[ atoms ]
; nr  type  resnr  residue  atom  cgnr  charge  mass
  1   X     1      CHN      X1    1      0.2    14.000
  2   X     1      CHN      X2    2     -0.2    14.000
  3   X     1      CHN      X3    3      0.2    14.000
  4   X     1      CHN      X4    4     -0.2    14.000

[ bonds ]
  1  2  1  0.15  200000.0
  2  3  1  0.15  200000.0
  3  4  1  0.15  200000.0
{pairs}
[ angles ]
  1  2  3  1  106.2602  400.0
  2  3  4  1  106.2602  400.0

[ system ]
four atoms

[ molecules ]
CHAIN  1
"""
PAIRS = """
[ pairs ]
  1  4  1
"""
XYZ = [(1.00, 1.00, 1.00), (1.12, 1.09, 1.00), (1.24, 1.00, 1.00), (1.36, 1.09, 1.00)]  # bonds of 0.15 nm, all trans
with open("chain.gro", "w") as file:
    file.write("four atoms\n    4\n")
    for k, (x, y, z) in enumerate(XYZ, 1):
        file.write(f"{1:5d}{'CHN':<5}{f'X{k}':>5}{k:5d}{x:8.3f}{y:8.3f}{z:8.3f}\n")
    file.write(f"{5.0:10.5f}{5.0:10.5f}{5.0:10.5f}\n")


def read(name, generate, pairs):
    """The 1-4 exceptions that are not zero, and the energy, of one topology in OpenMM."""
    with open(name, "w") as file:
        file.write(TOP.format(generate=generate, pairs=pairs))
    gro = app.GromacsGroFile("chain.gro")
    top = app.GromacsTopFile(name, periodicBoxVectors=gro.getPeriodicBoxVectors())
    system = top.createSystem(nonbondedMethod=app.NoCutoff)
    (force,) = (f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    found = []
    for k in range(force.getNumExceptions()):
        i, j, charge, sigma, epsilon = force.getExceptionParameters(k)
        values = [v.value_in_unit_system(unit.md_unit_system) for v in (charge, sigma, epsilon)]
        if values[0] or values[2]:
            found.append((min(i, j) + 1, max(i, j) + 1, *(round(v, 6) for v in values)))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(gro.positions)
    energy = context.getState(getEnergy=True).getPotentialEnergy()
    return found, energy.value_in_unit(unit.kilojoule_per_mole)


distance = math.dist(XYZ[0], XYZ[3])
pair = 138.935458 * 0.8333 * -0.04 / distance + 4 * 0.5 * 0.4 * ((0.35 / distance) ** 12 - (0.35 / distance) ** 6)
cases = [
    ("gen-pairs yes, 1 4 listed", "yes", PAIRS, pair),
    ("gen-pairs yes, no [ pairs ]", "yes", "", 0.0),
    ("gen-pairs no,  no [ pairs ]", "no ", "", 0.0),
]
print(f"OpenMM {openmm.__version__}; energies in kJ/mol, (i, j, charge product, sigma, epsilon)")
seen = []
for k, (title, generate, pairs, gromacs) in enumerate(cases):
    found, energy = read(f"chain{k}.top", generate, pairs)
    print(f"{title}: GROMACS {gromacs:9.4f}, OpenMM {energy:9.4f}; 1-4 exceptions {found}")
    seen.append((found, energy))
(listed, full), (unlisted, extra), (none, rest) = seen
as_stated = (
    abs(full - pair) < 0.01  # the listed pair is as in GROMACS,
    and unlisted == listed and len(unlisted) == 1 and abs(extra - pair) < 0.01  # so is the one that nobody listed,
    and none == [] and abs(rest) < 0.01  # and with gen-pairs "no" it is gone.
)
print("as stated: OpenMM adds the unlisted 1-4 pair" if as_stated else "CHANGED: not as stated at the top of this script")
sys.exit(0 if as_stated else 1)
PYTHON
