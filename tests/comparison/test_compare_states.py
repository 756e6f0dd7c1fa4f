"""Puckers of rings, sides of nitrogens and cis amides are basins of a comparison."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ensembles import turned
from rings import cyclohexene, markov, nicotine

from openmm_fab.comparison.comparing import compare
from openmm_fab.ensemble.ensemble import Ensemble

AGREE = "agree within errors"


def _half(n: int, seed: int, share: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < share


def test_two_half_chairs_of_one_population() -> None:
    ours, theirs = (cyclohexene(_half(2000, seed), seed=seed, name=f"{seed}") for seed in (1, 2))
    result = compare(ours, theirs)
    assert len(result.torsions) == 6 and all(t.name.startswith("ring C") for t in result.torsions)
    one, other = result.basins
    # The torsion opposite to the double bond, which has the largest angle; exchanged by symmetry, so dF = 0.
    assert sorted(b.name.split(" at ")[1] for b in result.basins) == ["-60°", "60°"]
    for basin in (one, other):
        assert basin.verdict == AGREE and abs(basin.ensemble.value) < 3 * basin.ensemble.error
        assert basin.ensemble.error == pytest.approx(2 / np.sqrt(2000), rel=0.2)
    assert one.reference.value == pytest.approx(-other.reference.value)
    assert not result.projections and not result.features  # rings are not what PCA looks at


def test_a_half_chair_that_is_missing_is_told_and_bounded() -> None:
    stuck, both = cyclohexene(np.ones(600, dtype=bool), seed=1, name="stuck"), cyclohexene(_half(600, 2), seed=2)
    result = compare(stuck, both, n_bootstrap=30)
    verdicts = {np.sign(b.ensemble.value): b.verdict for b in result.basins}
    assert verdicts == {1.0: "basin missing", -1.0: "rest missing"}
    assert {b.ensemble.number for b in result.basins} == {"> 5.3", "< -5.3"}  # ln(199), of 3 / 600
    assert "> 5.3" in result.table() and "basin missing" in result.words()
    assert not [t.name for t in result.torsions if t.verdict == AGREE and "=" in t.name]
    # A reference of one run that flipped a few times contradicts nothing that is near.
    state = markov(600, 0.005, 0.005, np.random.default_rng(5))
    rough = replace(cyclohexene(state, seed=3), block=np.arange(600) // 200)
    assert all(not b.verdict.startswith("disagree") for b in compare(both, rough, n_bootstrap=30).basins)


def test_sides_of_a_nitrogen() -> None:
    result = compare(nicotine(_half(800, 1, 0.3), seed=1), nicotine(_half(800, 2, 0.3), seed=2), n_bootstrap=30)
    sides = [b for b in result.basins if b.name.startswith("side of N")]
    assert len(sides) == 2 and all(b.verdict == AGREE for b in sides)
    assert sorted(b.reference.probability for b in sides) == pytest.approx([0.3, 0.7], abs=0.05)
    # The ring itself stays as it is: one well, no basin, but its torsions are compared.
    assert not [b for b in result.basins if b.name.startswith("ring")]
    assert len([t for t in result.torsions if t.name.startswith("ring")]) == 5


def test_a_cis_amide_is_a_basin_beside_the_ramachandran_plot(alanine_dipeptide) -> None:
    names = [atom.name for atom in alanine_dipeptide.topology.atoms()]
    x = np.repeat(alanine_dipeptide.positions[None], 800, axis=0) + 0.002 * np.random.default_rng(0).normal(
        size=(800, len(names), 3)
    )
    graph = alanine_dipeptide.graph
    carbon = names.index("C")
    nitrogen = next(i for i in graph.neighbours[carbon] if names[i] == "N")
    moved = [i for i in graph.branch(nitrogen, carbon) if i != nitrogen]
    cis = turned(x[:200], carbon, nitrogen, moved, np.full(200, np.pi))
    fields = dict(topology=alanine_dipeptide.md_topology, temperature=300.0)
    trans = Ensemble(x, np.zeros(800), np.zeros(800), name="flow", **fields)
    mixed = Ensemble(np.concatenate([cis, x[200:]]), np.zeros(800), np.zeros(800), **fields)
    found = {b.name: b for b in compare(trans, mixed, n_bootstrap=20).basins}
    (name,) = (name for name in found if name.startswith("omega") and name.endswith("at 0°"))
    assert found[name].reference.probability == pytest.approx(0.25) and found[name].verdict == "basin missing"
    assert "phi > 0 ALA2" in found
    assert not [b.name for b in compare(trans, trans, n_bootstrap=5).basins if b.name.startswith("omega")]
