"""Small molecules for tests, as bond graphs with idealised geometries; none of them comes from the package."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_fab.molecule.graph import BondGraph

MASSES = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999, "F": 18.998, "S": 32.06}
TETRAHEDRAL = 109.471
CH, CC, AROMATIC = 0.109, 0.153, 0.139  # nm


@dataclass(frozen=True, eq=False)
class Molecule:
    """Elements, masses, bonds (n_bonds, 2) and positions (n_atoms, 3) in nm."""

    elements: list[str]
    bonds: np.ndarray
    positions: np.ndarray

    @property
    def masses(self) -> np.ndarray:
        return np.array([MASSES[e] for e in self.elements])

    @property
    def graph(self) -> BondGraph:
        return BondGraph(self.elements, self.bonds)

    def permuted(self, order: np.ndarray) -> Molecule:
        """Atom k of the result is atom order[k]."""
        new = np.argsort(order)
        return Molecule([self.elements[i] for i in order], new[self.bonds], self.positions[order])


def build(*rows: tuple, closures: tuple[tuple[int, int], ...] = ()) -> Molecule:
    """Rows (element, bond, angle, torsion, length in nm, angle in deg, torsion in deg), shorter for the first three."""
    x: list[np.ndarray] = []
    for row in rows:
        if len(x) == 0:
            x.append(np.zeros(3))
        elif len(x) == 1:
            x.append(np.array([row[2], 0.0, 0.0]))
        elif len(x) == 2:
            b, a = x[row[1]], x[row[2]]
            theta, way = np.deg2rad(row[4]), (a - b) / np.linalg.norm(a - b)
            x.append(b + row[3] * (np.cos(theta) * way + np.sin(theta) * np.array([0.0, 1.0, 0.0])))
        else:
            b, a, t = (x[k] for k in row[1:4])
            theta, phi = np.deg2rad(row[5]), np.deg2rad(row[6])
            axis = (b - a) / np.linalg.norm(b - a)
            across = (t - a) - (t - a) @ axis * axis  # phi = 0 is on the torsion partner's side
            across /= np.linalg.norm(across)
            turned = np.cos(phi) * across + np.sin(phi) * np.cross(axis, across)
            x.append(b + row[4] * (-np.cos(theta) * axis + np.sin(theta) * turned))
    bonds = [(k, row[1]) for k, row in enumerate(rows) if k > 0] + list(closures)
    return Molecule([row[0] for row in rows], np.array(bonds), np.array(x))


def _hydrogens(carbon: int, angle: int, torsion: int, *phis: float, theta: float = TETRAHEDRAL) -> list[tuple]:
    return [("H", carbon, angle, torsion, CH, theta, phi) for phi in phis]


CARBON_MONOXIDE = build(("C",), ("O", 0, 0.113))
WATER = build(("O",), ("H", 0, 0.096), ("H", 0, 1, 0.096, 104.5))
CARBON_DIOXIDE = build(("C",), ("O", 0, 0.116), ("O", 0, 1, 0.116, 180.0))
METHANE = build(("C",), ("H", 0, CH), ("H", 0, 1, CH, TETRAHEDRAL), *_hydrogens(0, 1, 2, 120, -120))
HYDROGEN_PEROXIDE = build(("O",), ("O", 0, 0.147), ("H", 0, 1, 0.097, 100.0), ("H", 1, 0, 2, 0.097, 100.0, 112.0))
ETHANE = build(
    ("C",),
    ("C", 0, CC),
    ("H", 0, 1, CH, TETRAHEDRAL),
    *_hydrogens(0, 1, 2, 120, -120),
    *_hydrogens(1, 0, 2, 60, 180, -60),
)
ETHYLENE = build(
    ("C",),
    ("C", 0, 0.134),
    ("H", 0, 1, CH, 121.0),
    *_hydrogens(0, 1, 2, 180, theta=121.0),
    *_hydrogens(1, 0, 2, 0, 180, theta=121.0),
)
BUTANE = build(
    ("C",),
    ("C", 0, CC),
    ("C", 1, 0, CC, 112.0),
    ("C", 2, 1, 0, CC, 112.0, 180.0),
    *_hydrogens(0, 1, 2, 60, 180, -60),
    *_hydrogens(1, 2, 3, 60, -60),
    *_hydrogens(2, 1, 0, 60, -60),
    *_hydrogens(3, 2, 1, 60, 180, -60),
)
TOLUENE = build(
    ("C",),
    ("C", 0, AROMATIC),
    ("C", 1, 0, AROMATIC, 120.0),
    ("C", 2, 1, 0, AROMATIC, 120.0, 0.0),
    ("C", 3, 2, 1, AROMATIC, 120.0, 0.0),
    ("C", 4, 3, 2, AROMATIC, 120.0, 0.0),
    ("C", 0, 1, 2, CC, 120.0, 180.0),
    *_hydrogens(6, 0, 1, 90, 210, 330),
    *(("H", k, k - 1, (k + 1) % 6, CH, 120.0, 180.0) for k in range(1, 6)),
    closures=((5, 0),),
)
CYCLOHEXANE = build(  # the chair
    ("C",),
    ("C", 0, CC),
    ("C", 1, 0, CC, 111.4),
    ("C", 2, 1, 0, CC, 111.4, 55.0),
    ("C", 3, 2, 1, CC, 111.4, -55.0),
    ("C", 4, 3, 2, CC, 111.4, 55.0),
    *(row for k in range(6) for row in _hydrogens(k, (k - 1) % 6, (k + 1) % 6, 120, -120)),
    closures=((5, 0),),
)
ACETONITRILE = build(
    ("C",), ("C", 0, 0.146), ("H", 0, 1, CH, 110.0), *_hydrogens(0, 1, 2, 120, -120), ("N", 1, 0, 2, 0.116, 180.0, 0.0)
)
PROPYNE = build(
    ("C",),
    ("C", 0, 0.146),
    ("H", 0, 1, CH, 110.0),
    *_hydrogens(0, 1, 2, 120, -120),
    ("C", 1, 0, 2, 0.12, 180.0, 0.0),
    ("H", 5, 1, 2, 0.106, 180.0, 0.0),
)
ACETYLENE = build(("C",), ("C", 0, 0.12), ("H", 0, 1, 0.106, 180.0), ("H", 1, 0, 2, 0.106, 180.0, 0.0))


def _placed(elements: str, positions: list[list[float]], bonds: list[tuple[int, int]]) -> Molecule:
    return Molecule(elements.split(), np.array(bonds), np.array(positions))


def _around(x: float, y: float, z: float, length: float, theta: float, phis: tuple[float, ...]) -> list[list[float]]:
    """Places about an axis along x; theta from +x, degrees."""
    t = np.deg2rad(theta)
    return [
        [x + length * np.cos(t), y + length * np.sin(t) * np.cos(p), z + length * np.sin(t) * np.sin(p)]
        for p in np.deg2rad(phis)
    ]


HEXADIYNE = _placed(  # CH3-C#C-C#C-CH3
    "C C C C C C H H H H H H",
    [[x, 0, 0] for x in (0.0, 0.146, 0.266, 0.404, 0.524, 0.67)]
    + _around(0.0, 0, 0, CH, 110.0, (0, 120, 240))
    + _around(0.67, 0, 0, CH, 70.0, (20, 140, 260)),
    [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 6), (0, 7), (0, 8), (5, 9), (5, 10), (5, 11)],
)
ALLENE = _placed(
    "C C C H H H H",
    [
        [0, 0, 0],
        [0.131, 0, 0],
        [0.262, 0, 0],
        *_around(0, 0, 0, CH, 121.0, (0, 180)),
        *_around(0.262, 0, 0, CH, 59.0, (90, 270)),
    ],
    [(0, 1), (1, 2), (0, 3), (0, 4), (2, 5), (2, 6)],
)
SULFUR_HEXAFLUORIDE = _placed(
    "S F F F F F F",
    [[0, 0, 0], *(0.156 * np.concatenate([np.eye(3), -np.eye(3)])).tolist()],
    [(0, k) for k in range(1, 7)],
)
METHYL_SF5 = _placed(
    "S C F F F F F H H H",
    [
        [0, 0, 0],
        [0.18, 0, 0],
        [-0.157, 0, 0],
        *_around(0, 0, 0, 0.157, 90.0, (0, 90, 180, 270)),
        *_around(0.18, 0, 0, CH, 70.0, (45, 165, 285)),
    ],
    [(0, k) for k in range(1, 7)] + [(1, 7), (1, 8), (1, 9)],
)
