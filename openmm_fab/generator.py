"""BoltzmannGenerator: the one object of a notebook. It joins a molecule's energy, its coordinates and a flow."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from .ais import AISSettings, anneal_to_target
from .coordinates import CoordinateSettings, InternalCoordinates
from .devices import checked, stream
from .distributed import Ranks
from .energy import CompiledEnergy, OpenMMEnergy, check, reduced_energy, regularize
from .ensemble import Ensemble
from .files import latest, previous, write_atomically
from .flow import CouplingFlow, FlowSettings
from .free_energy import basin_difference
from .free_energy.differences import ANNEALING
from .memory import Halving, keep_freed_memory
from .objectives import Objective, named
from .path import TrainableFlow
from .stream import StreamedEnsemble, sample_to_file
from .system import MolecularSystem
from .target import BoltzmannTarget, Coordinates
from .train import Budget, Trainer, TrainSettings, parse_budget

MODEL_FORMAT = "openmm_fab model 2"
CHECKPOINT_EVERY = 120.0  # s
CHECK_JIGGLE = 0.01  # nm
OUTSIDE = 0.01  # share of annealed weight beyond the splines' range that is worth a warning
ABOVE = 0.95  # share of annealed structures above the energy cut that is worth a warning
Metrics = dict[str, float]


@dataclass(frozen=True)
class GeneratorSettings:
    """Everything that shapes a generator.

    Attributes
    ----------
    coordinates, flow, train
        Settings of the parts.
    energy_cut : float, kT
        In training, energies higher than this above the minimum count only logarithmically.
    """

    coordinates: CoordinateSettings = field(default_factory=CoordinateSettings)
    flow: FlowSettings = field(default_factory=FlowSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    energy_cut: float = 100.0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GeneratorSettings:
        """The inverse of `dataclasses.asdict`."""
        train = dict(values["train"])
        train["ais"] = AISSettings(**train["ais"])
        return cls(
            CoordinateSettings(**values["coordinates"]),
            FlowSettings(**values["flow"]),
            TrainSettings(**train),
            values["energy_cut"],
        )


class BoltzmannGenerator:
    """A flow that learns to sample a molecule from its energy alone.

    Parameters
    ----------
    system : MolecularSystem
    settings : GeneratorSettings, optional
    seed : int
        Of the flow's first weights, of training, and of `sample` unless it is given its own.
    energy : callable, optional
        x (batch, n_atoms, 3) -> u (batch,); by default `energy.reduced_energy(system)`.
    coordinates : Coordinates, optional
        By default `InternalCoordinates` made from the system.
    flow : TrainableFlow, optional
        Over the coordinates' z, trained in place; by default a `CouplingFlow`. `interop` makes one of what other
        libraries have.
    device : str or torch.device
        Where the flow, the coordinates and a translated energy are evaluated, in training and after: "cpu" or "cuda".
        Ensembles, and what `log_prob` returns, are in the computer's own memory all the same. `coordinates` and `flow`
        that are given must be there already.

    Raises
    ------
    ValueError
        If the flow's samples do not have the coordinates' dimension, or there is no such device.
    DisagreementError
        If OpenMM's forces were translated and the translation differs from OpenMM on a few structures.
    """

    def __init__(
        self,
        system: MolecularSystem,
        settings: GeneratorSettings | None = None,
        seed: int = 0,
        energy: Callable[[Tensor], Tensor] | None = None,
        coordinates: Coordinates | None = None,
        flow: TrainableFlow | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        keep_freed_memory()
        self.device = checked(device)
        self.system, self.settings, self.seed = system, settings or GeneratorSettings(), seed
        self.energy = _checked_energy(system) if energy is None else energy
        # Differences of gradients want float64, which OpenMM's fast platforms do not have.
        exact = self.energy if isinstance(self.energy, CompiledEnergy) else None
        if coordinates is None:
            coordinates = InternalCoordinates.from_system(system, self.settings.coordinates, exact)
        self.coordinates = coordinates.to(self.device) if isinstance(coordinates, InternalCoordinates) else coordinates
        self._random = stream("cpu", seed)
        self._halving = Halving("Sampling")
        if flow is None:  # the same first weights on every device
            flow = CouplingFlow(coordinates.periodic, self.settings.flow, self._random).to(self.device)
        elif (got := tuple(flow.sample(2, stream(self.device, 0))[0].shape)) != (2, coordinates.dim):
            raise ValueError(f"Expected a flow over z (batch, {coordinates.dim}); two of its samples have shape {got}.")
        self.flow = flow
        if self.device.type == "cuda":
            self._random = stream(self.device, seed)
        minimum = torch.as_tensor(system.minimum)[None]
        self._cut = float(self.energy(minimum)) + self.settings.energy_cut
        self.target = BoltzmannTarget(self.energy, self.coordinates, partial(regularize, cut=self._cut))

    def train(
        self,
        budget: str | float | Budget = "20 min",
        folder: str | Path | None = None,
        resume: bool = False,
        progress: bool | Literal["plot"] = True,
        compile: bool = True,
        evaluate_every: float = 60.0,
        evaluate_samples: int = 4096,
        objective: str | Objective = "fab",
        samples: Ensemble | None = None,
    ) -> list[Metrics]:
        """Train by FAB on the energy, without any MD data; or by another objective.

        Parameters
        ----------
        budget : str, float (minutes) or Budget
            "20 min", "90 s", "2 h"; all time counts, compilation included.
        folder : path, optional
            Metrics (JSON lines; TensorBoard files if it is installed) and a checkpoint are kept here.
        resume : bool
            Go on from the checkpoint in `folder`, if there is one; from the one before where the last is damaged.
        progress : bool or "plot"
            A bar; "plot": in a notebook also learning curves and the Ramachandran plot, redrawn as training goes on.
        compile : bool
            Fuse the flow and a translated energy with `torch.compile`; without a C++ compiler training goes on
            unfused, with a warning.
        evaluate_every : float, s
            How often `evaluate` is called on `evaluate_samples` samples; its time counts too.
        objective : str or Objective
            "fab", "fab_no_buffer", "alpha_divergence", "reverse_kl" or "maximum_likelihood"; see `objectives`.
        samples : Ensemble, optional
            What maximum likelihood learns from; drawn from by its weights.

        Returns
        -------
        list of dict
            Metrics of every iteration; see `Trainer` and `evaluate`. Where the latter is called, also
            annealed_outside: share of the annealed structures' weight beyond the range of the splines; and
            annealed_above_cut: share of the annealed structures whose energy lies above the cut.

        Raises
        ------
        DamagedFileError, FormatError, ValueError
            A checkpoint that cannot be used, or of another molecule, other settings or another objective.
        KeyboardInterrupt
            Passed on after the checkpoint is written; the generator keeps what it has learned.
        """
        from .progress import RunLog, TrainingBar

        clock = Ranks().clock
        started = clock()
        budget = parse_budget(budget)
        if compile:
            self.compile()
        chosen = self._objective(objective, samples)
        trainer = Trainer(self.flow, self.target, budget, self.settings.train, self._random, chosen, self._about())
        shown = trainer.ranks.first
        checkpoint = None if folder is None else Path(folder) / "checkpoint.pt"
        if resume and checkpoint is not None and (checkpoint.exists() or previous(checkpoint).exists()):
            latest(checkpoint, trainer.load)
            started -= trainer.seconds
        history: list[Metrics] = []
        evaluated = saved = clock()
        if not trainer.ranks.alone:
            saved = -math.inf  # a first checkpoint at once: a rank may die
        after = trainer.iteration if resume else None
        with (
            RunLog(folder if shown else None, after) as log,
            TrainingBar(trainer, progress if shown else False, self.sample) as bar,
        ):
            try:
                for info in trainer:
                    now = clock()
                    trainer.seconds = now - started  # the clock on the wall: all of it counts
                    if now - evaluated > evaluate_every or trainer.spent >= 1:
                        info |= self.evaluate(evaluate_samples)
                        if self._ranged:
                            info["annealed_outside"] = self._annealed_outside(trainer)
                        if trainer.buffer.size:
                            info["annealed_above_cut"] = self._annealed_above_cut(trainer)
                        evaluated = clock()
                        trainer.seconds = evaluated - started
                    info |= {"seconds": trainer.seconds, "spent": trainer.spent}
                    history.append(info)
                    log.write(info)
                    bar.update(info)
                    if checkpoint is not None and now - saved > CHECKPOINT_EVERY:
                        trainer.save(checkpoint)
                        saved = clock()
            except KeyboardInterrupt:
                if checkpoint is not None:
                    trainer.save(checkpoint)
                raise
            if checkpoint is not None:  # not after an error: the checkpoint that is there may be the better one
                trainer.save(checkpoint)
        if history and history[-1].get("annealed_above_cut", 0.0) > ABOVE:
            warnings.warn(
                f"{100 * history[-1]['annealed_above_cut']:.0f} % of annealed structures have energies above the cut, "
                f"{self.settings.energy_cut:g} kT over the minimum, where they count only logarithmically. Raise "
                f"GeneratorSettings.energy_cut (thermal motion alone takes about {self.coordinates.dim / 2:.0f} kT), "
                "train longer, or check the energy.",
                stacklevel=2,
            )
        outside = next((m["annealed_outside"] for m in reversed(history) if "annealed_outside" in m), 0.0)
        if outside > OUTSIDE:
            warnings.warn(
                f"{100 * outside:.0f} % of the weight of annealed structures lies beyond the splines' range, where the "
                "flow cannot follow the energy. Raise CoordinateSettings.inflate, or give coordinates made from a "
                "trajectory.",
                stacklevel=2,
            )
        return history

    def _objective(self, objective: str | Objective, samples: Ensemble | None) -> Objective:
        if callable(objective):
            return objective
        if samples is None:
            return named(objective)
        drawn = samples.resample(samples.n, seed=self.seed)
        z, _ = self.to_internal(torch.as_tensor(drawn.x, dtype=torch.float64))
        return named(objective, z.to(next(self.flow.parameters())))

    def compile(self) -> None:
        """Fuse flow, coordinates and energy with torch.compile: a minute or two that long sampling pays back.

        Without a C++ compiler everything stays as it is, with a warning.
        """
        if isinstance(self.energy, CompiledEnergy):
            self.energy.compile(self._chunk)
        if isinstance(self.coordinates, InternalCoordinates):
            self.coordinates.compile(self._chunk)
        if not isinstance(self.flow, CouplingFlow):
            return
        try:
            self.flow.compile(self.settings.train.batch)
            self.flow.sample(self.settings.train.batch, stream(self.device, 0))
        except Exception as error:
            self.flow.uncompile()
            warnings.warn(
                f"Goes on without torch.compile, several times slower: {type(error).__name__}: "
                f"{str(error).strip().splitlines()[0]}. On CPU it needs a C++ compiler (g++ or clang).",
                stacklevel=3,
            )

    @overload
    def sample(
        self,
        n: int,
        seed: int | None = ...,
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
        name: str = ...,
        progress: bool = ...,
        refine: None = ...,
        *,
        out: str | Path,
        resume: bool = ...,
    ) -> StreamedEnsemble: ...
    @torch.no_grad()
    def sample(
        self,
        n: int,
        seed: int | None = None,
        name: str = "flow",
        progress: bool = False,
        refine: str | AISSettings | None = None,
        out: str | Path | None = None,
        resume: bool = False,
    ) -> Ensemble | StreamedEnsemble:
        """n structures with importance weights towards the Boltzmann distribution of the true energy.

        Positions and energies are float64; a structure whose energy is not finite has weight zero and is counted.
        Atoms that are equal by `CoordinateSettings.symmetry` stand under labels drawn at random, as in MD.

        Parameters
        ----------
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
        from .progress import bar

        if n < 1:
            raise ValueError(f"Expected n >= 1 samples; got {n}.")
        seed = self.seed + 1 if seed is None else seed
        size, topology = self.settings.train.batch, self.system.md_topology
        if out is not None:
            if refine is not None:
                raise ValueError("Expected out or refine; got both. Refined samples are drawn into memory only.")
            about = {"fingerprint": self.system.fingerprint, "temperature": float(self.system.temperature)}
            about |= {"name": name, "seed": str(seed), "batch": size, "model": self.digest}
            return sample_to_file(out, n, self._draw, topology, about, resume, progress, stream(self.device, seed))
        random = stream(self.device, seed)
        if refine is not None:
            return self._refined(n, random, name, refine)
        parts = [self._draw(random) for _ in bar(range(math.ceil(n / size)), "sampling", progress)]
        x, u, log_w, log_q = (torch.cat(column)[:n].numpy() for column in zip(*parts, strict=True))
        invalid = int((log_w == -np.inf).sum())
        return Ensemble(x, u, log_w, topology, self.system.temperature, name=name, invalid=invalid, log_q=log_q)

    @torch.no_grad()
    def _draw(self, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A batch of x, u, log w and log q(x), in the computer's own memory."""
        parts = self._halving(lambda a, b: self._drawn(b - a, random), self.settings.train.batch, random)
        x, u, log_w, log_q = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
        return x, u, log_w, log_q

    def _drawn(self, n: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z, log_q = self.flow.sample(n, random)
        if not torch.isfinite(log_q).all():
            raise FloatingPointError("Expected finite densities of the flow's own samples; the flow is broken.")
        x, log_det = self.coordinates.to_cartesian(z.double())
        x, u, log_q = self.relabelled(x, random), self.energy(x), log_q.double()
        log_w = log_det - u - log_q
        return x, u, torch.where(torch.isfinite(log_w), log_w, -torch.inf), log_q - log_det

    @property
    def digest(self) -> str:
        """sha256 of the flow's and the coordinates' tensors: are these samples of the same model?"""
        tensors = dict(self.flow.state_dict())
        if isinstance(self.coordinates, InternalCoordinates):
            tensors |= {f"coordinates.{k}": v for k, v in self.coordinates.to_tensors().items()}
        found = hashlib.sha256()
        for key in sorted(tensors):
            found.update(key.encode() + tensors[key].detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def _refined(self, n: int, random: torch.Generator, name: str, refine: str | AISSettings) -> Ensemble:
        settings = ANNEALING if refine == "ais" else refine
        if not isinstance(settings, AISSettings) or settings.resample:
            raise ValueError(
                f'Expected refine="ais", or AISSettings without resampling, after which weights depend on each other; '
                f"got {refine!r}."
            )
        size, target = self.settings.train.batch, BoltzmannTarget(self.energy, self.coordinates)
        with torch.enable_grad():
            points, log_w = anneal_to_target(self.flow, target, n, settings, random, size)
        x = torch.cat([self.coordinates.to_cartesian(z.double())[0] for z in points.z.split(size)])
        u = torch.cat([self.energy(part) for part in x.split(size)])
        return Ensemble(
            x=self.relabelled(x, random).cpu().numpy(),
            u=u.cpu().numpy(),
            log_w=log_w.cpu().numpy(),
            topology=self.system.md_topology,
            temperature=self.system.temperature,
            name=name,
            invalid=int((~torch.isfinite(log_w)).sum()),
        )

    @torch.no_grad()
    def log_prob(self, x: Tensor | np.ndarray) -> Tensor:
        """log q(x) (n,) of structures x (n, n_atoms, 3) in nm: the flow's density over shapes, float64.

        Per nm^(3 n_atoms - 6), without the volume and the 8 pi^2 of overall motion; all labels of equal atoms have
        the same. A sample's log weight is -u(x) - log q(x).
        """
        parts = [torch.zeros(0, dtype=torch.float64)]
        for part in torch.as_tensor(x, dtype=torch.float64).split(self.settings.train.batch) if len(x) else []:
            parts += self._halving(lambda a, b: self._log_prob(part[a:b]), len(part))  # noqa: B023
        return torch.cat(parts)

    @property
    def _chunk(self) -> int | None:
        """Structures in a fused call: on CPU as many as its caches like, on a GPU a whole batch."""
        return None if self.device.type == "cpu" else self.settings.train.batch

    def _log_prob(self, x: Tensor) -> Tensor:
        z, log_det = self.to_internal(x)
        return (self.flow.log_prob(z.to(next(self.flow.parameters()))).double() + log_det).cpu()

    def evaluate(self, n: int = 4096) -> Metrics:
        """How good the flow is now, on n samples and the true energy.

        Returns
        -------
        dict
            ess, ess_clipped (shares; raw, and with the largest 1e-4 of the weights clipped), khat, log_z, outside and
            outside_weight (shares of samples and of weight beyond the splines' range), and where there is a phi
            torsion basin_df and basin_df_error (kT, see `free_energy.basin_difference`). A flow or coordinates of other
            libraries have no such range.
        """
        ensemble = self.sample(n, seed=self.seed + 7)
        metrics = {
            "ess": ensemble.ess_fraction,
            "ess_clipped": ensemble.ess_clipped / n,
            "khat": ensemble.khat,
            "log_z": float(ensemble.log_z.value),
        }
        if self._ranged:
            metrics["outside"], metrics["outside_weight"] = self.outside_range(ensemble)
        if ensemble.phi().shape[1]:
            basin = basin_difference(ensemble)
            metrics |= {"basin_df": basin.value, "basin_df_error": basin.error}
        return metrics

    def outside_range(self, ensemble: Ensemble) -> tuple[float, float]:
        """Shares of samples and of weight with a stiff coordinate beyond the range of the splines."""
        if not isinstance(self.coordinates, InternalCoordinates) or not self._ranged:
            raise TypeError(
                "Expected openmm_fab's own flow and coordinates; those of other libraries have no such range."
            )
        z, _ = self.to_internal(torch.as_tensor(ensemble.x, dtype=torch.float64))
        outside = (z[:, : self.coordinates.n_stiff].abs() > self.settings.flow.bound).any(1).cpu().numpy()
        return float(outside.mean()), float(np.sum(ensemble.weights[outside]))

    def _about(self) -> dict[str, str]:
        """What a checkpoint's numbers belong to, besides the flow."""
        about = {
            "molecule, force field and temperature": self.system.fingerprint,
            "coordinates": json.dumps(asdict(self.settings.coordinates), sort_keys=True),
            "energy cut": repr(self.settings.energy_cut),
        }
        # Random numbers go on as they were, and have other states on other devices.
        return about if self.device.type == "cpu" else about | {"device": self.device.type}

    @torch.no_grad()
    def _annealed_above_cut(self, trainer: Trainer) -> float:
        """Share of the latest samples in the replay buffer with an energy above the cut of training."""
        x, _ = self.coordinates.to_cartesian(trainer.buffer.z[-self.settings.train.batch :].double())
        return float((self.energy(x) > self._cut).double().mean())

    def _annealed_outside(self, trainer: Trainer) -> float:
        """Share of the replay buffer's weight with a stiff coordinate beyond the range of the splines."""
        assert isinstance(self.coordinates, InternalCoordinates)
        outside = (trainer.buffer.z[:, : self.coordinates.n_stiff].abs() > self.settings.flow.bound).any(1)
        return float(torch.softmax(trainer.buffer.log_w, 0)[outside].sum())

    @property
    def _ranged(self) -> bool:
        """Whether flow and coordinates are our own, whose splines have a range to stay within."""
        return isinstance(self.flow, CouplingFlow) and isinstance(self.coordinates, InternalCoordinates)

    def to_internal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (batch, n_atoms, 3) in nm, from any device -> z (batch, dim) and log |dz/dx| (batch,) on the generator's,
        where the coordinates can."""
        if not hasattr(self.coordinates, "to_internal"):
            raise TypeError(f"Expected coordinates with to_internal(x); {type(self.coordinates).__name__} has none.")
        return self.coordinates.to_internal(x.to(self.device))

    def relabelled(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """x with equal atoms under labels drawn at random, where the coordinates keep them in one sector."""
        return self.coordinates.relabelled(x, generator) if isinstance(self.coordinates, InternalCoordinates) else x

    def save(self, path: str | Path) -> Path:
        """Write the model (.safetensors): flow, coordinates, settings, and the molecule's fingerprint.

        Of a flow from another library its tensors are written, of coordinates from another one nothing: `load` asks
        for both.
        """
        tensors = {f"flow.{k}": v for k, v in self.flow.state_dict().items()}
        foreign = [] if isinstance(self.flow, CouplingFlow) else ["flow"]
        if isinstance(self.coordinates, InternalCoordinates):
            tensors |= {f"coordinates.{k}": v for k, v in self.coordinates.to_tensors().items()}
        else:
            foreign.append("coordinates")
        header = {
            "format": MODEL_FORMAT,
            "settings": json.dumps(asdict(self.settings)),
            "system": self.system.name,
            "fingerprint": self.system.fingerprint,
            "seed": str(self.seed),
            "foreign": " ".join(foreign),
        }
        data = to_safetensors({k: v.detach().clone().contiguous() for k, v in tensors.items()}, header)
        return write_atomically(path, lambda file: file.write(data))

    @classmethod
    def load(
        cls,
        path: str | Path,
        system: MolecularSystem,
        coordinates: Coordinates | None = None,
        flow: TrainableFlow | None = None,
        device: str | torch.device = "cpu",
    ) -> BoltzmannGenerator:
        """Read a model written by `save` for the same molecule, on whatever device it was trained.

        Parameters
        ----------
        path, system
        coordinates, flow : optional
            Those of another library that the model was made with, the flow untrained: it gets the weights.
        device : str or torch.device
            As for the class.

        Raises
        ------
        ValueError
            If the file is no model, or was trained for another molecule, force field or temperature, or with another
            flow or coordinates.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                header, tensors = file.metadata() or {}, {k: file.get_tensor(k) for k in file.keys()}
        except SafetensorError as error:
            raise ValueError(f"Expected a model file written by BoltzmannGenerator.save at {path}; {error}.") from error
        if header.get("format") != MODEL_FORMAT:
            raise ValueError(
                f"Expected a file of format {MODEL_FORMAT!r} at {path}; got {header.get('format')!r}. Load it with the "
                "version that wrote it, or train anew."
            )
        if header["fingerprint"] != system.fingerprint:
            raise ValueError(
                f"Expected a model of this molecule, force field and temperature ({system.name}); {path} was trained "
                f"for another one ({header['system']}). Load it with the system it was trained with."
            )
        given = {name for name, part in (("coordinates", coordinates), ("flow", flow)) if part is not None}
        foreign = set(header.get("foreign", "").split())
        if given != foreign:
            raise ValueError(
                f"Expected {sorted(foreign) or 'neither coordinates nor flow'} of another library, as {path} was made "
                f"with; got {sorted(given) or 'none'}. Pass BoltzmannGenerator.load what the model was made with."
            )
        if coordinates is None:
            coordinates = own = InternalCoordinates.from_tensors(_below("coordinates.", tensors))
            own.system = system
        settings = GeneratorSettings.from_dict(json.loads(header["settings"]))
        generator = cls(system, settings, int(header["seed"]), coordinates=coordinates, flow=flow, device=device)
        try:
            generator.flow.load_state_dict(_below("flow.", tensors))
        except RuntimeError as error:
            raise ValueError(f"Expected a flow of the shape that {path} was made with; {error}") from error
        return generator


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _checked_energy(system: MolecularSystem) -> OpenMMEnergy | CompiledEnergy:
    energy = reduced_energy(system)
    if isinstance(energy, CompiledEnergy):
        jiggle = np.random.default_rng(0).normal(scale=CHECK_JIGGLE, size=(4, system.n_atoms, 3))
        check(energy, torch.from_numpy(system.minimum + jiggle))
    return energy
