"""An OpenMM System read force by force into one batched torch function.

OpenMM evaluates one structure at a time; here every term runs over a whole batch, on the device of x: on a CPU in C
(`native`), elsewhere, and where C has no part in it, by PyTorch, which `torch.compile` fuses on a GPU.
`docs/energy.md` says which forces are covered and how it is checked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import openmm
import torch
from torch import Tensor, nn

from ..molecule.system import MolecularSystem
from ..tools.fusing import fuse
from ..tools.memory import keep_freed_memory
from ..tools.native import NotCompiledError
from ..tools.warn import warn
from .geometry import Value
from .native import NativeEnergy
from .potential import LivePotential, Potential
from .protocol import differentiable_once, require_positions
from .reader import global_parameters, translate

FUSED_BYTES = 2**19  # of one value a pair in a chunk: intermediate results stay in the processor's caches
EAGER_BYTES = {"cpu": 2**24, "cuda": 2**26}  # of one value a pair; some sixty such values are held at once
ONLY_FIRST = "CompiledEnergy gives first derivatives only; use its `potential` for higher ones."


class CompiledEnergy(nn.Module):
    """Reduced energy u(x) = U(x)/kT of a System, translated force by force; see `energy.protocol.Energy`.

    It is also a function of the System's global parameters, and can be made one of the force field's.

    Parameters
    ----------
    system : MolecularSystem
    dtype : torch.dtype or None
        Precision of the calculation; None: that of x. Results have the dtype of x.

    Attributes
    ----------
    defaults : dict of str to float
        The System's global parameters and their default values.
    leaves : ParameterDict
        Parameters of the force field that u is differentiable by; see `make_leaves`.
    evaluations, invalid : int
        Structures evaluated so far, and those of them that were invalid.
    native : bool
        Whether a CPU calculates in C, in float64 whatever is asked for, where the global parameters have their
        defaults, there are no leaves, and nothing is fused. False turns it off, as does the lack of a C compiler.
    reason : str
        Why it is a translation and not OpenMM, if `reduced_energy` chose.

    Raises
    ------
    UntranslatedSystemError
        Forces without translation; see `untranslated`.
    """

    def __init__(self, system: MolecularSystem, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        keep_freed_memory()
        system.require_unchanged()
        self.system, self.dtype = system, dtype
        self.potential = Potential(system.system)
        self.defaults = global_parameters(system.system)
        # By device: evaluations and invalid ones, in a tensor that stays where it is, as CUDA graphs count there.
        self._counts: dict[torch.device, Tensor] = {}
        self.reason = ""
        self.fused = False
        self.native = True
        self.leaves = nn.ParameterDict()
        self._potentials: dict[tuple[torch.device, torch.dtype], Potential | LivePotential] = {}
        self._functions: dict[Any, Callable[..., Sequence[Tensor]]] = {}
        self._in_c: NativeEnergy | None = None
        self._left: Potential | None = None  # terms that are not written in C

    @staticmethod
    def untranslated(system: openmm.System) -> list[str]:
        """Forces and options of a System that have no translation, and why; empty if all are covered."""
        return translate(system)[1]

    def compile(self, chunk: int | None = None) -> CompiledEnergy:  # type: ignore[override]
        """Compile the energy and its gradient with torch.compile at the next call, which takes a while.

        One function is built, for `chunk` structures; a batch is cut into chunks and the last one filled up, so that
        no batch size needs another one. For a GPU: on a CPU the energy in C (`native`) is faster, and is there at
        once.

        Raises
        ------
        ValueError
            There are leaves: fused functions hold the force field's parameters as constants.
        """
        if self.leaves:
            raise ValueError("Expected an energy without leaves to fuse; make another CompiledEnergy.")
        self.fused, self.chunk = True, chunk
        self._functions.clear()
        return self

    @property
    def evaluations(self) -> int:
        return self._counted(0)

    @evaluations.setter
    def evaluations(self, number: int) -> None:
        self._count_from(0, number)

    @property
    def invalid(self) -> int:
        return self._counted(1)

    @invalid.setter
    def invalid(self, number: int) -> None:
        self._count_from(1, number)

    def _counted(self, which: int) -> int:
        return sum(int(counts[which]) for counts in self._counts.values())

    def _count_from(self, which: int, number: int) -> None:
        for counts in self._counts.values():
            counts[which] = 0
        self._counts_on(torch.device("cpu"))[which] = number

    def _counts_on(self, device: torch.device) -> Tensor:
        if device not in self._counts:
            self._counts[device] = torch.zeros(2, dtype=torch.long, device=device)
        return self._counts[device]

    @property
    def force_field(self) -> dict[str, Tensor]:
        """The force field's parameters by name, (rows,) float64 in OpenMM's units and order, as they were read.

        Names are the force's class, a number where there are several, what it holds, and OpenMM's name of the
        parameter: "HarmonicBondForce/k", "NonbondedForce/particles/charge", "CustomTorsionForce2/theta0". Rows are
        the force's bonds, angles, torsions, particles or exceptions.
        """
        return {name: self.potential.get_buffer(buffer)[:, 0] for name, buffer in self.potential.fields().items()}

    def make_leaves(self, *names: str) -> CompiledEnergy:
        """Make u differentiable by parameters of the force field, as `parameters()` then gives them.

        u is then plain autograd, slower and with all intermediate results kept, and may be differentiated more than
        once. Charges of exceptions are parameters of their own, and pairs that are excluded stay so. The System
        that OpenMM has is not changed.

        Parameters
        ----------
        *names : str
            Out of `force_field`.

        Raises
        ------
        ValueError
            Unknown names; the energy is fused.
        """
        force_field = self.force_field
        unknown = [name for name in names if name not in force_field]
        if unknown:
            raise ValueError(f"Expected names out of {sorted(force_field)}; got {unknown}.")
        if self.fused:
            raise ValueError("Expected an energy that is not fused; make leaves of another CompiledEnergy.")
        for name in names:
            self.leaves[name] = nn.Parameter(force_field[name].clone())
        self._potentials.clear()
        self._functions.clear()
        return self

    def forward(self, x: Tensor, parameters: Mapping[str, Value] | None = None) -> Tensor:
        """Reduced energies u (batch,) of structures.

        Parameters
        ----------
        x : (batch, n_atoms, 3) float tensor, nm; any device
        parameters : mapping of str to number, 0-d tensor or (batch,) tensor
            Global parameters; those not named have their default. Differentiable where they are tensors.

        Returns
        -------
        (batch,) tensor of x's dtype and device; +inf where invalid
            Its gradient can be taken once; a second derivative raises, but where there are leaves.
        """
        names, values = self._given(x, parameters)
        if torch.is_grad_enabled() and self.leaves:
            return self._with_graph(x, names, values)
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *values)):
            return differentiable_once(
                lambda slopes: self._evaluate(x, names, values, slopes=slopes), x, values, refusal=ONLY_FIRST
            )
        return self._evaluate(x, names, values, gradient=False)[0]

    def value_and_gradient(self, x: Tensor, parameters: Mapping[str, Value] | None = None) -> tuple[Tensor, Tensor]:
        """u (batch,) and du/dx (batch, n_atoms, 3) in 1/nm, both detached."""
        names, values = self._given(x, parameters)
        u, gradient = self._evaluate(x, names, values)
        return u, gradient

    def close(self) -> None:
        """Do nothing; present because `OpenMMEnergy` has it."""

    def __enter__(self) -> CompiledEnergy:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"CompiledEnergy({self.system.name!r}, {self.how!r}, {self.reason!r})"

    @property
    def how(self) -> str:
        """How the energy is calculated, in words: "C", "C, but for ...", "torch.compile" or "PyTorch"."""
        if self.fused:
            return "torch.compile"
        native = self._find_native()
        if native is None:
            return "PyTorch"
        return f"C, but for {'; '.join(native.reasons)}" if native.reasons else "C"

    # --- inside ---

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompiledEnergy:
        # .to(), .float(), .cuda(): the constants stay as they were read; copies follow x.
        return self

    def _given(self, x: Tensor, given: Mapping[str, Value] | None) -> tuple[tuple[str, ...], list[Tensor]]:
        """Names and values (batch,) of the given parameters."""
        require_positions(x, self.system.n_atoms)
        given = given or {}
        unknown = [name for name in given if name not in self.defaults]
        if unknown:
            raise ValueError(f"Expected parameters out of {sorted(self.defaults)}; got {unknown}.")
        values = [torch.as_tensor(value, dtype=x.dtype, device=x.device) for value in given.values()]
        wrong = [n for n, v in zip(given, values, strict=True) if v.shape not in ((), (len(x),))]
        if wrong:
            raise ValueError(f"Expected one value or one a structure for the parameters {wrong}; got other shapes.")
        return tuple(given), [value.expand(len(x)) for value in values]

    def _with_graph(self, x: Tensor, names: tuple[str, ...], values: Sequence[Tensor]) -> Tensor:
        valid = torch.isfinite(self._evaluate(x, names, values)[0])
        # A bad structure would make the slope of every parameter NaN.
        safe = torch.where(valid[:, None, None], x, torch.from_numpy(self.system.positions).to(x))
        dtype = self.dtype or x.dtype
        potential, chunk = self._potential(x.device, dtype), self._chunk(x.device)
        parts = [x.new_zeros(0, dtype=dtype)]
        for k in range(0, len(x), chunk):
            given = dict(zip(names, (value[k : k + chunk].to(dtype) for value in values), strict=True))
            rows = safe[k : k + chunk].to(dtype).permute(2, 1, 0).contiguous()
            parts.append(potential.of_rows(rows, {**self.defaults, **given}))
        return torch.where(valid, (torch.cat(parts) / self.system.kT).to(x.dtype), torch.inf)

    @torch.no_grad()
    @torch.inference_mode(False)  # the gradient is taken by autograd, wherever we are called
    def _evaluate(
        self, x: Tensor, names: tuple[str, ...], values: Sequence[Tensor], gradient: bool = True, slopes: bool = False
    ) -> list[Tensor]:
        """u, then du/dx if `gradient`, then du/dvalue of each of `values` if `slopes`, all of x's dtype; counts."""
        dtype = self.dtype or x.dtype
        if x.device.type == "cpu" and not (names or self.fused) and self._find_native() is not None:
            return self._judged(x, self._by_native(x.double()), gradient)
        function, chunk = self._function(x.device, dtype, names, gradient, slopes)
        u = torch.empty_like(x[:, 0, 0])
        derivatives = [torch.empty_like(x)] if gradient else []
        if slopes:
            derivatives += [torch.empty_like(value) for value in values]
        for k in range(0, len(x), chunk):
            rows = x[k : k + chunk].to(dtype).permute(2, 1, 0)
            inputs = [rows, *(value[k : k + chunk].to(dtype) for value in values)]
            found = function(*(t.detach().clone(memory_format=torch.contiguous_format) for t in inputs))
            u[k : k + chunk] = found[0]
            for whole, part in zip(derivatives, found[1:], strict=True):
                whole[k : k + chunk] = part.permute(2, 1, 0) if part.ndim == 3 else part
        return self._judged(x, [u, *derivatives], gradient)

    def _find_native(self) -> NativeEnergy | None:
        """The energy in C, made when it is first asked for; None with leaves, or without a compiler."""
        if self._in_c is None and self.native and not self.leaves:
            try:
                self._in_c = NativeEnergy(self.potential, self.defaults, self.system.kT, self.system.n_atoms)
            except NotCompiledError as error:
                self.native = False
                warn(f"The energy is PyTorch's own, and slower. {error}")
            else:
                self._left = self.potential.of_terms(self._in_c.left) if self._in_c.left else None
        return self._in_c if self.native and not self.leaves else None

    def _by_native(self, x: Tensor) -> list[Tensor]:
        """u and du/dx: C, and by PyTorch the terms that C does not have."""
        assert self._in_c is not None
        u, gradient = self._in_c(x)
        if self._left is not None:
            more = _derivatives(self._left, self.system.kT, self.defaults, (), False)
            chunk = self._chunk(x.device)
            for k in range(0, len(x), chunk):
                u_more, gradient_more = more(x[k : k + chunk].permute(2, 1, 0).contiguous())
                u[k : k + chunk] += u_more
                gradient[k : k + chunk] += gradient_more.permute(2, 1, 0)
        return [u, gradient]

    def _judged(self, x: Tensor, found: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        """u and derivatives of x's dtype, +inf and 0 where invalid; counts."""
        u, *derivatives = (t.to(x.dtype) for t in found)
        if not gradient:
            derivatives = []
        # Judged in the caller's dtype, where a large finite number may already be infinite.
        valid = torch.isfinite(u) & torch.isfinite(x).all(dim=(1, 2))
        if gradient:
            valid &= torch.isfinite(derivatives[0]).all(dim=(1, 2))
        u = torch.where(valid, u, torch.inf)
        counts = self._counts_on(x.device)  # not looked at: a GPU would have to finish first
        counts[0] += len(x)
        counts[1] += (~valid).sum()
        return [u, *(torch.where(valid.view(-1, *[1] * (t.ndim - 1)), t, 0.0) for t in derivatives)]

    def _function(
        self, device: torch.device, dtype: torch.dtype, names: tuple[str, ...], gradient: bool, slopes: bool
    ) -> tuple[Callable[..., Sequence[Tensor]], int]:
        """The function of one chunk, (x (3, n_atoms, chunk), *values) -> u and derivatives, and the chunk's size."""
        chunk = self._chunk(device)
        key = (device, dtype, names, gradient or self.fused, slopes)
        if key not in self._functions:
            potential = self._potential(device, dtype)
            if self.fused:
                # One function with gradient also serves those who want u alone: the fused gradient costs little.
                function = _derivatives(potential, self.system.kT, self.defaults, names, slopes)
                self._functions[key] = self._fuse(function, chunk, device, dtype, len(names))
            elif gradient:
                self._functions[key] = _derivatives(potential, self.system.kT, self.defaults, names, slopes)
            else:
                self._functions[key] = _values(potential, self.system.kT, self.defaults, names)
        function = self._functions[key]
        return (function if gradient else lambda *inputs: function(*inputs)[:1]), chunk

    def _potential(self, device: torch.device, dtype: torch.dtype) -> Potential | LivePotential:
        if (device, dtype) not in self._potentials:
            potential = copy.deepcopy(self.potential).to(device, dtype)
            self._potentials[device, dtype] = LivePotential(potential, self.leaves) if self.leaves else potential
        return self._potentials[device, dtype]

    def _chunk(self, device: torch.device) -> int:
        if self.fused and self.chunk is not None:
            return self.chunk
        cpu = device.type == "cpu"
        budget = FUSED_BYTES if self.fused and cpu else EAGER_BYTES["cpu" if cpu else "cuda"]
        rows = max(self.potential.pairs.number, self.system.n_atoms)
        return max(16, 2 ** int(np.log2(budget / 8 / rows)))

    def _fuse(
        self, function: Callable[..., Sequence[Tensor]], chunk: int, device: torch.device, dtype: torch.dtype, n: int
    ) -> Callable[..., Sequence[Tensor]]:
        x = torch.from_numpy(self.system.positions).to(device, dtype)
        example = [
            x.T[:, :, None].repeat(1, 1, chunk),
            *(torch.zeros(chunk, device=device, dtype=dtype) for _ in range(n)),
        ]
        return fuse(function, example, "The energy")


def _values(
    potential: Potential | LivePotential, kT: float, defaults: Mapping[str, float], names: Sequence[str]
) -> Callable[..., Sequence[Tensor]]:
    """(x (3, n_atoms, batch), *values of the named parameters) -> [u (batch,)]."""

    def values(x: Tensor, *given: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return [potential.of_rows(x, {**defaults, **dict(zip(names, given, strict=True))}) / kT]

    return values


def _derivatives(
    potential: Potential | LivePotential, kT: float, defaults: Mapping[str, float], names: Sequence[str], slopes: bool
) -> Callable[..., Sequence[Tensor]]:
    """(x (3, n_atoms, batch), *values of the named parameters) -> [u (batch,), du/dx, du/dvalues if `slopes`]."""

    def derivatives(x: Tensor, *given: Tensor) -> Sequence[Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            given = tuple(value.detach().requires_grad_(slopes) for value in given)
            u = potential.of_rows(x, {**defaults, **dict(zip(names, given, strict=True))}) / kT
            wanted = [x, *(given if slopes else ())]
            if not u.requires_grad:  # no force at all
                return [u, *(torch.zeros_like(t) for t in wanted)]
            found = torch.autograd.grad(u.sum(), wanted, allow_unused=True, materialize_grads=True)
        return [u.detach(), *found]

    return derivatives
