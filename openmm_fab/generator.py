"""BoltzmannGenerator: the one object of a notebook. It joins a molecule's energy, its coordinates and a flow."""

from __future__ import annotations

import json
import math
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from .ais import AISSettings
from .coordinates import CoordinateSettings, InternalCoordinates
from .energy import CompiledEnergy, OpenMMEnergy, check, reduced_energy, regularize
from .ensemble import Ensemble
from .files import write_atomically
from .flow import CouplingFlow, FlowSettings
from .free_energy import basin_difference
from .memory import keep_freed_memory
from .system import MolecularSystem
from .target import BoltzmannTarget
from .train import Budget, Trainer, TrainSettings

MODEL_FORMAT = "openmm_fab model 2"
CHECKPOINT_EVERY = 120.0  # s
CHECK_JIGGLE = 0.01  # nm
OUTSIDE = 0.01  # share of annealed weight beyond the splines' range that is worth a warning
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
    coordinates : InternalCoordinates, optional
        By default made from the system.

    Raises
    ------
    DisagreementError
        If OpenMM's forces were translated and the translation differs from OpenMM on a few structures.
    """

    def __init__(
        self,
        system: MolecularSystem,
        settings: GeneratorSettings | None = None,
        seed: int = 0,
        energy: Callable[[Tensor], Tensor] | None = None,
        coordinates: InternalCoordinates | None = None,
    ) -> None:
        keep_freed_memory()
        self.system, self.settings, self.seed = system, settings or GeneratorSettings(), seed
        self.energy = _checked_energy(system) if energy is None else energy
        # Differences of gradients want float64, which OpenMM's fast platforms do not have.
        exact = self.energy if isinstance(self.energy, CompiledEnergy) else None
        self.coordinates = coordinates or InternalCoordinates.from_system(system, self.settings.coordinates, exact)
        self._random = torch.Generator().manual_seed(seed)
        self.flow = CouplingFlow(self.coordinates.periodic, self.settings.flow, self._random)
        minimum = torch.as_tensor(system.minimum)[None]
        cut = float(self.energy(minimum)) + self.settings.energy_cut
        self.target = BoltzmannTarget(self.energy, self.coordinates, partial(regularize, cut=cut))

    def train(
        self,
        budget: str | float | Budget = "20 min",
        folder: str | Path | None = None,
        resume: bool = False,
        progress: bool = True,
        compile: bool = True,
        evaluate_every: float = 60.0,
        evaluate_samples: int = 4096,
    ) -> list[Metrics]:
        """Train by FAB on the energy, without any MD data.

        Parameters
        ----------
        budget : str, float (minutes) or Budget
            "20 min", "90 s", "2 h"; all time counts, compilation included.
        folder : path, optional
            Metrics (JSON lines; TensorBoard files if it is installed) and a checkpoint are kept here.
        resume : bool
            Go on from the checkpoint in `folder`, if there is one.
        compile : bool
            Fuse the flow and a translated energy with `torch.compile`; without a C++ compiler training goes on
            unfused, with a warning.
        evaluate_every : float, s
            How often `evaluate` is called on `evaluate_samples` samples; its time counts too.

        Returns
        -------
        list of dict
            Metrics of every iteration; see `Trainer` and `evaluate`. Where the latter is called, also
            annealed_outside: share of the annealed structures' weight beyond the range of the splines.

        Raises
        ------
        KeyboardInterrupt
            Passed on after the checkpoint is written; the generator keeps what it has learned.
        """
        from .progress import RunLog, TrainingBar

        started = time.perf_counter()
        budget = parse_budget(budget)
        if compile:
            self._compile()
        trainer = Trainer(self.flow, self.target, budget, self.settings.train, self._random)
        checkpoint = None if folder is None else Path(folder) / "checkpoint.pt"
        if resume and checkpoint is not None and checkpoint.exists():
            trainer.load(checkpoint)
            started -= trainer.seconds
        history: list[Metrics] = []
        evaluated = saved = time.perf_counter()
        with RunLog(folder, resume) as log, TrainingBar(trainer, progress) as bar:
            try:
                for info in trainer:
                    now = time.perf_counter()
                    trainer.seconds = now - started  # the clock on the wall: all of it counts
                    if now - evaluated > evaluate_every or trainer.spent >= 1:
                        info |= self.evaluate(evaluate_samples)
                        info["annealed_outside"] = self._annealed_outside(trainer)
                        evaluated = time.perf_counter()
                        trainer.seconds = evaluated - started
                    info |= {"seconds": trainer.seconds, "spent": trainer.spent}
                    history.append(info)
                    log.write(info)
                    bar.update(info)
                    if checkpoint is not None and now - saved > CHECKPOINT_EVERY:
                        trainer.save(checkpoint)
                        saved = time.perf_counter()
            finally:
                if checkpoint is not None:
                    trainer.save(checkpoint)
        outside = next((m["annealed_outside"] for m in reversed(history) if "annealed_outside" in m), 0.0)
        if outside > OUTSIDE:
            warnings.warn(
                f"{100 * outside:.2g} % of the weight of annealed structures lies beyond the splines' range, where the "
                "flow cannot follow the energy. Raise CoordinateSettings.inflate, or give coordinates made from a "
                "trajectory.",
                stacklevel=2,
            )
        return history

    @torch.no_grad()
    def sample(self, n: int, seed: int | None = None, name: str = "flow", progress: bool = False) -> Ensemble:
        """n structures with importance weights towards the Boltzmann distribution of the true energy.

        Positions and energies are float64; a structure whose energy is not finite has weight zero and is counted.
        Atoms that are equal by `CoordinateSettings.symmetry` stand under labels drawn at random, as in MD.
        """
        from .progress import bar

        if n < 1:
            raise ValueError(f"Expected n >= 1 samples; got {n}.")
        random = torch.Generator().manual_seed(self.seed + 1 if seed is None else seed)
        size = self.settings.train.batch
        parts: list[tuple[Tensor, ...]] = []
        for _ in bar(range(math.ceil(n / size)), "sampling", progress):
            z, log_q = self.flow.sample(size, random)
            if not torch.isfinite(log_q).all():
                raise FloatingPointError("Expected finite densities of the flow's own samples; the flow is broken.")
            x, log_det = self.coordinates.to_cartesian(z.double())
            parts.append((self.coordinates.relabelled(x, random), self.energy(x), log_det, log_q.double()))
        x, u, log_det, log_q = (torch.cat(column)[:n] for column in zip(*parts, strict=True))
        log_w = log_det - u - log_q
        invalid = ~torch.isfinite(log_w)
        log_w[invalid] = -torch.inf
        return Ensemble(
            x=x.numpy(),
            u=u.numpy(),
            log_w=log_w.numpy(),
            topology=self.system.md_topology,
            temperature=self.system.temperature,
            name=name,
            invalid=int(invalid.sum()),
            log_q=(log_q - log_det).numpy(),
        )

    @torch.no_grad()
    def log_prob(self, x: Tensor | np.ndarray) -> Tensor:
        """log q(x) (n,) of structures x (n, n_atoms, 3) in nm: the flow's density over shapes, float64.

        Per nm^(3 n_atoms - 6), without the volume and the 8 pi^2 of overall motion; all labels of equal atoms have
        the same. A sample's log weight is -u(x) - log q(x).
        """
        parts = [torch.zeros(0, dtype=torch.float64)]
        for part in torch.as_tensor(x, dtype=torch.float64).split(self.settings.train.batch) if len(x) else []:
            z, log_det = self.coordinates.to_internal(part)
            parts.append(self.flow.log_prob(z.to(next(self.flow.parameters()))).double() + log_det)
        return torch.cat(parts)

    def evaluate(self, n: int = 4096) -> Metrics:
        """How good the flow is now, on n samples and the true energy.

        Returns
        -------
        dict
            ess, ess_clipped (shares; raw, and with the largest 1e-4 of the weights clipped), khat, log_z, outside and
            outside_weight (shares of samples and of weight beyond the splines' range), and where there is a phi
            torsion basin_df and basin_df_error (kT, see `free_energy.basin_difference`).
        """
        ensemble = self.sample(n, seed=self.seed + 7)
        outside, outside_weight = self.outside_range(ensemble)
        metrics = {
            "ess": ensemble.ess_fraction,
            "ess_clipped": ensemble.ess_clipped / n,
            "khat": ensemble.khat,
            "log_z": float(ensemble.log_z.value),
            "outside": outside,
            "outside_weight": outside_weight,
        }
        if ensemble.phi().shape[1]:
            basin = basin_difference(ensemble)
            metrics |= {"basin_df": basin.value, "basin_df_error": basin.error}
        return metrics

    def outside_range(self, ensemble: Ensemble) -> tuple[float, float]:
        """Shares of samples and of weight with a stiff coordinate beyond the range of the splines."""
        z, _ = self.coordinates.to_internal(torch.as_tensor(ensemble.x, dtype=torch.float64))
        outside = (z[:, : self.coordinates.n_stiff].abs() > self.settings.flow.bound).any(1).numpy()
        return float(outside.mean()), float(np.sum(ensemble.weights[outside]))

    def _annealed_outside(self, trainer: Trainer) -> float:
        """Share of the replay buffer's weight with a stiff coordinate beyond the range of the splines."""
        outside = (trainer.buffer.z[:, : self.coordinates.n_stiff].abs() > self.settings.flow.bound).any(1)
        return float(torch.softmax(trainer.buffer.log_w, 0)[outside].sum())

    def save(self, path: str | Path) -> Path:
        """Write the model (.safetensors): flow, coordinates, settings, and the molecule's fingerprint."""
        tensors = {f"flow.{k}": v for k, v in self.flow.state_dict().items()}
        tensors |= {f"coordinates.{k}": v for k, v in self.coordinates.to_tensors().items()}
        header = {
            "format": MODEL_FORMAT,
            "settings": json.dumps(asdict(self.settings)),
            "system": self.system.name,
            "fingerprint": self.system.fingerprint,
            "seed": str(self.seed),
        }
        data = to_safetensors({k: v.contiguous() for k, v in tensors.items()}, header)
        return write_atomically(path, lambda file: file.write(data))

    @classmethod
    def load(cls, path: str | Path, system: MolecularSystem) -> BoltzmannGenerator:
        """Read a model written by `save` for the same molecule.

        Raises
        ------
        ValueError
            If the file is no model, or was trained for another molecule, force field or temperature.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                header, tensors = file.metadata() or {}, {k: file.get_tensor(k) for k in file.keys()}
        except SafetensorError as error:
            raise ValueError(f"Expected a model file written by BoltzmannGenerator.save at {path}; {error}.") from error
        if header.get("format") != MODEL_FORMAT:
            raise ValueError(f"Expected a file of format {MODEL_FORMAT!r} at {path}; got {header.get('format')!r}.")
        if header["fingerprint"] != system.fingerprint:
            raise ValueError(
                f"Expected a model of this molecule, force field and temperature ({system.name}); {path} was trained "
                f"for another one ({header['system']}). Load it with the system it was trained with."
            )
        coordinates = InternalCoordinates.from_tensors(_below("coordinates.", tensors))
        coordinates.system = system
        settings = GeneratorSettings.from_dict(json.loads(header["settings"]))
        generator = cls(system, settings, int(header["seed"]), coordinates=coordinates)
        generator.flow.load_state_dict(_below("flow.", tensors))
        return generator

    def _compile(self) -> None:
        if isinstance(self.energy, CompiledEnergy):
            self.energy.compile()
        self.coordinates.compile()
        try:
            self.flow.compile(self.settings.train.batch)
            self.flow.sample(self.settings.train.batch, torch.Generator())
        except Exception as error:
            self.flow.uncompile()
            warnings.warn(
                f"Training goes on without torch.compile, several times slower: {type(error).__name__}: "
                f"{str(error).strip().splitlines()[0]}. On CPU it needs a C++ compiler (g++ or clang).",
                stacklevel=3,
            )


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _checked_energy(system: MolecularSystem) -> OpenMMEnergy | CompiledEnergy:
    energy = reduced_energy(system)
    if isinstance(energy, CompiledEnergy):
        jiggle = np.random.default_rng(0).normal(scale=CHECK_JIGGLE, size=(4, system.n_atoms, 3))
        check(energy, torch.from_numpy(system.minimum + jiggle))
    return energy


def parse_budget(budget: str | float | Budget) -> Budget:
    """A budget as "20 min", "90 s", "2 h", a number of minutes, or a Budget."""
    if isinstance(budget, Budget):
        return budget
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*(\d*\.?\d+)\s*(s|min|h)\s*", budget)
        if match is None:
            raise ValueError(f'Expected a budget such as "20 min", "90 s" or "2 h"; got {budget!r}.')
        budget = float(match[1]) * {"s": 1 / 60, "min": 1.0, "h": 60.0}[match[2]]
    return Budget(minutes=float(budget))
