"""Averages that are asked for of small molecules, each with its error: hydrogen bonds, NOE distances, couplings, ...

Any other is `ensemble.expectation(f)`, f a function of an mdtraj.Trajectory: `mdtraj.compute_rg`.
"""

from __future__ import annotations

from collections.abc import Sequence

import mdtraj
import numpy as np
import openmm
from numpy.typing import ArrayLike

from ..molecule.graph import BondGraph, graph_of
from ..molecule.openmm_private import magnitude
from ..molecule.system import MolecularSystem
from ..tools.vectors import bond_angle
from ..weights import Estimate
from .weighted import Weighted

DEBYE = 48.03204712570263  # of one e nm: 1.602176634e-19 C * 1e-9 m / 3.33564095e-30 C m
# Karplus' A, B and C in Hz, J = A cos^2 + B cos + C of the torsion itself, by the atoms along it.
KARPLUS = {
    "HNCH": (7.09, -1.42, 1.55),  # Hu and Bax, J. Am. Chem. Soc. 119, 6360 (1997): H-N-CA-HA
    "HCCH": (9.5, -1.6, 1.8),  # de Marco, Llinas and Wuthrich, Biopolymers 17, 617 (1978): HA-CA-CB-HB
}
NEAR, STRAIGHT = 0.25, 120.0  # nm from H to acceptor, degrees at H: Baker and Hubbard, Prog. Biophys. 44, 97 (1984)
APART = 3  # bonds at least between donor and acceptor, which close a ring of five atoms
PROBE = 0.14  # nm, water

Group = int | Sequence[int]


def hydrogen_bonds(ensemble: Weighted, near: float = NEAR, *, straight: float = STRAIGHT) -> dict[str, Estimate]:
    """Share of the ensemble with each intramolecular hydrogen bond, by its atoms, "N3-H17...O9", most frequent first.

    Donors are N, O and S with hydrogen; acceptors are O, and N with a lone pair that is not an amide's or an aniline's:
    at most two neighbours, or three that are not in one plane. Bonds that no frame with weight has are left out.

    Parameters
    ----------
    near : float, nm
        Largest distance from hydrogen to acceptor.
    straight : float, degrees
        Smallest angle donor-hydrogen-acceptor.
    """
    if not near > 0.0 or not 0.0 <= straight < 180.0:
        raise ValueError(f"Expected near above 0 nm and an angle of 0 to 180 degrees; got {near} and {straight}.")
    x, graph, atoms = ensemble.x, graph_of(ensemble.topology), list(ensemble.topology.atoms)
    kept = ensemble.weights > 0.0
    found = {}
    for donor, hydrogen in _donors(graph):
        far = graph.distances(donor)
        for acceptor in _acceptors(graph, x[kept][:20]):
            if far.get(acceptor, 0) < APART:
                continue
            distance = np.linalg.norm(x[:, hydrogen] - x[:, acceptor], axis=-1)
            angle = np.degrees(bond_angle(x[:, donor], x[:, hydrogen], x[:, acceptor]))
            mask = (distance < near) & (angle > straight)
            if (mask & kept).any():
                name = f"{atoms[donor].name}-{atoms[hydrogen].name}...{atoms[acceptor].name}"
                found[name] = ensemble.expectation(mask)
    return dict(sorted(found.items(), key=lambda item: -item[1].value))


def noe_distances(ensemble: Weighted, pairs: Sequence[tuple[Group, Group]]) -> Estimate:
    """<r^-6>^(-1/6), nm, (pairs,), of atoms or groups of equal atoms, (0, (5, 6, 7)) for one and a methyl.

    Over a group r^-6 is averaged. It is what NOE intensities show where the molecule tumbles faster than it changes its
    shape; a few frames with short distances rule it, and its error.
    """
    columns = []
    for first, second in pairs:
        one, other = (np.atleast_1d(np.asarray(group, dtype=int)) for group in (first, second))
        r = np.linalg.norm(ensemble.x[:, one][:, :, None] - ensemble.x[:, other][:, None], axis=-1)
        columns.append((r.astype(np.float64) ** -6).mean((1, 2)))
    if not columns:
        raise ValueError("Expected pairs of atoms or groups; got none.")
    mean = ensemble.expectation(np.stack(columns, axis=1))
    value = np.asarray(mean.value) ** (-1 / 6)
    return Estimate(value, value / np.asarray(mean.value) * np.asarray(mean.error) / 6)


def couplings(
    ensemble: Weighted, torsions: str | ArrayLike, *, karplus: str | tuple[float, float, float] = "HCCH"
) -> Estimate:
    """3-J couplings by Karplus' equation, A cos^2 + B cos + C, Hz, (torsions,).

    Parameters
    ----------
    torsions : SMARTS, or atom indices (i, j, k, l) or (torsions, 4)
        From nucleus to nucleus: `"[H][C][C][H]"`.
    karplus : str or (A, B, C), Hz
        A key of `KARPLUS`, where their sources stand, or numbers of your own. They are of amino acids; beside
        electronegative groups they are off by a few Hz.
    """
    if isinstance(karplus, str):
        if karplus not in KARPLUS:
            raise ValueError(f"Expected a parametrisation out of {', '.join(KARPLUS)}, or A, B and C; got {karplus!r}.")
        karplus = KARPLUS[karplus]
    a, b, c = karplus
    cosine = np.cos(ensemble.torsions(torsions))
    return ensemble.expectation(a * cosine**2 + b * cosine + c)


def dipole(ensemble: Weighted, system: MolecularSystem) -> Estimate:
    """Mean length of the dipole moment, debye, of the fixed charges of the system; of ions about the centre of mass.

    Raises
    ------
    ValueError
        A system of other atoms, or without a NonbondedForce.
    """
    forces = [force for force in system.system.getForces() if isinstance(force, openmm.NonbondedForce)]
    if len(forces) != 1 or system.n_atoms != ensemble.topology.n_atoms:
        raise ValueError(
            f"Expected a system of {ensemble.topology.n_atoms} atoms with one NonbondedForce, whose charges are taken; "
            f"got {system.n_atoms} atoms and {len(forces)}."
        )
    charges = [forces[0].getParticleParameters(i)[0] for i in range(system.n_atoms)]
    q = np.array([magnitude(charge) for charge in charges])
    mass = system.element_masses / system.element_masses.sum()
    centred = ensemble.x - np.einsum("a,nai->ni", mass, ensemble.x)[:, None]
    return ensemble.expectation(DEBYE * np.linalg.norm(np.einsum("a,nai->ni", q, centred), axis=-1))


def polar_surface(ensemble: Weighted, probe: float = PROBE) -> Estimate:
    """3-D polar surface, nm^2: of nitrogen, oxygen and the hydrogens on them, by mdtraj's Shrake-Rupley.

    Parameters
    ----------
    probe : float, nm
        0.14 for the solvent-accessible surface; 0 for that of the van der Waals spheres.
    """
    graph = graph_of(ensemble.topology)
    polar = [
        i
        for i, element in enumerate(graph.elements)
        if element in ("N", "O")
        or (element == "H" and any(graph.elements[j] in ("N", "O") for j in graph.neighbours[i]))
    ]
    kept = np.flatnonzero(ensemble.weights > 0.0)
    surface = np.zeros(ensemble.n)
    trajectory = mdtraj.Trajectory(ensemble.x[kept], ensemble.topology)
    surface[kept] = mdtraj.shrake_rupley(trajectory, probe_radius=probe)[:, polar].sum(1)
    return ensemble.expectation(surface)


def _donors(graph: BondGraph) -> list[tuple[int, int]]:
    """Donor and hydrogen of every N-H, O-H and S-H."""
    polar = [i for i, element in enumerate(graph.elements) if element in ("N", "O", "S")]
    return [(i, j) for i in polar for j in graph.neighbours[i] if graph.elements[j] == "H"]


def _acceptors(graph: BondGraph, few: np.ndarray) -> list[int]:
    """Oxygens, and nitrogens with a lone pair, see `hydrogen_bonds`; some frames tell flat ones."""

    def lone_pair(i: int) -> bool:
        around = graph.neighbours[i]
        if len(around) < 3:
            return True
        if len(around) > 3 or not len(few):
            return False
        arms = few[:, around]
        angles = sum(bond_angle(arms[:, k], few[:, i], arms[:, (k + 1) % 3]) for k in range(3))
        return bool(np.median(np.degrees(angles)) < 345.0)

    return [i for i, e in enumerate(graph.elements) if e == "O" or (e == "N" and lone_pair(i))]
