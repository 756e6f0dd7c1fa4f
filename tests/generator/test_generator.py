"""BoltzmannGenerator on a small chain: weights, saving, resuming, and what it refuses."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from examples import chain, write_chain
from generators import QUIET, SMALL
from openmm import app
from safetensors.torch import save_file
from scipy.integrate import trapezoid

from openmm_fab.coordinates import internal as coordinates
from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.presets import PRESETS
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.molecule.system import PAPER_FORCEFIELD, MolecularSystem
from openmm_fab.tools.metrics import FlowMetrics, TrainingMetrics
from openmm_fab.tools.run_log import RunLog
from openmm_fab.train.settings import Budget, TrainSettings, parse_budget
from openmm_fab.train.trainer import Trainer


def _generator(system, energy, settings=SMALL, seed: int = 0) -> BoltzmannGenerator:
    return BoltzmannGenerator(system, settings, seed=seed, energy=energy)


@pytest.fixture(scope="module")
def trained(system, energy) -> BoltzmannGenerator:
    generator = _generator(system, energy)
    generator.train(Budget(iterations=20), **QUIET)
    return generator


def test_weights_are_those_of_the_true_energy(system, energy, trained):
    """All three parts of log w made anew from the structures; energies far above the cut among them."""
    low = GeneratorSettings(
        coordinates=SMALL.coordinates, flow=SMALL.flow, train=SMALL.train, energy_cut=1.0 - trained.coordinates.dim / 2
    )
    generator = _generator(system, energy, low)
    generator.flow.load_state_dict(trained.flow.state_dict())
    ensemble = generator.sample(500)
    assert ensemble.x.dtype == ensemble.u.dtype == ensemble.log_w.dtype == np.float64
    x = torch.from_numpy(ensemble.x)
    z, log_det = generator.coordinates.to_internal(x)
    with torch.no_grad():
        log_q = generator.flow.log_prob(z.float()).double()
    u = energy(x)
    torch.testing.assert_close(torch.from_numpy(ensemble.u), u, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.from_numpy(ensemble.log_w), -log_det - u - log_q, rtol=0, atol=2e-3)
    torch.testing.assert_close(torch.from_numpy(ensemble.log_q), log_q + log_det, rtol=0, atol=2e-3)
    with torch.no_grad():
        assert generator.cut == pytest.approx(float(energy(torch.as_tensor(system.minimum)[None])) + 1.0, abs=1e-6)
    tamed = generator.target.log_prob(z) - log_q
    assert (tamed - torch.from_numpy(ensemble.log_w)).abs().max() > 1  # what training sees is something else


def test_training_learns(system, energy, trained):
    assert trained.sample(2000).ess > 1.3 * _generator(system, energy).sample(2000).ess


def test_sample_size_and_seed(trained):
    a, b, c = trained.sample(33, seed=5), trained.sample(33, seed=5), trained.sample(33, seed=6)
    assert a.n == 33 and a.x.shape == (33, 5, 3)  # no multiple of the batch
    assert np.array_equal(a.x, b.x) and np.array_equal(a.log_w, b.log_w)
    assert not np.array_equal(a.x, c.x)
    assert np.array_equal(trained.sample(64, seed=5).x[:33], a.x)
    assert trained.sample(1e2).n == 100
    for wrong, words in ((0, "Expected n >= 1"), ("100", "whole number; got '100'"), (1.5, "whole number; got 1.5")):
        with pytest.raises(ValueError, match=words):
            trained.sample(wrong)
    with pytest.raises(KeyError, match=r"Expected a preset out of .*'laptop'.*; got 'fast'"):
        PRESETS["fast"]


def test_invalid_structures_stay_counted(system, energy, trained):
    def half_broken(x):
        u = energy(x)
        return torch.where(x[:, 0, 1] > x[:, 0, 1].median(), torch.tensor(torch.inf, dtype=u.dtype), u)

    generator = _generator(system, energy)
    generator.energy = half_broken
    generator.flow.load_state_dict(trained.flow.state_dict())
    ensemble = generator.sample(64)
    assert ensemble.n == 64 and ensemble.invalid == np.isneginf(ensemble.log_w).sum()
    assert 20 < ensemble.invalid < 40
    whole = trained.sample(64)
    valid = np.isfinite(ensemble.log_w)
    np.testing.assert_array_equal(ensemble.log_w[valid], whole.log_w[valid])


def test_a_broken_flow_is_no_invalid_structure(system, energy):
    generator = _generator(system, energy)
    with torch.no_grad():
        generator.flow.layers[0].b3.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the flow is broken"):
        generator.sample(10)


def test_save_and_load(system, energy, trained, tmp_path):
    path = trained.save(tmp_path / "model.safetensors")
    loaded = BoltzmannGenerator.load(path, system)
    assert loaded.settings == trained.settings and loaded.seed == trained.seed
    a, b = trained.sample(100), loaded.sample(100)
    assert np.array_equal(a.x, b.x) and np.array_equal(a.log_q, b.log_q)
    np.testing.assert_allclose(a.u, b.u, atol=1e-2)  # OpenMM's platform is chosen anew
    z = torch.randn(50, trained.coordinates.dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(trained.flow.log_prob(z), loaded.flow.log_prob(z))


def test_half_the_digits_are_half_the_file_and_nearly_the_same_flow(system, trained, tmp_path):
    whole, half = (trained.save(tmp_path / f"{h}.safetensors", half=h) for h in (False, True))
    assert half.stat().st_size < 0.65 * whole.stat().st_size  # coordinates and header stay as they are
    loaded = BoltzmannGenerator.load(half, system)
    assert all(p.dtype == torch.float32 for p in loaded.flow.parameters())
    z = torch.randn(50, trained.coordinates.dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        log_q, as_trained = loaded.flow.log_prob(z), trained.flow.log_prob(z)
        torch.testing.assert_close(log_q, as_trained, rtol=0, atol=0.1)
        assert not torch.equal(log_q, as_trained)
        torch.testing.assert_close(loaded.flow.from_base(loaded.flow.to_base(z)[0])[0], z, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("trained_in", "drawn_in"), [(32, 32), (1024, 1024), (16384, 1024)])
def test_a_cpu_samples_in_batches_that_fit_it(system, energy, trained_in, drawn_in, monkeypatch):
    """Whatever the batch of a GPU was that the flow was trained on; and the model keeps that."""
    train = TrainSettings(batch=trained_in, buffer_min=2, buffer_max=4)
    generator = _generator(system, energy, GeneratorSettings(flow=SMALL.flow, train=train))
    sizes, sample = [], generator.flow.sample
    monkeypatch.setattr(generator.flow, "sample", lambda n, random: (sizes.append(n), sample(n, random))[1])
    assert generator.sample(40).n == 40 and set(sizes) == {drawn_in} == {generator.batch}
    assert generator.settings.train.batch == trained_in


def test_models_of_others_are_refused(trained, tmp_path):
    path = trained.save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="Load it with the system it was trained with"):
        BoltzmannGenerator.load(path, _with_a_stiffer_bond(tmp_path / "stiff"))
    with pytest.raises(ValueError, match=r"Expected a model of chain at 310 K; .* was trained at 300 K"):
        BoltzmannGenerator.load(path, chain(tmp_path / "hot", temperature=310.0))
    renamed = replace(chain(tmp_path / "again", temperature=310.0), name="input")
    with pytest.raises(ValueError, match=r"Expected a model of input at 310 K; .* was trained at 300 K"):
        BoltzmannGenerator.load(path, renamed)


def _with_a_stiffer_bond(folder) -> MolecularSystem:
    write_chain(folder)
    text = (folder / "chain.xml").read_text()
    assert text.count('"20000.0"') == 1
    (folder / "chain.xml").write_text(text.replace('"20000.0"', '"21000.0"'))
    return MolecularSystem.load(folder)


def test_files_that_are_no_models_are_refused(system, trained, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("a poem")
    with pytest.raises(ValueError, match="Expected a model file"):
        BoltzmannGenerator.load(path, system)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="Expected a file of format"):
        BoltzmannGenerator.load(path, system)
    old = Path(__file__).parents[1] / "data" / "model_format_1.safetensors"
    with pytest.raises(ValueError, match=r"got 'openmm_fab model 1'\. Load it with the version that wrote it"):
        BoltzmannGenerator.load(old, system)
    trained.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="Expected a model file"):
        BoltzmannGenerator.load(path, system)
    with pytest.raises(FileNotFoundError):
        BoltzmannGenerator.load(tmp_path / "none.safetensors", system)


def test_evaluate(trained):
    metrics = trained.evaluate(256)
    assert set(metrics) == {"ess", "ess_clipped", "khat", "log_z", "log_z_error", "outside", "outside_weight"}
    assert set(metrics) < FlowMetrics.__annotations__.keys()
    ensemble = trained.sample(256, seed=trained.seed + 7)
    assert metrics["ess"] == ensemble.ess_fraction and metrics["log_z"] == ensemble.log_z.value
    assert 0 <= metrics["outside"] <= 1


def test_outside_range_counts_what_lies_beyond(trained):
    ensemble = trained.sample(200)
    z, _ = trained.coordinates.to_internal(torch.from_numpy(ensemble.x))
    n = trained.coordinates.n_stiff
    beyond = z[:, :n].abs().max(1).values
    bound = float(beyond.median())
    narrow = GeneratorSettings(
        coordinates=SMALL.coordinates, flow=FlowSettings(layers=2, hidden=16, bins=4, bound=bound), train=SMALL.train
    )
    generator = BoltzmannGenerator(trained.system, narrow, energy=trained.energy)
    share, weight = generator.outside_range(ensemble)
    assert share == pytest.approx(0.5, abs=0.01)
    assert weight == pytest.approx(float(ensemble.weights[beyond.numpy() > bound].sum()))


def test_annealed_structures_beyond_the_range_are_reported(system, energy):
    """A range that is far too narrow for the coordinates: said in the metrics, and in a warning."""
    narrow = GeneratorSettings(
        coordinates=SMALL.coordinates, flow=FlowSettings(layers=2, hidden=16, bins=4, bound=0.5), train=SMALL.train
    )
    with pytest.warns(UserWarning, match="of the weight of annealed structures lies beyond the splines' range"):
        history = _generator(system, energy, narrow).train(Budget(iterations=3), **QUIET)
    assert history[-1]["annealed_outside"] > 0.5
    history = _generator(system, energy).train(Budget(iterations=3), **QUIET)
    assert 0 <= history[-1]["annealed_outside"] < 0.01 and "annealed_outside" not in history[0]


def test_log_prob_is_that_of_the_samples(trained):
    ensemble = trained.sample(100)
    log_q = trained.log_prob(ensemble.x).numpy()
    np.testing.assert_allclose(log_q, ensemble.log_q, atol=2e-3)
    np.testing.assert_allclose(-ensemble.u - log_q, ensemble.log_w, atol=2e-3)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    np.testing.assert_allclose(trained.log_prob(ensemble.x @ turn + 1.0).numpy(), log_q, atol=2e-3)
    assert len(trained.log_prob(ensemble.x[:0])) == 0


def test_rotors_and_rigid_bonds_are_saved(tmp_path, alanine_dipeptide):
    """Trained a little, saved and loaded: the same samples, labels of equal hydrogens drawn anew, lengths exact."""
    rigid = MolecularSystem.from_pdb(alanine_dipeptide.folder / "input.pdb", PAPER_FORCEFIELD, constraints=app.HBonds)
    generator = BoltzmannGenerator(rigid, SMALL)
    generator.train(Budget(iterations=3), **QUIET)
    again = BoltzmannGenerator.load(generator.save(tmp_path / "m.safetensors"), rigid)
    assert len(again.coordinates.rotors) == 3 and again.coordinates.metric is not None
    assert again.coordinates.summary() == generator.coordinates.summary()
    a, b = generator.sample(200), again.sample(200)
    np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_array_equal(a.log_w, b.log_w)
    pairs, lengths = rigid.constraints
    np.testing.assert_allclose(
        np.linalg.norm(a.x[:, pairs[:, 0]] - a.x[:, pairs[:, 1]], axis=2), np.tile(lengths, (200, 1)), atol=1e-9
    )
    x = torch.from_numpy(a.x)
    assert (generator.coordinates.sector(x) != x).any((1, 2)).double().mean() > 0.8  # 26 of 27 labellings are others
    np.testing.assert_allclose(generator.log_prob(x).numpy(), a.log_q, atol=2e-3)


@pytest.mark.parametrize("elements", ["CO", "HOH"])
def test_two_and_three_atoms(elements):
    """Harmonic bonds and angle: log Z in closed form, from an untrained flow."""
    molecule, topology = openmm.System(), app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    atoms = [topology.addAtom(e, app.Element.getBySymbol(e), residue) for e in elements]
    springs, angles = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    for k in range(len(atoms)):
        molecule.addParticle(atoms[k].element.mass)
        if k:
            topology.addBond(atoms[k - 1], atoms[k])
            springs.addBond(k - 1, k, 0.12, 40_000.0)
    molecule.addForce(springs)
    if len(atoms) == 3:
        angles.addAngle(0, 1, 2, 1.9, 300.0)
        molecule.addForce(angles)
    x = np.array([[0.12, 0, 0], [0, 0, 0], [-0.04, 0.11, 0]])[: len(atoms)]
    system = MolecularSystem(topology, molecule, x, 300)
    generator = BoltzmannGenerator(system, SMALL)
    assert generator.coordinates.dim == {2: 1, 3: 3}[len(atoms)]
    generator.train(Budget(iterations=2), **QUIET)
    ensemble = generator.sample(4000)
    r, theta = np.linspace(0.05, 0.2, 4001), np.linspace(0.5, 3.0, 4001)
    one = trapezoid(r**2 * np.exp(-0.5 * 40_000 * (r - 0.12) ** 2 / system.kT), r)
    bend = trapezoid(np.sin(theta) * np.exp(-0.5 * 300 * (theta - 1.9) ** 2 / system.kT), theta)
    expected = np.log(one) if len(atoms) == 2 else np.log(one**2 * bend)
    assert abs(ensemble.log_z.value - expected) < 4 * ensemble.log_z.error < 0.1


def test_training_writes_metrics_and_a_checkpoint(system, energy, tmp_path):
    generator = _generator(system, energy)
    history = generator.train(Budget(iterations=3), folder=tmp_path, **QUIET)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()

    def strict(constant):
        raise AssertionError(f"{constant} is no JSON")

    rows = [json.loads(line, parse_constant=strict) for line in lines]
    assert [r["iteration"] for r in rows] == [1, 2, 3]
    assert {*rows[0], *rows[-1]} < TrainingMetrics.__annotations__.keys()
    assert rows[-1]["loss"] == history[-1]["loss"] and "ess" in rows[-1] and "ess" not in rows[0]
    assert (tmp_path / "checkpoint.pt").exists()


def test_metrics_without_a_finite_value_are_null(tmp_path):
    with RunLog(tmp_path) as log:
        log.write({"iteration": 1, "khat": -np.inf, "loss": np.nan, "ess": 0.5})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"iteration": 1, "khat": null, "loss": null, "ess": 0.5}\n'


def test_resumed_training_is_uninterrupted_training(system, energy, tmp_path, monkeypatch):
    whole = _generator(system, energy)
    whole.train(Budget(iterations=6), folder=tmp_path / "whole", **QUIET)

    interrupted = _generator(system, energy)
    _interrupt_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        interrupted.train(Budget(iterations=6), folder=tmp_path / "parts", **QUIET)
    monkeypatch.undo()
    assert (tmp_path / "parts" / "checkpoint.pt").exists()
    assert interrupted.sample(64).n == 64  # usable
    resumed = _generator(system, energy, seed=0)
    history = resumed.train(Budget(iterations=6), folder=tmp_path / "parts", resume=True, **QUIET)
    assert [h["iteration"] for h in history] == [3, 4, 5, 6]
    rows = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [r["iteration"] for r in rows] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(whole.flow.parameters(), resumed.flow.parameters(), strict=True):
        assert torch.equal(a, b)


def _interrupt_after(iterations: int, monkeypatch) -> None:
    step = Trainer.step

    def interrupted(trainer: Trainer):
        if trainer.iteration == iterations:
            raise KeyboardInterrupt
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", interrupted)


def test_without_resume_a_folder_starts_anew(system, energy, tmp_path):
    for _ in range(2):
        _generator(system, energy).train(Budget(iterations=1), folder=tmp_path, **QUIET)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_without_resume_the_checkpoint_of_before_is_set_aside(system, energy, tmp_path, monkeypatch):
    """A training that dies before its first checkpoint must not leave that of another one to go on from."""
    generator = _generator(system, energy)
    generator.train(Budget(iterations=2), folder=tmp_path, **QUIET)
    kept = (tmp_path / "checkpoint.pt").read_bytes()

    def dies(trainer: Trainer):
        raise RuntimeError("the end")

    monkeypatch.setattr(Trainer, "step", dies)
    with pytest.raises(RuntimeError, match="the end"):
        generator.train(Budget(iterations=2), folder=tmp_path, **QUIET)
    assert not (tmp_path / "checkpoint.pt").exists()
    assert (tmp_path / "checkpoint.replaced.pt").read_bytes() == kept


def test_a_second_training_has_its_own_evaluations(system, energy):
    generator = _generator(system, energy)
    first, second = (generator.train(Budget(evaluations=500), **QUIET) for _ in range(2))
    assert first[-1]["evaluations"] >= 500 and second[-1]["evaluations"] >= 500
    assert second[0]["evaluations"] == first[0]["evaluations"] and len(second) == len(first)


def test_maximum_likelihood_has_no_evaluations_to_spend(system, energy):
    generator = _generator(system, energy)
    with pytest.raises(ValueError, match="Expected minutes or iterations: maximum likelihood has no energies"):
        generator.train(Budget(evaluations=500), objective="maximum_likelihood", samples=generator.sample(64), **QUIET)


def test_resumes_with_the_same_coordinates_and_energy_only(system, energy, tmp_path):
    """Both can be given, and say nothing of themselves."""
    generator = _generator(system, energy)
    generator.train(Budget(iterations=1), folder=tmp_path, **QUIET)
    wider = InternalCoordinates.from_system(system, CoordinateSettings(inflate=3.0))
    others = [
        BoltzmannGenerator(system, SMALL, energy=energy, coordinates=wider),
        BoltzmannGenerator(system, SMALL, energy=lambda x: 2 * energy(x)),
    ]
    for other in others:
        with pytest.raises(ValueError, match="Expected a checkpoint of the same target"):
            other.train(Budget(iterations=2), folder=tmp_path, resume=True, **QUIET)


def test_a_model_is_loaded_with_the_energy_it_was_made_with(system, energy, tmp_path):
    path = _generator(system, energy).save(tmp_path / "model.safetensors")
    BoltzmannGenerator.load(path, system)  # the system's own is the same

    def doubled(x: torch.Tensor) -> torch.Tensor:
        return 2 * energy(x)

    path = _generator(system, doubled).save(path)
    with pytest.raises(ValueError, match=r"Expected the energy and coordinates that .* was made with"):
        BoltzmannGenerator.load(path, system)
    assert BoltzmannGenerator.load(path, system, energy=doubled).energy is doubled


def test_a_model_of_the_mirror_image_is_refused(alanine_dipeptide):
    """Bonds and force field are the same."""
    mirrored = replace(alanine_dipeptide, positions=alanine_dipeptide.positions * [-1, 1, 1])
    assert mirrored.fingerprint == alanine_dipeptide.fingerprint
    model = Path(__file__).parents[2] / "systems" / "alanine_dipeptide" / "pretrained" / "model.safetensors"
    BoltzmannGenerator.load(model, alanine_dipeptide)
    with pytest.raises(ValueError, match="has the opposite chirality at ALA2-CA"):
        BoltzmannGenerator.load(model, mirrored)


def test_masses_of_the_dynamics_do_not_shape_the_coordinates(alanine_dipeptide, monkeypatch):
    system, seen = alanine_dipeptide, []
    heavy = app.ForceField("amber96.xml", "implicit/obc1.xml").createSystem(system.topology, hydrogenMass=4)
    heavy = MolecularSystem(system.topology, heavy, system.positions, 300)
    build = coordinates.build_zmatrix

    def watched(graph, masses, *others):
        seen.append(masses)
        return build(graph, masses, *others)

    monkeypatch.setattr(coordinates, "build_zmatrix", watched)
    for one in (system, heavy):
        InternalCoordinates.from_system(one)
    np.testing.assert_array_equal(*seen)
    assert seen[0][:2].round(3).tolist() == [1.008, 12.011] and heavy.masses[0] == pytest.approx(4.0)


def test_evaluation_costs_time_of_the_budget(system, energy):
    history = _generator(system, energy).train(
        "2 s", progress=False, compile=False, evaluate_every=0.0, evaluate_samples=64
    )
    assert all("ess" in h for h in history)
    assert 2.0 <= history[-1]["seconds"] < 20
    assert all(h["seconds"] < 2.0 for h in history[:-1])


class Slow(RunLog):
    """Takes its time before the first iteration, or after it."""

    before = False

    def __enter__(self) -> RunLog:
        time.sleep(0.6 * self.before)
        return super().__enter__()

    def write(self, info) -> None:
        time.sleep(0.6 * (not self.before and info["iteration"] == 1))
        super().write(info)


def test_a_first_iteration_that_takes_long_is_evaluated(system, energy, monkeypatch):
    step = Trainer.step

    def slow(trainer):
        time.sleep(0.6 * (trainer.iteration == 0))
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", slow)
    history = _generator(system, energy).train(Budget(iterations=3), **QUIET | {"evaluate_every": 0.5})
    assert ["ess" in h for h in history[:2]] == [True, False] and len(history) == 3


def test_training_ends_with_an_evaluation(system, energy, monkeypatch):
    """Also where the budget went into something else than the trainer's steps."""
    monkeypatch.setattr("openmm_fab.generator.training.RunLog", Slow)
    history = _generator(system, energy).train("0.5 s", **QUIET)
    assert "ess" in history[-1] and history[-1]["spent"] >= 1 and history[-1]["seconds"] >= 0.6


def test_what_comes_before_the_first_iteration_is_no_training(system, energy, monkeypatch, tmp_path):
    monkeypatch.setattr(Slow, "before", True)
    monkeypatch.setattr("openmm_fab.generator.training.RunLog", Slow)
    options = {**QUIET, "folder": tmp_path}
    generator = BoltzmannGenerator(system, SMALL, energy=energy)
    history = generator.train("0.5 s", **options)
    first = history[0]
    assert first["seconds"] < 0.5 and len(history) > 1 and history[-1]["seconds"] >= 0.5
    assert first["setup"] > 0.6 + generator.coordinates.dim * 1e-6 and all("setup" not in row for row in history[1:])
    # Nor does it count where training goes on, with the seconds that it has had.
    more = BoltzmannGenerator(system, SMALL, energy=energy).train("1 s", resume=True, **options)
    assert 0 < more[0]["seconds"] - history[-1]["seconds"] < 0.5 and more[0]["setup"] > 0.6
    assert 1.0 <= more[-1]["seconds"] < 1.5 and more[0]["iteration"] == history[-1]["iteration"] + 1


def test_reports_change_nothing(system, energy, monkeypatch):
    """The flow is the same to the bit, and their time does not count."""
    monkeypatch.setattr("openmm_fab.generator.training.FIRST_REPORT", 1e-4)
    digests, reported = [], []
    for wanted in (False, True):
        generator = _generator(system, energy)

        def report(info, generator=generator):
            reported.append((info["iteration"], info["spent"]))
            generator.sample(200)
            time.sleep(0.3)

        history = generator.train(Budget(iterations=12), **QUIET, report=report if wanted else None)
        digests.append(generator.digest)
    assert digests[0] == digests[1]
    assert reported[0][0] == 1 and all(spent < 0.8 for _, spent in reported) and len(reported) >= 2
    between = history[1]["seconds"] - history[0]["seconds"]
    assert between < 0.3, "the report after the first iteration"


def test_without_a_compiler_training_goes_on(system, energy, monkeypatch):
    generator = _generator(system, energy)

    def compile(batch: int) -> None:
        raise RuntimeError("no gcc here\nand a long story")

    monkeypatch.setattr(generator.flow, "compile", compile)
    monkeypatch.setattr(generator.coordinates, "compile", lambda chunk: None)
    with monkeypatch.context() as on_a_gpu, pytest.warns(UserWarning, match=r"Goes on without.*no gcc here\. It needs"):
        on_a_gpu.setattr(generator, "device", torch.device("cuda"))
        generator._compile(generator.batch)
    assert len(generator.train(Budget(iterations=1), **QUIET)) == 1


def test_built_and_trained_where_gradients_are_off(system, energy):
    """A notebook's no_grad around it all changes nothing."""
    here = _generator(system, energy)
    expected = here.train(Budget(iterations=3), **QUIET)
    with torch.no_grad():
        there = _generator(system, energy)
        history = there.train(Budget(iterations=3), **QUIET)
    assert [h["loss"] for h in history] == [h["loss"] for h in expected]
    assert here.digest == there.digest


def test_training_is_reproducible(system, energy):
    flows = []
    for _ in range(2):
        generator = _generator(system, energy, seed=4)
        generator.train(Budget(iterations=2), **QUIET)
        flows.append(generator.flow)
    assert all(torch.equal(a, b) for a, b in zip(*(f.parameters() for f in flows), strict=True))


@pytest.mark.parametrize("settings", [SMALL, *(p.settings for p in PRESETS.values())])
def test_settings_survive_json(settings):
    assert GeneratorSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(
    "text, minutes", [("20 min", 20), ("90 s", 1.5), ("2 h", 120), (" 1.5min", 1.5), (".5 h", 30), (3, 3), (0.25, 0.25)]
)
def test_parse_budget(text, minutes):
    assert parse_budget(text) == Budget(minutes=minutes)


def test_parse_budget_takes_a_budget():
    assert parse_budget(Budget(iterations=3)) == Budget(iterations=3)


@pytest.mark.parametrize("wrong", ["soon", "20", "20 days", "-3 min", "min", "1.2.3 min", "0 min", 0, -1.0])
def test_parse_budget_refuses(wrong):
    with pytest.raises(ValueError, match="Expected a"):
        parse_budget(wrong)
