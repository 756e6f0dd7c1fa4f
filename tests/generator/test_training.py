"""When a training reports, what its set-up took, and where the weight of the annealed structures in the buffer lies."""

from __future__ import annotations

import pytest
import torch

from openmm_fab.generator.training import next_report, setup_in_words, weight_above_cut, weight_outside

LOG_W = torch.log(torch.tensor([1.0, 2.0, 5.0]))


def test_weight_outside_looks_at_stiff_coordinates_only() -> None:
    z = torch.tensor([[0.0, 9.0], [-6.0, 0.0], [4.0, 0.0]])
    assert weight_outside(z, LOG_W, torch.tensor([5.0, torch.inf])) == pytest.approx(2 / 8)
    assert weight_outside(z, LOG_W, torch.tensor([5.0, 5.0])) == pytest.approx(3 / 8)


def test_weight_above_the_cut() -> None:
    u = torch.tensor([10.0, 20.0, 30.0])
    assert weight_above_cut(u, LOG_W, 15.0) == pytest.approx(7 / 8)
    assert weight_above_cut(u, torch.full((3,), -torch.inf), 15.0) == 0.0


def test_reports_come_when_the_training_has_doubled() -> None:
    times, seconds = [], 0.0
    while len(times) < 4:
        seconds = next_report(seconds, None)
        times.append(seconds)
    assert times == [60.0, 120.0, 240.0, 480.0]
    assert next_report(59.9, None) == 60.0 and next_report(500.0, None) == 960.0
    assert next_report(0.0, 90.0) == 90.0 and next_report(100.0, 90.0) == next_report(90.0, 90.0) == 180.0
    with pytest.raises(ValueError, match="report_every > 0"):
        next_report(0.0, 0.0)


def test_the_set_up_in_words() -> None:
    assert setup_in_words({"energy": 0.4, "code": 0.6}) == "Set-up: 1.0 s (code 0.6 s)"
    assert setup_in_words({"energy": 0.4, "coordinates": 3.2, "code": 2.1}) == "Set-up: 6 s (coordinates 3 s, code 2 s)"
    assert setup_in_words({}) == "Set-up: 0.0 s"
