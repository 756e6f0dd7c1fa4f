"""One test for every bijection: round trip, and log_det against autodiff, both ways, in float64.

A new bijection is added to BIJECTIONS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import molecules as m
import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.zmatrix import build_zmatrix
from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.flow.splines import spline
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.tools.circle import wrap

Map = Callable[[Tensor], tuple[Tensor, Tensor]]
TOLERANCE = 1e-9


def _differentiate(f: Map, x: Tensor) -> Tensor:
    """Jacobian (n_out, n_in) at one point, both sides flat."""
    return jacobian(lambda v: f(v[None])[0][0].flatten(), x).flatten(1)


def _log_abs_det(f: Map, x: Tensor) -> Tensor:
    return torch.linalg.slogdet(_differentiate(f, x)).logabsdet


@dataclass(frozen=True)
class Bijection:
    """Two maps (value and log |det| of the call), points to start from each way, and what autodiff says of them."""

    forward: Map
    inverse: Map
    points: Tensor
    images: Tensor
    circular: Tensor  # entries of the points that are angles
    circular_image: Tensor
    volume: Callable[[Map, Tensor], Tensor] = _log_abs_det
    volume_inverse: Callable[[Map, Tensor], Tensor] = _log_abs_det


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _angles(seed: int, *shape: int) -> Tensor:
    uniform = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (2 * uniform - 1) * math.pi


def _mixed(seed: int, n: int, periodic: Tensor) -> Tensor:
    return torch.where(periodic, _angles(seed, n, len(periodic)), 2 * _normal(seed, n, len(periodic)))


# --- molecules ---


def _rigid_motions(x: Tensor) -> Tensor:
    """Velocities (3 n_atoms, 6) of x (n_atoms, 3) under unit translations and rotations; a diatomic on x has only 5."""
    eye = torch.eye(3, dtype=x.dtype)
    turns = [torch.linalg.cross(axis.expand_as(x), x).flatten() for axis in (eye if len(x) > 2 else eye[1:])]
    return torch.cat([eye.repeat(len(x), 1), torch.stack(turns, dim=1)], dim=1)


def _volume_placed(to_cartesian: Map, z: Tensor) -> Tensor:
    """log |d(x) / d(z, translation, rotation)|: all 3n dimensions, so that no measure is put in by hand."""
    motions = _rigid_motions(to_cartesian(z[None])[0][0])
    return torch.linalg.slogdet(torch.cat([_differentiate(to_cartesian, z), motions], dim=1)).logabsdet


def _volume_measured(to_internal: Map, x: Tensor) -> Tensor:
    moves = torch.linalg.pinv(_differentiate(to_internal, x))  # each changes one z alone
    return -torch.linalg.slogdet(torch.cat([moves, _rigid_motions(x)], dim=1)).logabsdet


def _coordinates(molecule: m.Molecule | MolecularSystem, n: int = 3) -> Bijection:
    """Stiff coordinates centred on a distorted copy of the molecule and scaled by a full random matrix."""
    plain = InternalCoordinates(build_zmatrix(molecule.graph, molecule.masses, molecule.positions))
    x = torch.tensor(molecule.positions) + 0.004 * _normal(0, n + 1, *molecule.positions.shape)
    mean = plain.to_internal(x)[0][0, : plain.n_stiff]
    mixing = 0.05 * (torch.eye(plain.n_stiff, dtype=torch.float64) + 0.05 * _normal(1, plain.n_stiff, plain.n_stiff))
    c = InternalCoordinates(plain.zmatrix, mean, mixing=mixing)
    z = torch.cat([_normal(2, n, c.n_stiff), _angles(3, n, c.n_periodic)], dim=1)
    placed, _ = c.to_cartesian(c.to_internal(x[1:])[0])  # standing where to_cartesian will put it again
    nowhere = torch.zeros(placed.shape[1:], dtype=torch.bool)
    return Bijection(c.to_cartesian, c.to_internal, z, placed, c.periodic, nowhere, _volume_placed, _volume_measured)


def _alanine_dipeptide() -> Bijection:
    return _coordinates(MolecularSystem.load("alanine_dipeptide"), n=1)


# --- splines ---


def _spline(circular: list[bool], bins: int) -> Bijection:
    mode = torch.tensor(circular)
    raw = _normal(5, 3 * bins, len(mode), 1)
    bound = torch.full((len(mode),), 4.0, dtype=torch.float64)

    def one_way(x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        y, log_det = spline(x.T, raw.expand(-1, -1, len(x)), bound, mode, inverse)
        return y.T, log_det.sum(0)

    x, y = _mixed(6, 8, mode), _mixed(7, 8, mode)
    return Bijection(partial(one_way, inverse=False), partial(one_way, inverse=True), x, y, mode, mode)


# --- flows ---


def _flow(lines: int, circles: int, layers: int) -> Bijection:
    """All layers of a flow, or only its first, with random conditioners."""
    periodic = torch.arange(lines + circles) >= lines
    settings = FlowSettings(layers=max(layers, 2), hidden=16, bins=5, bound=4.0)
    random = torch.Generator().manual_seed(8)
    flow = CouplingFlow(periodic, settings, rng=random).double()
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if name[-2:] in ("b1", "b2", "w3", "b3"):
                parameter.normal_(0.0, 0.2, generator=random)
    stack = list(flow.layers)[:layers]

    def one_way(z: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        log_det = torch.zeros_like(z[:, 0])
        for layer in stack if inverse else stack[::-1]:
            z, change = flow.couple(z, layer, inverse)
            log_det = log_det + change
        return z, log_det

    z, y = _mixed(9, 4, periodic), _mixed(10, 4, periodic)
    return Bijection(partial(one_way, inverse=False), partial(one_way, inverse=True), z, y, periodic, periodic)


BIJECTIONS: dict[str, Callable[[], Bijection]] = {
    "coordinates of carbon monoxide": partial(_coordinates, m.CARBON_MONOXIDE),
    "coordinates of water": partial(_coordinates, m.WATER),
    "coordinates of hydrogen peroxide": partial(_coordinates, m.HYDROGEN_PEROXIDE),
    "coordinates of methane": partial(_coordinates, m.METHANE),
    "coordinates of ethane": partial(_coordinates, m.ETHANE),
    "coordinates of butane": partial(_coordinates, m.BUTANE),
    "coordinates of toluene": partial(_coordinates, m.TOLUENE),
    "coordinates of cyclohexane": partial(_coordinates, m.CYCLOHEXANE),
    "coordinates of alanine dipeptide": _alanine_dipeptide,
    "spline on lines": partial(_spline, [False, False], 6),
    "spline on circles": partial(_spline, [True, True], 6),
    "spline on both": partial(_spline, [True, False, True], 2),
    "coupling layer on lines": partial(_flow, 4, 0, 1),
    "coupling layer on circles": partial(_flow, 0, 4, 1),
    "coupling layer on both": partial(_flow, 3, 2, 1),
    "flow on lines": partial(_flow, 4, 0, 4),
    "flow on circles": partial(_flow, 0, 4, 4),
    "flow on both": partial(_flow, 4, 2, 4),
    "flow on odd numbers": partial(_flow, 3, 5, 4),
    "flow on 2 lines": partial(_flow, 2, 0, 4),
    "flow on 2 circles": partial(_flow, 0, 2, 4),
    "flow on a line and a circle": partial(_flow, 1, 1, 4),
    "flow on a line and 2 circles": partial(_flow, 1, 2, 4),
    "flow on 3 lines": partial(_flow, 3, 0, 4),
    "flow on a single line": partial(_flow, 1, 0, 4),
    "flow on a single circle": partial(_flow, 0, 1, 4),
}


@pytest.fixture(scope="module", params=BIJECTIONS)
def bijection(request) -> Bijection:
    return BIJECTIONS[request.param]()


def _check(there: Map, back: Map, start: Tensor, circular: Tensor, volume: Callable[[Map, Tensor], Tensor]) -> None:
    end, log_det = there(start)
    again, log_det_back = back(end)
    assert log_det.shape == (len(start),)
    assert (end - start).abs().max() > 0.1 if end.shape == start.shape else True  # not a no-op
    error = again - start
    torch.testing.assert_close(
        torch.where(circular, wrap(error), error), torch.zeros_like(error), atol=TOLERANCE, rtol=0
    )
    torch.testing.assert_close(log_det_back, -log_det, atol=TOLERANCE, rtol=0)
    by_autodiff = torch.stack([volume(there, point) for point in start])
    torch.testing.assert_close(log_det, by_autodiff, atol=TOLERANCE, rtol=0)


def test_forward(bijection):
    _check(bijection.forward, bijection.inverse, bijection.points, bijection.circular, bijection.volume)


def test_inverse(bijection):
    b = bijection
    _check(b.inverse, b.forward, b.images, b.circular_image, b.volume_inverse)
