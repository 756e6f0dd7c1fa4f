"""Energy, coordinates and flow of one molecule together, and weighted samples of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from ..ais.annealing import AISSettings
from ..coordinates.internal import InternalCoordinates
from ..energy.compiled import CompiledEnergy
from ..energy.regularization import regularize
from ..ensemble.ensemble import Ensemble
from ..ensemble.held import Held, to_json
from ..ensemble.stream import StreamedEnsemble, sample_to_file
from ..flow.base import TrainableFlow, share_outside_circle
from ..flow.conditional import AtTemperature
from ..flow.coupling import CouplingFlow
from ..molecule.system import MolecularSystem
from ..target import BoltzmannTarget, Coordinates, TemperedTarget
from ..tools.activity import doing
from ..tools.adaptive_batch import AdaptiveBatch
from ..tools.devices import checked, stream
from ..tools.fields import whole_number
from ..tools.graphs import Graphs
from ..tools.memory import keep_freed_memory
from ..tools.progress import bar
from ..tools.warn import warn
from . import sampling
from .energies import checked_energy, exact_energy, relaxed
from .holding import held_by
from .parts import digest
from .settings import GeneratorSettings
from .temperatures import at_temperature, log_temperatures, temperatures_in_words
from .temperatures import checked as checked_temperature

CPU_BATCH = 1024
LOOKED_AT = 256  # samples of a flow that is given


class Sampler:
    """Energy, coordinates and flow of one molecule, and weighted samples of them, at one temperature or several.

    `BoltzmannGenerator` has the parameters, and training.
    """

    def __init__(
        self,
        system: MolecularSystem,
        settings: GeneratorSettings | Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        energy: Callable[[Tensor], Tensor] | None = None,
        coordinates: Coordinates | None = None,
        flow: TrainableFlow | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        keep_freed_memory()
        self.device = checked(device)
        self.settings, self.seed = GeneratorSettings.of(settings), seed
        self._history = "untrained"
        self._setup: dict[str, float] = {}  # s, by what took them, since the last training began
        with doing("checking the energy", "energy", self._setup):
            self.energy = checked_energy(system, energy, self.device)
            self.system = system = relaxed(system, self.energy)
        exact = exact_energy(system, self.energy)
        if coordinates is None:
            with doing("making coordinates", "coordinates", self._setup):
                coordinates = InternalCoordinates.from_system(system, self.settings.coordinates, energy=exact)
        self._modes = coordinates.modes if isinstance(coordinates, InternalCoordinates) else ()
        self.coordinates = coordinates.to(self.device) if isinstance(coordinates, InternalCoordinates) else coordinates
        self._adaptive = AdaptiveBatch("Sampling")
        if flow is not None:
            if self.settings.temperatures:
                raise ValueError(
                    "Expected no temperatures with a flow that is given, which knows of none; got "
                    f"{self.settings.temperatures}. Leave out the flow, or the temperatures."
                )
            z, _ = flow.sample(LOOKED_AT, stream(self.device, 0))
            if z.shape != (LOOKED_AT, coordinates.dim):
                raise ValueError(
                    f"Expected a flow over z (batch, {coordinates.dim}); {LOOKED_AT} of its samples have shape "
                    f"{tuple(z.shape)}."
                )
            if share := share_outside_circle(z, coordinates.periodic):
                warn(
                    f"{100 * share:.2g} % of the flow's samples have angles beyond +-pi, where the circle begins anew: "
                    "places that count more than once make weights wrong. Take a flow whose angles stay on the circle.",
                )
        minimum = torch.as_tensor(system.minimum, device="cpu" if energy is None else self.device)[None]
        self._lowest = float(self.energy(minimum))
        self._begin(flow)

    def _begin(self, flow: TrainableFlow | None) -> None:
        """Flow, target and random numbers as the settings say; by default an untrained flow."""
        several, dim = log_temperatures(self.settings.temperatures, self.system.temperature), self.coordinates.dim
        self._rng = stream("cpu", self.seed)
        if flow is None:  # the same first weights on every device
            minima = [m.of_flow() for m in self._modes]
            flow = CouplingFlow(
                self.coordinates.periodic.cpu(),
                self.settings.flow,
                rng=self._rng,
                modes=minima,
                log_temperatures=several,
            ).to(self.device)
        self.flow = flow
        if self.device.type == "cuda":
            self._rng = stream(self.device, self.seed)
        self.cut = (0.0 if several else self._lowest) + dim / 2 + self.settings.energy_cut
        if self.device.type == "cpu":
            with doing("loading C", "code", self._setup):
                self._use_c()
        limited = partial(regularize, cut=self.cut, dim=dim)
        if several:
            self.target: BoltzmannTarget = TemperedTarget(
                self.energy, self.coordinates, several, self._lowest, regularize=limited
            )
        else:
            self.target = BoltzmannTarget(self.energy, self.coordinates, regularize=limited)

    def __repr__(self) -> str:
        flow = self.flow if isinstance(self.flow, CouplingFlow) else type(self.flow).__name__
        parts = f"{self.system!r}, {self.coordinates.dim} coordinates, {flow}, on {self.device}"
        return f"BoltzmannGenerator({parts}; {self._history})"

    def _use_c(self) -> None:
        """On a CPU coordinates and splines are C, as the energy is: compiled in a second, once a machine."""
        for part in (self.coordinates, self.flow):
            if isinstance(part, InternalCoordinates | CouplingFlow):
                part.use_c()

    def compile(self) -> None:
        """Compile flow, coordinates and energy with torch.compile on a GPU, which takes a minute or two and pays off in
        long sampling.

        On a CPU they are C already, and nothing is done.
        """
        self._compile(self.batch)

    def _compile(self, batch: int) -> None:
        """`compile`, with the flow fused for batches of this size."""
        if self.device.type == "cpu":
            return
        if isinstance(self.energy, CompiledEnergy):
            self.energy.compile(self._chunk)
        if isinstance(self.coordinates, InternalCoordinates):
            self.coordinates.compile(self._chunk)
        self.target.graphs = Graphs(self.settings.train.batch) if self._replayable else None
        if not isinstance(self.flow, CouplingFlow):
            return
        try:
            self.flow.compile(batch)
            self.flow.sample(batch, stream(self.device, 0))
        except Exception as error:
            self.flow.uncompile()
            warn(
                f"Goes on without torch.compile, slower: {type(error).__name__}: "
                f"{str(error).strip().splitlines()[0]}. It needs Triton and a C compiler (gcc or clang).",
            )

    @overload
    def sample(
        self,
        n: int,
        seed: int | None = ...,
        *,
        temperature: Any = ...,
        name: str = ...,
        progress: bool = ...,
        refine: str | AISSettings | None = ...,
        out: None = ...,
        resume: bool = ...,
    ) -> Ensemble: ...
    @overload
    def sample(
        self,
        n: int,
        seed: int | None = ...,
        *,
        temperature: Any = ...,
        name: str = ...,
        progress: bool = ...,
        refine: None = ...,
        out: str | Path,
        resume: bool = ...,
    ) -> StreamedEnsemble: ...
    @torch.no_grad()
    def sample(
        self,
        n: int,
        seed: int | None = None,
        *,
        temperature: Any = None,
        name: str = "flow",
        progress: bool = False,
        refine: str | AISSettings | None = None,
        out: str | Path | None = None,
        resume: bool = False,
    ) -> Ensemble | StreamedEnsemble:
        """Draw n structures with importance weights towards the Boltzmann distribution of the true energy.

        Positions and energies are float64; a structure whose energy is not finite has weight zero and is counted.
        Atoms that are equal by `CoordinateSettings.symmetry` stand under labels drawn at random, as in MD.

        Parameters
        ----------
        temperature : float (K), text or Quantity, optional
            The system's own unless given; of a flow of several temperatures any between the lowest and the highest.
            Energies, weights and `log_z` of the ensemble are those of this temperature.
        refine : str or AISSettings, optional
            "ais" anneals the flow's samples to the Boltzmann distribution, with evener weights, for some 25 energies
            and gradients a structure; settings with alpha = 1 and without resampling say how. `log_z` of the ensemble
            is right as ever, but its `log_q` is None: a refined structure is no sample of the flow's density.
        out : path, optional
            Draw into this file (.nc) in bounded memory: the same samples, positions as float32. It is kept when
            sampling is stopped, and read back by `StreamedEnsemble` or `Ensemble.load`; mdtraj reads its structures.
        resume : bool
            Go on with the file until it holds n.
        """
        n = whole_number(n, "n")
        if out is not None and refine is not None:
            raise ValueError("Expected out or refine; got both. Refined samples are drawn into memory only.")
        seed = self.seed + 1 if seed is None else seed
        kelvin = self._checked_temperature(temperature)
        if out is not None:
            return self._sample_to_file(out, n, seed, kelvin, name, progress, resume)
        rng, log_q = stream(self.device, seed), None
        if refine is not None:
            x, u, log_w = sampling.refined(
                *(self.flow_at(kelvin), self.coordinates, self.energy_at(kelvin), n, rng, refine, self.batch, progress)
            )
        else:
            batches = bar(range(math.ceil(n / self.batch)), "sampling", progress, unit="samples", size=self.batch)
            parts = zip(*(self._draw(rng, kelvin) for _ in batches), strict=True)
            x, u, log_w, log_q = (torch.cat(part)[:n] for part in parts)
        return Ensemble(
            x=x.numpy(),
            u=u.numpy(),
            log_w=log_w.numpy(),
            topology=self.system.md_topology,
            temperature=kelvin,
            name=name,
            invalid=int((~torch.isfinite(log_w)).sum()),
            log_q=None if log_q is None else log_q.numpy(),
            held=self.held,
        )

    def _sample_to_file(
        self, path: str | Path, n: int, seed: int, kelvin: float, name: str, progress: bool, resume: bool
    ) -> StreamedEnsemble:
        """`sample` into a file; what is written there besides the structures says which of them may be added later."""
        about = {"fingerprint": self.system.fingerprint, "temperature": kelvin}
        about |= {"name": name, "seed": str(seed), "batch": self.batch, "model": self.digest}
        about |= {} if self.held is None else {"held": to_json(self.held)}
        rng = stream(self.device, seed)
        draw = partial(self._draw, kelvin=kelvin)
        return sample_to_file(path, n, draw, self.system.md_topology, about, resume, progress, rng)

    def _draw(self, rng: torch.Generator, kelvin: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One batch of x, u, log w and log q, see `sampling.draw`."""
        flow, energy = self.flow_at(kelvin), self.energy_at(kelvin)
        return sampling.draw(flow, self.coordinates, energy, self.batch, rng, self._adaptive)

    def _checked_temperature(self, temperature: Any) -> float:
        return checked_temperature(temperature, self.settings.temperatures, self.system.temperature)

    def flow_at(self, temperature: Any = None) -> TrainableFlow | AtTemperature:
        """The flow over z (batch, dim) of the coordinates at a temperature that `sample` would take."""
        return at_temperature(self.flow, self._checked_temperature(temperature), self.system.temperature)

    def energy_at(self, temperature: Any = None) -> Callable[[Tensor], Tensor]:
        """Energy x (n, n_atoms, 3) in nm -> u (n,), in kT of a temperature that `sample` would take."""
        kelvin, own = self._checked_temperature(temperature), float(self.system.temperature)
        if kelvin == own:
            return self.energy
        return lambda x: self.energy(x) * (own / kelvin)

    @property
    def batch(self) -> int:
        """Number of structures that are sampled at once: the batch of training, on a CPU limited to what its memory
        handles fast."""
        batch = self.settings.train.batch
        return min(batch, CPU_BATCH) if self.device.type == "cpu" else batch

    @cached_property
    def held(self) -> tuple[Held, ...] | None:
        """Properties that the coordinates keep fixed from the given structure; None for coordinates of other
        libraries."""
        return held_by(self.coordinates, self.system) if isinstance(self.coordinates, InternalCoordinates) else None

    def turning_in_words(self) -> str:
        """Which torsions turn and what is kept as given; empty with coordinates of other libraries."""
        return self.coordinates.turning_in_words() if isinstance(self.coordinates, InternalCoordinates) else ""

    def temperatures_in_words(self) -> str:
        """Which temperatures the flow is for; empty if for the system's own alone."""
        return temperatures_in_words(self.settings.temperatures, self.system.temperature)

    @property
    def digest(self) -> str:
        """sha256 of the tensors of flow and coordinates, which identifies the model that drew a file of samples."""
        return digest(self.flow, self.coordinates)

    @torch.no_grad()
    def log_prob(self, x: Tensor | np.ndarray, temperature: Any = None) -> Tensor:
        """log q(x) (n,) of structures x (n, n_atoms, 3) in nm: the flow's density over shapes, float64; `temperature`
        as for `sample`.

        Per nm^(3 n_atoms - 6), without the volume and the 8 pi^2 of overall motion; all labels of equal atoms have
        the same. A sample's log weight is -u(x) - log q(x).
        """
        parts, flow = [torch.zeros(0, dtype=torch.float64)], self.flow_at(temperature)
        for part in torch.as_tensor(x, dtype=torch.float64).split(self.batch) if len(x) else []:
            parts += self._adaptive(lambda a, b: self._log_prob(part[a:b], flow), len(part))  # noqa: B023
        return torch.cat(parts)

    @property
    def _replayable(self) -> bool:
        """Whether the target takes the same steps on a GPU, without waiting for it, whatever z is."""
        coordinates, fused = self.coordinates, isinstance(self.energy, CompiledEnergy) and self.energy.fused
        if not isinstance(coordinates, InternalCoordinates) or coordinates.metric is not None:
            return False
        return self.device.type == "cuda" and fused and coordinates.fused

    @property
    def _chunk(self) -> int | None:
        """Structures in a fused call: on CPU as many as its caches like, on a GPU a whole batch."""
        return None if self.device.type == "cpu" else self.settings.train.batch

    def _log_prob(self, x: Tensor, flow: TrainableFlow | AtTemperature) -> Tensor:
        z, log_det = self.to_internal(x)
        return (flow.log_prob(z.to(next(flow.parameters()))).double() + log_det).cpu()

    @property
    def has_spline_range(self) -> bool:
        """Whether flow and coordinates are this package's own, whose splines have a range."""
        return isinstance(self.flow, CouplingFlow) and isinstance(self.coordinates, InternalCoordinates)

    def to_internal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (batch, n_atoms, 3) in nm, from any device -> z (batch, dim) and log |dz/dx| (batch,) on the generator's,
        where the coordinates can."""
        if not hasattr(self.coordinates, "to_internal"):
            raise TypeError(f"Expected coordinates with to_internal(x); {type(self.coordinates).__name__} has none.")
        return self.coordinates.to_internal(x.to(self.device))

    def relabelled(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """x (batch, n_atoms, 3) with equal atoms under labels drawn at random, where the coordinates keep them in one
        sector."""
        return sampling.relabelled(self.coordinates, x, rng)

    def outside_range(self, ensemble: Ensemble) -> tuple[float, float]:
        """Shares of samples and of weight with a stiff coordinate beyond the range of the splines."""
        if not isinstance(self.flow, CouplingFlow) or not self.has_spline_range:
            raise TypeError(
                "Expected openmm_fab's own flow and coordinates; those of other libraries have no such range."
            )
        z, _ = self.to_internal(torch.as_tensor(ensemble.x, dtype=torch.float64))
        outside = (z.abs() > self._reach(ensemble.temperature).to(z)).any(1).cpu().numpy()
        return float(outside.mean()), float(np.sum(ensemble.weights[outside]))

    def _reach(self, temperature: float | None) -> Tensor:
        """Range (dim,) of the splines at a temperature."""
        flow = self.flow_at(temperature)
        assert isinstance(flow, CouplingFlow | AtTemperature)
        return flow.reach
