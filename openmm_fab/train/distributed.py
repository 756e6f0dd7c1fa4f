"""Training by several processes, each with its own chains, buffer and random stream, and one flow between them.

    torchrun --nproc-per-node 4 -m openmm_fab train alanine_dipeptide

N ranks of batch B do what one process of batch N B does.  Gradients, step sizes, basins and the budget are averages or
sums over all ranks.  The buffer lies in shards: every rank draws B samples from its own by their weights, and its loss
counts N W_r / sum W, where W_r is the weight in its shard; the expectation of the averaged gradient is then that of a
draw from the pooled buffer (each without replacement: of a shard, as of a buffer of one process).  Where a loss
normalises the weights of a batch the same factor gives the pooled loss itself.  Chains are resampled, and an adaptive
ladder is chosen, within a rank.

Everything here does nothing, and costs nothing, where torch.distributed is not running.
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
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..tools.errors import OpenMMFabError

T = TypeVar("T")
STORED = ("z", "log_w", "log_q", "grad_log_p", "log_b")  # columns of the replay buffer
PATIENCE = timedelta(minutes=15)  # that one rank waits for another, compilation included
_stop_asked = False


class RankLostError(OpenMMFabError, RuntimeError):
    """Another process of this run is gone, and the run ends."""


class Ranks:
    """The processes that train together: this one alone unless torch.distributed is running.

    Attributes
    ----------
    rank, size : int
        Number of this process, and how many there are.
    """

    def __init__(self) -> None:
        running = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if running else 0
        self.size = dist.get_world_size() if running else 1

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes and shows."""
        return self.rank == 0

    # What all have

    def objects(self, value: T) -> list[T]:
        """The value of every rank, in their order."""
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.size
        self._call(lambda: dist.all_gather_object(found, value))
        return found

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns on the first rank, where alone it is called."""
        return self.objects(make() if self.first else None)[0]  # type: ignore[return-value]

    def clock(self) -> float:
        """`time.perf_counter` of the first rank, so that all see the same time; each rank must ask equally often."""
        return self.objects(time.perf_counter())[0] if not self.alone else time.perf_counter()

    def totals(self, values: list[int]) -> list[int]:
        return [sum(column) for column in zip(*self.objects(values), strict=True)]

    def least(self, value: int) -> int:
        return min(self.objects(value))

    def mean(self, values: Sequence[float]) -> list[float]:
        """Means over the ranks, place by place; of lists of different length over those that reach the place."""
        if self.alone:
            return list(values)
        lists = self.objects(list(values))
        columns = [[one[k] for one in lists if k < len(one)] for k in range(max(map(len, lists)))]
        return [math.fsum(column) / len(column) for column in columns]

    def gathered(self, rows: Tensor) -> Tensor:
        """Rows of all ranks, one below the other."""
        if self.alone:
            return rows
        return torch.cat([part.to(rows.device) for part in self.objects(rows.detach().cpu())])

    def pooled(self, *columns: Tensor) -> tuple[list[Tensor], slice]:
        """Columns of equal length with the rows of all ranks, and where this rank's are."""
        if self.alone:
            return list(columns), slice(None)
        sizes = self.objects(len(columns[0]))
        start = sum(sizes[: self.rank])
        return [self.gathered(column) for column in columns], slice(start, start + sizes[self.rank])

    def share(self, log_w: Tensor) -> float:
        """N W_r / sum W of log weights (n,) that lie on the ranks; 1 for one rank.

        A loss over samples drawn in proportion to the weights of a rank, times this, averages over ranks to the loss
        over samples drawn in proportion to all weights.
        """
        if self.alone:
            return 1.0
        own = torch.where(torch.isfinite(log_w), log_w.double(), -torch.inf)
        sums = np.array(self.objects(float(own.logsumexp(0))))
        return float(self.size * np.exp(sums[self.rank] - np.logaddexp.reduce(sums)))

    def log_totals(self, logs: Tensor) -> Tensor:
        """Logarithms of sums (n,) of a rank each -> those of the sums over all ranks."""
        if self.alone:
            return logs
        return torch.tensor(self.objects(logs.tolist()), dtype=logs.dtype, device=logs.device).logsumexp(0)

    # One flow

    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Give all ranks the first one's tensors, in place."""
        for tensor in () if self.alone else tensors:
            self._call(partial(dist.broadcast, tensor, 0))

    def average(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> float:
        """Average the gradients of all ranks, in place; returns the average loss."""
        if self.alone:
            return float(loss.detach())
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients] + [loss.detach().reshape(1).to(gradients[0])])
        self._call(lambda: dist.all_reduce(flat))
        flat /= self.size
        for gradient, part in zip(gradients, flat[:-1].split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        return float(flat[-1])

    def stream(self, generator: torch.Generator) -> torch.Generator:
        """The generator, on all ranks but the first begun anew with a seed of the rank's own."""
        if self.rank:
            seed = np.random.SeedSequence((generator.initial_seed(), self.rank)).generate_state(1, np.uint64)[0]
            generator.manual_seed(int(seed))
        return generator

    def stop_if_asked(self) -> None:
        """KeyboardInterrupt on all ranks at the same place, if any of them was asked to stop."""
        if not self.alone and any(self.objects(_stop_asked)):
            raise KeyboardInterrupt

    # Checkpoints that any number of ranks can read

    def pool(self, state: dict[str, Any]) -> dict[str, Any]:
        """A trainer's state with the shards of all ranks in it."""
        if self.alone:
            return state
        counts = {"random": state["random"], "evaluations": state["evaluations"], "next": state["buffer"]["next"]}
        own = self.objects(counts | {"size": len(state["buffer"]["z"])})
        # Only the first rank writes, and needs the others' rows; shapes were told above.
        columns = {key: self._to_first(state["buffer"][key]) for key in STORED}
        ranks = {key: [one[key] for one in own] for key in ("size", "next", "random")}
        evaluations = [sum(one["evaluations"][k] for one in own) for k in (0, 1)]
        return {**state, "buffer": {**state["buffer"], **columns}, "evaluations": evaluations, "ranks": ranks}

    def dealt(self, state: dict[str, Any], device: torch.device) -> dict[str, Any]:
        """This rank's part of a state that `pool` made, of as many ranks or another number.

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
        if saved is None and self.alone:
            return state
        if saved is None:
            saved = {"size": [len(buffer["z"])], "next": [buffer["next"]], "random": [state["random"]]}
        if not self.first:
            state["evaluations"] = [0, 0]
        starts = np.cumsum([0, *saved["size"]])
        if len(saved["size"]) == self.size:
            rows = torch.arange(int(starts[self.rank]), int(starts[self.rank + 1]))
            after, state["random"] = saved["next"][self.rank], saved["random"][self.rank]
        else:
            rows = _newest(saved["size"], saved["next"], buffer["capacity"])[self.rank :: self.size]
            rows = rows[: buffer["capacity"]].flip(0)  # a shard has its oldest first
            after = len(rows) % buffer["capacity"]
            if self.rank:
                fresh = torch.Generator(device)
                fresh.set_state(state["random"])
                state["random"] = self.stream(
                    fresh.manual_seed(int(torch.randint(2**62, (1,), generator=fresh, device=device)))
                ).get_state()
        part = {key: buffer[key][rows] for key in STORED}
        state["buffer"] = {**buffer, **part, "next": after}
        return state

    def _to_first(self, rows: Tensor) -> Tensor:
        parts: list[Any] | None = [None] * self.size if self.first else None
        self._call(lambda: dist.gather_object(rows.cpu(), parts))
        return torch.cat([part.to(rows.device) for part in parts]) if parts is not None else rows

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
    """Whether a launcher such as torchrun has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that torchrun has started, joined while this is open; without torchrun this process alone.

    Only the first rank prints and warns. Ctrl-C and SIGTERM are obeyed after the iteration, by all ranks at once.
    """
    global _stop_asked
    if not many():
        yield Ranks()
        return

    def ask(*_: object) -> None:
        global _stop_asked
        _stop_asked = True

    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    _stop_asked = False
    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ExitStack() as stack:
            ranks = Ranks()
            if not ranks.first:
                stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            yield ranks
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        if sys.exc_info()[0] is None:
            dist.destroy_process_group()  # which waits for the others: not after an error


def _newest(sizes: Sequence[int], nexts: Sequence[int], capacity: int) -> Tensor:
    """Row numbers of shards that lie one below the other, the newest of each first, in turn."""
    ages, rows, start = [], [], 0
    for size, after in zip(sizes, nexts, strict=True):
        place = torch.arange(size)
        ages.append((after - 1 - place) % (capacity if size == capacity else max(size, 1)))
        rows.append(start + place)
        start += size
    return torch.cat(rows)[torch.argsort(torch.cat(ages), stable=True)]
