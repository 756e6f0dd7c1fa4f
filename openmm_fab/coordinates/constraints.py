"""Bonds of fixed length, and the measure that rigid molecular dynamics samples.

A very stiff bond and a rigid one are not the same.  In the limit of a stiff spring the density of the other
coordinates is exp(-u) times the volume element with the lengths fixed; rigid dynamics (SHAKE, SETTLE, OpenMM's
constraints) samples that times sqrt(det Z), with Z_ab = sum_i grad_i(r_a) . grad_i(r_b) / m_i over the constraints
a, b (Fixman, PNAS 71, 3050 (1974); Frenkel and Smit, Understanding Molecular Simulation, section 11.3).  Only
constraints that share an atom see each other, so det Z is a product over groups of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .layout import Layout
from .zmatrix import ZMatrix


class MassMetric(torch.nn.Module):
    """Module for log sqrt(det Z), the mass metric of a molecule's constraints.

    Parameters
    ----------
    pairs : ndarray of int, shape (m, 2)
        Atoms whose distance is fixed.
    masses : ndarray, shape (n_atoms,), dalton
    """

    def __init__(self, pairs: np.ndarray, masses: np.ndarray) -> None:
        super().__init__()
        self.pairs, self.masses = pairs, masses
        self._log_det_single = 0.0
        self._groups: list[int] = []
        by_size: dict[int, list[list[int]]] = {}
        for group in _groups(pairs):
            if len(group) == 1:
                self._log_det_single += 0.5 * float(np.log((1.0 / masses[pairs[group[0]]]).sum()))
            else:
                by_size.setdefault(len(group), []).append(group)
        for k, groups in enumerate(by_size.values()):
            self._groups.append(k)
            own = pairs[np.array(groups)]  # (groups, size, 2)
            self.register_buffer(f"_pairs{k}", torch.as_tensor(own))
            self.register_buffer(f"_coupling{k}", torch.as_tensor(_coupling(own, masses)))

    def forward(self, x: Tensor) -> Tensor:
        """log sqrt(det Z) (batch,) of structures x (batch, n_atoms, 3)."""
        total = x.new_full((len(x),), self._log_det_single)
        for k in self._groups:
            pairs, coupling = self.get_buffer(f"_pairs{k}"), self.get_buffer(f"_coupling{k}").to(x)
            bond = x[:, pairs[..., 0]] - x[:, pairs[..., 1]]
            unit = bond / bond.norm(dim=-1, keepdim=True)
            z = coupling * (unit @ unit.transpose(-1, -2))  # (batch, groups, size, size)
            total = total + 0.5 * torch.linalg.slogdet(z).logabsdet.sum(-1)
        return total


def fixed_lengths(zmatrix: ZMatrix, pairs: np.ndarray, lengths: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Constrained lengths, nm, by Z-matrix row: of rows 1, 2, ..., then second lengths of rows 2, 3, ...; nan where
    free.

    Parameters
    ----------
    pairs, lengths : ndarray, shapes (m, 2) and (m,)
        Constrained bonds.
    names : sequence of str
        Of the atoms, for the error.

    Raises
    ------
    ValueError
        A constrained bond that is no length of the Z-matrix: beyond a linear centre, or a second one that closes a
        cage at the same atom.
    """
    layout = Layout(zmatrix)
    place = layout.distances()
    missing = [f"{names[i]} - {names[j]}" for i, j in pairs.tolist() if frozenset((i, j)) not in place]
    if missing:
        raise ValueError(
            f"Expected constraints of bonds that are coordinates; got {', '.join(missing[:5])}, which lie beyond a "
            "linear centre or in a cage: their lengths follow from others. Use constraints=HBonds or None."
        )
    fixed = layout.lengths.copy()
    for (i, j), length in zip(pairs.tolist(), lengths, strict=True):
        fixed[place[frozenset((i, j))]] = length
    return fixed


def _groups(pairs: np.ndarray) -> list[list[int]]:
    """Constraints that are connected through common atoms."""
    groups: list[tuple[set[int], list[int]]] = []
    for k, pair in enumerate(pairs.tolist()):
        atoms, members = set(pair), [k]
        for group in [g for g in groups if g[0] & atoms]:
            groups.remove(group)
            atoms |= group[0]
            members += group[1]
        groups.append((atoms, members))
    return [sorted(members) for _, members in groups]


def _coupling(pairs: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """(groups, size, size): sum over common atoms of sign / mass, so that Z is this times the cosines of the bonds."""
    sign = np.array([1.0, -1.0])
    same = pairs[:, :, None, :, None] == pairs[:, None, :, None, :]  # (groups, a, b, end of a, end of b)
    return (same * sign[:, None] * sign / masses[pairs][:, :, None, :, None]).sum((-2, -1))
