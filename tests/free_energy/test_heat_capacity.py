"""Heat capacities and curves against temperature, of quartic wells: U = n RT / 4, C_V = n R / 4, closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ensembles import flat

from openmm_fab.free_energy import heat_capacity, mean_energy, temperature_curve
from openmm_fab.molecule.units import GAS_CONSTANT

WELLS, STIFF = 8, 5.0  # U = sum of STIFF x^4, kJ/mol


def wells(n: int, kelvin: float, seed: int):
    """Weighted samples of the wells, drawn from normal ones about as wide."""
    rng, kT = np.random.default_rng(seed), GAS_CONSTANT * kelvin
    std = 0.65 * (kT / STIFF) ** 0.25
    x = std * rng.normal(size=(n, WELLS))
    u = STIFF * (x**4).sum(1) / kT
    log_q = (-0.5 * (x / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))).sum(1)
    return flat(n, u=u, log_w=-u - log_q, log_q=log_q, temperature=kelvin)


def exact_log_z(kelvin: float) -> float:
    return WELLS * math.log(2 * math.gamma(1.25) * (GAS_CONSTANT * kelvin / STIFF) ** 0.25)


def test_energy_and_heat_capacity_are_those_of_the_wells() -> None:
    for kelvin in (200.0, 500.0):
        ensemble = wells(40_000, kelvin, 0)
        energy, capacity = mean_energy(ensemble), heat_capacity(ensemble)
        assert abs(energy.value - WELLS * ensemble.kT / 4) < 3 * energy.error < 0.03 * energy.value
        assert abs(capacity.value - WELLS * GAS_CONSTANT / 4) < 3 * capacity.error < 0.06 * capacity.value


def test_errors_are_the_spread_of_repeated_estimates() -> None:
    found = [wells(1000, 300.0, seed) for seed in range(300)]
    for function in (mean_energy, heat_capacity):
        values, errors = np.array([(e.value, e.error) for e in map(function, found)]).T
        assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.08)


def test_blocks_count_once() -> None:
    ensemble = wells(1000, 300.0, 0)
    index = np.repeat(np.arange(1000), 4)
    copies = ensemble[index]
    blocked = flat(4000, u=copies.u, log_w=copies.log_w, log_q=copies.log_q, temperature=300.0, block=index)
    for function in (mean_energy, heat_capacity):
        assert function(blocked).value == pytest.approx(function(ensemble).value, rel=1e-12)
        assert function(blocked).error == pytest.approx(function(ensemble).error, rel=1e-9)
        assert function(copies).error == pytest.approx(function(ensemble).error / 2, rel=1e-3)


def test_the_curve_has_the_closed_forms() -> None:
    kelvin = np.array([250.0, 300.0, 400.0, 600.0])
    ensembles = [wells(20_000, t, seed) for seed, t in enumerate(kelvin)]
    curve = temperature_curve(ensembles[::-1])  # in any order
    np.testing.assert_array_equal(curve.temperature, kelvin)
    log_z = np.array([exact_log_z(t) for t in kelvin])
    energy = WELLS * GAS_CONSTANT * kelvin / 4
    capacity = np.full(4, WELLS * GAS_CONSTANT / 4)
    pairs = {
        "log_z": log_z,
        "free_energy": -GAS_CONSTANT * kelvin * log_z,
        "energy": energy,
        "entropy": energy / kelvin + GAS_CONSTANT * log_z,
        "heat_capacity": capacity,
        "slope": capacity,  # U is a line
    }
    for name, value in pairs.items():
        found = getattr(curve, name)
        z = (found.value - value) / found.error
        assert np.abs(z).max() < 3.5, name
    assert (curve.slope.error > curve.heat_capacity.error).all()


def test_errors_of_the_curve_are_the_spread_of_repeated_curves() -> None:
    curves = [
        temperature_curve([wells(400, t, 10 * seed + k) for k, t in enumerate((250.0, 300.0, 400.0))])
        for seed in range(200)
    ]
    for name in ("log_z", "entropy", "slope"):
        values = np.array([getattr(curve, name).value for curve in curves])
        errors = np.array([getattr(curve, name).error for curve in curves])
        np.testing.assert_allclose(errors.mean(0), values.std(0, ddof=1), rtol=0.2)


def test_two_temperatures_have_one_slope() -> None:
    cold, hot = wells(5000, 300.0, 0), wells(5000, 400.0, 1)
    slope = temperature_curve([cold, hot]).slope
    expected = (mean_energy(hot).value - mean_energy(cold).value) / 100
    np.testing.assert_allclose(slope.value, [expected, expected], rtol=1e-9)
    np.testing.assert_allclose(slope.error, np.hypot(mean_energy(hot).error, mean_energy(cold).error) / 100)


def test_what_has_no_curve_is_refused() -> None:
    cold = wells(100, 300.0, 0)
    with pytest.raises(ValueError, match="two or more different temperatures"):
        temperature_curve([cold])
    with pytest.raises(ValueError, match="two or more different temperatures"):
        temperature_curve([cold, wells(100, 300.0, 1)])
    md = flat(100, u=cold.u, temperature=400.0)
    assert np.isfinite(heat_capacity(md).value)
    with pytest.raises(ValueError, match="Expected an ensemble drawn by a flow"):
        temperature_curve([cold, md])
    with pytest.raises(ValueError, match="finite energy u of every frame"):
        heat_capacity(flat(100))


def test_a_structure_without_weight_needs_no_energy() -> None:
    ensemble = wells(100, 300.0, 0)
    u, log_w = ensemble.u.copy(), ensemble.log_w.copy()
    u[3], log_w[3] = np.inf, -np.inf
    broken = flat(100, u=u, log_w=log_w, log_q=ensemble.log_q)
    assert np.isfinite(heat_capacity(broken).value) and np.isfinite(heat_capacity(broken).error)
