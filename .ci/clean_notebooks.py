"""Drop from executed notebooks what only the run saw: progress bars, the state of widgets, times of cells.

python .ci/clean_notebooks.py notebooks/*.ipynb
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat

WIDGET = "application/vnd.jupyter.widget-view+json"


def clean(notebook: nbformat.NotebookNode) -> None:
    """Change a notebook in place; widgets that also have a picture keep the picture."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
            if output.get("name") == "stdout" and set(output.text) <= set("\n"):
                output.text = ""
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if not _empty(output)]


def _empty(output: nbformat.NotebookNode) -> bool:
    """Whether nothing is left of an output but the text of a bar at its start."""
    if output.output_type == "stream":
        return not output.text
    shown = output.get("data", {})
    return output.output_type == "display_data" and set(shown) == {"text/plain"} and "%|" in shown["text/plain"]


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        notebook = nbformat.read(path, as_version=4)
        clean(notebook)
        nbformat.write(notebook, path)
