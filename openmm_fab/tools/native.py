"""C source compiled into a library, once a machine: loops that become the processor's vector instructions.

The sources hold no constant of a molecule, and include nothing but the C library's headers, so that compiling takes a
second or two. Libraries are kept in the user's cache folder, by source, compiler and processor, and are loaded from
there the next time. Calls release Python's lock: `in_threads` shares a batch out among as many threads as PyTorch uses.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .activity import doing
from .errors import OpenMMFabError
from .warn import warn

LANES = 16  # structures that are worked on side by side
ALIGNED = 64  # bytes; of work space
TIME_LIMIT = 120.0  # s, for a compiler
CHUNK = 4 * LANES  # least structures a thread

# Arithmetic stays IEEE's, infinities and NaN included; left out is what nobody looks at (errno, traps, the sign of 0)
# and keeps a compiler from vectorising.
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-w")
# What is tried, the best first: the vector functions of glibc's libmvec; this processor's instructions; neither.
ATTEMPTS = (("-march=native", "-DVECTOR_MATH", "-lmvec"), ("-march=native",), ("-mcpu=native",), ())


class NotCompiledError(OpenMMFabError, RuntimeError):
    """There is no C compiler, or compilation failed; the message says which."""


def compiler() -> str | None:
    """Command of the C compiler: the variable CC, else the first of cc, gcc and clang; None without one.

    With OPENMM_FAB_NATIVE=0 in the environment there is none, and all is PyTorch's.
    """
    if os.environ.get("OPENMM_FAB_NATIVE") == "0":
        return None
    named = os.environ.get("CC")
    if named and shutil.which(shlex.split(named)[0]):
        return named
    return next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def cache_folder() -> Path:
    """Folder of compiled libraries: $XDG_CACHE_HOME/openmm_fab, or ~/.cache/openmm_fab."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openmm_fab"


def cache_fault() -> str:
    """Why compiled libraries cannot be kept in the cache folder, which is created if needed; "" if they can."""
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        return str(error)
    if (hasattr(os, "getuid") and state.st_uid != os.getuid()) or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write in {folder}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is read-only"


def try_compiler() -> str:
    """Compile and load a small library, which is not kept, and return the compiler's command.

    Raises
    ------
    NotCompiledError
    """
    command = _command()
    with tempfile.TemporaryDirectory(dir=None if cache_fault() else cache_folder(), prefix="building-") as folder:
        _compile(shlex.split(command), "void nothing(void) {}", (), Path(folder) / "trial.so")
    return command


def library(source: str, functions: Mapping[str, Sequence[type]], *definitions: str) -> ctypes.CDLL:
    """Load a compiled library of the source; it is compiled first if the cache does not hold it.

    Parameters
    ----------
    source : str
        C, with LANES and, where vector functions of the C library may be called, VECTOR_MATH defined for it.
    functions : mapping of str to sequence of ctypes types
        Names of functions that return nothing, and the types of their arguments.
    *definitions : str
        More macros, such as "SINGLE".

    Raises
    ------
    NotCompiledError
    """
    found = _compiled(source, definitions)
    for name, arguments in functions.items():
        function = getattr(found, name)
        function.argtypes, function.restype = list(arguments), None
    return found


@cache
def _compiled(source: str, definitions: tuple[str, ...]) -> ctypes.CDLL:
    command = _command()
    about = "\0".join([source, *definitions, *FLAGS, str(LANES), _version(command), _processor()])
    path = _folder() / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.so"
    if not path.exists():
        with doing("compiling C, a few seconds", "code"):
            _compile(shlex.split(command), source, definitions, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise NotCompiledError(f"Expected a library that can be loaded; {path} cannot: {error}.") from error


def _command() -> str:
    command = compiler()
    if command is None:
        raise NotCompiledError(
            "Expected a C compiler; found none of $CC, cc, gcc and clang (or OPENMM_FAB_NATIVE is 0). Install "
            "one (apt-get install gcc, conda install c-compiler, or xcode-select --install): calculations are several "
            "times faster with it."
        )
    return command


def _compile(command: Sequence[str], source: str, definitions: Sequence[str], path: Path) -> None:
    said = ""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="building-") as folder:
        text, built = Path(folder) / "source.c", Path(folder) / "library.so"
        text.write_text(source, encoding="utf-8")
        macros = [f"-D{name}" for name in (f"LANES={LANES}", *definitions)]
        for attempt in ATTEMPTS:
            options = [flag for flag in attempt if not flag.startswith("-l")]
            links = [flag for flag in attempt if flag.startswith("-l")]
            line = [*command, *FLAGS, *options, *macros, str(text), "-o", str(built), *links, "-lm"]
            try:
                done = subprocess.run(line, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
                said = done.stderr.strip() or f"exit code {done.returncode}"
                if done.returncode == 0:
                    ctypes.CDLL(str(built))  # a vector function that the C library lacks shows here
                    os.replace(built, path)  # whole or not there, whoever else compiles the same
                    return
            except (OSError, subprocess.TimeoutExpired) as error:
                said = str(error)
    raise NotCompiledError(f"Expected {command[0]} to compile C; it says: {said.splitlines()[-1] if said else ''}")


@cache
def _folder() -> Path:
    """The cache folder if it is this user's alone, as what lies there is run; else one of this process."""
    reason = cache_fault()
    if not reason:
        return cache_folder()
    warn(f"Compiled code is not kept: {reason}. It is compiled in every process.")
    return Path(_own_folder.name)


_own_folder = tempfile.TemporaryDirectory(prefix="openmm_fab-")


@cache
def _version(command: str) -> str:
    line = [*shlex.split(command), "--version"]
    try:
        return subprocess.run(line, capture_output=True, text=True, timeout=TIME_LIMIT, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return command


@cache
def _processor() -> str:
    """The processor and its instruction sets: a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"


def work_space(numbers: int) -> Tensor:
    """Aligned float64 tensor used as work space of a call."""
    whole = torch.empty(numbers + ALIGNED // 8, dtype=torch.float64)
    return whole[(-whole.data_ptr() % ALIGNED) // 8 :]


def in_threads(call: Callable[[int, int], None], n: int) -> None:
    """Call call(start, stop) for pieces of a batch of n, in as many threads as PyTorch uses if the batch is large
    enough."""
    threads = min(torch.get_num_threads(), n // CHUNK)
    if threads <= 1:
        call(0, n)
        return
    blocks = -(-n // LANES)
    cuts = [min(n, LANES * (blocks * k // threads)) for k in range(threads + 1)]
    list(_pool(torch.get_num_threads()).map(call, cuts[:-1], cuts[1:]))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "native")
