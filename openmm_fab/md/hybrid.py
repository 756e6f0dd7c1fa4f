"""Markov chains of many walkers with proposals of a trained flow and Hamiltonian Monte Carlo: exact, and nearly free
of correlation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..ais.kernels import adapt, hmc
from ..ais.path import AnnealedDensity, Path, Points
from ..generator.generator import BoltzmannGenerator
from ..target import BoltzmannTarget
from ..tools.devices import stream
from ..tools.progress import bar
from .independence import log_acceptance
from .settings import HybridSettings
from .start import starting_structures
from .store import Frame, State

BOLTZMANN = Path(alpha=1.0)  # its end, lam = 1, is the Boltzmann density itself


class HybridWalkers:
    """Markov chains as `HybridSettings` configures them.

    Proposals of the flow, w = exp(-u) |dx/dz| / q, are accepted as in `md.independence`, trajectories as in
    `ais.kernels.hmc`. Every stereocentre, amide and equal atom stays in the sector that the generator's coordinates
    keep.
    """

    def __init__(
        self, generator: BoltzmannGenerator, settings: HybridSettings, seed: int, start: ArrayLike | None = None
    ) -> None:
        self.generator, self.settings, self.seed = generator, settings, seed
        self.system = generator.system
        self.target = BoltzmannTarget(generator.energy, generator.coordinates)
        self.start = start

    def __repr__(self) -> str:
        return f"HybridWalkers({self.system!r}, {self.settings.walkers} walkers, {self.settings.sweeps} sweeps)"

    @property
    def intervals(self) -> tuple[int, int]:
        """Numbers of intervals of `frame_every` sweeps before production, and in all."""
        s = self.settings
        before = -(-s.burn_in // s.frame_every)
        return before, before + max(1, s.sweeps // s.frame_every)

    @property
    def frame_length(self) -> float:
        """Number of sweeps between frames."""
        return float(self.settings.frame_every)

    def bar(self, intervals: range, show: bool) -> Iterable[int]:
        """Iterate over intervals with a bar."""
        return bar(intervals, self.settings.name, show, unit="sweeps", size=self.settings.frame_every)

    def first(self) -> State:
        """Initial state: walkers at flow samples, or at the given structures in turn.

        Raises
        ------
        ValueError
            Structures of another shape, or of no finite energy.
        """
        flow, n = self.generator.flow_at(), self.settings.walkers
        rng = stream(self.generator.device, self.seed)
        if self.start is None:
            z = flow.sample(n, rng)[0]
        else:
            x = starting_structures(self.system, self.start, n)
            z = self.generator.to_internal(torch.from_numpy(x))[0]
            z = z.to(next(flow.parameters()).dtype)
        points = Points.at(z, flow, self.target)
        if self.start is not None and not bool(torch.isfinite(points.log_p).all()):
            raise ValueError("Expected starting structures of finite energy. Minimise them first: system.minimise(x).")
        zero = torch.zeros(2, dtype=torch.float64)
        return {
            **_state(points),
            "step_size": self.settings.step_size,
            "interval": 0,
            "frames": 0,
            "sweeps": 0,
            "accepted": zero,
            "tried": zero,
            "wait": torch.zeros(n, dtype=torch.long),
            "longest": 0,
            "generator": rng.get_state(),
        }

    def advance(self, state: State) -> tuple[State, Frame | None]:
        """Make one interval of `frame_every` sweeps; returns a frame during production."""
        rng = stream(self.generator.device, 0)
        rng.set_state(state["generator"])
        for _ in range(self.settings.frame_every):
            state = self.sweep(state, rng)
        state = state | {"interval": state["interval"] + 1, "generator": rng.get_state()}
        if state["interval"] <= self.intervals[0]:
            return state, None
        return state | {"frames": state["frames"] + 1}, self._frame(state)

    def sweep(self, state: State, rng: torch.Generator) -> State:
        """Offer a flow proposal to every walker and, every `walk_every` sweeps, make an HMC trajectory."""
        s, flow, here = self.settings, self.generator.flow_at(), self._points(state)
        z, log_q = flow.sample(s.walkers, rng)
        with torch.no_grad():  # gradients are asked for where a trajectory starts
            there = Points(z, log_q, self.target.log_prob(z), torch.zeros_like(z))
        self.target.evaluations += len(z)
        probability = acceptance(here, there)
        taken = torch.rand(len(z), generator=rng, dtype=probability.dtype, device=z.device) < probability
        here = there.where(taken, here)
        producing = state["sweeps"] >= self.intervals[0] * s.frame_every
        counted = torch.tensor([float(probability.sum()), 0.0], dtype=torch.float64)
        tried = torch.tensor([float(len(z)), 0.0], dtype=torch.float64)
        step_size, wait = state["step_size"], torch.where(taken.cpu(), 0, state["wait"] + 1)
        if state["sweeps"] % s.walk_every == 0:
            here = Points(here.z, here.log_q, *self.target.log_prob_and_gradient(here.z))
            density = AnnealedDensity(BOLTZMANN, 1.0, flow, self.target)
            here, moved = hmc(here, density, step_size, s.leapfrogs, rng)
            counted[1], tried[1] = float(moved.sum()), float(len(z))
            if not producing:
                step_size = adapt(step_size, float(moved.mean()), 0.8)
        return state | {
            **_state(here),
            "step_size": step_size,
            "sweeps": state["sweeps"] + 1,
            "accepted": state["accepted"] + counted * producing,
            "tried": state["tried"] + tried * producing,
            "wait": wait,
            "longest": max(state["longest"], int(wait.max())) if producing else 0,
        }

    def structures(self, state: State, rng: torch.Generator) -> Tensor:
        """Positions x (walkers, atoms, 3), nm, float64, with equivalent atoms exchanged at random."""
        x, _ = self.generator.coordinates.to_cartesian(self._points(state).z.double())
        return self.generator.relabelled(x, rng)

    def _frame(self, state: State) -> Frame:
        # Labels have randomness of their own: the chains do not depend on who looks at them.
        x = self.structures(state, torch.Generator().manual_seed(self.seed + state["frames"])).float()
        with torch.no_grad():
            return {"x": x.cpu().numpy(), "u": self.generator.energy(x.double()).cpu().numpy()}

    def _points(self, state: State) -> Points:
        z, log_q, log_p = (state[name].to(self.generator.device) for name in ("z", "log_q", "log_p"))
        return Points(z, log_q, log_p, torch.zeros_like(z))

    def about(self, state: State) -> dict[str, Any]:
        """Acceptance of proposals and trajectories, and the longest wait, as fields of `Convergence`."""
        flow, walk = (state["accepted"] / state["tried"].clamp(min=1.0)).tolist()
        return {"proposals": flow, "trajectories": walk, "longest_wait": state["longest"], "unit": "sweeps"}


def acceptance(here: Points, there: Points) -> Tensor:
    """Acceptance probabilities (n,) of flow proposals, see `md.independence`."""
    return log_acceptance(here.log_p - here.log_q, there.log_p - there.log_q).exp()


def _state(points: Points) -> State:
    return {"z": points.z.cpu(), "log_q": points.log_q.cpu(), "log_p": points.log_p.cpu()}
