"""Files that are whole or not there: written beside their place, flushed, then renamed into it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def write_atomically(path: str | Path, write: Callable[[IO[Any]], object], mode: str = "wb") -> Path:
    """Call `write(file)` on a temporary file and move it to `path`; on any error the old file stays as it was.

    Raises
    ------
    OSError
        If the folder cannot be written or the disk is full; a note names the file that was to be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")  # not by tempfile: others may read the result
    try:
        with open(temporary, mode) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        error.add_note(f"{path} was not written.")
        raise
    return path
