"""The trained flow as an openmmtools MCMC move: MD that hops between basins and stays exact. Needs openmmtools."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

import numpy as np
import openmm
import torch
from openmm import unit
from scipy.spatial.transform import Rotation

from ..generator.generator import BoltzmannGenerator
from ..molecule.openmm_private import composed_states, system_hash
from ..tools.install import install
from .independence import run_chain

try:
    from openmmtools.mcmc import MCMCMove
except ImportError as error:
    raise ImportError(f"FlowProposalMove needs openmmtools: {install('md')}, or conda install openmmtools.") from error

ENERGIES = ("generator", "context")
SILENT = ("CMMotionRemover", "AndersenThermostat")  # forces without energy


class FlowProposalMove(MCMCMove):
    """Metropolised independence proposals of a trained flow, for openmmtools' samplers.

    x' is drawn from the flow and accepted with min(1, w(x') / w(x)), w = exp(-u) / q: the Boltzmann distribution
    stays exactly what it is however poor the flow, a poor one only accepts less. Orientation is drawn at random,
    the centroid is kept, and an accepted structure gets new velocities. Use it in a ``SequenceMove`` with
    ``LangevinDynamicsMove``.

    Parameters
    ----------
    generator : BoltzmannGenerator
        One of several temperatures proposes at that of the state, at every rung of a ladder within their range.
    n_proposals : int
        Metropolis steps a call; further ones cost next to nothing where the energy is the generator's.
    batch : int
        Proposals drawn at once, before they are needed.
    energy : "generator" or "context"
        "generator": u of its own system, whatever state is not of the same system and temperature is refused.
        "context": u of the state's own OpenMM Context, one call a proposal; any Hamiltonian and temperature of the
        same number of atoms, so exact at every rung of a ladder.
    seed : int, optional

    Attributes
    ----------
    n_accepted, n_proposed : int
    """

    generator: BoltzmannGenerator | None
    n_accepted: int
    n_proposed: int

    def __init__(
        self,
        generator: BoltzmannGenerator | None,
        n_proposals: int = 1,
        *,
        batch: int = 1024,
        energy: str = "generator",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.n_accepted = self.n_proposed = 0
        if n_proposals < 1 or batch < 1 or energy not in ENERGIES:
            raise ValueError(
                f"Expected n_proposals >= 1, batch >= 1 and energy out of {ENERGIES}; got {n_proposals}, {batch} "
                f"and {energy!r}."
            )
        self._set_up(generator, n_proposals, batch, energy, seed)

    def _set_up(
        self, generator: BoltzmannGenerator | None, n_proposals: int, batch: int, energy: str, seed: int | None
    ) -> None:
        self.generator, self.n_proposals, self.batch = generator, n_proposals, batch
        self.energy, self.seed = energy, seed
        self._rng = np.random.default_rng(seed)
        self._kelvin: float | None = None  # of the proposals; None for the generator's own
        self._queues: dict[float | None, deque[tuple[np.ndarray, float, float]]] = {}
        self._here: tuple[np.ndarray, float, float | None] | None = None
        self._known: tuple[Any, ...] | None = None

    @property
    def statistics(self) -> dict[str, int]:
        """Counts of accepted and proposed structures, under the keys that openmmtools' own Metropolised moves use."""
        return dict(n_accepted=self.n_accepted, n_proposed=self.n_proposed)

    @statistics.setter
    def statistics(self, value: dict[str, int]) -> None:
        self.n_accepted, self.n_proposed = value["n_accepted"], value["n_proposed"]

    @property
    def acceptance(self) -> float:
        """Share of the proposals that were accepted; nan before the first."""
        return self.n_accepted / self.n_proposed if self.n_proposed else np.nan

    def apply(self, thermodynamic_state: Any, sampler_state: Any, context_cache: Any = None) -> None:
        """Apply `n_proposals` Metropolis steps to the sampler state, in place."""
        if self.generator is None:
            raise RuntimeError(
                "Expected a move with its generator; this one was restored from a file, which does not hold it. "
                "Set move.generator = BoltzmannGenerator.load(...)."
            )
        self._kelvin = _temperature_of(thermodynamic_state, self.generator)
        self._check(thermodynamic_state)
        cache = self._get_context_cache(context_cache)
        start = np.asarray(sampler_state.positions.value_in_unit(unit.nanometer), dtype=np.float64)
        proposals = [self._next() for _ in range(self.n_proposals)]
        if self.energy == "context":
            context, _ = cache.get_context(thermodynamic_state)
            u = [_energy_in(context, thermodynamic_state, x) for x in (start, *(x for x, _, _ in proposals))]
            log_w_start = -u[0] - self._log_q(start)
            log_w = np.array([-v - log_q for v, (_, _, log_q) in zip(u[1:], proposals, strict=True)])
        else:
            log_w_start = self._log_w(start)
            log_w = np.array([value for _, value, _ in proposals])
        if np.isnan(log_w_start):
            raise FloatingPointError("Expected a weight of the present structure; it is nan. Check its positions.")
        with np.errstate(divide="ignore"):
            at, accepted = run_chain(log_w_start, log_w, np.log(self._rng.random(len(log_w))))
        self.n_accepted += accepted
        self.n_proposed += len(log_w)
        if at < 0:
            return
        x = Rotation.random(None, self._rng).apply(proposals[at][0] - proposals[at][0].mean(0)) + start.mean(0)
        sampler_state.positions = unit.Quantity(x, unit.nanometer)
        # Turning and moving it changed no weight. In Contexts' energies nothing is remembered: states come and go.
        self._here = (x, float(log_w[at]), self._kelvin) if self.energy == "generator" else None
        context, _ = cache.get_context(thermodynamic_state)
        sampler_state.apply_to_context(context, ignore_velocities=True)
        context.setVelocitiesToTemperature(thermodynamic_state.temperature, int(self._rng.integers(1, 2**31 - 1)))
        sampler_state.velocities = context.getState(getVelocities=True).getVelocities(asNumpy=True)

    def __getstate__(self) -> dict[str, Any]:
        """What openmmtools writes into its files: settings and statistics; not the generator."""
        return dict(
            **self.statistics,
            n_proposals=self.n_proposals,
            batch=self.batch,
            energy=self.energy,
            seed=self.seed,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__init__()
        self.statistics = state
        self._set_up(None, state["n_proposals"], state["batch"], state["energy"], state["seed"])

    def __copy__(self) -> Any:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A move that shares the generator and has randomness of its own: replicas must not make the same moves."""
        other = type(self).__new__(type(self))
        other.__setstate__(self.__getstate__())
        other.generator = self.generator
        other._rng = self._rng.spawn(1)[0]
        return other

    # --- inside ---

    def _next(self) -> tuple[np.ndarray, float, float]:
        """The next proposal: x (n_atoms, 3), its log weight towards the generator's own system, and log q."""
        queue = self._queues.setdefault(self._kelvin, deque())
        if not queue:
            assert self.generator is not None
            seed = int(self._rng.integers(2**31))
            drawn = self.generator.sample(self.batch, seed=seed, temperature=self._kelvin)
            assert drawn.log_q is not None
            queue.extend(zip(drawn.x, drawn.log_w, drawn.log_q, strict=True))
        return queue.popleft()

    def _log_q(self, x: np.ndarray) -> float:
        assert self.generator is not None
        return float(self.generator.log_prob(x[None], self._kelvin)[0])

    def _log_w(self, x: np.ndarray) -> float:
        assert self.generator is not None
        if self._here is None or self._here[2] != self._kelvin or not np.array_equal(self._here[0], x):
            with torch.no_grad():
                u = float(self.generator.energy_at(self._kelvin)(torch.from_numpy(x)[None])[0])
            self._here = x.copy(), -u - self._log_q(x), self._kelvin
        return self._here[1]

    def _check(self, state: Any) -> None:
        """Raise unless the state is one that the energy is right for. Remembered by what the state says of itself."""
        assert self.generator is not None
        temperature = state.temperature.value_in_unit(unit.kelvin)
        composed = composed_states(state)
        key = (id(self.generator), system_hash(state), temperature, state.pressure)
        # A composed state (alchemical) changes its system without a word.
        if key == self._known and not composed:
            return
        own = self.generator.system
        system = state.get_system(remove_thermostat=True, remove_barostat=True)
        if system.getNumParticles() != own.n_atoms:
            raise ValueError(
                f"Expected a state of the generator's {own.n_atoms} atoms ({own.name}); got one of "
                f"{system.getNumParticles()} particles."
            )
        if state.pressure is not None or system.usesPeriodicBoundaryConditions():
            raise ValueError("Expected a molecule without box or pressure; got a periodic state.")
        if self.energy == "generator":
            advice = 'Train a generator for this state, or pass energy="context", which is exact with any energy.'
            if self._kelvin is None and abs(temperature - own.temperature) > 1e-6 * own.temperature:
                raise ValueError(
                    f"Expected a state at the generator's {own.temperature:g} K; got {temperature:g} K. {advice}"
                )
            if _contents(system) != _contents(own.system):
                raise ValueError(
                    f"Expected a state of the System that the generator was trained on ({own.name}); got one with "
                    f"other forces, constraints or masses. {advice}"
                )
        self._known = key


def _temperature_of(state: Any, generator: BoltzmannGenerator) -> float | None:
    """The state's temperature, K, where the generator has samples of several temperatures, this one among them."""
    several, kelvin = generator.settings.temperatures, float(state.temperature.value_in_unit(unit.kelvin))
    return kelvin if several and several[0] <= kelvin <= several[-1] else None


def _energy_in(context: openmm.Context, state: Any, x: np.ndarray) -> float:
    """u of x in the state, by its Context; +inf where it is not finite."""
    if not np.isfinite(x).all():
        return np.inf
    context.setPositions(x)
    u = float(state.reduced_potential(context))
    return u if np.isfinite(u) else np.inf


def _contents(system: openmm.System) -> str:
    """The System as text, without the forces that have no energy, the version that wrote it, and random seeds."""
    copy = openmm.XmlSerializer.clone(system)
    for i in reversed(range(copy.getNumForces())):
        if type(copy.getForce(i)).__name__ in SILENT:
            copy.removeForce(i)
    return re.sub(r' (openmmVersion|randomSeed)="[^"]*"', "", openmm.XmlSerializer.serialize(copy))
