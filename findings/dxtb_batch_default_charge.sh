#!/bin/sh
# A batch of dxtb without total charges is taken for one of two structures.
#
# Versions:  dxtb 0.4.0, tad-mctc 0.7.0, tad-multicharge 0.5.0, PyTorch 2.13.0; Python 3.11.
# Date:      2026-12-01
# Input:     one, two and three hydrogen molecules of slightly different length as a batch (batch_mode=1), GFN1-xTB, with
#            the total charge left at its default and with it given as a 0 for each structure, of shape (n, 1).
# Expected:  the charge is 0 by default, by signature and documentation: the same energies with and without, for any number of structures.
# Seen:      with charges the energies of all batches; without them those of two structures only, and a RuntimeError
#            about sizes of tensors for one and three.
#
# Exits 0 while this is so, otherwise not.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 dxtb==0.4.0 tad-mctc==0.7.0 tad-multicharge==0.5.0 tad-dftd3==0.6.0 \
    tad-dftd4==0.8.0 numpy==1.26.4 scipy==1.17.1

venv/bin/python - <<'PYTHON'
import sys

import dxtb
import torch

hydrogen = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.4]], dtype=torch.float64)  # bohr


def energies(n, charges):
    numbers = torch.ones(n, 2, dtype=torch.long)
    positions = torch.stack([hydrogen * (1.0 + 0.05 * k) for k in range(n)])
    options = {"verbosity": 0, "batch_mode": 1}
    calculator = dxtb.Calculator(numbers, dxtb.GFN1_XTB, dtype=torch.float64, opts=options)
    return calculator.get_energy(positions, **charges)


found = {}
for n in (1, 2, 3):
    given = energies(n, {"chrg": torch.zeros(n, 1, dtype=torch.float64)})
    try:
        found[n] = bool(torch.allclose(energies(n, {}), given))
    except RuntimeError as error:
        found[n] = str(error)
    print(f"{n} structures: with charges {[round(e, 6) for e in given.tolist()]} hartree; without:", found[n])
sys.exit(not (found[2] is True and all(isinstance(found[n], str) for n in (1, 3))))
PYTHON
