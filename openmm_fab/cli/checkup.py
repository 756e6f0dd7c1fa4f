"""openmm-fab doctor: is this machine ready, and what to do where it is not."""

from __future__ import annotations

import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from ..tools.findings import BAD, CARE, GOOD, Finding, worst
from ..tools.install import install
from ..tools.version import VERSION

NEEDED = ("torch", "openmm", "numpy", "scipy", "mdtraj", "matplotlib", "jinja2", "netCDF4")
OPTIONAL = {
    "nglview": ("structures in notebooks and reports", "notebook"),
    "openmmtools": ("replica exchange by openmmtools, the flow as an MCMC move", "md"),
    "pymbar": ("MBAR, correlation times of MD", "md"),
    "pdbfixer": ("missing heavy atoms", "prepare"),
    "tensorboard": ("TensorBoard files of a training", "tensorboard"),
}


def doctor(
    compile: Annotated[
        bool, typer.Option(help="Where there is a GPU, also try torch.compile (up to a minute).")
    ] = True,
) -> None:
    """Look at versions, devices, threads, memory, the C compiler and the energy in C, and say what to do.

    Exit code 1 if anything would keep openmm_fab from working.

    \b
    Examples:
      openmm-fab doctor
      openmm-fab doctor --no-compile
    """
    checks = (_packages, _openmm, _devices, _threads, _memory, _compiler, _energy, *((_fusing,) if compile else ()))
    grades = []
    for check in checks:
        for finding in _looked_at(check):
            typer.echo(str(finding))
            grades.append(finding.grade)
    ends = {
        GOOD: "All is well.",
        CARE: "It will work; the notes say what could be better.",
        BAD: "Not ready: see the lines marked BAD.",
    }
    typer.echo(f"\n{ends[worst(grades)]}")
    if BAD in grades:
        raise typer.Exit(1)


def _looked_at(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that fails is a finding, and the others still run."""
    try:
        yield from check()
    except Exception as error:
        what = check.__name__.strip("_")
        yield _finding(BAD, what, f"{type(error).__name__}: {error}", "Report this, with the lines above.")


def _finding(grade: str, what: str, found: str, advice: str = "") -> Finding:
    return Finding(grade, f"{what}: {found}", advice)


def _packages() -> Iterator[Finding]:
    version = sys.version.split()[0]
    yield _finding(GOOD, "openmm_fab", f"{VERSION}, in {Path(__file__).parents[1]}")
    yield _finding(GOOD, "Python", f"{version}, {sys.executable}")
    for name in NEEDED:
        yield _finding(GOOD, name, metadata.version(name))
    for name, (use, extra) in OPTIONAL.items():
        try:
            yield _finding(GOOD, name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield _finding(CARE, name, "not installed", f"For {use}: {install(extra)}")


def _openmm() -> Iterator[Finding]:
    import openmm

    names = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    yield _finding(GOOD, "OpenMM's platforms", ", ".join(names))
    failures = openmm.Platform.getPluginLoadFailures()
    if failures and shutil.which("nvidia-smi"):
        yield _finding(
            CARE,
            "OpenMM's plugins",
            f"{len(failures)} cannot be loaded: {failures[0].splitlines()[0]}",
            "For energies on the GPU install the OpenMM build for its driver (openmm[cuda12], or by conda).",
        )


def _devices() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield _finding(GOOD, "GPU", f"{', '.join(cards)} (torch {torch.__version__})")
    elif shutil.which("nvidia-smi"):
        cpu = torch.version.cuda is None
        yield _finding(
            CARE,
            "GPU",
            f"there is an NVIDIA driver, but torch {torch.__version__} {'is the CPU build' if cpu else 'sees no GPU'}",
            "Install the CUDA build of PyTorch (pytorch.org says how)."
            if cpu
            else "The driver may be older than this build needs: compare nvidia-smi with torch.version.cuda.",
        )
    else:
        yield _finding(GOOD, "GPU", "none; small molecules train well on CPU")


def _threads() -> Iterator[Finding]:
    import torch

    from ..tools.devices import core_count

    allowed = core_count()
    threads, setting = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    found = f"{threads} of torch, {allowed} cores for this process, OMP_NUM_THREADS={setting or 'not set'}"
    if threads > allowed:
        yield _finding(
            CARE, "threads", found, f"More threads than cores slow each other down: export OMP_NUM_THREADS={allowed}"
        )
    else:
        yield _finding(GOOD, "threads", found)


def _memory() -> Iterator[Finding]:
    from ..tools.memory import keep_freed_memory

    if keep_freed_memory():
        yield _finding(GOOD, "memory", "glibc keeps freed memory while training")
    elif os.environ.get("OPENMM_FAB_KEEP_MEMORY") == "0":
        yield _finding(
            CARE,
            "memory",
            "OPENMM_FAB_KEEP_MEMORY=0 leaves glibc to give freed memory back",
            "Unset it, unless another program needs the memory: big tensors on fresh pages can be many times slower.",
        )
    elif sys.platform.startswith("linux"):
        yield _finding(
            CARE,
            "memory",
            "this C library cannot be told to keep freed memory (only glibc can)",
            "Where training is slow, try a glibc-based Python, or preload jemalloc.",
        )
    else:
        yield _finding(GOOD, "memory", "nothing to set on this system")


def _compiler() -> Iterator[Finding]:
    from ..tools.native import NotCompiledError, cache_fault, cache_folder, compiler, try_compiler

    if os.environ.get("OPENMM_FAB_NATIVE") == "0":
        yield _finding(
            CARE,
            "C compiler",
            "OPENMM_FAB_NATIVE=0 switches C off: a CPU calculates by PyTorch",
            "Unset it: C is several times faster.",
        )
        return
    if compiler() is None:
        yield _finding(
            CARE,
            "C compiler",
            "none of $CC, cc, gcc and clang is here: a CPU calculates by PyTorch",
            "One makes it several times faster: apt install gcc, conda install c-compiler, or xcode-select --install.",
        )
        return
    started = time.perf_counter()
    try:
        command = try_compiler()
    except NotCompiledError as error:
        yield _finding(
            CARE,
            "C compiler",
            f"a CPU calculates by PyTorch. {error}",
            "One that works makes it several times faster: CC=... names it; XDG_CACHE_HOME, where it writes.",
        )
        return
    yield _finding(
        GOOD,
        "C compiler",
        f"{command} works ({time.perf_counter() - started:.1f} s); OPENMM_FAB_NATIVE=0 would do without",
    )
    fault = cache_fault()
    if fault:
        yield _finding(
            CARE,
            "compiled code",
            f"not kept: {fault}",
            "It is compiled in every process, for some seconds. XDG_CACHE_HOME names another folder to keep it below.",
        )
        return
    sizes = [path.stat().st_size for path in cache_folder().glob("*.so")]
    held = f"{len(sizes)} {'library' if len(sizes) == 1 else 'libraries'}, {sum(sizes) / 2**20:.1f} MiB"
    yield _finding(
        GOOD, "compiled code", f"kept in {cache_folder()}, where only you may write: {held}; may be deleted at any time"
    )


def _energy() -> Iterator[Finding]:
    import numpy as np
    import torch

    from ..energy.agreement import DisagreementError
    from ..energy.compiled import CompiledEnergy
    from ..energy.verify import check
    from ..molecule.folders import available_systems
    from ..molecule.system import MolecularSystem

    if "alanine_dipeptide" not in available_systems():
        yield _finding(BAD, "shipped molecules", "alanine_dipeptide is missing", "Install openmm_fab again.")
        return
    system = MolecularSystem.load("alanine_dipeptide")
    energy = CompiledEnergy(system)
    jiggle = np.random.default_rng(0).normal(scale=0.01, size=(256, system.n_atoms, 3))
    x = torch.from_numpy(system.minimum + jiggle)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no C has been said
            check(energy, x[:8])
    except DisagreementError as error:
        yield _finding(
            BAD, "compiled energy", str(error), 'Use reduced_energy(system, backend="openmm"), and report this.'
        )
        return
    energy.value_and_gradient(x)
    started = time.perf_counter()
    energy.value_and_gradient(x)
    each = (time.perf_counter() - started) / len(x)
    yield _finding(
        GOOD,
        "compiled energy",
        f"agrees with OpenMM on alanine_dipeptide; {1e6 * each:.1f} µs a structure, energy and gradient, in "
        f"{energy.how}",
    )


def _fusing() -> Iterator[Finding]:
    import torch

    from ..tools.fusing import fuse

    if not torch.cuda.is_available():  # a CPU has no use for it
        return
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        yield _finding(
            CARE, "torch.compile", "switched off by TORCHDYNAMO_DISABLE=1", "Unset it: fused code is faster."
        )
        return
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fuse(lambda x: [(x.sin() * x).sum(0)], [torch.ones(3, 64, device="cuda")], "A trial function")
    problems = [str(w.message) for w in caught if "is not fused" in str(w.message)]
    if problems:
        advice = (
            "Training on the GPU works without, slower. It needs Triton, which comes with PyTorch, and a C compiler."
        )
        yield _finding(CARE, "torch.compile", problems[0], advice)
    else:
        yield _finding(GOOD, "torch.compile", f"works on the GPU ({time.perf_counter() - started:.0f} s)")
