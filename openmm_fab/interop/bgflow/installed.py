"""Preparation of an installed bgflow for present versions of NumPy and PyTorch; its files are not changed."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

COMMIT = "fbba56fac3eb88f6825d2bd4f745ee75ae9715e1"
INSTALL = (
    f'pip install "bgflow @ git+https://github.com/noegroup/bgflow@{COMMIT}" einops nflows '
    "(where its setup.py fails, on Python 3.12 or newer, clone it at that commit and put the folder on PYTHONPATH)"
)
NUMPY_1 = {"infty": np.inf, "row_stack": np.vstack}
EDGE = 1e-5  # a spline's input may lie this far beyond its interval by rounding


def import_bgflow() -> Any:
    """Import bgflow with corrections, in place of ``import bgflow`` or before it.

    What is put right, in memory and once:

    - NumPy 1's `np.infty` and `np.row_stack` exist, in bgflow's modules alone.
    - `torch.cross` without `dim` takes the first dimension of size 3, in a newer PyTorch the last; here it is the last.
    - `SplitFlow` indexed tensors by lists, which newer versions of PyTorch read otherwise.
    - The energy of OpenMM, ASE and XTB was remembered by the printed excerpt of a batch, so that a changed batch could
      get an old energy; it is computed anew, and its forces follow `temperature`.
    - Outside its interval a spline's inverse was that of the interval's end, and a uniform marginal raised: the density
      there is zero, dlogp is -inf. A spline of circular and straight coordinates counted the wrong ones.
    - `utils.autograd.requires_grad` is a context manager again.
    - `bennett_acceptance_ratio(implementation="pymbar")` needs pymbar 3: it says so and names what to use.

    Raises
    ------
    ImportError
        bgflow or what it needs is not installed; the message has the pip line.
    """
    if "bgflow" not in sys.modules:
        # A folder of that name on the path, such as a clone, is found, too, but has no file to import.
        if getattr(importlib.util.find_spec("bgflow"), "origin", None) is None:
            raise ImportError(f"This needs bgflow, which is on no package index: {INSTALL}")
        for needed in ("einops", "nflows"):
            if importlib.util.find_spec(needed) is None:
                raise ImportError(f"bgflow is installed, but not {needed}, which it needs: pip install {needed}")
    with _numpy_1():
        bgflow: Any = importlib.import_module("bgflow")
    if not hasattr(bgflow, "_openmm_fab_repaired"):
        _repair_tensors()
        _repair_energies()
        _repair_splines()
        bgflow._openmm_fab_repaired = True
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "bgflow" and getattr(module, "np", None) is np:
            module.__dict__["np"] = _OLD_NUMPY
    return bgflow


class _Proxy(ModuleType):
    """A copy of a module with some names added or replaced."""

    def __init__(self, module: ModuleType, **names: Any) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(module.__dict__, **names)
        self.__dict__["__getattr__"] = lambda name: getattr(module, name)


_OLD_NUMPY = _Proxy(np, **NUMPY_1)


@contextmanager
def _numpy_1() -> Iterator[None]:
    """Within this context NumPy has the names of NumPy 1 that bgflow needs while its modules are first imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", SyntaxWarning)
        missing = {name: value for name, value in NUMPY_1.items() if not hasattr(np, name)}
        try:
            for name, value in missing.items():
                setattr(np, name, value)
            yield
        finally:
            for name in missing:
                delattr(np, name)


def _cross(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
    return torch.linalg.cross(a, b, dim=dim)


def _repair_tensors() -> None:
    from bgflow.nn.flow.coupling import SplitFlow
    from bgflow.nn.flow.crd_transform import ic_helper
    from bgflow.utils import autograd, free_energy

    ic_helper.torch = _Proxy(torch, cross=_cross)
    listed = SplitFlow._range
    SplitFlow._range = lambda self, indices, n: tuple(listed(self, indices, n))
    SplitFlow._dlogp = lambda self, x: torch.zeros_like(x.narrow(self._split_dim, 0, 1))
    autograd.requires_grad.__new__ = lambda cls, *nodes: object.__new__(cls)
    free_energy._bennett_acceptance_ratio_pymbar = _no_bar


def _no_bar(*args: Any, **kwargs: Any) -> None:
    raise NotImplementedError(
        "bgflow's BAR by pymbar needs pymbar 3: use openmm_fab.free_energy_difference_bar or openmm_fab.mbar, which "
        'take pymbar 4 and give errors. (implementation="torch" stops after one step where the difference is negative.)'
    )


def _repair_energies() -> None:
    from bgflow.distribution.energy import base

    def _energy(self: Any, batch: Tensor, no_grads: bool = False) -> Tensor:
        return base._evaluate_bridge_energy(batch, self._bridge)

    def force(self: Any, batch: Tensor, temperature: float | Tensor | None = None) -> Tensor:
        found = self._bridge.evaluate(batch)[1]
        return found if temperature is None else found / temperature

    base._BridgeEnergy._energy, base._BridgeEnergy.force = _energy, force


def _repair_splines() -> None:
    from bgflow.distribution.distributions import _SloppyUniform
    from bgflow.nn.flow.cdf import CDFTransform
    from bgflow.nn.flow.transformer.spline import ConditionalSplineTransformer

    spline, cdf = ConditionalSplineTransformer._inverse, CDFTransform._forward

    def inverse_spline(self: Any, x: Tensor, y: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        inside = ((y >= self._left - EDGE) & (y <= self._right + EDGE)).all(-1, keepdim=True)
        z, dlogp = spline(self, x, y.clamp(self._left, self._right), *args, **kwargs)
        return z, torch.where(inside, dlogp, -torch.inf)

    def straight(self: Any, dim: int) -> int:
        return dim if not self._is_circular.any() else int((~self._is_circular).sum())

    def forward_cdf(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        y, dlogp = cdf(self, x, *args, **kwargs)
        outside = torch.isneginf(self.distribution.log_prob(x)).any(-1, keepdim=True)
        return y, torch.where(outside, -torch.inf, dlogp)

    def uniform(self: Any, low: Tensor, high: Tensor, validate_args: bool | None = None, tol: float = 1e-5) -> None:
        torch.distributions.Uniform.__init__(self, low, high, validate_args=False)
        self.tol = tol

    ConditionalSplineTransformer._inverse, ConditionalSplineTransformer._n_noncircular = inverse_spline, straight
    CDFTransform._forward = forward_cdf
    _SloppyUniform.__init__ = uniform


def identity_splines(flow: Any) -> Any:
    """Set every spline of a bgflow flow to the identity, in place; returns the flow.

    A flow fresh from bgflow's builder has random splines with the nflows that is on the package index, and
    ``zero_parameters=True`` also zeroes the hidden layers, which then learn nothing for a while.
    """
    import_bgflow()
    from bgflow.nn.flow.transformer.spline import DEFAULT_MIN_DERIVATIVE, ConditionalSplineTransformer

    slope = float(np.log(np.expm1(1 - DEFAULT_MIN_DERIVATIVE)))  # softplus of it and the minimum are 1
    for spline in flow.modules():
        if not isinstance(spline, ConditionalSplineTransformer):
            continue
        last = [m for m in spline._params_net.modules() if isinstance(m, torch.nn.Linear)][-1]
        circular = spline._is_circular
        if circular.ndim == 0 and not circular:
            raise ValueError("Expected is_circular with one flag a coordinate, as the builder gives it; got one False.")
        straight = int((~circular).sum())
        with torch.no_grad():
            last.weight.zero_()
            last.bias.zero_()
            if "enable_identity_init" not in spline._default_settings:
                # Widths, heights and slopes of all, then one more slope of each straight coordinate.
                last.bias[2 * (len(last.bias) - straight) // 3 :] = slope
    return flow
