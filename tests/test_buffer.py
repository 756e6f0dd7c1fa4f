"""The prioritised replay buffer: what it draws, what it forgets, what it corrects."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from openmm_fab.buffer import ReplayBuffer


def _filled(weights, capacity: int | None = None) -> ReplayBuffer:
    """Sample number i has z = (i, 10 i), log q = -i and grad log p = (i, i^2)."""
    buffer = ReplayBuffer(capacity or len(weights), 2)
    number = torch.arange(len(weights), dtype=torch.float32)
    log_w, slope = torch.as_tensor(weights, dtype=torch.float64).log(), torch.stack([number, number**2], 1)
    buffer.add(torch.stack([number, 10 * number], 1), log_w, -number, slope)
    return buffer


def _check_counts(counts: np.ndarray, probability: np.ndarray) -> None:
    expected = counts.sum() * probability / probability.sum()
    assert expected.min() > 20
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert chi2.sf(statistic, len(counts) - 1) > 1e-4, (counts, expected)


def test_draws_in_proportion_to_the_weights():
    buffer, random, w = (
        _filled([1.0, 2.0, 3.0, 4.0, 10.0]),
        torch.Generator().manual_seed(0),
        np.array([1, 2, 3, 4, 10]),
    )
    drawn = [int(buffer.sample(1, random)[0]) for _ in range(8000)]
    _check_counts(np.bincount(drawn, minlength=5), w)


def test_draws_pairs_without_replacement():
    buffer, random, w = _filled([1.0, 2.0, 3.0, 4.0]), torch.Generator().manual_seed(0), np.array([1, 2, 3, 4]) / 10
    drawn = [tuple(buffer.sample(2, random)[0].tolist()) for _ in range(8000)]
    assert all(a != b for a, b in drawn)
    pairs = list(combinations(range(4), 2))
    counts = np.array([sum(set(d) == set(p) for d in drawn) for p in pairs])
    _check_counts(counts, np.array([w[i] * w[j] * (1 / (1 - w[i]) + 1 / (1 - w[j])) for i, j in pairs]))
    first, second = np.array(drawn).T  # mini-batches are cut out of the order, so the order must mean nothing
    assert abs((first < second).mean() - 0.5) < 0.03


def test_returns_what_was_stored():
    buffer = _filled([1.0, 2.0, 3.0])
    index, z, log_q, slope = buffer.sample(3, torch.Generator().manual_seed(0))
    assert sorted(index.tolist()) == [0, 1, 2]
    torch.testing.assert_close(z, torch.stack([index, 10 * index], 1).float())
    torch.testing.assert_close(log_q, -index.float())
    torch.testing.assert_close(slope, torch.stack([index, index**2], 1).float())


def test_huge_differences_of_log_weights():
    buffer = ReplayBuffer(3, 1)
    buffer.add(torch.zeros(3, 1), torch.tensor([-1e4, 1e4, 0.0]), torch.zeros(3), torch.zeros(3, 1))
    assert all(int(buffer.sample(1, torch.Generator().manual_seed(s))[0]) == 1 for s in range(50))


def test_the_oldest_are_overwritten():
    buffer = ReplayBuffer(5, 1)
    for start in (0, 3, 6):
        number = torch.arange(start, start + 3, dtype=torch.float32)
        buffer.add(number[:, None], number, -number, 2 * number[:, None])
    assert buffer.size == 5
    assert sorted(buffer._z[:, 0].tolist()) == [4, 5, 6, 7, 8]
    assert sorted(buffer.log_w.tolist()) == [4, 5, 6, 7, 8]
    torch.testing.assert_close(buffer._log_q, -buffer._z[:, 0])
    torch.testing.assert_close(buffer._grad_log_p, 2 * buffer._z)


def test_more_than_fits_at_once_leaves_the_latest():
    buffer = _filled(list(range(1, 12)), capacity=4)
    assert buffer.size == 4
    assert sorted(buffer._z[:, 0].tolist()) == [7, 8, 9, 10]


def test_the_weightless_are_left_out():
    buffer = ReplayBuffer(6, 1)
    log_w = torch.tensor([0.0, -torch.inf, torch.nan, 1.0, torch.inf, 2.0])
    log_q = torch.tensor([0.0, 0.0, 0.0, torch.nan, 0.0, 0.0])
    buffer.add(torch.arange(6.0)[:, None], log_w, log_q, torch.zeros(6, 1))
    assert buffer.size == 2
    assert sorted(buffer.sample(2)[1][:, 0].tolist()) == [0, 5]


def test_asking_for_too_many():
    with pytest.raises(ValueError, match="at most 3 samples"):
        _filled([1.0, 2.0, 3.0], capacity=10).sample(4)


def test_adjust():
    buffer = _filled([1.0, 1.0, 1.0])
    buffer.adjust(torch.tensor([2, 0]), torch.tensor([0.5, -1.0]), torch.tensor([7.0, 8.0]))
    torch.testing.assert_close(buffer.log_w, torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64))
    index, _, log_q, _ = buffer.sample(3)
    assert dict(zip(index.tolist(), log_q.tolist(), strict=True)) == {0: 8.0, 1: -1.0, 2: 7.0}


def test_reweight():
    buffer = _filled([1.0, 2.0, 3.0, 4.0])
    before = buffer.log_w.clone()
    buffer.reweight(torch.tensor([0.5, 0.0, -1.0, 2.0], dtype=torch.float64))
    assert (buffer.log_w - before).tolist() == pytest.approx([0.5, 0.0, -1.0, 2.0])


def test_a_broken_adjustment_loses_the_sample():
    """NaN would sort first, and be drawn for ever."""
    buffer = _filled([1.0, 1.0, 1.0])
    buffer.adjust(torch.tensor([1, 2]), torch.tensor([torch.nan, torch.inf]), torch.zeros(2))
    assert all(int(buffer.sample(1, torch.Generator().manual_seed(s))[0]) == 0 for s in range(20))


def test_state_round_trip():
    buffer = _filled([1.0, 2.0, 3.0], capacity=4)
    other = ReplayBuffer(4, 2)
    other.load_state_dict(buffer.state_dict())
    for one in (buffer, other):  # and on from there, over the end
        one.add(torch.ones(2, 2), torch.tensor([1.0, 2.0]), torch.zeros(2), torch.ones(2, 2))
    drawn = [one.sample(3, torch.Generator().manual_seed(1)) for one in (buffer, other)]
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    assert torch.equal(buffer._z, other._z) and buffer.size == other.size == 4


def test_the_state_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"Expected a buffer of \(capacity, dim\)"):
        ReplayBuffer(5, 2).load_state_dict(_filled([1.0, 2.0]).state_dict())
