"""The spline against its formulas coded a second time, one number at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from openmm_fab.flow import splines
from openmm_fab.flow.splines import MIN_SHARE, MIN_SLOPE

BINS, BOUND = 5, 3.0


def _raw(seed: int, batch: int, dim: int, bins: int = BINS, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(batch, 3 * bins, dim, generator=generator, dtype=torch.float64)


def spline(
    x: torch.Tensor, raw: torch.Tensor, bound: torch.Tensor, mode: torch.Tensor, inverse: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The spline with the batch first, as these tests write it."""
    y, log_det = splines.spline(x.T, raw.permute(1, 2, 0), bound, mode, inverse)
    return y.T, log_det.T


def _knots(raw: np.ndarray, bound: float, circular: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw parameters of one spline -> knots x, knots y, slopes at the knots (Durkan et al., section 3.1)."""
    bins = len(raw) // 3

    def shares(a: np.ndarray) -> np.ndarray:
        a = np.exp(a - a.max())
        return MIN_SHARE + (1 - MIN_SHARE * bins) * a / a.sum()

    x = -bound + 2 * bound * np.concatenate([[0.0], np.cumsum(shares(raw[:bins]))])
    y = -bound + 2 * bound * np.concatenate([[0.0], np.cumsum(shares(raw[bins : 2 * bins]))])
    raw_slopes = np.concatenate([raw[2 * bins : 3 * bins - 1], raw[3 * bins - 1 :]])
    shift = np.log(np.exp(1 - MIN_SLOPE) - 1)
    slopes = MIN_SLOPE + np.log1p(np.exp(raw_slopes + shift))
    end = slopes[-1] if circular else 1.0
    return x, y, np.concatenate([[end], slopes[:-1], [end]])


def _by_hand(x: float, raw: np.ndarray, bound: float, circular: bool) -> tuple[float, float]:
    """Equations 4 and 5."""
    if not circular and abs(x) >= bound:
        return x, 0.0
    xs, ys, slopes = _knots(raw, bound, circular)
    k = max(i for i in range(len(xs) - 1) if xs[i] <= x)
    xi = (x - xs[k]) / (xs[k + 1] - xs[k])
    s = (ys[k + 1] - ys[k]) / (xs[k + 1] - xs[k])
    d0, d1 = slopes[k], slopes[k + 1]
    below = s + (d1 + d0 - 2 * s) * xi * (1 - xi)
    y = ys[k] + (ys[k + 1] - ys[k]) * (s * xi**2 + d0 * xi * (1 - xi)) / below
    slope = s**2 * (d1 * xi**2 + 2 * s * xi * (1 - xi) + d0 * (1 - xi) ** 2) / below**2
    return y, math.log(slope)


def _modes(circular: list[bool]) -> tuple[torch.Tensor, torch.Tensor]:
    mode = torch.tensor(circular)
    return mode, torch.full((len(circular),), BOUND, dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_formulas(scale):
    mode, bound = _modes([True, False])
    raw = _raw(0, 200, 2, scale=scale)
    generator = torch.Generator().manual_seed(1)
    x = (2 * torch.rand(200, 2, generator=generator, dtype=torch.float64) - 1) * math.pi  # beyond BOUND on the line
    assert (x[:, 1].abs() > BOUND).any()
    y, log_det = spline(x, raw, bound, mode)
    expected = np.array(
        [
            [
                _by_hand(float(x[i, j]), raw[i, :, j].numpy(), math.pi if mode[j] else BOUND, bool(mode[j]))
                for j in range(2)
            ]
            for i in range(200)
        ]
    )
    np.testing.assert_allclose(y.numpy(), expected[..., 0], atol=1e-12)
    np.testing.assert_allclose(log_det.numpy(), expected[..., 1], atol=1e-10)
    back, log_det_back = spline(torch.from_numpy(expected[..., 0]), raw, bound, mode, inverse=True)
    np.testing.assert_allclose(back.numpy(), x.numpy(), atol=1e-10)
    np.testing.assert_allclose(log_det_back.numpy(), -expected[..., 1], atol=1e-8)


@pytest.mark.parametrize("inverse", [False, True])
def test_raw_zero_is_the_identity(inverse):
    mode, bound = _modes([True, False])
    x = torch.linspace(-3.1, 3.1, 101, dtype=torch.float64)[:, None].expand(-1, 2)
    y, log_det = spline(x, torch.zeros(101, 3 * BINS, 2, dtype=torch.float64), bound, mode, inverse)
    torch.testing.assert_close(y, x, atol=1e-13, rtol=0)
    torch.testing.assert_close(log_det, torch.zeros_like(x), atol=1e-13, rtol=0)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("circular", [False, True])
def test_gradients(circular, inverse):
    """The hand-written backward pass, in x and in every raw parameter, of values and log-determinants."""
    mode, bound = _modes([circular])
    raw = _raw(2, 6, 1).requires_grad_()
    x = torch.tensor([[-2.9], [-1.1], [0.05], [0.9], [2.2], [2.9]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, raw: spline(x, raw, bound, mode, inverse), (x, raw), atol=1e-7)


@pytest.mark.parametrize("inverse", [False, True])
def test_a_circle_closes(inverse):
    """Ends map to ends with one slope, which is not just 1."""
    mode, bound = _modes([True])
    raw = _raw(3, 1, 1).expand(2, -1, -1)
    ends = torch.tensor([[-math.pi], [math.pi - 1e-12]], dtype=torch.float64)
    y, log_det = spline(ends, raw, bound, mode, inverse)
    torch.testing.assert_close(y, ends, atol=1e-11, rtol=0)
    assert abs(log_det[0] - log_det[1]) < 1e-9
    assert abs(log_det[0]) > 0.1


@pytest.mark.parametrize("inverse", [False, True])
def test_a_line_meets_its_tails_smoothly(inverse):
    mode, bound = _modes([False])
    inside = BOUND * (1 - 1e-12)
    x = torch.tensor([[-1e6], [-BOUND - 1e-9], [-inside], [inside], [BOUND + 1e-9], [1e6]], dtype=torch.float64)
    y, log_det = spline(x, _raw(4, 1, 1).expand(6, -1, -1), bound, mode, inverse)
    torch.testing.assert_close(y, x, atol=1e-10, rtol=0)
    torch.testing.assert_close(log_det, torch.zeros_like(x), atol=1e-9, rtol=0)


@pytest.mark.parametrize("inverse", [False, True])
def test_extreme_parameters_stay_finite_and_monotonic(inverse):
    """Also the gradient: a NaN there would end a training."""
    mode, bound = _modes([True, False])
    raw = _raw(5, 1, 2, scale=30.0).expand(4001, -1, -1).requires_grad_()
    x = torch.linspace(-3.5, 3.5, 4001, dtype=torch.float64)[:, None].expand(-1, 2)
    x = torch.stack([x[:, 0].clamp(-math.pi, math.pi), x[:, 1]], dim=1)
    y, log_det = spline(x, raw, bound, mode, inverse)
    assert (y.diff(dim=0) >= -1e-12).all()
    assert torch.isfinite(log_det).all()
    (gradient,) = torch.autograd.grad(y.sum() + log_det.sum(), raw)
    assert torch.isfinite(gradient).all()


def test_float32_round_trip():
    mode, bound = _modes([True, False])
    raw = _raw(6, 1000, 2, scale=0.5).float()
    x = 6 * torch.rand(1000, 2, generator=torch.Generator().manual_seed(7)) - 3
    y, log_det = spline(x, raw, bound.float(), mode)
    back, log_det_back = spline(y, raw, bound.float(), mode, inverse=True)
    assert y.dtype == log_det.dtype == torch.float32
    assert (back - x).abs().max() < 2e-5
    assert (log_det + log_det_back).abs().max() < 1e-4
