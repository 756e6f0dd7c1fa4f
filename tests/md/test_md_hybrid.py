"""Chains with a flow's proposals: exact whatever the flow, resumable, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import GaussianFlow, chain
from md_examples import z_scores

import openmm_fab as fab
from openmm_fab.ais.path import Points
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.md.hybrid import HybridWalkers, acceptance
from openmm_fab.md.settings import HybridSettings
from openmm_fab.target import VonMises

SHORT = dict(walkers=64, sweeps=40, burn_in=4, frame_every=4, progress=False)


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> fab.BoltzmannGenerator:
    """Untrained: a normal density of the right scales and uniform torsions."""
    settings = fab.GeneratorSettings(flow=FlowSettings(layers=2, hidden=8))
    return fab.BoltzmannGenerator(chain(tmp_path_factory.mktemp("hybrid")), settings)


def test_detailed_balance_of_the_independence_step() -> None:
    flow = GaussianFlow(torch.zeros(1).double(), torch.full((1,), 1.3).double())
    target = VonMises(torch.tensor([0.4]).double(), torch.tensor([1.5]).double())
    z = torch.linspace(-3.0, 3.0, 41, dtype=torch.float64)[:, None]
    points = Points.at(z, flow, target)
    a, b = torch.meshgrid(torch.arange(41), torch.arange(41), indexing="ij")

    def at(index: torch.Tensor) -> Points:
        index = index.flatten()
        return Points(z[index], points.log_q[index], points.log_p[index], points.grad_log_p[index])

    accepted = acceptance(at(a), at(b)).reshape(41, 41)
    flux = points.log_p.exp()[:, None] * points.log_q.exp()[None] * accepted
    assert torch.allclose(flux, flux.T, rtol=1e-12)
    assert bool((accepted.amax(1) == 1.0).all()) and bool((accepted < 1.0).any())


def test_places_of_no_density_are_left_and_never_entered() -> None:
    def points(log_p: list[float]) -> Points:
        z = torch.zeros(len(log_p), 1)
        return Points(z, torch.zeros(len(log_p)), torch.tensor(log_p), torch.zeros_like(z))

    inf = float("inf")
    assert acceptance(points([-inf, 0.0, -inf]), points([0.0, -inf, -inf])).tolist() == [1.0, 0.0, 0.0]


def test_resumes_with_the_same_model_only(generator, tmp_path) -> None:
    fab.run_reference(generator.system, "hybrid", folder=tmp_path, generator=generator, **SHORT)
    other = fab.BoltzmannGenerator(generator.system, generator.settings, seed=1)
    with pytest.raises(ValueError, match="got another model"):
        fab.run_reference(generator.system, "hybrid", folder=tmp_path, resume=True, generator=other, **SHORT)
    fab.run_reference(generator.system, "hybrid", folder=tmp_path, resume=True, generator=generator, **SHORT)


@pytest.mark.parametrize("settings", [dict(), dict(walk_every=10_000)], ids=str)
def test_exact_with_a_poor_flow(generator, settings) -> None:
    given = dict(walkers=300, sweeps=80, burn_in=30, frame_every=10, progress=False) | settings
    found = fab.run_reference(generator.system, "hybrid", generator=generator, seed=5, **given)
    assert found.n == 300 * 8
    z = z_scores(found, generator.system.kT)
    assert max(abs(v) for v in z.values()) < 4.0, z
    # The premise: the flow alone is far off.
    flow = generator.sample(4_000, seed=3)
    alone = z_scores(fab.Ensemble(flow.x, flow.u, 0 * flow.log_w, flow.topology, flow.temperature), generator.system.kT)
    assert max(abs(v) for v in alone.values()) > 10.0
    assert found.convergence.proposals < 0.9


def test_without_walks_only_the_flow_moves(generator) -> None:
    walkers = HybridWalkers(generator, HybridSettings(walkers=32, sweeps=5, burn_in=0, frame_every=1, walk_every=9), 1)
    state = walkers.first()
    state, _ = walkers.advance(state)  # the first sweep walks
    before = state
    state, frame = walkers.advance(state)
    stayed = (state["z"] == before["z"]).all(1)
    assert 0 < int(stayed.sum()) < 32
    assert torch.equal(state["wait"] > 0, stayed)
    assert frame is not None and frame["x"].shape == (32, 5, 3)


def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(generator, tmp_path, monkeypatch) -> None:
    whole = fab.run_reference(generator.system, "hybrid", generator=generator, seed=2, **SHORT)
    advance, calls = HybridWalkers.advance, []

    def stopping(self, state):
        calls.append(0)
        if len(calls) > 6:
            raise KeyboardInterrupt
        return advance(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(HybridWalkers, "advance", stopping)
        with pytest.warns(UserWarning, match="resume=True goes on"):
            part = fab.run_reference(generator.system, "hybrid", folder=tmp_path, generator=generator, seed=2, **SHORT)
    assert 0 < part.n < whole.n
    resumed = fab.run_reference(
        generator.system, "hybrid", folder=tmp_path, resume=True, generator=generator, seed=2, **SHORT
    )
    np.testing.assert_array_equal(resumed.x, whole.x)
    assert resumed.convergence.longest_wait == whole.convergence.longest_wait
    assert "sweeps" in (tmp_path / "convergence.txt").read_text()


def test_starting_structures(generator) -> None:
    start = generator.sample(3, seed=1).x
    found = fab.run_reference(generator.system, "hybrid", generator=generator, start=start, **SHORT)
    assert np.isfinite(found.u).all()
    with pytest.raises(ValueError, match=r"Expected start with shape \(n, 5, 3\)"):
        fab.run_reference(generator.system, "hybrid", generator=generator, start=start[:, :4], **SHORT)


def test_what_is_refused(generator, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"Expected generator=\.\.\., trained for chain.*got none"):
        fab.run_reference(generator.system, "hybrid", **SHORT)
    with pytest.raises(ValueError, match="another temperature"):
        fab.run_reference(chain(tmp_path, temperature=310.0), "hybrid", generator=generator, **SHORT)
    with pytest.raises(ValueError, match='generator for method="hybrid" alone'):
        fab.run_reference(generator.system, "langevin", generator=generator)
    with pytest.raises(ValueError, match="Expected walk_every >= 1"):
        fab.run_reference(generator.system, "hybrid", generator=generator, **SHORT, walk_every=0)


def test_a_long_wait_is_a_warning(generator) -> None:
    report = fab.run_reference(generator.system, "hybrid", generator=generator, **SHORT).convergence
    assert not any("waited" in w for w in replace(report, longest_wait=3).warnings)
    assert any("waited 30 sweeps" in w for w in replace(report, longest_wait=30).warnings)
