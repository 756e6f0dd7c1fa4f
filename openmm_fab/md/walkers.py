"""Dynamics of many walkers at once on the compiled energy: independent, exchanging temperatures, or biased."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..energy.compiled import CompiledEnergy
from ..energy.dynamics import LangevinMiddle, Motion, UnstableDynamicsError, repartitioned
from ..molecule.system import MolecularSystem
from ..tools.progress import dynamics_bar
from ..tools.warn import warn
from .bias import TorsionBias, chosen_torsions
from .ladder import temperature_ladder
from .settings import MetadynamicsSettings, MethodSettings, WalkersExchangeSettings, WalkersSettings
from .start import starting_structures
from .store import Frame, State, Store

SAVE_EVERY = 120.0  # s


class Walkers:
    """Independent walkers; subclasses add what happens between rounds of `steps`, and what a frame keeps."""

    def __init__(self, system: MolecularSystem, settings: WalkersSettings, seed: int, start: ArrayLike | None) -> None:
        _check_system(system)
        self.system, self.settings, self.seed = system, settings, seed
        self.device = torch.device(settings.device)
        self.dtype = torch.float32 if settings.precision == "single" else torch.float64
        self.energy = CompiledEnergy(system, torch.float64 if settings.precision == "double" else torch.float32)
        self.exact = CompiledEnergy(system, torch.float64)
        if settings.compile and self.device.type != "cpu":  # where it is C already
            self.energy.compile()
        x = starting_structures(system, start, settings.walkers)
        self.start = x - x.mean(axis=1, keepdims=True)
        step = settings.step_ps(settings.hydrogen_mass is not None)
        self.steps, self.rounds = whole_steps(self._round_ps(), step), round(settings.frame_ps / self._round_ps())
        masses = torch.as_tensor(repartitioned(system, settings.hydrogen_mass)).to(self.device, self.dtype)
        self.dynamics = LangevinMiddle(step, settings.friction, system.kT, masses)
        self.temperatures = torch.ones(1, device=self.device, dtype=self.dtype)  # of the levels, in the system's

    @property
    def intervals(self) -> tuple[int, int]:
        """Numbers of frame intervals before production, and in all."""
        s = self.settings
        before = round(self._before_ps() / s.frame_ps)
        return before, before + max(1, round(s.time_ps / s.frame_ps))

    @property
    def frame_length(self) -> float:
        """Time between frames, ps."""
        return self.settings.frame_ps

    def bar(self, intervals: range, show: bool) -> Iterable[int]:
        """Iterate over intervals with a bar in ps."""
        copies, length = self.settings.walkers, self.settings.frame_ps
        return dynamics_bar(intervals, self.settings.name, length, copies=copies, show=show)

    def first(self) -> State:
        """Initial state: velocities at the walkers' temperatures, at the starting structures."""
        rng = torch.Generator(self.device).manual_seed(self.seed)
        x = torch.as_tensor(self.start).to(self.device, self.dtype)
        level = self._levels()
        thermal = self.dynamics.thermal(self.temperatures[level.flatten()])
        v = thermal * torch.randn(x.shape, generator=rng, dtype=x.dtype, device=self.device)
        state = {"x": x, "v": v, "level": level, "interval": 0, "frames": 0, "rounds": 0}
        state |= {"generator": rng.get_state(), **self._extra()}
        u, gradient = self._potential(state)(x)
        if not bool(torch.isfinite(u).all()):
            raise UnstableDynamicsError(
                f"Expected starting structures of finite energy; {int((~torch.isfinite(u)).sum())} of {len(u)} have "
                "none. Minimise them first: system.minimise(x)."
            )
        return state | {"u": u, "gradient": gradient}

    def advance(self, state: State) -> tuple[State, Frame | None]:
        """Make one interval of `frame_ps`; returns a frame during production. The given state is unchanged."""
        rng = torch.Generator(self.device)
        rng.set_state(state["generator"])
        for _ in range(self.rounds):
            motion = Motion(state["x"], state["v"], state["u"], state["gradient"])
            temperature = self.temperatures[state["level"].flatten()]
            motion = self.dynamics(motion, self._potential(state), self.steps, temperature, rng)
            state = state | {"x": motion.x, "v": motion.v, "u": motion.u, "gradient": motion.gradient}
            state = self._between(state, rng) | {"rounds": state["rounds"] + 1}
        # The energy does not know where the molecule is; its float32 coordinates had better be small.
        state["x"] = state["x"] - state["x"].mean(1, keepdim=True)
        state |= {"interval": state["interval"] + 1, "generator": rng.get_state()}
        if state["interval"] <= self.intervals[0]:
            return state, None
        return state | {"frames": state["frames"] + 1}, self._frame(state)

    # --- what methods change ---

    def _round_ps(self) -> float:
        """Time, ps, between two calls of `_between`."""
        return self.settings.frame_ps

    def _before_ps(self) -> float:
        """Time, ps, before production."""
        return self.settings.equilibration_ps

    def _levels(self) -> Tensor:
        """(ladders, walkers of a ladder) int: which temperature each walker has."""
        return torch.zeros(self.settings.walkers, 1, dtype=torch.long, device=self.device)

    def _extra(self) -> State:
        """Further entries of the state at the start, by name, which a method keeps besides the walkers."""
        return {}

    def _potential(self, state: State) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """x (walkers, atoms, 3) -> u (walkers,) in kT that they move in, and its gradient."""
        return self.energy.value_and_gradient

    def _between(self, state: State, rng: torch.Generator) -> State:
        """The state after what a method does between rounds of dynamics: an exchange, a hill."""
        return state

    def _frame(self, state: State) -> Frame:
        """Frame to record of the state: arrays (walkers, ...) by name."""
        return self._recorded(state["x"])

    def _recorded(self, x: Tensor) -> Frame:
        x = x.float()
        return {"x": x.cpu().numpy(), "u": self.exact(x.double()).cpu().numpy()}

    def about(self, state: State) -> dict[str, Any]:
        """Further fields of `Convergence`, from the state at the end of the run."""
        return {}


class ExchangingWalkers(Walkers):
    """Parallel tempering in independent ladders (Sugita and Okamoto, Chem. Phys. Lett. 314, 141 (1999))."""

    settings: WalkersExchangeSettings

    def __init__(self, system: MolecularSystem, settings: WalkersSettings, seed: int, start: ArrayLike | None) -> None:
        super().__init__(system, settings, seed, start)
        ladder = temperature_ladder(system.temperature, self.settings.max_temperature, self.settings.temperatures)
        self.temperatures = torch.as_tensor(ladder / system.temperature).to(self.device, self.dtype)

    def _round_ps(self) -> float:
        return self.settings.exchange_ps

    def _levels(self) -> Tensor:
        k = self.settings.temperatures
        return torch.arange(k, device=self.device).repeat(self.settings.walkers // k, 1)

    def _extra(self) -> State:
        return {"accepted": torch.zeros(self.settings.temperatures - 1, dtype=torch.float64), "sweeps": [0, 0]}

    def _between(self, state: State, rng: torch.Generator) -> State:
        parity = state["rounds"] % 2
        level, accepted = exchange_temperatures(state["level"], state["u"], self.temperatures, parity, rng)
        ratio = self.temperatures[level] / self.temperatures[state["level"]]
        sweeps = list(state["sweeps"])
        sweeps[parity] += len(level)
        done = state["accepted"] + accepted.cpu()
        return state | {
            "level": level,
            "v": state["v"] * ratio.sqrt().flatten()[:, None, None],
            "accepted": done,
            "sweeps": sweeps,
        }

    def _frame(self, state: State) -> Frame:
        x = state["x"] if self.settings.reweight else state["x"][(state["level"] == 0).flatten()]
        return self._recorded(x) | {"level": state["level"].flatten().cpu().numpy().astype(np.int16)}

    def about(self, state: State) -> dict[str, Any]:
        tried = np.array([state["sweeps"][k % 2] for k in range(self.settings.temperatures - 1)])
        return {"acceptance": tuple((state["accepted"].numpy() / np.maximum(tried, 1)).tolist())}


class BiasedWalkers(Walkers):
    """Multiple-walker well-tempered metadynamics (Barducci, Bussi, Parrinello, PRL 100, 020603 (2008); Raiteri et al.,
    J. Phys. Chem. B 110, 3533 (2006)), then the bias is frozen and frames weigh exp(V)."""

    settings: MetadynamicsSettings

    def __init__(self, system: MolecularSystem, settings: WalkersSettings, seed: int, start: ArrayLike | None) -> None:
        super().__init__(system, settings, seed, start)
        self.torsions = chosen_torsions(system.md_topology, self.settings.torsions)
        self.growing = round(self.settings.build_ps / settings.frame_ps)

    def bias(self, state: State) -> TorsionBias:
        return TorsionBias(self.torsions, self.settings.hill_width, state["coefficients"])

    def _round_ps(self) -> float:
        return self.settings.hill_ps

    def _before_ps(self) -> float:
        return self.settings.build_ps + self.settings.equilibration_ps

    def _extra(self) -> State:
        return {"coefficients": TorsionBias(self.torsions, self.settings.hill_width).coefficients}

    def _potential(self, state: State) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        bias = self.bias(state)

        def biased(x: Tensor) -> tuple[Tensor, Tensor]:
            (u, gradient), (v, slope) = self.energy.value_and_gradient(x), bias.value_and_gradient(x)
            return u + v, gradient + slope

        return biased

    def _between(self, state: State, rng: torch.Generator) -> State:
        if state["interval"] >= self.growing:
            return state
        bias, s = self.bias(state), self.settings
        angles = bias.angles(state["x"])
        height = s.hill_height / s.walkers * torch.exp(-bias.value(angles) / (s.bias_factor - 1.0))
        state = state | {"coefficients": bias.with_hills(angles, height).coefficients}
        u, gradient = self._potential(state)(state["x"])
        return state | {"u": u, "gradient": gradient}

    def _frame(self, state: State) -> Frame:
        return self._recorded(state["x"]) | {"log_w": self.bias(state)(state["x"]).double().cpu().numpy()}


def exchange_temperatures(
    level: Tensor, u: Tensor, temperatures: Tensor, parity: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Exchange neighbouring temperatures by Metropolis: min(1, exp((b_i - b_j)(u_i - u_j))), b = 1/temperature.

    Parameters
    ----------
    level : (ladders, walkers of a ladder) int
        A permutation of the temperatures in each ladder.
    u : (ladders * walkers of a ladder,)
        In kT at temperature 1.
    temperatures : (levels,)
    parity : 0 or 1
        Pairs that start at even or odd levels.

    Returns
    -------
    level, and how many ladders accepted each of the (levels - 1) pairs
    """
    k = len(temperatures)
    lower = torch.arange(parity, k - 1, 2, device=level.device)
    accepted = torch.zeros(k - 1, dtype=torch.float64, device=level.device)
    if len(lower) == 0:
        return level, accepted
    holder = torch.argsort(level, dim=1)  # (ladders, levels): who has this temperature
    sorted_u = u.view(level.shape).gather(1, holder)
    beta = 1.0 / temperatures
    log_ratio = (beta[lower] - beta[lower + 1]) * (sorted_u[:, lower] - sorted_u[:, lower + 1])
    uniform = torch.rand(log_ratio.shape, generator=rng, dtype=u.dtype, device=u.device)
    swap = uniform.log() < log_ratio
    new = torch.arange(k, device=level.device).repeat(len(level), 1)
    new[:, lower] += swap.long()
    new[:, lower + 1] -= swap.long()
    accepted[lower] = swap.double().sum(0)
    return torch.empty_like(level).scatter_(1, holder, new), accepted


@dataclass(frozen=True)
class Sampled:
    """Frames as arrays (frames, walkers, ...), fields of their report, and whether the run was stopped."""

    arrays: dict[str, np.ndarray]
    about: dict[str, Any]
    stopped: bool


class Method(Protocol):
    """Interface of a sampling method of many walkers, which `sample` runs: `Walkers` and `HybridWalkers` have it."""

    @property
    def settings(self) -> MethodSettings: ...

    @property
    def intervals(self) -> tuple[int, int]: ...

    def first(self) -> State: ...

    def advance(self, state: State) -> tuple[State, Frame | None]: ...

    def about(self, state: State) -> dict[str, Any]: ...

    def bar(self, intervals: range, show: bool) -> Iterable[int]: ...


def sample(method: Method, store: Store, progress: bool) -> Sampled:
    """Run a method to its end or to Ctrl-C; the store then holds everything up to the last complete interval.

    Raises
    ------
    KeyboardInterrupt
        Stopped before the first frame.
    """
    state = store.load() or method.first()
    total, saved, stopped = method.intervals[1], time.monotonic(), False
    try:
        for _ in method.bar(range(state["interval"], total), progress):
            new, frame = method.advance(state)
            if frame is not None:
                store.frames.append(frame)
            state = new
            if time.monotonic() - saved > SAVE_EVERY:
                store.save(state)
                saved = time.monotonic()
    except KeyboardInterrupt:
        stopped = True
    finally:
        store.save(state)
    if stopped:
        if not store.frames:
            raise KeyboardInterrupt("Stopped before the first frame of production.")
        warn(stopped_message(state["interval"] / total, store.folder is not None))
    arrays = {key: np.stack([frame[key] for frame in store.frames]) for key in store.frames[0]}
    return Sampled(arrays, method.about(state), stopped)


def stopped_message(share: float, kept: bool) -> str:
    """Warning after Ctrl-C: the share of the run that is done, and how to continue if its files are kept."""
    advice = "the same call with resume=True goes on" if kept else "with a folder=... it could be resumed"
    return f"Stopped after {100 * share:.0f} % of the run; what was sampled is returned, and {advice}."


# --- small helpers ---


def _check_system(system: MolecularSystem) -> None:
    """Raise ValueError for constraints, and for forces that the compiled energy does not know."""
    if system.system.getNumConstraints():
        raise ValueError(
            f"Expected a molecule without constraints; {system.name} has {system.system.getNumConstraints()}. "
            'Use method="langevin" or "replica-exchange", or make the System without constraints.'
        )
    untranslated = CompiledEnergy.untranslated(system.system)
    if untranslated:
        raise ValueError(
            f'Expected forces with a translation; got {"; ".join(untranslated)}. Use method="langevin" or '
            '"replica-exchange".'
        )


def whole_steps(time_ps: float, step: float) -> int:
    """How many time steps, of `step` ps, a time takes; ValueError unless it is a multiple of the step."""
    steps = round(time_ps / step)
    if steps < 1 or abs(steps * step - time_ps) > 1e-6 * time_ps + 1e-12:
        raise ValueError(
            f"Expected a multiple of the time step, {1000 * step:g} fs, between frames, hills and exchanges; got "
            f"{time_ps:g} ps."
        )
    return steps
