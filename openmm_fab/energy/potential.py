"""The terms of an OpenMM System together: U(x) of a batch, and the parameters that it depends on."""

from __future__ import annotations

from collections import Counter

import numpy as np
import openmm
from torch import Tensor, nn
from torch.func import functional_call

from ..tools.errors import OpenMMFabError
from .geometry import Frame, Pairs, Parameters
from .reader import translate
from .terms import Constants, Term


class UntranslatedSystemError(OpenMMFabError, NotImplementedError):
    """A System with forces that have no translation; the message lists all of them."""


class Potential(nn.Module):
    """U(x) in kJ/mol of a batch, from the forces of a System, as plain torch operations without any bookkeeping.

    Parameters
    ----------
    system : openmm.System

    Raises
    ------
    UntranslatedSystemError
    """

    def __init__(self, system: openmm.System) -> None:
        super().__init__()
        translated, problems = translate(system)
        if problems:
            raise UntranslatedSystemError(
                "\n".join(["Not covered by CompiledEnergy:", *(f"  - {p}" for p in problems)])
            )
        self.forces, terms = [name for name, _ in translated], [term for _, term in translated]
        n_atoms = system.getNumParticles()
        pairs = np.unique(np.concatenate([np.empty((0, 2), dtype=np.int64), *(t.pairs() for t in terms)]), axis=0)
        for term in terms:
            term.bind(pairs)
        self.pairs = Pairs(pairs, n_atoms)
        self.terms = nn.ModuleList(terms)
        for term in self._all_terms():
            term.settle()

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """x (batch, n_atoms, 3) in nm -> (batch,); parameters: numbers or (batch,)."""
        return self.of_rows(x.permute(2, 1, 0).contiguous(), parameters)

    def of_rows(self, x: Tensor, parameters: Parameters) -> Tensor:
        """The same for x (3, n_atoms, batch)."""
        frame = Frame(x, self.pairs)
        energy = x.new_zeros(x.shape[-1])
        for term in self.terms:
            energy = energy + term(frame, parameters)
        return energy

    def free(self) -> Potential:
        """Use the fields as they are in every call, not what was once computed from them."""
        for term in self._all_terms():
            term.freed = True
        return self

    def fields(self) -> dict[str, str]:
        """The force field's parameters: their names for users -> the names of their buffers."""
        seen: Counter[str] = Counter()
        found = {}
        for n, (force, term) in enumerate(zip(self.forces, self.terms, strict=True)):
            seen[force] += 1
            label = force if seen[force] == 1 else f"{force}{seen[force]}"
            for path, module in term.named_modules():
                inner = [part for part in path.split(".") if part not in ("", "terms")]
                for field in module.fields if isinstance(module, Constants) else ():
                    buffer = [part for part in ("terms", str(n), path, f"field_{field}") if part]
                    found["/".join([label, *inner, field])] = ".".join(buffer)
        return found

    def _all_terms(self) -> list[Term]:
        return [module for module in self.modules() if isinstance(module, Term)]


class FreedPotential:
    """A `Potential` some of whose fields are read anew from `leaves` (name -> (rows,)) in every call."""

    def __init__(self, potential: Potential, leaves: nn.ParameterDict) -> None:
        self._potential, self._leaves, self._fields = potential.free(), leaves, potential.fields()

    def of_rows(self, x: Tensor, parameters: Parameters) -> Tensor:
        values = {self._fields[name]: leaf.to(x)[:, None] for name, leaf in self._leaves.items()}
        return functional_call(self._potential, values, (x.permute(2, 1, 0), parameters))
