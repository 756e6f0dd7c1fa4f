"""A generator of several temperatures: ensembles of each by quadrature, files, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import ANGLES, BONDS, TORSIONS
from generators import QUIET, SMALL, chain_marginals
from openmm import unit
from scipy.integrate import trapezoid
from test_generator import _interrupt_after

from openmm_fab.ais.annealing import AISSettings
from openmm_fab.ensemble.audit import Audit, State
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.free_energy import heat_capacity, mean_energy, reweight_temperature, temperature_curve
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.partition import log_z_ais
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.molecule.units import GAS_CONSTANT
from openmm_fab.train.experience import Experience
from openmm_fab.train.settings import Budget
from openmm_fab.weights import weighted_mean

SEVERAL = (300.0, 400.0, 600.0)


@pytest.fixture(scope="module")
def trained(system) -> BoltzmannGenerator:
    generator = BoltzmannGenerator(system, SMALL)
    generator.train(Budget(iterations=60), temperatures=(400, "300 K", 600 * unit.kelvin), **QUIET)
    return generator


def exact(kelvin: float) -> tuple[float, float, float]:
    """log Z, U (kJ/mol) and C_V (kJ/mol/K) of the chain by quadrature; C_V from the variance of each coordinate."""
    kT = GAS_CONSTANT * kelvin
    log_z = u = variance = 0.0
    terms = [lambda r, r0=r0, k=k: 0.5 * k * (r - r0) ** 2 for r0, k in (*BONDS, *ANGLES)]
    terms += [lambda t, of=of: sum(k * (1 + np.cos(m * t - phase)) for m, phase, k in of) for of in TORSIONS]
    for (grid, p), term in zip(chain_marginals(kT), terms, strict=True):
        z, energy = trapezoid(p, grid), term(grid)
        mean = trapezoid(p * energy, grid) / z
        log_z += np.log(z)
        u += mean
        variance += trapezoid(p * (energy - mean) ** 2, grid) / z
    return log_z, u, variance / (kT * kelvin)


def z_score(estimate, value: float) -> float:
    return (float(estimate.value) - value) / float(estimate.error)


@pytest.mark.parametrize("kelvin", [300.0, 345.0, 600.0])
def test_ensembles_have_the_thermodynamics_of_their_temperature(trained, kelvin):
    ensemble = trained.sample(20_000, seed=3, temperature=kelvin)
    assert ensemble.temperature == kelvin
    assert ensemble.ess_fraction > 0.1
    expected = exact(kelvin)
    for estimate, value in zip((ensemble.log_z, mean_energy(ensemble), heat_capacity(ensemble)), expected, strict=True):
        assert abs(z_score(estimate, value)) < 3.5
        assert estimate.error < 0.03 * abs(value)


def test_weights_are_of_the_energy_and_the_density_at_the_temperature(trained):
    ensemble = trained.sample(200, temperature=450)
    with torch.no_grad():
        u = trained.energy(torch.from_numpy(ensemble.x)).numpy() * (300 / 450)
    np.testing.assert_allclose(ensemble.u, u, rtol=1e-9, atol=1e-9)
    log_q = trained.log_prob(ensemble.x, 450).numpy()
    np.testing.assert_allclose(ensemble.log_q, log_q, atol=2e-3)
    np.testing.assert_allclose(ensemble.log_w, -u - log_q, atol=2e-3)
    assert np.abs(trained.log_prob(ensemble.x).numpy() - log_q).max() > 0.5  # at 300 K it is another


def test_the_systems_own_temperature_is_the_default(trained):
    a, b = trained.sample(40), trained.sample(40, temperature="300 K")
    assert a.temperature == 300.0
    np.testing.assert_array_equal(a.log_w, b.log_w)
    assert trained.evaluate(64)["khat"] == trained.evaluate(64)["khat"]
    assert trained.temperatures_in_words().startswith("One flow for 300, 400 and 600 K and all between")


def test_one_flow_beats_a_flow_of_one_temperature_reweighted(trained, system):
    cold = BoltzmannGenerator(system, SMALL)
    cold.train(Budget(iterations=60), **QUIET)
    assert trained.sample(2000, temperature=600).ess > 2 * reweight_temperature(cold.sample(2000), 600).ess


def test_outside_the_range_is_refused(trained, system):
    for kelvin in (299, 601):
        with pytest.raises(ValueError, match="from 300 to 600 K, which this flow is for"):
            trained.sample(10, temperature=kelvin)
    single = BoltzmannGenerator(system, SMALL)
    assert single.sample(10, temperature=300 * unit.kelvin).temperature == 300
    with pytest.raises(ValueError, match="Expected 300 K, the one temperature"):
        single.sample(10, temperature=350)
    assert single.temperatures_in_words() == ""


@pytest.mark.parametrize(
    ("temperatures", "words"),
    [
        ((400, 600), "with the system's own, 300 K, within their range"),
        ((300,), "two or more different temperatures"),
        ((300, 300.0, 400), "two or more different temperatures"),
        ((300, -1), "positive, finite temperature"),
        ((300, "hot"), "Expected a temperature in K"),
    ],
)
def test_temperatures_that_are_none(system, temperatures, words):
    with pytest.raises(ValueError, match=words):
        BoltzmannGenerator(system, SMALL).train(Budget(iterations=1), temperatures=temperatures, **QUIET)
    with pytest.raises(ValueError, match=words):
        BoltzmannGenerator(system, replace(SMALL, temperatures=temperatures))


def test_a_trained_generator_keeps_its_temperatures(trained, system):
    with pytest.raises(ValueError, match="Expected an untrained generator"):
        trained.train(Budget(iterations=61), temperatures=(300, 500), **QUIET)
    given = CouplingFlow(trained.coordinates.periodic, SMALL.flow)
    with pytest.raises(ValueError, match="Expected no temperatures with a flow that is given"):
        BoltzmannGenerator(system, replace(SMALL, temperatures=SEVERAL), flow=given)


def test_settings_and_argument_give_the_same_bits(system):
    assert GeneratorSettings.of({"temperatures": [600, 300, 400]}).temperatures == SEVERAL  # as a TOML file has them
    by_settings = BoltzmannGenerator(system, replace(SMALL, temperatures=[300, 400, 600]))
    by_argument = BoltzmannGenerator(system, SMALL)
    by_settings.train(Budget(iterations=2), **QUIET)
    by_argument.train(Budget(iterations=2), temperatures=SEVERAL, **QUIET)
    assert by_settings.settings == by_argument.settings
    assert by_settings.digest == by_argument.digest


def test_save_and_load(trained, system, tmp_path):
    loaded = BoltzmannGenerator.load(trained.save(tmp_path / "model.safetensors"), system)
    assert loaded.settings.temperatures == SEVERAL
    a, b = (g.sample(50, seed=1, temperature=350) for g in (trained, loaded))
    np.testing.assert_array_equal(a.log_w, b.log_w)
    np.testing.assert_array_equal(a.x, b.x)


def test_resumed_training_is_uninterrupted_training(system, tmp_path, monkeypatch):
    settings = replace(SMALL, temperatures=SEVERAL)
    whole = BoltzmannGenerator(system, settings)
    whole.train(Budget(iterations=14), folder=tmp_path / "whole", **QUIET)
    interrupted = BoltzmannGenerator(system, settings)
    _interrupt_after(8, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        interrupted.train(Budget(iterations=14), folder=tmp_path / "parts", **QUIET)
    monkeypatch.undo()
    resumed = BoltzmannGenerator(system, settings)
    resumed.train(Budget(iterations=14), folder=tmp_path / "parts", resume=True, **QUIET)
    assert resumed.digest == whole.digest
    assert torch.equal(resumed.target.levels, whole.target.levels)
    assert whole.target.levels.abs().max() > 0
    other = BoltzmannGenerator(system, replace(SMALL, temperatures=(300, 500, 600)))
    with pytest.raises(ValueError, match="same temperatures"):
        other.train(Budget(iterations=14), folder=tmp_path / "parts", resume=True, **QUIET)
    rows = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == list(range(1, 15))


def test_chains_that_an_audit_starts_are_of_the_systems_own_temperature(system, monkeypatch):
    x = tuple(map(tuple, system.minimum.tolist()))
    audit = Audit((State("the other side", "missing", 0.0, 0.4, 0.0, x=x),), 0.01, 1, 1.0, True)
    seen, follow = [], Experience._follow_found

    def followed(experience):
        points = follow(experience)
        seen.append(points.z)
        return points

    monkeypatch.setattr(Experience, "_follow_found", followed)
    generator = BoltzmannGenerator(system, replace(SMALL, temperatures=SEVERAL))
    generator.train(Budget(iterations=1), audit=audit, **QUIET)
    assert len(seen) > 1
    assert all(z.shape[1] == generator.coordinates.dim + 1 and not z[:, -1].any() for z in seen)
    assert not torch.equal(seen[0][:, :-1], seen[1][:, :-1])


def test_maximum_likelihood_learns_the_temperature_of_its_samples(trained, system):
    samples = trained.sample(600, seed=3, temperature=500)
    generator = BoltzmannGenerator(system, replace(SMALL, temperatures=SEVERAL))
    before = weighted_mean(samples.log_w, generator.log_prob(samples.x, 500).numpy())
    generator.train(Budget(iterations=40), **QUIET, objective="maximum_likelihood", samples=samples)
    after = weighted_mean(samples.log_w, generator.log_prob(samples.x, 500).numpy())
    assert after.value > before.value + 0.3
    assert after.value > weighted_mean(samples.log_w, generator.log_prob(samples.x, 300).numpy()).value + 0.3


def test_samples_in_a_file_and_annealed_ones(trained, tmp_path):
    streamed = trained.sample(40, seed=1, temperature=350, out=tmp_path / "samples.nc")
    assert "350 K" in repr(streamed)
    back, plain = Ensemble.load(tmp_path / "samples.nc"), trained.sample(40, seed=1, temperature=350)
    assert back.temperature == 350.0
    np.testing.assert_array_equal(back.log_w, plain.log_w)
    few = AISSettings(alpha=1.0, intermediate=2)
    refined = trained.sample(500, temperature=350, refine=few)
    assert refined.temperature == 350.0
    found = log_z_ais(trained, 500, temperature=350, settings=few, progress=False)
    for estimate in (refined.log_z, found):
        assert abs(z_score(estimate, exact(350)[0])) < 4.0


def test_the_curve_against_temperature(trained):
    kelvin = np.array([300.0, 450.0, 600.0])
    curve = temperature_curve([trained.sample(5_000, seed=k, temperature=t) for k, t in enumerate(kelvin)])
    np.testing.assert_array_equal(curve.temperature, kelvin)
    log_zs, us, capacities = map(np.array, zip(*map(exact, kelvin), strict=True))
    frees = -GAS_CONSTANT * kelvin * log_zs
    for estimate, value in (
        (curve.log_z, log_zs),
        (curve.free_energy, frees),
        (curve.energy, us),
        (curve.entropy, (us - frees) / kelvin),
        (curve.heat_capacity, capacities),
    ):
        assert np.abs((estimate.value - value) / estimate.error).max() < 4.0
    # Along the curve a parabola is good to a few parts in a thousand here.
    assert (np.abs(curve.slope.value - capacities) < 4 * curve.slope.error + 0.005 * capacities).all()
    assert "300" in str(curve) and "C_V, kJ/mol/K" in str(curve)
