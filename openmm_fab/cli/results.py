"""Files with a run's samples, written early while it trains and at the end."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..tools.warn import warn
from .analysis import finish, metrics_of
from .common import run_settings_of, write

if TYPE_CHECKING:
    from ..ensemble.audit import Audit
    from ..generator.generator import BoltzmannGenerator
    from ..generator.outcome import Outcome
    from ..molecule.system import MolecularSystem
    from ..tools.metrics import TrainingMetrics
    from ..train.settings import Budget


MOST, LEAST = 20_000, 1_000  # samples of an early report
SHARE = 0.03  # of the training time until then, to draw them in


def write_results(
    folder: Path,
    generator: BoltzmannGenerator,
    molecule: MolecularSystem,
    samples: int,
    early: str = "",
    audit: Budget | None = None,
    outcome: Outcome | None = None,
) -> tuple[list[str], Path, Audit | None]:
    """Draw samples, audit them, write ensemble.npz, report.txt and the files of `finish`; returns report.txt's lines,
    the page and the audit.

    Parameters
    ----------
    early : str
        "after 1.0 of 18 minutes of training": the run goes on, and will write all of it again.
    audit : Budget, optional
        Of an audit of the samples; None for none.
    outcome : Outcome, optional
        Of a run until an error, with its samples: no others are drawn.
    """
    from ..ensemble.held import in_full
    from ..report.html import early_in_words
    from ..report.words import training_findings
    from ..tools.activity import doing
    from ..tools.progress import Ticking
    from ..tools.provenance import provenance
    from ..tools.tables import table
    from ..weights import diagnosis
    from .instead import dynamics_instead

    if outcome is not None and outcome.ensemble is not None:
        ensemble = outcome.ensemble
    else:
        with doing("sampling"):
            ensemble = generator.sample(samples, progress=not early)
    if audit is not None:
        with doing("auditing"), Ticking("auditing", show=not early):
            ensemble = replace(ensemble, audit=generator.audit(audit, ensemble))
    with doing("writing the report"), Ticking("writing the report", show=not early):
        ensemble.save(folder / "ensemble.npz")
        outside, outside_weight = generator.outside_range(ensemble)
        lines = [early_in_words(early)] if early else []
        if outcome is not None:
            lines += [outcome.summary(), *map(str, filter(None, [dynamics_instead(outcome, generator)]))]
        lines += [
            repr(molecule),
            repr(ensemble),
            f"{diagnosis(ensemble.log_w)}",
            f"Beyond the splines' range: {100 * outside:.2f} % of samples, {100 * outside_weight:.2f} % of weight",
        ]
        lines += [] if ensemble.held is None else [in_full(ensemble.held)]
        lines += [] if ensemble.audit is None else [ensemble.audit.summary()]
        comparison, page = finish(folder, ensemble, molecule, early=early)
        lines += [] if comparison is None else [comparison.table()]
        lines += map(str, training_findings(metrics_of(folder), audited=ensemble.audit is not None))
        lines += filter(None, [generator.turning_in_words(), generator.temperatures_in_words()])
        made = run_settings_of(folder).get("made_with") or provenance(str(generator.device))
        lines += ["What made this:", table(None, list(made.items()))]
        write(folder / "report.txt", "\n".join(lines) + "\n")
    return lines, page, ensemble.audit


def early_results(
    folder: Path, generator: BoltzmannGenerator, molecule: MolecularSystem, samples: int, minutes: float
) -> Callable[[TrainingMetrics], None]:
    """Function of an iteration's metrics that writes the model and results of fewer samples, marked as early.

    Where that fails it warns, and training goes on.

    Parameters
    ----------
    samples, minutes
        Of the whole run.
    """

    def report(info: TrainingMetrics) -> None:
        early = f"after {info['seconds'] / 60:.1f} of {minutes:g} minutes of training"
        try:
            generator.save(folder / "model.safetensors")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the last report says it
                n = early_samples(generator, samples, info["seconds"])
                write_results(folder, generator, molecule, n, early)
        except Exception as error:
            warn(f"There is no report {early}: {type(error).__name__}: {error}")

    return report


def early_samples(generator: BoltzmannGenerator, samples: int, seconds: float) -> int:
    """Number of samples to draw after some seconds of training, so that drawing takes a small share of that time."""
    started = time.perf_counter()
    generator.sample(generator.batch)
    pace = (time.perf_counter() - started) / generator.batch
    return min(samples, MOST, max(LEAST, int(SHARE * seconds / pace)))


@contextmanager
def last_page(folder: Path) -> Iterator[None]:
    """Context manager after which an early page no longer reloads itself, whatever ended the run."""
    from ..report.html import end_reloading

    try:
        yield
    except BaseException:
        end_reloading(folder / "report.html")
        raise
