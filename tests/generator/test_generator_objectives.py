"""BoltzmannGenerator by other objectives than FAB, and samples refined by annealing, on a small chain."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from generators import QUIET, SMALL

from openmm_fab.ais.annealing import AISSettings
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.train.settings import Budget
from openmm_fab.weights import weighted_mean, z_score


@pytest.fixture(scope="module")
def trained(system, energy) -> BoltzmannGenerator:
    generator = BoltzmannGenerator(system, SMALL, seed=0, energy=energy)
    generator.train(Budget(iterations=20), **QUIET)
    return generator


def test_refined_samples_agree_with_weighted_ones_and_are_better(energy, trained):
    settings = AISSettings(alpha=1.0, intermediate=6, leapfrogs=3)
    plain, refined = trained.sample(3000, seed=1), trained.sample(320, seed=2, refine=settings)
    assert refined.n == 320 and refined.log_q is None
    torch.testing.assert_close(torch.from_numpy(refined.u), energy(torch.from_numpy(refined.x)), rtol=1e-9, atol=1e-9)
    assert refined.ess_fraction > plain.ess_fraction + 0.1
    assert abs(z_score(refined.log_z, plain.log_z)) < 4 and refined.log_z.error < 0.15
    means = [weighted_mean(e.log_w, np.where(np.isfinite(e.u), e.u, 0.0)) for e in (refined, plain)]
    assert abs(z_score(*means)) < 4
    same = trained.sample(64, seed=2, refine=settings)
    assert np.array_equal(refined.log_w[:64], same.log_w)


def test_refining_by_default(trained):
    refined = trained.sample(32, refine="ais")
    assert refined.ess_fraction > trained.sample(2000).ess_fraction and refined.log_q is None


@pytest.mark.parametrize("wrong", ["smc", 3, AISSettings(alpha=1.0, resample=0.5)])
def test_refining_otherwise_is_refused(trained, wrong):
    with pytest.raises(ValueError, match=r'Expected refine="ais"|Expected AISSettings without resampling'):
        trained.sample(10, refine=wrong)


def test_refining_towards_another_density_is_refused(trained):
    with pytest.raises(ValueError, match="alpha = 2"):
        trained.sample(10, refine=AISSettings(alpha=2.0))


def test_maximum_likelihood_learns_from_weighted_samples(system, energy, trained):
    """Not from the energy: no target evaluation; and from the heavy samples alone."""
    samples = trained.sample(600, seed=3)
    generator = BoltzmannGenerator(system, SMALL, seed=1, energy=energy)
    before = weighted_mean(samples.log_w, generator.log_prob(samples.x).numpy())
    history = generator.train(Budget(iterations=60), **QUIET, objective="maximum_likelihood", samples=samples)
    after = weighted_mean(samples.log_w, generator.log_prob(samples.x).numpy())
    assert after.value > before.value + 1
    assert history[-1]["evaluations"] == 0 and math.isnan(history[-1]["ess_ais"])
    with pytest.raises(ValueError, match="or maximum_likelihood with some"):
        generator.train(Budget(iterations=1), **QUIET, objective="maximum_likelihood")
    with pytest.raises(ValueError, match="Expected one of"):
        generator.train(Budget(iterations=1), **QUIET, samples=samples)


@pytest.mark.parametrize("objective", ["fab_no_buffer", "reverse_kl", "alpha_divergence"])
def test_other_objectives_train_and_resume(system, energy, tmp_path, objective):
    folder = tmp_path / "run"
    first = BoltzmannGenerator(system, SMALL, seed=0, energy=energy)
    first.train(Budget(iterations=2), folder, **QUIET, objective=objective)
    second = BoltzmannGenerator(system, SMALL, seed=0, energy=energy)
    history = second.train(Budget(iterations=4), folder, resume=True, **QUIET, objective=objective)
    assert [info["iteration"] for info in history] == [3, 4]
    assert all(math.isfinite(info["loss"]) for info in history)
    with pytest.raises(ValueError, match="Expected a checkpoint of the objective fab"):
        BoltzmannGenerator(system, SMALL, seed=0, energy=energy).train(
            Budget(iterations=4), folder, resume=True, **QUIET
        )


def test_metrics_of_ones_own(energy, trained):
    """`measure` gets the samples that are evaluated, with their weights."""
    seen = []

    def measure(ensemble):
        seen.append(ensemble)
        return {"largest": float(ensemble.weights.max())}

    metrics = trained.evaluate(128, measure)
    assert metrics["largest"] == float(seen[0].weights.max()) and seen[0].n == 128
    assert metrics["log_z_error"] == pytest.approx(float(seen[0].log_z.error))
