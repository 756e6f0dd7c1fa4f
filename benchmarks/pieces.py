"""Results of long benchmarks as they come, so that a benchmark goes on where it was stopped: JSON files of cells."""

from __future__ import annotations

import json
from typing import Any

from openmm_fab.tools.files import write_atomically

from .records import HERE, RESULTS

Cell = dict[str, Any]


class Pieces:
    """Cells by key, those of the record first, then those that were measured since.

    Parameters
    ----------
    name : str
        Of the record in results/; the file of what is measured is pieces/NAME.json.
    anew : tuple of str
        Beginnings of keys that are measured anew.
    """

    def __init__(self, name: str, anew: tuple[str, ...] = ()) -> None:
        self.path = HERE / "pieces" / f"{name}.json"
        record = RESULTS / f"{name}.json"
        self.cells: dict[str, Cell] = {}
        if record.exists():
            self.cells |= json.loads(record.read_text("utf-8"))["figures"]["cells"]
        if self.path.exists():
            self.cells |= json.loads(self.path.read_text("utf-8"))
        self.cells = {key: cell for key, cell in self.cells.items() if not (anew and key.startswith(anew))}

    def __contains__(self, key: str) -> bool:
        return key in self.cells

    def keep(self, key: str, cell: Cell) -> None:
        """Add a cell, and write the file."""
        self.cells[key] = cell
        self.path.parent.mkdir(exist_ok=True)
        write_atomically(self.path, lambda file: file.write(json.dumps(self.cells, indent=1)), "w")
