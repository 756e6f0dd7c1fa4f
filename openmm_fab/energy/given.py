"""Energies that are no OpenMM forces, in whole batches: a PyTorch model, a function of arrays, a calculator of ASE.

`docs/energy.md` has an example of each: machine-learned potentials, tight binding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import constants
from torch import Tensor, nn

from ..molecule.system import MolecularSystem
from .protocol import differentiable_once, require_positions

MOLE = constants.N_A / 1000  # of J a particle -> kJ/mol
UNITS = {  # kJ/mol
    "kJ/mol": 1.0,
    "kcal/mol": 4.184,
    "eV": constants.e * MOLE,
    "hartree": constants.physical_constants["Hartree energy"][0] * MOLE,
}
CHUNK = 256  # structures
ONLY_FIRST = "An energy that was given has first derivatives only; do not differentiate twice."

# x (n, n_atoms, 3), nm, and whether a gradient is wanted -> energies (n,) and, if so, their gradient by x, in 1/nm.
Calculation = Callable[[Tensor, bool], tuple[Tensor, Tensor | None]]


class GivenEnergy:
    """The reduced energy u(x) = U(x)/kT of a function of whole batches; see `energy.protocol.Energy`.

    Made by `from_torch`, `from_function` and `from_ase`.

    Parameters
    ----------
    calculate : callable
        x (n, n_atoms, 3) float64, nm, and whether a gradient is wanted -> energies (n,) and their gradient by x, or
        None. What is not finite is an invalid structure.
    system : MolecularSystem
        Whose atoms and temperature they are; its forces do not count.
    units : str
        Of the energies: "kT", "kJ/mol", "kcal/mol", "eV" or "hartree".
    chunk : int
        Structures in a call, at most.
    name : str

    Attributes
    ----------
    evaluations, invalid : int
        Structures evaluated so far, and those of them that were invalid.
    """

    def __init__(self, calculate: Calculation, system: MolecularSystem, units: str, chunk: int, name: str) -> None:
        known = {"kT": system.kT, **UNITS}
        if units not in known:
            raise ValueError(f"Expected units out of {list(known)}; got {units!r}.")
        if chunk < 1:
            raise ValueError(f"Expected chunk >= 1 structures; got {chunk}.")
        self.system, self.units, self.chunk, self.name = system, units, chunk, name
        self.evaluations = self.invalid = 0
        self._calculate, self._unit = calculate, known[units] / system.kT

    def __call__(self, x: Tensor) -> Tensor:
        """Reduced energies (batch,) of x (batch, n_atoms, 3), nm."""
        if x.requires_grad and torch.is_grad_enabled():
            return differentiable_once(lambda _: self.value_and_gradient(x), x, refusal=ONLY_FIRST)
        return self._evaluate(x.detach(), gradient=False)[0]

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u (batch,) and du/dx (batch, n_atoms, 3) in 1/nm, both detached."""
        return self._evaluate(x.detach(), gradient=True)

    def __repr__(self) -> str:
        return f"GivenEnergy({self.name}, {self.units}, of {self.system.name!r})"

    @torch.inference_mode(False)  # a model takes its gradient by autograd, wherever we are called
    def _evaluate(self, x: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
        require_positions(x, self.system.n_atoms)
        x = x.clone() if x.is_inference() else x
        u, slope = x.new_full((len(x),), torch.inf), torch.zeros_like(x)
        for rows in torch.isfinite(x).all((1, 2)).nonzero()[:, 0].split(self.chunk):
            energies, derivatives = self._calculate(x[rows].double(), gradient)
            if tuple(energies.shape) != (len(rows),):
                raise ValueError(
                    f"Expected energies with shape ({len(rows)},) of {len(rows)} structures from {self.name}; got "
                    f"{tuple(energies.shape)}."
                )
            u[rows] = (energies.detach().double() * self._unit).to(u)
            if derivatives is not None:
                if derivatives.shape != x[rows].shape:
                    raise ValueError(
                        f"Expected a gradient with shape {tuple(x[rows].shape)} from {self.name}; got "
                        f"{tuple(derivatives.shape)}."
                    )
                slope[rows] = (derivatives.detach().double() * self._unit).to(slope)
        # Judged in the caller's dtype, where a large finite number may already be infinite.
        valid = torch.isfinite(u) & torch.isfinite(slope).all(dim=(1, 2))
        u = torch.where(valid, u, torch.inf)
        slope = torch.where(valid[:, None, None], slope, 0.0)
        self.evaluations += len(x)
        self.invalid += int((~valid).sum())
        return u, slope


def from_torch(
    model: Callable[[Tensor], Tensor], system: MolecularSystem, units: str, *, chunk: int = CHUNK
) -> GivenEnergy:
    """The energy of a PyTorch model, such as a machine-learned potential; its gradient is autograd's.

    Parameters
    ----------
    model : callable
        x (n, n_atoms, 3), nm -> energies (n,) or (n, 1). A `torch.nn.Module` gets x on its own device and in its own
        dtype; anything else as it comes, float64. In single precision take the energies of the separate atoms off:
        1e6 kJ/mol are rounded to 0.06.
    system : MolecularSystem
        Whose atoms and temperature they are.
    units : str
        Of the energies: "kT", "kJ/mol", "kcal/mol", "eV" or "hartree".
    chunk : int
        Structures that the model gets at once, at most: what fits into memory.
    """
    parameter = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None

    def calculate(x: Tensor, gradient: bool) -> tuple[Tensor, Tensor | None]:
        own = x if parameter is None else x.to(parameter.device, parameter.dtype)
        with torch.set_grad_enabled(gradient):
            own = own.detach().requires_grad_(gradient)
            energies = model(own)
            energies = energies[:, 0] if energies.ndim == 2 and energies.shape[1] == 1 else energies
            if not gradient:
                return energies.to(x.device), None
            if not energies.requires_grad:
                raise ValueError(
                    "Expected a model of torch operations, whose gradient autograd knows; got energies without one. "
                    "Leave no_grad, detach and numpy out, or use from_function, which takes a gradient."
                )
            (slope,) = torch.autograd.grad(energies.sum(), own)
        return energies.to(x.device), slope.to(x.device)

    name = type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__name__", "a function")
    return GivenEnergy(calculate, system, units, chunk, name)


def from_function(
    function: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    system: MolecularSystem,
    units: str,
    *,
    values: Callable[[np.ndarray], np.ndarray] | None = None,
    chunk: int = CHUNK,
) -> GivenEnergy:
    """The energy of a function of NumPy arrays that gives the gradient, too.

    Parameters
    ----------
    function : callable
        x (n, n_atoms, 3) float64, nm -> energies U (n,) and gradient dU/dx (n, n_atoms, 3), which is minus the forces,
        in `units` and `units` per nm. For a structure that it cannot do: inf or nan.
    system, units, chunk
        As for `from_torch`.
    values : callable, optional
        x -> energies alone, where they come cheaper without gradient.
    """

    def calculate(x: Tensor, gradient: bool) -> tuple[Tensor, Tensor | None]:
        positions = x.cpu().numpy()
        if values is not None and not gradient:
            return torch.as_tensor(np.asarray(values(positions), dtype=np.float64)).to(x.device), None
        energies, slope = (torch.as_tensor(np.asarray(a, dtype=np.float64)).to(x.device) for a in function(positions))
        return energies, slope

    return GivenEnergy(calculate, system, units, chunk, getattr(function, "__name__", "a function"))


def from_ase(calculator: Any, system: MolecularSystem) -> GivenEnergy:
    """The energy of a calculator of ASE, one structure after the other: tblite, xtb, DFTB+, Psi4, ...

    A structure for which the calculator raises ASE's CalculatorError, such as one whose orbitals do not converge, is
    invalid and counted; any other error ends the call.

    Parameters
    ----------
    calculator : ase.calculators.calculator.Calculator
        Charge and spin are set there.
    system : MolecularSystem
        Whose atoms and temperature they are.

    Raises
    ------
    ImportError
        ASE is not installed.
    """
    try:
        from ase import Atoms
        from ase.calculators.calculator import CalculatorError
    except ImportError as error:
        raise ImportError("Calculators of ASE need ase: pip install ase.") from error
    atoms = Atoms(symbols=system.elements, positions=10.0 * system.positions, calculator=calculator)

    def calculate(x: Tensor, gradient: bool) -> tuple[Tensor, Tensor | None]:
        energies, slopes = np.full(len(x), np.nan), np.zeros(x.shape)
        for k, positions in enumerate(10.0 * x.cpu().numpy()):
            atoms.set_positions(positions)
            try:
                energies[k] = atoms.get_potential_energy()
                if gradient:
                    slopes[k] = -10.0 * atoms.get_forces()  # eV/Å -> eV/nm
            except CalculatorError:
                energies[k] = np.nan
        found = torch.from_numpy(energies).to(x.device)
        return found, torch.from_numpy(slopes).to(x.device) if gradient else None

    return GivenEnergy(calculate, system, "eV", CHUNK, type(calculator).__name__)
