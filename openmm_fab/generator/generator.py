"""`BoltzmannGenerator`: training of a flow on a molecule's energy, checks of what it learned, and files of models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ..ensemble.audit import Audit
from ..ensemble.ensemble import Ensemble
from ..flow.base import TrainableFlow
from ..flow.coupling import CouplingFlow
from ..molecule.system import MolecularSystem
from ..plots import training_figures
from ..target import Coordinates
from ..tools.activity import doing
from ..tools.devices import stream
from ..tools.metrics import FlowMetrics, TrainingMetrics
from ..tools.progress import History, LivePlot, Ticking
from ..train.buffer import ReplayBuffer
from ..train.distributed import Ranks
from ..train.objectives import Objective
from ..train.settings import Budget, parse_budget, parse_minutes
from ..train.trainer import Trainer
from . import auditing, models, training
from .chains import chain_ensemble
from .evaluation import metrics_of, metrics_of_annealed
from .outcome import Outcome
from .parts import objective_of
from .quantities import Of, Quantities
from .sampler import Sampler
from .temperatures import in_order
from .working import Parts, run_to_error

AUDITED = 10_000  # samples
STARTS = 64  # chains that an audit's missing states start


class BoltzmannGenerator(Sampler):
    """Boltzmann generator: a flow over internal coordinates, trained on a molecule's energy alone.

    Parameters
    ----------
    system : MolecularSystem
    settings : GeneratorSettings or nested dict, optional
        `{"flow": {"hidden": 64}, "train": {"batch": 512}}`: what differs from the defaults.
    seed : int
        Of the flow's first weights, of training, and of `sample` unless it is given its own.
    energy : callable, optional
        x (batch, n_atoms, 3) -> u (batch,), differentiable; by default `energy.reduced_energy(system)`. Of a system
        without forces one that `from_torch`, `from_function` or `from_ase` of `openmm_fab.energy` made.
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
        If the flow's samples do not have the coordinates' dimension, or there is no such device; an energy that
        changes when the molecule is moved.
    DisagreementError
        If OpenMM's forces were translated and the translation differs from OpenMM on a few structures; if the
        gradient of any other energy is not that of the energy there.
    """

    def train(
        self,
        budget: str | float | Budget = "20 min",
        folder: str | Path | None = None,
        *,
        resume: bool = False,
        progress: bool | Literal["plot"] = True,
        temperatures: Sequence[Any] | None = None,
        compile: bool = True,
        evaluate_every: float = 60.0,
        evaluate_samples: int = 4096,
        objective: str | Objective = "auto",
        samples: Ensemble | None = None,
        measure: Callable[[Ensemble], Mapping[str, float]] | None = None,
        report: Callable[[TrainingMetrics], None] | None = None,
        report_every: float | None = None,
        audit: Audit | None = None,
    ) -> History:
        """Train by FAB on the energy, without any MD data; or by another objective.

        Parameters
        ----------
        budget : str, float (minutes) or Budget
            "20 min", "90 s", "2 h" of training, evaluations included. What comes before the first iteration does not
            count, nor does on a GPU the first iteration, which compiles; how long that was, the bar says.
        folder : path, optional
            Metrics (JSON lines; TensorBoard files if it is installed) and a checkpoint are kept here.
        resume : bool
            Go on from the checkpoint in `folder`, if there is one; from the one before where the last is damaged.
        progress : bool or "plot"
            A bar; "plot": in a notebook also learning curves and the Ramachandran plot, redrawn as training goes on.
        temperatures : sequence of float (K), text or Quantity, optional
            Two or more, the system's own within their range: one flow for all of them and those between, from which
            `sample` draws. The energy is the system's at each, and so is what an implicit solvent's salt screens.
            Metrics are those at the system's own. The generator has to be untrained, or to have these in its settings.
        compile : bool
            On a GPU, fuse the flow and a translated energy with `torch.compile`. On a CPU they are C in any case.
        evaluate_every : float, s
            How often `evaluate` is called on `evaluate_samples` samples; its time counts too.
        objective : str or Objective
            "auto" is FAB, begun as `train.start` says where the flow draws torsions first; or "fab", which is FAB from
            the first step as published, "fab_no_buffer", "alpha_divergence", "reverse_kl" or "maximum_likelihood", see
            `train.objectives`.
        samples : Ensemble, optional
            What maximum likelihood learns from; drawn from by its weights. A flow of several temperatures learns it at
            that of the samples.
        measure : callable, optional
            Takes the samples that are evaluated, with their weights, and returns more metrics by name, such as their
            distance from a reference.
        report : callable, optional
            Takes the metrics of an iteration; called between iterations, when training has gone on for a minute and
            each time that this has doubled, but not in the last fifth of the budget. Its time does not count. On
            several ranks the first one calls it.
        report_every : float, s
            Call it at these times instead.
        audit : Audit, optional
            FAB's annealing starts chains in its missing states, too, where they are within the splines' range.

        Returns
        -------
        History
            A sequence of dicts, the `TrainingMetrics` of every iteration; those of `evaluate` where it was called.

        Raises
        ------
        DamagedFileError, FormatError, ValueError
            A checkpoint that cannot be used, or of another molecule, other settings or another objective.
        KeyboardInterrupt
            Passed on after the checkpoint is written; the generator keeps what it has learned.
        """
        budget, ranks = parse_budget(budget), Ranks()
        if temperatures is not None:
            self._change_temperatures(in_order(temperatures))
        setup, self._setup = self._setup, {}
        compiles = compile and self.device.type != "cpu"
        if compiles:
            with Ticking("set-up", bool(progress) and ranks.is_main), doing(training.COMPILING, "code", setup):
                self._compile(self.settings.train.batch)
        chosen = objective_of(objective, self.flow, None if samples is None else lambda: self._internal(samples))
        trainer = Trainer(
            self.flow,
            self.target,
            budget,
            settings=self.settings.train,
            rng=self._rng,
            objective=chosen,
            about=self._about(),
        )
        if audit is not None and len(z := self.starts(audit)):
            own = z.new_zeros(len(z), 1 if self.settings.temperatures else 0)  # log(T / T0)
            trainer.experience.start_from(torch.cat([z, own], 1))

        def annealed(buffer: ReplayBuffer) -> FlowMetrics:
            batch = self.settings.train.batch
            return metrics_of_annealed(buffer, self.flow, self.target, self.cut, batch)

        plot = None
        if progress == "plot" and trainer.ranks.is_main:
            plot = LivePlot(lambda history: training_figures(history, self.sample))
        try:
            return training.run(
                trainer,
                lambda: self.evaluate(evaluate_samples, measure) | annealed(trainer.experience.buffer),
                evaluate_every,
                self.settings.energy_cut,
                setup,
                compiles,
                folder,
                resume,
                bool(progress),
                plot,
                report,
                report_every,
            )
        finally:
            if trainer.iteration:
                self._history = f"trained for {trainer.iteration} iterations"

    def _change_temperatures(self, temperatures: tuple[float, ...]) -> None:
        if temperatures == self.settings.temperatures:
            return
        if self._history != "untrained" or not isinstance(self.flow, CouplingFlow):
            raise ValueError(
                f"Expected an untrained generator with a flow of its own for temperatures {temperatures}; this one is "
                f"{self._history}, for {self.settings.temperatures or self.system.temperature} K. Make a new one."
            )
        self.settings = replace(self.settings, temperatures=temperatures)
        self._begin(None)

    def _internal(self, samples: Ensemble) -> Tensor:
        """Internal coordinates z (n, dim) of samples drawn by their weights, as the flow has them."""
        drawn = samples.resample(samples.n, seed=self.seed)
        z = self.to_internal(torch.as_tensor(drawn.x, dtype=torch.float64))[0]
        if not self.settings.temperatures:
            return z
        kelvin = self._checked_temperature(samples.temperature)
        return torch.cat([z, torch.full_like(z[:, :1], math.log(kelvin / self.system.temperature))], 1)

    def evaluate(self, n: int = 4096, measure: Callable[[Ensemble], Mapping[str, float]] | None = None) -> FlowMetrics:
        """Evaluate the present flow on n samples with the true energy; `measure` as in `train`.

        Returns
        -------
        FlowMetrics
            Without outside and outside_weight for a flow or coordinates of other libraries, whose range is not known;
            basin_df as `free_energy.basin_difference` has it.
        """
        ensemble = self.sample(n, seed=self.seed + 7)
        metrics = metrics_of(ensemble)
        if self.has_spline_range:
            metrics["outside"], metrics["outside_weight"] = self.outside_range(ensemble)
        return metrics if measure is None else cast(FlowMetrics, {**metrics, **measure(ensemble)})

    def audit(
        self, budget: str | float | Budget = "40 s", ensemble: Ensemble | None = None, *, seed: int | None = None
    ) -> Audit:
        """Look for states that the generator should sample and does not; see `generator.auditing`.

        Walkers on the energy in Cartesian space, which see what coordinates exclude, from the ensemble's own structures
        and at 600 K to 2500 K, are quenched, and every minimum is looked up in the ensemble.

        Parameters
        ----------
        budget : str, float (minutes) or Budget
            Of the search at most: it ends when nothing new of low energy turns up.
        ensemble : Ensemble, optional
            What `sample` gave, or MD frames; by default 10,000 samples.
        seed : int, optional
            Of the walkers; that of the generator unless given.

        Returns
        -------
        Audit
            ``ensemble = dataclasses.replace(ensemble, audit=generator.audit(ensemble=ensemble))`` carries it along.
        """
        seed = self.seed if seed is None else seed
        ensemble = self.sample(AUDITED) if ensemble is None else ensemble
        energy = auditing.on_cpu(self.energy, self.system, self.device)
        return auditing.audit(self.system, energy, ensemble, self.held, parse_budget(budget), seed)

    @torch.no_grad()
    def starts(self, audit: Audit) -> Tensor:
        """z (64, dim) of an audit's missing states in turn, where the flow can follow them; none where it cannot."""
        if not audit.missing:
            return torch.zeros(0)
        z, log_det = self.to_internal(torch.tensor([state.x for state in audit.missing], dtype=torch.float64))
        reached = torch.isfinite(log_det)
        if isinstance(self.flow, CouplingFlow) and self.has_spline_range:
            reached &= (z.abs() < self._reach(None).to(z)).all(1)
        z = z[reached]
        return z[torch.arange(STARTS if len(z) else 0) % max(1, len(z))]

    def run(
        self,
        *,
        error: float,
        of: Of = None,
        at_most: str | float = "2 h",
        folder: str | Path | None = None,
        resume: bool = False,
        progress: bool = True,
        compile: bool = True,
        objective: str | Objective = "auto",
        report: Callable[[TrainingMetrics], None] | None = None,
        report_every: float | None = None,
    ) -> Outcome:
        """Train, sample and check until standard errors are below `error`, or the time is over.

        Time is divided between training and sampling by what flows so far were worth, see `generator.planning`. The
        samples of the result are drawn after the decision to stop, their number fixed before, and are checked: k-hat
        and effective samples inside each basin, an estimate of another kind, and an audit. A result that fails a check
        is not believed, whatever its error.

        Parameters
        ----------
        error : float
            kT for free energies of basins, each against all the rest; for observables in their unit.
        of : sequence of names of basins, or mapping of names to callables, optional
            A callable takes an mdtraj.Trajectory and returns bool (n,), frames in a basin, or numbers (n,), an
            observable. By default every well of a torsion, ring or nitrogen that holds more than 0.1 % of the weight.
        at_most : str or float (minutes)
            Of all, but for the making of the generator.
        folder : path, optional
            As in `train`; a run that was interrupted goes on from it, to the same number of samples once that is fixed.
        resume, progress, compile, objective, report, report_every
            As in `train`; `resume` may come with a larger `at_most`.

        Returns
        -------
        Outcome
            `believed`, `reached`, `rows`, `checks`, `ensemble`; printable.

        Raises
        ------
        ValueError
            An error that is not above zero; names of basins that there are not.
        """
        options: dict[str, Any] = {"progress": progress, "compile": compile, "objective": objective}
        options |= {"report": report, "report_every": report_every}
        train, sample = partial(self.train, **options), partial(self.sample, progress=progress)
        parts = Parts(train, sample, self._chains, self.audit, lambda audit: bool(len(self.starts(audit))))
        home = None if folder is None else Path(folder)
        limit = 60.0 * parse_minutes(at_most)
        return run_to_error(parts, error, Quantities(of), limit, home, resume, seed=self.seed, progress=progress)

    def _chains(self, n: int, seed: int) -> Ensemble:
        """n states of Markov chains with proposals of the flow; see `generator.chains`."""
        about = (self.system.md_topology, self.system.temperature)
        return chain_ensemble(self.flow_at(), self.coordinates, self.energy, n, stream(self.device, seed), *about)

    def _about(self) -> dict[str, str]:
        """What a checkpoint's numbers belong to, besides the flow."""
        about = {
            "molecule, force field and temperature": self.system.fingerprint,
            "coordinates": json.dumps(asdict(self.settings.coordinates), sort_keys=True),
            "energy cut": f"{self.settings.energy_cut!r} over dim / 2, then dim times a logarithm",
        }
        if self.settings.temperatures:
            about["temperatures"] = ", ".join(f"{t:g} K" for t in self.settings.temperatures)
        # Random numbers go on as they were, and have other states on other devices.
        return about if self.device.type == "cpu" else about | {"device": self.device.type}

    def save(self, path: str | Path, half: bool = False) -> Path:
        """Write the model (.safetensors): flow, coordinates, settings, and the molecule's fingerprint.

        Of a flow from another library its tensors are written, of coordinates from another one, and of an energy that
        was given, nothing: `load` asks for all of them.

        Parameters
        ----------
        half : bool
            The flow's weights in float16, for a file of half the size. What is loaded is a flow as exact, and nearly
            the same one: see how good it is with `evaluate`.
        """
        fingerprint = self.target.fingerprint
        return models.write(path, self.flow, self.coordinates, self.settings, self.system, self.seed, fingerprint, half)

    @classmethod
    def load(
        cls,
        path: str | Path,
        system: MolecularSystem,
        *,
        coordinates: Coordinates | None = None,
        flow: TrainableFlow | None = None,
        device: str | torch.device = "cpu",
        energy: Callable[[Tensor], Tensor] | None = None,
    ) -> BoltzmannGenerator:
        """Read a model written by `save` for the same molecule, on whatever device it was trained.

        Parameters
        ----------
        path, system
        coordinates, flow : optional
            Those of another library that the model was made with, the flow untrained: it gets the weights.
        device : str or torch.device
            As for the class.
        energy : callable, optional
            That the model was made with, if it is not the system's own.

        Raises
        ------
        ValueError
            If the file is no model, or was trained for another molecule, force field or temperature, or with another
            flow, other coordinates or another energy.
        """
        model = models.read(path, system, coordinates is None, flow is None)
        coordinates = model.coordinates if coordinates is None else coordinates
        generator = cls(
            system,
            model.settings,
            seed=model.seed,
            energy=energy,
            coordinates=coordinates,
            flow=flow,
            device=device,
        )
        model.restore(generator.flow, generator.target)
        generator._history = f"read from {Path(path).name}"
        return generator
