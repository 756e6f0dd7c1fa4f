"""Comparison of ensembles whose free energies are known."""

from __future__ import annotations

import json
from dataclasses import replace

import mdtraj
import numpy as np
import pytest
from ensembles import backbone, backbone_topology, flow, two_basins
from scipy.special import erf

from openmm_fab.comparison.comparing import compare
from openmm_fab.comparison.divergences import divergence
from openmm_fab.comparison.verdicts import NO_WEIGHTS, TOO_FEW, Reliability, verdict
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.free_energy.profiles import in_phi_positive


def test_divergences_in_closed_form() -> None:
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
    result = divergence(p, q)
    assert result.kl == pytest.approx(np.log(2.0))
    assert result.tv == pytest.approx(0.5)
    half = 0.5 * (p + q)
    js = 0.5 * (2 * 0.5 * np.log(0.5 / 0.375) + 2 * 0.25 * np.log(0.25 / 0.375) + 0.5 * np.log(0.5 / half[2]))
    assert result.js == pytest.approx(js)
    # Disjoint: total variation 1, Jensen-Shannon ln 2, KL at the floor.
    apart = divergence([1.0, 0.0], [0.0, 1.0])
    assert (apart.tv, apart.js, apart.kl) == pytest.approx((1.0, np.log(2.0), -np.log(1e-10)))
    assert divergence(p, p).kl == 0.0


def test_halves_of_one_ensemble_agree() -> None:
    whole = two_basins(8000, 0.1, seed=0)
    result = compare(whole[::2], whole[1::2], n_bootstrap=60)
    basin = result.basins[0]
    assert abs(basin.z) < 3 and basin.verdict == "agree within errors"
    assert basin.ensemble.value == pytest.approx(np.log(9.0), abs=0.3)
    phi = result.torsions[0]
    assert phi.divergence.kl < 0.05 and phi.divergence == phi.divergence_flow
    assert phi.largest.value < 5 * phi.largest.error
    assert abs(phi.divergence.tv - phi.noise.value) < 4 * phi.noise.error
    assert [b.name for b in result.basins] == ["phi > 0 ALA2", "C7eq/C5 ALA2", "alphaR ALA2"]
    assert sum(b.reference.probability for b in result.basins) == pytest.approx(1.0)


def test_sides_of_one_name_are_told_apart() -> None:
    one, other = flow(400, seed=1), flow(400, seed=2)
    assert one.name == other.name == "flow"
    said = str(compare(one, other, n_bootstrap=10))
    assert "flow: the weights" in said and "flow, reference: the weights" in said
    assert other.name == "flow"


def test_weights_turn_the_flow_into_the_reference() -> None:
    result = compare(flow(6000, seed=1), two_basins(6000, 0.1, seed=2, name="md"), n_bootstrap=60)
    basin = result.basins[0]
    assert basin.verdict == "agree within errors" and abs(basin.z_flow) > 10
    assert basin.flow.value == pytest.approx(np.log(0.6 / 0.4), abs=0.15)
    assert basin.reference.value == pytest.approx(np.log(9.0), abs=0.2)
    phi, psi = result.torsions
    assert (phi.name, psi.name) == ("phi ALA2", "psi ALA2")
    # KL between the two mixtures: 0.1 ln(0.1 / 0.4) + 0.9 ln(0.9 / 0.6).
    assert phi.divergence_flow.kl == pytest.approx(0.1 * np.log(0.25) + 0.9 * np.log(1.5), abs=0.04)
    assert phi.divergence.kl < 0.05
    assert set(result.pairs[0].divergence) == {64, 100}
    assert result.pairs[0].divergence[64].js < result.pairs[0].divergence_flow[64].js
    # 6,000 frames in a few hundred bins: as near as the reference's own halves, and no nearer than noise allows.
    assert result.pairs[0].divergence[64].tv < result.pairs[0].reference_noise[64].tv
    assert "disagree" not in phi.verdict and phi.z < 3 < 10 < phi.z_flow
    rg = next(c for c in result.coordinates if c.name == "rg")
    assert abs(rg.mean_z) < 3 and rg.verdict == "agree within errors"
    first, second, *_ = result.words().splitlines()
    assert first.startswith("flow: the weights can be used (k-hat") and str(result).startswith(first)
    assert second == "3 of 3 basins agree within errors."
    assert {c.mean_verdict for c in result.coordinates} == {"agree within errors"}


def test_a_shifted_ensemble_disagrees() -> None:
    result = compare(two_basins(6000, 0.2, seed=3, shift=0.5), two_basins(6000, 0.1, seed=4), n_bootstrap=60)
    basin = result.basins[0]
    assert basin.verdict == "disagree" and basin.z < -3
    # ln(0.8 / 0.2) - ln(0.9 / 0.1), over the binomial errors 1 / sqrt(n p (1 - p)).
    exact = (np.log(4) - np.log(9)) / np.hypot(1 / np.sqrt(6000 * 0.16), 1 / np.sqrt(6000 * 0.09))
    assert basin.z == pytest.approx(exact, abs=3.0)
    assert "disagree: phi > 0 ALA2 (z = -" in result.words()
    _, psi = result.torsions
    assert psi.rms > 0.5
    # Gaussians of one width s shifted by d: KL = d^2 / 2 s^2.
    assert psi.divergence.kl == pytest.approx(0.5, abs=0.1)
    # and their total variation is erf(d / (2 sqrt(2) s)).
    assert psi.divergence.tv == pytest.approx(erf(0.5 / np.sqrt(8) / 0.5), abs=0.03)
    assert psi.verdict == "disagree" and psi.z > 10


def test_a_missing_basin_is_called_missing() -> None:
    result = compare(two_basins(3000, 0.0, seed=5), two_basins(3000, 0.1, seed=6), n_bootstrap=40)
    assert result.basins[0].verdict == "basin missing"
    assert result.torsions[0].unvisited > 5
    assert "> 6.9" in result.table() and "basin missing" in result.table()  # ln(999), of 3 in 3000
    assert result.to_dict()["basins"][0]["ensemble"]["value"] is None
    swapped = compare(two_basins(3000, 0.1, seed=6), two_basins(3000, 0.0, seed=5), n_bootstrap=40)
    assert swapped.basins[0].verdict == "basin missing in the reference"
    neither = compare(two_basins(3000, 0.001, seed=5), two_basins(3000, 0.001, seed=6), n_bootstrap=40)
    assert neither.basins[0].verdict == "too few samples, no verdict"


def test_a_basin_that_few_samples_cannot_show_is_not_called_missing() -> None:
    """A share of 0.003 in 1,000 samples against 30,000 frames: 3 are due, and so many are there."""
    few = compare(two_basins(1000, 0.003, seed=5), two_basins(30_000, 0.003, seed=6), n_bootstrap=40).basins[0]
    assert few.ensemble.effective < 10 < few.reference.effective and few.verdict == "too few samples, no verdict"
    # Nor is one of the right share that a few heavy frames make, though 20 and more were due.
    heavy = two_basins(2000, 0.1, seed=7)
    inside = np.flatnonzero(heavy.phi()[:, 0] > 0)
    log_w = heavy.log_w.copy()
    log_w[inside] = np.log(np.where(np.arange(len(inside)) < 8, len(inside) / 8, 1e-3))
    here = compare(replace(heavy, log_w=log_w), two_basins(3000, 0.1, seed=6), n_bootstrap=40).basins[0]
    assert here.ensemble.effective < 10 and abs(here.z) < 1 and "missing" not in here.verdict
    # But a handful where next to none are due contradicts.
    many = compare(two_basins(1000, 0.009, seed=1), two_basins(300_000, 0.0001, seed=6), n_bootstrap=40).basins[0]
    assert 4 < many.ensemble.effective < 10 and many.verdict == "disagree"


def test_a_heavy_tail_of_weights_within_a_basin_is_no_verdict() -> None:
    """Weights of shape 0.9 in a basin of 1 %: most draws put half of that there, with error bars that do not say so."""
    seen = 0
    for seed in (0, 1, 4, 6, 7):  # of which k-hat inside is seen to be above 0.7
        drawn = two_basins(4000, 0.2, seed=seed)
        inside = drawn.phi()[:, 0] > 0
        log_w = drawn.log_w.copy()
        log_w[inside] = np.log(0.004 * (1.0 + np.random.default_rng(seed).pareto(1 / 0.9, inside.sum())))  # mean 10
        heavy = replace(drawn, log_w=log_w, name="flow")
        assert heavy.khat < 0.1 and heavy.ess > 3000
        basin = compare(heavy, two_basins(20_000, 0.01, seed=50 + seed), n_bootstrap=40).basins[0]
        assert basin.verdict == "too few samples, no verdict"
        seen += basin.ensemble.effective > 10 and basin.z > 3
    assert seen  # would be called a contradiction by its errors


def test_a_basin_that_holds_all_of_one_side_leaves_the_rest_missing() -> None:
    def outside(trajectory) -> np.ndarray:
        return mdtraj.compute_phi(trajectory, periodic=False)[1][:, 0] < 0

    sides = two_basins(3000, 0.0, seed=5), two_basins(3000, 0.4, seed=6)
    assert compare(*sides, basins={"left": outside}, n_bootstrap=40).basins[0].verdict == "rest missing"
    assert (
        compare(*sides[::-1], basins={"left": outside}, n_bootstrap=40).basins[0].verdict
        == "rest missing in the reference"
    )


def test_an_error_of_few_blocks_is_judged_by_students_t() -> None:
    """z = 4 is beyond all doubt with a thousand blocks, and with 3 happens in one of twenty comparisons."""
    assert verdict(4.0) == verdict(4.0, 1000) == "disagree"
    assert verdict(4.0, 2) == "agree within errors" and verdict(4.0, 5) == "differ, at the edge of the errors"
    disagreements = 0
    rng = np.random.default_rng(0)
    for seed in range(60):  # a perfect flow, and MD of 3 blocks whose populations scatter
        md = two_basins(3000, 0.2, seed=seed, block=np.arange(3000) // 1000)
        share = np.clip(0.2 + 0.03 * rng.normal(size=3), 0.01, 0.99)
        phi = np.where(rng.random(3000) < share[np.arange(3000) // 1000], 1.0, -1.5) + 0.3 * rng.normal(size=3000)
        md = backbone(phi, 1.0 + 0.5 * rng.normal(size=3000), block=md.block)
        basin = compare(two_basins(5000, 0.2, seed=1000 + seed), md, n_bootstrap=60).basins[0]
        disagreements += basin.verdict == "disagree"
    assert disagreements <= 3  # of 0.27 %; taken for normal they would be one in ten


def _verdicts(result) -> set[str]:
    found = [*result.basins, *result.torsions, *result.coordinates]
    return {x.verdict for x in found} | {c.mean_verdict for c in result.coordinates}


def _wild(ensemble: Ensemble, name: str) -> Ensemble:
    tail = -1.1 * np.log(np.random.default_rng(8).random(ensemble.n))
    return replace(ensemble, log_w=ensemble.log_w + tail, name=name)


@pytest.mark.parametrize("side", [0, 1])
def test_weights_that_cannot_be_used_leave_no_verdict_at_all(side: int) -> None:
    """A tail of shape 1.1 has no mean: neither basins nor distributions nor averages are judged, on whichever side."""
    sides = [flow(4000, seed=7), two_basins(4000, 0.1, seed=9, name="md")]
    sides[side] = _wild(sides[side], "wild")
    assert sides[side].khat > 0.7 and sides[1 - side].khat < 0.7
    result = compare(*sides, n_bootstrap=40)
    assert _verdicts(result) == {NO_WEIGHTS}
    assert "wild: the weights cannot be used, and nothing below is a verdict" in result.table().split("\n\n")[0]
    assert " agree within errors" not in result.table()
    assert result.to_dict()[("ensemble", "reference")[side]]["usable"] is False


def test_an_effective_sample_of_one_agrees_with_nothing() -> None:
    """5,000 samples, of which one has all the weight: every bin's error is as large as can be, so that nothing could
    ever disagree."""
    alone = replace(flow(5000, seed=7), log_w=np.r_[50.0, np.random.default_rng(0).normal(size=4999)])
    result = compare(alone, two_basins(4000, 0.1, seed=9), n_bootstrap=20)
    assert _verdicts(result) == {NO_WEIGHTS} and "1 effective sample of 5,000" in result.words()
    assert "of none of which it can be said" in result.words()


def test_few_frames_of_equal_weight_are_too_few() -> None:
    result = compare(two_basins(60, 0.3, seed=1), two_basins(4000, 0.3, seed=2), n_bootstrap=20)
    assert {d.verdict for d in (*result.torsions, *result.coordinates)} == {TOO_FEW}


def test_what_makes_weights_usable() -> None:
    assert Reliability("a", 1000, 100.0, 0.7).usable and Reliability("md", 100, 100.0, -np.inf).usable
    for ess, khat in ((99.0, 0.1), (900.0, 0.71), (900.0, np.nan), (900.0, np.inf)):
        assert Reliability("a", 1000, ess, khat).objection == NO_WEIGHTS
    assert Reliability("md", 99, 99.0, -np.inf).objection == TOO_FEW


def test_table_and_dict_hold_the_figures_that_qualify_each_other() -> None:
    result = compare(
        flow(3000, seed=10),
        two_basins(3000, 0.1, seed=11, block=np.arange(3000) // 100, name="md"),
        n_bootstrap=40,
    )
    table = str(result)
    for word in (
        "ESS",
        "ESS clipped",
        "k-hat",
        "phi > 0 ALA2",
        "psi ALA2",
        "64x64",
        "100x100",
        "1e-10",
        "verdict",
    ):
        assert word in table
    assert "<pre>" in result._repr_html_() and "||" in result._repr_html_()
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["reference"]["blocks"] == 30 and plain["reference"]["khat"] is None
    assert plain["basins"][0]["z"] == pytest.approx(result.basins[0].z)
    assert len(plain["torsions"][0]["ensemble"]["value"]) == 60
    assert plain["torsions"][0]["floor"]["tv"] > 0 and plain["words"] in table
    assert plain["pairs"][0]["floor"]["100"]["js"] > 0
    assert [c["name"] for c in plain["coordinates"]] == ["end to end C-N", "rg", "PC1", "PC2"]
    assert sum(plain["weights"]["weight"]) == pytest.approx(1.0)


def test_basins_of_ones_own_and_other_molecules() -> None:
    a, b = two_basins(1000, 0.3, seed=12), two_basins(1000, 0.3, seed=13)
    result = compare(a, b, basins={"all but nothing": lambda t: np.arange(t.n_frames) > 500}, n_bootstrap=20)
    assert [x.name for x in result.basins] == ["all but nothing"]
    with pytest.raises(ValueError, match="310 K"):
        compare(a, two_basins(10, 0.3, seed=1, temperature=310.0))
    other = backbone_topology()
    other.atom(0).element = other.atom(1).element
    with pytest.raises(ValueError, match="atom 0"):
        compare(a, two_basins(10, 0.3, seed=1, topology=other))


def test_default_basin_has_its_upper_edge() -> None:
    np.testing.assert_array_equal(in_phi_positive(np.array([-0.1, 0.1, 2.4, 2.6])), [False, True, True, False])


def test_without_a_reference_it_says_how_to_make_one() -> None:
    with pytest.raises(ValueError, match=r"Make one with fab\.run_reference"):
        compare(flow(100, seed=0), None)
