"""Divergences, noise, halves and sides of a comparison: closed forms, and how often the noise level is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ensembles import backbone, flat
from scipy.special import erf, i0, i1

from openmm_fab.comparison.comparing import compare
from openmm_fab.comparison.divergences import divergence, edges_of, halves, noise, open_bins, own_noise
from openmm_fab.comparison.sides import Side
from openmm_fab.comparison.verdicts import verdict
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.free_energy.profiles import basin_difference, profile
from openmm_fab.tools.circle import circular_bins


def gaussian(n: int, seed: int, **fields) -> Ensemble:
    """phi and psi of width 0.6 and 0.9 around -1 and 0."""
    rng = np.random.default_rng(seed)
    return backbone(-1.0 + 0.6 * rng.normal(size=n), 0.9 * rng.normal(size=n), **fields)


def test_von_mises_on_a_circle() -> None:
    centres = -np.pi + 2 * np.pi * (np.arange(2000) + 0.5) / 2000
    # One of the two lies on the cut at pi.
    for kappa, a, b in ((2.0, np.pi, -2.0), (5.0, 0.3, 1.0)):
        p, q = (np.exp(kappa * np.cos(centres - mean)) for mean in (a, b))
        exact = kappa * i1(kappa) / i0(kappa) * (1 - np.cos(a - b))
        assert divergence(p, q).kl == pytest.approx(exact, rel=1e-6)


def test_narrow_gaussians_on_a_circle() -> None:
    rng = np.random.default_rng(0)
    width, shift, n = 0.25, 0.3, 400_000
    p, q = (
        np.bincount(circular_bins(np.pi + mean + width * rng.normal(size=n), 60), minlength=60) for mean in (0.0, shift)
    )
    found = divergence(p, q)
    assert found.kl == pytest.approx(shift**2 / (2 * width**2), rel=0.08)
    assert found.tv == pytest.approx(erf(shift / (2 * np.sqrt(2) * width)), abs=0.01)
    assert 0 < found.js < np.log(2) and found.js < 0.5 * found.kl


def test_bins() -> None:
    np.testing.assert_array_equal(circular_bins(np.array([-np.pi, np.pi, 0.0, 3 * np.pi - 0.01]), 4), [0, 0, 2, 3])
    edges = np.array([0.0, 1.0, 2.0])
    np.testing.assert_array_equal(open_bins(np.array([-5.0, 0.0, 0.99, 1.0, 2.0, 1e9]), edges), [0, 0, 0, 1, 1, 1])
    values = np.r_[np.linspace(0, 1, 10_001), 1e6]
    low, high = edges_of(values, np.ones(len(values)), 10)[[0, -1]]
    assert (low, high) == pytest.approx((-0.099, 1.099), abs=0.01)
    # A far value without weight, and values that are all the same.
    assert edges_of(values, np.r_[np.ones(10_001), 0.0], 10)[-1] < 1.2
    assert edges_of(np.full(10, 3.0), np.ones(10), 10) is None


def test_the_noise_is_that_of_equal_distributions() -> None:
    """Over repeated pairs of samples z has a mean of 0, and exceeds 2 as seldom as it should."""
    rng, zs = np.random.default_rng(0), []
    shares = np.array([0.5, 0.3, 0.1, 0.07, 0.03])
    for _ in range(300):
        # 60 blocks of 10 equal frames against 900 independent ones.
        a = np.bincount(rng.choice(5, size=60, p=shares), minlength=5) / 60
        b = np.bincount(rng.choice(5, size=900, p=shares), minlength=5) / 900
        replicas = [rng.multinomial(n, p, size=100) / n for n, p in ((60, a), (900, b))]
        level = noise(a, replicas[0], 60, b, replicas[1], 900)
        zs.append((divergence(a, b).tv - level.value) / level.error)
    assert abs(np.mean(zs)) < 0.2 and 0.8 < np.std(zs) < 1.25
    assert np.mean(np.array(zs) > 3) < 0.03


def test_noise_of_few_blocks() -> None:
    p, replicas = np.array([0.5, 0.5]), np.array([[0.4, 0.6], [0.6, 0.4], [0.5, 0.5]])
    still = np.tile(p, (3, 1))
    many = noise(p, replicas, 10**9, p, still, 10**9)
    assert many.value == pytest.approx(0.2 / 3)
    assert noise(p, replicas, 2, p, still, 10**9).value == pytest.approx(np.sqrt(2) * 0.2 / 3)
    assert np.isnan(noise(p, replicas, 1, p, still, 10).value)
    assert verdict(np.nan) == "no error bar, no verdict"


def test_halves_keep_blocks_whole() -> None:
    block = np.random.default_rng(0).permutation(np.repeat(np.arange(11), 7))
    split = halves(flat(77, block=block), seed=1)
    assert len(split) == 4
    for mask in split:
        assert mask.sum() == 35
        assert not set(block[mask]) & set(block[~mask])
    assert halves(flat(5, block=np.zeros(5, dtype=int)), seed=1) == []
    assert np.isnan(own_noise(np.ones(5), np.zeros(5, dtype=int), 1, []).tv)


def test_own_noise_of_independent_frames_and_of_copies() -> None:
    rng = np.random.default_rng(2)
    index, n, bins = rng.integers(20, size=8000), 8000, 20
    split = halves(flat(n), seed=0, splits=40)
    # Two halves of n / 2 uniform samples over B bins: KL = 2 (B - 1) / n on average.
    assert own_noise(np.full(n, 1 / n), index, bins, split).kl == pytest.approx(2 * 19 / n, rel=0.25)
    # Every frame ten times over: a tenth of the frames, ten times the divergence.
    index = np.repeat(index[:800], 10)
    split = halves(flat(n, block=np.repeat(np.arange(800), 10)), seed=0, splits=40)
    assert own_noise(np.full(n, 1 / n), index, bins, split).kl == pytest.approx(2 * 19 / 800, rel=0.25)


@pytest.mark.parametrize("blocks", [None, 40])
def test_one_bootstrap_gives_what_free_energy_gives(blocks: int | None) -> None:
    rng = np.random.default_rng(3)
    block = None if blocks is None else np.arange(2000) * blocks // 2000
    ensemble = gaussian(2000, 4, log_w=0.5 * rng.normal(size=2000), block=block)
    phi = ensemble.phi()[:, 0]
    columns = {"phi": (circular_bins(phi, 60), 60), "basin": ((phi > -0.5).astype(int), 2)}
    side = Side.of(ensemble, columns, 50, 7)
    ours = side.profile("phi", np.linspace(-np.pi, np.pi, 61))
    theirs = profile(ensemble, phi, bins=60, n_bootstrap=50, seed=7)
    np.testing.assert_allclose(ours.value, theirs.value)
    np.testing.assert_allclose(ours.error, theirs.error)
    a, b = side.difference("basin"), basin_difference(ensemble, phi > -0.5, n_bootstrap=50, seed=7)
    assert (a.value, a.error, a.probability, a.effective) == pytest.approx(
        (b.value, b.error, b.probability, b.effective)
    )
    assert (a.samples, a.note) == (b.samples, b.note)
    mean, expected = side.mean(phi), ensemble.expectation(phi, n_bootstrap=400)
    assert mean.value == pytest.approx(expected.value)
    assert mean.error == pytest.approx(expected.error, rel=0.15)
    # Every frame ten times over tells no more than once.
    again = np.repeat(np.arange(2000), 10)
    copies = Side.of(replace(ensemble[again], block=again), {}, 1, 0)
    assert copies.mean(phi[again]).error == pytest.approx(
        Side.of(replace(ensemble, block=None), {}, 1, 0).mean(phi).error
    )


def test_an_ensemble_against_itself() -> None:
    whole = gaussian(3000, 5)
    result = compare(whole, whole, n_bootstrap=40)
    for d in (*result.torsions, *result.coordinates):
        assert (d.divergence.kl, d.divergence.tv, d.divergence.js) == pytest.approx((0, 0, 0), abs=1e-12)
        assert d.divergence.tv < d.reference_noise.tv and d.verdict == "agree within errors"
        assert d.rms == pytest.approx(0.0, abs=1e-9) and d.unvisited == 0
    for b in result.basins:
        if b.reference.effective >= 10:
            assert b.z == 0.0 and b.verdict == "agree within errors"


def test_torsions_that_do_not_move() -> None:
    still, other = backbone(np.full(100, 0.5), np.full(100, 0.5)), backbone(np.full(100, 0.5), np.full(100, 2.5))
    phi, psi = compare(still, other, n_bootstrap=20).torsions
    assert (phi.z, phi.verdict) == (0.0, "agree within errors")
    assert (psi.z, psi.verdict) == (np.inf, "disagree") and psi.divergence.tv == pytest.approx(1.0)


def test_no_verdict_without_error_bars() -> None:
    a, b = gaussian(500, 6), gaussian(500, 7, block=np.zeros(500))
    result = compare(a, b, n_bootstrap=20)
    assert {d.verdict for d in result.torsions} == {"no error bar, no verdict"}
    assert result.to_dict()["torsions"][0]["floor"]["kl"] is None
    assert "no error bar, no verdict" in result.table()


def test_energies_and_log_w() -> None:
    """A flow of density q = N(0, 1.3) in an energy u = e^2 / 2: reweighted, u is distributed as under p."""
    rng = np.random.default_rng(8)
    e, exact = 1.3 * rng.normal(size=4000), rng.normal(size=4000)

    def log_q(e):
        return -0.5 * (e / 1.3) ** 2

    u = 0.5 * e**2
    flow = replace(gaussian(4000, 9), u=u, log_q=log_q(e), log_w=-u - log_q(e))
    md = replace(gaussian(4000, 10, name="md"), u=0.5 * exact**2)
    found = {c.name: c for c in compare(flow, md, n_bootstrap=50).coordinates}
    assert "log w" not in found
    energy = found["u"]
    assert energy.unit == "kT"
    # <e^2> / 2, with and without weights.
    assert energy.mean_ensemble.value == pytest.approx(0.5, abs=4 * energy.mean_ensemble.error)
    assert energy.mean_flow.value == pytest.approx(0.5 * 1.69, abs=4 * energy.mean_flow.error)
    assert energy.verdict == "agree within errors" and energy.z_flow > 5
    assert sum(energy.flow.probability) == pytest.approx(1.0)
    found = {c.name: c for c in compare(flow, replace(md, log_q=log_q(exact)), n_bootstrap=50).coordinates}
    assert found["log w"].verdict == "agree within errors" and found["log w"].z_flow > 5
    assert found["log w"].mean_flow.value == pytest.approx(flow.log_w.mean())
    assert found["log w"].mean_reference.value == pytest.approx((-md.u - log_q(exact)).mean())
    # One energy that was not evaluated, of a frame that counts: none is compared.
    missing = replace(md, u=np.r_[np.nan, md.u[1:]])
    assert "u" not in {c.name for c in compare(flow, missing, n_bootstrap=20).coordinates}
