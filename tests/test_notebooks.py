"""Every notebook runs from top to bottom, in a copy: the outputs that it was committed with stay as they are."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path

import nbformat
import pytest
from ipykernel.kernelspec import install
from nbclient import NotebookClient
from nbformat import NotebookNode
from test_docs import missing

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CLEANER = runpy.run_path(str(ROOT / ".ci" / "clean_notebooks.py"))
CLEAN, WIDGET = CLEANER["clean"], CLEANER["WIDGET"]
# Of each training or run of dynamics; in the second notebook frames are this apart.
BUDGETS = {"04_free_energies": "10 s"}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "systems", tmp_path / "systems", ignore=shutil.ignore_patterns("raw"))
    folder = tmp_path / "notebooks"
    folder.mkdir()
    # A kernel of this interpreter, found before any other "python3" on the machine.
    install(prefix=str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter" / "share" / "jupyter"))
    monkeypatch.setenv("OPENMM_FAB_NOTEBOOK_BUDGET", BUDGETS.get(path.stem, "4 s"))
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # compiling would take longer than the training
    monkeypatch.delenv("MPLBACKEND", raising=False)

    notebook = nbformat.read(path, as_version=4)
    for cell in _code(notebook):
        cell.outputs, cell.execution_count = [], None
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()

    outputs = [output for cell in _code(notebook) for output in cell.outputs]
    assert all(output.output_type != "error" for output in outputs)
    assert all(cell.execution_count for cell in _code(notebook))
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for cell in _code(notebook):
        if "fab.compare(" in cell.source:
            shown = _text(cell)
            words = ("basins", "distributions") if ".words()" in cell.source else ("ESS", "k-hat", "ΔF")
            assert all(word in shown for word in words), shown


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_names_of_a_notebook_exist(path: Path) -> None:
    code = "\n".join(cell.source for cell in _code(nbformat.read(path, as_version=4)))
    code = "\n".join(line for line in code.splitlines() if not line.lstrip().startswith(("%", "!")))
    assert "openmm_fab" in code
    assert not missing(code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_has_a_picture_for_the_gallery(path: Path) -> None:
    assert path.stat().st_size < 1_000_000
    tagged = [cell for cell in nbformat.read(path, as_version=4).cells if "gallery" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1 and any("image/png" in output.get("data", {}) for output in tagged[0].outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_hold_nothing_of_the_machine_they_were_made_on(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    before = nbformat.writes(notebook)
    CLEAN(notebook)
    assert nbformat.writes(notebook) == before
    shown = "\n".join(_text(cell) for cell in _code(notebook))
    assert not re.findall(r"(?<![\w.:/])/(?:home|root|tmp|work|mnt|opt|Users)/\S*|%\|\S*", shown)


def test_cleaning_keeps_results_and_drops_bars() -> None:
    bar = {"text/plain": "training   0 %|          | 00:00<?", WIDGET: {"model_id": "1"}}
    viewer = {"text/plain": "1 structure", "image/png": "iVBO", WIDGET: {"model_id": "2"}}
    outputs = [nbformat.v4.new_output("display_data", data) for data in (bar, viewer)]
    outputs += [nbformat.v4.new_output("stream", text=text) for text in ("\n", "ESS 90 %\n")]
    cell = nbformat.v4.new_code_cell("run()", outputs=outputs, metadata={"execution": {"iopub.status.busy": "07:00"}})
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}})
    CLEAN(notebook)
    assert not notebook.metadata and not cell.metadata
    assert [set(output.get("data", {})) for output in cell.outputs] == [{"text/plain", "image/png"}, set()]
    assert cell.outputs[1].text == "ESS 90 %\n"


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _text(cell: NotebookNode) -> str:
    return "\n".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in cell.outputs)
