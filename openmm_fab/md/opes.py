"""OPES by openmm-opes: one trajectory under a bias on torsions, which is kept fixed once it is built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import openmm
import torch
from numpy.typing import ArrayLike
from openmm import app, unit

from ..energy.dynamics import UnstableDynamicsError
from ..free_energy.profiles import Profile, Surface
from ..molecule.system import MolecularSystem
from ..tools.install import install
from ..tools.progress import dynamics_bar
from .bias import chosen_torsions
from .langevin import integrator_of, load_checkpoint, platform_of
from .settings import OPESSettings
from .start import starting_structures
from .store import Frame, State
from .walkers import whole_steps

GRID = 101  # points of each torsion, the last of them the first again
KJ = unit.kilojoule_per_mole


class OPESWalker:
    """Dynamics under a bias of on-the-fly probability enhanced sampling, on a copy of the System (Invernizzi and
    Parrinello, J. Phys. Chem. Lett. 11, 2731 (2020)).

    While the bias is built, a kernel is added every `kernel_ps`. Then it is kept fixed, so that a frame's weight,
    exp(V / kT), is exact; kernels of production are counted in the surface alone.

    Raises
    ------
    ImportError
        openmm-opes is not installed.
    """

    def __init__(self, system: MolecularSystem, settings: OPESSettings, seed: int, start: ArrayLike | None) -> None:
        try:
            from openmm_opes import OPES
        except ImportError as error:
            raise ImportError(f"OPES needs openmm-opes, of Python 3.11 or newer: {install('opes')}.") from error
        system.require_unchanged()
        self.system, self.settings, self.seed = system, settings, seed
        self.torsions = chosen_torsions(system.md_topology, settings.torsions)
        self.start = starting_structures(system, start)[0]
        copied = openmm.XmlSerializer.clone(system.system)  # the bias would stay in the one given
        step = settings.step_ps(copied.getNumConstraints() > 0)
        self.steps, self.rounds = whole_steps(settings.kernel_ps, step), round(settings.frame_ps / settings.kernel_ps)
        self.growing = round(settings.build_ps / settings.frame_ps)
        self.sampler = OPES(
            copied,
            [_variable(atoms, settings.kernel_width) for atoms in self.torsions],
            system.temperature,
            settings.barrier * system.kT,
            frequency=self.steps,
            varianceFrequency=None,
            biasFactor=settings.bias_factor,
        )
        self.bias = copied.getForce(copied.getNumForces() - 1)
        own = {self.bias.getForceGroup()}
        self.groups = {force.getForceGroup() for force in copied.getForces()} - own
        integrator = integrator_of(system, settings, seed)
        where = platform_of(settings)
        self.simulation = app.Simulation(system.topology, copied, integrator, *where)
        self._at: int | None = None  # the interval that the Context stands at

    @property
    def intervals(self) -> tuple[int, int]:
        """Numbers of frame intervals before production, and in all."""
        s = self.settings
        before = self.growing + round(s.equilibration_ps / s.frame_ps)
        return before, before + max(1, round(s.time_ps / s.frame_ps))

    @property
    def frame_length(self) -> float:
        """Time between frames, ps."""
        return self.settings.frame_ps

    def bar(self, intervals: range, show: bool) -> Iterable[int]:
        """Iterate over intervals with a bar in ps."""
        return dynamics_bar(intervals, self.settings.name, self.settings.frame_ps, show=show)

    def first(self) -> State:
        """State at the starting structure, without a kernel."""
        context = self.simulation.context
        context.setPositions(self.start)
        context.applyConstraints(1e-6)
        context.setVelocitiesToTemperature(self.system.temperature, self.seed + 1)
        self._at = 0
        return self._state(0, 0, np.zeros(GRID ** len(self.torsions)))

    def advance(self, state: State) -> tuple[State, Frame | None]:
        """Make one interval of `frame_ps`; returns a frame during production. The given state is unchanged."""
        if self._at != state["interval"]:
            self._restore(state)
        interval, table, context = state["interval"], state["table"].numpy(), self.simulation.context
        self._at = None  # until the interval is complete
        for _ in range(self.rounds):
            if interval < self.growing:
                self.sampler.step(self.simulation, self.steps)  # adds a kernel
                continue
            self.simulation.step(self.steps)
            if interval >= self.intervals[0]:
                angles = self.sampler.getCollectiveVariables(self.simulation)
                self.sampler.addKernel(angles, self.sampler.getBiasEnergy(context))
        if interval < self.growing:
            table = (self.sampler.getBias() + self.sampler.barrier).value_in_unit(KJ).ravel()
        self._at = interval + 1
        found = context.getState(positions=True, energy=True, groups=self.groups)
        x = found.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        u = found.getPotentialEnergy().value_in_unit(KJ) / self.system.kT
        if not (np.isfinite(x).all() and np.isfinite(u)):
            raise UnstableDynamicsError(
                "Expected finite positions and energies; got others. Use a smaller step_fs, or check the starting "
                "structure."
            )
        if interval < self.intervals[0]:
            return self._state(interval + 1, 0, table), None
        bias = self.sampler.getBiasEnergy(context).value_in_unit(KJ) / self.system.kT
        frame = {
            "x": (x - x.mean(axis=0)).astype(np.float32)[None],
            "u": np.array([u]),
            "log_w": np.array([bias]),
        }
        return self._state(interval + 1, state["frames"] + 1, table), frame

    def about(self, state: State) -> dict[str, Any]:
        """The free energy by the kernels of the whole run, for `Convergence`."""
        if self._at != state["interval"]:
            self._restore(state)
        return {"surface": self.surface()}

    def surface(self) -> Profile | Surface:
        """Free energy of the torsions as the kernels tell it, freed of their width; without an error."""
        free = self.sampler.getFreeEnergy(correctSmoothing=True)
        f = np.asarray(free.value_in_unit(KJ) if unit.is_quantity(free) else free) / self.system.kT
        f = f[(slice(None, -1),) * f.ndim]  # the last point is the first
        density = np.exp(-(f - np.nanmin(f)))
        share = density / density.sum()
        edges = np.linspace(-np.pi, np.pi, GRID) - np.pi / (GRID - 1)
        names = ["-".join(str(atom) for atom in atoms) for atoms in self.torsions]
        nothing = np.full(f.shape, np.nan)
        about: dict[str, Any] = {"name": ", ".join(names), "temperature": self.system.temperature}
        if f.ndim == 1:
            return Profile(edges, f - np.nanmin(f), nothing, share, **about)
        # The first variable varies fastest in OpenMM's tables, and is the last axis.
        return Surface(edges, edges, f.T - np.nanmin(f), nothing, share.T, **about)

    def _state(self, interval: int, frames: int, table: np.ndarray) -> State:
        kernels = {key: torch.as_tensor(np.asarray(value)) for key, value in self.sampler.getState().items()}
        context = torch.frombuffer(bytearray(self.simulation.context.createCheckpoint()), dtype=torch.uint8)
        held = torch.as_tensor(np.array(table, dtype=np.float64))
        return {"interval": interval, "frames": frames, "context": context, "kernels": kernels, "table": held}

    def _restore(self, state: State) -> None:
        """Put the Context and the kernels where the state was."""
        context = self.simulation.context
        self.sampler.setState({key: value.numpy() for key, value in state["kernels"].items()})
        sizes = [GRID] * len(self.torsions) if len(self.torsions) > 1 else []
        limits = [-np.pi, np.pi] * len(self.torsions)
        self.bias.getTabulatedFunction(0).setFunctionParameters(*sizes, state["table"].numpy(), *limits)
        self.bias.updateParametersInContext(context)
        load_checkpoint(context, state["context"].numpy().tobytes(), "the run's folder")
        self._at = state["interval"]


def _variable(atoms: tuple[int, ...], width: float) -> app.BiasVariable:
    force = openmm.CustomTorsionForce("theta")
    force.addTorsion(*atoms, [])
    return app.BiasVariable(force, -np.pi, np.pi, width, True, GRID)
