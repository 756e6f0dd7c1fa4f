"""The prioritised replay buffer: what it draws, what it forgets, what it corrects."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from openmm_fab.train.buffer import ReplayBuffer, _newest


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
    drawn = [int(buffer.sample(1, random).index) for _ in range(8000)]
    _check_counts(np.bincount(drawn, minlength=5), w)


def test_draws_pairs_without_replacement():
    buffer, random, w = _filled([1.0, 2.0, 3.0, 4.0]), torch.Generator().manual_seed(0), np.array([1, 2, 3, 4]) / 10
    drawn = [tuple(buffer.sample(2, random).index.tolist()) for _ in range(8000)]
    assert all(a != b for a, b in drawn)
    pairs = list(combinations(range(4), 2))
    counts = np.array([sum(set(d) == set(p) for d in drawn) for p in pairs])
    _check_counts(counts, np.array([w[i] * w[j] * (1 / (1 - w[i]) + 1 / (1 - w[j])) for i, j in pairs]))
    first, second = np.array(drawn).T  # mini-batches are cut out of the order, so the order must mean nothing
    assert abs((first < second).mean() - 0.5) < 0.03


def test_returns_what_was_stored():
    buffer = _filled([1.0, 2.0, 3.0])
    drawn = buffer.sample(3, torch.Generator().manual_seed(0))
    index = drawn.index
    assert sorted(index.tolist()) == [0, 1, 2]
    torch.testing.assert_close(drawn.z, torch.stack([index, 10 * index], 1).float())
    torch.testing.assert_close(drawn.log_q, -index.float())
    torch.testing.assert_close(drawn.grad_log_p, torch.stack([index, index**2], 1).float())
    first, rest = drawn.split(2)
    assert torch.equal(torch.cat([first.z, rest.z]), drawn.z) and len(rest.weight) == 1


def test_huge_differences_of_log_weights():
    buffer = ReplayBuffer(3, 1)
    buffer.add(torch.zeros(3, 1), torch.tensor([-1e4, 1e4, 0.0]), torch.zeros(3), torch.zeros(3, 1))
    assert all(int(buffer.sample(1, torch.Generator().manual_seed(s)).index) == 1 for s in range(50))


def test_the_oldest_are_overwritten():
    buffer = ReplayBuffer(5, 1)
    for start in (0, 3, 6):
        number = torch.arange(start, start + 3, dtype=torch.float32)
        buffer.add(number[:, None], number, -number, 2 * number[:, None])
    assert buffer.size == 5
    assert sorted(buffer.z[:, 0].tolist()) == [4, 5, 6, 7, 8]
    assert sorted(buffer.log_w.tolist()) == [4, 5, 6, 7, 8]
    kept = buffer.state_dict()
    torch.testing.assert_close(kept["log_q"], -kept["z"][:, 0])
    torch.testing.assert_close(kept["grad_log_p"], 2 * kept["z"])


def test_more_than_fits_at_once_leaves_the_latest():
    buffer = _filled(list(range(1, 12)), capacity=4)
    assert buffer.size == 4
    assert sorted(buffer.z[:, 0].tolist()) == [7, 8, 9, 10]


def test_the_newest_are_those_stored_last():
    """Also where the ring has come round."""
    buffer = ReplayBuffer(5, 1)
    for start in (0, 3):
        rows = torch.arange(start, start + 3.0)
        buffer.add(rows[:, None], rows, rows, rows[:, None])
        newest = min(3, buffer.size)
        z, log_w = buffer.newest(newest)
        assert z[:, 0].tolist() == log_w.tolist() == [start + 2.0, start + 1.0, start]
    assert buffer.newest(9)[1].tolist() == [5.0, 4.0, 3.0, 2.0, 1.0]


def test_the_weightless_are_left_out():
    buffer = ReplayBuffer(6, 1)
    log_w = torch.tensor([0.0, -torch.inf, torch.nan, 1.0, torch.inf, 2.0])
    log_q = torch.tensor([0.0, 0.0, 0.0, torch.nan, 0.0, 0.0])
    buffer.add(torch.arange(6.0)[:, None], log_w, log_q, torch.zeros(6, 1))
    assert buffer.size == 2
    assert sorted(buffer.sample(2).z[:, 0].tolist()) == [0, 5]


def test_asking_for_too_many():
    with pytest.raises(ValueError, match="at most 3 samples"):
        _filled([1.0, 2.0, 3.0], capacity=10).sample(4)


def _mixed() -> tuple[ReplayBuffer, np.ndarray, np.ndarray]:
    """Two annealed samples and three of the flow's own, of which one has no weight: a and b of all five."""
    buffer = ReplayBuffer(9, 1)
    number = torch.arange(5.0)
    a = np.array([1.0, 3.0, 0.5, 4.0, 0.0])
    log_a = torch.from_numpy(a).log()
    for part, own in ((slice(0, 2), False), (slice(2, 5), True)):
        buffer.add(number[part, None], log_a[part], torch.zeros(5)[part], number[part, None], own)
    buffer.adjust(torch.tensor([3]), torch.tensor([0.0]), torch.tensor([math.log(2.0)]))  # q has doubled there
    return buffer, a, np.array([0.0, 0.0, 1.0, 2.0, 1.0])


def test_the_flows_own_samples_are_kept_without_weight_and_counted():
    buffer, a, b = _mixed()
    assert buffer.size == 5
    np.testing.assert_allclose(buffer.log_sums().exp(), [a.sum(), a[2:].sum(), b.sum()])


@pytest.mark.parametrize("kappa", [0.0, 0.7, 1.125])
def test_draws_by_what_the_control_variate_leaves(kappa):
    """And the estimate of what is left is right, whatever is drawn."""
    buffer, a, b = _mixed()
    log_kappa, random = torch.tensor(kappa, dtype=torch.float64).log(), torch.Generator().manual_seed(0)
    priority = np.abs(a - kappa * b) + 0.5 * (a + kappa * b)
    np.testing.assert_allclose(buffer.log_priority(log_kappa).exp(), priority)
    drawn = [buffer.sample(1, random, log_kappa) for _ in range(8000)]
    index = np.array([int(d.index) for d in drawn])
    possible = priority > 0
    _check_counts(np.bincount(index, minlength=5)[possible], priority[possible])
    for d, k in zip(drawn[:40], index, strict=False):
        assert float(d.weight) == pytest.approx(a[k] / priority[k])
        assert float(d.control_weight) == pytest.approx(kappa * b[k] / priority[k])


def test_weights_towards_the_flow_follow_it():
    buffer, _, b = _mixed()
    everything = torch.arange(5)
    buffer.adjust(
        everything, torch.zeros(5), buffer.state_dict()["log_q"] + torch.tensor([9.0, 9.0, 0.5, -1.0, torch.nan])
    )
    expected = np.concatenate([[0.0, 0.0], b[2:] * np.exp([0.5, -1.0, -np.inf])])
    np.testing.assert_allclose(buffer.state_dict()["log_b"].exp(), expected)


def test_adjust():
    buffer = _filled([1.0, 1.0, 1.0])
    buffer.adjust(torch.tensor([2, 0]), torch.tensor([0.5, -1.0]), torch.tensor([7.0, 8.0]))
    torch.testing.assert_close(buffer.log_w, torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64))
    drawn = buffer.sample(3)
    assert dict(zip(drawn.index.tolist(), drawn.log_q.tolist(), strict=True)) == {0: 8.0, 1: -1.0, 2: 7.0}


def test_reweight():
    buffer = _filled([1.0, 2.0, 3.0, 4.0])
    before = buffer.log_w.clone()
    buffer.reweight(torch.tensor([0.5, 0.0, -1.0, 2.0], dtype=torch.float64))
    assert (buffer.log_w - before).tolist() == pytest.approx([0.5, 0.0, -1.0, 2.0])


def test_a_broken_adjustment_loses_the_sample():
    """NaN would sort first, and be drawn for ever."""
    buffer = _filled([1.0, 1.0, 1.0])
    buffer.adjust(torch.tensor([1, 2]), torch.tensor([torch.nan, torch.inf]), torch.zeros(2))
    assert all(int(buffer.sample(1, torch.Generator().manual_seed(s)).index) == 0 for s in range(20))


def test_state_round_trip():
    buffer = _filled([1.0, 2.0, 3.0], capacity=4)
    other = ReplayBuffer(4, 2)
    other.load_state_dict(buffer.state_dict())
    for one in (buffer, other):  # and on from there, over the end
        one.add(torch.ones(2, 2), torch.tensor([1.0, 2.0]), torch.zeros(2), torch.ones(2, 2))
    drawn = [one.sample(3, torch.Generator().manual_seed(1)) for one in (buffer, other)]
    assert all(torch.equal(a, b) for a, b in zip(*(vars(d).values() for d in drawn), strict=True))
    assert torch.equal(buffer.z, other.z) and buffer.size == other.size == 4


def test_the_state_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"Expected a buffer of \(capacity, dim\)"):
        ReplayBuffer(5, 2).load_state_dict(_filled([1.0, 2.0]).state_dict())


def test_the_newest_come_first():
    """Shards of four places: one full, whose next place is 1, and one with two samples."""
    assert _newest([4, 2], [1, 2], 4).tolist() == [0, 5, 3, 4, 2, 1]


def _shard(first: int, last: int) -> ReplayBuffer:
    """Four places, into which the numbers `first` to `last` were put one by one."""
    buffer = ReplayBuffer(4, 1)
    for number in range(first, last + 1):
        value = torch.tensor([float(number)])
        buffer.add(value[:, None], value, -value, 2 * value[:, None], own=bool(number % 2))
    return buffer


def test_merged_shards_are_split_as_they_were():
    """All columns, and where the ring goes on; also where it has come round."""
    shards = [_shard(1, 5), _shard(11, 12), _shard(21, 24)]
    merged, layout = ReplayBuffer.merged([shard.state_dict() for shard in shards])
    assert layout == {"size": [4, 2, 4], "next": [1, 2, 0]}
    assert merged["z"][:, 0].tolist() == [5, 2, 3, 4, 11, 12, 21, 22, 23, 24]
    for number, shard in enumerate(shards):
        expected, got = shard.state_dict(), ReplayBuffer.split(merged, layout, number, 3)
        assert expected.keys() == got.keys()
        for key, value in expected.items():
            assert torch.equal(torch.as_tensor(got[key]), torch.as_tensor(value)), key


def test_merged_shards_are_dealt_out_to_another_number():
    """The newest in turn; what does not fit is the oldest; a shard has its oldest first, and is overwritten so."""
    merged, layout = ReplayBuffer.merged([_shard(1, 5).state_dict(), _shard(11, 12).state_dict()])
    alone = ReplayBuffer(4, 1)
    alone.load_state_dict(ReplayBuffer.split(merged, layout, 0, 1))
    assert alone.z[:, 0].tolist() == [11, 4, 12, 5]
    torch.testing.assert_close(alone._log_q, -alone._z[:, 0])
    alone.add(torch.tensor([[9.0]]), torch.zeros(1), torch.zeros(1), torch.zeros(1, 1))
    assert alone.z[:, 0].tolist() == [9, 4, 12, 5]
    three = [ReplayBuffer.split(merged, layout, number, 3)["z"][:, 0].tolist() for number in range(3)]
    assert three == [[11, 5], [3, 12], [2, 4]]
