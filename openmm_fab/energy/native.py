"""The translated energy and its gradient as C code, compiled once for a set of forces rather than for a molecule.

Every term is a loop over its rows (bonds, angles, torsions, pairs of atoms) that processes LANES structures side by
side. Atoms and parameters are data of the call: the source depends only on which forces and expressions a System has,
so all molecules of a force field share one library. Terms without C code are left to PyTorch and listed by
`NativeEnergy`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..tools.native import in_threads, library, work_space
from .native_source import Source
from .native_terms import WRITERS
from .potential import Potential
from .terms import Term


class NativeEnergy:
    """u and du/dx of a batch, float64 on the CPU, for those terms of a potential that have C code.

    Parameters
    ----------
    potential : Potential
    parameters : mapping of str to float
        Values of all global parameters.
    kT : float, kJ/mol
    n_atoms : int

    Attributes
    ----------
    left : list of Term
        What has no C, in the order of the potential's terms.
    reasons : list of str
        Why not.

    Raises
    ------
    NotCompiledError
        There is no C compiler.
    """

    def __init__(self, potential: Potential, parameters: Mapping[str, float], kT: float, n_atoms: int) -> None:
        pairs = np.column_stack([potential.pairs.i.numpy(), potential.pairs.j.numpy()])
        source = Source(pairs, parameters, n_atoms)
        for term in cast(Iterable[Term], potential.terms):
            source.add(term, WRITERS.get(type(term)))
        self.left, self.reasons = source.left, source.reasons
        self._n_atoms, self._scale = n_atoms, 1.0 / kT
        self._text, self._integers, self._numbers, self._work = source.finished()
        self._energy()  # compiles, or raises

    def _energy(self) -> Callable[..., None]:
        """C function of the library, looked up again in a copy or in another process."""
        arguments = [*[ctypes.c_void_p] * 6, *[ctypes.c_int64] * 2, ctypes.c_double]
        return cast("Callable[..., None]", library(self._text, {"energy": arguments}).energy)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u (batch,) and du/dx (batch, n_atoms, 3) of x (batch, n_atoms, 3), nm, float64."""
        x = x.detach().contiguous()
        u, gradient, energy = x.new_empty(len(x)), torch.empty_like(x), self._energy()

        def piece(start: int, stop: int) -> None:
            work = work_space(self._work)
            pointers = (self._integers, self._numbers, work, x, u, gradient)
            energy(*(t.data_ptr() for t in pointers), start, stop, self._scale)

        in_threads(piece, len(x))
        return u, gradient
