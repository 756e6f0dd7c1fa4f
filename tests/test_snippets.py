"""The Python of the documentation runs, page by page from the first block to the last, with little of everything."""

from __future__ import annotations

import copy
import importlib
import inspect
import shutil
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from openmm import unit
from test_docs import DOCS, ROOT, blocks

import openmm_fab as fab
from openmm_fab.energy.backends import reduced_energy

PAGES = ["README.md", "docs/index.md", "docs/quickstart.md", "docs/energy.md", "docs/coordinates.md"]
PAGES += ["docs/other_tools.md", "docs/free_energy.md", "docs/units.md", "docs/ligands.md"]
PAGES += ["docs/command_line.md", "docs/diagnostics.md", "docs/how_it_works.md"]
ELSEWHERE = ["docs/bgflow.md"]  # tests/interop
NEEDS = {"docs/quickstart.md": "nglview", "docs/coordinates.md": "nglview", "docs/free_energy.md": "openmmtools"}
NEEDS |= {"docs/ligands.md": "openmmforcefields"}
FEW, FRAMES = 300, 200
LESS = {"sampler.run(1000)": "sampler.run(1)"}
LESS["budget=1000"] = "budget=100"
LESS['audit("30 s")'] = 'audit("0.5 s")'
LESS["2000, settings=AISSettings(alpha=1.0, intermediate=16)"] = "64, settings=AISSettings(alpha=1.0)"


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two iterations of training, a few hundred samples and frames, one iteration of dynamics; files go to a folder."""
    train, sample, load = fab.BoltzmannGenerator.train, fab.BoltzmannGenerator.sample, fab.load_reference

    def few_frames(system: fab.MolecularSystem) -> fab.Ensemble | None:
        return load(system)[np.linspace(0, 16_000, FRAMES).astype(int)]

    monkeypatch.setattr(
        fab.BoltzmannGenerator,
        "train",
        lambda self, budget, **about: train(
            self, fab.Budget(iterations=2), compile=False, progress=False, evaluate_samples=64, **about
        ),
    )
    monkeypatch.setattr(fab.BoltzmannGenerator, "sample", lambda self, n, **a: sample(self, min(n, FEW), **a))
    monkeypatch.setattr(fab, "load_reference", few_frames)
    # Minutes, however large the error: only its arguments are checked.
    run = inspect.signature(fab.BoltzmannGenerator.run)
    monkeypatch.setattr(fab.BoltzmannGenerator, "run", lambda self, **about: run.bind(self, **about))
    monkeypatch.setattr("openmm_fab.generator.sampling.ANNEALING", fab.AISSettings(alpha=1.0, intermediate=1))
    monkeypatch.setattr(fab, "Budget", lambda minutes=None, iterations=2: importlib.import_module(
        "openmm_fab.train").Budget(iterations=iterations))  # fmt: skip
    (tmp_path / "systems").symlink_to(ROOT / "systems")
    monkeypatch.chdir(tmp_path)


def before(page: str, number: int, system: fab.MolecularSystem) -> dict[str, Any]:
    """What a reader has already, ahead of a page's block."""
    if page == "docs/quickstart.md" and number == 3:
        shutil.copy(ROOT / "systems" / "alanine_dipeptide" / "input.pdb", "my.pdb")
    if page == "docs/quickstart.md" and number == 4:
        few = mdtraj.Trajectory(np.repeat(system.positions[None], 50, 0), system.md_topology)
        few.xyz += np.random.default_rng(0).normal(0, 0.002, few.xyz.shape)
        few.save("md.dcd")
    if page == "docs/energy.md":
        x = torch.from_numpy(system.positions[None].astype(np.float64))
        if number == 1:  # of an alchemical system
            changed = copy.deepcopy(system.system)
            force = openmm.CustomBondForce("lambda_sterics * 100 * (r - 0.1)^2")
            force.addGlobalParameter("lambda_sterics", 1.0)
            force.addBond(0, 5)
            changed.addForce(force)
            positions = system.positions * unit.nanometer
            alchemical = fab.MolecularSystem.from_openmm(system.topology, changed, positions, temperature=300.0)
            return {"x": x, "energy": reduced_energy(alchemical, "compiled"), "torch": torch}
        if number == 3:  # a model of one's own
            shutil.copy(ROOT / "systems" / "butane" / "input.pdb", "my.pdb")
            return {"model": lambda x: 1e4 * (x[:, 1:] - x[:, :-1]).square().sum((1, 2))}
        return {"x": x}
    if page == "docs/coordinates.md":
        return {
            "z": torch.zeros(3, fab.InternalCoordinates.from_system(fab.MolecularSystem.load("proline_dipeptide")).dim)
        }
    if page in ("docs/command_line.md", "docs/diagnostics.md", "docs/how_it_works.md") and number == 0:
        generator = fab.BoltzmannGenerator(system, fab.GeneratorSettings(flow=fab.FlowSettings(layers=2, hidden=8)))
        return {"fab": fab, "mdtraj": mdtraj, "system": system, "generator": generator}
    if page == "docs/other_tools.md" and number == 0:
        return {"ensemble": fab.load_reference(system), "mdtraj": mdtraj}
    return {}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES)
def test_python_of_a_page_runs(page: str, little: None, alanine_dipeptide: fab.MolecularSystem) -> None:
    for name in filter(None, [NEEDS.get(page)]):
        pytest.importorskip(name)
    code = blocks((DOCS.parent / page).read_text(encoding="utf-8"), "python")
    assert code
    names: dict[str, Any] = {}
    for number, block in enumerate(code):
        names |= before(page, number, alanine_dipeptide)
        for much, little_of_it in LESS.items():
            block = block.replace(much, little_of_it)
        exec(compile(block, f"{page}, block {number + 1}", "exec"), names)


def test_no_page_is_left_out() -> None:
    pages = [*DOCS.glob("*.md"), *ROOT.glob("*.md")]
    with_python = {page.relative_to(ROOT).as_posix() for page in pages if blocks(page.read_text("utf-8"), "python")}
    assert with_python == {*PAGES, *ELSEWHERE}


def test_what_is_made_less_of_is_there() -> None:
    """Else a page's long calculation would run in full."""
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert [much for much in LESS if much not in text] == []
