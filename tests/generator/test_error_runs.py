"""Runs of a generator until an error: the quantities, the chains that check, and what stays in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch
from examples import GaussianFlow
from generators import SETTINGS, chain_marginals

from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.generator.chains import run_chains
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.outcome import Outcome
from openmm_fab.generator.quantities import Quantities, measured
from openmm_fab.generator.working import Parts, Working
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.target import Target
from openmm_fab.tools.progress import History


class Mixture(Target):
    """Two normal wells in the first of three dimensions, the upper one with 30 % of the weight."""

    dim = 3
    periodic = torch.zeros(3, dtype=torch.bool)

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        wells = torch.stack([np.log(p) - 2 * (z[:, 0] - at).square() for p, at in ((0.7, -1.5), (0.3, 1.5))])
        return torch.logsumexp(wells, 0) - 0.5 * z[:, 1:].square().sum(1)


def test_chains_have_the_populations_of_the_target_whatever_the_flow() -> None:
    """Of a flow with the wrong wells, and a width that is wrong both ways."""
    flow = GaussianFlow(torch.tensor([0.6, 0.0, 0.0]), torch.tensor([1.6, 0.8, 1.4]))
    z, walker = run_chains(flow, Mixture(), 20_000, torch.Generator().manual_seed(0))
    found = measured(np.zeros(len(z)), (z[:, 0] > 0).numpy(), walker)
    assert len(z) >= 20_000 and len(set(walker)) == 256
    assert abs(found.value - np.log(0.7 / 0.3)) < 4 * found.error < 0.3
    for values, mean in ((z[:, 1] ** 2, 1.0), (z[:, 2] ** 2, 1.0)):
        moment = measured(np.zeros(len(z)), values.double().numpy(), walker)
        assert abs(moment.value - mean) < 4 * moment.error < 0.15
    raw, _ = flow.sample(20_000, torch.Generator().manual_seed(1))
    assert (raw[:, 0] > 0).double().mean() > 0.6  # what the chains have to undo


def far(trajectory: mdtraj.Trajectory) -> np.ndarray:
    return np.linalg.norm(trajectory.xyz[:, 0] - trajectory.xyz[:, 3], axis=1) > 0.36


def test_run_of_a_generator(system: MolecularSystem, tmp_path: Path) -> None:
    """To an error within seconds: its files, and the same result once more."""
    generator = BoltzmannGenerator(system, SETTINGS)
    about = {"error": 0.25, "folder": tmp_path, "progress": False, "compile": False}
    outcome = generator.run(at_most="12 s", **about)
    assert outcome.rows and outcome.ensemble is not None and outcome.ensemble.n == outcome.n
    assert outcome.ensemble.audit is not None
    assert {row.name.rpartition(" at ")[0] for row in outcome.rows} <= set(generator.sample(8).torsion_names)
    inside = [row for row in outcome.rows if row.population > 0.01]
    assert len(inside) > 1
    written = Outcome.from_json((tmp_path / "outcome.json").read_text())
    assert written.summary() == outcome.summary()
    assert not list(tmp_path.glob("*.nc"))
    assert json.loads((tmp_path / "state.json").read_text())["points"]
    if outcome.believed:
        again = BoltzmannGenerator(system, SETTINGS).run(at_most="12 s", resume=True, **about)
        assert [row.value for row in again.rows] == pytest.approx([row.value for row in outcome.rows], abs=1e-5)


def test_training_that_a_killed_run_had_counts(tmp_path: Path) -> None:
    """Where the checkpoint is of later than the look that was due, nothing is trained, and nothing is forgotten."""
    parts = Parts(lambda *_, **about: History(), None, None, None, None)  # type: ignore[arg-type]
    work = Working(parts, Quantities(None), tmp_path, True, True)
    assert work.train(20.0, None) == (20.0, 0)
    rows = [{"iteration": k, "seconds": 14.0 * k, "evaluations": 500 * k} for k in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"iteration": 3, "sec')
    assert work.train(20.0, None) == (28.0, 1000)


def test_quantities_of_an_ensemble(system: MolecularSystem) -> None:
    """Every well of a torsion once, fixed by the ensemble that defined them; or what is given."""
    ensemble = _exact(system)
    quantities = Quantities()
    with pytest.raises(ValueError, match="defined first"):
        quantities.values(ensemble)
    quantities.define(ensemble)
    values = quantities.values(ensemble)
    by_torsion: dict[str, int] = {}
    for name, inside in values.items():
        assert inside.dtype == bool and 1e-3 < inside.mean() < 1
        by_torsion[name.rpartition(" at ")[0]] = by_torsion.get(name.rpartition(" at ")[0], 0) + inside
    for counts in by_torsion.values():
        assert set(np.unique(counts)) == {1}
    assert list(Quantities(["x"]).named or ()) == ["x"]
    with pytest.raises(ValueError, match=r"Expected basins out of .*; got \['x'\]"):
        Quantities(["x"]).define(ensemble)
    one = next(iter(values))
    chosen = Quantities([one])
    chosen.define(ensemble)
    assert list(chosen.values(ensemble)) == [one]
    given = Quantities({"far": far})
    given.define(ensemble)
    assert np.array_equal(given.values(ensemble)["far"], far(ensemble.to_mdtraj()))
    with pytest.raises(ValueError, match=r"Expected one value a frame of 'two', shape"):
        Quantities({"two": lambda t: t.xyz[:, 0]}).values(ensemble)
    with pytest.raises(ValueError, match="got none"):
        Quantities([])


@pytest.mark.parametrize("error", [0.0, -0.1, float("nan")])
def test_errors_that_cannot_be_reached_are_refused(system: MolecularSystem, error: float) -> None:
    with pytest.raises(ValueError, match="Expected error > 0"):
        BoltzmannGenerator(system, SETTINGS).run(error=error)


def _exact(system: MolecularSystem) -> Ensemble:
    """The chain's torsions from their closed-form densities, everything else at the minimum."""
    generator = BoltzmannGenerator(system, SETTINGS)
    rng = np.random.default_rng(0)
    z = generator.to_internal(torch.from_numpy(system.minimum)[None])[0].repeat(3000, 1)
    periodic = torch.nonzero(generator.coordinates.periodic)[:, 0]
    marginals = chain_marginals(system.kT)[-len(periodic) :]
    for column, (grid, density) in zip(periodic.tolist(), marginals, strict=True):
        z[:, column] = torch.from_numpy(rng.choice(grid, 3000, p=density / density.sum()))
    x, _ = generator.coordinates.to_cartesian(z)
    return Ensemble(x.numpy(), np.zeros(3000), np.zeros(3000), system.md_topology, system.temperature)


@pytest.mark.slow
def test_errors_of_a_chain_hold_its_closed_form(system: MolecularSystem) -> None:
    """Of a few seeds: the population of a torsion's range, whose density is known."""
    grid, density = chain_marginals(system.kT)[-1]
    share = density[(grid > 0.5) & (grid < 2.5)].sum() / density.sum()
    truth = np.log((1 - share) / share)

    def inside(trajectory: mdtraj.Trajectory) -> np.ndarray:
        angle = mdtraj.compute_dihedrals(trajectory, [(1, 2, 3, 4)], periodic=False)[:, 0]
        return (angle > 0.5) & (angle < 2.5)

    z = []
    for seed in range(8):
        generator = BoltzmannGenerator(system, SETTINGS, seed=seed)
        outcome = generator.run(error=0.08, of={"range": inside}, at_most="60 s", progress=False, compile=False)
        (row,) = outcome.rows
        assert outcome.believed and row.error <= 0.08
        z.append((row.value - truth) / row.error)
    assert np.abs(z).max() < 3.5 and 0.4 < np.std(z, ddof=1) < 1.7
