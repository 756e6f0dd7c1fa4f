"""Two processes train one flow, as one process would with twice the batch. What they do is in ranks.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks as work
import torch

from openmm_fab.train.distributed import Ranks
from openmm_fab.train.objectives import weighted_loss
from openmm_fab.weights import Estimate, z_score


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    alone = work.trainer(work.SMALL, 3, seed=1)
    list(alone)
    alone.save(folder / "alone.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(Path(work.__file__)), str(folder)]
    children = [
        subprocess.Popen(
            command,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "TORCHDYNAMO_DISABLE": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    errors = [child.communicate(timeout=300)[1] for child in children]
    assert [child.returncode for child in children] == [0, -signal.SIGKILL], "\n".join(errors)
    return folder


def _both(folder: Path, name: str) -> list[Any]:
    return [torch.load(folder / f"{name}{rank}.pt", weights_only=False) for rank in (0, 1)]


def _pooled() -> tuple[torch.Tensor, torch.Tensor]:
    shards = [work.shard(rank) for rank in (0, 1)]
    return torch.cat([z for z, _ in shards]), torch.cat([log_w for _, log_w in shards])


@pytest.mark.parametrize("weighted", ["", "_of_first"], ids=["both ranks", "the first alone"])
def test_a_normalised_loss_is_that_of_the_pooled_batch(folder, weighted: str) -> None:
    """Also where a rank has no sample with any weight."""
    z, log_w = work.shard(0) if weighted else _pooled()
    at = torch.nn.Parameter(torch.tensor(0.5))
    loss = weighted_loss(work.line(z, at), log_w)
    loss.backward()
    for found in _both(folder, "gradients"):
        assert found[f"loss{weighted}"] == pytest.approx(float(loss.detach()), rel=1e-5)
        assert found[f"exact{weighted}"] == pytest.approx(float(at.grad), rel=1e-5)


def test_draws_from_shards_have_the_pooled_gradient_in_expectation(folder) -> None:
    """Sums over both shards, less the control variate over the flow's own; without the shards' weights far away."""
    z, log_w = _pooled()
    pull, a = z[:, 0].double() - 0.5, log_w.exp()
    own = torch.arange(len(z)) % 2000 >= work.ANNEALED
    kappa = a[own].sum() / own.sum()
    exact = -float(((a * pull).sum() - kappa * pull[own].sum()) / a.sum())
    one, other = _both(folder, "gradients")
    assert one["drawn"] == other["drawn"]
    drawn = np.array(one["drawn"])
    found = Estimate(float(drawn.mean()), float(drawn.std(ddof=1) / np.sqrt(len(drawn))))
    assert found.error < 0.05
    assert abs(z_score(found, Estimate(exact, 0.0))) < 4
    unweighted = -float(torch.stack([work.shard(rank)[0].mean() for rank in (0, 1)]).mean()) + 0.5
    assert abs(unweighted - exact) > 0.5


def test_both_have_one_flow_and_chains_of_their_own(folder) -> None:
    one, other = _both(folder, "training")
    for key in ("learner", "flow"):
        for name, tensor in one["whole"][key].items():
            assert torch.equal(tensor, other["whole"][key][name]), name
    assert one["whole"]["step_sizes"] == other["whole"]["step_sizes"]
    assert torch.equal(one["whole"]["basins"], other["whole"]["basins"])
    assert not torch.equal(one["whole"]["buffer"]["z"][:4], other["whole"]["buffer"]["z"][:4])
    start = work.trainer(work.SMALL, 1, seed=5).learner.flow.state_dict()
    assert any(not torch.equal(tensor, start[name]) for name, tensor in one["whole"]["learner"].items())
    shared = [k for k in one["infos"][0] if k != "seconds"]
    for a, b in zip(one["infos"], other["infos"], strict=True):
        assert [a[k] for k in shared] == [b[k] for k in shared]
    assert one["infos"][-1]["buffer"] == sum(len(r["whole"]["buffer"]["z"]) for r in (one, other))


def test_resumed_is_uninterrupted(folder) -> None:
    for found in _both(folder, "training"):
        assert [info["iteration"] for info in found["rest"]] == [4, 5, 6]
        for a, b in zip(found["infos"][3:], found["rest"], strict=True):
            assert {**a, "seconds": 0} == {**b, "seconds": 0}
        for key in ("learner", "flow", "buffer"):
            for name, value in found["whole"][key].items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(found["resumed"][key][name])), name
        assert torch.equal(found["whole"]["random"], found["resumed"]["random"])


def test_one_process_reads_the_checkpoint_of_two(folder) -> None:
    one, other = (found["whole"] for found in _both(folder, "training"))
    alone = work.trainer(work.SMALL, 7)
    alone.load(folder / "six.pt")
    assert alone.iteration == 6
    assert alone.evaluations == _both(folder, "training")[0]["infos"][-1]["evaluations"]
    for name, tensor in alone.learner.flow.state_dict().items():
        assert torch.equal(tensor, one["learner"][name])
    # the newest of both shards, as many as one process keeps
    assert alone.experience.buffer.size == min(
        alone.experience.buffer.capacity, len(one["buffer"]["z"]) + len(other["buffer"]["z"])
    )
    rows = {tuple(row) for part in (one, other) for row in part["buffer"]["z"].tolist()}
    kept = [tuple(row) for row in alone.experience.buffer.z.tolist()]
    assert len(set(kept)) == len(kept) and set(kept) <= rows
    for part in (one, other):
        assert len(set(kept) & {tuple(row) for row in part["buffer"]["z"].tolist()}) == pytest.approx(
            len(kept) / 2, abs=1
        )
    (info,) = list(alone)
    assert info["iteration"] == 7


def test_two_processes_read_the_checkpoint_of_one(folder) -> None:
    state = torch.load(folder / "alone.pt", weights_only=True)
    one, other = _both(folder, "training")
    parts = [{tuple(row) for row in found["dealt"]["buffer"]["z"].tolist()} for found in (one, other)]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {tuple(row) for row in state["buffer"]["z"].tolist()}
    assert not torch.equal(one["dealt"]["random"], other["dealt"]["random"])
    assert one["evaluations"] == other["evaluations"] == state["evaluations"][0]


def test_all_stop_where_one_is_told_to(folder) -> None:
    assert _both(folder, "stopped") == [2, 2]
    alone = work.trainer(work.SMALL, 50)
    alone.load(folder / "stopped.pt")
    assert alone.iteration == 2


def test_learns_as_one_process_with_twice_the_batch(folder) -> None:
    one, other = (np.array(found["curve"]) for found in _both(folder, "learned"))
    np.testing.assert_array_equal(one, other)
    both = replace(work.LEARN, batch=2 * work.LEARN.batch)
    alone = np.array([info["ess_flow"] for info in work.trainer(both, 30, layers=4, hidden=32)])
    assert one[0] < 0.3 and one[-1] > 0.6
    np.testing.assert_allclose(one[10:], alone[10:], atol=0.15)


def test_the_loss_of_a_rank_is_told(folder) -> None:
    message = torch.load(folder / "bereft0.pt", weights_only=False)
    assert "Rank 0 of 2" in message and "one of them is gone" in message and "--resume" in message


def test_alone_nothing_changes_hands() -> None:
    ranks, log_w = Ranks(), torch.randn(5)
    assert (ranks.rank, ranks.size, ranks.is_main, ranks.share(log_w)) == (0, 1, True, 1.0)
    state = {"buffer": {}, "random": None}
    assert ranks.pool(state) is state
    assert ranks.redistribute(state, torch.device("cpu")) == state
    assert ranks.gathered(log_w) is log_w
