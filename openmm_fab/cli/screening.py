"""A list of small molecules, each run by a process of its own: jobs, their order, and the rows they leave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

ROW, OPTIONS = "row.json", "options.json"
ONE_PERCENT = 0.01
CONFORMERS = 100


@dataclass(frozen=True)
class Job:
    """Run of one molecule of a screen: its options, folder and budget.

    Parameters
    ----------
    name : str
        Of its run, unique in the list.
    molecule : sequence of str
        Of the command line: "--smiles" and a SMILES string, or an SDF file.
    options : sequence of str
        Of `openmm-fab run`.
    folder : str
        That the runs are kept in.
    minutes : float
        Of training.
    threads : int
    """

    name: str
    molecule: tuple[str, ...]
    options: tuple[str, ...]
    folder: str
    minutes: float
    threads: int


@dataclass(frozen=True)
class Row:
    """Results of one molecule of a screen, or why it has none.

    Parameters
    ----------
    name : str
    status : str
        "done", or the last line that the run said.
    atoms : int
    ess, khat : float
        Of the weights.
    conformers : int
        Torsional basins above 1 % of the weight.
    first, first_error : float
        Population of the most populated one.
    seconds : float
        That the run took, all told, the last time.
    minutes : float
        Of training that were asked for.
    """

    name: str
    status: str
    atoms: int = 0
    ess: float = 0.0
    khat: float = 0.0
    conformers: int = 0
    first: float = 0.0
    first_error: float = 0.0
    seconds: float = 0.0
    minutes: float = 0.0


COLUMNS = tuple(field.name for field in fields(Row))


def molecules_of(path: Path, folder: Path) -> dict[str, tuple[str, ...]]:
    """The molecules of a .smi or .sdf file by name, as arguments of `openmm-fab run`.

    A line of a .smi file is a SMILES string and, after blanks, a name; empty lines and those that begin with # are
    passed over. Records of an SDF file are copied into `folder`. Names that repeat, and empty ones, get numbers.

    Raises
    ------
    FileNotFoundError
    ValueError
        Another suffix; no molecule.
    """
    from ..molecule.ligand import SUFFIXES, sdf_records
    from ..molecule.ligand_folder import file_name

    if not path.is_file():
        raise FileNotFoundError(f"Expected a list of molecules at {path}; there is none.")
    found: dict[str, tuple[str, ...]] = {}

    def free(title: str) -> str:
        wanted = name = file_name(title or f"{path.stem}-{len(found) + 1}")
        count = 1
        while name.lower() in {taken.lower() for taken in found}:
            count += 1
            name = f"{wanted}-{count}"
        return name

    if path.suffix.lower() in SUFFIXES:
        for title, text in sdf_records(path):
            name = free(title)
            copy = folder / "input" / f"{name}.sdf"
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists() or copy.read_text(encoding="utf-8") != f"{text}$$$$\n":
                copy.write_text(f"{text}$$$$\n", encoding="utf-8")
            found[name] = (str(copy),)
    elif path.suffix.lower() in (".smi", ".smiles", ".txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            smiles, _, title = line.strip().partition(" ") if "\t" not in line else line.strip().partition("\t")
            if smiles and not smiles.startswith("#"):
                found[free(title)] = ("--smiles", smiles)
    else:
        raise ValueError(f"Expected a list of molecules as .smi or .sdf; got {path.name!r}.")
    if not found:
        raise ValueError(f"Expected molecules in {path}; there is none.")
    return found


def keep_options(folder: Path, options: Sequence[str]) -> None:
    """Write the options that a folder's runs have in common; a ValueError where it has others already."""
    path = folder / OPTIONS
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists() and (known := json.loads(path.read_text(encoding="utf-8"))) != list(options):
        raise ValueError(
            f"Expected the options that {folder} was begun with, {' '.join(known) or 'none'}; got "
            f"{' '.join(options) or 'none'}. Name another folder with --folder; only minutes and workers may change."
        )
    path.write_text(json.dumps(list(options)), encoding="utf-8")


def run_job(job: Job) -> Row:
    """Run a molecule, or go on with it, in a process of its own; one that is done already is left alone."""
    folder = Path(job.folder) / job.name
    known = row_of(folder)
    if known is not None and known.status == "done" and known.minutes >= job.minutes:
        return known
    started = time.perf_counter()
    resumed = any((folder / file).exists() for file in ("checkpoint.pt", "checkpoint.previous.pt"))
    if folder.exists() and not resumed:
        shutil.rmtree(folder)  # it never came to a checkpoint
    command = [sys.executable, "-m", "openmm_fab", "run", *job.molecule, "--name", job.name, "--runs", job.folder]
    command += ["--minutes", f"{job.minutes:g}", *job.options, *(["--resume"] if resumed else [])]
    logs = Path(job.folder) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{job.name}.txt"
    threads = {"OMP_NUM_THREADS": str(job.threads), "MKL_NUM_THREADS": str(job.threads)}
    with open(log, "w", encoding="utf-8") as said:
        done = subprocess.run(
            command, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, **threads}, check=False
        )
    seconds = time.perf_counter() - started
    if done.returncode:
        row = Row(job.name, last_line(log) or f"exit code {done.returncode}", seconds=seconds, minutes=job.minutes)
    else:
        row = summary(job, folder, seconds)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ROW).write_text(json.dumps(asdict(row), indent=2), encoding="utf-8")
    return row


def summary(job: Job, folder: Path, seconds: float) -> Row:
    """The row of a finished run."""
    from ..ensemble.ensemble import Ensemble

    ensemble = Ensemble.load(folder / "ensemble.npz")
    conformers = ensemble.conformers(CONFORMERS)
    first = conformers[0].population
    return Row(
        job.name,
        "done",
        ensemble.topology.n_atoms,
        ensemble.ess,
        ensemble.khat,
        sum(float(one.population.value) >= ONE_PERCENT for one in conformers),
        float(first.value),
        float(first.error),
        seconds,
        job.minutes,
    )


def row_of(folder: Path) -> Row | None:
    """The row that a run has left; None without one, or where it cannot be read."""
    try:
        return Row(**json.loads((folder / ROW).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def last_line(log: Path) -> str:
    """The last line of a log that is not blank, or all from the one on in which openmm-fab says what is wrong."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    told = [k for k, line in enumerate(lines) if line.startswith("openmm-fab: ") and "warning:" not in line]
    last = lines[told[-1] :] if told else lines[-1:]
    return " ".join(last).removeprefix("openmm-fab: ")[:500]


def rows_by_threads(jobs: Sequence[Job], workers: int, run: Callable[[Job], Row] = run_job) -> Iterator[Row]:
    """Rows as they come, so many molecules at a time on this machine."""
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(run, job) for job in jobs]
        try:
            for one in as_completed(waiting):
                yield one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def rows_by_dask(jobs: Sequence[Job], client: Any, run: Callable[[Job], Row] = run_job) -> Iterator[Row]:
    """Rows as they come from the workers of a Dask cluster, which see the folder of the runs, too.

    The job of a worker that dies is run by another one, which goes on at the last checkpoint.

    Parameters
    ----------
    client : distributed.Client
    """
    from distributed import as_completed as dask_completed

    waiting = {client.submit(run, job, pure=False): job for job in jobs}
    for future in dask_completed(waiting):
        if future.status == "error":
            yield Row(waiting[future].name, f"{type(future.exception()).__name__}: {future.exception()}"[:500])
        else:
            yield future.result()


def client_of(address: str) -> Any:
    """A client of the Dask scheduler at an address, tcp://host:8786."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("--scheduler needs Dask: pip install distributed.") from error
    return Client(address)


def table(rows: Sequence[Row]) -> str:
    """Rows as comma-separated values, a heading first."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        shown = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in asdict(row).items()}
        writer.writerow(shown)
    return text.getvalue()
