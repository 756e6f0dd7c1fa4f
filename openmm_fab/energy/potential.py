"""Sum of all translated forces of a System: U(x) of a batch, and the force-field parameters it depends on."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import numpy as np
import openmm
from torch import Tensor, nn
from torch.func import functional_call

from ..tools.errors import OpenMMFabError
from .geometry import Frame, Pairs, Parameters
from .reader import translate
from .terms import Constants, Term


class UntranslatedSystemError(OpenMMFabError, NotImplementedError):
    """A System with forces that have no translation; the message lists them all."""


class Potential(nn.Module):
    """U(x) in kJ/mol of a batch, summed over the forces of a System with plain torch operations.

    Parameters
    ----------
    system : openmm.System

    Raises
    ------
    UntranslatedSystemError
        A force, or an option of one, has no translation.
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
            term.prepare_pairs(pairs)
        self.pairs = Pairs(pairs, n_atoms)
        self.terms = nn.ModuleList(terms)
        for term in self._all_terms():
            term.cache()

    def forward(self, x: Tensor, parameters: Parameters) -> Tensor:
        """U (batch,), kJ/mol, of x (batch, n_atoms, 3), nm; all global parameters are given, as numbers or (batch,)."""
        return self.of_rows(x.permute(2, 1, 0).contiguous(), parameters)

    def of_rows(self, x: Tensor, parameters: Parameters) -> Tensor:
        """U (batch,) of x (3, n_atoms, batch), the layout used by the terms."""
        frame = Frame(x, self.pairs)
        energy = x.new_zeros(x.shape[-1])
        for term in self.terms:
            energy = energy + term(frame, parameters)
        return energy

    def of_terms(self, terms: Sequence[Term]) -> Potential:
        """Potential of some of the terms only."""
        part = copy.copy(self)
        part._modules = {**self._modules, "terms": nn.ModuleList(terms)}
        return part

    def keep_parameters_live(self) -> Potential:
        """Recompute derived constants in every call, so that gradients flow to the force-field parameters (slower)."""
        for term in self._all_terms():
            term.live = True
        return self

    def fields(self) -> dict[str, str]:
        """Names of the force-field parameters for users, e.g. "HarmonicBondForce/k", -> names of their buffers."""
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


class LivePotential:
    """`Potential` that reads some force-field parameters from `leaves` (name -> (rows,)) in every call."""

    def __init__(self, potential: Potential, leaves: nn.ParameterDict) -> None:
        self._potential, self._leaves = potential.keep_parameters_live(), leaves
        self._fields = potential.fields()

    def of_rows(self, x: Tensor, parameters: Parameters) -> Tensor:
        """U (batch,) of x (3, n_atoms, batch)."""
        values = {self._fields[name]: leaf.to(x)[:, None] for name, leaf in self._leaves.items()}
        return functional_call(self._potential, values, (x.permute(2, 1, 0), parameters))
