"""Walkers on the compiled energy: exchanges, metadynamics, resuming, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from examples import TORSIONS, chain
from md_examples import CHEAP, coordinates, exact_energy, exact_structures, z_scores
from openmm import app

from openmm_fab.md.bias import TorsionBias, chosen_torsions
from openmm_fab.md.convergence import Convergence
from openmm_fab.md.ladder import by_temperature, ladder_log_weights
from openmm_fab.md.reference import run_reference
from openmm_fab.md.settings import WalkersExchangeSettings
from openmm_fab.md.walkers import ExchangingWalkers, Walkers, exchange_temperatures
from openmm_fab.molecule.system import PAPER_FORCEFIELD, MolecularSystem

FIRST = (0, 1, 2, 3)
SHORT: dict = CHEAP | dict(time_ps=0.2, equilibration_ps=0.04, frame_ps=0.04, step_fs=4.0)
METHODS = {
    "walkers": dict(walkers=4),
    "walkers-exchange": dict(walkers=6, temperatures=3, exchange_ps=0.02),
    "metadynamics": dict(walkers=4, build_ps=0.08, hill_ps=0.02, torsions=[FIRST]),
}


@pytest.fixture(scope="module")
def beads(tmp_path_factory) -> MolecularSystem:
    return chain(tmp_path_factory.mktemp("md"))


def interrupted(monkeypatch, after: int) -> None:
    """Ctrl-C in the middle of an interval, `after` whole ones."""
    advance, calls = Walkers.advance, []

    def stopping(self, state):
        calls.append(0)
        if len(calls) > after:
            advance(self, state)  # its result is lost, as when the signal comes late
            raise KeyboardInterrupt
        return advance(self, state)

    monkeypatch.setattr(Walkers, "advance", stopping)


# --- resuming ---


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(beads, tmp_path, monkeypatch, method) -> None:
    given = SHORT | METHODS[method]
    whole = run_reference(beads, method, seed=3, **given)
    assert whole.n == 5 * given["walkers"]
    with monkeypatch.context() as patch:
        interrupted(patch, 5 if method == "metadynamics" else 3)
        with pytest.warns(UserWarning, match="Stopped after .* resume=True goes on"):
            part = run_reference(beads, method, folder=tmp_path, seed=3, **given)
    assert 0 < part.n < whole.n
    resumed = run_reference(beads, method, folder=tmp_path, resume=True, seed=3, **given)
    for key in ("x", "u", "log_w", "block"):
        np.testing.assert_array_equal(getattr(resumed, key), getattr(whole, key))
    assert "independent" in (tmp_path / "convergence.txt").read_text()
    other = run_reference(beads, method, seed=4, **given)
    assert not np.array_equal(other.x, whole.x)


def test_a_run_can_be_made_longer_and_killed_at_any_time(beads, tmp_path) -> None:
    given = SHORT | METHODS["walkers"]
    run_reference(beads, "walkers", folder=tmp_path, **given)
    # Killed between the two writes: frames that no state counts.
    chunk = next(tmp_path.glob("frames_*.npz"))
    (tmp_path / "frames_0000005.npz").write_bytes(chunk.read_bytes())
    longer = given | dict(time_ps=0.4)
    resumed = run_reference(beads, "walkers", folder=tmp_path, resume=True, **longer)
    np.testing.assert_array_equal(resumed.x, run_reference(beads, "walkers", **longer).x)
    chunk.unlink()
    with pytest.raises(ValueError, match="got 0: files are missing"):
        run_reference(beads, "walkers", folder=tmp_path, resume=True, **longer)


def test_a_folder_holds_one_run(beads, tmp_path) -> None:
    given = SHORT | METHODS["walkers"]
    run_reference(beads, "walkers", folder=tmp_path, **given)
    with pytest.raises(ValueError, match=r"without a run.*resume=True"):
        run_reference(beads, "walkers", folder=tmp_path, **given)
    with pytest.raises(ValueError, match="another friction"):
        run_reference(beads, "walkers", folder=tmp_path, resume=True, **given, friction=2.0)
    with pytest.raises(ValueError, match="another seed"):
        run_reference(beads, "walkers", folder=tmp_path, resume=True, seed=1, **given)
    less = given | {"time_ps": 0.5 * given["time_ps"]}
    with pytest.raises(ValueError, match=r"time_ps = .* or more; got .*another folder"):
        run_reference(beads, "walkers", folder=tmp_path, resume=True, **less)
    with pytest.raises(ValueError, match="folder to resume from"):
        run_reference(beads, "walkers", resume=True, **given)


def test_ctrl_c_returns_what_was_sampled_or_passes_on(beads, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        interrupted(patch, 3)
        with pytest.warns(UserWarning, match=r"Stopped after 50 %.*folder=\.\.\."):
            assert run_reference(beads, "walkers", **SHORT, walkers=4).n == 8
    interrupted(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt, match="before the first frame"):
        run_reference(beads, "walkers", **SHORT, walkers=4)


# --- what is refused ---


def test_what_cannot_be_done_says_what_can(beads, alanine_dipeptide, tmp_path) -> None:
    rigid = MolecularSystem.from_pdb(alanine_dipeptide.folder / "input.pdb", PAPER_FORCEFIELD, constraints=app.HBonds)
    with pytest.raises(ValueError, match=r"without constraints; input has 12.*langevin"):
        run_reference(rigid, "walkers", folder=tmp_path / "none", **CHEAP)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match=r"method out of .*'langevin'.*'monte-carlo'"):
        run_reference(beads, "monte-carlo")
    with pytest.raises(ValueError, match=r"settings of 'walkers' out of .*got \['temperatures'\]"):
        run_reference(beads, "walkers", temperatures=3)
    for bad, message in (
        (dict(walkers=10), "whole ladders of 8"),
        (dict(max_temperature=200.0, walkers=8), "above the system's 300 K; got 200 K"),
        (dict(exchange_ps=0.03), "multiple of exchange_ps"),
        (dict(step_fs=3.0), "multiple of the time step, 3 fs"),
        (dict(time_ps=-1.0), "time_ps > 0"),
        (dict(start=np.zeros((2, 4, 3))), r"start with shape \(n, 5, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            run_reference(beads, "walkers-exchange", **CHEAP | bad)


# --- exchange of temperatures ---


def test_exchanges_are_accepted_as_metropolis_says() -> None:
    ladders, temperatures = 100_000, torch.tensor([1.0, 1.3, 1.7, 2.2], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    level = torch.tensor([2, 0, 3, 1]).repeat(ladders, 1)
    u = torch.tensor([5.0, 3.0, 2.5, 4.0], dtype=torch.float64)  # of the walkers, by level: 3, 4, 5, 2.5
    beta = 1 / temperatures.numpy()
    for parity, pairs in ((0, (0, 2)), (1, (1,))):
        new, accepted = exchange_temperatures(level, u.repeat(ladders), temperatures, parity, generator)
        assert torch.equal(new.sort(1).values, level.sort(1).values)
        by_level = np.array([3.0, 4.0, 5.0, 2.5])
        for k in range(3):
            exact = min(1.0, np.exp((beta[k] - beta[k + 1]) * (by_level[k] - by_level[k + 1]))) if k in pairs else 0.0
            share = float(accepted[k]) / ladders
            assert share == pytest.approx(exact, abs=4 * np.sqrt(0.25 / ladders) * (0 < exact < 1) + 1e-12)
            walker = [1, 3, 0, 2][k]
            assert float((new[:, walker] == k + 1).double().mean()) == pytest.approx(share, abs=1e-12)


def test_exchanges_leave_every_temperature_its_distribution() -> None:
    # Energies of a harmonic solid of three degrees of freedom at T: Gamma(1.5, T).
    ladders, rng = 200_000, np.random.default_rng(1)
    temperatures = torch.tensor([1.0, 1.5, 2.5], dtype=torch.float64)
    level = torch.as_tensor(rng.permuted(np.tile(np.arange(3), (ladders, 1)), axis=1))
    u = torch.as_tensor(rng.gamma(1.5, temperatures[level].numpy()))
    generator = torch.Generator().manual_seed(1)
    for parity in (0, 1, 0):
        level, accepted = exchange_temperatures(level, u.flatten(), temperatures, parity, generator)
        assert float(accepted.max()) / ladders > 0.5
    for k, temperature in enumerate(temperatures.tolist()):
        cold = u[level == k]
        assert float(cold.mean()) == pytest.approx(1.5 * temperature, rel=4 / np.sqrt(1.5 * ladders))
        assert float(cold.square().mean()) == pytest.approx(3.75 * temperature**2, rel=0.02)


def test_velocities_follow_their_walkers_to_another_temperature(beads) -> None:
    settings = WalkersExchangeSettings(walkers=60, temperatures=3, max_temperature=900.0, compile=False)
    method = ExchangingWalkers(beads, settings, 0, exact_structures(beads.kT, 60, np.random.default_rng(7)))
    before = method.first()
    after = method._between(before, torch.Generator().manual_seed(0))
    moved = (after["level"] != before["level"]).flatten()
    assert 5 < int(moved.sum()) < 60 and torch.equal(before["level"], torch.arange(3).repeat(20, 1))

    def reduced(state) -> torch.Tensor:
        return method.dynamics.kinetic_temperature(state["v"]) / method.temperatures[state["level"].flatten()]

    torch.testing.assert_close(reduced(after), reduced(before))
    assert not torch.equal(after["v"][moved], before["v"][moved])
    assert float(reduced(before).mean()) == pytest.approx(1.0, abs=0.15)


def test_walkers_that_exchange_sample_the_lowest_temperature(beads) -> None:
    start = exact_structures(beads.kT, 720, np.random.default_rng(5))
    given: dict = CHEAP | dict(
        walkers=720, temperatures=3, max_temperature=450.0, exchange_ps=0.02, time_ps=1.8, equilibration_ps=1.2,
        frame_ps=0.2, step_fs=4.0, start=start, seed=1,
    )  # fmt: skip
    cold = run_reference(beads, "walkers-exchange", **given, reweight=False)
    assert cold.n == 9 * 240 and len(np.unique(cold.block)) == 240 and np.ptp(cold.log_w) == 0.0
    report = cold.convergence
    # Nine degrees of freedom, 22 % apart.
    assert len(report.acceptance) == 2 and all(0.5 < a < 0.95 for a in report.acceptance)
    assert report.round_trips > 0 and report.walkers == 240

    everything = run_reference(beads, "walkers-exchange", **given)
    for ensemble in (cold, everything):
        scores = z_scores(ensemble, beads.kT)
        assert max(map(abs, scores.values())) < 4, scores
    # The same run, the lowest temperature first; the others' energies by equipartition and torsions.
    assert everything.n == 3 * cold.n and len(np.unique(everything.block)) == 240
    for key in ("x", "u", "block"):
        np.testing.assert_array_equal(getattr(everything, key)[: cold.n], getattr(cold, key))
    assert str(everything.convergence) == str(report)
    u = everything.u.reshape(3, -1).mean(1)
    for k, temperature in enumerate(np.geomspace(300.0, 450.0, 3) / 300.0):
        exact = exact_energy(beads.kT * temperature) * temperature
        assert u[k] == pytest.approx(exact, abs=4.5 * np.sqrt(3.5 * 4 / 240) * temperature)
    # The hotter ones help, and the colder a temperature the more.
    assert 1.3 * cold.n < everything.ess < 3 * cold.n
    assert (np.diff(everything.weights.reshape(3, -1).sum(1)) < 0).all()


def test_mbar_weights_of_a_ladder_against_exact_free_energies() -> None:
    """Energies of a harmonic solid, Gamma(d / 2, T): f_k = -d/2 ln T_k, so MBAR's weights are known in the limit."""
    rng, temperatures, shape = np.random.default_rng(3), np.array([1.0, 1.4, 2.0]), (400, 20)
    u = np.stack([rng.gamma(4.0, t, shape) for t in temperatures], axis=1)  # (time, temperatures, ladders)
    # Walkers in a random order, as exchanges leave them.
    level = rng.permuted(np.tile(np.arange(3), (400, 20, 1)), axis=2)
    walkers = np.take_along_axis(np.moveaxis(u, 1, 2), level, axis=2).reshape(400, 60)
    ordered = by_temperature(level.reshape(400, 60), walkers, 3)
    np.testing.assert_array_equal(ordered, u.reshape(400, 60))
    x = by_temperature(level.reshape(400, 60), np.stack([walkers, 2 * walkers], axis=2)[:, :, :, None], 3)
    np.testing.assert_array_equal(x[..., 0], np.stack([ordered, 2 * ordered], axis=2))

    log_w = ladder_log_weights(ordered, temperatures)
    f = -4.0 * np.log(temperatures)
    exact = -ordered - np.log(np.exp(f - ordered[..., None] / temperatures).sum(2))
    difference = log_w - exact
    # Shifts apart, what is left is the error of f_k, a few hundredths at 8000 samples each.
    assert np.ptp(difference) < 0.1 < np.ptp(log_w)
    w, ideal = np.exp(log_w), np.exp(exact)
    ess = 1 / np.square(w).sum()
    assert w.sum() == pytest.approx(1.0)
    assert ess == pytest.approx(ideal.sum() ** 2 / np.square(ideal).sum(), rel=0.01) and ess > 2 * 8000
    assert (w * ordered).sum() == pytest.approx(4.0, abs=4 * np.sqrt(4.0 / ess))


# --- metadynamics ---


def hills(angles: np.ndarray, centres: np.ndarray, heights: Sequence[float], width: float) -> np.ndarray:
    """V (n,) as a plain sum."""
    delta = angles[:, None] - centres
    return (np.asarray(heights) * np.exp((np.cos(delta) - 1).sum(2) / width**2)).sum(1)


@pytest.mark.parametrize("torsions", [[FIRST], [FIRST, (1, 2, 3, 4)]])
def test_the_bias_is_the_sum_of_its_hills(beads, torsions) -> None:
    rng, width = np.random.default_rng(6), 0.3
    centres, heights = rng.uniform(-np.pi, np.pi, (7, len(torsions))), rng.uniform(0.5, 2.0, 7)
    bias = TorsionBias(torsions, width)
    for part in (slice(0, 3), slice(3, 7)):
        bias = bias.with_hills(torch.as_tensor(centres[part]), torch.as_tensor(heights[part]))
    x = exact_structures(beads.kT, 200, rng)
    angles = bias.angles(torch.as_tensor(x))
    np.testing.assert_allclose(angles, coordinates(x)[:, 7 : 7 + len(torsions)], atol=1e-6)
    exact = hills(angles.numpy(), centres, heights, width)
    assert exact.max() > 0.5
    value, gradient = bias.value_and_gradient(torch.as_tensor(x))
    np.testing.assert_allclose(value, exact, atol=1e-6)
    np.testing.assert_allclose(bias.value(angles + 2 * np.pi), exact, atol=1e-6)
    # Near its top a hill is a Gaussian of that width.
    single = TorsionBias(torsions[:1], width).with_hills(torch.zeros(1, 1), torch.ones(1))
    assert float(single.value(torch.tensor([[0.1]]))) == pytest.approx(np.exp(-0.5 * (0.1 / width) ** 2), abs=1e-3)
    direction = torch.as_tensor(rng.normal(size=x.shape))
    h = 1e-6
    slope = (bias(torch.as_tensor(x) + h * direction) - bias(torch.as_tensor(x) - h * direction)) / (2 * h)
    np.testing.assert_allclose((gradient * direction).sum((1, 2)), slope, rtol=1e-5, atol=1e-4)
    leaf = torch.as_tensor(x).requires_grad_()
    np.testing.assert_allclose(torch.autograd.grad(bias(leaf).sum(), leaf)[0], gradient, atol=1e-9)


def test_torsions_are_chosen_by_name_by_atoms_or_by_rule(beads, alanine_dipeptide) -> None:
    topology = alanine_dipeptide.md_topology
    phi, psi = (4, 6, 8, 14), (6, 8, 14, 16)
    assert chosen_torsions(topology, None) == [phi, psi]
    assert chosen_torsions(topology, "psi ALA2") == [psi] and chosen_torsions(topology, ["phi ALA2", psi]) == [phi, psi]
    assert chosen_torsions(topology, psi) == [psi]
    assert chosen_torsions(beads.md_topology, None) == [FIRST]
    for wanted, message in ((["omega"], "got 'omega'"), ([(1, 2, 3)], "four different"), ([phi, psi, FIRST], "got 3")):
        with pytest.raises(ValueError, match=message):
            chosen_torsions(topology, wanted)


def test_metadynamics_flattens_a_torsion_and_its_weights_undo_that(beads, tmp_path) -> None:
    given: dict = CHEAP | dict(
        torsions=[FIRST], walkers=80, build_ps=7.2, hill_ps=0.04, hill_height=0.4, bias_factor=5.0,
        equilibration_ps=1.2, time_ps=4.0, frame_ps=0.4, step_fs=4.0, friction=5.0,
    )  # fmt: skip
    ensemble = run_reference(beads, "metadynamics", folder=tmp_path, seed=2, **given)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    frozen = TorsionBias([FIRST], 0.3, state["coefficients"])
    # V = -(1 - 1/gamma) F where the walkers have been.
    grid = torch.linspace(-np.pi, np.pi, 60, dtype=torch.float64)[:, None]
    bias = frozen.value(grid).numpy()
    f = sum(k * (1 + np.cos(m * grid[:, 0].numpy() - p)) for m, p, k in TORSIONS[0]) / beads.kT
    difference = bias + (1 - 1 / 5.0) * (f - f.min())
    assert np.ptp(f) > 4.0 and np.ptp(difference) < 1.2
    np.testing.assert_allclose(ensemble.log_w, frozen(torch.as_tensor(ensemble.x.astype(float))), atol=1e-4)
    scores = z_scores(ensemble, beads.kT)
    assert max(map(abs, scores.values())) < 4, scores
    flat = (np.cos(coordinates(ensemble.x)[:, 7]) < 0).mean()
    assert 0.3 < flat < 0.7  # unweighted, the frames are nearly uniform
    assert "metadynamics" in repr(ensemble) and ensemble.convergence.walkers == 80


def test_few_walkers_are_cut_into_pieces_of_two_correlation_times(beads, monkeypatch) -> None:
    found = {}
    for slowest in (0.5, 1e6):
        monkeypatch.setattr(Convergence, "slowest", slowest)
        found[slowest] = run_reference(beads, "walkers", **SHORT | dict(walkers=4, time_ps=1.6))
    assert [len(np.unique(one.block)) for one in found.values()] == [20, 4]
    assert found[1e6].convergence.df.error != found[0.5].convergence.df.error  # the report has them, too
