"""The difference of two energies of a molecule, fitted to some of its values, so that what is left of it is small.

Of a cheap energy u and an expensive one, u - d, whose values are few, d is fitted by a sum of a force field's terms:
powers of bonds and angles, their products with neighbours, waves of torsions, and exponentials of the other distances.
Atoms that the bond graph does not distinguish share their terms, so that some hundred values suffice. u less the fit is
as cheap as u and near to the other; its samples are weighted by what the fit leaves: exact, whatever the fit, as long
as it was made before the values that count. This is a targeted perturbation (Jarzynski, Phys. Rev. E 65, 046122 (2002))
of densities in place of maps.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from ..molecule.graph import BondGraph
from . import geometry

POWERS = 3  # of the deviation of a bond or an angle
FARTHEST = 5.0  # standard deviations, which a larger deviation approaches: what was not seen is not extrapolated
WAVES = 3  # of a torsion: cos and sin of 1, 2, 3 times it
DECAYS = (0.03, 0.06, 0.12, 0.24)  # nm: exp(-r / decay) of distances of atoms three bonds apart or more
STRENGTHS = np.logspace(-6.0, 3.0, 28)  # of the ridge, relative to the number of values
SLACK = 3.0  # over the root of that number: by which share the error may be above the least, for a stronger ridge
OUTLIERS = 30.0  # kT below the middle: values of clashes, which would rule a fit


class Terms:
    """The terms of a molecule, and which of them share a coefficient.

    Parameters
    ----------
    graph : BondGraph
    x : Tensor, shape (n, n_atoms, 3), nm
        Structures, from which the middle and the width of bonds and angles are taken.

    Attributes
    ----------
    index : Tensor, shape (terms,)
        Number of each term's function: the sum of all terms of that number.
    functions : int
    """

    def __init__(self, graph: BondGraph, x: Tensor) -> None:
        self.n_atoms = graph.n_atoms
        near, kinds = graph.neighbours, graph.kinds
        bonds = [tuple(bond) for bond in graph.bonds.tolist()]
        angles = [(a, centre, b) for centre, ends in enumerate(near) for a, b in combinations(ends, 2)]
        torsions = [(a, b, c, d) for b, c in bonds for a in near[b] for d in near[c] if len({a, b, c, d}) == 4]
        between = {(a, b): far for a in range(graph.n_atoms) for b, far in graph.distances(a).items() if a < b}
        others = [pair for pair in combinations(range(graph.n_atoms), 2) if between.get(pair, 9) > 2]

        def kind(atoms: tuple[int, ...]) -> tuple[int, ...]:
            found = tuple(kinds[atom] for atom in atoms)
            return min(found, found[::-1])

        straight = [*bonds, *angles]
        products = [(i, j) for i, j in combinations(range(len(straight)), 2) if _adjoin(straight[i], straight[j])]
        elements = [(*sorted(graph.elements[atom] for atom in pair), between.get(pair, 9) == 3) for pair in others]
        names = [
            *((power, kind(atoms)) for power in range(1, POWERS + 1) for atoms in straight),
            *(
                (*sorted((kind(straight[i]), kind(straight[j]))), _shared(straight[i], straight[j]))
                for i, j in products
            ),
            *(
                (wave, turn, kind(atoms))
                for turn in ("cos", "sin")
                for wave in range(1, WAVES + 1)
                for atoms in torsions
            ),
            *((decay, *element) for decay in DECAYS for element in elements),
        ]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        self.index, self.functions = torch.tensor([numbers[name] for name in names]), len(numbers)
        self._bonded, self._angles, self._torsions, self._others = (
            torch.tensor(list(atoms), dtype=torch.int64).view(-1, size).T
            for atoms, size in ((bonds, 2), (angles, 3), (torsions, 4), (others, 2))
        )
        self._products = torch.tensor(products, dtype=torch.int64).view(-1, 2).T
        shared = {name: number for number, name in enumerate(dict.fromkeys(map(kind, straight)))}
        self._middle, self._width = _spread(self._straight(_columns(x)), [shared[kind(atoms)] for atoms in straight])

    def __call__(self, x: Tensor) -> Tensor:
        """Terms (terms, batch) of x (batch, n_atoms, 3), nm."""
        columns = _columns(x)
        q = (self._straight(columns) - self._middle.to(x)[:, None]) / self._width.to(x)[:, None]
        q = FARTHEST * torch.tanh(q / FARTHEST)
        first, second = self._products
        phi = geometry.torsion(*(columns[:, atoms] for atoms in self._torsions))
        r = geometry.distance(*(columns[:, atoms] for atoms in self._others))
        return torch.cat(
            [
                *(q**power for power in range(1, POWERS + 1)),
                q[first] * q[second],
                *(turn(wave * phi) for turn in (torch.cos, torch.sin) for wave in range(1, WAVES + 1)),
                *(torch.exp(-r / decay) for decay in DECAYS),
            ]
        )

    def _straight(self, columns: Tensor) -> Tensor:
        lengths = geometry.distance(*(columns[:, atoms] for atoms in self._bonded))
        return torch.cat([lengths, geometry.angle(*(columns[:, atoms] for atoms in self._angles))])


def _columns(x: Tensor) -> Tensor:
    """(3, n_atoms, batch) of x (batch, n_atoms, 3)."""
    return x.permute(2, 1, 0).contiguous()


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return len({*one} & {*other})


def _adjoin(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether their product is a term: bonds that meet, a bond within an angle, angles about one atom."""
    if len(one) == len(other) == 3:
        return one[1] == other[1]
    return _shared(one, other) == min(len(one), len(other)) - (len(one) == len(other))


def _spread(values: Tensor, number: list[int]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (rows,) of values (rows, batch), rows of one number taken together."""
    rows = torch.tensor(number, dtype=torch.int64)
    together = torch.zeros(max(number, default=-1) + 1, len(number), dtype=torch.float64)
    together[rows, torch.arange(len(number))] = 1.0
    together /= together.sum(1, keepdim=True)
    middle = (together @ values.double().mean(1).cpu())[rows]
    square = together @ (values.double().cpu() - middle[:, None]).square().mean(1)
    return middle, square.sqrt().clamp(min=1e-4)[rows]


class Correction:
    """A fit of the difference d(x) of two reduced energies.

    Parameters
    ----------
    terms : Terms
    coefficients : Tensor, shape (functions,), float64
    """

    def __init__(self, terms: Terms, coefficients: Tensor) -> None:
        self.terms, self.coefficients = terms, coefficients

    @classmethod
    def fitted(cls, graph: BondGraph, x: Tensor, d: np.ndarray) -> Correction:
        """Ridge regression, as strong as the error in values left out one at a time allows.

        Parameters
        ----------
        graph : BondGraph
        x : Tensor, shape (n, n_atoms, 3), nm
        d : (n,)
            Up to a constant; -inf, where the other density is zero, and what lies far below counts as OUTLIERS below
            the middle.
        """
        x = x.detach().cpu().double()
        terms = Terms(graph, x)
        middle = np.median(d[np.isfinite(d)])
        values = np.maximum(np.where(np.isfinite(d), d, -np.inf), middle - OUTLIERS)
        values = values - values.mean()
        sums = torch.zeros(terms.functions, len(x), dtype=torch.float64).index_add(0, terms.index, terms(x))
        functions = sums.T.numpy()
        offset, spread = functions.mean(0), functions.std(0)
        spread[spread < 1e-9] = np.inf  # one that does not vary
        u, s, v = np.linalg.svd((functions - offset) / spread, full_matrices=False)
        projected, errors = u.T @ values, []
        strengths = STRENGTHS * len(values)
        for strength in strengths:
            shrunk = s**2 / (s**2 + strength)
            kept = np.minimum(np.square(u) @ shrunk + 1.0 / len(values), 1.0 - 1e-9)
            errors.append(float(np.square((values - u @ (shrunk * projected)) / (1.0 - kept)).mean()))
        least = min(errors)
        if least >= np.square(values).mean():
            return cls(terms, torch.zeros(terms.functions, dtype=torch.float64))
        strength = strengths[np.array(errors) <= (1.0 + SLACK / np.sqrt(len(values))) * least].max()
        return cls(terms, torch.from_numpy(v.T @ (s / (s**2 + strength) * projected) / spread))

    def __call__(self, x: Tensor) -> Tensor:
        """The fit (batch,) of x (batch, n_atoms, 3), nm, without a constant; differentiable."""
        coefficients = self.coefficients[self.terms.index].to(x)
        return coefficients @ self.terms(x)
