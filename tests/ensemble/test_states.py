"""Slow states of rings and nitrogens: found, and seen by correlation times, blocks and errors."""

from __future__ import annotations

import numpy as np
import pytest
import zoo
from ensembles import flat
from rings import cyclohexene, markov, nicotine, topology_of

from openmm_fab.ensemble.blocks import slowest_inefficiency, time_blocks
from openmm_fab.ensemble.states import nitrogen_sides, pucker_torsions, slow_states
from openmm_fab.free_energy.profiles import basin_difference
from openmm_fab.md.convergence import assess_convergence


def _of(name: str):
    pytest.importorskip("rdkit")
    molecule = zoo.load(name)
    return topology_of(molecule.elements, molecule.bonds), molecule.positions[None]


def test_which_rings_and_nitrogens() -> None:
    ensemble = cyclohexene(np.arange(40) % 2 == 0)
    (ring,) = pucker_torsions(ensemble.topology, ensemble.x)
    assert len(ring) == 6 and {i for four in ring.values() for i in four} == set(range(6))
    angles = np.degrees(ensemble.torsions(list(ring.values())))
    assert np.abs(angles[::2].mean(0) + angles[1::2].mean(0)).max() < 1.0  # the half chairs are mirror images
    assert np.sort(np.abs(angles[::2].mean(0))) == pytest.approx([1, 15, 15, 45, 45, 61], abs=4)
    assert not nitrogen_sides(ensemble.topology, ensemble.x)
    # Flat rings and flat nitrogens are no states.
    for name in ("aspirin", "caffeine"):
        assert not pucker_torsions(*_of(name)) and not nitrogen_sides(*_of(name))
    topology, x = _of("nicotine")
    assert [len(ring) for ring in pucker_torsions(topology, x)] == [5]
    ((side, four),) = nitrogen_sides(topology, x).items()
    assert side == f"side of N{four[3]} ({four[3]})"
    ensemble = nicotine(np.array([True, False]))
    up, down = np.degrees(ensemble.torsions(four))[:, 0]
    assert up * down < 0 and 20 < abs(up) < 50 and 20 < abs(down) < 50
    assert len(slow_states(topology, x)) == 1 + 5 + 1  # and the bond between the rings


def test_a_flipping_ring_is_as_slow_as_its_chain() -> None:
    pytest.importorskip("pymbar")
    flip = 0.02  # a step, either way: (1 - 2 flip)^k, of which 1 + 2 sum is (1 - flip) / flip
    ensemble = cyclohexene(markov(20_000, flip, flip, np.random.default_rng(1)))
    assert slowest_inefficiency(ensemble.slow_angles()) == pytest.approx((1 - flip) / flip, rel=0.25)
    report = assess_convergence(ensemble[:5000])
    assert report.effective == pytest.approx(5000 * flip / (1 - flip), rel=0.5)
    assert report.basin.startswith("0 < ring ") and all(name.startswith("ring ") for name in report.inefficiency)
    ensemble = nicotine(markov(5000, flip, flip, np.random.default_rng(3)))
    slow = assess_convergence(ensemble).inefficiency
    (side,) = (g for name, g in slow.items() if name.startswith("side of"))
    assert side == pytest.approx((1 - flip) / flip, rel=0.4) and max(slow.values()) == side


@pytest.mark.filterwarnings("ignore:The slowest torsion")
def test_runs_of_a_few_flips_do_not_claim_to_know() -> None:
    """The truth is 0; runs of 1000 frames flip 2.5 times on average, and some never."""
    pytest.importorskip("pymbar")
    seen, blind = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        state = markov(1000, 0.0025, 0.0025, rng)
        angle = np.where(state, 1.0, -1.0) + 0.1 * rng.normal(size=1000)
        for angles, kept in ((angle[:, None], seen), (np.zeros((1000, 1)), blind)):
            found = basin_difference(flat(1000, block=time_blocks(angles)), state, n_bootstrap=50)
            if np.isfinite(found.value):
                kept.append(abs(found.value) < 2 * found.error)
            else:
                assert "if the run was long enough to cross" in found.note
    assert 80 < len(seen) < 100 and np.mean(seen) > 0.75 > 0.5 > np.mean(blind)
