"""Settings of internal coordinates."""

from __future__ import annotations

from dataclasses import dataclass

from ..tools.fields import Fields, check_fields
from .isomers import NITROGENS, OMEGAS
from .symmetry import SYMMETRIES
from .turning import Bonds, checked_bonds

MEASURES = ("rigid", "flexible")
CHOICES = {"symmetry": SYMMETRIES, "omega": OMEGAS, "nitrogens": NITROGENS, "measure": MEASURES}


@dataclass(frozen=True, kw_only=True)
class CoordinateSettings(Fields):
    """Settings of internal coordinates: which torsions turn, and how stiff coordinates are scaled.

    Attributes
    ----------
    inflate : float
        One unit of z is this many predicted standard deviations: room for what the harmonic picture underrates.
    softest : float, rad (lengths: relative)
        No coordinate is taken to be wider than this where the Hessian says nothing (a free or unstable direction);
        the periodic torsions count with this width while the stiff coordinates follow them.
    whiten : bool
        Also remove the correlations that the Hessian predicts, not only the widths.
    symmetry : "methyl", "all" or "none"
        Groups of equal atoms of which one labelled sector is sampled: see `coordinates.symmetry`.
    omega : "auto", "as_given", "trans" or "sample"
        Peptide bonds and other amides, by the bond graph: they keep the isomer of the given structure, are turned trans
        first, or turn freely. "auto": those without a hydrogen on the nitrogen turn, unless they link two residues, for
        their sides are near in energy, and a drawing does not say which; all others keep theirs.
    barrier : float, kT
        Other bonds turn if a relaxed scan of the energy climbs no higher, see `coordinates.scans`. Dynamics crosses 12
        kT about once in 26 ns at 300 K (h / kT exp(barrier)).
    turning : pairs of atoms, or SMARTS patterns of two
        Bonds that turn freely whatever their barrier, by numbers of atoms.
    nitrogens : "sample" or "as_given"
        Pyramidal nitrogens whose sides differ invert, or keep the side of the given structure: see
        `coordinates.isomers`.
    measure : "rigid" or "flexible"
        Of molecules with constraints: what rigid dynamics samples, as OpenMM does, or the limit of stiff springs.
    puckers : float, kT
        Minima of rings and pyramidal nitrogens up to so much above the lowest are sampled, see `coordinates.minima`; 0:
        one alone.
    keep : pairs of atoms, or SMARTS patterns of two
        Bonds that keep the side of the given structure whatever their barrier, by numbers of atoms.
    """

    inflate: float = 1.2
    softest: float = 0.3
    whiten: bool = True
    symmetry: str = "methyl"
    omega: str = "auto"
    barrier: float = 12.0
    turning: Bonds = ()
    nitrogens: str = "sample"
    measure: str = "rigid"
    puckers: float = 8.0
    keep: Bonds = ()

    def __post_init__(self) -> None:
        for name in ("turning", "keep"):
            object.__setattr__(self, name, checked_bonds(name, getattr(self, name)))
        check_fields(self, positive=("inflate", "softest"), at_least={"barrier": 0, "puckers": 0})
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"Expected {name} to be one of {known}; got {getattr(self, name)!r}.")
