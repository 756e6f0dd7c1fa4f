"""What each of two processes does for test_distributed.py: `python ranks.py FOLDER`, with torchrun's variables."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from examples import losses_of

from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.target import ManyWell
from openmm_fab.train.buffer import ReplayBuffer
from openmm_fab.train.distributed import RankLostError, Ranks, process_group
from openmm_fab.train.objectives import pooled_loss, replay
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer

SMALL = TrainSettings(
    batch=16, updates=2, buffer_min=4, buffer_max=8, warmup=4, basin_share=0.05, path_gradient=0.3, path_above=0.0
)
ANNEALED = 500  # of a shard; the others are the flow's own
LEARN = TrainSettings(batch=64, updates=8, buffer_min=8, warmup=30, learning_rate=3e-3, averaging=0.95)


def trainer(settings: TrainSettings, iterations: int, seed: int = 0, layers: int = 2, hidden: int = 16) -> Trainer:
    random = torch.Generator().manual_seed(seed)
    target = ManyWell(2)
    flow = CouplingFlow(target.periodic, FlowSettings(layers=layers, hidden=hidden), rng=random)
    return Trainer(flow, target, Budget(iterations=iterations), settings=settings, rng=random)


def shard(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """z (2000, 1) and log weights; the shards differ in their mean and, by e^2, in their weight."""
    random = torch.Generator().manual_seed(rank)
    z = torch.randn(2000, 1, generator=random) + 3.0 * rank
    return z, 0.5 * torch.randn(2000, generator=random, dtype=torch.float64) - 2.0 * rank


def line(z: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """A density whose only parameter is its mean."""
    return -0.5 * (z[:, 0] - at).square()


def gradients(ranks: Ranks) -> dict[str, Any]:
    """Of losses over weights that lie in two shards."""
    z, log_w = shard(ranks.rank)
    at = torch.nn.Parameter(torch.tensor(0.5))
    whole = pooled_loss(line(z, at), log_w, ranks)
    whole.backward()
    value = ranks.average([at], whole)
    found = {"loss": value, "exact": float(at.grad)}

    at.grad = None
    first = pooled_loss(line(z, at), log_w - (torch.inf if ranks.rank else 0.0), ranks)
    first.backward()
    found |= {"loss_of_first": ranks.average([at], first), "exact_of_first": float(at.grad)}
    at.grad = None

    random, means = torch.Generator().manual_seed(ranks.rank), []
    buffer = ReplayBuffer(2000, 1)
    for part, own in ((slice(0, ANNEALED), False), (slice(ANNEALED, None), True)):
        buffer.add(z[part], log_w[part], line(z[part], at.detach()), torch.zeros_like(z[part]), own)
    settings = TrainSettings(batch=8, updates=1, buffer_min=1)
    experience = SimpleNamespace(buffer=buffer, ranks=ranks, rng=random)
    learner = SimpleNamespace(log_probs=lambda z, slope, share: (line(z, at), line(z, at)))
    asked = SimpleNamespace(settings=settings, learner=learner, experience=experience)
    buffer.adjust = lambda *change: None  # type: ignore[method-assign]  # the buffer stays as it is
    for _ in range(300):
        at.grad = None
        (loss,) = losses_of(replay, asked)
        loss.backward()
        ranks.average([at], loss)
        means.append(float(at.grad))
    return {**found, "drawn": means}


def training(folder: Path) -> dict[str, Any]:
    """Six iterations at once, and three and three."""
    whole = trainer(SMALL, 6, seed=5)
    infos = list(whole)
    first = trainer(SMALL, 6, seed=5)
    for info in first:
        if info["iteration"] == 3:
            break
    first.save(folder / "three.pt")
    torch.distributed.barrier()
    second = trainer(SMALL, 6, seed=7)
    second.load(folder / "three.pt")
    rest = list(second)
    whole.save(folder / "six.pt")
    alone = trainer(SMALL, 6, seed=9)
    alone.load(folder / "alone.pt")  # by one process
    keep = ("learner", "flow", "step_sizes", "buffer", "random", "basins")
    return {
        "infos": infos,
        "rest": rest,
        "whole": {key: whole.state_dict()[key] for key in keep},
        "resumed": {key: second.state_dict()[key] for key in keep},
        "dealt": {key: alone.state_dict()[key] for key in keep},
        "evaluations": alone.evaluations,
    }


def stopped(rank: int, folder: Path) -> int:
    """Which iteration was the last when one rank alone was told to stop."""
    training, last = trainer(SMALL, 50), 0
    try:
        for info in training:
            last = int(info["iteration"])
            if last == 2 and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        training.save(folder / "stopped.pt")
        return last
    return -1


def learned() -> dict[str, Any]:
    training = trainer(LEARN, 30, layers=4, hidden=32)
    return {"curve": [info["ess_flow"] for info in training]}


def bereft(rank: int) -> str:
    """The other one is killed in its third iteration."""
    try:
        for info in trainer(SMALL, 50):
            if info["iteration"] == 3 and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
    except RankLostError as error:
        return str(error)
    return "nothing was seen"


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])

    def write(name: str, value: Any) -> None:
        torch.save(value, folder / f"{name}{rank}.pt")

    with process_group() as ranks:
        write("gradients", gradients(ranks))
        write("training", training(folder))
        write("stopped", stopped(rank, folder))
    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
    with process_group():  # a new group: the first one was told to stop
        write("learned", learned())
        write("bereft", bereft(rank))
        os._exit(0)  # without the other there is nothing to take leave of


if __name__ == "__main__":
    main(Path(sys.argv[1]))
