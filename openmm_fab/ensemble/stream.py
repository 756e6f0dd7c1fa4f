"""Ensembles larger than memory: drawn into a file, resumable, and read in pieces.

    generator.sample(10_000_000, out="ensemble.nc", progress=True)
    ensemble = StreamedEnsemble("ensemble.nc")
    print(ensemble, ensemble.expectation(mdtraj.compute_rg))

Weights and statistics are float64; positions are float32, as in every trajectory file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import torch
from torch import Tensor

from .. import weights as _weights
from ..tools.devices import stream
from ..tools.progress import bar
from ..weights import Average, Estimate
from .ensemble import Ensemble
from .held import from_json, in_one_line
from .netcdf import SUFFIX, WeightedTrajectory

CHUNK = 4096  # frames
COMMIT_EVERY = 1.0  # s; what a kill can cost
# Of one batch: x (batch, atoms, 3) nm, u, log_w, log_q (batch,).
Draw = Callable[[torch.Generator], tuple[Tensor, Tensor, Tensor, Tensor]]


class RunningWeights:
    """Statistics of log weights in one pass, in memory for their tail only.

    Parameters
    ----------
    total : int
        How many weights will be added, at most; k-hat looks at the largest 3 sqrt(total).

    Attributes
    ----------
    n, invalid : int
        Weights added, and how many of them are zero.
    """

    def __init__(self, total: int) -> None:
        self.n, self.invalid, self._total = 0, 0, total
        self._keep = max(int(3 * math.sqrt(total)) + 1, 256)
        self._largest = np.zeros(0)
        self._top, self._sum, self._squares = -math.inf, 0.0, 0.0  # sums of w and w^2, each over exp(top)

    def add(self, log_w: np.ndarray) -> None:
        """Add log weights (batch,)."""
        log_w = np.asarray(log_w, dtype=np.float64)
        if np.isnan(log_w).any() or (log_w == np.inf).any():
            raise ValueError("Expected finite log weights, or -inf for weight zero; got some that are nan or +inf.")
        if self.n + len(log_w) > self._total:
            raise ValueError(f"Expected at most {self._total} weights; got {self.n + len(log_w)}.")
        self.n += len(log_w)
        positive = log_w[log_w > -np.inf]
        self.invalid += len(log_w) - len(positive)
        if len(positive) == 0:
            return
        top = max(self._top, float(positive.max()))
        shrink, w = math.exp(self._top - top), np.exp(positive - top)
        self._sum = self._sum * shrink + float(w.sum())
        self._squares = self._squares * shrink**2 + float(np.square(w).sum())
        self._top = top
        largest = np.concatenate([self._largest, positive])
        self._largest = largest if len(largest) <= self._keep else np.partition(largest, -self._keep)[-self._keep :]

    @property
    def log_sum(self) -> float:
        """Logarithm of the sum of the weights."""
        if not self._sum:
            raise ValueError(f"Expected at least one weight above zero; all {self.n} are zero.")
        return self._top + math.log(self._sum)

    @property
    def ess(self) -> float:
        """Kish's effective sample size."""
        return math.exp(2 * (self.log_sum - self._top)) / self._squares

    @property
    def log_mean_weight(self) -> Estimate:
        """Logarithm of the mean weight, with the standard error of independent samples: `weights.log_mean_weight`."""
        spread = max(1 / self.ess - 1 / self.n, 0.0) * self.n / (self.n - 1) if self.n > 1 else math.nan
        return Estimate(self.log_sum - math.log(self.n), math.sqrt(spread))

    @property
    def khat(self) -> float:
        """Pareto k-hat of the weights' tail, see `weights.pareto_khat`."""
        return _weights.pareto_khat(self._largest, self.n - self.invalid)

    def diagnosis(self) -> str:
        """Verdict in words from k-hat and the effective sample size."""
        return _weights.diagnosed(self.ess, self.khat)


class StreamedEnsemble:
    """Weighted ensemble in a file: statistics are read once, structures in pieces on request.

    Parameters
    ----------
    path : path
        Written by ``generator.sample(n, out=path)``, finished or not.

    Attributes
    ----------
    path : Path
    about : dict
        fingerprint, temperature (K), name, seed, batch, model; what the model's coordinates hold (JSON), if known.
    topology : mdtraj.Topology
    weights : RunningWeights
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with WeightedTrajectory.open(path) as file:
            self.about, self.topology = file.about, file.topology
            self.weights = _statistics(file, file.frames)

    @property
    def n(self) -> int:
        """Number of frames, invalid ones included."""
        return self.weights.n

    @property
    def invalid(self) -> int:
        return self.weights.invalid

    @property
    def ess(self) -> float:
        return self.weights.ess

    @property
    def ess_fraction(self) -> float:
        return self.ess / self.n

    @property
    def log_z(self) -> Estimate:
        """log Z of the flow's samples, as `Ensemble.log_z`."""
        return self.weights.log_mean_weight

    @property
    def khat(self) -> float:
        return self.weights.khat

    def chunks(self, size: int = CHUNK) -> Iterator[Ensemble]:
        """Iterate over the frames in order, as ensembles of `size` frames with the log weights of the whole."""
        if size < 1:
            raise ValueError(f"Expected chunks of at least one frame; got {size}.")
        with WeightedTrajectory.open(self.path) as file:
            for start in range(0, self.n, size):
                yield Ensemble(**file.read(start, min(start + size, self.n)))

    def expectation(self, values: Callable[[mdtraj.Trajectory], np.ndarray], size: int = CHUNK) -> Average:
        """Weighted mean of an observable with its standard error, in one pass over the file; a note where the weights
        cannot be used.

        Parameters
        ----------
        values : callable
            Takes an mdtraj.Trajectory of m frames and returns (m, ...); of bool the mean is a share.
        size : int
            Frames in memory at once.
        """
        shift: Any = None
        mean: Any = 0.0
        squares: Any = 0.0
        cross: Any = 0.0
        total, share = 0.0, True
        for chunk in self.chunks(size):
            w = np.exp(chunk.log_w - self.weights.log_sum)
            raw = np.asarray(values(chunk.to_mdtraj()))
            share = share and raw.dtype == bool
            found = _weights.weighted_values(w, raw)
            if shift is None and w.any():  # sums about a value near the mean lose no digits
                shift = np.tensordot(w / w.sum(), found, axes=1)
            found = found - (0.0 if shift is None else shift)
            mean = mean + np.tensordot(w, found, axes=1)
            squares = squares + np.tensordot(np.square(w), np.square(found), axes=1)
            cross = cross + np.tensordot(np.square(w), found, axes=1)
            total += float(np.square(w).sum())
        error = np.sqrt(np.maximum(squares - 2 * mean * cross + np.square(mean) * total, 0.0))
        mean = np.asarray(mean + shift)
        error = _weights.share_error(mean, error, self.ess) if share else error
        note = _weights.objection(self.ess, self.khat)
        return Average(mean, error, note) if mean.ndim else Average(float(mean), float(error), note)

    def load(self) -> Ensemble:
        """Read all frames into memory; the same as `Ensemble.load`."""
        return Ensemble.load(self.path)

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        head = f"StreamedEnsemble({self.about['name']!r}: {self.n} frames of {self.topology.n_atoms} atoms"
        if self.n == self.invalid:
            return f"{head}, no frame has any weight)"
        held = f"; {in_one_line(from_json(self.about['held']))}" if "held" in self.about else ""
        return (
            f"{head}, {self.about['temperature']:g} K, ESS {self.ess:.0f} ({100 * self.ess_fraction:.1f} %), "
            f"{_weights.tail_in_words(self.khat)}, {self.invalid} invalid, in {self.path}{held})"
        )


def sample_to_file(
    path: str | Path,
    n: int,
    draw: Draw,
    topology: mdtraj.Topology,
    about: dict[str, Any],
    resume: bool = False,
    progress: bool = False,
    rng: torch.Generator | None = None,
) -> StreamedEnsemble:
    """Draw samples into a file until it holds n frames; it stays valid whenever drawing stops.

    Parameters
    ----------
    path : path
    n : int
    draw : callable
        Makes one batch from a torch.Generator: nothing else may shape what it returns.
    topology, about
        See `WeightedTrajectory.create`; the batch and the seed are taken from `about`.
    resume : bool
        Go on with what is there, to the bit as if it had never stopped; without it a file is never written over.
    rng : torch.Generator, optional
        Begun with the seed; on CPU unless it is given.

    Raises
    ------
    ValueError
        If the path's suffix is not .nc; there is a file and `resume` is False; it was drawn by another model, or with
        another seed, batch or name.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"Expected a file name that ends in {SUFFIX}; got {path.name!r}.")
    if path.exists() and not resume:
        raise ValueError(f"Expected a new file to write; {path} exists. Go on with resume=True, or name another.")
    size, rng = int(about["batch"]), rng or stream("cpu", int(about["seed"]))
    if not path.exists():
        WeightedTrajectory.create(path, topology, about, _state(rng))
    with WeightedTrajectory.open(path, append=True) as file:
        # What is held follows from the model; older files do not say it.
        if changed := [key for key, value in about.items() if key != "held" and file.about.get(key) != value]:
            expected, got = ({key: source.get(key) for key in changed} for source in (about, file.about))
            raise ValueError(
                f"Expected a file drawn with {expected}; {path} was drawn with {got}. Resume with the generator, seed "
                "and name it was begun with, or name another file."
            )
        first, state = file.resume
        if state:
            rng.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
        if file.frames < n:
            _fill(file, first, n, size, draw, rng, progress)
    return StreamedEnsemble(path)


def _fill(
    file: WeightedTrajectory, first: int, n: int, size: int, draw: Draw, rng: torch.Generator, progress: bool
) -> None:
    """Draw whole batches from frame `first` on, and keep of the last one what is asked for."""
    committed = time.monotonic()
    done = (first, first, _state(rng))
    try:
        for start in bar(range(first, n, size), "sampling", progress, unit="samples", size=size):
            before = _state(rng)
            x, u, log_w, log_q = (part[: n - start].cpu().numpy() for part in draw(rng))
            # A batch that is not kept whole is drawn again when more is asked for.
            whole = len(x) == size
            after = (start + len(x), start + size if whole else start, _state(rng) if whole else before)
            try:
                file.write(start, x, u=u, log_w=log_w, log_q=log_q)
            except KeyboardInterrupt:  # raised when all of it is written
                done = after
                raise
            done = after
            if time.monotonic() - committed > COMMIT_EVERY:
                file.commit(*done)
                committed = time.monotonic()
    finally:
        if done[0] > file.frames:
            file.commit(*done)


def _statistics(file: WeightedTrajectory, n: int) -> RunningWeights:
    found = RunningWeights(n)
    for start in range(0, n, 16 * CHUNK):
        found.add(file.column("log_w", start, start + 16 * CHUNK))
    return found


def _state(rng: torch.Generator) -> bytes:
    """State of the random numbers, as it is kept in the file."""
    return rng.get_state().numpy().tobytes()
