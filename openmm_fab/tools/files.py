"""Atomic writing of files, and reading that verifies a file before its content is used.

Files are written beside their destination, flushed to disk and renamed; on request the previous file is kept. Nothing
is read with pickle; damaged files, files of another program and those that unpack to more than allowed are refused.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import pickle
import struct
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numpy as np
import torch

from .errors import OpenMMFabError
from .warn import warn

T = TypeVar("T")
MAX_RATIO = 200  # unpacked to packed; more, and above 64 MiB, is a zip bomb
SMALL = 2**26  # bytes
SEAL = b"sha256 "
LEFT_BEHIND = 3600.0  # s; a temporary file older than this belongs to a writer that was killed


class NotWrittenError(OpenMMFabError, OSError):
    """A file could not be written; the file that was at its path is unchanged."""


class DamagedFileError(OpenMMFabError, ValueError):
    """A file is truncated, altered, empty, of another kind, or unpacks to more than allowed."""


class FormatError(OpenMMFabError, ValueError):
    """An intact file of this package in a format that this version does not read."""


def check_format(found: object, expected: object, what: str, path: str | Path, advice: str) -> None:
    """Raise a FormatError unless a file's format is the one that this version reads.

    Parameters
    ----------
    found, expected : int or str
    what : str
        What the file is: "a training checkpoint".
    path
    advice : str
        What to do: one or two sentences.
    """
    if found == expected:
        return
    got = repr(found)
    if isinstance(found, int) and isinstance(expected, int):
        got = f"format {found} of {'an older' if found < expected else 'a newer'} version"
    raise FormatError(f"Expected {what} of format {expected!r} at {path}; got {got}. {advice}")


def write_atomically(
    path: str | Path, write: Callable[[IO[Any]], object], mode: str = "wb", keep_previous: bool = False
) -> Path:
    """Call `write(file)` on a temporary file and move it to `path`; on any error the old file stays as it was.

    Parameters
    ----------
    keep_previous : bool
        The file that was there stays as `previous(path)`.

    Raises
    ------
    NotWrittenError
        If the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")  # not by tempfile: others may read the result
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep_previous and path.exists():
            _keep(path)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise NotWrittenError(
                error.errno,
                f"{error.strerror or error}. {path} was not written; what was there before is untouched. "
                "Free some space or choose a folder that can be written",
            ) from error
        _note(error, f"{path} was not written.")
        raise
    with contextlib.suppress(OSError):
        for other in path.parent.iterdir():
            if other.name.startswith(f".{path.name}.") and time.time() - other.stat().st_mtime > LEFT_BEHIND:
                other.unlink()
    return path


def previous(path: str | Path) -> Path:
    """Path under which the previous version of a file is kept: checkpoint.pt -> checkpoint.previous.pt."""
    path = Path(path)
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def set_aside(path: str | Path) -> None:
    """Rename a file and its previous version, if they exist: checkpoint.pt -> checkpoint.replaced.pt."""
    for old in (Path(path), previous(path)):
        if old.exists():
            os.replace(old, old.with_name(f"{old.stem}.replaced{old.suffix}"))


def _note(error: BaseException, text: str) -> None:
    if hasattr(error, "add_note"):  # from Python 3.11 on
        error.add_note(text)


def _keep(path: Path) -> None:
    """The file at path under the name of the previous one as well; path is never without a file."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        os.link(path, temporary)
        os.replace(temporary, previous(path))
    except OSError:  # a file system without links
        temporary.unlink(missing_ok=True)
        os.replace(path, previous(path))


def _sync(folder: Path) -> None:
    """The new name reaches the disk; where a folder cannot be opened (Windows) it gets there by itself."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def latest(path: str | Path, load: Callable[[Path], T]) -> T:
    """Return `load(path)`, or where that file is missing or damaged that of its previous version, with a warning.

    The damaged file is set aside under another name.

    Raises
    ------
    FileNotFoundError, DamagedFileError
        There is no good one.
    """
    path = Path(path)
    try:
        return load(path)
    except (FileNotFoundError, DamagedFileError) as error:
        if not previous(path).exists():
            raise
        try:
            loaded = load(previous(path))
        except DamagedFileError as other:
            _note(error, f"The one before is of no use either: {other}")
            raise error from None
        if path.exists():
            with contextlib.suppress(OSError):
                os.replace(path, path.with_name(f"{path.stem}.damaged{path.suffix}"))
        warn(f"Goes on from {previous(path)}, the one before: {error}")
        return loaded


# --- torch ---


def save_torch(path: str | Path, state: Any, keep_previous: bool = False) -> Path:
    """Write tensors, numbers, strings, lists and dictionaries of them, in the format that `load_torch` reads."""

    def write(file: IO[bytes]) -> None:
        passing = _Passing(file)
        torch.save(state, cast(IO[bytes], passing))
        if passing.error is not None:
            raise passing.error
        # The archive's comment, whose length its last two bytes say, holds a checksum of all of it: torch's own reader
        # compares none, and gives memory as it finds it where the archive's directory is damaged.
        seal = SEAL + passing.checksum.hexdigest().encode()
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", len(seal)) + seal)

    return write_atomically(path, write, keep_previous=keep_previous)


class _Passing:
    """What torch writes, handed on to a file without a copy in memory, with the checksum of all of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.checksum = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        self.checksum.update(data)
        try:
            if self.error is None:
                self.file.write(data)
        except OSError as error:  # kept: torch makes an error of its own of it, and leaves its archive half closed
            self.error = error
        return len(data)

    def flush(self) -> None:
        """Asked for by torch; the file is flushed by who opened it."""


def load_torch(path: str | Path, what: str) -> Any:
    """Read a file written by `save_torch`; never runs code from the file.

    Parameters
    ----------
    what : str
        What errors call it, such as "a training checkpoint".

    Raises
    ------
    FileNotFoundError, DamagedFileError
    """
    path = _existing(path, what)
    try:
        data = io.BytesIO(_unsealed(path.read_bytes()))
        _check_archive(data)
        return torch.load(data, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:  # torch's own text advises to load it all the same
        raise _damaged(path, what, ValueError("more than tensors, numbers and text, which is not loaded")) from error
    except _UNREADABLE as error:
        raise _damaged(path, what, error) from error


def _unsealed(data: bytes) -> bytes:
    """What `save_torch` sealed, after its checksum was compared; other archives as they are."""
    start = len(data) - len(SEAL) - 64
    if data[max(start, 0) :][: len(SEAL)] != SEAL:
        return data
    archive = data[: start - 2] + b"\0\0"
    if hashlib.sha256(archive).hexdigest().encode() != data[start + len(SEAL) :]:
        raise ValueError("its checksum is wrong")
    return archive


# --- numpy ---


def load_npz(path: str | Path, what: str) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file; object arrays, which are pickles, are refused.

    Raises
    ------
    FileNotFoundError, DamagedFileError
    """
    path = _existing(path, what)
    try:
        with open(path, "rb") as data:
            _check_archive(data, arrays=True)
            with np.load(data, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
    except _UNREADABLE as error:
        raise _damaged(path, what, error) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's beginning
            raise
        raise _damaged(path, what, error) from error


def load_json(path: str | Path, what: str) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises
    ------
    FileNotFoundError, DamagedFileError
    """
    path = _existing(path, what)
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, what, error) from error
    if not isinstance(found, dict):
        raise _damaged(path, what, ValueError(f"a {type(found).__name__} instead of an object"))
    return found


# What zipfile, numpy and torch raise for bytes that are not what they expect.
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError),
    *(NotImplementedError, RuntimeError, MemoryError, OverflowError, SyntaxError, AssertionError),
)


def _existing(path: str | Path, what: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected {what} at {path}; there is none.")
    return path


def _damaged(path: Path, what: str, error: Exception) -> DamagedFileError:
    said = str(error).strip().splitlines()
    return DamagedFileError(
        f"Expected {what} at {path}; the file is truncated, damaged or of another kind ({type(error).__name__}: "
        f"{said[0][:200] if said else 'no details'}). Use a copy, or make it anew."
    )


def _check_archive(file: IO[bytes], arrays: bool = False) -> None:
    """The checksum of every member, after what it says to unpack to; of `arrays` also what their headers say."""
    packed = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > max(SMALL, MAX_RATIO * packed):
            raise ValueError(f"{packed} bytes that say to unpack to {unpacked}")
        # zipfile itself would miss members that a damaged directory swallows.
        file.seek(-22 - len(archive.comment), os.SEEK_END)
        count, length = struct.unpack("<10xH8xH", file.read(22))
        if length != len(archive.comment):
            raise ValueError("its end is missing")
        found = len({member.filename for member in members})
        if found != count:
            raise ValueError(f"{count} members, of which {found} can be found")
        for member in members:
            with archive.open(member) as part:
                if arrays:
                    _check_header(part, member.file_size)
                while part.read(2**20):  # to its end, where its checksum is compared
                    pass
    file.seek(0)


def _check_header(file: IO[bytes], size: int) -> None:
    """An array as large as its file, before anything of that size is allocated."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array file of version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which are pickles")
    count = 1
    for n in shape:
        count *= int(n)
    if min(shape, default=1) < 0 or file.tell() + count * dtype.itemsize != size:
        raise ValueError(f"an array of shape {shape} of {dtype} in {size} bytes")
