"""Training by several processes, each with its own chains, buffer and random stream, and one common flow.

    torchrun --nproc-per-node 4 -m openmm_fab train alanine_dipeptide

N ranks of batch B do what one process of batch N B does.  Gradients, step sizes, basins and the budget are averages or
sums over all ranks.  The buffer is sharded: every rank draws B samples from its own shard by their weights, and its
loss counts N W_r / sum W, where W_r is the weight in its shard; the expectation of the averaged gradient is then that
of a draw from the pooled buffer (each without replacement: of a shard, as of a buffer of one process).  Where a loss
normalises the weights of a batch the same factor gives the pooled loss itself.  Chains are resampled, and an adaptive
ladder is chosen, within a rank.

Without torch.distributed nothing here has an effect or a cost.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..tools.errors import OpenMMFabError
from .buffer import ReplayBuffer

T = TypeVar("T")
PATIENCE = timedelta(minutes=15)  # that one rank waits for another, compilation included


class RankLostError(OpenMMFabError, RuntimeError):
    """Another process of this run has ended, and so does the run."""


class Ranks:
    """The processes that train together; a single one unless torch.distributed is running.

    Attributes
    ----------
    rank, size : int
        Number of this process, and how many there are.
    stop_asked : bool
        Whether this process was told to stop, by Ctrl-C or SIGTERM; of all that are made in it.
    """

    stop_asked: ClassVar[bool] = False

    def __init__(self) -> None:
        running = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if running else 0
        self.size = dist.get_world_size() if running else 1

    @property
    def single(self) -> bool:
        """Whether this process trains alone."""
        return self.size == 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and shows progress."""
        return self.rank == 0

    # The same on all ranks

    def all_gather(self, value: T) -> list[T]:
        """Values of all ranks, in their order."""
        if self.single:
            return [value]
        found: list[Any] = [None] * self.size
        self._call(lambda: dist.all_gather_object(found, value))
        return found

    def from_main(self, make: Callable[[], T]) -> T:
        """Result of `make` on the first rank, where alone it is called, sent to all ranks."""
        return self.all_gather(make() if self.is_main else None)[0]  # type: ignore[return-value]

    def clock(self) -> float:
        """`time.perf_counter` of the first rank, so that all see the same time; each rank must ask equally often."""
        return self.all_gather(time.perf_counter())[0] if not self.single else time.perf_counter()

    def totals(self, values: list[int]) -> list[int]:
        """Elementwise sums of values over the ranks."""
        return [sum(column) for column in zip(*self.all_gather(values), strict=True)]

    def minimum(self, value: int) -> int:
        """Smallest value of any rank."""
        return min(self.all_gather(value))

    def mean(self, values: Sequence[float]) -> list[float]:
        """Elementwise means over the ranks; of lists of different length over the ranks that have the element."""
        if self.single:
            return list(values)
        lists = self.all_gather(list(values))
        columns = [[one[k] for one in lists if k < len(one)] for k in range(max(map(len, lists)))]
        return [math.fsum(column) / len(column) for column in columns]

    def gathered(self, rows: Tensor) -> Tensor:
        """Rows of all ranks, concatenated."""
        if self.single:
            return rows
        return torch.cat([part.to(rows.device) for part in self.all_gather(rows.detach().cpu())])

    def gather_rows(self, *columns: Tensor) -> tuple[list[Tensor], slice]:
        """Columns of equal length with the rows of all ranks, and the slice that holds this rank's."""
        if self.single:
            return list(columns), slice(None)
        sizes = self.all_gather(len(columns[0]))
        start = sum(sizes[: self.rank])
        return [self.gathered(column) for column in columns], slice(start, start + sizes[self.rank])

    def share(self, log_w: Tensor) -> float:
        """Factor N W_r / sum W for this rank's loss, from log weights (n,) on each rank; 1 for one rank.

        A loss over samples drawn in proportion to the weights of a rank, times this, averages over ranks to the loss
        over samples drawn in proportion to all weights.
        """
        if self.single:
            return 1.0
        own = torch.where(torch.isfinite(log_w), log_w.double(), -torch.inf)
        sums = np.array(self.all_gather(float(own.logsumexp(0))))
        return float(self.size * np.exp(sums[self.rank] - np.logaddexp.reduce(sums)))

    def log_totals(self, logs: Tensor) -> Tensor:
        """Logarithms (n,) of sums on each rank -> logarithms of the sums over all ranks."""
        if self.single:
            return logs
        return torch.tensor(self.all_gather(logs.tolist()), dtype=logs.dtype, device=logs.device).logsumexp(0)

    # One flow

    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Copy the first rank's tensors to all ranks, in place."""
        for tensor in () if self.single else tensors:
            self._call(partial(dist.broadcast, tensor, 0))

    def average(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> float:
        """Average the gradients of all ranks, in place; returns the average loss."""
        if self.single:
            return float(loss.detach())
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients] + [loss.detach().reshape(1).to(gradients[0])])
        self._call(lambda: dist.all_reduce(flat))
        flat /= self.size
        for gradient, part in zip(gradients, flat[:-1].split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        return float(flat[-1])

    def stream(self, rng: torch.Generator) -> torch.Generator:
        """The generator; on all ranks but the first reseeded with a seed of their own."""
        if self.rank:
            seed = np.random.SeedSequence((rng.initial_seed(), self.rank)).generate_state(1, np.uint64)[0]
            rng.manual_seed(int(seed))
        return rng

    def stop_if_asked(self) -> None:
        """Raise KeyboardInterrupt on all ranks at the same iteration if any of them was asked to stop."""
        if not self.single and any(self.all_gather(Ranks.stop_asked)):
            raise KeyboardInterrupt

    # Checkpoints that any number of ranks can read

    def pool(self, state: dict[str, Any]) -> dict[str, Any]:
        """Trainer state with the shards of all ranks, on the first rank; on the others without rows."""
        if self.single:
            return state
        own = self.all_gather({key: state[key] for key in ("random", "evaluations")})
        evaluations = [sum(one["evaluations"][k] for one in own) for k in (0, 1)]
        pooled = {**state, "evaluations": evaluations}
        parts = self._to_main(state["buffer"])  # the first rank alone writes
        if parts is not None:
            pooled["buffer"], shards = ReplayBuffer.merged([state["buffer"], *parts[1:]])
            pooled["ranks"] = {**shards, "random": [one["random"] for one in own]}
        return pooled

    def redistribute(self, state: dict[str, Any], device: torch.device) -> dict[str, Any]:
        """This rank's part of a state made by `pool`, by the same or another number of ranks.

        For as many, the shards and random streams they had. For another number the samples are dealt out, the newest
        first, and all ranks but the first get new random streams.

        Parameters
        ----------
        state
        device
            Of the random generator.
        """
        state = dict(state)
        saved, buffer = state.pop("ranks", None), state["buffer"]
        if saved is None and self.single:
            return state
        if saved is None:
            saved = {"size": [len(buffer["z"])], "next": [buffer["next"]], "random": [state["random"]]}
        if not self.is_main:
            state["evaluations"] = [0, 0]
        state["buffer"] = ReplayBuffer.split(buffer, saved, self.rank, self.size)
        if len(saved["random"]) == self.size:
            state["random"] = saved["random"][self.rank]
        elif self.rank:
            fresh = torch.Generator(device)
            fresh.set_state(state["random"])
            state["random"] = self.stream(
                fresh.manual_seed(int(torch.randint(2**62, (1,), generator=fresh, device=device)))
            ).get_state()
        return state

    def _to_main(self, value: dict[str, Any]) -> list[dict[str, Any]] | None:
        """The dicts of all ranks, tensors on the CPU, on the first rank; None on the others."""
        parts: list[Any] | None = [None] * self.size if self.is_main else None
        sent = {key: part.cpu() if isinstance(part, Tensor) else part for key, part in value.items()}
        self._call(lambda: dist.gather_object(sent, parts))
        return parts

    def _call(self, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            raise RankLostError(
                f"Rank {self.rank} of {self.size} waited for the others, and one of them is gone or does not answer; "
                "its own message says why, if it had time for one. The run has ended: --resume goes on from its last "
                "checkpoint, with any number of processes."
            ) from error


def many() -> bool:
    """Whether a launcher such as torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def process_group() -> Iterator[Ranks]:
    """Context manager with the ranks that torchrun started; without torchrun with this process alone.

    Only the first rank prints and warns. Ctrl-C and SIGTERM are obeyed after the iteration, by all ranks at once.
    """
    if not many():
        yield Ranks()
        return

    def ask(*_: object) -> None:
        Ranks.stop_asked = True

    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    Ranks.stop_asked = False
    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ExitStack() as stack:
            ranks = Ranks()
            if not ranks.is_main:
                stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            yield ranks
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        if sys.exc_info()[0] is None:
            dist.destroy_process_group()  # which waits for the others: not after an error
