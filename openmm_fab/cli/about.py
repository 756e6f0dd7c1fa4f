"""openmm-fab cite."""

from __future__ import annotations

import typer

BIBTEX = r"""@inproceedings{midgley2023flow,
  title     = {Flow Annealed Importance Sampling Bootstrap},
  author    = {Midgley, Laurence Illing and Stimper, Vincent and Simm, Gregor N. C. and Sch{\"o}lkopf, Bernhard and
               Hern{\'a}ndez-Lobato, Jos{\'e} Miguel},
  booktitle = {International Conference on Learning Representations},
  year      = {2023},
  note      = {arXiv:2208.01893}
}

@software{openmm_fab,
  title   = {openmm\_fab: Boltzmann ensembles and free energies from an OpenMM energy alone},
  author  = {{The openmm\_fab developers}},
  version = {0.1.0},
  license = {MIT}
}
"""
BESIDES = """What else to cite where it was used:
any energy      Eastman et al., OpenMM 8, J. Phys. Chem. B 128, 109, 2024
k-hat           Vehtari, Simpson, Gelman, Yao, Gabry, JMLR 25, 2024 (arXiv 1507.02646)
BAR, MBAR       Bennett, J. Comput. Phys. 22, 245, 1976; Shirts, Chodera, J. Chem. Phys. 129, 124105, 2008
openmmtools     its replica exchange: Chodera, Shirts, J. Chem. Phys. 135, 194110, 2011"""


def cite() -> None:
    """Print what to cite: BibTeX of the software and of the method's paper, and what else where it was used.

    \b
    Examples:
      openmm-fab cite
    """
    typer.echo(f"{BIBTEX}\n{BESIDES}")
